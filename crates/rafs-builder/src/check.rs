//! `nydus-image check`: is the bootstrap sound, and with data, is every chunk of every blob what the bootstrap says.
//!
//! Structure is checked by `rafs-format` in one walk. Data is checked on all cores in memory that does not grow with the
//! image: each thread holds one run of chunks. Problems are collected, not only the first one reported, and a bad chunk is
//! reported with a file that uses it.

mod apart;

use crate::data::{self, BadChunk, BlobError, ChunkError, ChunkReader, OpenBlob};
use crate::digest::{self, DigestError, Scope};
use crate::open::{BlobFile, BlobSource, Image};
use blob_storage::BackendError;
use rafs_codec::sections::{self, Coding, Section};
use rafs_codec::{CodecError, Decoder};
use rafs_format::blob_meta::{self, Header};
use rafs_format::check::{Summary, Visit};
use rafs_format::toc::{self, TocEntry};
use rafs_format::{
    Blob, BlobFeatures, BlobId, Bootstrap, Chunk, ChunkFlags, ChunkIndex, ChunkPlace, Digest, FileType,
    FormatError, Inode, Version,
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Most problems kept; the others are counted.
pub const MAX_PROBLEMS: usize = 100;
/// Bytes of a blob hashed at a time.
const HASH_STEP: u64 = 4 << 20;
/// Stored bytes that a thread takes at a time.
const PART: u64 = 4 << 20;

/// Why a check could not be finished, or found the structure broken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum CheckError {
    #[error("bootstrap {} is not valid", path.display())]
    Structure { path: PathBuf, source: FormatError },
    #[error("bootstrap {}: digest of {:?} is {found}, its inode names {expected}", path.display(), OsStr::from_bytes(name))]
    Inode { path: PathBuf, name: Vec<u8>, expected: Digest, found: Digest },
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("cannot write the result")]
    Output(#[from] io::Error),
}

/// Something wrong with the data of an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum Problem {
    #[error(transparent)]
    Open { source: BlobError },
    #[error("blob {blob} cannot be read")]
    Read { blob: BlobId, source: BackendError },
    #[error("blob {blob} is {found} bytes long, the bootstrap says {expected}")]
    Size { blob: BlobId, found: u64, expected: u64 },
    #[error("blob {blob} has the SHA-256 {found}, which should be its id")]
    Id { blob: BlobId, found: Digest },
    #[error("table of contents of blob {blob} at {at:#x} is not the one that the bootstrap names")]
    Toc { blob: BlobId, at: u64 },
    #[error("section {:?} of blob {blob} up to {end:#x}", OsStr::from_bytes(name))]
    Section { blob: BlobId, name: Vec<u8>, end: u64, source: SectionError },
    #[error("chunk table of blob {blob} at {at:#x} + {size:#x}")]
    Table { blob: BlobId, at: u64, size: u64, source: TableError },
    #[error("blob {blob}, chunk {index} at {at:#x} + {size:#x}{}", used_by.as_ref().map(|path| format!(", used by {:?}", OsStr::from_bytes(path))).unwrap_or_default())]
    Chunk { blob: BlobId, index: u32, at: u64, size: u32, used_by: Option<Vec<u8>>, source: ChunkError },
}

/// What is wrong with the chunk table that a blob carries.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum TableError {
    #[error("it cannot be read")]
    Read { source: BackendError },
    #[error("it is not valid")]
    Format { source: FormatError },
    #[error("it does not decode")]
    Decode { source: CodecError },
    #[error("its entry {index} says {what} {found:#x}, the bootstrap {expected:#x}")]
    Entry { index: u32, what: &'static str, found: u64, expected: u64 },
    #[error("it has {entries} entries, the bootstrap uses chunk {index}")]
    Short { index: u32, entries: usize },
}

/// What is wrong with a section of a blob.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum SectionError {
    #[error("there is no tar header of a section")]
    NoHeader,
    #[error("it starts at {found:#x}, expected {expected:#x}")]
    Place { found: u64, expected: u64 },
    #[error("its compression is not known")]
    Compression,
    #[error("it does not decode")]
    Decode { source: CodecError },
    #[error("its SHA-256 is {found}, the table of contents names {expected}")]
    Digest { found: Digest, expected: Digest },
}

