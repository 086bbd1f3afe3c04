//! Values of the store's tables: bytes to values and back, every length checked. All numbers little endian.

use super::StoreError;
use rafs_format::device::BlobMetaLocation;
use rafs_format::{
    Blob, BlobFeatures, BlobId, Chunk, ChunkFlags, Cipher, Compressor, Digest, DigestAlgorithm,
};

/// Takes fields from the front of a value.
struct Fields<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let (field, rest) = self.rest.split_first_chunk().ok_or(StoreError::Corrupt { what: self.what })?;
        self.rest = rest;
        Ok(*field)
    }

    fn u32(&mut self) -> Result<u32, StoreError> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, StoreError> {
        self.bytes().map(u64::from_le_bytes)
    }

    /// A number that stands for something.
    fn known<T>(&mut self, value: impl Fn(u32) -> Option<T>) -> Result<T, StoreError> {
        value(self.u32()?).ok_or(StoreError::Corrupt { what: self.what })
    }

    fn end(self) -> Result<(), StoreError> {
        if self.rest.is_empty() { Ok(()) } else { Err(StoreError::Corrupt { what: self.what }) }
    }

    fn all(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }
}

/// A chunk, and how many images use it. Its blob and index are its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChunkRecord {
    pub chunk: Chunk,
    pub references: u64,
}

impl ChunkRecord {
    pub fn encode(&self) -> Vec<u8> {
        let Chunk { digest, flags, compressed_offset, compressed_size, .. } = self.chunk;
        let Chunk { uncompressed_offset, uncompressed_size, crc32, .. } = self.chunk;
        let mut out = Vec::with_capacity(72);
        out.extend(self.references.to_le_bytes());
        out.extend(digest.0);
        out.extend(flags.bits().to_le_bytes());
        out.extend(compressed_offset.to_le_bytes());
        out.extend(compressed_size.to_le_bytes());
        out.extend(uncompressed_offset.to_le_bytes());
        out.extend(uncompressed_size.to_le_bytes());
        out.extend(crc32.to_le_bytes());
        out
    }

    pub fn decode((blob, index): (u32, u32), bytes: &[u8]) -> Result<Self, StoreError> {
        let mut fields = Fields { what: "a chunk record", rest: bytes };
        let references = fields.u64()?;
        let chunk = Chunk {
            digest: Digest(fields.bytes()?),
            blob,
            index,
            flags: ChunkFlags::from_bits_retain(fields.u32()?),
            compressed_offset: fields.u64()?,
            compressed_size: fields.u32()?,
            uncompressed_offset: fields.u64()?,
            uncompressed_size: fields.u32()?,
            file_offset: 0,
            crc32: fields.u32()?,
        };
        fields.end()?;
        Ok(Self { chunk, references })
    }
}

/// Where a blob is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Its chunks are handed out.
    Live,
    /// Nothing used it when this round of collection began.
    Condemned(u64),
    /// It may be gone.
    Swept,
}

/// A blob, and how many images have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BlobRecord {
    pub blob: Blob,
    pub images: u64,
    pub state: State,
}

impl BlobRecord {
    pub fn encode(&self) -> Vec<u8> {
        let (state, round) = match self.state {
            State::Live => (0u32, 0),
            State::Condemned(round) => (1, round),
            State::Swept => (2, 0),
        };
        let blob = &self.blob;
        let mut out = Vec::with_capacity(256);
        out.extend(self.images.to_le_bytes());
        out.extend(state.to_le_bytes());
        out.extend(round.to_le_bytes());
        let words = [
            blob.chunk_size,
            blob.chunk_count,
            blob.compressor as u32,
            blob.digester as u32,
            blob.features.bits(),
            blob.cipher as u32,
            blob.meta.compressor as u32,
            blob.toc_size,
        ];
        words.iter().for_each(|word| out.extend(word.to_le_bytes()));
        let meta = &blob.meta;
        let longs = [
            blob.compressed_size,
            blob.uncompressed_size,
            meta.compressed_offset,
            meta.compressed_size,
            meta.uncompressed_size,
            blob.meta_size,
            blob.cipher_iv,
        ];
        longs.iter().for_each(|long| out.extend(long.to_le_bytes()));
        out.extend(blob.toc_digest.0);
        out.extend(blob.meta_digest.0);
        out.extend(blob.id.as_str().as_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let mut fields = Fields { what: "a blob record", rest: bytes };
        let images = fields.u64()?;
        let (state, round) = (fields.u32()?, fields.u64()?);
        let state = match state {
            0 => State::Live,
            1 => State::Condemned(round),
            2 => State::Swept,
            _ => return Err(StoreError::Corrupt { what: "the state of a blob" }),
        };
        let (chunk_size, chunk_count) = (fields.u32()?, fields.u32()?);
        let compressor = fields.known(Compressor::from_raw)?;
        let digester = fields.known(DigestAlgorithm::from_raw)?;
        let features = BlobFeatures::from_bits_retain(fields.u32()?);
        let cipher = fields.known(Cipher::from_raw)?;
        let meta_compressor = fields.known(Compressor::from_raw)?;
        let toc_size = fields.u32()?;
        let (compressed_size, uncompressed_size) = (fields.u64()?, fields.u64()?);
        let meta = BlobMetaLocation {
            compressor: meta_compressor,
            compressed_offset: fields.u64()?,
            compressed_size: fields.u64()?,
            uncompressed_size: fields.u64()?,
        };
        let (meta_size, cipher_iv) = (fields.u64()?, fields.u64()?);
        let (toc_digest, meta_digest) = (Digest(fields.bytes()?), Digest(fields.bytes()?));
        let id = std::str::from_utf8(fields.all()).ok().and_then(|id| BlobId::new(id).ok());
        let id = id.ok_or(StoreError::Corrupt { what: "the id of a blob" })?;
        let blob = Blob {
            id,
            chunk_size,
            chunk_count,
            compressor,
            digester,
            features,
            compressed_size,
            uncompressed_size,
            meta,
            toc_size,
            toc_digest,
            meta_digest,
            meta_size,
            cipher_iv,
            cipher,
        };
        Ok(Self { blob, images, state })
    }
}

/// Numbers of 8 bytes in a row.
pub(super) fn numbers(bytes: &[u8]) -> Result<Vec<u64>, StoreError> {
    let (numbers, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(StoreError::Corrupt { what: "a list of chunks" });
    }
    Ok(numbers.iter().map(|number| u64::from_le_bytes(*number)).collect())
}
