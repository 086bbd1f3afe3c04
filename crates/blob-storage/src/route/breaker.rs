//! When a route is left out, and when it is asked again. Knows results and time only: no requests, no logs.
//!
//! Closed, until `limit` requests in a row have failed; then open for a pause, after which one request may try (half open). It closes the
//! breaker or opens it for twice the pause, up to [`LONGEST`]. One that never ends changes nothing: another one may try a pause later.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Longest pause, where the first one is not longer.
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Breaker {
    limit: u32,
    pause: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    /// In a row.
    failures: u32,
    open: Option<Open>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    pause: Duration,
    /// One may try then.
    until: Instant,
    /// One was let through.
    trying: bool,
}

impl Breaker {
    /// Opens after `limit` failures in a row, at least one, first for `pause`.
    pub fn new(limit: u32, pause: Duration) -> Self {
        Self { limit: limit.max(1), pause, state: Mutex::new(State { failures: 0, open: None }) }
    }

    /// May a request be sent at `now`? While open, one in each pause.
    pub fn admits(&self, now: Instant) -> bool {
        match &mut self.state.lock().open {
            None => true,
            Some(open) if now < open.until => false,
            Some(open) => {
                (open.until, open.trying) = (now + open.pause, true);
                true
            }
        }
    }

    /// A request succeeded. Says whether the breaker was open.
    pub fn succeeded(&self) -> bool {
        let mut state = self.state.lock();
        state.failures = 0;
        state.open.take().is_some()
    }

    /// A request failed at `now`. Says whether that opened the breaker, and for how long.
    pub fn failed(&self, now: Instant) -> Option<Duration> {
        let mut state = self.state.lock();
        state.failures = state.failures.saturating_add(1);
        if let Some(open) = &mut state.open {
            // Requests that were under way when it opened, and those of a last resort, say nothing new.
            if std::mem::take(&mut open.trying) {
                open.pause = open.pause.saturating_mul(2).min(LONGEST.max(self.pause));
                open.until = now + open.pause;
            }
            return None;
        }
        let opens = state.failures >= self.limit;
        state.open = opens.then_some(Open { pause: self.pause, until: now + self.pause, trying: false });
        opens.then_some(self.pause)
    }

    /// Is it open?
    pub fn is_open(&self) -> bool {
        self.state.lock().open.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_lets_one_try_after_each_pause() {
        let breaker = Breaker::new(3, PAUSE);
        let start = Instant::now();
        for _ in 0..2 {
            assert_eq!(breaker.failed(start), None);
        }
        assert!(!breaker.succeeded(), "it was closed");
        assert_eq!([breaker.failed(start), breaker.failed(start)], [None, None]);
        assert!(breaker.admits(start) && !breaker.is_open());
        assert_eq!(breaker.failed(start), Some(PAUSE));
        assert!(breaker.is_open() && !breaker.admits(start));
        let then = start + PAUSE;
        assert_eq!([breaker.admits(then), breaker.admits(then)], [true, false], "one may try");
        assert!(breaker.admits(then + PAUSE), "one that never ends blocks nobody for ever");
        assert!(breaker.succeeded(), "it was open");
        assert!(breaker.admits(then) && !breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_a_limit() {
        let breaker = Breaker::new(0, PAUSE);
        let mut now = Instant::now();
        assert_eq!(breaker.failed(now), Some(PAUSE));
        for _ in 0..100 {
            now += LONGEST;
            assert!(breaker.admits(now));
            assert_eq!(breaker.failed(now), None);
        }
        assert!(!breaker.admits(now + LONGEST - Duration::from_millis(1)) && breaker.admits(now + LONGEST));
        let long = Breaker::new(1, LONGEST * 2);
        assert_eq!(long.failed(now), Some(LONGEST * 2));
        assert_eq!(long.failed(now), None, "under way before");
        assert!(!long.admits(now + LONGEST) && long.admits(now + LONGEST * 2));
    }
}
