//! The directory to mount on: there, free, and claimed, so that two daemons that start at once do not both take it.

use crate::{FuseError, SOURCE, mountinfo};
use rustix::fs::FlockOperation;
use rustix::mount::UnmountFlags;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// A claimed directory. The claim ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Mountpoint {
    path: PathBuf,
    /// The directory below the mount, locked.
    _claim: File,
}

impl Mountpoint {
    /// Claims the directory at `path`. A mount of ours whose daemon is dead is removed first.
    pub(crate) fn claim(path: &Path) -> Result<Self, FuseError> {
        let refuse = |problem: String| FuseError::Mountpoint { path: path.to_path_buf(), problem };
        let plain = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => refuse("does not exist".into()),
            _ => refuse(format!("cannot be used: {error}")),
        };
        let real = mountinfo::resolve(path).map_err(plain)?;
        if mountinfo::at(&real).map_err(plain)?.is_some_and(|mount| is_dead(&mount, &real)) {
            tracing::warn!("{}: a mount whose daemon is dead is removed", real.display());
            rustix::mount::unmount(&real, UnmountFlags::DETACH).map_err(|error| plain(error.into()))?;
        }
        let claim = File::open(&real).map_err(plain)?;
        if !claim.metadata().map_err(plain)?.is_dir() {
            return Err(refuse("is not a directory".into()));
        }
        let claimed = rustix::fs::flock(&claim, FlockOperation::NonBlockingLockExclusive);
        // What was opened may have been the root of a mount. If it was, that shows here; if not, nobody else gets the lock any more.
        if let Some(mount) = mountinfo::at(&real).map_err(plain)? {
            let (fs_type, source) = (mount.fs_type, mount.source);
            return Err(refuse(format!(
                "is in use: {source} ({fs_type}) is mounted there; unmount it first"
            )));
        }
        match claimed {
            Ok(()) => Ok(Self { path: real, _claim: claim }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(refuse("is in use by another daemon".into())),
            Err(error) => Err(plain(error.into())),
        }
    }

    /// The directory, absolute, without symbolic links.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Is this a mount of ours that nobody serves any more?
fn is_dead(mount: &mountinfo::Entry, path: &Path) -> bool {
    let ours = mount.fs_type == "fuse" && mount.source == SOURCE;
    ours && rustix::fs::statfs(path).is_err_and(|error| error == rustix::io::Errno::NOTCONN)
}
