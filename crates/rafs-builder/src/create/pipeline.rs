//! Chunks on all cores: plain bytes go in, in order; stored chunks come out on the blob, in the same order.
//!
//! One thread fills [`Unit`]s, some hash and compress them, one appends them to the blob. Units are made once and go round, so
//! memory does not depend on the source. The blob is the same bytes whatever the number of threads: which copy of a chunk is stored is decided by order
//! alone, the threads only spare each other the work of compressing copies.

use super::CreateError;
use parking_lot::Mutex;
use rafs_codec::Encoder;
use rafs_format::{Chunk, ChunkFlags, Compressor, Digest, DigestAlgorithm};
use sha2::{Digest as _, Sha256};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

/// Bytes that a unit holds, unless one chunk is longer.
const UNIT: usize = 1 << 20;
/// Chunks in one blob: their numbers have 24 bits.
const MAX_CHUNKS: u32 = (1 << 24) - 1;
const MAX_COMPRESSED: u64 = 1 << 40;

/// How chunks are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Coding {
    pub chunk_size: u32,
    pub compressor: Compressor,
    pub level: i32,
    pub digester: DigestAlgorithm,
    pub threads: usize,
}

/// One chunk in a unit.
#[derive(Debug, Clone)]
struct Part {
    plain: Range<usize>,
    digest: Digest,
    crc32: u32,
    /// Where its compressed bytes are; `None` where they are not smaller or a chunk before it is the same.
    packed: Option<Range<usize>>,
}

/// Some chunks in a row. Buffers are filled from the front and keep their length from one use to the next: they are written once
/// with what they are for, not with zeros before it.
#[derive(Debug, Default)]
pub(super) struct Unit {
    number: u64,
    plain: Vec<u8>,
    /// Bytes of `plain` that are filled.
    filled: usize,
    packed: Vec<u8>,
    parts: Vec<Part>,
}

/// Digest and size of a chunk, which make two chunks the same.
pub(super) type Key = (Digest, u32);

/// The first place each chunk was seen: unit and position in it.
pub(super) type Claims = Mutex<HashMap<Key, (u64, u32)>>;

/// What came of it.
#[derive(Debug)]
pub(super) struct Stored {
    /// Distinct chunks in blob order.
    pub chunks: Vec<Chunk>,
    /// For each chunk given, in order, its position in `chunks`.
    pub positions: Vec<u32>,
    /// Bytes of chunk data on the blob.
    pub compressed_size: u64,
    pub uncompressed_size: u64,
    /// Hash of those bytes, to go on with.
    pub sha256: Sha256,
    /// Chunks that were there before, and their bytes.
    pub duplicates: u64,
    pub duplicate_bytes: u64,
}

/// The feeding end.
#[derive(Debug)]
pub(super) struct Feeder<'scope, W> {
    free: Receiver<Unit>,
    work: SyncSender<Unit>,
    current: Option<Unit>,
    next: u64,
    capacity: usize,
    chunk_size: usize,
    given: u64,
    collector: ScopedJoinHandle<'scope, Result<(Stored, W), CreateError>>,
}

/// The workers and the collector are gone; why, the collector says.
#[derive(Debug)]
pub(super) struct Stopped;

/// Starts the threads. `blob` is written from its current end, which must be byte 0.
pub(super) fn start<'scope, 'env, W: Write + Send + 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    claims: &'env Claims,
    queue: &'env Queue,
    coding: Coding,
    blob: W,
    path: PathBuf,
) -> Result<Feeder<'scope, W>, CreateError> {
    let units = 2 * coding.threads + 2;
    let (free_sender, free) = sync_channel(units);
    let (work, work_receiver) = sync_channel(units);
    let (done_sender, done) = channel();
    for _ in 0..units {
        // The channel holds all units.
        let _queued = free_sender.send(Unit::default()).is_ok();
    }
    *queue.lock() = Some(work_receiver);
    for _ in 0..coding.threads {
        let encoder =
            Encoder::new(coding.compressor, coding.level).map_err(|source| CreateError::Codec { source })?;
        let done = done_sender.clone();
        scope.spawn(move || work_loop(queue, claims, coding.digester, encoder, &done));
    }
    let collector = Collector::new(blob, path);
    let collector = scope.spawn(move || collector.run(&done, &free_sender));
    let chunk_size = coding.chunk_size as usize;
    let capacity = chunk_size.max(UNIT);
    Ok(Feeder { free, work, current: None, next: 0, capacity, chunk_size, given: 0, collector })
}

