//! Chunk tables with inflate states: what is sound is found, what contradicts bootstrap, layer or itself is refused.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use rafs_format::blob_entries::{self, Entry, Place};
use rafs_format::blob_meta::{Contexts, Header};
use rafs_format::blob_units::UnitTable;
use rafs_format::device::BlobMetaLocation;
use rafs_format::zran::{self, CONTEXT_SIZE, Context, MAX_SPAN};
use rafs_format::{
    Blob, BlobFeatures, BlobId, Chunk, ChunkFlags, Cipher, Compressor, Digest, DigestAlgorithm,
};
use std::ffi::OsStr;

const LAYER: u64 = 9000;
const STATES: usize = 2 * blob_entries::ENTRY_SIZE;

/// Two chunks of 100 and 50 bytes, each in a span of its own; the second span has a dictionary and three pending bits.
fn table() -> Vec<u8> {
    let entry = |block: u64, size: u32, number: u32, start: u32| Entry {
        compressed_offset: 500,
        compressed_size: 0,
        uncompressed_offset: block << 12,
        uncompressed_size: size,
        is_compressed: true,
        is_encrypted: false,
        place: Place::Context { number, start },
    };
    let first = Context {
        compressed_offset: 10,
        compressed_size: 5000,
        uncompressed_size: 700,
        ..Context::default()
    };
    let second = Context {
        compressed_offset: 4000,
        uncompressed_offset: 600,
        compressed_size: 5000,
        uncompressed_size: 300,
        byte: 0b1010_0000,
        bits: 3,
    };
    let mut table = Vec::new();
    blob_entries::push(&mut table, &entry(0, 100, 0, 512)).unwrap();
    blob_entries::push(&mut table, &entry(1, 50, 1, 250)).unwrap();
    zran::push_contexts(&mut table, [(&first, b"".as_slice()), (&second, b"dictionary")].into_iter())
        .unwrap();
    table
}

