//! Images whose chunks move: an image as the writer takes it, and new blobs that hold copies of its chunks.
//!
//! Chunks are copied as they are stored, after they were seen to decode to what the image names, so damage is found and never spread. Knows no policy:
//! which chunks go where is for [`crate::compact`] and [`crate::optimize`] to say. A new blob has what every blob of `create` has: data, chunk
//! table, and chunk digests and a table of contents where those that it takes chunks from have them; in v5 data and nothing else.

use crate::create::blob::Tail;
use crate::create::collect::Stored;
use crate::create::{CreateError, Options as CreateOptions};
use crate::data::{self, BadChunk, BlobError, ChunkReader};
use crate::digest::{self, Scope};
use crate::merge::{self, MergeError, v5};
use crate::open::{BlobSource, Image, OpenError};
use crate::output::{Output, OutputError, Outputs, Place};
use rafs_codec::{CodecError, Encoder};
use rafs_format::tree::Tree;
use rafs_format::write::{self, Options as WriteOptions};
use rafs_format::{
    Blob, BlobFeatures, BlobId, Chunk, ChunkFlags, Compressor, Digest, DigestAlgorithm, FormatError,
    SuperFlags, Version,
};
use sha2::Digest as _;
use std::collections::HashMap;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Blobs in one image of v6: a file's reference to a chunk has 8 bits for its blob.
const MAX_BLOBS: usize = 254;
/// Chunks in one blob: their numbers have 24 bits.
pub(crate) const MAX_CHUNKS: usize = (1 << 24) - 1;

/// Why an image could not be repacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum RepackError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{} is a tarfs: its blobs are the layers themselves, whose chunks cannot move", path.display())]
    Tarfs { path: PathBuf },
    #[error(transparent)]
    Load(#[from] MergeError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("a chunk cannot be copied")]
    Chunk(#[from] BadChunk),
    #[error("cannot start compression")]
    Codec(#[from] CodecError),
    #[error("cannot write blob {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("a new blob cannot be written")]
    Create(#[from] CreateError),
    #[error("the image would have {found} blobs, {limit} are possible")]
    TooManyBlobs { found: usize, limit: usize },
    #[error("the image cannot be written")]
    Codingat(#[from] FormatError),
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Report {
    /// The blob table.
    pub blobs: Vec<BlobId>,
    /// New blobs: id, path, size and number of chunks.
    pub new_blobs: Vec<NewBlob>,
    /// Blobs of the image that was read which the new one does not use.
    pub dropped: Vec<BlobId>,
    /// Path of the bootstrap.
    pub bootstrap_path: PathBuf,
    /// Compression that the superblock names.
    pub compressor: Compressor,
    /// Layout of the bootstrap.
    pub version: Version,
    /// Full digest of the tree, the same as before.
    pub tree_digest: Digest,
}

/// A blob that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBlob {
    /// Its id, the SHA-256 of its bytes.
    pub id: BlobId,
    /// Where it is.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Its chunks.
    pub chunks: u32,
}

/// An image in memory, to be changed and written again.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub tree: Tree,
    /// Blobs, used or not; [`Chunk::blob`] of the tree's chunks is a position here.
    pub blobs: Vec<Blob>,
    pub options: WriteOptions,
    version: Version,
    /// What only images of v5 say of their blobs.
    v5: v5::Facts,
    /// Ids of the blobs that the image had.
    before: Vec<BlobId>,
    written: Vec<Written>,
}

/// A new blob before it has its name.
#[derive(Debug)]
struct Written {
    output: Output,
    blob: Blob,
}

/// How chunks of a new blob are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Coding {
    pub compressor: Compressor,
    pub digester: DigestAlgorithm,
}

impl Coding {
    /// How those of `blob` are.
    pub fn of(blob: &Blob) -> Self {
        Self { compressor: blob.compressor, digester: blob.digester }
    }
}

/// Chunks that are elsewhere from now on, by position in the tree's chunks.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    /// As each is now.
    pub moved: Vec<(u32, Chunk)>,
    /// Those for which another one stands, and which.
    pub merged: Vec<(u32, u32)>,
}

/// Where new blobs go, and where the old ones are.
pub(crate) struct Work<'a> {
    pub image: &'a Image,
    pub source: &'a BlobSource,
    pub outputs: &'a Outputs,
    /// Directory of new blobs.
    pub dir: &'a Path,
}

