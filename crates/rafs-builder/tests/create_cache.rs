//! Cache files instead of a blob: those that a daemon of the reference implementation left when it had read everything, as far as compression lets them be the same.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use common::{all_blobs, golden};
use rafs_builder::create::{Input, Options, Report, create, create_cache};
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::output::{Outputs, Place};
use rafs_builder::unpack::{self, Target};
use rafs_format::{Blob, Compressor};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fn cache(source: &Path, options: &Options, dir: &Path) -> Report {
    let (input, boot) = (Input::Directory(source.to_path_buf()), Place::File(dir.join("boot")));
    create_cache(input, options, boot, dir, &Outputs::new(), &|_| {}).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut all: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

/// The chunk table of `blob` and its header, out of the bytes of the blob.
fn table(blob: &Blob, bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (start, size) = (blob.meta.compressed_offset as usize, blob.meta.compressed_size as usize);
    let end = start + size;
    (bytes[start..end].to_vec(), bytes[end..end + 4096].to_vec())
}

#[test]
fn cache_files_are_those_of_a_warmed_cache() {
    let Some(golden) = golden() else { return };
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: owners, devices and trusted xattrs need root");
        return;
    }
    let (blobs, made) = (all_blobs(&golden), tempfile::tempdir().unwrap());
    let source = made.path().join("nasty.d");
    let local = LocalFs { dir: Some(blobs.path().to_path_buf()), ..LocalFs::default() };
    let image = Image::open(&golden.join("v6-dir-lz4-8k/image.boot")).unwrap();
    let (from, target) = (BlobSource::new(Arc::new(local)).unwrap(), Target::Directory(source.clone()));
    unpack::unpack(&image, &from, &target, 2, &AtomicBool::new(false)).unwrap();
    let options = Options { chunk_size: 0x2000, compressor: Compressor::None, ..Options::default() };
    let (dir, plain) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let report = cache(&source, &options, dir.path());
    let id = report.blob.unwrap();
    assert_eq!(report.blob_path, None);
    let file = |what: &str| std::fs::read(dir.path().join(format!("{id}.blob.{what}"))).unwrap();
    let mut expected = ["data", "data.chunk_map", "meta"].map(|what| format!("{id}.blob.{what}")).to_vec();
    expected.push("boot".to_owned());
    expected.sort();
    assert_eq!(names(dir.path()), expected);
    // The same chunks of another compression: data and map are theirs.
    let theirs = golden.join("cache-v6-dir-lz4-8k").join(image.blobs()[0].id.as_str());
    let theirs = |what: &str| std::fs::read(format!("{}.blob.{what}", theirs.display())).unwrap();
    assert!(file("data") == theirs("data"));
    assert_eq!(file("data.chunk_map")[4096..], theirs("data.chunk_map")[4096..]);
    assert_eq!(file("data.chunk_map")[..12], theirs("data.chunk_map")[..12]);
    // The chunk table is that of the blob, in the form that theirs has to that of their blob.
    let their_blob = std::fs::read(blobs.path().join(image.blobs()[0].id.as_str())).unwrap();
    let places = (Place::File(plain.path().join("boot")), Place::Directory(plain.path().to_path_buf()));
    create(Input::Directory(source), &options, places, &Outputs::new(), &|_| {}).unwrap();
    let boot = std::fs::read(plain.path().join("boot")).unwrap();
    assert!(std::fs::read(dir.path().join("boot")).unwrap() == boot, "the bootstrap is that of the blob");
    let ours = Image::open(&plain.path().join("boot")).unwrap();
    let our_blob = std::fs::read(plain.path().join(id.as_str())).unwrap();
    for (blob, bytes, meta) in
        [(&image.blobs()[0], their_blob, theirs("meta")), (&ours.blobs()[0], our_blob, file("meta"))]
    {
        let (stored, header) = table(blob, &bytes);
        let size = blob.meta.uncompressed_size as usize;
        let table = rafs_codec::Decoder::new().decode(blob.meta.compressor, &stored, size).unwrap();
        assert_eq!(meta.len(), size.next_multiple_of(4096) + 4096);
        assert!(meta[..size] == table && meta[size..meta.len() - 4096].iter().all(|&byte| byte == 0));
        assert!(meta[meta.len() - 4096..] == header);
    }
}

/// Chunks of batches are in the cache at places of their own.
#[test]
fn batches_in_a_cache_are_chunks() {
    let (source, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for n in 0..9u8 {
        std::fs::write(source.path().join(format!("f{n}")), vec![n; 100 + usize::from(n)]).unwrap();
    }
    let options = Options { batch_size: 0x1000, compressor: Compressor::None, ..Options::default() };
    let id = cache(source.path(), &options, dir.path()).blob.unwrap();
    let data = std::fs::read(dir.path().join(format!("{id}.blob.data"))).unwrap();
    let expected: Vec<u8> = (0..9u8)
        .flat_map(|n| {
            let mut block = vec![n; 100 + usize::from(n)];
            block.resize(4096, 0);
            block
        })
        .collect();
    assert!(data == expected);
    let map = std::fs::read(dir.path().join(format!("{id}.blob.data.chunk_map"))).unwrap();
    assert_eq!(map[4096..], [0xFF, 0x80]);
}

/// Without data there is no blob and no cache of it.
#[test]
fn an_image_without_data_has_no_cache() {
    let (source, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert_eq!(cache(source.path(), &Options::default(), dir.path()).blob, None);
    assert_eq!(names(dir.path()), ["boot"]);
}
