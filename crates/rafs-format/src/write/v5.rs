//! Writing a bootstrap of v5: tables of fixed places, then inodes in depth-first pre-order, each with all that belongs to it.
//!
//! docs/format.md, "Bootstrap of v5". Hashes nothing: digests of inodes are handed in. Every name of a file becomes a whole record with the
//! attributes of its inode, so that it does not matter which of them a reader looks at.

use super::{Options, check_chunk_place, check_common, put, record, word};
use crate::layout::{BlobExtensionV5, BlobHeadV5, InodeV5, SuperV5};
use crate::read::require;
use crate::tree::{Entry, NewInode, Tree};
use crate::v5::{HAS_XATTR, MAGIC, MAX_BLOBS, MAX_LENGTH, VERSION, padded};
use crate::xattr::Xattrs;
use crate::{Blob, Chunk, Cipher, Compressor, Digest, FileType, FormatError, SuperFlags};
use std::ops::Range;
use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

/// What only a bootstrap of v5 says.
#[derive(Debug, Clone, Default)]
pub struct V5 {
    /// Digest of each inode of the tree, in the order of `Tree::inodes`. docs/format.md, "Inode digests of v5".
    pub digests: Vec<Digest>,
    /// Stored bytes of each blob to read ahead; nothing of those behind the last.
    pub readahead: Vec<Range<u64>>,
    /// The tree comes from a layer. The reference builder marks names of files with several, and device numbers that mean nothing,
    /// otherwise then; no reader looks at either.
    pub from_layer: bool,
}

const SYMLINK: u64 = 1;
const HARD_LINK: u64 = 2;
/// Name of the root, which is no name of an entry.
const ROOT_NAME: &[u8] = b"/";
const SUPER_SIZE: usize = size_of::<SuperV5>();
/// Bytes that a directory is a multiple of.
const DIRECTORY_UNIT: u64 = 4096;

/// The bytes of a v5 bootstrap: a multiple of 8. Errors: what [`Tree::validate`] finds; a blob that v5 cannot describe; a limit of the format.
pub(super) fn bootstrap(
    tree: &Tree,
    blobs: &[Blob],
    options: &Options,
    own: &V5,
) -> Result<Vec<u8>, FormatError> {
    check(tree, blobs, options, own)?;
    tree.validate(options.chunk_size)?;
    let mut writer = Writer {
        tree,
        blobs,
        options,
        own,
        numbers: vec![0; tree.inodes.len()],
        links: vec![0; tree.inodes.len()],
        out: Vec::with_capacity(estimate(tree)),
    };
    writer.number();
    writer.write()
}

fn check(tree: &Tree, blobs: &[Blob], options: &Options, own: &V5) -> Result<(), FormatError> {
    check_common(blobs, options)?;
    let (found, limit) = (blobs.len() as u64, MAX_BLOBS as u64);
    if found > limit {
        return Err(FormatError::Limit { what: "number of blobs", found, limit });
    }
    let given = own.digests.len() as u64;
    require(given == tree.inodes.len() as u64, "digests of inodes", 0, given, "one for each inode")?;
    for blob in blobs {
        // Nothing is said of either for each blob.
        let found = blob.compressor as u32;
        let good = matches!(blob.compressor, Compressor::None) || blob.compressor == options.compressor;
        require(good, "compression of a blob", 0, found.into(), "that of the image, or none")?;
        let same = blob.digester == options.digester;
        require(same, "digest of a blob", 0, (blob.digester as u32).into(), "that of the image")?;
        require(blob.cipher == Cipher::None, "cipher of a blob", 0, blob.cipher as u64, "none")?;
        require(blob.chunk_count > 0, "chunks of a blob", 0, 0, "at least 1")?;
    }
    tree.chunks.iter().try_for_each(|chunk| check_chunk_place(chunk, blobs))
}

/// Nearly the length of the bootstrap, for making room.
fn estimate(tree: &Tree) -> usize {
    let mut size =
        SUPER_SIZE + tree.bytes.len() + tree.file_chunks.len() * size_of::<crate::layout::ChunkRecord>();
    // Padding of a name and the entry of the inode table.
    size += tree.entries.len() * (size_of::<InodeV5>() + 12);
    size.min(usize::try_from(MAX_LENGTH).unwrap_or(usize::MAX))
}

