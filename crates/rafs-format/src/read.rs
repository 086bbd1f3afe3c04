//! Reading a bootstrap in place. Knows layouts and bounds; does not hash, decompress or read blobs.
//!
//! Opening looks at superblock, extended superblock, device slots and blob table only. Every other structure is checked
//! when it is looked at, so a damaged corner of an image is an error for who goes there and for nobody else.

use crate::device::BlobMetaLocation;
use crate::inode::DataLayout;
use crate::layout::{
    BlobEntry, ChunkIndexEntry, ChunkRecord, DeviceSlot, Dirent, ErofsSuper, InodeCompact, InodeExtended,
    RafsSuper, SUPER_OFFSET,
};
use crate::xattr::Xattrs;
use crate::{
    Blob, BlobFeatures, BlobId, Chunk, ChunkFlags, ChunkRef, Cipher, Compressor, Digest, DigestAlgorithm,
    FileType, FormatError, Inode, Nid, SuperFlags,
};
use std::borrow::Cow;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

const MAGIC: u32 = 0xE0F5_E1E2;
const COMPAT_RAFS: u32 = 0x4000_0000;
/// Chunked files and device table.
const INCOMPAT: u32 = 0xC;
const DEVICE_SLOT: u16 = 11;
/// Byte offset of the device slots, in units of which [`DEVICE_SLOT`] is 128.
const SLOTS_OFFSET: u64 = 1408;
const RAFS_SUPER_OFFSET: u64 = 1152;
const MAX_BLOBS: u16 = 254;
const MAX_COMPRESSED: u64 = 1 << 40;
const MAX_UNCOMPRESSED: u64 = 1 << 44;
const MAX_CHUNKS: u32 = 1 << 24;
const MAX_SYMLINK: u64 = 4095;
const MAX_NAME: usize = 255;

/// What a superblock says, checked. Offsets in bytes from the start of the bootstrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Address unit of data: 4096 (512 in tarfs images).
    pub block_size: u32,
    /// First byte of the metadata area.
    pub meta_start: u64,
    /// The root directory.
    pub root: Nid,
    /// Directory entries including the root; hard links count one by one.
    pub entries: u64,
    /// Superblock flags.
    pub flags: SuperFlags,
    /// Largest chunk in bytes.
    pub chunk_size: u32,
    /// Compression of the newest blob.
    pub compressor: Compressor,
    /// Digest algorithm of the newest blob.
    pub digester: DigestAlgorithm,
    /// Start of the blob table.
    pub blob_table_offset: u64,
    /// Start of the chunk table.
    pub chunk_table_offset: u64,
    /// Records in the chunk table.
    pub chunk_table_records: u64,
    /// Start of the prefetch table, 0 for none.
    pub prefetch_table_offset: u64,
    /// Entries in the prefetch table.
    pub prefetch_table_entries: u32,
}

/// One name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// Raw bytes, 1 to 255 of them, without `/` and NUL.
    pub name: &'a [u8],
    /// The inode it names.
    pub nid: Nid,
    /// Its type as the directory says; the inode decides.
    pub file_type: FileType,
    /// Position of the *next* entry: what [`Bootstrap::dir_entries`] takes to go on behind this one.
    pub next: u64,
}

/// A bootstrap over any bytes: a slice, a vector, a mapped file.
#[derive(Debug, Clone)]
pub struct Bootstrap<B> {
    bytes: B,
    superblock: Superblock,
    blobs: Vec<Blob>,
}

impl<B: AsRef<[u8]>> Bootstrap<B> {
    /// Checks superblock and tables (not the tree). Cost does not depend on the number of files.
    /// Errors: anything the reference loader refuses, docs/format.md "Acceptance".
    pub fn parse(bytes: B) -> Result<Self, FormatError> {
        let all = bytes.as_ref();
        let (superblock, devices) = superblock(all)?;
        let blobs = blobs(all, &superblock, devices)?;
        Ok(Self { bytes, superblock, blobs })
    }

    /// The same bootstrap, its bytes held by something else; `hold` hands the same bytes on.
    pub fn held_by<C: AsRef<[u8]>>(self, hold: impl FnOnce(B) -> C) -> Bootstrap<C> {
        Bootstrap { bytes: hold(self.bytes), superblock: self.superblock, blobs: self.blobs }
    }

