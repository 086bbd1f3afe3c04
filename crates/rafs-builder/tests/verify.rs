//! A root says whether an image is the right one; where a blob is wrong, the leaf is named.
#![allow(clippy::unwrap_used, reason = "tests")]

use rafs_builder::check::Problem;
use rafs_builder::create::{Compressor, Input, Options, create};
use rafs_builder::digest::{self, Scope};
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::output::{Outputs, Place};
use rafs_builder::verify::{Leaf, verify};
use rafs_format::Digest;
use std::path::Path;
use std::sync::Arc;

/// An image of two files with three and one chunks in `dir`, the last chunk of the first being the one of the second.
fn build(dir: &Path) -> Image {
    let tree = dir.join("tree");
    std::fs::create_dir_all(tree.join("sub")).unwrap();
    let chunks: Vec<u8> = (1..4u8).flat_map(|fill| vec![fill; 4096]).collect();
    std::fs::write(tree.join("a"), &chunks).unwrap();
    std::fs::write(tree.join("sub/b"), &chunks[8192..]).unwrap();
    let options = Options { chunk_size: 4096, compressor: Compressor::None, ..Options::default() };
    let places = (Place::File(dir.join("boot")), Place::Directory(dir.to_path_buf()));
    create(Input::Directory(tree), &options, places, &Outputs::new(), &|_| {}).unwrap();
    Image::open(&dir.join("boot")).unwrap()
}

#[test]
fn the_root_decides_and_bad_chunks_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let image = build(dir.path());
    let local = LocalFs { dir: Some(dir.path().to_path_buf()), ..LocalFs::default() };
    let source = BlobSource::new(Arc::new(local)).unwrap();
    let blobs = Some((&source, 2));
    for scope in [Scope::Full, Scope::Content] {
        let root = digest::tree(image.bootstrap(), scope).unwrap().digest;
        let report = verify(&image, &root, blobs).unwrap();
        assert_eq!((report.scope, report.is_good()), (Some(scope), true));
        assert_eq!(report.data.unwrap().chunks, 3);
    }
    let report = verify(&image, &Digest([7; 32]), None).unwrap();
    assert_eq!((report.scope, report.is_good(), report.data.is_none()), (None, false, true));

    // A byte of the chunk that both files have.
    let blob = dir.path().join(image.blobs()[0].id.as_str());
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[8192] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let root = digest::tree(image.bootstrap(), Scope::Full).unwrap().digest;
    let report = verify(&image, &root, blobs).unwrap();
    assert_eq!((report.scope, report.is_good()), (Some(Scope::Full), false));
    let problems = report.data.unwrap().problems;
    let at = problems.iter().position(|problem| matches!(problem, Problem::Chunk { index: 2, .. })).unwrap();
    let leaf = |path: &[u8], chunk| Leaf { path: path.to_vec(), chunk, problem: at };
    assert_eq!(report.leaves, [leaf(b"/a", 2), leaf(b"/sub/b", 0)]);
}

/// A bootstrap that was changed to vouch for another chunk has another root, and data that is right says where.
#[test]
fn a_changed_bootstrap_is_told_by_its_root_and_by_good_data() {
    let dir = tempfile::tempdir().unwrap();
    let image = build(dir.path());
    let root = digest::tree(image.bootstrap(), Scope::Full).unwrap().digest;
    let table = usize::try_from(image.bootstrap().superblock().chunk_table_offset).unwrap();
    let index = image.bootstrap().chunk_record(1).unwrap().index;
    let mut bytes = image.bootstrap().bytes().to_vec();
    // Last byte of the digest of the second record.
    bytes[table + 80 + 31] ^= 1;
    std::fs::write(dir.path().join("changed"), bytes).unwrap();
    let changed = Image::open(&dir.path().join("changed")).unwrap();
    let local = LocalFs { dir: Some(dir.path().to_path_buf()), ..LocalFs::default() };
    let source = BlobSource::new(Arc::new(local)).unwrap();
    let report = verify(&changed, &root, Some((&source, 1))).unwrap();
    assert_eq!((report.scope, report.is_good()), (None, false));
    assert_ne!(report.full, root);
    assert_eq!((report.leaves[0].path.as_slice(), report.leaves[0].chunk), (b"/a".as_slice(), index.into()));
    assert_eq!(report.data.unwrap().problems.len(), 1);
}
