//! The local, verified copy of a blob.
//!
//! `<work_dir>/<blob id>.blob.data` holds the decompressed blob, sparse, each chunk at its uncompressed offset; so it is an EROFS
//! device too. `<blob id>.blob.data.chunk_map` says which chunks it *may* hold. Invariants: only bytes that hashed to their digest are
//! written; a chunk is marked ready after its bytes are written; a mark found on disk at start is a hint: the chunk is hashed again
//! on its first use in this process, so a torn, stale or foreign file costs a fetch and never a wrong byte.
//! The files belong to one open cache at a time; a second one keeps a private copy, since it could not trust what the other writes.
//! Fetching is asynchronous and single flight: readers of one chunk share one fetch. Reading a ready chunk is synchronous.
//! Where the cache's disk fails (full, read-only, I/O error), reads go on uncached from memory and a log line says so.

mod disk;
mod error;
mod flight;
mod made;
mod ready;
mod tar;
mod units;

pub use error::CacheError;

use blob_storage::{BackendError, BlobReader, Priority};
use bytes::Bytes;
use disk::Disk;
use flight::Flights;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use rafs_codec::{CodecError, Decoder, UnitCodec, UnitError};
use rafs_format::blob_units::{Unit, UnitTable};
use rafs_format::{Blob, BlobFeatures, Chunk, FormatError};
use rafs_merkle::VerifiedChunk;
use rafs_merkle::external::ChunkMismatch;
use ready::ReadyMap;
use std::borrow::Cow;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tar::Tar;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};
use units::Units;

/// Longest chunk that is decoded and hashed on the thread that asked; longer ones go to the runtime.
const SHORT: u32 = 128 << 10;
/// Pieces of a tar that are fetched at the same time for one chunk.
const AT_ONCE: usize = 16;
/// Unit of the memory budget, in bytes.
const BUDGET_UNIT: u64 = 4096;
/// Bytes, stored and plain, that all running fetches of one blob may hold: two of the longest chunks and more.
const BUDGET: u64 = 64 << 20;

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
struct Counters {
    fetches: AtomicU64,
    fetched_bytes: AtomicU64,
    reverified: AtomicU64,
    damaged: AtomicU64,
    write_errors: AtomicU64,
}

/// A part of one chunk.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// The chunk, resolved through the image's chunk table, so that its ranges lie within the blob.
    pub chunk: Chunk,
    /// First byte wanted, from the start of the chunk.
    pub start: u32,
    /// One past the last byte wanted, at most the chunk's uncompressed size.
    pub end: u32,
}

impl Part {
    /// Bytes wanted.
    pub fn len(&self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    /// Is nothing wanted?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes wanted of a chunk's plain bytes; `None` where it is shorter.
    fn of(&self, plain: &Bytes) -> Option<Bytes> {
        let range = self.start as usize..self.end as usize;
        (range.start <= range.end && range.end <= plain.len()).then(|| plain.slice(range))
    }
}

/// The local copy of one blob.
#[derive(Debug)]
pub struct BlobCache {
    blob: Blob,
    reader: Arc<dyn BlobReader>,
    options: CacheOptions,
    disk: Option<Disk>,
    ready: ReadyMap,
    flights: Flights,
    codec: UnitCodec,
    /// The object with the chunk table: the blob itself, unless that is a layer that stays as it is.
    tables: Arc<dyn BlobReader>,
    /// Of a blob with batches or spans: where its units are. Read with the first chunk. No digest covers it, so it is dropped, like the units, when
    /// it led to a chunk that is wrong.
    table: AsyncMutex<Option<Arc<UnitTable>>>,
    /// Batches or spans that were decoded last.
    units: Units,
    /// Of a plain tar: its pieces, which are what is cached. [`BlobCache::blob`] is described in them then.
    tar: Option<Tar>,
    /// Idle decoders, at most one for each thread that ever decoded at once.
    decoders: Mutex<Vec<Decoder>>,
    budget: Semaphore,
    counters: Counters,
    /// Was the last write to disk an error? Then the next one is not logged again.
    failing: AtomicBool,
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

