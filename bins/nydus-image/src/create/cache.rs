//! Arguments of `create` for writing the files of a cache instead of a blob.

use super::Kind;
use anyhow::{bail, ensure};
use clap::Args;
use std::path::{Path, PathBuf};

/// Where the cache goes.
#[derive(Debug, Args)]
pub(super) struct CacheArgs {
    /// Instead of a blob write the files of a cache that holds all of it (`ID.blob.data`, `ID.blob.meta` and a map), to be put into the cache directory of a daemon.
    #[arg(long, value_name = "DIR", requires = "bootstrap",
          conflicts_with_all = ["blob", "blob_dir", "compressor", "blob_inline_meta", "encrypt"])]
    blob_cache_dir: Option<PathBuf>,
}

impl CacheArgs {
    /// The directory, where a cache is asked for.
    pub(super) fn dir(&self) -> Option<&Path> {
        self.blob_cache_dir.as_deref()
    }

    /// Refuses what does not go with a conversion of this kind and version, and a directory that is none.
    pub(super) fn check(&self, kind: Option<Kind>, version: &str) -> anyhow::Result<()> {
        let Some(dir) = self.dir() else { return Ok(()) };
        ensure!(version == "6", "--blob-cache-dir conflicts with --fs-version {version}: it needs RAFS v6");
        let others = [Kind::TarTarfs, Kind::EstargzRafs, Kind::EstargzRef, Kind::EstargztocRef];
        if let Some(kind) = kind.filter(|kind| others.contains(kind)) {
            bail!("conversion type `{}` conflicts with `--blob-cache-dir`", kind.name());
        }
        ensure!(dir.is_dir(), "--blob-cache-dir {} is not a directory", dir.display());
        Ok(())
    }
}
