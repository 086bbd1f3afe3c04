//! The end of the pipeline: units come in as they are done, the blob goes out in order.
//!
//! Decides which copy of a chunk is stored, and puts small files together into batches. Both depend on order alone, so the blob is the same whatever
//! the number of threads. Batches are compressed by the workers: what is to stand behind one waits for it here, within a bound, and the rest of
//! the pipeline goes on. Knows no files and no trees.

use super::CreateError;
use super::cache_files::CacheFiles;
use super::known::Borrowed;
use super::pipeline::{Coding, Job, Key, Packer, Part, Reply, Unit, give};
use rafs_format::{Chunk, ChunkFlags};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::Write;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};

/// Chunks in one blob: their numbers have 24 bits.
const MAX_CHUNKS: u32 = (1 << 24) - 1;
const MAX_COMPRESSED: u64 = 1 << 40;

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    /// Distinct chunks in blob order; behind them, once they are joined, those of other blobs.
    pub chunks: Vec<Chunk>,
    /// For each chunk given, in order, its position in `chunks`.
    pub positions: Vec<u32>,
    /// Chunks of the dictionary that are used.
    pub borrowed: Borrowed,
    /// Batches in blob order.
    pub batches: Vec<Batch>,
    /// For each of `chunks` where it is in a batch; empty where none are made.
    pub in_batches: Vec<Option<InBatch>>,
    /// Bytes of chunk data on the blob.
    pub compressed_size: u64,
    pub uncompressed_size: u64,
    /// Units in which decompressed chunks start, in bytes.
    pub alignment: u64,
    /// Files of a cache that are written on the way, if any.
    pub cache: Option<CacheFiles>,
    /// Hash of those bytes, to go on with.
    pub sha256: Sha256,
    /// Chunks that were there before, and their bytes.
    pub duplicates: u64,
    pub duplicate_bytes: u64,
}

/// Several chunks stored as one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch {
    pub compressed_offset: u64,
    pub compressed_size: u32,
    pub uncompressed_size: u32,
}

/// Where a chunk is in a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InBatch {
    /// Number of the batch.
    pub number: u32,
    /// First byte in its plain bytes.
    pub start: u32,
}

/// Appends units to the blob in order.
pub(super) struct Collector<'a, W> {
    coding: Coding<'a>,
    known: HashMap<Key, u32>,
    batch_size: usize,
    /// Are stored bytes encrypted?
    encrypts: bool,
    /// For chunks that turn out to be stored here when the threads are through with them.
    packer: Option<Packer<'a>>,
    /// Plain bytes of the batch that is being filled.
    filling: Vec<u8>,
    /// Batches that were full.
    filled: u32,
    sink: Sink<W>,
}

impl<'a, W: Write> Collector<'a, W> {
    pub fn new(
        blob: W,
        path: PathBuf,
        cache: Option<CacheFiles>,
        coding: Coding<'a>,
        work: Sender<Job>,
    ) -> Self {
        let room = 2 * coding.threads * (coding.batch_size.max(1 << 20) as usize);
        let stored = Stored { alignment: coding.alignment, cache, ..Stored::default() };
        let sink = Sink { blob, path, work, stored, waiting: VecDeque::new(), held: 0, room };
        let batch_size = coding.batch_size as usize;
        let encrypts = coding.key.is_some();
        let (known, filling) = (HashMap::new(), Vec::new());
        Self { coding, known, batch_size, encrypts, packer: None, filling, filled: 0, sink }
    }

    /// Takes units until there are no more, and gives them back through `free`. Errors: the first of a worker, or of writing.
    pub fn run(
        mut self,
        done: &Receiver<Result<Unit, CreateError>>,
        free: &SyncSender<Unit>,
    ) -> Result<(Stored, W), CreateError> {
        let mut early = BTreeMap::new();
        let mut next = 0;
        while let Ok(unit) = done.recv() {
            let unit = unit?;
            early.insert(unit.number, unit);
            while let Some(unit) = early.remove(&next) {
                self.append(&unit)?;
                next += 1;
                // The feeder may be done and gone.
                let _queued = free.send(unit).is_ok();
            }
        }
        self.flush()?;
        self.sink.settle(0)?;
        if early.is_empty() { Ok((self.sink.stored, self.sink.blob)) } else { Err(CreateError::Stopped) }
    }

