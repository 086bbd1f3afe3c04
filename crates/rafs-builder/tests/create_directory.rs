//! Directories as sources: the reference builder's images again, byte for byte, and what only a directory can hold.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{all_blobs, dir_tree, golden, normal_xattrs};
use rafs_builder::create::{CreateError, Encryption, Input, Options, Report, Secret, Whiteouts, create};
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::output::{Outputs, Place};
use rafs_builder::unpack::{self, Target};
use rafs_builder::{chain, check};
use rafs_format::{Compressor, DigestAlgorithm};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fn build(source: &Path, options: &Options, dir: &Path) -> Result<Report, CreateError> {
    let places = (Place::File(dir.join("boot")), Place::Directory(dir.to_path_buf()));
    create(Input::Directory(source.to_path_buf()), options, places, &Outputs::new(), &|_| {})
}

fn local(dir: &Path) -> BlobSource {
    BlobSource::new(Arc::new(LocalFs { dir: Some(dir.to_path_buf()), ..LocalFs::default() })).unwrap()
}

/// `true`, told, where owners and devices cannot be made.
fn skipped() -> bool {
    let skipped = !rustix::process::geteuid().is_root();
    if skipped {
        eprintln!("SKIPPED: owners, devices and trusted xattrs need root");
    }
    skipped
}

/// Key and initial vector that the reference builder chose for an image.
fn encryption(boot: &Path) -> Encryption {
    let image = Image::open(boot).unwrap();
    let blob = &image.blobs()[0];
    let iv = [blob.meta_size.to_le_bytes(), blob.cipher_iv.to_le_bytes()].concat();
    Encryption {
        key: Secret::new(blob.meta_digest.0).unwrap(),
        iv: iv.try_into().unwrap(),
        key_in_bootstrap: true,
    }
}

#[test]
fn directories_become_the_reference_images() {
    let Some(golden) = golden() else { return };
    if skipped() {
        return;
    }
    let (blobs, made) = (all_blobs(&golden), tempfile::tempdir().unwrap());
    let source = made.path().join("nasty.d");
    let image = Image::open(&golden.join("v6-dir-zstd/image.boot")).unwrap();
    let target = Target::Directory(source.clone());
    unpack::unpack(&image, &local(blobs.path()), &target, 2, &AtomicBool::new(false)).unwrap();
    let patterns = std::fs::read(golden.join("prefetch.txt")).unwrap();
    let patterns = patterns.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let patterns: Vec<Vec<u8>> = patterns.map(<[u8]>::to_vec).collect();
    let with =
        |compressor, digester, chunk_size| Options { compressor, digester, chunk_size, ..Options::default() };
    let prefetch = with(Compressor::Zstd, DigestAlgorithm::Blake3, 0x1000);
    let batches = Options { batch_size: 0x4000, ..with(Compressor::Zstd, DigestAlgorithm::Blake3, 0x4000) };
    let encrypted = |name: &str, batch_size| Options {
        batch_size,
        encryption: Some(encryption(&golden.join(name).join("image.boot"))),
        ..with(Compressor::Zstd, DigestAlgorithm::Blake3, 0x4000)
    };
    let cases = [
        ("v6-dir-encrypt", encrypted("v6-dir-encrypt", 0)),
        ("v6-dir-encrypt-batch", encrypted("v6-dir-encrypt-batch", 0x2000)),
        ("v6-dir-zstd", Options::default()),
        ("v6-dir-batch", batches),
        ("v6-dir-lz4-8k", with(Compressor::Lz4Block, DigestAlgorithm::Blake3, 0x2000)),
        ("v6-dir-none-sha256-4k", with(Compressor::None, DigestAlgorithm::Sha256, 0x1000)),
        ("v6-dir-prefetch", Options { prefetch: patterns, prefetch_table: true, ..prefetch }),
    ];
    for (name, options) in cases {
        let dir = tempfile::tempdir().unwrap();
        let blob = build(&source, &options, dir.path()).unwrap().blob.unwrap();
        let found = normal_xattrs(std::fs::read(dir.path().join("boot")).unwrap());
        let expected = normal_xattrs(std::fs::read(golden.join(name).join("image.boot")).unwrap());
        let differ: Vec<_> = (0..found.len()).filter(|&at| found.get(at) != expected.get(at)).collect();
        assert!(found.len() == expected.len() && differ.is_empty(), "{name}: differs at {differ:x?}");
        let found = std::fs::read(dir.path().join(blob.as_str())).unwrap();
        assert!(
            found == std::fs::read(golden.join(name).join("blobs").join(blob.as_str())).unwrap(),
            "{name}"
        );
    }
}

