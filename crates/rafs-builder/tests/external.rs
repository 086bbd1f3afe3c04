//! Images whose data is in blobs that were there before them: read as it is, verified by checksums, refused where only digests would do.
//! And blobs of copies to prefetch, which are blobs like others.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use common::tar_tree;
use rafs_builder::create::{Input, Options, create};
use rafs_builder::digest::{self, DigestError, Scope};
use rafs_builder::merge::{self, MergeError, Source};
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::output::{Outputs, Place};
use rafs_builder::{chain, check, unpack};
use rafs_format::device::BlobMetaLocation;
use rafs_format::tree::{Entry, NewInode, Span, Tree};
use rafs_format::write::{self, Options as WriteOptions};
use rafs_format::{
    Blob, BlobFeatures, BlobId, Chunk, ChunkFlags, Cipher, Compressor, Digest, DigestAlgorithm,
};
use std::path::Path;
use std::sync::Arc;

const CHUNK: u32 = 0x1000;
const ID: &str = "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee";
/// Where the data of the only file starts in the foreign blob: at no block.
const START: usize = 777;

fn data() -> Vec<u8> {
    testkit::blob::pattern(5, 2 * CHUNK as usize + 100)
}

fn blob(data: &[u8]) -> Blob {
    Blob {
        id: BlobId::new(ID).unwrap(),
        chunk_size: CHUNK,
        chunk_count: data.len().div_ceil(CHUNK as usize) as u32,
        compressor: Compressor::None,
        digester: DigestAlgorithm::Blake3,
        features: BlobFeatures::ALIGNED | BlobFeatures::CAP_TAR_TOC | BlobFeatures::EXTERNAL,
        compressed_size: (START + data.len()) as u64,
        uncompressed_size: data.len().next_multiple_of(CHUNK as usize) as u64,
        meta: BlobMetaLocation {
            compressor: Compressor::None,
            compressed_offset: 0,
            compressed_size: 0,
            uncompressed_size: 0,
        },
        toc_size: 0,
        toc_digest: Digest([0; 32]),
        meta_digest: Digest([0; 32]),
        meta_size: 0,
        cipher_iv: 0,
        cipher: Cipher::None,
    }
}

/// An image of one file `f`, whose data is that of the blob from [`START`] on, in `dir`.
fn image(data: &[u8], with_crc: bool, dir: &Path) -> Image {
    let chunks = data.chunks(CHUNK as usize).zip(0u32..).map(|(plain, n)| Chunk {
        digest: Digest([0; 32]),
        blob: 0,
        index: n,
        flags: if with_crc { ChunkFlags::HAS_CRC } else { ChunkFlags::empty() },
        compressed_offset: START as u64 + u64::from(n * CHUNK),
        compressed_size: plain.len() as u32,
        uncompressed_offset: u64::from(n * CHUNK),
        uncompressed_size: plain.len() as u32,
        file_offset: u64::from(n * CHUNK),
        crc32: if with_crc { rafs_merkle::crc32c(plain) } else { 0 },
    });
    let chunks: Vec<_> = chunks.collect();
    let file = NewInode { mode: 0o100_644, size: data.len() as u64, ..NewInode::default() };
    let tree = Tree {
        entries: vec![
            Entry { name: Span::default(), inode: 0, children: (1, 2) },
            Entry { name: Span { start: 0, len: 1 }, inode: 1, children: (0, 0) },
        ],
        inodes: vec![NewInode { mode: 0o040_755, ..NewInode::default() }, file],
        file_chunks: (0..chunks.len() as u32).collect(),
        chunks,
        bytes: b"f".to_vec(),
        ..Tree::default()
    };
    let options = WriteOptions {
        chunk_size: CHUNK,
        compressor: Compressor::None,
        digester: DigestAlgorithm::Blake3,
        explicit_ids: true,
        prefetch: Vec::new(),
        form: write::Form::default(),
    };
    let bytes = write::bootstrap(&tree, &[blob(data)], &options).unwrap();
    std::fs::write(dir.join("boot"), bytes).unwrap();
    std::fs::write(dir.join(ID), [vec![0xEE; START], data.to_vec()].concat()).unwrap();
    Image::open(&dir.join("boot")).unwrap()
}

fn local(dir: &Path) -> BlobSource {
    BlobSource::new(Arc::new(LocalFs { dir: Some(dir.to_path_buf()), ..LocalFs::default() })).unwrap()
}

/// What the check of the data finds, one line each.
fn problems(image: &Image, dir: &Path) -> Vec<String> {
    check::data(image, &local(dir), 2).unwrap().problems.iter().map(|problem| chain(problem)).collect()
}

