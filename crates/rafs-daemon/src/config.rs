//! The configuration of Nydus 2.x (v1 and v2, JSON and TOML) as one typed value.
//!
//! Both versions become one [`Config`] of the shape of version 2, with the defaults of the version they were written in;
//! nothing after this module knows versions. The first wrong value is an error that names the field; fields that nobody
//! reads are warnings, or errors under [`Parsed::strict`]. Syntax and backends are read by `blob_storage::config`. Opens no
//! file but the document: whether directories and devices exist is found out by who uses them.
//!
//! What Nydus 2.x ignores although integrators send it is ignored here, too, without a warning: `readahead`,
//! `readahead_sec` and `warmup` name mechanisms that are gone, `id_mapping` is for later, `external_backends` have no use at run time.

mod cache;
mod prefetch;
mod tree;

pub use blob_storage::config::{Backend, ConfigError, FieldError, Unknown};
pub use cache::{Cache, Encryption, EncryptionKey, FileCache, Store};
pub use prefetch::Prefetch;
pub use tree::{NotADigest, TreeDigest};

use blob_storage::LocalFs;
use blob_storage::config::{Document, Leaf, Object, Version};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Most bytes of one request that is made of several, or made larger than asked.
const MAX_BATCH: u32 = 0x1000_0000;
/// The same where the document says nothing.
const BATCH: u32 = 1 << 20;

/// One image: where its blobs are, where they are kept, how it is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Names the configuration in metrics; may be empty.
    pub id: String,
    /// Where blobs are.
    pub backend: Backend,
    /// Where they are kept.
    pub cache: Cache,
    /// How the file system is served.
    pub rafs: Rafs,
    /// What is fetched before it is read.
    pub prefetch: Prefetch,
    /// Files with keys of encrypted blobs whose images do not hold them.
    pub key_files: Vec<PathBuf>,
    /// The digest that the tree must have; `None` for any.
    pub tree_digest: Option<TreeDigest>,
    /// Where changes go; `None` for a read-only file system.
    pub overlay: Option<Overlay>,
}

/// How the file system is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rafs {
    /// Where metadata is.
    pub mode: Mode,
    /// A read that misses the cache fetches up to this many bytes around it; 0 for only what is needed.
    pub batch_size: u32,
    /// Check digests of metadata and of fetched data.
    pub validate: bool,
    /// Serve extended attributes.
    pub enable_xattr: bool,
    /// Count requests per file.
    pub iostats_files: bool,
    /// Remember the order of first accesses.
    pub access_pattern: bool,
    /// Remember which files were read of late.
    pub latest_read_files: bool,
}

impl Default for Rafs {
    fn default() -> Self {
        Self {
            mode: Mode::Direct,
            batch_size: BATCH,
            validate: false,
            enable_xattr: false,
            iostats_files: false,
            access_pattern: false,
            latest_read_files: false,
        }
    }
}

/// Where metadata is. Nydus 2.x serves both as `Direct`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In the bootstrap.
    Direct,
    /// Copied to memory.
    Cached,
}

impl Leaf for Mode {
    const EXPECTED: &'static str = "direct or cached";

    fn from_value(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "direct" => Some(Self::Direct),
            "cached" => Some(Self::Cached),
            _ => None,
        }
    }
}

/// Directories of a writable overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Holds what was changed.
    pub upper_dir: PathBuf,
    /// For changes on their way.
    pub work_dir: PathBuf,
}

/// A configuration, and what was not understood of its document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// What the document says.
    pub config: Config,
    /// Fields that nobody reads.
    pub warnings: Vec<Unknown>,
}

impl Parsed {
    /// The configuration, if every field of its document was understood; `origin` names that in the error.
    pub fn strict(self, origin: &Path) -> Result<Config, ConfigError> {
        if self.warnings.is_empty() {
            return Ok(self.config);
        }
        Err(ConfigError::Unknown { origin: origin.to_path_buf(), fields: self.warnings })
    }
}

/// Reads the configuration in the file at `path`: UTF-8, at most 1 MiB.
pub fn load(path: &Path) -> Result<Parsed, ConfigError> {
    read(Document::load(path)?)
}

