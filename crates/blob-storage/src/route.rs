//! Several ways to the same blobs, each asked when those before it could not help: proxy, mirrors, origin.
//!
//! What a route gives is as unverified as what any reader gives; who can tell right bytes from wrong ones says so by
//! [`BlobReader::read_checked`], and wrong bytes are then one more reason to ask the next route. A route that keeps failing is left out for a
//! while; the last one never is. The routes before the last together take at most half of the time of one try, so that a route that
//! hangs does not use up what the last one needs. Knows no protocol.

mod breaker;
mod endpoint;

pub use endpoint::{Care, Ping, RouteKind, RouteStats};

use crate::{Backend, BackendCause, BackendError, BlobReader, Check, Priority, config};
use bytes::Bytes;
use endpoint::Endpoint;
use futures_util::future::BoxFuture;
use rafs_format::BlobId;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Time of one try where it has no limit: then the routes before the last take at most half of this.
const ENDLESS: Duration = Duration::from_secs(40);

/// One way to blobs.
#[derive(Debug)]
pub struct Route {
    endpoint: Arc<Endpoint>,
    backend: Arc<dyn Backend>,
}

impl Route {
    /// The way through `backend`, which logs and metrics call `name`.
    pub fn new(kind: RouteKind, name: &str, backend: Arc<dyn Backend>, care: Care) -> Self {
        Self { endpoint: Arc::new(Endpoint::new(kind, name, care)), backend }
    }
}

/// Ways to the same blobs, best first.
#[derive(Debug)]
pub struct Routes {
    before: Vec<Route>,
    last: Route,
    /// Of one try.
    limit: Option<Duration>,
}

impl Routes {
    /// `before` in this order, then `last`, which is asked whatever it did so far. `limit` is the time that one try has.
    pub fn new(before: Vec<Route>, last: Route, limit: Option<Duration>) -> Self {
        Self { before, last, limit }
    }

    fn all(&self) -> impl Iterator<Item = &Route> {
        self.before.iter().chain([&self.last])
    }
}

impl Backend for Routes {
    fn open(&self, id: &BlobId) -> Result<Arc<dyn BlobReader>, BackendError> {
        let way = |route: &Route| {
            Ok(Way { endpoint: Arc::clone(&route.endpoint), reader: route.backend.open(id)? })
        };
        let before = self.before.iter().map(way).collect::<Result<_, _>>()?;
        let (last, limit) = (way(&self.last)?, self.limit);
        Ok(Arc::new(RoutedBlob { before, last, limit, blob: id.as_str().into() }))
    }

    fn set_credentials(&self, auth: Option<&config::Auth>) {
        self.all().for_each(|route| route.backend.set_credentials(auth));
    }

    fn routes(&self) -> Vec<RouteStats> {
        self.all().map(|route| route.endpoint.stats()).collect()
    }
}

/// A blob with several ways to it.
#[derive(Debug)]
struct RoutedBlob {
    before: Vec<Way>,
    last: Way,
    limit: Option<Duration>,
    blob: Arc<str>,
}

/// One way to one blob.
#[derive(Debug)]
struct Way {
    endpoint: Arc<Endpoint>,
    reader: Arc<dyn BlobReader>,
}

/// What a way was found to have done wrong, if another one does it right.
enum Doubt<'a> {
    /// It says that what is asked for cannot be had.
    Denied(&'a Endpoint, String),
    /// It gave other bytes.
    Lied(&'a Endpoint),
}

impl Doubt<'_> {
    fn confirm(&self) {
        match self {
            Self::Denied(endpoint, why) => endpoint.blame(why),
            Self::Lied(endpoint) => endpoint.lied(),
        }
    }
}

/// Asks a reader for what is wanted.
type Ask<'a, T> =
    Box<dyn Fn(&'a dyn BlobReader) -> BoxFuture<'a, Result<T, BackendError>> + Send + Sync + 'a>;

/// What is wanted of each way, until one gives it.
struct Quest<'a, T> {
    blob: &'a RoutedBlob,
    range: Option<Range<u64>>,
    ask: Ask<'a, T>,
    /// Is it right?
    check: Box<dyn Fn(&T) -> bool + Send + Sync + 'a>,
    /// Its bytes, for counting.
    size: fn(&T) -> u64,
    doubts: Vec<Doubt<'a>>,
}

