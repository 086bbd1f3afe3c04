//! The directory form: files, links, devices, owners, modes, times and attributes as in the image.
//!
//! Names come from an untrusted image, so every call names one component below a directory that this run made and holds open,
//! and none follows a symbolic link. All of it happens in a private directory (0700) beside the target, which takes the
//! target's name when complete. Directories get their attributes when left: writing into them would change the times.
//!
//! Without privileges owners stay the caller's, devices are skipped and attributes that may not be set are left out; each is
//! warned of. With privileges all of these are errors.

use super::{Kind, Node, Plan, Sink, UnpackError};
use rustix::fs::{self, AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How a directory is opened to go on below it.
const BELOW: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Unpacks to a directory that appears under its name when it is complete and on disk.
pub(super) fn to_directory(plan: &Plan<'_>, target: &Path) -> Result<(), UnpackError> {
    let failed = |source| UnpackError::Output { path: target.to_path_buf(), source };
    if !is_free(target).map_err(failed)? {
        return Err(UnpackError::NotEmpty { path: target.to_path_buf() });
    }
    let target = &trimmed(target);
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = tempfile::Builder::new().prefix(".unpack-").tempdir_in(parent).map_err(failed)?;
    let root = fs::openat(CWD, temporary.path(), BELOW, Mode::empty()).map_err(|e| failed(e.into()))?;
    let mut sink = DirSink::new(root).map_err(failed)?;
    plan.run(&mut sink)?;
    sink.leave(0)?;
    fs::syncfs(&sink.root).map_err(|e| failed(e.into()))?;
    std::fs::rename(temporary.path(), target).map_err(failed)?;
    let _moved_away = temporary.keep();
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)
}

/// `target` without slashes and dots at its end, so that it has a parent.
fn trimmed(target: &Path) -> PathBuf {
    target.components().collect()
}

