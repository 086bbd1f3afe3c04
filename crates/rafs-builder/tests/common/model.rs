//! Trees as people think of them, and images of them made with the writer alone, so that a test knows what must be seen.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests; sizes here are small")]

use super::{Entry as Seen, Tree as SeenTree, escape};
use proptest::prelude::*;
use rafs_format::blob_meta::{self, Contexts, Header};
use rafs_format::device::BlobMetaLocation;
use rafs_format::tree::{Entry, NewInode, Span, Tree};
use rafs_format::{
    Blob, BlobFeatures, BlobId, Chunk, ChunkFlags, Cipher, Compressor, Digest, DigestAlgorithm, write, xattr,
};
use sha2::Digest as _;
use std::collections::BTreeMap;
use std::path::Path;

/// Chunk size of the images.
pub const CHUNK: u32 = 4096;

/// Extended attributes by full name.
pub type Xattrs = BTreeMap<String, Vec<u8>>;

/// Children of a directory by name.
pub type Children = BTreeMap<Vec<u8>, Model>;

/// One entry of a tree.
#[derive(Debug, Clone)]
pub enum Model {
    Directory(Children, Xattrs),
    /// A file of `size` bytes: chunk `n` is filled with `fill ^ (n % period)`.
    File {
        fill: u8,
        period: u8,
        size: u32,
        xattrs: Xattrs,
    },
    /// A further name of the first file, a file of its own where there is none.
    HardLink,
    Symlink(Vec<u8>, Xattrs),
    Fifo(Xattrs),
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

/// Attributes of few names and of values that fill a block, or more than one.
fn xattrs(names: &'static [&'static str]) -> impl Strategy<Value = Xattrs> {
    let size = prop_oneof![8 => 0usize..5, 2 => 3900usize..4100, 1 => 20_000usize..60_000];
    let value = (any::<u8>(), size).prop_map(|(fill, size)| vec![fill; size]);
    let name = prop::sample::select(names).prop_map(|name| match name {
        "user." => format!("user.{}", "x".repeat(250)),
        name => name.to_owned(),
    });
    let some = prop::collection::btree_map(name, value, 1..4);
    prop_oneof![3 => Just(Xattrs::new()), 1 => some]
}

/// Namespaces of anything; `user.` is for files and directories only.
const ANY: &[&str] = &["trusted.t", "security.s"];
const FILE: &[&str] = &["user.k", "user.", "trusted.t", "security.s"];

/// A directory whose entries fill several blocks: long and short names of one length.
fn large() -> impl Strategy<Value = Children> {
    (prop_oneof![3usize..8, 100usize..255], 1u16..400, 0u8..3).prop_map(|(len, count, kind)| {
        let child = |n: u16| match kind {
            0 => Model::HardLink,
            1 => Model::Fifo(Xattrs::new()),
            _ => Model::File { fill: n.to_le_bytes()[0], period: 1, size: 1, xattrs: Xattrs::new() },
        };
        (0..count).map(|n| (format!("{n:0len$}").into_bytes(), child(n))).collect()
    })
}

/// Trees with few names and sizes, so that they collide, and with what fills blocks just so.
pub fn model() -> impl Strategy<Value = Children> {
    let size =
        prop_oneof![Just(0), Just(1), Just(CHUNK), Just(CHUNK + 1), 0..3 * CHUNK, 30 * CHUNK..40 * CHUNK];
    let target = prop_oneof![2 => 1usize..200, 1 => 4028usize..=4036, 1 => 4090usize..=4095];
    let target = (target, 1u8..255).prop_map(|(size, fill)| vec![fill.max(1); size]);
    let period = prop_oneof![Just(1u8), Just(2), Just(255)];
    let file = (0u8..4, period, size, xattrs(FILE));
    let leaf = prop_oneof![
        4 => file.prop_map(|(fill, period, size, xattrs)| Model::File { fill, period, size, xattrs }),
        2 => Just(Model::HardLink),
        2 => (target, xattrs(ANY)).prop_map(|(target, xattrs)| Model::Symlink(target, xattrs)),
        1 => xattrs(ANY).prop_map(Model::Fifo),
        1 => (0u32..0xFFF, 0u32..0xF_FFFF).prop_map(|(major, minor)| Model::Device(major, minor)),
    ];
    let tree = leaf.prop_recursive(4, 40, 6, |inner| {
        let few = prop::collection::btree_map(name(), inner, 0..6);
        (prop_oneof![9 => few, 1 => large()], xattrs(FILE))
            .prop_map(|(below, xattrs)| Model::Directory(below, xattrs))
    });
    prop::collection::btree_map(name(), tree, 0..6)
}

