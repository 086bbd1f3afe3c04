//! Writing a bootstrap: a tree in, bytes out. The same tree and options always give the same bytes, and the placement of
//! inodes is the reference builder's (docs/format.md, "Allocation order").

mod v5;

pub use v5::V5;

use crate::layout::{
    BlobEntry, ChunkIndexEntry, ChunkRecord, DeviceSlot, Dirent, ErofsSuper, InodeExtended, RafsSuper,
    SUPER_OFFSET,
};
use crate::read::require;
use crate::tree::{Entry, NewInode, Tree};
use crate::{
    Blob, BlobFeatures, Chunk, Cipher, Compressor, DigestAlgorithm, FileType, FormatError, SuperFlags,
};
use std::collections::VecDeque;
use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

/// What the superblock says besides the tree.
#[derive(Debug, Clone)]
pub struct Options {
    /// Largest chunk, a power of two from 4 KiB to 16 MiB.
    pub chunk_size: u32,
    /// Compression named in the superblock.
    pub compressor: Compressor,
    /// Digest algorithm named in the superblock.
    pub digester: DigestAlgorithm,
    /// Owners in the tree are real.
    pub explicit_ids: bool,
    /// Entries (positions in `Tree::entries`) for the prefetch table, in order.
    pub prefetch: Vec<u32>,
    /// Layout to write.
    pub form: Form,
}

/// Which layout is written, and what only that one says.
#[derive(Debug, Clone, Default)]
pub enum Form {
    /// RAFS v6.
    #[default]
    V6,
    /// RAFS v6 whose blobs are plain tars: blocks of 512 bytes, and no records of chunks. docs/format.md, "Tarfs".
    Tarfs,
    /// RAFS v5.
    V5(V5),
}

impl Options {
    fn is_tarfs(&self) -> bool {
        matches!(self.form, Form::Tarfs)
    }

    /// Unit of addresses in v6, in bytes.
    fn block(&self) -> u64 {
        if self.is_tarfs() { TAR_BLOCK } else { BLOCK }
    }
}

/// The bytes of a bootstrap: in v6 a multiple of 4096, at least 8192; in v5 a multiple of 8, at most 2 GiB. `blobs` in table order, at most 254
/// (v5: 1024). Errors: what [`Tree::validate`] finds; a limit of the format (blobs, chunks, block addresses, length).
pub fn bootstrap(tree: &Tree, blobs: &[Blob], options: &Options) -> Result<Vec<u8>, FormatError> {
    match &options.form {
        Form::V6 | Form::Tarfs => bootstrap_v6(tree, blobs, options),
        Form::V5(own) => v5::bootstrap(tree, blobs, options, own),
    }
}

fn bootstrap_v6(tree: &Tree, blobs: &[Blob], options: &Options) -> Result<Vec<u8>, FormatError> {
    check_limits(tree, blobs, options)?;
    tree.validate(options.chunk_size)?;
    let tables = Tables::new(blobs, options)?;
    let plan = Plan::new(tree, options);
    Writer { tree, blobs, options, tables, plan }.write()
}

/// Block size of all but a tarfs, and what the file and the tables in it are aligned to.
const BLOCK: u64 = 4096;
/// Block size of a tarfs.
const TAR_BLOCK: u64 = 512;
const MAX_BLOBS: u64 = 254;
/// Alignment of each blob in a flat image.
const MAPPED_ALIGN: u64 = 0x8_0000;
const SLOTS: u64 = 1408;

/// Checks what has to be so in every version.
fn check_common(blobs: &[Blob], options: &Options) -> Result<(), FormatError> {
    let size = options.chunk_size;
    let good = size.is_power_of_two() && (0x1000..=0x100_0000).contains(&size);
    require(good, "chunk size", 0, size.into(), "a power of two, 4 KiB to 16 MiB")?;
    blobs.iter().try_for_each(|blob| {
        let same = blob.chunk_size == size;
        require(same, "chunk size of a blob", 0, blob.chunk_size.into(), "that of the image")
    })
}

