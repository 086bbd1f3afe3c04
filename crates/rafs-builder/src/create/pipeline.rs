//! Chunks on all cores: plain bytes go in, in order; stored chunks come out on the blob, in the same order.
//!
//! One thread fills [`Unit`]s, some hash and compress them, one appends them to the blob ([`super::collect`]). Units are made once and go round, so
//! memory does not depend on the source. The blob is the same bytes whatever the number of threads: which copy of a chunk is stored is decided by order
//! alone, the threads only spare each other the work of compressing copies. Batches, which are known only when copies are, go back to the threads.
//! Invariant: every [`Job`] is answered, also when a thread dies with it, so that nobody waits for ever.

use super::CreateError;
use super::cache_files::CacheFiles;
use super::collect::{Collector, Stored};
use super::known::Known;
use parking_lot::Mutex;
use rafs_codec::{CodecError, Encoder, Key as CipherKey};
use rafs_format::{Compressor, Digest, DigestAlgorithm};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

/// Bytes that a unit holds, unless one chunk is longer.
const UNIT: usize = 1 << 20;

/// How chunks are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Coding<'a> {
    pub chunk_size: u32,
    /// Size of batches; 0 for none.
    pub batch_size: u32,
    /// Units in which decompressed chunks start, in bytes.
    pub alignment: u64,
    pub compressor: Compressor,
    pub level: i32,
    pub digester: DigestAlgorithm,
    /// Encrypts what is stored; `None` for plain blobs.
    pub key: Option<&'a CipherKey>,
    pub threads: usize,
    /// Chunks that are stored already, elsewhere.
    pub known: Option<&'a Known>,
}

/// One chunk in a unit.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub plain: Range<usize>,
    pub digest: Digest,
    pub crc32: u32,
    /// Its position in the dictionary.
    pub known: Option<u32>,
    /// Where its bytes are as they are stored; `None` where that is as it is, the same chunk is stored already, or it goes into a batch.
    pub packed: Option<Range<usize>>,
    /// Are those compressed?
    pub is_compressed: bool,
    /// It is a whole file, so short that it goes into a batch.
    pub is_small: bool,
}

/// Some chunks in a row. Buffers are filled from the front and keep their length from one use to the next: they are written once
/// with what they are for, not with zeros before it.
#[derive(Debug, Default)]
pub(super) struct Unit {
    pub number: u64,
    pub plain: Vec<u8>,
    /// Bytes of `plain` that are filled.
    filled: usize,
    pub packed: Vec<u8>,
    pub parts: Vec<Part>,
}

/// Work for a thread, with where its result goes.
pub(super) enum Job {
    /// Hash and compress chunks.
    Unit(Unit, Reply<Unit>),
    /// Compress a batch; its bytes come back as they are stored.
    Batch(Vec<u8>, Reply<Vec<u8>>),
}

/// Where the result of a job goes. Dropped without one it says [`CreateError::Stopped`].
pub(super) struct Reply<T>(Option<Sender<Result<T, CreateError>>>);

impl<T> Reply<T> {
    pub fn new(to: &Sender<Result<T, CreateError>>) -> Self {
        Self(Some(to.clone()))
    }

    fn send(mut self, result: Result<T, CreateError>) {
        if let Some(to) = self.0.take() {
            // Nobody wants it any more where something failed elsewhere.
            let _wanted = to.send(result).is_ok();
        }
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        if let Some(to) = self.0.take() {
            let _wanted = to.send(Err(CreateError::Stopped)).is_ok();
        }
    }
}

/// Queues a job. Where no thread is left it is dropped, and so answered.
pub(super) fn give(work: &Sender<Job>, job: Job) {
    let _queued = work.send(job).is_ok();
}

/// Digest and size of a chunk, which make two chunks the same.
pub(super) type Key = (Digest, u32);

/// The first place each chunk was seen: unit and position in it.
pub(super) type Claims = Mutex<HashMap<Key, (u64, u32)>>;

