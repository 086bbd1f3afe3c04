//! The chunk table that a v6 blob carries behind its data: 16-byte entries and a 4096-byte header.
//! docs/format.md, "Chunk table of a blob".

use crate::{Blob, BlobFeatures, Chunk, Compressor, FormatError};

/// Size of the header, in bytes.
pub const HEADER_SIZE: usize = 4096;
/// Size of a version 1 entry, in bytes.
pub const ENTRY_V1_SIZE: usize = 16;

/// What the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Features of the blob.
    pub features: BlobFeatures,
    /// Compression of the table.
    pub compressor: Compressor,
    /// Entries in the table.
    pub entries: u32,
    /// First byte of the stored table in the blob.
    pub compressed_offset: u64,
    /// Stored length of the table.
    pub compressed_size: u64,
    /// Length of the table.
    pub uncompressed_size: u64,
}

/// Where one chunk lies. Offsets and sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Position {
    pub compressed_offset: u64,
    pub compressed_size: u32,
    pub uncompressed_offset: u64,
    pub uncompressed_size: u32,
}

impl Header {
    /// Checks magics and that the header agrees with what the bootstrap says of the blob.
    pub fn parse(_bytes: &[u8], _blob: &Blob) -> Result<Self, FormatError> {
        todo!()
    }

    /// The 4096 bytes.
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        todo!()
    }
}

/// Appends the version 1 entry of `chunk` to `table`. Errors: an offset or size over the format's limits.
pub fn push_v1(_table: &mut Vec<u8>, _chunk: &Chunk) -> Result<(), FormatError> {
    todo!()
}

/// Entries of an uncompressed version 1 table, each checked: sizes within `blob.chunk_size`, stored range within the blob's data,
/// uncompressed ranges (rounded to 4096) without gap. Errors at the first that is not.
pub fn entries_v1<'a>(
    _table: &'a [u8],
    _blob: &'a Blob,
) -> Result<impl ExactSizeIterator<Item = Result<Position, FormatError>> + 'a, FormatError> {
    Ok(std::iter::empty())
}
