//! What the reader of a mount does, timed.

use crate::image::Shape;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// What `ls` of a C library asks the kernel for at once.
const LIST_BUFFER: usize = 32 << 10;
/// Length of a sequential read.
const READ: usize = 1 << 20;

fn open(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(CWD, path, flags | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Lists every directory and stats every name in it. Returns the time and checks the number of names.
pub fn list_and_stat(mount: &Path, shape: Shape) -> Duration {
    let mut buffer = Vec::with_capacity(LIST_BUFFER);
    let started = Instant::now();
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
    let time = started.elapsed();
    assert_eq!(names, shape.total_files());
    time
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

/// Opens, reads and closes the files at `paths`, one after the other; returns the time and the bytes.
pub fn read_files<'a>(mount: &Path, paths: impl Iterator<Item = &'a String>) -> (Duration, usize) {
    let root = open(mount, OFlags::DIRECTORY).unwrap();
    let mut buffer = vec![0; READ];
    let mut bytes = 0;
    let started = Instant::now();
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
    (started.elapsed(), bytes)
}

/// Forgets the kernel's copy of the files at `paths`, so that the daemon is asked again.
pub fn drop_pages<'a>(mount: &Path, paths: impl Iterator<Item = &'a String>) {
    for path in paths {
        let file = File::open(mount.join(path)).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        assert_eq!(file.read_at(&mut [0], 0).unwrap(), 1);
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}
