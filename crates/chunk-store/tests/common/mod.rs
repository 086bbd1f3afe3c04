//! Images of nothing but chunks, made with the writer alone.
#![allow(dead_code, clippy::unwrap_used, reason = "each test program uses a part")]

use rafs_format::device::BlobMetaLocation;
use rafs_format::tree::{Entry, NewInode, Span, Tree};
use rafs_format::write::{self, Options};
use rafs_format::{
    Blob, BlobFeatures, BlobId, Bootstrap, Chunk, ChunkFlags, Cipher, Compressor, Digest, DigestAlgorithm,
};

pub const CHUNK: u32 = 4096;

/// A digest as good as any for this number.
pub fn digest(number: u64) -> Digest {
    let mut bytes = [0; 32];
    for (n, part) in (1u64..).zip(bytes.chunks_mut(8)) {
        let mixed = (number ^ n << 56).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        part.copy_from_slice(&(mixed ^ mixed >> 32).to_be_bytes());
    }
    Digest(bytes)
}

/// Chunk `index` of blob `blob` of an image, with this digest and size.
pub fn chunk(blob: u32, index: u32, digest: Digest, size: u32) -> Chunk {
    let at = u64::from(index) * u64::from(CHUNK);
    Chunk {
        digest,
        blob,
        index,
        flags: ChunkFlags::HAS_CRC | ChunkFlags::COMPRESSED,
        compressed_offset: at,
        compressed_size: size.div_ceil(2),
        uncompressed_offset: at,
        uncompressed_size: size,
        file_offset: 0,
        crc32: index ^ 0xFFFF_0000,
    }
}

/// A blob of `count` chunks.
pub fn blob(id: &str, count: u32) -> Blob {
    let size = u64::from(count) * u64::from(CHUNK);
    Blob {
        id: BlobId::new(id).unwrap(),
        chunk_size: CHUNK,
        chunk_count: count,
        compressor: Compressor::Zstd,
        digester: DigestAlgorithm::Blake3,
        features: BlobFeatures::ALIGNED | BlobFeatures::CAP_TAR_TOC,
        compressed_size: size + u64::from(count) * 16 + 4096,
        uncompressed_size: size,
        meta: BlobMetaLocation {
            compressor: Compressor::None,
            compressed_offset: size,
            compressed_size: u64::from(count) * 16,
            uncompressed_size: u64::from(count) * 16,
        },
        toc_size: 0,
        toc_digest: Digest([0; 32]),
        meta_digest: Digest([0; 32]),
        meta_size: 0,
        cipher_iv: 0,
        cipher: Cipher::None,
    }
}

/// A bootstrap with these records and an empty root.
pub fn image(chunks: Vec<Chunk>, blobs: &[Blob]) -> Bootstrap<Vec<u8>> {
    image_of(CHUNK, chunks, blobs)
}

/// The same for another chunk size.
pub fn image_of(chunk_size: u32, chunks: Vec<Chunk>, blobs: &[Blob]) -> Bootstrap<Vec<u8>> {
    let tree = Tree {
        entries: vec![Entry { name: Span::default(), inode: 0, children: (1, 1) }],
        inodes: vec![NewInode { mode: 0o040_755, ..NewInode::default() }],
        chunks,
        ..Tree::default()
    };
    let options = Options {
        chunk_size,
        compressor: Compressor::Zstd,
        digester: DigestAlgorithm::Blake3,
        explicit_ids: true,
        prefetch: Vec::new(),
        form: write::Form::V6,
    };
    Bootstrap::parse(write::bootstrap(&tree, blobs, &options).unwrap()).unwrap()
}
