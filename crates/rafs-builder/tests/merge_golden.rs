//! The merged images of the reference builder again, and what its merge gets wrong done right.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use common::{Made, bootstrap_of, golden, inode_places, normal, sections};
use rafs_builder::check;
use rafs_builder::merge::{MergeError, Options, Source, merge};
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::output::{Outputs, Place};
use rafs_builder::unpack;
use rafs_format::{BlobFeatures, Digest};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const LAYERS: [&str; 2] = [
    "4923ff94aa9c8c175ce76b51c0478061d52d3e5544bbcca8e9c876f1778c20d4",
    "b4704c3f6fa209fbbeaa989386f966ff0e3d237bcce46e6d6d4771dd66b6b692",
];

/// The bootstraps of the reference layers, as converters extract them.
fn layers(golden: &Path, dir: &Path) -> Vec<Source> {
    let extract = |id: &str| {
        let blob = std::fs::read(golden.join("v6-merge/blobs").join(id)).unwrap();
        std::fs::write(dir.join(id), bootstrap_of(&sections(&blob))).unwrap();
        Source::at(dir.join(id))
    };
    LAYERS.map(extract).to_vec()
}

fn merged(options: &Options, to: &Path) -> Result<Image, MergeError> {
    merge(options, Place::File(to.to_path_buf()), &Outputs::new())?;
    let image = Image::open(to).unwrap();
    check::structure(&image).unwrap();
    Ok(image)
}

/// Byte for byte, but for the attributes of two directories that the upper layer only implies: theirs gives them those of nobody.
#[test]
fn layers_become_the_reference_image() {
    let Some(golden) = golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    let sources = layers(&golden, dir.path());
    let options = Options { sources, prefetch: vec![b"/".to_vec()], ..Options::default() };
    let image = merged(&options, &dir.path().join("boot")).unwrap();
    let found = normal(image.bootstrap().bytes().to_vec());
    let expected = normal(std::fs::read(golden.join("v6-merge/image.boot")).unwrap());
    assert_eq!(found.len(), expected.len());
    let root = image.bootstrap().inode(image.bootstrap().superblock().root).unwrap();
    let sizes = image.bootstrap().lookup(&root, b"sizes").unwrap().unwrap().nid;
    let start = image.bootstrap().superblock().meta_start;
    let implied = [root.nid, sizes].map(|nid| nid.byte_offset(start).unwrap() as usize);
    assert!(implied.iter().all(|at| inode_places(&expected).contains(at)));
    let differ = (0..found.len()).filter(|&at| found[at] != expected[at]);
    let other: Vec<_> =
        differ.filter(|at| !implied.iter().any(|from| (*from + 4..*from + 44).contains(at))).collect();
    assert!(other.is_empty(), "differs at {other:x?}");
    // What they should be.
    let source =
        BlobSource::new(Arc::new(LocalFs { dir: Some(golden.join("v6-merge/blobs")), ..LocalFs::default() }))
            .unwrap();
    assert!(check::data(&image, &source, 2).unwrap().problems.is_empty());
    let mut out = Vec::new();
    unpack::tar_to(&image, &source, &mut out, 2).unwrap();
    let mut wanted = common::expected(&golden.join("expected-merged.json"));
    let wanted_root = wanted.remove("/").unwrap();
    assert_eq!((root.mtime_secs, format!("{:o}", root.mode & 0o7777)), (wanted_root.mtime, wanted_root.mode));
    let found = common::tar_tree(&out);
    assert_eq!(found["/sizes"].mtime, wanted["/sizes"].mtime);
    common::assert_same("v6-merge", &found, &wanted, Made::FromTar, false);
}

/// Blobs that hold their bootstraps are as good as the bootstraps; under a name that says nothing they are hashed.
#[test]
fn blobs_are_layers() {
    let Some(golden) = golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    let options = Options { sources: layers(&golden, dir.path()), ..Options::default() };
    merged(&options, &dir.path().join("boot")).unwrap();
    let blobs = LAYERS.map(|id| golden.join("v6-merge/blobs").join(id));
    let renamed: Vec<PathBuf> = (0..2).map(|n| dir.path().join(format!("layer-{n}.blob"))).collect();
    for (from, to) in blobs.iter().zip(&renamed) {
        std::fs::copy(from, to).unwrap();
    }
    for sources in [blobs.to_vec(), renamed] {
        let options = Options { sources: sources.iter().map(Source::at).collect(), ..Options::default() };
        merged(&options, &dir.path().join("other")).unwrap();
        assert!(
            std::fs::read(dir.path().join("boot")).unwrap()
                == std::fs::read(dir.path().join("other")).unwrap()
        );
    }
}

