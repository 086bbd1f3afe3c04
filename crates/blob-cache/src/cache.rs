//! One blob's local copy: its state, and reading what is ready, synchronously on the thread that asks. What is not ready is [`crate::fill`]'s.

use crate::CacheError;
use crate::Part;
use crate::claims::Claim;
use crate::disk::Disk;
use crate::fill::is_short;
use crate::recent::Recent;
use crate::store::{Share, Store};
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
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
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
    /// Requests that these took.
    pub requests: u64,
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
    pub(crate) requests: AtomicU64,
    pub(crate) reverified: AtomicU64,
    pub(crate) damaged: AtomicU64,
    pub(crate) write_errors: AtomicU64,
}

/// The local copy of one blob, as one image describes it. Its files may be shared with other images ([`crate::CacheDir`]).
#[derive(Debug)]
pub struct BlobCache {
    pub(crate) blob: Blob,
    pub(crate) reader: Arc<dyn BlobReader>,
    pub(crate) options: CacheOptions,
    /// Name of the image, for messages.
    image: Box<str>,
    shared: Share,
    /// In place of [`Self::shared`], once another image was found to say something else of the blob.
    own: OnceLock<Share>,
    pub(crate) codec: UnitCodec,
    /// The object with the chunk table: the blob itself, unless that is a layer that stays as it is.
    pub(crate) tables: Arc<dyn BlobReader>,
    /// Of a blob with batches or spans: where its units are. Read with the first chunk. No digest covers it, so it is dropped, like the units, when
    /// it led to a chunk that is wrong.
    pub(crate) table: AsyncMutex<Option<Arc<UnitTable>>>,
    /// Batches or spans that were decoded last.
    pub(crate) units: Units,
    /// Chunks that were hashed last for [`CacheOptions::validate`].
    recent: Recent,
    /// Of a plain tar: its pieces, which are what is cached. [`BlobCache::blob`] is described in them then.
    pub(crate) tar: Option<Tar>,
    /// Idle decoders, at most one for each thread that ever decoded at once.
    pub(crate) decoders: Mutex<Vec<Decoder>>,
    pub(crate) budget: Semaphore,
    /// What prefetch may have of it: half.
    pub(crate) budget_later: Semaphore,
    pub(crate) counters: Counters,
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
        let store = Arc::new(Store::open(work_dir, &blob)?);
        Ok(Self::new(&blob, reader, options, codec, store))
    }

    /// A cache that keeps nothing: each read fetches and verifies. Errors: the blob is of a kind that cannot be decoded.
    pub fn without_disk(blob: &Blob, reader: Arc<dyn BlobReader>) -> Result<Self, CacheError> {
        let (codec, blob) = (codec(blob)?, described(blob)?);
        let store = Arc::new(Store::nowhere(&blob));
        Ok(Self::new(&blob, reader, CacheOptions::default(), codec, store))
    }

    pub(crate) fn new(
        blob: &Blob,
        reader: Arc<dyn BlobReader>,
        options: CacheOptions,
        codec: UnitCodec,
        store: Arc<Store>,
    ) -> Self {
        let units = usize::try_from(BUDGET / BUDGET_UNIT).unwrap_or(usize::MAX);
        Self {
            blob: blob.clone(),
            tables: Arc::clone(&reader),
            reader,
            options,
            image: "".into(),
            shared: Share::new(store, blob),
            own: OnceLock::new(),
            codec,
            table: AsyncMutex::default(),
            units: Units::default(),
            recent: Recent::default(),
            tar: blob.is_tar().then(Tar::default),
            decoders: Mutex::default(),
            budget: Semaphore::new(units),
            budget_later: Semaphore::new(units / 2),
            counters: Counters::default(),
        }
    }

    /// The cache of `blob` as `image` describes it, in files that it shares with other images. Errors: the blob is of a kind that cannot be decoded.
    pub(crate) fn sharing(
        blob: &Blob,
        image: &str,
        reader: Arc<dyn BlobReader>,
        options: CacheOptions,
        store: Arc<Store>,
    ) -> Result<Self, CacheError> {
        let reader = store.reader(reader);
        let cache = Self::new(blob, reader, options, codec(blob)?, store);
        Ok(Self { image: image.into(), ..cache })
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
        let share = self.share();
        let Some(disk) = &share.store.disk else { return false };
        let Some(parts) = self.known_parts(parts) else { return false };
        let mut rest = into;
        let mut at = 0;
        while at < parts.len() {
            let run = self.run(share, parts.get(at..).unwrap_or(&[]));
            let size = run.iter().map(Part::len).sum();
            let Some((now, later)) = rest.split_at_mut_checked(size) else { return false };
            if !self.read_run(share, disk, run, now) {
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
    fn run<'a>(&self, share: &Share, parts: &'a [Part]) -> &'a [Part] {
        let joins = |pair: &[Part]| match pair {
            [a, b] => {
                a.end == a.chunk.uncompressed_size
                    && b.start == 0
                    && b.chunk.uncompressed_offset == a.chunk.uncompressed_offset.saturating_add(a.end.into())
                    && self.is_plain_read(share, b)
            }
            _ => false,
        };
        let more = parts.first().is_some_and(|first| self.is_plain_read(share, first));
        let count = 1 + parts.windows(2).take_while(|pair| more && joins(pair)).count();
        parts.get(..count).unwrap_or(parts)
    }

    /// Can `part` be read from disk as it is there?
    fn is_plain_read(&self, share: &Share, part: &Part) -> bool {
        !self.options.validate && share.is_ready(&self.blob, &part.chunk)
    }

    /// Reads what [`BlobCache::run`] returned.
    fn read_run(&self, share: &Share, disk: &Disk, run: &[Part], into: &mut [u8]) -> bool {
        let Some(first) = run.first() else { return false };
        if !self.is_plain_read(share, first) {
            let hash_here = self.options.validate || is_short(first.chunk.uncompressed_size);
            let chunk = if hash_here { self.load_for(first) } else { None };
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
            run.iter().for_each(|part| share.store.ready.forget(part.chunk.index));
        }
        read.is_ok()
    }

    /// The chunk of `part`, hashed; where each copy is to be hashed again, once for a reader who takes it from its start to its end.
    fn load_for(&self, part: &Part) -> Option<VerifiedChunk> {
        let chunk = &part.chunk;
        if !self.options.validate || part.len() == chunk.uncompressed_size as usize {
            return self.load(chunk);
        }
        let known = if part.start == 0 { None } else { self.recent.get(chunk) };
        let found = known.or_else(|| self.load(chunk))?;
        if part.end == chunk.uncompressed_size {
            self.recent.drop(chunk);
        } else {
            self.recent.keep(chunk, &found);
        }
        Some(found)
    }

    /// Counters since opening.
    pub fn stats(&self) -> CacheStats {
        let Counters { fetches, fetched_bytes, requests, reverified, damaged, write_errors } = &self.counters;
        CacheStats {
            fetches: fetches.load(Ordering::Relaxed),
            fetched_bytes: fetched_bytes.load(Ordering::Relaxed),
            requests: requests.load(Ordering::Relaxed),
            reverified: reverified.load(Ordering::Relaxed),
            damaged: damaged.load(Ordering::Relaxed),
            write_errors: write_errors.load(Ordering::Relaxed),
        }
    }

    /// The files that this image uses.
    pub(crate) fn share(&self) -> &Share {
        self.own.get().unwrap_or(&self.shared)
    }

    /// A chunk that is on disk, hashed. `None`: it is not there, or what is there is not it.
    pub(crate) fn load(&self, chunk: &Chunk) -> Option<VerifiedChunk> {
        let share = self.share();
        let disk = share.store.disk.as_ref()?;
        let ready = &share.store.ready;
        let known = ready.is_verified(chunk.index);
        if !known && !ready.is_hinted(chunk.index) {
            return None;
        }
        // Before it is read: nobody writes there from here on but for this very chunk.
        let claim = share.claim(&self.blob, chunk).ok()?;
        match self.read_verified(disk, chunk) {
            Ok(verified) => {
                if !known {
                    self.counters.reverified.fetch_add(1, Ordering::Relaxed);
                    ready.mark_verified(chunk.index);
                }
                Some(verified)
            }
            Err(problem) => {
                self.counters.damaged.fetch_add(1, Ordering::Relaxed);
                let (path, index) = (disk.path().display(), chunk.index);
                tracing::warn!("cache file {path}: chunk {index} is damaged and fetched again: {problem}");
                ready.forget(index);
                if claim == Claim::New {
                    share.store.claims.release(index);
                }
                None
            }
        }
    }

    fn read_verified(&self, disk: &Disk, chunk: &Chunk) -> Result<VerifiedChunk, String> {
        let mut plain = vec![0; chunk.uncompressed_size as usize];
        disk.read(chunk.uncompressed_offset, &mut plain).map_err(|error| error.to_string())?;
        self.verify(chunk, plain).map_err(|error| error.to_string())
    }

    /// Writes a verified chunk, then marks it. A failure is counted and logged, and the chunk stays to be fetched.
    pub(crate) fn keep(&self, chunk: &Chunk, verified: &VerifiedChunk) {
        let Some(share) = self.claimed(chunk) else { return };
        let written = share.store.write(chunk, verified.bytes());
        if share.store.note(&written) {
            self.counters.write_errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The files that take `chunk`: those of this image alone from the first time on that another one says something else of the blob.
    /// `None`: it cannot be kept.
    fn claimed(&self, chunk: &Chunk) -> Option<&Share> {
        let share = self.share();
        share.store.disk.as_ref().filter(|_| chunk.index < self.blob.chunk_count)?;
        if share.claim(&self.blob, chunk).is_ok() {
            return Some(share);
        }
        let own = self.own.get_or_init(|| Share::new(self.part_ways(chunk), &self.blob));
        own.claim(&self.blob, chunk).ok().map(|_| own)
    }

    /// Files of its own for this image, as another one contradicts what it says of `chunk`.
    fn part_ways(&self, chunk: &Chunk) -> Arc<Store> {
        let (blob, number, other) = (&self.blob.id, chunk.index, self.shared.store.image());
        tracing::warn!(
            "image {}: what it says of chunk {number} of blob {blob} contradicts what is known of that blob since image {other} was mounted: \
             they do not share it",
            self.image
        );
        let dir = self.shared.store.disk.as_ref().and_then(|disk| disk.path().parent());
        let own = dir.map(|dir| Store::private(dir, &self.blob));
        Arc::new(own.and_then(Result::ok).unwrap_or_else(|| Store::nowhere(&self.blob)))
    }
}

/// `blob` as it is cached.
pub(crate) fn described(blob: &Blob) -> Result<Blob, CacheError> {
    if blob.is_tar() { tar::in_pieces(blob) } else { Ok(blob.clone()) }
}

/// How the units of `blob` are decoded. Errors: a cipher or key that cannot be used.
fn codec(blob: &Blob) -> Result<UnitCodec, CacheError> {
    UnitCodec::new(blob).map_err(|source| CacheError::Key { blob: blob.id.to_string(), source })
}