/// Result of checking the data of an image.
#[derive(Debug, Default)]
pub struct DataReport {
    /// Chunks looked at.
    pub chunks: u64,
    /// Their bytes, uncompressed.
    pub bytes: u64,
    /// The first [`MAX_PROBLEMS`] problems, in the order of blobs and chunks.
    pub problems: Vec<Problem>,
    /// Problems beyond those.
    pub more: u64,
}

/// Walks the whole tree and checks it, also the digests of inodes in an image that has such (v5): each against what it is made of, so all of
/// them against that of the root. Errors: the first thing wrong, with the file's name.
pub fn structure(image: &Image) -> Result<Summary, CheckError> {
    checked_tree(image).map_err(|error| match error {
        CheckError::Format(source) => CheckError::Structure { path: image.path().to_path_buf(), source },
        other => other,
    })
}

fn checked_tree(image: &Image) -> Result<Summary, CheckError> {
    let bootstrap = image.bootstrap();
    let root = bootstrap.inode(bootstrap.superblock().root)?;
    let index = match bootstrap.stated_digest(&root)? {
        Some(_) => Some(ChunkIndex::build(bootstrap)?),
        None => None,
    };
    rafs_format::check::check(bootstrap, &mut |visit| {
        let Some((index, expected)) = index.as_ref().zip(bootstrap.stated_digest(&visit.inode)?) else {
            return Ok(());
        };
        let found = inode_digest(bootstrap, index, &visit.inode)?;
        if found == expected {
            return Ok(());
        }
        let (path, name) = (image.path().to_path_buf(), full_path(visit.path));
        Err(CheckError::Inode { path, name, expected, found })
    })
}

/// The digest of an inode from what it is made of: chunks, children by the digests they state, a target. docs/format.md, "Inode digests of v5".
fn inode_digest(
    bootstrap: &Bootstrap<Vec<u8>>,
    index: &ChunkIndex,
    inode: &Inode,
) -> Result<Digest, FormatError> {
    let mut content = Vec::new();
    match inode.file_type {
        FileType::Regular => {
            for n in 0..bootstrap.chunk_count(inode) {
                content.extend_from_slice(&index.chunk(bootstrap, inode, n)?.digest.0);
            }
        }
        FileType::Directory => {
            for entry in bootstrap.dir_entries(inode, 0)? {
                let entry = entry?;
                if matches!(entry.name, b"." | b"..") {
                    continue;
                }
                let child = bootstrap.stated_digest(&bootstrap.inode(entry.nid)?)?;
                child.iter().for_each(|digest| content.extend_from_slice(&digest.0));
            }
        }
        FileType::Symlink => content.extend_from_slice(&bootstrap.symlink_target(inode)?),
        FileType::CharDevice | FileType::BlockDevice | FileType::Fifo | FileType::Socket => {}
    }
    Ok(rafs_merkle::digest(bootstrap.superblock().digester, &content))
}

/// The same, and the full digest of the tree; `None` for a tarfs, and for an image with external blobs, which have none.
pub fn structure_and_digest(image: &Image) -> Result<(Summary, Option<Digest>), CheckError> {
    // Digests of its own are checked in a walk of their own; all else is in the other one, too.
    if image.bootstrap().superblock().version == Version::V5 {
        structure(image)?;
    }
    match digest::tree(image.bootstrap(), Scope::Full) {
        Ok(tree) => Ok((tree.summary, Some(tree.digest))),
        Err(DigestError::Format(source)) => {
            Err(CheckError::Structure { path: image.path().to_path_buf(), source })
        }
        Err(DigestError::Tarfs | DigestError::External | DigestError::NotFound { .. }) => {
            Ok((structure(image)?, None))
        }
    }
}

/// Prints one line per inode and per chunk, in depth-first pre-order, checking the tree on the way.
pub fn list(image: &Image, out: &mut dyn Write) -> Result<Summary, CheckError> {
    let bootstrap = image.bootstrap();
    let index = ChunkIndex::build(bootstrap)?;
    let mut number = 0;
    rafs_format::check::check(bootstrap, &mut |visit| {
        number += 1;
        list_inode(bootstrap, visit, number, out)?;
        if visit.inode.file_type == FileType::Regular {
            list_chunks(bootstrap, &index, visit, out)?;
        }
        Ok(())
    })
}

