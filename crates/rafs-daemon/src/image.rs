//! One image put together: the bootstrap read and checked, its blobs found, their caches opened.

use crate::caches::Caches;
use crate::config::{Cache, Config, Store, TreeDigest};
use crate::{DaemonError, Options, keys};
use blob_cache::{BlobCache, CacheOptions};
use blob_storage::{Backend, BlobReader, LocalFs, OpenOptions, PullAuth, Registries, open_backend};
use bytes::Bytes;
use rafs_codec::sections;
use rafs_format::{Blob, BlobFeatures, Bootstrap, DigestAlgorithm};
use rafs_merkle::image::{self, Scope};
use rafs_vfs::Rafs;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Length of a SHA-256 in hex.
const SHA256_HEX: usize = 64;

/// A file system ready to be mounted, and the caches below it.
#[derive(Debug)]
pub(crate) struct Image {
    pub rafs: Arc<Rafs>,
    pub caches: Vec<Arc<BlobCache>>,
}

impl Image {
    /// Reads the bootstrap, looks for every blob, opens the caches. Reads no data. `registries` and `dirs` are those of the daemon.
    pub(crate) fn open(
        options: &Options,
        registries: &Registries,
        dirs: &Caches,
    ) -> Result<Self, DaemonError> {
        refuse_unsupported(&options.config)?;
        let path = options.bootstrap.as_path();
        let bootstrap = read_bootstrap(path)?;
        if let Some(expected) = options.config.tree_digest {
            check_tree(path, &bootstrap, expected)?;
        }
        let backend = backend(&options.config, registries)?;
        let keys = keys::read(&options.config.key_files)?;
        let mut cache = options.config.cache.clone();
        // One switch for metadata and data, another one for data alone.
        cache.validate |= options.config.rafs.validate;
        let open = |blob| open_cache(path, &keys.unlock(blob), &*backend, &cache, dirs).map(Arc::new);
        let caches: Vec<_> = bootstrap.blobs().iter().map(open).collect::<Result<_, _>>()?;
        let rafs = Rafs::new(bootstrap, caches.clone());
        let rafs =
            rafs.map_err(|source| DaemonError::Vfs { path: path.to_path_buf(), source: source.into() })?;
        // As in 2.x, where this is how far a miss reaches.
        let rafs = if options.config.rafs.batch_size == 0 { rafs.without_readahead() } else { rafs };
        Ok(Self { rafs: Arc::new(rafs), caches })
    }
}

/// Settings that would change what users see, and that this version cannot honour, are errors; those that cost speed are warnings.
fn refuse_unsupported(config: &Config) -> Result<(), DaemonError> {
    if config.overlay.is_some() {
        return Err(DaemonError::Unsupported { what: "a writable overlay" });
    }
    match &config.cache.store {
        Store::Fscache { .. } => return Err(DaemonError::Unsupported { what: "cache type fscache" }),
        Store::File(files) if files.encryption.is_some() => {
            return Err(DaemonError::Unsupported { what: "an encrypted cache" });
        }
        Store::File(_) | Store::Nowhere => {}
    }
    if config.cache.compressed {
        tracing::warn!("cache.compressed has no effect in this version: data is kept uncompressed");
    }
    Ok(())
}

/// Reads and parses the bootstrap at `path`, which may also be a blob with its bootstrap inside. One that is named after its SHA-256, as builders name
/// it in a directory, must have that; one that was taken out of a blob is named after the blob.
fn read_bootstrap(path: &Path) -> Result<Bootstrap<Bytes>, DaemonError> {
    if let Some(bytes) = read_inside(path)? {
        return parse(path, bytes);
    }
    let bytes = crate::whole::read(path)
        .map_err(|source| DaemonError::Bootstrap { path: path.to_path_buf(), source })?;
    let name = path.file_name().and_then(|name| name.to_str());
    let is_hex = |name: &str| name.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    let parsed = parse(path, bytes.clone());
    let inlined = |blob: &Blob| blob.features.contains(BlobFeatures::INLINED_FS_META);
    let of_blob = |bootstrap: &Bootstrap<Bytes>| bootstrap.blobs().iter().any(inlined);
    if let Some(name) = name.filter(|name| name.len() == SHA256_HEX && is_hex(name))
        && !parsed.as_ref().is_ok_and(of_blob)
    {
        let found = rafs_merkle::digest(DigestAlgorithm::Sha256, &bytes).to_string();
        if found != name {
            return Err(DaemonError::Name { path: path.to_path_buf(), found });
        }
    }
    parsed
}

