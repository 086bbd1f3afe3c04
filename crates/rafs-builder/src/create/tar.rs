//! A layer as a source: entries in stream order, hard links to what comes later put right at the end.

use super::pipeline::Feeder;
use super::{CreateError, Scanned, bad_entry, encode_xattrs, fed, first_chunk, full_mode, names};
use crate::tree::{Attributes, Content, NodeId, TreeError};
use oci_registry::layer::{EntryKind, Layer, LayerCompression, Meta, decompress};
use rafs_format::FileType;
use rafs_format::inode::encode_rdev;
use std::collections::HashSet;
use std::io::{self, Read};
use std::path::PathBuf;

/// Bookkeeping of eStargz layers at the root, which is no content.
const BOOKKEEPING: [&[u8]; 3] = [b"stargz.index.json", b".prefetch.landmark", b".no.prefetch.landmark"];

/// Where the data of files goes.
pub(super) trait DataSink {
    /// Refuses a layer that it can do nothing with.
    fn check(&mut self, _compression: LayerCompression) -> Result<(), CreateError> {
        Ok(())
    }
    /// Position of the next chunk among those of all files.
    fn next_chunk(&self) -> Result<u32, CreateError>;
    /// Takes the data of the current entry of `layer`.
    fn file<R: Read>(
        &mut self,
        meta: &Meta,
        layer: &mut Layer<R>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), CreateError>;
}

/// Data becomes chunks of a new blob.
impl<W> DataSink for Feeder<'_, W> {
    fn next_chunk(&self) -> Result<u32, CreateError> {
        first_chunk(self)
    }

    fn file<R: Read>(
        &mut self,
        meta: &Meta,
        layer: &mut Layer<R>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), CreateError> {
        let done = Feeder::file(self, meta.size, &mut |buffer| {
            layer.read_data(buffer)?;
            progress(buffer.len() as u64);
            Ok(())
        })?;
        fed(done)
    }
}

/// A hard link whose target was not there yet. An empty file keeps its place in the tree, so that what comes later in the stream
/// replaces it as it would replace the link.
struct Pending {
    path: Vec<u8>,
    target: Vec<u8>,
    attributes: Attributes,
    /// The empty file.
    inode: u32,
}

/// Reads the whole stream.
pub(super) fn read<S: DataSink>(
    stream: Box<dyn Read + Send + '_>,
    sink: &mut S,
    chunk_size: u32,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Scanned, CreateError> {
    let failed = |source: io::Error| CreateError::Source { path: PathBuf::from("the layer"), source };
    let (compression, plain) = decompress(stream).map_err(failed)?;
    sink.check(compression)?;
    read_plain(plain, sink, chunk_size, progress)
}

/// The same for a stream of plain tar bytes, none of which are read ahead of what is asked for.
pub(super) fn read_plain<R: Read, S: DataSink>(
    plain: R,
    sink: &mut S,
    chunk_size: u32,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Scanned, CreateError> {
    let failed = |source: io::Error| CreateError::Source { path: PathBuf::from("the layer"), source };
    let mut layer = Layer::new(plain);
    let mut entries = Entries::new(chunk_size, progress);
    while let Some(meta) = layer.next_entry()? {
        entries.add(&meta, &mut layer, sink)?;
    }
    if layer.offset() == 0 {
        // A writer that failed before its first byte must not become an image without files.
        return Err(failed(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "it is empty: an archive has at least an end mark",
        )));
    }
    let mut read = entries.finish()?;
    read.end = Some(layer.end());
    Ok(read)
}

/// Puts entries into a tree, in the order in which they come.
pub(super) struct Entries<'a> {
    read: Scanned,
    pending: Vec<Pending>,
    /// Inodes of the files that keep the places of [`Entries::pending`].
    waiting: HashSet<u32>,
    chunk_size: u32,
    progress: &'a (dyn Fn(u64) + Sync),
}

impl<'a> Entries<'a> {
    /// None yet.
    pub fn new(chunk_size: u32, progress: &'a (dyn Fn(u64) + Sync)) -> Self {
        let (read, pending, waiting) = (Scanned::default(), Vec::new(), HashSet::new());
        Self { read, pending, waiting, chunk_size, progress }
    }

    /// What became of them, once links to later entries are made.
    pub fn finish(mut self) -> Result<Scanned, CreateError> {
        self.resolve()?;
        Ok(self.read)
    }

