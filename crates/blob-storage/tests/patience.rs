//! Retry and deadline, in time that stands still: what is asserted is how long they would have waited.

mod script;

use blob_storage::{BackendCause, BackendError, BlobReader, Deadline, Patience, Priority, Retry, Status};
use bytes::Bytes;
use script::script;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const NOW: Duration = Duration::ZERO;
/// Patience that does not matter.
const LONG: Duration = Duration::from_secs(1 << 20);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn status(code: u16, retry_after: Option<Duration>) -> Result<Bytes, BackendCause> {
    Err(BackendCause::Status(Box::new(Status { code, said: "busy".into(), retry_after })))
}

fn refused() -> BackendCause {
    BackendCause::Transport("connection refused".into())
}

async fn read(reader: &impl BlobReader) -> Result<Bytes, BackendError> {
    reader.read(0..4, Priority::OnDemand).await
}

#[tokio::test(start_paused = true)]
async fn what_passes_is_tried_again_as_often_as_allowed() {
    for (retries, failing, fine) in [(0, 0, true), (0, 1, false), (3, 3, true), (3, 4, false)] {
        let inner = script(move |n| (NOW, if n < failing { Err(refused()) } else { Ok("data".into()) }));
        let reader = Retry::new(Arc::clone(&inner), retries, LONG);
        let found = read(&reader).await;
        assert_eq!(found.is_ok(), fine, "{retries} {failing}: {found:?}");
        assert_eq!(inner.asked(), failing.min(u32::from(retries) + 1) + u32::from(fine));
        let Err(error) = found else { continue };
        let said = error.to_string();
        assert!(said.starts_with("e: blob b, bytes 0..4: connection refused"), "{said}");
        assert_eq!(said.ends_with(", tried 4 times"), retries == 3, "{said}");
        assert!(error.cause.is_temporary());
    }
    let inner = script(|n| (NOW, if n < 1 { Err(refused()) } else { Ok("data".into()) }));
    assert_eq!(Retry::new(inner, 1, LONG).size().await.unwrap(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_pass_is_tried_once() {
    for cause in [
        || BackendCause::NotFound,
        || BackendCause::OutOfRange { size: 1 },
        || BackendCause::Auth("refused".into()),
        || BackendCause::Unable("ranges".into()),
        || BackendCause::Status(Box::new(Status { code: 403, said: String::new(), retry_after: None })),
    ] {
        let inner = script(move |_| (NOW, Err(cause())));
        let error = read(&Retry::new(Arc::clone(&inner), 9, LONG)).await.unwrap_err();
        assert_eq!((inner.asked(), error.cause.is_temporary()), (1, false), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_and_the_servers_wish_is_kept() {
    let started = Instant::now();
    let inner = script(|_| (NOW, Err(refused())));
    read(&Retry::new(inner, 3, LONG)).await.unwrap_err();
    let ours = started.elapsed();
    assert!((Duration::from_millis(350)..=Duration::from_millis(710)).contains(&ours), "{ours:?}");

    let started = Instant::now();
    let inner = script(|n| (NOW, if n < 1 { status(429, Some(seconds(7))) } else { Ok("data".into()) }));
    read(&Retry::new(inner, 3, seconds(20))).await.unwrap();
    let wished = started.elapsed();
    assert!((seconds(7)..seconds(8)).contains(&wished), "{wished:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pause_beyond_the_deadline_is_an_error_now() {
    let started = Instant::now();
    let inner = script(|_| (NOW, status(503, Some(seconds(3600)))));
    let reader = Deadline::new(Retry::new(Arc::clone(&inner), 3, seconds(20)), seconds(20), "e", "b");
    let error = read(&reader).await.unwrap_err();
    assert_eq!(error.to_string(), "e: blob b, bytes 0..4: status 503: busy");
    assert_eq!((started.elapsed(), inner.asked()), (NOW, 1));
    let inner = script(|_| (NOW, status(503, Some(Duration::MAX))));
    read(&Retry::new(inner, 3, LONG)).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn nothing_takes_longer_than_its_deadline() {
    // Hanging, slow to fail, and failing at once for ever.
    for time in [seconds(3600), seconds(4), NOW] {
        let inner = script(move |_| (time, Err(refused())));
        let reader = Deadline::new(Retry::new(inner, 255, seconds(10)), seconds(10), "e", "b");
        let started = Instant::now();
        let error = read(&reader).await.unwrap_err();
        // The timer's unit is a millisecond.
        assert!(started.elapsed() <= Duration::from_millis(10_001), "{:?}", started.elapsed());
        assert!(error.cause.is_temporary(), "{error}");
        let error = reader.size().await.unwrap_err();
        assert!(error.cause.is_temporary(), "{error}");
    }
    let slow = script(|_| (seconds(3600), Ok("data".into())));
    let error = read(&Deadline::new(slow, seconds(10), "e", "b")).await.unwrap_err();
    assert_eq!(error.to_string(), "e: blob b, bytes 0..4: no answer within 10s");
}

#[test]
fn the_deadline_leaves_time_for_each_try() {
    for (timeout, retries, expected) in [
        (Some(5), 0, Some(5)),
        (Some(5), 2, Some(15)),
        (Some(5), 255, Some(60)),
        (Some(300), 2, Some(300)),
        (None, 2, None),
    ] {
        let remote = blob_storage::config::Remote {
            skip_verify: false,
            ca_cert_files: Vec::new(),
            client_cert: None,
            timeout: timeout.map(seconds),
            connect_timeout: None,
            retry_limit: retries,
            proxy: blob_storage::config::Proxy::default(),
            hedge: false,
            mirrors: Vec::new(),
        };
        let deadline = expected.map(seconds);
        assert_eq!(Patience::from(&remote), Patience { retries, deadline }, "{timeout:?} {retries}");
    }
}