/// Prints the line of one inode.
fn list_inode(
    bootstrap: &Bootstrap<Vec<u8>>,
    visit: &Visit<'_>,
    number: u64,
    out: &mut dyn Write,
) -> Result<(), CheckError> {
    let inode = &visit.inode;
    let target = match inode.file_type {
        FileType::Symlink => Some(bootstrap.symlink_target(inode)?),
        _ => None,
    };
    let link = target.as_deref().map(OsStr::from_bytes);
    let (kind, children) = match inode.file_type {
        FileType::Directory => ("dir", count_children(bootstrap, visit)?),
        FileType::Regular if inode.nlink > 1 => ("hardlink", bootstrap.chunk_count(inode)),
        FileType::Regular => ("file", bootstrap.chunk_count(inode)),
        FileType::Symlink => ("symlink", 0),
        _ => ("", 0),
    };
    let path = full_path(visit.path);
    let name_size = visit.path.last().map_or(1, |name| name.len());
    writeln!(
        out,
        "inode: {kind} {:?}: index {number} ino {ino} real_ino {ino} child_index 0 child_count {children} i_nlink {} \
         i_size {} i_blocks {} i_name_size {name_size} i_symlink_size {} has_xattr {} link {link:?} i_mtime {} i_mtime_nsec {}",
        OsStr::from_bytes(&path),
        inode.nlink,
        inode.size,
        inode.size.div_ceil(512),
        link.map_or(0, OsStr::len),
        bootstrap.xattrs(inode)?.next().is_some(),
        inode.mtime_secs,
        inode.mtime_nanos,
        ino = inode.nid,
    )?;
    Ok(())
}

/// Entries of a directory without `.` and `..`.
fn count_children(bootstrap: &Bootstrap<Vec<u8>>, visit: &Visit<'_>) -> Result<u64, FormatError> {
    let mut children = 0;
    for entry in bootstrap.dir_entries(&visit.inode, 0)? {
        children += u64::from(!matches!(entry?.name, b"." | b".."));
    }
    Ok(children)
}