struct Writer<'a> {
    tree: &'a Tree,
    blobs: &'a [Blob],
    options: &'a Options,
    own: &'a V5,
    /// Number of each inode: position of its first entry, counted from 1.
    numbers: Vec<u32>,
    /// Names of each inode.
    links: Vec<u32>,
    out: Vec<u8>,
}

/// First bytes of the tables.
struct Places {
    prefetch: u64,
    blobs: u64,
    blobs_size: u64,
    extended: u64,
}

impl Writer<'_> {
    /// Gives inodes their numbers and counts their names.
    fn number(&mut self) {
        for (number, entry) in (1u32..).zip(&self.tree.entries) {
            let at = entry.inode as usize;
            if let Some((known, links)) = self.numbers.get_mut(at).zip(self.links.get_mut(at)) {
                *links += 1;
                if *known == 0 {
                    *known = number;
                }
            }
        }
    }

    fn write(mut self) -> Result<Vec<u8>, FormatError> {
        let entries = self.tree.entries.len() as u64;
        let prefetch = SUPER_SIZE as u64 + padded(entries * 4);
        self.out.resize(place(prefetch)?, 0);
        self.put_prefetch()?;
        let blobs = self.out.len() as u64;
        self.put_blobs()?;
        let extended = self.out.len() as u64;
        self.put_extended();
        self.put_inodes()?;
        let places = Places { prefetch, blobs, blobs_size: extended - blobs, extended };
        let head = self.superblock(&places)?;
        put(&mut self.out, 0, head.as_bytes())?;
        Ok(self.out)
    }

    fn superblock(&self, places: &Places) -> Result<SuperV5, FormatError> {
        let mut raw = SuperV5::new_zeroed();
        raw.magic = MAGIC.into();
        raw.version = VERSION.into();
        raw.size = word("superblock", SUPER_SIZE as u64)?;
        raw.chunk_size = self.options.chunk_size.into();
        raw.flags = self.flags().bits().into();
        raw.inodes = (self.numbers.iter().filter(|&&number| number > 0).count() as u64).into();
        raw.inode_table_offset = (SUPER_SIZE as u64).into();
        raw.prefetch_table_offset = places.prefetch.into();
        raw.blob_table_offset = places.blobs.into();
        raw.inode_table_entries = word("inode table", self.tree.entries.len() as u64)?;
        raw.prefetch_table_entries = word("prefetch table", self.options.prefetch.len() as u64)?;
        raw.blob_table_size = word("blob table", places.blobs_size)?;
        raw.extended_entries = word("extended blob table", self.blobs.len() as u64)?;
        raw.extended_table_offset = places.extended.into();
        Ok(raw)
    }

    fn flags(&self) -> SuperFlags {
        let mut flags = super::coding_flags(self.options);
        flags.set(SuperFlags::HAS_XATTR, self.tree.inodes.iter().any(|inode| inode.xattrs.len > 0));
        flags
    }

    fn put_prefetch(&mut self) -> Result<(), FormatError> {
        for (n, &entry) in (0u64..).zip(&self.options.prefetch) {
            let entry = self.tree.entries.get(entry as usize);
            let number = entry.and_then(|entry| self.numbers.get(entry.inode as usize));
            let (what, found) = ("entry of the prefetch table", self.tree.entries.len() as u64);
            let expected = "an entry of the tree";
            let number = number.ok_or(FormatError::Value { what, at: n, found, expected })?;
            self.out.extend_from_slice(U32::from(*number).as_bytes());
        }
        self.pad();
        self.check_length(0)
    }

    fn put_blobs(&mut self) -> Result<(), FormatError> {
        for (n, blob) in self.blobs.iter().enumerate() {
            if n > 0 {
                self.out.push(0);
            }
            let readahead = self.own.readahead.get(n).cloned().unwrap_or(0..0);
            let head = BlobHeadV5 {
                readahead_offset: word("readahead of a blob", readahead.start)?,
                readahead_size: word("readahead of a blob", readahead.end.saturating_sub(readahead.start))?,
            };
            self.out.extend_from_slice(head.as_bytes());
            self.out.extend_from_slice(blob.id.as_str().as_bytes());
        }
        self.pad();
        Ok(())
    }

    fn put_extended(&mut self) {
        for blob in self.blobs {
            let mut raw = BlobExtensionV5::new_zeroed();
            raw.chunk_count = blob.chunk_count.into();
            raw.features = blob.features.bits().into();
            raw.uncompressed_size = blob.uncompressed_size.into();
            raw.compressed_size = blob.compressed_size.into();
            self.out.extend_from_slice(raw.as_bytes());
        }
    }

    /// All records in depth-first pre-order, their places in the inode table.
    fn put_inodes(&mut self) -> Result<(), FormatError> {
        self.put_inode(0, 0)?;
        let root = self.tree.entries.first().map_or(0..0, Entry::children);
        // Children that are still to come, and the entry whose they are.
        let mut open = vec![(root, 0)];
        while let Some((children, dir)) = open.last_mut() {
            let (next, dir) = (children.next(), *dir);
            let Some(next) = next else {
                open.pop();
                continue;
            };
            self.put_inode(next, self.number_of(dir))?;
            let below = self.tree.entries.get(next).map_or(0..0, Entry::children);
            if !below.is_empty() {
                open.push((below, next));
            }
        }
        Ok(())
    }

    fn inode_of(&self, entry: usize) -> Option<(&Entry, &NewInode)> {
        let entry = self.tree.entries.get(entry)?;
        Some((entry, self.tree.inodes.get(entry.inode as usize)?))
    }

    fn number_of(&self, entry: usize) -> u32 {
        let entry = self.tree.entries.get(entry);
        entry.and_then(|entry| self.numbers.get(entry.inode as usize)).copied().unwrap_or(0)
    }

    /// The record of one entry of a directory with the number `parent`.
    fn put_inode(&mut self, n: usize, parent: u32) -> Result<(), FormatError> {
        let tree = self.tree;
        let Some((entry, inode)) = tree.entries.get(n).zip(self.inode_of(n).map(|(_, inode)| *inode)) else {
            return Ok(());
        };
        let xattrs = pairs(tree.span(inode.xattrs))?;
        let raw = self.record_of(n, entry, &inode, parent, xattrs.len() as u64)?;
        let at = self.out.len() as u64;
        put(
            &mut self.out,
            (SUPER_SIZE + n * size_of::<U32>()) as u64,
            word("inode table", at >> 3)?.as_bytes(),
        )?;
        self.out.extend_from_slice(raw.as_bytes());
        let name = if n == 0 { ROOT_NAME } else { tree.span(entry.name) };
        self.put_padded(name);
        if FileType::from_mode(inode.mode) == Some(FileType::Symlink) {
            self.put_padded(tree.span(inode.target));
        }
        if inode.xattrs.len > 0 {
            self.out.extend_from_slice((xattrs.len() as u64).to_le_bytes().as_slice());
            self.put_padded(&xattrs);
        }
        if FileType::from_mode(inode.mode) == Some(FileType::Regular) {
            self.put_chunks(&inode)?;
        }
        self.check_length(0)
    }

    fn put_chunks(&mut self, inode: &NewInode) -> Result<(), FormatError> {
        let chunk_size = u64::from(self.options.chunk_size);
        let chunks = self.tree.chunks_of(inode, chunk_size);
        // A file with many names has all of this behind each of them.
        self.check_length(size_of_val(chunks) as u64 * 20)?;
        for (n, &chunk) in (0u64..).zip(chunks) {
            let chunk: Option<&Chunk> = self.tree.chunks.get(chunk as usize);
            chunk
                .iter()
                .for_each(|chunk| self.out.extend_from_slice(record(chunk, n * chunk_size).as_bytes()));
        }
        Ok(())
    }

    /// The fixed part of the record of entry `n`.
    fn record_of(
        &self,
        n: usize,
        entry: &Entry,
        inode: &NewInode,
        parent: u32,
        xattr_size: u64,
    ) -> Result<InodeV5, FormatError> {
        let mut raw = InodeV5::new_zeroed();
        let at = entry.inode as usize;
        raw.digest = self.own.digests.get(at).map_or([0; 32], |digest| digest.0);
        raw.parent = u64::from(parent).into();
        raw.number = u64::from(self.number_of(n)).into();
        (raw.uid, raw.gid) = (inode.uid.into(), inode.gid.into());
        raw.mode = u32::from(inode.mode).into();
        raw.mtime = inode.mtime_secs.into();
        raw.mtime_nanos = inode.mtime_nanos.into();
        raw.name_size = short(if n == 0 { 1 } else { entry.name.len })?;
        let mut flags = if inode.xattrs.len > 0 { HAS_XATTR } else { 0 };
        let mut links = 1;
        let mut size = 0;
        let mut rdev = if self.own.from_layer { u32::MAX } else { 0 };
        match FileType::from_mode(inode.mode) {
            Some(FileType::Directory) => {
                let children = self.tree.entries.get(entry.children()).unwrap_or(&[]);
                size = directory_size(children);
                links = self.directories(children).saturating_add(2);
                raw.child_index = (entry.children.0 + 1).into();
                raw.child_count = word("children of a directory", children.len() as u64)?;
            }
            Some(FileType::Regular) => {
                size = inode.size;
                links = self.links.get(at).copied().unwrap_or(1);
                flags |= if links > 1 && self.own.from_layer { HARD_LINK } else { 0 };
                raw.child_count = word("chunks of a file", size.div_ceil(self.options.chunk_size.into()))?;
            }
            Some(FileType::Symlink) => {
                flags |= SYMLINK;
                size = inode.target.len.into();
                raw.symlink_size = short(inode.target.len)?;
            }
            _ => rdev = inode.rdev,
        }
        raw.flags = flags.into();
        raw.nlink = links.into();
        raw.size = size.into();
        raw.blocks = size.saturating_add(padded(xattr_size)).div_ceil(512).into();
        raw.rdev = rdev.into();
        Ok(raw)
    }

    fn directories(&self, children: &[Entry]) -> u32 {
        let is_directory = |child: &&Entry| {
            let inode = self.tree.inodes.get(child.inode as usize);
            inode.is_some_and(|inode| FileType::from_mode(inode.mode) == Some(FileType::Directory))
        };
        u32::try_from(children.iter().filter(is_directory).count()).unwrap_or(u32::MAX)
    }

    fn put_padded(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        self.out.resize(self.out.len().next_multiple_of(8), 0);
    }

    /// Refuses to become longer than a bootstrap may be: what is there, and `more` bytes.
    fn check_length(&self, more: u64) -> Result<(), FormatError> {
        let (found, limit) = (self.out.len() as u64 + more, MAX_LENGTH);
        let what = "length of the bootstrap";
        if found > limit { Err(FormatError::Limit { what, found, limit }) } else { Ok(()) }
    }
}

