//! The cache's promises: verified bytes or an error, one fetch for all readers of a chunk, nothing remembered of failures, nothing trusted on disk.
#![allow(clippy::unwrap_used, reason = "tests")]

use blob_cache::{BlobCache, CacheError, CacheOptions, Part};
use blob_storage::{Backend, Care, Priority, Route, RouteKind, Routes};
use futures_util::FutureExt;
use proptest::prelude::*;
use rafs_format::{BlobFeatures, Compressor};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use testkit::blob::{self, TestBlob};
use testkit::reader::{Mood, OneBlob, TestReader};

const SIZES: [usize; 6] = [5000, 4096, 1, 70_000, 4097, 300_000];

fn sample() -> TestBlob {
    blob::of_sizes("sample", &SIZES, Compressor::Zstd)
}

fn open(dir: &Path, blob: &TestBlob, reader: &Arc<TestReader>) -> Arc<BlobCache> {
    open_with(dir, blob, reader, false)
}

fn open_with(dir: &Path, blob: &TestBlob, reader: &Arc<TestReader>, validate: bool) -> Arc<BlobCache> {
    Arc::new(BlobCache::open(dir, &blob.blob, reader.clone(), CacheOptions { validate }).unwrap())
}

/// All of chunk `n`.
fn whole(blob: &TestBlob, n: usize) -> Part {
    Part { chunk: blob.chunks[n], start: 0, end: blob.chunks[n].uncompressed_size }
}

/// Reads a part: at once where its chunk is ready, else fetched.
async fn read(cache: &Arc<BlobCache>, part: Part) -> Result<Vec<u8>, Arc<CacheError>> {
    let mut bytes = vec![0xEE; part.len()];
    if cache.try_read(&[part], &mut bytes) {
        return Ok(bytes);
    }
    Ok(cache.fetch_part(&part).await?.to_vec())
}

async fn assert_all_right(cache: &Arc<BlobCache>, blob: &TestBlob) {
    for n in 0..blob.chunks.len() {
        assert!(read(cache, whole(blob, n)).await.unwrap() == blob.plain[n], "chunk {n}");
    }
}

/// The data file, for damaging it.
fn data_file(dir: &Path) -> std::fs::File {
    std::fs::File::options().write(true).open(dir.join("sample.blob.data")).unwrap()
}

#[tokio::test]
async fn a_chunk_is_fetched_once_and_then_read_from_disk() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), sample());
    let reader = TestReader::new(blob.bytes.clone());
    let cache = open(dir.path(), &blob, &reader);
    assert!(!cache.try_read(&[whole(&blob, 3)], &mut vec![0; SIZES[3]]));
    assert_all_right(&cache, &blob).await;
    assert_all_right(&cache, &blob).await;
    let stored =
        |c: &rafs_format::Chunk| c.compressed_offset..c.compressed_offset + u64::from(c.compressed_size);
    let expected: Vec<_> = blob.chunks.iter().map(stored).collect();
    assert_eq!(reader.requests(), expected, "each chunk once, and nothing but chunks");
    assert_eq!(cache.stats().fetches, 6);
    assert_eq!(cache.stats().fetched_bytes, blob.bytes.len() as u64);
    // The file is the decompressed blob.
    let data = std::fs::read(dir.path().join("sample.blob.data")).unwrap();
    assert_eq!(data.len() as u64, blob.blob.uncompressed_size);
    for (chunk, plain) in blob.chunks.iter().zip(&blob.plain) {
        let start = usize::try_from(chunk.uncompressed_offset).unwrap();
        assert!(data[start..start + plain.len()] == plain[..]);
    }
}

#[test]
fn a_short_chunk_at_hand_is_fetched_without_another_thread() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), sample());
    let reader = TestReader::new(blob.bytes.clone());
    let cache = open(dir.path(), &blob, &reader);
    // No runtime is there to hand anything to.
    let fetched = cache.fetch_part(&whole(&blob, 3)).now_or_never();
    assert!(fetched.unwrap().unwrap() == blob.plain[3]);
}

