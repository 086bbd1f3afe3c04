//! One place that is asked for blobs: whether it is asked now, and what it has done so far. Tells in the log when it goes away and when
//! it comes back, each once.

use super::breaker::Breaker;
use crate::{BackendCause, Meter, MeterStats, Running};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::fmt::{self, Debug, Display};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// No endpoint is looked at more often.
const SHORTEST: Duration = Duration::from_secs(1);

/// What an endpoint is to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// A forward proxy, as a Dragonfly peer.
    Proxy,
    /// Another server with the same blobs.
    Mirror,
    /// Where the blobs are from.
    Origin,
}

impl Display for RouteKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Proxy => "proxy",
            Self::Mirror => "mirror",
            Self::Origin => "origin",
        })
    }
}

/// What an endpoint did since it was made; for metrics and tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteStats {
    /// What it is.
    pub kind: RouteKind,
    /// Its name, without secrets.
    pub endpoint: Arc<str>,
    /// Is it left out now?
    pub away: bool,
    /// Requests sent.
    pub requests: u64,
    /// Bytes that it gave and that were taken.
    pub bytes: u64,
    /// Requests that failed, timed out ones among them.
    pub errors: u64,
    /// Answers whose bytes were not those of the blob, as another route's were.
    pub wrong: u64,
    /// What its requests cost, right answers or not: how many run, how long they take.
    pub meter: MeterStats,
}

/// Finds out whether an endpoint is well.
pub trait Ping: Send + Sync + Debug {
    /// An error where it is not.
    fn ping(&self) -> BoxFuture<'_, Result<(), BackendCause>>;
}

/// When an endpoint is left out, and how it is looked after.
#[derive(Debug)]
pub struct Care {
    /// It is left out after so many failures in a row.
    pub failure_limit: u32,
    /// Time between two looks; without `ping`, a request may look that long after the endpoint was left out.
    pub check_interval: Duration,
    /// Looks stop when nothing was requested for this long.
    pub check_pause_elapsed: Duration,
    /// How to look; `None` to find out by requests alone.
    pub ping: Option<Box<dyn Ping>>,
}

impl Default for Care {
    /// Found out by requests alone.
    fn default() -> Self {
        Self {
            failure_limit: 3,
            check_interval: Duration::from_secs(5),
            check_pause_elapsed: Duration::from_secs(300),
            ping: None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Endpoint {
    kind: RouteKind,
    name: Arc<str>,
    care: Care,
    breaker: Breaker,
    /// Was the last look satisfied?
    well: AtomicBool,
    /// Is somebody looking after it?
    watched: AtomicBool,
    asked: Mutex<Instant>,
    meter: Meter,
    requests: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    wrong: AtomicU64,
}

impl Endpoint {
    pub fn new(kind: RouteKind, name: &str, care: Care) -> Self {
        Self {
            kind,
            name: name.into(),
            breaker: Breaker::new(care.failure_limit, care.check_interval.max(SHORTEST)),
            care,
            well: AtomicBool::new(true),
            watched: AtomicBool::new(false),
            asked: Mutex::new(Instant::now()),
            meter: Meter::default(),
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
        }
    }

    /// What logs and errors call it.
    pub fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// May it be asked now?
    pub fn admits(&self) -> bool {
        self.well.load(Ordering::Relaxed) && self.breaker.admits(Instant::now())
    }

    /// Somebody wants something of it or of its like. Has it looked after from now on.
    pub fn wanted(self: &Arc<Self>) {
        if self.care.ping.is_none() {
            return;
        }
        *self.asked.lock() = Instant::now();
        if !self.watched.swap(true, Ordering::Relaxed) {
            tokio::spawn(watch(Arc::downgrade(self)));
        }
    }

    /// A request is sent, which runs until what is returned ends.
    pub fn sent(&self) -> Running<'_> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.meter.begin()
    }

    /// A request was answered with so many bytes, which nobody found wrong.
    pub fn answered(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if self.breaker.succeeded() {
            tracing::info!("{} {} answers again", self.kind, self.name);
        }
    }

    /// A request failed. Counts it; whose fault it is says [`Endpoint::blame`].
    pub fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// An answer held other bytes than those of the blob, as another route has shown.
    pub fn lied(&self) {
        self.wrong.fetch_add(1, Ordering::Relaxed);
        self.blame(&"its bytes are not those of the blob");
    }

    /// It failed for a reason of its own.
    pub fn blame(&self, why: &dyn Display) {
        if let Some(pause) = self.breaker.failed(Instant::now()) {
            let (kind, name) = (self.kind, &self.name);
            tracing::warn!("{kind} {name} fails and is tried again after {pause:?}: {why}");
        }
    }

    pub fn stats(&self) -> RouteStats {
        RouteStats {
            kind: self.kind,
            endpoint: Arc::clone(&self.name),
            away: self.breaker.is_open() || !self.well.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            wrong: self.wrong.load(Ordering::Relaxed),
            meter: self.meter.stats(),
        }
    }

    /// Takes note of a look.
    fn looked(&self, found: Result<(), BackendCause>) {
        let was_well = self.well.swap(found.is_ok(), Ordering::Relaxed);
        match found {
            Ok(()) if !was_well => tracing::info!("{} {} is well again", self.kind, self.name),
            Err(why) if was_well => {
                tracing::warn!("{} {} is not well and is left out: {why}", self.kind, self.name);
            }
            _as_before => {}
        }
    }
}

/// Looks at the endpoint until it is gone, or until nothing is wanted of it for long.
async fn watch(endpoint: Weak<Endpoint>) {
    loop {
        let Some(found) = endpoint.upgrade() else { return };
        let care = &found.care;
        let idle = found.asked.lock().elapsed();
        let ping = care.ping.as_ref().filter(|_| idle <= care.check_pause_elapsed);
        let Some(ping) = ping else {
            found.watched.store(false, Ordering::Relaxed);
            return;
        };
        found.looked(ping.ping().await);
        let pause = care.check_interval.max(SHORTEST);
        drop(found);
        tokio::time::sleep(pause).await;
    }
}
