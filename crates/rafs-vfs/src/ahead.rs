//! Reading ahead in the order of a blob: files lie in it as they lie in the tree, so who reads one after another goes through it from front to back, file by file.
//!
//! A few readers are followed in each blob. One whose misses come one behind the other gets the chunks behind them fetched, the more the longer it goes on; one
//! that jumps gets nothing, so a random read costs what it reads. Pure: knows chunks, fetches nothing.

use blob_cache::ChunkTable;
use rafs_format::Chunk;

/// Readers that are followed in one blob.
const READERS: usize = 8;
/// Misses in a row before anything is fetched ahead.
const IN_A_ROW: u32 = 3;
/// Chunks that a reader may leave out and is still going on.
const SKIPPED: u32 = 4;
/// Stored bytes fetched ahead at first; doubled each time.
const FIRST: u64 = 256 << 10;
/// Stored bytes fetched ahead at most.
const LONGEST: u64 = 8 << 20;
/// Chunks fetched ahead at most.
const MOST: usize = 4096;

/// The readers of one blob.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    readers: Vec<Reader>,
    /// Misses so far.
    clock: u64,
}

/// Somebody who reads on.
#[derive(Debug)]
struct Reader {
    /// Number of the chunk behind the one missed last.
    next: u32,
    /// Number behind the last chunk that was fetched ahead.
    until: u32,
    /// Number of the chunk in the middle of what was fetched ahead last: from there on it is time for more.
    half: u32,
    /// Misses in a row.
    row: u32,
    window: u64,
    /// When the last miss was.
    seen: u64,
}

impl Reader {
    /// Does a miss at `chunk` go on with this one?
    fn goes_on(&self, chunk: u32) -> bool {
        chunk >= self.next && chunk <= self.next.max(self.until).saturating_add(SKIPPED)
    }
}

impl Ahead {
    /// A reader found the chunks from number `first` to `last` missing. Returns chunks of `table` to be fetched now for what it will read next, mostly none.
    pub(crate) fn missed(&mut self, first: u32, last: u32, table: &dyn ChunkTable) -> Vec<Chunk> {
        self.clock += 1;
        let clock = self.clock;
        let next = last.saturating_add(1);
        let Some(reader) = self.readers.iter_mut().find(|reader| reader.goes_on(first)) else {
            self.follow(next);
            return Vec::new();
        };
        (reader.seen, reader.next, reader.row) = (clock, next, reader.row.saturating_add(1));
        // What it waits for now is coming already, and there is enough behind it.
        if reader.row < IN_A_ROW || last < reader.half {
            return Vec::new();
        }
        reader.window = reader.window.saturating_mul(2).clamp(FIRST, LONGEST);
        let chunks = take(table, next.max(reader.until), reader.window);
        if let (Some(half), Some(end)) = (chunks.get(chunks.len() / 2), chunks.last()) {
            (reader.half, reader.until) = (half.index, end.index.saturating_add(1));
        }
        chunks
    }

    /// Follows somebody new, in the place of who has not been seen for longest; those who have gone far stay longer.
    fn follow(&mut self, next: u32) {
        let new = Reader { next, until: 0, half: 0, row: 1, window: 0, seen: self.clock };
        if self.readers.len() < READERS {
            self.readers.push(new);
        } else if let Some(least) =
            self.readers.iter_mut().min_by_key(|reader| (reader.row >= IN_A_ROW, reader.seen))
        {
            *least = new;
        }
    }
}

