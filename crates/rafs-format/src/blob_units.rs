//! Where chunks of a blob with batches are stored: several small ones compressed as one *unit*, which only the chunk table of the blob itself
//! tells. The same for chunks inside a gzip layer that stays as it is, where the units are spans. docs/format.md, "Chunk table of a blob".
//!
//! The table is not covered by any digest; a wrong one leads to bytes that do not hash to their chunk's digest, never further than
//! the ranges checked here.

use crate::blob_entries::{self, BATCH, BatchEntry, COMPRESSED, ChunkEntry, ZRAN};
use crate::device::gzip_bound;
use crate::layout::BlobMetaHeader;
use crate::read::{require, structure};
use crate::zran::{self, Resume};
use crate::{Blob, BlobFeatures, Chunk, ChunkFlags, FormatError};
use std::ops::Range;
use std::sync::Arc;

/// Size of a version 2 entry, in bytes.
const ENTRY_SIZE: u64 = blob_entries::ENTRY_SIZE as u64;
/// Stored bytes that encryption may add to a unit.
const PADDING: u32 = 18;

/// What is stored as one: a batch, a span of a layer, or a chunk by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Stored bytes, in bytes of the blob.
    pub compressed: Range<u64>,
    /// Length after decompression.
    pub uncompressed_size: u32,
    /// Is it compressed? Else it is stored as it is.
    pub is_compressed: bool,
    /// Where the chunk starts in the decompressed unit.
    pub start: u32,
    /// Of a span in a gzip stream: what decoding must know to start there.
    pub resume: Option<Resume>,
}

impl Unit {
    /// The unit of `chunk` in a blob without batches: the chunk by itself, as its record says.
    /// Errors: a record whose ranges leave the blob, or whose sizes are over the blob's chunk size.
    pub fn of_chunk(blob: &Blob, chunk: &Chunk) -> Result<Self, FormatError> {
        let (at, size, stored) = (chunk.compressed_offset, chunk.uncompressed_size, chunk.compressed_size);
        let known = chunk.index < blob.chunk_count;
        require(known, "index of a chunk", at, chunk.index.into(), "a chunk of the blob")?;
        let good = (1..=blob.chunk_size).contains(&size);
        require(good, "size of a chunk", at, size.into(), "1 to the chunk size")?;
        let most = if blob.is_stargz() { gzip_bound(blob.chunk_size) } else { blob.chunk_size.max(PADDING) };
        let good = (1..=most).contains(&stored);
        require(good, "stored size of a chunk", at, stored.into(), "1 to the chunk size")?;
        let outside = |what, start, size: u32, limit| FormatError::OutOfBounds {
            what,
            start,
            size: size.into(),
            limit,
        };
        let plain_end = chunk.uncompressed_offset.checked_add(size.into());
        if plain_end.is_none_or(|end| end > blob.uncompressed_size) {
            return Err(outside("chunk", chunk.uncompressed_offset, size, blob.uncompressed_size));
        }
        match at.checked_add(stored.into()).filter(|&end| end <= blob.data_end()) {
            Some(end) => Ok(Self {
                compressed: at..end,
                uncompressed_size: size,
                is_compressed: chunk.flags.contains(ChunkFlags::COMPRESSED),
                start: 0,
                resume: None,
            }),
            None => Err(outside("stored chunk", at, stored, blob.data_end())),
        }
    }
}

/// The chunk table of a blob with batches or spans, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitTable {
    bytes: Arc<Vec<u8>>,
    entries: u32,
    /// Batches or inflate states.
    contexts: u32,
    /// Where they start in the table.
    context_offset: u64,
    /// Are they inflate states?
    spans: bool,
}

impl UnitTable {
    /// The decompressed `table` with its `header`, which [`crate::blob_meta::Header::parse`] has found to agree with `blob`.
    pub fn new(table: Vec<u8>, header: &[u8], blob: &Blob) -> Result<Self, FormatError> {
        let header: &BlobMetaHeader = structure(header, "header of a chunk table", 0)?;
        let size = table.len() as u64;
        let expected = blob.meta.uncompressed_size;
        require(size == expected, "size of a chunk table", 0, size, "what the bootstrap says")?;
        let entries = u64::from(blob.chunk_count) * ENTRY_SIZE;
        let at = header.context_offset.get();
        require(at == entries, "offset of batches in a chunk table", 40, at, "the end of its entries")?;
        let contexts = header.contexts.get();
        let spans = blob.features.contains(BlobFeatures::ZRAN);
        let context_size = if spans { zran::CONTEXT_SIZE } else { size_of::<BatchEntry>() };
        let end = at.checked_add(u64::from(contexts) * context_size as u64);
        let inside = end.is_some_and(|end| end <= size);
        require(
            inside,
            "batches of a chunk table",
            56,
            contexts.into(),
            "as many as the table has room for",
        )?;
        Ok(Self { bytes: Arc::new(table), entries: blob.chunk_count, contexts, context_offset: at, spans })
    }

