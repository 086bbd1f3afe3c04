//! The read-only file system as plain functions on plain types: no kernel, no errno, no threads of its own
//! but one that plans what is fetched early.
//!
//! Metadata is answered from the bootstrap in memory, and so is data that the cache holds, on the calling thread. Data that must
//! be fetched comes back as a [`ColdRead`]: a value to be awaited elsewhere. Only verified bytes reach a result.

mod ahead;
mod chunk_set;
mod cold;
mod data;
mod error;
pub mod prefetch;
pub mod profile;
mod readers;

pub use cold::ColdRead;
pub use error::VfsError;
pub use rafs_format::{DirEntry, FileType, Nid};

use blob_cache::{BlobCache, BlobView, Part};
use bytes::Bytes;
use data::Data;
use profile::{NotRecorded, Recorder};
use rafs_format::{Blob, Bootstrap, Chunk, Digest, FormatError, Inode, SuperFlags};
use readers::Readers;
use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Everybody may list and enter the root, whatever the image says: a builder's private directory must not lock a container's users out.
const ROOT_PERM: u16 = 0o555;

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
    /// Device number as the kernel encodes it in 32 bits; 0 for all but devices.
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// Seconds since the epoch.
    pub mtime_secs: i64,
    pub mtime_nanos: u32,
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
    /// So many bytes are in the buffer; fewer than asked for at the end of the file.
    Done(usize),
    /// Something must be fetched first; the buffer holds anything.
    Cold(ColdRead),
}

/// One mounted image.
#[derive(Debug)]
pub struct Rafs {
    bootstrap: Arc<Bootstrap<Bytes>>,
    caches: Vec<Arc<BlobCache>>,
    data: OnceLock<Result<Data, FormatError>>,
    recorder: OnceLock<Arc<Recorder>>,
    readers: Arc<Readers>,
    reads_ahead: bool,
}

impl Rafs {
    /// `caches` in the order of the bootstrap's blob table, one for each. Looks at nothing else: the chunk index is built at the first read of
    /// data, so that mounting and the first `ls` cost the same for ten files and a million.
    /// Errors: number of caches; root not a directory.
    pub fn new<B>(bootstrap: Bootstrap<B>, caches: Vec<Arc<BlobCache>>) -> Result<Self, VfsError>
    where
        B: AsRef<[u8]> + Into<Bytes>,
    {
        let (found, expected) = (caches.len(), bootstrap.blobs().len());
        if found != expected {
            return Err(VfsError::CacheCount { found, expected });
        }
        let bootstrap = Arc::new(bootstrap.held_by(B::into));
        let rafs = Self {
            bootstrap,
            caches,
            data: OnceLock::new(),
            recorder: OnceLock::new(),
            readers: Arc::default(),
            reads_ahead: true,
        };
        rafs.directory(rafs.root())?;
        Ok(rafs)
    }

    /// The same, but nothing is fetched that nobody asked for.
    pub fn without_readahead(mut self) -> Self {
        self.reads_ahead = false;
        self
    }

    /// The root directory.
    pub fn root(&self) -> Nid {
        self.bootstrap.superblock().root
    }

    /// May any inode have extended attributes?
    pub fn has_xattrs(&self) -> bool {
        self.bootstrap.superblock().flags.contains(SuperFlags::HAS_XATTR)
    }

    /// Attributes of an inode.
    pub fn attr(&self, nid: Nid) -> Result<Attr, VfsError> {
        Ok(self.attr_of(&self.bootstrap.inode(nid)?))
    }

    fn attr_of(&self, inode: &Inode) -> Attr {
        let root = if inode.nid == self.root() { ROOT_PERM } else { 0 };
        Attr {
            nid: inode.nid,
            file_type: inode.file_type,
            perm: (inode.mode & 0o7777) | root,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev: inode.rdev,
            size: inode.size,
            mtime_secs: inode.mtime_secs,
            mtime_nanos: inode.mtime_nanos,
        }
    }

    /// The child of a directory by name; `None` when there is none.
    pub fn lookup(&self, parent: Nid, name: &[u8]) -> Result<Option<Attr>, VfsError> {
        let parent = self.directory(parent)?;
        match self.bootstrap.lookup(&parent, name)? {
            Some(entry) => self.attr(entry.nid).map(Some),
            None => Ok(None),
        }
    }

