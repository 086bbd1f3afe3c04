//! The table of contents at the end of a blob: which named section lies where. docs/format.md, "TOC".
//!
//! Knows entries, not how the table is found: that takes tar headers, which are no RAFS structure.

use crate::{Compressor, Digest};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Largest table of contents, its tar header included, in bytes.
pub const MAX_SIZE: u64 = 65_536;

/// One entry of a blob's table of contents: where a named section lies in the blob.
/// On disk: 128 bytes, little endian, packed back to back.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TocEntry {
    /// 0x00: compression of the section, exactly one bit set: 1 none, 2 zstd, 4 LZ4 block.
    pub flags: U32,
    _reserved0: U32,
    /// 0x08: section name, ASCII, NUL-padded: `image.boot`, `blob.meta`, ...
    pub raw_name: [u8; 16],
    /// 0x18: SHA-256 of the section after decompression.
    pub uncompressed_digest: [u8; 32],
    /// 0x38: first byte of the section, in bytes from the start of the blob.
    pub compressed_offset: U64,
    /// 0x40: length as stored, in bytes.
    pub compressed_size: U64,
    /// 0x48: length after decompression, in bytes.
    pub uncompressed_size: U64,
    _reserved1: [u8; 48],
}
const _: () = assert!(size_of::<TocEntry>() == 128);

impl TocEntry {
    /// Name without its padding.
    pub fn name(&self) -> &[u8] {
        let end = self.raw_name.iter().position(|&byte| byte == 0).unwrap_or(self.raw_name.len());
        self.raw_name.get(..end).unwrap_or(&[])
    }

    /// Compression of the section; `None` for none that is known.
    pub fn compressor(&self) -> Option<Compressor> {
        Some(match self.flags.get() {
            1 => Compressor::None,
            2 => Compressor::Zstd,
            4 => Compressor::Lz4Block,
            _ => return None,
        })
    }

    /// SHA-256 of the section after decompression.
    pub fn digest(&self) -> Digest {
        Digest(self.uncompressed_digest)
    }
}

/// Entries of a table, its tar header not included; a rest shorter than an entry is left out.
pub fn entries(table: &[u8]) -> impl Iterator<Item = &TocEntry> {
    table.chunks_exact(size_of::<TocEntry>()).filter_map(|bytes| TocEntry::ref_from_bytes(bytes).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_in_order() {
        let mut table = vec![0; 300];
        table[0] = 2;
        table[8..18].copy_from_slice(b"image.boot");
        table[72] = 7;
        table[128] = 9;
        table[136..152].copy_from_slice(b"blob.meta.header");
        let found: Vec<_> =
            entries(&table).map(|e| (e.name().to_vec(), e.compressor(), e.uncompressed_size.get())).collect();
        assert_eq!(found[0], (b"image.boot".to_vec(), Some(Compressor::Zstd), 7));
        assert_eq!(found[1], (b"blob.meta.header".to_vec(), None, 0));
        assert_eq!(found.len(), 2);
    }
}
