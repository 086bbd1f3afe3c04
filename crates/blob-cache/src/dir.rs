//! One cache directory in one process: all mounts open their blobs here, and those of one blob share its files.
//!
//! Knows which blobs are open, by id, and nothing of chunks. A blob is closed when the last mount lets go of it; its data stays on disk. Where
//! images contradict each other in what they say of a blob, the later one keeps a copy of its own ([`crate::claims`]).

use crate::cache::described;
use crate::claims::Claims;
use crate::store::Store;
use crate::{BlobCache, CacheError, CacheOptions};
use blob_storage::BlobReader;
use parking_lot::{Condvar, Mutex};
use rafs_format::{Blob, BlobId};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long a mount waits for files that the last user of a blob is closing. Then it keeps a copy of its own.
const CLOSING: Duration = Duration::from_secs(30);

/// A directory with the cached data of blobs. One for each directory and process; mounts share it.
#[derive(Debug)]
pub struct CacheDir {
    path: PathBuf,
    open: Mutex<HashMap<BlobId, Weak<Store>>>,
    /// Some blob was closed.
    closed: Condvar,
}

/// Tells its directory that a blob is closed, when it is dropped; until then it keeps the directory.
#[derive(Debug)]
pub(crate) struct Closing {
    dir: Arc<CacheDir>,
    blob: BlobId,
}

impl CacheDir {
    /// The directory at `path`, made where there is none. Errors: it cannot be used.
    pub fn open(path: &Path) -> Result<Arc<Self>, CacheError> {
        let failed = |source| CacheError::Dir { action: "create", path: path.to_path_buf(), source };
        std::fs::create_dir_all(path).map_err(failed)?;
        Ok(Arc::new(Self { path: path.to_path_buf(), open: Mutex::default(), closed: Condvar::new() }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the cache of `blob` as `image` describes it; that is a name for messages. Images that say the same of a blob share its files, and each of
    /// them fetches through its own `reader`, or where that fails, and somebody waits, through those of the others.
    /// Errors: as of [`BlobCache::open`].
    pub fn blob(
        self: &Arc<Self>,
        blob: &Blob,
        image: &str,
        reader: Arc<dyn BlobReader>,
        options: CacheOptions,
    ) -> Result<BlobCache, CacheError> {
        let blob = described(blob)?;
        let store = self.store(&blob, image)?;
        BlobCache::sharing(&blob, image, reader, options, store)
    }

    /// The files for `blob`: those that are open, if they are of its shape.
    fn store(self: &Arc<Self>, blob: &Blob, image: &str) -> Result<Arc<Store>, CacheError> {
        let mut open = self.open.lock();
        while let Some(known) = open.get(&blob.id) {
            if let Some(store) = known.upgrade() {
                // Whoever lets go of the last reference needs the lock.
                drop(open);
                return self.join(store, blob, image);
            }
            if self.closed.wait_for(&mut open, CLOSING).timed_out() {
                break;
            }
        }
        let closing = Closing { dir: Arc::clone(self), blob: blob.id.clone() };
        let store = Arc::new(Store::shared(&self.path, blob, image)?.telling(closing));
        open.insert(blob.id.clone(), Arc::downgrade(&store));
        Ok(store)
    }

    fn join(&self, store: Arc<Store>, blob: &Blob, image: &str) -> Result<Arc<Store>, CacheError> {
        if Claims::can_share(blob) && store.is_for(blob) {
            return Ok(store);
        }
        let (id, first) = (&blob.id, store.image());
        tracing::warn!(
            "image {image}: what it says of blob {id} cannot be compared with what image {first} says, or contradicts it: they do not share it"
        );
        Ok(Arc::new(Store::private(&self.path, blob)?))
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let mut open = self.dir.open.lock();
        if open.get(&self.blob).is_some_and(|store| store.strong_count() == 0) {
            open.remove(&self.blob);
        }
        drop(open);
        self.dir.closed.notify_all();
    }
}
