//! Kernel FUSE requests to [`rafs_vfs`] calls; the only place that names `fuser` or an errno.
//!
//! Metadata and ready data are answered on the worker that read the request. A read that must fetch is handed, with its reply, to the
//! runtime and answered from there, so a hung backend never holds a worker. A panic in a request answers EIO and is logged.

use rafs_vfs::Rafs;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a mount failed or ended badly. One clear line each.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum FuseError {
    #[error("/dev/fuse cannot be opened: load the fuse kernel module, or give the container the device")]
    NoDevice {
        #[source]
        source: std::io::Error,
    },
    #[error("mountpoint {path} {problem}")]
    Mountpoint { path: PathBuf, problem: String },
    #[error("mounting on {path}")]
    Mount {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("unmounting {path}")]
    Unmount {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("serving {path}")]
    Serve {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// How to mount.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// An existing directory that nothing is mounted on.
    pub mountpoint: PathBuf,
    /// Threads that serve requests, 1 to 1024; `None` for min(cores, 4).
    pub threads: Option<usize>,
}

/// A mounted file system, served by its own threads; unmounted when dropped.
#[derive(Debug)]
pub struct Mount {}

impl Mount {
    /// Mounts `rafs` read-only and starts serving. Cold reads run on `runtime`. On return the mount is visible.
    pub fn new(
        _rafs: Arc<Rafs>,
        _options: &MountOptions,
        _runtime: tokio::runtime::Handle,
    ) -> Result<Self, FuseError> {
        todo!()
    }

    /// Blocks until the file system is unmounted, by [`Unmounter::unmount`] or from outside.
    pub fn wait(self) -> Result<(), FuseError> {
        todo!()
    }

    /// A handle that unmounts from another thread.
    pub fn unmounter(&self) -> Unmounter {
        todo!()
    }
}

/// Unmounts a [`Mount`] from another thread. A mount in use is detached: it goes away with its last user.
#[derive(Debug, Clone)]
pub struct Unmounter {}

impl Unmounter {
    /// Unmounts; does nothing when it is unmounted already.
    pub fn unmount(&self) -> Result<(), FuseError> {
        todo!()
    }
}
