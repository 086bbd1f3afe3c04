//! Requests of the kernel, one function each: decode, call, reply or errno.
//!
//! Images do not change: entries, attributes, directories, links and data are the kernel's to keep for good, and `open` and `opendir` are
//! told to be needless. Inode numbers are those of the image; the root is 1, as the protocol wants it.

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use rafs_vfs::{Attr, ColdRead, DirEntry, Nid, Rafs, Read, VfsError};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long the kernel may keep what it was told: for good (2^32 seconds, as 2.x).
const FOR_EVER: Duration = Duration::from_secs(1 << 32);
const GENERATION: Generation = Generation(0);
/// Longest write of the kernel, which also bounds its reads: 1 MiB.
const MAX_WRITE: u32 = 1 << 20;
/// Reads ahead that the kernel may have under way at once.
const MAX_BACKGROUND: u16 = 64;
const BLOCK: u32 = 4096;
const NAME_MAX: u32 = 255;

thread_local! {
    /// Where a worker puts what it read, kept so that no request pays for fresh pages.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One image as the kernel sees it.
#[derive(Debug)]
pub(crate) struct FileSystem {
    rafs: Arc<Rafs>,
    runtime: tokio::runtime::Handle,
    log: Arc<ErrorLog>,
    /// Did the kernel agree to do without `open` and `opendir`?
    no_open: AtomicBool,
    no_opendir: AtomicBool,
}

impl FileSystem {
    pub(crate) fn new(rafs: Arc<Rafs>, runtime: tokio::runtime::Handle) -> Self {
        let no = || AtomicBool::new(false);
        Self { rafs, runtime, log: Arc::default(), no_open: no(), no_opendir: no() }
    }

    /// The inode behind a number of the kernel.
    fn nid(&self, ino: INodeNo) -> Nid {
        if ino == INodeNo::ROOT { self.rafs.root() } else { Nid(ino.0) }
    }

    /// The kernel's number of an inode. Errors: one of those that have a meaning of their own in the protocol, which no builder gives out.
    fn ino(&self, nid: Nid) -> Result<INodeNo, Failure> {
        match nid.0 {
            _ if nid == self.rafs.root() => Ok(INodeNo::ROOT),
            0 | 1 => Err(Failure::Reserved(nid)),
            number => Ok(INodeNo(number)),
        }
    }

    fn file_attr(&self, attr: &Attr) -> Result<FileAttr, Failure> {
        let time = system_time(attr.mtime_secs, attr.mtime_nanos);
        Ok(FileAttr {
            ino: self.ino(attr.nid)?,
            size: attr.size,
            blocks: attr.size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: UNIX_EPOCH,
            kind: kind(attr.file_type),
            perm: attr.perm,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev,
            blksize: BLOCK,
            flags: 0,
        })
    }

    /// Runs one request. What it could not answer becomes an errno; a panic leaves the reply to its destructor, which says EIO.
    fn answer<R>(
        &self,
        what: &str,
        reply: R,
        refuse: fn(R, Errno),
        run: impl FnOnce(&mut Option<R>) -> Result<(), Failure>,
    ) {
        let mut reply = Some(reply);
        match catch_unwind(AssertUnwindSafe(|| run(&mut reply))) {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => {
                let errno = failure.errno();
                self.log.tell(what, &failure);
                if let Some(reply) = reply {
                    refuse(reply, errno);
                }
            }
            Err(_panic) => tracing::error!("{what}: a bug stopped this request; it was answered with EIO"),
        }
    }

    fn attr_of(&self, ino: INodeNo) -> Result<FileAttr, Failure> {
        self.file_attr(&self.rafs.attr(self.nid(ino))?)
    }

    /// Answers a request for an extended attribute or for the list of them.
    fn send_xattr(reply: &mut Option<ReplyXattr>, value: &[u8], size: u32) -> Result<(), Failure> {
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        if size > 0 && length > size {
            return Err(Failure::Plain(Errno::ERANGE));
        }
        match reply.take() {
            Some(reply) if size == 0 => reply.size(length),
            Some(reply) => reply.data(value),
            None => {}
        }
        Ok(())
    }

    /// Lets the runtime fetch what is missing and answer. What is short and at hand is answered at once, on this thread: for a small file,
    /// waking another one costs more than all else.
    fn read_later(&self, cold: ColdRead, reply: ReplyData) {
        let log = Arc::clone(&self.log);
        let short = cold.is_short();
        let mut answer = Box::pin(async move {
            match cold.complete().await {
                Ok(bytes) => reply.data(&bytes),
                Err(error) => {
                    let failure = Failure::Vfs(error);
                    let errno = failure.errno();
                    log.tell("read", &failure);
                    reply.error(errno);
                }
            }
        });
        let _runtime = self.runtime.enter();
        if short && answer.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            return;
        }
        // Polled again there, so no wake-up is lost.
        self.runtime.spawn(answer);
    }
}

