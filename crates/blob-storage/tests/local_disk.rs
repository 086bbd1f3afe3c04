//! Disks: which partition a blob is, and what damaged tables are made of.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use blob_storage::config;
use blob_storage::{Backend, BackendCause, LocalDisk, Priority};
use flate2::Crc;
use rafs_format::BlobId;
use std::path::Path;

const BLOCKS: usize = 200;
/// Entries of the table.
const COUNT: usize = 8;
/// Basic data, in the order of bytes on disk.
const BASIC: [u8; 16] =
    [0xa2, 0xa0, 0xd0, 0xeb, 0xe5, 0xb9, 0x33, 0x44, 0x87, 0xc0, 0x68, 0xb6, 0xb7, 0x26, 0x99, 0xc7];
const OTHER: [u8; 16] = [7; 16];
/// As its bytes lie on disk, and as it is written.
const GUID: [u8; 16] =
    [0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];
const WRITTEN: &str = "00112233445566778899aabbccddeeff";
const HALF: &str = "0123456789abcdef0123456789abcdef";

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn put(disk: &mut [u8], at: usize, bytes: &[u8]) {
    disk[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A partition: kind, name, first and last block.
type Part<'a> = ([u8; 16], &'a str, u64, u64);

/// A disk with both copies of its table. Each block holds its number, again and again.
fn disk(block: usize, parts: &[Part<'_>]) -> Vec<u8> {
    let mut disk: Vec<u8> = (0..BLOCKS * block).map(|at| u8::try_from(at / block % 256).unwrap()).collect();
    let mut list = vec![0; COUNT * 128];
    for (entry, (kind, name, first, last)) in list.chunks_exact_mut(128).zip(parts) {
        put(entry, 0, kind);
        put(entry, 16, &GUID);
        put(entry, 32, &first.to_le_bytes());
        put(entry, 40, &last.to_le_bytes());
        for (at, unit) in name.encode_utf16().take(36).enumerate() {
            put(entry, 56 + 2 * at, &unit.to_le_bytes());
        }
    }
    let blocks = BLOCKS as u64;
    for (own, other, table) in [(1, blocks - 1, 2), (blocks - 1, 1, blocks - 5)] {
        let mut header = vec![0; 92];
        put(&mut header, 0, b"EFI PART\0\0\x01\0\x5c\0\0\0");
        put(&mut header, 24, &u64::to_le_bytes(own));
        put(&mut header, 32, &u64::to_le_bytes(other));
        put(&mut header, 72, &u64::to_le_bytes(table));
        put(&mut header, 80, &u32::try_from(COUNT).unwrap().to_le_bytes());
        put(&mut header, 84, &128_u32.to_le_bytes());
        put(&mut header, 88, &crc(&list).to_le_bytes());
        let checksum = crc(&header);
        put(&mut header, 16, &checksum.to_le_bytes());
        put(&mut disk, usize::try_from(own).unwrap() * block, &header);
        put(&mut disk, usize::try_from(table).unwrap() * block, &list);
    }
    disk
}

fn open(path: &Path) -> LocalDisk {
    LocalDisk::new(&config::LocalDisk { device_path: path.into(), disable_gpt: false })
}

/// First byte and size of the blob `id` on a disk with these bytes.
async fn find(bytes: &[u8], id: &str) -> Result<(u8, u64), BackendCause> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let blob = open(file.path()).open(&BlobId::new(id).unwrap()).map_err(|error| error.cause)?;
    let size = blob.size().await.unwrap();
    let whole = blob.read(0..size, Priority::OnDemand).await.unwrap();
    assert_eq!(whole.len() as u64, size);
    let past = blob.read(size - 1..size + 1, Priority::OnDemand).await.unwrap_err();
    assert!(matches!(past.cause, BackendCause::OutOfRange { .. }), "{past}");
    Ok((whole[0], size))
}

#[tokio::test]
async fn blobs_are_partitions_by_their_names() {
    for block in [512, 4096] {
        let size = block as u64;
        let parts = [
            (OTHER, "short", 20, 20),
            (OTHER, HALF, 30, 33),
            (BASIC, "fedcba9876543210fedcba9876543210", 50, 59),
        ];
        let disk = disk(block, &parts);
        let found = async |id: &str| find(&disk, id).await.ok();
        assert_eq!(found("short").await, Some((20, size)));
        assert_eq!(found(&format!("{HALF}{WRITTEN}")).await, Some((30, 4 * size)), "name and GUID");
        assert_eq!(found(&format!("{HALF}{HALF}")).await, None, "another GUID");
        let old = "fedcba9876543210fedcba9876543210";
        assert_eq!(
            found(&format!("{old}{HALF}")).await,
            Some((50, 10 * size)),
            "a basic partition by half a name"
        );
        assert!(matches!(find(&disk, "missing").await, Err(BackendCause::NotFound)));
    }
}

#[tokio::test]
async fn a_damaged_copy_of_the_table_does_not_matter_and_two_are_an_error() {
    let right = disk(512, &[(OTHER, "b", 20, 21)]);
    let mut both = right.clone();
    let backup = (BLOCKS - 1) * 512;
    for at in (512..512 + 92).chain(1024..1024 + 128) {
        let mut wrong = right.clone();
        wrong[at] ^= 0x41;
        assert_eq!(find(&wrong, "b").await.ok(), Some((20, 1024)), "byte {at}");
        // The other copy, too.
        let twin = if at < 1024 { backup + at - 512 } else { (BLOCKS - 5) * 512 + at - 1024 };
        wrong[twin] ^= 0x41;
        let error = find(&wrong, "b").await.unwrap_err();
        assert!(matches!(error, BackendCause::Unable(_)), "byte {at}: {error}");
    }
    both.truncate(600);
    assert!(find(&both, "b").await.is_err());
    for nothing in [vec![], vec![0; 100], vec![0; 1 << 16]] {
        let error = find(&nothing, "b").await.unwrap_err();
        assert_eq!(error.to_string(), "there is no partition table");
    }
}

#[tokio::test]
async fn partitions_that_are_not_on_the_disk_are_refused() {
    let blocks = BLOCKS as u64;
    for (first, last) in
        [(20, blocks), (20, 19), (20, 0), (0, u64::MAX), (u64::MAX, u64::MAX), (1 << 60, 1 << 61)]
    {
        let error = find(&disk(512, &[(OTHER, "b", first, last)]), "b").await.unwrap_err();
        assert!(matches!(error, BackendCause::Unable(_)), "{first} {last}: {error}");
    }
}

#[test]
fn what_is_no_disk_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let id = BlobId::new("b").unwrap();
    let error = open(dir.path()).open(&id).unwrap_err();
    assert!(error.to_string().contains("is neither a block device nor a regular file"), "{error}");
    let error = open(&dir.path().join("none")).open(&id).unwrap_err();
    assert!(error.to_string().contains("No such file"), "{error}");
}
