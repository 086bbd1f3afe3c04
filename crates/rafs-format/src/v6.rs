//! Reading a v6 bootstrap, which is an EROFS image. Everything but superblock and tables is checked when it is looked at.

mod open;

pub(crate) use open::{MAGIC, blobs, mapped_block, superblock};

use crate::inode::DataLayout;
use crate::layout::{ChunkIndexEntry, Dirent, InodeCompact, InodeExtended};
use crate::read::{MAX_SYMLINK, checked_name, require, slice, structure};
use crate::xattr::Xattrs;
use crate::{ChunkRef, DirEntry, FileType, FormatError, Inode, Nid, Superblock};
use std::borrow::Cow;
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

/// A v6 bootstrap, its superblock checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub bytes: &'a [u8],
    pub superblock: &'a Superblock,
    /// Number of blobs.
    pub blobs: usize,
}

impl<'a> Reader<'a> {
    /// The inode at `nid`, its body (xattrs, inline data, chunk references) checked to lie within the file.
    pub(crate) fn inode(self, nid: Nid) -> Result<Inode, FormatError> {
        let at = self.inode_offset(nid)?;
        let raw = raw_inode(self.bytes, nid, at)?;
        self.check_body(&raw.inode, at, raw.format, raw.union_value)?;
        Ok(raw.inode)
    }

