//! The tree digest of an image: one walk that checks the tree and hashes it on the way.
//!
//! What is hashed is the matter of [`crate::tree`], what a sound tree is that of `rafs-format`; this brings them together. A digest is always that of
//! a checked tree. Time is linear in the bootstrap; memory is the digests of chunks by their numbers (32 bytes for each in most images), the directories open at
//! the time, and 72 bytes for each inode with several names. Whoever wants the digests of all directories pays 40 bytes for each.

use crate::contents::Contents;
use crate::proof::{Proof, Step, siblings};
pub use crate::tree::Scope;
use crate::tree::{Attributes, NodeHasher, PathId, TreeHasher, entry};
use rafs_format::check::{self, Summary, Visit};
use rafs_format::inode::decode_rdev;
use rafs_format::tree::{Entry, NewInode, Tree};
use rafs_format::xattr::{Xattr, Xattrs};
use rafs_format::{Blob, Bootstrap, Chunk, Digest, DigestAlgorithm, FileType, FormatError, Inode, Nid};
use std::collections::HashMap;
use std::ops::Range;

/// Why there is no tree digest.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum DigestError {
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error("a tarfs has no tree digest: its chunks have no digests")]
    Tarfs,
    #[error("an image with external blobs has no tree digest: their chunks have no digests")]
    External,
    #[error("{name:?} is not in the image")]
    NotFound { name: String },
}

/// A checked tree and its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeDigest {
    /// Counts of the check.
    pub summary: Summary,
    /// The digest.
    pub digest: Digest,
}

/// Checks a whole image like [`check::check`] and computes its tree digest. Errors: the first thing wrong; a tarfs.
pub fn tree<B: AsRef<[u8]>>(bootstrap: &Bootstrap<B>, scope: Scope) -> Result<TreeDigest, DigestError> {
    let mut root = Digest([0; 32]);
    let (summary, ..) = walk(bootstrap, scope, &mut |_, digest| root = digest)?;
    Ok(TreeDigest { summary, digest: root })
}

/// The tree digest of what is about to be written with these blobs, which is that of every image of it. `tree` must be valid. Costs half
/// of what [`tree()`] does: chunks are at hand in the order of files.
pub fn of_tree(tree: &Tree, blobs: &[Blob], chunk_size: u32, scope: Scope) -> Result<Digest, FormatError> {
    let mut walk = TreeWalk {
        tree,
        algorithms: blobs.iter().map(|blob| blob.digester).collect(),
        chunk_size: chunk_size.into(),
        hasher: TreeHasher::new(scope),
        linked: linked(tree),
        links: HashMap::new(),
    };
    let mut open = vec![walk.add(tree.entries.first())?];
    let mut digest = Digest([0; 32]);
    while let Some(children) = open.last_mut() {
        match children.next() {
            Some(n) => {
                let entry = tree.entries.get(n);
                if walk.is_directory(entry) {
                    open.push(walk.add(entry)?);
                } else {
                    walk.add(entry)?;
                }
            }
            None => {
                digest = walk.hasher.close()?.unwrap_or(digest);
                open.pop();
            }
        }
    }
    Ok(digest)
}

/// Which inodes have several names.
fn linked(tree: &Tree) -> Vec<bool> {
    let mut names = vec![0u8; tree.inodes.len()];
    for entry in &tree.entries {
        if let Some(names) = names.get_mut(entry.inode as usize) {
            *names = names.saturating_add(1);
        }
    }
    names.into_iter().map(|names| names > 1).collect()
}

/// A walk over a tree that is about to be written.
struct TreeWalk<'a> {
    tree: &'a Tree,
    algorithms: Vec<DigestAlgorithm>,
    chunk_size: u64,
    hasher: TreeHasher,
    linked: Vec<bool>,
    links: HashMap<u32, Link>,
}

