//! A set of an image's chunks: one bit for each, set without a lock. Knows blobs by position and chunks by number, nothing else.

use rafs_format::Blob;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most chunks of an image that a set has room for: 2 MiB of memory. Images claim any number.
pub(crate) const MAX_CHUNKS: u64 = 1 << 24;

/// A set of chunks.
#[derive(Debug)]
pub(crate) struct ChunkSet {
    /// Of each blob: its first bit and how many it has.
    blobs: Box<[(u64, u32)]>,
    bits: Box<[AtomicU64]>,
}

impl ChunkSet {
    /// An empty set for the chunks of `blobs`; the number of chunks where they are more than [`MAX_CHUNKS`].
    pub(crate) fn new(blobs: &[Blob]) -> Result<Self, u64> {
        let mut total = 0;
        let mut place = |blob: &Blob| {
            let first = total;
            total += u64::from(blob.chunk_count);
            (first, blob.chunk_count)
        };
        let blobs = blobs.iter().map(&mut place).collect();
        if total > MAX_CHUNKS {
            return Err(total);
        }
        Ok(Self { blobs, bits: (0..total.div_ceil(64)).map(|_| AtomicU64::new(0)).collect() })
    }

    /// Adds a chunk. `false`: it was there already, or the image has no such chunk.
    #[inline]
    pub(crate) fn insert(&self, blob: u32, chunk: u32) -> bool {
        let Some(&(first, _)) = self.blobs.get(blob as usize).filter(|(_, count)| chunk < *count) else {
            return false;
        };
        let (word, bit) = ((first + u64::from(chunk)) / 64, 1 << ((first + u64::from(chunk)) % 64));
        let Some(word) = usize::try_from(word).ok().and_then(|word| self.bits.get(word)) else {
            return false;
        };
        // Most are there already, and reading costs nothing where all others read too.
        word.load(Ordering::Relaxed) & bit == 0 && word.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::blob::of_sizes;

    #[test]
    fn each_chunk_is_added_once() {
        let blob =
            |chunk_count| Blob { chunk_count, ..of_sizes("b", &[1], rafs_format::Compressor::None).blob };
        let set = ChunkSet::new(&[blob(3), blob(65), blob(1)]).unwrap();
        let all = || (0..5u32).flat_map(|blob| (0..70u32).map(move |chunk| (blob, chunk)));
        let added: Vec<_> = all().filter(|&(blob, chunk)| set.insert(blob, chunk)).collect();
        let expected: Vec<_> =
            all().filter(|&(blob, chunk)| [3, 65, 1, 0, 0][blob as usize] > chunk).collect();
        assert_eq!(added, expected);
        assert!(all().all(|(blob, chunk)| !set.insert(blob, chunk)));
        assert!(!set.insert(u32::MAX, 0) && !set.insert(0, u32::MAX));
        let many = vec![blob(1 << 24), blob(1)];
        assert_eq!(ChunkSet::new(&many).err(), Some((1 << 24) + 1));
    }
}