/// Reads the configuration `text`, which messages call `origin`.
pub fn parse(text: &str, origin: &Path) -> Result<Parsed, ConfigError> {
    read(Document::parse(text, origin)?)
}

fn read(document: Document) -> Result<Parsed, ConfigError> {
    let (config, warnings) = document.read(|version, top| match version {
        Version::V1 => Config::read_v1(top),
        Version::V2 => Config::read_v2(top),
    })?;
    Ok(Parsed { config, warnings })
}

/// The configuration that `--localfs-dir` stands for: blobs in `dir`, cached in `dir`.
pub fn from_local_dir(dir: &Path) -> Config {
    let backend = LocalFs { dir: Some(dir.to_path_buf()), ..LocalFs::default() };
    Config {
        id: String::new(),
        backend: Backend::LocalFs(backend),
        cache: Cache { store: Store::File(FileCache::new(dir)), ..Cache::default() },
        rafs: Rafs::default(),
        prefetch: Prefetch::default(),
        key_files: Vec::new(),
        tree_digest: None,
        overlay: None,
    }
}

impl Config {
    fn read_v2(top: &mut Object) -> Result<Self, FieldError> {
        top.ignore(&["external_backends"]);
        let id = top.or("id", String::new())?;
        let backend = top.required_object("backend", Backend::read_v2)?;
        let (cache, workers) = top.object("cache", Cache::read_v2)?.unwrap_or_default();
        let (rafs, what) = top.object("rafs", Rafs::read_v2)?.unwrap_or_default();
        let prefetch = Prefetch::join(what, workers);
        let key_files = top.list("key_files")?;
        let tree_digest = top.optional("tree_digest")?;
        let overlay = top.object("overlay", Overlay::read)?;
        Ok(Self { id, backend, cache, rafs, prefetch, key_files, tree_digest, overlay })
    }

    fn read_v1(top: &mut Object) -> Result<Self, FieldError> {
        top.ignore(&["warmup", "id_mapping"]);
        let (id, backend, cache) = top.required_object("device", |device| {
            device.ignore(&["external_backends"]);
            let id = device.or("id", String::new())?;
            let backend = device.required_object("backend", Backend::read_v1)?;
            Ok((id, backend, device.object("cache", Cache::read_v1)?.unwrap_or_default()))
        })?;
        let rafs = Rafs::read_v1(top)?;
        let prefetch = top.object("fs_prefetch", Prefetch::read_v1)?.unwrap_or_default();
        let key_files = top.list("key_files")?;
        let tree_digest = top.optional("tree_digest")?;
        Ok(Self { id, backend, cache, rafs, prefetch, key_files, tree_digest, overlay: None })
    }
}

impl Rafs {
    /// Reads `rafs`, with its choice of what to prefetch.
    fn read_v2(at: &mut Object) -> Result<(Self, Option<Prefetch>), FieldError> {
        let mode = at.or("mode", Mode::Direct)?;
        let rafs = Self::read(at, mode, "batch_size", "validate")?;
        Ok((rafs, at.object("prefetch", Prefetch::read_v2)?))
    }

    /// Reads the outermost object.
    fn read_v1(at: &mut Object) -> Result<Self, FieldError> {
        let mode = at.required("mode")?;
        Self::read(at, mode, "amplify_io", "digest_validate")
    }

    /// Reads all but the mode; two fields have different names in the two versions.
    fn read(
        at: &mut Object,
        mode: Mode,
        batch_size: &'static str,
        validate: &'static str,
    ) -> Result<Self, FieldError> {
        Ok(Self {
            mode,
            batch_size: at.number(batch_size, BATCH, 0..=MAX_BATCH)?,
            validate: at.or(validate, false)?,
            enable_xattr: at.or("enable_xattr", false)?,
            iostats_files: at.or("iostats_files", false)?,
            access_pattern: at.or("access_pattern", false)?,
            latest_read_files: at.or("latest_read_files", false)?,
        })
    }
}

impl Overlay {
    fn read(at: &mut Object) -> Result<Self, FieldError> {
        Ok(Self { upper_dir: at.required("upper_dir")?, work_dir: at.required("work_dir")? })
    }
}