impl TreeWalk<'_> {
    fn inode(&self, entry: Option<&Entry>) -> NewInode {
        entry.and_then(|entry| self.tree.inodes.get(entry.inode as usize)).copied().unwrap_or_default()
    }

    fn is_directory(&self, entry: Option<&Entry>) -> bool {
        FileType::from_mode(self.inode(entry).mode) == Some(FileType::Directory)
    }

    /// Hashes one entry, of a directory only the beginning. Returns its children.
    fn add(&mut self, entry: Option<&Entry>) -> Result<Range<usize>, FormatError> {
        let Some(entry) = entry else { return Ok(0..0) };
        let (inode, name) = (self.inode(Some(entry)), self.tree.span(entry.name));
        if let Some(link) = self.links.get(&entry.inode) {
            self.hasher.add(name, &link.node, Some(&link.first))?;
            return Ok(0..0);
        }
        let NewInode { mode, uid, gid, mtime_secs, mtime_nanos, .. } = inode;
        let attributes = Attributes { mode, uid, gid, mtime_secs, mtime_nanos };
        let xattrs = Xattrs::parse(self.tree.span(inode.xattrs), 0)?;
        let mut xattrs = xattrs.collect::<Result<Vec<_>, _>>()?;
        if self.is_directory(Some(entry)) {
            self.hasher.open(name, &attributes, &mut xattrs);
            return Ok(entry.children());
        }
        let input = self.hasher.nodes().begin(&attributes, &mut xattrs);
        let node = match FileType::from_mode(mode) {
            Some(FileType::Regular) => {
                let chunks = self.tree.chunks_of(&inode, self.chunk_size);
                let mut file = input.file(inode.size, chunks.len() as u64);
                for chunk in chunks.iter().filter_map(|&chunk| self.tree.chunks.get(chunk as usize)) {
                    file.chunk(algorithm(&self.algorithms, chunk), &chunk.digest);
                }
                file.finish()
            }
            Some(FileType::Symlink) => input.symlink(self.tree.span(inode.target)),
            Some(FileType::CharDevice | FileType::BlockDevice) => {
                let (major, minor) = decode_rdev(inode.rdev);
                input.device(major, minor)
            }
            Some(FileType::Fifo | FileType::Socket | FileType::Directory) | None => input.bodiless(),
        };
        if self.linked.get(entry.inode as usize) == Some(&true) {
            let first = self.hasher.path_id(name);
            self.links.insert(entry.inode, Link { node, first });
        }
        self.hasher.add(name, &node, None)?;
        Ok(0..0)
    }
}

/// The algorithm of a chunk's digest.
fn algorithm(of_blobs: &[DigestAlgorithm], chunk: &Chunk) -> DigestAlgorithm {
    let blob = usize::try_from(chunk.blob).ok().and_then(|blob| of_blobs.get(blob));
    blob.copied().unwrap_or(DigestAlgorithm::Blake3)
}

/// The node digests of all directories of an image, and what is known of inodes with several names.
#[derive(Debug)]
pub struct Directories<'a, B> {
    scope: Scope,
    /// Sorted by inode.
    digests: Vec<(Nid, Digest)>,
    links: HashMap<Nid, Link>,
    nodes: Nodes<'a, B>,
}

/// An inode with several names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Its node digest.
    pub node: Digest,
    /// Its first path.
    pub first: PathId,
}

impl<'a, B: AsRef<[u8]>> Directories<'a, B> {
    /// Checks a whole image and computes the digests of its directories. Errors: as of [`tree()`].
    pub fn compute(bootstrap: &'a Bootstrap<B>, scope: Scope) -> Result<Self, DigestError> {
        let mut digests = Vec::new();
        let (_, links, nodes) = walk(bootstrap, scope, &mut |nid, digest| digests.push((nid, digest)))?;
        digests.sort_unstable();
        Ok(Self { scope, digests, links, nodes })
    }

