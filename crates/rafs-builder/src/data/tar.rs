//! Chunks of a plain tar: parts of pieces that are verified one by one, once the tar as a whole was.

use super::{BlobError, ChunkError, ChunkReader};
use crate::open::BlobFile;
use rafs_format::{Blob, Chunk, FormatError};
use rafs_merkle::VerifiedChunk;
use rafs_merkle::pieces::{PieceHasher, Pieces};

/// Bytes hashed at a time.
const STEP: u64 = 1 << 20;

/// Reads and hashes a whole tar. Errors: it cannot be read, is another one, or nothing says what it should be.
pub(super) fn pieces(blob: &Blob, file: &BlobFile) -> Result<Pieces, BlobError> {
    let id = || blob.id.clone();
    let unknown = || BlobError::NoTarDigest { id: id() };
    let expected = blob.tar_digest().ok_or_else(unknown)?;
    let size = blob.compressed_size;
    let mut hasher = PieceHasher::new(size).ok_or_else(unknown)?;
    let mut at = 0;
    while at < size {
        let end = size.min(at + STEP);
        hasher.update(&file.read(at..end).map_err(|source| BlobError::ReadTar { id: id(), source })?);
        at = end;
    }
    hasher.finish(expected).map_err(|source| BlobError::Tar { id: id(), source })
}

impl ChunkReader {
    /// The bytes of `chunk` out of the pieces it lies in.
    pub(super) fn cut_from_tar(
        &mut self,
        blob: &Blob,
        file: &BlobFile,
        pieces: &Pieces,
        chunk: &Chunk,
    ) -> Result<VerifiedChunk, ChunkError> {
        let (start, size) = (chunk.compressed_offset, u64::from(chunk.uncompressed_size));
        let limit = blob.data_end();
        let outside = || ChunkError::Place {
            source: FormatError::OutOfBounds { what: "chunk of a tar", start, size, limit },
        };
        let end = start.checked_add(size).filter(|&end| end <= limit).ok_or_else(outside)?;
        let numbers = pieces.covering(&(start..end));
        let first = numbers.start.saturating_mul(pieces.piece_size().into());
        let parts = numbers.map(|n| self.piece(blob, file, pieces, n)).collect::<Result<Vec<_>, _>>()?;
        let at = |at: u64| usize::try_from(at - first).unwrap_or(usize::MAX);
        VerifiedChunk::cut(&parts, at(start)..at(end)).ok_or_else(outside)
    }

    /// Piece `n`, read unless it is the last one.
    fn piece(
        &mut self,
        blob: &Blob,
        file: &BlobFile,
        pieces: &Pieces,
        n: u64,
    ) -> Result<VerifiedChunk, ChunkError> {
        let last = self.piece.as_ref().filter(|(id, last, _)| *last == n && *id == blob.id);
        if let Some((_, _, piece)) = last {
            return Ok(piece.clone());
        }
        let range = pieces.piece(n).map_or(0..0, |(range, _)| range);
        let bytes = file.read(range).map_err(|source| ChunkError::Read { source })?;
        let piece = pieces.verify(n, bytes.into()).map_err(|source| ChunkError::Digest { source })?;
        self.piece = Some((blob.id.clone(), n, piece.clone()));
        Ok(piece)
    }
}