/// Prints the lines of the chunks of one file.
fn list_chunks(
    bootstrap: &Bootstrap<Vec<u8>>,
    index: &ChunkIndex,
    visit: &Visit<'_>,
    out: &mut dyn Write,
) -> Result<(), CheckError> {
    let chunk_size = u64::from(bootstrap.superblock().chunk_size);
    for n in 0..bootstrap.chunk_count(&visit.inode) {
        let chunk = index.chunk(bootstrap, &visit.inode, n)?;
        write!(
            out,
            "\t chunk: id {}, index {}, blob_index {}, file_offset {}, compressed {}/{}, uncompressed {}/{}",
            chunk.digest,
            chunk.index,
            chunk.blob,
            n.saturating_mul(chunk_size),
            chunk.compressed_offset,
            chunk.compressed_size,
            chunk.uncompressed_offset,
            chunk.uncompressed_size,
        )?;
        if chunk.flags.contains(ChunkFlags::HAS_CRC) {
            write!(out, ", crc32 0x{:x}", chunk.crc32)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// Names from the root as one absolute path.
pub(crate) fn full_path(names: &[&[u8]]) -> Vec<u8> {
    if names.is_empty() {
        return b"/".to_vec();
    }
    names.iter().flat_map(|name| [b"/".as_slice(), name].concat()).collect()
}

/// Prints what integrators parse after a successful check: a header line and one line per blob.
pub fn print_blobs(image: &Image, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "RAFS filesystem metadata is valid, referenced data blobs: ")?;
    for (index, blob) in image.blobs().iter().enumerate() {
        writeln!(
            out,
            "\t {index}: {}, compressed size {}, uncompressed size {}, chunk size: {}, chunk count: {}, features: {}",
            blob.id,
            blob.compressed_size,
            blob.uncompressed_size,
            blob.chunk_size,
            blob.chunk_count,
            feature_names(blob.features),
        )?;
    }
    Ok(())
}

/// Names of blob features as `check` and `inspect` print them, in their fixed order.
pub fn feature_names(features: BlobFeatures) -> String {
    let names = [
        (BlobFeatures::ALIGNED, "aligned"),
        (BlobFeatures::BATCH, "batch"),
        (BlobFeatures::CAP_TAR_TOC, "cap_toc"),
        (BlobFeatures::INLINED_CHUNK_DIGEST, "chunk-digest"),
        (BlobFeatures::CHUNK_INFO_V2, "chunk-v2"),
        (BlobFeatures::INLINED_FS_META, "fs-meta"),
        (BlobFeatures::SEPARATE, "separate"),
        (BlobFeatures::HAS_TAR_HEADER, "tar-header"),
        (BlobFeatures::HAS_TOC, "toc"),
        (BlobFeatures::ZRAN, "zran"),
        (BlobFeatures::ENCRYPTED, "encrypted"),
        (BlobFeatures::CHUNKDICT_GENERATED, "is-chunkdict-generated"),
    ];
    let set: Vec<&str> =
        names.iter().filter(|(bit, _)| features.contains(*bit)).map(|(_, name)| *name).collect();
    set.join(" ")
}

/// What `-J` writes: the schema that integrators read `blobs`, `fs_version` and `compressor` from.
#[derive(Serialize)]
struct Output<'a> {
    version: &'a str,
    bootstrap: Cow<'a, str>,
    blobs: Vec<&'a str>,
    external_bootstrap: &'a str,
    external_blobs: [&'a str; 0],
    trace: Trace,
    fs_version: &'a str,
    compressor: &'a str,
    /// In hex; `null` where there is none.
    tree_digest: Option<String>,
}

/// Measurements of a run.
#[derive(Serialize)]
struct Trace {
    consumed_time: ConsumedTime,
    registered_events: Events,
}

/// Seconds per phase.
#[derive(Serialize)]
struct ConsumedTime {
    load_tree_from_bootstrap: f64,
}

/// Counters; a check has none.
#[derive(Serialize)]
struct Events {}

/// The result of a check as compact JSON without a newline. `version` is `<describe>-<commit>`, `loading` the time that
/// loading and walking the tree took, `digest` its digest.
pub fn json(
    image: &Image,
    version: &str,
    loading: Duration,
    digest: Option<Digest>,
) -> serde_json::Result<String> {
    serde_json::to_string(&Output {
        version,
        bootstrap: image.path().to_string_lossy(),
        blobs: image.blobs().iter().map(|blob| blob.id.as_str()).collect(),
        external_bootstrap: "",
        external_blobs: [],
        trace: Trace {
            consumed_time: ConsumedTime { load_tree_from_bootstrap: loading.as_secs_f64() },
            registered_events: Events {},
        },
        fs_version: image.bootstrap().superblock().version.name(),
        compressor: image.bootstrap().superblock().compressor.name(),
        tree_digest: digest.map(|digest| digest.to_string()),
    })
}

/// Reads every blob of an image whose structure is sound and compares it with the bootstrap: sizes, ids, chunk tables
/// and every chunk. `threads` is at least 1. Problems are part of the result; an error means that nothing can be said:
/// a kind of blob that this version cannot read.
pub fn data(image: &Image, source: &BlobSource, threads: usize) -> Result<DataReport, CheckError> {
    let found = Mutex::new(Found::default());
    let by_blob = chunks_by_blob(image.bootstrap())?;
    let mut report = DataReport::default();
    for ((number, blob), records) in (0u32..).zip(image.blobs()).zip(&by_blob) {
        match data::open(image, blob, source) {
            Ok(open) => {
                apart::check(image, (number, blob), source, &open, &found);
                check_blob(&OneBlob { image, number, blob, open, records }, threads, &found)?;
            }
            Err(source) => add(&found, (number, 0), Problem::Open { source }),
        }
        report.chunks += if blob.is_tar() { blob.chunk_count.into() } else { records.len() as u64 };
    }
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    name_users(image.bootstrap(), &mut found.kept)?;
    found.kept.sort_by_key(|(place, _)| *place);
    report.bytes = found.bytes;
    report.more = found.more;
    report.problems = found.kept.into_iter().map(|(_, problem)| problem).collect();
    Ok(report)
}

/// Problems found so far, by all threads.
#[derive(Debug, Default)]
struct Found {
    /// Where each stands in the report (blob, position), and what it is.
    kept: Vec<((u32, u64), Problem)>,
    more: u64,
    bytes: u64,
}

/// Keeps `problem` if there is room, else counts it.
fn add(found: &Mutex<Found>, place: (u32, u64), problem: Problem) {
    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
    if found.kept.len() < MAX_PROBLEMS {
        found.kept.push((place, problem));
    } else {
        found.more += 1;
    }
}

/// A chunk of one blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Record {
    /// Number of the chunk in its blob.
    index: u32,
    /// Stored length in bytes.
    stored: u32,
    /// Where its record is.
    at: ChunkPlace,
}

/// Chunks by blob, in order of their index, each once: the structure check has said that all records of one agree.
fn chunks_by_blob(bootstrap: &Bootstrap<Vec<u8>>) -> Result<Vec<Vec<Record>>, FormatError> {
    let mut by_blob = vec![Vec::new(); bootstrap.blobs().len()];
    for at in bootstrap.chunk_places() {
        let at = at?;
        let chunk = bootstrap.chunk_at(at)?;
        match usize::try_from(chunk.blob).ok().and_then(|blob| by_blob.get_mut(blob)) {
            Some(records) => records.push(Record { index: chunk.index, stored: chunk.compressed_size, at }),
            None => {
                return Err(FormatError::Value {
                    what: "blob index of a chunk record",
                    at: bootstrap.superblock().chunk_table_offset,
                    found: chunk.blob.into(),
                    expected: "a blob of the blob table",
                });
            }
        }
    }
    for records in &mut by_blob {
        records.sort_unstable();
        records.dedup_by_key(|record| record.index);
    }
    Ok(by_blob)
}

/// One blob during the check.
struct OneBlob<'a> {
    image: &'a Image,
    number: u32,
    blob: &'a Blob,
    open: OpenBlob,
    /// In order of their index.
    records: &'a [Record],
}

