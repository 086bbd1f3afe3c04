//! `nydus-image export --block`: an image as one raw EROFS disk, which the kernel mounts by itself.
//!
//! The bootstrap stands at the start as it is, each blob in decompressed form where the bootstrap's device slot says. Threads share the chunks of all
//! blobs; each is verified, then written straight to its place, so no other copy of the data is made. What is zero stays a hole. Knows blocks and
//! chunks, no files. Invariant: the disk appears under its name only when all of it is written and synced.

mod verity;

use crate::data::{self, BadChunk, BlobError, ChunkReader, OpenBlob};
use crate::open::{BlobSource, Image};
use crate::output::{Output, OutputError, Outputs, Place};
use parking_lot::Mutex;
use rafs_format::{Blob, Chunk, ChunkFlags, ChunkPlace, Digest, FormatError, Version};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
pub use verity::Verity;

/// Plain bytes that a thread takes at a time, unless one chunk is longer.
const PART: u64 = 4 << 20;
/// Unit in which zeros are left out: a page, the smallest hole of most file systems.
const PAGE: usize = 4096;
/// Longest disk: what a blob may measure, several times.
const MAX_DISK: u64 = 1 << 48;

/// Why an image was not written as a disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum ExportError {
    #[error("bootstrap {} is not valid", path.display())]
    Structure { path: PathBuf, source: FormatError },
    #[error("{} is RAFS v5, which is no file system of the kernel: build it as v6", path.display())]
    Version { path: PathBuf },
    #[error("blob {id} would stand at {start:#x} + {size:#x} of the disk, expected a place behind {end:#x}")]
    Overlap { id: String, start: u64, size: u64, end: u64 },
    #[error("{} must be a file: a disk is not written in order", path.display())]
    NotAFile { path: PathBuf },
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Chunk(Box<BadChunk>),
    #[error("cannot {action} {}", path.display())]
    Disk { action: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error("a thread stopped early")]
    Stopped,
}

/// How a disk is written.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Threads that read, decompress, verify and write; at least 1.
    pub threads: usize,
    /// Put the hash tree of dm-verity behind the data.
    pub verity: bool,
}

/// What was written.
#[derive(Debug, Clone)]
pub struct Report {
    /// Bytes of the file system, without a hash tree.
    pub size: u64,
    /// The hash tree.
    pub verity: Option<Verity>,
}

/// Writes `image`, whose data is in `source`, to a new file at `path`, which replaces one that is there. The bytes do not depend on the number of
/// threads. Nothing is left behind on failure.
pub fn block(
    image: &Image,
    source: &BlobSource,
    path: &Path,
    options: Options,
    outputs: &Outputs,
) -> Result<Report, ExportError> {
    if image.bootstrap().superblock().version == Version::V5 {
        return Err(ExportError::Version { path: image.path().to_path_buf() });
    }
    let invalid = |source| ExportError::Structure { path: image.path().to_path_buf(), source };
    rafs_format::check::check(image.bootstrap(), &mut |_| Ok::<(), FormatError>(())).map_err(invalid)?;
    let layout = Layout::of(image)?;
    let output = outputs.start(Place::File(path.to_path_buf()))?;
    let report = write(image, source, &layout, &output, options)?;
    Outputs::commit(vec![(output, None)])?;
    Ok(report)
}

/// Where blobs go.
#[derive(Debug)]
struct Layout {
    /// First byte of each blob.
    starts: Vec<u64>,
    size: u64,
}

impl Layout {
    fn of(image: &Image) -> Result<Self, ExportError> {
        let bootstrap = image.bootstrap();
        let block = u64::from(bootstrap.superblock().block_size);
        let mut end = bootstrap.bytes().len() as u64;
        let mut starts = Vec::new();
        for (n, blob) in image.blobs().iter().enumerate() {
            let start = u64::from(bootstrap.mapped_block(n).unwrap_or(0)) * block;
            let size = blob.uncompressed_size.next_multiple_of(block);
            let next = start.checked_add(size).filter(|&next| start >= end && next <= MAX_DISK);
            let overlap = || ExportError::Overlap { id: blob.id.to_string(), start, size, end };
            end = next.ok_or_else(overlap)?;
            starts.push(start);
        }
        Ok(Self { starts, size: end })
    }
}

