//! A reader that answers in time, whatever the one inside does. What is still running at the deadline is dropped, and with it its connection.

use crate::{BackendCause, BackendError, BlobReader, Check, Priority};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// No request takes longer than `limit`, with all that the reader inside does for it: tries, pauses, credentials.
#[derive(Debug)]
pub struct Deadline<R> {
    inner: R,
    limit: Duration,
    /// Said in errors.
    endpoint: Arc<str>,
    blob: Arc<str>,
}

impl<R: BlobReader> Deadline<R> {
    /// `inner`, limited. `endpoint` and `blob` are for errors.
    pub fn new(inner: R, limit: Duration, endpoint: &str, blob: &str) -> Self {
        Self { inner, limit, endpoint: endpoint.into(), blob: blob.into() }
    }

    async fn limited<T>(
        &self,
        range: Option<Range<u64>>,
        work: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let done = tokio::time::timeout(self.limit, work).await;
        done.unwrap_or_else(|_elapsed| {
            let cause = BackendCause::Timeout { after: self.limit };
            Err(BackendError {
                endpoint: Arc::clone(&self.endpoint),
                blob: Arc::clone(&self.blob),
                range,
                cause,
            })
        })
    }
}

impl<R: BlobReader> BlobReader for Deadline<R> {
    fn read(&self, range: Range<u64>, priority: Priority) -> BoxFuture<'_, Result<Bytes, BackendError>> {
        Box::pin(self.limited(Some(range.clone()), self.inner.read(range, priority)))
    }

    fn read_checked<'a>(
        &'a self,
        range: Range<u64>,
        priority: Priority,
        check: &'a Check<'a>,
    ) -> BoxFuture<'a, Result<Bytes, BackendError>> {
        Box::pin(self.limited(Some(range.clone()), self.inner.read_checked(range, priority, check)))
    }

    fn size(&self) -> BoxFuture<'_, Result<u64, BackendError>> {
        Box::pin(self.limited(None, self.inner.size()))
    }
}