/// Is there nothing at `target`, or an empty directory?
fn is_free(target: &Path) -> io::Result<bool> {
    match std::fs::read_dir(target) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Writes entries below a directory.
struct DirSink {
    root: OwnedFd,
    /// The directory that entries are made in.
    at: OwnedFd,
    /// Directories from the root to `at`, whose attributes are still to be set.
    open: Vec<Node>,
    /// The regular file that data goes to.
    file: Option<(File, Node)>,
    privileged: bool,
    warned_of_owner: bool,
}

/// What attributes are set on: an open file, or a name in an open directory for what cannot be opened.
enum Object<'a> {
    Open(BorrowedFd<'a>),
    Name(BorrowedFd<'a>, &'a OsStr),
}

impl DirSink {
    fn new(root: OwnedFd) -> io::Result<Self> {
        let at = root.try_clone()?;
        let privileged = rustix::process::geteuid().is_root();
        Ok(Self { root, at, open: Vec::new(), file: None, privileged, warned_of_owner: false })
    }

    /// Goes up until `depth` directories are open, finishing those that are left.
    fn leave(&mut self, depth: usize) -> Result<(), UnpackError> {
        while self.open.len() > depth {
            let Some(node) = self.open.pop() else { return Ok(()) };
            let up = if self.open.is_empty() { self.root.try_clone() } else { self.parent() };
            let up = up.map_err(|source| entry_error(&node, "leave", source))?;
            let left = std::mem::replace(&mut self.at, up);
            self.finish(&Object::Open(left.as_fd()), &node)?;
        }
        Ok(())
    }

    /// The directory above the current one. Its name is not looked up again: nobody else can move things in here.
    fn parent(&self) -> io::Result<OwnedFd> {
        Ok(fs::openat(&self.at, "..", BELOW, Mode::empty())?)
    }

    /// Makes a directory and goes into it.
    fn enter(&mut self, node: Node) -> Result<(), UnpackError> {
        if !node.path.is_empty() {
            let name = file_name(&node.path);
            let made = fs::mkdirat(&self.at, name, Mode::RWXU);
            let opened = made.and_then(|()| fs::openat(&self.at, name, BELOW, Mode::empty()));
            self.at = opened.map_err(|source| entry_error(&node, "create", source.into()))?;
        }
        self.open.push(node);
        Ok(())
    }

    /// Makes a regular file for the data that follows.
    fn create(&mut self, node: Node) -> Result<(), UnpackError> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = fs::openat(&self.at, file_name(&node.path), flags, Mode::RUSR | Mode::WUSR);
        let file = made.map_err(|source| entry_error(&node, "create", source.into()))?;
        self.file = Some((file.into(), node));
        Ok(())
    }

    /// Makes something without data and sets its attributes.
    fn make(
        &mut self,
        node: &Node,
        make: impl FnOnce(BorrowedFd<'_>, &OsStr) -> Result<(), Errno>,
    ) -> Result<(), UnpackError> {
        let at = self.at.try_clone().map_err(|source| entry_error(node, "create", source))?;
        let (at, name) = (at.as_fd(), file_name(&node.path));
        make(at, name).map_err(|source| entry_error(node, "create", source.into()))?;
        self.finish(&Object::Name(at, name), node)
    }

    /// Gives the file at `first` one more name.
    fn link(&mut self, node: &Node, first: &[u8]) -> Result<(), UnpackError> {
        let made = self.directory_of(first).and_then(|from| {
            let name = file_name(&node.path);
            Ok(fs::linkat(&from, file_name(first), &self.at, name, AtFlags::empty())?)
        });
        made.map_err(|source| entry_error(node, "link", source))
    }

    /// Opens the directory that holds `path`, component by component.
    fn directory_of(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let end = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        let mut at = self.root.try_clone()?;
        let dirs = path.get(..end).unwrap_or(&[]);
        for name in dirs.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            at = fs::openat(&at, OsStr::from_bytes(name), flags, Mode::empty())?;
        }
        Ok(at)
    }

    /// Sets owner, mode, attributes and times, in the order in which none undoes another.
    fn finish(&mut self, object: &Object<'_>, node: &Node) -> Result<(), UnpackError> {
        self.chown(object, node)?;
        if !matches!(node.kind, Kind::Symlink(_)) {
            chmod(object, node).map_err(|source| entry_error(node, "set the mode of", source.into()))?;
        }
        for (name, value) in &node.xattrs {
            self.set_xattr(object, node, name, value)?;
        }
        set_times(object, node).map_err(|source| entry_error(node, "set the times of", source.into()))
    }

    /// Sets owner and group.
    fn chown(&mut self, object: &Object<'_>, node: &Node) -> Result<(), UnpackError> {
        // The kernel reads -1 as "leave it"; no file can be owned by it.
        let (uid, gid) = (id(node.uid, node)?, id(node.gid, node)?);
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        let result = match object {
            Object::Open(fd) => fs::fchown(fd, uid, gid),
            Object::Name(at, name) => fs::chownat(at, *name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
        };
        match result {
            Err(Errno::PERM) if !self.privileged => {
                if !std::mem::replace(&mut self.warned_of_owner, true) {
                    tracing::warn!("without privileges all files belong to the caller");
                }
                Ok(())
            }
            other => other.map_err(|source| entry_error(node, "set the owner of", source.into())),
        }
    }

    /// Sets one extended attribute.
    fn set_xattr(
        &self,
        object: &Object<'_>,
        node: &Node,
        name: &[u8],
        value: &[u8],
    ) -> Result<(), UnpackError> {
        let result = match object {
            Object::Open(fd) => fs::fsetxattr(fd, OsStr::from_bytes(name), value, XattrFlags::empty()),
            Object::Name(at, entry) => {
                // There is no such call relative to a directory; this names the same entry without following it.
                let path = Path::new("/proc/self/fd").join(at.as_raw_fd().to_string()).join(entry);
                fs::lsetxattr(path, OsStr::from_bytes(name), value, XattrFlags::empty())
            }
        };
        match result {
            Err(source @ (Errno::PERM | Errno::OPNOTSUPP)) if !self.privileged => {
                let (name, path) = (OsStr::from_bytes(name), OsStr::from_bytes(&node.path));
                tracing::warn!("attribute {name:?} of {path:?} left out: {source}");
                Ok(())
            }
            other => other.map_err(|source| {
                let source = io::Error::from(source);
                let text = format!("attribute {:?}: {source}", OsStr::from_bytes(name));
                entry_error(node, "set attributes of", io::Error::new(source.kind(), text))
            }),
        }
    }
}

impl Sink for DirSink {
    fn node(&mut self, node: Node) -> Result<(), UnpackError> {
        let depth = match node.path.as_slice() {
            [] => 0,
            path => 1 + path.iter().filter(|&&byte| byte == b'/').count(),
        };
        let plain = match &node.kind {
            Kind::HardLink(first) => is_plain(first) && is_plain(&node.path),
            _ => depth == 0 || is_plain(&node.path),
        };
        if !plain {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "its path leaves the directory");
            return Err(entry_error(&node, "create", source));
        }
        self.leave(depth)?;
        match &node.kind {
            Kind::Directory => self.enter(node),
            Kind::Regular => self.create(node),
            Kind::HardLink(first) => self.link(&node, first),
            Kind::Symlink(target) => {
                let target = OsStr::from_bytes(target);
                self.make(&node, |at, name| fs::symlinkat(target, at, name))
            }
            Kind::Device { .. } if !self.privileged => {
                tracing::warn!("device {:?} skipped without privileges", OsStr::from_bytes(&node.path));
                Ok(())
            }
            Kind::Device { block, major, minor } => {
                let kind = if *block { FileType::BlockDevice } else { FileType::CharacterDevice };
                let device = fs::makedev(*major, *minor);
                self.make(&node, |at, name| fs::mknodat(at, name, kind, Mode::RUSR, device))
            }
            Kind::Fifo => self.make(&node, |at, name| fs::mknodat(at, name, FileType::Fifo, Mode::RUSR, 0)),
            Kind::Socket => {
                self.make(&node, |at, name| fs::mknodat(at, name, FileType::Socket, Mode::RUSR, 0))
            }
        }
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        match &mut self.file {
            Some((file, node)) => file.write_all(bytes).map_err(|source| entry_error(node, "write", source)),
            None => Ok(()),
        }
    }

    fn end_of_file(&mut self) -> Result<(), UnpackError> {
        match self.file.take() {
            Some((file, node)) => self.finish(&Object::Open(file.as_fd()), &node),
            None => Ok(()),
        }
    }
}