    /// Binary search for `name` in a directory: blocks first, then entries.
    #[inline]
    pub(crate) fn lookup(self, dir: &Inode, name: &[u8]) -> Result<Option<DirEntry<'a>>, FormatError> {
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
    pub(crate) fn symlink_target(self, link: &Inode) -> Result<Cow<'a, [u8]>, FormatError> {
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
    pub(crate) fn xattrs(self, inode: &Inode) -> Result<Xattrs<'a>, FormatError> {
        let at = self.inode_offset(inode.nid)?.saturating_add(u64::from(inode.fixed_size));
        Xattrs::parse(slice(self.bytes, "xattrs", at, u64::from(inode.xattr_size))?, at)
    }

    /// Bytes of the bootstrap that an inode and all that belongs to it take.
    pub(crate) fn extent(self, inode: &Inode) -> u64 {
        let data = match inode.file_type {
            FileType::Regular => self.superblock.chunk_count(inode).saturating_mul(8),
            FileType::Directory | FileType::Symlink => inode.size,
            FileType::CharDevice | FileType::BlockDevice | FileType::Fifo | FileType::Socket => 0,
        };
        inode.body_offset().saturating_add(data)
    }

    /// The `n`-th chunk reference of a regular file.
    pub(crate) fn chunk_ref(self, file: &Inode, n: u64) -> Result<ChunkRef, FormatError> {
        let at = self.chunk_array(file)?.saturating_add(n.saturating_mul(8));
        let raw: &ChunkIndexEntry = structure(self.bytes, "chunk index entry", at)?;
        let blob = u32::from(raw.device).checked_sub(1).filter(|&blob| (blob as usize) < self.blobs);
        let blob = blob.ok_or(FormatError::Value {
            what: "device of a chunk",
            at: at.saturating_add(2),
            found: raw.device.into(),
            expected: "a device of the image, counted from 1",
        })?;
        let chunk = u32::from(raw.chunk_low.get()) | u32::from(raw.chunk_high) << 16;
        Ok(ChunkRef { blob, chunk, block: raw.block.get() })
    }

    /// Inodes of the prefetch table in their order.
    pub(crate) fn prefetch(self) -> &'a [U32] {
        let size = u64::from(self.superblock.prefetch_table_entries) * 4;
        let table = slice(self.bytes, "prefetch table", self.superblock.prefetch_table_offset, size);
        table.ok().and_then(|bytes| <[U32]>::ref_from_bytes(bytes).ok()).unwrap_or(&[])
    }

    /// First byte of an inode.
    pub(crate) fn inode_offset(self, nid: Nid) -> Result<u64, FormatError> {
        nid.byte_offset(self.superblock.meta_start).ok_or(FormatError::OutOfBounds {
            what: "inode",
            start: nid.0,
            size: 32,
            limit: self.bytes.len() as u64,
        })
    }

    /// Byte offset of the `n`-th block from `block` on.
    fn block_offset(self, block: u32, n: u64) -> u64 {
        let block_size = u64::from(self.superblock.block_size);
        u64::from(block).saturating_add(n).saturating_mul(block_size)
    }

    /// First byte of the chunk references of a file.
    fn chunk_array(self, file: &Inode) -> Result<u64, FormatError> {
        let end = self.inode_offset(file.nid)?.saturating_add(file.body_offset());
        Ok(end.saturating_add(7) & !7)
    }

    /// Checks that everything that belongs to an inode lies within the file.
    fn check_body(self, inode: &Inode, at: u64, format: u16, union_value: u32) -> Result<(), FormatError> {
        let bytes = self.bytes;
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
    fn check_chunks(self, inode: &Inode, at: u64, union_value: u32) -> Result<(), FormatError> {
        if union_value & !0x1F != 0x20 {
            return Err(FormatError::Value {
                what: "chunk format of an inode",
                at: at.saturating_add(16),
                found: union_value.into(),
                expected: "0x20 and a chunk size",
            });
        }
        let size = self.superblock.chunk_count(inode).saturating_mul(8);
        slice(self.bytes, "chunk index of an inode", self.chunk_array(inode)?, size).map(|_| ())
    }

    /// Extent of the blocks and the inline tail of a directory or symlink.
    fn check_flat(self, inode: &Inode, at: u64) -> Result<(), FormatError> {
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
                slice(self.bytes, "data of an inode", self.block_offset(block, 0), inode.size)?;
            }
            DataLayout::FlatInline { block } => {
                let tail = inode.size % block_size;
                let full = inode.size - tail;
                if full > 0 {
                    slice(self.bytes, "data of an inode", self.block_offset(block, 0), full)?;
                }
                let start = at.saturating_add(inode.body_offset());
                slice(self.bytes, "inline data of an inode", start, tail)?;
                if tail > 0 && start / block_size != (start + tail - 1) / block_size {
                    return Err(FormatError::Value {
                        what: "end of inline data of an inode",
                        at: start,
                        found: start + tail,
                        expected: "an end in the block it starts in",
                    });
                }
            }
            DataLayout::Chunked | DataLayout::Children { .. } | DataLayout::Behind => {}
        }
        Ok(())
    }

    /// Blocks of a directory or symlink, the last one perhaps short.
    fn dir_blocks(self, dir: &Inode) -> u64 {
        dir.size.div_ceil(u64::from(self.superblock.block_size))
    }

    /// Bytes of the `n`-th block of flat data; the last may be short.
    fn flat_block(self, inode: &Inode, n: u64) -> Result<&'a [u8], FormatError> {
        let (start, size) = self.flat_block_place(inode, n)?;
        slice(self.bytes, "data of an inode", start, size)
    }

    /// Where the `n`-th block of flat data lies, and its length.
    fn flat_block_place(self, inode: &Inode, n: u64) -> Result<(u64, u64), FormatError> {
        let block_size = u64::from(self.superblock.block_size);
        let size = inode.size.saturating_sub(n.saturating_mul(block_size)).min(block_size);
        Ok(match inode.data {
            DataLayout::FlatInline { .. } if size < block_size => {
                (self.inode_offset(inode.nid)?.saturating_add(inode.body_offset()), size)
            }
            DataLayout::FlatPlain { block } | DataLayout::FlatInline { block } => {
                (self.block_offset(block, n), size)
            }
            DataLayout::Chunked | DataLayout::Children { .. } | DataLayout::Behind => {
                return Err(FormatError::WrongType {
                    nid: inode.nid.0,
                    found: inode.file_type.name(),
                    expected: FileType::Directory.name(),
                });
            }
        })
    }

    /// The `n`-th block of a directory, its entry count checked.
    #[inline]
    fn dir_block(self, dir: &Inode, n: u64) -> Result<DirBlock<'a>, FormatError> {
        let (at, size) = self.flat_block_place(dir, n)?;
        let bytes = slice(self.bytes, "directory block", at, size)?;
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
    fn dir_entry(self, dir: &DirBlock<'a>, block: u64, n: usize) -> Result<DirEntry<'a>, FormatError> {
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
        checked_name(name)
    }
}

/// A position in a directory.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    reader: Reader<'a>,
    dir: Inode,
    position: u64,
    block: Option<(u64, DirBlock<'a>)>,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(reader: Reader<'a>, dir: &Inode, position: u64) -> Self {
        Self { reader, dir: *dir, position, block: None }
    }

    /// The entry at the position, `None` at the end.
    #[inline]
    pub(crate) fn step(&mut self) -> Result<Option<DirEntry<'a>>, FormatError> {
        loop {
            let n = self.position >> 16;
            if n >= self.reader.dir_blocks(&self.dir) {
                return Ok(None);
            }
            let block = match self.block {
                Some((at, block)) if at == n => block,
                _ => self.reader.dir_block(&self.dir, n)?,
            };
            self.block = Some((n, block));
            let entry = usize::from(u16::try_from(self.position & 0xFFFF).unwrap_or(u16::MAX));
            if entry < block.entries {
                let found = self.reader.dir_entry(&block, n, entry)?;
                self.position = found.next;
                return Ok(Some(found));
            }
            self.position = (n + 1) << 16;
        }
    }
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
