//! The backends of all mounts that share a blob: where that of one mount fails, that of another one may still have the bytes.
//!
//! Knows ranges and no chunks. A mount's own backend is asked first, always, and others only for what somebody waits for; at most [`OTHERS`] of
//! them, the latest mounts first. What they say is as unverified as anything. A mount that is gone takes its backend along.

use blob_storage::{BackendError, BlobReader, Check, Priority};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::{Arc, Weak};

/// Backends of other mounts that are asked at most, so that a read that nobody can answer ends in bounded time.
const OTHERS: usize = 2;

/// The backends of one blob, latest last.
#[derive(Debug, Default)]
pub(crate) struct Readers(Mutex<Vec<Weak<Own>>>);

/// One mount's backend.
#[derive(Debug)]
struct Own(Arc<dyn BlobReader>);

/// A mount's backend, with those of the others behind it.
#[derive(Debug)]
pub(crate) struct SharedReader {
    own: Arc<Own>,
    all: Arc<Readers>,
}

impl SharedReader {
    /// `reader` among `all`.
    pub(crate) fn new(reader: Arc<dyn BlobReader>, all: &Arc<Readers>) -> Self {
        let own = Arc::new(Own(reader));
        let mut readers = all.0.lock();
        readers.retain(|reader| reader.strong_count() > 0);
        readers.push(Arc::downgrade(&own));
        drop(readers);
        Self { own, all: Arc::clone(all) }
    }

    /// Those to ask when the own one failed.
    fn others(&self, priority: Priority) -> Vec<Arc<Own>> {
        if priority != Priority::OnDemand {
            return Vec::new();
        }
        let readers = self.all.0.lock();
        let others = readers.iter().rev().filter_map(Weak::upgrade);
        others.filter(|other| !Arc::ptr_eq(other, &self.own)).take(OTHERS).collect()
    }
}

impl BlobReader for SharedReader {
    fn read(&self, range: Range<u64>, priority: Priority) -> BoxFuture<'_, Result<Bytes, BackendError>> {
        Box::pin(async move {
            let failed = match self.own.0.read(range.clone(), priority).await {
                Ok(bytes) => return Ok(bytes),
                Err(failed) => failed,
            };
            for other in self.others(priority) {
                if let Ok(bytes) = other.0.read(range.clone(), priority).await {
                    return Ok(bytes);
                }
            }
            Err(failed)
        })
    }

    fn read_checked<'a>(
        &'a self,
        range: Range<u64>,
        priority: Priority,
        check: &'a Check<'a>,
    ) -> BoxFuture<'a, Result<Bytes, BackendError>> {
        Box::pin(async move {
            let failed = match self.own.0.read_checked(range.clone(), priority, check).await {
                Ok(bytes) => return Ok(bytes),
                Err(failed) => failed,
            };
            for other in self.others(priority) {
                let bytes = other.0.read_checked(range.clone(), priority, check).await;
                if bytes.as_ref().is_ok_and(check) {
                    return bytes;
                }
            }
            Err(failed)
        })
    }

    fn size(&self) -> BoxFuture<'_, Result<u64, BackendError>> {
        Box::pin(async move {
            let failed = match self.own.0.size().await {
                Ok(size) => return Ok(size),
                Err(failed) => failed,
            };
            for other in self.others(Priority::OnDemand) {
                if let Ok(size) = other.0.size().await {
                    return Ok(size);
                }
            }
            Err(failed)
        })
    }
}
