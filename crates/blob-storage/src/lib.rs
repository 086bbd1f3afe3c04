//! Where blobs come from. A [`BlobReader`] reads ranges of one immutable blob; a [`Backend`] finds blobs by id. What they
//! return is *unverified*: whoever uses it must check it. Knows ids and byte ranges, nothing of chunks.
//!
//! Backends ask once. [`Retry`] and [`Deadline`] are readers around readers; [`Patient`] puts both around all readers of a backend.

pub mod config;
mod deadline;
mod error;
mod local_fs;
mod patient;
mod registry;
mod retry;

pub use deadline::Deadline;
pub use error::{BackendCause, BackendError, Source, Status};
pub use local_fs::LocalFs;
pub use oci_registry::client::SetupError;
pub use oci_registry::login::Logins;
pub use patient::{Patience, Patient};
pub use registry::Registry;
pub use retry::Retry;

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

/// Reads ranges of one immutable blob. What it returns is *unverified*.
pub trait BlobReader: Send + Sync + Debug {
    /// The bytes of `range` (half-open, in bytes of the blob): all of them, or an error. A short read is an error.
    fn read(&self, range: Range<u64>, priority: Priority) -> BoxFuture<'_, Result<Bytes, BackendError>>;

    /// Size of the blob in bytes.
    fn size(&self) -> BoxFuture<'_, Result<u64, BackendError>>;
}

impl<R: BlobReader + ?Sized> BlobReader for Arc<R> {
    fn read(&self, range: Range<u64>, priority: Priority) -> BoxFuture<'_, Result<Bytes, BackendError>> {
        (**self).read(range, priority)
    }

    fn size(&self) -> BoxFuture<'_, Result<u64, BackendError>> {
        (**self).size()
    }
}

/// Finds blobs by id.
pub trait Backend: Send + Sync + Debug {
    /// A reader of the blob. May find out only when reading that there is no such blob; local backends say so here.
    fn open(&self, id: &BlobId) -> Result<Arc<dyn BlobReader>, BackendError>;
}

impl<B: Backend + ?Sized> Backend for Arc<B> {
    fn open(&self, id: &BlobId) -> Result<Arc<dyn BlobReader>, BackendError> {
        (**self).open(id)
    }
}
