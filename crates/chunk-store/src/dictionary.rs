//! Chunks of any number of images in one sorted table.
//!
//! A record has 60 bytes: all that a bootstrap says of a chunk but the file offset. Records are sorted by digest, and a second table says where
//! those begin whose digests start with the same bits, so that the few records of one start are all that a lookup looks at. Digests are evenly
//! spread, which makes this O(1); those of an image that is made for trouble are found by halving, in O(log n). A hash table over records would
//! need 5 to 11 bytes per chunk for itself, this takes at most one.
//!
//! Invariant: of chunks with one digest and size, the table holds the one that was added first.

use rafs_format::{
    Blob, BlobFeatures, BlobId, Bootstrap, Chunk, ChunkFlags, ChunkIndex, Digest, DigestAlgorithm,
    FormatError,
};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::ops::Range;

/// Why an image cannot be in a dictionary.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum DictionaryError {
    #[error("its chunks contradict themselves")]
    Format(#[from] FormatError),
    #[error("blob {id} is not the same as in an image before it")]
    Contradiction { id: BlobId },
    #[error("the dictionary has {found} {what}, at most {limit} are possible")]
    TooMany { what: &'static str, found: u64, limit: u64 },
    #[error("it has {found} names of blobs for {expected} blobs")]
    Names { found: usize, expected: usize },
}

/// Blobs in one dictionary: their numbers have 20 bits.
const MAX_BLOBS: u64 = 1 << 20;
/// Flags that a record keeps: those that this version knows.
const FLAGS: u32 = 0x1F;

/// What a bootstrap says of a chunk but its file offset, packed. 60 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    digest: [u8; 32],
    crc32: u32,
    compressed_size: u32,
    /// Uncompressed size (bits 0 to 24) and flags (25 to 29).
    size: u32,
    /// Stored offset (bits 0 to 39) and index (40 to 63), low half first.
    stored: [u32; 2],
    /// Uncompressed offset (bits 0 to 43) and blob (44 to 63), low half first.
    place: [u32; 2],
}

const _: () = assert!(size_of::<Record>() == 60);

/// A number in two halves, the low one first.
fn halves(number: u64) -> [u32; 2] {
    let low = u32::try_from(number & 0xFFFF_FFFF).unwrap_or(0);
    [low, u32::try_from(number >> 32).unwrap_or(0)]
}

/// The number that `bits` bits from bit `from` of two halves are.
fn bits([low, high]: [u32; 2], from: u32, bits: u32) -> u64 {
    let number = u64::from(high) << 32 | u64::from(low);
    number >> from & ((1 << bits) - 1)
}

impl Record {
    /// Packs a chunk of blob `blob` of the dictionary; `None` where a value has more bits than the format allows, or a flag means something
    /// that is not known.
    fn pack(chunk: &Chunk, blob: u32) -> Option<Self> {
        let flags = chunk.flags.bits();
        let fits = chunk.compressed_offset < 1 << 40
            && chunk.uncompressed_offset < 1 << 44
            && chunk.uncompressed_size < 1 << 25
            && chunk.index < 1 << 24
            && u64::from(blob) < MAX_BLOBS
            && flags & !FLAGS == 0;
        fits.then(|| Self {
            digest: chunk.digest.0,
            crc32: chunk.crc32,
            compressed_size: chunk.compressed_size,
            size: flags << 25 | chunk.uncompressed_size,
            stored: halves(u64::from(chunk.index) << 40 | chunk.compressed_offset),
            place: halves(u64::from(blob) << 44 | chunk.uncompressed_offset),
        })
    }

    fn size(&self) -> u32 {
        self.size & 0x1FF_FFFF
    }

    fn unpack(&self) -> Chunk {
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Chunk {
            digest: Digest(self.digest),
            blob: narrow(bits(self.place, 44, 20)),
            index: narrow(bits(self.stored, 40, 24)),
            flags: ChunkFlags::from_bits_retain(self.size >> 25),
            compressed_offset: bits(self.stored, 0, 40),
            compressed_size: self.compressed_size,
            uncompressed_offset: bits(self.place, 0, 44),
            uncompressed_size: self.size(),
            file_offset: 0,
            crc32: self.crc32,
        }
    }

    /// Order of the table: by digest and size, then by what was added first.
    fn order(&self, other: &Self) -> Ordering {
        let key = |r: &Self| (r.size(), bits(r.place, 44, 20), bits(r.stored, 40, 24));
        self.digest.cmp(&other.digest).then_with(|| key(self).cmp(&key(other)))
    }
}

