//! Every structure as it lies on disk: fixed-endian, sized at compile time, documented by offset. The struct is the layout;
//! arithmetic on field offsets exists nowhere else.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Byte offset of [`ErofsSuper`] in a bootstrap; [`RafsSuper`] follows it and the device slots follow that.
pub const SUPER_OFFSET: usize = 1024;

/// EROFS superblock, 128 bytes at 1024.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ErofsSuper {
    /// 0: 0xE0F5_E1E2.
    pub magic: U32,
    /// 4: 0, there is none.
    pub checksum: U32,
    /// 8: exactly 0x4000_0000.
    pub feature_compat: U32,
    /// 12: binary logarithm of the block size: 12, or 9 for tarfs.
    pub block_bits: u8,
    /// 13: 0.
    pub extra_slots: u8,
    /// 14: nid of the root, 128.
    pub root_nid: U16,
    /// 16: directory entries with the root, hard links one by one.
    pub entries: U64,
    /// 24: 0.
    pub build_time: U64,
    /// 32: 0.
    pub build_time_nanos: U32,
    /// 36: sum of the blocks of all devices.
    pub blocks: U32,
    /// 40: first block of the metadata area.
    pub meta_block: U32,
    /// 44: 0, no shared xattrs.
    pub xattr_block: U32,
    /// 48: 0.
    pub uuid: [u8; 16],
    /// 64: 0.
    pub volume_name: [u8; 16],
    /// 80: exactly 0xC, chunked files and device table.
    pub feature_incompat: U32,
    /// 84: 0.
    pub union_bits: U16,
    /// 86: number of devices.
    pub devices: U16,
    /// 88: position of the device slots in units of 128 bytes, 11.
    pub device_slot: U16,
    /// 90: 0, all of it.
    pub reserved: [u8; 38],
}
const _: () =
    assert!(size_of::<ErofsSuper>() == 128 && std::mem::offset_of!(ErofsSuper, feature_incompat) == 80);

/// RAFS extended superblock, 256 bytes at 1152.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RafsSuper {
    /// 0: superblock flags.
    pub flags: U64,
    /// 8: byte offset of the blob table, a multiple of 4096.
    pub blob_table_offset: U64,
    /// 16: its size in bytes, 256 for each blob.
    pub blob_table_size: U32,
    /// 20: largest chunk in bytes.
    pub chunk_size: U32,
    /// 24: byte offset of the chunk table, a multiple of 4096.
    pub chunk_table_offset: U64,
    /// 32: its size in bytes, 80 for each record.
    pub chunk_table_size: U64,
    /// 40: byte offset of the prefetch table, 0 for none.
    pub prefetch_table_offset: U64,
    /// 48: its size in bytes.
    pub prefetch_table_size: U32,
    /// 52: 0.
    pub padding: U32,
    /// 56: 0.
    pub reserved: [u8; 200],
}
const _: () = assert!(size_of::<RafsSuper>() == 256 && std::mem::offset_of!(RafsSuper, padding) == 52);

/// Device slot, 128 bytes each, from 1408.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DeviceSlot {
    /// 0: blob id, ASCII, zero-padded.
    pub blob_id: [u8; 64],
    /// 64: uncompressed size of the blob in blocks.
    pub blocks: U32,
    /// 68: block where the blob would start in a flat image.
    pub mapped_block: U32,
    /// 72: 0.
    pub reserved: [u8; 56],
}
const _: () = assert!(size_of::<DeviceSlot>() == 128 && std::mem::offset_of!(DeviceSlot, reserved) == 72);

