//! Planned chunks as portions that are fetched one after another. Pure: knows chunks and sizes.
//!
//! Within a window of the plan, chunks are put into the order of their blobs, so that neighbours come together and are one request. The window is short where the
//! order itself is worth something.

use super::plan::Stage;
use rafs_format::Chunk;
use std::mem;

/// Chunks of one blob that are fetched together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Portion {
    /// In the order of the blob.
    pub(super) chunks: Vec<Chunk>,
    /// Stored bytes of them.
    pub(super) bytes: u64,
}

/// Puts chunks into portions.
#[derive(Debug)]
pub(super) struct Order {
    /// Stored bytes of a portion, unless one chunk is longer.
    batch: u64,
    /// What is collected, of `stage`.
    window: Vec<Chunk>,
    bytes: u64,
    stage: Stage,
}

/// Portions of a window in the order of which the plan is not the recorded one.
const LONG_WINDOW: u64 = 4;

impl Order {
    pub(super) fn new(batch: u64) -> Self {
        Self { batch, window: Vec::new(), bytes: 0, stage: Stage::Profile }
    }

    /// Takes the next chunk. Returns portions that are whole with it, mostly none.
    pub(super) fn push(&mut self, stage: Stage, chunk: &Chunk) -> Vec<Portion> {
        let mut done = if stage == self.stage { Vec::new() } else { self.flush() };
        self.stage = stage;
        self.window.push(*chunk);
        self.bytes = self.bytes.saturating_add(stored(chunk));
        let most = if stage == Stage::Profile { self.batch } else { self.batch.saturating_mul(LONG_WINDOW) };
        if self.bytes >= most {
            done.extend(self.flush());
        }
        done
    }

    /// Portions of what is left.
    pub(super) fn flush(&mut self) -> Vec<Portion> {
        self.bytes = 0;
        // A recorded order is followed more closely, by portions of half the size, two of which may be under way.
        let most = if self.stage == Stage::Profile { (self.batch / 2).max(1) } else { self.batch };
        let mut planned: Vec<_> = mem::take(&mut self.window).into_iter().enumerate().collect();
        planned.sort_by_key(|(_, chunk)| (chunk.blob, chunk.compressed_offset, chunk.index));
        let mut portions: Vec<(usize, Portion)> = Vec::new();
        for (at, chunk) in planned {
            let size = stored(&chunk);
            let fits = |portion: &Portion| {
                portion.chunks.last().is_some_and(|last| last.blob == chunk.blob)
                    && portion.bytes.saturating_add(size) <= most
            };
            match portions.last_mut().filter(|(_, portion)| fits(portion)) {
                Some((first, portion)) => {
                    *first = at.min(*first);
                    portion.chunks.push(chunk);
                    portion.bytes += size;
                }
                None => portions.push((at, Portion { chunks: vec![chunk], bytes: size })),
            }
        }
        // What the plan wants first comes first.
        portions.sort_by_key(|(first, _)| *first);
        portions.into_iter().map(|(_, portion)| portion).collect()
    }
}

/// What fetching `chunk` costs, in bytes. Chunks of spans say nothing of what is stored.
pub(super) fn stored(chunk: &Chunk) -> u64 {
    let size = if chunk.compressed_size == 0 { chunk.uncompressed_size } else { chunk.compressed_size };
    size.max(1).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use testkit::blob::of_sizes;

    fn chunk(blob: u32, index: u32, size: u32) -> Chunk {
        let any = of_sizes("b", &[1], rafs_format::Compressor::None).chunks[0];
        Chunk { blob, index, compressed_size: size, compressed_offset: u64::from(index) * 1000, ..any }
    }

    fn portions(batch: u64, chunks: &[(Stage, Chunk)]) -> Vec<Vec<(u32, u32)>> {
        let mut order = Order::new(batch);
        let mut all: Vec<_> = chunks.iter().flat_map(|(stage, chunk)| order.push(*stage, chunk)).collect();
        all.extend(order.flush());
        let names = |portion: &Portion| portion.chunks.iter().map(|c| (c.blob, c.index)).collect();
        all.iter().map(names).collect()
    }

    #[test]
    fn neighbours_come_together_and_what_is_wanted_first_comes_first() {
        let plan: Vec<_> = [(0, 7), (1, 0), (0, 2), (0, 8), (0, 1)]
            .map(|(blob, index)| (Stage::Files, chunk(blob, index, 10)))
            .to_vec();
        assert_eq!(portions(20, &plan), [vec![(0, 7), (0, 8)], vec![(1, 0)], vec![(0, 1), (0, 2)]]);
        assert_eq!(portions(1000, &plan), [vec![(0, 1), (0, 2), (0, 7), (0, 8)], vec![(1, 0)]]);
        assert_eq!(portions(1, &plan).len(), 5, "a long chunk is a portion");
    }

    #[test]
    fn stages_do_not_mix_and_a_profile_is_followed_closely() {
        let plan = [
            (Stage::Profile, chunk(0, 9, 10)),
            (Stage::Files, chunk(0, 1, 10)),
            (Stage::All, chunk(0, 0, 10)),
        ];
        assert_eq!(portions(1000, &plan), [[(0, 9)], [(0, 1)], [(0, 0)]]);
        let row: Vec<_> = [3, 2, 1, 0].map(|index| (Stage::Profile, chunk(0, index, 10))).to_vec();
        assert_eq!(portions(20, &row), [[(0, 3)], [(0, 2)], [(0, 1)], [(0, 0)]]);
        assert_eq!(portions(40, &row), [[(0, 2), (0, 3)], [(0, 0), (0, 1)]]);
    }

    proptest! {
        #[test]
        fn each_chunk_is_in_one_portion_of_bounded_size(
            plan in prop::collection::vec((0u32..3, 0u32..50, 0u32..40, 0u8..3), 0..80), batch in 1u64..60,
        ) {
            let stages = [Stage::Profile, Stage::Files, Stage::All];
            let plan: Vec<_> = plan.iter().map(|&(b, i, s, t)| (stages[usize::from(t)], chunk(b, i, s))).collect();
            let mut order = Order::new(batch);
            let mut all: Vec<_> = plan.iter().flat_map(|(stage, chunk)| order.push(*stage, chunk)).collect();
            all.extend(order.flush());
            let sorted = |mut all: Vec<(u32, u32, u32)>| { all.sort_unstable(); all };
            let name = |c: &Chunk| (c.blob, c.index, c.compressed_size);
            let found = all.iter().flat_map(|portion| portion.chunks.iter().map(name)).collect();
            prop_assert_eq!(sorted(found), sorted(plan.iter().map(|(_, chunk)| name(chunk)).collect()));
            for portion in &all {
                prop_assert_eq!(portion.bytes, portion.chunks.iter().map(stored).sum::<u64>());
                prop_assert!(portion.bytes <= batch || portion.chunks.len() == 1);
                prop_assert!(portion.chunks.iter().all(|chunk| chunk.blob == portion.chunks[0].blob));
            }
        }
    }
}
