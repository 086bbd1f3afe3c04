//! Chunks of an image's blobs, decoded and verified: the one place where tools turn stored bytes into file content.
//!
//! Neighbouring chunks are read in one request ([`runs`]). Knows nothing of files and paths. Kinds of blobs that this
//! version cannot decode are refused when they are opened, never misread.

use crate::open::{BlobFile, BlobSource, Image};
use blob_storage::BackendError;
use rafs_codec::{CodecError, Decoder};
use rafs_format::{Blob, BlobId, Chunk, ChunkFlags, Compressor};
use rafs_merkle::{DigestMismatch, VerifiedChunk};
use std::ops::Range;

/// Most stored bytes read in one request, unless one chunk is longer.
const RUN: u64 = 4 << 20;
/// Longest gap between two chunks that is read and thrown away rather than asked for separately.
const GAP: u64 = 64 << 10;

/// Why a blob's chunks cannot be read at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum BlobError {
    #[error("blob {id}: reading the data of {kind} blobs is not supported by this version yet")]
    Unsupported { id: BlobId, kind: &'static str },
    #[error("cannot open blob {id}")]
    Open { id: BlobId, source: BackendError },
}

/// Why one chunk is not what the bootstrap says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum ChunkError {
    #[error("stored range {start:#x} + {size:#x} runs past the end of chunk data at {limit:#x}")]
    Outside { start: u64, size: u64, limit: u64 },
    #[error("{what} is {found}, expected 1 to {limit}")]
    Size { what: &'static str, found: u32, limit: u32 },
    #[error("it cannot be read")]
    Read { source: BackendError },
    #[error("it does not decode")]
    Decode { source: CodecError },
    #[error("its content is wrong")]
    Digest { source: DigestMismatch },
    #[error("CRC-32C is {found:#010x}, the image names {expected:#010x}")]
    Crc { expected: u32, found: u32 },
}

/// A chunk that is wrong, and where it lies.
#[derive(Debug, thiserror::Error)]
#[error("blob {blob}, chunk {index} at {compressed_offset:#x} + {compressed_size:#x}")]
#[expect(missing_docs, reason = "the message names the fields")]
pub struct BadChunk {
    pub blob: BlobId,
    pub index: u32,
    pub compressed_offset: u64,
    pub compressed_size: u32,
    pub source: ChunkError,
}

/// Opens `blob` for reading its chunks.
pub fn open(blob: &Blob, source: &BlobSource) -> Result<BlobFile, BlobError> {
    if let Some(kind) = blob.special_kind() {
        return Err(BlobError::Unsupported { id: blob.id.clone(), kind });
    }
    source.open(&blob.id).map_err(|source| BlobError::Open { id: blob.id.clone(), source })
}

/// Opens all blobs of an image, in table order.
pub fn open_all(image: &Image, source: &BlobSource) -> Result<Vec<BlobFile>, BlobError> {
    image.blobs().iter().map(|blob| open(blob, source)).collect()
}

/// Checks that the ranges of `chunk` lie within what `blob` can hold, before anything is read or allocated.
fn check_ranges(blob: &Blob, chunk: &Chunk) -> Result<(), ChunkError> {
    let limit = blob.chunk_size;
    for (what, found) in
        [("stored size", chunk.compressed_size), ("uncompressed size", chunk.uncompressed_size)]
    {
        if found == 0 || found > limit {
            return Err(ChunkError::Size { what, found, limit });
        }
    }
    let (start, size) = (chunk.compressed_offset, u64::from(chunk.compressed_size));
    match start.checked_add(size) {
        Some(end) if end <= blob.data_end() => Ok(()),
        _ => Err(ChunkError::Outside { start, size, limit: blob.data_end() }),
    }
}

/// Cuts `chunks` into runs to be read in one request each: same blob, ascending, close together.
pub fn runs(chunks: &[Chunk]) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut from = 0;
    std::iter::from_fn(move || {
        let first = chunks.get(from)?;
        let mut last = first;
        let rest = chunks.iter().skip(from + 1);
        let more = rest.take_while(|next| {
            let joins = joins(first, last, next);
            last = next;
            joins
        });
        let run = from..from + 1 + more.count();
        from = run.end;
        Some(run)
    })
}

/// Is `next` to be read together with the run from `first` to `last`?
fn joins(first: &Chunk, last: &Chunk, next: &Chunk) -> bool {
    let end = |chunk: &Chunk| chunk.compressed_offset.saturating_add(u64::from(chunk.compressed_size));
    next.blob == first.blob
        && next.compressed_offset >= end(last)
        && next.compressed_offset - end(last) <= GAP
        && end(next).saturating_sub(first.compressed_offset) <= RUN
}

/// Decodes and verifies chunks, keeping its working memory from one to the next. One per thread.
#[derive(Default)]
pub struct ChunkReader {
    decoder: Decoder,
}

impl std::fmt::Debug for ChunkReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChunkReader").finish_non_exhaustive()
    }
}