/// Content of a file.
fn content(fill: u8, period: u8, size: u32) -> Vec<u8> {
    (0..size).map(|at| fill ^ (at / CHUNK % u32::from(period)) as u8).collect()
}

/// The image of a model while it is made.
#[derive(Debug, Default)]
pub struct Maker {
    pub tree: Tree,
    blob: Vec<u8>,
    /// Digest of a chunk to its position.
    known: BTreeMap<[u8; 32], u32>,
    /// Inode and path of the first file.
    first: Option<(u32, String)>,
    seen: SeenTree,
    links: Vec<String>,
}

impl Maker {
    /// The image of a root with these children.
    pub fn new(children: &Children) -> Self {
        let mut maker = Self::default();
        let root = maker.inode(NewInode { mode: 0o040_755, ..NewInode::default() });
        maker.tree.entries.push(Entry { name: Span::default(), inode: root, children: (0, 0) });
        maker.children(0, b"", children);
        maker
    }

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
    fn children(&mut self, entry: usize, path: &[u8], children: &Children) {
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
            if let Model::Directory(below, _) = child {
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
        let none = Xattrs::new();
        let kind = match node {
            Model::HardLink => {
                if let Some((inode, first)) = self.first.clone() {
                    if self.links.is_empty() {
                        self.links.push(first);
                    }
                    self.links.push(path);
                    return inode;
                }
                return self
                    .node_again(&path, &Model::File { fill: 0, period: 1, size: 0, xattrs: Xattrs::new() });
            }
            Model::Directory(_, xattrs) => (0o040_000, "dir", xattrs),
            Model::File { fill, period, size, xattrs } => {
                let data = content(*fill, *period, *size);
                seen.size = data.len() as u64;
                seen.sha256 = hex::encode(sha2::Sha256::digest(&data));
                (inode.size, inode.first_chunk) = (seen.size, self.tree.file_chunks.len() as u32);
                data.chunks(CHUNK as usize).for_each(|chunk| self.chunk(chunk));
                (0o100_000, "reg", xattrs)
            }
            Model::Symlink(target, xattrs) => {
                inode.target = self.bytes(target);
                seen.target = escape(target);
                (0o120_000, "lnk", xattrs)
            }
            Model::Fifo(xattrs) => (0o010_000, "fifo", xattrs),
            Model::Device(major, minor) => {
                inode.rdev = rafs_format::inode::encode_rdev(*major, *minor);
                seen.rdev = (*major, *minor);
                (0o020_000, "chr", &none)
            }
        };
        let pairs: Vec<(&[u8], &[u8])> =
            kind.2.iter().map(|(name, value)| (name.as_bytes(), value.as_slice())).collect();
        let area = xattr::encode(&pairs).unwrap();
        if !area.is_empty() {
            inode.xattrs = self.bytes(&area);
        }
        seen.xattrs = kind.2.iter().map(|(name, value)| (name.clone(), hex::encode(value))).collect();
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

    /// Writes blob and bootstrap, the latter as `name`, into `dir`.
    pub fn write(&mut self, dir: &Path, name: &str) {
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
                contexts: Contexts::default(),
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
            form: write::Form::V6,
        };
        let bytes = write::bootstrap(&self.tree, &blobs, &options).unwrap();
        std::fs::write(dir.join(name), bytes).unwrap();
    }

    /// What users should see, links shared.
    pub fn finish(mut self) -> SeenTree {
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
