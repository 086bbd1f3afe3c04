//! Builds on top of a parent: the reference builder's image again, and the same trees that a merge gives.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{all_blobs, golden, normal_xattrs, tar_tree};
use rafs_builder::check;
use rafs_builder::create::{Input, Options, Places, Report, create};
use rafs_builder::digest::{self, Scope};
use rafs_builder::merge::{self, Source};
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::output::{Outputs, Place};
use rafs_builder::unpack::{self, Target};
use rafs_format::{BlobFeatures, Compressor, DigestAlgorithm};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fn local(dir: &Path) -> BlobSource {
    BlobSource::new(Arc::new(LocalFs { dir: Some(dir.to_path_buf()), ..LocalFs::default() })).unwrap()
}

fn unpacked(boot: &Path, blobs: &Path, to: &Path) {
    let image = Image::open(boot).unwrap();
    let target = Target::Directory(to.to_path_buf());
    unpack::unpack(&image, &local(blobs), &target, 2, &AtomicBool::new(false)).unwrap();
}

fn build(input: Input<'_>, options: &Options, dir: &Path, name: &str) -> Report {
    let places = (Place::File(dir.join(name)), Place::Directory(dir.to_path_buf()));
    create(input, options, places, &Outputs::new(), &|_| {}).unwrap()
}

fn tar(path: &Path) -> Input<'static> {
    Input::Tar(Box::new(std::fs::File::open(path).unwrap()))
}

#[test]
fn a_parent_gives_the_reference_image() {
    let Some(golden) = golden() else { return };
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: owners, devices and trusted xattrs need root");
    }
    let (dir, made) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    build(tar(&golden.join("upper.tar")), &Options::default(), made.path(), "upper");
    let source = made.path().join("upper.d");
    unpacked(&made.path().join("upper"), made.path(), &source);
    let reference = Image::open(&golden.join("v6-layered/image.boot")).unwrap();
    // Their extraction made the directory, which the archive only implies, and gave the links the attributes of their target.
    for path in ["sizes", "hl/c"] {
        let inode = reference.bootstrap().resolve(path.as_bytes()).unwrap().unwrap();
        let since = std::time::Duration::new(u64::try_from(inode.mtime_secs).unwrap(), inode.mtime_nanos);
        let file = std::fs::File::open(source.join(path)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + since).unwrap();
    }
    let options = Options {
        compressor: Compressor::Lz4Block,
        chunk_size: 0x2000,
        parent: Some(golden.join("v6-dir-lz4-8k/image.boot")),
        ..Options::default()
    };
    for threads in [1, 3] {
        let options = Options { threads, ..options.clone() };
        let report = build(Input::Directory(source.clone()), &options, dir.path(), "boot");
        let found = normal_xattrs(std::fs::read(dir.path().join("boot")).unwrap());
        let expected = normal_xattrs(reference.bootstrap().bytes().to_vec());
        let differ: Vec<_> = (0..found.len()).filter(|&at| found.get(at) != expected.get(at)).collect();
        assert!(found.len() == expected.len() && differ.is_empty(), "differs at {differ:x?}");
        let own = report.blob.unwrap();
        let expected = std::fs::read(golden.join("v6-layered/blobs").join(own.as_str())).unwrap();
        assert!(std::fs::read(dir.path().join(own.as_str())).unwrap() == expected);
        assert_eq!(report.blobs.last(), Some(&own));
        assert_eq!((report.whiteouts, report.blobs.len()), (0, 2));
    }
    let image = Image::open(&dir.path().join("boot")).unwrap();
    assert!(check::data(&image, &local(all_blobs(&golden).path()), 2).unwrap().problems.is_empty());
}