/// The kind of a blob whose chunks cannot be copied; `None` where they can.
pub(crate) fn kept_kind(blob: &Blob) -> Option<&'static str> {
    let kinds = [
        (BlobFeatures::TARFS, "tar"),
        (BlobFeatures::ZRAN, "unmodified"),
        (BlobFeatures::SEPARATE, "unmodified"),
        (BlobFeatures::ENCRYPTED, "encrypted"),
        (BlobFeatures::EXTERNAL, "external"),
    ];
    kinds.into_iter().find(|(bit, _)| blob.features.contains(*bit)).map(|(_, kind)| kind)
}

impl Loaded {
    /// Reads all of an image. Errors: a tarfs, or damage.
    pub fn new(image: &Image) -> Result<Self, RepackError> {
        let superblock = image.bootstrap().superblock();
        if image.bootstrap().is_tarfs() {
            return Err(RepackError::Tarfs { path: image.path().to_path_buf() });
        }
        let (tree, blobs, prefetch) = merge::load(image)?;
        let options = WriteOptions {
            chunk_size: superblock.chunk_size,
            compressor: superblock.compressor,
            digester: superblock.digester,
            explicit_ids: superblock.flags.contains(SuperFlags::EXPLICIT_IDS),
            prefetch,
            form: write::Form::V6,
        };
        let before: Vec<BlobId> = blobs.iter().map(|blob| blob.id.clone()).collect();
        let mut v5 = v5::Facts::default();
        (0..).zip(&before).for_each(|(n, id)| v5.add(image, n, id));
        Ok(Self { tree, blobs, options, version: superblock.version, v5, before, written: Vec::new() })
    }

    /// Positions of all chunks by blob, each list in the order in which the chunks are stored.
    pub fn chunks_by_blob(&self) -> Vec<Vec<u32>> {
        let mut lists = vec![Vec::new(); self.blobs.len()];
        for (at, chunk) in (0u32..).zip(&self.tree.chunks) {
            if let Some(list) = lists.get_mut(chunk.blob as usize) {
                list.push(at);
            }
        }
        for list in &mut lists {
            let place = |at: &u32| {
                self.tree
                    .chunks
                    .get(*at as usize)
                    .map(|chunk| (chunk.compressed_offset, chunk.uncompressed_offset))
            };
            list.sort_by_key(place);
        }
        lists
    }

    /// Copies the chunks at these positions into a new blob, each once, where several blobs have it. Returns the position of the blob.
    pub fn gather(
        &mut self,
        positions: &[u32],
        coding: Coding,
        features: BlobFeatures,
        work: &Work<'_>,
        moves: &mut Moves,
    ) -> Result<u32, RepackError> {
        let mut first: HashMap<(Digest, u32), u32> = HashMap::new();
        let (mut kept, mut chunks) = (Vec::new(), Vec::new());
        for at in positions {
            let Some(chunk) = self.tree.chunks.get(*at as usize) else { continue };
            let known = *first.entry((chunk.digest, chunk.uncompressed_size)).or_insert(*at);
            if known == *at {
                kept.push(*at);
                chunks.push(*chunk);
            } else {
                moves.merged.push((*at, known));
            }
        }
        let (blob, copies) = self.write_blob(&chunks, coding, features, work)?;
        moves.moved.extend(kept.into_iter().zip(copies));
        Ok(blob)
    }

    /// Copies `chunks`, one blob after the other and each in order, into a new blob, whose position is returned with the chunks as they lie there.
    fn write_blob(
        &mut self,
        chunks: &[Chunk],
        coding: Coding,
        features: BlobFeatures,
        work: &Work<'_>,
    ) -> Result<(u32, Vec<Chunk>), RepackError> {
        let at = u32::try_from(self.blobs.len()).unwrap_or(u32::MAX);
        let mut sources = chunks.iter().filter_map(|chunk| self.blobs.get(chunk.blob as usize));
        let options = CreateOptions {
            chunk_size: self.options.chunk_size,
            compressor: coding.compressor,
            digester: coding.digester,
            toc: self.version == Version::V6
                && sources.all(|blob| blob.features.contains(BlobFeatures::HAS_TOC)),
            version: self.version,
            ..CreateOptions::default()
        };
        let output = work.outputs.start(Place::Directory(work.dir.to_path_buf()))?;
        let path = output.path();
        let (stored, output) = self.copy(chunks, at, coding, output, work)?;
        let mut tail = Tail::new(output, &path, &options, false, &stored);
        let described = tail.put_chunk_table(&stored)?;
        let done = tail.finish()?;
        if let Some(blob) = described {
            let id = BlobId::new(&hex::encode(done.digest.0))?;
            let (toc_size, toc_digest) = done.toc;
            let features = blob.features | features.intersection(self.known_features());
            let blob = Blob { id, compressed_size: done.size, toc_size, toc_digest, features, ..blob };
            self.blobs.push(blob.clone());
            self.written.push(Written { output: done.output, blob });
        }
        Ok((at, stored.chunks))
    }