fn check_limits(tree: &Tree, blobs: &[Blob], options: &Options) -> Result<(), FormatError> {
    check_common(blobs, options)?;
    let count = blobs.len() as u64;
    if count > MAX_BLOBS {
        return Err(FormatError::Limit { what: "number of blobs", found: count, limit: MAX_BLOBS });
    }
    for blob in blobs {
        let bytes = blob.uncompressed_size;
        let whole = bytes > 0 && bytes.is_multiple_of(options.block());
        require(whole, "uncompressed size of a blob", 0, bytes, "a positive number of whole blocks")?;
        let same = blob.is_tar() == options.is_tarfs();
        require(same, "features of a blob", 0, blob.features.bits().into(), "the tarfs bit as the image")?;
    }
    tree.chunks.iter().try_for_each(|chunk| check_chunk(chunk, blobs, options.block()))
}

/// Checks that a chunk is one of a blob.
fn check_chunk_place(chunk: &Chunk, blobs: &[Blob]) -> Result<(), FormatError> {
    let blob = blobs.get(chunk.blob as usize);
    let inside = blob.is_some_and(|blob| chunk.index < blob.chunk_count);
    require(
        inside,
        "index of a chunk",
        chunk.blob.into(),
        chunk.index.into(),
        "a chunk of a blob of the image",
    )
}

fn check_chunk(chunk: &Chunk, blobs: &[Blob], block: u64) -> Result<(), FormatError> {
    check_chunk_place(chunk, blobs)?;
    let offset = chunk.uncompressed_offset;
    let good = offset.is_multiple_of(block) && u32::try_from(offset / block).is_ok() && chunk.index < 1 << 24;
    require(
        good,
        "uncompressed offset of a chunk",
        chunk.index.into(),
        offset,
        "a multiple of the block size, at most 2^32 of it",
    )
}

/// Where tables and the metadata area start.
struct Tables {
    blob_table: u64,
    prefetch: u64,
    prefetch_size: u64,
    /// Start of the metadata area.
    meta: u64,
}

impl Tables {
    fn new(blobs: &[Blob], options: &Options) -> Result<Self, FormatError> {
        let devices = blobs.len() as u64;
        let blob_table = (SLOTS + devices * 128).next_multiple_of(BLOCK);
        let prefetch = blob_table + devices * 256;
        let entries = if devices == 0 { 0 } else { options.prefetch.len() as u64 };
        let limit = u64::from(u32::MAX) / 4;
        if entries > limit {
            return Err(FormatError::Limit { what: "prefetch table", found: entries, limit });
        }
        let prefetch_size = entries * 4;
        let meta = if devices == 0 { 0 } else { (prefetch + prefetch_size).next_multiple_of(BLOCK) };
        Ok(Self { blob_table, prefetch, prefetch_size, meta })
    }
}

/// Where one inode and its data go, relative to the metadata area, and its numbers.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// First byte of the inode; [`Place::NOWHERE`] until it is placed.
    at: u64,
    /// First byte of the full blocks of flat data.
    data: u64,
    /// Bytes of flat data.
    size: u64,
    /// Entry that named it first, counted from 1.
    number: u32,
    links: u32,
}

impl Place {
    const NOWHERE: u64 = u64::MAX;
    const NONE: Self = Self { at: Self::NOWHERE, data: 0, size: 0, number: 0, links: 0 };
}

/// Bytes of an inode with its xattrs.
fn inode_size(inode: &NewInode) -> u64 {
    size_of::<InodeExtended>() as u64 + u64::from(inode.xattrs.len)
}

/// Does the rest of `size` bytes of flat data that fills no block stand behind the inode?
fn is_inline(inode_size: u64, size: u64, block: u64) -> bool {
    let tail = size % block;
    tail != 0 && inode_size + tail <= block
}

/// Space for inodes and flat data: a cursor, and the free ends of blocks behind it. docs/format.md, "Allocation order".
struct Allocator {
    block: u64,
    cursor: u64,
    /// Blocks with `k` × 32 bytes free at their end, oldest first.
    free: Vec<VecDeque<u64>>,
    /// Which of `free` are not empty.
    some: u128,
}

impl Allocator {
    const UNIT: u64 = 32;

    fn new(block: u64) -> Self {
        Self { block, cursor: BLOCK, free: vec![VecDeque::new(); 128], some: 0 }
    }

