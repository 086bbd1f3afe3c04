//! The digests that inodes of v5 state: of a file over the digests of its chunks, of a directory over those of what is in it, of a symlink
//! over its target, of anything else over nothing. docs/format.md, "Inode digests of v5".
//!
//! Knows a tree that is about to be written. Whoever compares a bootstrap with what it states asks the same of its inodes one by one.

use crate::digest;
use rafs_format::tree::{Entry, NewInode, Tree};
use rafs_format::{Digest, DigestAlgorithm, FileType};

/// The digest of each inode of a valid tree, in the order of `Tree::inodes`. Linear in its entries and chunks.
pub fn digests(tree: &Tree, chunk_size: u32, by: DigestAlgorithm) -> Vec<Digest> {
    let mut known: Vec<Option<Digest>> = vec![None; tree.inodes.len()];
    let mut content = Vec::new();
    // In numbering order a directory stands before what is in it.
    for entry in tree.entries.iter().rev() {
        let at = entry.inode as usize;
        let Some((inode, None)) = tree.inodes.get(at).zip(known.get(at).copied()) else { continue };
        content.clear();
        collect(tree, chunk_size, (entry, inode), &known, &mut content);
        let found = digest(by, &content);
        known.get_mut(at).into_iter().for_each(|slot| *slot = Some(found));
    }
    let empty = digest(by, &[]);
    known.into_iter().map(|found| found.unwrap_or(empty)).collect()
}

/// Puts down what the digest of an inode is taken of. `known` are the digests of all that is in it.
fn collect(
    tree: &Tree,
    chunk_size: u32,
    (entry, inode): (&Entry, &NewInode),
    known: &[Option<Digest>],
    content: &mut Vec<u8>,
) {
    match FileType::from_mode(inode.mode) {
        Some(FileType::Regular) => {
            let chunks = tree.chunks_of(inode, chunk_size.into());
            let chunks = chunks.iter().filter_map(|&chunk| tree.chunks.get(chunk as usize));
            chunks.for_each(|chunk| content.extend_from_slice(&chunk.digest.0));
        }
        Some(FileType::Directory) => {
            let children = tree.entries.get(entry.children()).unwrap_or(&[]);
            let digests =
                children.iter().filter_map(|child| known.get(child.inode as usize).copied().flatten());
            digests.for_each(|digest| content.extend_from_slice(&digest.0));
        }
        Some(FileType::Symlink) => content.extend_from_slice(tree.span(inode.target)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rafs_format::tree::Span;
    use rafs_format::{Chunk, ChunkFlags};

    /// `/a` (two chunks), `/d/` with `/d/f` (a FIFO) and `/d/s` (a symlink to `a`), `/z` (`/a` again).
    fn tree() -> Tree {
        let bytes = b"adzfs".to_vec();
        let name = |start| Span { start, len: 1 };
        let entry = |at, inode, children| Entry { name: name(at), inode, children };
        let chunk = |n: u8| Chunk {
            digest: Digest([n; 32]),
            blob: 0,
            index: n.into(),
            flags: ChunkFlags::empty(),
            compressed_offset: 0,
            compressed_size: 1,
            uncompressed_offset: 0,
            uncompressed_size: 4096,
            file_offset: 0,
            crc32: 0,
        };
        let inode = |mode| NewInode { mode, ..NewInode::default() };
        Tree {
            entries: vec![
                Entry { name: Span::default(), inode: 4, children: (1, 4) },
                entry(0, 0, (0, 0)),
                entry(1, 1, (4, 6)),
                entry(2, 0, (0, 0)),
                entry(3, 2, (0, 0)),
                entry(4, 3, (0, 0)),
            ],
            inodes: vec![
                NewInode { size: 8192, first_chunk: 0, ..inode(0o100_644) },
                inode(0o040_755),
                inode(0o010_644),
                NewInode { target: name(0), ..inode(0o120_777) },
                inode(0o040_755),
            ],
            chunks: vec![chunk(1), chunk(2)],
            file_chunks: vec![1, 0],
            bytes,
            ..Tree::default()
        }
    }

    #[test]
    fn each_kind_of_inode_is_hashed_over_what_it_holds() {
        for by in [DigestAlgorithm::Blake3, DigestAlgorithm::Sha256] {
            let tree = tree();
            tree.validate(4096).unwrap();
            let file = digest(by, &[[2; 32], [1; 32]].concat());
            let (fifo, link) = (digest(by, b""), digest(by, b"a"));
            let dir = digest(by, &[fifo.0, link.0].concat());
            let root = digest(by, &[file.0, dir.0, file.0].concat());
            assert_eq!(digests(&tree, 4096, by), [file, dir, fifo, link, root]);
        }
    }
}
