//! A file system tree being put together: entries come in any order, are looked up by name, replaced and linked, and end as the
//! writer's [`Tree`].
//!
//! Nodes, inodes and bytes are tables; names are found through one hash table that holds node numbers only. Knows nothing of where entries come from.
//! Invariant: what hangs below a node that was replaced by something that is no directory is never written.

use hashbrown::HashTable;
use rafs_format::tree::{Entry, NewInode, Span, Tree};
use rafs_format::{Chunk, FileType};
use std::hash::{BuildHasher, RandomState};

/// A node of the tree: one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeId(u32);

/// Attributes that each name of a hard-linked file brings with it; those of the name written last are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in stat(2)")]
pub struct Attributes {
    /// Full `st_mode` with type bits.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime_secs: i64,
    pub mtime_nanos: u32,
}

impl Attributes {
    /// A directory that an entry implies: 0755, owned by root, from 1970.
    pub const IMPLIED: Self = Self { mode: 0o040_755, uid: 0, gid: 0, mtime_secs: 0, mtime_nanos: 0 };
}

/// What an inode holds besides its attributes.
#[derive(Debug, Clone, Copy, Default)]
#[expect(missing_docs, reason = "as in `NewInode`")]
pub struct Content<'a> {
    pub size: u64,
    pub rdev: u32,
    pub target: &'a [u8],
    /// Encoded area.
    pub xattrs: &'a [u8],
    pub first_chunk: u32,
}

/// Why the tree cannot hold something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// More than 32 bits of entries or names.
    #[error("the tree is too large: 2^32 entries or bytes of names")]
    TooLarge,
    /// Something is put below what is no directory.
    #[error("its parent is not a directory")]
    NotADirectory,
    /// Only the root has no name.
    #[error("the root must be a directory")]
    Root,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    parent: u32,
    name: Span,
    inode: u32,
    attributes: Attributes,
}

/// The tree being put together.
#[derive(Debug)]
pub struct TreeBuilder {
    nodes: Vec<Node>,
    inodes: Vec<NewInode>,
    bytes: Vec<u8>,
    /// Nodes that are not replaced, by parent and name.
    names: HashTable<u32>,
    hasher: RandomState,
}

impl Default for TreeBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl TreeBuilder {
    /// A tree of a root only, with [`Attributes::IMPLIED`].
    pub fn new() -> Self {
        let root = Node { parent: 0, name: Span::default(), inode: 0, attributes: Attributes::IMPLIED };
        Self {
            nodes: vec![root],
            inodes: vec![NewInode::default()],
            bytes: Vec::new(),
            names: HashTable::new(),
            hasher: RandomState::new(),
        }
    }

    /// Makes room for `count` more names.
    pub fn reserve(&mut self, count: usize) {
        let (nodes, bytes, hasher) = (&self.nodes, &self.bytes, &self.hasher);
        self.names.reserve(count, |&id| hash_of(nodes, bytes, hasher, id));
    }

    /// The root.
    pub fn root(&self) -> NodeId {
        NodeId(0)
    }

    fn node(&self, id: u32) -> Option<&Node> {
        self.nodes.get(id as usize)
    }

    fn span(&self, span: Span) -> &[u8] {
        let start = span.start as usize;
        self.bytes.get(start..start.saturating_add(span.len as usize)).unwrap_or(&[])
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<Span, TreeError> {
        let start = u32::try_from(self.bytes.len()).ok();
        let len = u32::try_from(bytes.len()).ok();
        let span = start.zip(len).filter(|(start, len)| start.checked_add(*len).is_some());
        let (start, len) = span.ok_or(TreeError::TooLarge)?;
        self.bytes.extend_from_slice(bytes);
        Ok(Span { start, len })
    }

    /// The child of `parent` called `name`.
    pub fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        let hash = self.hasher.hash_one((parent.0, name));
        let same =
            |&id: &u32| self.node(id).is_some_and(|n| n.parent == parent.0 && self.span(n.name) == name);
        self.names.find(hash, same).copied().map(NodeId)
    }

    /// Type of a node.
    pub fn file_type(&self, id: NodeId) -> Option<FileType> {
        self.node(id.0).and_then(|node| FileType::from_mode(node.attributes.mode))
    }

