//! A layer that stays as it is becomes the data of an image: only what reading it takes is written, chunk table and bootstrap.
//!
//! One pass, so the layer may come through a pipe. Chunks go through the pipeline for their digests, and nowhere else. Of a gzip layer inflate states are
//! saved on the way, with what of their windows is looked back to; on demand by the rule of the reference builder, so that tables are the same byte for byte.
//! Invariant: the id of the data blob is the SHA-256 of every byte that was read. docs/format.md, "Layers that stay as they are".

mod gzip;
mod reach;

use super::blob::{Done, Tail};
use super::collect::Stored;
use super::pipeline::{self, Coding, Feeder};
use super::tar::{self, DataSink};
use super::{CreateError, Options, Places, Report, Scanned, Sealed, bad_entry, fed, first_chunk};
use crate::digest;
use crate::output::{OutputError, Outputs};
use gzip::Stream;
use oci_registry::layer::{Layer, Meta};
use rafs_format::blob_entries::{self, Entry, Place};
use rafs_format::blob_meta::Contexts;
use rafs_format::zran::{self, Context, MAX_SPAN};
use rafs_format::{Blob, BlobFeatures, BlobId, ChunkFlags, Compressor, DigestAlgorithm, Version};
use sha2::{Digest as _, Sha256};
use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

/// How far apart inflate states are.
#[derive(Debug, Clone, Copy)]
struct Distance {
    /// A span goes on at least over so many stored bytes, unless it becomes too long when decoded.
    stored: u64,
    /// A span that would become so long when decoded, in bytes, ends before the next chunk.
    decoded: u64,
}

impl Distance {
    /// Small tables: what is read cold is twice as long.
    const SMALL: Self = Self { stored: 1 << 20, decoded: 4 << 20 };
    /// That of the reference builder.
    const REFERENCE: Self = Self { stored: 512 << 10, decoded: 2 << 20 };
}

