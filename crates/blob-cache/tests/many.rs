//! Chunks that are fetched before anybody reads them: few requests, each chunk once, and readers who come meanwhile get what they want.
#![allow(clippy::unwrap_used, reason = "tests")]

use blob_cache::{BlobCache, CacheOptions, Part};
use blob_storage::Priority;
use rafs_format::{Chunk, Compressor};
use std::path::Path;
use std::sync::Arc;
use testkit::blob::{self, TestBlob};
use testkit::reader::{Mood, TestReader};

const CHUNKS: usize = 40;

fn sample() -> TestBlob {
    let sizes: Vec<usize> = (0..CHUNKS).map(|n| 1 + n * 7919 % 70_000).collect();
    blob::of_sizes("sample", &sizes, Compressor::None)
}

fn open(dir: &Path, blob: &TestBlob, reader: &Arc<TestReader>) -> Arc<BlobCache> {
    Arc::new(BlobCache::open(dir, &blob.blob, reader.clone(), CacheOptions::default()).unwrap())
}

/// Which chunks are there to be read at once, and right.
fn ready(cache: &BlobCache, blob: &TestBlob) -> Vec<bool> {
    let is_there = |n: usize| {
        let part = Part { chunk: blob.chunks[n], start: 0, end: blob.chunks[n].uncompressed_size };
        let mut bytes = vec![0; part.len()];
        let found = cache.try_read(&[part], &mut bytes);
        assert!(!found || bytes == blob.plain[n], "chunk {n}");
        found
    };
    (0..blob.chunks.len()).map(is_there).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_are_fetched_by_few_requests_and_once() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), sample());
    let reader = TestReader::new(blob.bytes.clone());
    let cache = open(dir.path(), &blob, &reader);
    // Some are there, and are not fetched again.
    cache.fetch_all(&blob.chunks[10..12], Priority::Prefetch).await.unwrap();
    cache.fetch_all(&blob.chunks, Priority::Prefetch).await.unwrap();
    assert_eq!(ready(&cache, &blob), [true; CHUNKS]);
    let requests = reader.requests();
    let stored: u64 = blob.chunks.iter().map(|chunk| u64::from(chunk.compressed_size)).sum();
    let asked: u64 = requests.iter().map(|range| range.end - range.start).sum();
    assert!(
        requests.len() <= 5 && requests.iter().all(|range| range.end - range.start <= 1 << 20),
        "{requests:?}"
    );
    assert!(asked >= stored && asked <= stored + stored / 20, "{asked} for {stored}");
    let stats = cache.stats();
    assert_eq!((stats.fetches, stats.requests, stats.fetched_bytes), (40, requests.len() as u64, asked));
    cache.fetch_all(&blob.chunks, Priority::Prefetch).await.unwrap();
    assert_eq!(reader.requests().len(), requests.len(), "nothing is left to do");
    drop(cache);
    let cache = open(dir.path(), &blob, &reader);
    cache.fetch_all(&blob.chunks, Priority::Prefetch).await.unwrap();
    assert_eq!(ready(&cache, &blob), [true; CHUNKS]);
    assert_eq!((cache.stats().reverified, reader.requests().len()), (40, requests.len()), "found on disk");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn far_ones_are_asked_for_each_by_itself() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), sample());
    let reader = TestReader::new(blob.bytes.clone());
    let cache = open(dir.path(), &blob, &reader);
    let far: Vec<Chunk> = [30, 3, 17].map(|n| blob.chunks[n]).to_vec();
    cache.fetch_all(&far, Priority::OnDemand).await.unwrap();
    let mut asked = reader.requests();
    asked.sort_by_key(|range| range.start);
    let expected = [3, 17, 30].map(|n| {
        let start = blob.chunks[n].compressed_offset;
        start..start + u64::from(blob.chunks[n].compressed_size)
    });
    assert_eq!(asked, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_join_what_is_under_way() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), sample());
    let reader = TestReader::new(blob.bytes.clone());
    let cache = open(dir.path(), &blob, &reader);
    reader.set(Mood::Hanging);
    let early = tokio::spawn({
        let (cache, chunks) = (Arc::clone(&cache), blob.chunks[..5].to_vec());
        async move { cache.fetch_all(&chunks, Priority::Prefetch).await }
    });
    while reader.requests().is_empty() {
        tokio::task::yield_now().await;
    }
    let late: Vec<_> = (0..5)
        .map(|n| {
            let (cache, chunk) = (Arc::clone(&cache), blob.chunks[n]);
            tokio::spawn(async move { cache.fetch(&chunk).await })
        })
        .collect();
    reader.release();
    for (n, late) in late.into_iter().enumerate() {
        assert!(late.await.unwrap().unwrap().bytes()[..] == blob.plain[n]);
    }
    early.await.unwrap().unwrap();
    assert_eq!(reader.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_failed_early_is_tried_again_by_who_waits() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), sample());
    let reader = TestReader::new(blob.bytes.clone());
    let cache = open(dir.path(), &blob, &reader);
    reader.set(Mood::Hanging);
    let early = tokio::spawn({
        let (cache, chunks) = (Arc::clone(&cache), blob.chunks[..5].to_vec());
        async move { cache.fetch_all(&chunks, Priority::Prefetch).await }
    });
    while reader.requests().is_empty() {
        tokio::task::yield_now().await;
    }
    // It asks, and while nothing comes, joins.
    let late = cache.fetch(&blob.chunks[2]);
    let fail = async {
        tokio::task::yield_now().await;
        reader.release_as(Mood::Failing);
        assert!(early.await.unwrap().is_err());
    };
    let (late, ()) = tokio::join!(late, fail);
    assert!(late.is_err(), "the backend is away for readers, too");
    assert_eq!(reader.requests().len(), 2, "which the reader found out by itself");
    assert_eq!(ready(&cache, &blob), [false; CHUNKS]);
    reader.set(Mood::Healthy);
    cache.fetch_all(&blob.chunks, Priority::Prefetch).await.unwrap();
    assert_eq!(ready(&cache, &blob), [true; CHUNKS]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_in_an_answer_costs_only_itself() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), sample());
    let reader = TestReader::new(blob.bytes.clone());
    let cache = open(dir.path(), &blob, &reader);
    reader.set(Mood::Lying);
    assert!(cache.fetch_all(&blob.chunks[..5], Priority::Prefetch).await.is_err());
    let expected: Vec<bool> = (0..CHUNKS).map(|n| (1..5).contains(&n)).collect();
    assert_eq!(ready(&cache, &blob), expected, "the first byte was wrong");
    assert_eq!(reader.requests().len(), 2, "one for all, and one more for the wrong one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_abandons_its_flights() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), sample());
    let reader = TestReader::new(blob.bytes.clone());
    let cache = open(dir.path(), &blob, &reader);
    reader.set(Mood::Panicking);
    assert!(cache.fetch_all(&blob.chunks[..5], Priority::Prefetch).await.is_err());
    reader.set(Mood::Healthy);
    cache.fetch_all(&blob.chunks[..5], Priority::Prefetch).await.unwrap();
    assert!(ready(&cache, &blob)[..5].iter().all(|there| *there));
}

