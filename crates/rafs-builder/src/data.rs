//! Chunks of an image's blobs, decoded and verified: the one place where tools turn stored bytes into file content.
//!
//! Neighbouring chunks are read in one request ([`runs`]). Knows nothing of files and paths. Kinds of blobs that this
//! version cannot decode are refused when they are opened, never misread.

use crate::open::{BlobFile, BlobSource, Image};
use blob_storage::BackendError;
use bytes::Bytes;
use rafs_codec::{CodecError, Decoder, Encoder, UnitCodec, UnitError, sections};
use rafs_format::blob_units::{Unit, UnitTable};
use rafs_format::{Blob, BlobId, Chunk, Compressor, FormatError};
use rafs_merkle::external::ChunkMismatch;
use rafs_merkle::pieces::Pieces;
use rafs_merkle::{DigestMismatch, VerifiedChunk};
use std::ops::Range;

mod tar;

/// Most stored bytes read in one request, unless one chunk is longer.
const RUN: u64 = 4 << 20;
/// Longest gap between two chunks that is read and thrown away rather than asked for separately.
const GAP: u64 = 64 << 10;

/// Why a blob's chunks cannot be read at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum BlobError {
    #[error("cannot open blob {id}")]
    Open { id: BlobId, source: BackendError },
    #[error("blob {id} cannot be decrypted")]
    Key { id: BlobId, source: CodecError },
    #[error("cannot open the object with the chunk table of blob {id}")]
    OpenTable { id: BlobId, source: BackendError },
    #[error(
        "blob {id}: its chunk table is in another object that the bootstrap does not name; give that object itself, \
        or the bootstrap under the digest of that object as its file name"
    )]
    NoTable { id: BlobId },
    #[error("cannot read the chunk table of blob {id}")]
    ReadTable { id: BlobId, source: BackendError },
    #[error("chunk table of blob {id}")]
    Table { id: BlobId, source: UnitError },
    #[error("cannot read tar {id}")]
    ReadTar { id: BlobId, source: BackendError },
    #[error("tar {id} is not the one the image was made of")]
    Tar { id: BlobId, source: DigestMismatch },
    #[error(
        "tar {id} cannot be verified: its id is no SHA-256, and the image, made by an older tool, notes none; build the bootstrap anew"
    )]
    NoTarDigest { id: BlobId },
}

/// Why one chunk is not what the bootstrap says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum ChunkError {
    #[error("its place is wrong")]
    Place { source: FormatError },
    #[error("it cannot be read")]
    Read { source: BackendError },
    #[error("it does not decode")]
    Decode { source: CodecError },
    #[error("its content is wrong")]
    Digest { source: DigestMismatch },
    #[error("its content cannot be trusted")]
    External { source: ChunkMismatch },
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

/// A blob open for reading its chunks: the file, and what is needed to find and decode its units.
#[derive(Debug)]
pub struct OpenBlob {
    /// The blob as it is stored.
    pub file: BlobFile,
    codec: UnitCodec,
    table: Option<UnitTable>,
    /// Of a plain tar.
    pieces: Option<Pieces>,
    /// Where the file ends, of a layer that does not say where its last chunk does.
    end: Option<u64>,
}

impl OpenBlob {
    /// A part of the chunk table, stored in this way, that is encrypted where the data is.
    pub fn decrypt(&self, stored: Vec<u8>, coding: sections::Coding) -> Result<Vec<u8>, CodecError> {
        let plain_size = usize::try_from(coding.plain_size).ok();
        self.codec.decrypt(stored, plain_size.filter(|_| coding.compressor == Compressor::None))
    }
}

/// Opens `blob` of `image` for reading its chunks. Of a blob with batches or spans the chunk table is read, too; a plain tar is read whole, since only
/// the digest of all of it says what its chunks should be.
pub fn open(image: &Image, blob: &Blob, source: &BlobSource) -> Result<OpenBlob, BlobError> {
    let id = || blob.id.clone();
    let codec =
        UnitCodec::new(&source.unlocked(blob)).map_err(|source| BlobError::Key { id: id(), source })?;
    let file = source.open(&blob.id).map_err(|source| BlobError::Open { id: id(), source })?;
    let table = match codec.table_range(blob) {
        Some(range) => {
            let tables = table_file(image, blob, source, &file)?;
            let bytes = tables.read(range).map_err(|source| BlobError::ReadTable { id: id(), source })?;
            Some(codec.table(blob, &bytes).map_err(|source| BlobError::Table { id: id(), source })?)
        }
        None => None,
    };
    let pieces = if blob.is_tar() { Some(tar::pieces(blob, &file)?) } else { None };
    let size = || file.size().map_err(|source| BlobError::Open { id: id(), source });
    let end = if blob.is_stargz() { Some(size()?) } else { None };
    Ok(OpenBlob { file, codec, table, pieces, end })
}

/// The object that holds the chunk table of `blob`, whose data is in `file`: that itself; for a layer that stays as it is, the one that its
/// bootstrap came out of or names.
pub fn table_file(
    image: &Image,
    blob: &Blob,
    source: &BlobSource,
    file: &BlobFile,
) -> Result<BlobFile, BlobError> {
    if !blob.is_separate() {
        return Ok(file.clone());
    }
    let opened = if image.is_inside_blob() {
        source.open_path(image.path(), &blob.id)
    } else {
        let id = blob.table_id().ok_or_else(|| BlobError::NoTable { id: blob.id.clone() })?;
        source.open(&id)
    };
    opened.map_err(|source| BlobError::OpenTable { id: blob.id.clone(), source })
}

