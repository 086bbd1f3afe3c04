//! Chunks: the record with digest and positions, and how a file's entry finds its record.

use crate::layout::ChunkRecord;
use crate::read::{Reader, require, structure};
use crate::{Blob, BlobFeatures, Bootstrap, Digest, FormatError, Inode, v5};

bitflags::bitflags! {
    /// Flags of a chunk record.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ChunkFlags: u32 {
        /// Stored compressed.
        const COMPRESSED = 0x1;
        /// Legacy, never written.
        const HOLE = 0x2;
        /// Stored encrypted.
        const ENCRYPTED = 0x4;
        /// Part of a batch.
        const BATCH = 0x8;
        /// `crc32` is valid.
        const HAS_CRC = 0x10;
        /// Anything else is kept as it is.
        const _ = !0;
    }
}

/// One chunk of a blob, in full: the 80-byte record of v5 inodes and of the v6 chunk table.
/// Offsets and sizes in bytes; uncompressed offsets are positions in the decompressed blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Digest of the uncompressed bytes.
    pub digest: Digest,
    /// Position of the blob in the blob table.
    pub blob: u32,
    /// Number of the chunk in its blob, from 0.
    pub index: u32,
    /// How it is stored.
    pub flags: ChunkFlags,
    /// First stored byte in the blob.
    pub compressed_offset: u64,
    /// Stored length.
    pub compressed_size: u32,
    /// First byte in the decompressed blob (= cache file).
    pub uncompressed_offset: u64,
    /// Length after decompression, 1 to the chunk size.
    pub uncompressed_size: u32,
    /// Offset in a file that has this chunk; which one is undefined when several share it.
    pub file_offset: u64,
    /// CRC-32C of the uncompressed bytes when `HAS_CRC` is set.
    pub crc32: u32,
}

impl Chunk {
    /// The record at byte `at` of a bootstrap.
    #[inline]
    pub(crate) fn read(bytes: &[u8], at: u64) -> Result<Self, FormatError> {
        let raw: &ChunkRecord = structure(bytes, "chunk record", at)?;
        Ok(Self {
            digest: Digest(raw.digest),
            blob: raw.blob.get(),
            index: raw.index.get(),
            flags: ChunkFlags::from_bits_retain(raw.flags.get()),
            compressed_offset: raw.compressed_offset.get(),
            compressed_size: raw.compressed_size.get(),
            uncompressed_offset: raw.uncompressed_offset.get(),
            uncompressed_size: raw.uncompressed_size.get(),
            file_offset: raw.file_offset.get(),
            crc32: raw.crc32.get(),
        })
    }
}

/// A file's reference to a chunk: the 8-byte chunk index entry of v6, the numbers in the chunk record of v5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkRef {
    /// Position of the blob in the blob table (on disk: + 1).
    pub blob: u32,
    /// Number of the chunk in its blob.
    pub chunk: u32,
    /// Uncompressed offset in blocks; 0 in v5, which has no blocks.
    pub block: u32,
}

/// Finds the chunks of files: in v5 their records stand behind the inode, in v6 the record of a [`ChunkRef`] is found in O(log n).
/// Also goes through the chunks of one blob in the order of their numbers.
/// Memory: 4 bytes per chunk in v5, 8 per record in v6, whatever the image claims; 32 and 24 per record while it is built.
#[derive(Debug, Clone)]
pub struct ChunkIndex {
    /// In v6, sorted: blob (8 bits), chunk (24 bits), number of the record (32 bits).
    keys: Vec<u64>,
    /// In v5, in the order of blobs and chunks: byte offset of the chunk's first record in units of 8.
    records: Vec<u32>,
}

impl ChunkIndex {
    /// Reads all chunk records and checks that they do not contradict each other: records of one chunk are equal in all but the file
    /// offset, and different chunks of a blob do not overlap when decompressed. So a chunk number stands for one digest, one
    /// stored range and one place in the decompressed blob, and whoever keeps data by any of them may rely on the others.
    /// In a tarfs there is nothing to read: the table holds nothing, and a file's reference says all that there is to know.
    /// Errors: a contradiction, at the record that shows it; a record that names a blob or chunk outside the blob table.
    pub fn build<B: AsRef<[u8]>>(bootstrap: &Bootstrap<B>) -> Result<Self, FormatError> {
        let (keys, records) = match bootstrap.reader() {
            Reader::V5(reader) => (Vec::new(), v5::check_chunks(reader, bootstrap.blobs())?),
            Reader::V6(_) if bootstrap.is_tarfs() => (Vec::new(), Vec::new()),
            Reader::V6(_) => (places(bootstrap)?.iter().map(Place::key).collect(), Vec::new()),
        };
        Ok(Self { keys, records })
    }

