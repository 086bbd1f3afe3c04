//! Chunk tables of batches and of inflate states, and decoding what they name, on bytes that are anything.

use crate::inflate;
use rafs_codec::{Decoder, UnitCodec};
use rafs_format::blob_entries::{self, ENTRY_SIZE, Entry, Place};
use rafs_format::blob_meta::{Contexts, Header};
use rafs_format::device::BlobMetaLocation;
use rafs_format::zran::{Context, push_contexts};
use rafs_format::{
    Blob, BlobFeatures, BlobId, Chunk, ChunkFlags, Cipher, Compressor, Digest, DigestAlgorithm, FormatError,
};

/// What an input starts with: kind of the blob, chunks, batches or states (one byte each), and length of the table (two bytes).
const HEAD: usize = 5;
/// Bytes that are decoded for one input. A table of a few bytes may ask for 16 MiB with each of its entries.
const BUDGET: u32 = 4 << 20;

/// Takes `data` for a table and the stored bytes of its blob. Panics when a unit that is accepted leaves the blob, does not hold its chunk, or
/// decodes to another length than it says.
pub fn try_bytes(data: &[u8]) {
    let Some((&[kind, chunks, contexts, low, high], rest)) = data.split_first_chunk::<HEAD>() else { return };
    let length = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
    let (table, stored) = rest.split_at(length);
    let (blob, header) = described(kind, (chunks, contexts), table.len() as u64, stored.len() as u64);
    let Ok(codec) = UnitCodec::new(&blob) else { return };
    let Ok(units) = codec.table(&blob, &[table, &header.encode()].concat()) else { return };
    let (mut decoder, mut left) = (Decoder::new(), BUDGET);
    for (index, entry) in (0..chunks).zip(table.chunks_exact(ENTRY_SIZE)) {
        let chunk = chunk_of(index, entry);
        let Ok(unit) = units.unit(&blob, &chunk) else { continue };
        assert!(unit.compressed.start <= unit.compressed.end && unit.compressed.end <= blob.data_end());
        let range =
            usize::try_from(unit.compressed.start).ok().zip(usize::try_from(unit.compressed.end).ok());
        let bytes = range.and_then(|(start, end)| stored.get(start..end));
        let bytes = bytes.unwrap_or_else(|| panic!("{unit:?} leaves a blob of {} bytes", stored.len()));
        assert!(
            unit.start.checked_add(chunk.uncompressed_size).is_some_and(|end| end <= unit.uncompressed_size)
        );
        let Some(rest) = left.checked_sub(unit.uncompressed_size) else { continue };
        left = rest;
        if let Ok(plain) = codec.decode(&mut decoder, &unit, bytes.to_vec()) {
            assert_eq!(plain.len(), unit.uncompressed_size as usize);
        }
    }
}

/// The chunk that a bootstrap would have for an entry.
fn chunk_of(index: u8, entry: &[u8]) -> Chunk {
    let word = entry.first_chunk::<8>().map_or(0, |word| u64::from_le_bytes(*word));
    let size = u32::try_from((word >> 32 & 0xFF_FFFF) + 1).unwrap_or(u32::MAX);
    Chunk {
        digest: Digest([0; 32]),
        blob: 0,
        index: index.into(),
        flags: ChunkFlags::COMPRESSED,
        compressed_offset: 0,
        compressed_size: 0,
        uncompressed_offset: (word & 0xFFFF_FFFF) << 12,
        uncompressed_size: size,
        file_offset: 0,
        crc32: 0,
    }
}

/// A blob with `chunks` chunks and as many contexts in a table of `table` bytes behind `stored` bytes, and the header of that table.
fn described(kind: u8, (chunks, contexts): (u8, u8), table: u64, stored: u64) -> (Blob, Header) {
    let units = if kind & 1 == 0 { BlobFeatures::ZRAN } else { BlobFeatures::BATCH };
    let compressor = [Compressor::Gzip, Compressor::Zstd, Compressor::Lz4Block, Compressor::None];
    let features = BlobFeatures::ALIGNED | BlobFeatures::CAP_TAR_TOC | units;
    let (offset, count) = (u64::from(chunks) * ENTRY_SIZE as u64, contexts.into());
    let header = Header {
        features,
        compressor: Compressor::None,
        entries: chunks.into(),
        compressed_offset: stored,
        compressed_size: table,
        uncompressed_size: table,
        contexts: Contexts { offset, size: table.saturating_sub(offset), count },
    };
    let meta = BlobMetaLocation {
        compressor: Compressor::None,
        compressed_offset: stored,
        compressed_size: table,
        uncompressed_size: table,
    };
    let blob = Blob {
        id: BlobId::new("blob").unwrap_or_else(|error| panic!("{error}")),
        chunk_size: 1 << 20,
        chunk_count: chunks.into(),
        compressor: compressor[usize::from(kind >> 1 & 3)],
        digester: DigestAlgorithm::Blake3,
        features,
        compressed_size: stored + table,
        uncompressed_size: 1 << 44,
        meta,
        toc_size: 0,
        toc_digest: Digest([0; 32]),
        meta_digest: Digest([0; 32]),
        meta_size: 0,
        cipher_iv: 0,
        cipher: Cipher::None,
    };
    (blob, header)
}