/// The feeding end.
#[derive(Debug)]
pub(super) struct Feeder<'scope, W> {
    free: Receiver<Unit>,
    work: Sender<Job>,
    done: Sender<Result<Unit, CreateError>>,
    current: Option<Unit>,
    next: u64,
    capacity: usize,
    chunk_size: usize,
    /// Files below so many bytes go into batches; 0 for none.
    small: u64,
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
    coding: Coding<'env>,
    blob: W,
    path: PathBuf,
    cache: Option<CacheFiles>,
) -> Result<Feeder<'scope, W>, CreateError> {
    let units = 2 * coding.threads + 2;
    let (free_sender, free) = sync_channel(units);
    // Never long: units are few, and the collector waits for batches when it has given out some.
    let (work, work_receiver) = channel();
    let (done_sender, done) = channel();
    for _ in 0..units {
        // The channel holds all units.
        let _queued = free_sender.send(Unit::default()).is_ok();
    }
    *queue.lock() = Some(work_receiver);
    for _ in 0..coding.threads {
        let packer = Packer::new(&coding)?;
        scope.spawn(move || work_loop(queue, claims, coding, packer));
    }
    let collector = Collector::new(blob, path, cache, coding, work.clone());
    let collector = scope.spawn(move || collector.run(&done, &free_sender));
    let chunk_size = coding.chunk_size as usize;
    let capacity = chunk_size.max(UNIT);
    let small = u64::from(coding.batch_size / 2);
    let done = done_sender;
    Ok(Feeder { free, work, done, current: None, next: 0, capacity, chunk_size, small, given: 0, collector })
}

/// Where jobs wait for a worker.
pub(super) type Queue = Mutex<Option<Receiver<Job>>>;

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
        let is_small = size < self.small && size <= self.chunk_size as u64;
        while size > 0 {
            let count = usize::try_from(size).unwrap_or(usize::MAX).min(self.chunk_size);
            let Ok(unit) = self.unit_with(count) else { return Ok(Err(Stopped)) };
            let range = unit.filled..unit.filled + count;
            fill(unit.plain.get_mut(range.clone()).unwrap_or(&mut []))?;
            unit.filled = range.end;
            let digest = Digest([0; 32]);
            let (known, packed, is_compressed) = (None, None, false);
            unit.parts.push(Part { plain: range, digest, crc32: 0, known, packed, is_compressed, is_small });
            size -= count as u64;
            self.given += 1;
        }
        Ok(Ok(()))
    }

    /// The unit being filled, with room for `count` bytes.
    fn unit_with(&mut self, count: usize) -> Result<&mut Unit, Stopped> {
        if self.current.as_ref().is_some_and(|unit| unit.filled + count > self.capacity) {
            self.send();
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
    fn send(&mut self) {
        if let Some(unit) = self.current.take() {
            give(&self.work, Job::Unit(unit, Reply::new(&self.done)));
        }
    }

    /// Waits for everything given. Errors: what stopped the collector.
    pub fn finish(mut self) -> Result<(Stored, W), CreateError> {
        self.send();
        drop((self.work, self.done, self.free));
        self.collector.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Closes the queue when its thread dies, so that what waits there is answered.
struct CloseOnPanic<'a>(&'a Queue);

impl Drop for CloseOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            *self.0.lock() = None;
        }
    }
}

/// Does jobs until nobody can give any more.
fn work_loop(queue: &Queue, claims: &Claims, coding: Coding<'_>, mut packer: Packer<'_>) {
    let _close = CloseOnPanic(queue);
    loop {
        // Waiting happens under the lock: who holds it gets the next job, the others wait for the lock.
        let next = queue.lock().as_ref().and_then(|queue| queue.recv().ok());
        match next {
            Some(Job::Unit(mut unit, reply)) => {
                let packed = pack(&mut unit, claims, coding, &mut packer);
                reply.send(packed.map(|()| unit));
            }
            Some(Job::Batch(plain, reply)) => reply.send(packer.batch(plain)),
            None => return,
        }
    }
}

