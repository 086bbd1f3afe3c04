//! A directory as a source: the tree first, then the data of its files, those to prefetch before the others.

use super::pipeline::Feeder;
use super::tar::{check_target, rdev};
use super::{CreateError, Options, Scanned, Whiteouts, bad_entry, encode_xattrs, fed, first_chunk, names};
use crate::attributes::ExternalFiles;
use crate::tree::{Attributes, Content, NodeId};
use rafs_format::FileType;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Reads the whole directory.
pub(super) fn read<W>(
    root: &Path,
    feeder: &mut Feeder<'_, W>,
    options: &Options,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Scanned, CreateError> {
    // On top of a parent they mean something.
    let whiteouts = if options.parent.is_some() { Whiteouts::None } else { options.whiteouts };
    let mut scan =
        Scan { read: Scanned::default(), links: HashMap::new(), whiteouts, external: &options.external };
    scan.root(root)?;
    let mut open = vec![(root.to_path_buf(), scan.read.tree.root())];
    while let Some((path, node)) = open.pop() {
        scan.directory(&path, node, &mut open)?;
    }
    let mut read = scan.read;
    let mut seen = HashSet::new();
    let (order, first) = data_order(&read, options);
    for (n, node) in order.into_iter().enumerate() {
        if read.tree.file_type(node) == Some(FileType::Regular) && seen.insert(read.tree.inode_of(node)) {
            let first = first_chunk(feeder)?;
            let path = root.join(OsStr::from_bytes(&read.tree.path(node)));
            let size = read.tree.size(node);
            file(&path, size, feeder, progress)?;
            read.tree.set_first_chunk(node, first);
        }
        if n < first {
            read.prefetched = feeder.given();
        }
    }
    Ok(read)
}

/// Nodes in the order of their data: files under a pattern by pattern, then all in numbering order. With it, how many are under a pattern.
fn data_order(read: &Scanned, options: &Options) -> (Vec<NodeId>, usize) {
    let order = read.tree.numbering();
    if options.prefetch.is_empty() {
        return (order, 0);
    }
    let patterns: Vec<Vec<&[u8]>> = options.prefetch.iter().map(|path| names(path).collect()).collect();
    let rank = |node: &NodeId| {
        let path = read.tree.path(*node);
        let path: Vec<&[u8]> = names(&path).collect();
        patterns.iter().position(|pattern| path.starts_with(pattern)).unwrap_or(patterns.len())
    };
    let mut ranked: Vec<(usize, NodeId)> = order.into_iter().map(|node| (rank(&node), node)).collect();
    ranked.sort_by_key(|&(rank, _)| rank);
    let first = ranked.partition_point(|&(rank, _)| rank < patterns.len());
    (ranked.into_iter().map(|(_, node)| node).collect(), first)
}

/// Data of one file, which must be as long as it was when the tree was read.
fn file<W>(
    path: &Path,
    size: u64,
    feeder: &mut Feeder<'_, W>,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(), CreateError> {
    if size == 0 {
        return Ok(());
    }
    let failed = |source| CreateError::Source { path: path.to_path_buf(), source };
    let changed = |how| bad_entry(path.as_os_str().as_bytes(), format!("the file {how} while it was read"));
    let mut source = File::open(path).map_err(failed)?;
    let done = feeder.file(size, &mut |buffer| {
        progress(buffer.len() as u64);
        source.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => changed("became shorter"),
            _ => failed(error),
        })
    })?;
    fed(done)?;
    match source.read(&mut [0]).map_err(failed)? {
        0 => Ok(()),
        _ => Err(changed("became longer")),
    }
}

struct Scan<'a> {
    read: Scanned,
    /// Inodes of files with several names, by device and number.
    links: HashMap<(u64, u64), u32>,
    whiteouts: Whiteouts,
    /// What is left out since its data is elsewhere.
    external: &'a ExternalFiles,
}

