//! Where blobs come from. A [`BlobReader`] reads ranges of one immutable blob; a [`Backend`] finds blobs by id. What they
//! return is *unverified*: whoever uses it must check it. Knows ids and byte ranges, nothing of chunks.
//!
//! Backends ask once. [`Retry`] and [`Deadline`] are readers around readers; [`Patient`] puts both around all readers of a backend. [`Routes`]
//! are several ways to the same blobs. [`Metered`], [`Roomy`], [`Throttle`] and [`Hedge`] count, bound, slow down and double what is read.
//! [`open_backend`] puts together what a configuration asks for. A [`BlobWriter`] stores what any reader
//! gives; it tries again by itself, as only it knows from where.

pub mod config;
mod deadline;
mod environment;
mod error;
mod hedge;
mod local_disk;
mod local_fs;
mod meter;
mod object;
mod open;
mod patient;
mod private_file;
mod registry;
mod registry_writer;
mod retry;
mod room;
mod route;
mod throttle;
mod wrapped;
mod writer;

pub use deadline::Deadline;
pub use environment::PullAuth;
pub use error::{BackendCause, BackendError, Source, Status};
pub use hedge::{Hedge, Hedging};
pub use local_disk::LocalDisk;
pub use local_fs::LocalFs;
pub use meter::{LATENCY_CLASSES, Meter, MeterStats, Metered, Running};
pub use object::{ObjectSetupError, ObjectStorage};
pub use oci_registry::client::SetupError;
pub use oci_registry::login::Logins;
pub use open::{OpenError, OpenOptions, open_backend};
pub use patient::{Patience, Patient};
pub use private_file::read_private;
pub use registry::{Registries, Registry};
pub use registry_writer::RegistryWriter;
pub use retry::Retry;
pub use room::{Room, Roomy};
pub use route::{Care, Ping, Route, RouteKind, RouteStats, Routes};
pub use throttle::{Bucket, Throttle};
pub use wrapped::{Counted, Wrapped};
pub use writer::{BlobWriter, Stored};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rafs_format::BlobId;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

/// Who waits for a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Nobody yet.
    Prefetch,
    /// A reader of the file system.
    OnDemand,
}

/// Are these the bytes of the blob? Asked by readers that can do something where they are not.
pub type Check<'a> = dyn Fn(&Bytes) -> bool + Send + Sync + 'a;

/// Reads ranges of one immutable blob. What it returns is *unverified*.
pub trait BlobReader: Send + Sync + Debug {
    /// The bytes of `range` (half-open, in bytes of the blob): all of them, or an error. A short read is an error.
    fn read(&self, range: Range<u64>, priority: Priority) -> BoxFuture<'_, Result<Bytes, BackendError>>;

    /// [`BlobReader::read`] for who can tell right bytes from wrong ones. Where `check` finds some wrong, a reader that has another way to
    /// the blob tries it. What no way gives right is returned as it came: it is still the caller who must not use it.
    fn read_checked<'a>(
        &'a self,
        range: Range<u64>,
        priority: Priority,
        check: &'a Check<'a>,
    ) -> BoxFuture<'a, Result<Bytes, BackendError>> {
        let _there_is_one_way = check;
        self.read(range, priority)
    }

    /// Size of the blob in bytes.
    fn size(&self) -> BoxFuture<'_, Result<u64, BackendError>>;
}

impl<R: BlobReader + ?Sized> BlobReader for Arc<R> {
    fn read(&self, range: Range<u64>, priority: Priority) -> BoxFuture<'_, Result<Bytes, BackendError>> {
        (**self).read(range, priority)
    }

    fn read_checked<'a>(
        &'a self,
        range: Range<u64>,
        priority: Priority,
        check: &'a Check<'a>,
    ) -> BoxFuture<'a, Result<Bytes, BackendError>> {
        (**self).read_checked(range, priority, check)
    }

    fn size(&self) -> BoxFuture<'_, Result<u64, BackendError>> {
        (**self).size()
    }
}

/// Finds blobs by id.
pub trait Backend: Send + Sync + Debug {
    /// A reader of the blob. May find out only when reading that there is no such blob; local backends say so here.
    fn open(&self, id: &BlobId) -> Result<Arc<dyn BlobReader>, BackendError>;

    /// Uses `auth` from now on in place of the login that the configuration has; `None` for those of this machine only. Means nothing to
    /// backends without logins.
    fn set_credentials(&self, auth: Option<&config::Auth>) {
        let _nobody_asks = auth;
    }

    /// What each way to the blobs did so far, best first; empty where there is but one that nobody counts.
    fn routes(&self) -> Vec<RouteStats> {
        Vec::new()
    }
}

impl<B: Backend + ?Sized> Backend for Arc<B> {
    fn open(&self, id: &BlobId) -> Result<Arc<dyn BlobReader>, BackendError> {
        (**self).open(id)
    }

    fn set_credentials(&self, auth: Option<&config::Auth>) {
        (**self).set_credentials(auth);
    }

    fn routes(&self) -> Vec<RouteStats> {
        (**self).routes()
    }
}