/// Writes bootstrap, blobs and hash tree.
fn write(
    image: &Image,
    source: &BlobSource,
    layout: &Layout,
    output: &Output,
    options: Options,
) -> Result<Report, ExportError> {
    let path = output.path();
    let file = output.regular().ok_or_else(|| ExportError::NotAFile { path: path.clone() })?;
    let disk = Disk { file, path };
    disk.done("size", file.set_len(layout.size))?;
    disk.put(image.bootstrap().bytes(), 0)?;
    let threads = options.threads.max(1);
    let blobs = open_all(image, source, threads)?;
    let parts = parts(image)?;
    each(threads, parts.len(), ChunkReader::default, &|reader, n| match parts.get(n) {
        Some(part) => copy(image, &blobs, layout, part, reader, &disk),
        None => Ok(()),
    })?;
    let block = image.bootstrap().superblock().block_size;
    let verity =
        if options.verity { Some(verity::append(&disk, layout.size, block, threads)?) } else { None };
    Ok(Report { size: layout.size, verity })
}

/// Opens all blobs, in table order, several at once: a plain tar is hashed when it is opened.
fn open_all(image: &Image, source: &BlobSource, threads: usize) -> Result<Vec<OpenBlob>, ExportError> {
    let blobs = image.blobs();
    let opened = Mutex::new(Vec::new());
    each(threads, blobs.len(), || (), &|(), n| {
        if let Some(blob) = blobs.get(n) {
            let open = data::open(image, blob, source)?;
            opened.lock().push((n, open));
        }
        Ok(())
    })?;
    let mut opened = opened.into_inner();
    opened.sort_by_key(|(n, _)| *n);
    Ok(opened.into_iter().map(|(_, open)| open).collect())
}

/// What a thread does at a time.
#[derive(Debug)]
enum Part {
    /// These chunks, all of one blob and in the order of their places.
    Chunks(Vec<ChunkPlace>),
    /// Bytes of the tar that is this blob.
    Tar { blob: usize, start: u64, end: u64 },
}

/// All that is to be copied.
fn parts(image: &Image) -> Result<Vec<Part>, ExportError> {
    if image.bootstrap().is_tarfs() {
        let tars = image.blobs().iter().enumerate();
        return Ok(tars.flat_map(|(blob, tar)| tar_parts(blob, tar)).collect());
    }
    let invalid = |source| ExportError::Structure { path: image.path().to_path_buf(), source };
    let mut chunks = Vec::new();
    for place in image.bootstrap().chunk_places() {
        let place = place.map_err(invalid)?;
        let chunk = image.bootstrap().chunk_at(place).map_err(invalid)?;
        chunks.push((chunk.blob, chunk.uncompressed_offset, chunk.uncompressed_size, place));
    }
    chunks.sort_unstable();
    // The check has said that records of one chunk are the same.
    chunks.dedup_by_key(|&mut (blob, offset, ..)| (blob, offset));
    let mut size = 0;
    let same_part = |last: &(u32, u64, u32, ChunkPlace), next: &(u32, u64, u32, ChunkPlace)| {
        size += u64::from(last.2);
        let fits = last.0 == next.0 && size + u64::from(next.2) <= PART;
        size = if fits { size } else { 0 };
        fits
    };
    let parts = chunks.chunk_by(same_part);
    Ok(parts.map(|part| Part::Chunks(part.iter().map(|chunk| chunk.3).collect())).collect())
}

fn tar_parts(blob: usize, tar: &Blob) -> impl Iterator<Item = Part> + use<> {
    let size = tar.compressed_size;
    (0..size.div_ceil(PART)).map(move |n| Part::Tar { blob, start: n * PART, end: size.min((n + 1) * PART) })
}

