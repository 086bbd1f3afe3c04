//! Builds with a chunk store: what of it is used, and what becomes of chunks whose blobs find no place.
#![allow(clippy::unwrap_used, reason = "tests")]

use chunk_store::Store;
use rafs_builder::create::{Encryption, Input, Options, Places, Report, Version, create};
use rafs_builder::keys::{Keys, Secret};
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::output::{Outputs, Place};
use rafs_builder::unpack::{self, Target};
use rafs_builder::{check, merge};
use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fn small() -> Options {
    Options { chunk_size: 4096, ..Options::default() }
}

/// A directory of files of whole chunks of 4096 bytes, each filled with one number.
fn source(files: &[(String, Vec<u16>)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, fills) in files {
        let content: Vec<u8> = fills.iter().flat_map(|fill| fill.to_le_bytes().repeat(2048)).collect();
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

fn one(name: &str, fills: &[u16]) -> Vec<(String, Vec<u16>)> {
    vec![(name.to_owned(), fills.to_vec())]
}

fn build(files: &[(String, Vec<u16>)], options: &Options, dir: &Path, name: &str) -> Report {
    let places = (Place::File(dir.join(name)), Place::Directory(dir.to_path_buf()));
    let kept = source(files);
    create(Input::Directory(kept.path().to_path_buf()), options, places, &Outputs::new(), &|_| {}).unwrap()
}

fn add(store: &Path, dir: &Path, name: &str) {
    let image = Image::open(&dir.join(name)).unwrap();
    let store = Store::open(store).unwrap();
    store.add(name, image.bootstrap(), image.blobs(), &HashSet::new()).unwrap();
}

/// All chunks of the image decode to their digests, and its files are those.
fn assert_holds(boot: &Path, files: &[(String, Vec<u16>)], keys: Keys) {
    let image = Image::open(boot).unwrap();
    check::structure(&image).unwrap();
    let local = LocalFs { dir: boot.parent().map(Path::to_path_buf), ..LocalFs::default() };
    let blobs = BlobSource::new(Arc::new(local)).unwrap().with_keys(keys);
    let problems = check::data(&image, &blobs, 2).unwrap().problems;
    assert!(problems.is_empty(), "{problems:?}");
    let to = tempfile::tempdir().unwrap();
    let target = Target::Directory(to.path().join("d"));
    unpack::unpack(&image, &blobs, &target, 2, &AtomicBool::new(false)).unwrap();
    let names: BTreeSet<_> =
        std::fs::read_dir(to.path().join("d")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, files.iter().map(|(name, _)| name.into()).collect());
    let expected = source(files);
    for (name, _) in files {
        let read = |dir: &Path| std::fs::read(dir.join(name)).unwrap();
        assert!(read(&to.path().join("d")) == read(expected.path()), "{name}");
    }
}

#[test]
fn a_build_uses_what_the_images_of_a_store_have() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, at) = (dir.path(), dir.path().join("store"));
    let first = build(&one("x", &[1, 2]), &small(), dir, "first").blob.unwrap();
    let second = build(&one("x", &[3, 1]), &small(), dir, "second").blob.unwrap();
    let other = Options { version: Version::V5, ..small() };
    build(&one("x", &[7]), &other, dir, "other");
    for name in ["first", "second", "other"] {
        add(&at, dir, name);
    }
    // One more image has the second blob, so of chunk 1 it is the one that counts.
    let store = Store::open(&at).unwrap();
    let image = Image::open(&dir.join("second")).unwrap();
    store.add("once more", image.bootstrap(), image.blobs(), &HashSet::new()).unwrap();
    drop(store);
    let files = one("y", &[1, 2, 3, 7, 9]);
    for threads in [1, 3] {
        let options = Options { chunk_store: Some(at.clone()), threads, ..small() };
        let report = build(&files, &options, dir, "new");
        // What is known of v5 is not for v6.
        assert_eq!((report.chunks, report.duplicates.0), (2, 3));
        assert_eq!(report.blobs, [second.clone(), first.clone(), report.blob.unwrap()]);
        assert_holds(&dir.join("new"), &files, Keys::default());
    }
    // A dictionary comes before the store.
    let options = Options { chunk_store: Some(at.clone()), chunk_dicts: vec![dir.join("first")], ..small() };
    let report = build(&one("y", &[1, 3]), &options, dir, "new");
    assert_eq!(report.blobs, [first, second.clone()]);
    // Nothing of a blob that may be deleted soon.
    let store = Store::open(&at).unwrap();
    assert!(store.remove("first").unwrap());
    store.condemn().unwrap();
    drop(store);
    let options = Options { chunk_store: Some(at), ..small() };
    let report = build(&one("y", &[1, 2]), &options, dir, "new");
    assert_eq!(report.blobs, [second, report.blob.clone().unwrap()]);
}