#[test]
fn foreign_data_is_read_where_it_lies() {
    let (dir, data) = (tempfile::tempdir().unwrap(), data());
    let image = image(&data, true, dir.path());
    let (_, digest) = check::structure_and_digest(&image).unwrap();
    assert_eq!(digest, None, "no digest says what the file holds");
    assert_eq!(problems(&image, dir.path()), Vec::<String>::new());
    let mut out = Vec::new();
    unpack::tar_to(&image, &local(dir.path()), &mut out, 2).unwrap();
    let mut found = Vec::new();
    for entry in tar::Archive::new(out.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap().ends_with("f") {
            std::io::Read::read_to_end(&mut entry, &mut found).unwrap();
        }
    }
    assert!(found == data);
    // What stands before the data of the file is not the image's.
    let mut foreign = std::fs::read(dir.path().join(ID)).unwrap();
    foreign[0] ^= 1;
    std::fs::write(dir.path().join(ID), &foreign).unwrap();
    assert_eq!(problems(&image, dir.path()), Vec::<String>::new());
    foreign[START + CHUNK as usize] ^= 1;
    std::fs::write(dir.path().join(ID), &foreign).unwrap();
    let found = problems(&image, dir.path());
    assert!(found.len() == 1 && found[0].contains("chunk 1") && found[0].contains("CRC-32C"), "{found:?}");
    assert!(unpack::tar_to(&image, &local(dir.path()), &mut Vec::new(), 2).is_err());
}

#[test]
fn what_nothing_verifies_is_refused() {
    let (dir, data) = (tempfile::tempdir().unwrap(), data());
    let image = image(&data, false, dir.path());
    let found = problems(&image, dir.path());
    assert!(found.len() == 3 && found[0].contains("neither a digest nor a checksum"), "{found:?}");
    let error = unpack::tar_to(&image, &local(dir.path()), &mut Vec::new(), 2).unwrap_err();
    assert!(chain(&error).contains("neither a digest nor a checksum"), "{}", chain(&error));
}

/// Whoever compares or joins images by digests would take all chunks without one for the same.
#[test]
fn nothing_is_made_of_digests_that_are_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(&data(), true, dir.path());
    let error = digest::tree(image.bootstrap(), Scope::Full).unwrap_err();
    assert!(matches!(error, DigestError::External), "{error}");
    let sources = vec![Source::at(dir.path().join("boot"))];
    let options = merge::Options { sources, ..merge::Options::default() };
    let output = Outputs::new();
    let error = merge::merge(&options, Place::File(dir.path().join("merged")), &output).unwrap_err();
    assert!(matches!(error, MergeError::External { .. }), "{error}");
    let parent = Options { parent: Some(dir.path().join("boot")), chunk_size: CHUNK, ..Options::default() };
    let places = (Place::File(dir.path().join("top")), Place::File(dir.path().join("blob")));
    let input = Input::Tar(Box::new(std::io::Cursor::new(vec![0; 1024])));
    let error = create(input, &parent, places, &output, &|_| {}).unwrap_err();
    assert!(error.to_string().contains("the kind of its blobs"), "{error}");
    assert!(!dir.path().join("merged").exists() && !dir.path().join("top").exists());
}

/// A blob of copies to prefetch says so, and is read like any.
#[test]
fn blobs_to_prefetch_are_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(9000);
    header.set_mode(0o644);
    tar.append_data(&mut header, "f", testkit::blob::pattern(1, 9000).as_slice()).unwrap();
    let tar = tar.into_inner().unwrap();
    let places = (Place::File(dir.path().join("boot")), Place::Directory(dir.path().to_path_buf()));
    let options = Options { chunk_size: CHUNK, ..Options::default() };
    create(Input::Tar(Box::new(tar.as_slice())), &options, places, &Outputs::new(), &|_| {}).unwrap();
    let mut boot = std::fs::read(dir.path().join("boot")).unwrap();
    // Features stand at 84 of the entry in the blob table, which starts at 4096.
    boot[4096 + 85] |= 0x04;
    std::fs::write(dir.path().join("boot"), boot).unwrap();
    let image = Image::open(&dir.path().join("boot")).unwrap();
    assert!(image.blobs()[0].features.contains(BlobFeatures::PREFETCH_SEPARATED));
    check::structure(&image).unwrap();
    assert_eq!(problems(&image, dir.path()), Vec::<String>::new());
    let mut out = Vec::new();
    unpack::tar_to(&image, &local(dir.path()), &mut out, 1).unwrap();
    assert!(tar_tree(&out) == tar_tree(&tar));
}
