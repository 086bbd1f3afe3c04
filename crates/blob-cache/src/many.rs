//! Many chunks at once: neighbours in one request, each unit decoded and verified by a task of its own, each chunk in its own flight.
//!
//! For chunks that nobody waits for yet: each request first waits for room, then takes what is still missing, so that a reader finds no chunk
//! taken by somebody who has not begun with it. Whoever comes later joins the flights. What a merged answer has wrong is asked for once more by
//! itself, so that another route may have it right; the others are not affected.

use crate::cache::{BUDGET, BUDGET_UNIT};
use crate::flight::{Departure, Landing};
use crate::merge::{Piece, Stored, into_requests, range_of};
use crate::{BlobCache, CacheError};
use blob_storage::Priority;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use rafs_format::Chunk;
use rafs_merkle::VerifiedChunk;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::SemaphorePermit;
use tokio::task::JoinSet;

/// Chunks found on disk that are hashed at the same time.
const HASHED_AT_ONCE: usize = 4;
/// Who starts flights that nobody waits for: a reader who joins one and sees it fail tries for itself.
const NOBODY: usize = 0;

/// How many chunks are fetched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Haul {
    pub(crate) priority: Priority,
    /// Longest request, in bytes, unless one unit is longer.
    pub(crate) most: u64,
    /// Requests at the same time.
    pub(crate) at_once: usize,
}

impl Haul {
    /// As readers want it.
    pub(crate) const fn on_demand() -> Self {
        Self { priority: Priority::OnDemand, most: 1 << 20, at_once: 4 }
    }
}

/// A piece, and the duty to end the flight of its chunk.
pub(crate) struct Flying {
    piece: Piece,
    landing: Landing,
}

impl Stored for Flying {
    fn piece(&self) -> &Piece {
        &self.piece
    }
}

/// Room in the budget, given back when dropped.
type Taken<'a> = (Option<SemaphorePermit<'a>>, Option<SemaphorePermit<'a>>);
/// The first error of several chunks.
type First = Option<Arc<CacheError>>;

impl BlobCache {
    /// Makes `chunks` ready: those found on disk are hashed, the others fetched, neighbours by one request of 1 MiB at most, several of them at once. Ends when
    /// all are done with, with the first error. Does nothing where there is no disk to keep them. Must run inside a tokio runtime.
    pub async fn fetch_all(
        self: &Arc<Self>,
        chunks: &[Chunk],
        priority: Priority,
    ) -> Result<(), Arc<CacheError>> {
        self.fetch_merged(chunks, Haul { priority, ..Haul::on_demand() }).await
    }

    /// [`BlobCache::fetch_all`] with requests as `haul` says.
    pub(crate) async fn fetch_merged(
        self: &Arc<Self>,
        chunks: &[Chunk],
        haul: Haul,
    ) -> Result<(), Arc<CacheError>> {
        let share = self.share();
        if share.store.disk.is_none() {
            return Ok(());
        }
        let chunks = self.as_kept(chunks).await?;
        let missing = chunks.into_iter().filter(|chunk| !share.is_ready(&self.blob, chunk));
        let (hinted, missing): (Vec<_>, Vec<_>) =
            missing.partition(|chunk| share.store.ready.is_hinted(chunk.index));
        let hash = |chunk: Chunk| async move { self.fetch_unit_once(&chunk).await.err() };
        let hashed: Vec<First> =
            stream::iter(hinted).map(hash).buffer_unordered(HASHED_AT_ONCE).collect().await;
        let (pieces, failed) = self.pieces(missing, haul.priority).await;
        let carry = |request| async move {
            let task = tokio::spawn(Arc::clone(self).carry(request, haul));
            task.await.unwrap_or_else(|_ended| Some(Arc::new(self.abandoned(0))))
        };
        let requests = stream::iter(into_requests(pieces, haul.most));
        let carried: Vec<First> = requests.map(carry).buffer_unordered(haul.at_once).collect().await;
        let first = hashed.into_iter().chain([failed]).chain(carried).flatten().next();
        first.map_or(Ok(()), Err)
    }