fn blob() -> Blob {
    let size = table().len() as u64;
    Blob {
        id: BlobId::new("b").unwrap(),
        chunk_size: 4096,
        chunk_count: 2,
        compressor: Compressor::Gzip,
        digester: DigestAlgorithm::Sha256,
        features: BlobFeatures::ALIGNED
            | BlobFeatures::CAP_TAR_TOC
            | BlobFeatures::CHUNK_INFO_V2
            | BlobFeatures::SEPARATE
            | BlobFeatures::ZRAN,
        compressed_size: LAYER,
        uncompressed_size: 2 * 4096,
        meta: BlobMetaLocation {
            compressor: Compressor::None,
            compressed_offset: 0,
            compressed_size: size,
            uncompressed_size: size,
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
    let contexts = Contexts { offset: STATES as u64, size: 90, count: 2 };
    Header {
        features: blob.features,
        compressor: Compressor::None,
        entries: 2,
        compressed_offset: 0,
        compressed_size: blob.meta.compressed_size,
        uncompressed_size: blob.meta.uncompressed_size,
        contexts,
    }
    .encode()
    .to_vec()
}

fn chunk(index: u32) -> Chunk {
    Chunk {
        digest: Digest([0; 32]),
        blob: 0,
        index,
        flags: ChunkFlags::COMPRESSED,
        compressed_offset: 500,
        compressed_size: 0,
        uncompressed_offset: u64::from(index) * 4096,
        uncompressed_size: [100, 50][index as usize],
        file_offset: 0,
        crc32: 0,
    }
}

#[test]
fn chunks_are_found_in_their_span() {
    let (blob, table) = (blob(), UnitTable::new(table(), &header(), &blob()).unwrap());
    let first = table.unit(&blob, &chunk(0)).unwrap();
    assert_eq!((first.compressed, first.uncompressed_size, first.start), (10..5010, 700, 512));
    let resume = first.resume.unwrap();
    assert_eq!((resume.dictionary(), resume.pending()), (b"".as_slice(), (0, 0)));
    let second = table.unit(&blob, &chunk(1)).unwrap();
    assert_eq!((second.compressed, second.uncompressed_size, second.start), (4000..9000, 300, 250));
    let resume = second.resume.unwrap();
    assert_eq!((resume.dictionary(), resume.pending()), (b"dictionary".as_slice(), (3, 0b101)));
}

/// Offset by offset, as docs/format.md says.
#[test]
fn states_are_where_they_are_documented() {
    let table = table();
    let second = &table[STATES + CONTEXT_SIZE..][..CONTEXT_SIZE];
    let words = [4000u64.to_le_bytes(), 600u64.to_le_bytes(), 0u64.to_le_bytes()].concat();
    let sizes = [5000u32.to_le_bytes(), 300u32.to_le_bytes(), 10u32.to_le_bytes()].concat();
    assert_eq!(second, [&words[..], &sizes, &[0b1010_0000, 3, 0, 0]].concat());
    assert_eq!(&table[STATES + 2 * CONTEXT_SIZE..], b"dictionary");
}

#[test]
fn contradictions_are_named() {
    let blob = blob();
    let said = |at: usize, bytes: &[u8]| {
        let mut table = table();
        table[at..at + bytes.len()].copy_from_slice(bytes);
        let unit = UnitTable::new(table, &header(), &blob).and_then(|table| table.unit(&blob, &chunk(1)));
        unit.unwrap_err().to_string()
    };
    let (entry, state) = (24, STATES + CONTEXT_SIZE);
    let long = (MAX_SPAN + 1).to_le_bytes();
    assert!(said(entry + 7, &[5]).contains("flags in a chunk table"));
    assert!(said(entry + 16, &[251]).contains("offset in a batch or span"));
    assert!(said(entry + 20, &[2]).contains("number of an inflate state"));
    assert!(said(state, &4001u16.to_le_bytes()).contains("span at 0xfa1 + 0x1388 runs past 0x2328"));
    assert!(said(state, &[0xFF; 8]).contains("runs past"));
    assert!(said(state + 16, &[1]).contains("dictionary of an inflate state"));
    assert!(said(state + 16, &[0xFF; 8]).contains("dictionary of an inflate state"));
    assert!(said(state + 24, &[0; 4]).contains("stored size of a span"));
    assert!(said(state + 24, &long).contains("stored size of a span"));
    assert!(said(state + 28, &long).contains("size of a span"));
    assert!(said(state + 32, &40_000u32.to_le_bytes()).contains("dictionary size"));
    assert!(said(state + 37, &[8]).contains("pending bits"));
}

#[test]
fn what_does_not_fit_is_not_written() {
    let long = Context { uncompressed_size: MAX_SPAN + 1, ..Context::default() };
    assert!(zran::push_contexts(&mut Vec::new(), [(&long, b"".as_slice())].into_iter()).is_err());
    let wide = vec![0; 32769];
    assert!(
        zran::push_contexts(&mut Vec::new(), [(&Context::default(), wide.as_slice())].into_iter()).is_err()
    );
}

#[test]
fn the_object_with_the_table_is_named_by_the_bootstrap_or_its_file() {
    let mut blob = blob();
    assert_eq!(blob.table_id(), None);
    let digest = Digest([0xAB; 32]);
    let name = digest.to_string();
    assert_eq!(blob.named_by(Some(OsStr::new(&name))).table_id(), None, "it does not hold the bootstrap");
    blob.features |= BlobFeatures::INLINED_FS_META;
    for file in [name.clone(), format!("{name}.boot")] {
        let named = blob.named_by(Some(OsStr::new(&file)));
        assert_eq!((named.id.as_str(), named.table_id().unwrap().as_str()), ("b", name.as_str()));
    }
    assert_eq!(blob.named_by(Some(OsStr::new("boot"))).table_id(), None);
    blob.meta_digest = Digest([1; 32]);
    assert_eq!(
        blob.named_by(Some(OsStr::new(&name))).meta_digest,
        Digest([1; 32]),
        "what it says is believed"
    );
    blob.meta_digest = Digest([0; 32]);
    blob.id = BlobId::new(&name).unwrap();
    assert_eq!(blob.named_by(Some(OsStr::new(&name))).table_id(), None, "that file is named after the layer");
}

proptest! {
    /// Whatever a table says, a span lies within its layer, and the chunk within the span.
    #[test]
    fn any_table_stays_within_its_layer(flips in prop::collection::vec((0usize..138, any::<u8>()), 0..6), n in 0u32..2) {
        let blob = blob();
        let mut bytes = table();
        for (at, value) in flips {
            bytes[at] = value;
        }
        if let Ok(unit) = UnitTable::new(bytes, &header(), &blob).and_then(|table| table.unit(&blob, &chunk(n))) {
            prop_assert!(unit.compressed.start < unit.compressed.end && unit.compressed.end <= LAYER);
            prop_assert!(unit.uncompressed_size <= MAX_SPAN && unit.start + chunk(n).uncompressed_size <= unit.uncompressed_size);
        }
    }
}