    /// The checked superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Data blobs in table order; a blob index is a position here.
    pub fn blobs(&self) -> &[Blob] {
        &self.blobs
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// The inode at `nid`, its body (xattrs, inline data, chunk references) checked to lie within the file.
    pub fn inode(&self, nid: Nid) -> Result<Inode, FormatError> {
        let at = self.inode_offset(nid)?;
        let raw = raw_inode(self.bytes(), nid, at)?;
        self.check_body(&raw.inode, at, raw.format, raw.union_value)?;
        Ok(raw.inode)
    }

    /// Names of a directory from position `from` on (0 = start), in byte order, `.` and `..` among them where
    /// they sort. Positions are (directory block << 16 | entry in the block); stable, since images do not change.
    pub fn dir_entries<'a>(&'a self, dir: &Inode, from: u64) -> Result<DirEntries<'a, B>, FormatError> {
        expect_type(dir, FileType::Directory)?;
        Ok(DirEntries { bootstrap: self, dir: *dir, position: from, block: None, failed: false })
    }

    /// Binary search for `name` in a directory: blocks first, then entries.
    pub fn lookup(&self, dir: &Inode, name: &[u8]) -> Result<Option<DirEntry<'_>>, FormatError> {
        expect_type(dir, FileType::Directory)?;
        // The block is the last one whose first name is not behind `name`.
        let (mut low, mut high) = (0, self.dir_blocks(dir));
        while high.saturating_sub(low) > 1 {
            let middle = low + (high - low) / 2;
            if self.dir_block(dir, middle)?.name(0)? <= name {
                low = middle;
            } else {
                high = middle;
            }
        }
        if low == high {
            return Ok(None);
        }
        let block = self.dir_block(dir, low)?;
        let (mut from, mut to) = (0, block.entries);
        while from < to {
            let middle = from + (to - from) / 2;
            match block.name(middle)?.cmp(name) {
                std::cmp::Ordering::Less => from = middle + 1,
                std::cmp::Ordering::Greater => to = middle,
                std::cmp::Ordering::Equal => return self.dir_entry(&block, low, middle).map(Some),
            }
        }
        Ok(None)
    }

    /// Target of a symbolic link, 1 to 4095 bytes. Owned only where it is stored in two places (long ones in a tarfs).
    pub fn symlink_target(&self, link: &Inode) -> Result<Cow<'_, [u8]>, FormatError> {
        expect_type(link, FileType::Symlink)?;
        let blocks = self.dir_blocks(link);
        let first = self.flat_block(link, 0)?;
        if blocks <= 1 {
            return Ok(Cow::Borrowed(first));
        }
        let mut target = first.to_vec();
        for n in 1..blocks {
            target.extend_from_slice(self.flat_block(link, n)?);
        }
        Ok(Cow::Owned(target))
    }

    /// Extended attributes in stored order.
    pub fn xattrs<'a>(&'a self, inode: &Inode) -> Result<Xattrs<'a>, FormatError> {
        let at = self.inode_offset(inode.nid)?.saturating_add(u64::from(inode.fixed_size));
        Xattrs::parse(slice(self.bytes(), "xattrs", at, u64::from(inode.xattr_size))?, at)
    }

    /// Bytes of the bootstrap that an inode and all that belongs to it take.
    pub(crate) fn extent(&self, inode: &Inode) -> u64 {
        let data = match inode.file_type {
            FileType::Regular => self.chunk_count(inode).saturating_mul(8),
            FileType::Directory | FileType::Symlink => inode.size,
            FileType::CharDevice | FileType::BlockDevice | FileType::Fifo | FileType::Socket => 0,
        };
        inode.body_offset().saturating_add(data)
    }

    /// Number of chunks of a regular file: its size divided by the chunk size, rounded up.
    pub fn chunk_count(&self, inode: &Inode) -> u64 {
        inode.size.div_ceil(u64::from(self.superblock.chunk_size))
    }

    /// The `n`-th chunk reference of a regular file.
    pub fn chunk_ref(&self, file: &Inode, n: u64) -> Result<ChunkRef, FormatError> {
        expect_type(file, FileType::Regular)?;
        let count = self.chunk_count(file);
        if n >= count {
            return Err(FormatError::OutOfBounds {
                what: "chunk of a file",
                start: n,
                size: 1,
                limit: count,
            });
        }
        let at = self.chunk_array(file)?.saturating_add(n.saturating_mul(8));
        let raw: &ChunkIndexEntry = structure(self.bytes(), "chunk index entry", at)?;
        let blob = u32::from(raw.device).checked_sub(1).filter(|&blob| (blob as usize) < self.blobs.len());
        let blob = blob.ok_or(FormatError::Value {
            what: "device of a chunk",
            at: at.saturating_add(2),
            found: raw.device.into(),
            expected: "a device of the image, counted from 1",
        })?;
        let chunk = u32::from(raw.chunk_low.get()) | u32::from(raw.chunk_high) << 16;
        Ok(ChunkRef { blob, chunk, block: raw.block.get() })
    }

    /// The `n`-th record of the chunk table, in table order (by digest).
    pub fn chunk_record(&self, n: u64) -> Result<Chunk, FormatError> {
        let sb = &self.superblock;
        if n >= sb.chunk_table_records {
            return Err(FormatError::OutOfBounds {
                what: "chunk record",
                start: n,
                size: 1,
                limit: sb.chunk_table_records,
            });
        }
        let raw: &ChunkRecord = structure(self.bytes(), "chunk record", self.chunk_record_offset(n))?;
        Ok(Chunk {
            digest: Digest(raw.digest),
            blob: raw.blob.get(),
            index: raw.index.get(),
            flags: ChunkFlags::from_bits_retain(raw.flags.get()),
            compressed_offset: raw.compressed_offset.get(),
            compressed_size: raw.compressed_size.get(),
            uncompressed_offset: raw.uncompressed_offset.get(),
            uncompressed_size: raw.uncompressed_size.get(),
            file_offset: raw.file_offset.get(),
            crc32: raw.crc32.get(),
        })
    }

    /// Byte offset of the `n`-th chunk record.
    pub(crate) fn chunk_record_offset(&self, n: u64) -> u64 {
        self.superblock.chunk_table_offset.saturating_add(n.saturating_mul(80))
    }

    /// Inodes of the prefetch table in their order.
    pub fn prefetch(&self) -> impl Iterator<Item = Nid> + '_ {
        let size = u64::from(self.superblock.prefetch_table_entries) * 4;
        let table = slice(self.bytes(), "prefetch table", self.superblock.prefetch_table_offset, size);
        let nids = table.ok().and_then(|bytes| <[U32]>::ref_from_bytes(bytes).ok()).unwrap_or(&[]);
        nids.iter().map(|nid| Nid(nid.get().into()))
    }

    /// First byte of an inode.
    pub(crate) fn inode_offset(&self, nid: Nid) -> Result<u64, FormatError> {
        nid.byte_offset(self.superblock.meta_start).ok_or(FormatError::OutOfBounds {
            what: "inode",
            start: nid.0,
            size: 32,
            limit: self.bytes().len() as u64,
        })
    }

    /// Byte offset of the `n`-th block from `block` on.
    fn block_offset(&self, block: u32, n: u64) -> u64 {
        let block_size = u64::from(self.superblock.block_size);
        u64::from(block).saturating_add(n).saturating_mul(block_size)
    }

    /// First byte of the chunk references of a file.
    fn chunk_array(&self, file: &Inode) -> Result<u64, FormatError> {
        let end = self.inode_offset(file.nid)?.saturating_add(file.body_offset());
        Ok(end.saturating_add(7) & !7)
    }

    /// Checks that everything that belongs to an inode lies within the file.
    fn check_body(&self, inode: &Inode, at: u64, format: u16, union_value: u32) -> Result<(), FormatError> {
        let bytes = self.bytes();
        slice(bytes, "xattrs of an inode", at + u64::from(inode.fixed_size), inode.xattr_size.into())?;
        match (inode.file_type, inode.data) {
            (FileType::Regular, DataLayout::Chunked) => self.check_chunks(inode, at, union_value),
            (FileType::Regular, _) | (FileType::Directory | FileType::Symlink, DataLayout::Chunked) => {
                Err(FormatError::Value {
                    what: "data layout of an inode",
                    at,
                    found: format.into(),
                    expected: "chunks for a regular file, flat data for anything else",
                })
            }
            (FileType::Directory | FileType::Symlink, _) => self.check_flat(inode, at),
            (FileType::CharDevice | FileType::BlockDevice | FileType::Fifo | FileType::Socket, _) => Ok(()),
        }
    }

    /// Chunk format word and extent of the chunk references of a file.
    fn check_chunks(&self, inode: &Inode, at: u64, union_value: u32) -> Result<(), FormatError> {
        if union_value & !0x1F != 0x20 {
            return Err(FormatError::Value {
                what: "chunk format of an inode",
                at: at.saturating_add(16),
                found: union_value.into(),
                expected: "0x20 and a chunk size",
            });
        }
        let size = self.chunk_count(inode).saturating_mul(8);
        slice(self.bytes(), "chunk index of an inode", self.chunk_array(inode)?, size).map(|_| ())
    }

    /// Extent of the blocks and the inline tail of a directory or symlink.
    fn check_flat(&self, inode: &Inode, at: u64) -> Result<(), FormatError> {
        let block_size = u64::from(self.superblock.block_size);
        if inode.size == 0 || (inode.file_type == FileType::Symlink && inode.size > MAX_SYMLINK) {
            return Err(FormatError::Value {
                what: "size of an inode",
                at: at.saturating_add(8),
                found: inode.size,
                expected: "at least one entry in a directory, 1 to 4095 bytes in a symlink",
            });
        }
        match inode.data {
            DataLayout::FlatPlain { block } => {
                slice(self.bytes(), "data of an inode", self.block_offset(block, 0), inode.size)?;
            }
            DataLayout::FlatInline { block } => {
                let tail = inode.size % block_size;
                let full = inode.size - tail;
                if full > 0 {
                    slice(self.bytes(), "data of an inode", self.block_offset(block, 0), full)?;
                }
                let start = at.saturating_add(inode.body_offset());
                slice(self.bytes(), "inline data of an inode", start, tail)?;
                if tail > 0 && start / block_size != (start + tail - 1) / block_size {
                    return Err(FormatError::Value {
                        what: "end of inline data of an inode",
                        at: start,
                        found: start + tail,
                        expected: "an end in the block it starts in",
                    });
                }
            }
            DataLayout::Chunked => {}
        }
        Ok(())
    }

    /// Blocks of a directory or symlink, the last one perhaps short.
    fn dir_blocks(&self, dir: &Inode) -> u64 {
        dir.size.div_ceil(u64::from(self.superblock.block_size))
    }

    /// Bytes of the `n`-th block of flat data; the last may be short.
    fn flat_block(&self, inode: &Inode, n: u64) -> Result<&[u8], FormatError> {
        let (start, size) = self.flat_block_place(inode, n)?;
        slice(self.bytes(), "data of an inode", start, size)
    }

    /// Where the `n`-th block of flat data lies, and its length.
    fn flat_block_place(&self, inode: &Inode, n: u64) -> Result<(u64, u64), FormatError> {
        let block_size = u64::from(self.superblock.block_size);
        let size = inode.size.saturating_sub(n.saturating_mul(block_size)).min(block_size);
        Ok(match inode.data {
            DataLayout::FlatInline { .. } if size < block_size => {
                (self.inode_offset(inode.nid)?.saturating_add(inode.body_offset()), size)
            }
            DataLayout::FlatPlain { block } | DataLayout::FlatInline { block } => {
                (self.block_offset(block, n), size)
            }
            DataLayout::Chunked => {
                return Err(FormatError::WrongType {
                    nid: inode.nid.0,
                    found: inode.file_type.name(),
                    expected: FileType::Directory.name(),
                });
            }
        })
    }

    /// The `n`-th block of a directory, its entry count checked.
    fn dir_block(&self, dir: &Inode, n: u64) -> Result<DirBlock<'_>, FormatError> {
        let (at, size) = self.flat_block_place(dir, n)?;
        let bytes = slice(self.bytes(), "directory block", at, size)?;
        let first: &Dirent = structure(bytes, "directory entry", 0)?;
        let start = usize::from(first.name_offset.get());
        if start == 0 || !start.is_multiple_of(size_of::<Dirent>()) || start > bytes.len() {
            return Err(FormatError::Value {
                what: "offset of the first name in a directory block",
                at: at.saturating_add(8),
                found: start as u64,
                expected: "a multiple of 12 within the block",
            });
        }
        Ok(DirBlock { bytes, at, entries: start / size_of::<Dirent>() })
    }

    /// Entry `n` of a block that is the `block`-th of its directory.
    fn dir_entry<'a>(
        &'a self,
        dir: &DirBlock<'a>,
        block: u64,
        n: usize,
    ) -> Result<DirEntry<'a>, FormatError> {
        let raw = dir.raw(n)?;
        let nid = Nid(raw.nid.get());
        let file_type = match FileType::from_raw(raw.file_type) {
            Some(file_type) => file_type,
            None => self.inode(nid)?.file_type,
        };
        let behind = n as u64 + 1;
        let next = if n + 1 < dir.entries { block << 16 | behind } else { (block + 1) << 16 };
        Ok(DirEntry { name: dir.name(n)?, nid, file_type, next })
    }
}