impl Scan<'_> {
    fn root(&mut self, path: &Path) -> Result<(), CreateError> {
        let meta = path
            .symlink_metadata()
            .map_err(|source| CreateError::Source { path: path.to_path_buf(), source })?;
        let xattrs = self.xattrs(path)?;
        Ok(self.read.tree.set_root(root_attributes(&meta), &xattrs)?)
    }

    fn directory(
        &mut self,
        path: &Path,
        node: NodeId,
        open: &mut Vec<(PathBuf, NodeId)>,
    ) -> Result<(), CreateError> {
        let failed = |path: &Path, source| CreateError::Source { path: path.to_path_buf(), source };
        for entry in std::fs::read_dir(path).map_err(|source| failed(path, source))? {
            let entry = entry.map_err(|source| failed(path, source))?;
            let path = entry.path();
            let meta = path.symlink_metadata().map_err(|source| failed(&path, source))?;
            let name = entry.file_name();
            if self.is_whiteout(&name, &meta) {
                self.read.whiteouts += 1;
                continue;
            }
            if self.is_external(node, name.as_bytes()) {
                continue;
            }
            let child = self.entry(&path, name.as_bytes(), &meta, node)?;
            if meta.is_dir() {
                open.push((path, child));
            }
        }
        Ok(())
    }

    fn is_external(&self, parent: NodeId, name: &[u8]) -> bool {
        if self.external.files.is_empty() {
            return false;
        }
        let mut path = self.read.tree.path(parent);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        self.external.files.contains_key(&path)
    }

    /// Markers that mean something only in a merge: they name nothing in a single layer.
    fn is_whiteout(&self, name: &OsStr, meta: &Metadata) -> bool {
        match self.whiteouts {
            Whiteouts::Oci => name.to_str().is_some_and(|name| name.starts_with(".wh.")),
            Whiteouts::Overlayfs => meta.mode() & 0o170_000 == 0o020_000 && meta.rdev() == 0,
            Whiteouts::None => false,
        }
    }

    fn entry(
        &mut self,
        path: &Path,
        name: &[u8],
        meta: &Metadata,
        parent: NodeId,
    ) -> Result<NodeId, CreateError> {
        let bytes = path.as_os_str().as_bytes();
        let attributes = attributes(meta);
        let key = (meta.dev(), meta.ino());
        if let Some(&inode) = self.links.get(&key).filter(|_| meta.is_file()) {
            return Ok(self.read.tree.link(parent, name, attributes, inode)?);
        }
        let xattrs = self.xattrs(path)?;
        let mut content = Content { xattrs: &xattrs, ..Content::default() };
        let target;
        match FileType::from_mode(attributes.mode) {
            Some(FileType::Regular) => content.size = meta.len(),
            Some(FileType::Symlink) => {
                let read = std::fs::read_link(path);
                target = read.map_err(|source| CreateError::Source { path: path.to_path_buf(), source })?;
                content.target = target.as_os_str().as_bytes();
                check_target(bytes, content.target)?;
            }
            Some(FileType::CharDevice | FileType::BlockDevice) => {
                let device = meta.rdev();
                content.rdev = rdev(bytes, rustix::fs::major(device), rustix::fs::minor(device))?;
            }
            Some(_) => {}
            None => return Err(bad_entry(bytes, "its type is not known")),
        }
        let node = self.read.tree.insert(parent, name, attributes, &content)?;
        if meta.is_file() && meta.nlink() > 1 {
            self.links.insert(key, self.read.tree.inode_of(node));
        }
        Ok(node)
    }

    fn xattrs(&mut self, path: &Path) -> Result<Vec<u8>, CreateError> {
        let (area, skipped) = xattrs(path)?;
        self.read.skipped_xattrs += skipped;
        Ok(area)
    }
}

/// Extended attributes of an entry, encoded, and how many were left out.
pub(super) fn xattrs(path: &Path) -> Result<(Vec<u8>, u64), CreateError> {
    let failed = |source| CreateError::Source { path: path.to_path_buf(), source };
    let listed = match xattr::list(path) {
        Ok(listed) => listed,
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok((Vec::new(), 0)),
        Err(error) => return Err(failed(error)),
    };
    let mut all = Vec::new();
    for name in listed {
        if let Some(value) = xattr::get(path, &name).map_err(failed)? {
            all.push((name.as_bytes().to_vec(), value));
        }
    }
    encode_xattrs(path.as_os_str().as_bytes(), &all)
}

/// Attributes of the root; its time says only when something was put into it, so it is left out.
pub(super) fn root_attributes(meta: &Metadata) -> Attributes {
    Attributes { mtime_secs: 0, mtime_nanos: 0, ..attributes(meta) }
}

pub(super) fn attributes(meta: &Metadata) -> Attributes {
    Attributes {
        mode: u16::try_from(meta.mode() & 0xFFFF).unwrap_or(0),
        uid: meta.uid(),
        gid: meta.gid(),
        mtime_secs: meta.mtime(),
        mtime_nanos: u32::try_from(meta.mtime_nsec()).unwrap_or(0),
    }
}
