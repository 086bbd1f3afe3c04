//! One blob's local copy: its state, and reading what is ready, synchronously on the thread that asks. What is not ready is [`crate::fill`]'s.

use crate::CacheError;
use crate::Part;
use crate::disk::Disk;
use crate::fill::is_short;
use crate::flight::Flights;
use crate::ready::ReadyMap;
use crate::tar::{self, Tar};
use crate::units::Units;
use blob_storage::BlobReader;
use parking_lot::Mutex;
use rafs_codec::{Decoder, UnitCodec};
use rafs_format::blob_units::UnitTable;
use rafs_format::{Blob, Chunk};
use rafs_merkle::VerifiedChunk;
use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

/// Unit of the memory budget, in bytes.
pub(crate) const BUDGET_UNIT: u64 = 4096;
/// Bytes, stored and plain, that all running fetches of one blob may hold: two of the longest chunks and more.
pub(crate) const BUDGET: u64 = 64 << 20;

/// How a blob is cached.
#[derive(Debug, Clone, Default)]
pub struct CacheOptions {
    /// Hash a chunk again each time its copy on disk is read, not only the first time in this process.
    pub validate: bool,
}

/// What a cache did since it was opened; for metrics and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStats {
    /// Chunks fetched from the backend.
    pub fetches: u64,
    /// Stored bytes fetched from the backend.
    pub fetched_bytes: u64,
    /// Chunks found on disk and verified on first use.
    pub reverified: u64,
    /// Chunks whose copy on disk did not hash to its digest.
    pub damaged: u64,
    /// Writes to the cache that failed.
    pub write_errors: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) fetches: AtomicU64,
    pub(crate) fetched_bytes: AtomicU64,
    pub(crate) reverified: AtomicU64,
    pub(crate) damaged: AtomicU64,
    pub(crate) write_errors: AtomicU64,
}

/// The local copy of one blob.
#[derive(Debug)]
pub struct BlobCache {
    pub(crate) blob: Blob,
    pub(crate) reader: Arc<dyn BlobReader>,
    pub(crate) options: CacheOptions,
    pub(crate) disk: Option<Disk>,
    pub(crate) ready: ReadyMap,
    pub(crate) flights: Flights,
    pub(crate) codec: UnitCodec,
    /// The object with the chunk table: the blob itself, unless that is a layer that stays as it is.
    pub(crate) tables: Arc<dyn BlobReader>,
    /// Of a blob with batches or spans: where its units are. Read with the first chunk. No digest covers it, so it is dropped, like the units, when
    /// it led to a chunk that is wrong.
    pub(crate) table: AsyncMutex<Option<Arc<UnitTable>>>,
    /// Batches or spans that were decoded last.
    pub(crate) units: Units,
    /// Of a plain tar: its pieces, which are what is cached. [`BlobCache::blob`] is described in them then.
    pub(crate) tar: Option<Tar>,
    /// Idle decoders, at most one for each thread that ever decoded at once.
    pub(crate) decoders: Mutex<Vec<Decoder>>,
    pub(crate) budget: Semaphore,
    pub(crate) counters: Counters,
    /// Was the last write to disk an error? Then the next one is not logged again.
    pub(crate) failing: AtomicBool,
}

impl BlobCache {
    /// Opens or creates the cache files of `blob` in `work_dir`. Files of a wrong size or shape are emptied and rebuilt, never an error.
    /// Errors: the directory cannot be used at all, or the blob is of a kind that cannot be decoded.
    pub fn open(
        work_dir: &Path,
        blob: &Blob,
        reader: Arc<dyn BlobReader>,
        options: CacheOptions,
    ) -> Result<Self, CacheError> {
        let (codec, blob) = (codec(blob)?, described(blob)?);
        let (disk, hints) = Disk::open(work_dir, &blob)?;
        Ok(Self::new(&blob, reader, options, codec, Some((disk, hints))))
    }

