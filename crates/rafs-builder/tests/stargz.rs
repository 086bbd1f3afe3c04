//! eStargz layers: a bootstrap from the table of contents alone, whose data is read out of the untouched layer.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use common::tar_tree;
use rafs_builder::create::{
    BlobId, CreateError, Input, Options, Report, StargzOptions, create, create_stargz,
};
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::output::{Outputs, Place};
use rafs_builder::{chain, check, unpack};
use rafs_format::blob_meta::{self, Header};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use testkit::blob::pattern;
use testkit::estargz::{Entry, Kind, Layer, layer};

const CHUNK: usize = 0x1000;

fn noise(seed: u32, size: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..size).map(|_| next()).collect()
}

/// All kinds of entries, chunks that compress and that do not, twice the same, links to what comes later.
fn sample() -> Vec<Entry> {
    let file = |content: Vec<u8>| Kind::File(content);
    [
        ("d/", Kind::Directory),
        ("d/early", Kind::HardLink("d/noise".into())),
        ("d/zeros", file(vec![0; 5 * CHUNK])),
        ("d/noise", file(noise(7, 3 * CHUNK + 100))),
        ("d/link", Kind::Symlink("../target".into())),
        ("d/again", Kind::HardLink("d/zeros".into())),
        ("e/implied/empty", file(Vec::new())),
        ("e/exact", file(pattern(3, 2 * CHUNK))),
        ("e/same", file(pattern(3, 2 * CHUNK))),
        ("fifo", Kind::Fifo),
        ("one", file(b"1".to_vec())),
        ("z", file(vec![0; CHUNK])),
    ]
    .into_iter()
    .map(|(path, kind)| (path.to_owned(), kind))
    .collect()
}

/// A directory with a layer under its id.
struct Made {
    dir: tempfile::TempDir,
    layer: Layer,
    id: String,
}