#[tokio::test]
async fn the_map_on_disk_is_the_one_of_2_x() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), sample());
    let cache = open(dir.path(), &blob, &TestReader::new(blob.bytes.clone()));
    for n in [0, 3, 5] {
        read(&cache, whole(&blob, n)).await.unwrap();
    }
    let map = std::fs::read(dir.path().join("sample.blob.data.chunk_map")).unwrap();
    assert_eq!(map.len(), 4097);
    assert_eq!(map[..16], [0x50, 0x41, 0x4D, 0x42, 1, 0, 0, 0, 0x50, 0x41, 0x4D, 0x43, 0, 0, 0, 0]);
    assert_eq!(map[4096], 0b1001_0100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_one_chunk_share_one_fetch() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), sample());
    let reader = TestReader::new(blob.bytes.clone());
    reader.set(Mood::Hanging);
    let cache = open(dir.path(), &blob, &reader);
    let start = |n: u32| {
        let (cache, mut part) = (cache.clone(), whole(&blob, 3));
        (part.start, part.end) = (n, n + 1000);
        tokio::spawn(async move { read(&cache, part).await.unwrap() })
    };
    let readers: Vec<_> = (0..64).map(start).collect();
    while reader.requests().is_empty() {
        tokio::task::yield_now().await;
    }
    // A reader that gives up does not end the flight.
    readers[0].abort();
    reader.release();
    for (n, reader) in readers.into_iter().enumerate().skip(1) {
        assert!(reader.await.unwrap() == blob.plain[3][n..n + 1000]);
    }
    assert_eq!(reader.requests().len(), 1);
}

#[tokio::test]
async fn a_failure_is_told_to_all_and_remembered_by_nobody() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), sample());
    let reader = TestReader::new(blob.bytes.clone());
    let cache = open(dir.path(), &blob, &reader);
    // Long enough that the first reader does not have it before the second one comes.
    for (mood, expected) in [
        (Mood::Failing, "fetching chunk 5 of blob sample"),
        (Mood::Lying, "decoding chunk 5 of blob sample"),
        (Mood::Panicking, "fetch of chunk 5 of blob sample was abandoned"),
    ] {
        reader.set(mood);
        let (one, two) = tokio::join!(read(&cache, whole(&blob, 5)), read(&cache, whole(&blob, 5)));
        assert_eq!(one.unwrap_err().to_string(), expected);
        assert_eq!(two.unwrap_err().to_string(), expected);
    }
    assert_eq!(reader.requests().len(), 3);
    reader.set(Mood::Healthy);
    assert!(read(&cache, whole(&blob, 5)).await.unwrap() == blob.plain[5]);
}

#[tokio::test]
async fn chunks_that_are_wrong_are_neither_shown_nor_kept() {
    let dir = tempfile::tempdir().unwrap();
    let blob = blob::of_sizes("sample", &SIZES, Compressor::None);
    let reader = TestReader::new(blob.bytes.clone());
    reader.set(Mood::Lying);
    let cache = open(dir.path(), &blob, &reader);
    for n in 0..blob.chunks.len() {
        let error = read(&cache, whole(&blob, n)).await.unwrap_err();
        assert_eq!(error.to_string(), format!("verifying chunk {n} of blob sample"));
    }
    let data = std::fs::read(dir.path().join("sample.blob.data")).unwrap();
    assert!(data.iter().all(|&byte| byte == 0), "nothing unverified is written");
    reader.set(Mood::Healthy);
    assert_all_right(&cache, &blob).await;
}

#[tokio::test]
async fn one_flipped_byte_anywhere_in_the_blob_is_an_error() {
    for compressor in [Compressor::None, Compressor::Lz4Block, Compressor::Zstd] {
        let blob = blob::of_sizes("flip", &[3000, 200, 4096], compressor);
        for at in 0..blob.bytes.len() {
            let mut bytes = blob.bytes.to_vec();
            bytes[at] ^= 1 << (at % 8);
            let cache = Arc::new(BlobCache::without_disk(&blob.blob, TestReader::new(bytes)).unwrap());
            let mut bad = 0;
            for n in 0..3 {
                match read(&cache, whole(&blob, n)).await {
                    Ok(found) => assert!(found == blob.plain[n], "{compressor:?}, byte {at}: wrong bytes"),
                    Err(error) => {
                        assert!(error.to_string().contains(&format!("chunk {n} of blob flip")), "{error}");
                        bad += 1;
                    }
                }
            }
            // Of compressed forms, a few bits may carry nothing.
            assert!(bad == 1 || (bad == 0 && compressor != Compressor::None), "{compressor:?}, byte {at}");
        }
    }
}

