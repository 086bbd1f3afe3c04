//! Small files in batches: formed as the rule says, the same whatever the number of threads, and read back whole. Encrypted blobs: without
//! their keys, unless that is asked for.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::tar_tree;
use proptest::prelude::*;
use rafs_builder::create::{CreateError, Encryption, Input, Options, Places, Report, Secret, create};
use rafs_builder::keys::Keys;
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::output::{Outputs, Place};
use rafs_builder::{check, unpack};
use rafs_codec::UnitCodec;
use rafs_format::{BlobFeatures, ChunkIndex, Compressor, SuperFlags};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

const CHUNK: u32 = 0x4000;

fn tar(files: &[Vec<u8>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (n, file) in files.iter().enumerate() {
        let mut header = tar::Header::new_gnu();
        header.set_size(file.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("f{n:05}"), file.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn build(tar: &[u8], options: &Options, dir: &Path) -> Report {
    let places = (Place::File(dir.join("boot")), Place::Directory(dir.to_path_buf()));
    create(Input::Tar(Box::new(tar)), options, places, &Outputs::new(), &|_| {}).unwrap()
}

fn local(dir: &Path) -> BlobSource {
    BlobSource::new(Arc::new(LocalFs { dir: Some(dir.to_path_buf()), ..LocalFs::default() })).unwrap()
}

fn options(batch_size: u32, threads: usize, compressor: Compressor) -> Options {
    Options { chunk_size: CHUNK, batch_size, threads, compressor, ..Options::default() }
}

/// Plain sizes of what is stored as one, in blob order; and for each chunk which of them, where in it, and whether it is a batch.
type Units = (Vec<usize>, Vec<(usize, usize, bool)>);

/// The rule: a file of one chunk below half the batch size goes into the batch, which is closed before it would reach its size, and
/// before any other chunk.
fn model(files: &[Vec<u8>], batch_size: usize) -> Units {
    let (mut units, mut places): Units = (Vec::new(), Vec::new());
    let mut open: Option<usize> = None;
    let mut seen = HashSet::new();
    for file in files {
        for chunk in file.chunks(CHUNK as usize) {
            if !seen.insert(chunk) {
                continue;
            }
            if file.len() >= batch_size / 2 {
                open = None;
                places.push((units.len(), 0, false));
                units.push(chunk.len());
                continue;
            }
            let unit = open.filter(|&unit| units[unit] + chunk.len() < batch_size);
            let unit = unit.unwrap_or_else(|| {
                units.push(0);
                units.len() - 1
            });
            open = Some(unit);
            places.push((unit, units[unit], true));
            units[unit] += chunk.len();
        }
    }
    (units, places)
}

/// What the chunk table of the only blob in `dir` says.
fn found(dir: &Path, report: &Report) -> Units {
    let image = Image::open(&dir.join("boot")).unwrap();
    let blob = &image.blobs()[0];
    assert!(blob.features.contains(BlobFeatures::BATCH | BlobFeatures::CHUNK_INFO_V2));
    let bytes = std::fs::read(dir.join(report.blob.as_ref().unwrap().as_str())).unwrap();
    let codec = UnitCodec::new(blob).unwrap();
    let range = codec.table_range(blob).unwrap();
    let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
    let table = codec.table(blob, &bytes[range]).unwrap();
    ChunkIndex::build(image.bootstrap()).unwrap();
    let records = image.bootstrap().superblock().chunk_table_records;
    let mut chunks: Vec<_> = (0..records).map(|n| image.bootstrap().chunk_record(n).unwrap()).collect();
    chunks.sort_by_key(|chunk| chunk.index);
    let (mut units, mut places): Units = (Vec::new(), Vec::new());
    let mut last = None;
    for chunk in chunks {
        let unit = table.unit(blob, &chunk).unwrap();
        if last != Some(unit.compressed.start) {
            assert!(last.is_some() || unit.compressed.start == 0);
            last = Some(unit.compressed.start);
            units.push(usize::try_from(unit.uncompressed_size).unwrap());
        }
        places.push((units.len() - 1, unit.start as usize, chunk.compressed_size == 0));
    }
    (units, places)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn batches_are_formed_as_the_rule_says(
        sizes in prop::collection::vec(prop_oneof![0usize..40, 500usize..3000, 0x1ff0usize..0x2010, 0x3ff0usize..0x9000], 1..60),
        kinds in prop::collection::vec(0u8..4, 60),
        batch_bits in 12u32..15,
    ) {
        let files: Vec<Vec<u8>> = sizes
            .iter()
            .zip(&kinds)
            .map(|(&size, &kind)| match kind {
                0 => vec![7; size],
                1 => testkit::blob::pattern(u32::try_from(size).unwrap(), size),
                _ => format!("{size} ").into_bytes().into_iter().cycle().take(size).collect(),
            })
            .collect();
        let tar = tar(&files);
        let dir = tempfile::tempdir().unwrap();
        let report = build(&tar, &options(1 << batch_bits, 3, Compressor::Zstd), dir.path());
        let expected = model(&files, 1 << batch_bits);
        if expected.1.is_empty() {
            prop_assert!(report.blob.is_none());
            return Ok(());
        }
        prop_assert_eq!(found(dir.path(), &report), expected);
    }
}

fn encryption(first: u8, key_in_bootstrap: bool) -> Encryption {
    let mut key = [9; 32];
    key[0] = first;
    Encryption { key: Secret::new(key).unwrap(), iv: [first; 16], key_in_bootstrap }
}

/// An encrypted image that leaves its key out: it says so, is read with the key, and not with another one. Plain data is nowhere in the blob.
#[test]
fn a_key_that_is_not_in_the_image() {
    let files: Vec<Vec<u8>> = (0..300u32)
        .map(|n| match n % 4 {
            0 => vec![b'a'; (n as usize) % 30 + 1],
            1 => testkit::blob::pattern(n, 900),
            2 => testkit::blob::pattern(n, 40_000 + n as usize),
            _ => format!("plain text {n} ").repeat(300).into_bytes(),
        })
        .collect();
    let tar = tar(&files);
    let expected = tar_tree(&tar);
    for (batch_size, compressor, toc) in [
        (0, Compressor::Zstd, false),
        (0x1000, Compressor::Lz4Block, true),
        (0x4000, Compressor::None, false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let with = |threads, key_in_bootstrap| Options {
            encryption: Some(encryption(1, key_in_bootstrap)),
            toc,
            ..options(batch_size, threads, compressor)
        };
        let report = build(&tar, &with(3, false), dir.path());
        let blob = std::fs::read(dir.path().join(report.blob.as_ref().unwrap().as_str())).unwrap();
        let boot = std::fs::read(dir.path().join("boot")).unwrap();
        let key = encryption(1, false).key.put_in().0;
        for bytes in [&blob, &boot] {
            assert!(!bytes.windows(32).any(|window| window == key), "the key is in none of them");
        }
        assert!(!blob.windows(11).any(|window| window == b"plain text "));
        let image = Image::open(&dir.path().join("boot")).unwrap();
        assert!(image.bootstrap().superblock().flags.contains(SuperFlags::ENCRYPTION_AES_XTS));
        assert!(image.blobs()[0].features.contains(BlobFeatures::ENCRYPTED));
        check::structure(&image).unwrap();
        let wrong = Keys::from(vec![encryption(2, false).key]);
        for keys in [Keys::default(), wrong.clone()] {
            let source = local(dir.path()).with_keys(keys);
            let error = unpack::tar_to(&image, &source, &mut Vec::new(), 2).unwrap_err();
            let said = rafs_builder::chain(&error);
            assert!(said.contains("its key is not in the image, and none that was given fits"), "{said}");
        }
        let keys = Keys::from(vec![encryption(2, false).key, encryption(1, false).key]);
        let source = local(dir.path()).with_keys(keys);
        let checked = check::data(&image, &source, 2).unwrap();
        assert!(checked.problems.is_empty(), "{:?}", checked.problems);
        let mut out = Vec::new();
        unpack::tar_to(&image, &source, &mut out, 2).unwrap();
        assert!(tar_tree(&out) == expected);
        // With one thread, and with the key in the bootstrap, the blob is the same and needs no key from elsewhere.
        let open = tempfile::tempdir().unwrap();
        let again = build(&tar, &with(1, true), open.path());
        assert_eq!(again.blob, report.blob);
        let image = Image::open(&open.path().join("boot")).unwrap();
        assert_eq!(image.blobs()[0].meta_digest.0, key);
        let checked = check::data(&image, &local(open.path()), 2).unwrap();
        assert!(checked.problems.is_empty(), "{:?}", checked.problems);
    }
}

/// The blob may hold its bootstrap, but then not its key.
#[test]
fn a_key_is_never_in_the_blob() {
    let (dir, tar) = (tempfile::tempdir().unwrap(), tar(&[vec![b'x'; 5000]]));
    let build = |key_in_bootstrap| {
        let places = Places { bootstrap: None, blob: Place::Directory(dir.path().to_path_buf()) };
        let encryption = Some(encryption(1, key_in_bootstrap));
        let options = Options { encryption, ..options(0, 1, Compressor::Zstd) };
        create(Input::Tar(Box::new(tar.as_slice())), &options, places, &Outputs::new(), &|_| {})
    };
    assert!(matches!(build(true), Err(CreateError::KeyBesideData)));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let report = build(false).unwrap();
    let image = Image::open(&report.blob_path.unwrap()).unwrap();
    let source = local(dir.path()).with_keys(Keys::from(vec![encryption(1, false).key]));
    assert!(check::data(&image, &source, 1).unwrap().problems.is_empty());
}

/// So many batches and so few threads that what waits for them exceeds its bound: one thread and many give one blob, which reads back.
#[test]
fn threads_do_not_change_a_byte() {
    let mut files = Vec::new();
    for n in 0..4000u32 {
        let text = format!("{n:06} ").repeat(1 + (n as usize * 37) % 250);
        files.push(if n % 5 == 0 { testkit::blob::pattern(n, text.len()) } else { text.into_bytes() });
        if n % 401 == 400 {
            files.push(testkit::blob::pattern(n, 700_000));
        }
    }
    let tar = tar(&files);
    let expected = tar_tree(&tar);
    for compressor in [Compressor::Zstd, Compressor::Lz4Block, Compressor::None] {
        let mut seen = None;
        for threads in [1, 2, 7] {
            let dir = tempfile::tempdir().unwrap();
            let report = build(&tar, &options(0x4000, threads, compressor), dir.path());
            let blob = std::fs::read(dir.path().join(report.blob.unwrap().as_str())).unwrap();
            let bytes = (std::fs::read(dir.path().join("boot")).unwrap(), blob);
            if let Some(seen) = &seen {
                assert!(*seen == bytes, "{compressor:?}, {threads} threads");
                continue;
            }
            seen = Some(bytes);
            let image = Image::open(&dir.path().join("boot")).unwrap();
            check::structure(&image).unwrap();
            let report = check::data(&image, &local(dir.path()), 2).unwrap();
            assert!(report.problems.is_empty(), "{:?}", report.problems);
            let mut out = Vec::new();
            unpack::tar_to(&image, &local(dir.path()), &mut out, 2).unwrap();
            assert!(tar_tree(&out) == expected, "{compressor:?}");
        }
    }
}

/// A blob whose writer fails while batches are on their way ends the build with that error, and does not wait for anything.
#[test]
fn a_blob_that_cannot_be_written() {
    let files: Vec<_> = (0..3000u32).map(|n| testkit::blob::pattern(n, 1500)).collect();
    let dir = tempfile::tempdir().unwrap();
    let places = (Place::File(dir.path().join("boot")), Place::File("/dev/full".into()));
    let input = Input::Tar(Box::new(std::io::Cursor::new(tar(&files))));
    let options = options(0x1000, 2, Compressor::Zstd);
    let error = create(input, &options, places, &Outputs::new(), &|_| {}).unwrap_err();
    let said = rafs_builder::chain(&error);
    assert!(said.starts_with("cannot write blob /dev/full: No space left"), "{said}");
}