impl Made {
    fn of(entries: &[Entry]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layer = layer(entries, CHUNK);
        let id = hex::encode(Sha256::digest(&layer.bytes));
        std::fs::write(dir.path().join(&id), &layer.bytes).unwrap();
        Self { dir, layer, id }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn convert(&self, toc: &[u8], data_size: Option<u64>) -> Result<Report, CreateError> {
        let options = Options { chunk_size: CHUNK as u32, ..Options::default() };
        let stargz = StargzOptions {
            blob_id: BlobId::new(&self.id).unwrap(),
            data_size,
            bootstrap: Place::File(self.at("boot")),
            blob_meta: Some(self.at("meta")),
        };
        create_stargz(toc, &options, &stargz, &Outputs::new())
    }

    fn source(&self) -> BlobSource {
        let local = LocalFs { dir: Some(self.dir.path().to_path_buf()), ..LocalFs::default() };
        BlobSource::new(Arc::new(local)).unwrap()
    }

    fn unpacked(&self, boot: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let image = Image::open(&self.at(boot)).unwrap();
        unpack::tar_to(&image, &self.source(), &mut out, 2)
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
        out
    }
}

/// Builds the layer itself as a native image, chunk by chunk the same.
fn native(layer: &[u8], dir: &Path) -> Report {
    let options = Options {
        chunk_size: CHUNK as u32,
        digester: rafs_format::DigestAlgorithm::Sha256,
        ..Options::default()
    };
    let places = (Place::File(dir.join("native")), Place::Directory(dir.to_path_buf()));
    create(Input::Tar(Box::new(layer)), &options, places, &Outputs::new(), &|_| {}).unwrap()
}

#[test]
fn a_layer_by_its_table_is_the_layer() {
    let made = Made::of(&sample());
    let native = native(&made.layer.bytes, made.dir.path());
    for data_size in [None, Some(made.layer.bytes.len() as u64), Some(made.layer.toc_offset)] {
        let report = made.convert(&made.layer.toc, data_size).unwrap();
        assert_eq!(report.blob.unwrap().as_str(), made.id);
        let image = Image::open(&made.at("boot")).unwrap();
        check::structure(&image).unwrap();
        let problems = check::data(&image, &made.source(), 2).unwrap().problems;
        assert!(problems.is_empty(), "{:?}", problems.iter().map(|p| chain(p)).collect::<Vec<_>>());
        assert_eq!(report.tree_digest, native.tree_digest, "the same tree");
        let (found, expected) = (tar_tree(&made.unpacked("boot")), tar_tree(&made.unpacked("native")));
        assert_eq!(found, expected);
        assert_eq!(found["/d/noise"].xattrs.len(), 1);
        assert!(!found.keys().any(|path| path.contains("landmark") || path.contains("stargz")));
        // Chunks with the same bytes are there once.
        assert_eq!((report.chunks, report.duplicates.0), (native.chunks, native.duplicates.0));
    }
}

/// The chunk table is the file that a cache of 2.x looks for.
#[test]
fn the_chunk_table_is_that_of_the_bootstrap() {
    let made = Made::of(&sample());
    made.convert(&made.layer.toc, None).unwrap();
    let image = Image::open(&made.at("boot")).unwrap();
    let blob = &image.blobs()[0];
    let file = std::fs::read(made.at("meta")).unwrap();
    let size = usize::try_from(blob.meta.uncompressed_size).unwrap();
    assert_eq!(file.len(), size.next_multiple_of(4096) + 4096);
    Header::parse(&file[file.len() - 4096..], blob).unwrap();
    let positions: Vec<_> = blob_meta::entries_v1(&file[..size], blob).unwrap().map(Result::unwrap).collect();
    let mut chunks: Vec<_> = (0..image.bootstrap().superblock().chunk_table_records)
        .map(|n| image.bootstrap().chunk_record(n).unwrap())
        .collect();
    chunks.sort_by_key(|chunk| chunk.index);
    assert_eq!(positions.len(), chunks.len());
    for (position, chunk) in positions.iter().zip(&chunks) {
        assert_eq!(
            (position.compressed_offset, position.compressed_size, position.uncompressed_offset),
            (chunk.compressed_offset, chunk.compressed_size, chunk.uncompressed_offset)
        );
    }
}

#[test]
fn a_changed_layer_is_found_out() {
    let made = Made::of(&sample());
    made.convert(&made.layer.toc, None).unwrap();
    let image = Image::open(&made.at("boot")).unwrap();
    let mut chunks: Vec<_> = (0..image.bootstrap().superblock().chunk_table_records)
        .map(|n| image.bootstrap().chunk_record(n).unwrap())
        .collect();
    chunks.sort_by_key(|chunk| chunk.index);
    for chunk in chunks {
        let mut bytes = made.layer.bytes.clone();
        // In the compressed bytes, behind the header of the member.
        bytes[usize::try_from(chunk.compressed_offset).unwrap() + 11] ^= 0x55;
        std::fs::write(made.at(&made.id), bytes).unwrap();
        let problems = check::data(&image, &made.source(), 1).unwrap().problems;
        let said: Vec<_> = problems.iter().map(|problem| chain(problem)).collect();
        assert!(said.iter().any(|one| one.contains(&format!("chunk {} ", chunk.index))), "{said:?}");
    }
}

#[test]
fn an_estargz_layer_is_also_a_tar() {
    let made = Made::of(&sample());
    native(&made.layer.bytes, made.dir.path());
    let tree = tar_tree(&made.unpacked("native"));
    assert_eq!(tree["/d/zeros"].size, 5 * CHUNK as u64);
    assert_eq!(tree["/d/early"].links.len(), 2);
    assert!(!tree.keys().any(|path| path.contains("landmark") || path.contains("stargz")));
}

#[test]
fn a_table_without_data_is_an_image_without_blobs() {
    let made = Made::of(&[("d/".to_owned(), Kind::Directory)]);
    let toc =
        br#"{"version":1,"entries":[{"name":"d/","type":"dir","mode":493},{"name":"d/e","type":"reg"}]}"#;
    let report = made.convert(toc, None).unwrap();
    assert_eq!((report.blob, report.entries), (None, 3));
    assert_eq!(std::fs::read(made.at("meta")).unwrap(), b"");
}

/// What is wrong with an entry is an error that names it, and leaves nothing.
#[test]
fn wrong_tables_are_refused_by_the_entry() {
    let made = Made::of(&[]);
    let before = std::fs::read_dir(made.dir.path()).unwrap().count();
    let said = |entries: serde_json::Value| {
        let toc = serde_json::json!({"version": 1, "entries": entries}).to_string();
        let error = made.convert(toc.as_bytes(), Some(10_000)).unwrap_err();
        assert_eq!(std::fs::read_dir(made.dir.path()).unwrap().count(), before);
        chain(&error)
    };
    let digest = format!("sha256:{}", "a".repeat(64));
    let file = |name: &str, size: u64, offset: u64| serde_json::json!({"name": name, "type": "reg", "size": size, "offset": offset, "chunkDigest": digest});
    let chunk = |name: &str, at: u64, offset: u64| serde_json::json!({"name": name, "type": "chunk", "chunkOffset": at, "offset": offset, "chunkDigest": digest});
    let with = |mut entry: serde_json::Value, key: &str, value: serde_json::Value| {
        entry[key] = value;
        entry
    };
    let first = |size: u64| with(file("big", size, 0), "chunkSize", 4096.into());
    for (entries, part) in [
        (
            vec![serde_json::json!({"name": "x", "type": "door"})],
            "\"x\" cannot be stored: it has the unknown type \"door\"",
        ),
        (vec![chunk("x", 0, 0)], "\"x\" cannot be stored: it is a chunk without its file"),
        (vec![file("a", 9, 0), chunk("b", 0, 9)], "\"b\" cannot be stored: it is a chunk without its file"),
        (vec![file("big", 5000, 0)], "\"big\" cannot be stored: its chunk at 0 has 5000 bytes"),
        (vec![first(5000)], "\"big\" cannot be stored: its chunks have 4096 bytes, and the file has 5000"),
        (vec![first(5000), chunk("big", 4000, 9)], "its chunk is at 4000, expected 4096"),
        (vec![first(5000), chunk("big", 4096, 0)], "its gzip member at 0 is not behind"),
        (vec![file("a", 9, 50), file("b", 9, 40)], "\"b\" cannot be stored: its gzip member at 40"),
        (vec![with(file("a", 9, 0), "innerOffset", 7.into())], "shares a gzip member"),
        (vec![with(file("a", 9, 0), "chunkDigest", "md5:1".into())], "has the digest \"md5:1\""),
        (vec![with(file("a", 9, 0), "modtime", "today".into())], "its time is \"today\""),
        (
            vec![with(file("a", 9, 0), "xattrs", serde_json::json!({"user.a": "%"}))],
            "\"user.a\" is not base64",
        ),
        (vec![file("a", 9, 10_000)], "a chunk starts at 10000, and the layer has 10000 bytes"),
        (vec![file("a", 9, 1 << 41)], "its gzip member at 2199023255552"),
        (vec![file("../a", 9, 0)], "has a \"..\" in it"),
        (vec![file("", 9, 0)], "its name is empty"),
        (
            vec![serde_json::json!({"name": "l", "type": "hardlink", "linkName": "gone"})],
            "is not in the layer",
        ),
        (vec![file("a", u64::MAX, 0)], "\"a\" cannot be stored"),
    ] {
        let found = said(entries.into());
        assert!(found.contains(part), "{found}, expected {part}");
    }
    let error = made.convert(b"{\"version\":1,\"entries\":[{\"name\":7}]}", None).unwrap_err();
    assert!(
        chain(&error).contains("table of contents") && chain(&error).contains("column"),
        "{}",
        chain(&error)
    );
}
