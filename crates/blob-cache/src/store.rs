//! What all mounts of one blob share: its files, what of them is ready, the fetches that are under way.
//!
//! Knows no backend and decodes nothing: each image does that for itself ([`crate::BlobCache`]), by its own description of the blob. Invariant: bytes
//! are written to the files, and marked ready, only for chunks that are claimed ([`crate::claims`]).

use crate::CacheError;
use crate::claims::{Claim, Claims, Contradiction, Tag};
use crate::dir::Closing;
use crate::disk::Disk;
use crate::flight::Flights;
use crate::readers::{Readers, SharedReader};
use crate::ready::ReadyMap;
use blob_storage::BlobReader;
use rafs_format::{Blob, Chunk};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The files of one blob, and what this process knows of them.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) disk: Option<Disk>,
    pub(crate) ready: ReadyMap,
    pub(crate) flights: Flights,
    pub(crate) claims: Claims,
    /// Was the last write to disk an error? Then the next one is not logged again.
    failing: AtomicBool,
    /// Backends of the mounts that use it.
    readers: Arc<Readers>,
    /// Name of the image that came first, for messages; empty where there is but one.
    image: Box<str>,
    /// Last, so that it tells of the end when the files are closed.
    closing: Option<Closing>,
    shape: (u32, u64),
}

/// What images must say alike of a blob, for its files to have one size: number of chunks, bytes.
fn shape(blob: &Blob) -> (u32, u64) {
    (blob.chunk_count, blob.uncompressed_size)
}

impl Store {
    /// The files of `blob` in `work_dir`, for one image; see [`crate::BlobCache::open`].
    pub(crate) fn open(work_dir: &Path, blob: &Blob) -> Result<Self, CacheError> {
        let (disk, hints) = Disk::open(work_dir, blob)?;
        Ok(Self::new(blob, Some(disk), &hints, false))
    }

    /// The files of `blob` in `work_dir`, for all images; `image` is the first one.
    pub(crate) fn shared(work_dir: &Path, blob: &Blob, image: &str) -> Result<Self, CacheError> {
        let (disk, hints) = Disk::open(work_dir, blob)?;
        let mut store = Self::new(blob, Some(disk), &hints, Claims::can_share(blob));
        store.image = image.into();
        Ok(store)
    }

    /// Has somebody told when the files are closed.
    pub(crate) fn telling(mut self, closing: Closing) -> Self {
        self.closing = Some(closing);
        self
    }

    /// A nameless file in `work_dir`, for one image.
    pub(crate) fn private(work_dir: &Path, blob: &Blob) -> Result<Self, CacheError> {
        Ok(Self::new(blob, Some(Disk::nameless(work_dir, blob)?), &[], false))
    }

    /// Keeps nothing.
    pub(crate) fn nowhere(blob: &Blob) -> Self {
        Self::new(blob, None, &[], false)
    }

    fn new(blob: &Blob, disk: Option<Disk>, hints: &[u8], shared: bool) -> Self {
        // What keeps nothing needs no room to say what it keeps.
        let chunks = if disk.is_some() { blob.chunk_count } else { 0 };
        Self {
            disk,
            ready: ReadyMap::new(chunks, hints),
            flights: Flights::default(),
            claims: Claims::new(chunks, shared),
            failing: AtomicBool::new(false),
            readers: Arc::default(),
            image: "".into(),
            closing: None,
            shape: shape(blob),
        }
    }

    /// `reader`, of one more mount, with those of the others behind it.
    pub(crate) fn reader(&self, reader: Arc<dyn BlobReader>) -> Arc<dyn BlobReader> {
        Arc::new(SharedReader::new(reader, &self.readers))
    }

    /// Has `blob` the shape of the one that the files were made for?
    pub(crate) fn is_for(&self, blob: &Blob) -> bool {
        self.shape == shape(blob)
    }

    /// Name of the image that came first.
    pub(crate) fn image(&self) -> &str {
        &self.image
    }

    /// Writes the bytes of a chunk that is claimed, then marks it.
    pub(crate) fn write(&self, chunk: &Chunk, bytes: &[u8]) -> io::Result<()> {
        let Some(disk) = &self.disk else { return Ok(()) };
        disk.write(chunk.uncompressed_offset, bytes)?;
        self.ready.mark_verified(chunk.index);
        disk.mark(chunk.index)
    }

    /// Notes how a write ended, and says in the log when that changes. Returns whether it failed.
    pub(crate) fn note(&self, written: &io::Result<()>) -> bool {
        let failed = written.is_err();
        let before = self.failing.swap(failed, Ordering::Relaxed);
        let (Some(disk), true) = (&self.disk, before != failed) else { return failed };
        match written {
            Ok(()) => tracing::info!("cache file {}: data is kept again", disk.path().display()),
            Err(error) => {
                tracing::warn!("cache file {}: {error}; reads go on without it", disk.path().display());
            }
        }
        failed
    }
}

/// A store as one image sees it: which of its chunks it may use.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) store: Arc<Store>,
    /// Chunks that are claimed as this image describes them: a bit for each, as asking costs a lock.
    agreed: Box<[AtomicU64]>,
}

impl Share {
    pub(crate) fn new(store: Arc<Store>, blob: &Blob) -> Self {
        let chunks = if store.disk.is_some() { blob.chunk_count as usize } else { 0 };
        Self { store, agreed: (0..chunks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Is the chunk's copy on disk verified, and is it the chunk of this image?
    pub(crate) fn is_ready(&self, blob: &Blob, chunk: &Chunk) -> bool {
        self.store.ready.is_verified(chunk.index) && self.agrees(blob, chunk)
    }

    fn agrees(&self, blob: &Blob, chunk: &Chunk) -> bool {
        let Some((word, bit)) = self.place(chunk.index) else { return false };
        if word.load(Ordering::Relaxed) & bit != 0 {
            return true;
        }
        let agrees = self.store.claims.agrees(chunk.index, self.tag(blob, chunk));
        if agrees {
            word.fetch_or(bit, Ordering::Relaxed);
        }
        agrees
    }

    /// Claims `chunk`. Errors: another image says something else.
    pub(crate) fn claim(&self, blob: &Blob, chunk: &Chunk) -> Result<Claim, Contradiction> {
        self.store.claims.claim(chunk, self.tag(blob, chunk))
    }

    /// The tag of what this image says of `chunk`.
    pub(crate) fn tag(&self, blob: &Blob, chunk: &Chunk) -> Tag {
        self.store.claims.tag(blob, chunk)
    }

    fn place(&self, chunk: u32) -> Option<(&AtomicU64, u64)> {
        Some((self.agreed.get(chunk as usize / 64)?, 1 << (chunk % 64)))
    }
}
