//! Which bytes of a chunk somebody wants.

use bytes::Bytes;
use rafs_format::Chunk;

/// A part of one chunk.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// The chunk, resolved through the image's chunk table, so that its ranges lie within the blob.
    pub chunk: Chunk,
    /// First byte wanted, from the start of the chunk.
    pub start: u32,
    /// One past the last byte wanted, at most the chunk's uncompressed size.
    pub end: u32,
}

impl Part {
    /// Bytes wanted.
    pub fn len(&self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    /// Is nothing wanted?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes wanted of a chunk's plain bytes; `None` where it is shorter.
    pub(crate) fn of(&self, plain: &Bytes) -> Option<Bytes> {
        let range = self.start as usize..self.end as usize;
        (range.start <= range.end && range.end <= plain.len()).then(|| plain.slice(range))
    }
}
