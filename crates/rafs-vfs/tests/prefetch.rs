//! What is fetched before anybody asks: which chunks, in which order, beside readers, with failures and without room.
#![allow(clippy::unwrap_used, reason = "tests")]

use blob_cache::{BlobCache, CacheError, CacheOptions};
use proptest::prelude::*;
use rafs_format::Compressor;
use rafs_vfs::prefetch::{Files, Host, Limits, Prefetch, PrefetchState, PrefetchStats, What};
use rafs_vfs::profile::{Profile, Run};
use rafs_vfs::{Rafs, Read};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use testkit::image::{self, TestImage};
use testkit::reader::{Mood, TestReader};

const PAGE: usize = 4096;
const LIMITS: Limits = Limits { batch_size: 0, at_once: 4 };

/// `pages` pages of which no two are alike.
fn content(seed: u8, pages: usize) -> Vec<u8> {
    (0..pages * PAGE).map(|at| if at % 4 == 3 { seed } else { (at / 4).to_le_bytes()[at % 4] }).collect()
}

/// Files `a` (3 pages), `z` (5), `d/b` (2), `d/e/c` (1); chunks have numbers in this order, that of the builder.
fn sample() -> TestImage {
    let files =
        [("a", content(1, 3)), ("d/b", content(2, 2)), ("d/e/c", content(3, 1)), ("z", content(4, 5))];
    let files = files.each_ref().map(|(name, content)| (*name, content.as_slice()));
    image::of_files(&files, &image::options(4096, Compressor::None))
}

/// Counts what it is told, and gives room for so many portions.
#[derive(Debug)]
struct Counting {
    room: AtomicU64,
    progress: AtomicU64,
    failed: AtomicU64,
}

