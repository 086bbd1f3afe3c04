//! Laying one layer over the tree of those below.
//!
//! The layer is checked and walked in one go, each directory before what is in it. Whiteouts of a directory are looked for when it is entered: then all that
//! the tree has below it is of lower layers, and only these they mean. Invariant: no marker gets into the tree.

use super::{MergeError, Merged};
use crate::open::Image;
use crate::tree::{Attributes, Content, NodeId, TreeError};
use rafs_format::check::{Visit, check};
use rafs_format::{Bootstrap, Chunk, ChunkIndex, FileType, FormatError, Inode, Nid, xattr};
use std::collections::HashMap;

/// How layers say that something of a lower one is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Whiteouts {
    /// Files called `.wh.NAME`, and `.wh..wh..opq` for all that lower layers have in a directory.
    #[default]
    Oci,
    /// Character devices 0/0, and `trusted.overlay.opaque` = `y` on a directory.
    Overlayfs,
    /// Not at all: every entry is itself.
    None,
}

const PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const OPAQUE_XATTR: &[u8] = b"trusted.overlay.opaque";

/// What an entry says of lower layers.
enum Marker<'a> {
    /// They have nothing in this directory.
    Opaque,
    /// They do not have this name here.
    Gone(&'a [u8]),
}

impl Whiteouts {
    fn marker<'a>(
        self,
        bootstrap: &Bootstrap<Vec<u8>>,
        name: &'a [u8],
        nid: Nid,
        file_type: FileType,
    ) -> Result<Option<Marker<'a>>, FormatError> {
        Ok(match self {
            Self::Oci if name == OPAQUE => Some(Marker::Opaque),
            Self::Oci => name.strip_prefix(PREFIX).map(Marker::Gone),
            Self::Overlayfs if file_type == FileType::CharDevice => {
                (bootstrap.inode(nid)?.rdev == 0).then_some(Marker::Gone(name))
            }
            Self::Overlayfs | Self::None => None,
        })
    }
}

/// Lays `image` over the tree. `blobs` are the positions of its blobs in the merged table.
pub(super) fn lay(merged: &mut Merged, image: &Image, blobs: &[u32]) -> Result<(), MergeError> {
    let invalid = |source| MergeError::Layer { path: image.path().to_path_buf(), source };
    let chunks = ChunkIndex::build(image.bootstrap()).map_err(invalid)?;
    let superblock = image.bootstrap().superblock();
    // No more than there is room for in the bootstrap, whatever it says.
    let fits = |count: u64, size: usize| {
        usize::try_from(count).unwrap_or(usize::MAX).min(image.bootstrap().bytes().len() / size)
    };
    merged.tree.reserve(fits(superblock.entries, 32));
    let places = HashMap::with_capacity(fits(superblock.chunk_table_records, 80));
    let mut layer =
        Layer { merged, image, blobs, chunks, places, open: Vec::new(), hidden: None, links: HashMap::new() };
    check(image.bootstrap(), &mut |visit| layer.visit(visit)).map(|_| ()).map_err(|stop| match stop {
        Stop::Format(source) => invalid(source),
        Stop::Merge(error) => error,
    })
}

/// Why a walk ends early.
enum Stop {
    Format(FormatError),
    Merge(MergeError),
}

impl From<FormatError> for Stop {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}

impl From<MergeError> for Stop {
    fn from(error: MergeError) -> Self {
        Self::Merge(error)
    }
}

struct Layer<'a> {
    merged: &'a mut Merged,
    image: &'a Image,
    blobs: &'a [u32],
    chunks: ChunkIndex,
    /// Positions in the list of all chunks, by blob and number in it.
    places: HashMap<(u32, u32), u32>,
    /// Directories from the root down to the one being walked.
    open: Vec<NodeId>,
    /// Names of the path to a directory that is a marker: what is below it is no content.
    hidden: Option<usize>,
    /// Inodes of files with several names in this layer.
    links: HashMap<Nid, u32>,
}

