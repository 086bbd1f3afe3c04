//! The cache directories of one daemon: each is opened once, whatever number of mounts use it.
//!
//! Knows paths. A directory is closed with the last mount that uses it.

use crate::DaemonError;
use blob_cache::{CacheDir, CacheError};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

/// Open cache directories by their canonical path.
#[derive(Debug, Default)]
pub(crate) struct Caches(Mutex<HashMap<PathBuf, Weak<CacheDir>>>);

impl Caches {
    /// The directory at `path`, made where there is none. Errors: it cannot be used.
    pub(crate) fn dir(&self, path: &Path) -> Result<Arc<CacheDir>, DaemonError> {
        let failed = |source| DaemonError::CacheDir { path: path.to_path_buf(), source };
        std::fs::create_dir_all(path).map_err(failed)?;
        let canonical = path.canonicalize().map_err(failed)?;
        let mut dirs = self.0.lock();
        dirs.retain(|_, dir| dir.strong_count() > 0);
        if let Some(known) = dirs.get(&canonical).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let failed =
            |source: CacheError| DaemonError::Cache { path: path.to_path_buf(), source: source.into() };
        let dir = CacheDir::open(path).map_err(failed)?;
        dirs.insert(canonical, Arc::downgrade(&dir));
        Ok(dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_opened_once_under_all_its_names() {
        let (tmp, caches) = (tempfile::tempdir().unwrap(), Caches::default());
        let plain = tmp.path().join("cache");
        let first = caches.dir(&plain).unwrap();
        std::os::unix::fs::symlink(&plain, tmp.path().join("link")).unwrap();
        for other in ["link", "link/../cache"] {
            assert!(Arc::ptr_eq(&first, &caches.dir(&tmp.path().join(other)).unwrap()), "{other}");
        }
        assert!(!Arc::ptr_eq(&first, &caches.dir(tmp.path()).unwrap()));
        drop(first);
        assert_eq!(caches.0.lock().len(), 2);
        drop(caches.dir(tmp.path()).unwrap());
        assert_eq!(caches.0.lock().len(), 1, "what nobody uses is closed");
    }
}