impl OneBlob<'_> {
    /// Cuts the records into parts of some megabytes: what a thread takes at a time.
    fn parts(&self) -> Vec<&[Record]> {
        let mut bytes = 0;
        let same_part = |last: &Record, next: &Record| {
            bytes = if bytes == 0 { u64::from(last.stored) } else { bytes } + u64::from(next.stored);
            let fits = bytes <= PART;
            bytes = if fits { bytes } else { 0 };
            fits
        };
        self.records.chunk_by(same_part).collect()
    }
}

/// Checks one blob with `threads` threads; its digest is computed beside its chunks.
fn check_blob(one: &OneBlob<'_>, threads: usize, found: &Mutex<Found>) -> Result<(), FormatError> {
    let next = AtomicUsize::new(0);
    let parts = one.parts();
    std::thread::scope(|scope| {
        let work = || {
            let mut reader = ChunkReader::default();
            loop {
                // The first to come checks what concerns the blob as a whole.
                match next.fetch_add(1, Ordering::Relaxed).checked_sub(1) {
                    None => check_whole(one, found)?,
                    Some(n) => match parts.get(n) {
                        Some(part) => check_part(one, part, &mut reader, found)?,
                        None => return Ok(()),
                    },
                }
            }
        };
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mine = work();
        let theirs = helpers.into_iter().map(|helper| helper.join().unwrap_or(Ok(())));
        std::iter::once(mine).chain(theirs.collect::<Vec<_>>()).collect()
    })
}

