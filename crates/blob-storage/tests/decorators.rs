//! Decorators in time that stands still: who waits, for how long, who is asked twice, what is counted.

mod script;

use blob_storage::{
    BackendCause, BackendError, BlobReader, Bucket, Hedge, Hedging, Meter, Metered, Priority, Room, Roomy,
    Throttle,
};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;
use parking_lot::Mutex;
use script::script;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

async fn read(reader: &impl BlobReader, size: u64, priority: Priority) -> Result<Bytes, BackendError> {
    reader.read(0..size, priority).await
}

fn refused() -> BackendCause {
    BackendCause::Transport("connection refused".into())
}

#[tokio::test(start_paused = true)]
async fn prefetch_keeps_to_its_bandwidth_and_readers_do_not_wait() {
    // 100 bytes a second, 50 at once; ten reads of 100 bytes.
    let inner = script(|_| (Duration::ZERO, Ok("data".into())));
    let reader = Throttle::new(Arc::clone(&inner), Bucket::new(100, 50));
    let started = Instant::now();
    join_all((0..10).map(|_| read(&reader, 100, Priority::Prefetch))).await;
    assert_eq!(started.elapsed().as_millis().div_ceil(10), 950, "1000 bytes less the 50 there were");
    let started = Instant::now();
    join_all((0..10).map(|_| read(&reader, 100, Priority::OnDemand))).await;
    assert_eq!(started.elapsed(), Duration::ZERO);
    read(&reader, 100, Priority::Prefetch).await.unwrap();
    assert!(started.elapsed() >= 10 * SECOND, "what readers took is charged: {:?}", started.elapsed());
    // After a rest there is as much as the bucket holds, and no more.
    tokio::time::advance(HOUR).await;
    let started = Instant::now();
    read(&reader, 50, Priority::Prefetch).await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO);
    read(&reader, 100, Priority::Prefetch).await.unwrap();
    assert_eq!(started.elapsed().as_millis().div_ceil(10), 100);
    assert_eq!(inner.asked(), 23);
    // No speed and no size make it stand still or panic.
    let reader = Throttle::new(inner, Bucket::new(0, 0));
    assert!(tokio::time::timeout(HOUR, read(&reader, u64::MAX, Priority::Prefetch)).await.is_err());
    read(&reader, u64::MAX, Priority::OnDemand).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn bytes_on_their_way_are_bounded_and_readers_go_first() {
    let inner = script(|_| (SECOND, Ok("data".into())));
    let room = Room::new(100);
    let reader = Arc::new(Roomy::new(Arc::clone(&inner), Arc::clone(&room)));
    let done = Arc::new(Mutex::new(Vec::new()));
    let spawn = |name: &'static str, size, priority| {
        let (reader, done) = (Arc::clone(&reader), Arc::clone(&done));
        tokio::spawn(async move {
            read(&*reader, size, priority).await.unwrap();
            done.lock().push(name);
        })
    };
    let mut all = vec![spawn("p1", 50, Priority::Prefetch), spawn("p2", 50, Priority::Prefetch)];
    tokio::task::yield_now().await;
    assert_eq!((room.used(), inner.asked()), (50, 1), "prefetch gets half");
    all.push(spawn("r1", 60, Priority::OnDemand));
    all.push(spawn("r2", 30, Priority::OnDemand));
    all.push(spawn("r3", 1000, Priority::OnDemand));
    tokio::task::yield_now().await;
    assert_eq!((room.used(), inner.asked()), (50, 1), "nobody overtakes who waits for a file");
    for (seconds, used, finished) in [
        (1, 90, &["p1"][..]),
        (2, 100, &["p1", "r1", "r2"]),
        (3, 50, &["p1", "r1", "r2", "r3"]),
        (4, 0, &["p1", "r1", "r2", "r3", "p2"]),
    ] {
        tokio::time::sleep(SECOND).await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert_eq!((room.used(), &done.lock()[..]), (used, finished), "after {seconds} s");
    }
    for one in all {
        one.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_leaves_its_room() {
    let inner = script(|_| (HOUR, Ok("data".into())));
    let room = Room::new(100);
    let reader = Roomy::new(Arc::clone(&inner), Arc::clone(&room));
    let mut first = read(&reader, 100, Priority::OnDemand).boxed();
    assert!((&mut first).now_or_never().is_none());
    let mut second = read(&reader, 100, Priority::OnDemand).boxed();
    assert!((&mut second).now_or_never().is_none());
    let mut third = read(&reader, 10, Priority::OnDemand).boxed();
    assert!((&mut third).now_or_never().is_none());
    drop(second);
    assert_eq!((room.used(), inner.asked()), (100, 1));
    drop(first);
    assert!((&mut third).now_or_never().is_none());
    assert_eq!((room.used(), inner.asked()), (10, 2), "the one that gave up is passed over");
    drop(third);
    assert_eq!(room.used(), 0);
    assert_eq!(reader.size().now_or_never().map(|_| ()), None, "sizes take none");
    assert_eq!(room.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_takes_unusually_long_is_asked_for_once_more() {
    // Ten milliseconds each, but for every 25th from the 25th on, which hangs.
    let inner = script(|n| (if n % 25 == 24 { HOUR } else { SECOND / 100 }, Ok("data".into())));
    let hedging = Arc::new(Hedging::default());
    let reader = Hedge::new(Arc::clone(&inner), Arc::clone(&hedging));
    let started = Instant::now();
    for _ in 0..200 {
        assert_eq!(read(&reader, 4, Priority::OnDemand).await.unwrap(), "data");
    }
    assert!(started.elapsed() < 10 * SECOND, "{:?}", started.elapsed());
    assert_eq!((hedging.seconds(), inner.asked()), (8, 208));
    // Prefetch is never asked for twice, two of these hang.
    let mut late = 0;
    for _ in 0..50 {
        let found = tokio::time::timeout(SECOND, read(&reader, 4, Priority::Prefetch)).await;
        late += u32::from(found.is_err());
    }
    assert_eq!((late, hedging.seconds(), inner.asked()), (2, 8, 258));
}

#[tokio::test(start_paused = true)]
async fn when_all_is_slow_few_are_asked_for_twice() {
    let inner = script(|n| (if n < 100 { SECOND / 1000 } else { SECOND }, Ok("data".into())));
    let hedging = Arc::new(Hedging::default());
    let reader = Hedge::new(Arc::clone(&inner), Arc::clone(&hedging));
    for _ in 0..1000 {
        read(&reader, 4, Priority::OnDemand).await.unwrap();
    }
    assert!(hedging.seconds() <= 1000 / 10 + 1, "{}", hedging.seconds());
    assert!(hedging.seconds() > 0);
}

#[tokio::test(start_paused = true)]
async fn a_second_answer_that_is_wrong_or_an_error_does_not_win() {
    for wrong in [false, true] {
        let inner = script(move |n| match n {
            0..40 => (SECOND / 1000, Ok("right".into())),
            40 => (SECOND, Ok("right".into())),
            _ if wrong => (SECOND / 1000, Ok("wrong".into())),
            _ => (SECOND / 1000, Err(refused())),
        });
        let hedging = Arc::new(Hedging::default());
        let reader = Hedge::new(inner, Arc::clone(&hedging));
        for _ in 0..41 {
            let found = reader.read_checked(0..5, Priority::OnDemand, &|bytes| bytes == "right").await;
            assert_eq!(found.unwrap(), "right");
        }
        assert_eq!(hedging.seconds(), 1);
        assert!(read(&reader, 5, Priority::OnDemand).await.is_err() || wrong);
    }
}

#[tokio::test(start_paused = true)]
async fn reads_are_counted() {
    let inner = script(|n| match n {
        0 => (3 * SECOND / 1000, Ok("data".into())),
        1 => (SECOND, Err(refused())),
        _ => (HOUR, Ok("data".into())),
    });
    let meter = Arc::new(Meter::default());
    let reader = Metered::new(inner, Arc::clone(&meter));
    read(&reader, 4, Priority::OnDemand).await.unwrap();
    read(&reader, 4, Priority::OnDemand).await.unwrap_err();
    let mut hanging = read(&reader, 4, Priority::OnDemand).boxed();
    assert!((&mut hanging).now_or_never().is_none());
    let stats = meter.stats();
    assert_eq!((stats.reads, stats.errors, stats.bytes, stats.in_flight), (2, 1, 4, 1));
    assert_eq!(stats.latency.iter().sum::<u64>(), 2);
    drop(hanging);
    let stats = meter.stats();
    assert_eq!((stats.reads, stats.errors, stats.in_flight), (3, 2, 0), "nobody waited for it");
}