impl Counting {
    fn with_room(portions: u64) -> Arc<Self> {
        Arc::new(Self {
            room: AtomicU64::new(portions),
            progress: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }
}

impl Host for Counting {
    fn has_room(&self) -> bool {
        self.room.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    fn progress(&self, _stats: &PrefetchStats) {
        self.progress.fetch_add(1, Relaxed);
    }

    fn failed(&self, _error: &CacheError, _in_a_row: u32) {
        self.failed.fetch_add(1, Relaxed);
    }
}

struct Mounted {
    rafs: Arc<Rafs>,
    reader: Arc<TestReader>,
    _dir: tempfile::TempDir,
}

impl Mounted {
    fn new(image: &TestImage) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let reader = TestReader::new(image.blob.clone());
        let open = |blob| BlobCache::open(dir.path(), blob, reader.clone(), CacheOptions::default()).unwrap();
        let bootstrap = image.parsed();
        let caches = bootstrap.blobs().iter().map(|blob| Arc::new(open(blob))).collect();
        Self { rafs: Arc::new(Rafs::new(bootstrap, caches).unwrap()), reader, _dir: dir }
    }

    async fn prefetch(&self, what: What, host: &Arc<Counting>) -> PrefetchStats {
        Prefetch::new(Arc::clone(&self.rafs), what, LIMITS, host.clone()).run().await
    }

    /// Chunks that were asked for, in the order in which they were.
    fn asked(&self) -> Vec<u64> {
        let pages = |range: Range<u64>| range.start / PAGE as u64..range.end.div_ceil(PAGE as u64);
        self.reader.requests().into_iter().flat_map(pages).collect()
    }

    fn profile(&self, runs: &[(u32, u16)]) -> Profile {
        let blobs = self.rafs.views().unwrap().iter().map(|view| view.cache.blob().id.clone()).collect();
        let run = |&(chunk, count)| Run { blob: 0, chunk, count, millis: 0 };
        let runs = runs.iter().map(run).collect();
        Profile { image: self.rafs.profile_digest(), complete: true, blobs, runs }
    }

    fn read(&self, name: &str) -> Read {
        let nid = self.rafs.lookup(self.rafs.root(), name.as_bytes()).unwrap().unwrap().nid;
        self.rafs.read(nid, 0, &mut [0; 1]).unwrap()
    }
}

fn listed(paths: &[&str]) -> What {
    let paths = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
    What { files: Files::Listed(paths), ..What::default() }
}

#[tokio::test]
async fn listed_files_and_directories_are_fetched_and_nothing_else() {
    for (paths, expected) in [
        (&["/d"][..], &[8u64, 9, 10][..]),
        (&["/z", "/d/e/c"], &[3, 4, 5, 6, 7, 10]),
        (&["/d/b", "/d"], &[8, 9, 10]),
        (&["/"], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (&[], &[]),
    ] {
        let mounted = Mounted::new(&sample());
        let stats = mounted.prefetch(listed(paths), &Counting::with_room(99)).await;
        let mut asked = mounted.asked();
        asked.sort_unstable();
        assert_eq!(asked, expected, "{paths:?}");
        assert_eq!((stats.state, stats.chunks), (PrefetchState::Done, expected.len() as u64));
        assert_eq!((stats.bytes, stats.total_bytes), (stats.chunks * 4096, stats.chunks * 4096));
        assert!(stats.began <= stats.ended && stats.began.is_some());
    }
}

#[tokio::test]
async fn what_is_not_there_is_counted_and_skipped() {
    let mounted = Mounted::new(&sample());
    let mut profile = mounted.profile(&[(9, 1), (10, 5)]);
    profile.blobs.push(rafs_format::BlobId::new("elsewhere").unwrap());
    profile.runs.push(Run { blob: 1, chunk: 0, count: 7, millis: 1 });
    let what = What { profile: Some(profile), ..listed(&["/no", "/a/b", "/a"]) };
    let stats = mounted.prefetch(what, &Counting::with_room(99)).await;
    assert_eq!((stats.state, stats.chunks), (PrefetchState::Done, 5));
    assert_eq!((stats.unknown_chunks, stats.missing_paths), (4 + 7, 2));
    assert_eq!(stats.first_missing, [b"/no".to_vec(), b"/a/b".to_vec()]);
    assert_eq!(mounted.asked().into_iter().collect::<BTreeSet<_>>(), [0, 1, 2, 9, 10].into());
}

#[tokio::test]
async fn the_profile_comes_first_then_files_then_the_rest_and_each_chunk_once() {
    let mounted = Mounted::new(&sample());
    let profile = mounted.profile(&[(10, 1), (2, 1)]);
    let what = What { profile: Some(profile), all: true, ..listed(&["/d/b"]) };
    let limits = Limits { at_once: 1, ..LIMITS };
    Prefetch::new(Arc::clone(&mounted.rafs), what, limits, Counting::with_room(99)).run().await;
    let asked = mounted.asked();
    let set = |range: &[u64]| range.iter().copied().collect::<BTreeSet<_>>();
    // Within a portion the order is that of the blob, or any.
    assert_eq!(set(&asked[..2]), set(&[2, 10]));
    assert_eq!(set(&asked[2..4]), set(&[8, 9]));
    assert_eq!(set(&asked[4..]), set(&[0, 1, 3, 4, 5, 6, 7]));
    assert_eq!(asked.len(), 11);
}

#[tokio::test]
async fn what_was_fetched_early_is_there_without_another_request() {
    let mounted = Mounted::new(&sample());
    mounted.prefetch(What { all: true, ..What::default() }, &Counting::with_room(99)).await;
    let before = mounted.reader.requests().len();
    assert!(matches!(mounted.read("z"), Read::Done(1)) && matches!(mounted.read("a"), Read::Done(1)));
    let again = mounted.prefetch(What { all: true, ..What::default() }, &Counting::with_room(99)).await;
    assert_eq!((again.chunks, mounted.reader.requests().len()), (11, before));
}

/// An image of one file of `portions` portions of the shortest length.
fn long(portions: usize) -> TestImage {
    image::of_files(&[("f", &content(7, portions * 32))], &image::options(4096, Compressor::None))
}

#[tokio::test]
async fn it_ends_where_there_is_no_room() {
    let mounted = Mounted::new(&long(5));
    let host = Counting::with_room(2);
    let stats = mounted.prefetch(What { all: true, ..What::default() }, &host).await;
    assert_eq!(stats.state, PrefetchState::Full);
    assert!(mounted.asked().len() <= 64, "at most two portions of 32 chunks");
    assert!(stats.chunks <= 64 && stats.total_bytes > stats.bytes);
}

#[tokio::test(start_paused = true)]
async fn failures_pause_it_and_what_failed_is_tried_once_more() {
    let mounted = Mounted::new(&long(3));
    let host = Counting::with_room(999);
    mounted.reader.set(Mood::Failing);
    let began = tokio::time::Instant::now();
    let prefetch =
        Prefetch::new(Arc::clone(&mounted.rafs), What { all: true, ..What::default() }, LIMITS, host.clone());
    let progress = prefetch.progress();
    let stats = prefetch.run().await;
    assert_eq!((stats.state, stats.chunks, stats.failed), (PrefetchState::Done, 0, 96));
    assert_eq!((host.failed.load(Relaxed), progress.stats()), (6, stats));
    assert!(began.elapsed() >= Duration::from_secs(1 + 2 + 4), "time that is made up by the test");
    // The backend recovers while it pauses.
    let run = tokio::spawn(
        Prefetch::new(Arc::clone(&mounted.rafs), What { all: true, ..What::default() }, LIMITS, host).run(),
    );
    while mounted.reader.requests().len() < 6 + 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    mounted.reader.set(Mood::Healthy);
    let stats = run.await.unwrap();
    assert_eq!((stats.state, stats.chunks, stats.failed), (PrefetchState::Done, 96, 0));
}

#[tokio::test(start_paused = true)]
async fn beside_a_reader_no_more_than_one_portion_is_under_way() {
    let mounted = Mounted::new(&long(20));
    // Nobody has been waiting for so long that several portions may be.
    tokio::time::advance(Duration::from_secs(60)).await;
    mounted.reader.set(Mood::Hanging);
    let cold = mounted.read("f");
    let what = What { all: true, ..What::default() };
    let run = tokio::spawn(
        Prefetch::new(Arc::clone(&mounted.rafs), what.clone(), LIMITS, Counting::with_room(999)).run(),
    );
    // The chunks of one portion are one request; a portion beside it would be another one. The plan is made by a thread, in real time.
    while mounted.reader.requests().is_empty() {
        std::thread::sleep(Duration::from_millis(1));
        tokio::task::yield_now().await;
    }
    std::thread::sleep(Duration::from_millis(50));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(mounted.reader.requests().len(), 1);
    drop(cold);
    // When the reader has gone, more and more start.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(mounted.reader.requests().len(), 4);
    mounted.reader.release();
    assert_eq!(run.await.unwrap().chunks, 640);
}

#[tokio::test]
async fn dropped_it_ends() {
    let mounted = Mounted::new(&long(20));
    mounted.reader.set(Mood::Hanging);
    let prefetch = Prefetch::new(
        Arc::clone(&mounted.rafs),
        What { all: true, ..What::default() },
        LIMITS,
        Counting::with_room(999),
    );
    let run = tokio::spawn(prefetch.run());
    while mounted.reader.requests().is_empty() {
        tokio::task::yield_now().await;
    }
    run.abort();
    assert!(run.await.unwrap_err().is_cancelled());
    mounted.reader.release();
    // What was under way may end; nothing new begins.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(mounted.reader.requests().len() <= 4);
}

#[tokio::test]
async fn tables_of_both_versions_are_followed() {
    let Some(golden) = testkit::tree::golden() else { return };
    for (name, some) in [
        ("v6-dir-prefetch", true),
        ("v5-dir-prefetch", true),
        ("v5-dir-prefetch-blob", true),
        ("v6-dir-zstd", false),
    ] {
        let bytes = std::fs::read(testkit::tree::bootstrap(&golden, name)).unwrap();
        let bootstrap = rafs_format::Bootstrap::parse(bytes).unwrap();
        let blobs = testkit::tree::all_blobs(&golden);
        let cache = tempfile::tempdir().unwrap();
        let open = |blob: &rafs_format::Blob| {
            let reader = TestReader::new(std::fs::read(blobs.path().join(blob.id.as_str())).unwrap());
            Arc::new(BlobCache::open(cache.path(), blob, reader, CacheOptions::default()).unwrap())
        };
        let caches = bootstrap.blobs().iter().map(open).collect();
        let wanted: Vec<_> = bootstrap.prefetch().filter_map(|nid| bootstrap.inode(nid).ok()).collect();
        let ranges = (0..bootstrap.blobs().len()).any(|blob| !bootstrap.readahead(blob).is_empty());
        let rafs = Arc::new(Rafs::new(bootstrap, caches).unwrap());
        let what = What { files: Files::Table, ..What::default() };
        let stats = Prefetch::new(Arc::clone(&rafs), what, LIMITS, Counting::with_room(9999)).run().await;
        assert_eq!((stats.state, stats.chunks > 0, stats.failed), (PrefetchState::Done, some, 0), "{name}");
        assert_eq!(some, ranges || !wanted.is_empty(), "{name}");
        for file in wanted.iter().filter(|inode| inode.file_type == rafs_format::FileType::Regular) {
            let mut bytes = vec![0; usize::try_from(file.size).unwrap()];
            assert!(matches!(rafs.read(file.nid, 0, &mut bytes).unwrap(), Read::Done(_)), "{name}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_profile_and_list_fetch_what_they_name_and_no_more(
        runs in prop::collection::vec((0u32..14, 1u16..5), 0..8), paths in prop::collection::vec(0usize..5, 0..4),
    ) {
        let files = [("/a", 0..3u64), ("/d/b", 8..10), ("/d/e", 10..11), ("/d", 8..11), ("/z", 3..8)];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mounted = Mounted::new(&sample());
        let named: Vec<_> = paths.iter().map(|&n| files[n].0).collect();
        let what = What { profile: Some(mounted.profile(&runs)), ..listed(&named) };
        let stats = runtime.block_on(mounted.prefetch(what, &Counting::with_room(99)));
        let mut expected: BTreeSet<u64> = paths.iter().flat_map(|&n| files[n].1.clone()).collect();
        let recorded = runs.iter().flat_map(|&(chunk, count)| (u64::from(chunk)..).take(count.into()));
        expected.extend(recorded.clone().filter(|&chunk| chunk < 11));
        let mut asked = mounted.asked();
        asked.sort_unstable();
        prop_assert_eq!(asked, expected.into_iter().collect::<Vec<_>>());
        prop_assert_eq!(stats.unknown_chunks, recorded.filter(|&chunk| chunk >= 11).count() as u64);
    }
}
