//! The input of the writer: a whole file system as tables, in numbering order.
//!
//! *Numbering order*: the root, then all children of it in byte order of their names, then for each child directory in that order
//! the same again (its children, then their subtrees). So the children of one directory stand next to each other and entry `k` has number
//! `k + 1`. No structure per chunk or name: both are ranges of shared tables.

use crate::read::require;
use crate::{Chunk, FileType, FormatError};
use std::ops::Range;

/// A range of [`Tree::bytes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// Length in bytes.
    pub len: u32,
}

/// One directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Name, a span of [`Tree::bytes`]; empty for the root.
    pub name: Span,
    /// What it names: a position in [`Tree::inodes`]. Several entries naming one regular file are hard links.
    pub inode: u32,
    /// Children of a directory: positions in [`Tree::entries`]; empty for others.
    pub children: (u32, u32),
}

impl Entry {
    /// Children as a range of positions in [`Tree::entries`].
    pub fn children(&self) -> Range<usize> {
        self.children.0 as usize..self.children.1 as usize
    }
}

/// One inode to write. Link counts and directory sizes are computed by the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NewInode {
    /// Full `st_mode` with type bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size of a regular file in bytes; ignored for all others.
    pub size: u64,
    /// Modification time, seconds.
    pub mtime_secs: i64,
    /// Modification time, nanoseconds.
    pub mtime_nanos: u32,
    /// Device number on disk ([`crate::inode::encode_rdev`]); 0 for all but devices.
    pub rdev: u32,
    /// Symlink target, a span of [`Tree::bytes`]; empty for others.
    pub target: Span,
    /// Inline xattr area from [`crate::xattr::encode`], a span of [`Tree::bytes`]; empty for none.
    pub xattrs: Span,
    /// First of the file's chunks in [`Tree::file_chunks`]; it has `size` / chunk size, rounded up.
    pub first_chunk: u32,
}

/// A whole file system, ready to be written.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// All entries in numbering order; the root is entry 0.
    pub entries: Vec<Entry>,
    /// Inodes, in any order.
    pub inodes: Vec<NewInode>,
    /// Distinct chunks that files use, one per (digest, blob), in any order.
    pub chunks: Vec<Chunk>,
    /// Runs of positions in `chunks`, one run per regular file.
    pub file_chunks: Vec<u32>,
    /// Names, symlink targets and xattr areas.
    pub bytes: Vec<u8>,
    /// Is it a chunk dictionary? Then files have a place for a whole chunk for each of their chunks, which may be shorter.
    pub is_dictionary: bool,
}

impl Tree {
    /// The bytes of a span; empty for a span outside the table (which [`Tree::validate`] refuses).
    pub fn span(&self, span: Span) -> &[u8] {
        let start = span.start as usize;
        self.bytes.get(start..start.saturating_add(span.len as usize)).unwrap_or(&[])
    }

    /// Checks everything the writer relies on: order and uniqueness of names, name and target lengths, ranges, types,
    /// chunk counts, and that only regular files are linked twice.
    pub fn validate(&self, chunk_size: u32) -> Result<(), FormatError> {
        let root = self.entries.first().ok_or(bad("number of entries", 0, 0, "at least the root"))?;
        let (entries, limit) = (self.entries.len() as u64, MAX_ENTRIES);
        if entries > limit {
            return Err(FormatError::Limit { what: "number of entries", found: entries, limit });
        }
        let is_root = root.name.len == 0 && self.file_type(root)? == FileType::Directory;
        require(is_root, "first entry", 0, root.inode.into(), "a directory without a name")?;
        self.validate_order()?;
        self.validate_links()?;
        (0u64..).zip(&self.inodes).try_for_each(|(n, inode)| self.validate_inode(n, inode, chunk_size))
    }

    /// Type of the inode that `entry` names.
    fn file_type(&self, entry: &Entry) -> Result<FileType, FormatError> {
        let inode = self.inodes.get(entry.inode as usize);
        let file_type = inode.and_then(|inode| FileType::from_mode(inode.mode));
        file_type.ok_or(bad("inode of an entry", 0, entry.inode.into(), "an inode with a type"))
    }

