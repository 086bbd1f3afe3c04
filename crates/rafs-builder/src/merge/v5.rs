//! What layers of v5 have besides: one compression for all blobs, how much of each is to be fetched first, and digests of inodes.

use super::MergeError;
use crate::open::Image;
use rafs_format::tree::Tree;
use rafs_format::write::{Form, V5};
use rafs_format::{Blob, BlobId, Compressor, DigestAlgorithm};
use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;

/// Blobs that readers take in one image.
pub(crate) const MAX_BLOBS: usize = 1024;

/// What layers of v5 say of their blobs.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// The compression of chunks that are compressed, and the layer that said so first.
    coding: Option<(Compressor, PathBuf)>,
    readahead: HashMap<BlobId, Range<u64>>,
}

impl Facts {
    /// Refuses a layer whose blobs are compressed otherwise than those before it: there is one place for all of them.
    pub fn check_alike(&mut self, image: &Image) -> Result<(), MergeError> {
        let found = image.bootstrap().superblock().compressor;
        if image.blobs().is_empty() || found == Compressor::None {
            return Ok(());
        }
        let (expected, other) = self.coding.get_or_insert_with(|| (found, image.path().to_path_buf()));
        if found == *expected {
            return Ok(());
        }
        let (found, expected) = (found.name().to_owned(), expected.name().to_owned());
        let (path, other) = (image.path().to_path_buf(), other.clone());
        Err(MergeError::Differs { path, what: "the compression", found, other, expected })
    }

    /// Keeps what the `n`-th blob of a layer, called `id`, has to be read ahead.
    pub fn add(&mut self, image: &Image, n: usize, id: &BlobId) {
        self.readahead.entry(id.clone()).or_insert_with(|| image.bootstrap().readahead(n));
    }

    /// Keeps that all data of a blob is to be read ahead.
    pub fn add_whole(&mut self, blob: &Blob) {
        // A longer one has more than anybody reads ahead.
        let end = blob.data_end().min(u32::MAX.into());
        self.readahead.insert(blob.id.clone(), 0..end);
    }

    /// The compression of the merged image, which is `top` where no layer says anything.
    pub fn compressor(&self, top: Compressor) -> Compressor {
        self.coding.as_ref().map_or(top, |(compressor, _)| *compressor)
    }

    /// The layout of the merged bootstrap.
    pub fn form(&self, tree: &Tree, blobs: &[Blob], chunk_size: u32, by: DigestAlgorithm) -> Form {
        let readahead = |blob: &Blob| self.readahead.get(&blob.id).cloned().unwrap_or(0..0);
        let digests = rafs_merkle::inode::digests(tree, chunk_size, by);
        Form::V5(V5 { digests, readahead: blobs.iter().map(readahead).collect(), from_layer: false })
    }
}