/// Builds an image of the layer `stream`, tar or tar.gz, which stays where it is. In `places` the blob is the object with the chunk table. `progress` is told plain
/// bytes as they are read. Compression, digest and sizes of batches in `options` have no effect. Errors: a layer of another compression, a sparse file, a
/// deflate block of over 16 MiB; what [`super::create`] fails with. Nothing is left behind on failure, except what went into a pipe.
pub fn create_reference(
    stream: Box<dyn Read + Send + '_>,
    options: &Options,
    places: impl Into<Places>,
    outputs: &Outputs,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Report, CreateError> {
    let started = Instant::now();
    let (places, options) = (places.into(), &forced(options));
    let bootstrap = places.bootstrap.map(|place| outputs.start(place)).transpose()?;
    let output = outputs.start(places.blob)?;
    let path = output.path();
    let (read, mut stored, reference) = store(stream, options, &path, progress)?;
    let id = reference.id.clone();
    let layer_size = reference.size;
    let mut tail = Tail::of_reference(output, &path, options, bootstrap.is_none(), reference);
    let described = tail.put_chunk_table(&stored)?;
    let data_time = started.elapsed();
    let Scanned { tree, whiteouts, skipped_xattrs, end, .. } = read;
    let sealed = Sealed::new(tree, &mut stored, options);
    let known = described.as_slice();
    let tree_digest = digest::of_tree(&sealed.tree, known, options.chunk_size, digest::Scope::Full)?;
    let written = match bootstrap {
        None => {
            tail.put_bootstrap(&sealed.bootstrap(known)?)?;
            let done = tail.finish()?;
            vec![(done.output, Some(done.digest.to_string()))]
        }
        Some(mut bootstrap) => {
            let done = tail.finish()?;
            let whole: Vec<Blob> = described.iter().map(|blob| named(blob, &done)).collect();
            let bytes = sealed.bootstrap(&whole)?;
            let path = bootstrap.path();
            bootstrap.write_all(&bytes).map_err(|source| OutputError { action: "write", path, source })?;
            let name = described.as_ref().map(|_| done.digest.to_string());
            vec![(done.output, name), (bootstrap, Some(hex::encode(Sha256::digest(&bytes))))]
        }
    };
    let inline = written.len() == 1;
    let mut paths = Outputs::commit(written)?.into_iter();
    let blob_path = paths.next().flatten().filter(|_| inline || described.is_some());
    Ok(Report {
        blobs: described.iter().map(|_| id.clone()).collect(),
        blob: described.map(|_| id),
        blob_path,
        bootstrap_path: paths.next().flatten().unwrap_or_default(),
        entries: sealed.tree.entries.len() as u64,
        blob_size: layer_size,
        uncompressed_size: stored.uncompressed_size,
        chunks: stored.chunks.len() as u64,
        duplicates: (stored.duplicates, stored.duplicate_bytes),
        whiteouts,
        skipped_xattrs,
        end,
        tree_digest: Some(tree_digest),
        times: (data_time, started.elapsed() - data_time),
    })
}

/// What is the same for all such images.
fn forced(options: &Options) -> Options {
    Options {
        version: Version::V6,
        compressor: Compressor::Gzip,
        digester: DigestAlgorithm::Sha256,
        batch_size: 0,
        blob_id: None,
        chunk_dicts: Vec::new(),
        chunk_store: None,
        parent: None,
        encryption: None,
        ..options.clone()
    }
}

/// `blob` with what is known of the object with its chunk table once that is written.
fn named(blob: &Blob, done: &Done) -> Blob {
    let (toc_size, toc_digest) = done.toc;
    Blob { toc_size, toc_digest, meta_digest: done.digest, meta_size: done.size, ..blob.clone() }
}

/// The layer, as its image refers to it.
#[derive(Debug)]
pub(super) struct Reference {
    /// SHA-256 of all its bytes.
    pub id: BlobId,
    /// Its length in bytes.
    pub size: u64,
    is_gzip: bool,
    /// For each distinct chunk the span it is in, and where.
    places: Vec<Place>,
    /// Inflate states with their dictionaries.
    states: Vec<(Context, Vec<u8>)>,
}

impl Reference {
    pub fn features(&self) -> BlobFeatures {
        let mut features = BlobFeatures::SEPARATE | BlobFeatures::CHUNK_INFO_V2;
        features.set(BlobFeatures::ZRAN, self.is_gzip);
        features
    }

    /// The table of all chunks, and what stands in it behind its entries.
    pub fn chunk_table(&self, stored: &Stored) -> Result<(Vec<u8>, Contexts), CreateError> {
        let mut table = Vec::new();
        for (chunk, &place) in stored.chunks.iter().zip(&self.places) {
            let entry = Entry {
                compressed_offset: chunk.compressed_offset,
                compressed_size: chunk.compressed_size,
                uncompressed_offset: chunk.uncompressed_offset,
                uncompressed_size: chunk.uncompressed_size,
                is_compressed: self.is_gzip,
                is_encrypted: false,
                place,
            };
            blob_entries::push(&mut table, &entry)?;
        }
        if !self.is_gzip {
            return Ok((table, Contexts::default()));
        }
        let offset = table.len() as u64;
        zran::push_contexts(&mut table, self.states.iter().map(|(state, dict)| (state, dict.as_slice())))?;
        let count = u32::try_from(self.states.len()).unwrap_or(u32::MAX);
        let contexts = Contexts { offset, size: table.len() as u64 - offset, count };
        Ok((table, contexts))
    }
}

/// The stream, which the tar reader reads and the sink asks for positions.
type Shared<'a> = Rc<RefCell<Stream<Box<dyn Read + Send + 'a>>>>;

/// The reading end of a shared stream.
struct Plain<'a>(Shared<'a>);

impl Read for Plain<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.borrow_mut().read(into)
    }
}

