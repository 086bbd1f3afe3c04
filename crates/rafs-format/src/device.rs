//! One data blob as a bootstrap describes it: blob table entry and device slot in one value.

use crate::{BlobFeatures, BlobId, Cipher, Compressor, Digest, DigestAlgorithm};
use std::ffi::OsStr;

/// One data blob as a bootstrap describes it. Sizes and offsets in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Name of the blob.
    pub id: BlobId,
    /// Largest chunk, a power of two from 4 KiB to 16 MiB; the same for all blobs of an image.
    pub chunk_size: u32,
    /// Chunks in the blob, 1 to 2^24.
    pub chunk_count: u32,
    /// Compression of its chunks.
    pub compressor: Compressor,
    /// Digest of its chunks.
    pub digester: DigestAlgorithm,
    /// What the blob holds besides chunks.
    pub features: BlobFeatures,
    /// See [`Blob::data_end`] for what it means in which kind of blob.
    pub compressed_size: u64,
    /// Size of the decompressed blob: size of the cache file and of the EROFS device. A multiple of 4096 in v6.
    pub uncompressed_size: u64,
    /// Where the chunk table lies in the blob. Blobs of v5 have none: it would start where they end, and is empty.
    pub meta: BlobMetaLocation,
    /// Table of contents and its tar header; 0 for none or unknown.
    pub toc_size: u32,
    /// SHA-256 of the table of contents and its tar header; zero for unknown.
    pub toc_digest: Digest,
    /// Id of the meta blob (SEPARATE), the key (ENCRYPTED), or the SHA-256 of a tar that has another id (TARFS); else zero.
    pub meta_digest: Digest,
    /// Size of the meta blob (SEPARATE) or the first 8 bytes of the initial vector (ENCRYPTED).
    pub meta_size: u64,
    /// Last 8 bytes of the initial vector (ENCRYPTED).
    pub cipher_iv: u64,
    /// Cipher of its chunks.
    pub cipher: Cipher,
}

/// Where the chunk table of a blob lies in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobMetaLocation {
    /// Compression of the table.
    pub compressor: Compressor,
    /// First byte of the stored table in the blob.
    pub compressed_offset: u64,
    /// Length as stored.
    pub compressed_size: u64,
    /// Length after decompression: 16 bytes per chunk, or 24 and more; 0 where there is no table.
    pub uncompressed_size: u64,
}

impl Blob {
    /// One past the last byte of chunk data in the blob: no chunk may end behind it. docs/format.md, "Sizes".
    pub fn data_end(&self) -> u64 {
        if self.features.intersects(BlobFeatures::SEPARATE | BlobFeatures::TARFS)
            || !self.features.contains(BlobFeatures::CAP_TAR_TOC)
            || (self.is_external() && self.meta.uncompressed_size == 0)
        {
            return self.compressed_size;
        }
        let header = if self.features.contains(BlobFeatures::HAS_TAR_HEADER) { 512 } else { 0 };
        self.meta.compressed_offset.saturating_sub(header)
    }

    /// Does the blob hold the bootstrap itself, so that it cannot name itself there?
    pub fn is_named_by_file(&self) -> bool {
        self.features.contains(BlobFeatures::INLINED_FS_META)
            && !self.features.contains(BlobFeatures::SEPARATE)
    }

    /// This blob with the id that it is found by: where it holds the bootstrap, the name of the file from which that was read, up to the first dot. All
    /// others keep their id, and so does one whose file has no name that is an id. Where the data is a layer that stays as it is, the file is the object with the chunk
    /// table: its name, if that is a digest, becomes [`Blob::meta_digest`].
    pub fn named_by(&self, file_name: Option<&OsStr>) -> Self {
        let mut blob = self.clone();
        let stem = file_name.and_then(OsStr::to_str).and_then(|name| name.split('.').next());
        let id = stem.filter(|_| self.is_named_by_file()).and_then(|stem| BlobId::new(stem).ok());
        if let Some(id) = id {
            blob.id = id;
        }
        let object = stem.filter(|&stem| self.is_table_named_by_file() && stem != self.id.as_str());
        let object = object.and_then(|stem| BlobId::new(stem).ok());
        blob.meta_digest = object.and_then(|id| id.as_sha256()).unwrap_or(blob.meta_digest);
        blob
    }

    /// Is its chunk table in the object that holds the bootstrap, and therefore not named there?
    fn is_table_named_by_file(&self) -> bool {
        let elsewhere = BlobFeatures::SEPARATE | BlobFeatures::INLINED_FS_META;
        self.features.contains(elsewhere) && self.meta_digest == Digest([0; 32])
    }

    /// Is its data a layer that stays as it is, and its chunk table in an object of its own?
    pub fn is_separate(&self) -> bool {
        self.features.contains(BlobFeatures::SEPARATE)
    }

    /// Id of the object that holds its chunk table: its own, unless it [is separate](Self::is_separate). `None` where nothing names that object.
    pub fn table_id(&self) -> Option<BlobId> {
        if !self.is_separate() {
            return Some(self.id.clone());
        }
        (self.meta_digest != Digest([0; 32])).then(|| BlobId::new(&self.meta_digest.to_string()).ok())?
    }

    /// Is the blob one that was there before the image, with the data of files as it is at any places, and as a rule without digests?
    pub fn is_external(&self) -> bool {
        self.features.contains(BlobFeatures::EXTERNAL)
    }

    /// Is the blob a plain tar, whose chunks have no digests?
    pub fn is_tar(&self) -> bool {
        self.features.contains(BlobFeatures::TARFS)
    }

    /// SHA-256 of a whole tarfs blob: the one that the bootstrap notes, else the id where that is one. `None`: nothing says what the
    /// tar should be (or the blob is none). docs/format.md, "Tarfs".
    pub fn tar_digest(&self) -> Option<Digest> {
        if !self.is_tar() {
            return None;
        }
        if self.meta_digest != Digest([0; 32]) { Some(self.meta_digest) } else { self.id.as_sha256() }
    }

    /// Are its chunks gzip members of a layer that stays as it is, of which only the first bytes are known? docs/format.md, "eStargz layers".
    pub fn is_stargz(&self) -> bool {
        self.compressor == Compressor::Gzip
            && self.features.contains(BlobFeatures::SEPARATE)
            && !self.features.intersects(BlobFeatures::CHUNK_INFO_V2 | BlobFeatures::ZRAN)
    }
}

/// Bytes of a gzip member that its first `size` plain bytes lie in at most: header, stored blocks of deflate, and some more.
pub fn gzip_bound(size: u32) -> u32 {
    size.saturating_add(23 + 128).saturating_add(size / 16_384 * 5)
}