#[tokio::test]
async fn what_is_found_on_disk_is_hashed_before_it_is_shown() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), sample());
    let reader = TestReader::new(blob.bytes.clone());
    assert_all_right(&open(dir.path(), &blob, &reader), &blob).await;
    let again = open(dir.path(), &blob, &reader);
    assert_all_right(&again, &blob).await;
    assert_eq!((again.stats().fetches, again.stats().reverified, again.stats().damaged), (0, 6, 0));
    drop(again);
    // One byte of each chunk changed.
    let mut file = data_file(dir.path());
    for chunk in &blob.chunks {
        file.seek(SeekFrom::Start(chunk.uncompressed_offset)).unwrap();
        file.write_all(b"\xA5").unwrap();
    }
    let damaged = open(dir.path(), &blob, &reader);
    assert_all_right(&damaged, &blob).await;
    assert_eq!((damaged.stats().fetches, damaged.stats().damaged), (6, 6));
    assert_all_right(&damaged, &blob).await;
    assert_eq!(damaged.stats().fetches, 6, "it was repaired");
}

#[tokio::test]
async fn files_of_any_shape_are_taken_for_what_they_are_worth() {
    let blob = sample();
    let reader = TestReader::new(blob.bytes.clone());
    let full = tempfile::tempdir().unwrap();
    assert_all_right(&open(full.path(), &blob, &reader), &blob).await;
    let data = std::fs::read(full.path().join("sample.blob.data")).unwrap();
    let map = std::fs::read(full.path().join("sample.blob.data.chunk_map")).unwrap();
    let all_bits = [&map[..4096], &[0xFF]].concat();
    let zeros = vec![0; data.len()];
    let (longer, longer_map) = ([&data[..], b"more"].concat(), [&map[..], b"x"].concat());
    type File<'a> = Option<&'a [u8]>;
    let states: [(&str, File<'_>, File<'_>); 9] = [
        ("no data", None, Some(&map)),
        ("no map", Some(&data), None),
        ("empty", Some(b""), Some(b"")),
        ("data cut", Some(&data[..9000]), Some(&map)),
        ("data too long", Some(&longer), Some(&map)),
        ("map cut", Some(&data), Some(&map[..4000])),
        ("map too long", Some(&data), Some(&longer_map)),
        ("map of zeros", Some(&data), Some(&[0; 4097])),
        ("data of zeros", Some(&zeros), Some(&all_bits)),
    ];
    for (what, data, map) in states {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in [("sample.blob.data", data), ("sample.blob.data.chunk_map", map)] {
            if let Some(content) = content {
                std::fs::write(dir.path().join(name), content).unwrap();
            }
        }
        for _ in 0..2 {
            let cache = open(dir.path(), &blob, &reader);
            for n in 0..blob.chunks.len() {
                assert!(read(&cache, whole(&blob, n)).await.unwrap() == blob.plain[n], "{what}, chunk {n}");
            }
        }
        let last = open(dir.path(), &blob, &reader);
        assert_all_right(&last, &blob).await;
        assert_eq!(last.stats().fetches, 0, "{what}: rebuilt");
    }
}

#[tokio::test]
async fn validation_catches_damage_at_any_time() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), sample());
    let reader = TestReader::new(blob.bytes.clone());
    let cache = open_with(dir.path(), &blob, &reader, true);
    assert_all_right(&cache, &blob).await;
    let file = data_file(dir.path());
    file.set_len(0).unwrap();
    file.set_len(blob.blob.uncompressed_size).unwrap();
    assert_all_right(&cache, &blob).await;
    assert_eq!(cache.stats().damaged, 6);
}

#[tokio::test]
async fn a_file_that_lost_its_end_is_fetched_again() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), sample());
    let reader = TestReader::new(blob.bytes.clone());
    let cache = open(dir.path(), &blob, &reader);
    assert_all_right(&cache, &blob).await;
    data_file(dir.path()).set_len(0).unwrap();
    assert!(!cache.try_read(&[whole(&blob, 5)], &mut vec![0; SIZES[5]]));
    data_file(dir.path()).set_len(blob.blob.uncompressed_size).unwrap();
    assert!(read(&cache, whole(&blob, 5)).await.unwrap() == blob.plain[5]);
    assert_eq!(cache.stats().fetches, 7);
}

