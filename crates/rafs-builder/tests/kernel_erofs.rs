//! The Linux kernel mounts what is built, as EROFS, and shows the same tree.
//!
//! The bootstrap is the primary device, each blob in decompressed form (every chunk at its uncompressed offset) an extra one, all of
//! them plain files: needs Linux 6.12 and the right to mount, says so where there is neither.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use common::Made::FromDirectory;
use common::model::{Maker, model};
use common::{Entry, assert_same, dir_tree, expected, golden};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use rafs_builder::create::{Input, Options, Places, create};
use rafs_builder::data::{self, ChunkReader};
use rafs_builder::merge::{self, Source};
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::output::{Outputs, Place};
use rafs_builder::{chain, check, compact, optimize};
use rafs_format::{Compressor, DigestAlgorithm};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A mounted image; unmounted when dropped.
struct Mounted(tempfile::TempDir);

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(self.0.path(), UnmountFlags::DETACH).unwrap();
    }
}

/// Mounts a bootstrap with its devices. `None`, told, where that cannot be done here.
fn mounted(boot: &Path, devices: &[PathBuf]) -> Option<Mounted> {
    let at = tempfile::tempdir().unwrap();
    let options: Vec<Vec<u8>> =
        devices.iter().map(|path| [b"device=", path.as_os_str().as_bytes()].concat()).collect();
    let options = CString::new(options.join(&b',')).unwrap();
    match mount(boot, at.path(), c"erofs", MountFlags::RDONLY, options.as_c_str()) {
        Ok(()) => Some(Mounted(at)),
        // No right to mount; no such file system; a kernel before 6.12, which wants block devices.
        Err(error @ (Errno::PERM | Errno::ACCESS | Errno::NODEV | Errno::NOTBLK)) => {
            eprintln!("SKIPPED: EROFS cannot be mounted from a file here: {error}");
            None
        }
        Err(error) => panic!("{}: {error}", boot.display()),
    }
}

/// Writes each blob in decompressed form, holes where no chunk is. Returns the files in table order.
fn decompressed(image: &Image, source: &BlobSource, dir: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for (number, blob) in (0u32..).zip(image.blobs()) {
        let path = dir.join(format!("{}.blob.data", blob.id));
        let out = std::fs::File::create(&path).unwrap();
        out.set_len(blob.uncompressed_size).unwrap();
        let all = 0..image.bootstrap().superblock().chunk_table_records;
        let mut chunks: Vec<_> = all.map(|n| image.bootstrap().chunk_record(n).unwrap()).collect();
        chunks.retain(|chunk| chunk.blob == number);
        chunks.sort_by_key(|chunk| chunk.index);
        let file = data::open(image, blob, source).unwrap();
        for run in data::runs(&chunks) {
            ChunkReader::default().read_run(blob, &file, &chunks[run], &mut |chunk, plain| {
                out.write_all_at(plain.unwrap().bytes(), chunk.uncompressed_offset).unwrap();
            });
        }
        paths.push(path);
    }
    paths
}

/// Mounts the image in `dir` with its blobs. `None` where mounting is not possible.
fn mount_built(dir: &Path) -> Option<Mounted> {
    let image = Image::open(&dir.join("boot")).unwrap();
    check::structure(&image).unwrap_or_else(|error| panic!("{}", chain(&error)));
    let local = LocalFs { dir: Some(dir.to_path_buf()), ..LocalFs::default() };
    let source = BlobSource::new(Arc::new(local)).unwrap();
    let devices = decompressed(&image, &source, dir);
    mounted(&dir.join("boot"), &devices)
}

fn build(input: Input<'_>, options: &Options, dir: &Path) {
    let places = (Place::File(dir.join("boot")), Place::Directory(dir.to_path_buf()));
    create(input, options, places, &Outputs::new(), &|_| {}).unwrap();
}

fn tar(path: &Path) -> Input<'static> {
    Input::Tar(Box::new(std::fs::File::open(path).unwrap()))
}

#[test]
fn the_kernel_shows_the_tree_of_a_layer() {
    let Some(golden) = golden() else { return };
    let expected = expected(&golden.join("expected-nasty.json"));
    let codings = [
        (Compressor::Zstd, DigestAlgorithm::Blake3, 0x10_0000),
        (Compressor::Zstd, DigestAlgorithm::Sha256, 0x1000),
        (Compressor::Lz4Block, DigestAlgorithm::Blake3, 0x2000),
        (Compressor::None, DigestAlgorithm::Sha256, 0x4000),
        (Compressor::Zstd, DigestAlgorithm::Blake3, 0x100_0000),
    ];
    for (compressor, digester, chunk_size) in codings {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { compressor, digester, chunk_size, ..Options::default() };
        build(tar(&golden.join("nasty.tar")), &options, dir.path());
        let Some(mounted) = mount_built(dir.path()) else { return };
        let name = format!("{compressor:?} {chunk_size:#x}");
        // Times with nanoseconds, as from a directory: the tar has them, and we keep them.
        assert_same(&name, &dir_tree(mounted.0.path()), &expected, FromDirectory, true);
    }
}

