//! Digests, and the only way to obtain verified bytes. No I/O.
//!
//! Bytes from outside become [`VerifiedChunk`] by hashing to the digest their bootstrap names, and in no other way; everything that
//! reaches a reader is made of such bytes. The one exception are chunks of [`external`] blobs, of which images have no digests.
//!
//! [`verity`] is the hash tree of a block device.
//! A blob without chunk digests is hashed as a whole and then verified by [`pieces`].
//!
//! [`inode`] makes the digests that a v5 bootstrap states. [`tree`] says by one digest what a whole file system is, [`image`] computes it of one, and [`proof`] that one path is part of it.
#![forbid(unsafe_code)]

pub mod compare;
mod contents;
pub mod external;
pub mod image;
pub mod inode;
pub mod pieces;
pub mod proof;
pub mod tree;
pub mod verity;

use bytes::Bytes;
use rafs_format::{Digest, DigestAlgorithm};
use sha2::Digest as _;
use std::ops::Range;

/// Digest of `bytes` in one go.
pub fn digest(by: DigestAlgorithm, bytes: &[u8]) -> Digest {
    match by {
        DigestAlgorithm::Blake3 => Digest(*blake3::hash(bytes).as_bytes()),
        DigestAlgorithm::Sha256 => Digest(sha2::Sha256::digest(bytes).into()),
    }
}

/// CRC-32C (Castagnoli) of `bytes`, as chunk records hold it.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// Bytes did not hash to what their image names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("digest is {found}, the image names {expected}")]
pub struct DigestMismatch {
    /// Digest in the image.
    pub expected: Digest,
    /// Digest of the bytes.
    pub found: Digest,
}

/// Plaintext of one chunk that hashed to the digest its bootstrap names, or a part of such chunks. Clones share the bytes.
#[derive(Debug, Clone)]
pub struct VerifiedChunk(Bytes);

impl VerifiedChunk {
    /// Hashes `plain`; but for [`external`] blobs nothing else makes bytes verified.
    pub fn verify(plain: Vec<u8>, by: DigestAlgorithm, expected: Digest) -> Result<Self, DigestMismatch> {
        let found = digest(by, &plain);
        if found == expected { Ok(Self(plain.into())) } else { Err(DigestMismatch { expected, found }) }
    }

    /// Bytes `range` of `chunks`, one behind the other; `None` where there are not so many. What is cut from verified bytes is verified.
    pub fn cut(chunks: &[Self], range: Range<usize>) -> Option<Self> {
        if let [only] = chunks {
            return (range.start <= range.end && range.end <= only.0.len())
                .then(|| Self(only.0.slice(range)));
        }
        let all: Vec<&[u8]> = chunks.iter().map(|chunk| chunk.0.as_ref()).collect();
        let all = Bytes::from(all.concat());
        (range.start <= range.end && range.end <= all.len()).then(|| Self(all.slice(range)))
    }

    /// The verified bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published vectors: the empty input and `abc` (FIPS 180-2; the BLAKE3 reference vectors for the empty input).
    #[test]
    fn digests_are_the_published_ones() {
        let hex = |by, bytes: &[u8]| digest(by, bytes).to_string();
        assert_eq!(
            hex(DigestAlgorithm::Sha256, b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            hex(DigestAlgorithm::Sha256, b""),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(
            hex(DigestAlgorithm::Blake3, b""),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn only_bytes_with_the_right_digest_become_verified() {
        for by in [DigestAlgorithm::Blake3, DigestAlgorithm::Sha256] {
            let expected = digest(by, b"chunk");
            let verified = VerifiedChunk::verify(b"chunk".to_vec(), by, expected).unwrap();
            assert_eq!(&verified.bytes()[..], b"chunk");
            let mismatch = VerifiedChunk::verify(b"chunK".to_vec(), by, expected).unwrap_err();
            assert_eq!(mismatch, DigestMismatch { expected, found: digest(by, b"chunK") });
        }
    }

    #[test]
    fn parts_of_verified_bytes_are_cut_within_them() {
        let by = DigestAlgorithm::Sha256;
        let verified = |bytes: &[u8]| VerifiedChunk::verify(bytes.to_vec(), by, digest(by, bytes)).unwrap();
        let both = [verified(b"abc"), verified(b"def")];
        let cut = |chunks, range| VerifiedChunk::cut(chunks, range).map(|cut| cut.bytes().to_vec());
        assert_eq!(cut(&both, 1..5).unwrap(), b"bcde");
        assert_eq!(cut(&both[..1], 1..3).unwrap(), b"bc");
        assert_eq!(cut(&both, 6..6).unwrap(), b"");
        assert!(cut(&both, 1..7).is_none() && cut(&both[..1], 1..4).is_none() && cut(&[], 0..1).is_none());
    }
}