/// Checks size, chunk table and id of a blob.
fn check_whole(one: &OneBlob<'_>, found: &Mutex<Found>) -> Result<(), FormatError> {
    let blob = one.blob;
    if blob.is_tar() {
        // All of it was hashed when it was opened.
        found.lock().unwrap_or_else(PoisonError::into_inner).bytes += blob.compressed_size;
    }
    let size = match one.open.file.size() {
        Ok(size) => size,
        Err(source) => {
            add(found, (one.number, 0), Problem::Read { blob: blob.id.clone(), source });
            return Ok(());
        }
    };
    // A blob with tar headers may hold a bootstrap behind what the size counts (also after a merge, which hides the flag).
    let open_ended = BlobFeatures::INLINED_FS_META | BlobFeatures::HAS_TAR_HEADER;
    let exact = blob.is_separate() || !blob.features.intersects(open_ended);
    let wrong = size < blob.compressed_size || (exact && size != blob.compressed_size);
    // Of an eStargz layer only a bound may be known.
    if wrong && !blob.is_stargz() {
        let problem = Problem::Size { blob: blob.id.clone(), found: size, expected: blob.compressed_size };
        add(found, (one.number, 0), problem);
    }
    let elsewhere = BlobFeatures::SEPARATE | BlobFeatures::CHUNK_INFO_V2;
    if blob.meta.uncompressed_size == 0 || blob.features.intersects(elsewhere) {
        // There is no table (v5), or it is in another object, or of a kind that this version does not read.
    } else if let Err(source) = check_table(one)? {
        let (at, size) = (blob.meta.compressed_offset, blob.meta.compressed_size);
        add(found, (one.number, 0), Problem::Table { blob: blob.id.clone(), at, size, source });
    }
    if !blob.is_separate() {
        check_toc(one, size, found);
    }
    if blob.features.contains(BlobFeatures::HAS_TOC) && !blob.is_separate() {
        match check_sections(blob, (&one.open, &one.open.file), size) {
            Ok(Ok(())) => {}
            Ok(Err(problem)) => add(found, (one.number, u64::MAX), problem),
            Err(source) => {
                add(found, (one.number, u64::MAX), Problem::Read { blob: blob.id.clone(), source });
            }
        }
    }
    check_id(one, size, found);
    Ok(())
}

/// Compares the chunk table in the blob with the records in the bootstrap.
fn check_table(one: &OneBlob<'_>) -> Result<Result<(), TableError>, FormatError> {
    let entries = match read_table(one) {
        Ok(table) => table,
        Err(error) => return Ok(Err(error)),
    };
    let positions = match blob_meta::entries_v1(&entries, one.blob) {
        Ok(positions) => positions,
        Err(source) => return Ok(Err(TableError::Format { source })),
    };
    let count = positions.len();
    let mut positions = positions.zip(0u32..);
    for &Record { index, at: record, .. } in one.records {
        let chunk = one.image.bootstrap().chunk_at(record)?;
        let mut upto = positions.by_ref().skip_while(|(position, at)| position.is_ok() && *at < index);
        match upto.next() {
            Some((Ok(position), at)) if at == index => {
                if let Some(error) = compare(&chunk, &position) {
                    return Ok(Err(error));
                }
            }
            Some((Err(source), _)) => return Ok(Err(TableError::Format { source })),
            // Each index comes once.
            Some(_) => {}
            None => return Ok(Err(TableError::Short { index, entries: count })),
        }
    }
    let rest: Result<(), FormatError> = positions.try_for_each(|(position, _)| position.map(|_| ()));
    Ok(rest.map_err(|source| TableError::Format { source }))
}

/// Reads, checks and decompresses the chunk table of a blob.
fn read_table(one: &OneBlob<'_>) -> Result<Vec<u8>, TableError> {
    let meta = one.blob.meta;
    let end = meta.compressed_offset.saturating_add(meta.compressed_size);
    let read = |range| one.open.file.read(range).map_err(|source| TableError::Read { source });
    let header = read(end..end.saturating_add(blob_meta::HEADER_SIZE as u64))?;
    Header::parse(&header, one.blob).map_err(|source| TableError::Format { source })?;
    let stored = read(meta.compressed_offset..end)?;
    let size = usize::try_from(meta.uncompressed_size).unwrap_or(usize::MAX);
    Decoder::new().decode(meta.compressor, &stored, size).map_err(|source| TableError::Decode { source })
}

/// Compares one entry of a blob's chunk table with the record in the bootstrap.
fn compare(chunk: &Chunk, position: &blob_meta::Position) -> Option<TableError> {
    let pairs = [
        ("compressed offset", position.compressed_offset, chunk.compressed_offset),
        ("compressed size", position.compressed_size.into(), chunk.compressed_size.into()),
        ("uncompressed offset", position.uncompressed_offset, chunk.uncompressed_offset),
        ("uncompressed size", position.uncompressed_size.into(), chunk.uncompressed_size.into()),
    ];
    let (what, found, expected) = pairs.into_iter().find(|(_, found, expected)| found != expected)?;
    Some(TableError::Entry { index: chunk.index, what, found, expected })
}