    /// Keeps the rest of the block in which `at` lies.
    fn release(&mut self, at: u64) {
        let used = at % self.block;
        if used == 0 {
            return;
        }
        let class = (self.block - used) / Self::UNIT;
        if let Some(queue) = usize::try_from(class).ok().and_then(|class| self.free.get_mut(class)) {
            queue.push_back(at - used);
            self.some |= 1 << class;
        }
    }

    /// The oldest of the smallest free ends that hold `size` bytes.
    fn take(&mut self, size: u64) -> Option<u64> {
        if size >= self.block {
            return None;
        }
        let wanted = size.div_ceil(Self::UNIT);
        let large_enough = u32::try_from(wanted).ok().and_then(|wanted| u128::MAX.checked_shl(wanted))?;
        let class = (self.some & large_enough).trailing_zeros();
        let queue = usize::try_from(class).ok().and_then(|class| self.free.get_mut(class))?;
        let start = queue.pop_front()?;
        if queue.is_empty() {
            self.some &= !(1 << class);
        }
        let at = start + self.block - Self::UNIT * u64::from(class);
        self.release(at + Self::UNIT * wanted);
        Some(at)
    }

    fn align(&mut self, to: u64) {
        self.cursor = self.cursor.next_multiple_of(to);
    }

    fn advance(&mut self, size: u64) -> u64 {
        let at = self.cursor;
        self.cursor += size;
        at
    }

    /// Places an inode of `inode` bytes with `size` bytes of flat data. Returns where both are.
    fn flat(&mut self, inode: u64, size: u64) -> (u64, u64) {
        let tail = size % self.block;
        let (at, data);
        if is_inline(inode, size, self.block) {
            at = self.take(inode + tail).unwrap_or_else(|| {
                if self.block - self.cursor % self.block < inode + tail {
                    self.release(self.cursor);
                    self.align(self.block);
                }
                self.advance(inode + tail)
            });
            if size != tail {
                self.release(self.cursor);
                self.align(self.block);
            }
            data = self.advance(size - tail);
        } else {
            at = self.take(inode).unwrap_or_else(|| self.advance(inode));
            self.release(self.cursor);
            self.align(self.block);
            data = self.advance(size);
            self.align(self.block);
        }
        self.align(Self::UNIT);
        (at, data)
    }

    /// Places an inode of `inode` bytes with `chunks` chunk references.
    fn regular(&mut self, inode: u64, chunks: u64) -> u64 {
        let size = inode.next_multiple_of(8) + 8 * chunks;
        let at = self.take(size).unwrap_or_else(|| self.advance(size));
        self.align(Self::UNIT);
        at
    }

    /// Places an inode without data.
    fn special(&mut self, inode: u64) -> u64 {
        let at = self.advance(inode);
        self.align(Self::UNIT);
        at
    }
}

/// Where everything goes.
struct Plan {
    /// One for each inode.
    places: Vec<Place>,
    /// Entries of directories in the order they are placed, each with its parent's entry.
    directories: Vec<(u32, u32)>,
    /// End of the metadata area, relative to its start.
    end: u64,
}

impl Plan {
    /// Places all inodes of a validated tree.
    fn new(tree: &Tree, options: &Options) -> Self {
        let chunk_size = options.chunk_size;
        let mut plan = Self { places: vec![Place::NONE; tree.inodes.len()], directories: Vec::new(), end: 0 };
        let mut space = Allocator::new(options.block());
        let mut open: Vec<(u32, u32)> = vec![(0, 0)];
        while let Some((dir, parent)) = open.pop() {
            plan.directories.push((dir, parent));
            plan.place(tree, dir, chunk_size, &mut space);
            let first = open.len();
            let range =
                tree.entries.get(dir as usize).map_or(0..0, |entry| entry.children.0..entry.children.1);
            for child in range {
                if is_directory(tree, child) {
                    open.push((child, dir));
                } else {
                    plan.place(tree, child, chunk_size, &mut space);
                }
            }
            open.get_mut(first..).unwrap_or(&mut []).reverse();
        }
        plan.end = space.cursor;
        plan
    }

