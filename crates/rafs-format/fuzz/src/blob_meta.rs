//! The chunk table of a blob and its header, on bytes that are anything, and the table of contents along with them.

use rafs_format::blob_meta::{ENTRY_V1_SIZE, HEADER_SIZE, Header, entries_v1, push_v1};
use rafs_format::device::BlobMetaLocation;
use rafs_format::layout::BlobMetaHeader;
use rafs_format::{
    Blob, BlobFeatures, BlobId, Chunk, ChunkFlags, Cipher, Compressor, Digest, DigestAlgorithm, toc,
};

/// Takes `data` as header and table of a blob, and of one that agrees with the header as far as it can. Panics when what is
/// accepted is out of bounds or packs to other bytes.
pub fn try_bytes(data: &[u8]) {
    crate::memory::bounded(data.len(), || {
        let (header, table) = data.split_at(data.len().min(HEADER_SIZE));
        let plain = described(table, None);
        let _fixed = Header::parse(header, &plain).is_ok();
        if let Some(raw) = claims(header) {
            let blob = described(table, Some(raw));
            if let Ok(parsed) = Header::parse(header, &blob) {
                assert_eq!(Header::parse(&parsed.encode(), &blob), Ok(parsed));
            }
            entries(table, &blob);
        }
        entries(table, &plain);
        for entry in toc::entries(data) {
            assert!(entry.name().len() <= 16);
            let _known = entry.compressor().is_some();
        }
    });
}

/// Every entry that is accepted lies within the blob, behind the one before, and packs to the bytes it came from.
fn entries(table: &[u8], blob: &Blob) {
    let Ok(entries) = entries_v1(table, blob) else { return };
    let mut end = 0;
    for (entry, stored) in entries.zip(table.chunks_exact(ENTRY_V1_SIZE)) {
        let Ok(entry) = entry else { break };
        assert_eq!(entry.uncompressed_offset, end);
        assert!((1..=blob.chunk_size).contains(&entry.uncompressed_size));
        assert!(entry.compressed_offset + u64::from(entry.compressed_size) <= blob.data_end());
        end = (end + u64::from(entry.uncompressed_size)).next_multiple_of(4096);
        let chunk = Chunk {
            digest: Digest([0; 32]),
            blob: 0,
            index: 0,
            flags: ChunkFlags::empty(),
            compressed_offset: entry.compressed_offset,
            compressed_size: entry.compressed_size,
            uncompressed_offset: entry.uncompressed_offset,
            uncompressed_size: entry.uncompressed_size,
            file_offset: 0,
            crc32: 0,
        };
        let mut packed = Vec::new();
        push_v1(&mut packed, &chunk).unwrap_or_else(|error| panic!("read, but not written: {error}"));
        // The first byte means nothing.
        assert_eq!(packed[1..], stored[1..], "{entry:?}");
    }
}

/// What the header says, unchecked: the numbers that a bootstrap would repeat.
struct Claims {
    entries: u32,
    compressor: u32,
    offset: u64,
    stored: u64,
    size: u64,
}

fn claims(header: &[u8]) -> Option<Claims> {
    let raw = <BlobMetaHeader as zerocopy::FromBytes>::ref_from_bytes(header).ok()?;
    Some(Claims {
        entries: raw.entries.get(),
        compressor: raw.compressor.get(),
        offset: raw.compressed_offset.get(),
        stored: raw.compressed_size.get(),
        size: raw.uncompressed_size.get(),
    })
}

/// A blob as a bootstrap might describe it.
fn described(table: &[u8], claims: Option<Claims>) -> Blob {
    let fitting = u32::try_from(table.len() / ENTRY_V1_SIZE).unwrap_or(u32::MAX);
    let claims = claims.unwrap_or(Claims {
        entries: fitting,
        compressor: 0,
        offset: 1 << 39,
        stored: table.len() as u64,
        size: table.len() as u64,
    });
    Blob {
        id: BlobId::new("blob").unwrap_or_else(|error| panic!("{error}")),
        chunk_size: 1 << 20,
        chunk_count: claims.entries,
        compressor: Compressor::Zstd,
        digester: DigestAlgorithm::Blake3,
        features: BlobFeatures::ALIGNED | BlobFeatures::CAP_TAR_TOC,
        compressed_size: 1 << 39,
        uncompressed_size: 1 << 44,
        meta: BlobMetaLocation {
            compressor: Compressor::from_raw(claims.compressor).unwrap_or(Compressor::None),
            compressed_offset: claims.offset,
            compressed_size: claims.stored,
            uncompressed_size: claims.size,
        },
        toc_size: 0,
        toc_digest: Digest([0; 32]),
        meta_digest: Digest([0; 32]),
        meta_size: 0,
        cipher_iv: 0,
        cipher: Cipher::None,
    }
}
