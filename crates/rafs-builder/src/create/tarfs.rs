//! A plain tar as it is becomes the blob of an image: only a bootstrap is written, whose files point into the tar.
//!
//! One pass, so the tar may come through a pipe. Nothing of it is kept but the places of its files: data is hashed as part of the whole stream and
//! skipped. Invariant: what the bootstrap names as the digest of the tar is the SHA-256 of every byte that was read. docs/format.md, "Tarfs".

use super::tar::{self, DataSink};
use super::{CreateError, Options, Report, Scanned, prefetch_nodes};
use crate::output::{OutputError, Outputs, Place};
use crate::tree::TreeBuilder;
use oci_registry::layer::{Layer, LayerCompression, Meta};
use rafs_format::device::BlobMetaLocation;
use rafs_format::write::{self, Options as WriteOptions};
use rafs_format::{
    Blob, BlobFeatures, BlobId, Chunk, ChunkFlags, Cipher, Compressor, Digest, DigestAlgorithm,
};
use sha2::{Digest as _, Sha256};
use std::io::{self, Read, Write};
use std::time::Instant;

/// Bytes of a block of a tar, which is also the unit of addresses in a tarfs.
const BLOCK: u64 = 512;
/// Chunks in one blob: their numbers have 24 bits.
const MAX_CHUNKS: usize = (1 << 24) - 1;
/// Blocks that an address of 32 bits reaches.
const MAX_TAR: u64 = BLOCK << 32;

/// Builds the bootstrap of a tarfs. `progress` is told the bytes of files as they are passed. Compression, digest, blob place and sections in `options` have no
/// effect. Errors: a compressed tar, one with sparse files, one whose length is no multiple of 512; what [`super::create`] fails with. Nothing is left behind then.
pub fn create_tarfs(
    stream: Box<dyn Read + Send + '_>,
    options: &Options,
    place: Place,
    outputs: &Outputs,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Report, CreateError> {
    let started = Instant::now();
    let mut bootstrap = outputs.start(place)?;
    let mut hashed = Hashed { stream, sha256: Sha256::new(), size: 0 };
    let mut sink = Places { chunks: Vec::new(), chunk_size: options.chunk_size };
    let read = tar::read(Box::new(&mut hashed), &mut sink, options.chunk_size, progress)?;
    let blob = described(&hashed, &sink, options)?;
    let read_time = started.elapsed();
    let size = hashed.size;
    let Scanned { tree, whiteouts, skipped_xattrs, end, .. } = read;
    let (bytes, entries) = sealed(tree, sink.chunks.as_slice(), blob.as_slice(), options)?;
    let path = bootstrap.path();
    bootstrap.write_all(&bytes).map_err(|source| OutputError { action: "write", path, source })?;
    let name = hex::encode(Sha256::digest(&bytes));
    let paths = Outputs::commit(vec![(bootstrap, Some(name))])?;
    Ok(Report {
        blobs: blob.iter().map(|blob| blob.id.clone()).collect(),
        blob: blob.map(|blob| blob.id),
        blob_path: None,
        bootstrap_path: paths.into_iter().flatten().next().unwrap_or_default(),
        entries,
        blob_size: size,
        uncompressed_size: size,
        chunks: sink.chunks.len() as u64,
        duplicates: (0, 0),
        whiteouts,
        skipped_xattrs,
        end,
        tree_digest: None,
        times: (read_time, started.elapsed() - read_time),
    })
}

/// The bytes of the bootstrap, and how many entries it has.
fn sealed(
    tree: TreeBuilder,
    chunks: &[Chunk],
    blobs: &[Blob],
    options: &Options,
) -> Result<(Vec<u8>, u64), CreateError> {
    let nodes = prefetch_nodes(&tree, options);
    let count = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
    let positions = (0..count).collect();
    let (tree, prefetch) = tree.finish(chunks, positions, options.chunk_size, &nodes);
    let options = WriteOptions {
        chunk_size: options.chunk_size,
        compressor: Compressor::None,
        digester: DigestAlgorithm::Sha256,
        explicit_ids: true,
        prefetch: prefetch.into_iter().flatten().collect(),
        form: write::Form::Tarfs,
    };
    Ok((write::bootstrap(&tree, blobs, &options)?, tree.entries.len() as u64))
}

/// The tar as the bootstrap describes it; `None` where it holds no data.
fn described(tar: &Hashed<'_>, places: &Places, options: &Options) -> Result<Option<Blob>, CreateError> {
    let size = tar.size;
    if !size.is_multiple_of(BLOCK) {
        let problem = format!("it has {size} bytes, and a tar is a multiple of {BLOCK}");
        return Err(CreateError::NotATarfs { problem });
    }
    if places.chunks.is_empty() {
        return Ok(None);
    }
    let digest = Digest(tar.sha256.clone().finalize().into());
    let own = BlobId::new(&digest.to_string())?;
    let id = options.blob_id.clone().unwrap_or_else(|| own.clone());
    // Under its own name the tar needs no note of what it should be.
    let noted = if id == own { Digest([0; 32]) } else { digest };
    Ok(Some(Blob {
        id,
        chunk_size: options.chunk_size,
        chunk_count: u32::try_from(places.chunks.len()).unwrap_or(u32::MAX),
        compressor: Compressor::None,
        digester: DigestAlgorithm::Sha256,
        features: BlobFeatures::TARFS | BlobFeatures::CAP_TAR_TOC,
        compressed_size: size,
        uncompressed_size: size,
        // There is no table; this number is what builders leave there.
        meta: BlobMetaLocation {
            compressor: Compressor::Lz4Block,
            compressed_offset: 0,
            compressed_size: 0,
            uncompressed_size: 0,
        },
        toc_size: 0,
        toc_digest: Digest([0; 32]),
        meta_digest: noted,
        meta_size: 0,
        cipher_iv: 0,
        cipher: Cipher::None,
    }))
}

/// A stream that hashes what is read of it.
struct Hashed<'a> {
    stream: Box<dyn Read + Send + 'a>,
    sha256: Sha256,
    size: u64,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.sha256.update(buffer.get(..count).unwrap_or(&[]));
        self.size += count as u64;
        Ok(count)
    }
}