#[tokio::test]
async fn pieces_of_a_tar_are_chunks_like_any_other() {
    let bytes = blob::pattern(3, 3 << 20);
    let blob = blob::of_tar(bytes.clone(), &[(512, 2 << 20), (2_200_000, 100_000)]);
    let dir = tempfile::tempdir().unwrap();
    let reader = TestReader::new(blob.bytes.clone());
    let cache = open(dir.path(), &blob, &reader);
    cache.fetch_all(&blob.chunks, Priority::Prefetch).await.unwrap();
    let asked = reader.requests().len();
    for chunk in &blob.chunks {
        let part = Part { chunk: *chunk, start: 0, end: chunk.uncompressed_size };
        let mut found = vec![0; part.len()];
        assert!(cache.try_read(&[part], &mut found));
        let at = usize::try_from(chunk.compressed_offset).unwrap();
        assert!(found == bytes[at..at + found.len()]);
    }
    assert_eq!(reader.requests().len(), asked);
}

#[tokio::test]
async fn without_a_disk_nothing_is_fetched_early() {
    let blob = sample();
    let reader = TestReader::new(blob.bytes.clone());
    let cache = Arc::new(BlobCache::without_disk(&blob.blob, reader.clone()).unwrap());
    cache.fetch_all(&blob.chunks, Priority::Prefetch).await.unwrap();
    assert!(reader.requests().is_empty());
}
