//! A second request for what takes unusually long, so that one slow connection is not a slow file. Costs at most one request in ten more, also when
//! everything is slow, and nothing for prefetch.

use crate::{BackendError, BlobReader, Check, Meter, Priority};
use bytes::Bytes;
use futures_util::future::{BoxFuture, Either, select};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Longer than this share of all reads is unusual.
const USUAL: f64 = 0.95;
/// Nothing is unusual before so many reads.
const FEWEST: u64 = 20;
/// One second request for so many reads, at most.
const SPARE: u64 = 10;

/// What readers that share it know of the usual.
#[derive(Debug, Default)]
pub struct Hedging {
    meter: Arc<Meter>,
    seconds: AtomicU64,
}

impl Hedging {
    /// Second requests so far.
    pub fn seconds(&self) -> u64 {
        self.seconds.load(Ordering::Relaxed)
    }

    /// How long a read may take before it is unusual. `None`: not known yet, or there were too many second requests.
    fn usual(&self) -> Option<Duration> {
        let stats = self.meter.stats();
        let is_known = stats.reads >= FEWEST && self.seconds() < stats.reads / SPARE;
        stats.quantile(USUAL).filter(|_| is_known)
    }
}

/// A reader that asks once more for what takes unusually long, and takes what comes first and is right.
#[derive(Debug)]
pub struct Hedge<R> {
    inner: R,
    hedging: Arc<Hedging>,
}

impl<R: BlobReader> Hedge<R> {
    /// `inner`, with what is known of the usual in `hedging`.
    pub fn new(inner: R, hedging: Arc<Hedging>) -> Self {
        Self { inner, hedging }
    }

    async fn sooner<'a>(
        &'a self,
        ask: impl Fn() -> BoxFuture<'a, Result<Bytes, BackendError>>,
        check: &'a Check<'a>,
    ) -> Result<Bytes, BackendError> {
        let first = self.counted(ask());
        let Some(usual) = self.hedging.usual() else { return first.await };
        let mut first = Box::pin(first);
        if let Ok(found) = tokio::time::timeout(usual, &mut first).await {
            return found;
        }
        self.hedging.seconds.fetch_add(1, Ordering::Relaxed);
        let (found, other) = match select(first, Box::pin(self.counted(ask()))).await {
            Either::Left((found, second)) => (found, Either::Left(second)),
            Either::Right((found, first)) => (found, Either::Right(first)),
        };
        if found.as_ref().is_ok_and(check) {
            return found;
        }
        // What failed sooner is no gain.
        let second = match other {
            Either::Left(second) => second.await,
            Either::Right(first) => first.await,
        };
        if second.is_ok() { second } else { found }
    }

    async fn counted(&self, read: BoxFuture<'_, Result<Bytes, BackendError>>) -> Result<Bytes, BackendError> {
        let running = self.hedging.meter.begin();
        let found = read.await;
        if let Ok(bytes) = &found {
            running.ended(bytes.len() as u64);
        }
        found
    }
}

impl<R: BlobReader> BlobReader for Hedge<R> {
    fn read(&self, range: Range<u64>, priority: Priority) -> BoxFuture<'_, Result<Bytes, BackendError>> {
        match priority {
            Priority::Prefetch => self.inner.read(range, priority),
            Priority::OnDemand => {
                Box::pin(self.sooner(move || self.inner.read(range.clone(), priority), &|_| true))
            }
        }
    }

    fn read_checked<'a>(
        &'a self,
        range: Range<u64>,
        priority: Priority,
        check: &'a Check<'a>,
    ) -> BoxFuture<'a, Result<Bytes, BackendError>> {
        match priority {
            Priority::Prefetch => self.inner.read_checked(range, priority, check),
            Priority::OnDemand => {
                let ask = move || self.inner.read_checked(range.clone(), priority, check);
                Box::pin(self.sooner(ask, check))
            }
        }
    }

    fn size(&self) -> BoxFuture<'_, Result<u64, BackendError>> {
        self.inner.size()
    }
}
