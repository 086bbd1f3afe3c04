//! Builds with chunk dictionaries: the reference builder's image again, and what is stored, where, and what is refused.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{all_blobs, dir_tree, golden, normal_xattrs, sha256};
use rafs_builder::check;
use rafs_builder::create::{CreateError, Input, Options, Places, Report, create};
use rafs_builder::merge;
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::output::{Outputs, Place};
use rafs_builder::unpack::{self, Target};
use rafs_format::{BlobFeatures, Compressor, DigestAlgorithm};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fn build(source: &Path, options: &Options, dir: &Path, name: &str) -> Result<Report, CreateError> {
    let places = (Place::File(dir.join(name)), Place::Directory(dir.to_path_buf()));
    create(Input::Directory(source.to_path_buf()), options, places, &Outputs::new(), &|_| {})
}

fn local(dir: &Path) -> BlobSource {
    BlobSource::new(Arc::new(LocalFs { dir: Some(dir.to_path_buf()), ..LocalFs::default() })).unwrap()
}

fn unpacked(boot: &Path, blobs: &Path, to: &Path) {
    let image = Image::open(boot).unwrap();
    let target = Target::Directory(to.to_path_buf());
    unpack::unpack(&image, &local(blobs), &target, 2, &AtomicBool::new(false)).unwrap();
}

/// A directory of files of whole chunks of 4096 bytes, each filled with one byte.
fn source(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, fills) in files {
        let content: Vec<u8> = fills.iter().flat_map(|&fill| [fill; 4096]).collect();
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

fn small() -> Options {
    Options { chunk_size: 4096, ..Options::default() }
}

fn ids(image: &Image) -> Vec<String> {
    image.blobs().iter().map(|blob| blob.id.to_string()).collect()
}

/// All chunks of the image decode to their digests, and its files are those of `source`.
fn assert_holds(boot: &Path, blobs: &Path, source: &Path) {
    let image = Image::open(boot).unwrap();
    check::structure(&image).unwrap();
    let problems = check::data(&image, &local(blobs), 2).unwrap().problems;
    assert!(problems.is_empty(), "{problems:?}");
    let to = tempfile::tempdir().unwrap();
    let (found, mut expected) = (to.path().join("d"), dir_tree(source));
    unpacked(boot, blobs, &found);
    let mut found = dir_tree(&found);
    // The time of the root is left out.
    for tree in [&mut found, &mut expected] {
        tree.remove("/");
    }
    assert_eq!(found, expected);
}

#[test]
fn a_dictionary_gives_the_reference_image() {
    let Some(golden) = golden() else { return };
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: owners, devices and trusted xattrs need root");
    }
    let (blobs, made) = (all_blobs(&golden), tempfile::tempdir().unwrap());
    let source = made.path().join("dictsrc.d");
    unpacked(&golden.join("v6-chunkdict/image.boot"), blobs.path(), &source);
    let chunk_dicts = vec![golden.join("v6-dir-lz4-8k/image.boot")];
    for threads in [1, 2, 5] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            compressor: Compressor::Lz4Block,
            chunk_size: 0x2000,
            chunk_dicts: chunk_dicts.clone(),
            threads,
            ..Options::default()
        };
        let report = build(&source, &options, dir.path(), "boot").unwrap();
        let found = normal_xattrs(std::fs::read(dir.path().join("boot")).unwrap());
        let expected = normal_xattrs(std::fs::read(golden.join("v6-chunkdict/image.boot")).unwrap());
        let differ: Vec<_> = (0..found.len()).filter(|&at| found.get(at) != expected.get(at)).collect();
        assert!(found.len() == expected.len() && differ.is_empty(), "differs at {differ:x?}");
        let own = report.blob.unwrap();
        let expected = std::fs::read(golden.join("v6-chunkdict/blobs").join(own.as_str())).unwrap();
        assert!(std::fs::read(dir.path().join(own.as_str())).unwrap() == expected);
        assert_eq!(
            report.blobs,
            Image::open(&dir.path().join("boot"))
                .unwrap()
                .blobs()
                .iter()
                .map(|b| b.id.clone())
                .collect::<Vec<_>>()
        );
    }
}