/// An empty directory is the reference builder's empty image, byte for byte.
#[test]
fn an_empty_directory() {
    let Some(golden) = golden() else { return };
    let (source, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::set_permissions(source.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let report = build(source.path(), &Options::default(), dir.path()).unwrap();
    assert_eq!((report.blob, report.entries, report.end), (None, 1, None));
    if skipped() {
        return;
    }
    let expected = std::fs::read(golden.join("v6-empty/image.boot")).unwrap();
    assert!(std::fs::read(dir.path().join("boot")).unwrap() == expected);
}

/// Holes, sockets, links from outside, names of any bytes, times with nanoseconds: seen again after unpacking.
#[test]
fn what_only_a_directory_holds() {
    let (made, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = made.path().join("tree");
    std::fs::create_dir_all(source.join("below")).unwrap();
    let sparse = std::fs::File::create(source.join("sparse")).unwrap();
    sparse.set_len(40_000).unwrap();
    sparse.write_all_at(b"data", 20_000).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
    std::fs::write(made.path().join("outside"), "linked").unwrap();
    std::fs::hard_link(made.path().join("outside"), source.join("below/one")).unwrap();
    std::fs::hard_link(made.path().join("outside"), source.join("z-two")).unwrap();
    std::fs::hard_link(source.join("sparse"), made.path().join("also-outside")).unwrap();
    let options = Options { chunk_size: 0x1000, ..Options::default() };
    let report = build(&source, &options, dir.path()).unwrap();
    let image = Image::open(&dir.path().join("boot")).unwrap();
    // Link counts are those of names in the image, or this fails.
    check::structure(&image).unwrap();
    // Of ten chunks one has data, the last is shorter, and the other eight are the same zeros.
    assert_eq!(report.duplicates.0, 7);
    let out = made.path().join("out");
    let target = Target::Directory(out.clone());
    unpack::unpack(&image, &local(dir.path()), &target, 2, &AtomicBool::new(false)).unwrap();
    let bare = |root: &Path| {
        std::fs::remove_file(root.join("socket")).unwrap();
        let mut tree = dir_tree(root);
        tree.remove("/").unwrap();
        tree
    };
    let is_socket = std::fs::symlink_metadata(out.join("socket")).unwrap().mode() & 0o170_000 == 0o140_000;
    assert!(is_socket);
    // Removing the socket changes the time of the root only.
    assert_eq!(bare(&out), bare(&source));
}

/// Markers that say that something of a lower layer is gone mean nothing in an image of one layer, so they are left out and counted.
#[test]
fn whiteouts_of_each_kind() {
    let (source, at) = (tempfile::tempdir().unwrap(), |name: &str| name.to_owned());
    for name in [".wh.gone", "kept"] {
        std::fs::write(source.path().join(name), "").unwrap();
    }
    std::fs::create_dir(source.path().join("dir")).unwrap();
    std::fs::write(source.path().join("dir/.wh..wh..opq"), "").unwrap();
    let mut devices = Vec::new();
    if !skipped() {
        let device = rustix::fs::makedev(0, 0);
        let kind = rustix::fs::FileType::CharacterDevice;
        let path = source.path().join("overlay");
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, rustix::fs::Mode::empty(), device).unwrap();
        devices.push(at("/overlay"));
    }
    let all = [at("/.wh.gone"), at("/dir"), at("/dir/.wh..wh..opq"), at("/kept")];
    let expected = [
        (Whiteouts::Oci, [&[at("/dir"), at("/kept")], devices.as_slice()].concat(), 2),
        (Whiteouts::Overlayfs, all.to_vec(), devices.len() as u64),
        (Whiteouts::None, [&all, devices.as_slice()].concat(), 0),
    ];
    for (whiteouts, paths, left_out) in expected {
        let dir = tempfile::tempdir().unwrap();
        let report = build(source.path(), &Options { whiteouts, ..Options::default() }, dir.path()).unwrap();
        assert_eq!(report.whiteouts, left_out, "{whiteouts:?}");
        let image = Image::open(&dir.path().join("boot")).unwrap();
        let mut found = Vec::new();
        rafs_format::check::check(image.bootstrap(), &mut |visit| {
            found.push(format!("/{}", common::escape(&visit.path.join(&b'/'))));
            Ok::<_, rafs_format::FormatError>(())
        })
        .unwrap();
        found.retain(|path| path != "/");
        found.sort();
        assert_eq!(found, paths, "{whiteouts:?}");
    }
}

/// A file that is not as long as it says, here one that the kernel makes up, is an error that names it.
#[test]
fn a_file_that_changes_while_it_is_read() {
    let source = Path::new("/sys/kernel/mm/transparent_hugepage");
    if !source.join("enabled").exists() {
        eprintln!("SKIPPED: no {}", source.display());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let error = chain(&build(source, &Options::default(), dir.path()).unwrap_err());
    assert!(
        error.contains("/sys/kernel/mm/transparent_hugepage/") && error.contains("became shorter"),
        "{error}"
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