/// Entry of the blob table, 256 bytes.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlobEntry {
    /// 0: blob id, zero-padded.
    pub blob_id: [u8; 64],
    /// 64: position in the table.
    pub index: U32,
    /// 68: largest chunk, as in the superblock.
    pub chunk_size: U32,
    /// 72: chunks in the blob, 1 to 2^24.
    pub chunk_count: U32,
    /// 76: compression of chunks.
    pub compressor: U32,
    /// 80: digest of chunks.
    pub digester: U32,
    /// 84: blob features.
    pub features: U32,
    /// 88: stored size in bytes.
    pub compressed_size: U64,
    /// 96: decompressed size in bytes.
    pub uncompressed_size: U64,
    /// 104: table of contents and its tar header in bytes.
    pub toc_size: U32,
    /// 108: compression of the chunk table of the blob.
    pub meta_compressor: U32,
    /// 112: where that table lies in the blob.
    pub meta_offset: U64,
    /// 120: its stored size in bytes.
    pub meta_compressed_size: U64,
    /// 128: its size in bytes.
    pub meta_uncompressed_size: U64,
    /// 136: SHA-256 of the table of contents and its tar header.
    pub toc_digest: [u8; 32],
    /// 168: id of the meta blob, or the key.
    pub meta_digest: [u8; 32],
    /// 200: size of the meta blob, or half of the initial vector.
    pub meta_size: U64,
    /// 208: the other half of the initial vector.
    pub cipher_iv: U64,
    /// 216: cipher of chunks.
    pub cipher: U32,
    /// 220: 0, not checked.
    pub reserved: [u8; 36],
}
const _: () = assert!(size_of::<BlobEntry>() == 256 && std::mem::offset_of!(BlobEntry, cipher) == 216);

/// Extended inode, 64 bytes: the form that is written.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct InodeExtended {
    /// 0: 1 | data layout << 1.
    pub format: U16,
    /// 2: 0 for no xattrs, else (bytes of the xattr area - 12) / 4 + 1.
    pub xattr_count: U16,
    /// 4: full `st_mode`.
    pub mode: U16,
    /// 6: 0.
    pub reserved: U16,
    /// 8: size in bytes.
    pub size: U64,
    /// 16: block, chunk format or device number, by type and layout.
    pub union_value: U32,
    /// 20: sequential number, informational.
    pub number: U32,
    /// 24: owner.
    pub uid: U32,
    /// 28: group.
    pub gid: U32,
    /// 32: modification time in seconds.
    pub mtime: I64,
    /// 40: its nanoseconds.
    pub mtime_nanos: U32,
    /// 44: links.
    pub nlink: U32,
    /// 48: 0.
    pub reserved2: [u8; 16],
}
const _: () = assert!(size_of::<InodeExtended>() == 64 && std::mem::offset_of!(InodeExtended, mtime) == 32);

/// Compact inode, 32 bytes: read, never written; it has no modification time.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct InodeCompact {
    /// 0: data layout << 1.
    pub format: U16,
    /// 2: as in the extended form.
    pub xattr_count: U16,
    /// 4: full `st_mode`.
    pub mode: U16,
    /// 6: links.
    pub nlink: U16,
    /// 8: size in bytes.
    pub size: U32,
    /// 12: 0.
    pub reserved: U32,
    /// 16: block, chunk format or device number, by type and layout.
    pub union_value: U32,
    /// 20: sequential number, informational.
    pub number: U32,
    /// 24: owner.
    pub uid: U16,
    /// 26: group.
    pub gid: U16,
    /// 28: 0.
    pub reserved2: U32,
}
const _: () = assert!(size_of::<InodeCompact>() == 32 && std::mem::offset_of!(InodeCompact, uid) == 24);

/// Head of one extended attribute, 4 bytes; name suffix and value follow, padded to 4.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct XattrEntry {
    /// 0: bytes of the name behind its prefix.
    pub name_len: u8,
    /// 1: which prefix.
    pub name_index: u8,
    /// 2: bytes of the value.
    pub value_size: U16,
}
const _: () = assert!(size_of::<XattrEntry>() == 4);