    /// The inode that a node names.
    pub fn inode_of(&self, id: NodeId) -> u32 {
        self.node(id.0).map_or(0, |node| node.inode)
    }

    /// Attributes of a node.
    pub fn attributes(&self, id: NodeId) -> Attributes {
        self.node(id.0).map_or(Attributes::IMPLIED, |node| node.attributes)
    }

    /// Size of the regular file a node names.
    pub fn size(&self, id: NodeId) -> u64 {
        self.inodes.get(self.inode_of(id) as usize).map_or(0, |inode| inode.size)
    }

    /// Says where the chunks of a regular file start in the run of all chunks.
    pub fn set_first_chunk(&mut self, id: NodeId, first_chunk: u32) {
        let inode = self.inode_of(id) as usize;
        if let Some(inode) = self.inodes.get_mut(inode) {
            inode.first_chunk = first_chunk;
        }
    }

    /// Puts a new inode under `name`, in place of what is there. A directory that takes the place of a directory keeps its children.
    pub fn insert(
        &mut self,
        parent: NodeId,
        name: &[u8],
        attributes: Attributes,
        content: &Content<'_>,
    ) -> Result<NodeId, TreeError> {
        let inode = self.add_inode(content)?;
        self.link(parent, name, attributes, inode)
    }

    fn add_inode(&mut self, content: &Content<'_>) -> Result<u32, TreeError> {
        let number = u32::try_from(self.inodes.len()).ok().ok_or(TreeError::TooLarge)?;
        let inode = NewInode {
            size: content.size,
            rdev: content.rdev,
            target: self.keep(content.target)?,
            xattrs: self.keep(content.xattrs)?,
            first_chunk: content.first_chunk,
            ..NewInode::default()
        };
        self.inodes.push(inode);
        Ok(number)
    }

    /// Puts another name of the inode `inode` under `name`, in place of what is there.
    pub fn link(
        &mut self,
        parent: NodeId,
        name: &[u8],
        attributes: Attributes,
        inode: u32,
    ) -> Result<NodeId, TreeError> {
        if self.file_type(parent) != Some(FileType::Directory) {
            return Err(TreeError::NotADirectory);
        }
        let is_dir = FileType::from_mode(attributes.mode) == Some(FileType::Directory);
        let old = self.child(parent, name);
        if let Some(old) = old.filter(|&old| is_dir || self.file_type(old) != Some(FileType::Directory)) {
            if let Some(node) = self.nodes.get_mut(old.0 as usize) {
                (node.inode, node.attributes) = (inode, attributes);
            }
            return Ok(old);
        }
        let id = u32::try_from(self.nodes.len()).ok().ok_or(TreeError::TooLarge)?;
        let hash = self.hasher.hash_one((parent.0, name));
        if let Some(old) = old
            && let Ok(entry) = self.names.find_entry(hash, |&other| other == old.0)
        {
            // What was below the directory stays with a node that nothing names any more.
            entry.remove();
        }
        let name = self.keep(name)?;
        self.nodes.push(Node { parent: parent.0, name, inode, attributes });
        let (nodes, bytes, hasher) = (&self.nodes, &self.bytes, &self.hasher);
        self.names.insert_unique(hash, id, |&id| hash_of(nodes, bytes, hasher, id));
        Ok(NodeId(id))
    }

    /// Takes the node `name` out of `parent`, and with it what is below. Was it there?
    pub fn remove(&mut self, parent: NodeId, name: &[u8]) -> bool {
        let Some(old) = self.child(parent, name) else { return false };
        let hash = self.hasher.hash_one((parent.0, name));
        match self.names.find_entry(hash, |&other| other == old.0) {
            Ok(entry) => {
                entry.remove();
                true
            }
            Err(_absent) => false,
        }
    }

    /// Takes everything out of a directory. Returns its node from now on.
    pub fn clear(&mut self, dir: NodeId) -> Result<NodeId, TreeError> {
        let Some(&Node { parent, name, inode, attributes }) = self.node(dir.0).filter(|_| dir.0 != 0) else {
            self.names.clear();
            return Ok(dir);
        };
        // What was below stays with the old node, which nothing names any more: nobody has to look for it.
        let (parent, name) = (NodeId(parent), self.span(name).to_vec());
        self.remove(parent, &name);
        self.link(parent, &name, attributes, inode)
    }

