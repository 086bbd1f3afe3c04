//! Prefetch at a given speed. What readers wait for is never slowed down; it is charged, though, so that both together keep to the limit
//! as far as prefetch can help it.

use crate::{BackendError, BlobReader, Check, Priority};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A bucket that fills with a number of bytes each second. Reads take theirs out in the order in which they come; one that finds too little
/// waits until what it lacks has come in.
#[derive(Debug)]
pub struct Bucket {
    /// Bytes per second.
    rate: u64,
    /// Time in which an empty bucket is full.
    depth: Duration,
    /// When the bucket is full again; before that by `depth` or more, it is empty.
    full: Mutex<Instant>,
}

impl Bucket {
    /// Fills with `rate` bytes each second, at least one, and holds `size`. Is full at first.
    pub fn new(rate: u64, size: u64) -> Arc<Self> {
        let rate = rate.max(1);
        Arc::new(Self { rate, depth: time(size, rate), full: Mutex::new(Instant::now()) })
    }

    /// Takes `bytes` out. Says how long to wait for them.
    fn take(&self, bytes: u64) -> Duration {
        let now = Instant::now();
        let mut full = self.full.lock();
        let then = (*full).max(now).checked_add(time(bytes, self.rate));
        // A wait past the end of time is one for ever.
        *full = then.unwrap_or(*full);
        then.map_or(Duration::MAX, |then| then.saturating_duration_since(now).saturating_sub(self.depth))
    }
}

/// Time in which `bytes` come in at `rate`.
fn time(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
    u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos)
}

/// A reader whose prefetch keeps to a bucket.
#[derive(Debug)]
pub struct Throttle<R> {
    inner: R,
    bucket: Arc<Bucket>,
}

impl<R: BlobReader> Throttle<R> {
    /// `inner`, out of `bucket`, which others may use, too.
    pub fn new(inner: R, bucket: Arc<Bucket>) -> Self {
        Self { inner, bucket }
    }

    async fn paced(
        &self,
        range: Range<u64>,
        priority: Priority,
        read: BoxFuture<'_, Result<Bytes, BackendError>>,
    ) -> Result<Bytes, BackendError> {
        let pause = self.bucket.take(range.end.saturating_sub(range.start));
        if priority == Priority::Prefetch && !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        read.await
    }
}

impl<R: BlobReader> BlobReader for Throttle<R> {
    fn read(&self, range: Range<u64>, priority: Priority) -> BoxFuture<'_, Result<Bytes, BackendError>> {
        Box::pin(self.paced(range.clone(), priority, self.inner.read(range, priority)))
    }

    fn read_checked<'a>(
        &'a self,
        range: Range<u64>,
        priority: Priority,
        check: &'a Check<'a>,
    ) -> BoxFuture<'a, Result<Bytes, BackendError>> {
        Box::pin(self.paced(range.clone(), priority, self.inner.read_checked(range, priority, check)))
    }

    fn size(&self) -> BoxFuture<'_, Result<u64, BackendError>> {
        self.inner.size()
    }
}
