//! The chunk table that a v6 blob carries behind its data: its 4096-byte header, and 16-byte entries; those of 24 bytes are in [`crate::blob_entries`].
//! docs/format.md, "Chunk table of a blob".

use crate::layout::{BlobChunkV1, BlobMetaHeader};
use crate::read::{require, structure};
use crate::{Blob, BlobFeatures, Chunk, Compressor, FormatError};
use zerocopy::{FromZeros, IntoBytes};

const MAGIC: u32 = 0xB10B_B10B;
/// Offsets in a decompressed blob that an entry can hold: 44 bits, multiples of 4096.
const UNCOMPRESSED_MASK: u64 = 0xFFF_FFFF_F000;
/// Offsets in a stored blob that an entry can hold: 40 bits.
const COMPRESSED_MASK: u64 = 0xFF_FFFF_FFFF;
/// Longest chunk, in bytes.
const MAX_SIZE: u32 = 1 << 24;

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
    /// What stands in the table behind its entries.
    pub contexts: Contexts,
}

/// What stands in a table behind its entries: batches, or inflate states with their dictionaries. Zeros for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Contexts {
    /// First byte in the table.
    pub offset: u64,
    /// Length in bytes.
    pub size: u64,
    /// How many there are.
    pub count: u32,
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
    pub fn parse(bytes: &[u8], blob: &Blob) -> Result<Self, FormatError> {
        let raw: &BlobMetaHeader = structure(bytes, "header of a chunk table", 0)?;
        require(raw.magic.get() == MAGIC, "magic of a chunk table", 0, raw.magic.get().into(), "0xb10bb10b")?;
        let end = raw.end_magic.get();
        require(end == MAGIC, "second magic of a chunk table", 4092, end.into(), "0xb10bb10b")?;
        let expected = "what the bootstrap says";
        let entries = raw.entries.get();
        require(entries == blob.chunk_count, "entries of a chunk table", 12, entries.into(), expected)?;
        let compressor = raw.compressor.get();
        let same = compressor == blob.meta.compressor as u32;
        require(same, "compression of a chunk table", 8, compressor.into(), expected)?;
        let fields = [
            ("offset of a chunk table", 16, raw.compressed_offset.get(), blob.meta.compressed_offset),
            ("stored size of a chunk table", 24, raw.compressed_size.get(), blob.meta.compressed_size),
            ("size of a chunk table", 32, raw.uncompressed_size.get(), blob.meta.uncompressed_size),
        ];
        for (what, at, found, said) in fields {
            require(found == said, what, at, found, expected)?;
        }
        Ok(Self {
            features: BlobFeatures::from_bits_retain(raw.features.get()),
            compressor: blob.meta.compressor,
            entries,
            compressed_offset: blob.meta.compressed_offset,
            compressed_size: blob.meta.compressed_size,
            uncompressed_size: blob.meta.uncompressed_size,
            contexts: Contexts {
                offset: raw.context_offset.get(),
                size: raw.context_size.get(),
                count: raw.contexts.get(),
            },
        })
    }

    /// The 4096 bytes.
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut raw = BlobMetaHeader::new_zeroed();
        raw.magic = MAGIC.into();
        raw.features = self.features.bits().into();
        raw.compressor = (self.compressor as u32).into();
        raw.entries = self.entries.into();
        raw.compressed_offset = self.compressed_offset.into();
        raw.compressed_size = self.compressed_size.into();
        raw.uncompressed_size = self.uncompressed_size.into();
        raw.context_offset = self.contexts.offset.into();
        raw.context_size = self.contexts.size.into();
        raw.contexts = self.contexts.count.into();
        raw.end_magic = MAGIC.into();
        let mut bytes = [0; HEADER_SIZE];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }
}

/// A size less one in the upper 20 bits of a word and, its bits 20 to 23, in the four bits at `high`.
fn pack_size(size: u32, high: u32) -> u64 {
    let less_one = u64::from(size.saturating_sub(1));
    (less_one & 0xF_FFFF) << 44 | (less_one >> 20) << high
}

/// What [`pack_size`] packed.
fn unpack_size(word: u64, high: u32) -> u32 {
    let less_one = word >> 44 | ((word >> high) & 0xF) << 20;
    // 24 bits at most.
    u32::try_from(less_one).map_or(u32::MAX, |less_one| less_one + 1)
}

