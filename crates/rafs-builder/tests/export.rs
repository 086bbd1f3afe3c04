//! Disks: the kernel mounts them alone and shows the tree of the source; the hash tree is that of a model and of veritysetup.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use common::Made::{FromDirectory, FromTar};
use common::{all_blobs, assert_same, dir_tree, expected, golden};
use rafs_builder::chain;
use rafs_builder::create::{Input, Options as CreateOptions, create, create_tarfs};
use rafs_builder::export::{ExportError, Options, Report, block};
use rafs_builder::merge::{self, Source, merge};
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::output::{Outputs, Place};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use sha2::{Digest, Sha256};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// A mounted disk; unmounted when dropped.
struct Mounted(tempfile::TempDir);

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(self.0.path(), UnmountFlags::DETACH).unwrap();
    }
}

/// Mounts a disk by its file. `None`, told, where that cannot be done here.
fn mounted(disk: &Path) -> Option<Mounted> {
    let at = tempfile::tempdir().unwrap();
    match mount(disk, at.path(), c"erofs", MountFlags::RDONLY, c"") {
        Ok(()) => Some(Mounted(at)),
        // No right to mount; no such file system; a kernel before 6.12, which wants block devices.
        Err(error @ (Errno::PERM | Errno::ACCESS | Errno::NODEV | Errno::NOTBLK)) => {
            eprintln!("SKIPPED: EROFS cannot be mounted from a file here: {error}");
            None
        }
        Err(error) => panic!("{}: {error}", disk.display()),
    }
}

fn local(dir: &Path) -> BlobSource {
    BlobSource::new(Arc::new(LocalFs { dir: Some(dir.to_path_buf()), ..LocalFs::default() })).unwrap()
}

fn export(
    boot: &Path,
    blobs: &Path,
    disk: &Path,
    threads: usize,
    verity: bool,
) -> Result<Report, ExportError> {
    let image = Image::open(boot).unwrap();
    block(&image, &local(blobs), disk, Options { threads, verity }, &Outputs::new())
}

/// A layer as a native image or a tarfs, in `dir`, with its blob. Returns the bootstrap.
fn layer(dir: &Path, tar: &Path, tarfs: bool, chunk_size: u32) -> PathBuf {
    let boot = dir.join(format!("{}.boot", tar.file_name().unwrap().to_str().unwrap()));
    let options = CreateOptions { chunk_size, ..CreateOptions::default() };
    let stream = Box::new(std::fs::File::open(tar).unwrap());
    let (place, outputs) = (Place::File(boot.clone()), Outputs::new());
    if tarfs {
        let report = create_tarfs(stream, &options, place, &outputs, &|_| {}).unwrap();
        std::fs::copy(tar, dir.join(report.blob.unwrap().as_str())).unwrap();
    } else {
        let places = (place, Place::Directory(dir.to_path_buf()));
        create(Input::Tar(stream), &options, places, &outputs, &|_| {}).unwrap();
    }
    boot
}

#[test]
fn the_kernel_shows_the_tree_of_a_layer() {
    let Some(golden) = golden() else { return };
    let expected = expected(&golden.join("expected-nasty.json"));
    for (tarfs, chunk_size) in [(false, 0x1000), (false, 0x10_0000), (true, 0x1000), (true, 0x10_0000)] {
        let dir = tempfile::tempdir().unwrap();
        let boot = layer(dir.path(), &golden.join("nasty.tar"), tarfs, chunk_size);
        let disk = dir.path().join("disk");
        export(&boot, dir.path(), &disk, 2, tarfs).unwrap();
        let Some(mounted) = mounted(&disk) else { return };
        let name = format!("tarfs {tarfs}, {chunk_size:#x}");
        assert_same(&name, &dir_tree(mounted.0.path()), &expected, FromDirectory, true);
    }
}