/// One block of a directory.
#[derive(Debug, Clone, Copy)]
struct DirBlock<'a> {
    bytes: &'a [u8],
    /// Its byte offset in the bootstrap, for messages.
    at: u64,
    entries: usize,
}

impl<'a> DirBlock<'a> {
    fn raw(&self, n: usize) -> Result<&'a Dirent, FormatError> {
        structure(self.bytes, "directory entry", (n * size_of::<Dirent>()) as u64)
    }

    /// The name of entry `n`, which is below `entries`.
    fn name(&self, n: usize) -> Result<&'a [u8], FormatError> {
        let start = usize::from(self.raw(n)?.name_offset.get());
        let last = n + 1 == self.entries;
        let end = if last { self.bytes.len() } else { usize::from(self.raw(n + 1)?.name_offset.get()) };
        let names_start = self.entries * size_of::<Dirent>();
        let name =
            self.bytes.get(start..end).filter(|_| start >= names_start).ok_or(FormatError::OutOfBounds {
                what: "name of a directory entry",
                start: self.at.saturating_add(start as u64),
                size: end.saturating_sub(start) as u64,
                limit: self.at.saturating_add(self.bytes.len() as u64),
            })?;
        // Only the last name may be shorter than its place: what follows it is padding.
        let used =
            if last { name.iter().position(|&byte| byte == 0).unwrap_or(name.len()) } else { name.len() };
        let name = name.get(..used).unwrap_or(name);
        let problem = if name.is_empty() {
            "is empty"
        } else if name.len() > MAX_NAME {
            "is over 255 bytes"
        } else if name.iter().any(|&byte| byte == b'/' || byte == 0) {
            "holds a slash or a NUL"
        } else {
            return Ok(name);
        };
        let shown = String::from_utf8_lossy(name.get(..name.len().min(80)).unwrap_or(&[])).into_owned();
        Err(FormatError::Name { what: "directory entry", name: shown, problem })
    }
}

