//! Key files of encrypted blobs, for images that leave their keys out. Knows no blobs.

use crate::DaemonError;
use blob_storage::read_private;
use rafs_codec::{Keys, Secret};
use std::path::PathBuf;

/// Longest key file: 64 digits and some white space.
const LIMIT: u64 = 128;

/// The keys in all these files. Errors: a file that others may read, or without a key.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Keys, DaemonError> {
    let read = |path: &PathBuf| {
        let bytes = read_private(path, LIMIT);
        let bytes = bytes.map_err(|source| DaemonError::KeyFile { path: path.clone(), source })?;
        Secret::parse(&bytes).ok_or_else(|| DaemonError::NotAKey { path: path.clone() })
    };
    Ok(Keys::from(paths.iter().map(read).collect::<Result<Vec<_>, _>>()?))
}