/// Appends the version 1 entry of `chunk` to `table`. Errors: an offset or size over the format's limits.
pub fn push_v1(table: &mut Vec<u8>, chunk: &Chunk) -> Result<(), FormatError> {
    let limits = [
        ("uncompressed offset of a chunk", chunk.uncompressed_offset, UNCOMPRESSED_MASK),
        ("compressed offset of a chunk", chunk.compressed_offset, COMPRESSED_MASK),
        ("size of a chunk", chunk.uncompressed_size.into(), MAX_SIZE.into()),
        ("stored size of a chunk", chunk.compressed_size.into(), MAX_SIZE.into()),
    ];
    for (what, found, limit) in limits {
        if found > limit {
            return Err(FormatError::Limit { what, found, limit });
        }
    }
    for (what, found) in
        [("size of a chunk", chunk.uncompressed_size), ("stored size of a chunk", chunk.compressed_size)]
    {
        require(found > 0, what, chunk.uncompressed_offset, 0, "at least 1")?;
    }
    let offset = chunk.uncompressed_offset;
    require(
        offset & !UNCOMPRESSED_MASK == 0,
        "uncompressed offset of a chunk",
        0,
        offset,
        "a multiple of 4096",
    )?;
    let entry = BlobChunkV1 {
        uncompressed: (offset | pack_size(chunk.uncompressed_size, 8)).into(),
        compressed: (chunk.compressed_offset | pack_size(chunk.compressed_size, 40)).into(),
    };
    table.extend_from_slice(entry.as_bytes());
    Ok(())
}

/// Entries of an uncompressed version 1 table, each checked: sizes within `blob.chunk_size`, stored range within the blob's data,
/// uncompressed ranges (rounded to 4096) without gap. Errors at the first that is not.
pub fn entries_v1<'a>(
    table: &'a [u8],
    blob: &'a Blob,
) -> Result<impl ExactSizeIterator<Item = Result<Position, FormatError>> + 'a, FormatError> {
    let (found, wanted) = (table.len() as u64, u64::from(blob.chunk_count) * ENTRY_V1_SIZE as u64);
    require(found == wanted, "size of a chunk table", 0, found, "16 bytes for each chunk")?;
    let mut expected = 0;
    Ok(table.chunks_exact(ENTRY_V1_SIZE).enumerate().map(move |(n, bytes)| {
        let at = (n * ENTRY_V1_SIZE) as u64;
        let position = position(structure(bytes, "entry of a chunk table", 0)?);
        check_position(&position, blob, at, expected)?;
        expected =
            (position.uncompressed_offset + u64::from(position.uncompressed_size)).next_multiple_of(4096);
        Ok(position)
    }))
}

fn position(raw: &BlobChunkV1) -> Position {
    let (uncompressed, compressed) = (raw.uncompressed.get(), raw.compressed.get());
    Position {
        compressed_offset: compressed & COMPRESSED_MASK,
        compressed_size: unpack_size(compressed, 40),
        uncompressed_offset: uncompressed & UNCOMPRESSED_MASK,
        uncompressed_size: unpack_size(uncompressed, 8),
    }
}

/// Checks the entry at byte `at` of a table, whose uncompressed range must start at `expected`.
fn check_position(position: &Position, blob: &Blob, at: u64, expected: u64) -> Result<(), FormatError> {
    let (start, size) = (position.uncompressed_offset, position.uncompressed_size);
    require(
        start == expected,
        "uncompressed offset in a chunk table",
        at,
        start,
        "the end of the chunk before",
    )?;
    let good = size <= blob.chunk_size;
    require(good, "uncompressed size in a chunk table", at, size.into(), "at most the chunk size")?;
    let end = position.compressed_offset + u64::from(position.compressed_size);
    require(
        end <= blob.data_end(),
        "end of a chunk in a chunk table",
        at + 8,
        end,
        "within the data of the blob",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChunkFlags, Digest};

    fn chunk(offset: u64, size: u32, stored: u32) -> Chunk {
        Chunk {
            digest: Digest([0; 32]),
            blob: 0,
            index: 0,
            flags: ChunkFlags::empty(),
            compressed_offset: 5,
            compressed_size: stored,
            uncompressed_offset: offset,
            uncompressed_size: size,
            file_offset: 0,
            crc32: 0,
        }
    }

    #[test]
    fn the_largest_chunk_is_packed_as_documented() {
        let mut table = Vec::new();
        push_v1(&mut table, &Chunk { compressed_offset: 0, ..chunk(0, MAX_SIZE, MAX_SIZE) }).unwrap();
        assert_eq!(table, [0, 15, 0, 0, 0, 0xF0, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF]);
    }

    #[test]
    fn entries_survive_packing() {
        for (offset, size, stored) in
            [(0, 1, 1), (4096, 0x12_3456, 0xAB_CDEF), (UNCOMPRESSED_MASK, MAX_SIZE, 1 << 20)]
        {
            let mut table = Vec::new();
            push_v1(&mut table, &chunk(offset, size, stored)).unwrap();
            let found = position(structure(&table, "entry", 0).unwrap());
            let expected = Position {
                compressed_offset: 5,
                compressed_size: stored,
                uncompressed_offset: offset,
                uncompressed_size: size,
            };
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for bad in
            [chunk(1, 1, 1), chunk(0, 0, 1), chunk(0, 1, 0), chunk(0, MAX_SIZE + 1, 1), chunk(1 << 44, 1, 1)]
        {
            assert!(push_v1(&mut Vec::new(), &bad).is_err(), "{bad:?}");
        }
    }
}
