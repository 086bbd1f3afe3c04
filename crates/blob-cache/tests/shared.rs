//! Mounts that share a blob share its data and its fetches, and never what one of them says wrongly.
#![allow(clippy::unwrap_used, reason = "tests")]

use blob_cache::{BlobCache, CacheDir, CacheOptions, Part};
use bytes::Bytes;
use rafs_format::{BlobFeatures, Compressor};
use std::path::Path;
use std::sync::Arc;
use testkit::blob::{self, TestBlob};
use testkit::reader::{Mood, TestReader};

const SIZES: [usize; 6] = [5000, 4096, 1, 70_000, 4097, 300_000];

fn sample() -> TestBlob {
    blob::of_sizes("sample", &SIZES, Compressor::Zstd)
}

fn reader(blob: &TestBlob) -> Arc<TestReader> {
    TestReader::new(blob.bytes.clone())
}

fn open(dir: &Arc<CacheDir>, blob: &TestBlob, image: &str, reader: &Arc<TestReader>) -> Arc<BlobCache> {
    Arc::new(dir.blob(&blob.blob, image, reader.clone(), CacheOptions::default()).unwrap())
}

fn whole(blob: &TestBlob, n: usize) -> Part {
    Part { chunk: blob.chunks[n], start: 0, end: blob.chunks[n].uncompressed_size }
}

/// Chunk `n`, at once where it is ready, else fetched. `None` for an error.
async fn read(cache: &Arc<BlobCache>, blob: &TestBlob, n: usize) -> Option<Bytes> {
    let part = whole(blob, n);
    let mut bytes = vec![0xEE; part.len()];
    if cache.try_read(&[part], &mut bytes) {
        return Some(bytes.into());
    }
    cache.fetch_part(&part).await.ok()
}

async fn assert_all_right(cache: &Arc<BlobCache>, blob: &TestBlob) {
    for n in 0..blob.chunks.len() {
        assert!(read(cache, blob, n).await.unwrap() == blob.plain[n], "chunk {n}");
    }
}