/// Compares the table of contents at the end of the blob with its digest in the bootstrap, where that is known.
fn check_toc(one: &OneBlob<'_>, size: u64, found: &Mutex<Found>) {
    let blob = one.blob;
    let start = size.checked_sub(u64::from(blob.toc_size)).filter(|_| blob.toc_digest != Digest([0; 32]));
    let Some(start) = start.filter(|&start| start < size) else { return };
    match one.open.file.read(start..size) {
        Ok(bytes) if <[u8; 32]>::from(Sha256::digest(&bytes)) == blob.toc_digest.0 => {}
        Ok(_) => add(found, (one.number, u64::MAX), Problem::Toc { blob: blob.id.clone(), at: start }),
        Err(source) => {
            add(found, (one.number, u64::MAX), Problem::Read { blob: blob.id.clone(), source });
        }
    }
}

/// Checks the sections in `file`, which is `open` or the object with its chunk table, where there is a table of contents: their tar headers from the
/// end to the start, and their digests in the table.
fn check_sections(
    blob: &Blob,
    (open, file): (&OpenBlob, &BlobFile),
    size: u64,
) -> Result<Result<(), Problem>, BackendError> {
    let problem = |name: &[u8], end, source| {
        Ok(Err(Problem::Section { blob: blob.id.clone(), name: name.to_vec(), end, source }))
    };
    let mut read = |range: Range<u64>| file.read(range).map(|bytes| bytes.to_vec());
    let mut all = Vec::new();
    let mut end = size;
    while end > 0 {
        match sections::before(end, &mut read)? {
            Some(section) => {
                end = section.stored.start;
                all.push(section);
            }
            None => return problem(b"", end, SectionError::NoHeader),
        }
    }
    let table = all.first().filter(|last| last.name == sections::TOC);
    let Some(table) = table.filter(|table| table.stored.end - table.stored.start <= toc::MAX_SIZE) else {
        return problem(sections::TOC, size, SectionError::NoHeader);
    };
    let table = read(table.stored.clone())?;
    for entry in toc::entries(&table) {
        if let Err(source) = check_entry(entry, &all, open, &mut read)? {
            let end = entry.compressed_offset.get().saturating_add(entry.compressed_size.get());
            return problem(entry.name(), end, source);
        }
    }
    Ok(Ok(()))
}

/// Checks one entry of a table of contents.
fn check_entry(
    entry: &TocEntry,
    all: &[Section],
    open: &OpenBlob,
    read: &mut dyn FnMut(Range<u64>) -> Result<Vec<u8>, BackendError>,
) -> Result<Result<(), SectionError>, BackendError> {
    // The header of the chunk table has an entry, but is the end of another section.
    let (name, header) = match entry.name() {
        b"blob.meta.header" => (b"blob.meta".as_slice(), true),
        name => (name, false),
    };
    let Some(section) = all.iter().find(|section| section.name == name) else {
        return Ok(Err(SectionError::NoHeader));
    };
    let (start, end) = (section.stored.start, section.stored.end);
    let split = end.saturating_sub(blob_meta::HEADER_SIZE as u64).max(start);
    let stored = match (name, header) {
        (b"blob.meta", true) => split..end,
        (b"blob.meta", false) => start..split,
        // Its digest covers its tar header as well.
        (b"image.blob", _) => start..end + sections::HEADER,
        _ => start..end,
    };
    if stored.start != entry.compressed_offset.get() {
        let (found, expected) = (entry.compressed_offset.get(), stored.start);
        return Ok(Err(SectionError::Place { found, expected }));
    }
    let found = if name == b"image.blob" {
        hash(stored, read)?
    } else {
        let Some(coding) = Coding::of(entry) else { return Ok(Err(SectionError::Compression)) };
        let stored = read(stored)?;
        // The chunk table and its header are encrypted with the data.
        let stored = if name == b"blob.meta" { open.decrypt(stored, coding) } else { Ok(stored) };
        match stored.and_then(|stored| coding.decode(stored)) {
            Ok(plain) => Digest(Sha256::digest(&plain).into()),
            Err(source) => return Ok(Err(SectionError::Decode { source })),
        }
    };
    let expected = entry.digest();
    Ok(if found == expected { Ok(()) } else { Err(SectionError::Digest { found, expected }) })
}