/// A layer that is entered at each of its blocks, two members behind each other, and batches of each compression.
pub fn seeds() -> Result<Vec<Vec<u8>>, FormatError> {
    let mut all = vec![layer(120_000, 1)?, layer(3_000, 2)?];
    for kind in [3u8, 5, 7] {
        all.push(batch(kind)?);
    }
    Ok(all)
}

/// An input out of its parts.
fn input(kind: u8, counts: (u8, u8), table: &[u8], stored: &[u8]) -> Vec<u8> {
    let length = u16::try_from(table.len()).unwrap_or_else(|error| panic!("a seed is too long: {error}"));
    let head = [&[kind, counts.0, counts.1][..], &length.to_le_bytes()].concat();
    [&head, table, stored].concat()
}

/// A layer of `members` equal gzip members of `size` plain bytes, with the states before the first and the second block, and one chunk in each span.
fn layer(size: u32, members: usize) -> Result<Vec<u8>, FormatError> {
    let (member, _plain) = inflate::member(size, 6);
    let (places, plain, _at_end) = inflate::walk(&member);
    let stored = member.repeat(members);
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let (mut table, mut contexts) = (Vec::new(), Vec::new());
    for (n, place) in places.iter().take(2).enumerate() {
        let span = plain.len() * members - place.plain;
        contexts.push(Context {
            compressed_offset: place.stored as u64,
            uncompressed_offset: place.plain as u64,
            compressed_size: number(stored.len() - place.stored),
            uncompressed_size: number(span),
            byte: if place.bits == 0 { 0 } else { member[place.stored - 1] },
            bits: place.bits,
        });
        blob_entries::push(&mut table, &entry(n, Place::Context { number: number(n), start: 5 }, 0))?;
    }
    let with_dictionaries = contexts.iter().zip(places.iter().map(|place| place.dictionary.as_slice()));
    push_contexts(&mut table, with_dictionaries)?;
    let count = u8::try_from(contexts.len()).unwrap_or(u8::MAX);
    Ok(input(0, (count, count), &table, &stored))
}

/// Two chunks in a batch, one by itself.
fn batch(kind: u8) -> Result<Vec<u8>, FormatError> {
    let by = [Compressor::Gzip, Compressor::Zstd, Compressor::Lz4Block, Compressor::None];
    let mut encoder =
        rafs_codec::Encoder::new(by[usize::from(kind >> 1 & 3)], 3).unwrap_or_else(|error| panic!("{error}"));
    let mut stored = Vec::new();
    if !encoder.encode(&[9; 9000], &mut stored).unwrap_or_else(|error| panic!("{error}")) {
        stored = vec![9; 9000];
    }
    let size = u32::try_from(stored.len()).unwrap_or(u32::MAX);
    let mut table = Vec::new();
    for n in 0..2 {
        let start = u32::from(n == 1) * 5000;
        blob_entries::push(&mut table, &entry(n, Place::Batch { number: 0, start }, 0))?;
    }
    blob_entries::push(&mut table, &entry(2, Place::Alone { crc32: 7 }, 100))?;
    blob_entries::push_batch(&mut table, size, 9000);
    stored.resize(stored.len().max(100), 0);
    Ok(input(kind, (3, 1), &table, &stored))
}

/// The `n`-th chunk, of 100 bytes.
fn entry(n: usize, place: Place, compressed_size: u32) -> Entry {
    Entry {
        compressed_offset: 0,
        compressed_size,
        uncompressed_offset: n as u64 * 4096,
        uncompressed_size: 100,
        is_compressed: !matches!(place, Place::Alone { .. }),
        is_encrypted: false,
        place,
    }
}
