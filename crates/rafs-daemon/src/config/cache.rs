//! Where blobs are kept, as configurations say it.

use super::Prefetch;
use blob_storage::config::{FieldError, Leaf, Object, Secret};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Where blobs are kept, and in which form.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cache {
    /// Where they are kept.
    pub store: Store,
    /// Keep stored bytes as they are and decompress at each read.
    pub compressed: bool,
    /// Check digests also of data that comes from the cache.
    pub validate: bool,
}

/// Where blobs are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Store {
    /// Nowhere: `dummycache`, or no cache named.
    #[default]
    Nowhere,
    /// In files: `blobcache` or `filecache`.
    File(FileCache),
    /// In the kernel's cache, with work files in a directory: `fscache`.
    Fscache {
        /// That directory.
        work_dir: PathBuf,
    },
}

/// Files that blobs are kept in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileCache {
    /// Directory of the files.
    pub work_dir: PathBuf,
    /// Keep in memory which chunks are ready, not in a file.
    pub disable_indexed_map: bool,
    /// How the files are encrypted; `None` for plain files.
    pub encryption: Option<Encryption>,
}

/// How cache files are encrypted (AES-128-XTS).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// Each chunk by a key that its content gives.
    Convergent,
    /// All by one key.
    Key(EncryptionKey),
}

/// A key in 32 hex digits. Not shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptionKey(Secret);

impl EncryptionKey {
    /// Takes `text` for a key; `None` where it is not 32 hex digits.
    pub fn new(text: &str) -> Option<Self> {
        let is_key = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        is_key.then(|| Self(Secret::new(text)))
    }

    /// The digits, for the one place that encrypts.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl Leaf for EncryptionKey {
    const EXPECTED: &'static str = "32 hex digits";

    fn from_value(value: &Value) -> Option<Self> {
        value.as_str().and_then(Self::new)
    }

    fn show(value: &Value) -> String {
        Secret::show(value)
    }
}

/// Values of `type`.
#[derive(Clone, Copy)]
enum Kind {
    None,
    File,
    Fscache,
}

impl Leaf for Kind {
    const EXPECTED: &'static str = "one of blobcache, filecache, fscache, dummycache, or an empty string";

    fn from_value(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "" | "dummycache" => Some(Self::None),
            "blobcache" | "filecache" => Some(Self::File),
            "fscache" => Some(Self::Fscache),
            _ => None,
        }
    }
}

impl Cache {
    /// Reads `cache` of a version 2 document, with its choice of prefetch workers. Settings of another type than the chosen
    /// one are checked and not used.
    pub(super) fn read_v2(at: &mut Object) -> Result<(Self, Option<Prefetch>), FieldError> {
        let kind = at.or("type", Kind::None)?;
        let files = at.object("filecache", FileCache::read)?;
        let fscache = at.object("fscache", read_fscache)?;
        let store = match kind {
            Kind::None => Store::Nowhere,
            Kind::File => Store::File(files.ok_or_else(|| at.missing("filecache", "an object"))?),
            Kind::Fscache => fscache.ok_or_else(|| at.missing("fscache", "an object"))?,
        };
        Ok((Self::read(at, store)?, at.object("prefetch", Prefetch::read_v2)?))
    }

    /// Reads `device.cache` of a version 1 document.
    pub(super) fn read_v1(at: &mut Object) -> Result<Self, FieldError> {
        let store = match at.or("type", Kind::None)? {
            Kind::None => {
                at.ignore(&["config"]);
                Store::Nowhere
            }
            Kind::File => Store::File(at.required_object("config", FileCache::read)?),
            Kind::Fscache => at.required_object("config", read_fscache)?,
        };
        Self::read(at, store)
    }

    fn read(at: &mut Object, store: Store) -> Result<Self, FieldError> {
        Ok(Self { store, compressed: at.or("compressed", false)?, validate: at.or("validate", false)? })
    }
}

impl FileCache {
    /// Plain files in `work_dir`.
    pub fn new(work_dir: &Path) -> Self {
        Self { work_dir: work_dir.to_path_buf(), disable_indexed_map: false, encryption: None }
    }

    fn read(at: &mut Object) -> Result<Self, FieldError> {
        Ok(Self {
            work_dir: work_dir(at)?,
            disable_indexed_map: at.or("disable_indexed_map", false)?,
            encryption: Encryption::read(at)?,
        })
    }
}

impl Encryption {
    fn read(at: &mut Object) -> Result<Option<Self>, FieldError> {
        let enabled = at.or("enable_encryption", false)?;
        let convergent = at.or("enable_convergent_encryption", false)?;
        let key = at.filled("encryption_key")?;
        match (enabled, convergent, key) {
            (false, _, _) => Ok(None),
            (true, true, _) => Ok(Some(Self::Convergent)),
            (true, false, Some(key)) => Ok(Some(Self::Key(key))),
            (true, false, None) => Err(at.missing("encryption_key", EncryptionKey::EXPECTED)),
        }
    }
}

fn read_fscache(at: &mut Object) -> Result<Store, FieldError> {
    Ok(Store::Fscache { work_dir: work_dir(at)? })
}

fn work_dir(at: &mut Object) -> Result<PathBuf, FieldError> {
    at.or("work_dir", PathBuf::from("."))
}