/// Where the data of files lies in the tar.
struct Places {
    chunks: Vec<Chunk>,
    chunk_size: u32,
}

impl Places {
    /// The chunk at byte `offset` of the tar.
    fn add(&mut self, offset: u64, size: u32) -> Result<(), CreateError> {
        if self.chunks.len() >= MAX_CHUNKS {
            return Err(CreateError::TooMany { what: "chunks in one blob", limit: MAX_CHUNKS as u64 });
        }
        let end = offset.checked_add(size.into()).filter(|&end| end <= MAX_TAR);
        if end.is_none() {
            return Err(CreateError::TooMany { what: "bytes in one tar", limit: MAX_TAR });
        }
        self.chunks.push(Chunk {
            digest: Digest([0; 32]),
            blob: 0,
            index: u32::try_from(self.chunks.len()).unwrap_or(u32::MAX),
            flags: ChunkFlags::empty(),
            compressed_offset: offset,
            compressed_size: size,
            uncompressed_offset: offset,
            uncompressed_size: size,
            file_offset: 0,
            crc32: 0,
        });
        Ok(())
    }
}

impl DataSink for Places {
    fn check(&mut self, compression: LayerCompression) -> Result<(), CreateError> {
        match compression {
            LayerCompression::None => Ok(()),
            other => {
                let problem =
                    format!("it is compressed ({other:?}), and its files must lie in it as they are");
                Err(CreateError::NotATarfs { problem })
            }
        }
    }

    fn next_chunk(&self) -> Result<u32, CreateError> {
        let limit = u32::MAX.into();
        u32::try_from(self.chunks.len()).map_err(|_over| CreateError::TooMany { what: "chunks", limit })
    }

    fn file<R: Read>(
        &mut self,
        meta: &Meta,
        layer: &mut Layer<R>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), CreateError> {
        let Some(offset) = layer.data_offset() else {
            let path = String::from_utf8_lossy(&meta.path);
            let problem = format!("{path:?} is a sparse file, which does not lie in the tar as it is");
            return Err(CreateError::NotATarfs { problem });
        };
        let mut done = 0;
        while done < meta.size {
            let left = meta.size - done;
            let size = u32::try_from(left).unwrap_or(u32::MAX).min(self.chunk_size);
            self.add(offset + done, size)?;
            done += u64::from(size);
        }
        // The layer skips what nobody reads.
        progress(meta.size);
        Ok(())
    }
}
