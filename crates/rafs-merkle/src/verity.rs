//! The hash tree of dm-verity, format 1, SHA-256, no salt, no superblock: where its blocks are and what is in one. No I/O.
//!
//! Source: the kernel's `Documentation/admin-guide/device-mapper/verity.rst`. Level 0 holds the digests of data blocks, each further level those of the
//! hash blocks below it, up to a level of one block, whose digest is the root. On disk the levels stand from that one down to level 0.

use rafs_format::Digest;
use sha2::{Digest as _, Sha256};
use std::ops::Range;

/// Bytes of a hash block.
pub const HASH_BLOCK: usize = 4096;
/// Digests in a hash block.
pub const FAN_OUT: u64 = HASH_BLOCK as u64 / 32;

/// Where the levels of a tree lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Levels {
    /// Hash blocks of each level, level 0 first, counted from the start of the tree.
    levels: Vec<Range<u64>>,
}

impl Levels {
    /// Levels over so many data blocks. None for a single one (or none): its digest is the root.
    pub fn new(data_blocks: u64) -> Self {
        let mut sizes = Vec::new();
        let mut below = data_blocks;
        while below > 1 {
            below = below.div_ceil(FAN_OUT);
            sizes.push(below);
        }
        let mut end: u64 = sizes.iter().sum();
        let place = |size: u64| {
            end -= size;
            end..end + size
        };
        Self { levels: sizes.into_iter().map(place).collect() }
    }

    /// Hash blocks of each level, level 0 first, counted from the start of the tree.
    pub fn levels(&self) -> &[Range<u64>] {
        &self.levels
    }

    /// Hash blocks in the tree.
    pub fn blocks(&self) -> u64 {
        self.levels.first().map_or(0, |lowest| lowest.end)
    }
}

/// A hash block: the digests of up to [`FAN_OUT`] blocks of `block_size` bytes that stand one behind the other in `below`, then zeros.
pub fn hash_block(below: &[u8], block_size: usize) -> [u8; HASH_BLOCK] {
    let mut block = [0; HASH_BLOCK];
    let blocks = below.chunks(block_size.max(1));
    for (place, bytes) in block.chunks_exact_mut(32).zip(blocks) {
        place.copy_from_slice(&Sha256::digest(bytes));
    }
    block
}

/// Digest of the topmost block: the root.
pub fn root(top: &[u8]) -> Digest {
    Digest(Sha256::digest(top).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_stand_from_the_top_down() {
        assert_eq!(Levels::new(0).levels(), [] as [Range<u64>; 0]);
        assert_eq!(Levels::new(1).blocks(), 0);
        assert_eq!(Levels::new(2).levels().to_vec(), vec![0u64..1]);
        assert_eq!(Levels::new(128).blocks(), 1);
        assert_eq!(Levels::new(129).levels(), [1..3, 0..1]);
        assert_eq!(Levels::new(128 * 128 + 1).levels(), [3..132, 1..3, 0..1]);
        assert_eq!(Levels::new(u64::MAX).levels().len(), 10);
    }

    #[test]
    fn a_hash_block_holds_digests_and_zeros() {
        let block = hash_block(&[7; 1024 + 512], 512);
        let digest: [u8; 32] = Sha256::digest([7; 512]).into();
        assert_eq!(block[..96], [digest, digest, digest].concat());
        assert_eq!(block[96..], [0; HASH_BLOCK - 96]);
        assert_eq!(root(&block).0, <[u8; 32]>::from(Sha256::digest(block)));
    }
}
