//! Version 2 of the chunk table of a blob: its 24-byte entries, for blobs whose chunks are in batches, encrypted, or inside a layer, and the 40-byte
//! contexts of batches behind them. docs/format.md, "Batches".
//!
//! Here is the layout and how it is written; what a reader makes of it is in [`crate::blob_units`].

use crate::FormatError;
use crate::read::require;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Size of an entry, in bytes.
pub const ENTRY_SIZE: usize = size_of::<ChunkEntry>();
/// Size of the context of a batch, in bytes.
pub const BATCH_SIZE: usize = size_of::<BatchEntry>();

/// Offsets in a decompressed blob that an entry can hold: 44 bits.
const MAX_UNCOMPRESSED_OFFSET: u64 = (1 << 44) - 4096;
/// Offsets in a stored blob that an entry can hold: 40 bits.
const MAX_COMPRESSED_OFFSET: u64 = (1 << 40) - 1;
/// Longest chunk: 24 bits hold its size less 1.
const MAX_UNCOMPRESSED_SIZE: u64 = 1 << 24;
/// Longest stored chunk: 24 bits hold its size. So a chunk of 16 MiB must become shorter when it is stored.
const MAX_COMPRESSED_SIZE: u64 = (1 << 24) - 1;

/// Flag: stored compressed.
pub(crate) const COMPRESSED: u64 = 0x01;
/// Flag: inside the output of an inflate context.
pub(crate) const ZRAN: u64 = 0x02;
/// Flag: inside a batch.
pub(crate) const BATCH: u64 = 0x04;
/// Flag: stored encrypted.
const ENCRYPTED: u64 = 0x08;
/// Flag: a checksum is there.
const HAS_CRC: u64 = 0x10;

/// Version 2 entry of the chunk table of a blob, 24 bytes.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct ChunkEntry {
    /// 0: bits 0..32 uncompressed offset in blocks; 32..56 uncompressed size - 1; 56..64 flags.
    pub uncompressed: U64,
    /// 8: bits 0..40 compressed offset; 40..64 compressed size.
    pub compressed: U64,
    /// 16: of a batch or context: offset in its plain bytes; else CRC-32C where the flag says so.
    pub start: U32,
    /// 20: of a batch or context: its number.
    pub number: U32,
}
const _: () = assert!(size_of::<ChunkEntry>() == 24);

/// One batch, 40 bytes.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct BatchEntry {
    /// 0: length as stored.
    pub compressed_size: U32,
    /// 4: length after decompression.
    pub uncompressed_size: U32,
    /// 8: 0.
    pub reserved: [u8; 32],
}
const _: () = assert!(size_of::<BatchEntry>() == 40);

/// What an entry says besides ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The chunk is stored by itself; CRC-32C of its plain bytes, of which 0 is not put down: in an entry it means "none".
    Alone {
        /// The checksum.
        crc32: u32,
    },
    /// It is part of a batch, whose stored range starts at the compressed offset.
    Batch {
        /// Number of the batch, from 0.
        number: u32,
        /// First byte in the plain bytes of the batch.
        start: u32,
    },
    /// It is part of the output of an inflate context.
    Context {
        /// Number of the context, from 0.
        number: u32,
        /// First byte in the output of the context.
        start: u32,
    },
}

/// One chunk of the table. Offsets and sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// First stored byte in the blob.
    pub compressed_offset: u64,
    /// Stored length, at most 2^24 - 1; 0 in a batch, and where no input was consumed inside a layer.
    pub compressed_size: u32,
    /// First byte in the decompressed blob, a multiple of 4096 below 2^44.
    pub uncompressed_offset: u64,
    /// Length after decompression, 1 to 2^24.
    pub uncompressed_size: u32,
    /// Stored compressed. A chunk of a batch or a context always is.
    pub is_compressed: bool,
    /// Stored encrypted.
    pub is_encrypted: bool,
    /// Where it is to be found.
    pub place: Place,
}

/// Appends `entry` to `table`. Errors: an offset or size over the format's limits, a chunk by itself without stored bytes.
pub fn push(table: &mut Vec<u8>, entry: &Entry) -> Result<(), FormatError> {
    check(entry)?;
    let (kind, start, number) = match entry.place {
        Place::Alone { crc32: 0 } => (0, 0, 0),
        Place::Alone { crc32 } => (HAS_CRC, crc32, 0),
        Place::Batch { number, start } => (BATCH | COMPRESSED, start, number),
        Place::Context { number, start } => (ZRAN | COMPRESSED, start, number),
    };
    let mut flags = kind;
    flags |= if entry.is_compressed { COMPRESSED } else { 0 };
    flags |= if entry.is_encrypted { ENCRYPTED } else { 0 };
    let size = u64::from(entry.uncompressed_size).saturating_sub(1);
    let raw = ChunkEntry {
        uncompressed: (entry.uncompressed_offset >> 12 | size << 32 | flags << 56).into(),
        compressed: (entry.compressed_offset | u64::from(entry.compressed_size) << 40).into(),
        start: start.into(),
        number: number.into(),
    };
    table.extend_from_slice(raw.as_bytes());
    Ok(())
}

