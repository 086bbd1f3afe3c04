//! Bytes of a blob and what is made of them, which is also how right bytes are told from wrong ones: what makes no sense of one route is
//! asked of the next one.

use blob_storage::{BackendError, BlobReader, Priority};
use bytes::Bytes;
use parking_lot::Mutex;
use std::ops::Range;

/// Reads `range` and makes of it what `make` makes; returns that with the number of bytes read. Where no route has bytes of which `make` makes
/// something, its error is about those that came last.
pub(crate) async fn read<T: Send, E: Send>(
    reader: &dyn BlobReader,
    range: Range<u64>,
    priority: Priority,
    make: impl Fn(Bytes) -> Result<T, E> + Send + Sync,
) -> Result<(u64, Result<T, E>), BackendError> {
    let made = Mutex::new(None);
    let check = |bytes: &Bytes| {
        let new = make(bytes.clone());
        let is_right = new.is_ok();
        let mut made = made.lock();
        // Several routes may be asked at once: what is right stays.
        if is_right || !matches!(*made, Some(Ok(_))) {
            *made = Some(new);
        }
        is_right
    };
    let bytes = reader.read_checked(range, priority, &check).await?;
    let size = bytes.len() as u64;
    // Readers with one route do not check.
    Ok((size, made.into_inner().unwrap_or_else(|| make(bytes))))
}
