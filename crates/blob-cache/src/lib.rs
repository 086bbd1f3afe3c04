//! The local, verified copy of a blob.
//!
//! `<work_dir>/<blob id>.blob.data` holds the decompressed blob, sparse, each chunk at its uncompressed offset; so it is an EROFS
//! device too. `<blob id>.blob.data.chunk_map` says which chunks it *may* hold. Invariants: only bytes that hashed to their digest are
//! written; a chunk is marked ready after its bytes are written; a mark found on disk at start is a hint: the chunk is hashed again
//! on its first use in this process, so a torn, stale or foreign file costs a fetch and never a wrong byte.
//! Fetching is asynchronous and single flight: readers of one chunk share one fetch. Reading a ready chunk is synchronous.
//! Where the cache's disk fails (full, read-only, I/O error), reads go on uncached from memory and a log line says so.

mod error;

pub use error::CacheError;

use blob_storage::BlobReader;
use rafs_format::{Blob, Chunk};
use rafs_merkle::VerifiedChunk;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

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

/// The local copy of one blob.
#[derive(Debug)]
pub struct BlobCache {}

impl BlobCache {
    /// Opens or creates the cache files of `blob` in `work_dir`. Files of a wrong size or shape are emptied and rebuilt, never an error.
    /// Errors: the directory cannot be used at all, or the blob's sizes are beyond the format's limits.
    pub fn open(
        _work_dir: &Path,
        _blob: &Blob,
        _reader: Arc<dyn BlobReader>,
        _options: CacheOptions,
    ) -> Result<Self, CacheError> {
        todo!()
    }

    /// A cache that keeps nothing: each read fetches and verifies.
    pub fn without_disk(_blob: &Blob, _reader: Arc<dyn BlobReader>) -> Result<Self, CacheError> {
        todo!()
    }

    /// Appends bytes `within` (half-open, relative to the chunk) to `into` when the chunk is ready, on the calling thread. `false`: it is
    /// not ready (or its copy turned out damaged) and must be fetched; `into` is as before.
    pub fn try_read(&self, _chunk: &Chunk, _within: Range<u32>, _into: &mut Vec<u8>) -> bool {
        todo!()
    }

    /// The chunk, from disk if it is ready, else fetched, decoded, verified, written and marked. Concurrent callers share one
    /// fetch and its error. A failure is not remembered: the next call tries again. Must run inside a tokio runtime.
    pub async fn fetch(self: &Arc<Self>, _chunk: &Chunk) -> Result<VerifiedChunk, Arc<CacheError>> {
        todo!()
    }

    /// Counters since opening.
    pub fn stats(&self) -> CacheStats {
        todo!()
    }
}
