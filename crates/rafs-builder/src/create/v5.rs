//! What an image of v5 has besides: digests of inodes, and how much of the blob is to be fetched first.
//!
//! docs/format.md, "Bootstrap of v5". Knows the tree and the chunks that came of a source. Its blob holds chunks and nothing behind them.

use super::collect::Stored;
use super::known::BlobTable;
use super::{Options, Scanned};
use crate::open::Image;
use rafs_format::tree::Tree;
use rafs_format::write::{Form, V5};
use rafs_format::{BlobFeatures, FormatError, Version};
use std::ops::Range;

/// Refuses what v5 has no place for.
pub(super) fn check(options: &Options) -> Result<(), FormatError> {
    let special = options.toc || options.batch_size > 0 || options.encryption.is_some();
    match options.version == Version::V5 && special {
        true => {
            let what = "a table of contents, a batch or encryption in a blob of RAFS v5";
            Err(FormatError::Unsupported { what })
        }
        false => Ok(()),
    }
}

/// What is to be known before chunks of other images join those of the blob.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    /// Stored bytes at the head of the blob that files to prefetch have.
    readahead: u64,
    from_layer: bool,
}

impl Source {
    /// With a prefetch table, nothing is said of the blob.
    pub fn new(read: &Scanned, stored: &Stored, options: &Options) -> Self {
        let count = if options.prefetch_table { 0 } else { read.prefetched };
        Self { readahead: head(stored, count), from_layer: read.end.is_some() }
    }

    /// The layout of the bootstrap that `options` ask for. The blobs of `parent` are the first in the table.
    pub fn form(self, tree: &Tree, table: &BlobTable, parent: Option<&Image>, options: &Options) -> Form {
        if options.version == Version::V6 {
            return Form::V6;
        }
        // A blob longer than that has more than anybody reads ahead.
        let size = self.readahead.min(u32::MAX.into());
        let of_parent = |n| parent.map_or(0..0, |parent| parent.bootstrap().readahead(n));
        let readahead = |(n, own): (usize, bool)| if own { 0..size } else { of_parent(n) };
        let readahead: Vec<Range<u64>> = table.slots().enumerate().map(readahead).collect();
        let digests = rafs_merkle::inode::digests(tree, options.chunk_size, options.digester);
        Form::V5(V5 { digests, readahead, from_layer: self.from_layer })
    }
}

/// Stored bytes up to the end of the first `count` chunks of the source that are in the blob.
fn head(stored: &Stored, count: u64) -> u64 {
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(stored.positions.len());
    let first = stored.positions.get(..count).unwrap_or(&[]);
    // Chunks of other images have positions that are none yet.
    let own = first.iter().filter_map(|&position| stored.chunks.get(position as usize));
    own.map(|chunk| chunk.compressed_offset + u64::from(chunk.compressed_size)).max().unwrap_or(0)
}

/// Units in which decompressed chunks start.
pub(super) fn alignment(options: &Options) -> u64 {
    if options.version == Version::V6 || options.aligned_chunks { 4096 } else { 1 }
}

/// What a blob says of itself that has nothing but chunks and, `inline`, the bootstrap.
pub(super) fn features(inline: bool) -> BlobFeatures {
    let mut features = BlobFeatures::CAP_TAR_TOC;
    features.set(BlobFeatures::INLINED_FS_META | BlobFeatures::HAS_TAR_HEADER, inline);
    features
}
