//! The input of the writer: a whole file system as tables, in numbering order.
//!
//! *Numbering order*: the root, then all children of it in byte order of their names, then for each child directory in that order
//! the same again (its children, then their subtrees). So the children of one directory stand next to each other and entry `k` has number
//! `k + 1`. No structure per chunk or name: both are ranges of shared tables.

use crate::{Chunk, FormatError};
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
}

impl Tree {
    /// The bytes of a span; empty for a span outside the table (which [`Tree::validate`] refuses).
    pub fn span(&self, span: Span) -> &[u8] {
        let start = span.start as usize;
        self.bytes.get(start..start.saturating_add(span.len as usize)).unwrap_or(&[])
    }

    /// Checks everything the writer relies on: order and uniqueness of names, name and target lengths, ranges, types,
    /// chunk counts, and that only regular files are linked twice.
    pub fn validate(&self, _chunk_size: u32) -> Result<(), FormatError> {
        todo!()
    }
}
