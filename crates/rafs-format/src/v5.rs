//! Reading a v5 bootstrap. Everything but superblock and tables is checked when it is looked at.
//!
//! Inodes are found through a table, by position counted from 1. A file with several names has a record for each, all with the number of
//! the first; that number is the [`Nid`], so that all names lead to one inode. Which other record a name has matters to its directory only.

mod chunks;
mod open;

pub(crate) use chunks::{ChunkPlaces, check_chunks};
pub(crate) use open::{MAGIC, MAX_BLOBS, MAX_LENGTH, Tables, VERSION, blobs, superblock};

use crate::inode::DataLayout;
use crate::layout::{ChunkRecord, InodeV5};
use crate::read::{MAX_SYMLINK, bad_name, checked_name, require, slice, structure};
use crate::xattr::Xattrs;
use crate::{Chunk, ChunkRef, Digest, DirEntry, FileType, FormatError, Inode, Nid, Superblock};
use std::mem::offset_of;
use zerocopy::little_endian::{U32, U64};

/// Flag of an inode that has xattrs.
pub(crate) const HAS_XATTR: u64 = 4;
/// Bytes of an inode before its name.
const FIXED: u64 = size_of::<InodeV5>() as u64;
/// Bytes of a chunk record.
const RECORD: u64 = size_of::<ChunkRecord>() as u64;

/// A v5 bootstrap, its superblock and tables checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub bytes: &'a [u8],
    pub superblock: &'a Superblock,
    pub tables: &'a Tables,
}

/// A record of the inode table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    raw: &'a InodeV5,
    /// Its first byte in the bootstrap.
    at: u64,
    file_type: FileType,
}

impl<'a> Reader<'a> {
    /// The inode with this number, its body checked to lie within the file.
    pub(crate) fn inode(self, nid: Nid) -> Result<Inode, FormatError> {
        let record = self.record(nid.0)?;
        let number = record.raw.number.get();
        require(number == nid.0, "number of an inode", record.at + 40, number, "its position in the table")?;
        self.inode_of(&record)
    }

