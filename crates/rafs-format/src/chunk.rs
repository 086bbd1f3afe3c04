//! Chunks: the record with digest and positions, and how a file's entry finds its record.

use crate::read::require;
use crate::{BlobFeatures, Bootstrap, Digest, FormatError, SuperFlags};

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

/// Finds the record of a [`ChunkRef`] in O(log n). 8 bytes of memory per record whatever the image claims.
#[derive(Debug, Clone)]
pub struct ChunkIndex {
    /// Sorted: blob (8 bits), chunk (24 bits), number of the record (32 bits).
    keys: Vec<u64>,
}

impl ChunkIndex {
    /// Reads the chunk table once. Errors: a record that names a blob or chunk outside the blob table; a tarfs, whose table holds nothing.
    pub fn build<B: AsRef<[u8]>>(bootstrap: &Bootstrap<B>) -> Result<Self, FormatError> {
        let superblock = bootstrap.superblock();
        if superblock.flags.contains(SuperFlags::TARFS) {
            return Err(FormatError::Unsupported { what: "looking up chunks of a tarfs" });
        }
        let records = superblock.chunk_table_records;
        let count = u32::try_from(records).ok().ok_or(FormatError::Limit {
            what: "chunk table",
            found: records,
            limit: u32::MAX.into(),
        })?;
        let mut keys = Vec::with_capacity(count as usize);
        for n in 0..count {
            let chunk = bootstrap.chunk_record(n.into())?;
            let blob = usize::try_from(chunk.blob).ok().and_then(|blob| bootstrap.blobs().get(blob));
            let at = bootstrap.chunk_record_offset(n.into());
            let found = chunk.blob.into();
            let blob = blob.ok_or(FormatError::Value {
                what: "blob of a chunk record",
                at: at.saturating_add(32),
                found,
                expected: "a blob of the image",
            })?;
            let inside = chunk.index < blob.chunk_count;
            let index = chunk.index.into();
            require(inside, "index of a chunk record", at.saturating_add(72), index, "a chunk of its blob")?;
            keys.push(key(chunk.blob, chunk.index) << 32 | u64::from(n));
        }
        keys.sort_unstable();
        Ok(Self { keys })
    }

    /// The record of `reference`, whose blob, index and block all agree with it.
    /// Errors: [`FormatError::NoSuchChunk`]; `OutOfBounds` where the record's ranges leave the blob.
    pub fn resolve<B: AsRef<[u8]>>(
        &self,
        bootstrap: &Bootstrap<B>,
        reference: ChunkRef,
    ) -> Result<Chunk, FormatError> {
        let ChunkRef { blob, chunk, block } = reference;
        let wanted = key(blob, chunk);
        let first = self.keys.partition_point(|&entry| entry >> 32 < wanted);
        let same = self.keys.get(first..).unwrap_or(&[]).iter().take_while(|&&entry| entry >> 32 == wanted);
        let block_size = u64::from(bootstrap.superblock().block_size);
        for entry in same {
            let n = entry & 0xFFFF_FFFF;
            let record = bootstrap.chunk_record(n)?;
            if record.uncompressed_offset == u64::from(block) * block_size {
                check_ranges(bootstrap, &record, bootstrap.chunk_record_offset(n))?;
                return Ok(record);
            }
        }
        Err(FormatError::NoSuchChunk { blob, chunk, block })
    }
}

fn key(blob: u32, chunk: u32) -> u64 {
    u64::from(blob) << 24 | u64::from(chunk)
}

/// Checks that the chunk of the record at byte `at` lies within its blob, stored and decompressed.
fn check_ranges<B: AsRef<[u8]>>(bootstrap: &Bootstrap<B>, chunk: &Chunk, at: u64) -> Result<(), FormatError> {
    let blob = usize::try_from(chunk.blob).ok().and_then(|blob| bootstrap.blobs().get(blob));
    let Some(blob) = blob else {
        let ChunkRef { blob, chunk, block } = ChunkRef { blob: chunk.blob, chunk: chunk.index, block: 0 };
        return Err(FormatError::NoSuchChunk { blob, chunk, block });
    };
    let size = chunk.uncompressed_size;
    let good = (1..=blob.chunk_size).contains(&size);
    require(
        good,
        "uncompressed size of a chunk record",
        at.saturating_add(44),
        size.into(),
        "1 to the chunk size",
    )?;
    within("uncompressed range of a chunk", chunk.uncompressed_offset, size, blob.uncompressed_size)?;
    within("stored range of a chunk", chunk.compressed_offset, chunk.compressed_size, blob.data_end())?;
    let others = BlobFeatures::BATCH | BlobFeatures::ZRAN | BlobFeatures::ENCRYPTED | BlobFeatures::SEPARATE;
    if blob.features.intersects(others) {
        return Ok(());
    }
    let stored = chunk.compressed_size;
    let raw = !chunk.flags.contains(ChunkFlags::COMPRESSED);
    require(stored > 0, "stored size of a chunk record", at.saturating_add(40), 0, "at least 1")?;
    require(
        !raw || stored == size,
        "stored size of a chunk record",
        at.saturating_add(40),
        stored.into(),
        "its size",
    )
}

fn within(what: &'static str, start: u64, size: u32, limit: u64) -> Result<(), FormatError> {
    let good = start.checked_add(size.into()).is_some_and(|end| end <= limit);
    if good { Ok(()) } else { Err(FormatError::OutOfBounds { what, start, size: size.into(), limit }) }
}
