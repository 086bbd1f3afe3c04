//! The table of contents of an eStargz layer becomes the bootstrap of an image whose data stays in that layer.
//!
//! Nothing but the table is read. It names the gzip member of each chunk by its first byte; where the compressed bytes of a chunk end it does not say, so
//! that they are bounded: by the next member, and by what deflate can make of so many bytes. Chunks have digests, SHA-256, and are verified like all
//! others. docs/format.md, "eStargz layers".

mod toc;

use super::tar::{DataSink, Entries};
use super::{CreateError, Options, Report, bad_entry, prefetch_nodes};
use crate::digest::{self, Scope};
use crate::output::{OutputError, Outputs, Place};
use oci_registry::layer::{EntryKind, Layer, Meta};
use rafs_format::blob_meta::{self, Contexts, Header};
use rafs_format::device::BlobMetaLocation;
use rafs_format::write::{self, Options as WriteOptions};
use rafs_format::{
    Blob, BlobFeatures, BlobId, Chunk, ChunkFlags, Cipher, Compressor, Digest, DigestAlgorithm,
};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Instant;
use toc::{Entry, TocError};

/// Chunks in one blob: their numbers have 24 bits.
const MAX_CHUNKS: usize = (1 << 24) - 1;
/// Longest blob, in bytes.
const MAX_BLOB: u64 = 1 << 40;

/// What is known of the layer besides its table of contents, and where the result goes.
#[derive(Debug, Clone)]
pub struct StargzOptions {
    /// Id of the layer.
    pub blob_id: BlobId,
    /// Its size in bytes.
    pub data_size: Option<u64>,
    /// Where the bootstrap goes.
    pub bootstrap: Place,
    /// Where the chunk table goes, in the form of the cache of 2.x.
    pub blob_meta: Option<PathBuf>,
}

/// Builds a bootstrap from the table of contents `toc`. Of `options`, chunk size, prefetch and nothing else have an effect. Errors: text that is no such
/// table; an entry that cannot be stored, named. Nothing is left behind then.
pub fn create_stargz(
    toc: impl Read,
    options: &Options,
    stargz: &StargzOptions,
    outputs: &Outputs,
) -> Result<Report, CreateError> {
    let started = Instant::now();
    let mut bootstrap = outputs.start(stargz.bootstrap.clone())?;
    let blob_meta = stargz.blob_meta.clone().map(|path| outputs.start(Place::File(path))).transpose()?;
    let mut reader = Reader::new(options.chunk_size);
    toc::read(toc, &mut |entry| reader.entry(entry)).map_err(|error| match error {
        TocError::Sink(error) => error,
        TocError::Json(error) => CreateError::NotAToc { problem: error.to_string() },
    })?;
    let (scanned, mut members) = reader.finish()?;
    let end = members.bound(stargz.data_size)?;
    let read_time = started.elapsed();
    let blob = members.describe(stargz, end, options);
    let nodes = prefetch_nodes(&scanned.tree, options);
    let positions = std::mem::take(&mut members.positions);
    let (tree, prefetch) = scanned.tree.finish(&members.chunks, positions, options.chunk_size, &nodes);
    let write_options = WriteOptions {
        chunk_size: options.chunk_size,
        compressor: Compressor::Gzip,
        digester: DigestAlgorithm::Sha256,
        explicit_ids: true,
        prefetch: prefetch.into_iter().flatten().collect(),
        form: write::Form::V6,
    };
    let bytes = write::bootstrap(&tree, blob.as_slice(), &write_options)?;
    let failed = |path: PathBuf| move |source| OutputError { action: "write", path, source };
    bootstrap.write_all(&bytes).map_err(failed(bootstrap.path()))?;
    let name = hex::encode(Sha256::digest(&bytes));
    let mut all = vec![(bootstrap, Some(name))];
    if let Some(mut output) = blob_meta {
        output.write_all(&members.table(blob.as_ref())?).map_err(failed(output.path()))?;
        all.push((output, None));
    }
    let paths = Outputs::commit(all)?;
    Ok(Report {
        blobs: blob.iter().map(|blob| blob.id.clone()).collect(),
        tree_digest: Some(digest::of_tree(&tree, blob.as_slice(), options.chunk_size, Scope::Full)?),
        blob: blob.map(|blob| blob.id),
        blob_path: None,
        bootstrap_path: paths.into_iter().flatten().next().unwrap_or_default(),
        entries: tree.entries.len() as u64,
        blob_size: end,
        uncompressed_size: members.uncompressed_size,
        chunks: members.chunks.len() as u64,
        duplicates: members.duplicates,
        whiteouts: scanned.whiteouts,
        skipped_xattrs: scanned.skipped_xattrs,
        end: None,
        times: (read_time, started.elapsed() - read_time),
    })
}

