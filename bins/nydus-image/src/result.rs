//! The result of a build as integrators read it: one JSON document for all subcommands that write an image.
//!
//! Its file is started before the work, so that a place that cannot be written is told at once.

use crate::tools::json_version;
use anyhow::Context;
use rafs_builder::create::{BlobId, Compressor, Version};
use rafs_builder::output::{Output, Outputs, Place};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What there is to tell.
#[derive(Debug)]
pub struct Built<'a> {
    /// Path of the bootstrap; empty where it is in the blob.
    pub bootstrap: &'a Path,
    /// The blob table.
    pub blobs: &'a [BlobId],
    /// Bootstrap and blobs of files that are elsewhere, if any.
    pub external: (PathBuf, Vec<String>),
    /// How long parts of the work took; `total_build` is added.
    pub times: &'a [(&'static str, Duration)],
    /// What was counted.
    pub events: &'a [(&'static str, u64)],
    /// RAFS version.
    pub version: Version,
    /// Compression that the superblock names.
    pub compressor: Compressor,
    /// What only some subcommands tell.
    pub more: &'a [(&'static str, Value)],
}

impl Built<'_> {
    fn document(&self) -> Value {
        let total: Duration = self.times.iter().map(|(_, time)| *time).sum();
        let times = self.times.iter().copied().chain([("total_build", total)]);
        let times: Map<String, Value> =
            times.map(|(name, time)| (name.to_owned(), time.as_secs_f64().into())).collect();
        let events: Map<String, Value> =
            self.events.iter().map(|(name, count)| ((*name).to_owned(), (*count).into())).collect();
        let mut document = json!({
            "version": json_version(),
            "bootstrap": self.bootstrap.to_string_lossy(),
            "blobs": ids(self.blobs),
            "external_bootstrap": self.external.0.to_string_lossy(),
            "external_blobs": self.external.1,
            "trace": { "consumed_time": times, "registered_events": events },
            "fs_version": self.version.name(),
            "compressor": self.compressor.name(),
        });
        for (name, value) in self.more {
            document[*name] = value.clone();
        }
        document
    }
}

/// Ids as strings.
pub fn ids(ids: &[BlobId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

/// Starts the file of the result, if one is wanted.
pub fn start(path: Option<&Path>, outputs: &Outputs) -> anyhow::Result<Option<Output>> {
    Ok(path.map(|path| outputs.start(Place::File(path.to_path_buf()))).transpose()?)
}

/// Writes the result, if its file was started.
pub fn finish(file: Option<Output>, built: &Built<'_>) -> anyhow::Result<()> {
    let Some(mut file) = file else { return Ok(()) };
    let (path, text) = (file.path(), serde_json::to_string_pretty(&built.document())?);
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    Outputs::commit(vec![(file, None)])?;
    Ok(())
}
