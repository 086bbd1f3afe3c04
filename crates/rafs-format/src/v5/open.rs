//! Superblock and tables of a v5 bootstrap: what is checked when it is opened, whatever the tree holds.

use super::ChunkPlaces;
use crate::device::BlobMetaLocation;
use crate::layout::{BlobExtensionV5, BlobHeadV5, SuperV5};
use crate::read::{
    blob_id, check_blob_limits, check_chunk_size, compressor_of, digester_of, require, slice, structure,
    until_nul,
};
use crate::{
    Blob, BlobFeatures, Chunk, Cipher, Compressor, Digest, FormatError, Nid, SuperFlags, Superblock, Version,
};
use std::ops::Range;

/// Of the superblock.
pub(crate) const MAGIC: u32 = 0x5241_4653;
pub(crate) const VERSION: u32 = 0x500;
/// Bytes of the superblock, which no table and no inode may touch.
pub(crate) const SUPER_SIZE: u64 = size_of::<SuperV5>() as u64;
pub(crate) const MAX_LENGTH: u64 = 0x8000_0000;
/// Most blobs of an image. The format has no limit, but what is kept of a blob is much longer than the shortest entry of one; an image has a
/// blob for each of its layers, of which runtimes take 127, and one for each it shares chunks with.
pub(crate) const MAX_BLOBS: usize = 1024;
/// The root is the first inode.
const ROOT: Nid = Nid(1);

/// Where the tables lie that only v5 has, and what is in the smallest of them.
#[derive(Debug, Clone)]
pub(crate) struct Tables {
    /// First byte of the inode table.
    pub inode_table: u64,
    blob_table_size: u64,
    extended_table: u64,
    extended_entries: u32,
    /// Readahead of each blob.
    readahead: Vec<Range<u64>>,
}

impl Tables {
    /// Stored bytes of a blob to read ahead.
    pub(crate) fn readahead(&self, blob: usize) -> Range<u64> {
        self.readahead.get(blob).cloned().unwrap_or(0..0)
    }
}

/// Checks the superblock and the places of the tables.
pub(crate) fn superblock(bytes: &[u8]) -> Result<(Superblock, Tables), FormatError> {
    let raw: &SuperV5 = structure(bytes, "superblock", 0)?;
    let length = bytes.len() as u64;
    require(raw.magic.get() == MAGIC, "superblock magic", 0, raw.magic.get().into(), "0x52414653")?;
    let version = raw.version.get();
    require(version == VERSION, "version", 4, version.into(), "0x500: others are not supported")?;
    let size = u64::from(raw.size.get());
    require(size == SUPER_SIZE, "size of the superblock", 8, size, "8192")?;
    let good = length.is_multiple_of(8) && length > SUPER_SIZE && length <= MAX_LENGTH;
    require(good, "length of the bootstrap", 0, length, "a multiple of 8 above 8192, at most 2 GiB")?;
    let chunk_size = raw.chunk_size.get();
    check_chunk_size(chunk_size, 12)?;
    let found = raw.flags.get();
    let (what, expected) = ("superblock flags", "only known flags");
    let flags = SuperFlags::from_bits(found).ok_or(FormatError::Value { what, at: 16, found, expected })?;
    require(!flags.contains(SuperFlags::TARFS), "superblock flags", 16, found, "no tarfs")?;
    let (entries, inodes) = (u64::from(raw.inode_table_entries.get()), raw.inodes.get());
    require(entries > 0, "entries of the inode table", 56, entries, "at least the root")?;
    require(inodes <= entries, "number of inodes", 24, inodes, "at most the entries of the inode table")?;
    check_tables(bytes, raw)?;
    let superblock = Superblock {
        version: Version::V5,
        block_size: 4096,
        meta_start: 0,
        root: ROOT,
        entries,
        inodes,
        flags,
        chunk_size,
        compressor: compressor(flags),
        digester: digester_of(flags),
        blob_table_offset: raw.blob_table_offset.get(),
        chunk_table_offset: 0,
        chunk_table_records: 0,
        prefetch_table_offset: raw.prefetch_table_offset.get(),
        prefetch_table_entries: raw.prefetch_table_entries.get(),
    };
    let tables = Tables {
        inode_table: raw.inode_table_offset.get(),
        blob_table_size: raw.blob_table_size.get().into(),
        extended_table: raw.extended_table_offset.get(),
        extended_entries: raw.extended_entries.get(),
        readahead: Vec::new(),
    };
    Ok((superblock, tables))
}

/// Compression that the flags name; LZ4 where they name none.
fn compressor(flags: SuperFlags) -> Compressor {
    let named = SuperFlags::COMPRESSION_NONE | SuperFlags::COMPRESSION_GZIP | SuperFlags::COMPRESSION_ZSTD;
    if flags.intersects(named) { compressor_of(flags) } else { Compressor::Lz4Block }
}

/// Tables start at multiples of 8, lie within the file and overlap neither each other nor the superblock.
fn check_tables(bytes: &[u8], raw: &SuperV5) -> Result<(), FormatError> {
    let words = |entries: u32| (u64::from(entries) * 4).next_multiple_of(8);
    let mut places = [
        ("inode table", raw.inode_table_offset.get(), words(raw.inode_table_entries.get())),
        ("prefetch table", raw.prefetch_table_offset.get(), words(raw.prefetch_table_entries.get())),
        ("blob table", raw.blob_table_offset.get(), raw.blob_table_size.get().into()),
        (
            "extended blob table",
            raw.extended_table_offset.get(),
            u64::from(raw.extended_entries.get()) * size_of::<BlobExtensionV5>() as u64,
        ),
    ];
    places.sort_by_key(|&(_, at, _)| at);
    let mut end = SUPER_SIZE;
    for (what, at, size) in places.into_iter().filter(|&(_, _, size)| size > 0) {
        require(
            at.is_multiple_of(8) && size.is_multiple_of(8),
            what,
            32,
            at,
            "a place and size in units of 8",
        )?;
        require(at >= end, what, 32, at, "a place behind the superblock and other tables")?;
        slice(bytes, what, at, size)?;
        end = at + size;
    }
    Ok(())
}

