//! Superblock and tables of a v6 bootstrap: what is checked when it is opened, whatever the tree holds.

use crate::device::BlobMetaLocation;
use crate::layout::{BlobEntry, DeviceSlot, ErofsSuper, RafsSuper, SUPER_OFFSET};
use crate::read::{
    MAX_COMPRESSED, blob_id, check_blob_limits, check_chunk_size, compressor_of, digester_of, require, slice,
    structure, until_nul,
};
use crate::{
    Blob, BlobFeatures, Cipher, Compressor, Digest, DigestAlgorithm, FormatError, Nid, SuperFlags,
    Superblock, Version,
};

/// Of the superblock.
pub(crate) const MAGIC: u32 = 0xE0F5_E1E2;
const COMPAT_RAFS: u32 = 0x4000_0000;
/// Chunked files and device table.
const INCOMPAT: u32 = 0xC;
const DEVICE_SLOT: u16 = 11;
/// Byte offset of the device slots, in units of which [`DEVICE_SLOT`] is 128.
const SLOTS_OFFSET: u64 = 1408;
const RAFS_SUPER_OFFSET: u64 = 1152;
const MAX_BLOBS: u16 = 254;

/// Checks both superblocks and the tables' places. Returns the number of devices too.
pub(crate) fn superblock(bytes: &[u8]) -> Result<(Superblock, u16), FormatError> {
    let base = SUPER_OFFSET as u64;
    let erofs: &ErofsSuper = structure(bytes, "superblock", base)?;
    let rafs: &RafsSuper = structure(bytes, "extended superblock", RAFS_SUPER_OFFSET)?;
    check_erofs(bytes, erofs)?;
    let block_size = 1u32 << erofs.block_bits;
    let flags = super_flags(rafs, block_size)?;
    let chunk_size = rafs.chunk_size.get();
    check_chunk_size(chunk_size, RAFS_SUPER_OFFSET + 20)?;
    check_tables(bytes, erofs, rafs)?;
    let superblock = Superblock {
        version: Version::V6,
        block_size,
        meta_start: u64::from(erofs.meta_block.get()) * u64::from(block_size),
        root: Nid(erofs.root_nid.get().into()),
        entries: erofs.entries.get(),
        inodes: erofs.entries.get(),
        flags,
        chunk_size,
        compressor: compressor_of(flags),
        digester: digester_of(flags),
        blob_table_offset: rafs.blob_table_offset.get(),
        chunk_table_offset: rafs.chunk_table_offset.get(),
        chunk_table_records: rafs.chunk_table_size.get() / 80,
        prefetch_table_offset: rafs.prefetch_table_offset.get(),
        prefetch_table_entries: rafs.prefetch_table_size.get() / 4,
    };
    Ok((superblock, erofs.devices.get()))
}

/// Fields of the EROFS superblock.
fn check_erofs(bytes: &[u8], erofs: &ErofsSuper) -> Result<(), FormatError> {
    let base = SUPER_OFFSET as u64;
    let devices = erofs.devices.get();
    let compat = erofs.feature_compat.get();
    require(erofs.magic.get() == MAGIC, "superblock magic", base, erofs.magic.get().into(), "0xe0f5e1e2")?;
    require(erofs.checksum.get() == 0, "superblock checksum", base + 4, erofs.checksum.get().into(), "0")?;
    require(compat & COMPAT_RAFS != 0, "compatible features", base + 8, compat.into(), "the bit 0x40000000")?;
    require(matches!(erofs.block_bits, 9 | 12), "block bits", base + 12, erofs.block_bits.into(), "9 or 12")?;
    require(erofs.entries.get() > 0, "number of entries", base + 16, 0, "at least 1")?;
    let blocks = erofs.blocks.get();
    require(
        devices > 0 || matches!(blocks, 0 | 4096),
        "number of blocks",
        base + 36,
        blocks.into(),
        "0 without blobs",
    )?;
    require(
        erofs.xattr_block.get() == 0,
        "shared xattr block",
        base + 44,
        erofs.xattr_block.get().into(),
        "0",
    )?;
    let incompat = erofs.feature_incompat.get();
    require(incompat == INCOMPAT, "incompatible features", base + 80, incompat.into(), "0xc")?;
    require(
        erofs.union_bits.get() == 0,
        "superblock field 84",
        base + 84,
        erofs.union_bits.get().into(),
        "0",
    )?;
    require(devices <= MAX_BLOBS, "number of devices", base + 86, devices.into(), "at most 254")?;
    let slot = erofs.device_slot.get();
    require(slot == DEVICE_SLOT, "position of device slots", base + 88, slot.into(), "11")?;
    let length = bytes.len() as u64;
    let unit = 1u64 << erofs.block_bits;
    require(length.is_multiple_of(unit), "length of the bootstrap", 0, length, "a multiple of the block size")
}