impl Filesystem for FileSystem {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // The one that is added asks for what the kernel has of it.
        let mut add = |flag| config.add_capabilities(flag).is_ok();
        self.no_open = add(InitFlags::FUSE_NO_OPEN_SUPPORT).into();
        self.no_opendir = add(InitFlags::FUSE_NO_OPENDIR_SUPPORT).into();
        for flag in [
            // Always, not "auto": an `ls` fills the directory cache, and stats after it would be single lookups.
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        ] {
            if !add(flag) {
                tracing::debug!("the kernel has no {flag:?}");
            }
        }
        let refused = |nearest: u32| io::Error::other(format!("the kernel protocol takes {nearest}"));
        config.set_max_write(MAX_WRITE).map_err(refused)?;
        config.set_max_background(MAX_BACKGROUND).map_err(|nearest| refused(nearest.into()))?;
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.answer("lookup", reply, ReplyEntry::error, |reply| {
            let found = self.rafs.lookup(self.nid(parent), name.as_bytes())?;
            let attr = found.map_or(Ok(no_such_name()), |attr| self.file_attr(&attr))?;
            if let Some(reply) = reply.take() {
                reply.entry(&FOR_EVER, &attr, GENERATION);
            }
            Ok(())
        });
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        self.answer("getattr", reply, ReplyAttr::error, |reply| {
            let attr = self.attr_of(ino)?;
            if let Some(reply) = reply.take() {
                reply.attr(&FOR_EVER, &attr);
            }
            Ok(())
        });
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        self.answer("readlink", reply, ReplyData::error, |reply| {
            let target = self.rafs.read_link(self.nid(ino))?;
            if let Some(reply) = reply.take() {
                reply.data(&target);
            }
            Ok(())
        });
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        open(reply, self.no_open.load(Ordering::Relaxed), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let keep = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
        open(reply, self.no_opendir.load(Ordering::Relaxed), keep);
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
        self.answer("read", reply, ReplyData::error, |reply| {
            BUFFER.with_borrow_mut(|buffer| {
                let size = size as usize;
                if buffer.len() < size {
                    buffer.resize(size, 0);
                }
                let into = buffer.get_mut(..size).unwrap_or(&mut []);
                let read = self.rafs.read(self.nid(ino), offset, into)?;
                match (read, reply.take()) {
                    (Read::Done(count), Some(reply)) => reply.data(into.get(..count).unwrap_or(&[])),
                    (Read::Cold(cold), Some(reply)) => self.read_later(cold, reply),
                    (_, None) => {}
                }
                Ok(())
            })
        });
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.answer("readdir", reply, ReplyDirectory::error, |slot| {
            let Some(reply) = slot else { return Ok(()) };
            let sink = &mut |entry: DirEntry<'_>| {
                let ino = if entry.nid == self.rafs.root() { INodeNo::ROOT } else { INodeNo(entry.nid.0) };
                !reply.add(ino, entry.next, kind(entry.file_type), OsStr::from_bytes(entry.name))
            };
            self.rafs.read_dir(self.nid(ino), offset, sink)?;
            if let Some(reply) = slot.take() {
                reply.ok();
            }
            Ok(())
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.answer("readdirplus", reply, ReplyDirectoryPlus::error, |slot| {
            let Some(reply) = slot else { return Ok(()) };
            let mut failure = None;
            let sink = &mut |entry: DirEntry<'_>| {
                let attr = self.rafs.attr(entry.nid).map_err(Failure::from);
                match attr.and_then(|attr| self.file_attr(&attr)) {
                    Ok(attr) => {
                        let name = OsStr::from_bytes(entry.name);
                        !reply.add(attr.ino, entry.next, name, &FOR_EVER, &attr, GENERATION)
                    }
                    Err(error) => {
                        failure = Some(error);
                        false
                    }
                }
            };
            self.rafs.read_dir(self.nid(ino), offset, sink)?;
            match (failure, slot.take()) {
                (None, Some(reply)) => reply.ok(),
                (Some(failure), reply) => {
                    *slot = reply;
                    return Err(failure);
                }
                (None, None) => {}
            }
            Ok(())
        });
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.answer("statfs", reply, ReplyStatfs::error, |reply| {
            let totals = self.rafs.totals();
            let blocks = totals.bytes.div_ceil(BLOCK.into());
            if let Some(reply) = reply.take() {
                reply.statfs(blocks, 0, 0, totals.entries, 0, BLOCK, NAME_MAX, BLOCK);
            }
            Ok(())
        });
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.answer("getxattr", reply, ReplyXattr::error, |reply| {
            if !self.rafs.has_xattrs() {
                // The kernel asks no more, which spares a request at each start of a program. Lists stay answered: tools take it for
                // a failure when they are not.
                return Err(Failure::Plain(Errno::ENOSYS));
            }
            let value = self.rafs.xattr(self.nid(ino), name.as_bytes())?;
            Self::send_xattr(reply, value.ok_or(Failure::Plain(Errno::NO_XATTR))?, size)
        });
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.answer("listxattr", reply, ReplyXattr::error, |reply| {
            // As the kernel's own file systems do: others cannot read them anyway.
            let root = request.uid() == 0;
            let shown = |name: &[u8]| root || !name.starts_with(b"trusted.");
            Self::send_xattr(reply, &self.rafs.xattr_names(self.nid(ino), shown)?, size)
        });
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }
}