    /// Adds the entry that `layer` is at.
    pub fn add<R: Read, S: DataSink>(
        &mut self,
        meta: &Meta,
        layer: &mut Layer<R>,
        sink: &mut S,
    ) -> Result<(), CreateError> {
        let path: Vec<&[u8]> = names(&meta.path).collect();
        check_path(&meta.path, &path)?;
        if let [only] = path.as_slice()
            && BOOKKEEPING.contains(only)
        {
            return Ok(());
        }
        let (xattrs, skipped) = encode_xattrs(&meta.path, &meta.xattrs)?;
        self.read.skipped_xattrs += skipped;
        let Some((name, parents)) = path.split_last() else {
            let attributes = attributes(meta, FileType::Directory);
            if meta.kind != EntryKind::Directory {
                return Err(bad_entry(&meta.path, "the root must be a directory"));
            }
            return Ok(self.read.tree.set_root(attributes, &xattrs)?);
        };
        let parent = self.parent(&meta.path, parents)?;
        self.insert(meta, parent, name, &xattrs, layer, sink)
    }

    fn parent(&mut self, path: &[u8], parents: &[&[u8]]) -> Result<NodeId, CreateError> {
        let tree = &mut self.read.tree;
        parents
            .iter()
            .try_fold(tree.root(), |at, name| tree.directory(at, name))
            .map_err(|error| tree_error(path, error))
    }

    fn insert<R: Read, S: DataSink>(
        &mut self,
        meta: &Meta,
        parent: NodeId,
        name: &[u8],
        xattrs: &[u8],
        layer: &mut Layer<R>,
        sink: &mut S,
    ) -> Result<(), CreateError> {
        let none = Content { xattrs, ..Content::default() };
        let (file_type, content) = match &meta.kind {
            EntryKind::HardLink(target) => return self.hard_link(meta, parent, name, target),
            EntryKind::Regular => {
                let first_chunk = sink.next_chunk()?;
                self.data(meta, layer, sink)?;
                (FileType::Regular, Content { size: meta.size, first_chunk, ..none })
            }
            EntryKind::Directory => (FileType::Directory, none),
            EntryKind::Fifo => (FileType::Fifo, none),
            EntryKind::Symlink(target) => {
                check_target(&meta.path, target)?;
                (FileType::Symlink, Content { target, ..none })
            }
            EntryKind::CharDevice { major, minor } => {
                (FileType::CharDevice, Content { rdev: rdev(&meta.path, *major, *minor)?, ..none })
            }
            EntryKind::BlockDevice { major, minor } => {
                (FileType::BlockDevice, Content { rdev: rdev(&meta.path, *major, *minor)?, ..none })
            }
        };
        let inserted = self.read.tree.insert(parent, name, attributes(meta, file_type), &content);
        inserted.map(|_| ()).map_err(|error| tree_error(&meta.path, error))
    }

    fn data<R: Read, S: DataSink>(
        &self,
        meta: &Meta,
        layer: &mut Layer<R>,
        sink: &mut S,
    ) -> Result<(), CreateError> {
        let limit = u64::from(u32::MAX) * u64::from(self.chunk_size);
        if meta.size > limit {
            return Err(bad_entry(
                &meta.path,
                format!("it is {} bytes long, at most {limit} are possible", meta.size),
            ));
        }
        sink.file(meta, layer, self.progress)
    }

    /// Links to an entry before it at once, to one behind it at the end.
    fn hard_link(
        &mut self,
        meta: &Meta,
        parent: NodeId,
        name: &[u8],
        target: &[u8],
    ) -> Result<(), CreateError> {
        let target_names: Vec<&[u8]> = names(target).collect();
        check_path(target, &target_names)?;
        let attributes = attributes(meta, FileType::Regular);
        if let Some(found) = self.target(&target_names) {
            return self.link(&meta.path, parent, name, attributes, found);
        }
        let tree = &mut self.read.tree;
        let node = tree.insert(parent, name, attributes, &Content::default());
        let inode = tree.inode_of(node.map_err(|error| tree_error(&meta.path, error))?);
        self.pending.push(Pending { path: meta.path.clone(), target: target.to_vec(), attributes, inode });
        self.waiting.insert(inode);
        Ok(())
    }

    /// The node at a path, unless it waits itself.
    fn target(&self, names: &[&[u8]]) -> Option<NodeId> {
        let tree = &self.read.tree;
        tree.find(names.iter().copied()).filter(|&node| !self.waiting.contains(&tree.inode_of(node)))
    }

