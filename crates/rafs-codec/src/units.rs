//! Stored units of a blob to plain bytes: decrypted, then decompressed. The chunk table that says where units are is one of them.

use crate::{CodecError, Decoder, Key, member, span};
use rafs_format::blob_meta::{HEADER_SIZE, Header};
use rafs_format::blob_units::{Unit, UnitTable};
use rafs_format::{Blob, BlobFeatures, Chunk, Compressor, FormatError};
use std::ops::Range;

/// Longest chunk table that is read, in bytes: that of a layer of 16 GiB and more.
const MAX_TABLE: u64 = 1 << 30;

/// Why a unit, or the table of units, is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum UnitError {
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// How the units of one blob are stored.
#[derive(Debug)]
pub struct UnitCodec {
    compressor: Compressor,
    key: Option<Key>,
    has_table: bool,
}

impl UnitCodec {
    /// For `blob`. Errors: a cipher or key that cannot be used.
    pub fn new(blob: &Blob) -> Result<Self, CodecError> {
        let has_table = blob.features.intersects(BlobFeatures::BATCH | BlobFeatures::ZRAN);
        Ok(Self { compressor: blob.compressor, key: Key::of(blob)?, has_table })
    }

    /// Bytes of the blob that [`UnitCodec::table`] takes; `None` for a blob whose units its bootstrap knows: those without batches.
    pub fn table_range(&self, blob: &Blob) -> Option<Range<u64>> {
        let start = blob.meta.compressed_offset;
        let end = start.checked_add(blob.meta.compressed_size)?.checked_add(HEADER_SIZE as u64)?;
        self.has_table.then_some(start..end)
    }

    /// The table of units out of the bytes of [`UnitCodec::table_range`].
    pub fn table(&self, blob: &Blob, bytes: &[u8]) -> Result<UnitTable, UnitError> {
        let split = bytes.len().saturating_sub(HEADER_SIZE);
        let (stored, header) = bytes.split_at_checked(split).unwrap_or((bytes, &[]));
        let header = self.decrypt(header.to_vec(), Some(HEADER_SIZE))?;
        Header::parse(&header, blob)?;
        let size = table_size(blob)?;
        let raw = (blob.meta.compressor == Compressor::None).then_some(size);
        let stored = self.decrypt(stored.to_vec(), raw)?;
        let table = Decoder::new().decode(blob.meta.compressor, &stored, size)?;
        Ok(UnitTable::new(table, &header, blob)?)
    }

    /// Where `chunk` is stored: as `table` says, or where there is none as its record does.
    pub fn unit(&self, blob: &Blob, chunk: &Chunk, table: Option<&UnitTable>) -> Result<Unit, FormatError> {
        match table {
            Some(table) => table.unit(blob, chunk),
            None => Unit::of_chunk(blob, chunk),
        }
    }

    /// The plain bytes of a unit. Allocates its size, which was checked against the chunk size, and no more.
    pub fn decode(&self, decoder: &mut Decoder, unit: &Unit, stored: Vec<u8>) -> Result<Vec<u8>, CodecError> {
        let size = usize::try_from(unit.uncompressed_size).unwrap_or(usize::MAX);
        if let Some(resume) = &unit.resume {
            return span::decode(resume, &stored, size);
        }
        let stored = self.decrypt(stored, (!unit.is_compressed).then_some(size))?;
        // What is compressed is shorter. Of a short encrypted batch only the decrypted length tells.
        let as_it_is = !unit.is_compressed || self.key.is_some();
        if as_it_is && stored.len() == size {
            return Ok(stored);
        }
        let by = if unit.is_compressed { self.compressor } else { Compressor::None };
        if by == Compressor::Gzip {
            // Only layers that stay as they are have such units, and only their first bytes are known.
            return member::start(&stored, size);
        }
        decoder.decode(by, &stored, size)
    }

    /// `stored` without encryption, where there is any; see [`Key::decrypt`].
    pub fn decrypt(&self, stored: Vec<u8>, plain_size: Option<usize>) -> Result<Vec<u8>, CodecError> {
        match &self.key {
            Some(key) => key.decrypt(stored, plain_size),
            None => Ok(stored),
        }
    }
}

/// Length of the chunk table of `blob`, which is read whole. Errors: over [`MAX_TABLE`].
fn table_size(blob: &Blob) -> Result<usize, FormatError> {
    let found = blob.meta.uncompressed_size;
    let size = usize::try_from(found).ok().filter(|_| found <= MAX_TABLE);
    let expected = "at most 1 GiB";
    size.ok_or(FormatError::Value { what: "size of a chunk table", at: 32, found, expected })
}