    /// Node digest of the directory `nid`.
    pub fn get(&self, nid: Nid) -> Option<Digest> {
        let at = self.digests.binary_search_by_key(&nid, |(nid, _)| *nid).ok()?;
        self.digests.get(at).map(|(_, digest)| *digest)
    }

    /// The digest of the tree.
    pub fn tree(&self) -> Digest {
        self.get(self.nodes.bootstrap.superblock().root).unwrap_or(Digest([0; 32]))
    }

    /// What is known of `nid` if it has several names.
    pub fn link(&self, nid: Nid) -> Option<&Link> {
        self.links.get(&nid)
    }

    /// Proves that `path`, names from the root down, is part of this image. Costs as much as the directories on the way have entries.
    pub fn prove(&mut self, path: &[&[u8]]) -> Result<Proof, DigestError> {
        let bootstrap = self.nodes.bootstrap;
        let (mut at, mut id) = (bootstrap.inode(bootstrap.superblock().root)?, PathId::ROOT);
        let mut steps = Vec::with_capacity(path.len());
        for name in path {
            let (step, nid) = self.step(&at, &id, name)?;
            steps.push(step);
            (at, id) = (bootstrap.inode(nid)?, id.join(name));
        }
        Ok(Proof { scope: self.scope, node: self.node(&at)?, steps })
    }

    /// The step of a proof through the directory `dir`, whose path is `id`, to `name`, and the inode that it names.
    fn step(&mut self, dir: &Inode, id: &PathId, name: &[u8]) -> Result<(Step, Nid), DigestError> {
        let bootstrap = self.nodes.bootstrap;
        let (mut leaves, mut found) = (Vec::new(), None);
        for child in bootstrap.dir_entries(dir, 0)? {
            let child = child?;
            if matches!(child.name, b"." | b"..") {
                continue;
            }
            let node = self.node(&bootstrap.inode(child.nid)?)?;
            let first = self.link(child.nid).map(|link| link.first);
            let link = first.filter(|first| *first != id.join(child.name));
            if child.name == name {
                found = Some((leaves.len(), link, child.nid));
            }
            leaves.push(entry(child.name, &node, link.as_ref()));
        }
        let none = || DigestError::NotFound { name: String::from_utf8_lossy(name).into_owned() };
        let (index, link, nid) = found.ok_or_else(none)?;
        let xattrs = bootstrap.xattrs(dir)?.map(|xattr| xattr.map(|xattr| (&xattr).into()));
        let step = Step {
            attributes: Attributes::from(dir),
            xattrs: xattrs.collect::<Result<_, _>>()?,
            count: leaves.len() as u64,
            index: index as u64,
            link,
            siblings: siblings(&leaves, index),
        };
        Ok((step, nid))
    }

    /// Node digest of any inode. Those of inodes with several names are not computed for each of them.
    fn node(&mut self, inode: &Inode) -> Result<Digest, FormatError> {
        let known = self.get(inode.nid).or_else(|| self.link(inode.nid).map(|link| link.node));
        known.map_or_else(|| self.nodes.digest(inode), Ok)
    }
}

/// What a walk leaves behind.
type Walked<'a, B> = (Summary, HashMap<Nid, Link>, Nodes<'a, B>);

/// Checks a whole image and hands every directory's node digest to `each`, parents after their children, so the root's last.
fn walk<'a, B: AsRef<[u8]>>(
    bootstrap: &'a Bootstrap<B>,
    scope: Scope,
    each: &mut dyn FnMut(Nid, Digest),
) -> Result<Walked<'a, B>, DigestError> {
    let mut digester = Digester {
        nodes: Nodes::new(bootstrap, scope)?,
        tree: TreeHasher::new(scope),
        open: Vec::new(),
        links: HashMap::new(),
        each,
    };
    let summary = check::check(bootstrap, &mut |visit| digester.visit(visit))?;
    digester.close_to(0)?;
    Ok((summary, digester.links, digester.nodes))
}