/// Reads the layer; its tree, its chunks, and how they are found in it. `path` is that of the output, for messages.
fn store(
    stream: Box<dyn Read + Send + '_>,
    options: &Options,
    path: &Path,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(Scanned, Stored, Reference), CreateError> {
    let coding = Coding {
        chunk_size: options.chunk_size,
        batch_size: 0,
        alignment: super::v5::alignment(options),
        compressor: Compressor::None,
        level: options.level,
        digester: options.digester,
        key: None,
        threads: options.threads.max(1),
        known: None,
    };
    let shared: Shared<'_> = Rc::new(RefCell::new(Stream::new(stream).map_err(failed)?));
    refuse_others(&shared.borrow())?;
    let (claims, queue) = (pipeline::claims(), pipeline::queue());
    std::thread::scope(|scope| {
        let path = path.to_path_buf();
        let feeder = pipeline::start(scope, &claims, &queue, coding, io::sink(), path, None)?;
        let mut sink = Sink::new(feeder, &shared, options.reference_states);
        let read = tar::read_plain(Plain(Rc::clone(&shared)), &mut sink, options.chunk_size, progress);
        let shrunk = sink.shrink(true);
        let Sink { feeder, stream, given, states, .. } = sink;
        drop(stream);
        let finished = feeder.finish();
        let (read, mut stored) = match (read, finished) {
            (Err(CreateError::Stopped), Err(error)) | (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(read), Ok((stored, _sink))) => Ok((read, stored)),
        }?;
        shrunk.map_err(failed)?;
        // The tar reader is gone, too.
        let stream = Rc::into_inner(shared).ok_or(CreateError::Stopped)?.into_inner();
        let is_gzip = stream.is_gzip();
        let places = place(&mut stored, &given, is_gzip);
        let (sha256, size) = stream.finish();
        let id = BlobId::new(&sha256.to_string())?;
        Ok((read, stored, Reference { id, size, is_gzip, places, states }))
    })
}

/// The layer cannot be read.
fn failed(source: io::Error) -> CreateError {
    CreateError::Source { path: PathBuf::from("the layer"), source }
}

/// Refuses a layer whose bytes cannot be referred to.
fn refuse_others<R: Read>(stream: &Stream<R>) -> Result<(), CreateError> {
    let problem = match stream.magic() {
        [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => {
            "it is compressed by zstd; only gzip layers and plain tars can be referred to"
        }
        _ => return Ok(()),
    };
    let source = io::Error::new(io::ErrorKind::InvalidData, problem);
    Err(CreateError::Source { path: PathBuf::from("the layer"), source })
}

/// Writes into the records of distinct chunks where the first copy of each is in the layer. Returns what else says so.
fn place(stored: &mut Stored, given: &[Given], is_gzip: bool) -> Vec<Place> {
    let mut places: Vec<Option<Place>> = vec![None; stored.chunks.len()];
    for (given, &position) in given.iter().zip(&stored.positions) {
        let slot = places.get_mut(position as usize).zip(stored.chunks.get_mut(position as usize));
        let Some((slot, chunk)) = slot.filter(|(slot, _)| slot.is_none()) else { continue };
        chunk.compressed_offset = given.compressed_offset;
        chunk.compressed_size = given.compressed_size;
        chunk.flags.set(ChunkFlags::COMPRESSED, is_gzip);
        *slot = Some(match is_gzip {
            true => Place::Context { number: given.state, start: given.start },
            false => Place::Alone { crc32: chunk.crc32 },
        });
    }
    places.into_iter().flatten().collect()
}

/// Where one chunk that was given to the pipeline is in the layer.
#[derive(Debug, Clone, Copy)]
struct Given {
    compressed_offset: u64,
    compressed_size: u32,
    /// Number of the inflate state, and where the chunk starts in its output.
    state: u32,
    start: u32,
}

/// Takes the data of files, and notes where it is.
struct Sink<'s, 'a, W> {
    feeder: Feeder<'s, W>,
    stream: Shared<'a>,
    given: Vec<Given>,
    states: Vec<(Context, Vec<u8>)>,
    distance: Distance,
    /// Keep windows as they are.
    whole: bool,
}

impl<'s, 'a, W> Sink<'s, 'a, W> {
    /// `reference`: states as the reference builder saves them.
    fn new(feeder: Feeder<'s, W>, stream: &Shared<'a>, reference: bool) -> Self {
        let distance = if reference { Distance::REFERENCE } else { Distance::SMALL };
        let stream = Rc::clone(stream);
        Self { feeder, stream, given: Vec::new(), states: Vec::new(), distance, whole: reference }
    }

    /// Leaves of the last window what its span looks back to, when that is clear.
    fn shrink(&mut self, ended: bool) -> io::Result<()> {
        shrink(&mut self.stream.borrow_mut(), &mut self.states, ended)
    }
}

/// Leaves of the last window what its span looks back to, when that is clear.
fn shrink<R: Read>(stream: &mut Stream<R>, states: &mut [(Context, Vec<u8>)], ended: bool) -> io::Result<()> {
    let (Some(stored), Some((context, dictionary))) = (stream.pinned(ended), states.last_mut()) else {
        return Ok(());
    };
    reach::keep_reached(context, dictionary, &stored).map_err(io::Error::other)
}

/// The state whose span the next chunk of `size` bytes belongs to: the last one, or a new one where that has gone on for long enough. Is it a new one?
fn choose<R: Read>(
    stream: &Stream<R>,
    states: &mut Vec<(Context, Vec<u8>)>,
    size: u64,
    distance: Distance,
) -> bool {
    let Some(state) = stream.state() else { return false };
    let goes_on = states.last().is_some_and(|(last, _)| {
        let stored = stream.consumed() - last.compressed_offset;
        let decoded = stream.produced() - last.uncompressed_offset;
        let same = state.compressed_offset == last.compressed_offset;
        same || (stored < distance.stored && decoded + size < distance.decoded)
    });
    if !goes_on {
        let context = Context {
            compressed_offset: state.compressed_offset,
            uncompressed_offset: state.uncompressed_offset,
            compressed_size: 0,
            uncompressed_size: 0,
            byte: state.byte,
            bits: state.bits,
        };
        states.push((context, state.dictionary.clone()));
    }
    !goes_on
}

/// Notes a chunk that was read from byte `from` of the layer and byte `at` of the tar on, and that the last span reaches to its end.
fn note<R: Read>(
    stream: &Stream<R>,
    states: &mut [(Context, Vec<u8>)],
    from: u64,
    at: u64,
) -> Result<Given, CreateError> {
    let number = u32::try_from(states.len().saturating_sub(1)).unwrap_or(u32::MAX);
    let size = |start: u64, end: u64| {
        let size = u32::try_from(end - start).ok().filter(|&size| size <= MAX_SPAN);
        size.ok_or_else(|| {
            let problem = format!(
                "its deflate blocks near byte {from} are too long to be read one by one: over 16 MiB, or less than that \
                away from a chunk; without a reference (--type targz-rafs) it can be converted"
            );
            let source = io::Error::new(io::ErrorKind::InvalidData, problem);
            CreateError::Source { path: PathBuf::from("the layer"), source }
        })
    };
    let mut start = 0;
    if let Some((span, _)) = states.last_mut() {
        span.compressed_size = size(span.compressed_offset, stream.consumed())?;
        span.uncompressed_size = size(span.uncompressed_offset, stream.produced())?;
        start = size(span.uncompressed_offset, at)?;
    }
    let compressed_size = size(from, stream.consumed())?;
    Ok(Given { compressed_offset: from, compressed_size, state: number, start })
}

impl<W> DataSink for Sink<'_, '_, W> {
    fn next_chunk(&self) -> Result<u32, CreateError> {
        first_chunk(&self.feeder)
    }

    fn file<R: Read>(
        &mut self,
        meta: &Meta,
        layer: &mut Layer<R>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), CreateError> {
        if layer.data_offset().is_none() {
            return Err(bad_entry(
                &meta.path,
                "it is a sparse file, which does not lie in the layer as it is",
            ));
        }
        let Self { feeder, stream, given, states, distance, whole } = self;
        let done = feeder.file(meta.size, &mut |buffer| {
            shrink(&mut stream.borrow_mut(), states, false).map_err(failed)?;
            let is_new = choose(&stream.borrow(), states, buffer.len() as u64, *distance);
            if is_new && !*whole {
                stream.borrow_mut().pin();
            }
            let (from, at) = (stream.borrow().consumed(), stream.borrow().produced());
            layer.read_data(buffer)?;
            given.push(note(&stream.borrow(), states, from, at)?);
            progress(buffer.len() as u64);
            Ok(())
        })?;
        fed(done)
    }
}
