//! Routes in time that stands still: who is asked, in which order, for how long, and what is counted.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod script;

use blob_storage::{
    Backend, BackendCause, BackendError, BlobReader, Care, Ping, Priority, Route, RouteKind, Routes,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use rafs_format::BlobId;
use script::{Answer, One, script};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::Instant;

const NOW: Duration = Duration::ZERO;
const HOUR: Duration = Duration::from_secs(3600);
/// Of one try.
const LIMIT: Duration = Duration::from_secs(5);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn right() -> Answer {
    (NOW, Ok("right".into()))
}

fn wrong() -> Answer {
    (NOW, Ok("wrong".into()))
}

fn refused() -> Answer {
    (NOW, Err(BackendCause::Transport("connection refused".into())))
}

fn missing() -> Answer {
    (NOW, Err(BackendCause::NotFound))
}

fn hanging() -> Answer {
    (HOUR, Ok("late".into()))
}

/// A way whose n-th answer is `answer(n)`, and how often it was asked.
fn way(
    kind: RouteKind,
    care: Care,
    answer: impl Fn(u32) -> Answer + Send + Sync + 'static,
) -> (Route, impl Fn() -> u32) {
    let reader = script(answer);
    let route = Route::new(kind, &format!("the {kind}"), Arc::new(One(Arc::clone(&reader) as _)), care);
    (route, move || reader.asked())
}

fn proxy(answer: impl Fn(u32) -> Answer + Send + Sync + 'static) -> (Route, impl Fn() -> u32) {
    way(RouteKind::Proxy, Care::default(), answer)
}

fn origin(answer: impl Fn(u32) -> Answer + Send + Sync + 'static) -> (Route, impl Fn() -> u32) {
    way(RouteKind::Origin, Care::default(), answer)
}

fn open(routes: &Routes) -> Arc<dyn BlobReader> {
    routes.open(&BlobId::new("0a").unwrap()).unwrap()
}

/// Reads as the cache does, which knows right bytes when it sees them.
async fn read(reader: &Arc<dyn BlobReader>) -> Result<Bytes, BackendError> {
    reader.read_checked(0..5, Priority::OnDemand, &|bytes| bytes == "right").await
}

#[tokio::test(start_paused = true)]
async fn each_route_is_asked_when_those_before_it_do_not_help() {
    for (name, bad) in
        [("refused", refused as fn() -> Answer), ("missing", missing), ("wrong", wrong), ("hanging", hanging)]
    {
        let (first, proxied) = proxy(move |_| bad());
        let (second, mirrored) = way(RouteKind::Mirror, Care::default(), move |_| bad());
        let (last, asked) = origin(|_| right());
        let routes = Routes::new(vec![first, second], last, Some(LIMIT));
        let started = Instant::now();
        assert_eq!(read(&open(&routes)).await.unwrap(), "right", "{name}");
        assert!(started.elapsed() <= LIMIT / 2 + Duration::from_millis(2), "{name}: {:?}", started.elapsed());
        assert_eq!((proxied(), mirrored(), asked()), (1, 1, 1), "{name}");
        let stats = routes.routes();
        let kinds: Vec<_> = stats.iter().map(|one| one.kind).collect();
        assert_eq!(kinds, [RouteKind::Proxy, RouteKind::Mirror, RouteKind::Origin]);
        let wrongs = u64::from(name == "wrong");
        for one in &stats[..2] {
            let expected = (1, 0, 1 - wrongs, wrongs);
            assert_eq!((one.requests, one.bytes, one.errors, one.wrong), expected, "{name}: {one:?}");
        }
        assert_eq!((stats[2].bytes, stats[2].errors, &*stats[2].endpoint), (5, 0, "the origin"));
    }
}

#[tokio::test(start_paused = true)]
async fn who_helps_is_the_only_one_asked() {
    let (first, proxied) = proxy(|_| right());
    let (last, asked) = origin(|_| right());
    let routes = Routes::new(vec![first], last, Some(LIMIT));
    let reader = open(&routes);
    assert_eq!(read(&reader).await.unwrap(), "right");
    assert_eq!(reader.read(0..5, Priority::Prefetch).await.unwrap(), "right");
    assert_eq!(reader.size().await.unwrap(), 5);
    assert_eq!((proxied(), asked()), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn what_the_origin_says_is_the_answer_when_nobody_helps() {
    for (last_says, expected) in [
        (refused as fn() -> Answer, "e: blob b, bytes 0..5: connection refused"),
        (missing, "e: blob b, bytes 0..5: not found"),
    ] {
        let (first, _asked) = proxy(|_| (NOW, Err(BackendCause::Io(std::io::Error::other("x")))));
        let (last, _asked) = origin(move |_| last_says());
        let routes = Routes::new(vec![first], last, Some(LIMIT));
        assert_eq!(read(&open(&routes)).await.unwrap_err().to_string(), expected);
    }
    // Bytes that nobody has otherwise are those of the blob, as far as routes know: nobody is blamed.
    let (first, _asked) = proxy(|_| wrong());
    let (last, _asked) = origin(|_| wrong());
    let routes = Routes::new(vec![first], last, Some(LIMIT));
    let reader = open(&routes);
    for _ in 0..10 {
        assert_eq!(read(&reader).await.unwrap(), "wrong");
    }
    assert!(routes.routes().iter().all(|one| one.wrong == 0 && !one.away), "{:?}", routes.routes());
}

#[tokio::test(start_paused = true)]
async fn a_route_that_keeps_failing_is_left_out_and_comes_back() {
    for (name, bad) in [("refused", refused as fn() -> Answer), ("wrong", wrong), ("missing", missing)] {
        let (first, proxied) = proxy(move |n| if n < 4 { bad() } else { right() });
        let (last, asked) = origin(|_| right());
        let routes = Routes::new(vec![first], last, Some(LIMIT));
        let reader = open(&routes);
        for _ in 0..20 {
            assert_eq!(read(&reader).await.unwrap(), "right");
        }
        assert_eq!((proxied(), asked()), (3, 20), "{name}: left out after three");
        assert!(routes.routes()[0].away && !routes.routes()[1].away);
        tokio::time::advance(seconds(5)).await;
        for _ in 0..20 {
            assert_eq!(read(&reader).await.unwrap(), "right");
        }
        assert_eq!((proxied(), asked()), (4, 40), "{name}: one tries after the pause, and fails");
        tokio::time::advance(seconds(10)).await;
        for _ in 0..20 {
            assert_eq!(read(&reader).await.unwrap(), "right");
        }
        assert_eq!((proxied(), asked()), (24, 40), "{name}: it is back");
        assert!(!routes.routes()[0].away);
    }
}

#[tokio::test(start_paused = true)]
async fn the_origin_gets_its_time_whatever_the_others_do() {
    let slow = seconds(2);
    for count in [1_u32, 2, 5] {
        let ways = (0..count).map(|_| proxy(|_| hanging()).0).collect();
        let (last, _asked) = origin(move |_| (slow, Ok("right".into())));
        let routes = Routes::new(ways, last, Some(LIMIT));
        let started = Instant::now();
        assert_eq!(read(&open(&routes)).await.unwrap(), "right");
        assert!(started.elapsed() <= LIMIT / 2 + slow + Duration::from_millis(10), "{:?}", started.elapsed());
    }
    let (first, _asked) = proxy(|_| hanging());
    let (last, _asked) = origin(|_| right());
    let endless = Routes::new(vec![first], last, None);
    let started = Instant::now();
    assert_eq!(read(&open(&endless)).await.unwrap(), "right");
    assert!(started.elapsed() < seconds(60), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_is_left_out_is_the_last_resort() {
    let up = Arc::new(AtomicBool::new(true));
    let is_up = Arc::clone(&up);
    let (first, _asked) = proxy(|n| if n < 3 { refused() } else { right() });
    let (last, _asked) = origin(move |_| if is_up.load(Ordering::Relaxed) { right() } else { refused() });
    let routes = Routes::new(vec![first], last, Some(LIMIT));
    let reader = open(&routes);
    for _ in 0..3 {
        read(&reader).await.unwrap();
    }
    assert!(routes.routes()[0].away);
    up.store(false, Ordering::Relaxed);
    assert_eq!(
        read(&reader).await.unwrap(),
        "right",
        "the origin is away, the proxy is back before its pause"
    );
    assert!(!routes.routes()[0].away);
}

/// Well or not, as the test says.
#[derive(Debug, Clone, Default)]
struct Pulse {
    sick: Arc<AtomicBool>,
    looks: Arc<AtomicU32>,
}

impl Ping for Pulse {
    fn ping(&self) -> BoxFuture<'_, Result<(), BackendCause>> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        let sick = self.sick.load(Ordering::Relaxed);
        Box::pin(async move { if sick { Err(BackendCause::NotFound) } else { Ok(()) } })
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_is_not_well_is_left_out_until_it_is() {
    let pulse = Pulse::default();
    let care = Care { ping: Some(Box::new(pulse.clone())), ..Care::default() };
    let (first, proxied) = way(RouteKind::Proxy, care, |_| right());
    let (last, asked) = origin(|_| right());
    let routes = Routes::new(vec![first], last, Some(LIMIT));
    let reader = open(&routes);
    read(&reader).await.unwrap();
    assert_eq!((proxied(), asked()), (1, 0));
    pulse.sick.store(true, Ordering::Relaxed);
    tokio::time::sleep(seconds(6)).await;
    assert!(routes.routes()[0].away);
    read(&reader).await.unwrap();
    assert_eq!((proxied(), asked()), (1, 1));
    pulse.sick.store(false, Ordering::Relaxed);
    tokio::time::sleep(seconds(6)).await;
    read(&reader).await.unwrap();
    assert_eq!((proxied(), asked()), (2, 1));
    // Nobody wants anything: looks stop, and begin again with the next request.
    tokio::time::sleep(seconds(400)).await;
    let looks = pulse.looks.load(Ordering::Relaxed);
    tokio::time::sleep(seconds(400)).await;
    assert_eq!(pulse.looks.load(Ordering::Relaxed), looks);
    read(&reader).await.unwrap();
    tokio::time::sleep(seconds(6)).await;
    assert!(pulse.looks.load(Ordering::Relaxed) > looks);
}
