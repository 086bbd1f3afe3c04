//! Blobs as files of a directory, named by id.

use crate::{Backend, BackendError, BlobReader};
use rafs_format::BlobId;
use std::path::PathBuf;
use std::sync::Arc;

/// Blobs as files: one file for all ids, or `dir/<id>`, then each of `alt_dirs` when missing or empty there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalFs {
    /// One blob, whatever its id; takes precedence.
    pub blob_file: Option<PathBuf>,
    /// First directory searched.
    pub dir: Option<PathBuf>,
    /// Searched next, in order.
    pub alt_dirs: Vec<PathBuf>,
}

impl Backend for LocalFs {
    fn open(&self, _id: &BlobId) -> Result<Arc<dyn BlobReader>, BackendError> {
        todo!()
    }
}