    /// The record at this position of the inode table, counted from 1. Its fixed part is within the file, nothing else.
    pub(crate) fn record(self, position: u64) -> Result<Record<'a>, FormatError> {
        let limit = self.superblock.entries.saturating_add(1);
        let (what, size) = ("inode number", 1);
        if position == 0 || position >= limit {
            return Err(FormatError::OutOfBounds { what, start: position, size, limit });
        }
        let entry = self.tables.inode_table.saturating_add((position - 1).saturating_mul(4));
        let at = u64::from(structure::<U32>(self.bytes, "entry of the inode table", entry)?.get()) << 3;
        require(at >= open::SUPER_SIZE, "offset of an inode", entry, at, "a place behind the superblock")?;
        let raw: &InodeV5 = structure(self.bytes, "inode", at)?;
        let mode = raw.mode.get();
        let file_type = u16::try_from(mode).ok().and_then(FileType::from_mode);
        let what = "mode of an inode";
        let (at_mode, found) = (at + 60, mode.into());
        let expected = "a file type";
        let file_type = file_type.ok_or(FormatError::Value { what, at: at_mode, found, expected })?;
        Ok(Record { raw, at, file_type })
    }

    /// All of a record as an inode, its body checked to lie within the file.
    pub(crate) fn inode_of(self, record: &Record<'a>) -> Result<Inode, FormatError> {
        let Record { raw, at, file_type } = *record;
        let nanos = raw.mtime_nanos.get();
        require(nanos < 1_000_000_000, "nanoseconds of an inode", at + 108, nanos.into(), "below 10^9")?;
        let target = record.check_target()?;
        let fixed_size = FIXED + padded(raw.name_size.get().into()) + padded(target);
        let xattr_size = self.xattr_size(record, fixed_size)?;
        let is_device = matches!(file_type, FileType::CharDevice | FileType::BlockDevice);
        let inode = Inode {
            nid: Nid(raw.number.get()),
            file_type,
            // Checked when the record was found.
            mode: u16::try_from(raw.mode.get()).unwrap_or(0),
            uid: raw.uid.get(),
            gid: raw.gid.get(),
            size: if file_type == FileType::Symlink { target } else { raw.size.get() },
            nlink: raw.nlink.get(),
            mtime_secs: raw.mtime.get(),
            mtime_nanos: nanos,
            rdev: if is_device { raw.rdev.get() } else { 0 },
            xattr_size,
            // Two 16-bit lengths and some padding.
            fixed_size: u32::try_from(fixed_size).unwrap_or(u32::MAX),
            data: self.data(record)?,
        };
        slice(self.bytes, "body of an inode", at, self.extent(&inode))?;
        Ok(inode)
    }

    /// Bytes of the xattr area of a record, which starts `from` bytes behind the record's start; with its head and padding.
    fn xattr_size(self, record: &Record<'a>, from: u64) -> Result<u32, FormatError> {
        if record.raw.flags.get() & HAS_XATTR == 0 {
            return Ok(0);
        }
        let at = record.at + from;
        let pairs = structure::<U64>(self.bytes, "size of xattrs", at)?.get();
        let size = pairs.checked_next_multiple_of(8).and_then(|size| size.checked_add(8));
        let size = size.and_then(|size| u32::try_from(size).ok());
        let limit = self.bytes.len() as u64;
        size.ok_or(FormatError::OutOfBounds { what: "xattrs of an inode", start: at, size: pairs, limit })
    }

    /// Where the data of an inode is: children within the inode table, as many chunks as the size needs.
    fn data(self, record: &Record<'a>) -> Result<DataLayout, FormatError> {
        let Record { raw, at, file_type } = *record;
        let (first, count) = (raw.child_index.get(), raw.child_count.get());
        match file_type {
            FileType::Directory => {
                let end = u64::from(first) + u64::from(count);
                let inside = u64::from(first) > raw.number.get() && end <= self.superblock.entries + 1;
                let expected = "numbers above the directory's own, within the inode table";
                require(count == 0 || inside, "first child of a directory", at + 92, first.into(), expected)?;
                Ok(DataLayout::Children { first, count })
            }
            FileType::Regular => {
                let needed = raw.size.get().div_ceil(self.superblock.chunk_size.into());
                let expected = "the size divided by the chunk size";
                let good = u64::from(count) == needed;
                require(good, "number of chunks of an inode", at + 96, count.into(), expected)?;
                Ok(DataLayout::Behind)
            }
            _ => Ok(DataLayout::Behind),
        }
    }

    /// First byte of the record of an inode.
    fn offset(self, nid: Nid) -> Result<u64, FormatError> {
        Ok(self.record(nid.0)?.at)
    }

    /// Binary search for `name` among the children; `.` and `..` are the directory and its parent.
    pub(crate) fn lookup(self, dir: &Inode, name: &[u8]) -> Result<Option<DirEntry<'a>>, FormatError> {
        let cursor = Cursor::new(self, dir, 0)?;
        let dots = [b".".as_slice(), b".."].iter().position(|dot| *dot == name);
        let position = match dots.and_then(|dot| cursor.dots.get(dot)) {
            Some(&position) => Some(position),
            None => cursor.find(name)?.map(|child| cursor.position_of(child)),
        };
        position.and_then(|position| cursor.at(position).transpose()).transpose()
    }

    /// Target of a symbolic link.
    pub(crate) fn symlink_target(self, link: &Inode) -> Result<&'a [u8], FormatError> {
        let end = self.offset(link.nid)? + u64::from(link.fixed_size);
        slice(self.bytes, "symlink target", end.saturating_sub(padded(link.size)), link.size)
    }

    /// Extended attributes in stored order.
    pub(crate) fn xattrs(self, inode: &Inode) -> Result<Xattrs<'a>, FormatError> {
        if inode.xattr_size == 0 {
            return Ok(Xattrs::of_v5(&[], 0));
        }
        let at = self.offset(inode.nid)? + u64::from(inode.fixed_size);
        let size = structure::<U64>(self.bytes, "size of xattrs", at)?.get();
        Ok(Xattrs::of_v5(slice(self.bytes, "xattrs", at + 8, size)?, at + 8))
    }

    /// The digest stored in the inode.
    pub(crate) fn stated_digest(self, inode: &Inode) -> Result<Digest, FormatError> {
        Ok(Digest(self.record(inode.nid.0)?.raw.digest))
    }

    /// Bytes of the bootstrap that an inode and all that belongs to it take.
    pub(crate) fn extent(self, inode: &Inode) -> u64 {
        let records = match inode.file_type {
            FileType::Regular => self.superblock.chunk_count(inode).saturating_mul(RECORD),
            _ => 0,
        };
        inode.body_offset().saturating_add(records)
    }

    /// First byte of the `n`-th chunk record of a regular file, which has so many.
    fn chunk_offset(self, file: &Inode, n: u64) -> Result<u64, FormatError> {
        let first = self.offset(file.nid)?.saturating_add(file.body_offset());
        Ok(first.saturating_add(n.saturating_mul(RECORD)))
    }

    /// The `n`-th chunk of a regular file, which has so many, and the byte offset of its record.
    pub(crate) fn chunk(self, file: &Inode, n: u64) -> Result<(Chunk, u64), FormatError> {
        let at = self.chunk_offset(file, n)?;
        let chunk = Chunk::read(self.bytes, at)?;
        let expected = n.saturating_mul(self.superblock.chunk_size.into());
        let found = chunk.file_offset;
        let field = at + offset_of!(ChunkRecord, file_offset) as u64;
        let whose = "the place of the chunk in the file";
        require(found == expected, "file offset of a chunk record", field, found, whose)?;
        Ok((chunk, at))
    }

    /// The `n`-th chunk of a regular file, which has so many, by number.
    pub(crate) fn chunk_ref(self, file: &Inode, n: u64) -> Result<ChunkRef, FormatError> {
        let (chunk, _) = self.chunk(file, n)?;
        // There is no block to agree with.
        Ok(ChunkRef { blob: chunk.blob, chunk: chunk.index, block: 0 })
    }

    /// Numbers of the prefetch table, which ends with a 0 if not before.
    pub(crate) fn prefetch(self) -> &'a [U32] {
        let sb = self.superblock;
        let size = u64::from(sb.prefetch_table_entries) * 4;
        let table = slice(self.bytes, "prefetch table", sb.prefetch_table_offset, size).unwrap_or(&[]);
        let all = <[U32] as zerocopy::FromBytes>::ref_from_bytes(table).unwrap_or(&[]);
        all.split(|number| number.get() == 0).next().unwrap_or(all)
    }

    /// Name of a record. `.` and `..` are no names: they are not stored.
    fn name(self, record: &Record<'a>) -> Result<&'a [u8], FormatError> {
        let size = record.raw.name_size.get().into();
        let name = checked_name(slice(self.bytes, "name of an inode", record.at + FIXED, size)?)?;
        if matches!(name, b"." | b"..") {
            return Err(bad_name(name, "is not a name to be stored"));
        }
        Ok(name)
    }

    /// Positions in the inode table of the children of a directory: half-open.
    pub(crate) fn children(dir: &Inode) -> (u32, u32) {
        match dir.data {
            DataLayout::Children { first, count } => (first, first.saturating_add(count)),
            _ => (0, 0),
        }
    }

    /// Checks that the record at `position` says to be in the directory `dir`.
    pub(crate) fn check_parent(self, position: u32, dir: Nid) -> Result<(), FormatError> {
        let record = self.record(position.into())?;
        let parent = record.raw.parent.get();
        require(parent == dir.0, "parent of an inode", record.at + 32, parent, "the directory it is in")
    }
}