/// A place in the bootstrap.
fn place(found: u64) -> Result<usize, FormatError> {
    let (what, limit) = ("length of the bootstrap", MAX_LENGTH);
    usize::try_from(found).ok().filter(|_| found <= limit).ok_or(FormatError::Limit { what, found, limit })
}

/// A length that must fit 16 bits.
fn short(found: u32) -> Result<zerocopy::little_endian::U16, FormatError> {
    let limit = u16::MAX.into();
    let what = "length of a name";
    u16::try_from(found).map(Into::into).ok().ok_or(FormatError::Limit { what, found: found.into(), limit })
}

/// Size of a directory: what its names take, in whole units.
fn directory_size(children: &[Entry]) -> u64 {
    let size: u64 = children.iter().map(|child| 8 + u64::from(child.name.len)).sum();
    size.next_multiple_of(DIRECTORY_UNIT).max(DIRECTORY_UNIT)
}

/// Attributes of an encoded area as v5 stores them: length, name in full, NUL, value, one behind the other.
fn pairs(area: &[u8]) -> Result<Vec<u8>, FormatError> {
    let mut out = Vec::with_capacity(area.len());
    for xattr in Xattrs::parse(area, 0)? {
        let xattr = xattr?;
        let size = xattr.name_len() + 1 + xattr.value.len();
        out.extend_from_slice(word("xattr", size as u64)?.as_bytes());
        out.extend_from_slice(xattr.prefix.as_bytes());
        out.extend_from_slice(xattr.suffix);
        out.push(0);
        out.extend_from_slice(xattr.value);
    }
    Ok(out)
}