/// Head of the inline xattr area, 12 bytes; [`XattrEntry`]s follow.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct XattrHeader {
    /// 0: 0.
    pub name_filter: U32,
    /// 4: 0, there are no shared attributes.
    pub shared_count: u8,
    /// 5: 0.
    pub reserved: [u8; 7],
}
const _: () = assert!(size_of::<XattrHeader>() == 12);

/// Directory entry, 12 bytes; those of a block stand together in front of their names.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Dirent {
    /// 0: address of the inode.
    pub nid: U64,
    /// 8: where the name starts, in bytes from the start of the block.
    pub name_offset: U16,
    /// 10: type of the inode, 1 to 7.
    pub file_type: u8,
    /// 11: 0.
    pub reserved: u8,
}
const _: () = assert!(size_of::<Dirent>() == 12 && std::mem::offset_of!(Dirent, file_type) == 10);

/// A file's reference to a chunk, 8 bytes.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChunkIndexEntry {
    /// 0: bits 0 to 15 of the chunk's number in its blob.
    pub chunk_low: U16,
    /// 2: blob index + 1.
    pub device: u8,
    /// 3: bits 16 to 23 of the chunk's number.
    pub chunk_high: u8,
    /// 4: uncompressed offset in blocks.
    pub block: U32,
}
const _: () = assert!(size_of::<ChunkIndexEntry>() == 8 && std::mem::offset_of!(ChunkIndexEntry, block) == 4);

/// Record of the chunk table, 80 bytes.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChunkRecord {
    /// 0: digest of the uncompressed bytes.
    pub digest: [u8; 32],
    /// 32: position of the blob in the blob table.
    pub blob: U32,
    /// 36: how it is stored.
    pub flags: U32,
    /// 40: stored length in bytes.
    pub compressed_size: U32,
    /// 44: length in bytes.
    pub uncompressed_size: U32,
    /// 48: first stored byte in the blob.
    pub compressed_offset: U64,
    /// 56: first byte in the decompressed blob.
    pub uncompressed_offset: U64,
    /// 64: offset in the file dumped last.
    pub file_offset: U64,
    /// 72: number of the chunk in its blob.
    pub index: U32,
    /// 76: CRC-32C of the uncompressed bytes.
    pub crc32: U32,
}
const _: () = assert!(size_of::<ChunkRecord>() == 80 && std::mem::offset_of!(ChunkRecord, index) == 72);

/// Header behind the chunk table of a blob, 4096 bytes.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlobMetaHeader {
    /// 0: 0xB10B_B10B.
    pub magic: U32,
    /// 4: features of the blob.
    pub features: U32,
    /// 8: compression of the table.
    pub compressor: U32,
    /// 12: entries in the table.
    pub entries: U32,
    /// 16: where the stored table starts in the blob.
    pub compressed_offset: U64,
    /// 24: its stored length in bytes.
    pub compressed_size: U64,
    /// 32: its length in bytes.
    pub uncompressed_size: U64,
    /// 40: where contexts start in the table; 0 for none.
    pub context_offset: U64,
    /// 48: bytes of contexts and dictionaries.
    pub context_size: U64,
    /// 56: contexts.
    pub contexts: U32,
    /// 60: 0.
    pub reserved: [u8; 4032],
    /// 4092: 0xB10B_B10B.
    pub end_magic: U32,
}
const _: () = assert!(size_of::<BlobMetaHeader>() == 4096);

/// Version 1 entry of the chunk table of a blob, 16 bytes.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlobChunkV1 {
    /// 0: bits 12..44 uncompressed offset in place; 44..64 low 20 bits of the uncompressed size - 1, 8..12 its bits 20..24.
    pub uncompressed: U64,
    /// 8: bits 0..40 compressed offset; 44..64 low 20 bits of the compressed size - 1, 40..44 its bits 20..24.
    pub compressed: U64,
}
const _: () = assert!(size_of::<BlobChunkV1>() == 16);