/// Iterator over the names of a directory; ends after the first error.
#[derive(Debug)]
pub struct DirEntries<'a, B> {
    bootstrap: &'a Bootstrap<B>,
    dir: Inode,
    position: u64,
    block: Option<(u64, DirBlock<'a>)>,
    failed: bool,
}

impl<'a, B: AsRef<[u8]>> DirEntries<'a, B> {
    /// The entry at the position, `None` at the end.
    fn step(&mut self) -> Result<Option<DirEntry<'a>>, FormatError> {
        loop {
            let n = self.position >> 16;
            if n >= self.bootstrap.dir_blocks(&self.dir) {
                return Ok(None);
            }
            let block = match self.block {
                Some((at, block)) if at == n => block,
                _ => self.bootstrap.dir_block(&self.dir, n)?,
            };
            self.block = Some((n, block));
            let entry = usize::from(u16::try_from(self.position & 0xFFFF).unwrap_or(u16::MAX));
            if entry < block.entries {
                let found = self.bootstrap.dir_entry(&block, n, entry)?;
                self.position = found.next;
                return Ok(Some(found));
            }
            self.position = (n + 1) << 16;
        }
    }
}

impl<'a, B: AsRef<[u8]>> Iterator for DirEntries<'a, B> {
    type Item = Result<DirEntry<'a>, FormatError>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let step = self.step();
        self.failed = step.is_err();
        step.transpose()
    }
}

