//! What is fetched before it is read, as configurations say it.

use super::{BATCH, MAX_BATCH};
use blob_storage::config::{FieldError, Object};

/// Most threads that may prefetch.
const MAX_THREADS: u16 = 1024;

/// What is fetched before it is read, and how fast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefetch {
    /// Is anything?
    pub enable: bool,
    /// How many requests at a time: from 1 to 1024 when enabled.
    pub threads: u16,
    /// Most bytes of one request.
    pub batch_size: u32,
    /// Most bytes per second; `None` for no limit.
    pub bandwidth_limit: Option<u32>,
    /// Everything, not only what the image lists.
    pub prefetch_all: bool,
    /// Whole blobs as streams.
    pub stream_prefetch: bool,
}

impl Default for Prefetch {
    /// Nothing.
    fn default() -> Self {
        Self {
            enable: false,
            threads: 8,
            batch_size: BATCH,
            bandwidth_limit: None,
            prefetch_all: false,
            stream_prefetch: false,
        }
    }
}

/// Names of fields that are not the same in the two versions.
struct Names {
    threads: &'static str,
    batch_size: &'static str,
    bandwidth_limit: &'static str,
}

impl Prefetch {
    /// Reads `rafs.prefetch` or `cache.prefetch` of a version 2 document.
    pub(super) fn read_v2(at: &mut Object) -> Result<Self, FieldError> {
        let names =
            Names { threads: "threads", batch_size: "batch_size", bandwidth_limit: "bandwidth_limit" };
        let enable = at.required("enable")?;
        Self::read(at, &names, Self { enable, ..Self::default() })
    }

    /// Reads `fs_prefetch` of a version 1 document, where everything is prefetched unless it says otherwise.
    pub(super) fn read_v1(at: &mut Object) -> Result<Self, FieldError> {
        let names =
            Names { threads: "threads_count", batch_size: "merging_size", bandwidth_limit: "bandwidth_rate" };
        let enable = at.or("enable", false)?;
        Self::read(at, &names, Self { enable, prefetch_all: true, ..Self::default() })
    }

    /// Reads all but `enable`, with `or` for what is not there.
    fn read(at: &mut Object, names: &Names, or: Self) -> Result<Self, FieldError> {
        // Of threads that do not run any number is good.
        let threads = if or.enable { 1..=MAX_THREADS } else { 0..=u16::MAX };
        let bandwidth = at.number(names.bandwidth_limit, 0, 0..=u32::MAX)?;
        Ok(Self {
            enable: or.enable,
            threads: at.number(names.threads, or.threads, threads)?,
            batch_size: at.number(names.batch_size, or.batch_size, 0..=MAX_BATCH)?,
            bandwidth_limit: Some(bandwidth).filter(|limit| *limit > 0),
            prefetch_all: at.or("prefetch_all", or.prefetch_all)?,
            stream_prefetch: at.or("stream_prefetch", or.stream_prefetch)?,
        })
    }

    /// Makes one of the two objects of a version 2 document: `rafs.prefetch` says `what`, `cache.prefetch` gives `workers`.
    /// Where both are given, both must be enabled, as in Nydus 2.x. Where only one is, it stands for both: Nydus 2.x
    /// silently prefetches nothing then.
    pub(super) fn join(what: Option<Self>, workers: Option<Self>) -> Self {
        match (what, workers) {
            (Some(what), Some(workers)) => Self {
                enable: what.enable && workers.enable,
                prefetch_all: what.prefetch_all,
                stream_prefetch: what.stream_prefetch,
                ..workers
            },
            (one, other) => one.or(other).unwrap_or_default(),
        }
    }
}
