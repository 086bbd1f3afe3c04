//! Why a daemon cannot serve.

use blob_cache::CacheError;
use blob_storage::{BackendError, OpenError};
use rafs_codec::CodecError;
use rafs_format::{Digest, FormatError};
use rafs_fuse::FuseError;
use rafs_merkle::image::DigestError;
use rafs_vfs::VfsError;
use std::io;
use std::path::PathBuf;

/// Why a daemon cannot serve. Each names the file or directory it is about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum DaemonError {
    #[error("cannot read bootstrap {}", path.display())]
    Bootstrap { path: PathBuf, source: io::Error },
    #[error("{} is not a RAFS bootstrap, or a damaged one", path.display())]
    Format { path: PathBuf, source: Box<FormatError> },
    #[error("the bootstrap inside {} does not decode", path.display())]
    Inside { path: PathBuf, source: CodecError },
    #[error("bootstrap {} is damaged: it is named after its SHA-256, but that is {found}", path.display())]
    Name { path: PathBuf, found: String },
    #[error("the tree digest of {} is {found}, expected {expected}: this is not the image that was asked for, or it was changed", path.display())]
    Tree { path: PathBuf, found: Digest, expected: Digest },
    #[error("{} cannot be compared with the tree digest {expected}", path.display())]
    NoTree { path: PathBuf, expected: Digest, source: DigestError },
    #[error(transparent)]
    Backend(#[from] OpenError),
    #[error("cannot read key file {}", path.display())]
    KeyFile { path: PathBuf, source: io::Error },
    #[error("{} is no key file: a key is 64 hex digits, or 32 bytes, and its halves differ", path.display())]
    NotAKey { path: PathBuf },
    #[error("{what} is not supported by this version yet")]
    Unsupported { what: &'static str },
    #[error("a blob of {} is missing", path.display())]
    Blob { path: PathBuf, source: Box<BackendError> },
    #[error(
        "{}: the chunk table of blob {blob} is in another object that the bootstrap does not name; mount that object itself, \
        or the bootstrap under the digest of that object as its file name",
        path.display()
    )]
    NoTable { path: PathBuf, blob: String },
    #[error("a blob of {} cannot be served", path.display())]
    Cache { path: PathBuf, source: Box<CacheError> },
    #[error("cannot use cache directory {}", path.display())]
    CacheDir { path: PathBuf, source: io::Error },
    #[error("{} cannot be served", path.display())]
    Vfs { path: PathBuf, source: Box<VfsError> },
    #[error(transparent)]
    Fuse(#[from] FuseError),
    #[error("cannot start threads")]
    Threads { source: io::Error },
    #[error("cannot watch signals")]
    Signals { source: io::Error },
}