impl Record<'_> {
    /// Length of the symlink target: of symlinks, and of nothing else.
    fn check_target(&self) -> Result<u64, FormatError> {
        let size = self.raw.symlink_size.get().into();
        let good = match self.file_type {
            FileType::Symlink => (1..=MAX_SYMLINK).contains(&size),
            _ => size == 0,
        };
        let expected = "1 to 4095 for a symlink, 0 for anything else";
        require(good, "size of a symlink target", self.at + 102, size, expected)?;
        Ok(size)
    }
}

/// With the padding behind it.
pub(crate) fn padded(size: u64) -> u64 {
    size.next_multiple_of(8)
}

/// A position in a directory: children in the order of the inode table, `.` and `..` among them where they sort.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    reader: Reader<'a>,
    dir: Nid,
    parent: Nid,
    /// Position of the first child in the inode table, and their number.
    first: u32,
    count: u32,
    /// Positions of `.` and `..`, the latter behind the former.
    dots: [u64; 2],
    position: u64,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(reader: Reader<'a>, dir: &Inode, position: u64) -> Result<Self, FormatError> {
        let (first, end) = Reader::children(dir);
        let parent = match reader.record(dir.nid.0)?.raw.parent.get() {
            0 => dir.nid,
            parent => Nid(parent),
        };
        let count = end.saturating_sub(first);
        let mut cursor = Self { reader, dir: dir.nid, parent, first, count, dots: [0, 0], position };
        let dot = cursor.behind(b".")?;
        cursor.dots = [dot.into(), u64::from(cursor.behind(b"..")?.max(dot)) + 1];
        Ok(cursor)
    }

    /// The record of a child, counted from 0.
    fn child(&self, n: u32) -> Result<Record<'a>, FormatError> {
        self.reader.record(u64::from(self.first) + u64::from(n))
    }

    /// Children whose names are before `name`, as far as a binary search can tell.
    fn behind(&self, name: &[u8]) -> Result<u32, FormatError> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.reader.name(&self.child(middle)?)? < name {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// The child called `name`.
    fn find(&self, name: &[u8]) -> Result<Option<u32>, FormatError> {
        let n = self.behind(name)?;
        let is_it = n < self.count && self.reader.name(&self.child(n)?)? == name;
        Ok(is_it.then_some(n))
    }

    /// Where a child stands among all entries.
    fn position_of(&self, child: u32) -> u64 {
        let [dot, dot_dot] = self.dots;
        let position = u64::from(child);
        let position = position + u64::from(position >= dot);
        position + u64::from(position >= dot_dot)
    }

    /// The entry at `position`; `None` behind the last.
    fn at(&self, position: u64) -> Result<Option<DirEntry<'a>>, FormatError> {
        let [dot, dot_dot] = self.dots;
        if position >= u64::from(self.count) + 2 {
            return Ok(None);
        }
        let next = position + 1;
        let directory =
            |name: &'static [u8], nid| DirEntry { name, nid, file_type: FileType::Directory, next };
        if position == dot {
            return Ok(Some(directory(b".", self.dir)));
        }
        if position == dot_dot {
            return Ok(Some(directory(b"..", self.parent)));
        }
        let child = position - u64::from(position > dot) - u64::from(position > dot_dot);
        // Below the number of children, which has 32 bits.
        let record = self.child(u32::try_from(child).unwrap_or(u32::MAX))?;
        let (nid, file_type) = (Nid(record.raw.number.get()), record.file_type);
        Ok(Some(DirEntry { name: self.reader.name(&record)?, nid, file_type, next }))
    }

    /// The entry at the position, `None` at the end.
    pub(crate) fn step(&mut self) -> Result<Option<DirEntry<'a>>, FormatError> {
        let found = self.at(self.position)?;
        self.position = found.map_or(self.position, |entry| entry.next);
        Ok(found)
    }
}
