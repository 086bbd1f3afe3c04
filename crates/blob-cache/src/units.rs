//! Decoded units that several chunks are cut from: batches, and spans of a layer. Files that lie together are read together, so the last few are kept, and who
//! wants one that is being fetched waits for it.
//!
//! Knows bytes by the place they come from. They are *unverified*: who cuts a chunk out of them hashes it, and has all forgotten when it is wrong.

use bytes::Bytes;
use parking_lot::Mutex;
use rafs_format::blob_units::Unit;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Units kept at most.
const KEPT: usize = 4;
/// Bytes kept at most, unless one unit is longer.
const KEPT_BYTES: usize = 8 << 20;

/// The units of one blob.
#[derive(Debug, Default)]
pub(crate) struct Units {
    /// Latest first, each with its first stored byte.
    recent: Mutex<VecDeque<(u64, Bytes)>>,
    /// Who holds one fetches the unit that starts there.
    turns: Mutex<HashMap<u64, Weak<AsyncMutex<()>>>>,
}

impl Units {
    /// Waits until nobody else fetches `unit`.
    pub(crate) async fn turn(&self, unit: &Unit) -> OwnedMutexGuard<()> {
        self.queue(unit).lock_owned().await
    }

    /// [`Units::turn`] for who does not wait; `None` while somebody fetches `unit`.
    pub(crate) fn try_turn(&self, unit: &Unit) -> Option<OwnedMutexGuard<()>> {
        self.queue(unit).try_lock_owned().ok()
    }

    /// Where those stand who want to fetch `unit`.
    fn queue(&self, unit: &Unit) -> Arc<AsyncMutex<()>> {
        let mut turns = self.turns.lock();
        turns.retain(|_, turn| turn.strong_count() > 0);
        let known = turns.get(&unit.compressed.start).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let turn = Arc::default();
            turns.insert(unit.compressed.start, Arc::downgrade(&turn));
            turn
        })
    }

    /// The bytes of `unit`, where it is kept.
    pub(crate) fn get(&self, unit: &Unit) -> Option<Bytes> {
        let mut recent = self.recent.lock();
        let size = unit.uncompressed_size as usize;
        let at = recent
            .iter()
            .position(|(start, plain)| *start == unit.compressed.start && plain.len() == size)?;
        let found = recent.remove(at)?;
        let plain = found.1.clone();
        recent.push_front(found);
        Some(plain)
    }

    /// Keeps the bytes of `unit`, and forgets what has not been wanted for longest.
    pub(crate) fn keep(&self, unit: &Unit, plain: Bytes) {
        let mut recent = self.recent.lock();
        recent.push_front((unit.compressed.start, plain));
        let mut bytes = 0;
        let mut fits = |(_, plain): &(u64, Bytes)| {
            bytes += plain.len();
            bytes <= KEPT_BYTES
        };
        let count = recent.iter().take(KEPT).take_while(|&unit| fits(unit)).count().max(1);
        recent.truncate(count);
    }

    /// Keeps nothing.
    pub(crate) fn forget(&self) {
        self.recent.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn unit(start: u64, size: u32) -> Unit {
        Unit {
            compressed: start..start + 1,
            uncompressed_size: size,
            is_compressed: true,
            start: 0,
            resume: None,
        }
    }

    fn kept(units: &Units) -> Vec<u64> {
        units.recent.lock().iter().map(|(start, _)| *start).collect()
    }

    #[test]
    fn the_last_few_are_kept() {
        let units = Units::default();
        (0..6).for_each(|n| units.keep(&unit(n, 1), Bytes::from_static(b"x")));
        assert_eq!(kept(&units), [5, 4, 3, 2]);
        assert_eq!(units.get(&unit(3, 1)).as_deref(), Some(b"x".as_slice()));
        assert_eq!(units.get(&unit(4, 2)), None, "another unit starts there");
        units.keep(&unit(9, 1), Bytes::from_static(b"y"));
        assert_eq!(kept(&units), [9, 3, 5, 4]);
        units.forget();
        assert_eq!(units.get(&unit(9, 1)), None);
    }

    #[test]
    fn bytes_are_bounded_but_for_one_unit() {
        let units = Units::default();
        units.keep(&unit(0, 1), vec![0; KEPT_BYTES / 2].into());
        units.keep(&unit(1, 1), vec![0; KEPT_BYTES / 2].into());
        assert_eq!(kept(&units), [1, 0]);
        units.keep(&unit(2, 1), vec![0; 1].into());
        assert_eq!(kept(&units), [2, 1]);
        units.keep(&unit(3, 1), vec![0; 2 * KEPT_BYTES].into());
        assert_eq!(kept(&units), [3]);
    }

    #[tokio::test]
    async fn one_at_a_time_fetches_a_unit() {
        let units = Units::default();
        let wanted = unit(7, 1);
        let first = units.turn(&wanted).await;
        let other = units.turn(&unit(8, 1)).await;
        assert!(units.try_turn(&wanted).is_none() && units.try_turn(&unit(9, 1)).is_some());
        let waiting = units.turn(&wanted);
        tokio::pin!(waiting);
        assert!((&mut waiting).now_or_never().is_none());
        drop(first);
        drop(waiting.await);
        drop(other);
        drop(units.turn(&unit(9, 1)).await);
        assert_eq!(units.turns.lock().len(), 1, "what is done is forgotten with the next one");
    }
}
