//! Chunk tables with batches: what is sound is found, what contradicts bootstrap, blob or itself is refused.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use rafs_format::blob_entries::{self, Entry, Place};
use rafs_format::blob_meta::{Contexts, HEADER_SIZE, Header};
use rafs_format::blob_units::{Unit, UnitTable};
use rafs_format::device::BlobMetaLocation;
use rafs_format::{
    Blob, BlobFeatures, BlobId, Chunk, ChunkFlags, Cipher, Compressor, Digest, DigestAlgorithm,
};

const DATA: u64 = 5000;

/// Two chunks of 100 and 50 bytes in a batch that is stored in 120 bytes at 1000, and one of 4000 bytes by itself at 1120.
fn table() -> Vec<u8> {
    let entry = |n: u64, size, at, stored, place| Entry {
        compressed_offset: at,
        compressed_size: stored,
        uncompressed_offset: n * 4096,
        uncompressed_size: size,
        is_compressed: true,
        is_encrypted: false,
        place,
    };
    let batch = |start| Place::Batch { number: 0, start };
    let mut table = Vec::new();
    for entry in [
        entry(0, 100, 1000, 0, batch(0)),
        entry(1, 50, 1000, 0, batch(100)),
        entry(2, 4000, 1120, 2000, Place::Alone { crc32: 0 }),
    ] {
        blob_entries::push(&mut table, &entry).unwrap();
    }
    blob_entries::push_batch(&mut table, 120, 150);
    table
}

fn blob() -> Blob {
    Blob {
        id: BlobId::new("b").unwrap(),
        chunk_size: 4096,
        chunk_count: 3,
        compressor: Compressor::Zstd,
        digester: DigestAlgorithm::Blake3,
        features: BlobFeatures::ALIGNED
            | BlobFeatures::CAP_TAR_TOC
            | BlobFeatures::CHUNK_INFO_V2
            | BlobFeatures::BATCH,
        compressed_size: 20_000,
        uncompressed_size: 3 * 4096,
        meta: BlobMetaLocation {
            compressor: Compressor::None,
            compressed_offset: DATA,
            compressed_size: 112,
            uncompressed_size: 112,
        },
        toc_size: 0,
        toc_digest: Digest([0; 32]),
        meta_digest: Digest([0; 32]),
        meta_size: 0,
        cipher_iv: 0,
        cipher: Cipher::None,
    }
}

fn header() -> Vec<u8> {
    let blob = blob();
    Header {
        features: blob.features,
        compressor: Compressor::None,
        entries: 3,
        compressed_offset: DATA,
        compressed_size: 112,
        uncompressed_size: 112,
        contexts: Contexts { offset: 72, size: 40, count: 1 },
    }
    .encode()
    .to_vec()
}

fn chunk(index: u32, size: u32) -> Chunk {
    Chunk {
        digest: Digest([0; 32]),
        blob: 0,
        index,
        flags: ChunkFlags::COMPRESSED | ChunkFlags::BATCH,
        compressed_offset: 0,
        compressed_size: 0,
        uncompressed_offset: u64::from(index) * 4096,
        uncompressed_size: size,
        file_offset: 0,
        crc32: 0,
    }
}

const SIZES: [u32; 3] = [100, 50, 4000];

#[test]
fn chunks_are_found_in_their_batch_or_by_themselves() {
    let blob = blob();
    let table = UnitTable::new(table(), &header(), &blob).unwrap();
    let unit = |n: u32| table.unit(&blob, &chunk(n, SIZES[n as usize])).unwrap();
    let batch =
        Unit { compressed: 1000..1120, uncompressed_size: 150, is_compressed: true, start: 0, resume: None };
    assert_eq!(unit(0), batch);
    assert_eq!(unit(1), Unit { start: 100, ..batch });
    let alone =
        Unit { compressed: 1120..3120, uncompressed_size: 4000, is_compressed: true, start: 0, resume: None };
    assert_eq!(unit(2), alone);
}

#[test]
fn contradictions_are_named() {
    let blob = blob();
    let said = |table: Vec<u8>, header: &[u8], chunk: Chunk| {
        let unit = UnitTable::new(table, header, &blob).and_then(|table| table.unit(&blob, &chunk));
        unit.unwrap_err().to_string()
    };
    let with = |at: usize, bytes: &[u8]| {
        let mut table = table();
        table[at..at + bytes.len()].copy_from_slice(bytes);
        table
    };
    let (good, first) = (header(), chunk(0, 100));
    assert!(said(table(), &good, chunk(3, 100)).contains("index of a chunk"));
    assert!(said(table(), &good, chunk(0, 99)).contains("uncompressed size in a chunk table"));
    assert!(said(with(0, &[1]), &good, first).contains("uncompressed offset in a chunk table"));
    assert!(said(with(20, &[1]), &good, first).contains("batch in a chunk table"));
    assert!(said(with(16, &[51]), &good, first).contains("offset in a batch or span"));
    assert!(said(with(16, &[0xFF; 4]), &good, first).contains("offset in a batch or span"));
    // The batch: nothing stored, more stored than it holds, longer than a chunk may be.
    assert!(said(with(72, &[0]), &good, first).contains("stored size in a chunk table"));
    assert!(said(with(72, &[151]), &good, first).contains("stored size in a chunk table"));
    assert!(said(with(76, &[1, 16]), &good, first).contains("at most the chunk size"));
    // Behind the data of the blob.
    assert!(said(with(8, &4900u64.to_le_bytes()[..5]), &good, first).contains("end of a chunk"));
    assert!(said(table()[..111].to_vec(), &good, first).contains("size of a chunk table"));
    let mut header = header();
    header[56] = 2;
    assert!(said(table(), &header, first).contains("batches of a chunk table"));
    header[40] = 71;
    assert!(said(table(), &header, first).contains("offset of batches"));
    assert!(said(table(), &header[..100], first).contains("header of a chunk table"));
}

proptest! {
    /// Whatever a table says, a unit lies within the data of the blob and is no longer than a chunk may be.
    #[test]
    fn any_table_stays_within_its_blob(flips in prop::collection::vec((0usize..112, any::<u8>()), 0..6), n in 0u32..3) {
        let blob = blob();
        let mut bytes = table();
        for (at, value) in flips {
            bytes[at] = value;
        }
        let size = SIZES[n as usize];
        if let Ok(unit) = UnitTable::new(bytes, &header(), &blob).and_then(|table| table.unit(&blob, &chunk(n, size))) {
            prop_assert!(unit.compressed.start < unit.compressed.end && unit.compressed.end <= DATA);
            prop_assert!(unit.uncompressed_size <= 4096 && unit.start + size <= unit.uncompressed_size);
        }
    }

    #[test]
    fn no_header_panics(bytes in prop::collection::vec(any::<u8>(), 0..HEADER_SIZE + 1)) {
        let found = UnitTable::new(table(), &bytes, &blob());
        prop_assert!(found.is_err() || bytes.len() == HEADER_SIZE);
    }
}