fn check(entry: &Entry) -> Result<(), FormatError> {
    let (size, stored) = (u64::from(entry.uncompressed_size), u64::from(entry.compressed_size));
    let limits = [
        ("uncompressed offset of a chunk", entry.uncompressed_offset, MAX_UNCOMPRESSED_OFFSET),
        ("compressed offset of a chunk", entry.compressed_offset, MAX_COMPRESSED_OFFSET),
        ("size of a chunk", size, MAX_UNCOMPRESSED_SIZE),
        ("stored size of a chunk", stored, MAX_COMPRESSED_SIZE),
    ];
    for (what, found, limit) in limits {
        if found > limit {
            return Err(FormatError::Limit { what, found, limit });
        }
    }
    let at = entry.uncompressed_offset;
    require(at.is_multiple_of(4096), "uncompressed offset of a chunk", 0, at, "a multiple of 4096")?;
    require(size > 0, "size of a chunk", at, 0, "at least 1")?;
    match entry.place {
        // Inside an unpacked layer a chunk that is all in the decoder's window takes no input.
        Place::Context { .. } => Ok(()),
        Place::Alone { .. } => require(stored > 0, "stored size of a chunk", at, 0, "at least 1"),
        Place::Batch { .. } => require(stored == 0, "stored size of a chunk in a batch", at, stored, "0"),
    }
}

/// Appends the context of a batch of `uncompressed_size` bytes that is stored in `compressed_size` to `table`, behind all entries.
pub fn push_batch(table: &mut Vec<u8>, compressed_size: u32, uncompressed_size: u32) {
    let raw = BatchEntry {
        compressed_size: compressed_size.into(),
        uncompressed_size: uncompressed_size.into(),
        reserved: [0; 32],
    };
    table.extend_from_slice(raw.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            compressed_offset: 0x12_3456_789A,
            compressed_size: 0xAB_CDEF,
            uncompressed_offset: 0x7_6543_2000,
            uncompressed_size: 0xFE_DCBB,
            is_compressed: true,
            is_encrypted: false,
            place: Place::Alone { crc32: 0x1122_3344 },
        }
    }

    fn bytes(entry: &Entry) -> Vec<u8> {
        let mut table = Vec::new();
        push(&mut table, entry).unwrap();
        table
    }

    /// Offset by offset, as docs/format.md says.
    #[test]
    fn fields_are_where_they_are_documented() {
        let stored = [0x9A, 0x78, 0x56, 0x34, 0x12, 0xEF, 0xCD, 0xAB];
        let alone = [[0x32, 0x54, 0x76, 0, 0xBA, 0xDC, 0xFE, 0x11].as_slice(), &stored].concat();
        assert_eq!(bytes(&entry()), [alone.as_slice(), &[0x44, 0x33, 0x22, 0x11, 0, 0, 0, 0]].concat());
        let batch = Entry {
            compressed_size: 0,
            is_encrypted: true,
            place: Place::Batch { number: 5, start: 6 },
            ..entry()
        };
        assert_eq!(bytes(&batch)[7..16], [0x0D, 0x9A, 0x78, 0x56, 0x34, 0x12, 0, 0, 0]);
        assert_eq!(bytes(&batch)[16..], [6, 0, 0, 0, 5, 0, 0, 0]);
        let context = Entry { place: Place::Context { number: 7, start: 8 }, ..entry() };
        assert_eq!(bytes(&context)[7], 0x03);
        assert_eq!(bytes(&context)[16..], [8, 0, 0, 0, 7, 0, 0, 0]);
        let no_crc = Entry { is_compressed: false, place: Place::Alone { crc32: 0 }, ..entry() };
        assert_eq!(bytes(&no_crc)[7], 0);
        let mut table = Vec::new();
        push_batch(&mut table, 0x0102, 0x0304);
        assert_eq!(table, [&[2, 1, 0, 0, 4, 3, 0, 0][..], &[0; 32]].concat());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let most = Entry {
            uncompressed_offset: MAX_UNCOMPRESSED_OFFSET,
            compressed_offset: MAX_COMPRESSED_OFFSET,
            uncompressed_size: 1 << 24,
            compressed_size: (1 << 24) - 1,
            ..entry()
        };
        assert_eq!(bytes(&most).len(), ENTRY_SIZE);
        let batch = Place::Batch { number: 0, start: 0 };
        for bad in [
            Entry { uncompressed_offset: 1 << 44, ..entry() },
            Entry { uncompressed_offset: 4095, ..entry() },
            Entry { compressed_offset: 1 << 40, ..entry() },
            Entry { uncompressed_size: 0, ..entry() },
            Entry { uncompressed_size: (1 << 24) + 1, ..entry() },
            Entry { compressed_size: 1 << 24, ..entry() },
            Entry { compressed_size: 0, ..entry() },
            Entry { place: batch, ..entry() },
        ] {
            assert!(push(&mut Vec::new(), &bad).is_err(), "{bad:?}");
        }
        let context = Entry { compressed_size: 0, place: Place::Context { number: 0, start: 0 }, ..entry() };
        assert_eq!(bytes(&context).len(), ENTRY_SIZE);
    }
}