/// Layers with their bootstraps inside, built with a store, are merged with it.
#[test]
fn layers_that_were_built_with_a_store_are_merged() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, at) = (dir.path(), dir.path().join("store"));
    for (name, fills) in [("a", [1, 2]), ("b", [3, 4])] {
        build(&one("x", &fills), &small(), dir, name);
        add(&at, dir, name);
    }
    let options = Options { chunk_store: Some(at.clone()), ..small() };
    let sources: Vec<merge::Source> = [[1, 3, 5], [2, 4, 6]]
        .into_iter()
        .enumerate()
        .map(|(n, fills)| {
            let kept = source(&one(&format!("f{n}"), &fills));
            let input = Input::Directory(kept.path().to_path_buf());
            let places = Places { bootstrap: None, blob: Place::Directory(dir.to_path_buf()) };
            let report = create(input, &options, places, &Outputs::new(), &|_| {}).unwrap();
            assert_eq!(report.blobs.len(), 3);
            merge::Source::at(report.blob_path.unwrap())
        })
        .collect();
    let merging = |chunk_store: Option<PathBuf>| {
        let options = merge::Options { sources: sources.clone(), chunk_store, ..merge::Options::default() };
        merge::merge(&options, Place::File(dir.join("merged")), &Outputs::new())
    };
    assert!(matches!(merging(None), Err(merge::MergeError::SeveralBlobs { count: 3, .. })));
    assert_eq!(merging(Some(at)).unwrap().blobs.len(), 4);
    let files = [one("f0", &[1, 3, 5]), one("f1", &[2, 4, 6])].concat();
    assert_holds(&dir.join("merged"), &files, Keys::default());
}

/// More blobs than an image may have: those that come first are used, chunks of the others are stored again.
#[test]
fn an_image_never_has_too_many_blobs() {
    // In memory where that is possible: every output is synced, and these are many.
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let (dir, at) = (dir.path(), dir.path().join("store"));
    for (half, name) in [(0..130u16, "one half"), (130..260, "other half")] {
        let layers = half.map(|n| {
            build(&one(&format!("{n}"), &[n]), &Options { threads: 1, ..small() }, dir, &format!("layer{n}"));
            merge::Source::at(dir.join(format!("layer{n}")))
        });
        let options = merge::Options { sources: layers.collect(), ..merge::Options::default() };
        merge::merge(&options, Place::File(dir.join(name)), &Outputs::new()).unwrap();
        add(&at, dir, name);
    }
    // Each chunk twice, and one that nobody has.
    let mut files: Vec<(String, Vec<u16>)> =
        (0..260).map(|n| (format!("{n:03}"), vec![n, 259 - n])).collect();
    files.push(("own".to_owned(), vec![999]));
    let mut bytes = [7; 32];
    bytes[0] = 1;
    let (key, base) = (Secret::new(bytes).unwrap(), Options { chunk_store: Some(at), ..small() });
    let encryption = Some(Encryption { key: key.clone(), iv: [5; 16], key_in_bootstrap: false });
    for options in [base.clone(), Options { encryption, ..base.clone() }] {
        let made: Vec<Vec<u8>> = [1, 3]
            .map(|threads| {
                let options = Options { threads, ..options.clone() };
                let report = build(&files, &options, dir, "new");
                assert_eq!((report.blobs.len(), report.chunks), (254, 260 - 253 + 1));
                if threads == 1 {
                    assert_holds(&dir.join("new"), &files, Keys::from(vec![key.clone()]));
                }
                std::fs::read(report.blob_path.unwrap()).unwrap()
            })
            .to_vec();
        assert!(made[0] == made[1], "the blob depends on threads");
    }
    // With a parent, there is place for fewer.
    let parent: Vec<(String, Vec<u16>)> = vec![("p".to_owned(), vec![500])];
    build(&parent, &small(), dir, "parent");
    let options = Options { parent: Some(dir.join("parent")), ..base };
    let report = build(&files, &options, dir, "new");
    assert_eq!((report.blobs.len(), report.chunks), (254, 260 - 252 + 1));
    assert_holds(&dir.join("new"), &[parent, files].concat(), Keys::default());
}
