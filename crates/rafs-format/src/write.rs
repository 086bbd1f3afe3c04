//! Writing a bootstrap: a tree in, bytes out. The same tree and options always give the same bytes, and the placement of
//! inodes is the reference builder's (docs/format.md, "Allocation order").

use crate::tree::Tree;
use crate::{Blob, Compressor, DigestAlgorithm, FormatError};

/// What the superblock says besides the tree.
#[derive(Debug, Clone)]
pub struct Options {
    /// Largest chunk, a power of two from 4 KiB to 16 MiB.
    pub chunk_size: u32,
    /// Compression named in the superblock.
    pub compressor: Compressor,
    /// Digest algorithm named in the superblock.
    pub digester: DigestAlgorithm,
    /// Owners in the tree are real.
    pub explicit_ids: bool,
    /// Entries (positions in `Tree::entries`) for the prefetch table, in order.
    pub prefetch: Vec<u32>,
}

/// The bytes of a v6 bootstrap: a multiple of 4096, at least 8192. `blobs` in table order, at most 254.
/// Errors: what [`Tree::validate`] finds; a limit of the format (blobs, chunks, block addresses).
pub fn bootstrap(_tree: &Tree, _blobs: &[Blob], _options: &Options) -> Result<Vec<u8>, FormatError> {
    todo!()
}