    /// Places the inode of one entry, unless another name did.
    fn place(&mut self, tree: &Tree, number: u32, chunk_size: u32, space: &mut Allocator) {
        let Some(entry) = tree.entries.get(number as usize) else { return };
        let at = entry.inode as usize;
        let Some((inode, place)) = tree.inodes.get(at).zip(self.places.get_mut(at)) else { return };
        place.links += 1;
        if place.at != Place::NOWHERE {
            space.align(Allocator::UNIT);
            return;
        }
        place.number = number + 1;
        let own = inode_size(inode);
        match FileType::from_mode(inode.mode) {
            Some(FileType::Directory) => {
                place.size = directory_size(tree, entry, space.block);
                (place.at, place.data) = space.flat(own, place.size);
                let children = tree.entries.get(entry.children()).unwrap_or(&[]);
                let directories = children.iter().filter(|child| {
                    tree.inodes
                        .get(child.inode as usize)
                        .is_some_and(|inode| inode.mode & 0o170_000 == 0o040_000)
                });
                place.links = u32::try_from(directories.count()).unwrap_or(u32::MAX).saturating_add(2);
            }
            Some(FileType::Symlink) => {
                place.size = inode.target.len.into();
                (place.at, place.data) = space.flat(own, place.size);
            }
            Some(FileType::Regular) => {
                place.size = inode.size;
                place.at = space.regular(own, inode.size.div_ceil(chunk_size.into()));
            }
            _ => place.at = space.special(own),
        }
    }
}

fn is_directory(tree: &Tree, entry: u32) -> bool {
    let inode = tree.entries.get(entry as usize).and_then(|entry| tree.inodes.get(entry.inode as usize));
    inode.is_some_and(|inode| FileType::from_mode(inode.mode) == Some(FileType::Directory))
}

/// Names of a directory in byte order, `.` and `..` where they sort: each with the child's entry, `None` for those two.
fn names<'a>(tree: &'a Tree, dir: &Entry) -> impl Iterator<Item = (&'a [u8], Option<&'a Entry>)> {
    let children = tree.entries.get(dir.children()).unwrap_or(&[]);
    let behind = |dots: &'static [u8]| move |child: &Entry| tree.span(child.name) < dots;
    let first = children.partition_point(behind(b"."));
    let second = children.partition_point(behind(b".."));
    let part = move |range: std::ops::Range<usize>| {
        children.get(range).unwrap_or(&[]).iter().map(|child| (tree.span(child.name), Some(child)))
    };
    part(0..first)
        .chain(std::iter::once((b".".as_slice(), None)))
        .chain(part(first..second))
        .chain(std::iter::once((b"..".as_slice(), None)))
        .chain(part(second..children.len()))
}

const DIRENT: u64 = size_of::<Dirent>() as u64;

/// Bytes of a directory: full blocks and the used part of the last.
fn directory_size(tree: &Tree, dir: &Entry, block: u64) -> u64 {
    let (mut full, mut used) = (0, 0);
    for (name, _) in names(tree, dir) {
        let cost = DIRENT + name.len() as u64;
        if used + cost > block {
            full += block;
            used = 0;
        }
        used += cost;
    }
    full + used
}

/// Copies `bytes` to `at`. Places come from the plan the buffer was made for.
fn put(out: &mut [u8], at: u64, bytes: &[u8]) -> Result<(), FormatError> {
    let limit = out.len() as u64;
    let size = bytes.len() as u64;
    let from = usize::try_from(at).ok();
    let place = from.and_then(|from| out.get_mut(from..from.checked_add(bytes.len())?));
    let place =
        place.ok_or(FormatError::OutOfBounds { what: "place in a new bootstrap", start: at, size, limit })?;
    place.copy_from_slice(bytes);
    Ok(())
}

/// A number that must fit a field of 32 bits.
fn word(what: &'static str, found: u64) -> Result<U32, FormatError> {
    let limit = u32::MAX.into();
    u32::try_from(found).map(U32::from).ok().ok_or(FormatError::Limit { what, found, limit })
}

struct Writer<'a> {
    tree: &'a Tree,
    blobs: &'a [Blob],
    options: &'a Options,
    tables: Tables,
    plan: Plan,
}