    fn append(&mut self, unit: &Unit) -> Result<(), CreateError> {
        for part in &unit.parts {
            let plain = unit.plain.get(part.plain.clone()).unwrap_or(&[]);
            let size = u32::try_from(plain.len()).unwrap_or(u32::MAX);
            let stored = &mut self.sink.stored;
            let elsewhere = part.known.zip(self.coding.known);
            if let Some(number) = elsewhere.and_then(|(at, known)| stored.borrowed.number(at, known)) {
                stored.positions.push(number);
                stored.duplicates += 1;
                stored.duplicate_bytes += u64::from(size);
                continue;
            }
            stored.borrowed.own();
            let next = u32::try_from(stored.chunks.len()).unwrap_or(u32::MAX);
            let position = *self.known.entry((part.digest, size)).or_insert(next);
            stored.positions.push(position);
            if position != next {
                stored.duplicates += 1;
                stored.duplicate_bytes += u64::from(size);
                continue;
            }
            let encrypted = if self.encrypts { ChunkFlags::ENCRYPTED } else { ChunkFlags::empty() };
            stored.add(part, size, next, ChunkFlags::HAS_CRC | encrypted)?;
            if let Some(cache) = &mut stored.cache {
                cache.add(plain)?;
            }
            if part.is_small {
                self.put_in_batch(plain)?;
                continue;
            }
            self.flush()?;
            if self.batch_size > 0 {
                self.sink.stored.in_batches.push(None);
            }
            let packed = part.packed.clone().and_then(|range| unit.packed.get(range));
            // No thread packed what there was no need to store.
            let late = if part.known.is_some() { self.pack(plain)? } else { None };
            let is_compressed = late.as_ref().map_or(part.is_compressed, |(_, is_compressed)| *is_compressed);
            let packed = late.as_ref().map(|(bytes, _)| bytes.as_slice()).or(packed);
            if packed.is_none() && self.encrypts {
                // It cannot be: the first copy of a chunk is always packed. Plain bytes in an encrypted blob would be the worst of all errors.
                return Err(CreateError::Stopped);
            }
            self.sink.chunk(next, packed.unwrap_or(plain), is_compressed)?;
        }
        Ok(())
    }

    /// A chunk as it is stored, see [`Packer::chunk`].
    fn pack(&mut self, plain: &[u8]) -> Result<Option<(Vec<u8>, bool)>, CreateError> {
        let packer = match &mut self.packer {
            Some(packer) => packer,
            none => none.insert(Packer::new(&self.coding)?),
        };
        packer.chunk(plain)
    }

    /// Puts the chunk that was added last into the batch, which is stored before it becomes too long.
    fn put_in_batch(&mut self, plain: &[u8]) -> Result<(), CreateError> {
        if self.filling.len() + plain.len() >= self.batch_size {
            self.flush()?;
        }
        // Below the batch size, which has 32 bits.
        let start = u32::try_from(self.filling.len()).unwrap_or(u32::MAX);
        self.sink.stored.in_batches.push(Some(InBatch { number: self.filled, start }));
        self.filling.extend_from_slice(plain);
        Ok(())
    }

    /// Stores the batch that is being filled, if anything is in it.
    fn flush(&mut self) -> Result<(), CreateError> {
        if self.filling.is_empty() {
            return Ok(());
        }
        let room = Vec::with_capacity(self.batch_size);
        self.filled += 1;
        self.sink.batch(std::mem::replace(&mut self.filling, room))
    }
}

impl Stored {
    /// Adds a chunk, the `index`-th, whose stored range is not known yet. Errors: there are too many.
    fn add(&mut self, part: &Part, size: u32, index: u32, flags: ChunkFlags) -> Result<(), CreateError> {
        if index >= MAX_CHUNKS {
            return Err(CreateError::TooMany { what: "chunks in one blob", limit: MAX_CHUNKS.into() });
        }
        self.chunks.push(Chunk {
            digest: part.digest,
            blob: 0,
            index,
            flags,
            compressed_offset: 0,
            compressed_size: 0,
            uncompressed_offset: self.uncompressed_size,
            uncompressed_size: size,
            file_offset: 0,
            crc32: part.crc32,
        });
        self.uncompressed_size += u64::from(size).next_multiple_of(self.alignment.max(1));
        Ok(())
    }
}

