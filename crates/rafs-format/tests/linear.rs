//! Images made to cost much more than their length are refused.
#![allow(clippy::unwrap_used, reason = "a test")]

use rafs_format::check::check;
use rafs_format::tree::{Entry, NewInode, Span, Tree};
use rafs_format::write::{self, Options};
use rafs_format::{Bootstrap, Compressor, DigestAlgorithm, FormatError};

const OPTIONS: Options = Options {
    chunk_size: 4096,
    compressor: Compressor::Zstd,
    digester: DigestAlgorithm::Blake3,
    explicit_ids: true,
    prefetch: Vec::new(),
    form: write::Form::V6,
};

/// A root with `count` files of this kind, named by their numbers.
fn tree(count: u32, file: impl Fn(u32) -> NewInode) -> Tree {
    let mut tree = Tree::default();
    tree.inodes.push(NewInode { mode: 0o040_755, ..NewInode::default() });
    tree.entries.push(Entry { name: Span::default(), inode: 0, children: (1, 1 + count) });
    for n in 0..count {
        let start = u32::try_from(tree.bytes.len()).unwrap();
        tree.bytes.extend_from_slice(format!("{n:06}").as_bytes());
        tree.inodes.push(file(n));
        tree.entries.push(Entry { name: Span { start, len: 6 }, inode: n + 1, children: (0, 0) });
    }
    tree
}

fn sound(bytes: &[u8]) -> Result<(), FormatError> {
    check(&Bootstrap::parse(bytes)?, &mut |_| Ok::<(), FormatError>(())).map(|_| ())
}

/// A FIFO with a mode whose low byte is 0 can be read as the head of an xattr area and, with the upper half of its size, as an
/// attribute that ends at the next FIFO: so each one may claim all that follow as its attributes.
#[test]
fn regression_inodes_that_share_their_attributes_are_refused() {
    const COUNT: u32 = 300;
    const DEPTH: u32 = 200;
    let fifos = tree(COUNT, |_| NewInode { mode: 0o010_400, ..NewInode::default() });
    let mut bytes = write::bootstrap(&fifos, &[], &OPTIONS).unwrap();
    sound(&bytes).unwrap();
    let places: Vec<usize> = {
        let bootstrap = Bootstrap::parse(&bytes).unwrap();
        let root = bootstrap.inode(bootstrap.superblock().root).unwrap();
        let entries = bootstrap.dir_entries(&root, 0).unwrap().map(Result::unwrap);
        let fifos = entries.filter(|entry| !entry.name.starts_with(b"."));
        let start = bootstrap.superblock().meta_start;
        fifos.map(|entry| usize::try_from(entry.nid.byte_offset(start).unwrap()).unwrap()).collect()
    };
    // In a row, 64 bytes apart, but for the first ones, which fill the end of the root's block.
    let row = places.windows(2).rposition(|pair| pair[1] != pair[0] + 64).map_or(0, |at| at + 1);
    let row = &places[row..];
    assert!(row.len() > 100, "{} in a row", row.len());
    for (n, &at) in row.iter().enumerate() {
        bytes[at + 12..at + 16].copy_from_slice(&[0, 1, 60, 0]);
        let claimed = (row.len() - 1 - n).min(DEPTH as usize);
        let count = if claimed == 0 { 0 } else { u16::try_from(claimed * 16 + 1).unwrap() };
        bytes[at + 2..at + 4].copy_from_slice(&count.to_le_bytes());
    }
    let error = sound(&bytes).unwrap_err();
    assert!(error.to_string().starts_with("inodes overlap"), "{error}");
}

/// Directories in directories, `depth` of them, the last one empty.
fn nested(depth: u32) -> Tree {
    let mut tree = Tree { bytes: b"d".to_vec(), ..Tree::default() };
    for n in 0..=depth {
        let name = Span { start: 0, len: u32::from(n > 0) };
        let children = if n < depth { (n + 1, n + 2) } else { (n + 1, n + 1) };
        tree.inodes.push(NewInode { mode: 0o040_755, ..NewInode::default() });
        tree.entries.push(Entry { name, inode: n, children });
    }
    tree
}

#[test]
fn trees_of_no_use_are_refused() {
    for (depth, good) in [(4096, true), (4097, false)] {
        let bytes = write::bootstrap(&nested(depth), &[], &OPTIONS).unwrap();
        let found = sound(&bytes);
        assert_eq!(found.is_ok(), good, "{found:?}");
        assert!(good || found.unwrap_err().to_string().contains("depth of an inode"));
    }
}
