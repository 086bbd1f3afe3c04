//! Checking a whole bootstrap: every entry reachable from the root is visited once, in time linear in entries.

use crate::{Bootstrap, DirEntry, FormatError, Inode};

/// Counts of a checked image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Directory entries, the root included, `.` and `..` not.
    pub entries: u64,
    /// Distinct inodes.
    pub inodes: u64,
    /// Chunk references of all files.
    pub chunk_refs: u64,
    /// Sum of the sizes of distinct regular files.
    pub file_bytes: u64,
}

/// One entry during a walk.
#[derive(Debug)]
pub struct Visit<'a> {
    /// Names from the root down to this entry, the entry's own last; empty for the root.
    pub path: &'a [&'a [u8]],
    /// The entry; `None` for the root.
    pub entry: Option<DirEntry<'a>>,
    /// Its inode.
    pub inode: Inode,
    /// Was this inode visited before under another name?
    pub again: bool,
}

/// Walks the tree in depth-first pre-order and checks all of it: names in order, `.` and `..` right, no directory twice (no
/// cycles), link counts, types of entries against inodes, xattrs, symlink targets, every chunk reference against the chunk table.
/// `visit` sees every entry. Errors: the first thing wrong, or what `visit` returns.
pub fn check<'a, B: AsRef<[u8]>, E: From<FormatError>>(
    _bootstrap: &'a Bootstrap<B>,
    _visit: &mut dyn FnMut(&Visit<'_>) -> Result<(), E>,
) -> Result<Summary, E> {
    todo!()
}