/// Digests of a tree as a walk in pre-order goes over it: a directory ends where something comes that is not below it.
struct Digester<'a, 'e, B> {
    nodes: Nodes<'a, B>,
    tree: TreeHasher,
    /// Inodes of the directories that are open in `tree`.
    open: Vec<Nid>,
    /// Inodes with several names that were met.
    links: HashMap<Nid, Link>,
    each: &'e mut dyn FnMut(Nid, Digest),
}

impl<B: AsRef<[u8]>> Digester<'_, '_, B> {
    fn visit(&mut self, visit: &Visit<'_>) -> Result<(), FormatError> {
        self.close_to(visit.path.len())?;
        let name = visit.path.last().copied().unwrap_or_default();
        let inode = &visit.inode;
        if inode.file_type == FileType::Directory {
            let attributes = Attributes::from(inode);
            self.tree.open(name, &attributes, self.nodes.read_xattrs(inode)?);
            self.open.push(inode.nid);
            return Ok(());
        }
        if let Some(link) = self.links.get(&inode.nid) {
            return self.tree.add(name, &link.node, Some(&link.first));
        }
        let node = self.nodes.digest(inode)?;
        if inode.nlink > 1 {
            let first = self.tree.path_id(name);
            self.links.insert(inode.nid, Link { node, first });
        }
        self.tree.add(name, &node, None)
    }

    /// Closes directories until `depth` are open.
    fn close_to(&mut self, depth: usize) -> Result<(), FormatError> {
        while self.open.len() > depth {
            let closed = self.tree.close()?;
            if let Some((nid, digest)) = self.open.pop().zip(closed) {
                (self.each)(nid, digest);
            }
        }
        Ok(())
    }
}

/// Node digests of the inodes of one image.
#[derive(Debug)]
struct Nodes<'a, B> {
    bootstrap: &'a Bootstrap<B>,
    contents: Contents<'a, B>,
    hasher: NodeHasher,
    /// Those of the inode looked at, to be allocated once.
    xattrs: Vec<Xattr<'a>>,
}

impl<'a, B: AsRef<[u8]>> Nodes<'a, B> {
    fn new(bootstrap: &'a Bootstrap<B>, scope: Scope) -> Result<Self, DigestError> {
        let (contents, hasher) = (Contents::new(bootstrap)?, NodeHasher::new(scope));
        Ok(Self { bootstrap, contents, hasher, xattrs: Vec::new() })
    }

    fn read_xattrs(&mut self, inode: &Inode) -> Result<&mut [Xattr<'a>], FormatError> {
        self.xattrs.clear();
        for xattr in self.bootstrap.xattrs(inode)? {
            self.xattrs.push(xattr?);
        }
        Ok(&mut self.xattrs)
    }

    /// Node digest of what is not a directory.
    fn digest(&mut self, inode: &Inode) -> Result<Digest, FormatError> {
        self.read_xattrs(inode)?;
        let Self { bootstrap, contents, hasher, xattrs } = self;
        let input = hasher.begin(&Attributes::from(inode), xattrs);
        match inode.file_type {
            FileType::Regular => {
                let count = bootstrap.chunk_count(inode);
                let mut file = input.file(inode.size, count);
                for n in 0..count {
                    let (by, digest) = contents.chunk(inode, n)?;
                    file.chunk(by, &digest);
                }
                Ok(file.finish())
            }
            FileType::Symlink => Ok(input.symlink(&bootstrap.symlink_target(inode)?)),
            FileType::CharDevice | FileType::BlockDevice => Ok(input.device(inode.major(), inode.minor())),
            FileType::Fifo | FileType::Socket => Ok(input.bodiless()),
            FileType::Directory => {
                let (found, expected) = (inode.file_type.name(), "file, symlink or device");
                Err(FormatError::WrongType { nid: inode.nid.0, found, expected })
            }
        }
    }
}