#[tokio::test]
async fn files_may_be_removed_while_they_are_used() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), sample());
    let reader = TestReader::new(blob.bytes.clone());
    let cache = open(dir.path(), &blob, &reader);
    read(&cache, whole(&blob, 0)).await.unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_all_right(&cache, &blob).await;
    assert_all_right(&cache, &blob).await;
    assert_eq!(cache.stats().fetches, 6);
}

#[tokio::test]
async fn a_second_user_of_the_files_keeps_a_copy_of_its_own() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), sample());
    let reader = TestReader::new(blob.bytes.clone());
    let first = open(dir.path(), &blob, &reader);
    assert_all_right(&first, &blob).await;
    // The second one has another idea of what the blob holds.
    let mut plain = blob.plain.clone();
    plain[0][0] ^= 1;
    let other = blob::of_chunks("sample", plain, Compressor::None);
    let second = open(dir.path(), &other, &TestReader::new(other.bytes.clone()));
    assert_all_right(&second, &other).await;
    assert_all_right(&second, &other).await;
    assert_eq!(second.stats().fetches, 6, "it is a cache, too");
    assert_all_right(&first, &blob).await;
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "the copy has no name");
    drop((first, second));
    let third = open(dir.path(), &blob, &reader);
    assert_all_right(&third, &blob).await;
    assert_eq!(third.stats().fetches, 0);
}

/// A file system of 1 MiB.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    /// `None`, told, where mounting is not allowed.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let flags = rustix::mount::MountFlags::empty();
        match rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, Some(c"size=1m")) {
            Ok(()) => Some(Self { dir }),
            Err(error) => {
                eprintln!("SKIPPED: a tmpfs cannot be mounted: {error}");
                None
            }
        }
    }

    fn grow(&self) {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount_remount(self.dir.path(), flags, "size=16m").unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(self.dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[tokio::test]
async fn a_full_disk_costs_the_cache_and_nothing_else() {
    let Some(small) = SmallDisk::mount() else { return };
    let blob = blob::of_sizes("big", &[500_000; 6], Compressor::Zstd);
    let reader = TestReader::new(blob.bytes.clone());
    let cache = open(&small.dir.path().join("cache"), &blob, &reader);
    assert_all_right(&cache, &blob).await;
    assert_all_right(&cache, &blob).await;
    let stats = cache.stats();
    assert!(stats.write_errors > 0 && stats.fetches > 6, "{stats:?}");
    // Room again, and it recovers by itself.
    small.grow();
    assert_all_right(&cache, &blob).await;
    let before = cache.stats().fetches;
    assert_all_right(&cache, &blob).await;
    assert_eq!(cache.stats().fetches, before);
}

#[tokio::test]
async fn every_failure_point_leaves_only_good_chunks() {
    let blob = sample();
    for healthy in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(dir.path(), &blob, &TestReader::failing_after(blob.bytes.clone(), healthy));
        let mut done = true;
        for n in 0..blob.chunks.len() {
            match read(&cache, whole(&blob, n)).await {
                Ok(found) => assert!(found == blob.plain[n]),
                Err(_) => done = false,
            }
        }
        drop(cache);
        let again = open(dir.path(), &blob, &TestReader::new(blob.bytes.clone()));
        assert_all_right(&again, &blob).await;
        assert_eq!(again.stats().damaged, 0, "a ready chunk lies, n = {healthy}");
        assert_eq!(again.stats().fetches, 6u64.saturating_sub(healthy));
        if done {
            return;
        }
    }
}

#[tokio::test]
async fn places_outside_the_blob_are_errors() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), sample());
    let cache = open(dir.path(), &blob, &TestReader::new(blob.bytes.clone()));
    let mut beyond = whole(&blob, 0);
    beyond.chunk.compressed_offset = blob.bytes.len() as u64;
    assert_eq!(read(&cache, beyond).await.unwrap_err().to_string(), "place of chunk 0 of blob sample");
    let mut overflowing = whole(&blob, 0);
    overflowing.chunk.compressed_offset = u64::MAX;
    assert!(read(&cache, overflowing).await.is_err());
    let mut longer = whole(&blob, 0);
    longer.end += 1;
    assert!(read(&cache, longer).await.is_err());
    let mut unknown = whole(&blob, 0);
    unknown.chunk.index = 6;
    assert!(read(&cache, unknown).await.is_err());
}

