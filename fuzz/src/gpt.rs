//! The partition table of a disk, on bytes that are anything.

#[path = "../../crates/blob-storage/src/local_disk/gpt.rs"]
mod table;

use flate2::Crc;
use rafs_format::FormatError;
use rafs_format_fuzz::memory;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Takes `data` for a disk, as it is and with right checksums in each of its tables. Panics when a partition leaves the disk.
pub fn try_bytes(data: &[u8]) {
    check(data);
    let mut disk = data.to_vec();
    for block in [512, 4096] {
        for at in [1, (disk.len() / block).saturating_sub(1)] {
            let _repaired = repair(&mut disk, at, block);
        }
    }
    check(&disk);
}

fn check(disk: &[u8]) {
    let size = disk.len() as u64;
    memory::bounded(disk.len(), || match table::partitions(&Disk(disk), size) {
        Ok(found) => {
            assert!(found.len() <= disk.len() / 128);
            for one in found {
                assert!(one.size > 0 && one.start.checked_add(one.size).is_some_and(|end| end <= size));
                assert!(one.guid.len() == 32 && one.name.encode_utf16().count() <= 36);
            }
        }
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}"),
    });
}

/// Bytes as a file that can be read.
struct Disk<'a>(&'a [u8]);

impl FileExt for Disk<'_> {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let from = usize::try_from(offset).ok().and_then(|start| self.0.get(start..)).unwrap_or(&[]);
        let count = from.len().min(into.len());
        into[..count].copy_from_slice(&from[..count]);
        Ok(count)
    }

    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

/// Makes the checksums right of the table whose header is in block `at`, if it looks like one.
fn repair(disk: &mut [u8], at: usize, block: usize) -> Option<()> {
    let start = at.checked_mul(block)?;
    let header = disk.get(start..start.checked_add(block)?)?;
    let length = number(header, 12..16)?;
    let list = number(header, 72..80)?.checked_mul(block)?;
    let bytes = number(header, 80..84)?.checked_mul(number(header, 84..88)?)?;
    let checksum = crc(disk.get(list..list.checked_add(bytes)?)?);
    let header = disk.get_mut(start..start + block)?.get_mut(..length)?;
    header.get_mut(88..92)?.copy_from_slice(&checksum.to_le_bytes());
    header.get_mut(16..20)?.fill(0);
    let checksum = crc(header);
    header.get_mut(16..20)?.copy_from_slice(&checksum.to_le_bytes());
    Some(())
}

fn number(bytes: &[u8], at: Range<usize>) -> Option<usize> {
    let bytes = bytes.get(at)?;
    let number = bytes.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    usize::try_from(number).ok()
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Disks with blocks of both sizes, the table at the start or at the end.
pub fn seeds() -> Result<Vec<Vec<u8>>, FormatError> {
    Ok(vec![disk(512, 1, 2), disk(512, 31, 20), disk(4096, 1, 2), disk(4096, 7, 3)])
}

/// A disk of 32 or 8 blocks of `block` bytes, whose table is in block `at` and lists two partitions in block `list`.
fn disk(block: usize, at: usize, list: usize) -> Vec<u8> {
    let mut disk = vec![0; if block == 512 { 32 } else { 8 } * block];
    let mut put = |at: usize, bytes: &[u8]| disk[at..at + bytes.len()].copy_from_slice(bytes);
    let header = at * block;
    put(header, b"EFI PART\0\0\x01\0\x5C");
    put(header + 24, &(at as u64).to_le_bytes());
    put(header + 72, &(list as u64).to_le_bytes());
    put(header + 80, &[4, 0, 0, 0, 128]);
    for (n, name) in [b"a\0b\0", b"\xE9\0\x00\xD8"].iter().enumerate() {
        let entry = list * block + n * 128;
        put(entry, &[0xA2 + u8::try_from(n).unwrap_or(0); 16]);
        put(entry + 16, &[7; 16]);
        put(entry + 32, &(4 + n as u64).to_le_bytes());
        put(entry + 40, &(4 + n as u64).to_le_bytes());
        put(entry + 56, *name);
    }
    assert!(repair(&mut disk, at, block).is_some());
    disk
}