    /// The chunk of `blob` that has the lowest number of at least `number`; `None` where there is none, and in a tarfs. In O(log n).
    /// Errors: a record whose ranges leave the blob.
    pub fn at_or_after<B: AsRef<[u8]>>(
        &self,
        bootstrap: &Bootstrap<B>,
        blob: u32,
        number: u32,
    ) -> Result<Option<Chunk>, FormatError> {
        let found = match bootstrap.reader() {
            Reader::V5(reader) => self.place_v5(reader, blob, number),
            Reader::V6(_) => self.place_v6(bootstrap, blob, number),
        };
        let Some(at) = found else { return Ok(None) };
        let chunk = Chunk::read(bootstrap.bytes(), at)?;
        check_ranges(bootstrap.blobs(), &chunk, at)?;
        Ok(Some(chunk).filter(|chunk| chunk.blob == blob))
    }

    /// Where the record of the first chunk from this one on is, whatever its blob.
    fn place_v5(&self, reader: v5::Reader<'_>, blob: u32, number: u32) -> Option<u64> {
        let before = |&record: &u32| {
            let chunk = Chunk::read(reader.bytes, u64::from(record) * 8);
            chunk.is_ok_and(|chunk| (chunk.blob, chunk.index) < (blob, number))
        };
        let first = self.records.partition_point(before);
        self.records.get(first).map(|&record| u64::from(record) * 8)
    }

    /// Where the record of the first chunk from this one on is, whatever its blob.
    fn place_v6<B: AsRef<[u8]>>(&self, bootstrap: &Bootstrap<B>, blob: u32, number: u32) -> Option<u64> {
        if blob > 0xFF || number > 0xFF_FFFF {
            return None;
        }
        let first = self.first_of(key(blob, number));
        self.keys.get(first).map(|&entry| bootstrap.chunk_record_offset(entry & 0xFFFF_FFFF))
    }

    /// Position of the first entry of this chunk or a later one.
    #[inline]
    fn first_of(&self, chunk: u32) -> usize {
        self.keys.partition_point(|&entry| entry >> 32 < u64::from(chunk))
    }

    /// The `n`-th chunk of a regular file. Its size is not checked against the file's. In a tarfs its digest is zero, and numbers of chunks
    /// promise nothing: only the place in the tar tells two chunks apart.
    /// Errors: a reference that its record does not agree with (v6), a file offset that is not the chunk's (v5), ranges that leave the blob;
    /// not a file, or not so many chunks.
    pub fn chunk<B: AsRef<[u8]>>(
        &self,
        bootstrap: &Bootstrap<B>,
        file: &Inode,
        n: u64,
    ) -> Result<Chunk, FormatError> {
        bootstrap.check_chunk_number(file, n)?;
        let reference = match bootstrap.reader() {
            Reader::V5(reader) => {
                let (chunk, at) = reader.chunk(file, n)?;
                check_ranges(bootstrap.blobs(), &chunk, at)?;
                return Ok(chunk);
            }
            Reader::V6(reader) => reader.chunk_ref(file, n)?,
        };
        if bootstrap.is_tarfs() {
            return tar_chunk(bootstrap, file, n, reference);
        }
        self.resolve(bootstrap, reference)
    }

    /// The record of `reference` in the chunk table of a v6 image, whose blob, index and block all agree with it.
    /// Errors: [`FormatError::NoSuchChunk`], in v5 always; `OutOfBounds` where the record's ranges leave the blob.
    #[inline]
    pub fn resolve<B: AsRef<[u8]>>(
        &self,
        bootstrap: &Bootstrap<B>,
        reference: ChunkRef,
    ) -> Result<Chunk, FormatError> {
        let ChunkRef { blob, chunk, block } = reference;
        let none = FormatError::NoSuchChunk { blob, chunk, block };
        if blob > 0xFF || chunk > 0xFF_FFFF {
            return Err(none);
        }
        let wanted = u64::from(key(blob, chunk));
        let first = self.first_of(key(blob, chunk));
        // Several records may name one chunk, any number in a bad image, but they agree on everything that is asked here.
        let entry = self.keys.get(first).filter(|&&entry| entry >> 32 == wanted);
        let Some(n) = entry.map(|entry| entry & 0xFFFF_FFFF) else { return Err(none) };
        let record = bootstrap.chunk_record(n)?;
        let offset = u64::from(block) * u64::from(bootstrap.superblock().block_size);
        if record.uncompressed_offset != offset {
            return Err(none);
        }
        check_ranges(bootstrap.blobs(), &record, bootstrap.chunk_record_offset(n))?;
        Ok(record)
    }
}

