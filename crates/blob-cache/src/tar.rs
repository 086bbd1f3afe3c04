//! Plain tars as blobs: no chunk has a digest, so the whole tar is verified at the first read, and pieces of it from then on.
//!
//! To the rest of the cache a tar is a blob whose chunks are its [`Pieces`]: what files call chunks are parts of those, whatever numbers an image
//! gives them. Invariant: there are no pieces, and so no data, before all of the tar hashed to what the image names.
//! Verifying reads the tar once, a megabyte at a time, and is done by one task for all who wait. Bytes that change later are found out
//! like in any other blob. A tar that is not the right one is not read again and again: the answer is kept for some time.

use crate::{CacheError, Part};
use blob_storage::{BlobReader, Priority};
use parking_lot::Mutex;
use rafs_format::{Blob, Chunk, ChunkFlags};
use rafs_merkle::pieces::{PieceHasher, Pieces};
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::Mutex as AsyncMutex;

/// Bytes hashed at a time.
const STEP: u64 = 1 << 20;
/// How long a wrong tar is not looked at again.
const REST: Duration = Duration::from_secs(30);

/// What is known of one tar.
#[derive(Debug, Default)]
pub(crate) struct Tar {
    pieces: OnceLock<Arc<Pieces>>,
    /// Held while it is verified.
    verifying: AsyncMutex<()>,
    /// The last time it was a wrong one.
    wrong: Mutex<Option<(Instant, Arc<CacheError>)>>,
}

/// `blob`, a tar, as the cache keeps it: its chunks are its pieces. Errors: it is longer than any format allows.
pub(crate) fn in_pieces(blob: &Blob) -> Result<Blob, CacheError> {
    let name = || CacheError::NoTarDigest { blob: blob.id.to_string() };
    let piece_size = PieceHasher::new(blob.compressed_size).ok_or_else(name)?.piece_size();
    let count = blob.compressed_size.div_ceil(piece_size.into());
    Ok(Blob {
        chunk_size: piece_size,
        chunk_count: u32::try_from(count).unwrap_or(u32::MAX),
        digester: Pieces::ALGORITHM,
        uncompressed_size: blob.compressed_size,
        ..blob.clone()
    })
}

impl Tar {
    /// The pieces, if the tar is verified already.
    pub(crate) fn known(&self) -> Option<&Pieces> {
        self.pieces.get().map(AsRef::as_ref)
    }

    /// The pieces; the first caller has the tar verified. Must run inside a tokio runtime.
    pub(crate) async fn verified(
        &self,
        blob: &Blob,
        reader: &Arc<dyn BlobReader>,
    ) -> Result<Arc<Pieces>, Arc<CacheError>> {
        if let Some(pieces) = self.pieces.get() {
            return Ok(Arc::clone(pieces));
        }
        let _alone = self.verifying.lock().await;
        if let Some(pieces) = self.pieces.get() {
            return Ok(Arc::clone(pieces));
        }
        let wrong = self.wrong.lock().clone();
        if let Some((_, error)) = wrong.filter(|(since, _)| since.elapsed() < REST) {
            return Err(error);
        }
        // A task of its own: hashing gigabytes is nothing for the thread of a frontend that only looks whether something is at hand.
        let task = tokio::spawn(verify(blob.clone(), Arc::clone(reader)));
        let abandoned = |_ended| Err(CacheError::Abandoned { blob: blob.id.to_string(), chunk: 0 });
        match task.await.unwrap_or_else(abandoned) {
            Ok(pieces) => Ok(Arc::clone(self.pieces.get_or_init(|| Arc::new(pieces)))),
            Err(error) => {
                let error = Arc::new(error);
                if matches!(*error, CacheError::Tar { .. }) {
                    *self.wrong.lock() = Some((Instant::now(), Arc::clone(&error)));
                }
                Err(error)
            }
        }
    }
}

/// Reads and hashes a whole tar.
async fn verify(blob: Blob, reader: Arc<dyn BlobReader>) -> Result<Pieces, CacheError> {
    let name = || blob.id.to_string();
    let unknown = || CacheError::NoTarDigest { blob: name() };
    let expected = blob.tar_digest().ok_or_else(unknown)?;
    let size = blob.compressed_size;
    let mut hasher = PieceHasher::new(size).ok_or_else(unknown)?;
    let mut at = 0;
    while at < size {
        let end = size.min(at + STEP);
        let bytes = reader.read(at..end, Priority::OnDemand).await;
        let chunk = u32::try_from(at / STEP).unwrap_or(u32::MAX);
        let failed = |source| CacheError::Backend { blob: name(), chunk, source: Arc::new(source) };
        hasher.update(&bytes.map_err(failed)?);
        tokio::task::yield_now().await;
        at = end;
    }
    hasher.finish(expected).map_err(|source| CacheError::Tar { blob: name(), source })
}

/// The parts of pieces that make up `part` of a chunk; none where they are not all in the tar.
pub(crate) fn cut(pieces: &Pieces, part: &Part) -> Option<Vec<Part>> {
    let at = |within: u32| part.chunk.compressed_offset.checked_add(within.into());
    let range = at(part.start)?..at(part.end)?;
    pieces.covering(&range).map(|n| piece_part(pieces, n, &part.chunk, &range)).collect()
}

/// The part of piece `n` that is in `range`.
fn piece_part(pieces: &Pieces, n: u64, chunk: &Chunk, range: &Range<u64>) -> Option<Part> {
    let (piece, digest) = pieces.piece(n)?;
    let within = |at: u64| u32::try_from(at.clamp(piece.start, piece.end) - piece.start).ok();
    let (start, end) = (within(range.start)?, within(range.end)?);
    // A range that goes on behind the last piece has bytes that are not there.
    if pieces.piece(n + 1).is_none() && range.end > piece.end {
        return None;
    }
    let size = within(piece.end)?;
    let chunk = Chunk {
        digest,
        index: u32::try_from(n).ok()?,
        flags: ChunkFlags::empty(),
        compressed_offset: piece.start,
        compressed_size: size,
        uncompressed_offset: piece.start,
        uncompressed_size: size,
        ..*chunk
    };
    Some(Part { chunk, start, end })
}
