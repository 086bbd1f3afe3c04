//! What is recorded of real reads.
#![allow(clippy::unwrap_used, reason = "tests")]

use blob_cache::{BlobCache, CacheOptions};
use rafs_format::Compressor;
use rafs_vfs::profile::{NotRecorded, Profile};
use rafs_vfs::{Rafs, Read};
use std::sync::Arc;
use std::time::Duration;
use testkit::image::{self, TestImage};
use testkit::reader::TestReader;

const LONG: Duration = Duration::from_secs(3600);

fn mounted(image: &TestImage, dir: &tempfile::TempDir) -> Rafs {
    let reader = TestReader::new(image.blob.clone());
    let open = |blob| BlobCache::open(dir.path(), blob, reader.clone(), CacheOptions::default()).unwrap();
    let bootstrap = image.parsed();
    let caches = bootstrap.blobs().iter().map(|blob| Arc::new(open(blob))).collect();
    Rafs::new(bootstrap, caches).unwrap()
}

async fn read(rafs: &Rafs, name: &str, offset: u64, size: usize) {
    let nid = rafs.lookup(rafs.root(), name.as_bytes()).unwrap().unwrap().nid;
    if let Read::Cold(cold) = rafs.read(nid, offset, &mut vec![0; size]).unwrap() {
        cold.complete().await.unwrap();
    }
}

fn chunks(profile: &Profile) -> Vec<u32> {
    profile.runs.iter().flat_map(|run| run.chunk..run.chunk + u32::from(run.count)).collect()
}

#[tokio::test]
async fn first_reads_are_recorded_in_order_cold_and_warm() {
    let (a, b) = (testkit::blob::pattern(1, 3 * 4096), testkit::blob::pattern(2, 2 * 4096 + 1));
    let image = image::of_files(&[("a", &a), ("b", &b), ("c", b"")], &image::options(4096, Compressor::None));
    let dir = tempfile::tempdir().unwrap();
    for _cold_then_warm in 0..2 {
        let rafs = mounted(&image, &dir);
        read(&rafs, "a", 0, 1).await;
        let recorder = rafs.record(LONG).unwrap();
        assert_eq!(recorder.profile().runs, []);
        read(&rafs, "b", 4096, 9000).await;
        read(&rafs, "c", 0, 10).await;
        read(&rafs, "b", 8192, 1).await;
        read(&rafs, "a", 0, 20_000).await;
        read(&rafs, "b", 0, 20_000).await;
        let profile = rafs.record(Duration::ZERO).unwrap().finish();
        assert_eq!(chunks(&profile), [4, 5, 0, 1, 2, 3], "the recorder stays the first one");
        assert_eq!((profile.image, profile.blobs.len()), (rafs.profile_digest(), 1));
    }
}

#[test]
fn a_tar_is_not_recorded() {
    let Some(golden) = testkit::tree::golden() else { return };
    let bytes = std::fs::read(testkit::tree::bootstrap(&golden, "v6-tarfs")).unwrap();
    let bootstrap = rafs_format::Bootstrap::parse(bytes).unwrap();
    assert!(bootstrap.is_tarfs());
    let open = |blob| BlobCache::without_disk(blob, TestReader::new(Vec::new())).map(Arc::new).unwrap();
    let caches = bootstrap.blobs().iter().map(open).collect();
    assert_eq!(Rafs::new(bootstrap, caches).unwrap().record(LONG).err(), Some(NotRecorded::Tarfs));
}
