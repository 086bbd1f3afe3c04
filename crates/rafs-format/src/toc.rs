//! The table of contents at the end of a blob: which named section lies where. docs/format.md, "TOC".
//!
//! Knows entries, not how the table is found: that takes tar headers, which are no RAFS structure.

use crate::{Compressor, Digest, FormatError};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Largest table of contents, its tar header included, in bytes.
pub const MAX_SIZE: u64 = 65_536;

/// Names of sections.
pub mod section {
    /// Chunk data.
    pub const DATA: &str = "image.blob";
    /// Chunk table; with its header, where a tar header says it.
    pub const CHUNK_TABLE: &str = "blob.meta";
    /// Header of the chunk table: an entry of the table of contents only.
    pub const CHUNK_TABLE_HEADER: &str = "blob.meta.header";
    /// Digests of all chunks.
    pub const DIGESTS: &str = "blob.digest";
    /// Bootstrap.
    pub const BOOTSTRAP: &str = "image.boot";
    /// Table of contents.
    pub const TOC: &str = "rafs.blob.toc";
}

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
    /// An entry for the section `name`. `digest` and `uncompressed_size` are those of the plain section (docs/format.md, "TOC", has an exception); `stored` is
    /// its first byte in the blob and its length there. Errors: a name over 16 bytes; gzip, for which there is no flag.
    pub fn new(
        name: &str,
        by: Compressor,
        digest: Digest,
        stored: (u64, u64),
        uncompressed_size: u64,
    ) -> Result<Self, FormatError> {
        let flags = match by {
            Compressor::None => 1u32,
            Compressor::Zstd => 2,
            Compressor::Lz4Block => 4,
            Compressor::Gzip => {
                return Err(FormatError::Unsupported { what: "gzip in a table of contents" });
            }
        };
        let mut raw_name = [0; 16];
        let limit = raw_name.len() as u64;
        raw_name
            .get_mut(..name.len())
            .ok_or(FormatError::Limit { what: "name of a section", found: name.len() as u64, limit })?
            .copy_from_slice(name.as_bytes());
        Ok(Self {
            flags: flags.into(),
            _reserved0: 0.into(),
            raw_name,
            uncompressed_digest: digest.0,
            compressed_offset: stored.0.into(),
            compressed_size: stored.1.into(),
            uncompressed_size: uncompressed_size.into(),
            _reserved1: [0; 48],
        })
    }

    /// The 128 bytes on disk.
    pub fn encode(&self) -> &[u8] {
        self.as_bytes()
    }

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
    fn what_is_written_is_read() {
        let new = |name, by| TocEntry::new(name, by, Digest([7; 32]), (1 << 40, 5), 9);
        let entry = new(section::CHUNK_TABLE_HEADER, Compressor::Lz4Block).unwrap();
        let bytes = entry.encode();
        assert_eq!((&bytes[..8], &bytes[8..24]), (&[4, 0, 0, 0, 0, 0, 0, 0][..], &b"blob.meta.header"[..]));
        assert_eq!(&bytes[56..80], [0, 0, 0, 0, 0, 1, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        let read = entries(bytes).next().unwrap();
        assert_eq!((read.name(), read.compressor()), (&b"blob.meta.header"[..], Some(Compressor::Lz4Block)));
        assert_eq!((read.digest(), bytes.len()), (Digest([7; 32]), 128));
        assert!(new("rafs.blob.toc.long", Compressor::None).is_err());
        assert!(new(section::DATA, Compressor::Gzip).is_err());
    }

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
