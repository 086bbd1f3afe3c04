//! Tarfs: the tars of the reference builder become its bootstraps byte for byte, and what cannot be one is refused.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::Made::FromDirectory;
use common::{assert_same, expected, golden, inode_places, normal, tar_tree};
use rafs_builder::create::{CreateError, Options, Report, create_tarfs};
use rafs_builder::merge::{self, MergeError, Source, merge};
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::output::{Outputs, Place};
use rafs_builder::{chain, check, unpack};
use rafs_format::{BlobId, FormatError, SuperFlags};
use std::path::Path;
use std::sync::Arc;

fn build(tar: &[u8], options: &Options, boot: &Path) -> Result<Report, CreateError> {
    create_tarfs(Box::new(tar), options, Place::File(boot.to_path_buf()), &Outputs::new(), &|_| {})
}

fn local(dir: &Path) -> BlobSource {
    BlobSource::new(Arc::new(LocalFs { dir: Some(dir.to_path_buf()), ..LocalFs::default() })).unwrap()
}

/// A tar of files with these contents.
fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Where `found` is another byte than `expected`.
fn differences(found: &[u8], expected: &[u8]) -> Vec<usize> {
    assert_eq!(found.len(), expected.len());
    (0..found.len()).filter(|&at| found[at] != expected[at]).collect()
}

#[test]
fn tars_become_the_reference_bootstraps() {
    let Some(golden) = golden() else { return };
    let tar = std::fs::read(golden.join("nasty.tar")).unwrap();
    for (image, chunk_size) in [("v6-tarfs", 0x10_0000), ("v6-tarfs-4k", 0x1000)] {
        let dir = tempfile::tempdir().unwrap();
        let report =
            build(&tar, &Options { chunk_size, ..Options::default() }, &dir.path().join("boot")).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no blob is written");
        let found = normal(std::fs::read(dir.path().join("boot")).unwrap());
        let theirs = normal(std::fs::read(golden.join(image).join("image.boot")).unwrap());
        let differ = differences(&found, &theirs);
        assert!(differ.is_empty(), "{image}: differs at {differ:x?}");
        assert_eq!(report.blob_size, tar.len() as u64);
        assert_eq!(report.tree_digest, None);
    }
}

/// Byte for byte, but for a symlink whose target the reference merge corrupts, and for the attributes of two directories that the upper
/// layer only implies: theirs gives them those of nobody.
#[test]
fn merged_tars_become_the_reference_bootstrap() {
    let Some(golden) = golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    let layer = |name: &str| {
        let boot = dir.path().join(format!("{name}.boot"));
        let tar = std::fs::read(golden.join(name)).unwrap();
        let report = build(&tar, &Options::default(), &boot).unwrap();
        std::fs::write(dir.path().join(report.blob.unwrap().as_str()), tar).unwrap();
        Source::at(boot)
    };
    let sources = vec![layer("nasty.tar"), layer("upper.tar")];
    let options = merge::Options { sources, ..merge::Options::default() };
    let merged = dir.path().join("merged");
    merge(&options, Place::File(merged.clone()), &Outputs::new()).unwrap();
    let image = Image::open(&merged).unwrap();
    let found = normal(std::fs::read(&merged).unwrap());
    let theirs = normal(std::fs::read(golden.join("v6-tarfs-merge/image.boot")).unwrap());
    let bootstrap = image.bootstrap();
    let start = bootstrap.superblock().meta_start;
    let at = |path: &[u8]| {
        let mut at = None;
        check_paths(&image, &mut |names, nid| {
            if names.join(&b'/') == path {
                at = Some(usize::try_from(nid * 32 + start).unwrap());
            }
        });
        at.unwrap()
    };
    let implied = [at(b""), at(b"sizes")].map(|at| at + 4..at + 44);
    let link = at(b"ln/l4032");
    assert!(inode_places(&theirs).contains(&link));
    // Its blocks, wherever they are, and its tail behind it.
    let block = u32::from_le_bytes(theirs[link + 16..link + 20].try_into().unwrap()) as usize * 512;
    let mut known = implied.to_vec();
    known.extend([block..block + 4032, link + 64..link + 512]);
    let other: Vec<_> = differences(&found, &theirs)
        .into_iter()
        .filter(|at| !known.iter().any(|range| range.contains(at)))
        .collect();
    assert!(other.is_empty(), "differs at {other:x?}");
    // What they should be.
    assert!(check::data(&image, &local(dir.path()), 2).unwrap().problems.is_empty());
    let mut out = Vec::new();
    unpack::tar_to(&image, &local(dir.path()), &mut out, 2).unwrap();
    // Fractions of times are dropped by theirs, and not by ours.
    let mut wanted = expected(&golden.join("expected-merged.json"));
    wanted.remove("/").unwrap();
    assert_same("merged", &tar_tree(&out), &wanted, FromDirectory, false);
}

/// Each entry's names and nid.
fn check_paths(image: &Image, each: &mut dyn FnMut(&[&[u8]], u64)) {
    rafs_format::check::check(image.bootstrap(), &mut |visit| {
        each(visit.path, visit.inode.nid.0);
        Ok::<_, FormatError>(())
    })
    .unwrap();
}

