//! Blobs whose chunks have no digests: one SHA-256 of the whole becomes a digest for each piece of it.
//!
//! The bytes go through [`PieceHasher`] once, from the first to the last. Only when their SHA-256 is the expected one there are [`Pieces`], and from
//! then on any part is read and verified by itself, like a chunk: bytes that change afterwards are found out. Knows nothing of tars.

use crate::{DigestMismatch, VerifiedChunk, digest};
use rafs_format::{Digest, DigestAlgorithm};
use sha2::{Digest as _, Sha256};
use std::ops::Range;

/// Smallest piece, in bytes: what one small read costs.
const MIN_PIECE: u64 = 64 << 10;
/// Pieces of a blob at most, so that digests take 2 MiB whatever its size.
const MAX_PIECES: u64 = 1 << 16;
/// Digest of pieces. It never leaves the process, so speed decides.
const BY: DigestAlgorithm = DigestAlgorithm::Blake3;

/// Length of the pieces of a blob of `size` bytes, but for the last: a power of two. `None` over 2^46 bytes, more than any format allows.
fn piece_size(size: u64) -> Option<u32> {
    let size = size.div_ceil(MAX_PIECES).checked_next_power_of_two()?.max(MIN_PIECE);
    u32::try_from(size).ok().filter(|&size| size <= 1 << 30)
}

/// Hashes a blob as a whole and piece by piece.
#[derive(Debug)]
pub struct PieceHasher {
    whole: Sha256,
    piece: blake3::Hasher,
    /// Bytes in `piece`.
    filled: u32,
    piece_size: u32,
    size: u64,
    digests: Vec<Digest>,
}

impl PieceHasher {
    /// For a blob that is said to have `size` bytes. Memory grows with the bytes that come, not with what is said. `None` over 2^46 bytes.
    pub fn new(size: u64) -> Option<Self> {
        let piece_size = piece_size(size)?;
        let (whole, piece) = (Sha256::new(), blake3::Hasher::new());
        Some(Self { whole, piece, filled: 0, piece_size, size: 0, digests: Vec::new() })
    }

    /// Length of the pieces in bytes.
    pub fn piece_size(&self) -> u32 {
        self.piece_size
    }

    /// The next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.whole.update(bytes);
        self.size += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = (self.piece_size - self.filled) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.piece.update(now);
            // No more than there was room for.
            self.filled += u32::try_from(now.len()).unwrap_or(0);
            if self.filled == self.piece_size {
                self.end_piece();
            }
            bytes = later;
        }
    }

    fn end_piece(&mut self) {
        self.digests.push(Digest(*self.piece.finalize().as_bytes()));
        self.piece.reset();
        self.filled = 0;
    }

    /// The pieces, if all bytes together hash to `expected`.
    pub fn finish(mut self, expected: Digest) -> Result<Pieces, DigestMismatch> {
        if self.filled > 0 {
            self.end_piece();
        }
        let found = Digest(self.whole.finalize().into());
        if found == expected {
            Ok(Pieces { size: self.size, piece_size: self.piece_size, digests: self.digests })
        } else {
            Err(DigestMismatch { expected, found })
        }
    }
}

/// Digests of all pieces of a blob that hashed to what its image names. There is no way to have them but [`PieceHasher::finish`].
#[derive(Debug)]
pub struct Pieces {
    size: u64,
    piece_size: u32,
    digests: Vec<Digest>,
}

impl Pieces {
    /// The digest of pieces.
    pub const ALGORITHM: DigestAlgorithm = BY;

    /// Length of a piece in bytes; the last may be shorter.
    pub fn piece_size(&self) -> u32 {
        self.piece_size
    }

    /// Bytes and digest of piece `n`; `None` behind the last.
    pub fn piece(&self, n: u64) -> Option<(Range<u64>, Digest)> {
        let digest = usize::try_from(n).ok().and_then(|n| self.digests.get(n))?;
        let start = n.checked_mul(self.piece_size.into())?;
        Some((start..start.saturating_add(self.piece_size.into()).min(self.size), *digest))
    }

    /// Numbers of the pieces in which the bytes `range` lie; empty for no bytes. Those behind the end have no piece.
    pub fn covering(&self, range: &Range<u64>) -> Range<u64> {
        let size = u64::from(self.piece_size);
        if range.is_empty() { 0..0 } else { range.start / size..range.end.div_ceil(size) }
    }

    /// `bytes` as piece `n`. Errors: they are not; the digest of a piece that is not there is zero.
    pub fn verify(&self, n: u64, bytes: Vec<u8>) -> Result<VerifiedChunk, DigestMismatch> {
        match self.piece(n) {
            Some((_, expected)) => VerifiedChunk::verify(bytes, BY, expected),
            None => Err(DigestMismatch { expected: Digest([0; 32]), found: digest(BY, &bytes) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(size: usize) -> Vec<u8> {
        (0..size).map(|at| (at * 7 + at / 251).to_le_bytes()[0]).collect()
    }

    /// Fed in parts of `step` bytes.
    fn pieces(bytes: &[u8], step: usize) -> Pieces {
        let mut hasher = PieceHasher::new(bytes.len() as u64).unwrap();
        bytes.chunks(step).for_each(|part| hasher.update(part));
        hasher.finish(digest(DigestAlgorithm::Sha256, bytes)).unwrap()
    }

    #[test]
    fn pieces_are_the_same_however_bytes_come() {
        let all = bytes(200_000);
        for step in [1 << 20, 65_536, 65_535, 1000] {
            let pieces = pieces(&all, step);
            for n in 0..4 {
                let (range, expected) = pieces.piece(n).unwrap();
                let at = |at: u64| usize::try_from(at).unwrap();
                let part = &all[at(range.start)..at(range.end)];
                assert_eq!(expected, digest(BY, part), "{step} {n}");
                assert_eq!(&pieces.verify(n, part.to_vec()).unwrap().bytes()[..], part);
                assert!(pieces.verify(n, part[1..].to_vec()).is_err());
            }
            assert_eq!(pieces.piece(3).unwrap().0, 196_608..200_000);
            assert!(pieces.piece(4).is_none() && pieces.verify(4, Vec::new()).is_err());
        }
    }

    #[test]
    fn there_are_no_pieces_of_other_bytes() {
        let mut hasher = PieceHasher::new(5).unwrap();
        hasher.update(b"tar");
        let found = digest(DigestAlgorithm::Sha256, b"tar");
        let expected = digest(DigestAlgorithm::Sha256, b"tars!");
        assert_eq!(hasher.finish(expected).unwrap_err(), DigestMismatch { expected, found });
    }

    #[test]
    fn ranges_are_covered() {
        let pieces = pieces(&bytes(200_000), 1 << 20);
        assert_eq!(pieces.covering(&(0..1)), 0..1);
        assert_eq!(pieces.covering(&(65_535..65_537)), 0..2);
        assert_eq!(pieces.covering(&(65_536..131_072)), 1..2);
        assert_eq!(pieces.covering(&(7..7)), 0..0);
    }

    #[test]
    fn digests_take_two_megabytes_at_most() {
        assert_eq!(piece_size(0), Some(1 << 16));
        assert_eq!(piece_size(1 << 32), Some(1 << 16));
        assert_eq!(piece_size((1 << 32) + 1), Some(1 << 17));
        assert_eq!(piece_size(1 << 44), Some(1 << 28));
        assert_eq!(piece_size(u64::MAX), None);
    }
}
