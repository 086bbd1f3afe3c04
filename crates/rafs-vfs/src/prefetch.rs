//! Data fetched before anybody asks for it: what a recorded profile names, then files that the image or the operator lists, then all the rest.
//!
//! It stands back for readers: while somebody waits for data, no more than one portion is under way, or several that are no longer together. It pauses
//! when the backend fails, ends when the cache is full, and holds a few portions of the plan in memory, however large the image. What is fetched is
//! verified like anything else; what to fetch is a hint, and never an error.

mod find;
mod order;
mod pace;
mod plan;

use crate::profile::Profile;
use crate::{Rafs, VfsError};
use blob_cache::{CacheError, Priority};
use order::{Order, Portion, stored};
use pace::{Pace, STEP, pause};
use parking_lot::Mutex;
use plan::Unknown;
use rafs_format::Blob;
use std::fmt::Debug;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// Portions that are planned ahead.
const AHEAD: usize = 4;
/// Shortest portion that can be asked for, in bytes.
const MIN_BATCH: u64 = 128 << 10;
/// Portions that failed and are tried once more at the end.
const MOST_AGAIN: usize = 64;

/// What is fetched early.
#[derive(Debug, Clone, Default)]
pub struct What {
    /// First what this names, in its order.
    pub profile: Option<Profile>,
    /// Then these files.
    pub files: Files,
    /// Then all the rest.
    pub all: bool,
}

/// Files that are fetched early, whole, directories with all that is in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Files {
    /// None.
    #[default]
    None,
    /// What the image lists. A list with the root means everything.
    Table,
    /// These paths; links are followed. The root means everything.
    Listed(Vec<Vec<u8>>),
}

/// How much at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most bytes of one portion; 128 KiB at least.
    pub batch_size: u32,
    /// Portions that are fetched at once while nobody waits for data; 1 at least.
    pub at_once: u16,
}

/// Who is asked and told on the way.
pub trait Host: Send + Sync + Debug {
    /// May the cache take more? Asked before each portion; `false` ends it all.
    fn has_room(&self) -> bool;
    /// A portion is done with.
    fn progress(&self, stats: &PrefetchStats);
    /// A portion failed, so many in a row.
    fn failed(&self, error: &CacheError, in_a_row: u32);
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrefetchState {
    /// Has not begun.
    #[default]
    Waiting,
    /// Goes on.
    Running,
    /// All that was asked for was done with.
    Done,
    /// The cache takes no more.
    Full,
    /// Nothing could be planned: the image is damaged, or there are no threads left.
    Unplanned,
}

/// What was done so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PrefetchStats {
    /// Where it stands.
    pub state: PrefetchState,
    /// When it began.
    pub began: Option<SystemTime>,
    /// When it ended.
    pub ended: Option<SystemTime>,
    /// Chunks that are ready now, because of this or before.
    pub chunks: u64,
    /// Stored bytes of these.
    pub bytes: u64,
    /// Stored bytes of all that was asked for; 0 until that is known.
    pub total_bytes: u64,
    /// Portions that were fetched.
    pub portions: u64,
    /// Chunks in portions that could not be fetched, also not the second time.
    pub failed: u64,
    /// Chunks of the profile that the image does not have.
    pub unknown_chunks: u64,
    /// Listed paths that the image does not have.
    pub missing_paths: u64,
    /// The first of them.
    pub first_missing: Vec<Vec<u8>>,
}

/// Fetches early for one image.
#[derive(Debug)]
pub struct Prefetch {
    rafs: Arc<Rafs>,
    what: What,
    pace: Pace,
    host: Arc<dyn Host>,
    stats: Arc<Mutex<PrefetchStats>>,
}

/// Shows what a [`Prefetch`] does.
#[derive(Debug, Clone)]
pub struct Progress(Arc<Mutex<PrefetchStats>>);

impl Progress {
    /// What was done so far.
    pub fn stats(&self) -> PrefetchStats {
        self.0.lock().clone()
    }
}

impl Prefetch {
    /// Fetches `what` of `rafs`, once it is run.
    pub fn new(rafs: Arc<Rafs>, what: What, limits: Limits, host: Arc<dyn Host>) -> Self {
        let pace = Pace {
            batch: u64::from(limits.batch_size).max(MIN_BATCH),
            at_once: usize::from(limits.at_once.max(1)),
        };
        Self { rafs, what, pace, host, stats: Arc::default() }
    }

    /// Shows what is done.
    pub fn progress(&self) -> Progress {
        Progress(Arc::clone(&self.stats))
    }

    /// Fetches all of it, or as much as there is room for. Must run inside a tokio runtime; where this is dropped, it ends.
    pub async fn run(self) -> PrefetchStats {
        {
            let mut stats = self.stats.lock();
            (stats.state, stats.began) = (PrefetchState::Running, Some(SystemTime::now()));
        }
        let (sender, portions) = channel(AHEAD);
        let (tell, planned) = oneshot::channel();
        let plan = Plan { rafs: Arc::clone(&self.rafs), what: self.what.clone(), batch: self.pace.batch };
        let stats = Arc::clone(&self.stats);
        // A thread, not a task: it waits as long as the plan is carried out.
        let planner = std::thread::Builder::new().name("plan".into()).spawn(move || {
            stats.lock().total_bytes = total(&plan.rafs, &plan.what);
            // Nobody listens any more where this has been dropped.
            let _told = tell.send(plan.send_to(&sender)).is_ok();
        });
        let ended = match planner {
            Ok(_ends_by_itself) => self.fetch(portions).await,
            Err(_) => PrefetchState::Unplanned,
        };
        let planned = planned.await;
        let mut stats = self.stats.lock();
        (stats.state, stats.ended) = (ended, Some(SystemTime::now()));
        match planned {
            Ok(Ok(unknown)) => {
                (stats.unknown_chunks, stats.missing_paths) = (unknown.chunks, unknown.paths);
                stats.first_missing = unknown.first;
            }
            Ok(Err(_)) | Err(_) => stats.state = PrefetchState::Unplanned,
        }
        stats.clone()
    }

