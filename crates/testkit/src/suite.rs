//! What every reader of blobs promises, whatever is inside it: the bytes asked for or an error, and in time. Backends and decorators pass
//! [`blob_reader_suite`]; what asks a server passes [`bad_server_suite`], too. docs/semantics.md has the same as a table.

use crate::blob::pattern;
use crate::http::{BlobServer, Ending, Manner};
use blob_storage::{BackendCause, BlobReader, Priority};
use bytes::Bytes;
use futures_util::future::join_all;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Readers give up by themselves long before this.
const PATIENCE: Duration = Duration::from_secs(120);
/// Length of blobs, in bytes; no multiple of anything.
const SIZE: usize = 300_007;
/// Id of the blob of [`bad_server_suite`].
const ID: &str = "0b";

fn slice(blob: &Bytes, range: &Range<u64>) -> Bytes {
    let at = |at: u64| usize::try_from(at).expect("a position in the blob");
    blob.slice(at(range.start)..at(range.end))
}

/// The result of a read, which ends by itself.
async fn read(reader: &dyn BlobReader, range: Range<u64>, priority: Priority) -> Result<Bytes, BackendCause> {
    let done = tokio::time::timeout(PATIENCE, reader.read(range.clone(), priority)).await;
    done.unwrap_or_else(|_late| panic!("{range:?}: no answer, and no error")).map_err(|error| error.cause)
}

/// Reads as who knows the right bytes.
async fn read_checked(
    reader: &dyn BlobReader,
    range: Range<u64>,
    right: &Bytes,
) -> Result<Bytes, BackendCause> {
    let check = |bytes: &Bytes| bytes == right;
    let done =
        tokio::time::timeout(PATIENCE, reader.read_checked(range.clone(), Priority::OnDemand, &check)).await;
    done.unwrap_or_else(|_late| panic!("{range:?}: no answer, and no error")).map_err(|error| error.cause)
}

/// Reads a blob in all ways from what `open` makes of its bytes.
///
/// # Panics
/// Where a promise is broken.
pub async fn blob_reader_suite(open: impl AsyncFn(Bytes) -> Arc<dyn BlobReader>) {
    let blob = Bytes::from(pattern(11, SIZE));
    let reader = open(blob.clone()).await;
    let size = SIZE as u64;
    assert_eq!(reader.size().await.expect("the size"), size);
    // First, last, whole, none, and some.
    for range in
        [0..1, size - 1..size, 0..size, 0..0, 5..5, size..size, 1..size - 1, 4095..4097, 65_535..200_001]
    {
        let right = slice(&blob, &range);
        for priority in [Priority::OnDemand, Priority::Prefetch] {
            let found = read(&*reader, range.clone(), priority).await;
            assert!(
                found.as_ref().is_ok_and(|found| *found == right),
                "{range:?} {priority:?}: {:?}",
                found.err()
            );
        }
        let found = read_checked(&*reader, range.clone(), &right).await;
        assert!(found.as_ref().is_ok_and(|found| *found == right), "{range:?}, checked: {:?}", found.err());
    }
    // Past the end by one, wholly, and far.
    for range in
        [size - 1..size + 1, 0..size + 1, size..size + 1, size + 9..size + 20, u64::MAX - 1..u64::MAX]
    {
        let error = read(&*reader, range.clone(), Priority::OnDemand).await.expect_err("past the end");
        assert!(!error.is_temporary(), "{range:?}: {error}");
    }
    together(&reader, &blob).await;
}

/// Many reads at once, each with its own bytes.
async fn together(reader: &Arc<dyn BlobReader>, blob: &Bytes) {
    let reads = (0..64_u64).map(|n| {
        let (reader, range) = (Arc::clone(reader), n * 4000..n * 4000 + 40_000);
        let right = slice(blob, &range);
        let priority = if n % 3 == 0 { Priority::Prefetch } else { Priority::OnDemand };
        tokio::spawn(async move {
            let found = read(&*reader, range.clone(), priority).await;
            assert!(found.as_ref().is_ok_and(|found| *found == right), "{range:?}: {:?}", found.err());
        })
    });
    for done in join_all(reads).await {
        done.expect("a read");
    }
}

/// What a reader makes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The right bytes.
    Right,
    /// An error that is worth another try.
    Passing,
    /// One that is not.
    Final,
}

/// What servers do, and what becomes of it. Bytes that are wrong but as many as they should be are for who knows the digest.
const ANSWERS: &[(Manner, Outcome)] = &[
    (Manner::Right, Outcome::Right),
    (Manner::Whole, Outcome::Right),
    (Manner::Longer, Outcome::Right),
    (Manner::Empty, Outcome::Passing),
    (Manner::Beside, Outcome::Passing),
    (Manner::Circle, Outcome::Final),
    (Manner::Status(400), Outcome::Final),
    (Manner::Status(403), Outcome::Final),
    (Manner::Status(404), Outcome::Final),
    (Manner::Status(408), Outcome::Passing),
    (Manner::Status(416), Outcome::Final),
    (Manner::Status(429), Outcome::Passing),
    (Manner::Status(500), Outcome::Passing),
    (Manner::Status(503), Outcome::Passing),
    (Manner::Status(204), Outcome::Final),
    (Manner::Ends(Ending::Cut), Outcome::Passing),
    (Manner::Ends(Ending::Reset), Outcome::Passing),
    (Manner::Ends(Ending::Stalled), Outcome::Passing),
    (Manner::Ends(Ending::Silent), Outcome::Passing),
    (Manner::Ends(Ending::Dribbling(Duration::from_millis(100))), Outcome::Passing),
];

/// Reads from a server that answers as no good one does, through what `open` makes of it and of the id of a blob. A read must have
/// a limit of a second or so.
///
/// # Panics
/// Where a promise is broken.
pub async fn bad_server_suite(open: impl Fn(&BlobServer, &str) -> Arc<dyn BlobReader>) {
    let blob = Bytes::from(pattern(12, SIZE));
    let server = BlobServer::start(&[(ID, blob.clone())]);
    let missing = read(&*open(&server, "0c"), 0..1, Priority::OnDemand).await.expect_err("no such blob");
    assert!(matches!(missing, BackendCause::NotFound), "{missing}");
    let reader = open(&server, ID);
    for (manner, expected) in ANSWERS {
        server.set(*manner);
        let range = 1000..1000 + 64_000;
        let found = read(&*reader, range.clone(), Priority::OnDemand).await;
        let outcome = match &found {
            Ok(found) => {
                assert!(*found == slice(&blob, &range), "{manner:?} gave other bytes");
                Outcome::Right
            }
            Err(error) if error.is_temporary() => Outcome::Passing,
            Err(_) => Outcome::Final,
        };
        assert_eq!(outcome, *expected, "{manner:?}: {:?}", found.err());
        // Nothing of it is remembered.
        server.set(Manner::Right);
        let found = read(&*reader, range.clone(), Priority::OnDemand).await;
        assert!(found.is_ok_and(|found| found == slice(&blob, &range)), "after {manner:?}");
    }
}