    /// Puts a copy of what `from` names under `name`, with an inode of its own.
    pub fn copy(&mut self, from: NodeId, parent: NodeId, name: &[u8]) -> Result<NodeId, TreeError> {
        let inode = self.inodes.get(self.inode_of(from) as usize).copied().unwrap_or_default();
        let number = u32::try_from(self.inodes.len()).ok().ok_or(TreeError::TooLarge)?;
        self.inodes.push(inode);
        self.link(parent, name, self.attributes(from), number)
    }

    /// Replaces attributes and xattrs (an encoded area) of the root.
    pub fn set_root(&mut self, attributes: Attributes, xattrs: &[u8]) -> Result<(), TreeError> {
        if FileType::from_mode(attributes.mode) != Some(FileType::Directory) {
            return Err(TreeError::Root);
        }
        let inode = self.add_inode(&Content { xattrs, ..Content::default() })?;
        if let Some(root) = self.nodes.first_mut() {
            (root.attributes, root.inode) = (attributes, inode);
        }
        Ok(())
    }

    /// The directory `name` in `parent`, made if it is not there.
    pub fn directory(&mut self, parent: NodeId, name: &[u8]) -> Result<NodeId, TreeError> {
        match self.child(parent, name) {
            Some(id) if self.file_type(id) == Some(FileType::Directory) => Ok(id),
            Some(_) => Err(TreeError::NotADirectory),
            None => self.insert(parent, name, Attributes::IMPLIED, &Content::default()),
        }
    }

    /// The node at a path of names from the root.
    pub fn find<'n>(&self, names: impl IntoIterator<Item = &'n [u8]>) -> Option<NodeId> {
        names.into_iter().try_fold(self.root(), |at, name| self.child(at, name))
    }

    /// Names from the root down to a node; empty for the root.
    pub fn path(&self, id: NodeId) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = id.0;
        while let Some(node) = self.node(at).filter(|_| at != 0) {
            names.push(self.span(node.name));
            at = node.parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Children of each node: ranges of the second list, in byte order of their names.
    fn children(&self) -> (Vec<(u32, u32)>, Vec<u32>) {
        let parent = |id: u32| self.node(id).map_or(0, |node| node.parent as usize);
        let mut nodes: Vec<u32> = self.names.iter().copied().collect();
        nodes.sort_unstable();
        let mut ranges = vec![(0, 0); self.nodes.len()];
        for &id in &nodes {
            if let Some((_, count)) = ranges.get_mut(parent(id)) {
                *count += 1;
            }
        }
        let mut next = 0;
        for range in &mut ranges {
            next += std::mem::replace(range, (next, next)).1;
        }
        let mut children = vec![0; nodes.len()];
        for id in nodes {
            let Some((_, end)) = ranges.get_mut(parent(id)) else { continue };
            if let Some(slot) = children.get_mut(*end as usize) {
                *slot = id;
            }
            *end += 1;
        }
        // Sources mostly list a directory in order, and layers always do: runs are what this sort is fast with.
        let name = |id: &u32| self.node(*id).map_or(&[][..], |node| self.span(node.name));
        for &(first, end) in &ranges {
            let of_one = children.get_mut(first as usize..end as usize).unwrap_or(&mut []);
            of_one.sort_by(|a, b| name(a).cmp(name(b)));
        }
        (ranges, children)
    }

    /// All nodes that will be written, in numbering order: the root, then the children of one directory after the other.
    pub fn numbering(&self) -> Vec<NodeId> {
        self.number().into_iter().map(|(id, _)| NodeId(id)).collect()
    }

    /// Nodes in numbering order, each with its children as a range of this order.
    fn number(&self) -> Vec<(u32, (u32, u32))> {
        let (ranges, sorted) = self.children();
        let mut order: Vec<(u32, (u32, u32))> = vec![(0, (0, 0))];
        let mut open = vec![0usize];
        while let Some(at) = open.pop() {
            let Some(&(id, _)) = order.get(at) else { continue };
            let (first, end) = ranges.get(id as usize).copied().unwrap_or_default();
            let start = order.len();
            let children = sorted.get(first as usize..end as usize).unwrap_or(&[]);
            let mut directories: Vec<usize> = Vec::new();
            for &child in children {
                if self.file_type(NodeId(child)) == Some(FileType::Directory) {
                    directories.push(order.len());
                }
                order.push((child, (0, 0)));
            }
            // There are fewer nodes than 2^32.
            let range =
                (u32::try_from(start).unwrap_or(u32::MAX), u32::try_from(order.len()).unwrap_or(u32::MAX));
            if let Some(dir) = order.get_mut(at) {
                dir.1 = range;
            }
            open.extend(directories.into_iter().rev());
        }
        order
    }

    /// The writer's tree. `chunks` are all chunks of the build and `file_chunks` the run of their positions that files have; chunks of replaced files are
    /// left out. With it, for each of `wanted`, its entry, if it is written.
    pub fn finish(
        self,
        chunks: &[Chunk],
        file_chunks: Vec<u32>,
        chunk_size: u32,
        wanted: &[NodeId],
    ) -> (Tree, Vec<Option<u32>>) {
        let order = self.number();
        let mut entry_of = vec![None; self.nodes.len()];
        let mut tree = Tree { entries: Vec::with_capacity(order.len()), file_chunks, ..Tree::default() };
        let mut inodes = self.inodes;
        for ((id, children), number) in order.into_iter().zip(0u32..) {
            let Some(node) = self.nodes.get(id as usize) else { continue };
            if let Some(slot) = entry_of.get_mut(id as usize) {
                *slot = Some(number);
            }
            if let Some(inode) = inodes.get_mut(node.inode as usize) {
                let Attributes { mode, uid, gid, mtime_secs, mtime_nanos } = node.attributes;
                *inode = NewInode { mode, uid, gid, mtime_secs, mtime_nanos, ..*inode };
            }
            tree.entries.push(Entry { name: node.name, inode: node.inode, children });
        }
        tree.bytes = self.bytes;
        tree.inodes = compact(&mut tree.entries, &inodes);
        keep_used_chunks(&mut tree, chunks, chunk_size);
        let found = wanted.iter().map(|id| entry_of.get(id.0 as usize).copied().flatten()).collect();
        (tree, found)
    }
}