    async fn fetch(&self, mut portions: Receiver<Portion>) -> PrefetchState {
        let mut crew = Crew::default();
        while let Some(portion) = portions.recv().await {
            if !self.start(portion, &mut crew).await {
                return PrefetchState::Full;
            }
        }
        self.drain(&mut crew).await;
        crew.is_last = true;
        for portion in std::mem::take(&mut crew.again) {
            if !self.start(portion, &mut crew).await {
                return PrefetchState::Full;
            }
        }
        self.drain(&mut crew).await;
        PrefetchState::Done
    }

    /// Starts with `portion` as soon as that may be. `false`: there is no room.
    async fn start(&self, portion: Portion, crew: &mut Crew) -> bool {
        let next = portion.bytes;
        let may_start = |crew: &Crew| {
            self.pace.may_start(crew.running.len(), crew.bytes, next, self.rafs.readers.quiet())
        };
        while let Some(done) = crew.running.try_join_next() {
            self.note(done, crew);
        }
        while !may_start(crew) {
            // Readers may have gone meanwhile.
            if let Ok(Some(done)) = tokio::time::timeout(STEP, crew.running.join_next()).await {
                self.note(done, crew);
            }
        }
        tokio::time::sleep(pause(crew.failures)).await;
        if !self.host.has_room() {
            return false;
        }
        let cache = portion.chunks.first().and_then(|chunk| self.rafs.caches.get(chunk.blob as usize));
        if let Some(cache) = cache.cloned() {
            crew.bytes += next;
            crew.running.spawn(async move {
                let result = cache.fetch_all(&portion.chunks, Priority::Prefetch).await;
                (portion, result)
            });
        }
        true
    }

    async fn drain(&self, crew: &mut Crew) {
        while let Some(done) = crew.running.join_next().await {
            self.note(done, crew);
        }
    }

    /// A portion is done with. One that failed is tried again later, once.
    fn note(&self, done: Joined, crew: &mut Crew) {
        // A panic in there is a bug, told where it happened; its bytes stay counted, which only slows down.
        let Ok((portion, result)) = done else { return };
        crew.bytes -= portion.bytes;
        match result {
            Ok(()) => {
                crew.failures = 0;
                self.count(&portion, true);
            }
            Err(error) => {
                crew.failures = crew.failures.saturating_add(1);
                self.host.failed(&error, crew.failures);
                if crew.is_last || crew.again.len() >= MOST_AGAIN {
                    self.count(&portion, false);
                } else {
                    crew.again.push(portion);
                }
            }
        }
    }

    fn count(&self, portion: &Portion, is_ready: bool) {
        let count = portion.chunks.len() as u64;
        let stats = {
            let mut stats = self.stats.lock();
            if is_ready {
                stats.chunks += count;
                stats.bytes += portion.bytes;
                stats.portions += 1;
            } else {
                stats.failed += count;
            }
            stats.clone()
        };
        self.host.progress(&stats);
    }
}

/// What a planner needs.
struct Plan {
    rafs: Arc<Rafs>,
    what: What,
    batch: u64,
}

impl Plan {
    /// Sends all portions, as fast as they are fetched. Ends when nobody wants them.
    fn send_to(&self, sender: &Sender<Portion>) -> Result<Unknown, VfsError> {
        let send = |portions: Vec<Portion>| {
            let sent = portions.into_iter().try_for_each(|portion| sender.blocking_send(portion));
            if sent.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let mut order = Order::new(self.batch);
        let unknown =
            plan::visit(&self.rafs, &self.what, &mut |stage, chunk| send(order.push(stage, chunk)))?;
        let _whether_somebody_wants_it = send(order.flush());
        Ok(unknown)
    }
}

type Done = (Portion, Result<(), Arc<CacheError>>);
type Joined = Result<Done, tokio::task::JoinError>;

/// What is under way.
#[derive(Debug, Default)]
struct Crew {
    running: JoinSet<Done>,
    bytes: u64,
    /// In a row.
    failures: u32,
    /// Failed once.
    again: Vec<Portion>,
    /// Is this the second try?
    is_last: bool,
}

/// Stored bytes of all that is asked for.
fn total(rafs: &Rafs, what: &What) -> u64 {
    if what.all {
        return rafs.bootstrap.blobs().iter().map(Blob::data_end).fold(0, u64::saturating_add);
    }
    let mut bytes = 0u64;
    let counted = plan::visit(rafs, what, &mut |_stage, chunk| {
        bytes = bytes.saturating_add(stored(chunk));
        ControlFlow::Continue(())
    });
    // What is damaged is told by who plans it for good.
    counted.map_or(0, |_unknown| bytes)
}