/// Chunks that are stored already, and the blobs they are in. Never changes; see [`Builder`] for how it comes to be.
///
/// Memory: at most 61 bytes per chunk, and the descriptions of the blobs.
#[derive(Debug, Clone)]
pub struct Dictionary {
    blobs: Vec<Blob>,
    records: Vec<Record>,
    /// For each start of a digest, the first record whose digest starts so or with more; one more at the end.
    starts: Vec<u32>,
    /// Bits of a digest that make such a start.
    start_bits: u32,
}

impl Dictionary {
    /// Blobs, in the order in which they were added. [`Chunk::blob`] of what is found is a position here.
    pub fn blobs(&self) -> &[Blob] {
        &self.blobs
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Is there no chunk at all?
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Position of the chunk with this digest and size in bytes after decompression; 0, here or in the dictionary, stands for any size.
    pub fn position(&self, digest: &Digest, size: u32) -> Option<u32> {
        let range = self.with_digest(digest);
        let records = self.records.get(range.clone())?;
        let any = |record: &Record| size == 0 || record.size() == 0;
        // Sorted by size, so one without a size is the first.
        let found = match records.first() {
            Some(first) if any(first) => Some(0),
            _ => records.binary_search_by_key(&size, Record::size).ok(),
        };
        u32::try_from(range.start + found?).ok()
    }

    /// The chunk at a position.
    pub fn chunk(&self, position: u32) -> Option<Chunk> {
        self.records.get(position as usize).map(Record::unpack)
    }

    /// The chunk that [`Dictionary::position`] finds.
    pub fn lookup(&self, digest: &Digest, size: u32) -> Option<Chunk> {
        self.chunk(self.position(digest, size)?)
    }

    /// All chunks, by digest and size.
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = Chunk> + '_ {
        self.records.iter().map(Record::unpack)
    }

    /// Positions of the records with this digest.
    fn with_digest(&self, digest: &Digest) -> Range<usize> {
        let start = start_of(&digest.0, self.start_bits);
        let at = |n: usize| self.starts.get(n).map_or(0, |&at| at as usize);
        let bucket = at(start)..at(start + 1);
        let records = self.records.get(bucket.clone()).unwrap_or(&[]);
        let first = records.partition_point(|record| record.digest < digest.0);
        let count = records.get(first..).unwrap_or(&[]).partition_point(|record| record.digest == digest.0);
        bucket.start + first..bucket.start + first + count
    }
}

/// The first `bits` bits of a digest, at most 32, as a number.
fn start_of(digest: &[u8; 32], bits: u32) -> usize {
    let [a, b, c, d, ..] = *digest;
    let start = u64::from(u32::from_be_bytes([a, b, c, d]));
    usize::try_from(start << bits >> 32).unwrap_or(0)
}

/// A dictionary being put together.
#[derive(Debug)]
pub struct Builder {
    digester: DigestAlgorithm,
    blobs: Vec<Blob>,
    by_id: HashMap<BlobId, u32>,
    records: Vec<Record>,
    skipped: u64,
}

impl Builder {
    /// A dictionary for images whose chunks have digests by `digester`.
    pub fn new(digester: DigestAlgorithm) -> Self {
        Self { digester, blobs: Vec::new(), by_id: HashMap::new(), records: Vec::new(), skipped: 0 }
    }

    /// Adds all chunks of an image. `blobs` are its blobs as they are called: a bootstrap inside a blob does not know that. On an error,
    /// nothing was added.
    ///
    /// Left out and counted, see [`Builder::skipped`]: chunks with another digest, chunks of blobs that are elsewhere, and flags that are
    /// not known.
    /// Errors: chunks that contradict each other or leave their blob; a blob that is described otherwise by an image before; a tarfs.
    pub fn add<B: AsRef<[u8]>>(
        &mut self,
        bootstrap: &Bootstrap<B>,
        blobs: &[Blob],
    ) -> Result<(), DictionaryError> {
        let (known, added, skipped) = (self.blobs.len(), self.records.len(), self.skipped);
        let done = self.try_add(bootstrap, blobs);
        if done.is_err() {
            for blob in self.blobs.drain(known..) {
                self.by_id.remove(&blob.id);
            }
            self.records.truncate(added);
            self.skipped = skipped;
        }
        done
    }

