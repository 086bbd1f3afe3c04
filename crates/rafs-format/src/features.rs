//! Enumerations and flag words of the formats. docs/format.md, "Enumerations and flags".

/// Compression of a chunk or a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Compressor {
    /// Stored as is.
    None = 0,
    /// A raw LZ4 block: no frame, no size in front.
    Lz4Block = 1,
    /// One RFC 1952 member.
    Gzip = 2,
    /// One zstd frame.
    Zstd = 3,
}

/// Digest algorithm of an image. All digests are 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum DigestAlgorithm {
    /// BLAKE3-256.
    Blake3 = 0,
    /// SHA-256.
    Sha256 = 1,
}

/// Cipher of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Cipher {
    /// Plain.
    None = 0,
    /// AES-128-XTS, 32-byte key.
    Aes128Xts = 1,
    /// AES-256-XTS, never used in images.
    Aes256Xts = 2,
    /// AES-256-GCM, never used in images.
    Aes256Gcm = 3,
}

impl Compressor {
    /// The algorithm with this number on disk.
    pub fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            0 => Self::None,
            1 => Self::Lz4Block,
            2 => Self::Gzip,
            3 => Self::Zstd,
            _ => return None,
        })
    }

    /// Name on command lines and in JSON: `none`, `lz4_block`, `gzip`, `zstd`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4Block => "lz4_block",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

impl DigestAlgorithm {
    /// The algorithm with this number on disk.
    pub fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            0 => Self::Blake3,
            1 => Self::Sha256,
            _ => return None,
        })
    }

    /// Name on command lines and in JSON: `blake3`, `sha256`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blake3 => "blake3",
            Self::Sha256 => "sha256",
        }
    }
}

impl Cipher {
    /// The cipher with this number on disk.
    pub fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            0 => Self::None,
            1 => Self::Aes128Xts,
            2 => Self::Aes256Xts,
            3 => Self::Aes256Gcm,
            _ => return None,
        })
    }
}

bitflags::bitflags! {
    /// Superblock flags, common to v5 and v6. Unknown bits make a bootstrap unreadable.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct SuperFlags: u64 {
        /// Chunks are stored as they are.
        const COMPRESSION_NONE = 0x1;
        /// Chunks are LZ4 blocks.
        const COMPRESSION_LZ4 = 0x2;
        /// Digests are BLAKE3.
        const DIGEST_BLAKE3 = 0x4;
        /// Digests are SHA-256.
        const DIGEST_SHA256 = 0x8;
        /// User and group ids in inodes are real.
        const EXPLICIT_IDS = 0x10;
        /// Some inode has extended attributes.
        const HAS_XATTR = 0x20;
        /// Chunks are gzip members.
        const COMPRESSION_GZIP = 0x40;
        /// Chunks are zstd frames.
        const COMPRESSION_ZSTD = 0x80;
        /// All blobs carry a chunk digest table; also set when there are no blobs.
        const INLINED_CHUNK_DIGEST = 0x100;
        /// Plain tars are the blobs.
        const TARFS = 0x200;
        /// Not encrypted (v6).
        const ENCRYPTION_NONE = 0x0100_0000;
        /// AES-128-XTS.
        const ENCRYPTION_AES_XTS = 0x0200_0000;
        /// Bits 0x0400_0000 to 0x8000_0000: reserved, ignored when set.
        const RESERVED = 0xFC00_0000;
    }

    /// Features of one blob. An unknown bit in 0xF000 makes the blob unreadable; unknown bits 16 to 27 are ignored.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct BlobFeatures: u32 {
        /// Uncompressed chunk offsets are multiples of 4096.
        const ALIGNED = 0x1;
        /// A bootstrap is stored inside the blob.
        const INLINED_FS_META = 0x2;
        /// Chunk table entries are 24 bytes.
        const CHUNK_INFO_V2 = 0x4;
        /// Random access contexts for gzip are present.
        const ZRAN = 0x8;
        /// Chunk data is in another object, this blob holds metadata only.
        const SEPARATE = 0x10;
        /// A table of chunk digests is present.
        const INLINED_CHUNK_DIGEST = 0x20;
        /// The blob is a plain tar.
        const TARFS = 0x40;
        /// Small chunks are merged into batches.
        const BATCH = 0x80;
        /// Chunk data is encrypted.
        const ENCRYPTED = 0x100;
        /// Made by the chunk dictionary generator.
        const CHUNKDICT_GENERATED = 0x200;
        /// Holds copies of chunks to prefetch.
        const PREFETCH_SEPARATED = 0x400;
        /// Lives in a foreign storage backend.
        const EXTERNAL = 0x800;
        /// Sections are followed by tar headers.
        const HAS_TAR_HEADER = 0x1000_0000;
        /// A table of contents stands at the end.
        const HAS_TOC = 0x2000_0000;
        /// Sizes and ids follow the rules of builders since 2.2.
        const CAP_TAR_TOC = 0x4000_0000;
        /// Everything else; see the type for what readers do with it.
        const _ = !0;
    }
}