/// Superblock of v5, 8192 bytes at 0.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SuperV5 {
    /// 0: 0x5241_4653.
    pub magic: U32,
    /// 4: 0x500.
    pub version: U32,
    /// 8: 8192, its own size.
    pub size: U32,
    /// 12: largest chunk in bytes.
    pub chunk_size: U32,
    /// 16: superblock flags.
    pub flags: U64,
    /// 24: distinct inodes.
    pub inodes: U64,
    /// 32: first byte of the inode table.
    pub inode_table_offset: U64,
    /// 40: first byte of the prefetch table, also of an empty one.
    pub prefetch_table_offset: U64,
    /// 48: first byte of the blob table.
    pub blob_table_offset: U64,
    /// 56: directory entries with the root, hard links one by one.
    pub inode_table_entries: U32,
    /// 60: entries of the prefetch table.
    pub prefetch_table_entries: U32,
    /// 64: bytes of the blob table, a multiple of 8.
    pub blob_table_size: U32,
    /// 68: one for each blob; 0 in images of the first builders.
    pub extended_entries: U32,
    /// 72: first byte of the extended blob table.
    pub extended_table_offset: U64,
    /// 80: 0.
    pub reserved: [u8; 8112],
}
const _: () =
    assert!(size_of::<SuperV5>() == 8192 && std::mem::offset_of!(SuperV5, inode_table_entries) == 56);

/// Head of an entry of the v5 blob table, 8 bytes; the id follows, and a NUL behind all but the last.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlobHeadV5 {
    /// 0: first stored byte to read ahead.
    pub readahead_offset: U32,
    /// 4: stored bytes to read ahead, 0 for none.
    pub readahead_size: U32,
}
const _: () = assert!(size_of::<BlobHeadV5>() == 8);

/// Entry of the v5 extended blob table, 64 bytes.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlobExtensionV5 {
    /// 0: chunks in the blob; 0 for an entry without content.
    pub chunk_count: U32,
    /// 4: features of the blob.
    pub features: U32,
    /// 8: end of the last chunk in the decompressed blob.
    pub uncompressed_size: U64,
    /// 16: bytes of the blob; with a bootstrap inside, where that starts.
    pub compressed_size: U64,
    /// 24: 0.
    pub reserved: [u8; 40],
}
const _: () = assert!(
    size_of::<BlobExtensionV5>() == 64 && std::mem::offset_of!(BlobExtensionV5, compressed_size) == 16
);

/// Inode of v5, 128 bytes; name, symlink target, xattrs and chunk records follow, each padded to 8.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct InodeV5 {
    /// 0: digest of what it holds.
    pub digest: [u8; 32],
    /// 32: number of the directory it is in; 0 for the root.
    pub parent: U64,
    /// 40: its number; for further names of a file the number of the first.
    pub number: U64,
    /// 48: owner.
    pub uid: U32,
    /// 52: group.
    pub gid: U32,
    /// 56: 0.
    pub project: U32,
    /// 60: full `st_mode`.
    pub mode: U32,
    /// 64: bytes.
    pub size: U64,
    /// 72: blocks of 512 bytes.
    pub blocks: U64,
    /// 80: 1 symlink, 2 hard link, 4 has xattrs, 8 has holes.
    pub flags: U64,
    /// 88: links.
    pub nlink: U32,
    /// 92: directory: position of its first child in the inode table, counted from 1.
    pub child_index: U32,
    /// 96: directory: children; file: chunks.
    pub child_count: U32,
    /// 100: bytes of the name.
    pub name_size: U16,
    /// 102: bytes of the symlink target.
    pub symlink_size: U16,
    /// 104: device number of devices.
    pub rdev: U32,
    /// 108: nanoseconds of the modification time.
    pub mtime_nanos: U32,
    /// 112: seconds of the modification time.
    pub mtime: I64,
    /// 120: 0.
    pub reserved: [u8; 8],
}
const _: () = assert!(size_of::<InodeV5>() == 128 && std::mem::offset_of!(InodeV5, child_index) == 92);