#[test]
fn the_kernel_shows_merged_layers() {
    let Some(golden) = golden() else { return };
    for tarfs in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let sources = ["nasty.tar", "upper.tar"]
            .map(|tar| Source::at(layer(dir.path(), &golden.join(tar), tarfs, 0x4000)));
        let options = merge::Options { sources: sources.to_vec(), ..merge::Options::default() };
        let (boot, disk) = (dir.path().join("merged"), dir.path().join("disk"));
        merge(&options, Place::File(boot.clone()), &Outputs::new()).unwrap();
        export(&boot, dir.path(), &disk, 3, false).unwrap();
        let Some(mounted) = mounted(&disk) else { return };
        let expected = expected(&golden.join("expected-merged.json"));
        assert_same("merged", &dir_tree(mounted.0.path()), &expected, FromDirectory, true);
    }
}

/// Images of the reference builder: batches, encryption, and inlined bootstraps among them.
#[test]
fn the_kernel_shows_reference_images() {
    let Some(golden) = golden() else { return };
    let (blobs, dir) = (all_blobs(&golden), tempfile::tempdir().unwrap());
    for (name, made) in [
        ("v6-dir-batch", FromDirectory),
        ("v6-dir-encrypt", FromDirectory),
        ("v6-dir-inline-toc", FromDirectory),
        ("v6-tarfs-4k", FromTar),
    ] {
        let disk = dir.path().join(name);
        export(&common::bootstrap(&golden, name), blobs.path(), &disk, 2, false).unwrap();
        let Some(mounted) = mounted(&disk) else { return };
        let expected = expected(&golden.join("expected-nasty.json"));
        assert_same(name, &dir_tree(mounted.0.path()), &expected, made, true);
    }
}

/// The root of the hash tree, as the kernel's documentation says: levels of digests, 128 in a block of zeros, up to one block.
fn model_root(data: &[u8], block: usize) -> String {
    let mut level: Vec<u8> = data.chunks(block).flat_map(|block| Sha256::digest(block).to_vec()).collect();
    while level.len() > 32 {
        let blocks = level.chunks(4096).map(|part| [part, &vec![0; 4096 - part.len()]].concat());
        level = blocks.flat_map(|block| Sha256::digest(block).to_vec()).collect();
    }
    hex::encode(level)
}

/// Options and root hash out of the line on standard output.
fn words(line: &str) -> Vec<String> {
    let options = line.strip_prefix("dm-verity options: ").unwrap();
    options.split(' ').map(|word| word.trim_matches('"').to_owned()).collect()
}

#[test]
fn the_hash_tree_is_that_of_the_model_and_of_veritysetup() {
    let Some(golden) = golden() else { return };
    for (tarfs, block) in [(false, 4096), (true, 512)] {
        let dir = tempfile::tempdir().unwrap();
        let boot = layer(dir.path(), &golden.join("nasty.tar"), tarfs, 0x4000);
        let disk = dir.path().join("disk");
        let report = export(&boot, dir.path(), &disk, 2, true).unwrap();
        let verity = report.verity.unwrap();
        let size = usize::try_from(report.size).unwrap();
        let bytes = std::fs::read(&disk).unwrap();
        let root = model_root(&bytes[..size], block);
        let hash_offset = size.next_multiple_of(4096);
        assert_eq!(
            verity.to_string(),
            format!(
                "dm-verity options: --no-superblock --format=1 -s \"\" --hash=sha256 --data-block-size={block} \
                 --hash-block-size=4096 --data-blocks {} --hash-offset {hash_offset} {root}",
                size / block
            )
        );
        let words = words(&verity.to_string());
        let (root, options) = words.split_last().unwrap();
        let mut command = Command::new("veritysetup");
        command.arg("verify").args(options).args([&disk, &disk]).arg(root);
        let verify = |command: &mut Command| match command.output() {
            Ok(output) => Some(output.status.success()),
            Err(error) => {
                eprintln!("SKIPPED: veritysetup cannot be run: {error}");
                None
            }
        };
        if verify(&mut command).is_some_and(|good| !good) {
            panic!("veritysetup does not accept {command:?}: {:?}", command.output());
        }
        // One bit of the data, and one of the tree.
        for at in [size / 2, hash_offset + 5000] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            std::fs::write(&disk, damaged).unwrap();
            assert_ne!(verify(&mut command), Some(true), "a flip at {at} passes");
        }
    }
}