    /// Joins or starts the flight of `chunk`, unless it is ready.
    fn depart(&self, chunk: &Chunk) -> Departure {
        let share = self.share();
        let wanted = (chunk.index, share.tag(&self.blob, chunk));
        share.store.flights.depart(wanted, NOBODY, || share.is_ready(&self.blob, chunk))
    }

    /// Waits for room, then takes what is still missing of `request` and makes it ready. Then waits for what others had taken.
    async fn carry(self: Arc<Self>, request: Vec<Piece>, haul: Haul) -> First {
        let room = self.room_for(&request, haul.priority).await;
        let (mut seats, mut mine) = (Vec::new(), Vec::new());
        for piece in request {
            match self.depart(&piece.chunk) {
                Departure::Ready => {}
                Departure::Theirs(seat) => seats.push((piece.chunk.index, seat)),
                Departure::Mine(landing) => mine.push(Flying { piece, landing }),
            }
        }
        let mut first = None;
        let mut room = Some(room);
        for request in into_requests(mine, haul.most) {
            let room = match room.take() {
                Some(room) => room,
                None => self.room_for(&request, haul.priority).await,
            };
            let failed = self.fly(request, haul.priority, room).await;
            first = first.or(failed);
        }
        drop(room);
        for (index, seat) in seats {
            let landed = seat.await.unwrap_or_else(|_closed| Err(Arc::new(self.abandoned(index))));
            first = first.or(landed.err());
        }
        first
    }

    /// Ends the flights of one request: reads it, has each unit decoded and verified, and what is wrong or was not read fetched by itself.
    async fn fly(self: &Arc<Self>, request: Vec<Flying>, priority: Priority, room: Taken<'_>) -> First {
        let units: Vec<Vec<Flying>> = by_unit(request);
        let (merged, mut alone) =
            if units.len() > 1 { self.fly_merged(units, priority).await } else { (None, units) };
        drop(room);
        let mut first = merged;
        for Flying { piece, landing } in alone.drain(..).flatten() {
            let made = self.fetch_one(&piece.chunk, priority).await.map_err(Arc::new);
            first = first.or_else(|| made.as_ref().err().cloned());
            landing.land(made);
        }
        first
    }

    /// Reads all of `units` by one request. What is not right, or is being fetched by somebody else, is returned.
    async fn fly_merged(
        self: &Arc<Self>,
        units: Vec<Vec<Flying>>,
        priority: Priority,
    ) -> (First, Vec<Vec<Flying>>) {
        let has_table = self.has_table();
        let turn = |unit: &Vec<Flying>| unit.first().and_then(|one| self.units.try_turn(&one.piece.unit));
        let turns: Vec<_> = units.iter().map(|unit| if has_table { turn(unit) } else { None }).collect();
        let (mut flown, mut alone) = (Vec::new(), Vec::new());
        for (unit, turn) in units.into_iter().zip(&turns) {
            let kept = unit.first().is_some_and(|one| has_table && self.units.get(&one.piece.unit).is_some());
            if (has_table && turn.is_none()) || kept { alone.push(unit) } else { flown.push(unit) }
        }
        let range =
            flown.iter().map(|unit| range_of(unit)).reduce(|a, b| a.start.min(b.start)..a.end.max(b.end));
        let Some(range) = range else { return (None, alone) };
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        let stored = match self.reader.read(range.clone(), priority).await {
            Ok(stored) => stored,
            Err(source) => return (self.all_fail(flown, source), alone),
        };
        self.counters.fetched_bytes.fetch_add(stored.len() as u64, Ordering::Relaxed);
        let mut tasks = JoinSet::new();
        for unit in flown {
            let (cache, part) = (Arc::clone(self), slice(&stored, range.start, &unit));
            tasks.spawn(async move { cache.make(unit, part) });
        }
        // A task that panicked has abandoned its flights.
        alone.extend(tasks.join_all().await);
        (None, alone)
    }

    /// Lands all that can be made of the stored bytes of a unit. The others are returned.
    fn make(&self, unit: Vec<Flying>, stored: Option<Bytes>) -> Vec<Flying> {
        let plain = unit.first().zip(stored).and_then(|(one, stored)| {
            let plain = self.decode(&one.piece.chunk, &one.piece.unit, stored).ok()?;
            if self.has_table() {
                self.units.keep(&one.piece.unit, plain.clone());
            }
            Some(plain)
        });
        let Some(plain) = plain else { return unit };
        let mut wrong = Vec::new();
        for flying in unit {
            let Piece { chunk, unit } = &flying.piece;
            match self.verify_in(chunk, unit, plain.clone()) {
                Ok(verified) => self.settle(flying, verified),
                Err(_) => wrong.push(flying),
            }
        }
        wrong
    }

