//! Dictionaries made of images: what is in them, that builds use them, and what is refused.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::golden;
use rafs_builder::check;
use rafs_builder::chunkdict::{ChunkdictError, Options, Report, StoreError, generate};
use rafs_builder::create::{self, Input, create};
use rafs_builder::merge::{self, Source};
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::output::{Outputs, Place};
use rafs_format::{BlobFeatures, Version};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Content of a file: chunks of 4096 bytes, each filled with one byte, and a few bytes more.
fn content(fills: &[u8]) -> Vec<u8> {
    let mut content: Vec<u8> = fills.iter().flat_map(|&fill| [fill; 4096]).collect();
    content.extend([fills.first().copied().unwrap_or(0) ^ 0x80; 100]);
    content
}

fn build(source: &[(&str, &[u8])], options: &create::Options, to: &Path, blobs: &Path) -> create::Report {
    let dir = tempfile::tempdir().unwrap();
    source.iter().for_each(|(name, fills)| std::fs::write(dir.path().join(name), content(fills)).unwrap());
    let places = (Place::File(to.to_path_buf()), Place::Directory(blobs.to_path_buf()));
    let input = Input::Directory(dir.path().to_path_buf());
    create(input, options, places, &Outputs::new(), &|_| {}).unwrap()
}

fn small() -> create::Options {
    create::Options { chunk_size: 4096, threads: 1, ..create::Options::default() }
}

/// A bootstrap of `IMAGE:VERSION` under `root`.
fn image(root: &Path, name: &str, source: &[(&str, &[u8])]) -> PathBuf {
    image_by(&small(), root, name, source)
}

fn image_by(options: &create::Options, root: &Path, name: &str, source: &[(&str, &[u8])]) -> PathBuf {
    let dir = root.join(name);
    std::fs::create_dir_all(&dir).unwrap();
    build(source, options, &dir.join("boot"), root);
    dir.join("boot")
}

fn made(sources: &[PathBuf], to: &Path) -> Report {
    generate(&Options { sources: sources.to_vec(), database: None }, to, &Outputs::new()).unwrap()
}

/// Digests of all chunks of an image.
fn digests(boot: &Path) -> BTreeSet<[u8; 32]> {
    let image = Image::open(boot).unwrap();
    let places: Vec<_> = image.bootstrap().chunk_places().collect::<Result<_, _>>().unwrap();
    places.into_iter().map(|place| image.bootstrap().chunk_at(place).unwrap().digest.0).collect()
}

#[test]
fn what_stays_is_in_the_dictionary_and_builds_use_it() {
    builds_use_a_dictionary(&small());
    builds_use_a_dictionary(&create::Options { version: Version::V5, ..small() });
}

fn builds_use_a_dictionary(small: &create::Options) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let sources = [
        image_by(small, dir.path(), "redis:7.0.9", &[("lib", &[1, 2, 3]), ("bin", &[10])]),
        image_by(small, dir.path(), "redis:7.0.10", &[("lib", &[1, 2, 3]), ("bin", &[11])]),
        image_by(small, dir.path(), "redis:7.0.11", &[("lib", &[1, 2, 3]), ("bin", &[12])]),
    ];
    let report = made(&sources, &at("dict"));
    let dict = Image::open(&at("dict")).unwrap();
    check::structure(&dict).unwrap();
    assert_eq!(dict.bootstrap().superblock().version, small.version);
    // With the chunks that stay, those of their blob: that of the oldest version.
    assert_eq!(digests(&at("dict")), digests(&sources[0]));
    assert_eq!((report.blobs.len(), report.chunks), (1, (6, 10)));
    assert_eq!(report.alone, ["redis"]);
    assert!(dict.blobs()[0].features.contains(BlobFeatures::CHUNKDICT_GENERATED));
    let file = dict.bootstrap().resolve(b"/chunkdict").unwrap().unwrap();
    assert_eq!(dict.bootstrap().chunk_count(&file), 6);
    let source =
        BlobSource::new(Arc::new(LocalFs { dir: Some(dir.path().to_path_buf()), ..LocalFs::default() }))
            .unwrap();
    assert!(check::data(&dict, &source, 1).unwrap().problems.is_empty());
    // The same whatever the order of images.
    let mut reversed = sources.to_vec();
    reversed.reverse();
    let again = made(&reversed, &at("again"));
    assert_eq!(again.chunks, report.chunks);
    assert!(std::fs::read(at("dict")).unwrap() == std::fs::read(at("again")).unwrap());
    // A new version stores only what is new.
    let options = create::Options { chunk_dicts: vec![at("dict")], ..small.clone() };
    let new = build(&[("lib", &[1, 2, 3]), ("bin", &[13])], &options, &at("new"), dir.path());
    assert_eq!((new.chunks, new.duplicates.0, new.blobs.len()), (2, 4, 2));
    let image = Image::open(&at("new")).unwrap();
    check::structure(&image).unwrap();
    assert!(check::data(&image, &source, 1).unwrap().problems.is_empty());
    let merging = merge::Options {
        sources: vec![Source::at(at("new"))],
        chunk_dicts: vec![at("dict")],
        ..merge::Options::default()
    };
    merge::merge(&merging, Place::File(at("merged")), &Outputs::new()).unwrap();
    assert_eq!(digests(&at("merged")), digests(&at("new")));
}

