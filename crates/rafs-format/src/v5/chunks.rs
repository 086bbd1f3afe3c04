//! All chunk records of a v5 bootstrap: they stand behind the inodes, a chunk that is used several times several times.

use super::{RECORD, Reader};
use crate::chunk::{check_ranges, check_same};
use crate::read::{ChunkPlace, require};
use crate::{Blob, Chunk, FileType, FormatError, Nid};
use std::mem::offset_of;

/// Iterator over the places of all records, in the order of the inode table; ends after the first error. Inodes that share bytes are one,
/// so it is as long as the bootstrap at most.
#[derive(Debug)]
pub(crate) struct ChunkPlaces<'a> {
    reader: Reader<'a>,
    /// Position in the inode table of the inode to come.
    position: u64,
    /// Bytes of the bootstrap that inodes met so far have not taken.
    room: u64,
    /// Records left of the current inode, and the first of them.
    left: u64,
    at: u64,
}

impl<'a> ChunkPlaces<'a> {
    pub(crate) fn new(reader: Reader<'a>) -> Self {
        Self { reader, position: 1, room: reader.bytes.len() as u64, left: 0, at: 0 }
    }

    /// Goes on to the next inode.
    fn enter(&mut self) -> Result<(), FormatError> {
        let record = self.reader.record(self.position)?;
        let inode = self.reader.inode_of(&record)?;
        let size = self.reader.extent(&inode);
        let limit = self.reader.bytes.len() as u64;
        self.room = self.room.checked_sub(size).ok_or(FormatError::OutOfBounds {
            what: "inodes overlap: the sum of their sizes",
            start: limit - self.room,
            size,
            limit,
        })?;
        if inode.file_type == FileType::Regular {
            self.left = self.reader.superblock.chunk_count(&inode);
            self.at = record.at.saturating_add(inode.body_offset());
        }
        self.position += 1;
        Ok(())
    }
}

impl Iterator for ChunkPlaces<'_> {
    type Item = Result<ChunkPlace, FormatError>;
    fn next(&mut self) -> Option<Self::Item> {
        while self.left == 0 {
            if self.position > self.reader.superblock.entries {
                return None;
            }
            if let Err(error) = self.enter() {
                self.position = u64::MAX;
                return Some(Err(error));
            }
        }
        let place = ChunkPlace(self.at);
        self.left -= 1;
        self.at = self.at.saturating_add(RECORD);
        Some(Ok(place))
    }
}

/// Where the chunk of one record lies when decompressed.
#[derive(Debug, Clone, Copy)]
struct Place {
    blob: u32,
    index: u32,
    start: u64,
    size: u32,
    /// Byte offset of the record in units of 8: a bootstrap has 2 GiB at most.
    record: u32,
}

impl Place {
    fn at(&self) -> u64 {
        u64::from(self.record) * 8
    }
}

/// Checks that records do not contradict each other: each lies within its blob, those of one chunk are equal in all but the file offset,
/// and different chunks of a blob do not overlap when decompressed. In time n log n. Returns the byte offset, in units of 8, of the first
/// record of each chunk, in the order of blobs and chunks.
pub(crate) fn check_chunks(reader: Reader<'_>, blobs: &[Blob]) -> Result<Vec<u32>, FormatError> {
    let mut places = Vec::new();
    for place in ChunkPlaces::new(reader) {
        let at = place?.0;
        let chunk = Chunk::read(reader.bytes, at)?;
        check_ranges(blobs, &chunk, at)?;
        let record = u32::try_from(at / 8).unwrap_or(u32::MAX);
        let Chunk { blob, index, uncompressed_offset: start, uncompressed_size: size, .. } = chunk;
        places.push(Place { blob, index, start, size, record });
    }
    places.sort_unstable_by_key(|place| (place.blob, place.index, place.record));
    for same in places.chunk_by(|a, b| (a.blob, a.index) == (b.blob, b.index)) {
        let Some((first, others)) = same.split_first() else { continue };
        let first = Chunk::read(reader.bytes, first.at())?;
        for other in others {
            check_same(&first, &Chunk::read(reader.bytes, other.at())?, other.at())?;
        }
    }
    places.dedup_by_key(|place| (place.blob, place.index));
    let records = places.iter().map(|place| place.record).collect();
    places.sort_unstable_by_key(|place| (place.blob, place.start, place.record));
    places.windows(2).try_for_each(|pair| match pair {
        [last, place] if last.blob == place.blob => {
            let at = place.at() + offset_of!(crate::layout::ChunkRecord, uncompressed_offset) as u64;
            let good = last.start + u64::from(last.size) <= place.start;
            let what = "uncompressed offset of a chunk record";
            require(good, what, at, place.start, "a place behind the chunk before")
        }
        _ => Ok(()),
    })?;
    Ok(records)
}

impl Reader<'_> {
    /// Checks that each further name of a file has a record that says the same of its content, so that it does not matter which is read.
    /// Attributes may differ: those of the first count.
    pub(crate) fn check_links(self) -> Result<(), FormatError> {
        // Bounds the sum of what is compared here, too.
        ChunkPlaces::new(self).try_for_each(|place| place.map(|_| ()))?;
        for position in 1..=self.superblock.entries {
            let record = self.record(position)?;
            let number = record.raw.number.get();
            if number == position {
                continue;
            }
            let at = record.at + 40;
            let is_file = record.file_type == FileType::Regular;
            require(
                is_file,
                "number of an inode",
                at,
                number,
                "its position, or that of a file with its content",
            )?;
            let (inode, first) = (self.inode_of(&record)?, self.inode(Nid(number))?);
            let other = self.record(number)?;
            let same = first.file_type == FileType::Regular
                && (inode.size, inode.nlink) == (first.size, first.nlink)
                && record.raw.digest == other.raw.digest;
            require(
                same,
                "content of another name of an inode",
                record.at,
                number,
                "that of the first name",
            )?;
            let own = record.at.saturating_add(inode.body_offset());
            for n in 0..self.superblock.chunk_count(&inode) {
                let at = own.saturating_add(n.saturating_mul(RECORD));
                let (chunk, (wanted, _)) = (Chunk::read(self.bytes, at)?, self.chunk(&first, n)?);
                let same = chunk == wanted;
                require(same, "chunk record of another name of an inode", at, n, "that of the first name")?;
            }
        }
        Ok(())
    }
}