/// One chunk of a file as the table has it.
#[derive(Debug, Clone, Copy)]
struct Member {
    digest: Digest,
    offset: u64,
    size: u32,
}

/// Puts entries together: those of chunks come behind that of their file.
struct Reader {
    entries: Entries<'static>,
    members: Members,
    chunk_size: u32,
    /// The file whose chunks are coming, and how many of its bytes they had so far.
    file: Option<(Meta, u64)>,
}

impl Reader {
    fn new(chunk_size: u32) -> Self {
        let members = Members::default();
        Self { entries: Entries::new(chunk_size, &|_| {}), members, chunk_size, file: None }
    }

    fn entry(&mut self, entry: Entry) -> Result<(), CreateError> {
        if entry.kind == "chunk" {
            return self.chunk(&entry);
        }
        self.end_file()?;
        let meta = meta(&entry)?;
        if meta.kind != EntryKind::Regular {
            return self.add(&meta);
        }
        let empty = meta.size == 0;
        self.file = Some((meta, 0));
        if empty { Ok(()) } else { self.chunk(&entry) }
    }

    /// The next chunk of the file.
    fn chunk(&mut self, entry: &Entry) -> Result<(), CreateError> {
        let bad = |problem: String| bad_entry(entry.name.as_bytes(), problem);
        let file = self.file.as_mut().filter(|(meta, _)| meta.path == entry.name.as_bytes());
        let Some((meta, done)) = file else {
            return Err(bad("it is a chunk without its file before it".to_owned()));
        };
        if entry.chunk_offset != *done {
            return Err(bad(format!("its chunk is at {}, expected {done}", entry.chunk_offset)));
        }
        if entry.inner_offset != 0 {
            return Err(bad("it shares a gzip member with others, whose table says too little of it: use the layer itself, as estargz-ref".to_owned()));
        }
        let left = meta.size - *done;
        let size = if entry.chunk_size == 0 { left } else { entry.chunk_size };
        let expected = left.min(self.chunk_size.into());
        if size != expected || size == 0 {
            let problem = format!(
                "its chunk at {done} has {size} bytes, and with chunks of {} it needs {expected}",
                self.chunk_size
            );
            return Err(bad(problem));
        }
        // The digest of a file of one chunk may be all there is.
        let text = if entry.chunk_digest.is_empty() && size == meta.size {
            &entry.digest
        } else {
            &entry.chunk_digest
        };
        let id = text.strip_prefix("sha256:").and_then(|hex| BlobId::new(hex).ok());
        let digest = id.and_then(|id| id.as_sha256());
        let digest = digest.ok_or_else(|| {
            bad(format!("its chunk at {done} has the digest {text:?}, expected sha256: and 64 digits"))
        })?;
        *done += size;
        // At most the chunk size.
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        self.members.given.push(Member { digest, offset: entry.offset, size });
        Ok(())
    }

    /// Adds the file whose chunks came.
    fn end_file(&mut self) -> Result<(), CreateError> {
        let Some((meta, done)) = self.file.take() else { return Ok(()) };
        if done != meta.size {
            let problem = format!("its chunks have {done} bytes, and the file has {}", meta.size);
            return Err(bad_entry(&meta.path, problem));
        }
        self.add(&meta)
    }

