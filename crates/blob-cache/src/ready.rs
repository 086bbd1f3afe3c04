//! Which chunks of a blob are on disk: *verified* in this process, or *hinted* by a map from an earlier one.
//!
//! Knows chunk indexes only: no files, no digests. A verified bit is set after the bytes it vouches for are written or read back and hashed. Both
//! bits go when the copy turns out bad. Two bits of memory for each chunk.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bits of all chunks of a blob.
#[derive(Debug)]
pub(crate) struct ReadyMap {
    verified: Box<[AtomicU64]>,
    hinted: Box<[AtomicU64]>,
}

impl ReadyMap {
    /// A map for `chunks` chunks, none verified. `hints`: a bitmap as it is on disk (chunk `i` is bit `0x80 >> (i % 8)` of byte `i / 8`);
    /// what it lacks is not hinted.
    pub(crate) fn new(chunks: u32, hints: &[u8]) -> Self {
        let words = (chunks as usize).div_ceil(64);
        let verified = (0..words).map(|_| AtomicU64::new(0)).collect();
        let hinted = (0..words).map(|word| AtomicU64::new(word_of(hints, word))).collect();
        Self { verified, hinted }
    }

    /// Was the chunk's copy on disk verified in this process?
    pub(crate) fn is_verified(&self, chunk: u32) -> bool {
        is_set(&self.verified, chunk)
    }

    /// May the chunk be on disk?
    pub(crate) fn is_hinted(&self, chunk: u32) -> bool {
        is_set(&self.hinted, chunk)
    }

    /// The copy on disk is good. Release: who sees the bit sees the bytes too.
    pub(crate) fn mark_verified(&self, chunk: u32) {
        if let Some((word, bit)) = place(&self.verified, chunk) {
            word.fetch_or(bit, Ordering::Release);
        }
    }

    /// The copy on disk is not to be used.
    pub(crate) fn forget(&self, chunk: u32) {
        for bits in [&self.verified, &self.hinted] {
            if let Some((word, bit)) = place(bits, chunk) {
                word.fetch_and(!bit, Ordering::Release);
            }
        }
    }
}

/// Word `n` of a bitmap as it is on disk, with chunk `64 n` as the lowest bit.
fn word_of(bitmap: &[u8], n: usize) -> u64 {
    let mut bytes = [0; 8];
    for (byte, found) in bytes.iter_mut().zip(bitmap.iter().skip(n * 8)) {
        *byte = found.reverse_bits();
    }
    u64::from_le_bytes(bytes)
}

fn place(bits: &[AtomicU64], chunk: u32) -> Option<(&AtomicU64, u64)> {
    Some((bits.get(chunk as usize / 64)?, 1 << (chunk % 64)))
}

fn is_set(bits: &[AtomicU64], chunk: u32) -> bool {
    place(bits, chunk).is_some_and(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_those_of_the_map_on_disk() {
        let mut disk = vec![0; 9];
        for chunk in [0usize, 7, 8, 63, 64, 70] {
            disk[chunk / 8] |= 0x80 >> (chunk % 8);
        }
        let map = ReadyMap::new(71, &disk);
        let hinted: Vec<u32> = (0..200).filter(|&chunk| map.is_hinted(chunk)).collect();
        assert_eq!(hinted, [0, 7, 8, 63, 64, 70]);
        assert!((0..200).all(|chunk| !map.is_verified(chunk)));
    }

    #[test]
    fn chunks_are_forgotten_one_by_one() {
        let map = ReadyMap::new(130, &[0xFF; 17]);
        map.mark_verified(64);
        map.mark_verified(65);
        map.forget(65);
        let verified: Vec<u32> = (0..200).filter(|&chunk| map.is_verified(chunk)).collect();
        assert_eq!(verified, [64]);
        assert!(!map.is_hinted(65) && map.is_hinted(64) && map.is_hinted(129));
    }

    #[test]
    fn a_short_map_hints_less() {
        let map = ReadyMap::new(1000, &[0xFF]);
        assert_eq!((0..1000).filter(|&chunk| map.is_hinted(chunk)).count(), 8);
    }
}
