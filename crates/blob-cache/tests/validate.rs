//! Copies on disk that are hashed again each time they are read, not only the first time.
#![allow(clippy::unwrap_used, reason = "tests")]

use blob_cache::{BlobCache, CacheOptions, Part};
use rafs_format::Compressor;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use testkit::blob;
use testkit::reader::TestReader;

/// A reader who takes a chunk in pieces has it hashed once; one who begins it anew looks at the disk again.
#[tokio::test]
async fn a_chunk_is_hashed_once_from_its_start_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let blob = blob::of_sizes("sample", &[300_000, 200_000], Compressor::Zstd);
    let reader = TestReader::new(blob.bytes.clone());
    let options = CacheOptions { validate: true };
    let cache = Arc::new(BlobCache::open(dir.path(), &blob.blob, reader, options).unwrap());
    let read = async |n: usize, start: u32, end: u32| {
        let part = Part { chunk: blob.chunks[n], start, end };
        let mut bytes = vec![0; part.len()];
        if !cache.try_read(&[part], &mut bytes) {
            bytes = cache.fetch_part(&part).await.unwrap().to_vec();
        }
        assert!(bytes == blob.plain[n][start as usize..end as usize], "chunk {n}, {start}..{end}");
        cache.stats().damaged
    };
    read(0, 0, 300_000).await;
    let file = std::fs::File::options().write(true).open(dir.path().join("sample.blob.data")).unwrap();
    let damage = || file.write_all_at(b"damage", 299_000).unwrap();
    // Hashed at its first piece, and right to its end whatever the disk says.
    assert_eq!(read(0, 0, 100_000).await, 0);
    damage();
    assert_eq!(read(0, 100_000, 200_000).await, 0);
    assert_eq!(read(0, 200_000, 300_000).await, 0);
    // What was read to its end is not kept.
    assert_eq!(read(0, 200_000, 300_000).await, 1);
    assert_eq!(read(0, 0, 100_000).await, 1, "fetched again, and right");
    damage();
    assert_eq!(read(0, 0, 100_000).await, 2, "begun anew");
}
