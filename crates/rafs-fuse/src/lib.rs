//! Kernel FUSE requests to [`rafs_vfs`] calls; the only place that names `fuser` or an errno.
//!
//! Metadata and ready data are answered on the worker that read the request. A read that must wait for a backend is handed, with its
//! reply, to the runtime and answered from there, so a hung backend never holds a worker. A panic in a request answers EIO and is logged.

mod error;
mod file_system;
mod mountinfo;
mod mountpoint;

pub use error::FuseError;

use file_system::FileSystem;
use fuser::{Config, MountOption, Session, SessionACL, SessionUnmounter};
use mountpoint::Mountpoint;
use parking_lot::Mutex;
use rafs_vfs::Rafs;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

/// Source in the mount table, by which integrators know our mounts.
const SOURCE: &str = "rafs";
/// Longest read, in bytes: 1 MiB and a page, as 2.x.
const MAX_READ: u32 = 1_052_672;
/// Readahead of the mount, in KiB. More did not read faster (2.0 GB/s and a little less), and makes a fault in a mapped program fetch more than it needs.
const READAHEAD_KIB: u32 = 256;
/// Threads when not told otherwise; more than the cores there are did not help anywhere.
const MAX_THREADS: usize = 4;

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
pub struct Mount {
    session: Option<JoinHandle<io::Result<()>>>,
    unmounter: Unmounter,
}

impl Mount {
    /// Mounts `rafs` read-only and starts serving. Cold reads run on `runtime`. On return the mount is visible.
    /// Errors: the mountpoint is missing, in use or no directory; there is no /dev/fuse; the kernel or fusermount3 refuses.
    pub fn new(
        rafs: Arc<Rafs>,
        options: &MountOptions,
        runtime: tokio::runtime::Handle,
    ) -> Result<Self, FuseError> {
        let mountpoint = Mountpoint::claim(&options.mountpoint)?;
        let path = mountpoint.path().to_path_buf();
        let failed = |source| FuseError::Mount { path: path.clone(), source };
        let config = config(options);
        let (session, helper) = match mount(&mountpoint)? {
            Some(device) => {
                let file_system = FileSystem::new(rafs, runtime);
                let session = Session::from_fd(file_system, device, SessionACL::All, config);
                (session.inspect_err(|_| detach(&path)).map_err(failed)?, None)
            }
            None => {
                let file_system = || FileSystem::new(Arc::clone(&rafs), runtime.clone());
                let mut session = ask_helper(&path, config, &file_system).map_err(failed)?;
                let helper = session.unmount_callable();
                (session, Some(helper))
            }
        };
        let device = mountinfo::at(&path).map_err(failed)?.map(|mount| mount.device);
        if let Some(device) = &device {
            raise_readahead(device);
        }
        let thread = std::thread::Builder::new().name("fuse".into());
        let session = thread.spawn(move || session.run()).map_err(failed)?;
        let inner = Mounted { mountpoint, device, helper: Mutex::new(helper) };
        Ok(Self { session: Some(session), unmounter: Unmounter { mounted: Arc::new(inner) } })
    }

    /// Blocks until the file system is unmounted, by [`Unmounter::unmount`] or from outside.
    pub fn wait(mut self) -> Result<(), FuseError> {
        let Some(session) = self.session.take() else { return Ok(()) };
        let ended = session.join().unwrap_or_else(|_panic| Err(io::Error::other("a worker panicked")));
        let path = self.unmounter.mounted.mountpoint.path().to_path_buf();
        ended.map_err(|source| FuseError::Serve { path, source })
    }

    /// A handle that unmounts from another thread.
    pub fn unmounter(&self) -> Unmounter {
        self.unmounter.clone()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.unmounter.unmount() {
            tracing::warn!("{error}");
        }
    }
}