/// What waits until all before it is on the blob.
enum Waiting {
    Chunk { index: u32, bytes: Vec<u8>, is_compressed: bool },
    Batch { plain_size: usize, packed: Receiver<Result<Vec<u8>, CreateError>> },
}

impl Waiting {
    /// Bytes it holds, or makes others hold.
    fn size(&self) -> usize {
        match self {
            Self::Chunk { bytes, .. } => bytes.len(),
            Self::Batch { plain_size, .. } => *plain_size,
        }
    }
}

/// The blob, and what is to go there.
struct Sink<W> {
    blob: W,
    path: PathBuf,
    work: Sender<Job>,
    stored: Stored,
    waiting: VecDeque<Waiting>,
    /// Bytes of all that waits, and how many may.
    held: usize,
    room: usize,
}

impl<W: Write> Sink<W> {
    /// Stores the bytes of the `index`-th chunk behind all else.
    fn chunk(&mut self, index: u32, bytes: &[u8], is_compressed: bool) -> Result<(), CreateError> {
        if self.waiting.is_empty() {
            return self.write_chunk(index, bytes, is_compressed);
        }
        self.wait(Waiting::Chunk { index, bytes: bytes.to_vec(), is_compressed })
    }

    /// Has a batch compressed, to be stored behind all else.
    fn batch(&mut self, plain: Vec<u8>) -> Result<(), CreateError> {
        let plain_size = plain.len();
        let (reply, packed) = channel();
        give(&self.work, Job::Batch(plain, Reply::new(&reply)));
        self.wait(Waiting::Batch { plain_size, packed })
    }

    fn wait(&mut self, item: Waiting) -> Result<(), CreateError> {
        self.held += item.size();
        self.waiting.push_back(item);
        self.settle(self.room)
    }

    /// Writes what need not wait any longer, and waits itself while more than `room` bytes are held.
    fn settle(&mut self, room: usize) -> Result<(), CreateError> {
        while let Some(first) = self.waiting.front() {
            let size = first.size();
            let packed = match first {
                Waiting::Chunk { .. } => None,
                Waiting::Batch { packed, .. } if self.held > room => Some(packed.recv().ok()),
                Waiting::Batch { packed, .. } => match packed.try_recv() {
                    Err(std::sync::mpsc::TryRecvError::Empty) => return Ok(()),
                    packed => Some(packed.ok()),
                },
            };
            // A worker always answers.
            let packed = packed.map(|packed| packed.unwrap_or(Err(CreateError::Stopped))).transpose()?;
            self.held -= size;
            match (self.waiting.pop_front(), packed) {
                (Some(Waiting::Chunk { index, bytes, is_compressed }), _) => {
                    self.write_chunk(index, &bytes, is_compressed)?;
                }
                (Some(Waiting::Batch { plain_size, .. }), Some(packed)) => {
                    self.write_batch(plain_size, &packed)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn write_chunk(&mut self, index: u32, bytes: &[u8], is_compressed: bool) -> Result<(), CreateError> {
        let at = self.stored.compressed_size;
        if let Some(chunk) = self.stored.chunks.get_mut(index as usize) {
            chunk.flags.set(ChunkFlags::COMPRESSED, is_compressed);
            chunk.compressed_offset = at;
            // No longer than the chunk, which has 32 bits.
            chunk.compressed_size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        }
        self.write(bytes)
    }

    fn write_batch(&mut self, plain_size: usize, bytes: &[u8]) -> Result<(), CreateError> {
        let size = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
        self.stored.batches.push(Batch {
            compressed_offset: self.stored.compressed_size,
            compressed_size: size(bytes.len()),
            uncompressed_size: size(plain_size),
        });
        self.write(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CreateError> {
        let stored = &mut self.stored;
        if stored.compressed_size >= MAX_COMPRESSED {
            return Err(CreateError::TooMany { what: "bytes in one blob", limit: MAX_COMPRESSED });
        }
        stored.compressed_size += bytes.len() as u64;
        stored.sha256.update(bytes);
        self.blob.write_all(bytes).map_err(|source| CreateError::Blob { path: self.path.clone(), source })
    }
}