    /// The chunk, from disk if it is ready, else fetched, decoded, verified, written and marked. Concurrent callers share one
    /// fetch and its error. A failure is not remembered: the next call tries again. Must run inside a tokio runtime.
    pub async fn fetch(self: &Arc<Self>, chunk: &Chunk) -> Result<VerifiedChunk, Arc<CacheError>> {
        match &self.tar {
            Some(tar) => {
                let part = Part { chunk: *chunk, start: 0, end: chunk.uncompressed_size };
                self.fetch_from_tar(tar, &part).await
            }
            None => self.fetch_unit_once(chunk).await,
        }
    }

    /// A part of a tar, which is verified first if it was not before, out of its pieces.
    async fn fetch_from_tar(
        self: &Arc<Self>,
        tar: &Tar,
        part: &Part,
    ) -> Result<VerifiedChunk, Arc<CacheError>> {
        let outside = || Arc::new(self.out_of_bounds(&part.chunk));
        let pieces = tar.verified(&self.blob, &self.reader).await?;
        let parts = tar::cut(&pieces, part).ok_or_else(outside)?;
        let fetch = |part: Part| async move { self.fetch_unit_once(&part.chunk).await };
        let fetches = stream::iter(parts.clone()).map(fetch).buffered(AT_ONCE);
        let chunks: Vec<_> = fetches.try_collect().await?;
        let start = parts.first().map_or(0, |part| part.start as usize);
        VerifiedChunk::cut(&chunks, start..start.saturating_add(part.len())).ok_or_else(outside)
    }

    /// A chunk as the cache keeps them.
    async fn fetch_unit_once(self: &Arc<Self>, chunk: &Chunk) -> Result<VerifiedChunk, Arc<CacheError>> {
        let landed = self.flights.board(chunk.index, |landing| {
            let (cache, chunk) = (Arc::clone(self), *chunk);
            let mut flight = Box::pin(async move {
                let result = cache.fill(&chunk).await.map_err(Arc::new);
                landing.land(result);
            });
            // Where the backend has a short chunk at hand, it is done here and now; only what must wait gets a task of its own.
            // A panic ends the flight as it does there.
            let mut start = || AssertUnwindSafe(flight.as_mut()).catch_unwind().now_or_never().is_some();
            let done = self.is_short(&chunk) && start();
            if !done {
                tokio::spawn(flight);
            }
        });
        let abandoned = || CacheError::Abandoned { blob: self.blob.id.to_string(), chunk: chunk.index };
        landed.await.unwrap_or_else(|_closed| Err(Arc::new(abandoned())))
    }