/// Opens all blobs of an image, in table order.
pub fn open_all(image: &Image, source: &BlobSource) -> Result<Vec<OpenBlob>, BlobError> {
    image.blobs().iter().map(|blob| open(image, blob, source)).collect()
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
    /// The batch or span decoded last, unverified, with its blob and first stored byte.
    batch: Option<(BlobId, u64, Bytes)>,
    /// The piece of a tar verified last, with its blob and number: small files share it.
    piece: Option<(BlobId, u64, VerifiedChunk)>,
}

impl std::fmt::Debug for ChunkReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChunkReader").finish_non_exhaustive()
    }
}

impl ChunkReader {
    /// Reads one run of chunks of `blob` from `open` and hands each to `each`, in order, with its plain bytes or what is
    /// wrong with it. When the run cannot be read as a whole its chunks are read one by one, so that the bad one is found.
    pub fn read_run(
        &mut self,
        blob: &Blob,
        open: &OpenBlob,
        run: &[Chunk],
        each: &mut dyn FnMut(&Chunk, Result<VerifiedChunk, BadChunk>),
    ) {
        if let Some(pieces) = &open.pieces {
            for chunk in run {
                let plain = self.cut_from_tar(blob, &open.file, pieces, chunk);
                each(chunk, plain.map_err(|source| bad_chunk(blob, chunk, source)));
            }
            return;
        }
        let unit = |chunk| open.codec.unit(blob, chunk, open.table.as_ref());
        let sound = run.iter().all(|chunk| unit(chunk).is_ok());
        let whole = whole_range(run).filter(|_| sound && open.table.is_none() && run.len() > 1);
        let bytes = whole.and_then(|range| Some((range.start, open.file.read(range).ok()?)));
        for chunk in run {
            let unit = unit(chunk).map_err(|source| ChunkError::Place { source });
            let plain = unit.and_then(|unit| {
                let stored = bytes.as_ref().map(|(start, bytes)| slice(bytes, *start, &unit));
                self.plain(blob, open, chunk, &unit, stored)
            });
            each(chunk, plain.map_err(|source| bad_chunk(blob, chunk, source)));
        }
    }

    /// The chunks of one run as a blob may store them, each by itself, in order, and whether they are compressed: copies of what is stored, or new ones
    /// of a chunk in a batch. Each was seen to be what the image names. Errors: the first that is not.
    pub fn stored_run(
        &mut self,
        blob: &Blob,
        open: &OpenBlob,
        encoder: &mut Encoder,
        run: &[Chunk],
    ) -> Result<Vec<(Bytes, bool)>, BadChunk> {
        let read = whole_range(run).filter(|_| open.table.is_none() && open.pieces.is_none());
        let read = read.and_then(|range| Some((range.start, open.file.read(range).ok()?)));
        let mut one = |this: &mut Self, chunk: &Chunk| {
            let unit = open.codec.unit(blob, chunk, open.table.as_ref());
            let unit = unit.map_err(|source| ChunkError::Place { source })?;
            if open.table.is_none() {
                let stored = match &read {
                    Some((start, bytes)) => slice(bytes, *start, &unit),
                    None => {
                        let read = open.file.read(unit.compressed.clone());
                        read.map_err(|source| ChunkError::Read { source })?
                    }
                };
                this.plain(blob, open, chunk, &unit, Some(stored.clone()))?;
                return Ok((stored, unit.is_compressed));
            }
            let plain = this.plain(blob, open, chunk, &unit, None)?;
            let mut packed = Vec::new();
            let smaller = encoder.encode(plain.bytes(), &mut packed);
            let smaller = smaller.map_err(|source| ChunkError::Decode { source })?;
            let bytes = if smaller { packed } else { plain.bytes().to_vec() };
            Ok((bytes.into(), smaller))
        };
        run.iter().map(|chunk| one(self, chunk).map_err(|source| bad_chunk(blob, chunk, source))).collect()
    }

    /// The plain bytes of `chunk`, which lies in `unit`, hashed. `stored`: the bytes of the unit where they were read already.
    fn plain(
        &mut self,
        blob: &Blob,
        open: &OpenBlob,
        chunk: &Chunk,
        unit: &Unit,
        stored: Option<Bytes>,
    ) -> Result<VerifiedChunk, ChunkError> {
        let start = unit.compressed.start;
        let last = self.batch.as_ref().filter(|(id, at, _)| *at == start && *id == blob.id);
        let plain = match last {
            Some((_, _, plain)) => plain.clone(),
            None => {
                let end = open.end.map_or(unit.compressed.end, |end| unit.compressed.end.min(end));
                let read = || open.file.read(start..end.max(start));
                let stored = stored.map_or_else(read, Ok).map_err(|source| ChunkError::Read { source })?;
                let plain = open.codec.decode(&mut self.decoder, unit, stored.into());
                Bytes::from(plain.map_err(|source| ChunkError::Decode { source })?)
            }
        };
        let from = unit.start as usize;
        let end = from.saturating_add(chunk.uncompressed_size as usize).min(plain.len());
        let verified = if from == 0 && end == plain.len() && open.table.is_none() {
            VerifiedChunk::verify_chunk(plain.into(), blob, chunk)
        } else {
            let part = plain.slice(from.min(end)..end).to_vec();
            self.batch = Some((blob.id.clone(), start, plain));
            VerifiedChunk::verify_chunk(part, blob, chunk)
        };
        verified.map_err(|error| match error {
            ChunkMismatch::Digest(source) => ChunkError::Digest { source },
            source => ChunkError::External { source },
        })
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

/// The stored bytes of `unit` out of a run that starts at `start`.
fn slice(bytes: &Bytes, start: u64, unit: &Unit) -> Bytes {
    let at = |at: u64| usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(at(unit.compressed.start)..at(unit.compressed.end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rafs_format::{ChunkFlags, Digest};

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
