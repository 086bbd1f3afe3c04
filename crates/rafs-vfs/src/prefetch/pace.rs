//! How much may be under way early. Pure: knows sizes and times.
//!
//! As long as readers wait for data, and shortly after, no more than one portion of the longest kind: so much, and no more, may be ahead of a reader on
//! a link. The longer nobody waits the more, up to what the configuration gives.

use std::time::Duration;

/// Time without readers after which one more portion may be under way.
pub(super) const STEP: Duration = Duration::from_millis(250);
/// Pause after a failure, doubled with each further one in a row.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(60);

/// What limits there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Bytes of the longest portion.
    pub(super) batch: u64,
    /// Portions that may be under way when nobody else wants anything.
    pub(super) at_once: usize,
}

impl Pace {
    /// May a portion of `next` bytes start beside `running` portions of `bytes` bytes together, after nobody has waited for `quiet`?
    pub(super) fn may_start(&self, running: usize, bytes: u64, next: u64, quiet: Duration) -> bool {
        let steps = quiet.as_millis() / STEP.as_millis();
        let share = usize::try_from(steps).unwrap_or(usize::MAX).saturating_add(1).min(self.at_once);
        let room = self.batch.saturating_mul(u64::try_from(share).unwrap_or(u64::MAX));
        running == 0 || (running < self.at_once && bytes.saturating_add(next) <= room)
    }
}

/// How long to pause after so many failures in a row.
pub(super) fn pause(failures: u32) -> Duration {
    let doubled = failures.checked_sub(1).and_then(|more| 1u32.checked_shl(more.min(16)));
    doubled.map_or(Duration::ZERO, |times| PAUSE.saturating_mul(times).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_readers_one_portion_is_under_way_and_later_more() {
        let pace = Pace { batch: 100, at_once: 4 };
        assert!(pace.may_start(0, 0, 1000, Duration::ZERO), "one may, however long");
        for (steps, room) in [(0, 100), (1, 200), (3, 400), (4, 400), (u32::MAX, 400)] {
            assert!(pace.may_start(1, room - 50, 50, STEP * steps), "{steps}");
            assert!(!pace.may_start(1, room - 50, 51, STEP * steps), "{steps}");
        }
        assert!(pace.may_start(3, 30, 10, Duration::ZERO), "short ones are several");
        assert!(!pace.may_start(4, 40, 10, STEP * 100));
    }

    #[test]
    fn pauses_grow_up_to_a_minute() {
        let seconds = [0, 1, 2, 6, 7, 8, 100, u32::MAX].map(|failures| pause(failures).as_secs());
        assert_eq!(seconds, [0, 1, 2, 32, 60, 60, 60, 60]);
    }
}
