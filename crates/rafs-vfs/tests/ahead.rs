//! Reading ahead: who reads file after file waits for few requests, who jumps costs what he reads, and no byte is fetched twice.
#![allow(clippy::unwrap_used, reason = "tests")]

use blob_cache::{BlobCache, CacheOptions};
use rafs_format::Compressor;
use rafs_vfs::{Rafs, Read};
use std::sync::Arc;
use std::time::Duration;
use testkit::image::{self, TestImage};
use testkit::reader::{Mood, TestReader};

const FILES: usize = 300;
const PAGE: usize = 4096;

/// Files of one page each, all different, in the order of their names.
fn sample() -> (TestImage, Vec<(String, Vec<u8>)>) {
    let content = |n: usize| n.to_le_bytes().repeat(PAGE / 8);
    let files: Vec<_> = (0..FILES).map(|n| (format!("f{n:03}"), content(n))).collect();
    let given: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    (image::of_files(&given, &image::options(4096, Compressor::None)), files)
}

fn open(image: &TestImage, reader: &Arc<TestReader>, dir: &std::path::Path) -> Rafs {
    let bootstrap = image.parsed();
    let cache = |blob| Arc::new(BlobCache::open(dir, blob, reader.clone(), CacheOptions::default()).unwrap());
    let caches = bootstrap.blobs().iter().map(cache).collect();
    Rafs::new(bootstrap, caches).unwrap()
}

/// Reads a file, then does something else for a while. `None`: it cannot be read.
async fn read(rafs: &Rafs, (name, content): &(String, Vec<u8>)) -> Option<()> {
    let nid = rafs.lookup(rafs.root(), name.as_bytes()).unwrap().unwrap().nid;
    let mut bytes = vec![0; PAGE];
    if let Read::Cold(cold) = rafs.read(nid, 0, &mut bytes).unwrap() {
        bytes = cold.complete().await.ok()?.to_vec();
    }
    assert!(bytes == *content, "{name}");
    tokio::time::sleep(Duration::from_millis(1)).await;
    Some(())
}

fn bytes(reader: &TestReader) -> u64 {
    reader.requests().iter().map(|range| range.end - range.start).sum()
}

#[tokio::test]
async fn file_after_file_takes_few_requests_and_no_byte_twice() {
    let ((image, files), dir) = (sample(), tempfile::tempdir().unwrap());
    let reader = TestReader::new(image.blob.clone());
    let rafs = open(&image, &reader, dir.path());
    for file in &files {
        read(&rafs, file).await.unwrap();
    }
    assert_eq!(bytes(&reader), (FILES * PAGE) as u64);
    assert!(reader.requests().len() < FILES / 4, "{} requests", reader.requests().len());
}

#[tokio::test]
async fn who_jumps_gets_what_he_reads() {
    let ((image, files), dir) = (sample(), tempfile::tempdir().unwrap());
    let reader = TestReader::new(image.blob.clone());
    let rafs = open(&image, &reader, dir.path());
    for n in 0..100 {
        read(&rafs, &files[n * 37 % FILES]).await.unwrap();
    }
    assert_eq!((reader.requests().len(), bytes(&reader)), (100, (100 * PAGE) as u64));
    let (other, again) = (tempfile::tempdir().unwrap(), TestReader::new(image.blob.clone()));
    let rafs = open(&image, &again, other.path()).without_readahead();
    for file in &files {
        read(&rafs, file).await.unwrap();
    }
    assert_eq!(again.requests().len(), FILES, "nothing ahead where that is switched off");
}

#[tokio::test]
async fn what_fails_ahead_is_told_to_who_reads_it_and_heals() {
    let ((image, files), dir) = (sample(), tempfile::tempdir().unwrap());
    let reader = TestReader::new(image.blob.clone());
    let rafs = open(&image, &reader, dir.path());
    for file in &files[..2] {
        read(&rafs, file).await.unwrap();
    }
    reader.set(Mood::Failing);
    for file in &files[2..10] {
        assert!(read(&rafs, file).await.is_none());
    }
    reader.set(Mood::Healthy);
    for file in &files {
        read(&rafs, file).await.unwrap();
    }
}