/// Hashes a blob whose id is a SHA-256 and compares. The id of a blob with a table of contents was made before all of it
/// was written, so it says nothing there.
fn check_id(one: &OneBlob<'_>, size: u64, found: &Mutex<Found>) {
    let id = one.blob.id.as_str();
    let is_digest = id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    // A tar was hashed when it was opened. Some builders made the id of a blob with a table of contents before all of it was written. The id of an
    // external blob is what others call it.
    let unsaid = one.blob.features.contains(BlobFeatures::HAS_TOC) && !one.blob.is_separate();
    if !is_digest || unsaid || one.blob.is_tar() || one.blob.is_external() {
        return;
    }
    match hash(0..size, &mut |range| one.open.file.read(range)) {
        Ok(digest) if digest.to_string() == id => {}
        Ok(found_id) => {
            add(found, (one.number, u64::MAX), Problem::Id { blob: one.blob.id.clone(), found: found_id });
        }
        Err(source) => {
            add(found, (one.number, u64::MAX), Problem::Read { blob: one.blob.id.clone(), source });
        }
    }
}

/// SHA-256 of a range of a blob.
fn hash<T: AsRef<[u8]>>(
    range: Range<u64>,
    read: &mut dyn FnMut(Range<u64>) -> Result<T, BackendError>,
) -> Result<Digest, BackendError> {
    let mut hasher = Sha256::new();
    let mut from = range.start;
    while from < range.end {
        let to = range.end.min(from + HASH_STEP);
        hasher.update(read(from..to)?.as_ref());
        from = to;
    }
    Ok(Digest(hasher.finalize().into()))
}

/// Checks one part of a blob's chunks.
fn check_part(
    one: &OneBlob<'_>,
    part: &[Record],
    reader: &mut ChunkReader,
    found: &Mutex<Found>,
) -> Result<(), FormatError> {
    let records = part.iter().map(|record| one.image.bootstrap().chunk_at(record.at));
    let chunks: Vec<Chunk> = records.collect::<Result<_, _>>()?;
    let mut bytes = 0;
    for run in data::runs(&chunks) {
        let Some(run) = chunks.get(run) else { continue };
        reader.read_run(one.blob, &one.open, run, &mut |chunk, plain| {
            bytes += u64::from(chunk.uncompressed_size);
            let checked = plain.and_then(|plain| {
                check_crc(chunk, plain.bytes()).map_err(|source| data::bad_chunk(one.blob, chunk, source))
            });
            if let Err(bad) = checked {
                add(found, (one.number, 1 + u64::from(chunk.index)), chunk_problem(bad));
            }
        });
    }
    found.lock().unwrap_or_else(PoisonError::into_inner).bytes += bytes;
    Ok(())
}

/// Compares the checksum of a chunk where it has one.
fn check_crc(chunk: &Chunk, plain: &[u8]) -> Result<(), ChunkError> {
    if !chunk.flags.contains(ChunkFlags::HAS_CRC) {
        return Ok(());
    }
    let found = rafs_merkle::crc32c(plain);
    if found == chunk.crc32 { Ok(()) } else { Err(ChunkError::Crc { expected: chunk.crc32, found }) }
}

/// A bad chunk as a problem, its user not known yet.
fn chunk_problem(bad: BadChunk) -> Problem {
    Problem::Chunk {
        blob: bad.blob,
        index: bad.index,
        at: bad.compressed_offset,
        size: bad.compressed_size,
        used_by: None,
        source: bad.source,
    }
}

/// Writes into each problem with a chunk the first file that uses it.
fn name_users(
    bootstrap: &Bootstrap<Vec<u8>>,
    problems: &mut [((u32, u64), Problem)],
) -> Result<(), FormatError> {
    let mut wanted = HashMap::new();
    for ((number, _), problem) in problems.iter_mut() {
        if let Problem::Chunk { index, used_by, .. } = problem {
            wanted.insert((*number, *index), used_by);
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    rafs_format::check::check(bootstrap, &mut |visit: &Visit<'_>| {
        if visit.inode.file_type != FileType::Regular || visit.again {
            return Ok(());
        }
        for n in 0..bootstrap.chunk_count(&visit.inode) {
            let reference = bootstrap.chunk_ref(&visit.inode, n)?;
            if let Some(user) = wanted.get_mut(&(reference.blob, reference.chunk)) {
                user.get_or_insert_with(|| full_path(visit.path));
            }
        }
        Ok::<(), FormatError>(())
    })?;
    Ok(())
}
