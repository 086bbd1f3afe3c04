//! What reads cost: how many, how many bytes, how long, how many at once. Counting is lock-free and never fails a read.

use crate::{BackendError, BlobReader, Check, Priority};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Upper bounds of latency classes, in milliseconds; one more class has what is above the last. Those of Nydus 2.x are among them.
pub const LATENCY_CLASSES: [u64; 15] =
    [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 60_000];

/// What reads cost so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MeterStats {
    /// Reads that ended.
    pub reads: u64,
    /// Those among them that failed.
    pub errors: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Reads that are running.
    pub in_flight: u64,
    /// Reads that ended, by the class of how long they took, see [`LATENCY_CLASSES`].
    pub latency: [u64; LATENCY_CLASSES.len() + 1],
    /// How long all that ended took together.
    pub total: Duration,
}

impl MeterStats {
    /// A time that `share` of the reads (0 to 1) did not take longer than; rounded up to the bound of a class. `None`: nothing was read, or so many
    /// took longer than all bounds.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let wanted = share.clamp(0.0, 1.0) * precise(self.latency.iter().sum());
        let mut seen = 0;
        for (count, bound) in self.latency.iter().zip(LATENCY_CLASSES) {
            seen += count;
            if seen > 0 && precise(seen) >= wanted {
                return Some(Duration::from_millis(bound));
            }
        }
        None
    }
}

/// Exact up to 2^53, which no counter reaches.
#[expect(clippy::cast_precision_loss, reason = "a share of so many reads need not be exact")]
fn precise(count: u64) -> f64 {
    count as f64
}

/// Counts reads.
#[derive(Debug, Default)]
pub struct Meter {
    reads: AtomicU64,
    errors: AtomicU64,
    bytes: AtomicU64,
    in_flight: AtomicU64,
    latency: [AtomicU64; LATENCY_CLASSES.len() + 1],
    micros: AtomicU64,
}

/// A running read. Dropped without [`Running::ended`] it counts as a failed one: somebody had no patience any more.
#[derive(Debug)]
pub struct Running<'a> {
    meter: &'a Meter,
    since: Instant,
    bytes: Option<u64>,
}

impl Meter {
    /// A read begins.
    pub fn begin(&self) -> Running<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Running { meter: self, since: Instant::now(), bytes: None }
    }

    /// What was counted so far.
    pub fn stats(&self) -> MeterStats {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MeterStats {
            reads: of(&self.reads),
            errors: of(&self.errors),
            bytes: of(&self.bytes),
            in_flight: of(&self.in_flight),
            latency: std::array::from_fn(|class| self.latency.get(class).map_or(0, of)),
            total: Duration::from_micros(of(&self.micros)),
        }
    }
}

impl Running<'_> {
    /// The read has given so many bytes.
    pub fn ended(mut self, bytes: u64) {
        self.bytes = Some(bytes);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let Meter { reads, errors, bytes, in_flight, latency, micros } = self.meter;
        let took = self.since.elapsed();
        in_flight.fetch_sub(1, Ordering::Relaxed);
        reads.fetch_add(1, Ordering::Relaxed);
        match self.bytes {
            Some(found) => bytes.fetch_add(found, Ordering::Relaxed),
            None => errors.fetch_add(1, Ordering::Relaxed),
        };
        micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let class = LATENCY_CLASSES.iter().filter(|bound| took > Duration::from_millis(**bound)).count();
        if let Some(counter) = latency.get(class) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A reader whose reads are counted. Sizes are not: they are asked once for each blob.
#[derive(Debug)]
pub struct Metered<R> {
    inner: R,
    meter: Arc<Meter>,
}

impl<R: BlobReader> Metered<R> {
    /// `inner`, counted by `meter`, which may count others, too.
    pub fn new(inner: R, meter: Arc<Meter>) -> Self {
        Self { inner, meter }
    }

    async fn counted(
        &self,
        read: impl Future<Output = Result<Bytes, BackendError>>,
    ) -> Result<Bytes, BackendError> {
        let running = self.meter.begin();
        let found = read.await;
        if let Ok(bytes) = &found {
            running.ended(bytes.len() as u64);
        }
        found
    }
}

impl<R: BlobReader> BlobReader for Metered<R> {
    fn read(&self, range: Range<u64>, priority: Priority) -> BoxFuture<'_, Result<Bytes, BackendError>> {
        Box::pin(self.counted(self.inner.read(range, priority)))
    }

    fn read_checked<'a>(
        &'a self,
        range: Range<u64>,
        priority: Priority,
        check: &'a Check<'a>,
    ) -> BoxFuture<'a, Result<Bytes, BackendError>> {
        Box::pin(self.counted(self.inner.read_checked(range, priority, check)))
    }

    fn size(&self) -> BoxFuture<'_, Result<u64, BackendError>> {
        self.inner.size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn quantiles_are_bounds_of_classes() {
        let meter = Meter::default();
        assert_eq!(meter.stats().quantile(0.95), None);
        for millis in 1..=100 {
            let running = meter.begin();
            tokio::time::advance(Duration::from_millis(millis)).await;
            running.ended(10);
        }
        let stats = meter.stats();
        assert_eq!((stats.reads, stats.errors, stats.bytes, stats.in_flight), (100, 0, 1000, 0));
        assert_eq!(stats.total, Duration::from_millis(5050));
        assert_eq!(&stats.latency[..8], [1, 1, 3, 5, 10, 30, 50, 0]);
        for (share, millis) in
            [(0.0, 1), (0.05, 5), (0.2, 20), (0.5, 50), (0.95, 100), (1.0, 100), (7.0, 100)]
        {
            assert_eq!(stats.quantile(share), Some(Duration::from_millis(millis)), "{share}");
        }
        let running = meter.begin();
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(meter.stats().in_flight, 1);
        drop(running);
        let stats = meter.stats();
        assert_eq!((stats.errors, stats.in_flight, stats.latency[15], stats.quantile(1.0)), (1, 0, 1, None));
    }
}