    /// Where `chunk` of `blob` is stored. Errors: an entry that contradicts the bootstrap, or whose ranges leave blob, batch or span.
    pub fn unit(&self, blob: &Blob, chunk: &Chunk) -> Result<Unit, FormatError> {
        let known = chunk.index < self.entries;
        require(known, "index of a chunk", 0, chunk.index.into(), "an entry of the chunk table")?;
        let at = u64::from(chunk.index) * ENTRY_SIZE;
        let entry: &ChunkEntry = structure(&self.bytes, "entry of a chunk table", at)?;
        let word = entry.uncompressed.get();
        let (offset, size) = ((word & 0xFFFF_FFFF) << 12, ((word >> 32) & 0xFF_FFFF) + 1);
        let said = "what the bootstrap says";
        require(
            offset == chunk.uncompressed_offset,
            "uncompressed offset in a chunk table",
            at,
            offset,
            said,
        )?;
        let same = size == u64::from(chunk.uncompressed_size);
        require(same, "uncompressed size in a chunk table", at, size, said)?;
        let flags = word >> 56;
        let kind = flags & (BATCH | ZRAN);
        let sound = kind == 0 || kind == if self.spans { ZRAN } else { BATCH };
        require(sound, "flags in a chunk table", at + 7, flags, "a kind of units that the blob has")?;
        if kind == ZRAN {
            return self.span(entry, at, blob, chunk);
        }
        let unit = self.stored(entry, at, chunk)?;
        check_stored(&unit, at, blob)?;
        Ok(unit)
    }

    /// The batch or the chunk by itself that the entry at byte `at` names. Its ranges are not checked yet.
    fn stored(&self, entry: &ChunkEntry, at: u64, chunk: &Chunk) -> Result<Unit, FormatError> {
        let flags = entry.uncompressed.get() >> 56;
        let (start, stored) = (entry.compressed.get() & 0xFF_FFFF_FFFF, entry.compressed.get() >> 40);
        if flags & BATCH != 0 {
            return self.batch(entry, start, at, chunk);
        }
        let is_compressed = flags & COMPRESSED != 0;
        let compressed = start..start + stored;
        let uncompressed_size = chunk.uncompressed_size;
        Ok(Unit { compressed, uncompressed_size, is_compressed, start: 0, resume: None })
    }

    /// The batch that an entry at byte `at` names, which starts at byte `start` of the blob.
    fn batch(&self, entry: &ChunkEntry, start: u64, at: u64, chunk: &Chunk) -> Result<Unit, FormatError> {
        let number = entry.number.get();
        require(
            number < self.contexts,
            "batch in a chunk table",
            at + 20,
            number.into(),
            "a batch of the table",
        )?;
        let context = self.context_offset + u64::from(number) * size_of::<BatchEntry>() as u64;
        let batch: &BatchEntry = structure(&self.bytes, "batch of a chunk table", context)?;
        let (stored, plain) = (batch.compressed_size.get(), batch.uncompressed_size.get());
        within(entry, at, chunk, plain)?;
        Ok(Unit {
            compressed: start..start + u64::from(stored),
            uncompressed_size: plain,
            is_compressed: stored != plain,
            start: entry.start.get(),
            resume: None,
        })
    }

    /// The span that an entry at byte `at` names.
    fn span(&self, entry: &ChunkEntry, at: u64, blob: &Blob, chunk: &Chunk) -> Result<Unit, FormatError> {
        let states = (self.context_offset, self.contexts);
        let span = zran::span(&self.bytes, states, entry.number.get(), blob)?;
        within(entry, at, chunk, span.uncompressed_size)?;
        Ok(Unit {
            compressed: span.compressed,
            uncompressed_size: span.uncompressed_size,
            is_compressed: true,
            start: entry.start.get(),
            resume: Some(span.resume),
        })
    }
}

/// The chunk must lie within the `plain` bytes of its batch or span.
fn within(entry: &ChunkEntry, at: u64, chunk: &Chunk, plain: u32) -> Result<(), FormatError> {
    let start = entry.start.get();
    let good = start.checked_add(chunk.uncompressed_size).is_some_and(|end| end <= plain);
    require(good, "offset in a batch or span in a chunk table", at + 16, start.into(), "within it")
}

/// A batch or a chunk by itself must lie within its blob and be no longer than a chunk may be.
fn check_stored(unit: &Unit, at: u64, blob: &Blob) -> Result<(), FormatError> {
    let stored = unit.compressed.end - unit.compressed.start;
    let most = u64::from(unit.uncompressed_size.max(PADDING));
    require(
        (1..=most).contains(&stored),
        "stored size in a chunk table",
        at + 8,
        stored,
        "1 to the size of the unit",
    )?;
    let end = unit.compressed.end;
    let inside = end <= blob.data_end() && unit.uncompressed_size <= blob.chunk_size;
    require(
        inside,
        "end of a chunk in a chunk table",
        at + 8,
        end,
        "within the data of the blob, and at most the chunk size",
    )
}
