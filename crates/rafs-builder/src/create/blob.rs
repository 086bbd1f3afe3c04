//! What stands behind the chunks of a blob: chunk table, digests, bootstrap, table of contents, each with its tar header.
//!
//! docs/format.md, "Blobs". Knows sections and hashes, no files of an image. Only appends, so a blob may be a pipe. Invariant: every byte of the blob
//! goes through one hash, so the id is the SHA-256 of the object whatever sections it has.

use super::collect::{Batch, InBatch, Stored};
use super::reference::Reference;
use super::{CreateError, Options, v5};
use crate::output::Output;
use rafs_codec::{CodecError, Encoder, Key};
use rafs_format::blob_entries::{self, Entry, Place};
use rafs_format::blob_meta::{self, Contexts, HEADER_SIZE, Header};
use rafs_format::device::BlobMetaLocation;
use rafs_format::toc::{TocEntry, section};
use rafs_format::{Blob, BlobFeatures, BlobId, Chunk, ChunkFlags, Cipher, Compressor, Digest, Version};
use sha2::{Digest as _, Sha256};
use std::io::{self, Write};
use std::path::Path;

/// Id of a blob in the bootstrap that it holds itself: the real one depends on that bootstrap.
const OWN_ID: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

/// A blob whose chunks are written.
#[derive(Debug)]
pub(crate) struct Tail<'a> {
    output: Output,
    path: &'a Path,
    options: &'a Options,
    /// Is the bootstrap to stand in it?
    inline: bool,
    sha256: Sha256,
    /// Bytes written.
    at: u64,
    contents: Vec<TocEntry>,
    /// Chunk table and its header, plain; kept where a cache is written.
    pub table: Option<(Vec<u8>, [u8; HEADER_SIZE])>,
    /// The data is a layer that stays as it is; this is the object with its chunk table.
    reference: Option<Reference>,
}

/// A blob that is written to its end.
#[derive(Debug)]
pub(crate) struct Done {
    pub output: Output,
    /// SHA-256 of all bytes.
    pub digest: Digest,
    pub size: u64,
    /// Size and SHA-256 of the table of contents with its tar header; zeros without one.
    pub toc: (u32, Digest),
}

impl<'a> Tail<'a> {
    /// A blob that holds the chunks of `stored` so far.
    pub fn new(output: Output, path: &'a Path, options: &'a Options, inline: bool, stored: &Stored) -> Self {
        let sha256 = stored.sha256.clone();
        Self {
            output,
            path,
            options,
            inline,
            sha256,
            at: stored.compressed_size,
            contents: Vec::new(),
            table: None,
            reference: None,
        }
    }

    /// An empty object for the chunk table of a layer that stays as it is.
    pub(super) fn of_reference(
        output: Output,
        path: &'a Path,
        options: &'a Options,
        inline: bool,
        reference: Reference,
    ) -> Self {
        Self { reference: Some(reference), ..Self::new(output, path, options, inline, &Stored::default()) }
    }

