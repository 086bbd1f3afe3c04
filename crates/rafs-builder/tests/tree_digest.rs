//! The digest of a tree is the same whatever image it is in, differs where the tree does, and proves its paths.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::model::{CHUNK, Children, Maker, Model, model};
use proptest::prelude::*;
use rafs_builder::create::{Compressor, DigestAlgorithm, Input, Options, create};
use rafs_builder::digest::{self, DigestError, Directories, Scope};
use rafs_builder::open::Image;
use rafs_builder::output::{Outputs, Place};
use rafs_format::{Bootstrap, Digest, FormatError};
use std::path::{Path, PathBuf};

/// The image of a model, as the writer alone makes it.
fn image(children: &Children) -> Bootstrap<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    Maker::new(children).write(dir.path(), "boot");
    Bootstrap::parse(std::fs::read(dir.path().join("boot")).unwrap()).unwrap()
}

fn full(bootstrap: &Bootstrap<Vec<u8>>) -> Digest {
    digest::tree(bootstrap, Scope::Full).unwrap().digest
}

/// Every path of an image.
fn paths(bootstrap: &Bootstrap<Vec<u8>>) -> Vec<Vec<Vec<u8>>> {
    let mut paths = Vec::new();
    rafs_format::check::check(bootstrap, &mut |visit| {
        paths.push(visit.path.iter().map(|name| name.to_vec()).collect());
        Ok::<_, FormatError>(())
    })
    .unwrap();
    paths
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn equal_trees_and_no_others_have_one_digest(one in model(), two in model()) {
        let (first, second) = (image(&one), image(&two));
        // What users see of a tree, told by another program part.
        let same = Maker::new(&one).finish() == Maker::new(&two).finish();
        prop_assert_eq!(full(&first) == full(&second), same);
        let maker = Maker::new(&one);
        let blob = first.blobs().to_vec();
        for scope in [Scope::Full, Scope::Content] {
            let written = digest::tree(&first, scope).unwrap().digest;
            prop_assert_eq!(digest::of_tree(&maker.tree, &blob, CHUNK, scope).unwrap(), written);
        }
    }

    #[test]
    fn every_path_is_proven(children in model(), full in any::<bool>()) {
        let image = image(&children);
        let scope = if full { Scope::Full } else { Scope::Content };
        let mut directories = Directories::compute(&image, scope).unwrap();
        let root = digest::tree(&image, scope).unwrap().digest;
        prop_assert_eq!(directories.tree(), root);
        // Some paths of a large directory: it is quadratic.
        for path in paths(&image).iter().step_by(13) {
            let names: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
            let proof = directories.prove(&names).unwrap();
            prop_assert_eq!(proof.check(&names, &root), Ok(proof.node));
        }
        let missing = directories.prove(&[b"no such name"]);
        let is_missing = matches!(missing, Err(DigestError::NotFound { .. }));
        prop_assert!(is_missing);
    }
}

/// Hard links count as links, whichever names they are; a further one changes nothing else.
#[test]
fn links_are_not_copies() {
    let file = || Model::File { fill: 1, period: 1, size: 10, xattrs: Default::default() };
    let tree = |names: [(&str, Model); 3]| {
        full(&image(&names.into_iter().map(|(name, node)| (name.as_bytes().to_vec(), node)).collect()))
    };
    let all = [
        tree([("a", file()), ("b", file()), ("c", file())]),
        tree([("a", file()), ("b", Model::HardLink), ("c", file())]),
        tree([("a", file()), ("b", file()), ("c", Model::HardLink)]),
        tree([("a", file()), ("b", Model::HardLink), ("c", Model::HardLink)]),
    ];
    for (n, one) in all.iter().enumerate() {
        assert!(all[n + 1..].iter().all(|other| other != one), "{n}");
    }
}

/// Builds `source` and returns where the bootstrap is.
fn build(input: Input<'_>, dir: &Path, name: &str, options: &Options) -> PathBuf {
    let at = dir.join(name);
    let places = (Place::File(at.clone()), Place::File(at.with_extension("blob")));
    let report = create(input, options, places, &Outputs::new(), &|_| {}).unwrap();
    assert_eq!(Some(digest_of(&at, Scope::Full)), report.tree_digest);
    at
}

fn digest_of(boot: &Path, scope: Scope) -> Digest {
    digest::tree(Image::open(boot).unwrap().bootstrap(), scope).unwrap().digest
}

/// One tree, as a directory and as a tar of it, stored in several ways.
#[test]
fn layout_and_source_do_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("sub")).unwrap();
    std::fs::write(tree.join("sub/file"), vec![7; 3000]).unwrap();
    std::fs::write(tree.join("large"), vec![9; 100_000]).unwrap();
    std::fs::hard_link(tree.join("large"), tree.join("sub/link")).unwrap();
    std::os::unix::fs::symlink("sub/file", tree.join("symlink")).unwrap();
    let directory = || Input::Directory(tree.clone());
    let options = Options { chunk_size: 0x1_0000, ..Options::default() };
    let first = build(directory(), dir.path(), "zstd", &options);
    let none =
        Options { compressor: Compressor::None, prefetch: vec![b"/large".to_vec()], ..options.clone() };
    let none = Options { prefetch_table: true, ..none };
    assert_eq!(full_of(&build(directory(), dir.path(), "none", &none)), full_of(&first));
    let tar = std::process::Command::new("tar")
        .arg("-C")
        .arg(&tree)
        .args(["-c", "--numeric-owner", "."])
        .output()
        .unwrap();
    let tar = build(Input::Tar(Box::new(tar.stdout.as_slice())), dir.path(), "tar", &options);
    assert_eq!(digest_of(&tar, Scope::Content), digest_of(&first, Scope::Content));
    // Another cut of the large file, other digests of all of them.
    let cut = Options { chunk_size: 0x1000, ..options.clone() };
    assert_ne!(full_of(&build(directory(), dir.path(), "cut", &cut)), full_of(&first));
    let sha = Options { digester: DigestAlgorithm::Sha256, ..options.clone() };
    assert_ne!(full_of(&build(directory(), dir.path(), "sha", &sha)), full_of(&first));
    // Without it, the cut does not count.
    std::fs::remove_file(tree.join("large")).unwrap();
    std::fs::remove_file(tree.join("sub/link")).unwrap();
    let [first, cut] = [("first", &options), ("second", &cut)]
        .map(|(name, options)| build(directory(), dir.path(), name, options));
    assert_eq!(full_of(&cut), full_of(&first));
}

fn full_of(boot: &Path) -> Digest {
    digest_of(boot, Scope::Full)
}

/// Reference images of one tree that are stored in different ways.
#[test]
fn golden_images_of_one_tree_have_one_digest() {
    let Some(golden) = testkit::tree::golden() else { return };
    let mut all = Vec::new();
    for entry in std::fs::read_dir(golden).unwrap() {
        let path = entry.unwrap().path().join("image.boot");
        let Ok(image) = Image::open(&path) else { continue };
        let name = path.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        match digest::tree(image.bootstrap(), Scope::Full) {
            Ok(tree) => all.push((name, tree.digest.to_string())),
            Err(DigestError::Tarfs) => assert!(name.contains("tarfs"), "{name}"),
            Err(error) => panic!("{name}: {error}"),
        }
    }
    all.sort();
    for (n, d) in &all {
        eprintln!("{n} {d}");
    }
}