    fn try_add<B: AsRef<[u8]>>(
        &mut self,
        bootstrap: &Bootstrap<B>,
        blobs: &[Blob],
    ) -> Result<(), DictionaryError> {
        let (found, expected) = (blobs.len(), bootstrap.blobs().len());
        if found != expected {
            return Err(DictionaryError::Names { found, expected });
        }
        // Also checks that a number stands for one chunk.
        drop(ChunkIndex::build(bootstrap)?);
        let numbers = blobs.iter().map(|blob| self.add_blob(blob)).collect::<Result<Vec<_>, _>>()?;
        // No more than there is room for in the bootstrap. Exactly as many: twice the room is never needed.
        let count = usize::try_from(bootstrap.superblock().chunk_table_records).unwrap_or(usize::MAX);
        self.records.reserve_exact(count.min(bootstrap.bytes().len() / 80));
        for place in bootstrap.chunk_places() {
            let chunk = bootstrap.checked_chunk_at(place?)?;
            let at = chunk.blob as usize;
            let usable = blobs.get(at).is_some_and(|blob| self.is_usable(blob));
            let record = numbers.get(at).filter(|_| usable).and_then(|&blob| Record::pack(&chunk, blob));
            match record {
                // A v5 image has a record for each use.
                Some(record) if self.records.last() == Some(&record) => {}
                Some(record) => self.records.push(record),
                None => self.skipped += 1,
            }
        }
        self.check_count()
    }

    /// Adds chunks that were checked before, by [`Store::add`](crate::Store::add) for example; [`Chunk::blob`] is a position in `blobs`. What is left out is
    /// what [`Builder::add`] leaves out. Errors: a blob that is described otherwise by an image before; the builder is of no use then.
    pub fn add_known(
        &mut self,
        blobs: &[Blob],
        chunks: impl IntoIterator<Item = Chunk>,
    ) -> Result<(), DictionaryError> {
        let numbers = blobs.iter().map(|blob| self.add_blob(blob)).collect::<Result<Vec<_>, _>>()?;
        for chunk in chunks {
            let at = chunk.blob as usize;
            let usable = blobs.get(at).is_some_and(|blob| self.is_usable(blob));
            match numbers.get(at).filter(|_| usable).and_then(|&blob| Record::pack(&chunk, blob)) {
                Some(record) => self.records.push(record),
                None => self.skipped += 1,
            }
        }
        self.check_count()
    }

    fn check_count(&self) -> Result<(), DictionaryError> {
        let (found, limit) = (self.records.len() as u64, u64::from(u32::MAX) - 1);
        if found > limit {
            return Err(DictionaryError::TooMany { what: "chunks", found, limit });
        }
        Ok(())
    }

    fn is_usable(&self, blob: &Blob) -> bool {
        blob.digester == self.digester && !blob.features.intersects(BlobFeatures::EXTERNAL)
    }

    /// The number of a blob, which is added if it is not there yet.
    fn add_blob(&mut self, blob: &Blob) -> Result<u32, DictionaryError> {
        let mut blob = blob.clone();
        // For whoever uses it its bootstrap is elsewhere, and its id is known.
        blob.features.remove(BlobFeatures::INLINED_FS_META);
        if let Some(&number) = self.by_id.get(&blob.id) {
            let same = self.blobs.get(number as usize).is_some_and(|known| is_same(known, &blob));
            return if same { Ok(number) } else { Err(DictionaryError::Contradiction { id: blob.id }) };
        }
        let found = self.blobs.len() as u64 + 1;
        let number = u32::try_from(self.blobs.len()).ok().filter(|_| found <= MAX_BLOBS);
        let number = number.ok_or(DictionaryError::TooMany { what: "blobs", found, limit: MAX_BLOBS })?;
        self.by_id.insert(blob.id.clone(), number);
        self.blobs.push(blob);
        Ok(number)
    }

    /// Chunks that were left out.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The dictionary of all that was added.
    pub fn finish(self) -> Dictionary {
        let Self { blobs, mut records, .. } = self;
        records.sort_unstable_by(Record::order);
        records.dedup_by(|later, first| (later.digest, later.size()) == (first.digest, first.size()));
        records.shrink_to_fit();
        // Four to eight records for each start: at most a byte for each record.
        let start_bits = (records.len() / 4).checked_ilog2().unwrap_or(0).min(24);
        let mut starts = Vec::with_capacity((1 << start_bits) + 1);
        let mut at = 0u32;
        for record in &records {
            let start = start_of(&record.digest, start_bits);
            starts.resize((start + 1).max(starts.len()), at);
            at += 1;
        }
        starts.resize((1 << start_bits) + 1, at);
        Dictionary { blobs, records, starts, start_bits }
    }
}

/// Do two descriptions stand for the same bytes? Sizes and digests of parts that not every image knows are not compared.
pub fn is_same(a: &Blob, b: &Blob) -> bool {
    let facts = |blob: &Blob| {
        let coding = (blob.compressor, blob.digester, blob.cipher, blob.cipher_iv);
        (coding, blob.chunk_size, blob.chunk_count, blob.uncompressed_size, blob.meta)
    };
    facts(a) == facts(b)
}