    /// Children stand where numbering order puts them, sorted by name.
    fn validate_order(&self) -> Result<(), FormatError> {
        let mut next = 1;
        let mut open = vec![0];
        while let Some(dir) = open.pop() {
            let children = self.entries.get(dir).map_or(0..0, Entry::children);
            let at = dir as u64;
            require(
                children.start == next,
                "first child of an entry",
                at,
                children.start as u64,
                "the next number",
            )?;
            let entries = self.entries.get(children.clone());
            let entries =
                entries.ok_or(bad("last child of an entry", at, children.end as u64, "an entry"))?;
            next = children.end;
            let mut last: &[u8] = &[];
            let first_dir = open.len();
            for (n, entry) in children.zip(entries) {
                let name = self.span(entry.name);
                validate_name(name, last)?;
                last = name;
                if self.file_type(entry)? == FileType::Directory {
                    open.push(n);
                } else {
                    let none = entry.children.0 == entry.children.1;
                    require(
                        none,
                        "children of an entry",
                        n as u64,
                        entry.children.0.into(),
                        "none but in a directory",
                    )?;
                }
            }
            open.get_mut(first_dir..).unwrap_or(&mut []).reverse();
        }
        require(next == self.entries.len(), "entries in directories", 0, next as u64, "all entries")
    }

    /// Only regular files have several names.
    fn validate_links(&self) -> Result<(), FormatError> {
        let mut named = vec![false; self.inodes.len()];
        for entry in &self.entries {
            let again =
                named.get_mut(entry.inode as usize).is_some_and(|named| std::mem::replace(named, true));
            let good = !again || self.file_type(entry)? == FileType::Regular;
            require(good, "inode of an entry", 0, entry.inode.into(), "one name, but for regular files")?;
        }
        Ok(())
    }

    fn validate_inode(&self, n: u64, inode: &NewInode, chunk_size: u32) -> Result<(), FormatError> {
        let nanos = inode.mtime_nanos;
        require(nanos < 1_000_000_000, "nanoseconds of an inode", n, nanos.into(), "below 10^9")?;
        let xattrs = inode.xattrs.len;
        let fits = self.span(inode.xattrs).len() == xattrs as usize;
        let whole = xattrs == 0 || (xattrs >= 16 && xattrs.is_multiple_of(4) && xattrs <= 12 + 4 * 65_534);
        require(fits && whole, "xattrs of an inode", n, xattrs.into(), "an encoded area")?;
        match FileType::from_mode(inode.mode) {
            Some(FileType::Regular) => self.validate_chunks(n, inode, chunk_size),
            Some(FileType::Symlink) => {
                let size = inode.target.len;
                let good = (1..=4095).contains(&size) && self.span(inode.target).len() == size as usize;
                require(good, "length of a symlink target", n, size.into(), "1 to 4095 bytes")
            }
            _ => Ok(()),
        }
    }

    fn validate_chunks(&self, n: u64, inode: &NewInode, chunk_size: u32) -> Result<(), FormatError> {
        let chunk_size = u64::from(chunk_size);
        let mut left = inode.size;
        let run = self.chunks_of(inode, chunk_size);
        let count = inode.size.div_ceil(chunk_size.max(1));
        require(
            run.len() as u64 == count,
            "chunks of an inode",
            n,
            run.len() as u64,
            "one for each part of the file",
        )?;
        for &chunk in run {
            let size = self.chunks.get(chunk as usize).map(|chunk| u64::from(chunk.uncompressed_size));
            let expected = left.min(chunk_size);
            require(
                size == Some(expected) || (self.is_dictionary && size.is_some_and(|size| size < expected)),
                "size of a chunk of an inode",
                n,
                size.unwrap_or(0),
                "what the file has there",
            )?;
            left -= expected;
        }
        Ok(())
    }

    /// Positions in [`Tree::chunks`] of a regular file's chunks; empty where they are not all there.
    pub fn chunks_of(&self, inode: &NewInode, chunk_size: u64) -> &[u32] {
        let count = usize::try_from(inode.size.div_ceil(chunk_size.max(1))).unwrap_or(usize::MAX);
        let first = inode.first_chunk as usize;
        self.file_chunks.get(first..first.saturating_add(count)).unwrap_or(&[])
    }
}

/// Most entries: inode numbers are signed 32-bit.
const MAX_ENTRIES: u64 = (1 << 31) - 1;

fn bad(what: &'static str, at: u64, found: u64, expected: &'static str) -> FormatError {
    FormatError::Value { what, at, found, expected }
}

/// Is `name` a name, and behind `last`?
fn validate_name(name: &[u8], last: &[u8]) -> Result<(), FormatError> {
    let problem = if name.is_empty() {
        "is empty"
    } else if name.len() > 255 {
        "is over 255 bytes"
    } else if matches!(name, b"." | b"..") || name.iter().any(|&byte| byte == b'/' || byte == 0) {
        "is no name of an entry"
    } else if name <= last {
        "is not in byte order"
    } else {
        return Ok(());
    };
    let shown = name.get(..80).unwrap_or(name);
    Err(FormatError::Name { what: "entry", name: String::from_utf8_lossy(shown).into_owned(), problem })
}
