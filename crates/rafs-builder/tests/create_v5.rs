//! Images of v5: the reference builder's again, byte for byte, but for the order of xattrs (theirs is random, ours sorted) and attributes of
//! hard links (each name has its own with theirs, in layers). And what is written is read back.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use common::{all_blobs, golden, sections};
use rafs_builder::create::{
    CreateError, Encryption, Input, Options, Places, Report, Secret, Version, create,
};
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::output::{Outputs, Place};
use rafs_builder::unpack::{self, Target};
use rafs_builder::{chain, check};
use rafs_format::{Bootstrap, Compressor, DigestAlgorithm, FormatError, SuperFlags};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fn v5() -> Options {
    Options { version: Version::V5, threads: 2, ..Options::default() }
}

/// Builds an image into `dir`: its bootstrap is `boot` there.
fn build(input: Input<'_>, options: &Options, dir: &Path) -> Result<Report, CreateError> {
    let places = (Place::File(dir.join("boot")), Place::Directory(dir.to_path_buf()));
    create(input, options, places, &Outputs::new(), &|_| {})
}

fn tar(path: &Path) -> Input<'static> {
    Input::Tar(Box::new(std::fs::File::open(path).unwrap()))
}

fn local(dir: &Path) -> BlobSource {
    BlobSource::new(Arc::new(LocalFs { dir: Some(dir.to_path_buf()), ..LocalFs::default() })).unwrap()
}

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// First byte of each record, in the order of the inode table.
fn records(bytes: &[u8]) -> Vec<usize> {
    (0..word(bytes, 56)).map(|n| word(bytes, word(bytes, 32) + n * 4) * 8).collect()
}

/// The bytes of a bootstrap with xattrs in order of their pairs, times in whole seconds, and all names of a file with the attributes of the last.
fn normal(mut bytes: Vec<u8>) -> Vec<u8> {
    Bootstrap::parse(bytes.as_slice()).unwrap();
    let records = records(&bytes);
    for &at in &records {
        bytes[at + 108..at + 112].fill(0);
        if bytes[at + 80] & 4 != 0 {
            let lengths = [at + 100, at + 102].map(|at| word(&bytes, at) & 0xFFFF);
            let head = at + 128 + lengths.map(|length| length.next_multiple_of(8)).iter().sum::<usize>();
            let (start, end) = (head + 8, head + 8 + word(&bytes, head));
            let (mut pairs, mut from) = (Vec::new(), start);
            while from < end {
                let to = from + 4 + word(&bytes, from);
                pairs.push(bytes[from..to].to_vec());
                from = to;
            }
            pairs.sort_by(|a, b| a[4..].cmp(&b[4..]));
            bytes[start..end].copy_from_slice(&pairs.concat());
        }
    }
    for &at in &records {
        let same = |other: &&usize| bytes[**other + 40..**other + 48] == bytes[at + 40..at + 48];
        let last = *records.iter().rev().find(same).unwrap();
        for range in [48..64, 108..120] {
            bytes.copy_within(last + range.start..last + range.end, at + range.start);
        }
    }
    bytes
}

#[track_caller]
fn assert_same(name: &str, found: Vec<u8>, expected: Vec<u8>) {
    let (found, expected) = (normal(found), normal(expected));
    let differ: Vec<_> = (0..found.len()).filter(|&at| found.get(at) != expected.get(at)).take(20).collect();
    assert!(found.len() == expected.len() && differ.is_empty(), "{name}: differs at {differ:x?}");
}

#[test]
fn layers_become_the_reference_images() {
    let Some(golden) = golden() else { return };
    for (name, source) in
        [("v5-tar", "nasty.tar"), ("v5-tar", "nasty.tar.gz"), ("v5-bigdir", "bigdir.tar.gz")]
    {
        let dir = tempfile::tempdir().unwrap();
        let blob = build(tar(&golden.join(source)), &v5(), dir.path()).unwrap().blob.unwrap();
        let theirs = golden.join(name);
        let read = |path| std::fs::read(path).unwrap();
        assert_same(name, read(dir.path().join("boot")), read(theirs.join("image.boot")));
        let found = read(dir.path().join(blob.as_str()));
        assert!(found == read(theirs.join("blobs").join(blob.as_str())), "{name}: blob {blob}");
    }
}