impl Writer<'_> {
    fn write(&self) -> Result<Vec<u8>, FormatError> {
        let chunk_table = (self.tables.meta + self.plan.end).next_multiple_of(BLOCK);
        let records = self.records();
        let records_size = records.len() as u64 * size_of::<ChunkRecord>() as u64;
        let length = (chunk_table + records_size).next_multiple_of(BLOCK).max(2 * BLOCK);
        let size = usize::try_from(length).ok().filter(|_| length / BLOCK <= u32::MAX.into());
        let limit = u64::from(u32::MAX) * BLOCK;
        let size =
            size.ok_or(FormatError::Limit { what: "length of the bootstrap", found: length, limit })?;
        let mut out = vec![0; size];
        self.put_super(&mut out, chunk_table, records_size)?;
        self.put_blobs(&mut out, length)?;
        self.put_prefetch(&mut out)?;
        for &(dir, parent) in &self.plan.directories {
            self.put_directory(&mut out, dir, parent)?;
        }
        (self.tree.inodes.iter().zip(&self.plan.places))
            .try_for_each(|(inode, place)| self.put_inode(&mut out, inode, place))?;
        (chunk_table..)
            .step_by(size_of::<ChunkRecord>())
            .zip(&records)
            .try_for_each(|(at, record)| put(&mut out, at, record.as_bytes()))?;
        Ok(out)
    }

    /// Records of the chunk table, sorted by digest and blob. The file offset is that of the last file in numbering order.
    fn records(&self) -> Vec<ChunkRecord> {
        let mut file_offsets = vec![0; self.tree.chunks.len()];
        let chunk_size = u64::from(self.options.chunk_size);
        for entry in &self.tree.entries {
            let Some(inode) = self.tree.inodes.get(entry.inode as usize) else { continue };
            if FileType::from_mode(inode.mode) != Some(FileType::Regular) {
                continue;
            }
            for (n, &chunk) in (0u64..).zip(self.tree.chunks_of(inode, chunk_size)) {
                if let Some(offset) = file_offsets.get_mut(chunk as usize) {
                    *offset = n * chunk_size;
                }
            }
        }
        if self.options.is_tarfs() {
            return self.last_records(&file_offsets);
        }
        let mut order: Vec<_> = self.tree.chunks.iter().zip(file_offsets).collect();
        order.sort_unstable_by_key(|(chunk, _)| (chunk.digest, chunk.blob, chunk.index));
        order.iter().map(|&(chunk, file_offset)| record(chunk, file_offset)).collect()
    }

    /// The one record of each tar: its last chunk in numbering order. No digest tells chunks of a tar apart.
    fn last_records(&self, file_offsets: &[u64]) -> Vec<ChunkRecord> {
        let mut last = vec![None; self.blobs.len()];
        for entry in &self.tree.entries {
            let Some(inode) = self.tree.inodes.get(entry.inode as usize) else { continue };
            if FileType::from_mode(inode.mode) != Some(FileType::Regular) {
                continue;
            }
            for &at in self.tree.chunks_of(inode, self.options.chunk_size.into()) {
                let chunk = self.tree.chunks.get(at as usize).zip(file_offsets.get(at as usize));
                let Some((chunk, &file_offset)) = chunk else { continue };
                if let Some(last) = last.get_mut(chunk.blob as usize) {
                    *last = Some(record(chunk, file_offset));
                }
            }
        }
        last.into_iter().flatten().collect()
    }

    fn put_super(&self, out: &mut [u8], chunk_table: u64, records_size: u64) -> Result<(), FormatError> {
        let mut blocks = 0u64;
        for blob in self.blobs {
            blocks += blob.uncompressed_size / self.options.block();
        }
        let mut erofs = ErofsSuper::new_zeroed();
        erofs.magic = 0xE0F5_E1E2.into();
        erofs.feature_compat = 0x4000_0000.into();
        // 12 or 9.
        erofs.block_bits = u8::try_from(self.options.block().trailing_zeros()).unwrap_or(0);
        erofs.root_nid = 128.into();
        erofs.entries = (self.tree.entries.len() as u64).into();
        erofs.blocks = word("blocks of all blobs", blocks)?;
        erofs.meta_block = word("metadata area", self.tables.meta / self.options.block())?;
        erofs.feature_incompat = 0xC.into();
        erofs.devices = u16::try_from(self.blobs.len()).unwrap_or(u16::MAX).into();
        erofs.device_slot = 11.into();
        put(out, SUPER_OFFSET as u64, erofs.as_bytes())?;
        let mut rafs = RafsSuper::new_zeroed();
        rafs.flags = self.flags().bits().into();
        rafs.blob_table_offset = self.tables.blob_table.into();
        rafs.blob_table_size = word("blob table", self.blobs.len() as u64 * 256)?;
        rafs.chunk_size = self.options.chunk_size.into();
        rafs.chunk_table_offset = chunk_table.into();
        rafs.chunk_table_size = records_size.into();
        if self.tables.prefetch_size > 0 {
            rafs.prefetch_table_offset = self.tables.prefetch.into();
            rafs.prefetch_table_size = word("prefetch table", self.tables.prefetch_size)?;
        }
        put(out, SUPER_OFFSET as u64 + size_of::<ErofsSuper>() as u64, rafs.as_bytes())
    }

    fn flags(&self) -> SuperFlags {
        let digested =
            self.blobs.iter().all(|blob| blob.features.contains(BlobFeatures::INLINED_CHUNK_DIGEST));
        let xattrs = self.tree.inodes.iter().any(|inode| inode.xattrs.len > 0);
        let encrypted = self.blobs.iter().any(|blob| blob.cipher != Cipher::None);
        let mut flags = coding_flags(self.options);
        flags |= if encrypted { SuperFlags::ENCRYPTION_AES_XTS } else { SuperFlags::ENCRYPTION_NONE };
        flags.set(SuperFlags::HAS_XATTR, xattrs);
        flags.set(SuperFlags::TARFS, self.options.is_tarfs());
        flags.set(SuperFlags::INLINED_CHUNK_DIGEST, digested);
        flags
    }

    /// Device slots and blob table of a bootstrap of `length` bytes.
    fn put_blobs(&self, out: &mut [u8], length: u64) -> Result<(), FormatError> {
        let mut end = length;
        for (n, blob) in (0u32..).zip(self.blobs) {
            let block = self.options.block();
            let blocks = blob.uncompressed_size / block;
            let mapped = end.next_multiple_of(MAPPED_ALIGN) / block;
            end = (mapped + blocks) * block;
            let mut slot = DeviceSlot::new_zeroed();
            put(&mut slot.blob_id, 0, blob.id.as_str().as_bytes())?;
            slot.blocks = word("blocks of a blob", blocks)?;
            slot.mapped_block = word("blocks of all blobs", mapped)?;
            put(out, SLOTS + u64::from(n) * 128, slot.as_bytes())?;
            put(out, self.tables.blob_table + u64::from(n) * 256, blob_entry(n, blob)?.as_bytes())?;
        }
        Ok(())
    }

    fn put_prefetch(&self, out: &mut [u8]) -> Result<(), FormatError> {
        if self.tables.prefetch_size == 0 {
            return Ok(());
        }
        for (n, &entry) in (0u64..).zip(&self.options.prefetch) {
            let entry = self.tree.entries.get(entry as usize);
            let nid = entry.and_then(|entry| self.nid(entry.inode));
            let nid = nid.ok_or(FormatError::Value {
                what: "entry of the prefetch table",
                at: n,
                found: self.tree.entries.len() as u64,
                expected: "an entry of the tree",
            })?;
            put(out, self.tables.prefetch + n * 4, word("inode in the prefetch table", nid)?.as_bytes())?;
        }
        Ok(())
    }

    fn nid(&self, inode: u32) -> Option<u64> {
        self.plan.places.get(inode as usize).map(|place| place.at / Allocator::UNIT)
    }

    /// The entries of one directory, block by block.
    fn put_directory(&self, out: &mut [u8], dir: u32, parent: u32) -> Result<(), FormatError> {
        let entry = |n: u32| self.tree.entries.get(n as usize).copied();
        let Some((entry, parent)) = entry(dir).zip(entry(parent)) else { return Ok(()) };
        let Some(place) = self.plan.places.get(entry.inode as usize) else { return Ok(()) };
        let own = self.tree.inodes.get(entry.inode as usize).map_or(0, inode_size);
        let mut block = BlockBuilder::default();
        let mut written = 0;
        for (name, child) in names(self.tree, &entry) {
            if block.size() + DIRENT + name.len() as u64 > self.options.block() {
                put(out, self.tables.meta + place.data + written, &block.finish())?;
                written += self.options.block();
            }
            let (inode, file_type) = match child {
                Some(child) => (child.inode, self.type_of(child.inode)),
                None if name == b"." => (entry.inode, FileType::Directory as u8),
                None => (parent.inode, FileType::Directory as u8),
            };
            block.push(self.nid(inode).unwrap_or(0), file_type, name);
        }
        let last_inline = is_inline(own, place.size, self.options.block());
        let at = if last_inline { place.at + own } else { place.data + written };
        put(out, self.tables.meta + at, &block.finish())
    }

    fn type_of(&self, inode: u32) -> u8 {
        let inode = self.tree.inodes.get(inode as usize);
        inode.and_then(|inode| FileType::from_mode(inode.mode)).map_or(0, |file_type| file_type as u8)
    }

    /// One inode with its xattrs, and a symlink's target or a file's chunk references.
    fn put_inode(&self, out: &mut [u8], inode: &NewInode, place: &Place) -> Result<(), FormatError> {
        if place.at == Place::NOWHERE {
            return Ok(());
        }
        let own = inode_size(inode);
        let at = self.tables.meta + place.at;
        let block = word("block of an inode", (self.tables.meta + place.data) / self.options.block())?;
        let inline = is_inline(own, place.size, self.options.block());
        let flat_layout = if inline { 2 } else { 0 };
        let (layout, union_value) = match FileType::from_mode(inode.mode) {
            Some(FileType::Directory | FileType::Symlink) => (flat_layout, block),
            Some(FileType::Regular) => (4, self.chunk_format(inode).into()),
            _ => (0, inode.rdev.into()),
        };
        let xattr_count = match inode.xattrs.len {
            0 => 0,
            size => u16::try_from((size - 12) / 4 + 1).unwrap_or(u16::MAX),
        };
        let mut raw = InodeExtended::new_zeroed();
        raw.format = (1 | layout << 1).into();
        raw.xattr_count = xattr_count.into();
        raw.mode = inode.mode.into();
        raw.size = place.size.into();
        raw.union_value = union_value;
        raw.number = place.number.into();
        raw.uid = inode.uid.into();
        raw.gid = inode.gid.into();
        raw.mtime = inode.mtime_secs.into();
        raw.mtime_nanos = inode.mtime_nanos.into();
        raw.nlink = place.links.into();
        put(out, at, raw.as_bytes())?;
        put(out, at + size_of::<InodeExtended>() as u64, self.tree.span(inode.xattrs))?;
        match FileType::from_mode(inode.mode) {
            Some(FileType::Symlink) => {
                let target = if inline { at + own } else { self.tables.meta + place.data };
                put(out, target, self.tree.span(inode.target))
            }
            Some(FileType::Regular) => self.put_chunks(out, at + own.next_multiple_of(8), inode),
            _ => Ok(()),
        }
    }

    fn chunks(&self, inode: &NewInode) -> impl Iterator<Item = &Chunk> {
        let run = self.tree.chunks_of(inode, self.options.chunk_size.into());
        run.iter().filter_map(|&chunk| self.tree.chunks.get(chunk as usize))
    }

    /// Chunk size as EROFS sees it, as the logarithm of blocks: a file whose chunks stand in a row is one large chunk.
    fn chunk_format(&self, inode: &NewInode) -> u32 {
        let chunk_size = u64::from(self.options.chunk_size);
        let mut chunks = self.chunks(inode);
        let mut size = chunk_size;
        if let Some(first) = chunks.next().filter(|_| inode.size > chunk_size) {
            let row = (1u64..).zip(chunks).all(|(n, chunk)| {
                chunk.blob == first.blob
                    && chunk.uncompressed_offset == first.uncompressed_offset + n * chunk_size
            });
            if row {
                size = inode.size.next_power_of_two();
            }
        }
        0x20 | (size / self.options.block()).trailing_zeros()
    }

    fn put_chunks(&self, out: &mut [u8], at: u64, inode: &NewInode) -> Result<(), FormatError> {
        for (place, chunk) in (at..).step_by(size_of::<ChunkIndexEntry>()).zip(self.chunks(inode)) {
            let [low, middle, high, _] = chunk.index.to_le_bytes();
            let raw = ChunkIndexEntry {
                chunk_low: u16::from_le_bytes([low, middle]).into(),
                device: u8::try_from(chunk.blob + 1).unwrap_or(u8::MAX),
                chunk_high: high,
                block: word("block of a chunk", chunk.uncompressed_offset / self.options.block())?,
            };
            put(out, place, raw.as_bytes())?;
        }
        Ok(())
    }
}