/// A bootstrap that names its blob is believed whatever its file is called; one that cannot must be called after it, or told.
#[test]
fn ids_of_blobs() {
    let Some(golden) = golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let ids = |image: &Image| image.blobs().iter().map(|blob| blob.id.to_string()).collect::<Vec<_>>();
    let separate = golden.join("v6-dir-zstd/image.boot");
    let options = Options { sources: vec![Source::at(&separate)], ..Options::default() };
    assert_eq!(ids(&merged(&options, &at("boot")).unwrap()), ids(&Image::open(&separate).unwrap()));
    let layer = layers(&golden, dir.path()).remove(1);
    std::fs::copy(&layer.path, at("layer.boot")).unwrap();
    let options = Options { sources: vec![Source::at(at("layer.boot"))], ..Options::default() };
    let error = rafs_builder::chain(&merged(&options, &at("boot")).unwrap_err());
    assert!(error.contains("layer.boot") && error.contains("--original-blob-ids"), "{error}");
    let named = Source { original_blob_id: Some("an-id".parse_id()), ..Source::at(at("layer.boot")) };
    let options = Options { sources: vec![named.clone()], ..Options::default() };
    assert_eq!(ids(&merged(&options, &at("boot")).unwrap()), ["an-id"]);
    // The digest before the id; sizes and table of contents as told.
    let told = Source {
        blob_digest: Some(Digest([0xAB; 32])),
        blob_size: Some(99_999),
        toc_digest: Some(Digest([7; 32])),
        toc_size: Some(1152),
        ..named
    };
    let image = merged(&Options { sources: vec![told], ..Options::default() }, &at("boot")).unwrap();
    let blob = &image.blobs()[0];
    assert_eq!((blob.id.to_string(), blob.compressed_size), ("ab".repeat(32), 99_999));
    assert_eq!((blob.toc_digest, blob.toc_size), (Digest([7; 32]), 1152));
    assert!(!blob.features.contains(BlobFeatures::INLINED_FS_META));
}

trait ParseId {
    fn parse_id(&self) -> rafs_format::BlobId;
}

impl ParseId for str {
    fn parse_id(&self) -> rafs_format::BlobId {
        rafs_format::BlobId::new(self).unwrap()
    }
}

/// A layer that stays as it was: what the converter wrote is its metadata blob.
#[test]
fn layers_that_stay_as_they_were() {
    let Some(golden) = golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    let blob = common::bootstrap(&golden, "v6-zran-inline-toc");
    let original = Image::open(&blob).unwrap().blobs()[0].clone();
    let source = Source { blob_digest: Some(Digest([9; 32])), blob_size: Some(16_328), ..Source::at(&blob) };
    let options = Options { sources: vec![source], ..Options::default() };
    let image = merged(&options, &dir.path().join("boot")).unwrap();
    let found = &image.blobs()[0];
    assert_eq!((&found.id, found.compressed_size), (&original.id, original.compressed_size));
    assert_eq!((found.meta_digest, found.meta_size), (Digest([9; 32]), 16_328));
}

/// A merged image is the parent of a further layer, and so is a part of itself: the same layer again changes nothing.
#[test]
fn on_top_of_a_merged_image() {
    let Some(golden) = golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let sources = layers(&golden, dir.path());
    let upper = sources[1].clone();
    let below = Options { sources: vec![sources[0].clone()], ..Options::default() };
    merged(&below, &at("parent")).unwrap();
    let on_top = Options { parent: Some(at("parent")), sources: vec![upper.clone()], ..Options::default() };
    merged(&on_top, &at("boot")).unwrap();
    merged(&Options { sources, ..Options::default() }, &at("all")).unwrap();
    let read = |name: &str| std::fs::read(at(name)).unwrap();
    assert!(read("boot") == read("all"));
    merged(
        &Options { parent: Some(at("all")), sources: vec![upper.clone()], ..Options::default() },
        &at("again"),
    )
    .unwrap();
    assert!(read("again") == read("all"));
    // In the place of its own parent.
    let options = Options { parent: Some(at("all")), sources: vec![upper], ..Options::default() };
    merged(&options, &at("all")).unwrap();
    assert!(read("again") == read("all"));
    // Two blobs are no layer.
    let error = merged(&Options { sources: vec![Source::at(at("all"))], ..Options::default() }, &at("x"));
    assert!(matches!(error, Err(MergeError::SeveralBlobs { count: 2, .. })));
    assert!(!at("x").exists());
}

