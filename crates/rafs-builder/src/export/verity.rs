//! The hash tree of dm-verity behind a disk: hashed on all threads, written where [`rafs_merkle::verity`] says.

use super::{Disk, ExportError, each};
use rafs_format::Digest;
use rafs_merkle::verity::{FAN_OUT, HASH_BLOCK, Levels, hash_block, root};
use std::os::unix::fs::FileExt;

/// Hash blocks that a thread makes at a time: of 64 KiB or 512 KiB of data each.
const AT_ONCE: u64 = 16;

/// What the kernel needs to know of a disk with a hash tree. Its [`Display`](std::fmt::Display) form is the line that integrators read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verity {
    /// Bytes of a data block: 512 or 4096.
    pub data_block_size: u32,
    /// Data blocks.
    pub data_blocks: u64,
    /// First byte of the hash tree.
    pub hash_offset: u64,
    /// Digest of its topmost block.
    pub root: Digest,
}

impl std::fmt::Display for Verity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "dm-verity options: --no-superblock --format=1 -s \"\" --hash=sha256 --data-block-size={} \
             --hash-block-size={HASH_BLOCK} --data-blocks {} --hash-offset {} {}",
            self.data_block_size, self.data_blocks, self.hash_offset, self.root
        )
    }
}

/// Puts the hash tree of the first `size` bytes, a multiple of `block_size`, behind them.
pub(super) fn append(
    disk: &Disk<'_>,
    size: u64,
    block_size: u32,
    threads: usize,
) -> Result<Verity, ExportError> {
    let data_blocks = size / u64::from(block_size);
    let hash_offset = size.next_multiple_of(HASH_BLOCK as u64);
    let levels = Levels::new(data_blocks);
    let place = |block: u64| hash_offset + block * HASH_BLOCK as u64;
    disk.done("size", disk.file.set_len(place(levels.blocks())))?;
    let mut below = Below { start: 0, blocks: data_blocks, block_size };
    for level in levels.levels() {
        let blocks = level.end - level.start;
        let jobs = usize::try_from(blocks.div_ceil(AT_ONCE)).unwrap_or(usize::MAX);
        each(threads, jobs, Vec::new, &|buffer, job| {
            let first = job as u64 * AT_ONCE;
            let made = below.hash(disk, first..blocks.min(first + AT_ONCE), buffer)?;
            disk.put(&made, place(level.start + first))
        })?;
        below = Below { start: place(level.start), blocks, block_size: 4096 };
    }
    let top = below.read(disk, 0..1, &mut Vec::new())?.map(root);
    let root = top.unwrap_or_else(|| root(&[]));
    Ok(Verity { data_block_size: block_size, data_blocks, hash_offset, root })
}

/// The blocks that a level has the digests of.
struct Below {
    /// First byte of the first.
    start: u64,
    blocks: u64,
    block_size: u32,
}

impl Below {
    /// The hash blocks with these numbers.
    fn hash(
        &self,
        disk: &Disk<'_>,
        numbers: std::ops::Range<u64>,
        buffer: &mut Vec<u8>,
    ) -> Result<Vec<u8>, ExportError> {
        let mut made = Vec::new();
        for n in numbers {
            let blocks = n * FAN_OUT..self.blocks.min((n + 1) * FAN_OUT);
            let bytes = self.read(disk, blocks, buffer)?.unwrap_or(&[]);
            made.extend_from_slice(&hash_block(bytes, self.block_size as usize));
        }
        Ok(made)
    }

    /// Bytes of these blocks; `None` where there are none.
    fn read<'b>(
        &self,
        disk: &Disk<'_>,
        blocks: std::ops::Range<u64>,
        buffer: &'b mut Vec<u8>,
    ) -> Result<Option<&'b [u8]>, ExportError> {
        let end = blocks.end.min(self.blocks);
        if blocks.start >= end {
            return Ok(None);
        }
        let size = (end - blocks.start) * u64::from(self.block_size);
        // At most 128 blocks of 4096 bytes.
        buffer.resize(usize::try_from(size).unwrap_or(usize::MAX), 0);
        let at = self.start + blocks.start * u64::from(self.block_size);
        disk.done("read", disk.file.read_exact_at(buffer, at))?;
        Ok(Some(buffer.as_slice()))
    }
}
