//! `nydus-image create`: a layer or a directory becomes a blob and a bootstrap.
//!
//! The source is read once, in order: entries go to a [`TreeBuilder`], data to the pipeline. At the end the chunk table is put behind the data and the
//! tree is written, to a file of its own or into the blob. RAFS v5 and v6 differ in what stands behind the data and in how the tree is written, nowhere else.

pub(crate) mod blob;
mod cache_files;
pub(crate) mod collect;
mod directory;
mod external;
mod known;
mod layered;
mod pipeline;
mod reference;
mod stargz;
mod tar;
mod tarfs;
mod v5;

use crate::attributes::ExternalFiles;
use crate::digest;
use crate::merge::MergeError;
use crate::open::OpenError;
use crate::output::{Output, OutputError, Outputs, Place};
use crate::tree::{NodeId, TreeBuilder, TreeError};
use blob::{Done, Tail};
use cache_files::CacheFiles;
use chunk_store::{DictionaryError, StoreError};
use collect::Stored;
pub use external::ExternalImage;
use known::Known;
pub use oci_registry::layer::End;
use oci_registry::layer::LayerError;
use pipeline::{Coding, Feeder, Stopped};
pub use rafs_codec::Secret;
use rafs_codec::{CodecError, Key};
use rafs_format::blob_meta::HEADER_SIZE;
use rafs_format::tree::Tree;
use rafs_format::write::{self, Options as WriteOptions};
use rafs_format::{Blob, Digest, FileType, FormatError};
pub use rafs_format::{BlobId, Compressor, DigestAlgorithm, Version};
pub use reference::create_reference;
use sha2::{Digest as _, Sha256};
pub use stargz::{StargzOptions, create_stargz};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
pub use tarfs::create_tarfs;

/// Why an image could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum CreateError {
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error("cannot read {}", path.display())]
    Source { path: PathBuf, source: io::Error },
    #[error("{path:?} cannot be stored: {problem}")]
    Entry { path: String, problem: String },
    #[error("cannot write blob {}", path.display())]
    Blob { path: PathBuf, source: io::Error },
    #[error("cannot compress")]
    Codec { source: CodecError },
    #[error("too many {what}, at most {limit} are possible; a larger --chunk-size makes fewer chunks")]
    TooMany { what: &'static str, limit: u64 },
    #[error("the image cannot be written")]
    Format(#[from] FormatError),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Merge(#[from] MergeError),
    #[error("Inconsistent RAFS Filesystem: {what} of {} is {found}, that of the new image is {expected}", path.display())]
    Inconsistent { path: PathBuf, what: &'static str, found: String, expected: String },
    #[error("the chunks of {} cannot be used", path.display())]
    Known { path: PathBuf, source: DictionaryError },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("chunk {index} of blob {id} is not the same in all chunk dictionaries")]
    Contradiction { id: BlobId, index: u32 },
    #[error("a tarfs cannot be made of this: {problem}")]
    NotATarfs { problem: String },
    #[error("a bootstrap inside a blob cannot hold a key: whoever gets the data would get the key")]
    KeyBesideData,
    #[error("the table of contents of the layer cannot be used: {problem}")]
    NotAToc { problem: String },
    #[error("the build stopped early")]
    Stopped,
}

/// Which markers of a directory say that something of a lower layer is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Whiteouts {
    /// Files called `.wh.NAME`.
    #[default]
    Oci,
    /// Character devices 0/0.
    Overlayfs,
    /// None: every entry is itself.
    None,
}

/// What an image is made of.
pub enum Input<'a> {
    /// A tar stream, compressed or not.
    Tar(Box<dyn Read + Send + 'a>),
    /// A directory.
    Directory(PathBuf),
}

impl std::fmt::Debug for Input<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tar(_) => f.write_str("Tar"),
            Self::Directory(path) => f.debug_tuple("Directory").field(path).finish(),
        }
    }
}