/// Answers an open: needless where the kernel knows that answer, else kept for good.
fn open(reply: ReplyOpen, needless: bool, keep: FopenFlags) {
    if needless {
        reply.error(Errno::ENOSYS);
    } else {
        reply.opened(FileHandle(0), keep);
    }
}

/// Why a request gets an errno.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Vfs(#[from] VfsError),
    #[error("damaged bootstrap: inode number {0} is reserved")]
    Reserved(Nid),
    #[error("{0:?}")]
    Plain(Errno),
}

impl Failure {
    fn errno(&self) -> Errno {
        match self {
            Self::Plain(errno) => *errno,
            Self::Reserved(_) => Errno::EIO,
            Self::Vfs(error) => match error {
                VfsError::NotADirectory { .. } => Errno::ENOTDIR,
                VfsError::IsADirectory { .. } => Errno::EISDIR,
                VfsError::WrongType { .. } => Errno::EINVAL,
                VfsError::Format(_) | VfsError::Data(_) | VfsError::CacheCount { .. } => Errno::EIO,
            },
        }
    }
}

/// Says why requests failed, one line in a second and the number of those left out.
#[derive(Debug, Default)]
struct ErrorLog {
    last: parking_lot::Mutex<Option<Instant>>,
    left_out: AtomicU64,
}

impl ErrorLog {
    fn tell(&self, what: &str, failure: &Failure) {
        if matches!(failure, Failure::Plain(_)) {
            return;
        }
        let now = Instant::now();
        let mut last = self.last.lock();
        if last.is_some_and(|last| now.duration_since(last) < Duration::from_secs(1)) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        *last = Some(now);
        drop(last);
        let left_out = match self.left_out.swap(0, Ordering::Relaxed) {
            0 => String::new(),
            count => format!(" ({count} more since the last one)"),
        };
        tracing::error!("{what}: {}{left_out}", cli_report::chain(failure));
    }
}

/// The attributes that say that there is no such name: inode number 0, which the kernel remembers.
fn no_such_name() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

fn kind(file_type: rafs_vfs::FileType) -> FileType {
    match file_type {
        rafs_vfs::FileType::Regular => FileType::RegularFile,
        rafs_vfs::FileType::Directory => FileType::Directory,
        rafs_vfs::FileType::CharDevice => FileType::CharDevice,
        rafs_vfs::FileType::BlockDevice => FileType::BlockDevice,
        rafs_vfs::FileType::Fifo => FileType::NamedPipe,
        rafs_vfs::FileType::Socket => FileType::Socket,
        rafs_vfs::FileType::Symlink => FileType::Symlink,
    }
}

/// Seconds and nanoseconds since the epoch; times that cannot be expressed become the epoch.
fn system_time(secs: i64, nanos: u32) -> SystemTime {
    let whole = Duration::from_secs(secs.unsigned_abs());
    let time = if secs < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    time.and_then(|time| time.checked_add(Duration::from_nanos(nanos.into()))).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_count_backwards() {
        assert_eq!(system_time(-1, 500_000_000), UNIX_EPOCH - Duration::from_millis(500));
        assert_eq!(system_time(1, 1), UNIX_EPOCH + Duration::new(1, 1));
        assert_eq!(
            system_time(i64::MIN, 0).duration_since(UNIX_EPOCH).unwrap_err().duration().as_secs(),
            1 << 63
        );
    }
}