/// A tar on top of an image is what a merge of both is, and what the digest of the report says.
#[test]
fn tars_on_a_parent_are_merged() {
    let Some(golden) = golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let options = Options { chunk_size: 0x4000, ..Options::default() };
    let lower = build(tar(&golden.join("nasty.tar")), &options, dir.path(), "lower");
    build(tar(&golden.join("upper.tar")), &options, dir.path(), "upper");
    let prefetch = vec![b"/bin".to_vec(), b"/sizes".to_vec(), b"/nowhere".to_vec()];
    let merging = merge::Options {
        sources: vec![Source::at(at("lower")), Source::at(at("upper"))],
        prefetch: prefetch.clone(),
        ..merge::Options::default()
    };
    merge::merge(&merging, Place::File(at("merged")), &Outputs::new()).unwrap();
    let on_top = Options { parent: Some(at("lower")), prefetch, prefetch_table: true, ..options };
    let report = build(tar(&golden.join("upper.tar")), &on_top, dir.path(), "boot");
    let tree = |name: &str| {
        let (mut out, image) = (Vec::new(), Image::open(&at(name)).unwrap());
        check::structure(&image).unwrap();
        unpack::tar_to(&image, &local(dir.path()), &mut out, 1).unwrap();
        tar_tree(&out)
    };
    assert_eq!(tree("boot"), tree("merged"));
    let digest =
        |name: &str| digest::tree(Image::open(&at(name)).unwrap().bootstrap(), Scope::Full).unwrap().digest;
    assert_eq!(report.tree_digest, Some(digest("boot")));
    assert_eq!(digest("boot"), digest("merged"));
    let prefetched = |name: &str| Image::open(&at(name)).unwrap().bootstrap().prefetch().count();
    assert_eq!((prefetched("boot"), prefetched("merged")), (2, 2));
    // What both layers have is stored once.
    assert_eq!(report.blobs[0], lower.blob.unwrap());
    let again = build(tar(&golden.join("nasty.tar")), &on_top, dir.path(), "again");
    assert_eq!((again.blob, again.chunks), (None, 0));
    assert_eq!(tree("again"), tree("lower"));
    // Inside the blob it is the same image, whose own blob alone holds it.
    let places = Places { bootstrap: None, blob: Place::Directory(dir.path().to_path_buf()) };
    let on_top = Options { toc: true, ..on_top };
    let report = create(tar(&golden.join("upper.tar")), &on_top, places, &Outputs::new(), &|_| {}).unwrap();
    let path = report.blob_path.unwrap();
    let image = Image::open(&path).unwrap();
    assert_eq!(image.blobs().iter().map(|blob| blob.id.clone()).collect::<Vec<_>>(), report.blobs);
    let inside: Vec<bool> =
        image.blobs().iter().map(|b| b.features.contains(BlobFeatures::INLINED_FS_META)).collect();
    assert_eq!(inside, [false, true]);
    assert_eq!(tree(path.file_name().unwrap().to_str().unwrap()), tree("merged"));
}

#[test]
fn parents_that_do_not_fit_are_told() {
    let Some(golden) = golden() else { return };
    let (dir, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let made = |parent: &str, options: Options| {
        let options = Options { parent: Some(golden.join(parent).join("image.boot")), ..options };
        let places = (Place::File(dir.path().join("boot")), Place::Directory(dir.path().to_path_buf()));
        let input = Input::Directory(source.path().to_path_buf());
        create(input, &options, places, &Outputs::new(), &|_| {}).map_err(|error| rafs_builder::chain(&error))
    };
    for (parent, what) in
        [("v6-dir-lz4-8k", "the chunk size"), ("v5-tar", "the version"), ("v6-tarfs", "the kind")]
    {
        let said = made(parent, Options::default()).unwrap_err();
        assert!(said.contains(&format!("Inconsistent RAFS Filesystem: {what} of")), "{said}");
        assert!(said.contains(parent), "{said}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    // Another digest is no reason: chunks of the parent are not found then, and stay what they are.
    let sha = Options { digester: DigestAlgorithm::Sha256, ..Options::default() };
    let report = made("v6-dir-zstd", sha).unwrap();
    assert_eq!((report.blob, report.blobs.len()), (None, 1));
}