/// Where units wait for a worker.
pub(super) type Queue = Mutex<Option<Receiver<Unit>>>;

/// An empty table of claims.
pub(super) fn claims() -> Claims {
    Mutex::default()
}

/// An empty queue.
pub(super) fn queue() -> Queue {
    Mutex::default()
}

impl<W> Feeder<'_, W> {
    /// Chunks given so far.
    pub fn given(&self) -> u64 {
        self.given
    }

    /// Adds a file of `size` bytes, cut into chunks. `fill` fills the buffer it gets, or fails.
    pub fn file(
        &mut self,
        mut size: u64,
        fill: &mut dyn FnMut(&mut [u8]) -> Result<(), CreateError>,
    ) -> Result<Result<(), Stopped>, CreateError> {
        while size > 0 {
            let count = usize::try_from(size).unwrap_or(usize::MAX).min(self.chunk_size);
            let Ok(unit) = self.unit_with(count) else { return Ok(Err(Stopped)) };
            let range = unit.filled..unit.filled + count;
            fill(unit.plain.get_mut(range.clone()).unwrap_or(&mut []))?;
            unit.filled = range.end;
            unit.parts.push(Part { plain: range, digest: Digest([0; 32]), crc32: 0, packed: None });
            size -= count as u64;
            self.given += 1;
        }
        Ok(Ok(()))
    }

    /// The unit being filled, with room for `count` bytes.
    fn unit_with(&mut self, count: usize) -> Result<&mut Unit, Stopped> {
        if self.current.as_ref().is_some_and(|unit| unit.filled + count > self.capacity) {
            self.send()?;
        }
        let unit = match self.current.take() {
            Some(unit) => unit,
            None => {
                let mut unit = self.free.recv().map_err(|_closed| Stopped)?;
                if unit.plain.is_empty() {
                    // Fresh pages of zeros cost nothing until they are written.
                    unit.plain = vec![0; self.capacity];
                }
                unit.filled = 0;
                unit.parts.clear();
                unit.number = self.next;
                self.next += 1;
                unit
            }
        };
        Ok(self.current.insert(unit))
    }

    /// Hands the current unit to the workers.
    fn send(&mut self) -> Result<(), Stopped> {
        match self.current.take() {
            Some(unit) => self.work.send(unit).map_err(|_closed| Stopped),
            None => Ok(()),
        }
    }

    /// Waits for everything given. Errors: what stopped the collector.
    pub fn finish(mut self) -> Result<(Stored, W), CreateError> {
        let sent = self.send();
        drop((self.work, self.free));
        let result = self.collector.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (result, sent) {
            (Ok(stored), Ok(())) => Ok(stored),
            (Ok(_), Err(Stopped)) => Err(CreateError::Stopped),
            (Err(error), _) => Err(error),
        }
    }
}

/// Hashes and compresses units until there are no more.
fn work_loop(
    queue: &Queue,
    claims: &Claims,
    digester: DigestAlgorithm,
    mut encoder: Encoder,
    done: &Sender<Result<Unit, CreateError>>,
) {
    loop {
        // Waiting happens under the lock: who holds it gets the next unit, the others wait for the lock.
        let next = queue.lock().as_ref().and_then(|queue| queue.recv().ok());
        let Some(mut unit) = next else { return };
        let worked = pack(&mut unit, claims, digester, &mut encoder).map(|()| unit);
        if done.send(worked).is_err() {
            return;
        }
    }
}