    /// What a blob may say of itself: in v5, the table of blobs has words for what else there is.
    fn known_features(&self) -> BlobFeatures {
        match self.version {
            Version::V5 => BlobFeatures::empty(),
            Version::V6 => BlobFeatures::all(),
        }
    }

    /// Copies the data of chunks.
    fn copy(
        &self,
        chunks: &[Chunk],
        blob_position: u32,
        coding: Coding,
        output: Output,
        work: &Work<'_>,
    ) -> Result<(Stored, Output), RepackError> {
        let path = output.path();
        let failed = |source| RepackError::Write { path: path.clone(), source };
        let mut output = BufWriter::with_capacity(256 << 10, output);
        let mut encoder = Encoder::new(coding.compressor, CreateOptions::default().level)?;
        let (mut reader, mut stored) = (ChunkReader::default(), Stored::default());
        for part in chunks.chunk_by(|a, b| a.blob == b.blob) {
            let blob = part.first().and_then(|chunk| self.blobs.get(chunk.blob as usize));
            let Some(blob) = blob else { continue };
            let open = data::open(work.image, blob, work.source)?;
            for run in data::runs(part) {
                let run = part.get(run).unwrap_or(&[]);
                let copies = reader.stored_run(blob, &open, &mut encoder, run)?;
                for (chunk, (bytes, is_compressed)) in run.iter().zip(copies) {
                    output.write_all(&bytes).map_err(failed)?;
                    stored.sha256.update(&bytes);
                    let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                    append(&mut stored, chunk, blob_position, (size, is_compressed));
                }
            }
        }
        Ok((stored, output.into_inner().map_err(|error| failed(error.into_error()))?))
    }

    /// Points files at chunks in new places.
    pub fn repoint(&mut self, moves: &Moves) {
        let Moves { moved, merged } = moves;
        for (at, chunk) in moved {
            if let Some(slot) = self.tree.chunks.get_mut(*at as usize) {
                *slot = *chunk;
            }
        }
        if merged.is_empty() {
            return;
        }
        let mut place: Vec<u32> = (0..).take(self.tree.chunks.len()).collect();
        for (at, instead) in merged {
            if let Some(slot) = place.get_mut(*at as usize) {
                *slot = *instead;
            }
        }
        // Those that nothing points at any more are left out.
        let mut kept = Vec::with_capacity(self.tree.chunks.len());
        let mut position = vec![u32::MAX; place.len()];
        for (at, chunk) in (0u32..).zip(&self.tree.chunks) {
            if place.get(at as usize) == Some(&at) {
                if let Some(slot) = position.get_mut(at as usize) {
                    *slot = u32::try_from(kept.len()).unwrap_or(u32::MAX);
                }
                kept.push(*chunk);
            }
        }
        for at in &mut self.tree.file_chunks {
            let instead = place.get(*at as usize).copied().unwrap_or(u32::MAX);
            *at = position.get(instead as usize).copied().unwrap_or(u32::MAX);
        }
        self.tree.chunks = kept;
    }

