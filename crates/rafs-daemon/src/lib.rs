//! `nydusd` as a library: configuration, mounts, signals. No globals: two daemons fit in one process.
//!
//! [`Daemon::start`] puts one image together (bootstrap, blobs, caches, mount), [`run`] serves it until a signal or an unmount ends it.
//! Knows neither command lines nor how anything it puts together works.

pub mod config;
mod daemon;
mod error;
mod image;
mod keys;
pub mod limits;
mod signals;
mod whole;

pub use daemon::{Daemon, Stopper};
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
    /// Threads that serve requests; `None` for min(cores, 4).
    pub threads: Option<usize>,
}
