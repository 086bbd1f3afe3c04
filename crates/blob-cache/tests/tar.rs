//! Plain tars: nothing is served before the whole tar is verified, and nothing that changes afterwards.
#![allow(clippy::unwrap_used, reason = "tests")]

use blob_cache::{BlobCache, CacheError, CacheOptions, Part};
use bytes::Bytes;
use rafs_format::{BlobId, Digest};
use std::path::Path;
use std::sync::Arc;
use testkit::blob::{self, TestBlob};
use testkit::reader::{Mood, TestReader};

/// Chunks that share pieces, lie in several, have the same number or the same bytes; one is the whole tar.
const CHUNKS: [(usize, usize); 7] =
    [(512, 1), (1024, 100), (65_024, 2000), (512, 300), (131_072, 65_536), (0, 200_192), (200_191, 1)];

fn sample() -> TestBlob {
    let mut blob = blob::of_tar(blob::pattern(5, 200_192), &CHUNKS);
    // Whatever numbers an image gives to chunks, bytes are told apart by their place.
    blob.chunks.iter_mut().for_each(|chunk| chunk.index %= 2);
    blob
}

fn open(dir: &Path, blob: &TestBlob, reader: &Arc<TestReader>) -> Arc<BlobCache> {
    Arc::new(BlobCache::open(dir, &blob.blob, reader.clone(), CacheOptions::default()).unwrap())
}

fn part(blob: &TestBlob, n: usize, start: u32, end: u32) -> Part {
    Part { chunk: blob.chunks[n], start, end }
}

fn whole(blob: &TestBlob, n: usize) -> Part {
    part(blob, n, 0, blob.chunks[n].uncompressed_size)
}

/// At once where it is ready, else fetched.
async fn read(cache: &Arc<BlobCache>, part: Part) -> Result<Vec<u8>, Arc<CacheError>> {
    let mut bytes = vec![0xEE; part.len()];
    if cache.try_read(&[part], &mut bytes) {
        return Ok(bytes);
    }
    cache.fetch_part(&part).await.map(Bytes::into)
}

#[tokio::test]
async fn parts_of_chunks_are_those_of_the_tar() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), sample());
    for cache in [
        open(dir.path(), &blob, &TestReader::new(blob.bytes.clone())),
        Arc::new(BlobCache::without_disk(&blob.blob, TestReader::new(blob.bytes.clone())).unwrap()),
    ] {
        for _twice in 0..2 {
            for n in 0..CHUNKS.len() {
                assert!(read(&cache, whole(&blob, n)).await.unwrap() == blob.plain[n], "chunk {n}");
            }
            let middle = read(&cache, part(&blob, 2, 500, 1999)).await.unwrap();
            assert!(middle == blob.plain[2][500..1999]);
            let chunk = cache.fetch(&blob.chunks[4]).await.unwrap();
            assert!(chunk.bytes()[..] == blob.plain[4]);
        }
    }
}

#[tokio::test]
async fn a_tar_is_read_once_to_verify_it_and_then_from_the_cache() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), sample());
    let reader = TestReader::new(blob.bytes.clone());
    let cache = open(dir.path(), &blob, &reader);
    let mut byte = [0];
    assert!(!cache.try_read(&[whole(&blob, 0)], &mut byte));
    let (a, b) = tokio::join!(read(&cache, whole(&blob, 0)), read(&cache, whole(&blob, 1)));
    assert!(a.unwrap() == blob.plain[0] && b.unwrap() == blob.plain[1]);
    assert_eq!(reader.requests(), [0..200_192, 0..65_536], "verified once, one piece read");
    assert!(cache.try_read(&[whole(&blob, 0)], &mut byte) && byte == blob.plain[0][..]);
    let mut both = vec![0; blob.plain[1].len() + blob.plain[3].len()];
    assert!(cache.try_read(&[whole(&blob, 1), whole(&blob, 3)], &mut both));
    assert!(both == [&blob.plain[1][..], &blob.plain[3]].concat());
    drop(cache);
    // A new process trusts neither the tar nor what is on disk, but needs the piece only once.
    let reader = TestReader::new(blob.bytes.clone());
    let cache = open(dir.path(), &blob, &reader);
    assert!(read(&cache, whole(&blob, 0)).await.unwrap() == blob.plain[0]);
    assert_eq!(reader.requests().first(), Some(&(0..200_192)));
    assert_eq!(reader.requests().len(), 1);
    assert_eq!(cache.stats().reverified, 1);
}

