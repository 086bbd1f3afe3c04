//! Figures of reading blobs from a network: one after the other from a real registry against curl, and many small ones at once from a
//! server that takes its time.
//!
//! `cargo bench -p tests --bench blobs [-- SECTION...]`. Prints what it measures and asserts nothing about time. Ours and the other alternate, ratios are
//! of two passes right after one another, and figures are medians. Data takes about 1 GB, removed at the end.
#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up has failed")]

#[path = "../../tests/docker/mod.rs"]
mod docker;
mod slow;

use blob_storage::{Backend, BlobReader, OpenOptions, Priority, config, open_backend};
use docker::{DockerRegistry, Kind, REPO};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use rafs_format::BlobId;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The blob that is read from start to end, in bytes.
const SIZE: u64 = 1 << 30;
/// Bytes asked for at once, and requests on their way: what a sequential reader of a mount comes to with readahead.
const PIECE: u64 = 4 << 20;
const AHEAD: usize = 4;
/// Small reads, how long the server takes for each, and how many wait at once.
const READS: u64 = 10_000;
const LATENCY: Duration = Duration::from_millis(5);
const WAITING: usize = 256;
const PASSES: usize = 5;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    // `cargo test --benches` starts this, too, but without that.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return println!("SKIPPED: figures are for `cargo bench`");
    }
    let sections: [(&str, fn()); 2] = [("sequential", sequential), ("small", small)];
    let all = !sections.iter().any(|(name, _)| arguments.iter().any(|wanted| wanted == name));
    for (name, run) in sections {
        if all || arguments.iter().any(|wanted| wanted == name) {
            println!("\n{name}");
            run();
        }
    }
}

/// The reader that a daemon would have for the blob `id` of the repository at `host`.
fn reader(host: &str, id: &str) -> Arc<dyn BlobReader> {
    let settings = format!(
        r#"{{"version": 2, "backend": {{"type": "registry", "registry":
            {{"scheme": "http", "host": "{host}", "repo": "{REPO}", "timeout": 60}}}}}}"#
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), settings).unwrap();
    let backend = config::load_backend(file.path()).unwrap();
    let backend = open_backend(&backend, &OpenOptions::default()).unwrap();
    backend.open(&BlobId::new(id).unwrap()).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A whole blob of a real registry.
fn sequential() {
    let Some(registry) = DockerRegistry::start(Kind::Open) else { return };
    let blob: Vec<u8> =
        (0..SIZE / 8).flat_map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()).collect();
    let id = registry.push(&blob);
    drop(blob);
    let host = format!("127.0.0.1:{}", registry.port);
    let url = format!("http://{host}/v2/{REPO}/blobs/sha256:{id}");
    let (mut curls, mut ours, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..PASSES {
        let curl = time(|| {
            let mut curl = Command::new("curl");
            let done = curl.args(["--silent", "--fail", "--output", "/dev/null", &url]).status().unwrap();
            assert!(done.success());
        });
        let own = time(|| runtime().block_on(read_all(&*reader(&host, id.as_str()))));
        curls.push(curl);
        ours.push(own);
        ratios.push(own / curl);
    }
    let rate = |seconds: f64| format!("{:.0} MB/s", to_f64(SIZE) / 1e6 / seconds);
    println!("  curl {}, ours {}", rate(median(&mut curls)), rate(median(&mut ours)));
    println!(
        "  time of ours by that of curl {:.2}, bar 1.15; passes {ratios:.2?}",
        median(&mut ratios.clone())
    );
}

/// All of a blob in order, a few pieces ahead.
async fn read_all(blob: &dyn BlobReader) {
    let pieces =
        stream::iter((0..SIZE / PIECE).map(|n| blob.read(n * PIECE..(n + 1) * PIECE, Priority::OnDemand)));
    let mut pieces = pieces.buffered(AHEAD);
    let mut found = 0;
    while let Some(piece) = pieces.try_next().await.unwrap() {
        found += piece.len() as u64;
    }
    assert_eq!(found, SIZE);
}

/// Many small reads of a server that answers each after a while.
fn small() {
    let server = slow::Server::start(LATENCY);
    let host = server.address().to_string();
    let blob = reader(&host, &"ab".repeat(32));
    let runtime = runtime();
    let least = LATENCY.as_secs_f64() * to_f64(READS) / WAITING as f64;
    let mut times = Vec::new();
    for _ in 0..PASSES {
        times.push(time(|| {
            runtime.block_on(async {
                let reads =
                    stream::iter((0..READS).map(|n| blob.read(n * 4096..(n + 1) * 4096, Priority::OnDemand)));
                let found = reads
                    .buffer_unordered(WAITING)
                    .try_fold(0, |sum, part| async move { Ok(sum + part.len()) });
                assert_eq!(found.await.unwrap() as u64, READS * 4096);
            });
        }));
    }
    let ratio = median(&mut times) / least;
    println!(
        "  {READS} reads of 4 KiB, {WAITING} at once, {LATENCY:?} each: {:.3} s, {ratio:.2} of the least possible, bar 2",
        median(&mut times)
    );
    println!(
        "  {:.0} reads per second; the server runs on the same CPUs",
        to_f64(READS) / median(&mut times)
    );
}

fn time(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn to_f64(number: u64) -> f64 {
    number as f64
}