/// The `n`-th chunk of a file of a tarfs: the part of the tar that `reference` names, as long as the file goes on.
/// Errors: a range that leaves the tar; a number that its blob has not.
pub(crate) fn tar_chunk<B: AsRef<[u8]>>(
    bootstrap: &Bootstrap<B>,
    file: &Inode,
    n: u64,
    reference: ChunkRef,
) -> Result<Chunk, FormatError> {
    let superblock = bootstrap.superblock();
    let chunk_size = u64::from(superblock.chunk_size);
    let left = file.size.saturating_sub(n.saturating_mul(chunk_size)).min(chunk_size);
    let offset = u64::from(reference.block) * u64::from(superblock.block_size);
    // No more than the chunk size, which has 32 bits.
    let size = u32::try_from(left).unwrap_or(u32::MAX);
    let chunk = Chunk {
        digest: Digest([0; 32]),
        blob: reference.blob,
        index: reference.chunk,
        flags: ChunkFlags::empty(),
        compressed_offset: offset,
        compressed_size: size,
        uncompressed_offset: offset,
        uncompressed_size: size,
        file_offset: n.saturating_mul(chunk_size),
        crc32: 0,
    };
    check_ranges(bootstrap.blobs(), &chunk, file.nid.0)?;
    Ok(chunk)
}

/// A blob, of which there are fewer than 2^8, and a chunk of it, of which there are at most 2^24, in one number.
fn key(blob: u32, chunk: u32) -> u32 {
    blob << 24 | chunk
}

/// Blobs whose chunks need not lie in the order of their numbers: they are put together from chunks that have places already.
const UNORDERED: BlobFeatures = BlobFeatures::EXTERNAL.union(BlobFeatures::CHUNKDICT_GENERATED);

/// Where the chunks of all records lie, in the order of blobs and chunks, checked as [`ChunkIndex::build`] says.
fn places<B: AsRef<[u8]>>(bootstrap: &Bootstrap<B>) -> Result<Vec<Place>, FormatError> {
    let superblock = bootstrap.superblock();
    let records = superblock.chunk_table_records;
    let count = u32::try_from(records).ok().ok_or(FormatError::Limit {
        what: "chunk table",
        found: records,
        limit: u32::MAX.into(),
    })?;
    // Sorted together with their places: reading records again in the order of their numbers would miss the cache each time.
    let mut records = Vec::with_capacity(count as usize);
    for n in 0..count {
        let chunk = bootstrap.chunk_record(n.into())?;
        let blob = usize::try_from(chunk.blob).ok().and_then(|blob| bootstrap.blobs().get(blob));
        let at = bootstrap.chunk_record_offset(n.into());
        let found = chunk.blob.into();
        let blob = blob.ok_or(FormatError::Value {
            what: "blob of a chunk record",
            at: at.saturating_add(32),
            found,
            expected: "a blob of the image",
        })?;
        let inside = chunk.index < blob.chunk_count;
        let index = chunk.index.into();
        require(inside, "index of a chunk record", at.saturating_add(72), index, "a chunk of its blob")?;
        records.push(Place::of(&chunk, n, at)?);
    }
    records.sort_unstable_by_key(Place::key);
    check_unique(bootstrap, &records)?;
    Ok(records)
}

/// All chunks of an image for checking every use of them. In v6 twice the memory of a [`ChunkIndex`], and records are read once,
/// in their order, instead of once for each reference in any order, which is mostly waiting for memory.
#[derive(Debug)]
pub(crate) struct CheckedChunks {
    places: Vec<Place>,
    /// Position behind the chunk found last: files mostly use chunks in the order of their numbers.
    next: usize,
}