    fn link(
        &mut self,
        path: &[u8],
        parent: NodeId,
        name: &[u8],
        attributes: Attributes,
        target: NodeId,
    ) -> Result<(), CreateError> {
        let tree = &mut self.read.tree;
        let linked = match tree.file_type(target) {
            Some(FileType::Regular) => {
                let inode = tree.inode_of(target);
                tree.link(parent, name, attributes, inode)
            }
            Some(FileType::Directory) | None => {
                return Err(bad_entry(path, "it is a hard link to a directory"));
            }
            // The format links regular files only; others become copies.
            Some(_) => tree.copy(target, parent, name),
        };
        linked.map(|_| ()).map_err(|error| tree_error(path, error))
    }

    /// Makes the links that waited, until no more can be made.
    fn resolve(&mut self) -> Result<(), CreateError> {
        let mut pending = std::mem::take(&mut self.pending);
        loop {
            let before = pending.len();
            for link in std::mem::take(&mut pending) {
                if !self.resolve_one(&link)? {
                    pending.push(link);
                }
            }
            match pending.first() {
                None => return Ok(()),
                Some(first) if pending.len() == before => {
                    let target = String::from_utf8_lossy(&first.target).into_owned();
                    let problem = format!("it is a hard link to {target:?}, which is not in the layer");
                    return Err(bad_entry(&first.path, problem));
                }
                Some(_) => {}
            }
        }
    }

    /// Makes one link, if its target is there. `true`: it is made, or was replaced meanwhile.
    fn resolve_one(&mut self, link: &Pending) -> Result<bool, CreateError> {
        let tree = &self.read.tree;
        let names_of = |path| names(path).collect::<Vec<_>>();
        let path = names_of(&link.path);
        let is_there = tree.find(path.iter().copied()).is_some_and(|node| tree.inode_of(node) == link.inode);
        let Some((name, parents)) = path.split_last().filter(|_| is_there) else { return Ok(true) };
        let Some(found) = self.target(&names_of(&link.target)) else { return Ok(false) };
        let parent = self.parent(&link.path, parents)?;
        self.link(&link.path, parent, name, link.attributes, found)?;
        Ok(true)
    }
}

/// Refuses what would leave the tree, and names that cannot be stored.
fn check_path(path: &[u8], names: &[&[u8]]) -> Result<(), CreateError> {
    if names.contains(&b"..".as_slice()) {
        return Err(bad_entry(path, "its path has a \"..\" in it"));
    }
    // Nobody can extract a longer one either, and a path of some megabytes would be millions of directories.
    let length = names.iter().map(|name| name.len() + 1).sum::<usize>().saturating_sub(1);
    if length > MAX_PATH {
        let start = path.get(..256).unwrap_or(path);
        return Err(bad_entry(
            start,
            format!("its path has {length} bytes, at most {MAX_PATH} are possible"),
        ));
    }
    match names.iter().find(|name| name.len() > 255) {
        Some(name) => {
            Err(bad_entry(path, format!("a name of {} bytes, at most 255 are possible", name.len())))
        }
        None => Ok(()),
    }
}

/// Longest path, in bytes: `PATH_MAX` of Linux counts a NUL too.
const MAX_PATH: usize = 4095;

/// Refuses targets that cannot be stored.
pub(super) fn check_target(path: &[u8], target: &[u8]) -> Result<(), CreateError> {
    if target.contains(&0) {
        return Err(bad_entry(path, "its symlink target holds a NUL"));
    }
    if (1..=4095).contains(&target.len()) {
        return Ok(());
    }
    Err(bad_entry(path, format!("its symlink target has {} bytes, 1 to 4095 are possible", target.len())))
}

/// Refuses device numbers that do not fit.
pub(super) fn rdev(path: &[u8], major: u32, minor: u32) -> Result<u32, CreateError> {
    if major <= 0xFFF && minor <= 0xF_FFFF {
        return Ok(encode_rdev(major, minor));
    }
    Err(bad_entry(path, format!("device number {major}:{minor} is over 12:20 bits")))
}

fn attributes(meta: &Meta, file_type: FileType) -> Attributes {
    Attributes {
        mode: full_mode(file_type, meta.mode),
        uid: meta.uid,
        gid: meta.gid,
        mtime_secs: meta.mtime_secs,
        mtime_nanos: meta.mtime_nanos,
    }
}

fn tree_error(path: &[u8], error: TreeError) -> CreateError {
    bad_entry(path, error.to_string())
}