/// `size` bytes at `start`.
pub(crate) fn slice<'a>(
    bytes: &'a [u8],
    what: &'static str,
    start: u64,
    size: u64,
) -> Result<&'a [u8], FormatError> {
    let from = usize::try_from(start).ok();
    let to = start.checked_add(size).and_then(|end| usize::try_from(end).ok());
    let found = from.zip(to).and_then(|(from, to)| bytes.get(from..to));
    found.ok_or(FormatError::OutOfBounds { what, start, size, limit: bytes.len() as u64 })
}

/// The structure at `at`.
pub(crate) fn structure<'a, T>(bytes: &'a [u8], what: &'static str, at: u64) -> Result<&'a T, FormatError>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    let size = size_of::<T>() as u64;
    let found = slice(bytes, what, at, size)?;
    T::ref_from_bytes(found).ok().ok_or(FormatError::OutOfBounds {
        what,
        start: at,
        size,
        limit: bytes.len() as u64,
    })
}

/// The error of a field that is not what it should be, unless it is.
pub(crate) fn require(
    good: bool,
    what: &'static str,
    at: u64,
    found: u64,
    expected: &'static str,
) -> Result<(), FormatError> {
    if good { Ok(()) } else { Err(FormatError::Value { what, at, found, expected }) }
}

fn expect_type(inode: &Inode, expected: FileType) -> Result<(), FormatError> {
    if inode.file_type == expected {
        return Ok(());
    }
    Err(FormatError::WrongType { nid: inode.nid.0, found: inode.file_type.name(), expected: expected.name() })
}

/// An inode and the words that only its layout needs.
struct RawInode {
    inode: Inode,
    format: u16,
    union_value: u32,
}

/// Reads the fixed part of the inode at byte `at`.
fn raw_inode(bytes: &[u8], nid: Nid, at: u64) -> Result<RawInode, FormatError> {
    let format = u16::from_le_bytes(slice(bytes, "inode", at, 2)?.try_into().unwrap_or_default());
    let known = format & !0xF == 0 && matches!(format >> 1, 0 | 2 | 4);
    require(known, "format of an inode", at, format.into(), "data layout 0, 2 or 4")?;
    // Both forms in one shape.
    let (raw, fixed_size) = if format & 1 == 1 {
        (structure::<InodeExtended>(bytes, "inode", at)?.clone(), 64)
    } else {
        (extended(structure::<InodeCompact>(bytes, "inode", at)?), 32)
    };
    let mode = raw.mode.get();
    let file_type = FileType::from_mode(mode).ok_or(FormatError::Value {
        what: "mode of an inode",
        at: at.saturating_add(4),
        found: mode.into(),
        expected: "a file type",
    })?;
    let count = raw.xattr_count.get();
    require(count != 1, "xattr count of an inode", at.saturating_add(2), 1, "0 or at least 2")?;
    let nanos = raw.mtime_nanos.get();
    require(
        nanos < 1_000_000_000,
        "nanoseconds of an inode",
        at.saturating_add(40),
        nanos.into(),
        "below 10^9",
    )?;
    let union_value = raw.union_value.get();
    let data = match format >> 1 {
        0 => DataLayout::FlatPlain { block: union_value },
        2 => DataLayout::FlatInline { block: union_value },
        _ => DataLayout::Chunked,
    };
    let is_device = matches!(file_type, FileType::CharDevice | FileType::BlockDevice);
    let inode = Inode {
        nid,
        file_type,
        mode,
        uid: raw.uid.get(),
        gid: raw.gid.get(),
        size: raw.size.get(),
        nlink: raw.nlink.get(),
        mtime_secs: raw.mtime.get(),
        mtime_nanos: nanos,
        rdev: if is_device { union_value } else { 0 },
        xattr_size: if count == 0 { 0 } else { 12 + (u32::from(count) - 1) * 4 },
        fixed_size,
        data,
    };
    Ok(RawInode { inode, format, union_value })
}

