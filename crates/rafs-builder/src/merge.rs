//! `nydus-image merge`: the bootstraps of layers, laid over each other, become the bootstrap of an image.
//!
//! Layers are read one after the other, the lowest first; only the tree that they make is kept, so a layer may also be the file that is
//! written. Blobs are never read, but one that stands for its layer under a name that says nothing is hashed. All layers are of one version, and so is the image.

mod blobs;
mod layer;
pub(crate) mod v5;

use crate::check::full_path;
use crate::chunkdict::open_store;
use crate::create::names;
use crate::digest::{self, Scope};
use crate::open::{Image, OpenError};
use crate::output::{OutputError, Outputs, Place};
use crate::tree::{NodeId, TreeBuilder, TreeError};
use blobs::Table;
pub(crate) use blobs::named_blobs;
pub use layer::Whiteouts;
use rafs_format::tree::Tree;
use rafs_format::write::{self, Options as WriteOptions};
use rafs_format::{Blob, Chunk, DigestAlgorithm, FormatError, Nid, SuperFlags};
pub use rafs_format::{BlobId, Compressor, Digest, Version};
use sha2::{Digest as _, Sha256};
use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Blobs in one image of v6: a file's reference to a chunk has 8 bits for its blob.
pub(crate) const MAX_BLOBS: usize = 254;