    fn add(&mut self, meta: &Meta) -> Result<(), CreateError> {
        let added = self.entries.add(meta, &mut Layer::new(io::empty()), &mut self.members);
        // Bookkeeping of eStargz is no content, and its chunks nobody's.
        self.members.given.clear();
        added
    }

    fn finish(mut self) -> Result<(super::Scanned, Members), CreateError> {
        self.end_file()?;
        Ok((self.entries.finish()?, self.members))
    }
}

/// What an entry says, in the words of a tar.
fn meta(entry: &Entry) -> Result<Meta, CreateError> {
    let bad = |problem: String| bad_entry(entry.name.as_bytes(), problem);
    let link = || entry.link_name.clone().into_bytes();
    let kind = match entry.kind.as_str() {
        "dir" => EntryKind::Directory,
        "reg" => EntryKind::Regular,
        "symlink" => EntryKind::Symlink(link()),
        "hardlink" => EntryKind::HardLink(link()),
        "char" => EntryKind::CharDevice { major: entry.dev_major, minor: entry.dev_minor },
        "block" => EntryKind::BlockDevice { major: entry.dev_major, minor: entry.dev_minor },
        "fifo" => EntryKind::Fifo,
        other => return Err(bad(format!("it has the unknown type {other:?}"))),
    };
    let mtime_secs = toc::seconds(&entry.modtime);
    let mtime_secs = mtime_secs
        .ok_or_else(|| bad(format!("its time is {:?}, expected RFC 3339 in UTC", entry.modtime)))?;
    let mut xattrs = Vec::new();
    for (name, value) in &entry.xattrs {
        let value =
            base64(value).ok_or_else(|| bad(format!("the value of its attribute {name:?} is not base64")))?;
        xattrs.push((name.clone().into_bytes(), value));
    }
    let size = if kind == EntryKind::Regular { entry.size } else { 0 };
    if entry.name.is_empty() || entry.name.contains('\0') {
        return Err(bad("its name is empty or holds a NUL".to_owned()));
    }
    Ok(Meta {
        path: entry.name.clone().into_bytes(),
        kind,
        mode: entry.mode & 0o7777,
        uid: entry.uid,
        gid: entry.gid,
        mtime_secs,
        mtime_nanos: 0,
        size,
        xattrs,
        offset: 0,
    })
}

/// Bytes of standard base64 with padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

/// All chunks so far.
#[derive(Default)]
struct Members {
    /// Distinct ones in the order of the layer.
    chunks: Vec<Chunk>,
    /// For each chunk of each file its position among these.
    positions: Vec<u32>,
    known: HashMap<(Digest, u32), u32>,
    /// Those of the file that is added next.
    given: Vec<Member>,
    /// First bytes of all members, ascending.
    starts: Vec<u64>,
    uncompressed_size: u64,
    duplicates: (u64, u64),
}

impl DataSink for Members {
    fn next_chunk(&self) -> Result<u32, CreateError> {
        let limit = u32::MAX.into();
        u32::try_from(self.positions.len()).map_err(|_over| CreateError::TooMany { what: "chunks", limit })
    }

    fn file<R: Read>(
        &mut self,
        meta: &Meta,
        _layer: &mut Layer<R>,
        _progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), CreateError> {
        for member in std::mem::take(&mut self.given) {
            if self.starts.last().is_some_and(|&last| last >= member.offset) || member.offset >= MAX_BLOB {
                let problem =
                    format!("its gzip member at {} is not behind that of the chunk before", member.offset);
                return Err(bad_entry(&meta.path, problem));
            }
            self.starts.push(member.offset);
            self.add(member)?;
        }
        Ok(())
    }
}

