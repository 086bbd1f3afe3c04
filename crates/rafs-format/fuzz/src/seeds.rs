//! Where fuzzing starts: small images and chunk tables, written by the writers of the crate, so that they never go stale.

use rafs_format::blob_meta::{Contexts, Header, push_v1};
use rafs_format::check::check;
use rafs_format::device::BlobMetaLocation;
use rafs_format::inode::encode_rdev;
use rafs_format::tree::{Entry, NewInode, Span, Tree};
use rafs_format::write::{self, Options};
use rafs_format::{
    Blob, BlobFeatures, BlobId, Bootstrap, Chunk, ChunkFlags, Cipher, Compressor, Digest, DigestAlgorithm,
    FormatError, xattr,
};
use std::path::Path;

const CHUNK: u32 = 4096;

/// Writes the seeds of a target into the folder that `FUZZ_SEEDS` names, if it does.
pub fn write(name: &str, make: fn() -> Result<Vec<Vec<u8>>, FormatError>) {
    let Some(dir) = std::env::var_os("FUZZ_SEEDS") else { return };
    let seeds = make().unwrap_or_else(|error| panic!("seeds of {name}: {error}"));
    for (n, bytes) in seeds.iter().enumerate() {
        let path = Path::new(&dir).join(format!("made-{n}"));
        std::fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// In v6 and in v5: an empty image, one with a file of each type, one with a directory of several blocks.
pub fn bootstraps() -> Result<Vec<Vec<u8>>, FormatError> {
    let many: Vec<String> = (0..300).map(|n| format!("!name-{n:03}")).collect();
    let many = many.iter().map(|name| (name.as_str(), Node::File(u64::from(name.ends_with('7'))))).collect();
    let long = "t/".repeat(2000);
    let each = vec![
        ("-before-dot", Node::File(3 * u64::from(CHUNK) - 1)),
        ("again", Node::Again(1)),
        ("block", Node::Special(0o060_600, encode_rdev(259, 70_000))),
        ("dir", Node::Dir(vec![("empty", Node::File(0)), ("inner", Node::Dir(Vec::new()))])),
        ("fifo", Node::Special(0o010_644, 0)),
        ("link", Node::Link("dir/inner")),
        ("long", Node::Link(&long)),
        ("zero", Node::File(u64::from(CHUNK))),
    ];
    let images = [Vec::new(), each, many];
    [false, true]
        .iter()
        .flat_map(|&is_v5| images.iter().map(move |children| image(children, is_v5)))
        .collect()
}

/// Chunk tables of one and of many entries, with their headers in front.
pub fn chunk_tables() -> Result<Vec<Vec<u8>>, FormatError> {
    [1u32, 3, 40]
        .into_iter()
        .map(|count| {
            let mut table = Vec::new();
            for n in 0..count {
                let size = if n % 2 == 0 { CHUNK } else { 1 + n };
                push_v1(&mut table, &chunk(n, size))?;
            }
            let size = table.len() as u64;
            let header = Header {
                features: BlobFeatures::ALIGNED | BlobFeatures::CAP_TAR_TOC,
                compressor: Compressor::None,
                entries: count,
                compressed_offset: 1 << 39,
                compressed_size: size,
                uncompressed_size: size,
                contexts: Contexts::default(),
            };
            Ok([header.encode().as_slice(), &table].concat())
        })
        .collect()
}

/// A file or directory of a seed.
enum Node<'a> {
    Dir(Vec<(&'a str, Node<'a>)>),
    /// Of so many bytes.
    File(u64),
    Link(&'a str),
    /// Mode and device number.
    Special(u16, u32),
    /// Another name of this inode.
    Again(u32),
}

/// The bootstrap of a root with these children, in byte order of their names. Checked: an unsound seed would start nowhere.
fn image(children: &[(&str, Node<'_>)], is_v5: bool) -> Result<Vec<u8>, FormatError> {
    let mut tree = Tree::default();
    let inode = add(&mut tree, &Node::Dir(Vec::new()), 0)?;
    tree.entries.push(Entry { name: Span::default(), inode, children: (0, 0) });
    fill(&mut tree, 0, children)?;
    let blobs = if tree.chunks.is_empty() { Vec::new() } else { vec![blob(number(tree.chunks.len()))?] };
    let digests = vec![Digest([5; 32]); tree.inodes.len()];
    let v5 = write::V5 { digests, readahead: Vec::new(), from_layer: false };
    let options = Options {
        chunk_size: CHUNK,
        compressor: Compressor::Zstd,
        digester: DigestAlgorithm::Blake3,
        explicit_ids: true,
        prefetch: vec![0, number(tree.entries.len()) - 1],
        form: if is_v5 { write::Form::V5(v5) } else { write::Form::V6 },
    };
    let bytes = write::bootstrap(&tree, &blobs, &options)?;
    check(&Bootstrap::parse(&bytes)?, &mut |_| Ok::<(), FormatError>(()))?;
    Ok(bytes)
}

/// Adds the children of the directory entry `dir`, then theirs.
fn fill(tree: &mut Tree, dir: usize, children: &[(&str, Node<'_>)]) -> Result<(), FormatError> {
    let first = tree.entries.len();
    for (name, node) in children {
        let links = number(tree.inodes.len());
        let inode = add(tree, node, links)?;
        let name = span(tree, name.as_bytes());
        tree.entries.push(Entry { name, inode, children: (0, 0) });
    }
    tree.entries[dir].children = (number(first), number(tree.entries.len()));
    for (n, (_, node)) in children.iter().enumerate() {
        if let Node::Dir(inner) = node {
            fill(tree, first + n, inner)?;
        }
    }
    Ok(())
}

/// Adds the inode of a node, `n` being its number. Returns it.
fn add(tree: &mut Tree, node: &Node<'_>, n: u32) -> Result<u32, FormatError> {
    let mut inode = NewInode { uid: 1000, gid: n, mtime_secs: -1, mtime_nanos: n, ..NewInode::default() };
    match node {
        Node::Again(other) => return Ok(*other),
        Node::Dir(_) => {
            inode.mode = 0o040_755;
            let area = xattr::encode(&[(b"user.k", b"v"), (b"trusted.overlay.opaque", b"y")])?;
            inode.xattrs = span(tree, &area);
        }
        Node::Link(target) => {
            inode.mode = 0o120_777;
            inode.target = span(tree, target.as_bytes());
        }
        Node::Special(mode, rdev) => (inode.mode, inode.rdev) = (*mode, *rdev),
        Node::File(size) => {
            inode.mode = 0o100_644;
            inode.size = *size;
            inode.first_chunk = number(tree.file_chunks.len());
            for start in (0..*size).step_by(CHUNK as usize) {
                let next = number(tree.chunks.len());
                tree.file_chunks.push(next);
                tree.chunks.push(chunk(next, u32::try_from(*size - start).unwrap_or(CHUNK).min(CHUNK)));
            }
        }
    }
    tree.inodes.push(inode);
    Ok(n)
}

fn span(tree: &mut Tree, bytes: &[u8]) -> Span {
    let start = number(tree.bytes.len());
    tree.bytes.extend_from_slice(bytes);
    Span { start, len: number(bytes.len()) }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The `n`-th chunk of a blob whose chunks stand 4096 bytes apart.
fn chunk(n: u32, size: u32) -> Chunk {
    let mut digest = [7; 32];
    digest[..4].copy_from_slice(&n.to_be_bytes());
    Chunk {
        digest: Digest(digest),
        blob: 0,
        index: n,
        flags: ChunkFlags::HAS_CRC,
        compressed_offset: u64::from(n) * u64::from(CHUNK),
        compressed_size: size,
        uncompressed_offset: u64::from(n) * u64::from(CHUNK),
        uncompressed_size: size,
        file_offset: 0,
        crc32: n,
    }
}

/// A blob of `count` such chunks.
fn blob(count: u32) -> Result<Blob, FormatError> {
    let size = u64::from(count) * u64::from(CHUNK);
    let table = u64::from(count) * 16;
    Ok(Blob {
        id: BlobId::new(&"5a".repeat(32))?,
        chunk_size: CHUNK,
        chunk_count: count,
        compressor: Compressor::Zstd,
        digester: DigestAlgorithm::Blake3,
        features: BlobFeatures::ALIGNED | BlobFeatures::CAP_TAR_TOC,
        compressed_size: size + table + 4096,
        uncompressed_size: size,
        meta: BlobMetaLocation {
            compressor: Compressor::None,
            compressed_offset: size,
            compressed_size: table,
            uncompressed_size: table,
        },
        toc_size: 0,
        toc_digest: Digest([0; 32]),
        meta_digest: Digest([0; 32]),
        meta_size: 0,
        cipher_iv: 0,
        cipher: Cipher::None,
    })
}