    /// A cache that keeps nothing: each read fetches and verifies. Errors: the blob is of a kind that cannot be decoded.
    pub fn without_disk(blob: &Blob, reader: Arc<dyn BlobReader>) -> Result<Self, CacheError> {
        Ok(Self::new(&described(blob)?, reader, CacheOptions::default(), codec(blob)?, None))
    }

    fn new(
        blob: &Blob,
        reader: Arc<dyn BlobReader>,
        options: CacheOptions,
        codec: UnitCodec,
        disk: Option<(Disk, Vec<u8>)>,
    ) -> Self {
        let (disk, hints) = disk.unzip();
        let ready = ReadyMap::new(blob.chunk_count, &hints.unwrap_or_default());
        let units = usize::try_from(BUDGET / BUDGET_UNIT).unwrap_or(usize::MAX);
        Self {
            blob: blob.clone(),
            tables: Arc::clone(&reader),
            reader,
            options,
            disk,
            ready,
            flights: Flights::default(),
            codec,
            table: AsyncMutex::default(),
            units: Units::default(),
            tar: blob.is_tar().then(Tar::default),
            decoders: Mutex::default(),
            budget: Semaphore::new(units),
            counters: Counters::default(),
            failing: AtomicBool::new(false),
        }
    }

    /// The same cache of a layer that stays as it is, whose chunk table is in the object that `tables` reads.
    pub fn with_tables(mut self, tables: Arc<dyn BlobReader>) -> Self {
        self.tables = tables;
        self
    }

    /// The blob as the image describes it; a tar as one whose chunks are its pieces.
    pub fn blob(&self) -> &Blob {
        &self.blob
    }

    /// Fills `into` with the bytes of `parts`, one behind the other, when all their chunks are ready, on the calling thread. `into` is as
    /// long as they are together. `false`: something must be fetched first (or its copy turned out damaged); `into` holds anything then.
    pub fn try_read(&self, parts: &[Part], into: &mut [u8]) -> bool {
        let Some(disk) = &self.disk else { return false };
        let Some(parts) = self.known_parts(parts) else { return false };
        let mut rest = into;
        let mut at = 0;
        while let Some(first) = parts.get(at) {
            let run = self.run(parts.get(at..).unwrap_or(&[]));
            let size = run.iter().map(Part::len).sum();
            let Some((now, later)) = rest.split_at_mut_checked(size) else { return false };
            if !self.read_run(disk, first, run, now) {
                return false;
            }
            rest = later;
            at += run.len();
        }
        rest.is_empty()
    }

