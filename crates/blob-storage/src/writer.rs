//! Where blobs go. A [`BlobWriter`] stores what a [`BlobReader`] gives, so that a blob goes from any place to any other in constant memory.

use crate::{BackendError, BlobReader};
use futures_util::future::BoxFuture;
use rafs_format::BlobId;
use std::fmt::Debug;

/// How a blob came to be where it was to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It was there.
    There,
    /// It was taken over from another repository of the same registry; nothing was sent.
    Mounted,
    /// It was sent.
    Sent {
        /// Its size in bytes.
        size: u64,
        /// Bytes sent again, because the first time they did not arrive; 0 from object storage, which does not count them.
        again: u64,
    },
}

/// Stores blobs; the write side of a [`Backend`](crate::Backend).
pub trait BlobWriter: Send + Sync + Debug {
    /// Stores all bytes of `source` as the blob `id`, unless it is there. Either it is there whole afterwards or there is an error; interrupted
    /// by an error or by dropping, no part of it can be read. Holds one piece of it in memory. Errors are those of the source, with its
    /// endpoint, and those of the place it goes to.
    fn store<'a>(
        &'a self,
        id: &'a BlobId,
        source: &'a dyn BlobReader,
    ) -> BoxFuture<'a, Result<Stored, BackendError>>;
}