/// A mount that this process made.
#[derive(Debug)]
struct Mounted {
    mountpoint: Mountpoint,
    /// `major:minor` in the mount table; `None` when it was gone at once.
    device: Option<String>,
    /// For mounts made by fusermount3.
    helper: Mutex<Option<SessionUnmounter>>,
}

/// Unmounts a [`Mount`] from another thread. A mount in use is detached: it goes away with its last user.
#[derive(Debug, Clone)]
pub struct Unmounter {
    mounted: Arc<Mounted>,
}

impl Unmounter {
    /// Unmounts; does nothing when it is unmounted already, also when something else is mounted there now.
    pub fn unmount(&self) -> Result<(), FuseError> {
        let path = self.mounted.mountpoint.path();
        let failed = |source| FuseError::Unmount { path: path.to_path_buf(), source };
        if let Some(mut helper) = self.mounted.helper.lock().take() {
            return helper.unmount().map_err(failed);
        }
        let top = mountinfo::at(path).map_err(failed)?;
        if top.map(|mount| mount.device) != self.mounted.device {
            return Ok(());
        }
        match rustix::mount::unmount(path, UnmountFlags::DETACH) {
            Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(()),
            Err(error) => Err(failed(error.into())),
        }
    }
}

fn config(options: &MountOptions) -> Config {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(SOURCE.into()),
        MountOption::RO,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
    ];
    config.acl = SessionACL::All;
    config.n_threads = Some(options.threads.unwrap_or(cores.min(MAX_THREADS)).clamp(1, 1024));
    config
}

/// Mounts by the system call. `None`: that is not permitted, and fusermount3 must be asked.
fn mount(mountpoint: &Mountpoint) -> Result<Option<OwnedFd>, FuseError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = match rustix::fs::open("/dev/fuse", flags, Mode::empty()) {
        Err(rustix::io::Errno::ACCESS) if !rustix::process::geteuid().is_root() => return Ok(None),
        device => device.map_err(|error| FuseError::NoDevice { source: error.into() })?,
    };
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let data = format!(
        "fd={},rootmode=40000,user_id={uid},group_id={gid},default_permissions,allow_other,max_read={MAX_READ}",
        device.as_raw_fd()
    );
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    let path = mountpoint.path();
    let data = std::ffi::CString::new(data).map_err(|error| io::Error::other(error.to_string()));
    let failed = |source| FuseError::Mount { path: path.to_path_buf(), source };
    match rustix::mount::mount(SOURCE, path, "fuse", flags, Some(data.map_err(failed)?.as_c_str())) {
        Ok(()) => Ok(Some(device)),
        Err(rustix::io::Errno::PERM) => Ok(None),
        Err(error) => Err(failed(error.into())),
    }
}

/// Mounts by fusermount3: for all users where its configuration lets us, else for this one alone.
fn ask_helper(
    path: &Path,
    mut config: Config,
    file_system: &dyn Fn() -> FileSystem,
) -> io::Result<Session<FileSystem>> {
    let refused = match Session::new(file_system(), path, &config) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => error,
        done => return done,
    };
    tracing::warn!(
        "other users cannot use {}: fusermount3 lets a user mount for others only with user_allow_other in /etc/fuse.conf",
        path.display()
    );
    config.acl = SessionACL::Owner;
    // Where it refuses this, too, the first reason is the better one.
    Session::new(file_system(), path, &config).map_err(|_second| refused)
}

/// Undoes a mount whose session did not come up.
fn detach(path: &Path) {
    if let Err(error) = rustix::mount::unmount(path, UnmountFlags::DETACH) {
        tracing::warn!("unmounting {}: {error}", path.display());
    }
}

/// Writes the readahead to the mount's backing device info, which is the only way: the INIT exchange can but lower it.
/// Without the right to do so, the kernel's own value stays, and all works.
fn raise_readahead(device: &str) {
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = std::fs::write(&path, READAHEAD_KIB.to_string()) {
        tracing::debug!("{path}: {error}");
    }
}
