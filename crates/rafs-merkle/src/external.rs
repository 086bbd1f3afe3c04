//! Chunks of external blobs: data that was elsewhere before there was an image, so that the image has no digests of it.
//!
//! A CRC-32C detects accidents and proves nothing. Images without digests are no worse for it than for a bootstrap that may be changed, but no digest of
//! such a tree says what its files hold. A chunk with neither is not verified, ever.

use crate::{DigestMismatch, VerifiedChunk, crc32c};
use rafs_format::{Blob, Chunk, ChunkFlags, Digest};

/// Bytes are not those of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum ChunkMismatch {
    #[error(transparent)]
    Digest(#[from] DigestMismatch),
    #[error("CRC-32C is {found:#010x}, the image names {expected:#010x}")]
    Crc { expected: u32, found: u32 },
    #[error(
        "the image has neither a digest nor a checksum of it, so that nothing can tell whether it is right"
    )]
    Nothing,
}

impl VerifiedChunk {
    /// Verifies `plain` as `chunk` of `blob`: by its digest; in an external blob that has none, by its checksum.
    pub fn verify_chunk(plain: Vec<u8>, blob: &Blob, chunk: &Chunk) -> Result<Self, ChunkMismatch> {
        if !blob.is_external() || chunk.digest != Digest([0; 32]) {
            return Ok(Self::verify(plain, blob.digester, chunk.digest)?);
        }
        if !chunk.flags.contains(ChunkFlags::HAS_CRC) {
            return Err(ChunkMismatch::Nothing);
        }
        let (found, expected) = (crc32c(&plain), chunk.crc32);
        if found == expected { Ok(Self(plain.into())) } else { Err(ChunkMismatch::Crc { expected, found }) }
    }
}
