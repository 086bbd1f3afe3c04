//! A tree goes from a tar into v5 and v6, out again and in again: its digest stays, and so does the tar.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::model::{Maker, model};
use proptest::prelude::*;
use rafs_builder::create::{Compressor, DigestAlgorithm, Input, Options, Places, Version, create};
use rafs_builder::digest::{self, Scope};
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::output::{Outputs, Place};
use rafs_builder::{check, unpack};
use rafs_format::Digest;
use std::path::Path;
use std::sync::Arc;

/// The tar of an image.
fn unpacked(dir: &Path, boot: &Path) -> Vec<u8> {
    let image = Image::open(boot).unwrap();
    let local = LocalFs { dir: Some(dir.to_path_buf()), ..LocalFs::default() };
    let source = BlobSource::new(Arc::new(local)).unwrap();
    let mut out = Vec::new();
    unpack::tar_to(&image, &source, &mut out, 1).unwrap();
    out
}

/// Builds a tar and unpacks it: the digest, which the check finds too, and the tar that comes out.
fn through(dir: &Path, tar: &[u8], options: &Options) -> (Digest, Vec<u8>) {
    let (boot, blobs) = (dir.join("boot"), Place::Directory(dir.to_path_buf()));
    let places = Places { bootstrap: Some(Place::File(boot.clone())), blob: blobs };
    let report = create(Input::Tar(Box::new(tar)), options, places, &Outputs::new(), &|_| {}).unwrap();
    let image = Image::open(&boot).unwrap();
    assert_eq!(image.bootstrap().superblock().version, options.version);
    // With the digests of inodes in v5.
    check::structure(&image).unwrap();
    let found = digest::tree(image.bootstrap(), Scope::Full).unwrap().digest;
    assert_eq!(report.tree_digest, Some(found));
    (found, unpacked(dir, &boot))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_digest_of_a_tree_survives_both_versions(
        children in model(), aligned_chunks in any::<bool>(), none in any::<bool>(), sha256 in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        Maker::new(&children).write(dir.path(), "made");
        let tar = unpacked(dir.path(), &dir.path().join("made"));
        let options = Options {
            aligned_chunks,
            compressor: if none { Compressor::None } else { Compressor::Lz4Block },
            digester: if sha256 { DigestAlgorithm::Sha256 } else { DigestAlgorithm::Blake3 },
            chunk_size: 0x1000,
            threads: 1,
            ..Options::default()
        };
        let v5 = Options { version: Version::V5, ..options.clone() };
        let (new, out_of_new) = through(dir.path(), &tar, &options);
        let (old, out_of_old) = through(dir.path(), &out_of_new, &v5);
        prop_assert_eq!(old, new);
        prop_assert!(out_of_old == out_of_new && out_of_old == tar);
        let (again, _) = through(dir.path(), &out_of_old, &options);
        prop_assert_eq!(again, new);
    }
}
