//! The chunks that were hashed last for a reader who wants each copy on disk hashed again: such a reader comes back for the rest of a chunk,
//! a quarter of a megabyte at a time, and need not pay for all of it each time.
//!
//! Holds verified bytes only, so whoever is answered from here gets right ones. Knows no files. Who begins a chunk anew is to look at the disk
//! again, which is its caller's part.

use parking_lot::Mutex;
use rafs_format::{Chunk, Digest};
use rafs_merkle::VerifiedChunk;
use std::collections::VecDeque;

/// Chunks kept at most: as many files as are commonly read at once from one blob.
const KEPT: usize = 2;

/// The last few chunks of one blob, by number and digest: those of an external blob have no digests.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<VecDeque<((u32, Digest), VerifiedChunk)>>);

fn key(chunk: &Chunk) -> (u32, Digest) {
    (chunk.index, chunk.digest)
}

impl Recent {
    /// The bytes of `chunk`.
    pub(crate) fn get(&self, chunk: &Chunk) -> Option<VerifiedChunk> {
        self.0.lock().iter().find(|(kept, _)| *kept == key(chunk)).map(|(_, bytes)| bytes.clone())
    }

    /// Keeps the bytes of `chunk`, in the place of those that have been here for longest.
    pub(crate) fn keep(&self, chunk: &Chunk, bytes: &VerifiedChunk) {
        let mut kept = self.0.lock();
        kept.retain(|(known, _)| *known != key(chunk));
        kept.push_front((key(chunk), bytes.clone()));
        kept.truncate(KEPT);
    }

    /// Does not need `chunk` any more.
    pub(crate) fn drop(&self, chunk: &Chunk) {
        self.0.lock().retain(|(known, _)| *known != key(chunk));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_two_are_kept() {
        let blob = testkit::blob::of_sizes("recent", &[1, 2, 3], rafs_format::Compressor::None);
        let verified = |n: usize| {
            VerifiedChunk::verify_chunk(blob.plain[n].clone(), &blob.blob, &blob.chunks[n]).unwrap()
        };
        let recent = Recent::default();
        for n in [0, 1, 0, 2] {
            recent.keep(&blob.chunks[n], &verified(n));
        }
        let kept: Vec<bool> = blob.chunks.iter().map(|chunk| recent.get(chunk).is_some()).collect();
        assert_eq!(kept, [true, false, true]);
        recent.drop(&blob.chunks[2]);
        assert!(recent.get(&blob.chunks[2]).is_none());
        assert_eq!(recent.get(&blob.chunks[0]).unwrap().bytes()[..], blob.plain[0]);
    }
}
