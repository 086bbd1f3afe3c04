//! A read that waits for data, as a value. Knows caches and parts of chunks, no files.

use crate::VfsError;
use crate::readers::Waiting;
use blob_cache::{BlobCache, CacheError, Part, Priority};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use rafs_format::Chunk;
use std::sync::Arc;

/// Chunks of one read that are fetched at the same time. A read of the kernel is at most 1 MiB: one or two chunks of the usual size.
const AT_ONCE: usize = 16;

/// A read that waits for data. Owns what it needs.
#[derive(Debug)]
pub struct ColdRead {
    parts: Vec<(Arc<BlobCache>, Part)>,
    /// What is fetched beside, for the next reads.
    ahead: Vec<(Arc<BlobCache>, Vec<Chunk>)>,
    /// Until all bytes are there.
    _waiting: Waiting,
}

impl ColdRead {
    pub(crate) fn new(
        parts: Vec<(Arc<BlobCache>, Part)>,
        ahead: Vec<(Arc<BlobCache>, Vec<Chunk>)>,
        waiting: Waiting,
    ) -> Self {
        Self { parts, ahead, _waiting: waiting }
    }

    /// Is there so little to decode and hash that the thread that has it may start with it, before it hands over what must wait?
    pub fn is_short(&self) -> bool {
        let sizes = self.parts.iter().map(|(_, part)| part.chunk.uncompressed_size);
        blob_cache::is_short(sizes.fold(0, u32::saturating_add))
    }

    /// Fetches what is missing, several chunks at once, and returns all the bytes. Must run inside a tokio runtime.
    pub async fn complete(self) -> Result<Bytes, VfsError> {
        for (cache, chunks) in self.ahead {
            // What fails here is told to who reads it.
            tokio::spawn(async move { cache.fetch_all(&chunks, Priority::Prefetch).await.is_ok() });
        }
        if let [(cache, part)] = self.parts.as_slice() {
            return Ok(get(cache, part).await?);
        }
        let size = self.parts.iter().map(|(_, part)| part.len()).sum();
        let mut all = Vec::with_capacity(size);
        let one = |(cache, part)| async move { get(&cache, &part).await };
        let mut fetched = stream::iter(self.parts).map(one).buffered(AT_ONCE);
        while let Some(bytes) = fetched.next().await {
            all.extend_from_slice(&bytes?);
        }
        Ok(all.into())
    }
}

/// The bytes of a part: of a chunk that is ready, or became so meanwhile, from disk.
async fn get(cache: &Arc<BlobCache>, part: &Part) -> Result<Bytes, Arc<CacheError>> {
    let mut bytes = vec![0; part.len()];
    if cache.try_read(&[*part], &mut bytes) {
        return Ok(bytes.into());
    }
    cache.fetch_part(part).await
}