/// Compresses and encrypts.
pub(super) struct Packer<'a> {
    encoder: Encoder,
    key: Option<&'a CipherKey>,
}

impl<'a> Packer<'a> {
    pub fn new(coding: &Coding<'a>) -> Result<Self, CreateError> {
        let encoder =
            Encoder::new(coding.compressor, coding.level).map_err(|source| CreateError::Codec { source })?;
        Ok(Self { encoder, key: coding.key })
    }

    /// A chunk as it is stored, and whether it is compressed; `None`: it is stored as it is.
    pub fn chunk(&mut self, plain: &[u8]) -> Result<Option<(Vec<u8>, bool)>, CreateError> {
        let mut room = vec![0; self.room(plain.len(), 1)];
        let stored = self.put(plain, &mut room).map_err(|source| CreateError::Codec { source })?;
        Ok(stored.map(|(size, is_compressed)| {
            room.truncate(size);
            (room, is_compressed)
        }))
    }

    /// Room that [`Packer::put`] needs for chunks of `plain` bytes together, one behind the other: what is stored is no longer than its
    /// chunk, but for short encrypted ones, and the longest has room behind all others.
    fn room(&self, plain: usize, chunks: usize) -> usize {
        let bound = self.encoder.bound(plain);
        match self.key {
            Some(_) => bound.saturating_add(plain).saturating_add(chunks.saturating_mul(CipherKey::room(0))),
            None => bound,
        }
    }

    /// Puts `plain` as it is stored into the front of `room`. Returns its length, and whether it is compressed; `None`: it is stored as it is.
    fn put(&mut self, plain: &[u8], room: &mut [u8]) -> Result<Option<(usize, bool)>, CodecError> {
        let size = self.encoder.encode_into(plain, room)?;
        let Some(key) = self.key else { return Ok(size.map(|size| (size, true))) };
        if size.is_none() {
            let too_short = || CodecError::Encrypted { stored: plain.len() };
            room.get_mut(..plain.len()).ok_or_else(too_short)?.copy_from_slice(plain);
        }
        let stored = key.encrypt(room, size.unwrap_or(plain.len()));
        let stored = stored.ok_or(CodecError::Encrypted { stored: plain.len() })?;
        Ok(Some((stored, size.is_some())))
    }

    /// A batch as it is stored.
    fn batch(&mut self, plain: Vec<u8>) -> Result<Vec<u8>, CreateError> {
        let mut room = vec![0; self.room(plain.len(), 1)];
        let stored = self.put(&plain, &mut room).map_err(|source| CreateError::Codec { source })?;
        Ok(match stored {
            Some((size, _)) => {
                room.truncate(size);
                room
            }
            None => plain,
        })
    }
}

fn pack(
    unit: &mut Unit,
    claims: &Claims,
    coding: Coding<'_>,
    packer: &mut Packer<'_>,
) -> Result<(), CreateError> {
    let room = packer.room(unit.plain.len(), unit.parts.len());
    if unit.packed.len() < room {
        unit.packed = vec![0; room];
    }
    let mut end = 0;
    for (n, part) in (0u32..).zip(&mut unit.parts) {
        let plain = unit.plain.get(part.plain.clone()).unwrap_or(&[]);
        part.digest = rafs_merkle::digest(coding.digester, plain);
        part.crc32 = rafs_merkle::crc32c(plain);
        let size = u32::try_from(plain.len()).unwrap_or(u32::MAX);
        part.known = coding.known.and_then(|known| known.position(&part.digest, size));
        if part.is_small || part.known.is_some() {
            continue;
        }
        let here = (unit.number, n);
        let first = match claims.lock().entry((part.digest, size)) {
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
        let stored = packer.put(plain, room).map_err(|source| CreateError::Codec { source })?;
        if let Some((size, is_compressed)) = stored {
            part.packed = Some(end..end + size);
            part.is_compressed = is_compressed;
            end += size;
        }
    }
    Ok(())
}