/// How an image is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// Layout of the bootstrap. v5 has neither batches nor a table of contents nor encryption.
    pub version: Version,
    /// v5: decompressed chunks start at multiples of 4096, as they always do in v6.
    pub aligned_chunks: bool,
    /// Largest chunk, a power of two from 4 KiB to 16 MiB.
    pub chunk_size: u32,
    /// Files of less than half of this are stored several at a time, in batches below this size: a power of two from 4 KiB to the chunk size; 0 for none.
    pub batch_size: u32,
    /// Compression of chunks.
    pub compressor: Compressor,
    /// Level of zstd.
    pub level: i32,
    /// Digest of chunks.
    pub digester: DigestAlgorithm,
    /// Threads that hash and compress.
    pub threads: usize,
    /// Id of the blob instead of its SHA-256.
    pub blob_id: Option<BlobId>,
    /// Markers left out of a directory; with a parent, those of any source that say what of it is gone.
    pub whiteouts: Whiteouts,
    /// Absolute paths to fetch first, in order.
    pub prefetch: Vec<Vec<u8>>,
    /// Write the prefetch table; without it the paths only come first in the blob.
    pub prefetch_table: bool,
    /// Put chunk digests and a table of contents into the blob.
    pub toc: bool,
    /// Images whose chunks are used instead of being stored again; of the same chunk in several, that of the first.
    pub chunk_dicts: Vec<PathBuf>,
    /// A chunk store whose chunks are used, too, where no image above has them.
    pub chunk_store: Option<PathBuf>,
    /// An image that the source is laid over, and whose chunks are used, too. Whiteouts of the source mean something then.
    pub parent: Option<PathBuf>,
    /// Encrypt the blob; `None` for a plain one.
    pub encryption: Option<Encryption>,
    /// Files of a directory to leave out, since their data is elsewhere; an [`ExternalImage`] has them.
    pub external: Arc<ExternalFiles>,
    /// Of a gzip layer that stays as it is: save inflate states as the reference builder does, which makes a larger table.
    pub reference_states: bool,
}

impl Options {
    /// The key that blobs are encrypted with; `None` for plain ones.
    fn cipher_key(&self) -> Result<Option<Key>, CreateError> {
        let key = self.encryption.as_ref().map(|encryption| Key::new(&encryption.key, encryption.iv));
        key.transpose().map_err(|source| CreateError::Codec { source })
    }
}

/// How a blob is encrypted: AES-128-XTS, one key and one initial vector for all of it.
#[derive(Debug, Clone)]
pub struct Encryption {
    /// The key.
    pub key: Secret,
    /// Initial vector; another one for each blob.
    pub iv: [u8; 16],
    /// Put the key into the bootstrap, in clear, as 2.x wants it. The bootstrap must be a file of its own then.
    pub key_in_bootstrap: bool,
}

/// Where an image goes.
#[derive(Debug, Clone)]
pub struct Places {
    /// The bootstrap; `None` puts it into the blob.
    pub bootstrap: Option<Place>,
    /// The blob.
    pub blob: Place,
}

/// Bootstrap and blob.
impl From<(Place, Place)> for Places {
    fn from((bootstrap, blob): (Place, Place)) -> Self {
        Self { bootstrap: Some(bootstrap), blob }
    }
}

/// Threads at most, unless more are asked for. Reading takes a twelfth of the time that hashing and compressing take, so that
/// more have nothing to do; and each holds some 5 MB.
const MAX_THREADS: usize = 16;

impl Default for Options {
    fn default() -> Self {
        Self {
            version: Version::V6,
            aligned_chunks: false,
            chunk_size: 1 << 20,
            batch_size: 0,
            compressor: Compressor::Zstd,
            level: 3,
            digester: DigestAlgorithm::Blake3,
            threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MAX_THREADS),
            blob_id: None,
            whiteouts: Whiteouts::default(),
            prefetch: Vec::new(),
            prefetch_table: false,
            toc: false,
            chunk_dicts: Vec::new(),
            chunk_store: None,
            parent: None,
            encryption: None,
            external: Arc::default(),
            reference_states: false,
        }
    }
}