/// A compact inode in the shape of an extended one; it has no modification time.
fn extended(compact: &InodeCompact) -> InodeExtended {
    InodeExtended {
        format: compact.format,
        xattr_count: compact.xattr_count,
        mode: compact.mode,
        reserved: 0.into(),
        size: u64::from(compact.size.get()).into(),
        union_value: compact.union_value,
        number: compact.number,
        uid: u32::from(compact.uid.get()).into(),
        gid: u32::from(compact.gid.get()).into(),
        mtime: 0.into(),
        mtime_nanos: 0.into(),
        nlink: u32::from(compact.nlink.get()).into(),
        reserved2: [0; 16],
    }
}

/// Checks both superblocks and the tables' places. Returns the number of devices too.
fn superblock(bytes: &[u8]) -> Result<(Superblock, u16), FormatError> {
    let base = SUPER_OFFSET as u64;
    let erofs: &ErofsSuper = structure(bytes, "superblock", base)?;
    let rafs: &RafsSuper = structure(bytes, "extended superblock", RAFS_SUPER_OFFSET)?;
    check_erofs(bytes, erofs)?;
    let block_size = 1u32 << erofs.block_bits;
    let flags = super_flags(rafs, block_size)?;
    let chunk_size = rafs.chunk_size.get();
    let chunk_ok = chunk_size.is_power_of_two() && (0x1000..=0x100_0000).contains(&chunk_size);
    require(
        chunk_ok,
        "chunk size",
        RAFS_SUPER_OFFSET + 20,
        chunk_size.into(),
        "a power of two, 4 KiB to 16 MiB",
    )?;
    check_tables(bytes, erofs, rafs)?;
    let superblock = Superblock {
        block_size,
        meta_start: u64::from(erofs.meta_block.get()) * u64::from(block_size),
        root: Nid(erofs.root_nid.get().into()),
        entries: erofs.entries.get(),
        flags,
        chunk_size,
        compressor: compressor_of(flags),
        digester: digester_of(flags),
        blob_table_offset: rafs.blob_table_offset.get(),
        chunk_table_offset: rafs.chunk_table_offset.get(),
        chunk_table_records: rafs.chunk_table_size.get() / 80,
        prefetch_table_offset: rafs.prefetch_table_offset.get(),
        prefetch_table_entries: rafs.prefetch_table_size.get() / 4,
    };
    Ok((superblock, erofs.devices.get()))
}

/// Fields of the EROFS superblock.
fn check_erofs(bytes: &[u8], erofs: &ErofsSuper) -> Result<(), FormatError> {
    let base = SUPER_OFFSET as u64;
    let devices = erofs.devices.get();
    let compat = erofs.feature_compat.get();
    require(erofs.magic.get() == MAGIC, "superblock magic", base, erofs.magic.get().into(), "0xe0f5e1e2")?;
    require(erofs.checksum.get() == 0, "superblock checksum", base + 4, erofs.checksum.get().into(), "0")?;
    require(compat & COMPAT_RAFS != 0, "compatible features", base + 8, compat.into(), "the bit 0x40000000")?;
    require(matches!(erofs.block_bits, 9 | 12), "block bits", base + 12, erofs.block_bits.into(), "9 or 12")?;
    require(erofs.entries.get() > 0, "number of entries", base + 16, 0, "at least 1")?;
    let blocks = erofs.blocks.get();
    require(
        devices > 0 || matches!(blocks, 0 | 4096),
        "number of blocks",
        base + 36,
        blocks.into(),
        "0 without blobs",
    )?;
    require(
        erofs.xattr_block.get() == 0,
        "shared xattr block",
        base + 44,
        erofs.xattr_block.get().into(),
        "0",
    )?;
    let incompat = erofs.feature_incompat.get();
    require(incompat == INCOMPAT, "incompatible features", base + 80, incompat.into(), "0xc")?;
    require(
        erofs.union_bits.get() == 0,
        "superblock field 84",
        base + 84,
        erofs.union_bits.get().into(),
        "0",
    )?;
    require(devices <= MAX_BLOBS, "number of devices", base + 86, devices.into(), "at most 254")?;
    let slot = erofs.device_slot.get();
    require(slot == DEVICE_SLOT, "position of device slots", base + 88, slot.into(), "11")?;
    let length = bytes.len() as u64;
    let unit = 1u64 << erofs.block_bits;
    require(length.is_multiple_of(unit), "length of the bootstrap", 0, length, "a multiple of the block size")
}

/// Superblock flags: known bits, one compressor, one digest, tarfs where blocks are small.
fn super_flags(rafs: &RafsSuper, block_size: u32) -> Result<SuperFlags, FormatError> {
    let (at, raw) = (RAFS_SUPER_OFFSET, rafs.flags.get());
    let flags = SuperFlags::from_bits(raw).ok_or(FormatError::Value {
        what: "superblock flags",
        at,
        found: raw,
        expected: "only known flags",
    })?;
    let compressors = SuperFlags::COMPRESSION_NONE
        | SuperFlags::COMPRESSION_LZ4
        | SuperFlags::COMPRESSION_GZIP
        | SuperFlags::COMPRESSION_ZSTD;
    let digests = SuperFlags::DIGEST_BLAKE3 | SuperFlags::DIGEST_SHA256;
    let one = |mask: SuperFlags| (flags & mask).bits().count_ones() == 1;
    require(one(compressors), "superblock flags", at, raw, "exactly one compression")?;
    require(one(digests), "superblock flags", at, raw, "exactly one digest")?;
    let tarfs = flags.contains(SuperFlags::TARFS);
    require(tarfs || block_size == 4096, "superblock flags", at, raw, "the tarfs flag with 512-byte blocks")?;
    Ok(flags)
}