impl CheckedChunks {
    /// Checks all records, also their ranges. Errors: as of [`ChunkIndex::build`] and [`ChunkIndex::resolve`].
    pub(crate) fn new<B: AsRef<[u8]>>(bootstrap: &Bootstrap<B>) -> Result<Self, FormatError> {
        let places = match bootstrap.reader() {
            Reader::V5(reader) => {
                v5::check_chunks(reader, bootstrap.blobs())?;
                Vec::new()
            }
            Reader::V6(_) => places(bootstrap)?,
        };
        for n in 0..bootstrap.superblock().chunk_table_records {
            check_ranges(bootstrap.blobs(), &bootstrap.chunk_record(n)?, bootstrap.chunk_record_offset(n))?;
        }
        Ok(Self { places, next: 0 })
    }

    /// Size of the `n`-th chunk of a file, which has so many, in bytes after decompression. Errors: as of [`ChunkIndex::chunk`].
    pub(crate) fn size_in<B: AsRef<[u8]>>(
        &mut self,
        bootstrap: &Bootstrap<B>,
        file: &Inode,
        n: u64,
    ) -> Result<u32, FormatError> {
        match bootstrap.reader() {
            Reader::V5(reader) => Ok(reader.chunk(file, n)?.0.uncompressed_size),
            Reader::V6(reader) => self.size(reader.chunk_ref(file, n)?),
        }
    }

    /// Size of the chunk that `reference` names, in bytes after decompression. Errors: [`FormatError::NoSuchChunk`].
    fn size(&mut self, reference: ChunkRef) -> Result<u32, FormatError> {
        let ChunkRef { blob, chunk, block } = reference;
        let none = FormatError::NoSuchChunk { blob, chunk, block };
        let wanted = (blob <= 0xFF && chunk <= 0xFF_FFFF).then(|| key(blob, chunk)).ok_or(none.clone())?;
        let is_next = self.places.get(self.next).is_some_and(|place| place.chunk == wanted);
        if !is_next {
            self.next = self.places.partition_point(|place| place.chunk < wanted);
        }
        let place = self.places.get(self.next).filter(|place| place.chunk == wanted && place.block == block);
        self.next += 1;
        place.map(|place| place.size).ok_or(none)
    }
}

/// Where one record's chunk lies when decompressed.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Blob and number in it, see [`key`].
    chunk: u32,
    /// Number of the record.
    record: u32,
    /// First block of 4096 bytes, and bytes.
    block: u32,
    size: u32,
}

impl Place {
    /// The place of the `record`-th record, which is at byte `at`.
    fn of(chunk: &Chunk, record: u32, at: u64) -> Result<Self, FormatError> {
        let start = chunk.uncompressed_offset;
        let block = u32::try_from(start / BLOCK).ok().filter(|_| start.is_multiple_of(BLOCK));
        let block = block.ok_or(FormatError::Value {
            what: "uncompressed offset of a chunk record",
            at: at.saturating_add(56),
            found: start,
            expected: "a multiple of 4096 below 2^44",
        })?;
        Ok(Self { chunk: key(chunk.blob, chunk.index), record, block, size: chunk.uncompressed_size })
    }

    /// What [`ChunkIndex`] keeps.
    fn key(&self) -> u64 {
        u64::from(self.chunk) << 32 | u64::from(self.record)
    }
}

/// Block size of everything but a tarfs, in bytes.
const BLOCK: u64 = 4096;

/// Checks that no two records contradict each other. `places` are those of all records, sorted.
fn check_unique<B: AsRef<[u8]>>(bootstrap: &Bootstrap<B>, places: &[Place]) -> Result<(), FormatError> {
    let mut unordered = Vec::new();
    let mut last: Option<&Place> = None;
    for place in places {
        match last.filter(|last| last.chunk >> 24 == place.chunk >> 24) {
            Some(last) if last.chunk == place.chunk => {
                let record = |place: &Place| bootstrap.chunk_record(place.record.into());
                let at = bootstrap.chunk_record_offset(place.record.into());
                check_same(&record(last)?, &record(place)?, at)?;
            }
            _ if is_unordered(bootstrap, place) => unordered.push(*place),
            Some(last) => check_behind(bootstrap, last, place)?,
            None => {}
        }
        last = Some(place);
    }
    unordered.sort_unstable_by_key(|place| (place.chunk >> 24, place.block, place.record));
    unordered.windows(2).try_for_each(|pair| match pair {
        [last, place] if last.chunk >> 24 == place.chunk >> 24 => check_behind(bootstrap, last, place),
        _ => Ok(()),
    })
}