/// Last component of a path.
fn file_name(path: &[u8]) -> &OsStr {
    OsStr::from_bytes(path.rsplit(|&byte| byte == b'/').next().unwrap_or(path))
}

/// Are all components of `path` names below a directory? A checked image has no others; this does not rely on it.
fn is_plain(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/').all(|name| !matches!(name, b"" | b"." | b".."))
}

/// An error about `node`.
fn entry_error(node: &Node, action: &'static str, source: io::Error) -> UnpackError {
    UnpackError::Entry { path: node.path.clone(), action, source }
}

/// `raw` where a file can be owned by it.
fn id(raw: u32, node: &Node) -> Result<u32, UnpackError> {
    if raw == u32::MAX {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "its owner or group is 4294967295");
        return Err(entry_error(node, "set the owner of", source));
    }
    Ok(raw)
}

/// Sets permission bits. A name is one of a special file made just now, so there is no link to follow.
fn chmod(object: &Object<'_>, node: &Node) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(node.mode.into());
    match object {
        Object::Open(fd) => fs::fchmod(fd, mode),
        Object::Name(at, name) => fs::chmodat(at, *name, mode, AtFlags::empty()),
    }
}

/// Sets the modification time; the access time stays.
fn set_times(object: &Object<'_>, node: &Node) -> Result<(), Errno> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT },
        last_modification: Timespec { tv_sec: node.mtime_secs, tv_nsec: node.mtime_nanos.into() },
    };
    match object {
        Object::Open(fd) => fs::futimens(fd, &times),
        Object::Name(at, name) => fs::utimensat(at, *name, &times, AtFlags::SYMLINK_NOFOLLOW),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(path: &[u8], kind: Kind) -> Node {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let path = path.to_vec();
        Node { path, kind, mode: 0o755, uid, gid, mtime_secs: 7, mtime_nanos: 9, size: 0, xattrs: Vec::new() }
    }

    /// Sends entries that no checked image holds; true when all were taken.
    fn send(root: &Path, nodes: Vec<Node>) -> bool {
        let root = fs::openat(CWD, root, BELOW, Mode::empty()).unwrap();
        let mut sink = DirSink::new(root).unwrap();
        let all = nodes.into_iter().try_for_each(|node| {
            let file = node.kind == Kind::Regular;
            sink.node(node)?;
            if file { sink.data(b"evil").and_then(|()| sink.end_of_file()) } else { Ok(()) }
        });
        all.and_then(|()| sink.leave(0)).is_ok()
    }

    #[test]
    fn nothing_gets_out_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (outside, inside) = (dir.path().join("outside"), dir.path().join("inside"));
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "x").unwrap();
        let link = || node(b"a", Kind::Symlink(outside.as_os_str().as_bytes().to_vec()));
        let root = || node(b"", Kind::Directory);
        for hostile in [
            vec![root(), link(), node(b"a/evil", Kind::Regular)],
            vec![root(), link(), node(b"a/evil", Kind::Directory), node(b"a/evil/b", Kind::Regular)],
            vec![root(), link(), node(b"a", Kind::Regular)],
            vec![root(), link(), node(b"stolen", Kind::HardLink(b"a/secret".to_vec()))],
            vec![root(), node(b"stolen", Kind::HardLink(b"../outside/secret".to_vec()))],
            vec![root(), node(b"..", Kind::Directory), node(b"../evil", Kind::Regular)],
            vec![root(), node(b"../outside/evil", Kind::Regular)],
            vec![root(), node(b"/evil", Kind::Regular)],
        ] {
            std::fs::create_dir(&inside).unwrap();
            let _refused_or_harmless = send(&inside, hostile);
            let names = |at: &Path| {
                let mut names: Vec<_> =
                    std::fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
                names.sort();
                names
            };
            assert_eq!(names(dir.path()), ["inside", "outside"]);
            assert_eq!(names(&outside), ["secret"]);
            assert_eq!(std::fs::read(outside.join("secret")).unwrap(), b"x");
            assert_eq!(std::os::unix::fs::MetadataExt::nlink(&outside.join("secret").metadata().unwrap()), 1);
            std::fs::remove_dir_all(&inside).unwrap();
        }
    }

    #[test]
    fn any_depth_needs_few_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let mut nodes = vec![node(b"", Kind::Directory)];
        let mut path = Vec::new();
        for _ in 0..3_000 {
            path.extend_from_slice(if path.is_empty() { b"d" } else { b"/d" });
            nodes.push(node(&path, Kind::Directory));
        }
        path.extend_from_slice(b"/f");
        nodes.push(node(&path, Kind::Regular));
        nodes.push(node(b"linked", Kind::HardLink(path)));
        assert!(send(dir.path(), nodes));
        assert_eq!(std::fs::read(dir.path().join("linked")).unwrap(), b"evil");
    }
}