#[test]
fn a_tar_under_another_name_is_noted_by_its_digest_and_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    let boot = dir.path().join("boot");
    let tar = tar_of(&[("a", b"alpha"), ("d/b", &[7; 3000]), ("e", b"")]);
    let blob_id = Some(BlobId::new("layer").unwrap());
    build(&tar, &Options { blob_id, ..Options::default() }, &boot).unwrap();
    std::fs::write(dir.path().join("layer"), &tar).unwrap();
    let image = Image::open(&boot).unwrap();
    assert_eq!(image.blobs()[0].id.as_str(), "layer");
    let digest = rafs_merkle::digest(rafs_format::DigestAlgorithm::Sha256, &tar);
    assert_eq!(image.blobs()[0].meta_digest, digest);
    let mut out = Vec::new();
    unpack::tar_to(&image, &local(dir.path()), &mut out, 1).unwrap();
    let found = tar_tree(&out);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["/a", "/d", "/d/b", "/e"]);
    // A merge may give it yet another name; what the tar should be goes with it.
    let own = dir.path().join("own.boot");
    build(&tar, &Options::default(), &own).unwrap();
    for layer in [&boot, &own] {
        let source = Source { original_blob_id: Some(BlobId::new("other").unwrap()), ..Source::at(layer) };
        let options = merge::Options { sources: vec![source], ..merge::Options::default() };
        merge(&options, Place::File(dir.path().join("merged")), &Outputs::new()).unwrap();
        let merged = Image::open(&dir.path().join("merged")).unwrap();
        assert_eq!((merged.blobs()[0].id.as_str(), merged.blobs()[0].meta_digest), ("other", digest));
    }
}

#[test]
fn a_tar_without_data_has_no_blob_and_merges() {
    let dir = tempfile::tempdir().unwrap();
    let (empty, full) = (dir.path().join("empty"), dir.path().join("full"));
    let report = build(&tar_of(&[("e", b"")]), &Options::default(), &empty).unwrap();
    assert_eq!(report.blob, None);
    let image = Image::open(&empty).unwrap();
    assert!(image.bootstrap().is_tarfs() && image.blobs().is_empty());
    assert_eq!(image.bootstrap().superblock().block_size, 512);
    build(&tar_of(&[("f", b"f")]), &Options::default(), &full).unwrap();
    let sources = vec![Source::at(&empty), Source::at(&full)];
    let options = merge::Options { sources, ..merge::Options::default() };
    merge(&options, Place::File(dir.path().join("merged")), &Outputs::new()).unwrap();
    let merged = Image::open(&dir.path().join("merged")).unwrap();
    assert_eq!((merged.blobs().len(), check::structure(&merged).unwrap().entries), (1, 3));
    assert!(merged.bootstrap().superblock().flags.contains(SuperFlags::TARFS));
}

#[test]
fn what_cannot_be_a_tarfs_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let said = |tar: &[u8]| {
        let error = build(tar, &Options::default(), &dir.path().join("boot")).unwrap_err();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
        chain(&error)
    };
    let tar = tar_of(&[("a", b"alpha")]);
    assert!(said(&[&[0x1F, 0x8B, 8][..], &tar[..]].concat()).contains("compressed (Gzip)"));
    let odd = [&tar[..], b"x"].concat();
    assert!(said(&odd).contains("multiple of 512"), "{}", said(&odd));
    assert!(said(&tar[..600]).contains("ends inside its data"), "{}", said(&tar[..600]));
    assert!(said(b"").contains("empty"));
    let mut sparse = tar::Header::new_gnu();
    sparse.set_entry_type(tar::EntryType::GNUSparse);
    sparse.set_path("holes").unwrap();
    sparse.set_size(512);
    let gnu = sparse.as_gnu_mut().unwrap();
    gnu.sparse[0].offset.copy_from_slice(b"00000010000\0");
    gnu.sparse[0].numbytes.copy_from_slice(b"00000001000\0");
    gnu.realsize.copy_from_slice(b"00000011000\0");
    sparse.set_cksum();
    let sparse = [&sparse.as_bytes()[..], &[1; 512], &[0; 1024]].concat();
    assert!(said(&sparse).contains("\"holes\" is a sparse file"), "{}", said(&sparse));
}

#[test]
fn tarfs_layers_merge_with_tarfs_layers_only() {
    let Some(golden) = golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    let tarfs = golden.join("v6-tarfs/image.boot");
    let native = golden.join("v6-dir-zstd/image.boot");
    let merged = |options: merge::Options| {
        merge(&options, Place::File(dir.path().join("out")), &Outputs::new()).unwrap_err()
    };
    let none = merge::Options::default();
    let mixed = vec![Source::at(&native), Source::at(&tarfs)];
    let error = merged(merge::Options { sources: mixed, ..none.clone() });
    assert!(error.is_inconsistent() && error.to_string().contains("tarfs"), "{error}");
    let layer = vec![Source::at(&tarfs)];
    let error =
        merged(merge::Options { sources: layer.clone(), parent: Some(tarfs.clone()), ..none.clone() });
    assert!(matches!(error, MergeError::Tarfs { .. }), "{error}");
    let error = merged(merge::Options { sources: layer, chunk_dicts: vec![native], ..none });
    assert!(matches!(error, MergeError::Tarfs { .. }), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