    /// [`BlobCache::fetch`], then the bytes of `part`.
    pub async fn fetch_part(self: &Arc<Self>, part: &Part) -> Result<Bytes, Arc<CacheError>> {
        if let Some(tar) = &self.tar {
            return Ok(self.fetch_from_tar(tar, part).await?.bytes().clone());
        }
        let chunk = self.fetch(&part.chunk).await?;
        part.of(chunk.bytes()).ok_or_else(|| Arc::new(self.out_of_bounds(&part.chunk)))
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
    fn load(&self, chunk: &Chunk) -> Option<VerifiedChunk> {
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

    /// Loads or fetches one chunk. Runs once at a time for each chunk.
    async fn fill(&self, chunk: &Chunk) -> Result<VerifiedChunk, CacheError> {
        if let Some(found) = self.load(chunk) {
            return Ok(found);
        }
        let verified = match self.table(chunk, None).await? {
            None => self.cut_from_unit(chunk, None).await?,
            Some(table) => self.cut_from_batch(chunk, table).await?,
        };
        self.keep(chunk, &verified);
        Ok(verified)
    }

    /// The chunk of a blob with batches. Where it is wrong, what was remembered may be why, and nothing else would ever question it: it is
    /// dropped, and the chunk is looked for once more if another route has another table.
    async fn cut_from_batch(
        &self,
        chunk: &Chunk,
        table: Arc<UnitTable>,
    ) -> Result<VerifiedChunk, CacheError> {
        let found = self.cut_from_unit(chunk, Some(&table)).await;
        if found.is_ok() {
            return found;
        }
        self.forget_batches().await;
        let Ok(Some(other)) = self.table(chunk, Some(&table)).await else { return found };
        let again = if other == table { found } else { self.cut_from_unit(chunk, Some(&other)).await };
        if again.is_err() {
            self.forget_batches().await;
        }
        again
    }

    async fn forget_batches(&self) {
        self.units.forget();
        *self.table.lock().await = None;
    }

    /// The chunk out of its unit, which is fetched unless it is among the last ones.
    async fn cut_from_unit(
        &self,
        chunk: &Chunk,
        table: Option<&UnitTable>,
    ) -> Result<VerifiedChunk, CacheError> {
        let unit = self.codec.unit(&self.blob, chunk, table);
        let unit = unit.map_err(|source| self.wrong_place(chunk, source))?;
        let Some(_) = table else {
            return Ok(self.fetch_unit(chunk, &unit, false).await?.0);
        };
        let _turn = self.units.turn(&unit).await;
        if let Some(plain) = self.units.get(&unit) {
            return self.verify_in(chunk, &unit, plain);
        }
        let (verified, plain) = self.fetch_unit(chunk, &unit, true).await?;
        if let Some(plain) = plain {
            self.units.keep(&unit, plain);
        }
        Ok(verified)
    }

    /// The table of units of a blob with batches or spans, which comes with the first chunk. `not` is one that led to a wrong chunk; it is the answer
    /// only where nobody has another one.
    async fn table(
        &self,
        chunk: &Chunk,
        not: Option<&Arc<UnitTable>>,
    ) -> Result<Option<Arc<UnitTable>>, CacheError> {
        let Some(range) = self.codec.table_range(&self.blob) else { return Ok(None) };
        let mut known = self.table.lock().await;
        if let Some(table) = &*known {
            return Ok(Some(Arc::clone(table)));
        }
        let decode = |bytes: &Bytes| self.codec.table(&self.blob, bytes).map(Arc::new);
        let usable = |bytes: &Bytes| decode(bytes).is_ok_and(|table| not != Some(&table));
        let bytes = self.tables.read_checked(range, Priority::OnDemand, &usable).await;
        let bytes = bytes.map_err(|source| self.unreachable(chunk, source))?;
        let table = decode(&bytes).map_err(|error| match error {
            UnitError::Format(source) => self.wrong_place(chunk, source),
            UnitError::Codec(source) => self.undecodable(chunk, source),
        })?;
        Ok(Some(Arc::clone(known.insert(table))))
    }

    /// Is fetching `chunk` done at once where its bytes are at hand? Not where it is cut out of a span of some megabytes.
    fn is_short(&self, chunk: &Chunk) -> bool {
        is_short(chunk.uncompressed_size) && !self.blob.features.contains(BlobFeatures::ZRAN)
    }

    /// Fetches a unit and takes `chunk` out of it; also the unit itself, *unverified*, where `is_batch`. Where one route's bytes are not those of the
    /// blob, the next one is asked.
    async fn fetch_unit(
        &self,
        chunk: &Chunk,
        unit: &Unit,
        is_batch: bool,
    ) -> Result<(VerifiedChunk, Option<Bytes>), CacheError> {
        let bytes = (unit.compressed.end - unit.compressed.start) + u64::from(unit.uncompressed_size);
        let units = u32::try_from(bytes.min(BUDGET).div_ceil(BUDGET_UNIT)).unwrap_or(u32::MAX);
        // Closed never.
        let _room = self.budget.acquire_many(units).await.ok();
        let range = self.stored_range(chunk, unit).await?;
        let made = made::read(&*self.reader, range, Priority::OnDemand, |stored| {
            let plain = self.decode(chunk, unit, stored)?;
            let batch = is_batch.then(|| plain.clone());
            Ok((self.verify_in(chunk, unit, plain)?, batch))
        });
        let (size, found) = made.await.map_err(|source| self.unreachable(chunk, source))?;
        self.counters.fetches.fetch_add(1, Ordering::Relaxed);
        self.counters.fetched_bytes.fetch_add(size, Ordering::Relaxed);
        found
    }

    /// Stored bytes of a unit. Where the last member of an eStargz layer ends is not known, only that it is within the layer.
    async fn stored_range(&self, chunk: &Chunk, unit: &Unit) -> Result<Range<u64>, CacheError> {
        let range = unit.compressed.clone();
        if !self.blob.is_stargz() || range.end < self.blob.data_end() {
            return Ok(range);
        }
        let size = self.reader.size().await.map_err(|source| self.unreachable(chunk, source))?;
        Ok(range.start..range.end.min(size).max(range.start))
    }

    /// Decrypts and decompresses a unit.
    fn decode(&self, chunk: &Chunk, unit: &Unit, stored: Bytes) -> Result<Bytes, CacheError> {
        let mut decoder = self.decoders.lock().pop().unwrap_or_default();
        let plain = self.codec.decode(&mut decoder, unit, stored.into());
        self.decoders.lock().push(decoder);
        plain.map(Bytes::from).map_err(|source| self.undecodable(chunk, source))
    }

    /// `chunk` in a decoded unit.
    fn verify_in(&self, chunk: &Chunk, unit: &Unit, plain: Bytes) -> Result<VerifiedChunk, CacheError> {
        let whole = unit.start == 0 && plain.len() == chunk.uncompressed_size as usize;
        let plain = if whole { plain } else { self.cut(chunk, unit, &plain)? };
        self.verify(chunk, plain.into())
    }

    /// The bytes of `chunk` in a decoded unit.
    fn cut(&self, chunk: &Chunk, unit: &Unit, plain: &Bytes) -> Result<Bytes, CacheError> {
        let end = unit.start.saturating_add(chunk.uncompressed_size);
        let range = unit.start as usize..end as usize;
        if range.end <= plain.len() { Ok(plain.slice(range)) } else { Err(self.out_of_bounds(chunk)) }
    }

    fn unreachable(&self, chunk: &Chunk, source: BackendError) -> CacheError {
        CacheError::Backend { blob: self.blob.id.to_string(), chunk: chunk.index, source }
    }

    fn undecodable(&self, chunk: &Chunk, source: CodecError) -> CacheError {
        CacheError::Codec { blob: self.blob.id.to_string(), chunk: chunk.index, source }
    }

    fn wrong_place(&self, chunk: &Chunk, source: FormatError) -> CacheError {
        CacheError::Bounds { blob: self.blob.id.to_string(), chunk: chunk.index, source }
    }

    fn out_of_bounds(&self, chunk: &Chunk) -> CacheError {
        let source = FormatError::OutOfBounds {
            what: "chunk",
            start: chunk.compressed_offset,
            size: chunk.compressed_size.into(),
            limit: self.blob.data_end(),
        };
        self.wrong_place(chunk, source)
    }

    fn verify(&self, chunk: &Chunk, plain: Vec<u8>) -> Result<VerifiedChunk, CacheError> {
        let (blob, index) = (|| self.blob.id.to_string(), chunk.index);
        VerifiedChunk::verify_chunk(plain, &self.blob, chunk).map_err(|error| match error {
            ChunkMismatch::Digest(source) => CacheError::Digest { blob: blob(), chunk: index, source },
            source => CacheError::External { blob: blob(), chunk: index, source },
        })
    }

    /// Writes a verified chunk, then marks it. A failure is counted and logged, and the chunk stays to be fetched.
    fn keep(&self, chunk: &Chunk, verified: &VerifiedChunk) {
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

/// Is decoding and hashing so many bytes done before another thread would have begun with it?
pub fn is_short(uncompressed_size: u32) -> bool {
    uncompressed_size <= SHORT
}

/// `blob` as it is cached.
fn described(blob: &Blob) -> Result<Blob, CacheError> {
    if blob.is_tar() { tar::in_pieces(blob) } else { Ok(blob.clone()) }
}

/// How the units of `blob` are decoded. Errors: a cipher or key that cannot be used.
fn codec(blob: &Blob) -> Result<UnitCodec, CacheError> {
    UnitCodec::new(blob).map_err(|source| CacheError::Key { blob: blob.id.to_string(), source })
}
