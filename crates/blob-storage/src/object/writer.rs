//! Stores blobs in a bucket: asks whether they are there, and else sends them in parts. An object appears with its last part, whole.

use super::{ObjectBlob, ObjectStorage, cause_of};
use crate::{BackendCause, BackendError, BlobReader, BlobWriter, Priority, Stored};
use futures_util::future::BoxFuture;
use opendal::layers::RetryLayer;
use rafs_format::BlobId;
use std::time::Duration;

/// Bytes sent at once, and held in memory. S3 takes 10,000 parts, so that a blob may have 160 GB.
const PART: usize = 16 << 20;
/// Tries of one part after the first, and the longest pause before one.
const TRIES: (usize, Duration) = (5, Duration::from_secs(5));

impl BlobWriter for ObjectStorage {
    fn store<'a>(
        &'a self,
        id: &'a BlobId,
        source: &'a dyn BlobReader,
    ) -> BoxFuture<'a, Result<Stored, BackendError>> {
        Box::pin(async move {
            let size = source.size().await?;
            let blob = self.blob(id);
            match blob.size().await {
                Ok(found) if found == size => return Ok(Stored::There),
                // Another object under the name of this blob, or half of it: it is replaced.
                Ok(_) => {}
                Err(error) if matches!(error.cause, BackendCause::NotFound) => {}
                Err(error) => return Err(error),
            }
            send(&blob, source, size).await?;
            // A fresh reader: what the other one knows may be of what was there before.
            match self.blob(id).size().await? {
                // The layer that sends parts again does not tell how many.
                found if found == size => Ok(Stored::Sent { size, again: 0 }),
                found => Err(blob.error(None, BackendCause::OutOfRange { size: found })),
            }
        })
    }
}

/// All `size` bytes of `source`, part by part.
async fn send(blob: &ObjectBlob, source: &dyn BlobReader, size: u64) -> Result<(), BackendError> {
    let failed = |error| blob.error(None, cause_of(error));
    let retry = RetryLayer::new().with_max_times(TRIES.0).with_max_delay(TRIES.1).with_jitter();
    let operator = blob.store.later.clone().layer(retry);
    let mut writer = operator.writer_with(&blob.key).chunk(PART).await.map_err(failed)?;
    let part = u64::try_from(PART).unwrap_or(u64::MAX);
    let mut at = 0;
    while at < size {
        let end = at.saturating_add(part).min(size);
        let sent = match source.read(at..end, Priority::Prefetch).await {
            Ok(bytes) => writer.write(bytes).await.map_err(failed),
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            // What was sent so far costs money until it is given up; that this may fail too changes nothing.
            let _given_up = writer.abort().await.is_ok();
            return Err(error);
        }
        at = end;
    }
    writer.close().await.map(|_metadata| ()).map_err(failed)
}
