//! Why a chunk could not be had.

use blob_storage::BackendError;
use rafs_codec::CodecError;
use rafs_format::FormatError;
use rafs_merkle::DigestMismatch;
use rafs_merkle::external::ChunkMismatch;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a chunk, or the cache itself, could not be had. Names the blob and the chunk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum CacheError {
    #[error("fetching chunk {chunk} of blob {blob}")]
    Backend {
        blob: String,
        chunk: u32,
        #[source]
        source: Arc<BackendError>,
    },
    #[error("decoding chunk {chunk} of blob {blob}")]
    Codec {
        blob: String,
        chunk: u32,
        #[source]
        source: CodecError,
    },
    #[error("verifying chunk {chunk} of blob {blob}")]
    Digest {
        blob: String,
        chunk: u32,
        #[source]
        source: DigestMismatch,
    },
    #[error("verifying chunk {chunk} of external blob {blob}")]
    External {
        blob: String,
        chunk: u32,
        #[source]
        source: ChunkMismatch,
    },
    #[error("place of chunk {chunk} of blob {blob}")]
    Bounds {
        blob: String,
        chunk: u32,
        #[source]
        source: FormatError,
    },
    #[error("fetch of chunk {chunk} of blob {blob} was abandoned")]
    Abandoned { blob: String, chunk: u32 },
    #[error("cannot {action} cache file {}", path.display())]
    Disk {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot {action} cache directory {}", path.display())]
    Dir {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("blob {blob} cannot be decrypted")]
    Key {
        blob: String,
        #[source]
        source: CodecError,
    },
    #[error("tar {blob} is not the one the image was made of")]
    Tar {
        blob: String,
        #[source]
        source: DigestMismatch,
    },
    #[error(
        "tar {blob} cannot be verified: its id is no SHA-256, and the image, made by an older tool, notes none"
    )]
    NoTarDigest { blob: String },
}