/// Layers of other kinds: a second layer with whiteouts, which a single layer keeps as files, and a directory of 3000 entries.
#[test]
fn the_kernel_shows_whiteouts_and_large_directories() {
    let Some(golden) = golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    build(tar(&golden.join("upper.tar")), &Options::default(), dir.path());
    let Some(upper) = mount_built(dir.path()) else { return };
    let mut entries = expected(&golden.join("expected-upper.json"));
    // The layer does not list these.
    let implied = Entry { kind: "dir".into(), mode: "755".into(), ..Entry::default() };
    entries.extend(["/", "/sizes"].map(|path| (path.to_owned(), implied.clone())));
    assert_same("upper", &dir_tree(upper.0.path()), &entries, FromDirectory, true);
    let dir = tempfile::tempdir().unwrap();
    build(tar(&golden.join("bigdir.tar.gz")), &Options::default(), dir.path());
    let Some(large) = mount_built(dir.path()) else { return };
    assert!(dir_tree(large.0.path()).len() > 3000);
}

/// Two layers merged: whiteouts applied, implied directories as they are below, and blobs with all their sections.
#[test]
fn the_kernel_shows_a_merged_image() {
    let Some(golden) = golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    let blob = |source: &str| {
        let places = Places { bootstrap: None, blob: Place::Directory(dir.path().to_path_buf()) };
        let options = Options { toc: true, chunk_size: 0x4000, ..Options::default() };
        let input = tar(&golden.join(source));
        Source::at(create(input, &options, places, &Outputs::new(), &|_| {}).unwrap().blob_path.unwrap())
    };
    let sources = vec![blob("nasty.tar"), blob("upper.tar")];
    let options = merge::Options { sources, ..merge::Options::default() };
    merge::merge(&options, Place::File(dir.path().join("boot")), &Outputs::new()).unwrap();
    let Some(mounted) = mount_built(dir.path()) else { return };
    let expected = expected(&golden.join("expected-merged.json"));
    assert_same("merged", &dir_tree(mounted.0.path()), &expected, FromDirectory, true);
    drop(mounted);
    // Both blobs become one.
    let image = Image::open(&dir.path().join("boot")).unwrap();
    let local = LocalFs { dir: Some(dir.path().to_path_buf()), ..LocalFs::default() };
    let source = BlobSource::new(Arc::new(local)).unwrap();
    let (place, options) = (Place::File(dir.path().join("boot")), compact::Options::default());
    let report = compact::compact(&image, &options, &source, place, dir.path(), &Outputs::new()).unwrap();
    assert_eq!((report.blobs.len(), report.new_blobs.len()), (1, 1));
    let Some(mounted) = mount_built(dir.path()) else { return };
    assert_same("compacted", &dir_tree(mounted.0.path()), &expected, FromDirectory, true);
    drop(mounted);
    // And an extra one with what is wanted first.
    let image = Image::open(&dir.path().join("boot")).unwrap();
    let hints: Vec<_> =
        expected.keys().map(|path| optimize::Hint { path: path.clone(), ranges: None }).take(60).collect();
    let place = Place::File(dir.path().join("boot"));
    let report = optimize::optimize(&image, &hints, &source, place, dir.path(), &Outputs::new()).unwrap();
    assert_eq!((report.blobs.len(), report.new_blobs.len()), (2, 1));
    let Some(mounted) = mount_built(dir.path()) else { return };
    assert_same("optimized", &dir_tree(mounted.0.path()), &expected, FromDirectory, true);
}

/// An image of a mounted image is the same image, but for the order in which data was read and the time of the root.
#[test]
fn a_directory_becomes_an_image_that_the_kernel_shows_as_that_directory() {
    let Some(golden) = golden() else { return };
    let first = tempfile::tempdir().unwrap();
    build(tar(&golden.join("nasty.tar")), &Options::default(), first.path());
    let Some(source) = mount_built(first.path()) else { return };
    let second = tempfile::tempdir().unwrap();
    build(Input::Directory(source.0.path().to_path_buf()), &Options::default(), second.path());
    let Some(copy) = mount_built(second.path()) else { return };
    let (mut expected, found) = (dir_tree(source.0.path()), dir_tree(copy.0.path()));
    let root = expected.get_mut("/").unwrap();
    (root.mtime, root.mtime_ns) = (0, 0);
    assert_eq!(found, expected);
}

/// Random trees: the kernel is a second reader of what the writer writes.
#[test]
fn the_kernel_shows_random_trees() {
    let mut runner = TestRunner::deterministic();
    let strategy = model();
    for n in 0..40 {
        let children = strategy.new_tree(&mut runner).unwrap().current();
        let dir = tempfile::tempdir().unwrap();
        let mut maker = Maker::new(&children);
        maker.write(dir.path(), "boot");
        let Some(mounted) = mount_built(dir.path()) else { return };
        let mut found = dir_tree(mounted.0.path());
        found.remove("/").unwrap();
        assert_eq!(found, maker.finish(), "tree {n}");
    }
}