    /// Feeds entries of a directory from position `from` (0 = start), `.` and `..` included, until `sink` returns `false`. An entry's `next` is
    /// the position to go on from behind it.
    pub fn read_dir(
        &self,
        dir: Nid,
        from: u64,
        sink: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<(), VfsError> {
        let dir = self.directory(dir)?;
        for entry in self.bootstrap.dir_entries(&dir, from)? {
            if !sink(entry?) {
                break;
            }
        }
        Ok(())
    }

    /// The inode of a directory.
    fn directory(&self, nid: Nid) -> Result<Inode, VfsError> {
        let inode = self.bootstrap.inode(nid)?;
        match inode.file_type {
            FileType::Directory => Ok(inode),
            _ => Err(VfsError::NotADirectory { nid: nid.0 }),
        }
    }

    /// Target of a symbolic link.
    pub fn read_link(&self, nid: Nid) -> Result<Cow<'_, [u8]>, VfsError> {
        let inode = self.bootstrap.inode(nid)?;
        match inode.file_type {
            FileType::Symlink => Ok(self.bootstrap.symlink_target(&inode)?),
            _ => Err(VfsError::WrongType { nid: nid.0, expected: FileType::Symlink.name() }),
        }
    }

    /// Value of an extended attribute by full name; `None` when there is none.
    pub fn xattr(&self, nid: Nid, name: &[u8]) -> Result<Option<&[u8]>, VfsError> {
        for xattr in self.bootstrap.xattrs(&self.bootstrap.inode(nid)?)? {
            let xattr = xattr?;
            if xattr.is_named(name) {
                return Ok(Some(xattr.value));
            }
        }
        Ok(None)
    }