fn compressor_of(flags: SuperFlags) -> Compressor {
    if flags.contains(SuperFlags::COMPRESSION_NONE) {
        Compressor::None
    } else if flags.contains(SuperFlags::COMPRESSION_LZ4) {
        Compressor::Lz4Block
    } else if flags.contains(SuperFlags::COMPRESSION_GZIP) {
        Compressor::Gzip
    } else {
        Compressor::Zstd
    }
}

fn digester_of(flags: SuperFlags) -> DigestAlgorithm {
    if flags.contains(SuperFlags::DIGEST_SHA256) { DigestAlgorithm::Sha256 } else { DigestAlgorithm::Blake3 }
}

/// Tables lie within the file and do not overlap each other or the superblocks.
fn check_tables(bytes: &[u8], erofs: &ErofsSuper, rafs: &RafsSuper) -> Result<(), FormatError> {
    let base = RAFS_SUPER_OFFSET;
    let devices = u64::from(erofs.devices.get());
    let (blob_at, blob_size) = (rafs.blob_table_offset.get(), u64::from(rafs.blob_table_size.get()));
    let (chunk_at, chunk_size) = (rafs.chunk_table_offset.get(), rafs.chunk_table_size.get());
    let (prefetch_at, prefetch_size) =
        (rafs.prefetch_table_offset.get(), u64::from(rafs.prefetch_table_size.get()));
    let placed = |at: u64| at >= 4096 && at.is_multiple_of(4096);
    require(
        blob_size == devices * 256,
        "size of the blob table",
        base + 16,
        blob_size,
        "256 bytes for each device",
    )?;
    require(placed(blob_at), "offset of the blob table", base + 8, blob_at, "a multiple of 4096")?;
    require(
        chunk_size.is_multiple_of(80),
        "size of the chunk table",
        base + 32,
        chunk_size,
        "a multiple of 80",
    )?;
    require(placed(chunk_at), "offset of the chunk table", base + 24, chunk_at, "a multiple of 4096")?;
    require(
        prefetch_size.is_multiple_of(4),
        "size of the prefetch table",
        base + 48,
        prefetch_size,
        "a multiple of 4",
    )?;
    let slots = SLOTS_OFFSET + devices * 128;
    let mut places = [
        ("device slots", 0, slots),
        ("blob table", blob_at, blob_size),
        ("chunk table", chunk_at, chunk_size),
        ("prefetch table", prefetch_at, prefetch_size),
    ];
    for (what, at, size) in places {
        slice(bytes, what, at, size)?;
    }
    places.sort_by_key(|&(_, at, _)| at);
    let mut end = 0;
    for (what, at, size) in places.into_iter().filter(|&(_, _, size)| size > 0) {
        require(at >= end, what, base, at, "a place behind other tables")?;
        end = at + size;
    }
    Ok(())
}

/// Reads device slots and blob table.
fn blobs(bytes: &[u8], superblock: &Superblock, devices: u16) -> Result<Vec<Blob>, FormatError> {
    (0..u32::from(devices))
        .map(|n| {
            let slot_at = SLOTS_OFFSET + u64::from(n) * 128;
            let slot: &DeviceSlot = structure(bytes, "device slot", slot_at)?;
            require(slot.blocks.get() > 0, "blocks of a device", slot_at + 64, 0, "at least 1")?;
            let at = superblock.blob_table_offset + u64::from(n) * 256;
            let raw: &BlobEntry = structure(bytes, "blob table entry", at)?;
            // Builders fill both alike; an empty slot is known to be accepted too.
            let same = slot.blob_id == raw.blob_id || slot.blob_id == [0; 64];
            require(same, "id in a device slot", slot_at, u64::from(n), "the id in the blob table")?;
            let blob = blob(raw, at, n, superblock)?;
            let blocks = blob.uncompressed_size.div_ceil(superblock.block_size.into());
            let found = slot.blocks.get().into();
            require(
                found == blocks,
                "blocks of a device",
                slot_at + 64,
                found,
                "the size in the blob table",
            )?;
            Ok(blob)
        })
        .collect()
}

