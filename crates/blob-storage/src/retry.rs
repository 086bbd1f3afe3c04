//! A reader that asks again what failed for a while only. Pauses grow and are jittered, so that a server that comes back is not
//! asked by all its readers in the same moment.

use crate::{BackendCause, BackendError, BlobReader, Check, Priority};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;
use std::time::Duration;
use tokio::time::Instant;

/// Longest pause before the second try; it doubles with each further one.
const FIRST: Duration = Duration::from_millis(100);
/// Longest pause that is ours; a server may want a longer one.
const LONGEST: Duration = Duration::from_secs(5);

/// Sends a request again that failed for a reason that may pass ([`BackendCause::is_temporary`]), after the pause that the server asks for
/// or a jittered one that doubles each time.
#[derive(Debug)]
pub struct Retry<R> {
    inner: R,
    retries: u8,
    patience: Duration,
}

impl<R: BlobReader> Retry<R> {
    /// `inner`, asked again up to `retries` times. Where the next try would begin more than `patience` after the first, there is none:
    /// an error now is better than the same one then.
    pub fn new(inner: R, retries: u8, patience: Duration) -> Self {
        Self { inner, retries, patience }
    }

    async fn persist<'a, T>(
        &'a self,
        ask: impl Fn(&'a R) -> BoxFuture<'a, Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let started = Instant::now();
        let mut tries = 0;
        loop {
            let error = match ask(&self.inner).await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            tries += 1;
            let pause = pause(tries, error.cause.retry_after(), random());
            let in_time = started.elapsed().saturating_add(pause) < self.patience;
            if !error.cause.is_temporary() || tries > u32::from(self.retries) || !in_time {
                return Err(tried(tries, error));
            }
            tokio::time::sleep(pause).await;
        }
    }
}

impl<R: BlobReader> BlobReader for Retry<R> {
    fn read(&self, range: Range<u64>, priority: Priority) -> BoxFuture<'_, Result<Bytes, BackendError>> {
        Box::pin(self.persist(move |inner| inner.read(range.clone(), priority)))
    }

    fn read_checked<'a>(
        &'a self,
        range: Range<u64>,
        priority: Priority,
        check: &'a Check<'a>,
    ) -> BoxFuture<'a, Result<Bytes, BackendError>> {
        Box::pin(self.persist(move |inner| inner.read_checked(range.clone(), priority, check)))
    }

    fn size(&self) -> BoxFuture<'_, Result<u64, BackendError>> {
        Box::pin(self.persist(|inner| inner.size()))
    }
}

/// `error`, which says how often it was tried.
fn tried(tries: u32, error: BackendError) -> BackendError {
    if tries < 2 {
        return error;
    }
    BackendError { cause: BackendCause::Tried { tries, last: Box::new(error.cause) }, ..error }
}

/// Pause after the try number `tries`, counted from 1: what the server wants, or between half and all of what doubling gives.
/// `random` says where between.
pub(crate) fn pause(tries: u32, wanted: Option<Duration>, random: u32) -> Duration {
    let doubled = 2_u32.checked_pow(tries.saturating_sub(1)).and_then(|factor| FIRST.checked_mul(factor));
    let half = doubled.unwrap_or(LONGEST).min(LONGEST) / 2;
    let own = half + half.mul_f64(f64::from(random) / f64::from(u32::MAX));
    // Who is told when to come again does not come in the same moment as all others either.
    wanted.map_or(own, |wanted| wanted.saturating_add(own))
}

/// A number that differs each time; the standard library has no other source of them.
pub(crate) fn random() -> u32 {
    let bits = RandomState::new().build_hasher().finish();
    u32::try_from(bits >> 32).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_differ() {
        let of = |tries, random| pause(tries, None, random).as_millis();
        assert_eq!([of(1, 0), of(1, u32::MAX), of(2, 0), of(2, u32::MAX)], [50, 100, 100, 200]);
        assert_eq!([of(7, u32::MAX), of(40, u32::MAX), of(u32::MAX, 0)], [5000, 5000, 2500]);
        let wanted = Some(Duration::from_secs(30));
        assert_eq!(pause(1, wanted, 0), Duration::from_millis(30_050));
        assert_eq!(pause(1, Some(Duration::MAX), 0), Duration::MAX);
        let some: std::collections::HashSet<_> = (0..8).map(|_| random()).collect();
        assert!(some.len() > 1, "{some:?}");
    }
}