    /// Do sections have tar headers?
    fn has_headers(&self) -> bool {
        self.inline || self.options.toc
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), CreateError> {
        let failed = |source: io::Error| CreateError::Blob { path: self.path.to_path_buf(), source };
        self.output.write_all(bytes).map_err(failed)?;
        self.sha256.update(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// The tar header behind a section of `size` bytes.
    fn put_header(&mut self, name: &str, size: u64) -> Result<(), CreateError> {
        let header = tar_header(name, size)
            .map_err(|source| CreateError::Blob { path: self.path.to_path_buf(), source })?;
        self.put(&header)
    }

    /// Puts down where the section `name` is: its stored range starts at `start`, its plain bytes have this digest and size.
    fn list(
        &mut self,
        name: &str,
        by: Compressor,
        digest: [u8; 32],
        stored: (u64, u64),
        plain_size: u64,
    ) -> Result<(), CreateError> {
        let entry = TocEntry::new(name, by, Digest(digest), stored, plain_size)?;
        self.contents.push(entry);
        Ok(())
    }

    /// Puts chunk table and digests behind the data, in v5 neither. Returns the blob as the bootstrap describes it, sizes of the whole blob still open; nothing without data.
    pub fn put_chunk_table(&mut self, stored: &Stored) -> Result<Option<Blob>, CreateError> {
        if stored.chunks.is_empty() {
            return Ok(None);
        }
        if self.has_headers() && self.reference.is_none() {
            let size = self.at;
            self.put_header(section::DATA, size)?;
            // The digest covers the tar header too: that is what readers of this entry expect.
            let digest = self.sha256.clone().finalize().into();
            let plain_size = stored.uncompressed_size;
            self.list(section::DATA, Compressor::None, digest, (0, size), plain_size)?;
        }
        if self.options.version == Version::V5 {
            let end = self.at;
            let none = BlobMetaLocation {
                compressor: Compressor::None,
                compressed_offset: end,
                compressed_size: 0,
                uncompressed_size: 0,
            };
            let count = u32::try_from(stored.chunks.len()).unwrap_or(u32::MAX);
            return Ok(Some(self.describe(count, stored.uncompressed_size, none)?));
        }
        let (table, contexts) = self.chunk_table(stored)?;
        let by = if self.reference.is_some() { Compressor::Zstd } else { self.options.compressor };
        let (compressor, bytes) = packed(by, self.options.level, &table)?;
        let meta = BlobMetaLocation {
            compressor,
            compressed_offset: self.at,
            compressed_size: bytes.len() as u64,
            uncompressed_size: table.len() as u64,
        };
        let chunk_count = u32::try_from(stored.chunks.len()).unwrap_or(u32::MAX);
        let header = Header {
            features: self.features(),
            compressor,
            entries: chunk_count,
            compressed_offset: meta.compressed_offset,
            compressed_size: meta.compressed_size,
            uncompressed_size: meta.uncompressed_size,
            contexts,
        };
        let header = header.encode();
        match self.options.cipher_key()? {
            Some(key) => {
                self.put(&encrypted(&key, &bytes)?)?;
                self.put(&encrypted(&key, &header)?)?;
            }
            None => {
                self.put(&bytes)?;
                self.put(&header)?;
            }
        }
        if self.has_headers() {
            let (start, size) = (meta.compressed_offset, meta.compressed_size);
            let header_size = header.len() as u64;
            let digest = Sha256::digest(&table).into();
            self.list(section::CHUNK_TABLE, compressor, digest, (start, size), meta.uncompressed_size)?;
            let digest = Sha256::digest(header).into();
            let place = (start + size, header_size);
            self.list(section::CHUNK_TABLE_HEADER, Compressor::None, digest, place, header_size)?;
            self.put_header(section::CHUNK_TABLE, size + header_size)?;
        }
        if self.options.toc {
            let digests: Vec<u8> = stored.chunks.iter().flat_map(|chunk| chunk.digest.0).collect();
            self.put_section(section::DIGESTS, Compressor::None, &digests, &digests)?;
        }
        self.table = stored.cache.is_some().then_some((table, header));
        Ok(Some(self.describe(chunk_count, stored.uncompressed_size, meta)?))
    }

    /// The table of all chunks, and what stands in it behind its entries.
    fn chunk_table(&self, stored: &Stored) -> Result<(Vec<u8>, Contexts), CreateError> {
        if let Some(reference) = &self.reference {
            return reference.chunk_table(stored);
        }
        let mut table = Vec::new();
        if !self.has_long_entries() {
            stored.chunks.iter().try_for_each(|chunk| blob_meta::push_v1(&mut table, chunk))?;
            return Ok((table, Contexts::default()));
        }
        let places = stored.in_batches.iter().copied().chain(std::iter::repeat(None));
        for (chunk, place) in stored.chunks.iter().zip(places) {
            blob_entries::push(&mut table, &entry(chunk, place, &stored.batches))?;
        }
        if self.options.batch_size == 0 {
            return Ok((table, Contexts::default()));
        }
        let offset = table.len() as u64;
        for batch in &stored.batches {
            blob_entries::push_batch(&mut table, batch.compressed_size, batch.uncompressed_size);
        }
        // No more than chunks, whose numbers have 24 bits.
        let count = u32::try_from(stored.batches.len()).unwrap_or(u32::MAX);
        let contexts = Contexts { offset, size: table.len() as u64 - offset, count };
        Ok((table, contexts))
    }

    /// Puts down a whole section with its tar header.
    fn put_section(
        &mut self,
        name: &str,
        by: Compressor,
        bytes: &[u8],
        plain: &[u8],
    ) -> Result<(), CreateError> {
        let (start, size) = (self.at, bytes.len() as u64);
        self.put(bytes)?;
        self.put_header(name, size)?;
        self.list(name, by, Sha256::digest(plain).into(), (start, size), plain.len() as u64)
    }

    /// Does its chunk table have entries of 24 bytes?
    fn has_long_entries(&self) -> bool {
        self.options.batch_size > 0 || self.options.encryption.is_some()
    }

    fn features(&self) -> BlobFeatures {
        if self.options.version == Version::V5 {
            return v5::features(self.inline);
        }
        let mut features = BlobFeatures::ALIGNED | BlobFeatures::CAP_TAR_TOC;
        features.set(BlobFeatures::INLINED_FS_META, self.inline);
        features.set(BlobFeatures::CHUNK_INFO_V2, self.has_long_entries());
        features.set(BlobFeatures::BATCH, self.options.batch_size > 0);
        features.set(BlobFeatures::ENCRYPTED, self.options.encryption.is_some());
        features |= self.reference.as_ref().map_or(BlobFeatures::empty(), Reference::features);
        features.set(BlobFeatures::HAS_TAR_HEADER, self.has_headers());
        features.set(BlobFeatures::HAS_TOC | BlobFeatures::INLINED_CHUNK_DIGEST, self.options.toc);
        features
    }

    fn describe(
        &self,
        chunk_count: u32,
        uncompressed_size: u64,
        meta: BlobMetaLocation,
    ) -> Result<Blob, CreateError> {
        let encryption = self.options.encryption.as_ref();
        let key = encryption.map(|with| match with.key_in_bootstrap {
            true => with.key.put_in(),
            false => with.key.left_out(with.iv),
        });
        // Its low half in front, as both stand on disk.
        let iv = encryption.map_or(0, |with| u128::from_le_bytes(with.iv));
        let half = |at: u32| u64::try_from(iv >> at & u128::from(u64::MAX)).unwrap_or(0);
        Ok(Blob {
            id: self.reference.as_ref().map_or_else(|| BlobId::new(OWN_ID), |layer| Ok(layer.id.clone()))?,
            chunk_size: self.options.chunk_size,
            chunk_count,
            compressor: self.options.compressor,
            digester: self.options.digester,
            features: self.features(),
            // Right where the bootstrap stands in the blob, which begins here.
            compressed_size: self.reference.as_ref().map_or(self.at, |layer| layer.size),
            uncompressed_size,
            meta,
            toc_size: 0,
            toc_digest: Digest([0; 32]),
            meta_digest: key.unwrap_or(Digest([0; 32])),
            meta_size: half(0),
            cipher_iv: half(64),
            cipher: if encryption.is_some() { Cipher::Aes128Xts } else { Cipher::None },
        })
    }

    /// Puts the bootstrap into the blob: as it is, or compressed where a table of contents says so.
    pub fn put_bootstrap(&mut self, bootstrap: &[u8]) -> Result<(), CreateError> {
        let by = if self.options.toc { Compressor::Zstd } else { Compressor::None };
        let (by, bytes) = packed(by, self.options.level, bootstrap)?;
        self.put_section(section::BOOTSTRAP, by, &bytes, bootstrap)
    }

    /// Puts the table of contents at the end, if there is to be one and anything to list.
    pub fn finish(mut self) -> Result<Done, CreateError> {
        let mut toc = (0, Digest([0; 32]));
        if self.options.toc && !self.contents.is_empty() {
            let table: Vec<u8> =
                self.contents.iter().flat_map(|entry| entry.encode().iter().copied()).collect();
            let header = tar_header(section::TOC, table.len() as u64)
                .map_err(|source| CreateError::Blob { path: self.path.to_path_buf(), source })?;
            let both = [table.as_slice(), &header].concat();
            self.put(&both)?;
            toc = (u32::try_from(both.len()).unwrap_or(u32::MAX), Digest(Sha256::digest(&both).into()));
        }
        let digest = Digest(self.sha256.finalize().into());
        Ok(Done { output: self.output, digest, size: self.at, toc })
    }
}

/// `bytes` as an encrypted unit.
fn encrypted(key: &Key, bytes: &[u8]) -> Result<Vec<u8>, CreateError> {
    let mut unit = bytes.to_vec();
    unit.resize(Key::room(bytes.len()), 0);
    let size = key.encrypt(&mut unit, bytes.len());
    let source = CodecError::Encrypted { stored: bytes.len() };
    size.map(|_| unit).ok_or(CreateError::Codec { source })
}

/// The entry of a chunk, which may be in a batch.
fn entry(chunk: &Chunk, place: Option<InBatch>, batches: &[Batch]) -> Entry {
    let entry = Entry {
        compressed_offset: chunk.compressed_offset,
        compressed_size: chunk.compressed_size,
        uncompressed_offset: chunk.uncompressed_offset,
        uncompressed_size: chunk.uncompressed_size,
        is_compressed: chunk.flags.contains(ChunkFlags::COMPRESSED),
        is_encrypted: chunk.flags.contains(ChunkFlags::ENCRYPTED),
        place: Place::Alone { crc32: chunk.crc32 },
    };
    let batch = place.and_then(|place| Some((place, batches.get(place.number as usize)?)));
    match batch {
        Some((InBatch { number, start }, batch)) => Entry {
            compressed_offset: batch.compressed_offset,
            place: Place::Batch { number, start },
            ..entry
        },
        None => entry,
    }
}

/// The tar header behind a section: a regular file without owner, mode and time. Errors: the name is too long.
fn tar_header(name: &str, size: u64) -> io::Result<[u8; 512]> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_size(size);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(*header.as_bytes())
}

/// `bytes` compressed, or as they are where that does not make them smaller.
fn packed(by: Compressor, level: i32, bytes: &[u8]) -> Result<(Compressor, Vec<u8>), CreateError> {
    let codec = |source| CreateError::Codec { source };
    let mut out = Vec::new();
    let smaller = Encoder::new(by, level).map_err(codec)?.encode(bytes, &mut out).map_err(codec)?;
    Ok(if smaller { (by, out) } else { (Compressor::None, bytes.to_vec()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offset by offset, as docs/format.md says.
    #[test]
    fn headers_hold_nothing_but_name_size_time_and_type() {
        let header = tar_header("blob.meta", 4496).unwrap();
        let mut expected = [0; 512];
        expected[..9].copy_from_slice(b"blob.meta");
        expected[124..135].copy_from_slice(b"00000010620");
        expected[136..147].copy_from_slice(b"00000000000");
        expected[156] = b'0';
        expected[257..264].copy_from_slice(b"ustar  ");
        let sum: u32 = expected.iter().map(|&byte| u32::from(byte)).sum::<u32>() + 8 * 32;
        expected[148..155].copy_from_slice(format!("{sum:07o}").as_bytes());
        assert_eq!(header, expected);
    }

    /// Eleven octal digits end at 8 GiB.
    #[test]
    fn sections_may_be_longer_than_octal_digits_say() {
        let header = tar_header("image.blob", 1 << 36).unwrap();
        let read = tar::Header::from_byte_slice(&header).entry_size().unwrap();
        assert_eq!(read, 1 << 36);
    }
}