/// Chunks of an external blob have checksums instead of digests: fetched and found in the cache they are verified by these, and not read without.
#[tokio::test]
async fn external_blobs_are_verified_by_checksums() {
    let mut blob = sample();
    blob.blob.features |= BlobFeatures::EXTERNAL;
    for (chunk, plain) in blob.chunks.iter_mut().zip(&blob.plain) {
        chunk.digest = rafs_format::Digest([0; 32]);
        chunk.flags |= rafs_format::ChunkFlags::HAS_CRC;
        chunk.crc32 = rafs_merkle::crc32c(plain);
    }
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let reader = TestReader::new(blob.bytes.clone());
        let cache = BlobCache::open(dir.path(), &blob.blob, reader.clone(), CacheOptions::default());
        (Arc::new(cache.unwrap()), reader)
    };
    let (cache, _) = open();
    assert_all_right(&cache, &blob).await;
    drop(cache);
    let (cache, reader) = open();
    reader.set(Mood::Failing);
    assert_all_right(&cache, &blob).await;
    let cache = Arc::new(BlobCache::without_disk(&blob.blob, TestReader::new(blob.bytes.clone())).unwrap());
    let mut wrong = whole(&blob, 0);
    wrong.chunk.crc32 ^= 1;
    let error = cache.fetch(&wrong.chunk).await.unwrap_err();
    assert!(matches!(*error, CacheError::External { .. }), "{error}");
    let mut nothing = whole(&blob, 1);
    nothing.chunk.flags -= rafs_format::ChunkFlags::HAS_CRC;
    let error = cache.fetch(&nothing.chunk).await.unwrap_err();
    let source = std::error::Error::source(&*error).unwrap().to_string();
    assert!(source.contains("neither a digest nor a checksum"), "{source}");
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let (blob, nowhere) = (sample(), Path::new("/dev/null/cache"));
    let reader = TestReader::new(blob.bytes.clone());
    let error = BlobCache::open(nowhere, &blob.blob, reader, CacheOptions::default()).unwrap_err();
    assert!(error.to_string().contains("/dev/null/cache/sample.blob.data"), "{error}");
}

/// Two chunks as one batch, stored as it is, with the chunk table behind it.
fn batched() -> TestBlob {
    let mut sample = blob::of_sizes("batched", &[3000, 2000], Compressor::None);
    let entry = |n: u64, size: u64, start: u32| {
        let word = n | (size - 1) << 32 | 5 << 56;
        [&word.to_le_bytes()[..], &[0; 8], &start.to_le_bytes(), &[0; 4]].concat()
    };
    let batch = [&5000u32.to_le_bytes()[..], &5000u32.to_le_bytes(), &[0; 32]].concat();
    let table = [entry(0, 3000, 0), entry(1, 2000, 3000), batch].concat();
    let size = table.len() as u64;
    let header = rafs_format::blob_meta::Header {
        features: sample.blob.features | BlobFeatures::CHUNK_INFO_V2 | BlobFeatures::BATCH,
        compressor: Compressor::None,
        entries: 2,
        compressed_offset: 5000,
        compressed_size: size,
        uncompressed_size: size,
        contexts: rafs_format::blob_meta::Contexts { offset: 48, size: 40, count: 1 },
    }
    .encode();
    sample.blob.features |= BlobFeatures::CHUNK_INFO_V2 | BlobFeatures::BATCH;
    sample.blob.meta.compressed_size = size;
    sample.blob.meta.uncompressed_size = size;
    sample.bytes = [&sample.bytes[..], &table, &header].concat().into();
    sample
}

#[tokio::test]
async fn a_batch_is_fetched_whole_for_all_of_its_chunks() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), batched());
    let reader = TestReader::new(blob.bytes.clone());
    let cache = open(dir.path(), &blob, &reader);
    cache.fetch_all(&blob.chunks, Priority::Prefetch).await.unwrap();
    assert_eq!(reader.requests(), [5000..9184, 0..5000], "the table, then the batch");
    assert_all_right(&cache, &blob).await;
    assert_eq!(reader.requests().len(), 2);
}