/// Reads both blob tables, and what to read ahead into `tables`.
pub(crate) fn blobs(
    bytes: &[u8],
    superblock: &Superblock,
    tables: &mut Tables,
) -> Result<Vec<Blob>, FormatError> {
    let table = slice(bytes, "blob table", superblock.blob_table_offset, tables.blob_table_size)?;
    let (mut blobs, mut rest) = (Vec::new(), table);
    // Up to 8 bytes are padding, and an id has at least one.
    while let Some((head, names)) =
        rest.split_at_checked(size_of::<BlobHeadV5>()).filter(|(_, n)| !n.is_empty())
    {
        let head: &BlobHeadV5 = structure(head, "blob table entry", 0)?;
        let (count, what) = (blobs.len(), "size of the blob table");
        require(count < MAX_BLOBS, what, 64, tables.blob_table_size, "that of at most 1024 entries")?;
        let id = until_nul(names);
        let start = u64::from(head.readahead_offset.get());
        tables.readahead.push(start..start + u64::from(head.readahead_size.get()));
        blobs.push(blob(superblock, id)?);
        rest = names.get(id.len() + 1..).unwrap_or(&[]);
    }
    let found = tables.extended_entries;
    let fits = found == 0 || found as usize == blobs.len();
    require(fits, "entries of the extended blob table", 68, found.into(), "one for each blob, or none")?;
    let mut known = found > 0 || blobs.is_empty();
    for (n, blob) in (0..u64::from(found)).zip(&mut blobs) {
        known &= extend(bytes, tables.extended_table + n * size_of::<BlobExtensionV5>() as u64, blob)?;
    }
    if !known {
        measure(bytes, superblock, tables, &mut blobs)?;
    }
    Ok(blobs)
}

/// A blob of this id, of which nothing else is known.
fn blob(superblock: &Superblock, id: &[u8]) -> Result<Blob, FormatError> {
    Ok(Blob {
        id: blob_id(id)?,
        chunk_size: superblock.chunk_size,
        chunk_count: 0,
        compressor: superblock.compressor,
        digester: superblock.digester,
        features: BlobFeatures::empty(),
        compressed_size: 0,
        uncompressed_size: 0,
        meta: no_chunk_table(0),
        toc_size: 0,
        toc_digest: Digest([0; 32]),
        meta_digest: Digest([0; 32]),
        meta_size: 0,
        cipher_iv: 0,
        cipher: Cipher::None,
    })
}

/// The place where the chunk table of a blob would start that has none and is so long.
fn no_chunk_table(compressed_offset: u64) -> BlobMetaLocation {
    BlobMetaLocation {
        compressor: Compressor::None,
        compressed_offset,
        compressed_size: 0,
        uncompressed_size: 0,
    }
}

/// Adds what the extended entry at byte `at` says of a blob. `false`: it has no content.
fn extend(bytes: &[u8], at: u64, blob: &mut Blob) -> Result<bool, FormatError> {
    let raw: &BlobExtensionV5 = structure(bytes, "extended blob table entry", at)?;
    blob.features = BlobFeatures::from_bits_retain(raw.features.get());
    if raw.chunk_count.get() == 0 {
        return Ok(false);
    }
    blob.chunk_count = raw.chunk_count.get();
    blob.compressed_size = raw.compressed_size.get();
    blob.uncompressed_size = raw.uncompressed_size.get();
    blob.meta = no_chunk_table(blob.compressed_size);
    check_blob_limits(blob, [at, at + 16, at + 8])?;
    Ok(true)
}

/// Gives blobs without an extended entry the size and number of chunks that their chunks show.
fn measure(
    bytes: &[u8],
    superblock: &Superblock,
    tables: &Tables,
    blobs: &mut [Blob],
) -> Result<(), FormatError> {
    let unknown: Vec<bool> = blobs.iter().map(|blob| blob.chunk_count == 0).collect();
    // A blob without chunks has one that nobody uses.
    blobs
        .iter_mut()
        .zip(&unknown)
        .filter(|(_, unknown)| **unknown)
        .for_each(|(blob, _)| blob.chunk_count = 1);
    let reader = super::Reader { bytes, superblock, tables };
    for place in ChunkPlaces::new(reader) {
        let chunk = Chunk::read(bytes, place?.0)?;
        let Ok(n) = usize::try_from(chunk.blob) else { continue };
        let Some(blob) = blobs.get_mut(n).filter(|_| unknown.get(n) == Some(&true)) else { continue };
        let compressed = chunk.compressed_offset.saturating_add(chunk.compressed_size.into());
        let uncompressed = chunk.uncompressed_offset.saturating_add(chunk.uncompressed_size.into());
        blob.chunk_count = blob.chunk_count.max(chunk.index.saturating_add(1));
        blob.compressed_size = blob.compressed_size.max(compressed);
        blob.uncompressed_size = blob.uncompressed_size.max(uncompressed);
    }
    for blob in blobs {
        blob.meta = no_chunk_table(blob.compressed_size);
        check_blob_limits(blob, [superblock.blob_table_offset; 3])?;
    }
    Ok(())
}
