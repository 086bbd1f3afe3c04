//! A running daemon: one image, mounted, with the threads that fetch for it.

use crate::caches::Caches;
use crate::image::Image;
use crate::recording::Recording;
use crate::{DaemonError, Options, early};
use blob_cache::{BlobCache, CacheStats};
use blob_storage::Registries;
use rafs_fuse::{Mount, MountOptions, Unmounter};
use rafs_vfs::prefetch::{Prefetch, PrefetchStats, Progress};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::{Builder, Runtime};

/// Threads at most that wait for the disk of a local backend.
const MAX_DISK_THREADS: usize = 64;

/// A mounted image and its threads. Dropping it unmounts.
#[derive(Debug)]
pub struct Daemon {
    mount: Mount,
    runtime: Option<Runtime>,
    caches: Vec<Arc<BlobCache>>,
    mountpoint: PathBuf,
    recording: Option<Arc<Recording>>,
    prefetch: Option<Progress>,
}

impl Daemon {
    /// Puts the image together and mounts it; on return it is visible. Reads no data.
    /// Errors: the bootstrap is missing or damaged, a blob is missing, the cache directory or the mountpoint cannot be used.
    pub fn start(options: &Options) -> Result<Self, DaemonError> {
        let started = Instant::now();
        let registries = Registries::of_environment(std::env::vars_os())?;
        let Image { rafs, caches } = Image::open(options, &registries, &Caches::default())?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let runtime = Builder::new_multi_thread()
            .worker_threads(cores)
            .max_blocking_threads(MAX_DISK_THREADS)
            .thread_name("fetch")
            .enable_all()
            .build()
            .map_err(|source| DaemonError::Threads { source })?;
        let entries = rafs.totals().entries;
        let record = options.prefetch.record_profile.as_ref();
        let recording = record.and_then(|path| Recording::start(&rafs, path));
        let prefetch = early::prepare(&rafs, options);
        let mount_options = MountOptions { mountpoint: options.mountpoint.clone(), threads: options.threads };
        let mount = Mount::new(rafs, &mount_options, runtime.handle().clone())?;
        if let Some(recording) = &recording {
            runtime.spawn(Arc::clone(recording).keep());
        }
        let progress = prefetch.as_ref().map(Prefetch::progress);
        if let Some(prefetch) = prefetch {
            let image = options.bootstrap.clone();
            runtime.spawn(async move { early::tell_end(&image, &prefetch.run().await) });
        }
        tracing::info!(
            "{} is mounted on {}: {entries} entries, {} blobs, after {:?}",
            options.bootstrap.display(),
            options.mountpoint.display(),
            caches.len(),
            started.elapsed()
        );
        let mountpoint = options.mountpoint.clone();
        Ok(Self { mount, runtime: Some(runtime), caches, mountpoint, recording, prefetch: progress })
    }

    /// A handle that ends the daemon from another thread.
    pub fn stopper(&self) -> Stopper {
        Stopper { unmounter: self.mount.unmounter(), recording: self.recording.clone() }
    }

    /// What the caches did so far, all blobs together.
    pub fn stats(&self) -> CacheStats {
        total(&self.caches)
    }

    /// What was fetched early so far; `None` where nothing is.
    pub fn prefetch(&self) -> Option<PrefetchStats> {
        self.prefetch.as_ref().map(Progress::stats)
    }

    /// Serves until the file system is unmounted, by a [`Stopper`] or from outside. Does not wait for fetches that nobody waits for any more.
    pub fn serve(mut self) -> Result<(), DaemonError> {
        let served = self.mount.wait();
        self.recording.iter().for_each(|recording| recording.save());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        tracing::info!("{} is unmounted: {}", self.mountpoint.display(), describe(&total(&self.caches)));
        Ok(served?)
    }
}

/// Ends a [`Daemon`] from another thread.
#[derive(Debug, Clone)]
pub struct Stopper {
    unmounter: Unmounter,
    recording: Option<Arc<Recording>>,
}

impl Stopper {
    /// Unmounts. Where the mount is in use it is detached and served until its last user is gone.
    pub fn stop(&self) -> Result<(), DaemonError> {
        let stopped = self.unmounter.unmount();
        // Now: the process may end before the last user has gone.
        self.save_profile();
        Ok(stopped?)
    }

    /// Writes what was recorded so far. `false`: nothing is being recorded.
    pub fn save_profile(&self) -> bool {
        self.recording.iter().for_each(|recording| recording.save());
        self.recording.is_some()
    }
}

fn total(caches: &[Arc<BlobCache>]) -> CacheStats {
    caches.iter().map(|cache| cache.stats()).fold(CacheStats::default(), |a, b| CacheStats {
        fetches: a.fetches + b.fetches,
        fetched_bytes: a.fetched_bytes + b.fetched_bytes,
        requests: a.requests + b.requests,
        reverified: a.reverified + b.reverified,
        damaged: a.damaged + b.damaged,
        write_errors: a.write_errors + b.write_errors,
    })
}

fn describe(stats: &CacheStats) -> String {
    let CacheStats { fetches, fetched_bytes, requests, reverified, damaged, write_errors } = stats;
    format!(
        "{fetches} chunks ({fetched_bytes} bytes) fetched by {requests} requests, {reverified} found in the cache, {damaged} damaged there, \
         {write_errors} writes failed"
    )
}
