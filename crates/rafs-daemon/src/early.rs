//! What a mount fetches before it is read: chosen by command line and configuration, told in the log.
//!
//! Knows where lists and profiles are, and how much room the cache's disk has; what is fetched and when is [`rafs_vfs::prefetch`]'s. Nothing here fails a
//! mount: what cannot be used is told and left out.

use crate::config::{Prefetch as Config, Store};
use crate::{Options, recording};
use blob_cache::CacheError;
use cli_report::chain;
use rafs_vfs::Rafs;
use rafs_vfs::prefetch::{Files, Host, Limits, Prefetch, PrefetchState, PrefetchStats, What};
use rafs_vfs::profile::Profile;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Portions of whole blobs, in bytes: as long as several requests.
const STREAM_BATCH: u32 = 8 << 20;
/// The disk of the cache keeps so many bytes free, or a fiftieth of it where that is less.
const KEEP_FREE: u64 = 256 << 20;

/// What the daemon does early for `rafs`; `None` for nothing.
pub(crate) fn prepare(rafs: &Arc<Rafs>, options: &Options) -> Option<Prefetch> {
    let what = what(rafs, options);
    let nothing = what.profile.is_none() && what.files == Files::None && !what.all;
    if nothing {
        return None;
    }
    let Store::File(files) = &options.config.cache.store else {
        tracing::warn!("nothing is prefetched: there is no cache that would keep it");
        return None;
    };
    let host = Teller {
        image: options.bootstrap.display().to_string(),
        work_dir: files.work_dir.clone(),
        told: AtomicU64::new(0),
    };
    Some(Prefetch::new(Arc::clone(rafs), what, limits(&options.config.prefetch), Arc::new(host)))
}

/// Lists and profiles of the command line are meant for this image, so they count also where the configuration has prefetch switched off.
fn what(rafs: &Rafs, options: &Options) -> What {
    let config = &options.config.prefetch;
    let listed = options.prefetch.files.clone();
    let files = match listed {
        Some(paths) => Files::Listed(paths),
        None if config.enable => Files::Table,
        None => Files::None,
    };
    let profile = options.prefetch.profile.as_deref().and_then(|path| profile(rafs, path));
    What { profile, files, all: config.enable && (config.prefetch_all || config.stream_prefetch) }
}

fn limits(config: &Config) -> Limits {
    let batch_size =
        if config.stream_prefetch { config.batch_size.max(STREAM_BATCH) } else { config.batch_size };
    Limits { batch_size, at_once: config.threads }
}

/// The profile at `path`, if it is one of this image.
fn profile(rafs: &Rafs, path: &Path) -> Option<Profile> {
    let path = recording::place(path, rafs);
    let shown = path.display();
    match recording::load(&path) {
        Ok(Some(profile)) if profile.image == rafs.profile_digest() => Some(profile),
        Ok(Some(_)) => {
            tracing::warn!("profile {shown} is one of another image: it is not used");
            None
        }
        Ok(None) => {
            tracing::warn!("profile {shown} does not exist: nothing is fetched by it");
            None
        }
        Err(error) => {
            tracing::warn!("profile {shown} is not used: {}", chain(&error));
            None
        }
    }
}

/// A line of a list that is no absolute path.
#[derive(Debug, thiserror::Error)]
#[error("line {line} is `{}`, expected an absolute path", found.display())]
pub struct NotAbsolute {
    /// From 1.
    pub line: usize,
    /// What is there.
    pub found: PathBuf,
}

/// The paths of a list, one in each line; blanks around them and empty lines do not count. Errors: one that is not absolute.
pub fn read_list(bytes: &[u8]) -> Result<Vec<Vec<u8>>, NotAbsolute> {
    let lines = bytes.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).zip(1..);
    let filled = lines.filter(|(line, _)| !line.is_empty());
    let path = |(path, line): (&[u8], usize)| {
        let found = || PathBuf::from(OsStr::from_bytes(path));
        if path.starts_with(b"/") { Ok(path.to_vec()) } else { Err(NotAbsolute { line, found: found() }) }
    };
    filled.map(path).collect()
}

/// Tells how it goes.
#[derive(Debug)]
struct Teller {
    image: String,
    work_dir: PathBuf,
    /// Quarters that were told.
    told: AtomicU64,
}

impl Host for Teller {
    fn has_room(&self) -> bool {
        let Ok(disk) = rustix::fs::statvfs(&self.work_dir) else { return false };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let size = disk.f_blocks.saturating_mul(disk.f_frsize);
        free > KEEP_FREE.min(size / 50)
    }

    fn progress(&self, stats: &PrefetchStats) {
        let Some(quarters) = stats.bytes.saturating_mul(4).checked_div(stats.total_bytes) else { return };
        // The last one is told with the end.
        if quarters < 4 && self.told.fetch_max(quarters, Ordering::Relaxed) < quarters {
            let (percent, bytes, total) = (quarters * 25, stats.bytes, stats.total_bytes);
            tracing::info!("prefetch of {}: {percent}%, {bytes} of {total} bytes", self.image);
        }
    }

    fn failed(&self, error: &CacheError, in_a_row: u32) {
        // Of many in a row the first ones say it.
        if in_a_row.is_power_of_two() {
            tracing::warn!("prefetch of {}, failure {in_a_row} in a row: {}", self.image, chain(error));
        }
    }
}

/// Says how it ended.
pub(crate) fn tell_end(image: &Path, stats: &PrefetchStats) {
    let image = image.display();
    let how = match stats.state {
        PrefetchState::Done => "done",
        PrefetchState::Full => "ended, as the disk of the cache is nearly full",
        PrefetchState::Unplanned => "ended, as it could not be planned",
        PrefetchState::Waiting | PrefetchState::Running => "not ended",
    };
    let PrefetchStats { chunks, bytes, failed, unknown_chunks, missing_paths, .. } = stats;
    tracing::info!(
        "prefetch of {image}: {how}; {chunks} chunks of {bytes} bytes are ready, {failed} could not be fetched"
    );
    if *unknown_chunks > 0 {
        tracing::warn!("prefetch of {image}: {unknown_chunks} chunks of the profile are not in the image");
    }
    if *missing_paths > 0 {
        let named: Vec<_> = stats.first_missing.iter().map(|path| String::from_utf8_lossy(path)).collect();
        tracing::warn!(
            "prefetch of {image}: {missing_paths} listed paths are not in it, as {}",
            named.join(", ")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_absolute_paths() {
        let found = read_list(b"/a\n\n  /b/c \t\r\n/d e").unwrap();
        assert_eq!(found, [b"/a".to_vec(), b"/b/c".to_vec(), b"/d e".to_vec()]);
        assert_eq!(read_list(b"").unwrap().len(), 0);
        let error = read_list(b"/a\n\n b\n").unwrap_err();
        assert_eq!(error.to_string(), "line 3 is `b`, expected an absolute path");
    }
}