impl Members {
    fn add(&mut self, member: Member) -> Result<(), CreateError> {
        let next = self.chunks.len();
        if next >= MAX_CHUNKS {
            return Err(CreateError::TooMany { what: "chunks in one blob", limit: MAX_CHUNKS as u64 });
        }
        let index = u32::try_from(next).unwrap_or(u32::MAX);
        let position = *self.known.entry((member.digest, member.size)).or_insert(index);
        self.positions.push(position);
        if position != index {
            self.duplicates.0 += 1;
            self.duplicates.1 += u64::from(member.size);
            return Ok(());
        }
        self.chunks.push(Chunk {
            digest: member.digest,
            blob: 0,
            index,
            flags: ChunkFlags::COMPRESSED,
            compressed_offset: member.offset,
            compressed_size: 0,
            uncompressed_offset: self.uncompressed_size,
            uncompressed_size: member.size,
            file_offset: 0,
            crc32: 0,
        });
        self.uncompressed_size += u64::from(member.size).next_multiple_of(4096);
        Ok(())
    }

    /// Bounds the stored bytes of all chunks. Returns the size of the layer as far as it is known: `size`, or where the last chunk ends at most.
    fn bound(&mut self, size: Option<u64>) -> Result<u64, CreateError> {
        let mut end = 0;
        for chunk in &mut self.chunks {
            let next = self.starts.partition_point(|&start| start <= chunk.compressed_offset);
            let limit = self.starts.get(next).copied().or(size).unwrap_or(u64::MAX);
            let room = limit.saturating_sub(chunk.compressed_offset);
            if room == 0 {
                let problem =
                    format!("a chunk starts at {}, and the layer has {limit} bytes", chunk.compressed_offset);
                return Err(CreateError::NotAToc { problem });
            }
            let stored = u64::from(rafs_format::device::gzip_bound(chunk.uncompressed_size)).min(room);
            // No more than the bound, which has 32 bits.
            chunk.compressed_size = u32::try_from(stored).unwrap_or(u32::MAX);
            end = chunk.compressed_offset + stored;
        }
        Ok(size.unwrap_or(end))
    }

    /// The layer as the bootstrap describes it; `None` where it holds no data.
    fn describe(&self, stargz: &StargzOptions, size: u64, options: &Options) -> Option<Blob> {
        let count = u32::try_from(self.chunks.len()).unwrap_or(u32::MAX);
        let table = u64::from(count) * blob_meta::ENTRY_V1_SIZE as u64;
        (count > 0).then(|| Blob {
            id: stargz.blob_id.clone(),
            chunk_size: options.chunk_size,
            chunk_count: count,
            compressor: Compressor::Gzip,
            digester: DigestAlgorithm::Sha256,
            features: BlobFeatures::ALIGNED | BlobFeatures::CAP_TAR_TOC | BlobFeatures::SEPARATE,
            compressed_size: size,
            uncompressed_size: self.uncompressed_size,
            meta: BlobMetaLocation {
                compressor: Compressor::None,
                compressed_offset: 0,
                compressed_size: table,
                uncompressed_size: table,
            },
            toc_size: 0,
            toc_digest: Digest([0; 32]),
            meta_digest: Digest([0; 32]),
            meta_size: 0,
            cipher_iv: 0,
            cipher: Cipher::None,
        })
    }

    /// The chunk table as a file of the cache of 2.x: entries, zeros up to a page, the header. Empty without chunks.
    fn table(&self, blob: Option<&Blob>) -> Result<Vec<u8>, CreateError> {
        let Some(blob) = blob else { return Ok(Vec::new()) };
        let mut table = Vec::new();
        self.chunks.iter().try_for_each(|chunk| blob_meta::push_v1(&mut table, chunk))?;
        let header = Header {
            features: blob.features,
            compressor: blob.meta.compressor,
            entries: blob.chunk_count,
            compressed_offset: blob.meta.compressed_offset,
            compressed_size: blob.meta.compressed_size,
            uncompressed_size: blob.meta.uncompressed_size,
            contexts: Contexts::default(),
        };
        table.resize(table.len().next_multiple_of(4096), 0);
        table.extend_from_slice(&header.encode());
        Ok(table)
    }
}