/// Patterns of the golden images.
fn patterns(golden: &Path) -> Vec<Vec<u8>> {
    let lines = std::fs::read(golden.join("prefetch.txt")).unwrap();
    lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
}

/// `true`, told, where owners and devices cannot be made.
fn skipped() -> bool {
    let skipped = !rustix::process::geteuid().is_root();
    if skipped {
        eprintln!("SKIPPED: owners, devices and trusted xattrs need root");
    }
    skipped
}

/// Unpacks the directory that golden images were made from.
fn nasty(golden: &Path, to: &Path) {
    let blobs = all_blobs(golden);
    let image = Image::open(&golden.join("v6-dir-zstd/image.boot")).unwrap();
    let target = Target::Directory(to.to_path_buf());
    unpack::unpack(&image, &local(blobs.path()), &target, 2, &AtomicBool::new(false)).unwrap();
}

#[test]
fn directories_become_the_reference_images() {
    let Some(golden) = golden() else { return };
    if skipped() {
        return;
    }
    let made = tempfile::tempdir().unwrap();
    let source = made.path().join("nasty.d");
    nasty(&golden, &source);
    let small = Options { chunk_size: 0x1000, prefetch: patterns(&golden), ..v5() };
    let aligned = Options { compressor: Compressor::None, chunk_size: 0x2000, aligned_chunks: true, ..v5() };
    let cases = [
        ("v5-dir-lz4", Options { compressor: Compressor::Lz4Block, ..v5() }),
        ("v5-dir-none-aligned", aligned),
        ("v5-dir-prefetch", Options { prefetch_table: true, ..small.clone() }),
        ("v5-dir-prefetch-blob", small.clone()),
        (
            "v5-dir-zstd-sha256-4k-rep",
            Options { digester: DigestAlgorithm::Sha256, prefetch: Vec::new(), ..small },
        ),
    ];
    for (name, options) in cases {
        let dir = tempfile::tempdir().unwrap();
        let blob = build(Input::Directory(source.clone()), &options, dir.path()).unwrap().blob.unwrap();
        let mut found = std::fs::read(dir.path().join("boot")).unwrap();
        let expected = std::fs::read(golden.join(name).join("image.boot")).unwrap();
        if name.ends_with("-rep") {
            // Owners, which the option that it was made with leaves out; ours keeps them.
            for at in records(&found) {
                found[at + 48..at + 56].fill(0);
            }
            found[16] &= !u8::try_from(SuperFlags::EXPLICIT_IDS.bits()).unwrap();
        }
        assert_same(name, found, expected);
        let found = std::fs::read(dir.path().join(blob.as_str())).unwrap();
        let expected = std::fs::read(golden.join(name).join("blobs").join(blob.as_str())).unwrap();
        assert!(found == expected, "{name}: blob {blob}");
    }
    // A second layer over the first of them.
    let (layer, upper) = (tempfile::tempdir().unwrap(), made.path().join("upper.d"));
    build(tar(&golden.join("upper.tar")), &v5(), layer.path()).unwrap();
    let image = Image::open(&layer.path().join("boot")).unwrap();
    let target = Target::Directory(upper.clone());
    unpack::unpack(&image, &local(layer.path()), &target, 2, &AtomicBool::new(false)).unwrap();
    let reference = Image::open(&golden.join("v5-layered/image.boot")).unwrap();
    // Their extraction made the directory, which the archive only implies, and gave the links the attributes of their target.
    for path in ["sizes", "hl/c"] {
        let inode = reference.bootstrap().resolve(path.as_bytes()).unwrap().unwrap();
        let since = std::time::Duration::new(u64::try_from(inode.mtime_secs).unwrap(), inode.mtime_nanos);
        let file = std::fs::File::open(upper.join(path)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + since).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let parent = Some(golden.join("v5-dir-lz4/image.boot"));
    let options = Options { compressor: Compressor::Lz4Block, parent, ..v5() };
    let report = build(Input::Directory(upper), &options, dir.path()).unwrap();
    let read = |path| std::fs::read(path).unwrap();
    assert_same("v5-layered", read(dir.path().join("boot")), read(golden.join("v5-layered/image.boot")));
    let blob = report.blob.unwrap();
    let expected = read(golden.join("v5-layered/blobs").join(blob.as_str()));
    assert!(read(dir.path().join(blob.as_str())) == expected, "blob {blob}");
}

fn inline(input: Input<'_>, options: &Options, dir: &Path) -> Report {
    let places = Places { bootstrap: None, blob: Place::Directory(dir.to_path_buf()) };
    create(input, options, places, &Outputs::new(), &|_| {}).unwrap()
}

#[test]
fn a_bootstrap_inside_the_blob() {
    let Some(golden) = golden() else { return };
    if skipped() {
        return;
    }
    let made = tempfile::tempdir().unwrap();
    let source = made.path().join("nasty.d");
    nasty(&golden, &source);
    let dir = tempfile::tempdir().unwrap();
    let report = inline(Input::Directory(source), &Options { chunk_size: 0x4000, ..v5() }, dir.path());
    let id = report.blob.unwrap();
    let found = std::fs::read(dir.path().join(id.as_str())).unwrap();
    assert_eq!(common::sha256(&found), id.as_str());
    let theirs = std::fs::read(common::bootstrap(&golden, "v5-dir-inline")).unwrap();
    let (found, theirs) = (sections(&found), sections(&theirs));
    let [data, boot] = found.as_slice() else { panic!("{} sections", found.len()) };
    let [their_data, their_boot] = theirs.as_slice() else { panic!("{} sections", theirs.len()) };
    assert!(data == their_data && boot.0 == "image.boot" && boot.2 == their_boot.2);
    assert_same("v5-dir-inline", boot.1.clone(), their_boot.1.clone());
    is_sound(&Image::open(&dir.path().join(id.as_str())).unwrap(), dir.path());
}

/// A layer without data: no blob, or one with the bootstrap alone. A directory without anything is the reference image.
#[test]
fn nothing_to_store() {
    let Some(golden) = golden() else { return };
    let (source, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(source.path(), mode).unwrap();
    let empty = || Input::Directory(source.path().to_path_buf());
    let prefetch = Options { prefetch: vec![b"/".to_vec()], prefetch_table: true, ..v5() };
    for options in [prefetch, v5()] {
        let report = build(empty(), &options, dir.path()).unwrap();
        assert_eq!((report.blob, report.entries), (None, 1));
        let image = Image::open(&dir.path().join("boot")).unwrap();
        is_sound(&image, dir.path());
        let root = image.bootstrap().superblock().root;
        let listed: Vec<_> = image.bootstrap().prefetch().collect();
        assert_eq!(listed, if options.prefetch_table { vec![root] } else { vec![] });
    }
    let found = std::fs::read(dir.path().join("boot")).unwrap();
    if !skipped() {
        assert!(found == std::fs::read(golden.join("v5-empty/image.boot")).unwrap());
    }
    let dir = tempfile::tempdir().unwrap();
    let report = inline(empty(), &v5(), dir.path());
    assert_eq!(report.blob, None);
    let blob = std::fs::read(report.blob_path.unwrap()).unwrap();
    let [(name, boot, _)] = sections(&blob).try_into().unwrap();
    assert!(name == "image.boot" && boot == found);
}

/// Structure with inode digests, every chunk, and ids.
fn is_sound(image: &Image, dir: &Path) {
    check::structure(image).unwrap();
    let report = check::data(image, &local(dir), 2).unwrap();
    let problems: Vec<_> = report.problems.iter().map(|problem| chain(problem)).collect();
    assert_eq!(problems, [""; 0]);
}

#[test]
fn codings_and_threads_are_read_back_and_change_nothing() {
    let Some(golden) = golden() else { return };
    let codings = [
        (Compressor::None, DigestAlgorithm::Sha256, 0x1000, true),
        (Compressor::Lz4Block, DigestAlgorithm::Blake3, 0x2000, false),
        (Compressor::Zstd, DigestAlgorithm::Sha256, 0x100_0000, true),
    ];
    for (compressor, digester, chunk_size, aligned_chunks) in codings {
        let mut seen = None;
        for threads in [1, 2, 5] {
            let dir = tempfile::tempdir().unwrap();
            let options = Options { compressor, digester, chunk_size, aligned_chunks, threads, ..v5() };
            let report = build(tar(&golden.join("nasty.tar")), &options, dir.path()).unwrap();
            let blob = std::fs::read(report.blob_path.unwrap()).unwrap();
            let both = (std::fs::read(dir.path().join("boot")).unwrap(), blob);
            let image = Image::open(&dir.path().join("boot")).unwrap();
            if seen.is_none() {
                is_sound(&image, dir.path());
                let mut out = Vec::new();
                unpack::tar_to(&image, &local(dir.path()), &mut out, 2).unwrap();
                assert!(common::tar_tree(&out).len() > 200);
            }
            assert!(*seen.get_or_insert_with(|| both.clone()) == both, "{threads} threads");
        }
    }
}

#[test]
fn what_v5_has_no_place_for_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let encryption = Some(Encryption {
        key: Secret::parse(&[b"00".repeat(16), b"11".repeat(16)].concat()).unwrap(),
        iv: [1; 16],
        key_in_bootstrap: false,
    });
    let refused = [
        Options { toc: true, ..v5() },
        Options { batch_size: 0x1000, ..v5() },
        Options { encryption, ..v5() },
    ];
    for options in refused {
        let error = build(Input::Directory(dir.path().to_path_buf()), &options, dir.path()).unwrap_err();
        assert!(matches!(error, CreateError::Format(FormatError::Unsupported { .. })), "{error}");
    }
    assert!(!dir.path().join("boot").exists());
}

/// Chunks of another image of v5, which must be compressed alike: an image has one compression.
#[test]
fn chunks_of_another_image_are_used() {
    let (source, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(source.path().join("a"), vec![1; 5000]).unwrap();
    let from = || Input::Directory(source.path().to_path_buf());
    let first = build(from(), &v5(), dir.path()).unwrap();
    let known = dir.path().join("known");
    std::fs::rename(dir.path().join("boot"), &known).unwrap();
    std::fs::write(source.path().join("0"), "of its own").unwrap();
    let options =
        Options { chunk_dicts: vec![known], prefetch: vec![b"/0".to_vec(), b"/a".to_vec()], ..v5() };
    let second = build(from(), &options, dir.path()).unwrap();
    assert_eq!((second.chunks, second.blobs.len(), second.duplicates.0), (1, 2, 1));
    assert!(second.blobs.contains(&first.blob.unwrap()));
    let image = Image::open(&dir.path().join("boot")).unwrap();
    is_sound(&image, dir.path());
    // What is read ahead is of the own blob, and all of it.
    let own = second.blobs.iter().position(|id| Some(id) == second.blob.as_ref()).unwrap();
    assert_eq!(image.bootstrap().readahead(own), 0..second.blob_size);
    assert_eq!(image.bootstrap().readahead(1 - own), 0..0);
    let other = Options { compressor: Compressor::Lz4Block, ..options };
    let error = build(from(), &other, dir.path()).unwrap_err().to_string();
    assert!(error.contains("the compression of") && error.contains("is zstd"), "{error}");
}