/// Reads, verifies and writes one part.
fn copy(
    image: &Image,
    blobs: &[OpenBlob],
    layout: &Layout,
    part: &Part,
    reader: &mut ChunkReader,
    disk: &Disk<'_>,
) -> Result<(), ExportError> {
    let chunks = match part {
        Part::Tar { blob, start, end } => tar_chunks(*blob, *start, *end),
        Part::Chunks(places) => {
            let invalid = |source| ExportError::Structure { path: image.path().to_path_buf(), source };
            let chunks = places.iter().map(|&place| image.bootstrap().chunk_at(place));
            chunks.collect::<Result<_, _>>().map_err(invalid)?
        }
    };
    for run in data::runs(&chunks).filter_map(|run| chunks.get(run)) {
        let at = run.first().and_then(|chunk| usize::try_from(chunk.blob).ok());
        let found = at.and_then(|at| Some((image.blobs().get(at)?, blobs.get(at)?, layout.starts.get(at)?)));
        let Some((blob, open, &start)) = found else { return Err(ExportError::Stopped) };
        let mut done = Ok(());
        reader.read_run(blob, open, run, &mut |chunk, plain| {
            let plain = plain.map_err(|bad| ExportError::Chunk(Box::new(bad)));
            let place = start.saturating_add(chunk.uncompressed_offset);
            let written = plain.and_then(|plain| disk.put(plain.bytes(), place));
            done = std::mem::replace(&mut done, Ok(())).and(written);
        });
        done?;
    }
    Ok(())
}

/// Bytes of a tar as a chunk: the reader of tars knows no others.
fn tar_chunks(blob: usize, start: u64, end: u64) -> Vec<Chunk> {
    // Both have few bits: at most 254 blobs, and a part is some megabytes.
    let (blob, size) = (u32::try_from(blob).unwrap_or(u32::MAX), u32::try_from(end - start).unwrap_or(0));
    vec![Chunk {
        digest: Digest([0; 32]),
        blob,
        index: 0,
        flags: ChunkFlags::empty(),
        compressed_offset: start,
        compressed_size: size,
        uncompressed_offset: start,
        uncompressed_size: size,
        file_offset: 0,
        crc32: 0,
    }]
}

/// Calls `work` for each number below `count` from several threads, each with a state of its own, and stops at the first error.
fn each<S>(
    threads: usize,
    count: usize,
    state: impl Fn() -> S + Sync,
    work: &(dyn Fn(&mut S, usize) -> Result<(), ExportError> + Sync),
) -> Result<(), ExportError> {
    let next = AtomicUsize::new(0);
    let run = || {
        let mut state = state();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= count {
                return Ok(());
            }
            if let Err(error) = work(&mut state, n) {
                // The others find nothing more to do.
                next.store(count, Ordering::Relaxed);
                return Err(error);
            }
        }
    };
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads.min(count)).map(|_| scope.spawn(run)).collect();
        let mine = run();
        let theirs = helpers.into_iter().map(|helper| helper.join().unwrap_or(Err(ExportError::Stopped)));
        // All of them are waited for before one is asked what went wrong.
        std::iter::once(mine).chain(theirs.collect::<Vec<_>>()).collect()
    })
}

/// The disk being written.
#[derive(Debug)]
struct Disk<'a> {
    file: &'a File,
    path: PathBuf,
}

impl Disk<'_> {
    fn done<T>(&self, action: &'static str, result: io::Result<T>) -> Result<T, ExportError> {
        result.map_err(|source| ExportError::Disk { action, path: self.path.clone(), source })
    }

    /// Writes `bytes` at byte `at` of a file that is all holes: pages of zeros are left out.
    fn put(&self, bytes: &[u8], at: u64) -> Result<(), ExportError> {
        let is_zero = |page: &[u8]| page.iter().all(|&byte| byte == 0);
        let mut from = at;
        let pages: Vec<&[u8]> = bytes.chunks(PAGE).collect();
        for run in pages.chunk_by(|a, b| is_zero(a) == is_zero(b)) {
            let size: usize = run.iter().map(|page| page.len()).sum();
            let start = usize::try_from(from - at).unwrap_or(usize::MAX);
            if let Some(run) = bytes.get(start..start.saturating_add(size)).filter(|run| !is_zero(run)) {
                self.done("write", self.file.write_all_at(run, from))?;
            }
            from += size as u64;
        }
        Ok(())
    }
}
