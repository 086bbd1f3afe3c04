//! Layers that stay as they are: chunks cut out of spans of a gzip stream, whose table is in another object.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::single_range_in_vec_init,
    reason = "tests"
)]

use blob_cache::{BlobCache, CacheOptions};
use bytes::Bytes;
use rafs_format::blob_entries::{self, Entry, Place};
use rafs_format::blob_meta::{Contexts, Header};
use rafs_format::zran::{self, Context};
use rafs_format::{BlobFeatures, Chunk, ChunkFlags, Compressor, DigestAlgorithm};
use std::sync::Arc;
use testkit::blob::{self, TestBlob};
use testkit::reader::{Mood, TestReader};

/// A gzip member of one stored block: data starts at byte 15.
fn member(plain: &[u8]) -> Vec<u8> {
    let size = u16::try_from(plain.len()).unwrap();
    let header = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF, 1];
    let trailer = [crc32(plain).to_le_bytes(), u32::from(size).to_le_bytes()].concat();
    [&header[..], &size.to_le_bytes(), &(!size).to_le_bytes(), plain, &trailer].concat()
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 == 0 { 0 } else { 0xEDB8_8320 })
    })
}

/// A layer of two members in one span, with a chunk in each and one over both; and the object with its table.
fn layer() -> (TestBlob, Bytes) {
    let mut sample = blob::of_sizes("layer", &[3000, 2000, 4000], Compressor::None);
    let all = sample.plain.concat();
    let layer = [member(&all[..4000]), member(&all[4000..])].concat();
    let mut table = Vec::new();
    let mut start = 0;
    for (chunk, plain) in sample.chunks.iter_mut().zip(&sample.plain) {
        let entry = Entry {
            compressed_offset: 0,
            compressed_size: 0,
            uncompressed_offset: chunk.uncompressed_offset,
            uncompressed_size: chunk.uncompressed_size,
            is_compressed: true,
            is_encrypted: false,
            place: Place::Context { number: 0, start },
        };
        blob_entries::push(&mut table, &entry).unwrap();
        start += plain.len() as u32;
        *chunk = Chunk { compressed_offset: 0, compressed_size: 0, flags: ChunkFlags::COMPRESSED, ..*chunk };
    }
    let contexts = Contexts { offset: 72, size: 40, count: 1 };
    let span = Context {
        compressed_offset: 10,
        compressed_size: layer.len() as u32 - 18,
        uncompressed_size: all.len() as u32,
        ..Context::default()
    };
    zran::push_contexts(&mut table, [(&span, [].as_slice())].into_iter()).unwrap();
    let blob = &mut sample.blob;
    blob.features |= BlobFeatures::SEPARATE | BlobFeatures::ZRAN | BlobFeatures::CHUNK_INFO_V2;
    (blob.compressor, blob.digester) = (Compressor::Gzip, DigestAlgorithm::Blake3);
    blob.compressed_size = layer.len() as u64;
    blob.meta.compressor = Compressor::None;
    (blob.meta.compressed_offset, blob.meta.compressed_size) = (0, table.len() as u64);
    blob.meta.uncompressed_size = table.len() as u64;
    let header = Header {
        features: blob.features,
        compressor: Compressor::None,
        entries: 3,
        compressed_offset: 0,
        compressed_size: table.len() as u64,
        uncompressed_size: table.len() as u64,
        contexts,
    };
    sample.bytes = layer.into();
    (sample, [table.as_slice(), &header.encode()].concat().into())
}

#[tokio::test]
async fn readers_of_a_span_share_one_fetch() {
    let (layer, tables) = layer();
    let (reader, tables) = (TestReader::new(layer.bytes.clone()), TestReader::new(tables));
    let dir = tempfile::tempdir().unwrap();
    let cache = BlobCache::open(dir.path(), &layer.blob, reader.clone(), CacheOptions::default()).unwrap();
    let cache = Arc::new(cache.with_tables(tables.clone()));
    let all = layer.chunks.iter().map(|chunk| cache.fetch(chunk));
    for (found, plain) in futures_util::future::join_all(all).await.into_iter().zip(&layer.plain) {
        assert_eq!(found.unwrap().bytes(), plain);
    }
    assert_eq!(reader.requests(), [10..layer.bytes.len() as u64 - 8], "the span, once");
    assert_eq!(tables.requests(), [0..tables_size(&layer)], "its table, once");
}

fn tables_size(layer: &TestBlob) -> u64 {
    layer.blob.meta.compressed_size + 4096
}

/// A wrong table is an error of the chunk and is not remembered.
#[tokio::test]
async fn a_wrong_table_is_an_error_that_passes() {
    let (layer, tables) = layer();
    let size = tables.len();
    let mut errors = 0;
    for at in (0..112).chain(size - 4096..size - 4030) {
        let mut wrong = tables.to_vec();
        wrong[at] ^= 0x11;
        let tables = TestReader::new(tables.clone());
        let reader = TestReader::new(layer.bytes.clone());
        let lying = TestReader::new(wrong);
        let cache = BlobCache::without_disk(&layer.blob, reader.clone()).unwrap();
        let bad = Arc::new(cache.with_tables(lying));
        for (chunk, plain) in layer.chunks.iter().zip(&layer.plain) {
            match bad.fetch(chunk).await {
                Ok(found) => assert_eq!(found.bytes(), plain, "byte {at}"),
                Err(_) => errors += 1,
            }
        }
        // The same, when the object heals.
        tables.set(Mood::Lying);
        let cache = BlobCache::without_disk(&layer.blob, reader).unwrap();
        let cache = Arc::new(cache.with_tables(tables.clone()));
        let first = cache.fetch(&layer.chunks[1]).await;
        tables.set(Mood::Healthy);
        assert_eq!(cache.fetch(&layer.chunks[1]).await.unwrap().bytes(), &layer.plain[1], "{first:?}");
    }
    assert!(errors > 100, "{errors}");
}
