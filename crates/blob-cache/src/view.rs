//! One image's access to a blob: the cache, which images share, and the chunks as this image describes them.
//!
//! A cache knows a chunk from whoever asks for it. To fetch more than that, what lies behind it or in the same batch, it must be told of chunks nobody
//! asked for: a [`ChunkTable`] tells. Knows no bootstrap; what a table says is as untrusted as any chunk.

use crate::BlobCache;
use rafs_format::Chunk;
use std::fmt::Debug;
use std::sync::Arc;

/// The chunks of one blob that one image has.
pub trait ChunkTable: Send + Sync + Debug {
    /// The chunk with the lowest number of at least `number`. `None`: there is none, or what the image says of it is wrong.
    fn at_or_after(&self, number: u32) -> Option<Chunk>;
}

/// Chunks in the order of their numbers, which some may lack.
impl ChunkTable for Vec<Chunk> {
    fn at_or_after(&self, number: u32) -> Option<Chunk> {
        let first = self.partition_point(|chunk| chunk.index < number);
        self.get(first).copied()
    }
}

/// One image's access to a blob.
#[derive(Debug, Clone)]
pub struct BlobView {
    /// The local copy of the blob.
    pub cache: Arc<BlobCache>,
    /// The chunks the image has of it. None where the blob is a plain tar: the cache knows the pieces of that itself.
    pub chunks: Arc<dyn ChunkTable>,
}

impl BlobView {
    /// All chunks from number `from` on, in the order of their numbers.
    pub fn chunks_from(&self, from: u32) -> impl Iterator<Item = Chunk> + '_ {
        let mut next = Some(from);
        std::iter::from_fn(move || {
            let chunk = self.chunks.at_or_after(next?)?;
            next = chunk.index.checked_add(1);
            Some(chunk)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::blob;

    #[test]
    fn chunks_come_in_order_from_any_number_on() {
        let sample = blob::of_sizes("b", &[1, 2, 3, 4], rafs_format::Compressor::None);
        let cache = crate::BlobCache::without_disk(
            &sample.blob,
            testkit::reader::TestReader::new(sample.bytes.clone()),
        );
        let some: Vec<Chunk> = sample.chunks.iter().copied().filter(|chunk| chunk.index != 1).collect();
        let view = BlobView { cache: Arc::new(cache.unwrap()), chunks: Arc::new(some) };
        let from = |n| view.chunks_from(n).map(|chunk| chunk.index).collect::<Vec<_>>();
        assert_eq!(from(0), [0, 2, 3]);
        assert_eq!(from(1), [2, 3]);
        assert_eq!(from(3), [3]);
        assert_eq!(from(u32::MAX), [0; 0]);
    }
}