impl<'a, T> Quest<'a, T> {
    /// What the first way gives that gives it right. Else what the last one says: what peers say that were a last resort does not count.
    async fn first(mut self) -> Result<T, BackendError> {
        let RoutedBlob { before, last, .. } = self.blob;
        before.iter().for_each(|way| way.endpoint.wanted());
        let (admitted, left_out): (Vec<_>, Vec<_>) = before.iter().partition(|way| way.endpoint.admits());
        let share = self.blob.share(admitted.len());
        for way in admitted {
            let found = self.try_way(way, Some(share)).await;
            if self.is_right(way, &found) {
                return found;
            }
        }
        let found = self.try_way(last, None).await;
        let passing = found.as_ref().is_err_and(|error| error.cause.is_temporary());
        if self.is_right(last, &found) || !passing {
            return found;
        }
        for way in left_out {
            let other = self.try_way(way, Some(self.blob.share(1))).await;
            if self.is_right(way, &other) {
                return other;
            }
        }
        found
    }

    /// What `way` says, or a timeout after `share`.
    async fn try_way(&self, way: &'a Way, share: Option<Duration>) -> Result<T, BackendError> {
        let running = way.endpoint.sent();
        let asked = (self.ask)(&*way.reader);
        let found = match share {
            None => asked.await,
            Some(after) => {
                tokio::time::timeout(after, asked).await.unwrap_or_else(|_elapsed| Err(self.late(way, after)))
            }
        };
        match &found {
            Ok(value) => running.ended((self.size)(value)),
            Err(_) => way.endpoint.failed(),
        }
        found
    }

    fn late(&self, way: &Way, after: Duration) -> BackendError {
        let (endpoint, blob) = (way.endpoint.name(), Arc::clone(&self.blob.blob));
        BackendError { endpoint, blob, range: self.range.clone(), cause: BackendCause::Timeout { after } }
    }

    /// Is this the answer? Notes to the credit of all who were asked what that means.
    fn is_right(&mut self, way: &'a Way, found: &Result<T, BackendError>) -> bool {
        let endpoint = &way.endpoint;
        match found {
            Ok(value) if (self.check)(value) => {
                endpoint.answered((self.size)(value));
                self.doubts.drain(..).for_each(|doubt| doubt.confirm());
                return true;
            }
            Ok(_wrong) => self.doubts.push(Doubt::Lied(endpoint)),
            Err(error) if error.cause.is_temporary() => endpoint.blame(error),
            Err(error) => self.doubts.push(Doubt::Denied(endpoint, error.to_string())),
        }
        false
    }
}

impl RoutedBlob {
    /// Time for each of `count` ways before the last.
    fn share(&self, count: usize) -> Duration {
        let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
        self.limit.unwrap_or(ENDLESS) / 2 / count
    }

    fn read_by<'a>(
        &'a self,
        range: Range<u64>,
        priority: Priority,
        check: Box<Check<'a>>,
    ) -> BoxFuture<'a, Result<Bytes, BackendError>> {
        let asked = range.clone();
        let ask = Box::new(move |reader: &'a dyn BlobReader| reader.read(asked.clone(), priority));
        let size = |bytes: &Bytes| bytes.len() as u64;
        Box::pin(Quest { blob: self, range: Some(range), ask, check, size, doubts: Vec::new() }.first())
    }
}

impl BlobReader for RoutedBlob {
    fn read(&self, range: Range<u64>, priority: Priority) -> BoxFuture<'_, Result<Bytes, BackendError>> {
        self.read_by(range, priority, Box::new(|_| true))
    }

    fn read_checked<'a>(
        &'a self,
        range: Range<u64>,
        priority: Priority,
        check: &'a Check<'a>,
    ) -> BoxFuture<'a, Result<Bytes, BackendError>> {
        self.read_by(range, priority, Box::new(check))
    }

    fn size(&self) -> BoxFuture<'_, Result<u64, BackendError>> {
        let ask: Ask<'_, u64> = Box::new(BlobReader::size);
        let check = Box::new(|_: &u64| true);
        Box::pin(Quest { blob: self, range: None, ask, check, size: |_| 0, doubts: Vec::new() }.first())
    }
}