    /// Full names of the extended attributes that `shown` wants, each followed by NUL, as listxattr(2) returns them.
    pub fn xattr_names(&self, nid: Nid, shown: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>, VfsError> {
        let mut names = Vec::new();
        for xattr in self.bootstrap.xattrs(&self.bootstrap.inode(nid)?)? {
            let xattr = xattr?;
            let start = names.len();
            names.extend_from_slice(xattr.prefix.as_bytes());
            names.extend_from_slice(xattr.suffix);
            if names.get(start..).is_some_and(&shown) {
                names.push(0);
            } else {
                names.truncate(start);
            }
        }
        Ok(names)
    }

    /// Counts for `statfs`.
    pub fn totals(&self) -> Totals {
        let bytes = |sum: u64, blob: &rafs_format::Blob| sum.saturating_add(blob.uncompressed_size);
        Totals {
            entries: self.bootstrap.superblock().entries,
            bytes: self.bootstrap.blobs().iter().fold(0, bytes),
        }
    }

    /// Records from now on, until `limit` has passed since the first read, which chunks are read first; the recorder that there is already, if
    /// there is one. Errors: the image is of a kind that cannot be recorded.
    pub fn record(&self, limit: Duration) -> Result<Arc<Recorder>, NotRecorded> {
        if self.bootstrap.is_tarfs() {
            return Err(NotRecorded::Tarfs);
        }
        let recorder = Arc::new(Recorder::new(&self.named_blobs(), limit)?);
        Ok(Arc::clone(self.recorder.get_or_init(|| recorder)))
    }

    /// What a recorded profile of this image calls it.
    pub fn profile_digest(&self) -> Digest {
        profile::image_digest(&self.named_blobs())
    }

    /// The blobs by the ids that they are found by.
    fn named_blobs(&self) -> Vec<Blob> {
        let named =
            |(blob, cache): (&Blob, &Arc<BlobCache>)| Blob { id: cache.blob().id.clone(), ..blob.clone() };
        self.bootstrap.blobs().iter().zip(&self.caches).map(named).collect()
    }

    /// Reads a regular file from byte `offset` into `into`, clamped to the file: nothing at or behind its end.
    pub fn read(&self, nid: Nid, offset: u64, into: &mut [u8]) -> Result<Read, VfsError> {
        let inode = self.bootstrap.inode(nid)?;
        match inode.file_type {
            FileType::Regular => {}
            FileType::Directory => return Err(VfsError::IsADirectory { nid: nid.0 }),
            _ => return Err(VfsError::WrongType { nid: nid.0, expected: FileType::Regular.name() }),
        }
        let end = inode.size.min(offset.saturating_add(into.len() as u64));
        let size = usize::try_from(end.saturating_sub(offset)).unwrap_or(0);
        if size == 0 {
            return Ok(Read::Done(0));
        }
        let parts = self.parts(&inode, offset, end)?;
        if let Some(recorder) = self.recorder.get() {
            recorder.note(&parts);
        }
        let mut rest = into.get_mut(..size).unwrap_or(&mut []);
        for run in parts.chunk_by(|a, b| a.chunk.blob == b.chunk.blob) {
            let (now, later) = rest.split_at_mut(run.iter().map(Part::len).sum::<usize>().min(rest.len()));
            let cache = run.first().and_then(|part| self.cache(part));
            if !cache.is_some_and(|cache| cache.try_read(run, now)) {
                return Ok(Read::Cold(self.cold(&parts)));
            }
            rest = later;
        }
        Ok(Read::Done(size))
    }

    /// A view of each blob, in the order of the bootstrap's blob table. The first call reads all chunk records.
    /// Errors: chunks that contradict each other.
    pub fn views(&self) -> Result<&[BlobView], VfsError> {
        Ok(&self.data()?.views)
    }

    fn data(&self) -> Result<&Data, FormatError> {
        let data = self.data.get_or_init(|| Data::new(&self.bootstrap, &self.caches));
        data.as_ref().map_err(Clone::clone)
    }

    /// The chunks that bytes `start..end` of a file lie in, with the part of each; the range is within the file.
    fn parts(&self, file: &Inode, start: u64, end: u64) -> Result<Vec<Part>, VfsError> {
        let index = &self.data()?.chunks.index;
        let chunk_size = u64::from(self.bootstrap.superblock().chunk_size);
        let part = |n: u64| {
            let chunk = index.chunk(&self.bootstrap, file, n)?;
            let from = n * chunk_size;
            let expected = (file.size - from).min(chunk_size);
            if u64::from(chunk.uncompressed_size) != expected {
                return Err(FormatError::Value {
                    what: "size of a chunk of an inode",
                    at: file.nid.0,
                    found: chunk.uncompressed_size.into(),
                    expected: "what the file needs there",
                });
            }
            // Both are within the chunk, whose size has 32 bits.
            let within = |at: u64| u32::try_from(at.saturating_sub(from).min(expected)).unwrap_or(u32::MAX);
            Ok(Part { chunk, start: within(start), end: within(end) })
        };
        let chunks = start / chunk_size..end.div_ceil(chunk_size);
        Ok(chunks.map(part).collect::<Result<_, _>>()?)
    }

    /// The cache of a part's blob, which the chunk index made sure of.
    fn cache(&self, part: &Part) -> Option<&Arc<BlobCache>> {
        self.caches.get(part.chunk.blob as usize)
    }

    fn cold(&self, parts: &[Part]) -> ColdRead {
        let ahead = if self.reads_ahead { self.ahead(parts) } else { Vec::new() };
        let parts = parts.iter().filter_map(|part| Some((Arc::clone(self.cache(part)?), *part))).collect();
        ColdRead::new(parts, ahead, self.readers.wait())
    }

    /// What is worth fetching now for who misses `parts`: each blob with chunks of it.
    fn ahead(&self, parts: &[Part]) -> Vec<(Arc<BlobCache>, Vec<Chunk>)> {
        let Ok(data) = self.data() else { return Vec::new() };
        let runs = parts.chunk_by(|a, b| a.chunk.blob == b.chunk.blob);
        let of_run = |run: &[Part]| {
            let numbers = run.iter().map(|part| part.chunk.index);
            let (first, last) = (numbers.clone().min()?, numbers.max()?);
            let blob = run.first()?.chunk.blob as usize;
            let (view, ahead) = (data.views.get(blob)?, data.ahead.get(blob)?);
            let chunks = ahead.lock().missed(first, last, &*view.chunks);
            (!chunks.is_empty()).then(|| (Arc::clone(&view.cache), chunks))
        };
        runs.filter_map(of_run).collect()
    }
}