/// What was built.
#[derive(Debug, Clone)]
pub struct Report {
    /// Id of the blob: the SHA-256 of its bytes, unless another one was given. `None` for an image without data.
    pub blob: Option<BlobId>,
    /// The blob table: this blob, and those whose chunks are used.
    pub blobs: Vec<BlobId>,
    /// Path of the blob, where one was written.
    pub blob_path: Option<PathBuf>,
    /// Path of the bootstrap; empty where it is in the blob.
    pub bootstrap_path: PathBuf,
    /// Entries of the tree.
    pub entries: u64,
    /// Size of the blob.
    pub blob_size: u64,
    /// Size of the data as files have it, each chunk once, chunks rounded up to 4096 where they are aligned.
    pub uncompressed_size: u64,
    /// Distinct chunks in the blob.
    pub chunks: u64,
    /// Chunks that were there before, in this image or in others, and their bytes.
    pub duplicates: (u64, u64),
    /// Entries left out because they are whiteouts.
    pub whiteouts: u64,
    /// Extended attributes left out because Linux has no such namespace.
    pub skipped_xattrs: u64,
    /// How the tar ended; `None` for a directory.
    pub end: Option<End>,
    /// Full digest of the tree; `None` for a tarfs, whose chunks have no digests.
    pub tree_digest: Option<Digest>,
    /// Time for reading the source and writing the blob, and for writing the bootstrap.
    pub times: (Duration, Duration),
}

/// What reading a source leaves behind, besides its data.
#[derive(Debug, Default)]
struct Scanned {
    tree: TreeBuilder,
    whiteouts: u64,
    skipped_xattrs: u64,
    /// How a tar ended.
    end: Option<End>,
    /// Chunks given first, of files to prefetch; only a directory is read in their order.
    prefetched: u64,
}