/// Superblock flags: known bits, one compressor, one digest, tarfs where blocks are small.
fn super_flags(rafs: &RafsSuper, block_size: u32) -> Result<SuperFlags, FormatError> {
    let (at, raw) = (RAFS_SUPER_OFFSET, rafs.flags.get());
    let flags = SuperFlags::from_bits(raw).ok_or(FormatError::Value {
        what: "superblock flags",
        at,
        found: raw,
        expected: "only known flags",
    })?;
    let compressors = SuperFlags::COMPRESSION_NONE
        | SuperFlags::COMPRESSION_LZ4
        | SuperFlags::COMPRESSION_GZIP
        | SuperFlags::COMPRESSION_ZSTD;
    let digests = SuperFlags::DIGEST_BLAKE3 | SuperFlags::DIGEST_SHA256;
    let one = |mask: SuperFlags| (flags & mask).bits().count_ones() == 1;
    require(one(compressors), "superblock flags", at, raw, "exactly one compression")?;
    require(one(digests), "superblock flags", at, raw, "exactly one digest")?;
    let tarfs = flags.contains(SuperFlags::TARFS);
    require(tarfs || block_size == 4096, "superblock flags", at, raw, "the tarfs flag with 512-byte blocks")?;
    Ok(flags)
}

/// Tables lie within the file and do not overlap each other or the superblocks.
fn check_tables(bytes: &[u8], erofs: &ErofsSuper, rafs: &RafsSuper) -> Result<(), FormatError> {
    let base = RAFS_SUPER_OFFSET;
    let devices = u64::from(erofs.devices.get());
    let (blob_at, blob_size) = (rafs.blob_table_offset.get(), u64::from(rafs.blob_table_size.get()));
    let (chunk_at, chunk_size) = (rafs.chunk_table_offset.get(), rafs.chunk_table_size.get());
    let (prefetch_at, prefetch_size) =
        (rafs.prefetch_table_offset.get(), u64::from(rafs.prefetch_table_size.get()));
    let placed = |at: u64| at >= 4096 && at.is_multiple_of(4096);
    require(
        blob_size == devices * 256,
        "size of the blob table",
        base + 16,
        blob_size,
        "256 bytes for each device",
    )?;
    require(placed(blob_at), "offset of the blob table", base + 8, blob_at, "a multiple of 4096")?;
    require(
        chunk_size.is_multiple_of(80),
        "size of the chunk table",
        base + 32,
        chunk_size,
        "a multiple of 80",
    )?;
    require(placed(chunk_at), "offset of the chunk table", base + 24, chunk_at, "a multiple of 4096")?;
    require(
        prefetch_size.is_multiple_of(4),
        "size of the prefetch table",
        base + 48,
        prefetch_size,
        "a multiple of 4",
    )?;
    let slots = SLOTS_OFFSET + devices * 128;
    let mut places = [
        ("device slots", 0, slots),
        ("blob table", blob_at, blob_size),
        ("chunk table", chunk_at, chunk_size),
        ("prefetch table", prefetch_at, prefetch_size),
    ];
    for (what, at, size) in places {
        slice(bytes, what, at, size)?;
    }
    places.sort_by_key(|&(_, at, _)| at);
    let mut end = 0;
    for (what, at, size) in places.into_iter().filter(|&(_, _, size)| size > 0) {
        require(at >= end, what, base, at, "a place behind other tables")?;
        end = at + size;
    }
    Ok(())
}

/// Block of a flat image at which the blob of the `n`-th device slot begins.
pub(crate) fn mapped_block(bytes: &[u8], n: usize) -> Option<u32> {
    let at = SLOTS_OFFSET.checked_add(u64::try_from(n).ok()?.checked_mul(128)?)?;
    let slot: &DeviceSlot = structure(bytes, "device slot", at).ok()?;
    Some(slot.mapped_block.get())
}

/// Reads device slots and blob table.
pub(crate) fn blobs(bytes: &[u8], superblock: &Superblock, devices: u16) -> Result<Vec<Blob>, FormatError> {
    (0..u32::from(devices))
        .map(|n| {
            let slot_at = SLOTS_OFFSET + u64::from(n) * 128;
            let slot: &DeviceSlot = structure(bytes, "device slot", slot_at)?;
            require(slot.blocks.get() > 0, "blocks of a device", slot_at + 64, 0, "at least 1")?;
            let at = superblock.blob_table_offset + u64::from(n) * 256;
            let raw: &BlobEntry = structure(bytes, "blob table entry", at)?;
            // Builders fill both alike; an empty slot is known to be accepted too.
            let same = slot.blob_id == raw.blob_id || slot.blob_id == [0; 64];
            require(same, "id in a device slot", slot_at, u64::from(n), "the id in the blob table")?;
            let blob = blob(raw, at, n, superblock)?;
            let blocks = blob.uncompressed_size.div_ceil(superblock.block_size.into());
            let found = slot.blocks.get().into();
            require(
                found == blocks,
                "blocks of a device",
                slot_at + 64,
                found,
                "the size in the blob table",
            )?;
            Ok(blob)
        })
        .collect()
}

