//! What the reference builder wrote, read and written again, is the same byte for byte.
#![allow(clippy::unwrap_used, reason = "a test")]

use rafs_format::tree::{Entry, NewInode, Span, Tree};
use rafs_format::write::{self, Options};
use rafs_format::{Bootstrap, ChunkIndex, ChunkRef, FileType, Inode, Nid, SuperFlags};
use std::collections::HashMap;
use testkit::tree::golden;

/// Turns a bootstrap into the tree it was written from, xattrs in stored order.
struct Reader<'a> {
    bootstrap: &'a Bootstrap<Vec<u8>>,
    index: ChunkIndex,
    tree: Tree,
    inodes: HashMap<Nid, u32>,
    chunks: HashMap<ChunkRef, u32>,
}

impl Reader<'_> {
    fn span(&mut self, bytes: &[u8]) -> Span {
        let start = u32::try_from(self.tree.bytes.len()).unwrap();
        self.tree.bytes.extend_from_slice(bytes);
        Span { start, len: u32::try_from(bytes.len()).unwrap() }
    }

    fn xattrs(&mut self, inode: &Inode) -> Span {
        let mut area = vec![0; 12];
        for xattr in self.bootstrap.xattrs(inode).unwrap() {
            let xattr = xattr.unwrap();
            let name = [xattr.prefix.as_bytes(), xattr.suffix].concat();
            area.extend_from_slice(&rafs_format::xattr::encode(&[(&name, xattr.value)]).unwrap()[12..]);
        }
        if area.len() == 12 { Span::default() } else { self.span(&area) }
    }

    fn inode(&mut self, nid: Nid) -> u32 {
        if let Some(&known) = self.inodes.get(&nid) {
            return known;
        }
        let inode = self.bootstrap.inode(nid).unwrap();
        let mut new = NewInode {
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            size: inode.size,
            mtime_secs: inode.mtime_secs,
            mtime_nanos: inode.mtime_nanos,
            rdev: inode.rdev,
            xattrs: self.xattrs(&inode),
            ..NewInode::default()
        };
        if inode.file_type == FileType::Symlink {
            let target = self.bootstrap.symlink_target(&inode).unwrap();
            new.target = self.span(&target);
        }
        if inode.file_type == FileType::Regular {
            new.first_chunk = u32::try_from(self.tree.file_chunks.len()).unwrap();
            for n in 0..self.bootstrap.chunk_count(&inode) {
                let reference = self.bootstrap.chunk_ref(&inode, n).unwrap();
                let next = u32::try_from(self.tree.chunks.len()).unwrap();
                let chunk = *self.chunks.entry(reference).or_insert(next);
                if chunk == next {
                    self.tree.chunks.push(self.index.resolve(self.bootstrap, reference).unwrap());
                }
                self.tree.file_chunks.push(chunk);
            }
        }
        let number = u32::try_from(self.tree.inodes.len()).unwrap();
        self.tree.inodes.push(new);
        self.inodes.insert(nid, number);
        number
    }

    /// Adds the children of the directory entry `at`, then theirs.
    fn directory(&mut self, at: usize, nid: Nid) {
        let inode = self.bootstrap.inode(nid).unwrap();
        let first = self.tree.entries.len();
        let mut directories = Vec::new();
        for entry in self.bootstrap.dir_entries(&inode, 0).unwrap() {
            let entry = entry.unwrap();
            if matches!(entry.name, b"." | b"..") {
                continue;
            }
            if entry.file_type == FileType::Directory {
                directories.push((self.tree.entries.len(), entry.nid));
            }
            let (name, inode) = (self.span(entry.name), self.inode(entry.nid));
            self.tree.entries.push(Entry { name, inode, children: (0, 0) });
        }
        let end = self.tree.entries.len();
        self.tree.entries[at].children = (u32::try_from(first).unwrap(), u32::try_from(end).unwrap());
        for (at, nid) in directories {
            self.directory(at, nid);
        }
    }
}

fn rewrite(bytes: &[u8]) -> Vec<u8> {
    let bootstrap = Bootstrap::parse(bytes.to_vec()).unwrap();
    let index = ChunkIndex::build(&bootstrap).unwrap();
    let mut reader = Reader {
        bootstrap: &bootstrap,
        index,
        tree: Tree::default(),
        inodes: HashMap::new(),
        chunks: HashMap::new(),
    };
    let root = bootstrap.superblock().root;
    let inode = reader.inode(root);
    reader.tree.entries.push(Entry { name: Span::default(), inode, children: (0, 0) });
    reader.directory(0, root);
    let by_inode: HashMap<u32, u32> =
        (0u32..).zip(&reader.tree.entries).map(|(n, entry)| (entry.inode, n)).collect();
    let prefetch = bootstrap.prefetch().map(|nid| by_inode[&reader.inodes[&nid]]).collect();
    let superblock = bootstrap.superblock();
    let options = Options {
        chunk_size: superblock.chunk_size,
        compressor: superblock.compressor,
        digester: superblock.digester,
        explicit_ids: superblock.flags.contains(SuperFlags::EXPLICIT_IDS),
        prefetch,
    };
    write::bootstrap(&reader.tree, bootstrap.blobs(), &options).unwrap()
}

#[test]
fn golden_bootstraps_are_written_again_byte_for_byte() {
    let Some(golden) = golden() else { return };
    let images = [
        "v6-bigdir",
        "v6-dir-lz4-8k",
        "v6-dir-none-sha256-4k",
        "v6-dir-prefetch",
        "v6-dir-zstd",
        "v6-empty",
        "v6-tar",
        "v6-dir-toc",
        "v6-layered",
        "v6-merge",
        "v6-chunkdict",
        "v6-zran",
        "v6-tarref",
    ];
    for image in images {
        let path = golden.join(image).join("image.boot");
        let expected = std::fs::read(&path).unwrap();
        let found = rewrite(&expected);
        assert_eq!(found.len(), expected.len(), "{image}: length");
        let differ: Vec<_> = (0..found.len()).filter(|&at| found[at] != expected[at]).take(16).collect();
        assert!(differ.is_empty(), "{image}: differs at {differ:x?}");
    }
}

/// The few that are always there.
#[test]
fn kept_bootstraps_are_written_again_byte_for_byte() {
    for image in ["v6-chunkdict", "v6-dir-lz4-8k", "v6-empty", "v6-zran-multi"] {
        let path = format!("{}/tests/golden/{image}.boot", env!("CARGO_MANIFEST_DIR"));
        let expected = std::fs::read(&path).unwrap();
        assert!(rewrite(&expected) == expected, "{image}");
    }
}
