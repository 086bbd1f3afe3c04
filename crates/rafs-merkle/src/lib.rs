//! Digests, and the only way to obtain verified bytes. No I/O.
//!
//! Bytes from outside become [`VerifiedChunk`] by hashing to the digest their bootstrap names, and in no other way; everything that
//! reaches a reader is made of such bytes.
#![forbid(unsafe_code)]

use bytes::Bytes;
use rafs_format::{Digest, DigestAlgorithm};

/// Digest of `bytes` in one go.
pub fn digest(_by: DigestAlgorithm, _bytes: &[u8]) -> Digest {
    todo!()
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

/// Plaintext of one chunk that hashed to the digest its bootstrap names. Clones share the bytes.
#[derive(Debug, Clone)]
pub struct VerifiedChunk(Bytes);

impl VerifiedChunk {
    /// Hashes `plain`; there is no other constructor.
    pub fn verify(_plain: Vec<u8>, _by: DigestAlgorithm, _expected: Digest) -> Result<Self, DigestMismatch> {
        todo!()
    }

    /// The verified bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}
