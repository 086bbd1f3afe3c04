//! Any small tree, written as an image, passes the check and unpacks to itself.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use common::{Entry as Seen, Tree as SeenTree, escape, tar_tree};
use proptest::prelude::*;
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::{chain, check, unpack};
use rafs_format::blob_meta::{self, Header};
use rafs_format::device::BlobMetaLocation;
use rafs_format::tree::{Entry, NewInode, Span, Tree};
use rafs_format::{
    Blob, BlobFeatures, BlobId, Chunk, ChunkFlags, Cipher, Compressor, Digest, DigestAlgorithm, write, xattr,
};
use sha2::Digest as _;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const CHUNK: u32 = 4096;

/// A tree as people think of it.
#[derive(Debug, Clone)]
enum Model {
    Directory(BTreeMap<Vec<u8>, Model>),
    File {
        fill: u8,
        size: u32,
        xattr: Option<Vec<u8>>,
    },
    /// A further name of the first file, a file of its own where there is none.
    HardLink,
    Symlink(Vec<u8>),
    Fifo,
    Device(u32, u32),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let short = prop::sample::select(vec![
        b"a".to_vec(),
        b"b".to_vec(),
        b"!".to_vec(),
        b"~".to_vec(),
        b"\xff".to_vec(),
        b".x".to_vec(),
        b"...".to_vec(),
    ]);
    prop_oneof![9 => short, 1 => Just(vec![b'n'; 255])]
}

fn model() -> impl Strategy<Value = BTreeMap<Vec<u8>, Model>> {
    let size = prop_oneof![Just(0), Just(1), Just(CHUNK), Just(CHUNK + 1), 0..3 * CHUNK];
    let leaf = prop_oneof![
        4 => (0u8..4, size, prop::option::of(prop::collection::vec(any::<u8>(), 0..5)))
            .prop_map(|(fill, size, xattr)| Model::File { fill, size, xattr }),
        2 => Just(Model::HardLink),
        1 => prop::collection::vec(1u8..255, 1..200).prop_map(Model::Symlink),
        1 => Just(Model::Fifo),
        1 => (0u32..0xFFF, 0u32..0xF_FFFF).prop_map(|(major, minor)| Model::Device(major, minor)),
    ];
    let tree = leaf.prop_recursive(4, 40, 6, |inner| {
        prop::collection::btree_map(name(), inner, 0..6).prop_map(Model::Directory)
    });
    prop::collection::btree_map(name(), tree, 0..6)
}

/// Content of a file: blocks that repeat, so that chunks are shared.
fn content(fill: u8, size: u32) -> Vec<u8> {
    (0..size).map(|at| fill ^ (at / CHUNK % 2) as u8).collect()
}

/// The image of a model while it is made.
#[derive(Default)]
struct Maker {
    tree: Tree,
    blob: Vec<u8>,
    /// Digest of a chunk to its position.
    known: BTreeMap<[u8; 32], u32>,
    /// Inode and path of the first file.
    first: Option<(u32, String)>,
    seen: SeenTree,
    links: Vec<String>,
}

impl Maker {
    fn bytes(&mut self, bytes: &[u8]) -> Span {
        let start = self.tree.bytes.len() as u32;
        self.tree.bytes.extend_from_slice(bytes);
        Span { start, len: bytes.len() as u32 }
    }

    fn inode(&mut self, inode: NewInode) -> u32 {
        self.tree.inodes.push(inode);
        self.tree.inodes.len() as u32 - 1
    }

    /// Makes the children of the directory at `entry`, then what is below them.
    fn children(&mut self, entry: usize, path: &[u8], children: &BTreeMap<Vec<u8>, Model>) {
        let start = self.tree.entries.len();
        for (name, child) in children {
            let path = [path, b"/", name].concat();
            let inode = self.node(&path, child);
            let name = self.bytes(name);
            self.tree.entries.push(Entry { name, inode, children: (0, 0) });
        }
        let end = self.tree.entries.len();
        self.tree.entries[entry].children = (start as u32, end as u32);
        for (at, (name, child)) in (start..end).zip(children) {
            if let Model::Directory(below) = child {
                self.children(at, &[path, b"/", name].concat(), below);
            }
        }
    }

    /// Makes the inode of one entry and notes what users should see.
    fn node(&mut self, path: &[u8], node: &Model) -> u32 {
        let path = escape(path);
        let mut inode =
            NewInode { uid: 5, gid: 6, mtime_secs: 1_000, mtime_nanos: 5_000, ..NewInode::default() };
        let mut seen = Seen { uid: 5, gid: 6, mtime: 1_000, mtime_ns: 5_000, ..Seen::default() };
        let kind = match node {
            Model::HardLink => {
                if let Some((inode, first)) = self.first.clone() {
                    if self.links.is_empty() {
                        self.links.push(first);
                    }
                    self.links.push(path);
                    return inode;
                }
                return self.node_again(&path, &Model::File { fill: 0, size: 0, xattr: None });
            }
            Model::Directory(_) => (0o040_000, "dir"),
            Model::File { fill, size, xattr } => {
                let data = content(*fill, *size);
                seen.size = data.len() as u64;
                seen.sha256 = hex::encode(sha2::Sha256::digest(&data));
                (inode.size, inode.first_chunk) = (seen.size, self.tree.file_chunks.len() as u32);
                data.chunks(CHUNK as usize).for_each(|chunk| self.chunk(chunk));
                if let Some(value) = xattr {
                    let area = xattr::encode(&[(b"user.k".as_slice(), value.as_slice())]).unwrap();
                    inode.xattrs = self.bytes(&area);
                    seen.xattrs.insert("user.k".into(), hex::encode(value));
                }
                (0o100_000, "reg")
            }
            Model::Symlink(target) => {
                inode.target = self.bytes(target);
                seen.target = escape(target);
                (0o120_000, "lnk")
            }
            Model::Fifo => (0o010_000, "fifo"),
            Model::Device(major, minor) => {
                inode.rdev = rafs_format::inode::encode_rdev(*major, *minor);
                seen.rdev = (*major, *minor);
                (0o020_000, "chr")
            }
        };
        (inode.mode, seen.mode, seen.kind) = (kind.0 | 0o750, "750".into(), kind.1.into());
        self.seen.insert(path.clone(), seen);
        let inode = self.inode(inode);
        if kind.1 == "reg" {
            self.first.get_or_insert((inode, path));
        }
        inode
    }

