//! Blobs with their bootstrap inside, a table of contents, or both: the reference builder's again, named by the SHA-256 of their bytes, and read
//! back by everything that reads images.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use common::{bootstrap_of as bootstrap, contents, golden, normal, sections, sha256};
use rafs_builder::create::{Input, Options, Places, Report, create};
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::output::{Outputs, Place};
use rafs_builder::unpack::{self, Target};
use rafs_builder::{check, unpack as unpacking};
use rafs_format::toc::{TocEntry, section};
use rafs_format::{BlobFeatures, Compressor};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fn inline(input: Input<'_>, options: &Options, dir: &Path) -> Report {
    let places = Places { bootstrap: None, blob: Place::Directory(dir.to_path_buf()) };
    create(input, options, places, &Outputs::new(), &|_| {}).unwrap()
}

fn tar(path: &Path) -> Input<'static> {
    Input::Tar(Box::new(std::fs::File::open(path).unwrap()))
}

fn local(dir: &Path) -> BlobSource {
    BlobSource::new(Arc::new(LocalFs { dir: Some(dir.to_path_buf()), ..LocalFs::default() })).unwrap()
}

/// Asserts that two blobs are the same but for what the order of xattrs changes: the bootstrap's bytes, its digest and its size.
fn assert_same_blob(name: &str, found: &[u8], expected: &[u8]) {
    let (found, expected) = (sections(found), sections(expected));
    let names = |of: &[(String, Vec<u8>, Vec<u8>)]| of.iter().map(|s| s.0.clone()).collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected), "{name}");
    for (ours, theirs) in found.iter().zip(&expected) {
        if ![section::BOOTSTRAP, section::TOC].contains(&ours.0.as_str()) {
            assert!(ours == theirs, "{name}: {}", ours.0);
        }
    }
    if found.iter().any(|(name, ..)| name == section::BOOTSTRAP) {
        assert!(normal(bootstrap(&found)) == normal(bootstrap(&expected)), "{name}: bootstrap");
    }
    let (ours, theirs) = (contents(&found), contents(&expected));
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        let same = ours.encode() == theirs.encode();
        let stands = |entry: &TocEntry| {
            (entry.name().to_vec(), entry.compressor(), entry.compressed_offset, entry.uncompressed_size)
        };
        assert!(same || ours.name() == section::BOOTSTRAP.as_bytes(), "{name}: {ours:?}");
        assert_eq!(stands(ours), stands(theirs), "{name}");
    }
}

/// A layer without extended attributes and fractions of times: every byte.
#[test]
fn a_layer_becomes_the_reference_blob() {
    let Some(golden) = golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    let options = Options { chunk_size: 0x4000, toc: true, ..Options::default() };
    let report = inline(tar(&golden.join("upper.tar")), &options, dir.path());
    let id = "b4704c3f6fa209fbbeaa989386f966ff0e3d237bcce46e6d6d4771dd66b6b692";
    assert_eq!(report.blob.unwrap().as_str(), id);
    let found = std::fs::read(dir.path().join(id)).unwrap();
    assert!(found == std::fs::read(golden.join("v6-merge/blobs").join(id)).unwrap());
    assert_eq!(report.blob_size, found.len() as u64);
}

#[test]
fn all_forms_become_the_reference_blobs() {
    let Some(golden) = golden() else { return };
    let (blobs, made) = (common::all_blobs(&golden), tempfile::tempdir().unwrap());
    let source = made.path().join("nasty.d");
    let mut cases = vec![("v6-tar-inline-toc", true)];
    if rustix::process::geteuid().is_root() {
        let image = Image::open(&golden.join("v6-dir-zstd/image.boot")).unwrap();
        let target = Target::Directory(source.clone());
        unpack::unpack(&image, &local(blobs.path()), &target, 2, &AtomicBool::new(false)).unwrap();
        cases.extend([("v6-dir-inline", false), ("v6-dir-inline-toc", true)]);
    } else {
        eprintln!("SKIPPED in part: owners, devices and trusted xattrs need root");
    }
    for (name, toc) in cases {
        let dir = tempfile::tempdir().unwrap();
        let input = match name {
            "v6-tar-inline-toc" => tar(&golden.join("nasty.tar")),
            _ => Input::Directory(source.clone()),
        };
        let options = Options { chunk_size: 0x4000, toc, ..Options::default() };
        let report = inline(input, &options, dir.path());
        let id = report.blob.unwrap();
        let found = std::fs::read(dir.path().join(id.as_str())).unwrap();
        assert_eq!(sha256(&found), id.as_str(), "{name}");
        assert_eq!((report.bootstrap_path, report.blob_size), ("".into(), found.len() as u64));
        assert_same_blob(name, &found, &std::fs::read(common::bootstrap(&golden, name)).unwrap());
    }
}

