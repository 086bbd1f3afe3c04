//! `nydus-image chunkdict generate`: the chunks of many images that a build should know, as one bootstrap.
//!
//! Reads bootstraps, and what a [`Store`] remembers of earlier runs; blobs are not looked at. Which chunks are worth it, [`select`] says; with them come all
//! known chunks of their blobs. The result is an image of one file, whose chunks they are, for `create --chunk-dict` and `merge --chunk-dict`.
//! Images are all of v6 or all of v5, and so is the dictionary; in v5 it has inode digests besides.

pub mod select;

use crate::merge::{MergeError, named_blobs};
use crate::open::{Image, OpenError};
use crate::output::{OutputError, Outputs, Place};
use chunk_store::{Builder, Dictionary, DictionaryError};
pub use chunk_store::{Counts, Round, Store, StoreError};
use rafs_format::tree::{Entry, NewInode, Span, Tree};
use rafs_format::write::{self, Options as WriteOptions};
use rafs_format::{
    Blob, BlobFeatures, Chunk, DigestAlgorithm, FormatError, SuperFlags, Version as RafsVersion,
};
pub use rafs_format::{BlobId, Compressor};
use select::Version;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Why no dictionary could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum ChunkdictError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Merge(#[from] MergeError),
    #[error("Invalid image name: the directory of {} is {found:?}, IMAGE:VERSION is needed", path.display())]
    Name { path: PathBuf, found: String },
    #[error("{}: {what} is {found}, but {expected} in {}: all images must be built alike", path.display(), other.display())]
    Differs { path: PathBuf, what: &'static str, found: String, other: PathBuf, expected: String },
    #[error("{} is a tarfs: its chunks have no digests to be found by", path.display())]
    Tarfs { path: PathBuf },
    #[error("the chunks of {} cannot be used", path.display())]
    Chunks { path: PathBuf, source: DictionaryError },
    #[error("{} cannot be put into the chunk store", path.display())]
    Add { path: PathBuf, source: StoreError },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the dictionary cannot be written")]
    Format(#[from] FormatError),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error("nothing to make a dictionary of: no bootstrap is given")]
    Nothing,
}

/// What to make a dictionary of.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Bootstraps, each in a directory called `IMAGE:VERSION`.
    pub sources: Vec<PathBuf>,
    /// A store that remembers images from run to run: all of them are learnt from.
    pub database: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Report {
    /// The blob table.
    pub blobs: Vec<BlobId>,
    /// Path of the bootstrap.
    pub bootstrap_path: PathBuf,
    /// Chunks in the dictionary, and chunks known.
    pub chunks: (u64, u64),
    /// Images that are like no others.
    pub alone: Vec<String>,
    /// Blobs with too few bytes in them.
    pub small_blobs: Vec<BlobId>,
    /// Blobs that found no place.
    pub left_out: Vec<BlobId>,
    /// RAFS version of the images, and so of the dictionary.
    pub version: RafsVersion,
    /// Compression of the images.
    pub compressor: Compressor,
    /// Time for reading, for choosing, and for writing.
    pub times: (Duration, Duration, Duration),
}

/// Blobs with fewer bytes of chunks are not worth their place.
const SMALL: u64 = 4096;
/// Blobs in one image: a file's reference to a chunk has 8 bits for its blob.
const MAX_BLOBS: usize = 254;

/// Makes a dictionary at `place`. Nothing is left behind on failure, but what the store has learnt.
pub fn generate(options: &Options, place: &Path, outputs: &Outputs) -> Result<Report, ChunkdictError> {
    let started = Instant::now();
    let Read { common, dictionary, versions } = read(options)?;
    let read_time = started.elapsed();
    let sizes: Vec<u32> = dictionary.chunks().map(|chunk| chunk.uncompressed_size).collect();
    let selection = select::select(number(versions, &dictionary), &sizes);
    let chosen = Chosen::new(&dictionary, &selection.chunks);
    let choose_time = started.elapsed() - read_time;
    let tree = chosen.tree(&common);
    let bytes = write::bootstrap(&tree, &chosen.blobs, &common.write_options(&tree))?;
    let mut output = outputs.start(Place::File(place.to_path_buf()))?;
    let failed = |source| OutputError { action: "write", path: place.to_path_buf(), source };
    std::io::Write::write_all(&mut output, &bytes).map_err(failed)?;
    Outputs::commit(vec![(output, None)])?;
    Ok(Report {
        blobs: chosen.blobs.iter().map(|blob| blob.id.clone()).collect(),
        bootstrap_path: place.to_path_buf(),
        chunks: (chosen.chunks.len() as u64, dictionary.len() as u64),
        alone: selection.alone,
        small_blobs: chosen.small,
        left_out: chosen.left_out,
        version: common.version,
        compressor: common.compressor,
        times: (read_time, choose_time, started.elapsed() - read_time - choose_time),
    })
}

/// How long others are waited for that have the store: as long as they read it or add to it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Opens the store at `path`, or makes one, when its other users are through.
pub fn open_store(path: &Path) -> Result<Store, StoreError> {
    Store::open_patiently(path, PATIENCE)
}

/// Puts an image into a store under a name, in the place of the one that had it. `stored`: its blobs were just stored, whatever was collected before.
pub fn add_to_store(store: &Store, name: &str, path: &Path, stored: bool) -> Result<(), ChunkdictError> {
    let image = Image::open(path)?;
    let blobs = named_blobs(&image)?;
    let stored = blobs.iter().filter(|_| stored).map(|blob| blob.id.clone()).collect();
    let add = |source| ChunkdictError::Add { path: path.to_path_buf(), source };
    store.add(name, image.bootstrap(), &blobs, &stored).map_err(add)
}

/// What all images must have in common, and the image that said so first.
#[derive(Debug)]
struct Common {
    path: PathBuf,
    version: RafsVersion,
    chunk_size: u32,
    compressor: Compressor,
    digester: DigestAlgorithm,
    explicit_ids: bool,
}

impl Common {
    fn of(image: &Image) -> Result<Self, ChunkdictError> {
        let superblock = image.bootstrap().superblock();
        if image.bootstrap().is_tarfs() {
            return Err(ChunkdictError::Tarfs { path: image.path().to_path_buf() });
        }
        Ok(Self {
            path: image.path().to_path_buf(),
            version: superblock.version,
            chunk_size: superblock.chunk_size,
            compressor: superblock.compressor,
            digester: superblock.digester,
            explicit_ids: superblock.flags.contains(SuperFlags::EXPLICIT_IDS),
        })
    }

    /// Refuses an image whose chunks cannot be in one dictionary with those before.
    fn check(&self, other: &Self) -> Result<(), ChunkdictError> {
        let owners = |kept: bool| if kept { "kept" } else { "left out" }.to_owned();
        let compressor = |of: &Self| match of.version {
            // One for all blobs of an image.
            RafsVersion::V5 => of.compressor.name().to_owned(),
            RafsVersion::V6 => String::new(),
        };
        let facts = [
            ("the version", other.version.name().to_owned(), self.version.name().to_owned()),
            ("the compression", compressor(other), compressor(self)),
            ("the chunk size", format!("{:#x}", other.chunk_size), format!("{:#x}", self.chunk_size)),
            ("the digester", other.digester.name().to_owned(), self.digester.name().to_owned()),
            ("what becomes of owners", owners(other.explicit_ids), owners(self.explicit_ids)),
        ];
        match facts.into_iter().find(|(_, found, expected)| found != expected) {
            None => Ok(()),
            Some((what, found, expected)) => Err(ChunkdictError::Differs {
                path: other.path.clone(),
                what,
                found,
                other: self.path.clone(),
                expected,
            }),
        }
    }

    /// Does a blob of another image belong to this version? Those of v6 have a chunk table.
    fn has_version_of(&self, blob: &Blob) -> bool {
        (self.version == RafsVersion::V6) == (blob.meta.uncompressed_size > 0)
    }

    fn write_options(&self, tree: &Tree) -> WriteOptions {
        let form = match self.version {
            RafsVersion::V5 => {
                let digests = rafs_merkle::inode::digests(tree, self.chunk_size, self.digester);
                write::Form::V5(write::V5 { digests, readahead: Vec::new(), from_layer: false })
            }
            RafsVersion::V6 => write::Form::V6,
        };
        WriteOptions {
            chunk_size: self.chunk_size,
            compressor: self.compressor,
            digester: self.digester,
            explicit_ids: self.explicit_ids,
            prefetch: Vec::new(),
            form,
        }
    }
}

/// Versions by image and age, the oldest first; each with its chunks.
type Versions = BTreeMap<(String, Vec<u64>, String), Dictionary>;

/// All that is known.
struct Read {
    common: Common,
    dictionary: Dictionary,
    versions: Versions,
}

/// Reads all sources, and from the store what else it remembers.
fn read(options: &Options) -> Result<Read, ChunkdictError> {
    let store = options.database.as_deref().map(open_store).transpose()?;
    let mut common: Option<Common> = None;
    let mut builders: BTreeMap<(String, Vec<u64>, String), Builder> = BTreeMap::new();
    for path in &options.sources {
        let (name, version) = name_of(path)?;
        let image = Image::open(path)?;
        let found = Common::of(&image)?;
        common.get_or_insert(Common::of(&image)?).check(&found)?;
        let blobs = named_blobs(&image)?;
        if let Some(store) = &store {
            // They are there: this is about images that exist.
            let stored: HashSet<BlobId> = blobs.iter().map(|blob| blob.id.clone()).collect();
            let add = |source| ChunkdictError::Add { path: path.clone(), source };
            store.add(&format!("{name}:{version}"), image.bootstrap(), &blobs, &stored).map_err(add)?;
        }
        let add = |source| ChunkdictError::Chunks { path: path.clone(), source };
        let builder = builders.entry((name, select::digits(&version), version));
        let builder = builder.or_insert_with(|| Builder::new(found.digester));
        builder.add(image.bootstrap(), &blobs).map_err(add)?;
    }
    let common = common.ok_or(ChunkdictError::Nothing)?;
    if let Some(store) = &store {
        remember(store, &common, &mut builders)?;
    }
    let versions: Versions = builders.into_iter().map(|(key, builder)| (key, builder.finish())).collect();
    let mut all = Builder::new(common.digester);
    for ((image, _, version), chunks) in &versions {
        let add = |source| ChunkdictError::Chunks { path: format!("{image}:{version}").into(), source };
        all.add_known(chunks.blobs(), chunks.chunks()).map_err(add)?;
    }
    Ok(Read { common, dictionary: all.finish(), versions })
}

/// Adds the images of `store` that fit to those of this run.
fn remember(
    store: &Store,
    common: &Common,
    builders: &mut BTreeMap<(String, Vec<u64>, String), Builder>,
) -> Result<(), ChunkdictError> {
    for full in store.images()? {
        let Some((image, version)) = full.rsplit_once(':') else { continue };
        let key = (image.to_owned(), select::digits(version), version.to_owned());
        let (blobs, chunks) = store.image(&full)?;
        let alike = |blob: &Blob| {
            let coding = (blob.chunk_size, blob.digester) == (common.chunk_size, common.digester);
            let compressed = common.version == RafsVersion::V6 || blob.compressor == common.compressor;
            coding && compressed && common.has_version_of(blob)
        };
        let fits = blobs.iter().all(alike);
        if !fits || builders.contains_key(&key) {
            continue;
        }
        let add = |source| ChunkdictError::Chunks { path: PathBuf::from(&full), source };
        let mut builder = Builder::new(common.digester);
        builder.add_known(&blobs, chunks).map_err(add)?;
        builders.insert(key, builder);
    }
    Ok(())
}

/// The versions with the positions of their chunks in `dictionary`.
fn number(versions: Versions, dictionary: &Dictionary) -> Vec<Version> {
    let numbered = versions.into_iter().map(|((image, _, version), chunks)| {
        let position = |chunk: Chunk| dictionary.position(&chunk.digest, chunk.uncompressed_size);
        // Both are in order of digests.
        Version { image, version, chunks: chunks.chunks().filter_map(position).collect() }
    });
    numbered.collect()
}

/// Image and version that the directory of a bootstrap names.
fn name_of(path: &Path) -> Result<(String, String), ChunkdictError> {
    let whole = path.canonicalize().unwrap_or_else(|_absent| path.to_path_buf());
    let dir = whole.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    let mut parts = dir.rsplit(':');
    match (parts.next(), parts.next()) {
        (Some(version), Some(image)) if !version.is_empty() && !image.is_empty() => {
            Ok((image.to_owned(), version.to_owned()))
        }
        _ => Err(ChunkdictError::Name { path: path.to_path_buf(), found: dir }),
    }
}

/// What goes into the dictionary: blobs, and their chunks with their places in this table.
#[derive(Debug, Default)]
struct Chosen {
    blobs: Vec<Blob>,
    chunks: Vec<Chunk>,
    small: Vec<BlobId>,
    left_out: Vec<BlobId>,
}

impl Chosen {
    /// All chunks of the blobs in which `chunks` are.
    fn new(dictionary: &Dictionary, chunks: &[u32]) -> Self {
        // For each blob the bytes that were chosen in it, and all that are known.
        let mut blobs: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        for chunk in chunks.iter().filter_map(|&position| dictionary.chunk(position)) {
            blobs.entry(chunk.blob).or_insert((0, 0)).0 += u64::from(chunk.uncompressed_size);
        }
        for chunk in dictionary.chunks() {
            if let Some((_, all)) = blobs.get_mut(&chunk.blob) {
                *all += u64::from(chunk.uncompressed_size);
            }
        }
        let mut chosen = Self::default();
        let id = |blob: u32| dictionary.blobs().get(blob as usize).map(|blob| blob.id.clone());
        let (small, large): (Vec<_>, Vec<_>) = blobs.into_iter().partition(|(_, (_, all))| *all < SMALL);
        chosen.small = small.into_iter().filter_map(|(blob, _)| id(blob)).collect();
        // Those of which most was chosen, if there are too many.
        let mut large: Vec<(u64, u32)> = large.into_iter().map(|(blob, (bytes, _))| (bytes, blob)).collect();
        large.sort_by_key(|&(bytes, blob)| (std::cmp::Reverse(bytes), blob));
        let left_out = large.split_off(large.len().min(MAX_BLOBS));
        chosen.left_out = left_out.into_iter().filter_map(|(_, blob)| id(blob)).collect();
        large.sort_by_key(|&(_, blob)| blob);
        let places: BTreeMap<u32, u32> = large.iter().zip(0..).map(|(&(_, blob), at)| (blob, at)).collect();
        for blob in places.keys().filter_map(|&blob| dictionary.blobs().get(blob as usize)) {
            let features = blob.features | BlobFeatures::CHUNKDICT_GENERATED;
            chosen.blobs.push(Blob { features, ..blob.clone() });
        }
        let placed = |chunk: Chunk| places.get(&chunk.blob).map(|&blob| Chunk { blob, ..chunk });
        chosen.chunks = dictionary.chunks().filter_map(placed).collect();
        chosen.chunks.sort_by_key(|chunk| (chunk.blob, chunk.index));
        chosen
    }

    /// A root with one file. The file has a place for a whole chunk for each of them, since they have all sizes.
    fn tree(&self, common: &Common) -> Tree {
        let name = b"chunkdict";
        // There are fewer chunks than 2^32.
        let count = u32::try_from(self.chunks.len()).unwrap_or(u32::MAX);
        let name_span = Span { start: 0, len: 9 };
        let root = Entry { name: Span::default(), inode: 0, children: (1, 2) };
        let file = Entry { name: name_span, inode: 1, children: (0, 0) };
        let size = u64::from(count) * u64::from(common.chunk_size);
        Tree {
            entries: vec![root, file],
            inodes: vec![
                NewInode { mode: 0o040_755, ..NewInode::default() },
                NewInode { mode: 0o100_444, size, ..NewInode::default() },
            ],
            chunks: self.chunks.clone(),
            file_chunks: (0..count).collect(),
            bytes: name.to_vec(),
            is_dictionary: true,
        }
    }
}
