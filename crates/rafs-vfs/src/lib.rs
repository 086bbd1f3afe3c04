//! The read-only file system as plain functions on plain types: no kernel, no errno, no threads of its own.
//!
//! Metadata is answered from the bootstrap in memory, and so is data that the cache holds, on the calling thread. Data that must
//! be fetched comes back as a [`ColdRead`]: a value to be awaited elsewhere. Only verified bytes reach a result.

mod error;

pub use error::VfsError;
pub use rafs_format::{FileType, Nid};

use blob_cache::BlobCache;
use rafs_format::Bootstrap;
use std::sync::Arc;

/// What `stat` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in stat(2)")]
pub struct Attr {
    pub nid: Nid,
    pub file_type: FileType,
    /// Permission bits (07777).
    pub perm: u16,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    /// Device number: major, minor.
    pub rdev: (u32, u32),
    /// Bytes.
    pub size: u64,
    /// Seconds since the epoch.
    pub mtime_secs: i64,
    pub mtime_nanos: u32,
}

/// One name of a directory.
#[derive(Debug, Clone, Copy)]
pub struct DirEntry<'a> {
    /// Raw bytes.
    pub name: &'a [u8],
    /// The inode it names.
    pub nid: Nid,
    /// Its type.
    pub file_type: FileType,
    /// Position to go on from behind this entry.
    pub next: u64,
}

/// Counts for `statfs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Directory entries.
    pub entries: u64,
    /// Bytes of all decompressed blobs.
    pub bytes: u64,
}

/// Result of [`Rafs::read`].
#[derive(Debug)]
pub enum Read {
    /// All bytes are in the buffer; fewer than asked for at the end of the file.
    Done,
    /// Something must be fetched first; the buffer is unchanged.
    Cold(ColdRead),
}

/// One mounted image.
#[derive(Debug)]
pub struct Rafs {
    _bootstrap: Bootstrap<Vec<u8>>,
    _blobs: Vec<Arc<BlobCache>>,
}

impl Rafs {
    /// `caches` in the order of the bootstrap's blob table, one for each. Looks at nothing else: the chunk index is built at the first read of
    /// data, so that mounting and the first `ls` cost the same for ten files and a million.
    /// Errors: number of caches; root not a directory.
    pub fn new(_bootstrap: Bootstrap<Vec<u8>>, _caches: Vec<Arc<BlobCache>>) -> Result<Self, VfsError> {
        todo!()
    }

    /// The root directory.
    pub fn root(&self) -> Nid {
        todo!()
    }

    /// Attributes of an inode.
    pub fn attr(&self, _nid: Nid) -> Result<Attr, VfsError> {
        todo!()
    }

    /// The child of a directory by name; `None` when there is none.
    pub fn lookup(&self, _parent: Nid, _name: &[u8]) -> Result<Option<Attr>, VfsError> {
        todo!()
    }

    /// Feeds entries of a directory from position `from` (0 = start), `.` and `..` included, until `sink` returns `false`.
    pub fn read_dir(
        &self,
        _dir: Nid,
        _from: u64,
        _sink: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<(), VfsError> {
        todo!()
    }

    /// Target of a symbolic link.
    pub fn read_link(&self, _nid: Nid) -> Result<&[u8], VfsError> {
        todo!()
    }

    /// Value of an extended attribute by full name; `None` when there is none.
    pub fn xattr(&self, _nid: Nid, _name: &[u8]) -> Result<Option<&[u8]>, VfsError> {
        todo!()
    }

    /// Full names of all extended attributes, each followed by NUL, as listxattr(2) returns them.
    pub fn xattr_names(&self, _nid: Nid) -> Result<Vec<u8>, VfsError> {
        todo!()
    }

    /// Counts for `statfs`.
    pub fn totals(&self) -> Totals {
        todo!()
    }

    /// Appends up to `size` bytes of a regular file from `offset` to `into`, clamped to the file: nothing at or behind its end.
    pub fn read(
        self: &Arc<Self>,
        _nid: Nid,
        _offset: u64,
        _size: u32,
        _into: &mut Vec<u8>,
    ) -> Result<Read, VfsError> {
        todo!()
    }
}

/// A read that waits for data. Owns what it needs.
#[derive(Debug)]
pub struct ColdRead {}

impl ColdRead {
    /// Fetches what is missing, several chunks at once, and returns all the bytes. Must run inside a tokio runtime.
    pub async fn complete(self) -> Result<Vec<u8>, VfsError> {
        todo!()
    }
}