    fn settle(&self, flying: Flying, verified: VerifiedChunk) {
        self.counters.fetches.fetch_add(1, Ordering::Relaxed);
        self.keep(&flying.piece.chunk, &verified);
        flying.landing.land(Ok(verified));
    }

    /// Tells all who wait that the backend failed.
    fn all_fail(&self, units: Vec<Vec<Flying>>, source: blob_storage::BackendError) -> First {
        let source = Arc::new(source);
        let mut first = None;
        for Flying { piece, landing } in units.into_iter().flatten() {
            let error = Arc::new(self.unreachable(&piece.chunk, Arc::clone(&source)));
            first.get_or_insert_with(|| Arc::clone(&error));
            landing.land(Err(error));
        }
        first
    }

    /// The pieces of `chunks`, but for those that have no place in the blob, of which the first is the error.
    async fn pieces(&self, chunks: Vec<Chunk>, priority: Priority) -> (Vec<Piece>, First) {
        let (mut pieces, mut failed) = (Vec::with_capacity(chunks.len()), None);
        for chunk in chunks {
            match self.piece(&chunk, priority).await {
                Ok(piece) => pieces.push(piece),
                Err(error) => failed = failed.or_else(|| Some(Arc::new(error))),
            }
        }
        (pieces, failed)
    }

    async fn piece(&self, chunk: &Chunk, priority: Priority) -> Result<Piece, CacheError> {
        let table = self.table(chunk, None, priority).await?;
        let unit = self.codec.unit(&self.blob, chunk, table.as_deref());
        let mut unit = unit.map_err(|source| self.wrong_place(chunk, source))?;
        unit.compressed = self.stored_range(chunk, &unit).await?;
        Ok(Piece { chunk: *chunk, unit })
    }

    /// Room for the bytes of `request`, stored and plain. Prefetch gets half of it at most, so that readers find some.
    async fn room_for<P: Stored>(&self, request: &[P], priority: Priority) -> Taken<'_> {
        let range = range_of(request);
        let units = request.chunk_by(|a, b| a.piece().is_beside(b.piece())).filter_map(|same| same.first());
        let plain: u64 = units.map(|one| u64::from(one.piece().unit.uncompressed_size)).sum();
        self.room((range.end - range.start).saturating_add(plain), priority).await
    }

    /// Room for `bytes`.
    pub(crate) async fn room(&self, bytes: u64, priority: Priority) -> Taken<'_> {
        let units = |most: u64| u32::try_from(bytes.min(most).div_ceil(BUDGET_UNIT)).unwrap_or(u32::MAX);
        // Neither is ever closed.
        if priority == Priority::OnDemand {
            return (None, self.budget.acquire_many(units(BUDGET)).await.ok());
        }
        let half = units(BUDGET / 2);
        (self.budget_later.acquire_many(half).await.ok(), self.budget.acquire_many(half).await.ok())
    }
}

/// Flights in the order of the blob, those of one unit together.
fn by_unit(request: Vec<Flying>) -> Vec<Vec<Flying>> {
    let mut units: Vec<Vec<Flying>> = Vec::new();
    for flying in request {
        match units.last_mut() {
            Some(unit) if unit.first().is_some_and(|one| one.piece.is_beside(&flying.piece)) => {
                unit.push(flying)
            }
            _ => units.push(vec![flying]),
        }
    }
    units
}

/// The stored bytes of `unit` in an answer that starts at byte `start` of the blob.
fn slice(stored: &Bytes, start: u64, unit: &[Flying]) -> Option<Bytes> {
    let range = &unit.first()?.piece.unit.compressed;
    let at = |at: u64| usize::try_from(at.checked_sub(start)?).ok();
    let range = at(range.start)?..at(range.end)?;
    (range.start <= range.end && range.end <= stored.len()).then(|| stored.slice(range))
}