/// Flags that say how chunks are coded and what owners are.
fn coding_flags(options: &Options) -> SuperFlags {
    let mut flags = match options.compressor {
        Compressor::None => SuperFlags::COMPRESSION_NONE,
        Compressor::Lz4Block => SuperFlags::COMPRESSION_LZ4,
        Compressor::Gzip => SuperFlags::COMPRESSION_GZIP,
        Compressor::Zstd => SuperFlags::COMPRESSION_ZSTD,
    };
    flags |= match options.digester {
        DigestAlgorithm::Blake3 => SuperFlags::DIGEST_BLAKE3,
        DigestAlgorithm::Sha256 => SuperFlags::DIGEST_SHA256,
    };
    flags.set(SuperFlags::EXPLICIT_IDS, options.explicit_ids);
    flags
}

/// A directory block being filled: entries and names grow apart and are joined at the end.
#[derive(Default)]
struct BlockBuilder {
    entries: Vec<(u64, u8, u16)>,
    names: Vec<u8>,
}

impl BlockBuilder {
    fn size(&self) -> u64 {
        self.entries.len() as u64 * DIRENT + self.names.len() as u64
    }

    fn push(&mut self, nid: u64, file_type: u8, name: &[u8]) {
        // A block is 4096 bytes at most, so its offsets fit.
        let offset = u16::try_from(self.names.len()).unwrap_or(u16::MAX);
        self.entries.push((nid, file_type, offset));
        self.names.extend_from_slice(name);
    }

