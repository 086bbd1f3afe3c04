//! Readers beside the real ones: in memory, recording, failing, hanging, lying.

use blob_storage::{Backend, BackendCause, BackendError, BlobReader, Priority};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rafs_format::BlobId;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Semaphore;

/// What a [`TestReader`] does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Answers.
    Healthy,
    /// Waits for [`TestReader::release`], then answers.
    Hanging,
    /// Fails each request.
    Failing,
    /// Answers with the first byte changed.
    Lying,
    /// Panics.
    Panicking,
}

/// A blob in memory that notes what it is asked and answers as its mood is.
#[derive(Debug)]
pub struct TestReader {
    bytes: Bytes,
    mood: Mutex<Mood>,
    requests: Mutex<Vec<Range<u64>>>,
    gate: Semaphore,
    /// Requests that fail once these are answered; for sweeps over every failure point.
    healthy: AtomicU64,
}

impl TestReader {
    /// A healthy reader of `bytes`.
    pub fn new(bytes: impl Into<Bytes>) -> Arc<Self> {
        Self::failing_after(bytes, u64::MAX)
    }

    /// A reader that answers `healthy` requests and fails all others.
    pub fn failing_after(bytes: impl Into<Bytes>, healthy: u64) -> Arc<Self> {
        Arc::new(Self {
            bytes: bytes.into(),
            mood: Mutex::new(Mood::Healthy),
            requests: Mutex::default(),
            gate: Semaphore::new(0),
            healthy: AtomicU64::new(healthy),
        })
    }

    /// Changes what is done with requests from now on.
    pub fn set(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }

    /// Lets all hanging requests go on, and those that would hang later.
    pub fn release(&self) {
        self.release_as(Mood::Healthy);
    }

    /// Lets all hanging requests go on, in another mood.
    pub fn release_as(&self, mood: Mood) {
        self.set(mood);
        self.gate.add_permits(Semaphore::MAX_PERMITS / 4);
    }

    /// Ranges asked for, in order.
    pub fn requests(&self) -> Vec<Range<u64>> {
        self.requests.lock().clone()
    }

    fn error(range: Range<u64>, cause: BackendCause) -> BackendError {
        BackendError { endpoint: "test".into(), blob: "test".into(), range: Some(range), cause }
    }
}

impl BlobReader for TestReader {
    fn read(&self, range: Range<u64>, _priority: Priority) -> BoxFuture<'_, Result<Bytes, BackendError>> {
        Box::pin(async move {
            self.requests.lock().push(range.clone());
            let mut mood = *self.mood.lock();
            if mood == Mood::Hanging {
                // Closed never.
                let _permit = self.gate.acquire().await.is_ok();
                mood = *self.mood.lock();
            }
            assert!(mood != Mood::Panicking, "a reader that panics");
            let left = self.healthy.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            if mood == Mood::Failing || left.is_err() {
                let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
                return Err(Self::error(range, BackendCause::Io(refused)));
            }
            let at = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
            let size = self.bytes.len() as u64;
            if range.start > range.end || range.end > size {
                return Err(Self::error(range, BackendCause::OutOfRange { size }));
            }
            let found = self.bytes.slice(at(range.start)..at(range.end));
            if mood != Mood::Lying {
                return Ok(found);
            }
            let mut lie = found.to_vec();
            lie.iter_mut().take(1).for_each(|byte| *byte ^= 0x20);
            Ok(lie.into())
        })
    }

    fn size(&self) -> BoxFuture<'_, Result<u64, BackendError>> {
        Box::pin(async { Ok(self.bytes.len() as u64) })
    }
}

/// A backend that has one reader for all ids.
#[derive(Debug)]
pub struct OneBlob(pub Arc<TestReader>);

impl Backend for OneBlob {
    fn open(&self, _id: &BlobId) -> Result<Arc<dyn BlobReader>, BackendError> {
        Ok(Arc::clone(&self.0) as Arc<dyn BlobReader>)
    }
}