/// One entry of the blob table, the `n`-th, at byte `at`.
fn blob(raw: &BlobEntry, at: u64, n: u32, superblock: &Superblock) -> Result<Blob, FormatError> {
    require(
        raw.index.get() == n,
        "index of a blob",
        at + 64,
        raw.index.get().into(),
        "its position in the table",
    )?;
    let chunk_size = raw.chunk_size.get();
    let same = chunk_size == superblock.chunk_size;
    require(same, "chunk size of a blob", at + 68, chunk_size.into(), "that of the superblock")?;
    let features = blob_features(raw, at, superblock)?;
    let blob = Blob {
        id: blob_id(&raw.blob_id)?,
        chunk_size,
        chunk_count: raw.chunk_count.get(),
        compressor: compressor(raw.compressor.get(), at + 76)?,
        digester: DigestAlgorithm::from_raw(raw.digester.get()).ok_or(FormatError::Value {
            what: "digest of a blob",
            at: at + 80,
            found: raw.digester.get().into(),
            expected: "0 or 1",
        })?,
        features,
        compressed_size: raw.compressed_size.get(),
        uncompressed_size: raw.uncompressed_size.get(),
        meta: BlobMetaLocation {
            compressor: compressor(raw.meta_compressor.get(), at + 108)?,
            compressed_offset: raw.meta_offset.get(),
            compressed_size: raw.meta_compressed_size.get(),
            uncompressed_size: raw.meta_uncompressed_size.get(),
        },
        toc_size: raw.toc_size.get(),
        toc_digest: Digest(raw.toc_digest),
        meta_digest: Digest(raw.meta_digest),
        meta_size: raw.meta_size.get(),
        cipher_iv: raw.cipher_iv.get(),
        cipher: Cipher::from_raw(raw.cipher.get()).ok_or(FormatError::Value {
            what: "cipher of a blob",
            at: at + 216,
            found: raw.cipher.get().into(),
            expected: "0 to 3",
        })?,
    };
    check_blob_sizes(&blob, at)?;
    Ok(blob)
}

fn compressor(raw: u32, at: u64) -> Result<Compressor, FormatError> {
    Compressor::from_raw(raw).ok_or(FormatError::Value {
        what: "compression of a blob",
        at,
        found: raw.into(),
        expected: "0 to 3",
    })
}

fn blob_features(raw: &BlobEntry, at: u64, superblock: &Superblock) -> Result<BlobFeatures, FormatError> {
    let bits = raw.features.get();
    let found = bits.into();
    require(
        bits & 0x8000_F000 == 0,
        "features of a blob",
        at + 84,
        found,
        "only features known to this version",
    )?;
    let features = BlobFeatures::from_bits_retain(bits);
    let tarfs = superblock.flags.contains(SuperFlags::TARFS);
    let agree = features.contains(BlobFeatures::TARFS) == tarfs;
    require(agree, "features of a blob", at + 84, found, "the tarfs bit as in the superblock")?;
    let aligned = features.contains(BlobFeatures::ALIGNED) != tarfs;
    require(aligned, "features of a blob", at + 84, found, "aligned chunks, and none in a tarfs")?;
    Ok(features)
}

/// A zero-padded id.
fn blob_id(raw: &[u8; 64]) -> Result<BlobId, FormatError> {
    let end = raw.iter().position(|&byte| byte == 0).unwrap_or(raw.len());
    let id = raw.get(..end).unwrap_or(raw);
    match std::str::from_utf8(id) {
        Ok(id) => BlobId::new(id),
        Err(_) => Err(FormatError::Name {
            what: "blob id",
            name: String::from_utf8_lossy(id).into_owned(),
            problem: "is not UTF-8",
        }),
    }
}

/// Limits of a blob, and what its chunk table must measure.
fn check_blob_sizes(blob: &Blob, at: u64) -> Result<(), FormatError> {
    let count = blob.chunk_count;
    let (compressed, uncompressed) = (blob.compressed_size, blob.uncompressed_size);
    require((1..=MAX_CHUNKS).contains(&count), "chunks of a blob", at + 72, count.into(), "1 to 2^24")?;
    require(compressed <= MAX_COMPRESSED, "compressed size of a blob", at + 88, compressed, "at most 2^40")?;
    require(
        uncompressed <= MAX_UNCOMPRESSED,
        "uncompressed size of a blob",
        at + 96,
        uncompressed,
        "at most 2^44",
    )?;
    if blob.features.contains(BlobFeatures::TARFS) {
        return Ok(());
    }
    let meta = &blob.meta;
    let stored_ok = meta.compressed_size <= meta.uncompressed_size;
    require(stored_ok, "stored size of a chunk table", at + 120, meta.compressed_size, "at most its size")?;
    let context = BlobFeatures::BATCH | BlobFeatures::ZRAN | BlobFeatures::ENCRYPTED;
    let (entry, size) = (u64::from(count), meta.uncompressed_size);
    let good = if !blob.features.contains(BlobFeatures::CHUNK_INFO_V2) {
        size == entry * 16
    } else if blob.features.intersects(context) {
        size >= entry * 24
    } else {
        size == entry * 24
    };
    require(good, "size of a chunk table", at + 128, size, "an entry for each chunk")?;
    let end = meta.compressed_offset.checked_add(meta.compressed_size);
    let placed = end.is_some_and(|end| end <= MAX_COMPRESSED);
    require(placed, "offset of a chunk table", at + 112, meta.compressed_offset, "a place within the blob")
}
