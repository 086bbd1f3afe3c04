//! What the reader of a mount does.

use crate::image::Shape;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

/// What `ls` of a C library asks the kernel for at once.
const LIST_BUFFER: usize = 32 << 10;
/// Length of a sequential read.
const READ: usize = 1 << 20;

fn open(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(CWD, path, flags | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Lists every directory and stats every name in it.
pub fn list_and_stat(mount: &Path, shape: Shape) {
    let mut buffer = Vec::with_capacity(LIST_BUFFER);
    let mut names = 0;
    for dir in 0..shape.dirs {
        let dir = open(&mount.join(Shape::dir_name(dir)), OFlags::DIRECTORY).unwrap();
        let mut entries = RawDir::new(&dir, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry.unwrap();
            if !entry.file_name().to_bytes().starts_with(b".") {
                rustix::fs::statat(&dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW).unwrap();
                names += 1;
            }
        }
    }
    assert_eq!(names, shape.total_files());
}

/// Can the root be listed, and is something in it?
pub fn lists(mount: &Path) -> bool {
    let Ok(dir) = open(mount, OFlags::DIRECTORY) else { return false };
    let mut buffer = Vec::with_capacity(LIST_BUFFER);
    let mut entries = RawDir::new(&dir, buffer.spare_capacity_mut());
    std::iter::from_fn(|| {
        entries.next().map(|entry| entry.is_ok_and(|entry| entry.file_name().to_bytes()[0] != b'.'))
    })
    .any(|real| real)
}

/// Opens, reads and closes the files at `paths`, one after the other; returns the bytes.
pub fn read_files<'a>(mount: &Path, paths: impl Iterator<Item = &'a String>) -> usize {
    let root = open(mount, OFlags::DIRECTORY).unwrap();
    let mut buffer = vec![0; READ];
    let mut bytes = 0;
    for path in paths {
        let file = rustix::fs::openat(&root, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        loop {
            let count = rustix::io::read(&file, &mut buffer).unwrap();
            bytes += count;
            // As a reader that knows the size from `stat`: a short read is the last.
            if count < buffer.len() {
                break;
            }
        }
    }
    bytes
}

/// Forgets the kernel's copy of the files at `paths`, so that the daemon is asked again.
pub fn drop_pages<'a>(mount: &Path, paths: impl Iterator<Item = &'a String>) {
    for path in paths {
        let file = File::open(mount.join(path)).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}