impl ChunkReader {
    /// Reads one run of chunks of `blob` from `file` and hands each to `each`, in order, with its plain bytes or what is
    /// wrong with it. When the run cannot be read as a whole its chunks are read one by one, so that the bad one is found.
    pub fn read_run(
        &mut self,
        blob: &Blob,
        file: &BlobFile,
        run: &[Chunk],
        each: &mut dyn FnMut(&Chunk, Result<VerifiedChunk, BadChunk>),
    ) {
        let bad = run.iter().any(|chunk| check_ranges(blob, chunk).is_err());
        let whole = whole_range(run).filter(|_| !bad && run.len() > 1);
        let bytes = whole.and_then(|range| Some((range.start, file.read(range).ok()?)));
        for chunk in run {
            let stored = match &bytes {
                Some((start, bytes)) => Ok(slice(bytes, *start, chunk)),
                None => read_one(blob, file, chunk),
            };
            let plain = stored.and_then(|stored| self.verify(blob, chunk, &stored));
            each(chunk, plain.map_err(|source| bad_chunk(blob, chunk, source)));
        }
    }

    /// The plain bytes of `chunk`, decoded from `stored` and hashed.
    fn verify(&mut self, blob: &Blob, chunk: &Chunk, stored: &[u8]) -> Result<VerifiedChunk, ChunkError> {
        let compressed = chunk.flags.contains(ChunkFlags::COMPRESSED);
        let by = if compressed { blob.compressor } else { Compressor::None };
        let size = usize::try_from(chunk.uncompressed_size).unwrap_or(usize::MAX);
        let plain = self.decoder.decode(by, stored, size).map_err(|source| ChunkError::Decode { source })?;
        VerifiedChunk::verify(plain, blob.digester, chunk.digest)
            .map_err(|source| ChunkError::Digest { source })
    }
}

/// Wraps what is wrong with `chunk` in where it lies.
pub fn bad_chunk(blob: &Blob, chunk: &Chunk, source: ChunkError) -> BadChunk {
    BadChunk {
        blob: blob.id.clone(),
        index: chunk.index,
        compressed_offset: chunk.compressed_offset,
        compressed_size: chunk.compressed_size,
        source,
    }
}

/// Bytes of the blob from the first chunk of a run to the end of its last.
fn whole_range(run: &[Chunk]) -> Option<Range<u64>> {
    let last = run.last()?;
    let end = last.compressed_offset.checked_add(u64::from(last.compressed_size))?;
    Some(run.first()?.compressed_offset..end)
}

/// The stored bytes of `chunk` out of a run that starts at `start`.
fn slice(bytes: &bytes::Bytes, start: u64, chunk: &Chunk) -> bytes::Bytes {
    let from = usize::try_from(chunk.compressed_offset - start).unwrap_or(usize::MAX).min(bytes.len());
    let size = usize::try_from(chunk.compressed_size).unwrap_or(usize::MAX);
    bytes.slice(from..from.saturating_add(size).min(bytes.len()))
}

/// Reads the stored bytes of one chunk.
fn read_one(blob: &Blob, file: &BlobFile, chunk: &Chunk) -> Result<bytes::Bytes, ChunkError> {
    check_ranges(blob, chunk)?;
    let end = chunk.compressed_offset + u64::from(chunk.compressed_size);
    file.read(chunk.compressed_offset..end).map_err(|source| ChunkError::Read { source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rafs_format::Digest;

    fn chunk(blob: u32, compressed_offset: u64, compressed_size: u32) -> Chunk {
        Chunk {
            digest: Digest([0; 32]),
            blob,
            index: 0,
            flags: ChunkFlags::empty(),
            compressed_offset,
            compressed_size,
            uncompressed_offset: 0,
            uncompressed_size: compressed_size,
            file_offset: 0,
            crc32: 0,
        }
    }

    /// Lengths of the runs.
    fn cut(chunks: &[Chunk]) -> Vec<usize> {
        runs(chunks).map(|run| run.len()).collect()
    }

    #[test]
    fn neighbours_are_read_together() {
        assert_eq!(cut(&[]), [] as [usize; 0]);
        assert_eq!(cut(&[chunk(0, 0, 10), chunk(0, 10, 5), chunk(0, 15, 1)]), [3]);
        assert_eq!(cut(&[chunk(0, 0, 10), chunk(1, 10, 5), chunk(1, 15, 5)]), [1, 2]);
        assert_eq!(cut(&[chunk(0, 10, 10), chunk(0, 0, 10), chunk(0, 10, 5)]), [1, 2]);
        assert_eq!(cut(&[chunk(0, 0, 10), chunk(0, 10 + GAP, 5)]), [2]);
        assert_eq!(cut(&[chunk(0, 0, 10), chunk(0, 11 + GAP, 5)]), [1, 1]);
        assert_eq!(cut(&[chunk(0, 0, 3 << 20), chunk(0, 3 << 20, 1 << 20), chunk(0, 4 << 20, 1)]), [2, 1]);
        assert_eq!(cut(&[chunk(0, 0, 16 << 20), chunk(0, 16 << 20, 1)]), [1, 1]);
    }

    #[test]
    fn overflowing_offsets_do_not_panic() {
        assert_eq!(cut(&[chunk(0, u64::MAX, 10), chunk(0, u64::MAX, 10)]).len(), 1);
        assert_eq!(whole_range(&[chunk(0, u64::MAX, 10)]), None);
    }
}