/// Blobs of the chunk dictionary may be in every layer, besides its own.
#[test]
fn layers_built_with_a_chunk_dictionary() {
    let Some(golden) = golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    let layer = golden.join("v6-chunkdict/image.boot");
    let options = Options { sources: vec![Source::at(&layer)], ..Options::default() };
    let error = merged(&options, &dir.path().join("boot"));
    assert!(matches!(error, Err(MergeError::SeveralBlobs { count: 2, .. })));
    let chunk_dicts = vec![golden.join("v6-dir-lz4-8k/image.boot")];
    let image = merged(&Options { chunk_dicts, ..options }, &dir.path().join("boot")).unwrap();
    let mut found = image.blobs().to_vec();
    found.sort_by(|a, b| b.id.cmp(&a.id));
    assert_eq!(found, Image::open(&layer).unwrap().blobs());
}

/// An encrypted layer makes an encrypted image, whose key stays where it was.
#[test]
fn encrypted_layers() {
    let Some(golden) = golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    let layer = golden.join("v6-dir-encrypt/image.boot");
    let before = Image::open(&layer).unwrap();
    let sources = vec![Source::at(&layer)];
    let image = merged(&Options { sources, ..Options::default() }, &dir.path().join("boot")).unwrap();
    assert_eq!(image.bootstrap().superblock().flags, before.bootstrap().superblock().flags);
    assert_eq!(image.blobs(), before.blobs());
}

#[test]
fn layers_that_do_not_fit_together() {
    let Some(golden) = golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    let image = |name: &str| Source::at(golden.join(name).join("image.boot"));
    let options =
        Options { sources: vec![image("v6-dir-zstd"), image("v6-dir-lz4-8k")], ..Options::default() };
    let error = merged(&options, &dir.path().join("boot")).unwrap_err();
    assert!(error.is_inconsistent(), "{error}");
    let said = error.to_string();
    assert!(said.contains("0x2000") && said.contains("0x100000") && said.contains("v6-dir-zstd"), "{said}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// What is wrong with a layer is an error that names it, or does not matter: nothing is written then that does not pass the check.
#[test]
fn damaged_layers() {
    let Some(golden) = golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    let [lower, upper]: [Source; 2] = layers(&golden, dir.path()).try_into().unwrap();
    let bytes = std::fs::read(&upper.path).unwrap();
    let id = upper.path.file_name().unwrap();
    let damaged = dir.path().join("damaged").join(id);
    std::fs::create_dir(damaged.parent().unwrap()).unwrap();
    let boot = dir.path().join("boot");
    let (mut refused, mut state) = (0, 1u64);
    for _ in 0..400 {
        // A place among those that hold something, and a bit of it.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let places: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at] != 0).collect();
        let mut bad = bytes.clone();
        bad[places[(state >> 33) as usize % places.len()]] ^= 1 << (state >> 61);
        std::fs::write(&damaged, bad).unwrap();
        let sources = vec![lower.clone(), Source::at(&damaged)];
        match merge(&Options { sources, ..Options::default() }, Place::File(boot.clone()), &Outputs::new()) {
            Ok(_) => {
                check::structure(&Image::open(&boot).unwrap()).unwrap();
                std::fs::remove_file(&boot).unwrap();
            }
            Err(error) => {
                refused += 1;
                let said = rafs_builder::chain(&error);
                assert!(said.contains("damaged") || matches!(error, MergeError::Format(_)), "{said}");
                assert!(!boot.exists());
            }
        }
    }
    assert!((100..400).contains(&refused), "{refused}");
}