fn pack(
    unit: &mut Unit,
    claims: &Claims,
    digester: DigestAlgorithm,
    encoder: &mut Encoder,
) -> Result<(), CreateError> {
    // What is kept is shorter than its chunk, so there is room for the longest chunk behind all others.
    let room = encoder.bound(unit.plain.len());
    if unit.packed.len() < room {
        unit.packed = vec![0; room];
    }
    let mut end = 0;
    for (n, part) in (0u32..).zip(&mut unit.parts) {
        let plain = unit.plain.get(part.plain.clone()).unwrap_or(&[]);
        part.digest = rafs_merkle::digest(digester, plain);
        part.crc32 = rafs_merkle::crc32c(plain);
        let here = (unit.number, n);
        let first = match claims.lock().entry((part.digest, u32::try_from(plain.len()).unwrap_or(u32::MAX))) {
            Entry::Occupied(mut claim) => {
                let first = here < *claim.get();
                if first {
                    claim.insert(here);
                }
                first
            }
            Entry::Vacant(claim) => {
                claim.insert(here);
                true
            }
        };
        if !first {
            continue;
        }
        let room = unit.packed.get_mut(end..).unwrap_or(&mut []);
        let size = encoder.encode_into(plain, room).map_err(|source| CreateError::Codec { source })?;
        part.packed = size.map(|size| end..end + size);
        end += size.unwrap_or(0);
    }
    Ok(())
}

/// Appends units to the blob in order.
struct Collector<W> {
    blob: W,
    path: PathBuf,
    known: HashMap<Key, u32>,
    stored: Stored,
}

impl<W: Write> Collector<W> {
    fn new(blob: W, path: PathBuf) -> Self {
        let stored = Stored {
            chunks: Vec::new(),
            positions: Vec::new(),
            compressed_size: 0,
            uncompressed_size: 0,
            sha256: Sha256::new(),
            duplicates: 0,
            duplicate_bytes: 0,
        };
        Self { blob, path, known: HashMap::new(), stored }
    }

    fn run(
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
        if early.is_empty() { Ok((self.stored, self.blob)) } else { Err(CreateError::Stopped) }
    }

    fn append(&mut self, unit: &Unit) -> Result<(), CreateError> {
        for part in &unit.parts {
            let plain = unit.plain.get(part.plain.clone()).unwrap_or(&[]);
            let size = u32::try_from(plain.len()).unwrap_or(u32::MAX);
            let next = u32::try_from(self.stored.chunks.len()).unwrap_or(u32::MAX);
            let position = *self.known.entry((part.digest, size)).or_insert(next);
            self.stored.positions.push(position);
            if position != next {
                self.stored.duplicates += 1;
                self.stored.duplicate_bytes += u64::from(size);
                continue;
            }
            let packed = part.packed.clone().and_then(|range| unit.packed.get(range));
            self.store(part, packed.unwrap_or(plain), size, packed.is_some(), next)?;
        }
        Ok(())
    }

    /// Writes one chunk and its record.
    fn store(
        &mut self,
        part: &Part,
        bytes: &[u8],
        size: u32,
        packed: bool,
        index: u32,
    ) -> Result<(), CreateError> {
        if index >= MAX_CHUNKS {
            return Err(CreateError::TooMany { what: "chunks in one blob", limit: MAX_CHUNKS.into() });
        }
        let stored = &mut self.stored;
        if stored.compressed_size >= MAX_COMPRESSED {
            return Err(CreateError::TooMany { what: "bytes in one blob", limit: MAX_COMPRESSED });
        }
        let flags = if packed { ChunkFlags::COMPRESSED | ChunkFlags::HAS_CRC } else { ChunkFlags::HAS_CRC };
        stored.chunks.push(Chunk {
            digest: part.digest,
            blob: 0,
            index,
            flags,
            compressed_offset: stored.compressed_size,
            // No longer than the chunk, which has 32 bits.
            compressed_size: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            uncompressed_offset: stored.uncompressed_size,
            uncompressed_size: size,
            file_offset: 0,
            crc32: part.crc32,
        });
        stored.compressed_size += bytes.len() as u64;
        stored.uncompressed_size += u64::from(size).next_multiple_of(4096);
        stored.sha256.update(bytes);
        self.blob.write_all(bytes).map_err(|source| CreateError::Blob { path: self.path.clone(), source })
    }
}
