//! Does anybody wait for data? What fetches early asks, and stands back. Counts readers, knows nothing of what they read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Those who wait for data of one image.
#[derive(Debug)]
pub(crate) struct Readers {
    waiting: AtomicUsize,
    created: Instant,
    /// When one of them was last seen, in milliseconds after `created`.
    seen: AtomicU64,
}

impl Default for Readers {
    fn default() -> Self {
        Self { waiting: AtomicUsize::new(0), created: Instant::now(), seen: AtomicU64::new(0) }
    }
}

/// Somebody who waits, until this is dropped.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<Readers>);

impl Readers {
    /// One more waits.
    pub(crate) fn wait(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(Arc::clone(self))
    }

    /// For how long nobody has been waiting; nothing where somebody waits now.
    pub(crate) fn quiet(&self) -> Duration {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        self.created.elapsed().saturating_sub(Duration::from_millis(self.seen.load(Ordering::Relaxed)))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Readers { waiting, created, seen } = &*self.0;
        let now = u64::try_from(created.elapsed().as_millis()).unwrap_or(u64::MAX);
        seen.fetch_max(now, Ordering::Relaxed);
        waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_quiet_from_when_the_last_one_has_gone() {
        let readers = Arc::new(Readers::default());
        let pass = |millis| tokio::time::advance(Duration::from_millis(millis));
        pass(10).await;
        assert_eq!(readers.quiet(), Duration::from_millis(10));
        let (first, second) = (readers.wait(), readers.wait());
        pass(10).await;
        drop(first);
        assert_eq!(readers.quiet(), Duration::ZERO);
        pass(10).await;
        drop(second);
        assert_eq!(readers.quiet(), Duration::ZERO);
        pass(7).await;
        assert_eq!(readers.quiet(), Duration::from_millis(7));
    }
}
