//! A blob made of given chunks, in memory.

use bytes::Bytes;
use rafs_codec::Encoder;
use rafs_format::device::BlobMetaLocation;
use rafs_format::{
    Blob, BlobFeatures, BlobId, Chunk, ChunkFlags, Cipher, Compressor, Digest, DigestAlgorithm,
};

/// A blob and what a bootstrap would say of it.
#[derive(Debug, Clone)]
pub struct TestBlob {
    /// The description.
    pub blob: Blob,
    /// Records of its chunks, in order.
    pub chunks: Vec<Chunk>,
    /// Plain bytes of each chunk.
    pub plain: Vec<Vec<u8>>,
    /// The blob itself, without a chunk table behind the data.
    pub bytes: Bytes,
}

/// Bytes of a chunk that compress, and differ from chunk to chunk.
pub fn pattern(seed: u32, size: usize) -> Vec<u8> {
    (0u32..).map(|at| (at / 7).wrapping_mul(31).wrapping_add(seed).to_le_bytes()[0]).take(size).collect()
}

/// A plain tar as a blob, `bytes`, with these chunks: first byte and length of each.
///
/// # Panics
/// Where chunks leave the bytes.
#[expect(clippy::expect_used, reason = "a test that cannot make its input has failed")]
pub fn of_tar(bytes: Vec<u8>, chunks: &[(usize, usize)]) -> TestBlob {
    let plain = chunks.iter().map(|&(at, size)| bytes.get(at..at + size).expect("in the tar").to_vec());
    let mut blob = of_chunks("tar", plain.collect(), Compressor::None);
    for (chunk, &(at, _)) in blob.chunks.iter_mut().zip(chunks) {
        (chunk.compressed_offset, chunk.uncompressed_offset) = (at as u64, at as u64);
        chunk.digest = Digest([0; 32]);
    }
    let size = bytes.len() as u64;
    let digest = rafs_merkle::digest(DigestAlgorithm::Sha256, &bytes);
    blob.blob.id = BlobId::new(&digest.to_string()).expect("id");
    blob.blob.features = BlobFeatures::TARFS | BlobFeatures::CAP_TAR_TOC;
    (blob.blob.compressed_size, blob.blob.uncompressed_size) = (size, size);
    blob.blob.meta.compressed_offset = 0;
    blob.bytes = bytes.into();
    blob
}

/// A blob of chunks with these sizes, each at most 1 MiB.
///
/// # Panics
/// When a chunk does not encode or the id cannot be used.
pub fn of_sizes(id: &str, sizes: &[usize], compressor: Compressor) -> TestBlob {
    let plain = sizes.iter().zip(0u32..).map(|(&size, n)| pattern(n * 13 + 1, size)).collect();
    of_chunks(id, plain, compressor)
}

/// A blob of these chunks, each at most 1 MiB.
///
/// # Panics
/// As [`of_sizes`].
#[expect(clippy::expect_used, reason = "a test that cannot make its input has failed")]
pub fn of_chunks(id: &str, plain: Vec<Vec<u8>>, compressor: Compressor) -> TestBlob {
    let mut encoder = Encoder::new(compressor, 3).expect("encoder");
    let (mut bytes, mut chunks, mut packed) = (Vec::new(), Vec::new(), Vec::new());
    let mut uncompressed = 0;
    let count = |size: usize| u32::try_from(size).expect("small chunks");
    for (plain, index) in plain.iter().zip(0u32..) {
        let smaller = encoder.encode(plain, &mut packed).expect("encode");
        let stored = if smaller { &packed } else { plain };
        chunks.push(Chunk {
            digest: rafs_merkle::digest(DigestAlgorithm::Blake3, plain),
            blob: 0,
            index,
            flags: if smaller { ChunkFlags::COMPRESSED } else { ChunkFlags::empty() },
            compressed_offset: bytes.len() as u64,
            compressed_size: count(stored.len()),
            uncompressed_offset: uncompressed,
            uncompressed_size: count(plain.len()),
            file_offset: 0,
            crc32: 0,
        });
        bytes.extend_from_slice(stored);
        uncompressed += (plain.len() as u64).next_multiple_of(4096);
    }
    let size = bytes.len() as u64;
    let blob = Blob {
        id: BlobId::new(id).expect("id"),
        chunk_size: 1 << 20,
        chunk_count: count(plain.len()),
        compressor,
        digester: DigestAlgorithm::Blake3,
        features: BlobFeatures::ALIGNED | BlobFeatures::CAP_TAR_TOC,
        compressed_size: size,
        uncompressed_size: uncompressed,
        meta: BlobMetaLocation {
            compressor: Compressor::None,
            compressed_offset: size,
            compressed_size: 0,
            uncompressed_size: 0,
        },
        toc_size: 0,
        toc_digest: Digest([0; 32]),
        meta_digest: Digest([0; 32]),
        meta_size: 0,
        cipher_iv: 0,
        cipher: Cipher::None,
    };
    TestBlob { blob, chunks, plain, bytes: bytes.into() }
}