#[tokio::test]
async fn a_wrong_tar_gives_no_byte_and_is_not_read_again_and_again() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), sample());
    let mut other = blob.bytes.to_vec();
    other[199_000] ^= 1;
    let reader = TestReader::new(other);
    let cache = open(dir.path(), &blob, &reader);
    for _twice in 0..2 {
        let error = read(&cache, whole(&blob, 0)).await.unwrap_err();
        assert!(matches!(*error, CacheError::Tar { .. }), "{error}");
    }
    assert_eq!(reader.requests().len(), 1);
}

#[tokio::test]
async fn what_changes_after_verifying_is_found_out() {
    let (dir, blob) = (tempfile::tempdir().unwrap(), sample());
    let reader = TestReader::new(blob.bytes.clone());
    let cache = open(dir.path(), &blob, &reader);
    read(&cache, whole(&blob, 0)).await.unwrap();
    reader.set(Mood::Lying);
    let error = read(&cache, whole(&blob, 4)).await.unwrap_err();
    assert!(matches!(*error, CacheError::Digest { .. }), "{error}");
    reader.set(Mood::Healthy);
    assert!(read(&cache, whole(&blob, 4)).await.unwrap() == blob.plain[4], "a failure is not remembered");
}

/// The n-th request fails, for every n: an error, then the right bytes.
#[tokio::test]
async fn a_backend_that_fails_costs_a_read() {
    let blob = sample();
    for healthy in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let reader = TestReader::failing_after(blob.bytes.clone(), healthy);
        let cache = open(dir.path(), &blob, &reader);
        match read(&cache, whole(&blob, 5)).await {
            Ok(bytes) => return assert!(healthy == 5 && bytes == blob.plain[5], "{healthy}"),
            Err(error) => assert!(matches!(*error, CacheError::Backend { .. }), "{error}"),
        }
    }
    panic!("it never succeeds");
}

#[tokio::test]
async fn what_a_tar_should_be_is_its_id_or_is_noted() {
    let mut blob = sample();
    let digest = blob.blob.tar_digest().unwrap();
    blob.blob.id = BlobId::new("layer").unwrap();
    let open = |blob: &TestBlob| {
        Arc::new(BlobCache::without_disk(&blob.blob, TestReader::new(blob.bytes.clone())).unwrap())
    };
    let error = read(&open(&blob), whole(&blob, 0)).await.unwrap_err();
    assert!(matches!(*error, CacheError::NoTarDigest { .. }), "{error}");
    blob.blob.meta_digest = digest;
    assert!(read(&open(&blob), whole(&blob, 0)).await.unwrap() == blob.plain[0]);
    blob.blob.id = BlobId::new(&digest.to_string()).unwrap();
    blob.blob.meta_digest = Digest([7; 32]);
    let error = read(&open(&blob), whole(&blob, 0)).await.unwrap_err();
    assert!(matches!(*error, CacheError::Tar { .. }), "what is noted decides: {error}");
}

#[tokio::test]
async fn chunks_outside_the_tar_are_errors() {
    let blob = sample();
    let cache = Arc::new(BlobCache::without_disk(&blob.blob, TestReader::new(blob.bytes.clone())).unwrap());
    for offset in [199_992, 200_192, 1 << 40, u64::MAX, u64::MAX - 150] {
        let mut part = whole(&blob, 3);
        part.chunk.compressed_offset = offset;
        assert!(read(&cache, part).await.is_err(), "{offset}");
    }
}