/// A table of contents without the bootstrap: the reference blob, but the reference builder's id leaves the digests out.
#[test]
fn a_blob_with_a_table_of_contents_is_named_by_its_digest() {
    let Some(golden) = golden() else { return };
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: owners, devices and trusted xattrs need root");
        return;
    }
    let (blobs, made) = (common::all_blobs(&golden), tempfile::tempdir().unwrap());
    let source = made.path().join("nasty.d");
    let image = Image::open(&golden.join("v6-dir-toc/image.boot")).unwrap();
    let target = Target::Directory(source.clone());
    unpack::unpack(&image, &local(blobs.path()), &target, 2, &AtomicBool::new(false)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let places = (Place::File(dir.path().join("boot")), Place::Directory(dir.path().to_path_buf()));
    let options = Options { chunk_size: 0x4000, toc: true, ..Options::default() };
    let report = create(Input::Directory(source), &options, places, &Outputs::new(), &|_| {}).unwrap();
    let id = "706aa756a58789b6d96c3409a06b486cf13f2a3e58529d33e098e7e4366176b7";
    assert_eq!(report.blob.unwrap().as_str(), id);
    let theirs = "fdfda8cc608cfbaef21037e3eedcd4df9afa3431f716827f79b1d99acf484612";
    let found = std::fs::read(dir.path().join(id)).unwrap();
    assert!(found == std::fs::read(golden.join("v6-dir-toc/blobs").join(theirs)).unwrap());
    let mut expected = normal(std::fs::read(golden.join("v6-dir-toc/image.boot")).unwrap());
    for at in [1408, 4096] {
        expected[at..at + 64].copy_from_slice(id.as_bytes());
    }
    assert!(normal(std::fs::read(dir.path().join("boot")).unwrap()) == expected);
}

/// Every form is found, checked and unpacked from nothing but the blob.
#[test]
fn what_is_inside_reads_back() {
    let Some(golden) = golden() else { return };
    let nasty = std::fs::read(golden.join("nasty.tar")).unwrap();
    let mut seen = None;
    for (toc, compressor, threads) in [
        (false, Compressor::Zstd, 1),
        (true, Compressor::Zstd, 3),
        (true, Compressor::Lz4Block, 2),
        (true, Compressor::None, 2),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { toc, compressor, threads, chunk_size: 0x2000, ..Options::default() };
        let report = inline(Input::Tar(Box::new(nasty.as_slice())), &options, dir.path());
        let image = Image::open(&report.blob_path.unwrap()).unwrap();
        assert_eq!(image.blobs()[0].id, report.blob.unwrap());
        assert_eq!(image.blobs()[0].features.contains(BlobFeatures::HAS_TOC), toc);
        check::structure(&image).unwrap();
        let source = local(dir.path());
        let problems = check::data(&image, &source, 2).unwrap().problems;
        assert!(problems.is_empty(), "{problems:?}");
        let mut out = Vec::new();
        unpacking::tar_to(&image, &source, &mut out, 2).unwrap();
        assert!(*seen.get_or_insert_with(|| out.clone()) == out, "{compressor:?}");
    }
}

/// No data: no blob for the bootstrap to name, but still an object that holds it.
#[test]
fn an_image_without_data() {
    let dir = tempfile::tempdir().unwrap();
    for (toc, expected) in [(false, &["image.boot"][..]), (true, &["image.boot", "rafs.blob.toc"])] {
        let options = Options { toc, ..Options::default() };
        let report = inline(Input::Tar(Box::new([0; 1024].as_slice())), &options, dir.path());
        assert_eq!(report.blob, None);
        let path = report.blob_path.unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(path.file_name().unwrap().to_str(), Some(sha256(&bytes).as_str()));
        let names: Vec<_> = sections(&bytes).into_iter().map(|(name, ..)| name).collect();
        assert_eq!(names, expected);
        // As converters extract it.
        std::fs::write(dir.path().join("boot"), bootstrap(&sections(&bytes))).unwrap();
        let image = Image::open(&dir.path().join("boot")).unwrap();
        check::structure(&image).unwrap();
        assert!(image.blobs().is_empty());
    }
}

/// A layer without data is its bootstrap and a tar header, and begins like a bootstrap.
#[test]
fn a_blob_without_data_is_opened() {
    let empty = tempfile::tempdir().unwrap();
    std::fs::create_dir(empty.path().join("d")).unwrap();
    for toc in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { toc, ..Options::default() };
        let report = inline(Input::Directory(empty.path().to_path_buf()), &options, dir.path());
        let path = report.blob_path.unwrap();
        let image = Image::open(&path).unwrap();
        assert!(image.is_inside_blob() && image.blobs().is_empty());
        assert_eq!(check::structure(&image).unwrap().entries, 2);
        assert_eq!(std::fs::read(&path).unwrap().len() as u64, report.blob_size);
    }
}

/// What a blob begins with says nothing: here it is a bootstrap, the content of its first file.
#[test]
fn a_blob_that_begins_like_a_bootstrap_is_a_blob() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("d");
    std::fs::create_dir(&source).unwrap();
    let places = (Place::File(source.join("boot")), Place::File("/dev/null".into()));
    let input = Input::Directory(source.clone());
    create(input, &Options::default(), places, &Outputs::new(), &|_| {}).unwrap();
    let options = Options { compressor: Compressor::None, ..Options::default() };
    let report = inline(Input::Directory(source), &options, dir.path());
    let path = report.blob_path.unwrap();
    assert_eq!(&std::fs::read(&path).unwrap()[1024..1028], [0xE2, 0xE1, 0xF5, 0xE0]);
    let image = Image::open(&path).unwrap();
    assert_eq!((image.blobs().len(), check::structure(&image).unwrap().entries), (1, 2));
    let merged = dir.path().join("merged");
    let options = rafs_builder::merge::Options {
        sources: vec![rafs_builder::merge::Source::at(path)],
        ..rafs_builder::merge::Options::default()
    };
    let done = rafs_builder::merge::merge(&options, Place::File(merged), &Outputs::new()).unwrap();
    assert_eq!(done.blobs, [report.blob.unwrap()]);
}