/// Twelve images on one base, each with files of its own.
#[test]
fn what_images_share_is_in_the_dictionary() {
    let dir = tempfile::tempdir().unwrap();
    let base: Vec<u8> = (100..130).collect();
    let sources: Vec<PathBuf> = (0..12u8)
        .map(|n| image(dir.path(), &format!("app-{n:02}:1"), &[("base", &base), ("own", &[n])]))
        .collect();
    let report = made(&sources, &dir.path().join("dict"));
    assert_eq!((report.alone.len(), report.blobs.len()), (0, 1));
    assert_eq!(digests(&dir.path().join("dict")), digests(&sources[0]));
}

/// With a store, a later run knows what an earlier one was given.
#[test]
fn a_store_remembers_images() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let sources = [
        image(dir.path(), "a:1", &[("f", &[1, 2])]),
        image(dir.path(), "a:2", &[("f", &[1, 2]), ("g", &[3])]),
    ];
    let run = |source: &Path| {
        let options = Options { sources: vec![source.to_path_buf()], database: Some(at("store")) };
        generate(&options, &at("dict"), &Outputs::new())
    };
    assert_eq!(run(&sources[0]).unwrap().chunks, (0, 3), "one version teaches nothing");
    assert_eq!(run(&sources[1]).unwrap().chunks, (3, 5));
    assert_eq!(run(&sources[1]).unwrap().chunks, (3, 5), "nothing is there twice");
    // What a store knows of v6 is not for v5, and the other way round.
    let other = create::Options { version: Version::V5, ..small() };
    let other = image_by(&other, dir.path(), "b:1", &[("f", &[9])]);
    assert_eq!(run(&other).unwrap().chunks, (0, 2));
    assert_eq!(run(&sources[1]).unwrap().chunks, (3, 5));
    let whole = made(&sources, &at("whole"));
    assert_eq!(whole.chunks, (3, 5));
    assert!(std::fs::read(at("dict")).unwrap() == std::fs::read(at("whole")).unwrap());
    std::fs::write(at("store"), [b"SQLite format 3\0".as_slice(), &[0; 4080]].concat()).unwrap();
    assert!(matches!(run(&sources[0]), Err(ChunkdictError::Store(StoreError::Sqlite { .. }))));
}

/// An empty dictionary is an image, too; blobs of less than a block are left out.
#[test]
fn little_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let report = made(&[image(dir.path(), "a:1", &[("f", &[1])])], &dir.path().join("dict"));
    assert_eq!((report.chunks, report.blobs.len()), ((0, 2), 0));
    check::structure(&Image::open(&dir.path().join("dict")).unwrap()).unwrap();
    let options = create::Options { chunk_dicts: vec![dir.path().join("dict")], ..small() };
    assert_eq!(build(&[("f", &[1])], &options, &dir.path().join("new"), dir.path()).chunks, 2);
    let sources = ["b:1", "b:2"].map(|name| image(dir.path(), name, &[("f", &[])]));
    let report = made(&sources, &dir.path().join("dict"));
    assert_eq!((report.small_blobs.len(), report.blobs.len()), (1, 0));
}

#[test]
fn wrong_names_and_images_are_told() {
    let Some(golden) = golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    let copy = |from: &str, name: &str| {
        std::fs::create_dir_all(dir.path().join(name)).unwrap();
        let to = dir.path().join(name).join("boot");
        std::fs::copy(golden.join(from).join("image.boot"), &to).unwrap();
        to
    };
    let said = |sources: &[PathBuf]| {
        let options = Options { sources: sources.to_vec(), database: None };
        let error = generate(&options, &dir.path().join("dict"), &Outputs::new()).unwrap_err();
        assert!(!dir.path().join("dict").exists());
        rafs_builder::chain(&error)
    };
    assert!(said(&[copy("v6-dir-zstd", "name")]).starts_with("Invalid image name"));
    assert!(said(&[copy("v6-dir-zstd", ":1")]).starts_with("Invalid image name"));
    let versions = said(&[copy("v6-dir-zstd", "a:1"), copy("v5-tar", "a:5")]);
    assert!(versions.contains("the version is 5, but 6"), "{versions}");
    assert!(said(&[copy("v6-tarfs", "a:6")]).contains("a tarfs"));
    let two = said(&[copy("v6-dir-zstd", "a:1"), copy("v6-dir-lz4-8k", "a:2")]);
    assert!(two.contains("the chunk size is 0x2000, but 0x100000"), "{two}");
    assert!(said(&[]).contains("no bootstrap is given"));
}
