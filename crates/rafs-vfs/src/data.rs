//! What reading data needs beside the bootstrap: the chunk index, and a view of each blob. Made at the first read of data.

use crate::ahead::Ahead;
use blob_cache::{BlobCache, BlobView, ChunkTable};
use bytes::Bytes;
use parking_lot::Mutex;
use rafs_format::{Bootstrap, Chunk, ChunkIndex, FormatError};
use std::sync::Arc;

/// The chunks of an image and the blobs they are in.
#[derive(Debug)]
pub(crate) struct Data {
    pub(crate) chunks: Arc<Chunks>,
    /// In the order of the blob table.
    pub(crate) views: Vec<BlobView>,
    /// Who reads on in each of them. None for a tarfs, whose chunk numbers say nothing.
    pub(crate) ahead: Vec<Mutex<Ahead>>,
}

/// All chunks of an image.
#[derive(Debug)]
pub(crate) struct Chunks {
    bootstrap: Arc<Bootstrap<Bytes>>,
    pub(crate) index: ChunkIndex,
}

/// The chunks of one of its blobs.
#[derive(Debug)]
struct OfBlob {
    chunks: Arc<Chunks>,
    blob: u32,
}

impl ChunkTable for OfBlob {
    fn at_or_after(&self, number: u32) -> Option<Chunk> {
        let Chunks { bootstrap, index } = &*self.chunks;
        // Nobody asked for a chunk that is wrong: who reads it is told.
        index.at_or_after(bootstrap, self.blob, number).ok().flatten()
    }
}

impl Data {
    /// `caches` in the order of the blob table. Errors: chunks that contradict each other.
    pub(crate) fn new(
        bootstrap: &Arc<Bootstrap<Bytes>>,
        caches: &[Arc<BlobCache>],
    ) -> Result<Self, FormatError> {
        let index = ChunkIndex::build(bootstrap)?;
        let chunks = Arc::new(Chunks { bootstrap: Arc::clone(bootstrap), index });
        let view = |(blob, cache): (u32, &Arc<BlobCache>)| BlobView {
            cache: Arc::clone(cache),
            chunks: Arc::new(OfBlob { chunks: Arc::clone(&chunks), blob }),
        };
        let views = (0..).zip(caches).map(view).collect();
        let followed = if bootstrap.is_tarfs() { 0 } else { caches.len() };
        let ahead = (0..followed).map(|_| Mutex::default()).collect();
        Ok(Self { chunks, views, ahead })
    }
}