/// Blobs come in the order of the first chunk that is in them, wherever the own one is then; a blob that nothing uses is not there.
#[test]
fn blobs_are_in_order_of_first_use() {
    let dir = tempfile::tempdir().unwrap();
    let first = build(source(&[("x", &[1, 2])]).path(), &small(), dir.path(), "first").unwrap();
    let second = build(source(&[("x", &[3, 1])]).path(), &small(), dir.path(), "second").unwrap();
    build(source(&[("x", &[4])]).path(), &small(), dir.path(), "third").unwrap();
    let chunk_dicts: Vec<PathBuf> = ["first", "second", "third"].map(|name| dir.path().join(name)).to_vec();
    let options = Options { chunk_dicts, ..small() };
    let source = source(&[("a", &[3]), ("b", &[9, 3]), ("c", &[1]), ("d", &[2, 9, 8])]);
    let report = build(source.path(), &options, dir.path(), "boot").unwrap();
    let own = report.blob.unwrap();
    let names = |id: Option<&rafs_format::BlobId>| id.unwrap().to_string();
    let expected = [names(second.blob.as_ref()), own.to_string(), names(first.blob.as_ref())];
    assert_eq!(ids(&Image::open(&dir.path().join("boot")).unwrap()), expected);
    // 9 and 8; 3 twice, 1 and 2 were there, and 9.
    assert_eq!((report.chunks, report.duplicates), (2, (5, 5 * 4096)));
    assert_holds(&dir.path().join("boot"), dir.path(), source.path());
    let bytes = std::fs::read(dir.path().join("boot")).unwrap();
    for threads in [1, 3] {
        build(source.path(), &Options { threads, ..options.clone() }, dir.path(), "again").unwrap();
        assert!(std::fs::read(dir.path().join("again")).unwrap() == bytes, "{threads} threads");
    }
}

/// Nothing new: no blob of its own, as if nothing had been stored.
#[test]
fn an_image_without_new_chunks_has_no_blob_of_its_own() {
    let (dir, source) = (tempfile::tempdir().unwrap(), source(&[("x", &[1, 2]), ("y", &[2])]));
    let first = build(source.path(), &small(), dir.path(), "first").unwrap();
    let options = Options { chunk_dicts: vec![dir.path().join("first")], ..small() };
    let report = build(source.path(), &options, dir.path(), "second").unwrap();
    assert_eq!((report.blob, report.blob_path, report.chunks), (None, None, 0));
    assert_eq!(report.blobs, [first.blob.unwrap()]);
    assert_eq!(report.tree_digest, first.tree_digest);
    assert_holds(&dir.path().join("second"), dir.path(), source.path());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3, "two bootstraps and a blob");
}