    /// `parts` as the cache keeps them: those of a tar are cut into its pieces. `None` where the tar is not verified yet.
    fn known_parts<'a>(&self, parts: &'a [Part]) -> Option<Cow<'a, [Part]>> {
        let Some(tar) = &self.tar else { return Some(parts.into()) };
        let pieces = tar.known()?;
        let cut: Option<Vec<_>> = parts.iter().map(|part| tar::cut(pieces, part)).collect();
        Some(cut?.concat().into())
    }

    /// The longest start of `parts` that can be read from disk in one go without hashing; else the first part alone.
    fn run<'a>(&self, parts: &'a [Part]) -> &'a [Part] {
        let joins = |pair: &[Part]| match pair {
            [a, b] => {
                a.end == a.chunk.uncompressed_size
                    && b.start == 0
                    && b.chunk.uncompressed_offset == a.chunk.uncompressed_offset.saturating_add(a.end.into())
                    && self.is_plain_read(b)
            }
            _ => false,
        };
        let more = parts.first().is_some_and(|first| self.is_plain_read(first));
        let count = 1 + parts.windows(2).take_while(|pair| more && joins(pair)).count();
        parts.get(..count).unwrap_or(parts)
    }

    /// Can `part` be read from disk as it is there?
    fn is_plain_read(&self, part: &Part) -> bool {
        !self.options.validate && self.ready.is_verified(part.chunk.index)
    }

    /// Reads what [`BlobCache::run`] returned, whose first part is `first`.
    fn read_run(&self, disk: &Disk, first: &Part, run: &[Part], into: &mut [u8]) -> bool {
        if !self.is_plain_read(first) {
            let hash_here = self.options.validate || is_short(first.chunk.uncompressed_size);
            let chunk = if hash_here { self.load(&first.chunk) } else { None };
            return match chunk.and_then(|chunk| first.of(chunk.bytes())) {
                Some(plain) => {
                    into.copy_from_slice(&plain);
                    true
                }
                None => false,
            };
        }
        let offset = first.chunk.uncompressed_offset.saturating_add(first.start.into());
        let read = disk.read(offset, into);
        if let Err(error) = &read {
            // What cannot be read is fetched again.
            tracing::warn!("cache file {}: {error}; its data is fetched again", disk.path().display());
            run.iter().for_each(|part| self.ready.forget(part.chunk.index));
        }
        read.is_ok()
    }

    /// Counters since opening.
    pub fn stats(&self) -> CacheStats {
        let Counters { fetches, fetched_bytes, reverified, damaged, write_errors } = &self.counters;
        CacheStats {
            fetches: fetches.load(Ordering::Relaxed),
            fetched_bytes: fetched_bytes.load(Ordering::Relaxed),
            reverified: reverified.load(Ordering::Relaxed),
            damaged: damaged.load(Ordering::Relaxed),
            write_errors: write_errors.load(Ordering::Relaxed),
        }
    }

    /// A chunk that is on disk, hashed. `None`: it is not there, or what is there is not it.
    pub(crate) fn load(&self, chunk: &Chunk) -> Option<VerifiedChunk> {
        let disk = self.disk.as_ref()?;
        let known = self.ready.is_verified(chunk.index);
        if !known && !self.ready.is_hinted(chunk.index) {
            return None;
        }
        let mut plain = vec![0; chunk.uncompressed_size as usize];
        let read = disk.read(chunk.uncompressed_offset, &mut plain);
        let verified = read
            .map_err(|error| error.to_string())
            .and_then(|()| self.verify(chunk, plain).map_err(|error| error.to_string()));
        match verified {
            Ok(verified) => {
                if !known {
                    self.counters.reverified.fetch_add(1, Ordering::Relaxed);
                    self.ready.mark_verified(chunk.index);
                }
                Some(verified)
            }
            Err(problem) => {
                self.counters.damaged.fetch_add(1, Ordering::Relaxed);
                let (path, index) = (disk.path().display(), chunk.index);
                tracing::warn!("cache file {path}: chunk {index} is damaged and fetched again: {problem}");
                self.ready.forget(index);
                None
            }
        }
    }

    /// Writes a verified chunk, then marks it. A failure is counted and logged, and the chunk stays to be fetched.
    pub(crate) fn keep(&self, chunk: &Chunk, verified: &VerifiedChunk) {
        let Some(disk) = &self.disk else { return };
        let written = disk.write(chunk.uncompressed_offset, verified.bytes());
        let written = written.and_then(|()| {
            self.ready.mark_verified(chunk.index);
            disk.mark(chunk.index)
        });
        match written {
            Ok(()) => self.failing.store(false, Ordering::Relaxed),
            Err(error) => {
                self.counters.write_errors.fetch_add(1, Ordering::Relaxed);
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!("cache file {}: {error}; reads go on without it", disk.path().display());
                }
            }
        }
    }
}

/// `blob` as it is cached.
fn described(blob: &Blob) -> Result<Blob, CacheError> {
    if blob.is_tar() { tar::in_pieces(blob) } else { Ok(blob.clone()) }
}

/// How the units of `blob` are decoded. Errors: a cipher or key that cannot be used.
fn codec(blob: &Blob) -> Result<UnitCodec, CacheError> {
    UnitCodec::new(blob).map_err(|source| CacheError::Key { blob: blob.id.to_string(), source })
}
