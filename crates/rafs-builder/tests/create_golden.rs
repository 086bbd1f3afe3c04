//! Layers of the reference builder, built again: bootstrap and blob are the same byte for byte, but for the order of xattrs (theirs is
//! random, ours sorted) and fractions of times, which theirs drops.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use common::normal;
use rafs_builder::create::{Input, Options, Report, create};
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::output::{Outputs, Place};
use rafs_builder::{check, unpack};
use rafs_format::{Compressor, DigestAlgorithm};
use std::path::Path;
use std::sync::Arc;

fn build(input: Input<'_>, options: &Options, dir: &Path) -> Report {
    let places = (Place::File(dir.join("boot")), Place::Directory(dir.to_path_buf()));
    create(input, options, places, &Outputs::new(), &|_| {}).unwrap()
}

fn tar(path: &Path) -> Input<'static> {
    Input::Tar(Box::new(std::fs::File::open(path).unwrap()))
}

#[test]
fn layers_become_the_reference_images() {
    let Some(golden) = common::golden() else { return };
    for (image, source, chunk_size) in
        [("v6-tar", "nasty.tar", 0x4000), ("v6-bigdir", "bigdir.tar.gz", 0x10_0000)]
    {
        let dir = tempfile::tempdir().unwrap();
        let report =
            build(tar(&golden.join(source)), &Options { chunk_size, ..Options::default() }, dir.path());
        let found = std::fs::read(dir.path().join("boot")).unwrap();
        let expected = std::fs::read(golden.join(image).join("image.boot")).unwrap();
        let (found, expected) = (normal(found), normal(expected));
        assert_eq!(found.len(), expected.len(), "{image}");
        let differ: Vec<_> = (0..found.len()).filter(|&at| found[at] != expected[at]).collect();
        assert!(differ.is_empty(), "{image}: differs at {differ:x?}");
        let Some(blob) = report.blob else { continue };
        let found = std::fs::read(dir.path().join(blob.as_str())).unwrap();
        let expected = std::fs::read(golden.join(image).join("blobs").join(blob.as_str())).unwrap();
        assert!(found == expected, "{image}: blob {blob} differs");
    }
}

/// The reference layers that were merged hold their bootstraps themselves, with a table of contents. What that adds stands in the blob's
/// entry alone (id, features, sizes); everything else of the bootstrap, and the chunk data, must be the same.
#[test]
fn layers_become_the_reference_layers_of_a_merge() {
    let Some(golden) = common::golden() else { return };
    let layers = [
        ("nasty.tar", "4923ff94aa9c8c175ce76b51c0478061d52d3e5544bbcca8e9c876f1778c20d4"),
        ("upper.tar", "b4704c3f6fa209fbbeaa989386f966ff0e3d237bcce46e6d6d4771dd66b6b692"),
    ];
    for (source, id) in layers {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { chunk_size: 0x4000, ..Options::default() };
        let report = build(tar(&golden.join(source)), &options, dir.path());
        let theirs = golden.join("v6-merge/blobs").join(id);
        let image = Image::open(&theirs).unwrap();
        let mut expected = normal(image.bootstrap().bytes().to_vec());
        let mut found = normal(std::fs::read(dir.path().join("boot")).unwrap());
        for bytes in [&mut expected, &mut found] {
            // Superblock flag of a digest table, id in the device slot, entry of the blob table.
            bytes[1153] &= !1;
            bytes[1408..1408 + 64].fill(0);
            bytes[4096..4096 + 256].fill(0);
        }
        let differ: Vec<_> = (0..found.len()).filter(|&at| found.get(at) != expected.get(at)).collect();
        assert!(found.len() == expected.len() && differ.is_empty(), "{source}: differs at {differ:x?}");
        let data = usize::try_from(image.blobs()[0].data_end()).unwrap();
        let ours = std::fs::read(dir.path().join(report.blob.unwrap().as_str())).unwrap();
        let theirs = std::fs::read(theirs).unwrap();
        assert!(ours[..data] == theirs[..data], "{source}: chunk data");
        let ours = Image::open(&dir.path().join("boot")).unwrap();
        let (ours, theirs) = (&ours.blobs()[0], &image.blobs()[0]);
        assert_eq!(ours.data_end(), theirs.data_end());
        assert_eq!(
            (ours.chunk_count, ours.uncompressed_size),
            (theirs.chunk_count, theirs.uncompressed_size)
        );
        assert_eq!(ours.meta.compressed_size, theirs.meta.compressed_size);
    }
}

/// Every input form and thread count gives the same bytes, and unpacks to the tree it was made from.
#[test]
fn forms_and_threads_do_not_change_a_byte() {
    let Some(golden) = common::golden() else { return };
    let plain = std::fs::read(golden.join("nasty.tar")).unwrap();
    let zstd = {
        let mut out = Vec::new();
        let mut child = std::process::Command::new("zstd")
            .arg("-qc")
            .arg(golden.join("nasty.tar"))
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::copy(&mut child.stdout.take().unwrap(), &mut out).unwrap();
        child.wait().unwrap();
        out
    };
    let gzip = std::fs::read(golden.join("nasty.tar.gz")).unwrap();
    let mut seen = None;
    for (bytes, threads) in [(&plain, 1), (&plain, 2), (&plain, 5), (&gzip, 2), (&zstd, 3)] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { threads, chunk_size: 0x1000, ..Options::default() };
        let report = build(Input::Tar(Box::new(bytes.as_slice())), &options, dir.path());
        let blob = std::fs::read(dir.path().join(report.blob.unwrap().as_str())).unwrap();
        let bytes = (std::fs::read(dir.path().join("boot")).unwrap(), blob);
        assert!(*seen.get_or_insert_with(|| bytes.clone()) == bytes, "{threads} threads");
    }
}

#[test]
fn what_is_built_checks_and_unpacks_to_its_source() {
    let Some(golden) = common::golden() else { return };
    let codings = [
        (Compressor::None, DigestAlgorithm::Sha256, 0x1000),
        (Compressor::Lz4Block, DigestAlgorithm::Blake3, 0x2000),
        (Compressor::Zstd, DigestAlgorithm::Blake3, 0x10_0000),
        (Compressor::Zstd, DigestAlgorithm::Sha256, 0x100_0000),
    ];
    for (compressor, digester, chunk_size) in codings {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { compressor, digester, chunk_size, threads: 2, ..Options::default() };
        build(tar(&golden.join("nasty.tar")), &options, dir.path());
        let image = Image::open(&dir.path().join("boot")).unwrap();
        check::structure(&image).unwrap();
        let source =
            BlobSource::new(Arc::new(LocalFs { dir: Some(dir.path().to_path_buf()), ..LocalFs::default() }))
                .unwrap();
        let report = check::data(&image, &source, 2).unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        let mut out = Vec::new();
        unpack::tar_to(&image, &source, &mut out, 2).unwrap();
        assert!(common::tar_tree(&out).len() > 200);
    }
}