/// The form that converters use: the bootstrap is in the blob, whose id stands for itself there; that of the dictionary is a real one, also
/// where the dictionary is in its blob.
#[test]
fn layers_that_hold_their_bootstraps_are_merged_with_the_dictionary() {
    let dir = tempfile::tempdir().unwrap();
    let inlined = |source: &Path, chunk_dicts: Vec<PathBuf>| {
        let options = Options { toc: true, chunk_dicts, ..small() };
        let places = Places { bootstrap: None, blob: Place::Directory(dir.path().to_path_buf()) };
        create(Input::Directory(source.to_path_buf()), &options, places, &Outputs::new(), &|_| {}).unwrap()
    };
    let dict = inlined(source(&[("x", &[1, 2])]).path(), Vec::new());
    let dict_path = dict.blob_path.unwrap();
    let layers = [source(&[("a", &[1, 5])]), source(&[("b", &[6, 2])])];
    let built: Vec<Report> =
        layers.iter().map(|layer| inlined(layer.path(), vec![dict_path.clone()])).collect();
    for report in &built {
        let path = report.blob_path.clone().unwrap();
        assert_eq!(sha256(&std::fs::read(&path).unwrap()), report.blob.as_ref().unwrap().to_string());
        let image = Image::open(&path).unwrap();
        assert_eq!(image.blobs().iter().map(|blob| blob.id.clone()).collect::<Vec<_>>(), report.blobs);
        let inlined: Vec<bool> =
            image.blobs().iter().map(|b| b.features.contains(BlobFeatures::INLINED_FS_META)).collect();
        assert_eq!(inlined.iter().filter(|inlined| **inlined).count(), 1, "its own only");
    }
    let sources = built.iter().map(|report| merge::Source::at(report.blob_path.clone().unwrap())).collect();
    let options = merge::Options { sources, chunk_dicts: vec![dict_path], ..merge::Options::default() };
    let boot = dir.path().join("boot");
    merge::merge(&options, Place::File(boot.clone()), &Outputs::new()).unwrap();
    assert_eq!(Image::open(&boot).unwrap().blobs().len(), 3);
    let both = source(&[("a", &[1, 5]), ("b", &[6, 2])]);
    for name in ["a", "b"] {
        let times = std::fs::metadata(layers[usize::from(name == "b")].path().join(name)).unwrap();
        let file = std::fs::File::options().write(true).open(both.path().join(name)).unwrap();
        file.set_modified(times.modified().unwrap()).unwrap();
    }
    assert_holds(&boot, dir.path(), both.path());
}

#[test]
fn dictionaries_that_do_not_fit_are_told() {
    let Some(golden) = golden() else { return };
    let (dir, source) = (tempfile::tempdir().unwrap(), source(&[("x", &[1])]));
    let said = |options: &Options, dict: PathBuf| {
        let options = Options { chunk_dicts: vec![dict], ..options.clone() };
        let error = build(source.path(), &options, dir.path(), "boot").unwrap_err();
        assert!(!dir.path().join("boot").exists());
        rafs_builder::chain(&error)
    };
    let boot = |name: &str| golden.join(name).join("image.boot");
    let error = said(&Options::default(), boot("v6-dir-lz4-8k"));
    assert!(
        error.contains("Inconsistent RAFS Filesystem: the chunk size") && error.contains("0x2000"),
        "{error}"
    );
    let sha = Options { digester: DigestAlgorithm::Sha256, ..Options::default() };
    let error = said(&sha, boot("v6-dir-zstd"));
    assert!(
        error.contains("the digester of") && error.contains("blake3") && error.contains("sha256"),
        "{error}"
    );
    let error = said(&small(), boot("v5-dir-lz4"));
    assert!(error.contains("the version of") && error.contains("is 5"), "{error}");
    let error = said(&small(), boot("v6-tarfs"));
    assert!(error.contains("the kind of") && error.contains("a tarfs"), "{error}");
    let error = said(&small(), PathBuf::from("/no/such/dict"));
    assert!(error.contains("/no/such/dict"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Two dictionaries that say different things of one chunk of a blob: one of them lies, and nobody knows which.
#[test]
fn dictionaries_that_contradict_each_other_are_refused() {
    let (dir, dict) = (tempfile::tempdir().unwrap(), source(&[("x", &[1, 2])]));
    build(dict.path(), &small(), dir.path(), "true").unwrap();
    let mut bytes = std::fs::read(dir.path().join("true")).unwrap();
    let image = Image::open(&dir.path().join("true")).unwrap();
    let at = usize::try_from(image.bootstrap().superblock().chunk_table_offset).unwrap();
    // The first record gets the digest of something else.
    let other = rafs_merkle::digest(DigestAlgorithm::Blake3, &[7; 4096]);
    bytes[at..at + 32].copy_from_slice(&other.0);
    std::fs::write(dir.path().join("false"), bytes).unwrap();
    let chunk_dicts = vec![dir.path().join("true"), dir.path().join("false")];
    let options = Options { chunk_dicts, ..small() };
    let source = source(&[("a", &[1, 2, 7])]);
    let error = build(source.path(), &options, dir.path(), "boot").unwrap_err();
    assert!(matches!(error, CreateError::Contradiction { .. }), "{error}");
}
