//! Why the file system cannot answer.

use blob_cache::CacheError;
use rafs_format::FormatError;
use std::sync::Arc;

/// Why the file system cannot answer. "No such name" is an answer, not an error. A new variant must be given an errno by those who map them.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum VfsError {
    #[error("inode {nid} is not a directory")]
    NotADirectory { nid: u64 },
    #[error("inode {nid} is a directory")]
    IsADirectory { nid: u64 },
    #[error("inode {nid} is not a {expected}")]
    WrongType { nid: u64, expected: &'static str },
    #[error("damaged bootstrap: {0}")]
    Format(#[from] FormatError),
    #[error(transparent)]
    Data(#[from] Arc<CacheError>),
    #[error("{found} blob caches for {expected} blobs")]
    CacheCount { found: usize, expected: usize },
}
