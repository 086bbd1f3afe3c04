//! The least that a FUSE file system can do, to measure ours against: attributes and names from tables, data by one pread.
//!
//! Mounted and set up exactly as `rafs-fuse` does it. A process of its own: this program, started with a hidden argument.

use crate::image::Shape;
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry,
    ReplyOpen, Request, Session, SessionACL,
};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;
use std::cell::RefCell;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

/// First argument of the process.
pub const ARGUMENT: &str = "--serve-bare";
const FOR_EVER: Duration = Duration::from_secs(1 << 32);

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The command that serves `shape` on `mountpoint`; all data comes from the file `data`.
pub fn command(mountpoint: &Path, data: &Path, shape: Shape, threads: usize) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(ARGUMENT).arg(mountpoint).arg(data);
    command.args([shape.dirs, shape.files, shape.size.unwrap_or(0), threads].map(|n| n.to_string()));
    command
}

/// Serves until unmounted. `arguments` are those of [`command`] behind the first.
pub fn serve(arguments: &[OsString]) {
    let [mountpoint, data, numbers @ ..] = arguments else { panic!("arguments are missing") };
    let numbers: Vec<usize> = numbers.iter().map(|n| n.to_str().unwrap().parse().unwrap()).collect();
    let &[dirs, files, size, threads] = numbers.as_slice() else { panic!("numbers are missing") };
    let shape = Shape { dirs, files, size: (size > 0).then_some(size) };
    let bare = Bare::new(shape, File::open(data).unwrap());
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = rustix::fs::open("/dev/fuse", flags, Mode::empty()).unwrap();
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other,max_read=1052672",
        device.as_raw_fd()
    );
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    let options = CString::new(options).unwrap();
    let mountpoint = PathBuf::from(mountpoint);
    rustix::mount::mount("bare", &mountpoint, "fuse", flags, Some(options.as_c_str())).unwrap();
    let mut config = Config::default();
    config.mount_options = vec![MountOption::RO, MountOption::NoAtime, MountOption::DefaultPermissions];
    config.acl = SessionACL::All;
    config.n_threads = Some(threads);
    let session = Session::from_fd(bare, device, SessionACL::All, config).unwrap();
    raise_readahead(&mountpoint);
    session.run().unwrap();
}

/// Not by `stat`, which nobody would answer yet.
fn raise_readahead(mountpoint: &Path) {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut mounts = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let ours = mounts.find(|fields| fields.get(4).copied() == mountpoint.to_str()).unwrap();
    std::fs::write(format!("/sys/class/bdi/{}/read_ahead_kb", ours[2]), "256").unwrap();
}

/// Inode 1 is the root, then come directories, then files.
#[derive(Debug)]
struct Bare {
    attrs: Vec<FileAttr>,
    /// Names with inodes of each directory, the root first; sorted.
    dirs: Vec<Vec<(OsString, u64)>>,
    data: File,
    /// Where in `data` each file starts; the same for all where they are small.
    stride: u64,
    first_file: u64,
}

impl Bare {
    fn new(shape: Shape, data: File) -> Self {
        let first_dir = 2;
        let first_file = first_dir + shape.dirs as u64;
        let mut attrs = vec![attr(0, FileType::RegularFile, 0), attr(1, FileType::Directory, 4096)];
        attrs.extend((first_dir..first_file).map(|ino| attr(ino, FileType::Directory, 4096)));
        let file = |n: usize| attr(first_file + n as u64, FileType::RegularFile, shape.size_of(n) as u64);
        attrs.extend((0..shape.total_files()).map(file));
        let dots = |own: u64| vec![(".".into(), own), ("..".into(), 1)];
        let mut root = dots(1);
        root.extend((0..shape.dirs).map(|n| (Shape::dir_name(n).into(), first_dir + n as u64)));
        let mut dirs = vec![root];
        for dir in 0..shape.dirs {
            let mut names = dots(first_dir + dir as u64);
            let ino = |n: usize| first_file + (dir * shape.files + n) as u64;
            names.extend((0..shape.files).map(|n| (Shape::file_name(n).into(), ino(n))));
            dirs.push(names);
        }
        Self { attrs, dirs, data, stride: shape.size.unwrap_or(0) as u64, first_file }
    }

    fn attr(&self, ino: u64) -> Option<&FileAttr> {
        self.attrs.get(usize::try_from(ino).ok()?)
    }

    fn dir(&self, ino: INodeNo) -> Option<&[(OsString, u64)]> {
        self.dirs.get(usize::try_from(ino.0).ok()?.checked_sub(1)?).map(Vec::as_slice)
    }
}

fn attr(ino: u64, kind: FileType, size: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Bare {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in [
            InitFlags::FUSE_NO_OPEN_SUPPORT,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        ] {
            config.add_capabilities(flag).unwrap();
        }
        config.set_max_write(1 << 20).unwrap();
        config.set_max_background(64).unwrap();
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let names = self.dir(parent).unwrap_or(&[]);
        let found = names.binary_search_by(|(known, _)| known.as_os_str().cmp(name)).ok();
        let ino = found.and_then(|n| names.get(n)).map(|&(_, ino)| ino);
        match ino.and_then(|ino| self.attr(ino)) {
            Some(attr) => reply.entry(&FOR_EVER, attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino.0) {
            Some(attr) => reply.attr(&FOR_EVER, attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(attr) = self.attr(ino.0) else { return reply.error(Errno::ENOENT) };
        let size = usize::try_from(u64::from(size).min(attr.size.saturating_sub(offset))).unwrap();
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let start = (ino.0 - self.first_file) * self.stride;
            match self.data.read_at(&mut buffer[..size], start + offset) {
                Ok(count) => reply.data(&buffer[..count]),
                Err(error) => reply.error(error.into()),
            }
        });
    }

    fn readdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        reply: ReplyDirectory,
    ) {
        // The kernel was told to use readdirplus always.
        reply.error(Errno::ENOSYS);
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let Some(names) = self.dir(ino) else { return reply.error(Errno::ENOTDIR) };
        let from = usize::try_from(offset).unwrap();
        for ((name, ino), next) in names.iter().zip(1..).skip(from) {
            let Some(attr) = self.attr(*ino) else { continue };
            if reply.add(attr.ino, next, name, &FOR_EVER, attr, Generation(0)) {
                break;
            }
        }
        reply.ok();
    }
}
