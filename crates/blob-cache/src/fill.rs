//! From a chunk that is not ready to one that is: fetched, decoded, verified, kept, once for all who wait.

use crate::tar::{self, Tar};
use crate::{BlobCache, CacheError, Part, made};
use blob_storage::{BackendError, Priority};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use rafs_codec::{CodecError, UnitError};
use rafs_format::blob_units::{Unit, UnitTable};
use rafs_format::{BlobFeatures, Chunk, FormatError};
use rafs_merkle::VerifiedChunk;
use rafs_merkle::external::ChunkMismatch;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Longest chunk that is decoded and hashed on the thread that asked; longer ones go to the runtime.
const SHORT: u32 = 128 << 10;
/// Pieces of a tar that are fetched at the same time for one chunk.
const AT_ONCE: usize = 16;

impl BlobCache {
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

    /// A chunk as the cache keeps them. Another mount may be fetching it; where that fails, this one tries its own backend.
    pub(crate) async fn fetch_unit_once(
        self: &Arc<Self>,
        chunk: &Chunk,
    ) -> Result<VerifiedChunk, Arc<CacheError>> {
        match self.board(chunk).await {
            (Err(_), false) => self.board(chunk).await.0,
            (found, _) => found,
        }
    }

    /// Joins the flight for `chunk`, or starts one. Returns whether it was started by this mount, too.
    async fn board(self: &Arc<Self>, chunk: &Chunk) -> (Result<VerifiedChunk, Arc<CacheError>>, bool) {
        let share = self.share();
        let wanted = (chunk.index, share.tag(&self.blob, chunk));
        let this = Arc::as_ptr(self).addr();
        let (landed, starter) = share.store.flights.board(wanted, this, |landing| {
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
        let found = landed.await.unwrap_or_else(|_closed| Err(Arc::new(self.abandoned(chunk.index))));
        (found, starter == this)
    }

    pub(crate) fn abandoned(&self, chunk: u32) -> CacheError {
        CacheError::Abandoned { blob: self.blob.id.to_string(), chunk }
    }

    /// `chunks` as the cache keeps them: those of a tar, which is verified first, are its pieces.
    pub(crate) async fn as_kept(&self, chunks: &[Chunk]) -> Result<Vec<Chunk>, Arc<CacheError>> {
        let Some(tar) = &self.tar else { return Ok(chunks.to_vec()) };
        let pieces = tar.verified(&self.blob, &self.reader).await?;
        let mut kept = Vec::new();
        for chunk in chunks {
            let whole = Part { chunk: *chunk, start: 0, end: chunk.uncompressed_size };
            let parts = tar::cut(&pieces, &whole).ok_or_else(|| Arc::new(self.out_of_bounds(chunk)))?;
            kept.extend(parts.iter().map(|part| part.chunk));
        }
        kept.sort_unstable_by_key(|piece| piece.index);
        kept.dedup_by_key(|piece| piece.index);
        Ok(kept)
    }

    /// [`BlobCache::fetch`], then the bytes of `part`.
    pub async fn fetch_part(self: &Arc<Self>, part: &Part) -> Result<Bytes, Arc<CacheError>> {
        if let Some(tar) = &self.tar {
            return Ok(self.fetch_from_tar(tar, part).await?.bytes().clone());
        }
        let chunk = self.fetch(&part.chunk).await?;
        part.of(chunk.bytes()).ok_or_else(|| Arc::new(self.out_of_bounds(&part.chunk)))
    }

    /// Loads or fetches one chunk. Runs once at a time for each chunk.
    async fn fill(&self, chunk: &Chunk) -> Result<VerifiedChunk, CacheError> {
        if let Some(found) = self.load(chunk) {
            return Ok(found);
        }
        self.fetch_one(chunk, Priority::OnDemand).await
    }

    /// Fetches one chunk, with its batch or span where it is in one, and keeps it.
    pub(crate) async fn fetch_one(
        &self,
        chunk: &Chunk,
        priority: Priority,
    ) -> Result<VerifiedChunk, CacheError> {
        let verified = match self.table(chunk, None, priority).await? {
            None => self.cut_from_unit(chunk, None, priority).await?,
            Some(table) => self.cut_from_batch(chunk, table, priority).await?,
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
        priority: Priority,
    ) -> Result<VerifiedChunk, CacheError> {
        let found = self.cut_from_unit(chunk, Some(&table), priority).await;
        if found.is_ok() {
            return found;
        }
        self.forget_batches().await;
        let Ok(Some(other)) = self.table(chunk, Some(&table), priority).await else { return found };
        let again =
            if other == table { found } else { self.cut_from_unit(chunk, Some(&other), priority).await };
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
        priority: Priority,
    ) -> Result<VerifiedChunk, CacheError> {
        let unit = self.codec.unit(&self.blob, chunk, table);
        let unit = unit.map_err(|source| self.wrong_place(chunk, source))?;
        let Some(_) = table else {
            return Ok(self.fetch_unit(chunk, &unit, false, priority).await?.0);
        };
        let _turn = self.units.turn(&unit).await;
        if let Some(plain) = self.units.get(&unit) {
            return self.verify_in(chunk, &unit, plain);
        }
        let (verified, plain) = self.fetch_unit(chunk, &unit, true, priority).await?;
        if let Some(plain) = plain {
            self.units.keep(&unit, plain);
        }
        Ok(verified)
    }

    /// The table of units of a blob with batches or spans, which comes with the first chunk. `not` is one that led to a wrong chunk; it is the answer
    /// only where nobody has another one.
    pub(crate) async fn table(
        &self,
        chunk: &Chunk,
        not: Option<&Arc<UnitTable>>,
        priority: Priority,
    ) -> Result<Option<Arc<UnitTable>>, CacheError> {
        let Some(range) = self.codec.table_range(&self.blob) else { return Ok(None) };
        let mut known = self.table.lock().await;
        if let Some(table) = &*known {
            return Ok(Some(Arc::clone(table)));
        }
        let decode = |bytes: &Bytes| self.codec.table(&self.blob, bytes).map(Arc::new);
        let usable = |bytes: &Bytes| decode(bytes).is_ok_and(|table| not != Some(&table));
        let bytes = self.tables.read_checked(range, priority, &usable).await;
        let bytes = bytes.map_err(|source| self.unreachable(chunk, source))?;
        let table = decode(&bytes).map_err(|error| match error {
            UnitError::Format(source) => self.wrong_place(chunk, source),
            UnitError::Codec(source) => self.undecodable(chunk, source),
        })?;
        Ok(Some(Arc::clone(known.insert(table))))
    }

    /// Is it a blob with batches or spans?
    pub(crate) fn has_table(&self) -> bool {
        self.codec.table_range(&self.blob).is_some()
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
        priority: Priority,
    ) -> Result<(VerifiedChunk, Option<Bytes>), CacheError> {
        let bytes = (unit.compressed.end - unit.compressed.start) + u64::from(unit.uncompressed_size);
        let _room = self.room(bytes, priority).await;
        let range = self.stored_range(chunk, unit).await?;
        let made = made::read(&*self.reader, range, priority, |stored| {
            let plain = self.decode(chunk, unit, stored)?;
            let batch = is_batch.then(|| plain.clone());
            Ok((self.verify_in(chunk, unit, plain)?, batch))
        });
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        let (size, found) = made.await.map_err(|source| self.unreachable(chunk, source))?;
        self.counters.fetches.fetch_add(1, Ordering::Relaxed);
        self.counters.fetched_bytes.fetch_add(size, Ordering::Relaxed);
        found
    }

    /// Stored bytes of a unit. Where the last member of an eStargz layer ends is not known, only that it is within the layer.
    pub(crate) async fn stored_range(&self, chunk: &Chunk, unit: &Unit) -> Result<Range<u64>, CacheError> {
        let range = unit.compressed.clone();
        if !self.blob.is_stargz() || range.end < self.blob.data_end() {
            return Ok(range);
        }
        let size = self.reader.size().await.map_err(|source| self.unreachable(chunk, source))?;
        Ok(range.start..range.end.min(size).max(range.start))
    }

    /// Decrypts and decompresses a unit.
    pub(crate) fn decode(&self, chunk: &Chunk, unit: &Unit, stored: Bytes) -> Result<Bytes, CacheError> {
        let mut decoder = self.decoders.lock().pop().unwrap_or_default();
        let plain = self.codec.decode(&mut decoder, unit, stored.into());
        self.decoders.lock().push(decoder);
        plain.map(Bytes::from).map_err(|source| self.undecodable(chunk, source))
    }

    /// `chunk` in a decoded unit.
    pub(crate) fn verify_in(
        &self,
        chunk: &Chunk,
        unit: &Unit,
        plain: Bytes,
    ) -> Result<VerifiedChunk, CacheError> {
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

    pub(crate) fn unreachable(&self, chunk: &Chunk, source: impl Into<Arc<BackendError>>) -> CacheError {
        CacheError::Backend { blob: self.blob.id.to_string(), chunk: chunk.index, source: source.into() }
    }

    fn undecodable(&self, chunk: &Chunk, source: CodecError) -> CacheError {
        CacheError::Codec { blob: self.blob.id.to_string(), chunk: chunk.index, source }
    }

    pub(crate) fn wrong_place(&self, chunk: &Chunk, source: FormatError) -> CacheError {
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

    pub(crate) fn verify(&self, chunk: &Chunk, plain: Vec<u8>) -> Result<VerifiedChunk, CacheError> {
        let (blob, index) = (|| self.blob.id.to_string(), chunk.index);
        VerifiedChunk::verify_chunk(plain, &self.blob, chunk).map_err(|error| match error {
            ChunkMismatch::Digest(source) => CacheError::Digest { blob: blob(), chunk: index, source },
            source => CacheError::External { blob: blob(), chunk: index, source },
        })
    }
}

/// Is decoding and hashing so many bytes done before another thread would have begun with it?
pub fn is_short(uncompressed_size: u32) -> bool {
    uncompressed_size <= SHORT
}