/// Builds an image. `progress` is told plain bytes as they are read. Nothing is left behind on failure, except what went into a pipe.
pub fn create(
    input: Input<'_>,
    options: &Options,
    places: impl Into<Places>,
    outputs: &Outputs,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Report, CreateError> {
    build(input, options, places.into(), None, outputs, progress)
}

/// Where a blob goes of which nobody wants the bytes.
const NOWHERE: &str = "/dev/null";

/// Builds an image whose blob is written as the files of a cache that holds all of it, in the directory `cache`, and not as a blob. The
/// bootstrap is that of the blob, which `options` should leave uncompressed.
pub fn create_cache(
    input: Input<'_>,
    options: &Options,
    bootstrap: Place,
    cache: &Path,
    outputs: &Outputs,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Report, CreateError> {
    let places = Places { bootstrap: Some(bootstrap), blob: Place::File(NOWHERE.into()) };
    let cache = CacheFiles::start(cache, outputs)?;
    let report = build(input, options, places, Some(cache), outputs, progress)?;
    Ok(Report { blob_path: None, ..report })
}

fn build(
    input: Input<'_>,
    options: &Options,
    places: Places,
    cache: Option<CacheFiles>,
    outputs: &Outputs,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Report, CreateError> {
    let started = Instant::now();
    v5::check(options)?;
    if places.bootstrap.is_none() && options.encryption.as_ref().is_some_and(|with| with.key_in_bootstrap) {
        return Err(CreateError::KeyBesideData);
    }
    let known = Known::load(options)?;
    let from_tar = matches!(input, Input::Tar(_));
    let bootstrap = places.bootstrap.map(|place| outputs.start(place)).transpose()?;
    let blob = outputs.start(places.blob)?;
    let blob_path = blob.path();
    let (read, mut stored, blob) = store(input, options, &known, (blob, cache), progress)?;
    known::tell_crowded(&stored);
    let mut tail = Tail::new(blob, &blob_path, options, bootstrap.is_none(), &stored);
    let described = tail.put_chunk_table(&stored)?;
    let data_time = started.elapsed();
    let write_started = Instant::now();
    let source = v5::Source::new(&read, &stored, options);
    let Scanned { tree, whiteouts, skipped_xattrs, end, .. } = read;
    let own_chunks = stored.chunks.len();
    let table = known::join(&mut stored, known.dictionary.as_ref())?;
    let mut sealed = Sealed::new(tree, &mut stored, options);
    sealed.options.form = source.form(&sealed.tree, &table, None, options);
    let (sealed, table) = match &known.parent {
        Some(parent) => {
            let (mut sealed, table) =
                sealed.on_top_of(parent, &table, described.as_ref(), options, from_tar)?;
            sealed.options.form = source.form(&sealed.tree, &table, Some(parent), options);
            (sealed, table)
        }
        None => (sealed, table),
    };
    let blobs = table.with_own(described.as_ref());
    let cached = stored.cache.take().map(|cache| (cache, tail.table.take()));
    let ((mut outputs, id, blob_size), tree_digest) = std::thread::scope(|scope| {
        // Beside writing, which has one thread: a twentieth of the time of a build of small files otherwise.
        let hashing = || digest::of_tree(&sealed.tree, &blobs, options.chunk_size, digest::Scope::Full);
        let hashing = scope.spawn(hashing);
        let written = match bootstrap {
            None => {
                // Also not that of a blob of a dictionary.
                if blobs.iter().any(Key::is_in) {
                    return Err(CreateError::KeyBesideData);
                }
                let inlined = sealed.bootstrap(&blobs)?;
                tail.put_bootstrap(&inlined)?;
                let done = tail.finish()?;
                let id = hex::encode(done.digest.0);
                (vec![(done.output, Some(id.clone()))], described.map(|_| id), done.size)
            }
            Some(mut bootstrap) => {
                let done = tail.finish()?;
                let own = described.map(|blob| described_whole(blob, &done, options)).transpose()?;
                let bytes = sealed.bootstrap(&table.with_own(own.as_ref()))?;
                let path = bootstrap.path();
                let failed = |source| OutputError { action: "write", path, source };
                bootstrap.write_all(&bytes).map_err(failed)?;
                let id = own.map(|blob| blob.id.to_string());
                let name = hex::encode(Sha256::digest(&bytes));
                (vec![(done.output, id.clone()), (bootstrap, Some(name))], id, done.size)
            }
        };
        let digest = hashing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok::<_, CreateError>((written, digest))
    })?;
    if let Some((cache, table)) = cached {
        let (table, header) = table.unwrap_or((Vec::new(), [0; HEADER_SIZE]));
        outputs.extend(cache.finish(&table, &header, own_chunks, id.as_deref())?);
    }
    let mut paths = Outputs::commit(outputs)?.into_iter();
    let blob_path = paths.next().flatten();
    let bootstrap_path = paths.next().flatten();
    let blob = id.as_deref().map(BlobId::new).transpose()?;
    Ok(Report {
        blobs: table.ids(blob.as_ref()),
        blob_path: blob_path.filter(|_| id.is_some() || bootstrap_path.is_none()),
        blob,
        bootstrap_path: bootstrap_path.unwrap_or_default(),
        entries: sealed.tree.entries.len() as u64,
        blob_size,
        uncompressed_size: stored.uncompressed_size,
        chunks: own_chunks as u64,
        duplicates: (stored.duplicates, stored.duplicate_bytes),
        whiteouts,
        skipped_xattrs,
        end,
        tree_digest: Some(tree_digest),
        times: (data_time, write_started.elapsed()),
    })
}

/// Reads the source; its tree, and its chunks on the blob.
fn store(
    input: Input<'_>,
    options: &Options,
    known: &Known,
    (blob, cache): (Output, Option<CacheFiles>),
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(Scanned, Stored, Output), CreateError> {
    let blob_path = blob.path();
    let key = options.cipher_key()?;
    let coding = Coding {
        chunk_size: options.chunk_size,
        batch_size: options.batch_size,
        alignment: v5::alignment(options),
        compressor: options.compressor,
        level: options.level,
        digester: options.digester,
        key: key.as_ref(),
        threads: options.threads.max(1),
        known: Some(known),
    };
    let claims = pipeline::claims();
    let queue = pipeline::queue();
    let (read, stored, blob) = std::thread::scope(|scope| {
        let blob = io::BufWriter::with_capacity(256 << 10, blob);
        let mut feeder = pipeline::start(scope, &claims, &queue, coding, blob, blob_path.clone(), cache)?;
        let read = match input {
            Input::Tar(stream) => tar::read(stream, &mut feeder, options.chunk_size, progress),
            Input::Directory(path) => directory::read(&path, &mut feeder, options, progress),
        };
        // Where the collector stopped, it knows better why.
        let finished = feeder.finish();
        match (read, finished) {
            (Err(CreateError::Stopped), Err(error)) | (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(read), Ok((stored, blob))) => Ok((read, stored, blob)),
        }
    })?;
    let failed = |error: io::IntoInnerError<_>| CreateError::Blob {
        path: blob_path.clone(),
        source: error.into_error(),
    };
    Ok((read, stored, blob.into_inner().map_err(failed)?))
}

/// `blob` with what is known once all of it is written.
fn described_whole(blob: Blob, done: &Done, options: &Options) -> Result<Blob, CreateError> {
    let id = match &options.blob_id {
        Some(id) => id.clone(),
        None => BlobId::new(&hex::encode(done.digest.0))?,
    };
    let (toc_size, toc_digest) = done.toc;
    Ok(Blob { id, compressed_size: done.size, toc_size, toc_digest, ..blob })
}

/// A tree to which nothing is added, with what else goes into its bootstrap.
struct Sealed {
    tree: Tree,
    options: WriteOptions,
}

impl Sealed {
    /// Takes the positions of chunks out of `stored`.
    fn new(tree: TreeBuilder, stored: &mut Stored, options: &Options) -> Self {
        let prefetch = prefetch_nodes(&tree, options);
        let positions = std::mem::take(&mut stored.positions);
        let (tree, prefetch) = tree.finish(&stored.chunks, positions, options.chunk_size, &prefetch);
        let options = WriteOptions {
            chunk_size: options.chunk_size,
            compressor: options.compressor,
            digester: options.digester,
            explicit_ids: true,
            prefetch: prefetch.into_iter().flatten().collect(),
            form: write::Form::V6,
        };
        Self { tree, options }
    }

    fn bootstrap(&self, blobs: &[Blob]) -> Result<Vec<u8>, CreateError> {
        Ok(write::bootstrap(&self.tree, blobs, &self.options)?)
    }
}

/// Names of an absolute path.
pub(crate) fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

/// Nodes that the prefetch table lists.
fn prefetch_nodes(tree: &TreeBuilder, options: &Options) -> Vec<NodeId> {
    if !options.prefetch_table {
        return Vec::new();
    }
    options.prefetch.iter().filter_map(|path| tree.find(names(path))).collect()
}

/// Position of the next chunk, for the file whose it is.
fn first_chunk<W>(feeder: &Feeder<'_, W>) -> Result<u32, CreateError> {
    u32::try_from(feeder.given())
        .map_err(|_over| CreateError::TooMany { what: "chunks", limit: u32::MAX.into() })
}

/// What a feeder that stopped means here.
fn fed(done: Result<(), Stopped>) -> Result<(), CreateError> {
    done.map_err(|Stopped| CreateError::Stopped)
}

/// Encodes the extended attributes of an entry. Returns the area and how many were left out because Linux has no such namespace.
fn encode_xattrs(path: &[u8], xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<(Vec<u8>, u64), CreateError> {
    let is_known = |name: &[u8]| {
        let spaces: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
        spaces.iter().any(|space| name.starts_with(space))
            || name == b"system.posix_acl_access"
            || name == b"system.posix_acl_default"
    };
    let known: Vec<(&[u8], &[u8])> =
        xattrs.iter().filter(|(name, _)| is_known(name)).map(|(n, v)| (n.as_slice(), v.as_slice())).collect();
    let area = rafs_format::xattr::encode(&known).map_err(|source| bad_entry(path, source.to_string()))?;
    Ok((area, (xattrs.len() - known.len()) as u64))
}

/// An entry that cannot be stored.
fn bad_entry(path: &[u8], problem: impl Into<String>) -> CreateError {
    CreateError::Entry { path: String::from_utf8_lossy(path).into_owned(), problem: problem.into() }
}

/// Full mode of a file type with permission bits.
fn full_mode(file_type: FileType, permissions: u32) -> u16 {
    file_type.mode_bits() | u16::try_from(permissions & 0o7777).unwrap_or(0)
}