    /// The bytes of the block, which starts anew.
    fn finish(&mut self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4096);
        let names_start = u16::try_from(self.entries.len() * size_of::<Dirent>()).unwrap_or(u16::MAX);
        for (nid, file_type, offset) in self.entries.drain(..) {
            let name_offset = names_start.saturating_add(offset).into();
            bytes.extend_from_slice(
                Dirent { nid: nid.into(), name_offset, file_type, reserved: 0 }.as_bytes(),
            );
        }
        bytes.append(&mut self.names);
        bytes
    }
}

fn record(chunk: &Chunk, file_offset: u64) -> ChunkRecord {
    ChunkRecord {
        digest: chunk.digest.0,
        blob: chunk.blob.into(),
        flags: chunk.flags.bits().into(),
        compressed_size: chunk.compressed_size.into(),
        uncompressed_size: chunk.uncompressed_size.into(),
        compressed_offset: chunk.compressed_offset.into(),
        uncompressed_offset: chunk.uncompressed_offset.into(),
        file_offset: file_offset.into(),
        index: chunk.index.into(),
        crc32: chunk.crc32.into(),
    }
}

fn blob_entry(index: u32, blob: &Blob) -> Result<BlobEntry, FormatError> {
    let mut raw = BlobEntry::new_zeroed();
    put(&mut raw.blob_id, 0, blob.id.as_str().as_bytes())?;
    raw.index = index.into();
    raw.chunk_size = blob.chunk_size.into();
    raw.chunk_count = blob.chunk_count.into();
    raw.compressor = (blob.compressor as u32).into();
    raw.digester = (blob.digester as u32).into();
    raw.features = blob.features.bits().into();
    raw.compressed_size = blob.compressed_size.into();
    raw.uncompressed_size = blob.uncompressed_size.into();
    raw.toc_size = blob.toc_size.into();
    raw.meta_compressor = (blob.meta.compressor as u32).into();
    raw.meta_offset = blob.meta.compressed_offset.into();
    raw.meta_compressed_size = blob.meta.compressed_size.into();
    raw.meta_uncompressed_size = blob.meta.uncompressed_size.into();
    raw.toc_digest = blob.toc_digest.0;
    raw.meta_digest = blob.meta_digest.0;
    raw.meta_size = blob.meta_size.into();
    raw.cipher_iv = blob.cipher_iv.into();
    raw.cipher = (blob.cipher as u32).into();
    Ok(raw)
}