/// Why layers could not be merged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum MergeError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("bootstrap {} is not valid", path.display())]
    Layer { path: PathBuf, source: FormatError },
    #[error("{} is a tarfs: such layers are merged by themselves, without a parent image and a chunk dictionary", path.display())]
    Tarfs { path: PathBuf },
    #[error("{} has external blobs: such images cannot be merged, since nothing tells their chunks apart", path.display())]
    External { path: PathBuf },
    #[error("{}: {what} is {found}, but {expected} in {}: all layers must be built alike", path.display(), other.display())]
    Differs { path: PathBuf, what: &'static str, found: String, other: PathBuf, expected: String },
    #[error("{} has {count} data blobs of its own, but a layer has one at most: a merged image can only be the --parent-bootstrap", path.display())]
    SeveralBlobs { path: PathBuf, count: usize },
    #[error("{}: the blob of this bootstrap is known by the file's name only, which is no SHA-256: name the file so, or give --original-blob-ids", path.display())]
    NoBlobId { path: PathBuf },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("blob {id} is not the same in {} as in {}", path.display(), other.display())]
    Contradiction { id: BlobId, path: PathBuf, other: PathBuf },
    #[error(
        "the merged image has {found} blobs, {limit} are possible: bring some layers together with `nydus-image compact` and merge what it makes"
    )]
    TooManyBlobs { found: usize, limit: usize },
    #[error("{}: {what} cannot be merged", path.display())]
    Tree { path: PathBuf, what: String, source: TreeError },
    #[error(transparent)]
    Store(#[from] chunk_store::StoreError),
    #[error("nothing to merge: no layer is given")]
    Nothing,
    #[error("too many {what}, at most {limit} are possible")]
    TooMany { what: &'static str, limit: u64 },
    #[error("the image cannot be written")]
    Format(#[from] FormatError),
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl MergeError {
    /// Can these layers never be merged as they are? Converters build them anew then.
    pub fn is_inconsistent(&self) -> bool {
        matches!(self, Self::Differs { .. } | Self::TooManyBlobs { .. })
    }
}

/// One layer: its bootstrap, and what its caller knows of its blob.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The bootstrap, or the blob that holds it.
    pub path: PathBuf,
    /// SHA-256 of the blob that the converter wrote: the data blob, or the metadata blob of a layer that stays as it was.
    pub blob_digest: Option<Digest>,
    /// Size of that blob.
    pub blob_size: Option<u64>,
    /// Id of the data blob.
    pub original_blob_id: Option<BlobId>,
    /// SHA-256 of the table of contents.
    pub toc_digest: Option<Digest>,
    /// Size of the table of contents.
    pub toc_size: Option<u32>,
}

impl Source {
    /// A layer of whose blob nothing is known but what its bootstrap says.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }
}

/// What is merged, and how.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// An image, merged or not, below all layers.
    pub parent: Option<PathBuf>,
    /// Layers, the lowest first.
    pub sources: Vec<Source>,
    /// Images with whose chunks the layers were built: their blobs may be in each of them.
    pub chunk_dicts: Vec<PathBuf>,
    /// A chunk store with whose chunks they were built.
    pub chunk_store: Option<PathBuf>,
    /// Markers that say that something of a lower layer is gone.
    pub whiteouts: Whiteouts,
    /// Absolute paths for the prefetch table, in order.
    pub prefetch: Vec<Vec<u8>>,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Report {
    /// The blob table.
    pub blobs: Vec<BlobId>,
    /// Path of the bootstrap.
    pub bootstrap_path: PathBuf,
    /// Entries of the tree.
    pub entries: u64,
    /// RAFS version of all layers, and so of the image.
    pub version: Version,
    /// Compression of the topmost layer; in v5 that of all.
    pub compressor: Compressor,
    /// Full digest of the tree; `None` for a tarfs, whose chunks have no digests.
    pub tree_digest: Option<Digest>,
    /// Time for reading the layers, and for writing the image.
    pub times: (Duration, Duration),
}

/// Merges layers. Nothing is left behind on failure, and what was at `place` before stays.
pub fn merge(options: &Options, place: Place, outputs: &Outputs) -> Result<Report, MergeError> {
    let started = Instant::now();
    let mut dict = HashSet::new();
    for path in &options.chunk_dicts {
        dict.extend(named_blobs(&Image::open(path)?)?.into_iter().map(|blob| blob.id));
    }
    if let Some(path) = &options.chunk_store {
        let store = open_store(path)?;
        dict.extend(store.blobs()?.into_iter().map(|blob| blob.id));
    }
    let mut merged = Merged::new(options.whiteouts);
    merged.is_layered =
        options.parent.is_some() || !options.chunk_dicts.is_empty() || options.chunk_store.is_some();
    if let Some(path) = &options.parent {
        merged.add(&Source::at(path), None)?;
    }
    for source in &options.sources {
        merged.add(source, Some(&dict))?;
    }
    let read_time = started.elapsed();
    let (bytes, mut report) = merged.write(&options.prefetch)?;
    let in_directory = matches!(place, Place::Directory(_));
    let mut bootstrap = outputs.start(place)?;
    let path = bootstrap.path();
    bootstrap.write_all(&bytes).map_err(|source| OutputError { action: "write", path, source })?;
    // Only in a directory it is named by its digest.
    let name = in_directory.then(|| hex::encode(Sha256::digest(&bytes)));
    let paths = Outputs::commit(vec![(bootstrap, name)])?;
    report.bootstrap_path = paths.into_iter().flatten().next().unwrap_or_default();
    report.times = (read_time, started.elapsed() - read_time);
    Ok(report)
}

/// A tree that was laid over an image.
#[derive(Debug)]
pub(crate) struct OnTop {
    pub tree: Tree,
    /// All blobs of the image, and behind them those of what is above it.
    pub blobs: Vec<Blob>,
    /// Where the blobs of what is above are among these.
    pub places: Vec<u32>,
    /// Entries for the prefetch table.
    pub prefetch: Vec<u32>,
}

/// Lays `upper`, which nobody wrote yet, over `parent`. `implied`: its directories may only be there because something is in them.
pub(crate) fn on_top(
    parent: &Image,
    upper: &Image,
    whiteouts: Whiteouts,
    implied: bool,
    prefetch: &[Vec<u8>],
) -> Result<OnTop, MergeError> {
    let mut merged = Merged::new(Whiteouts::None);
    let places = merged.blobs.add_image(parent)?;
    layer::lay(&mut merged, parent, &places)?;
    (merged.whiteouts, merged.implied) = (whiteouts, implied);
    let places = upper.blobs().iter().map(|blob| merged.blobs.add(blob.clone(), upper.path()));
    let places = places.collect::<Result<Vec<_>, _>>()?;
    layer::lay(&mut merged, upper, &places)?;
    let wanted: Vec<NodeId> = prefetch.iter().filter_map(|path| merged.tree.find(names(path))).collect();
    let chunk_size = upper.bootstrap().superblock().chunk_size;
    let (tree, prefetch) = merged.tree.finish(&merged.chunks, merged.file_chunks, chunk_size, &wanted);
    Ok(OnTop { tree, blobs: merged.blobs.all(), places, prefetch: prefetch.into_iter().flatten().collect() })
}

/// The tree of an image as the writer takes it, all of its blobs, and the entries of its prefetch table. Errors: what merging it would find.
pub(crate) fn load(image: &Image) -> Result<(Tree, Vec<Blob>, Vec<u32>), MergeError> {
    let mut merged = Merged::new(Whiteouts::None);
    merged.check_alike(image)?;
    let places = merged.blobs.add_image(image)?;
    layer::lay(&mut merged, image, &places)?;
    let paths = prefetched(image)?;
    let wanted: Vec<NodeId> = paths.iter().filter_map(|path| merged.tree.find(names(path))).collect();
    let chunk_size = image.bootstrap().superblock().chunk_size;
    let (tree, prefetch) = merged.tree.finish(&merged.chunks, merged.file_chunks, chunk_size, &wanted);
    Ok((tree, merged.blobs.all(), prefetch.into_iter().flatten().collect()))
}

/// A path of each inode in the prefetch table, in its order.
fn prefetched(image: &Image) -> Result<Vec<Vec<u8>>, MergeError> {
    let bootstrap = image.bootstrap();
    let mut paths: HashMap<Nid, Vec<u8>> = bootstrap.prefetch().map(|nid| (nid, Vec::new())).collect();
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let found = rafs_format::check::check(bootstrap, &mut |visit| {
        if let Some(path) = paths.get_mut(&visit.inode.nid).filter(|path| path.is_empty()) {
            *path = full_path(visit.path);
        }
        Ok::<_, FormatError>(())
    });
    found.map_err(|source| MergeError::Layer { path: image.path().to_path_buf(), source })?;
    Ok(bootstrap
        .prefetch()
        .filter_map(|nid| paths.get(&nid).cloned())
        .filter(|path| !path.is_empty())
        .collect())
}

/// What all layers must have in common, and the layer that said so first.
#[derive(Debug)]
struct Common {
    path: PathBuf,
    version: Version,
    /// In v5 that of inodes too; in v6 each blob has its own.
    digester: DigestAlgorithm,
    chunk_size: u32,
    explicit_ids: bool,
    tarfs: bool,
}

/// The layers so far.
#[derive(Debug)]
struct Merged {
    whiteouts: Whiteouts,
    /// May a directory be there only because something is in it?
    implied: bool,
    /// Is there a parent image or a chunk dictionary?
    is_layered: bool,
    common: Option<Common>,
    /// What the superblock of the topmost layer says.
    top: Option<rafs_format::Superblock>,
    tree: TreeBuilder,
    blobs: Table,
    v5: v5::Facts,
    /// All chunks, and the runs of positions among them that files have.
    chunks: Vec<Chunk>,
    file_chunks: Vec<u32>,
    /// Positions of chunks by blob and number in it.
    by_place: HashMap<(u32, u32), u32>,
}

impl Merged {
    fn new(whiteouts: Whiteouts) -> Self {
        Self {
            implied: true,
            whiteouts,
            is_layered: false,
            common: None,
            top: None,
            tree: TreeBuilder::new(),
            blobs: Table::default(),
            v5: v5::Facts::default(),
            chunks: Vec::new(),
            file_chunks: Vec::new(),
            by_place: HashMap::new(),
        }
    }

    /// Lays one more layer on top; without `dict`, an image that may have any number of blobs.
    fn add(&mut self, source: &Source, dict: Option<&HashSet<BlobId>>) -> Result<(), MergeError> {
        let image = Image::open(&source.path)?;
        self.check_alike(&image)?;
        let places = match dict {
            Some(dict) => self.blobs.add_layer(&image, source, dict)?,
            None => self.blobs.add_image(&image)?,
        };
        for (n, &place) in places.iter().enumerate() {
            if let Some((id, _)) = self.blobs.id(place) {
                self.v5.add(&image, n, id);
            }
        }
        layer::lay(self, &image, &places)?;
        self.top = Some(image.bootstrap().superblock().clone());
        Ok(())
    }

    /// Refuses a layer that cannot be in one image with those before it.
    fn check_alike(&mut self, image: &Image) -> Result<(), MergeError> {
        let superblock = image.bootstrap().superblock();
        let path = image.path();
        let tarfs = image.bootstrap().is_tarfs();
        if tarfs && self.is_layered {
            return Err(MergeError::Tarfs { path: path.to_path_buf() });
        }
        if image.blobs().iter().any(Blob::is_external) {
            return Err(MergeError::External { path: path.to_path_buf() });
        }
        let explicit_ids = superblock.flags.contains(SuperFlags::EXPLICIT_IDS);
        let chunk_size = superblock.chunk_size;
        let common = self.common.get_or_insert_with(|| Common {
            path: path.to_path_buf(),
            version: superblock.version,
            digester: superblock.digester,
            chunk_size,
            explicit_ids,
            tarfs,
        });
        let differs = |what, found: String, expected: String| MergeError::Differs {
            path: path.to_path_buf(),
            what,
            found,
            other: common.path.clone(),
            expected,
        };
        if superblock.version != common.version {
            let word = |version: Version| version.name().to_owned();
            return Err(differs("the RAFS version", word(superblock.version), word(common.version)));
        }
        let is_v5 = common.version == Version::V5;
        if is_v5 && superblock.digester != common.digester {
            let word = |digester: DigestAlgorithm| digester.name().to_owned();
            return Err(differs("the digester", word(superblock.digester), word(common.digester)));
        }
        if chunk_size != common.chunk_size {
            let (found, expected) = (format!("{chunk_size:#x}"), format!("{:#x}", common.chunk_size));
            return Err(differs("the chunk size", found, expected));
        }
        if explicit_ids != common.explicit_ids {
            let word = |explicit: bool| if explicit { "kept" } else { "left out" }.to_owned();
            return Err(differs("what becomes of owners", word(explicit_ids), word(common.explicit_ids)));
        }
        if tarfs != common.tarfs {
            let word = |tarfs: bool| if tarfs { "tarfs" } else { "native" }.to_owned();
            return Err(differs("the kind of its blobs", word(tarfs), word(common.tarfs)));
        }
        if is_v5 { self.v5.check_alike(image) } else { Ok(()) }
    }

    /// The merged bootstrap. Its blobs are in order of first use, those that nothing uses are left out.
    fn write(self, prefetch: &[Vec<u8>]) -> Result<(Vec<u8>, Report), MergeError> {
        let (Some(common), Some(top)) = (self.common, self.top) else {
            return Err(MergeError::Nothing);
        };
        let wanted: Vec<NodeId> = prefetch.iter().filter_map(|path| self.tree.find(names(path))).collect();
        let (mut tree, prefetch) =
            self.tree.finish(&self.chunks, self.file_chunks, common.chunk_size, &wanted);
        let blobs = self.blobs.used_by(&mut tree.chunks);
        let (limit, found) =
            (if common.version == Version::V5 { v5::MAX_BLOBS } else { MAX_BLOBS }, blobs.len());
        if found > limit {
            return Err(MergeError::TooManyBlobs { found, limit });
        }
        let (form, compressor) = match common.version {
            Version::V6 if common.tarfs => (write::Form::Tarfs, top.compressor),
            Version::V6 => (write::Form::V6, top.compressor),
            Version::V5 => {
                let form = self.v5.form(&tree, &blobs, common.chunk_size, common.digester);
                (form, self.v5.compressor(top.compressor))
            }
        };
        let options = WriteOptions {
            chunk_size: common.chunk_size,
            compressor,
            digester: top.digester,
            explicit_ids: common.explicit_ids,
            prefetch: prefetch.into_iter().flatten().collect(),
            form,
        };
        // Beside writing, for which it takes as long again.
        let hashing = || digest::of_tree(&tree, &blobs, common.chunk_size, Scope::Full);
        let (bytes, tree_digest) = std::thread::scope(|scope| {
            let hashing = (!common.tarfs).then(|| scope.spawn(hashing));
            let bytes = write::bootstrap(&tree, &blobs, &options)?;
            let digest = hashing
                .map(|hashing| hashing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            Ok::<_, MergeError>((bytes, digest.transpose()?))
        })?;
        let report = Report {
            blobs: blobs.into_iter().map(|blob| blob.id).collect(),
            bootstrap_path: PathBuf::new(),
            entries: tree.entries.len() as u64,
            version: common.version,
            compressor,
            tree_digest,
            times: (Duration::ZERO, Duration::ZERO),
        };
        Ok((bytes, report))
    }
}

/// A digest from its 64 hexadecimal digits.
pub fn parse_digest(text: &str) -> Option<Digest> {
    let mut digest = [0; 32];
    hex::decode_to_slice(text, &mut digest).ok().map(|()| Digest(digest))
}

/// SHA-256 of a file.
fn digest_of(path: &Path) -> io::Result<Digest> {
    let mut sha256 = Sha256::new();
    let mut file = std::fs::File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        sha256.update(buffer.get(..count).unwrap_or(&[]));
    }
    Ok(Digest(sha256.finalize().into()))
}
