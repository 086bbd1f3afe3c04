//! `nydusd` as a library: configuration, mounts, signals. No globals: two daemons fit in one process.
//!
//! [`Daemon::start`] puts one image together (bootstrap, blobs, caches, mount), [`run`] serves it until a signal or an unmount ends it.
//! Knows neither command lines nor how anything it puts together works.

mod caches;
pub mod config;
mod daemon;
mod early;
mod error;
mod image;
mod keys;
pub mod limits;
mod recording;
mod signals;
mod whole;

pub use daemon::{Daemon, Stopper};
pub use early::{NotAbsolute, read_list};
pub use error::DaemonError;
pub use signals::run;

use config::Config;
use std::path::PathBuf;

/// One image to mount.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bootstrap of the image.
    pub bootstrap: PathBuf,
    /// Existing directory to mount it on.
    pub mountpoint: PathBuf,
    /// Where its blobs are and where they are kept.
    pub config: Config,
    /// What of the image is fetched before it is read, beside what the configuration says.
    pub prefetch: PrefetchOptions,
    /// Threads that serve requests; `None` for min(cores, 4).
    pub threads: Option<usize>,
}

/// What is fetched before it is read, and what is noted for that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrefetchOptions {
    /// Record here what is read first. A directory gets a file named after the image.
    pub record_profile: Option<PathBuf>,
    /// Fetch what this recorded profile names, in its order. In a directory the file named after the image.
    pub profile: Option<PathBuf>,
    /// Fetch these files, and all in these directories, in place of those that the image lists; absolute paths in the image.
    pub files: Option<Vec<Vec<u8>>>,
}