fn is_unordered<B: AsRef<[u8]>>(bootstrap: &Bootstrap<B>, place: &Place) -> bool {
    let blob = usize::try_from(place.chunk >> 24).ok().and_then(|blob| bootstrap.blobs().get(blob));
    blob.is_some_and(|blob| blob.features.intersects(UNORDERED))
}

/// Checks that two records of one chunk, `chunk` being that at byte `at`, say the same.
pub(crate) fn check_same(other: &Chunk, chunk: &Chunk, at: u64) -> Result<(), FormatError> {
    let expected = "what another record of the same chunk says";
    let [first, ..] = chunk.digest.0;
    require(chunk.digest == other.digest, "digest of a chunk record", at, first.into(), expected)?;
    let fields = [
        ("flags of a chunk record", 36, chunk.flags.bits().into(), other.flags.bits().into()),
        ("stored size of a chunk record", 40, chunk.compressed_size.into(), other.compressed_size.into()),
        (
            "uncompressed size of a chunk record",
            44,
            chunk.uncompressed_size.into(),
            other.uncompressed_size.into(),
        ),
        ("stored offset of a chunk record", 48, chunk.compressed_offset, other.compressed_offset),
        ("uncompressed offset of a chunk record", 56, chunk.uncompressed_offset, other.uncompressed_offset),
        ("checksum of a chunk record", 76, chunk.crc32.into(), other.crc32.into()),
    ];
    fields.into_iter().try_for_each(|(what, field, found, said)| {
        require(found == said, what, at.saturating_add(field), found, expected)
    })
}

/// Checks that a chunk starts where the one before it ends, or behind that.
fn check_behind<B: AsRef<[u8]>>(
    bootstrap: &Bootstrap<B>,
    last: &Place,
    place: &Place,
) -> Result<(), FormatError> {
    let at = bootstrap.chunk_record_offset(place.record.into()).saturating_add(56);
    let found = u64::from(place.block) * BLOCK;
    let end = last.block.checked_add(last.size.div_ceil(4096));
    let good = end.is_some_and(|end| end <= place.block);
    require(good, "uncompressed offset of a chunk record", at, found, "a place behind the chunk before")
}

/// Checks that the chunk of the record at byte `at` lies within its blob, stored and decompressed.
pub(crate) fn check_ranges(blobs: &[Blob], chunk: &Chunk, at: u64) -> Result<(), FormatError> {
    let blob = usize::try_from(chunk.blob).ok().and_then(|blob| blobs.get(blob));
    let Some(blob) = blob else {
        let ChunkRef { blob, chunk, block } = ChunkRef { blob: chunk.blob, chunk: chunk.index, block: 0 };
        return Err(FormatError::NoSuchChunk { blob, chunk, block });
    };
    let (size, index) = (chunk.uncompressed_size, chunk.index);
    let inside = index < blob.chunk_count;
    require(inside, "index of a chunk record", at.saturating_add(72), index.into(), "a chunk of its blob")?;
    let good = (1..=blob.chunk_size).contains(&size);
    require(
        good,
        "uncompressed size of a chunk record",
        at.saturating_add(44),
        size.into(),
        "1 to the chunk size",
    )?;
    within("uncompressed range of a chunk", chunk.uncompressed_offset, size, blob.uncompressed_size)?;
    within("stored range of a chunk", chunk.compressed_offset, chunk.compressed_size, blob.data_end())?;
    let others = BlobFeatures::BATCH | BlobFeatures::ZRAN | BlobFeatures::ENCRYPTED | BlobFeatures::SEPARATE;
    if blob.features.intersects(others) {
        return Ok(());
    }
    let stored = chunk.compressed_size;
    let raw = !chunk.flags.contains(ChunkFlags::COMPRESSED);
    require(stored > 0, "stored size of a chunk record", at.saturating_add(40), 0, "at least 1")?;
    require(
        !raw || stored == size,
        "stored size of a chunk record",
        at.saturating_add(40),
        stored.into(),
        "its size",
    )
}

fn within(what: &'static str, start: u64, size: u32, limit: u64) -> Result<(), FormatError> {
    let good = start.checked_add(size.into()).is_some_and(|end| end <= limit);
    if good { Ok(()) } else { Err(FormatError::OutOfBounds { what, start, size: size.into(), limit }) }
}
