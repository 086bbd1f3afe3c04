//! A reader that says what the test tells it to.

use blob_storage::{Backend, BackendCause, BackendError, BlobReader, Priority};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use rafs_format::BlobId;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Says `answer` to the request of each number, from 0, after the time it gives.
pub struct Script<F> {
    answer: F,
    asked: AtomicU32,
}

impl<F> std::fmt::Debug for Script<F> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Script")
    }
}

pub type Answer = (Duration, Result<Bytes, BackendCause>);

pub fn script<F: Fn(u32) -> Answer + Send + Sync>(answer: F) -> Arc<Script<F>> {
    Arc::new(Script { answer, asked: AtomicU32::new(0) })
}

impl<F> Script<F> {
    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl<F: Fn(u32) -> Answer + Send + Sync> BlobReader for Script<F> {
    fn read(&self, range: Range<u64>, _priority: Priority) -> BoxFuture<'_, Result<Bytes, BackendError>> {
        Box::pin(async {
            let (time, answer) = (self.answer)(self.asked.fetch_add(1, Ordering::Relaxed));
            tokio::time::sleep(time).await;
            let error =
                |cause| BackendError { endpoint: "e".into(), blob: "b".into(), range: Some(range), cause };
            answer.map_err(error)
        })
    }

    fn size(&self) -> BoxFuture<'_, Result<u64, BackendError>> {
        Box::pin(async { self.read(0..1, Priority::Prefetch).await.map(|bytes| bytes.len() as u64) })
    }
}

/// A backend that has one reader for every blob.
#[derive(Debug)]
#[allow(dead_code, reason = "not every test has use for it")]
pub struct One(pub Arc<dyn BlobReader>);

impl Backend for One {
    fn open(&self, _id: &BlobId) -> Result<Arc<dyn BlobReader>, BackendError> {
        Ok(Arc::clone(&self.0))
    }
}