/// Chunks from number `from` on, of so many stored bytes together, one at least.
fn take(table: &dyn ChunkTable, from: u32, bytes: u64) -> Vec<Chunk> {
    let (mut chunks, mut taken, mut next) = (Vec::new(), 0u64, Some(from));
    while let Some(chunk) = next.and_then(|number| table.at_or_after(number)) {
        taken = taken.saturating_add(chunk.compressed_size.max(1).into());
        if (taken > bytes && !chunks.is_empty()) || chunks.len() >= MOST {
            break;
        }
        next = chunk.index.checked_add(1);
        chunks.push(chunk);
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    /// A blob of so many chunks of so many bytes.
    fn table(chunks: u32, size: u32) -> Vec<Chunk> {
        let any = testkit::blob::of_sizes("b", &[1], rafs_format::Compressor::None).chunks[0];
        (0..chunks).map(|index| Chunk { index, compressed_size: size, ..any }).collect()
    }

    fn numbers(chunks: &[Chunk]) -> Vec<u32> {
        chunks.iter().map(|chunk| chunk.index).collect()
    }

    #[test]
    fn who_goes_on_gets_more_and_more() {
        let (mut ahead, table) = (Ahead::default(), table(1000, 64 << 10));
        let mut windows = Vec::new();
        let mut ready = 0;
        for chunk in 0..1000 {
            // Chunks fetched ahead are no misses.
            if chunk < ready {
                continue;
            }
            let found = ahead.missed(chunk, chunk, &table);
            if let Some(last) = found.last() {
                assert_eq!(found[0].index, chunk + 1);
                ready = last.index + 1;
                windows.push(found.len());
            }
        }
        assert_eq!(windows[..7], [4, 8, 16, 32, 64, 128, 128], "256 KiB to 8 MiB");
        assert_eq!(ready, 1000, "and no further than the blob");
    }

    #[test]
    fn who_jumps_gets_nothing() {
        let (mut ahead, table) = (Ahead::default(), table(1000, 4096));
        for n in 0..500u32 {
            let chunk = n * 677 % 1000;
            assert_eq!(numbers(&ahead.missed(chunk, chunk, &table)), [0; 0], "{chunk}");
        }
        // Two in a row are not enough.
        for chunk in [3, 4, 100, 101, 50, 51] {
            assert_eq!(numbers(&ahead.missed(chunk, chunk, &table)), [0; 0], "{chunk}");
        }
    }

    #[test]
    fn several_are_followed_beside_each_other() {
        let (mut ahead, table) = (Ahead::default(), table(10_000, 1 << 20));
        let mut found = Vec::new();
        for step in 0..3 {
            for reader in 0..7 {
                found.extend(numbers(&ahead.missed(reader * 1000 + step, reader * 1000 + step, &table)));
            }
        }
        assert_eq!(found, [3, 1003, 2003, 3003, 4003, 5003, 6003]);
        // Who jumps about does not push anybody out who has got far.
        for jump in 0..20 {
            ahead.missed(8500 + jump * 50, 8500 + jump * 50, &table);
        }
        assert_eq!(numbers(&ahead.missed(4, 4, &table)), [5]);
    }

    #[test]
    fn what_is_coming_is_not_fetched_again_and_little_may_be_left_out() {
        let (mut ahead, table) = (Ahead::default(), table(100, 64 << 10));
        for chunk in [0, 3] {
            ahead.missed(chunk, chunk, &table);
        }
        assert_eq!(numbers(&ahead.missed(5, 6, &table)), [7, 8, 9, 10]);
        assert_eq!(numbers(&ahead.missed(7, 8, &table)), [0; 0], "it waits for it");
        // Half of it has come: the link is not to run dry.
        assert_eq!(numbers(&ahead.missed(9, 9, &table)), [11, 12, 13, 14, 15, 16, 17, 18]);
        assert_eq!(numbers(&ahead.missed(19, 22, &table))[..2], [23, 24], "it is ahead of what comes");
    }

    proptest! {
        /// Whatever is missed: nothing is fetched ahead twice by one reader that goes on, no more than a window, and only what there is.
        #[test]
        fn windows_are_bounded(misses in prop::collection::vec((0u32..300, 0u32..4), 0..200), size in 1u32..3_000_000) {
            let (mut ahead, table) = (Ahead::default(), table(256, size));
            for (first, more) in misses {
                let found = ahead.missed(first, first + more, &table);
                let unique: HashSet<u32> = numbers(&found).into_iter().collect();
                prop_assert_eq!(unique.len(), found.len());
                prop_assert!(found.iter().all(|chunk| chunk.index > first + more && chunk.index < 256));
                prop_assert!(found.len() == 1 || found.len() as u64 * u64::from(size) <= LONGEST);
                prop_assert!(found.len() <= MOST && ahead.readers.len() <= READERS);
            }
        }
    }
}
