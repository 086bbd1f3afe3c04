//! Layers of v5 become the image that those of v6 become; what does not fit together is told.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Made, golden};
use rafs_builder::create::{DigestAlgorithm, Input, Options as CreateOptions, Places, Version, create};
use rafs_builder::digest::{self, Scope};
use rafs_builder::merge::{MergeError, Options, Report, Source, merge};
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::output::{Outputs, Place};
use rafs_builder::{chain, check, unpack};
use rafs_format::Compressor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Builds a layer: its bootstrap is `name` in `dir`, or stands in the blob, whose path is returned then.
fn layer(input: Input<'_>, dir: &Path, name: Option<&str>, options: &CreateOptions) -> PathBuf {
    let bootstrap = name.map(|name| Place::File(dir.join(name)));
    let places = Places { bootstrap, blob: Place::Directory(dir.to_path_buf()) };
    let report = create(input, options, places, &Outputs::new(), &|_| {}).unwrap();
    name.map_or_else(|| report.blob_path.unwrap(), |name| dir.join(name))
}

fn tar(golden: &Path, name: &str) -> Input<'static> {
    Input::Tar(Box::new(std::fs::File::open(golden.join(name)).unwrap()))
}

fn v5() -> CreateOptions {
    CreateOptions { version: Version::V5, chunk_size: 0x4000, threads: 2, ..CreateOptions::default() }
}

fn merged(options: &Options, to: &Path) -> Result<Report, MergeError> {
    let report = merge(options, Place::File(to.to_path_buf()), &Outputs::new())?;
    let image = Image::open(to).unwrap();
    check::structure(&image).unwrap();
    assert_eq!(Some(digest::tree(image.bootstrap(), Scope::Full).unwrap().digest), report.tree_digest);
    assert_eq!(image.bootstrap().superblock().version, report.version);
    Ok(report)
}

fn of(sources: &[PathBuf]) -> Options {
    Options { sources: sources.iter().map(Source::at).collect(), ..Options::default() }
}

#[test]
fn layers_of_both_versions_become_the_same_tree() {
    let Some(golden) = golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    let v6 = CreateOptions { version: Version::V6, ..v5() };
    let layers = |name: &str, options: &CreateOptions, inline: bool| {
        ["nasty.tar", "upper.tar"].map(|source| {
            let name = format!("{name}-{source}");
            layer(tar(&golden, source), dir.path(), (!inline).then_some(&name), options)
        })
    };
    let new = merged(&of(&layers("v6", &v6, false)), &dir.path().join("new")).unwrap();
    let separate = layers("v5", &v5(), false);
    let boot = dir.path().join("boot");
    let old = merged(&of(&separate), &boot).unwrap();
    assert_eq!((old.version, old.tree_digest), (Version::V5, new.tree_digest));
    let first = std::fs::read(&boot).unwrap();
    // In two steps, the first of which is an image.
    let below = dir.path().join("below");
    merged(&of(&separate[..1]), &below).unwrap();
    merged(&Options { parent: Some(below), ..of(&separate[1..]) }, &boot).unwrap();
    assert!(std::fs::read(&boot).unwrap() == first);
    // Out of blobs.
    let inline = merged(&of(&layers("", &v5(), true)), &boot).unwrap();
    assert_eq!((inline.tree_digest, inline.blobs.len()), (new.tree_digest, 2));
    let image = Image::open(&boot).unwrap();
    let local = LocalFs { dir: Some(dir.path().to_path_buf()), ..LocalFs::default() };
    let source = BlobSource::new(Arc::new(local)).unwrap();
    let report = check::data(&image, &source, 2).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    let mut out = Vec::new();
    unpack::tar_to(&image, &source, &mut out, 2).unwrap();
    let mut wanted = common::expected(&golden.join("expected-merged.json"));
    wanted.remove("/").unwrap();
    common::assert_same("v5", &common::tar_tree(&out), &wanted, Made::FromDirectory, false);
}

/// A directory with this one file.
fn file(dir: &Path, name: &str, content: &str) -> Input<'static> {
    let source = dir.join(format!("{name}.d"));
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join(name), content).unwrap();
    Input::Directory(source)
}

#[test]
fn what_is_read_ahead_stays_and_the_compression_is_that_of_all() {
    let dir = tempfile::tempdir().unwrap();
    let text = "of some length ".repeat(100);
    let prefetch = CreateOptions { prefetch: vec![b"/".to_vec()], ..v5() };
    let none = CreateOptions { compressor: Compressor::None, ..v5() };
    let sources = [
        layer(file(dir.path(), "a", &text), dir.path(), Some("a"), &prefetch),
        layer(file(dir.path(), "b", "plain"), dir.path(), Some("b"), &none),
    ];
    let first = Image::open(&sources[0]).unwrap();
    let ahead = first.bootstrap().readahead(0);
    assert!(
        ahead.start == 0 && ahead.end == first.blobs()[0].compressed_size && ahead.end < 100,
        "{ahead:?}"
    );
    let boot = dir.path().join("boot");
    for sources in [sources.to_vec(), sources.iter().rev().cloned().collect()] {
        let report = merged(&of(&sources), &boot).unwrap();
        assert_eq!(report.compressor, Compressor::Zstd);
        let image = Image::open(&boot).unwrap();
        assert_eq!([0, 1].map(|n| image.bootstrap().readahead(n)), [ahead.clone(), 0..0]);
        let local = LocalFs { dir: Some(dir.path().to_path_buf()), ..LocalFs::default() };
        let source = BlobSource::new(Arc::new(local)).unwrap();
        assert!(check::data(&image, &source, 1).unwrap().problems.is_empty());
    }
}

#[test]
fn layers_that_do_not_fit_together() {
    let dir = tempfile::tempdir().unwrap();
    let first = layer(file(dir.path(), "a", &"a".repeat(100)), dir.path(), Some("a"), &v5());
    let others = [
        ("the RAFS version", CreateOptions { version: Version::V6, ..v5() }),
        ("the digester", CreateOptions { digester: DigestAlgorithm::Sha256, ..v5() }),
        ("the compression", CreateOptions { compressor: Compressor::Lz4Block, ..v5() }),
        ("the chunk size", CreateOptions { chunk_size: 0x1000, ..v5() }),
    ];
    for (n, (what, options)) in others.iter().enumerate() {
        let name = format!("b{n}");
        let other = layer(file(dir.path(), &name, &"b".repeat(100)), dir.path(), Some(&name), options);
        for sources in [[first.clone(), other.clone()], [other.clone(), first.clone()]] {
            let boot = dir.path().join("boot");
            let error = merged(&of(&sources), &boot).unwrap_err();
            assert!(error.is_inconsistent() && !boot.exists(), "{}", chain(&error));
            assert!(chain(&error).contains(what), "{}", chain(&error));
        }
    }
}
