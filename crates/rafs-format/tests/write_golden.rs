//! What the reference builder wrote, read and written again, is the same byte for byte.
#![allow(clippy::unwrap_used, reason = "a test")]

use rafs_format::tree::{Entry, NewInode, Span, Tree};
use rafs_format::write::{self, Form, Options, V5};
use rafs_format::{
    Blob, Bootstrap, ChunkIndex, Cipher, Compressor, Digest, DigestAlgorithm, FileType, Inode, Nid,
    SuperFlags, Version,
};
use std::collections::HashMap;
use testkit::tree::golden;

/// Turns a bootstrap into the tree it was written from, xattrs in stored order.
struct Reader<'a> {
    bootstrap: &'a Bootstrap<Vec<u8>>,
    index: ChunkIndex,
    tree: Tree,
    inodes: HashMap<Nid, u32>,
    /// By blob and number in it.
    chunks: HashMap<(u32, u32), u32>,
    /// What inodes of v5 state.
    digests: Vec<Digest>,
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
                let chunk = self.index.chunk(self.bootstrap, &inode, n).unwrap();
                let next = u32::try_from(self.tree.chunks.len()).unwrap();
                let at = *self.chunks.entry((chunk.blob, chunk.index)).or_insert(next);
                if at == next {
                    self.tree.chunks.push(chunk);
                }
                self.tree.file_chunks.push(at);
            }
        }
        let number = u32::try_from(self.tree.inodes.len()).unwrap();
        self.tree.inodes.push(new);
        self.digests.extend(self.bootstrap.stated_digest(&inode).unwrap());
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
        digests: Vec::new(),
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
        form: match superblock.version {
            Version::V6 if bootstrap.is_tarfs() => Form::Tarfs,
            Version::V6 => Form::V6,
            Version::V5 => Form::V5(V5 {
                digests: reader.digests,
                readahead: (0..bootstrap.blobs().len()).map(|n| bootstrap.readahead(n)).collect(),
                // Where the root says that its device number is all ones.
                from_layer: word(bytes, record(bytes, 0) + 104) == usize::try_from(u32::MAX).unwrap(),
            }),
        },
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
        "v6-tarfs",
        "v6-tarfs-4k",
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

fn word(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())).unwrap()
}

/// First byte of the record of the `n`-th entry of the inode table of v5, counted from 0.
fn record(bytes: &[u8], n: usize) -> usize {
    word(bytes, word(bytes, 32) + n * 4) * 8
}

/// The bytes of a v5 bootstrap, all names of a file with the attributes of the first (mode, owner, time): each name of a layer has its own with
/// the reference builder, of which a file can have one set only.
fn with_attributes_of_the_first_name(mut bytes: Vec<u8>) -> Vec<u8> {
    for n in 0..word(&bytes, 56) {
        let at = record(&bytes, n);
        let first = record(&bytes, word(&bytes, at + 40) - 1);
        for range in [48..64, 108..120] {
            bytes.copy_within(first + range.start..first + range.end, at + range.start);
        }
    }
    bytes
}

#[test]
fn golden_bootstraps_of_v5_are_written_again_byte_for_byte() {
    let Some(golden) = golden() else { return };
    let inline = "v5-dir-inline/blobs/2becd8d85302ef6998517fce3a1fa0bf51b0b0b86cf4b73fd0d3537fd498e251";
    let images = [
        "v5-bigdir/image.boot",
        "v5-dir-lz4/image.boot",
        "v5-dir-none-aligned/image.boot",
        "v5-dir-prefetch/image.boot",
        "v5-dir-prefetch-blob/image.boot",
        "v5-dir-zstd-sha256-4k-rep/image.boot",
        "v5-empty/image.boot",
        "v5-layered/image.boot",
        "v5-tar/image.boot",
        inline,
    ];
    let mut changed = Vec::new();
    for image in images {
        let mut stored = std::fs::read(golden.join(image)).unwrap();
        if image == inline {
            // Its bootstrap stands between two tar headers; the last says how long it is.
            let header = stored.len() - 512;
            let digits = std::str::from_utf8(&stored[header + 124..header + 135]).unwrap();
            let size = usize::from_str_radix(digits, 8).unwrap();
            stored = stored[header - size..header].to_vec();
        }
        let expected = with_attributes_of_the_first_name(stored.clone());
        if expected != stored {
            changed.push(image);
        }
        let found = rewrite(&stored);
        assert_eq!(found.len(), expected.len(), "{image}: length");
        let differ: Vec<_> = (0..found.len()).filter(|&at| found[at] != expected[at]).take(16).collect();
        assert!(differ.is_empty(), "{image}: differs at {differ:x?}");
    }
    assert_eq!(changed, ["v5-tar/image.boot"], "only a layer has names with attributes of their own");
}

/// What a v5 bootstrap cannot say is refused, not left out.
#[test]
fn what_v5_cannot_describe_is_refused() {
    let Some(golden) = golden() else { return };
    let bytes = std::fs::read(golden.join("v5-dir-lz4/image.boot")).unwrap();
    let bootstrap = Bootstrap::parse(bytes).unwrap();
    let mut tree = Tree::default();
    tree.inodes.push(NewInode { mode: 0o040_755, ..NewInode::default() });
    tree.entries.push(Entry { name: Span::default(), inode: 0, children: (1, 1) });
    let superblock = bootstrap.superblock();
    let with = |digests: usize, prefetch| Options {
        chunk_size: superblock.chunk_size,
        compressor: superblock.compressor,
        digester: superblock.digester,
        explicit_ids: true,
        prefetch,
        form: Form::V5(V5 { digests: vec![Digest([7; 32]); digests], ..V5::default() }),
    };
    let good = &bootstrap.blobs()[0];
    write::bootstrap(&tree, std::slice::from_ref(good), &with(1, vec![0])).unwrap();
    let said = |blobs: &[Blob], options: &Options| {
        write::bootstrap(&tree, blobs, options).map_or_else(|error| error.to_string(), |_| "nothing".into())
    };
    assert!(said(&[], &with(0, vec![])).starts_with("digests of inodes"));
    assert!(said(&[], &with(1, vec![1])).starts_with("entry of the prefetch table"));
    let other = Blob { compressor: Compressor::Zstd, ..good.clone() };
    assert!(said(&[other], &with(1, vec![])).starts_with("compression of a blob"));
    let other = Blob { digester: DigestAlgorithm::Sha256, ..good.clone() };
    assert!(said(&[other], &with(1, vec![])).starts_with("digest of a blob"));
    let other = Blob { cipher: Cipher::Aes128Xts, ..good.clone() };
    assert!(said(&[other], &with(1, vec![])).starts_with("cipher of a blob"));
    let other = Blob { chunk_count: 0, ..good.clone() };
    assert!(said(&[other], &with(1, vec![])).starts_with("chunks of a blob"));
    let many = vec![good.clone(); 1025];
    assert!(said(&many, &with(1, vec![])).starts_with("number of blobs"));
}