fn files(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    let mut names: Vec<_> = files.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn mounts_of_a_blob_share_what_one_of_them_fetched() {
    let (tmp, blob) = (tempfile::tempdir().unwrap(), sample());
    let dir = CacheDir::open(&tmp.path().join("new")).unwrap();
    let (first, second) = (reader(&blob), reader(&blob));
    let a = open(&dir, &blob, "a", &first);
    assert_all_right(&a, &blob).await;
    let b = open(&dir, &blob, "b", &second);
    for (n, &size) in SIZES.iter().enumerate() {
        assert!(b.try_read(&[whole(&blob, n)], &mut vec![0; size]), "chunk {n}");
    }
    assert_all_right(&b, &blob).await;
    assert!(second.requests().is_empty());
    // Who came first may go.
    drop(a);
    assert_all_right(&b, &blob).await;
    drop(b);
    let again = open(&dir, &blob, "c", &second);
    assert_all_right(&again, &blob).await;
    assert_eq!((again.stats().reverified, second.requests().len()), (6, 0), "closed and opened anew");
    assert_eq!(files(dir.path()), ["sample.blob.data", "sample.blob.data.chunk_map"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_mounts_of_twenty_images_fetch_each_chunk_once() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = CacheDir::open(tmp.path()).unwrap();
    // Image n has layers n, n + 1 and one that all have.
    let layer = |n: usize| blob::of_sizes(&format!("layer{n}"), &[4000 + n, 9000, 200], Compressor::Lz4Block);
    let layers: Vec<_> = (0..22).map(layer).collect();
    let readers: Vec<_> = layers.iter().map(reader).collect();
    let mount = |n: usize| {
        let image = n % 20;
        [image, image + 1, 21].map(|layer| {
            let name = format!("image{image}");
            (layer, open(&dir, &layers[layer], &name, &readers[layer]))
        })
    };
    let mounts: Vec<_> = (0..100).map(mount).collect();
    let reads = mounts.iter().flatten().map(|(layer, cache)| {
        let (cache, blob) = (cache.clone(), layers[*layer].clone());
        tokio::spawn(async move { assert_all_right(&cache, &blob).await })
    });
    for read in reads.collect::<Vec<_>>() {
        read.await.unwrap();
    }
    for (n, reader) in readers.iter().enumerate() {
        assert_eq!(reader.requests().len(), 3, "layer {n}");
    }
    assert_eq!(files(tmp.path()).len(), 2 * 22);
}

/// An image that names a blob and says something else of its chunks gets its own bytes, or none, and nobody else gets these.
#[tokio::test]
async fn images_that_contradict_each_other_never_see_each_others_bytes() {
    let good = sample();
    let mut other_bytes = blob::of_chunks(
        "sample",
        good.plain.iter().map(|plain| plain.iter().map(|byte| !byte).collect()).collect(),
        Compressor::Zstd,
    );
    other_bytes.blob.compressed_size = good.blob.compressed_size;
    // The longest but one, a block further to the front, in the place of a short one and over what is behind that.
    let mut overlapping = good.clone();
    overlapping.chunks = vec![good.chunks[0], good.chunks[1], good.chunks[3]];
    overlapping.plain = vec![good.plain[0].clone(), good.plain[1].clone(), good.plain[3].clone()];
    overlapping.chunks[2].index = 2;
    overlapping.chunks[2].uncompressed_offset -= 4096;
    // Two that have each other's place.
    let mut moved = good.clone();
    moved.chunks[1].uncompressed_offset = good.chunks[2].uncompressed_offset;
    moved.chunks[2].uncompressed_offset = good.chunks[1].uncompressed_offset;
    // Fewer chunks.
    let mut shorter = good.clone();
    shorter.blob.chunk_count = 5;
    shorter.chunks.truncate(5);
    shorter.plain.truncate(5);
    for (what, bad) in
        [("bytes", other_bytes), ("overlap", overlapping), ("moved", moved), ("shorter", shorter)]
    {
        for bad_first in [false, true] {
            for rounds in 1..3 {
                let tmp = tempfile::tempdir().unwrap();
                let dir = CacheDir::open(tmp.path()).unwrap();
                let (a, b) = if bad_first { (&bad, &good) } else { (&good, &bad) };
                let (one, two) = (open(&dir, a, "one", &reader(a)), open(&dir, b, "two", &reader(b)));
                for _ in 0..rounds {
                    for n in 0..6 {
                        for (cache, blob) in [(&one, a), (&two, b)] {
                            if n < blob.chunks.len() {
                                let found = read(cache, blob, n).await;
                                assert!(found.unwrap() == blob.plain[n], "{what}, {bad_first}, chunk {n}");
                            }
                        }
                    }
                }
                assert_all_right(&one, a).await;
                assert_all_right(&two, b).await;
                assert_eq!(files(tmp.path()).len(), 2, "what is not shared has no name");
            }
        }
    }
}

/// They may also ask at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flight_is_shared_by_those_that_want_the_same() {
    let good = sample();
    let bad = blob::of_chunks(
        "sample",
        good.plain.iter().map(|plain| plain.iter().map(|byte| !byte).collect()).collect(),
        Compressor::Zstd,
    );
    let tmp = tempfile::tempdir().unwrap();
    let dir = CacheDir::open(tmp.path()).unwrap();
    let (first, second) = (reader(&good), reader(&bad));
    let caches = [(open(&dir, &good, "good", &first), &good), (open(&dir, &bad, "bad", &second), &bad)];
    let reads = (0..40).map(|n: usize| {
        let (cache, blob) = (caches[n % 2].0.clone(), caches[n % 2].1.clone());
        tokio::spawn(async move { assert_all_right(&cache, &blob).await })
    });
    for read in reads.collect::<Vec<_>>() {
        read.await.unwrap();
    }
    for (cache, blob) in caches {
        assert_all_right(&cache, blob).await;
    }
}

#[tokio::test]
async fn what_an_earlier_process_left_belongs_to_whom_it_hashes_for() {
    let good = sample();
    let mut bad = good.clone();
    bad.chunks[3].digest = good.chunks[1].digest;
    let tmp = tempfile::tempdir().unwrap();
    {
        let dir = CacheDir::open(tmp.path()).unwrap();
        assert_all_right(&open(&dir, &good, "good", &reader(&good)), &good).await;
    }
    let dir = CacheDir::open(tmp.path()).unwrap();
    let lying = open(&dir, &bad, "bad", &reader(&bad));
    assert!(read(&lying, &bad, 3).await.is_none(), "neither found nor fetched");
    let backend = reader(&good);
    let honest = open(&dir, &good, "good", &backend);
    assert_all_right(&honest, &good).await;
    assert_eq!(backend.requests().len(), 1, "what the other one could not use is fetched again, and shared");
    assert!(read(&lying, &bad, 3).await.is_none());
    assert!(lying.try_read(&[whole(&bad, 5)], &mut vec![0; SIZES[5]]));
}

#[tokio::test]
async fn images_of_external_blobs_do_not_share_them() {
    let mut blob = sample();
    blob.blob.features |= BlobFeatures::EXTERNAL;
    let tmp = tempfile::tempdir().unwrap();
    let dir = CacheDir::open(tmp.path()).unwrap();
    let (one, two) = (reader(&blob), reader(&blob));
    let caches = [open(&dir, &blob, "one", &one), open(&dir, &blob, "two", &two)];
    for cache in &caches {
        assert_all_right(cache, &blob).await;
        assert_all_right(cache, &blob).await;
    }
    assert_eq!((one.requests().len(), two.requests().len()), (6, 6));
}

#[tokio::test]
async fn a_mount_whose_backend_is_away_uses_that_of_another_one() {
    let (tmp, blob) = (tempfile::tempdir().unwrap(), sample());
    let dir = CacheDir::open(tmp.path()).unwrap();
    let (dead, alive) = (reader(&blob), reader(&blob));
    dead.set(Mood::Failing);
    let a = open(&dir, &blob, "a", &dead);
    assert!(read(&a, &blob, 0).await.is_none());
    let b = open(&dir, &blob, "b", &alive);
    assert!(read(&a, &blob, 0).await.unwrap() == blob.plain[0]);
    assert_eq!((dead.requests().len(), alive.requests().len()), (2, 1));
    // A mount that is gone is not asked.
    drop(b);
    assert!(read(&a, &blob, 1).await.is_none());
    assert_eq!(alive.requests().len(), 1);
    // One that lies is asked and not believed.
    let liar = reader(&blob);
    liar.set(Mood::Lying);
    let c = open(&dir, &blob, "c", &liar);
    assert!(read(&a, &blob, 1).await.is_none());
    assert_eq!(liar.requests().len(), 1);
    assert!(read(&c, &blob, 1).await.is_none());
    dead.set(Mood::Healthy);
    assert_all_right(&a, &blob).await;
}

/// The mount with the healthy backend joined the fetch of the one whose backend hangs and then fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_that_waited_for_anothers_failure_tries_for_itself() {
    let (tmp, blob) = (tempfile::tempdir().unwrap(), sample());
    let dir = CacheDir::open(tmp.path()).unwrap();
    let (bad, alive) = (reader(&blob), reader(&blob));
    bad.set(Mood::Hanging);
    let (a, b) = (open(&dir, &blob, "a", &bad), open(&dir, &blob, "b", &alive));
    let (cache, sample) = (a.clone(), blob.clone());
    let first = tokio::spawn(async move { read(&cache, &sample, 3).await });
    while bad.requests().is_empty() {
        tokio::task::yield_now().await;
    }
    let (cache, sample) = (b.clone(), blob.clone());
    let second = tokio::spawn(async move { read(&cache, &sample, 3).await });
    tokio::task::yield_now().await;
    // What hung answers wrongly, which is an error of that mount.
    bad.release_as(Mood::Lying);
    assert!(second.await.unwrap().unwrap() == blob.plain[3]);
    let first = first.await.unwrap();
    assert!(first.is_none_or(|bytes| bytes == blob.plain[3]), "an error, or the other's chunk");
}