#[tokio::test]
async fn a_wrong_batch_or_table_is_not_remembered() {
    let blob = batched();
    let reader = TestReader::new(blob.bytes.clone());
    let cache = Arc::new(BlobCache::without_disk(&blob.blob, reader.clone()).unwrap());
    assert_all_right(&cache, &blob).await;
    assert_eq!(reader.requests(), [5000..9184, 0..5000], "the table, then the batch, once for both chunks");
    // A batch that is wrong where the first chunk is: only that fails, and it heals.
    let cache = Arc::new(BlobCache::without_disk(&blob.blob, reader.clone()).unwrap());
    reader.set(Mood::Lying);
    assert!(read(&cache, whole(&blob, 0)).await.is_err(), "the table lies");
    reader.set(Mood::Healthy);
    assert!(read(&cache, whole(&blob, 1)).await.unwrap() == blob.plain[1]);
    let cache = Arc::new(BlobCache::without_disk(&blob.blob, reader.clone()).unwrap());
    let mut wrong = whole(&blob, 1);
    wrong.chunk.digest = blob.chunks[0].digest;
    assert!(read(&cache, wrong).await.is_err());
    let before = reader.requests().len();
    reader.set(Mood::Failing);
    assert!(read(&cache, whole(&blob, 0)).await.is_err(), "nothing of it is trusted any more");
    assert_eq!(reader.requests().len(), before + 1);
    reader.set(Mood::Healthy);
    assert_all_right(&cache, &blob).await;
}

/// No digest covers the table: a route that has another one is found out by the chunks that it leads to.
#[tokio::test]
async fn a_wrong_table_costs_a_fetch_by_another_route() {
    let blob = batched();
    let route = |kind, bytes| {
        let reader = TestReader::new(bytes);
        let backend = Arc::new(OneBlob(reader.clone()));
        (Route::new(kind, "test", backend, Care::default()), reader)
    };
    for at in 5000..5064 {
        let mut wrong = blob.bytes.to_vec();
        wrong[at] ^= 0x11;
        let (first, _) = route(RouteKind::Proxy, wrong);
        let (last, origin) = route(RouteKind::Origin, blob.bytes.to_vec());
        let reader = Routes::new(vec![first], last, None).open(&blob.blob.id).unwrap();
        let cache = Arc::new(BlobCache::without_disk(&blob.blob, reader).unwrap());
        assert_all_right(&cache, &blob).await;
        assert!(origin.requests().len() <= 3, "byte {at}: {:?}", origin.requests());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any parts of any chunks, in any order, some ready and some not, are what the model says.
    #[test]
    fn reads_agree_with_the_model(
        sizes in prop::collection::vec(1usize..9000, 1..8),
        reads in prop::collection::vec(prop::collection::vec((0usize..8, 0u32..9000, 0u32..9000), 1..6), 1..12),
    ) {
        let blob = blob::of_sizes("model", &sizes, Compressor::Lz4Block);
        let dir = tempfile::tempdir().unwrap();
        let cache = open(dir.path(), &blob, &TestReader::new(blob.bytes.clone()));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for parts in reads {
            let parts: Vec<Part> = parts.into_iter().map(|(n, a, b)| {
                let mut part = whole(&blob, n % sizes.len());
                (part.start, part.end) = (a.min(b).min(part.end), a.max(b).min(part.end));
                part
            }).collect();
            let expected: Vec<u8> = parts.iter().flat_map(|p| {
                blob.plain[p.chunk.index as usize][p.start as usize..p.end as usize].iter().copied()
            }).collect();
            let mut found = vec![0; expected.len()];
            let all_ready = cache.try_read(&parts, &mut found);
            prop_assert!(!all_ready || found == expected);
            runtime.block_on(async {
                for part in &parts {
                    cache.fetch(&part.chunk).await.unwrap();
                }
            });
            prop_assert!(cache.try_read(&parts, &mut found));
            prop_assert!(found == expected);
        }
        prop_assert!(cache.stats().fetches <= sizes.len() as u64);
    }
}
