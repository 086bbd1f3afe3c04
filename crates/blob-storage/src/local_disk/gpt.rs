//! The partition table of a disk (GUID Partition Table, UEFI specification 2.10, chapter 5): bytes to a list of partitions. Written by hand since
//! the library at hand asserts what a damaged table does not keep. Both copies of the table are looked at, each is checked by its
//! checksums, and nothing is read or allocated beyond [`MAX_TABLE`].

use flate2::Crc;
use std::io;
use std::os::unix::fs::FileExt;

/// Sizes of a block that disks have.
const BLOCKS: [u64; 2] = [512, 4096];
/// Longest list of partitions, in bytes: 256 times what disks have.
const MAX_TABLE: u64 = 4 << 20;
/// Length of the header, of which all is used here.
const HEADER: usize = 92;
/// Shortest entry, in bytes.
const ENTRY: u64 = 128;
/// Type of partitions of no particular kind, as [`guid`] gives it: EBD0A0A2-B9E5-4433-87C0-68B6B72699C7.
const BASIC_DATA: &str = "ebd0a0a2b9e5443387c068b6b72699c7";

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// At most 36 UTF-16 units.
    pub name: String,
    /// 32 hex digits.
    pub guid: String,
    /// Is it of no particular kind?
    pub is_basic: bool,
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes, at least one block.
    pub size: u64,
}

/// Partitions of a disk of `size` bytes, in the order of the table. An error of kind `InvalidData`: neither copy of the table is one.
pub fn partitions(disk: &impl FileExt, size: u64) -> io::Result<Vec<Partition>> {
    let mut wrong = "there is no partition table";
    for block in BLOCKS {
        let last = (size / block).saturating_sub(1);
        for at in [1, last] {
            match table(disk, size, block, at)? {
                Ok(found) => return Ok(found),
                // A header that was there says more than one that was not.
                Err(why) => wrong = why.unwrap_or(wrong),
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, wrong))
}

/// Why there is no table: `None` where nothing looks like one.
type Wrong = Option<&'static str>;

/// The table whose header is in the block number `at`.
fn table(disk: &impl FileExt, size: u64, block: u64, at: u64) -> io::Result<Result<Vec<Partition>, Wrong>> {
    let Some(header) = read(disk, size, at.saturating_mul(block), block)? else { return Ok(Err(None)) };
    let found = match entries(&header, at) {
        Ok(found) => found,
        Err(wrong) => return Ok(Err(wrong)),
    };
    let start = found.block.saturating_mul(block);
    let Some(list) = read(disk, size, start, found.count.saturating_mul(found.size))? else {
        return Ok(Err(Some("the list of partitions runs past the end")));
    };
    if crc(&list) != found.checksum {
        return Ok(Err(Some("the list of partitions is damaged")));
    }
    let each = usize::try_from(found.size).unwrap_or(usize::MAX);
    let used = list.chunks_exact(each).filter(|entry| entry.iter().take(16).any(|byte| *byte != 0));
    Ok(used.map(|entry| partition(entry, block, size)).collect::<Result<_, _>>().map_err(Some))
}

/// `length` bytes of the disk; `None` where they are not all there.
fn read(disk: &impl FileExt, size: u64, start: u64, length: u64) -> io::Result<Option<Vec<u8>>> {
    if start.checked_add(length).is_none_or(|end| end > size) || length > MAX_TABLE {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    disk.read_exact_at(&mut bytes, start)?;
    Ok(Some(bytes))
}

/// Where the list of partitions is.
struct Entries {
    /// First block.
    block: u64,
    /// Partitions, used or not.
    count: u64,
    /// Length of each in bytes.
    size: u64,
    checksum: u32,
}

/// Reads the header that is in block number `at`.
fn entries(bytes: &[u8], at: u64) -> Result<Entries, Wrong> {
    let short = || Some("the header of the partition table is cut");
    if bytes.get(..8) != Some(b"EFI PART") {
        return Err(None);
    }
    let length = usize::try_from(number(bytes, 12, 4).ok_or_else(short)?).unwrap_or(usize::MAX);
    let mut header = bytes.get(..length).filter(|_| length >= HEADER).ok_or_else(short)?.to_vec();
    let checksum = number(&header, 16, 4).ok_or_else(short)?;
    header.get_mut(16..20).ok_or_else(short)?.fill(0);
    if u64::from(crc(&header)) != checksum || number(&header, 24, 8) != Some(at) {
        return Err(Some("the header of the partition table is damaged"));
    }
    let found =
        (number(&header, 72, 8), number(&header, 80, 4), number(&header, 84, 4), number(&header, 88, 4));
    let (Some(block), Some(count), Some(size), Some(checksum)) = found else { return Err(short()) };
    if size < ENTRY || !size.is_power_of_two() || count.saturating_mul(size) > MAX_TABLE {
        return Err(Some("the list of partitions has entries of a length that no disk has"));
    }
    Ok(Entries { block, count, size, checksum: u32::try_from(checksum).unwrap_or_default() })
}

/// One entry of the list, on a disk of `size` bytes.
fn partition(entry: &[u8], block: u64, size: u64) -> Result<Partition, &'static str> {
    let outside = "a partition runs past the end of the disk";
    let (first, last) = number(entry, 32, 8).zip(number(entry, 40, 8)).ok_or(outside)?;
    let start = first.checked_mul(block).ok_or(outside)?;
    let end = last.checked_add(1).and_then(|end| end.checked_mul(block)).filter(|end| *end <= size);
    let length = end.ok_or(outside)?.checked_sub(start).filter(|length| *length > 0).ok_or(outside)?;
    let units: Vec<u16> = entry
        .get(56..128)
        .unwrap_or(&[])
        .chunks_exact(2)
        .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
        .collect();
    let named = units.split(|unit| *unit == 0).next().unwrap_or_default();
    let is_basic = guid(entry.get(..16).unwrap_or(&[])) == BASIC_DATA;
    let guid = guid(entry.get(16..32).unwrap_or(&[]));
    Ok(Partition { name: String::from_utf16_lossy(named), guid, is_basic, start, size: length })
}

/// `length` bytes from `at` as a number; the first byte counts least.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + length)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// Hex digits of a GUID in the order in which it is written: its first three numbers are stored with the first byte counting least.
fn guid(bytes: &[u8]) -> String {
    const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    ORDER.iter().filter_map(|at| bytes.get(*at)).map(|byte| format!("{byte:02x}")).collect()
}

/// CRC-32 as Ethernet has it.
fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}