impl Layer<'_> {
    fn visit(&mut self, visit: &Visit<'_>) -> Result<(), Stop> {
        let depth = visit.path.len();
        if self.hidden.is_some_and(|hidden| depth > hidden) {
            return Ok(());
        }
        self.hidden = None;
        self.open.truncate(depth);
        let bootstrap = self.image.bootstrap();
        let Some((entry, &parent)) = visit.entry.as_ref().zip(self.open.last()) else {
            return self.root(&visit.inode);
        };
        let (nid, file_type) = (entry.nid, visit.inode.file_type);
        if self.merged.whiteouts.marker(bootstrap, entry.name, nid, file_type)?.is_some() {
            self.hidden = Some(depth);
            return Ok(());
        }
        if file_type == FileType::Directory {
            return self.directory(visit, parent, entry.name);
        }
        let attributes = attributes(&visit.inode);
        let placed = match self.links.get(&nid) {
            Some(&inode) => self.merged.tree.link(parent, entry.name, attributes, inode),
            None => self.insert(&visit.inode, parent, entry.name, attributes)?,
        };
        let node = placed.map_err(|source| self.failed(visit.path, source))?;
        if visit.inode.nlink > 1 && file_type == FileType::Regular {
            self.links.insert(nid, self.merged.tree.inode_of(node));
        }
        Ok(())
    }

    /// Is this a directory that its layer only implies, by what is in it? Layers do not say so, but builders give such a directory these attributes.
    fn is_implied(&self, attributes: Attributes, xattrs: &[u8]) -> bool {
        self.merged.implied && attributes == Attributes::IMPLIED && xattrs.is_empty()
    }

    fn failed(&self, path: &[&[u8]], source: TreeError) -> Stop {
        let what = format!("{:?}", String::from_utf8_lossy(&path.join(&b'/')));
        Stop::Merge(MergeError::Tree { path: self.image.path().to_path_buf(), what, source })
    }

    fn root(&mut self, inode: &Inode) -> Result<(), Stop> {
        let (xattrs, opaque) = self.xattrs(inode)?;
        let (attributes, root) = (attributes(inode), self.merged.tree.root());
        let failed = |source| {
            let path = self.image.path().to_path_buf();
            MergeError::Tree { path, what: "the root".to_owned(), source }
        };
        if !self.is_implied(attributes, &xattrs) {
            self.merged.tree.set_root(attributes, &xattrs).map_err(failed)?;
        }
        self.enter(inode, root, opaque)
    }

    fn directory(&mut self, visit: &Visit<'_>, parent: NodeId, name: &[u8]) -> Result<(), Stop> {
        let (xattrs, opaque) = self.xattrs(&visit.inode)?;
        let attributes = attributes(&visit.inode);
        let implied = self.is_implied(attributes, &xattrs);
        let tree = &mut self.merged.tree;
        let below =
            tree.child(parent, name).filter(|&node| tree.file_type(node) == Some(FileType::Directory));
        let node = match below {
            Some(node) if implied => Ok(node),
            _ => tree.insert(parent, name, attributes, &Content { xattrs: &xattrs, ..Content::default() }),
        };
        let node = node.map_err(|source| self.failed(visit.path, source))?;
        match below {
            Some(_) => self.enter(&visit.inode, node, opaque),
            None => {
                self.open.push(node);
                Ok(())
            }
        }
    }

    /// Goes into a directory that lower layers have too, and takes out what this layer says is gone.
    fn enter(&mut self, dir: &Inode, mut node: NodeId, mut opaque: bool) -> Result<(), Stop> {
        let bootstrap = self.image.bootstrap();
        let mut gone = Vec::new();
        for entry in bootstrap.dir_entries(dir, 0)? {
            let entry = entry?;
            match self.merged.whiteouts.marker(bootstrap, entry.name, entry.nid, entry.file_type)? {
                Some(Marker::Opaque) => opaque = true,
                Some(Marker::Gone(name)) => gone.push(name),
                None => {}
            }
        }
        if opaque {
            let cleared = self.merged.tree.clear(node);
            node = cleared.map_err(|source| self.failed(&[b"an opaque directory"], source))?;
        }
        for name in gone {
            self.merged.tree.remove(node, name);
        }
        self.open.push(node);
        Ok(())
    }

    /// Puts an inode of this layer into the tree, with its data if it is a file.
    fn insert(
        &mut self,
        inode: &Inode,
        parent: NodeId,
        name: &[u8],
        attributes: Attributes,
    ) -> Result<Result<NodeId, TreeError>, Stop> {
        let (xattrs, _) = self.xattrs(inode)?;
        let mut content = Content { xattrs: &xattrs, rdev: inode.rdev, ..Content::default() };
        let target;
        match inode.file_type {
            FileType::Regular => {
                content.size = inode.size;
                content.first_chunk = self.data(inode)?;
            }
            FileType::Symlink => {
                target = self.image.bootstrap().symlink_target(inode)?;
                content.target = &target;
            }
            _ => {}
        }
        Ok(self.merged.tree.insert(parent, name, attributes, &content))
    }

    /// Adds the chunks of a file to the run of all. Returns where they start.
    fn data(&mut self, inode: &Inode) -> Result<u32, Stop> {
        let bootstrap = self.image.bootstrap();
        let first = position(self.merged.file_chunks.len())?;
        for n in 0..bootstrap.chunk_count(inode) {
            let reference = bootstrap.chunk_ref(inode, n)?;
            let at = match self.places.get(&(reference.blob, reference.chunk)) {
                _ if bootstrap.is_tarfs() => self.chunk(self.chunks.chunk(bootstrap, inode, n)?)?,
                Some(&at) => at,
                None => {
                    let at = self.chunk(self.chunks.chunk(bootstrap, inode, n)?)?;
                    self.places.insert((reference.blob, reference.chunk), at);
                    at
                }
            };
            self.merged.file_chunks.push(at);
        }
        Ok(first)
    }

    /// Adds a chunk of this layer to all chunks. Returns its position.
    fn chunk(&mut self, mut chunk: Chunk) -> Result<u32, Stop> {
        let none = MergeError::TooMany { what: "blobs", limit: u32::MAX.into() };
        chunk.blob = *self.blobs.get(chunk.blob as usize).ok_or(none)?;
        let next = position(self.merged.chunks.len())?;
        let at = *self.merged.by_place.entry((chunk.blob, chunk.index)).or_insert(next);
        match self.merged.chunks.get(at as usize) {
            None => self.merged.chunks.push(chunk),
            Some(known) if Chunk { file_offset: chunk.file_offset, ..*known } == chunk => {}
            Some(_) => return Err(self.contradiction(chunk.blob)),
        }
        Ok(at)
    }

    /// The error for two layers that mean different bytes by one chunk of a blob.
    fn contradiction(&self, blob: u32) -> Stop {
        let path = self.image.path().to_path_buf();
        match self.merged.blobs.id(blob) {
            Some((id, other)) => {
                MergeError::Contradiction { id: id.clone(), path, other: other.to_path_buf() }.into()
            }
            None => MergeError::TooMany { what: "blobs", limit: u32::MAX.into() }.into(),
        }
    }

    /// Attributes of an inode as an encoded area, and whether they say that its directory is opaque, which is then left out.
    fn xattrs(&self, inode: &Inode) -> Result<(Vec<u8>, bool), Stop> {
        let mut pairs: Vec<(Vec<u8>, &[u8])> = Vec::new();
        let mut opaque = false;
        for xattr in self.image.bootstrap().xattrs(inode)? {
            let xattr = xattr?;
            let overlay =
                self.merged.whiteouts == Whiteouts::Overlayfs && inode.file_type == FileType::Directory;
            if overlay && xattr.is_named(OPAQUE_XATTR) && xattr.value == b"y" {
                opaque = true;
            } else {
                pairs.push(([xattr.prefix.as_bytes(), xattr.suffix].concat(), xattr.value));
            }
        }
        let pairs: Vec<(&[u8], &[u8])> =
            pairs.iter().map(|(name, value)| (name.as_slice(), *value)).collect();
        Ok((xattr::encode(&pairs)?, opaque))
    }
}

/// A length as a position with 32 bits.
fn position(length: usize) -> Result<u32, MergeError> {
    let limit = u32::MAX.into();
    u32::try_from(length).ok().ok_or(MergeError::TooMany { what: "chunks in all files", limit })
}

fn attributes(inode: &Inode) -> Attributes {
    Attributes {
        mode: inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        mtime_secs: inode.mtime_secs,
        mtime_nanos: inode.mtime_nanos,
    }
}