    fn node_again(&mut self, escaped: &str, node: &Model) -> u32 {
        let inode = self.node(b"?", node);
        let seen = self.seen.remove("?").unwrap();
        self.seen.insert(escaped.to_owned(), seen);
        self.first = Some((inode, escaped.to_owned()));
        inode
    }

    /// Adds a chunk to the blob unless it is there.
    fn chunk(&mut self, data: &[u8]) {
        let digest = rafs_merkle::digest(DigestAlgorithm::Blake3, data);
        let next = self.tree.chunks.len() as u32;
        let at = *self.known.entry(digest.0).or_insert(next);
        self.tree.file_chunks.push(at);
        if at == next {
            let uncompressed_offset =
                self.tree.chunks.last().map_or(0, |last| last.uncompressed_offset + u64::from(CHUNK));
            self.tree.chunks.push(Chunk {
                digest,
                blob: 0,
                index: next,
                flags: ChunkFlags::HAS_CRC,
                compressed_offset: self.blob.len() as u64,
                compressed_size: data.len() as u32,
                uncompressed_offset,
                uncompressed_size: data.len() as u32,
                file_offset: 0,
                crc32: rafs_merkle::crc32c(data),
            });
            self.blob.extend_from_slice(data);
        }
    }

    /// Writes bootstrap and blob into `dir`.
    fn write(&mut self, dir: &Path) {
        let count = self.tree.chunks.len() as u32;
        let mut blobs = Vec::new();
        if count > 0 {
            let mut table = Vec::new();
            self.tree.chunks.iter().for_each(|chunk| blob_meta::push_v1(&mut table, chunk).unwrap());
            let (offset, size) = (self.blob.len() as u64, table.len() as u64);
            let features = BlobFeatures::ALIGNED | BlobFeatures::CAP_TAR_TOC;
            let header = Header {
                features,
                compressor: Compressor::None,
                entries: count,
                compressed_offset: offset,
                compressed_size: size,
                uncompressed_size: size,
            };
            self.blob.extend_from_slice(&table);
            self.blob.extend_from_slice(&header.encode());
            let id = hex::encode(sha2::Sha256::digest(&self.blob));
            std::fs::write(dir.join(&id), &self.blob).unwrap();
            blobs.push(Blob {
                id: BlobId::new(&id).unwrap(),
                chunk_size: CHUNK,
                chunk_count: count,
                compressor: Compressor::None,
                digester: DigestAlgorithm::Blake3,
                features,
                compressed_size: self.blob.len() as u64,
                uncompressed_size: u64::from(count) * u64::from(CHUNK),
                meta: BlobMetaLocation {
                    compressor: Compressor::None,
                    compressed_offset: offset,
                    compressed_size: size,
                    uncompressed_size: size,
                },
                toc_size: 0,
                toc_digest: Digest([0; 32]),
                meta_digest: Digest([0; 32]),
                meta_size: 0,
                cipher_iv: 0,
                cipher: Cipher::None,
            });
        }
        let options = write::Options {
            chunk_size: CHUNK,
            compressor: Compressor::None,
            digester: DigestAlgorithm::Blake3,
            explicit_ids: true,
            prefetch: Vec::new(),
        };
        let bytes = write::bootstrap(&self.tree, &blobs, &options).unwrap();
        std::fs::write(dir.join("image.boot"), bytes).unwrap();
    }

    /// What users should see, links shared.
    fn finish(mut self) -> SeenTree {
        self.links.sort();
        if let Some((_, first)) = self.first.filter(|_| self.links.len() > 1) {
            let shared = Seen { links: self.links.clone(), ..self.seen[&first].clone() };
            for path in self.links {
                self.seen.insert(path, shared.clone());
            }
        }
        self.seen
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_what_unpacks(children in model()) {
        let dir = tempfile::tempdir().unwrap();
        let mut maker = Maker::default();
        let root = maker.inode(NewInode { mode: 0o040_755, ..NewInode::default() });
        maker.tree.entries.push(Entry { name: Span::default(), inode: root, children: (0, 0) });
        maker.children(0, b"", &children);
        maker.write(dir.path());
        let image = Image::open(&dir.path().join("image.boot")).unwrap();
        let summary = check::structure(&image).unwrap();
        prop_assert_eq!(summary.entries, maker.tree.entries.len() as u64);
        let local = LocalFs { dir: Some(dir.path().to_path_buf()), ..LocalFs::default() };
        let source = BlobSource::new(Arc::new(local)).unwrap();
        let report = check::data(&image, &source, 2).unwrap();
        let problems: Vec<_> = report.problems.iter().map(|problem| chain(problem)).collect();
        prop_assert_eq!(problems, Vec::<String>::new());
        let mut tar = Vec::new();
        unpack::tar_to(&image, &source, &mut tar, 2).unwrap();
        prop_assert_eq!(tar_tree(&tar), maker.finish());
    }
}