/// Hash of a node that is found by parent and name.
fn hash_of(nodes: &[Node], bytes: &[u8], hasher: &RandomState, id: u32) -> u64 {
    let node = nodes.get(id as usize);
    let name = node.and_then(|n| bytes.get(n.name.start as usize..(n.name.start + n.name.len) as usize));
    hasher.hash_one((node.map_or(0, |n| n.parent), name.unwrap_or(&[])))
}

/// Inodes that entries name, in the order of their first entry; entries are changed to match.
fn compact(entries: &mut [Entry], inodes: &[NewInode]) -> Vec<NewInode> {
    let mut moved = vec![u32::MAX; inodes.len()];
    let mut kept = Vec::with_capacity(inodes.len());
    for entry in entries {
        let old = entry.inode as usize;
        let Some((slot, inode)) = moved.get_mut(old).zip(inodes.get(old)) else { continue };
        if *slot == u32::MAX {
            *slot = u32::try_from(kept.len()).unwrap_or(u32::MAX);
            kept.push(*inode);
        }
        entry.inode = *slot;
    }
    kept
}

/// Fills the tree's chunks with those that its files use.
fn keep_used_chunks(tree: &mut Tree, chunks: &[Chunk], chunk_size: u32) {
    let mut moved = vec![u32::MAX; chunks.len()];
    let mut kept = Vec::with_capacity(chunks.len());
    for inode in &tree.inodes {
        if FileType::from_mode(inode.mode) != Some(FileType::Regular) {
            continue;
        }
        let first = inode.first_chunk as usize;
        let count = usize::try_from(inode.size.div_ceil(chunk_size.into())).unwrap_or(usize::MAX);
        for position in tree.file_chunks.get(first..first.saturating_add(count)).unwrap_or(&[]) {
            let Some((slot, chunk)) = moved.get_mut(*position as usize).zip(chunks.get(*position as usize))
            else {
                continue;
            };
            if *slot == u32::MAX {
                *slot = u32::try_from(kept.len()).unwrap_or(u32::MAX);
                kept.push(*chunk);
            }
        }
    }
    for position in &mut tree.file_chunks {
        *position = moved.get(*position as usize).copied().unwrap_or(u32::MAX);
    }
    tree.chunks = kept;
}
