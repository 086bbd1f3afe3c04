//! Chunks: the record with digest and positions, and how a file's entry finds its record.

use crate::{Bootstrap, Digest, FormatError};

bitflags::bitflags! {
    /// Flags of a chunk record.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ChunkFlags: u32 {
        /// Stored compressed.
        const COMPRESSED = 0x1;
        /// Legacy, never written.
        const HOLE = 0x2;
        /// Stored encrypted.
        const ENCRYPTED = 0x4;
        /// Part of a batch.
        const BATCH = 0x8;
        /// `crc32` is valid.
        const HAS_CRC = 0x10;
        /// Anything else is kept as it is.
        const _ = !0;
    }
}

/// One chunk of a blob, in full: the 80-byte record of v5 inodes and of the v6 chunk table.
/// Offsets and sizes in bytes; uncompressed offsets are positions in the decompressed blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Digest of the uncompressed bytes.
    pub digest: Digest,
    /// Position of the blob in the blob table.
    pub blob: u32,
    /// Number of the chunk in its blob, from 0.
    pub index: u32,
    /// How it is stored.
    pub flags: ChunkFlags,
    /// First stored byte in the blob.
    pub compressed_offset: u64,
    /// Stored length.
    pub compressed_size: u32,
    /// First byte in the decompressed blob (= cache file).
    pub uncompressed_offset: u64,
    /// Length after decompression, 1 to the chunk size.
    pub uncompressed_size: u32,
    /// Offset in a file that has this chunk; which one is undefined when several share it.
    pub file_offset: u64,
    /// CRC-32C of the uncompressed bytes when `HAS_CRC` is set.
    pub crc32: u32,
}

/// A file's reference to a chunk: the 8-byte chunk index entry of v6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkRef {
    /// Position of the blob in the blob table (on disk: + 1).
    pub blob: u32,
    /// Number of the chunk in its blob.
    pub chunk: u32,
    /// Uncompressed offset in blocks.
    pub block: u32,
}

/// Finds the record of a [`ChunkRef`] in O(1) or O(log n). At most 8 bytes of memory per record whatever the image claims.
#[derive(Debug, Clone)]
pub struct ChunkIndex {}

impl ChunkIndex {
    /// Reads the chunk table once. Errors: a record that names a blob or chunk outside the blob table.
    pub fn build<B: AsRef<[u8]>>(_bootstrap: &Bootstrap<B>) -> Result<Self, FormatError> {
        todo!()
    }

    /// The record of `reference`, whose blob, index and block all agree with it.
    /// Errors: [`FormatError::NoSuchChunk`]; `OutOfBounds` where the record's ranges leave the blob.
    pub fn resolve<B: AsRef<[u8]>>(
        &self,
        _bootstrap: &Bootstrap<B>,
        _reference: ChunkRef,
    ) -> Result<Chunk, FormatError> {
        todo!()
    }
}
