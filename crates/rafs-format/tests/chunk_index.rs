//! An image whose chunk table contradicts itself is refused, with the place of the record that does.
#![allow(clippy::unwrap_used, reason = "a test")]

use rafs_format::device::BlobMetaLocation;
use rafs_format::tree::{Entry, NewInode, Span, Tree};
use rafs_format::write::{self, Options};
use rafs_format::{
    Blob, BlobFeatures, BlobId, Bootstrap, Chunk, ChunkFlags, ChunkIndex, Cipher, Compressor, Digest,
    DigestAlgorithm, FormatError,
};

const CHUNK: u32 = 4096;

/// Chunk `index` of blob 0, all of whose values follow from `index`.
fn chunk(index: u32) -> Chunk {
    let at = u64::from(index) * u64::from(CHUNK);
    let mut digest = [0; 32];
    // Digests in another order than indexes, as in real tables.
    digest[..4].copy_from_slice(&index.wrapping_mul(0x9E37_79B1).to_le_bytes());
    Chunk {
        digest: Digest(digest),
        blob: 0,
        index,
        flags: ChunkFlags::HAS_CRC,
        compressed_offset: at,
        compressed_size: CHUNK,
        uncompressed_offset: at,
        uncompressed_size: CHUNK,
        file_offset: 0,
        crc32: index,
    }
}

fn blob(count: u32, features: BlobFeatures) -> Blob {
    let size = u64::from(count) * u64::from(CHUNK);
    Blob {
        id: BlobId::new("blob").unwrap(),
        chunk_size: CHUNK,
        chunk_count: count,
        compressor: Compressor::None,
        digester: DigestAlgorithm::Blake3,
        features: features | BlobFeatures::ALIGNED | BlobFeatures::CAP_TAR_TOC,
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
fn image(chunks: Vec<Chunk>, blobs: &[Blob]) -> Bootstrap<Vec<u8>> {
    let tree = Tree {
        entries: vec![Entry { name: Span::default(), inode: 0, children: (1, 1) }],
        inodes: vec![NewInode { mode: 0o040_755, ..NewInode::default() }],
        chunks,
        ..Tree::default()
    };
    let options = Options {
        chunk_size: CHUNK,
        compressor: Compressor::None,
        digester: DigestAlgorithm::Blake3,
        explicit_ids: true,
        prefetch: Vec::new(),
        form: write::Form::V6,
    };
    Bootstrap::parse(write::bootstrap(&tree, blobs, &options).unwrap()).unwrap()
}

fn build(chunks: Vec<Chunk>, features: BlobFeatures) -> Result<(), FormatError> {
    ChunkIndex::build(&image(chunks, &[blob(8, features)])).map(|_| ())
}

#[test]
fn equal_records_and_gaps_are_no_contradiction() {
    let none = BlobFeatures::empty();
    build(vec![], none).unwrap();
    build((0..8).map(chunk).collect(), none).unwrap();
    build(vec![chunk(7), chunk(2)], none).unwrap();
    build(vec![chunk(1), chunk(1), Chunk { file_offset: 0, ..chunk(1) }], none).unwrap();
    // The same numbers in two blobs are two chunks.
    let other = Chunk { blob: 1, digest: Digest([9; 32]), uncompressed_offset: 8192, ..chunk(1) };
    let second = Blob { id: BlobId::new("other").unwrap(), ..blob(8, none) };
    ChunkIndex::build(&image(vec![chunk(1), chunk(2), other], &[blob(8, none), second])).unwrap();
}

/// Two records of chunk 1 that differ in one field: the second in table order is named, by the place of that field.
#[test]
fn two_records_of_one_chunk_must_say_the_same() {
    let good = chunk(1);
    let cases = [
        ("digest", 0, Chunk { digest: Digest([0xFF; 32]), ..good }),
        ("flags", 36, Chunk { flags: ChunkFlags::empty(), ..good }),
        ("stored size", 40, Chunk { compressed_size: 17, ..good }),
        ("uncompressed size", 44, Chunk { uncompressed_size: 17, ..good }),
        ("stored offset", 48, Chunk { compressed_offset: 17, ..good }),
        ("uncompressed offset", 56, Chunk { uncompressed_offset: 8192, ..good }),
        ("checksum", 76, Chunk { crc32: 17, ..good }),
    ];
    for (name, field, bad) in cases {
        let bootstrap = image(vec![good, bad], &[blob(8, BlobFeatures::empty())]);
        let table = bootstrap.superblock().chunk_table_offset;
        match ChunkIndex::build(&bootstrap) {
            Err(FormatError::Value { what, at, .. }) => {
                assert!(what.starts_with(name), "{name}: {what}");
                assert_eq!(at, table + 80 + field, "{name}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn chunks_must_not_overlap_when_decompressed() {
    let none = BlobFeatures::empty();
    let twice = Chunk { uncompressed_offset: 4096, ..chunk(2) };
    let inside = Chunk { uncompressed_offset: 4096, uncompressed_size: 1, ..chunk(3) };
    let backwards = [Chunk { uncompressed_offset: 20_480, ..chunk(1) }, chunk(2)];
    let huge = Chunk { uncompressed_offset: (1 << 44) - 4096, uncompressed_size: u32::MAX, ..chunk(1) };
    for features in [none, BlobFeatures::EXTERNAL, BlobFeatures::CHUNKDICT_GENERATED] {
        for bad in [vec![chunk(1), twice], vec![chunk(1), inside], vec![chunk(2), huge, twice]] {
            let said = build(bad.clone(), features).unwrap_err().to_string();
            assert!(said.contains("uncompressed offset of a chunk record"), "{features:?} {bad:?}: {said}");
        }
        // Only blobs that are put together from chunks of others have them in any order.
        assert_eq!(build(backwards.to_vec(), features).is_ok(), features != none, "{features:?}");
    }
}

/// Not a limit, a number to look at: `cargo test --release -p rafs-format --test chunk_index -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn cost_of_200k_records() {
    for count in [20_000, 200_000, 2_000_000] {
        let bootstrap = image((0..count).map(chunk).collect(), &[blob(count, BlobFeatures::empty())]);
        let started = std::time::Instant::now();
        ChunkIndex::build(&bootstrap).unwrap();
        println!("{count} records: {:?}", started.elapsed());
    }
}