/// Compares the tree with what it must be: by its full digest, or by that of its content, in which times do not count. Checks the whole tree on the way.
fn check_tree(
    path: &Path,
    bootstrap: &Bootstrap<Bytes>,
    TreeDigest(expected): TreeDigest,
) -> Result<(), DaemonError> {
    let digest = |scope| {
        let tree = image::tree(bootstrap, scope);
        let failed = |source| DaemonError::NoTree { path: path.to_path_buf(), expected, source };
        tree.map(|tree| tree.digest).map_err(failed)
    };
    let found = digest(Scope::Full)?;
    if found == expected || digest(Scope::Content)? == expected {
        return Ok(());
    }
    Err(DaemonError::Tree { path: path.to_path_buf(), found, expected })
}

fn parse(path: &Path, bytes: Bytes) -> Result<Bootstrap<Bytes>, DaemonError> {
    Bootstrap::parse(bytes)
        .map_err(|source| DaemonError::Format { path: path.to_path_buf(), source: source.into() })
}

/// The bootstrap inside the blob at `path`; `None` for any other file.
fn read_inside(path: &Path) -> Result<Option<Bytes>, DaemonError> {
    let failed = |source| DaemonError::Bootstrap { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    let size = if meta.is_file() { meta.len() } else { 0 };
    let mut read = |range: Range<u64>| {
        let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes)
    };
    let Some((stored, coding)) = sections::find_bootstrap(size, &mut read).map_err(failed)? else {
        return Ok(None);
    };
    let plain = coding.decode(read(stored).map_err(failed)?);
    let plain = plain.map_err(|source| DaemonError::Inside { path: path.to_path_buf(), source })?;
    Ok(Some(plain.into()))
}

/// The backend of `config`. Local files must be there now; what is on the network is asked when data is read, and only then.
fn backend(config: &Config, registries: &Registries) -> Result<Arc<dyn Backend>, DaemonError> {
    let options = OpenOptions {
        registries: registries.clone(),
        prefetch_bandwidth: config.prefetch.bandwidth_limit.map(u64::from),
        pull_auth: PullAuth::of_environment(|name| std::env::var_os(name)),
    };
    Ok(open_backend(&config.backend, &options)?)
}

fn open_cache(
    bootstrap: &Path,
    blob: &Blob,
    backend: &dyn Backend,
    config: &Cache,
    dirs: &Caches,
) -> Result<BlobCache, DaemonError> {
    let path = bootstrap.to_path_buf();
    let blob = &blob.named_by(bootstrap.file_name());
    let reader = backend.open(&blob.id);
    let reader = reader.map_err(|source| DaemonError::Blob { path: path.clone(), source: source.into() })?;
    let options = CacheOptions { validate: config.validate };
    let cache = match &config.store {
        Store::File(files) => {
            let image = bootstrap.display().to_string();
            dirs.dir(&files.work_dir)?.blob(blob, &image, reader, options)
        }
        Store::Nowhere | Store::Fscache { .. } => BlobCache::without_disk(blob, reader),
    };
    let cache = cache.map_err(|source| DaemonError::Cache { path, source: source.into() })?;
    if !blob.features.contains(BlobFeatures::SEPARATE | BlobFeatures::ZRAN) {
        return Ok(cache);
    }
    Ok(cache.with_tables(open_tables(bootstrap, blob, backend)?))
}

/// The object with the chunk table of a gzip layer that stays as it is: the file that holds the bootstrap too, or what the bootstrap names.
fn open_tables(
    bootstrap: &Path,
    blob: &Blob,
    backend: &dyn Backend,
) -> Result<Arc<dyn BlobReader>, DaemonError> {
    let path = bootstrap.to_path_buf();
    let opened = if read_inside(bootstrap)?.is_some() {
        let local = LocalFs { blob_file: Some(path.clone()), ..LocalFs::default() };
        local.open(&blob.id)
    } else {
        let unnamed = || DaemonError::NoTable { path: path.clone(), blob: blob.id.to_string() };
        backend.open(&blob.table_id().ok_or_else(unnamed)?)
    };
    opened.map_err(|source| DaemonError::Blob { path, source: source.into() })
}