    /// Writes the image. Its blobs are in order of first use, those that nothing uses are left out; `last` is the position of one that is last.
    pub fn write(
        mut self,
        last: Option<u32>,
        place: Place,
        outputs: &Outputs,
    ) -> Result<Report, RepackError> {
        // All of it is wanted first, which v6 says by a feature of the blob.
        if let Some(blob) = last.and_then(|last| self.blobs.get(last as usize)) {
            self.v5.add_whole(blob);
        }
        let blobs = self.used(last);
        let limit = if self.version == Version::V5 { v5::MAX_BLOBS } else { MAX_BLOBS };
        if blobs.len() > limit {
            return Err(RepackError::TooManyBlobs { found: blobs.len(), limit });
        }
        if self.version == Version::V5 {
            let WriteOptions { chunk_size, digester, .. } = self.options;
            self.options.form = self.v5.form(&self.tree, &blobs, chunk_size, digester);
        }
        let bytes = write::bootstrap(&self.tree, &blobs, &self.options)?;
        self.commit(&bytes, &blobs, place, outputs)
    }

    /// Writes the image as these bytes, which are that of `blobs`, and gives all new blobs their names.
    pub fn commit(
        self,
        bytes: &[u8],
        blobs: &[Blob],
        place: Place,
        outputs: &Outputs,
    ) -> Result<Report, RepackError> {
        let mut bootstrap = outputs.start(place)?;
        let path = bootstrap.path();
        bootstrap.write_all(bytes).map_err(|source| OutputError { action: "write", path, source })?;
        let tree_digest = digest::of_tree(&self.tree, blobs, self.options.chunk_size, Scope::Full)?;
        let described: Vec<Blob> = self.written.iter().map(|written| written.blob.clone()).collect();
        // The bootstrap last: where naming fails in between, no bootstrap names blobs that are not there.
        let mut all: Vec<(Output, Option<String>)> = self
            .written
            .into_iter()
            .map(|written| (written.output, Some(written.blob.id.to_string())))
            .collect();
        all.push((bootstrap, None));
        let mut paths = Outputs::commit(all)?;
        let bootstrap_path = paths.pop().flatten().unwrap_or_default();
        let new_blobs = described.into_iter().zip(paths.into_iter().map(Option::unwrap_or_default));
        let new_blobs = new_blobs.map(|(blob, path)| NewBlob {
            id: blob.id,
            path,
            size: blob.compressed_size,
            chunks: blob.chunk_count,
        });
        Ok(Report {
            blobs: blobs.iter().map(|blob| blob.id.clone()).collect(),
            new_blobs: new_blobs.collect(),
            dropped: self.before.into_iter().filter(|id| blobs.iter().all(|blob| blob.id != *id)).collect(),
            bootstrap_path,
            compressor: self.options.compressor,
            version: self.version,
            tree_digest,
        })
    }

    /// Blobs that chunks lie in, in order of first use but for `last`; chunks are changed to match.
    fn used(&mut self, last: Option<u32>) -> Vec<Blob> {
        let mut order: Vec<u32> = Vec::new();
        let mut seen = vec![false; self.blobs.len()];
        for chunk in &self.tree.chunks {
            if let Some(seen) = seen.get_mut(chunk.blob as usize).filter(|seen| !**seen) {
                *seen = true;
                order.push(chunk.blob);
            }
        }
        if let Some(last) = last.filter(|last| order.contains(last)) {
            order.retain(|at| *at != last);
            order.push(last);
        }
        let mut new_position = vec![u32::MAX; self.blobs.len()];
        for (new, old) in (0u32..).zip(&order) {
            if let Some(slot) = new_position.get_mut(*old as usize) {
                *slot = new;
            }
        }
        for chunk in &mut self.tree.chunks {
            chunk.blob = new_position.get(chunk.blob as usize).copied().unwrap_or(u32::MAX);
        }
        order.iter().filter_map(|at| self.blobs.get(*at as usize).cloned()).collect()
    }
}

/// Puts down a chunk that was appended to a blob.
fn append(stored: &mut Stored, chunk: &Chunk, blob: u32, (size, is_compressed): (u32, bool)) {
    let mut flags = chunk.flags.difference(ChunkFlags::BATCH | ChunkFlags::COMPRESSED);
    flags.set(ChunkFlags::COMPRESSED, is_compressed);
    stored.chunks.push(Chunk {
        blob,
        index: u32::try_from(stored.chunks.len()).unwrap_or(u32::MAX),
        flags,
        compressed_offset: stored.compressed_size,
        compressed_size: size,
        uncompressed_offset: stored.uncompressed_size,
        ..*chunk
    });
    stored.compressed_size += u64::from(size);
    stored.uncompressed_size += u64::from(chunk.uncompressed_size).next_multiple_of(4096);
}
