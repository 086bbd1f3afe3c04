//! Why a mount failed or ended badly.

use std::path::PathBuf;

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
    #[error("mountpoint {} {problem}", path.display())]
    Mountpoint { path: PathBuf, problem: String },
    #[error("cannot mount on {}", path.display())]
    Mount {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot unmount {}", path.display())]
    Unmount {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("serving {} ended", path.display())]
    Serve {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}