#[test]
fn threads_do_not_change_a_byte_and_zeros_are_holes() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("zeros"), vec![0; 9 << 20]).unwrap();
    let mut mixed = vec![0; 6 << 20];
    (0..100).for_each(|n| mixed[n * 61_441] = n as u8 + 1);
    std::fs::write(source.join("mixed"), &mixed).unwrap();
    let boot = dir.path().join("boot");
    let places = (Place::File(boot.clone()), Place::Directory(dir.path().to_path_buf()));
    create(Input::Directory(source), &CreateOptions::default(), places, &Outputs::new(), &|_| {}).unwrap();
    let disks = [1, 2, 7].map(|threads| {
        let disk = dir.path().join(format!("disk-{threads}"));
        export(&boot, dir.path(), &disk, threads, true).unwrap();
        let meta = std::fs::metadata(&disk).unwrap();
        assert!(meta.blocks() * 512 < meta.len() / 4, "{} of {} bytes", meta.blocks() * 512, meta.len());
        std::fs::read(disk).unwrap()
    });
    assert!(disks[0] == disks[1] && disks[1] == disks[2]);
}

/// Nothing is left of an export that failed, and what was there before stays.
#[test]
fn what_cannot_be_exported_leaves_nothing() {
    let Some(golden) = golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    let blobs = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    std::fs::write(&disk, b"before").unwrap();
    let failed = |boot: &Path, disk: &Path| chain(&export(boot, blobs.path(), disk, 2, true).unwrap_err());
    let native = layer(blobs.path(), &golden.join("nasty.tar"), false, 0x1000);
    let id = Image::open(&native).unwrap().blobs()[0].id.to_string();
    let blob = std::fs::read(blobs.path().join(&id)).unwrap();
    let mut damaged = blob.clone();
    damaged[100] ^= 1;
    std::fs::write(blobs.path().join(&id), damaged).unwrap();
    let said = failed(&native, &disk);
    assert!(said.contains(&id) && said.contains("chunk"), "{said}");
    std::fs::write(blobs.path().join(&id), blob).unwrap();
    let tarfs = golden.join("v6-tarfs/image.boot");
    assert!(failed(&tarfs, &disk).contains("cannot open blob"));
    assert!(failed(&golden.join("v5-tar/image.boot"), &disk).contains("is RAFS v5"));
    assert!(failed(&native, Path::new("/dev/null")).contains("/dev/null must be a file"));
    assert!(failed(&native, &dir.path().join("no/disk")).contains("No such file"));
    // A blob that would lie in the bootstrap.
    let mut bytes = std::fs::read(&native).unwrap();
    bytes[1408 + 68..1408 + 72].fill(0);
    std::fs::write(blobs.path().join("overlap"), bytes).unwrap();
    let said = failed(&blobs.path().join("overlap"), &disk);
    assert!(said.contains("would stand at 0x0"), "{said}");
    assert_eq!(std::fs::read(&disk).unwrap(), b"before");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn an_image_without_data_is_its_bootstrap() {
    let Some(golden) = golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (boot, disk) = (golden.join("v6-empty/image.boot"), dir.path().join("disk"));
    let report = export(&boot, dir.path(), &disk, 4, true).unwrap();
    let (found, boot) = (std::fs::read(&disk).unwrap(), std::fs::read(boot).unwrap());
    assert_eq!(report.size, boot.len() as u64);
    assert_eq!(found[..boot.len()], boot);
    assert_eq!(report.verity.unwrap().root.to_string(), model_root(&boot, 4096));
    let Some(mounted) = mounted(&disk) else { return };
    assert_eq!(std::fs::read_dir(mounted.0.path()).unwrap().count(), 0);
}