/// One entry of the blob table, the `n`-th, at byte `at`.
fn blob(raw: &BlobEntry, at: u64, n: u32, superblock: &Superblock) -> Result<Blob, FormatError> {
    require(
        raw.index.get() == n,
        "index of a blob",
        at + 64,
        raw.index.get().into(),
        "its position in the table",
    )?;
    let chunk_size = raw.chunk_size.get();
    let same = chunk_size == superblock.chunk_size;
    require(same, "chunk size of a blob", at + 68, chunk_size.into(), "that of the superblock")?;
    let features = blob_features(raw, at, superblock)?;
    let blob = Blob {
        id: blob_id(until_nul(&raw.blob_id))?,
        chunk_size,
        chunk_count: raw.chunk_count.get(),
        compressor: compressor(raw.compressor.get(), at + 76)?,
        digester: DigestAlgorithm::from_raw(raw.digester.get()).ok_or(FormatError::Value {
            what: "digest of a blob",
            at: at + 80,
            found: raw.digester.get().into(),
            expected: "0 or 1",
        })?,
        features,
        compressed_size: raw.compressed_size.get(),
        uncompressed_size: raw.uncompressed_size.get(),
        meta: BlobMetaLocation {
            compressor: compressor(raw.meta_compressor.get(), at + 108)?,
            compressed_offset: raw.meta_offset.get(),
            compressed_size: raw.meta_compressed_size.get(),
            uncompressed_size: raw.meta_uncompressed_size.get(),
        },
        toc_size: raw.toc_size.get(),
        toc_digest: Digest(raw.toc_digest),
        meta_digest: Digest(raw.meta_digest),
        meta_size: raw.meta_size.get(),
        cipher_iv: raw.cipher_iv.get(),
        cipher: Cipher::from_raw(raw.cipher.get()).ok_or(FormatError::Value {
            what: "cipher of a blob",
            at: at + 216,
            found: raw.cipher.get().into(),
            expected: "0 to 3",
        })?,
    };
    check_blob_sizes(&blob, at)?;
    Ok(blob)
}

fn compressor(raw: u32, at: u64) -> Result<Compressor, FormatError> {
    Compressor::from_raw(raw).ok_or(FormatError::Value {
        what: "compression of a blob",
        at,
        found: raw.into(),
        expected: "0 to 3",
    })
}

fn blob_features(raw: &BlobEntry, at: u64, superblock: &Superblock) -> Result<BlobFeatures, FormatError> {
    let bits = raw.features.get();
    let found = bits.into();
    require(
        bits & 0x8000_F000 == 0,
        "features of a blob",
        at + 84,
        found,
        "only features known to this version",
    )?;
    let features = BlobFeatures::from_bits_retain(bits);
    let tarfs = superblock.flags.contains(SuperFlags::TARFS);
    let agree = features.contains(BlobFeatures::TARFS) == tarfs;
    require(agree, "features of a blob", at + 84, found, "the tarfs bit as in the superblock")?;
    let aligned = features.contains(BlobFeatures::ALIGNED) != tarfs;
    require(aligned, "features of a blob", at + 84, found, "aligned chunks, and none in a tarfs")?;
    Ok(features)
}

/// Limits of a blob, and what its chunk table must measure.
fn check_blob_sizes(blob: &Blob, at: u64) -> Result<(), FormatError> {
    let count = blob.chunk_count;
    check_blob_limits(blob, [at + 72, at + 88, at + 96])?;
    if blob.features.contains(BlobFeatures::TARFS) {
        return Ok(());
    }
    let meta = &blob.meta;
    if blob.is_external() && meta.uncompressed_size == 0 {
        // Nobody wrote this blob for the image, so nobody put a table into it.
        return require(
            meta.compressed_size == 0,
            "stored size of a chunk table",
            at + 120,
            meta.compressed_size,
            "0",
        );
    }
    let stored_ok = meta.compressed_size <= meta.uncompressed_size;
    require(stored_ok, "stored size of a chunk table", at + 120, meta.compressed_size, "at most its size")?;
    let context = BlobFeatures::BATCH | BlobFeatures::ZRAN | BlobFeatures::ENCRYPTED;
    let (entry, size) = (u64::from(count), meta.uncompressed_size);
    let good = if !blob.features.contains(BlobFeatures::CHUNK_INFO_V2) {
        size == entry * 16
    } else if blob.features.intersects(context) {
        size >= entry * 24
    } else {
        size == entry * 24
    };
    require(good, "size of a chunk table", at + 128, size, "an entry for each chunk")?;
    let end = meta.compressed_offset.checked_add(meta.compressed_size);
    let placed = end.is_some_and(|end| end <= MAX_COMPRESSED);
    require(placed, "offset of a chunk table", at + 112, meta.compressed_offset, "a place within the blob")
}
