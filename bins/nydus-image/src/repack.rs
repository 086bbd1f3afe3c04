//! `nydus-image compact` and `optimize`: arguments to options, the result as a log line and JSON.

use crate::args::SourceArgs;
use crate::create::watch_signals;
use crate::merge::chunk_dicts;
use crate::result::{self, Built};
use crate::tools;
use anyhow::{Context, bail, ensure};
use clap::Args;
use rafs_builder::compact::{self, Options};
use rafs_builder::open::Image;
use rafs_builder::optimize;
use rafs_builder::output::{Output, Outputs, Place};
use rafs_builder::repack::Report;
use std::path::PathBuf;
use std::time::Instant;

/// Arguments of `compact`.
#[derive(Debug, Args)]
#[command(after_help = COMPACT_HELP)]
pub struct CompactArgs {
    /// Bootstrap file, or a blob with its bootstrap inside.
    #[arg(short = 'B', long, value_name = "BOOTSTRAP")]
    bootstrap: PathBuf,
    /// Where blobs are; new ones go to --blob-dir.
    #[command(flatten)]
    source: SourceArgs,
    /// Write blobs anew of which less than this percentage is used; 0 for none.
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    min_used_ratio: u8,
    /// Merge blobs of which less than this is used, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 10 << 20)]
    compact_blob_size: u64,
    /// Merge no more than this into one blob, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 100 << 20)]
    max_compact_size: u64,
    /// Leave images of fewer blobs as they are; 0 for none.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    layers_to_compact: usize,
    /// An image whose blobs stay as they are, since many images have them.
    #[arg(long, value_name = "BOOTSTRAP")]
    chunk_dict: Option<String>,
    /// Write the bootstrap to this file; if not given, BOOTSTRAP with the extension `bootstrap.compact`.
    #[arg(short = 'O', long, value_name = "FILE")]
    output_bootstrap: Option<PathBuf>,
    /// Write the result to this file as JSON.
    #[arg(short = 'J', long, value_name = "FILE")]
    output_json: Option<PathBuf>,
}

const COMPACT_HELP: &str = "Blobs that are written anew or not used any more are not removed: other images may need them.
Where there is nothing to do the bootstrap is copied, and that is success.

Examples:
  nydus-image compact -B image.boot -D blobs --min-used-ratio 50 -O compact.boot
  nydus-image compact -B image.boot -D new --backend-type registry --backend-config-file registry.json -J result.json";

/// Runs `compact`.
pub fn compact(args: &CompactArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    let Some(dir) = &args.source.blob_dir else { bail!("no place for new blobs: give --blob-dir") };
    ensure!(dir.is_dir(), "--blob-dir {} is not a directory", dir.display());
    let Some(source) = tools::source(None, &args.source)? else { bail!("the blobs are needed") };
    let image = Image::open(&args.bootstrap)?;
    let path = args.output_bootstrap.clone();
    let path = path.unwrap_or_else(|| args.bootstrap.with_extension("bootstrap.compact"));
    let options = Options {
        min_used_ratio: args.min_used_ratio,
        compact_blob_size: args.compact_blob_size,
        max_compact_size: args.max_compact_size,
        layers_to_compact: args.layers_to_compact,
        chunk_dict: args.chunk_dict.as_deref().map(dictionary).transpose()?,
    };
    let outputs = Outputs::new();
    watch_signals(&outputs)?;
    let result = result::start(args.output_json.as_deref(), &outputs)?;
    let report = compact::compact(&image, &options, &source, Place::File(path), dir, &outputs)
        .with_context(|| format!("cannot compact {}", args.bootstrap.display()))?;
    if report.new_blobs.is_empty() && report.dropped.is_empty() {
        tracing::info!("nothing to compact: {} is the same image", report.bootstrap_path.display());
    } else {
        tell("compacted", &report);
    }
    finish(result, &report, started)
}

/// Arguments of `optimize`.
#[derive(Debug, Args)]
#[command(after_help = OPTIMIZE_HELP)]
pub struct OptimizeArgs {
    /// Bootstrap file, or a blob with its bootstrap inside.
    #[arg(short = 'B', long, value_name = "BOOTSTRAP")]
    bootstrap: PathBuf,
    /// Where blobs are.
    #[command(flatten)]
    source: SourceArgs,
    /// List of the files that are wanted first.
    #[arg(long, value_name = "FILE")]
    prefetch_files: PathBuf,
    /// Directory for the extra blob.
    #[arg(long, value_name = "DIR")]
    output_blob_dir: PathBuf,
    /// Write the bootstrap to this file.
    #[arg(short = 'O', long, value_name = "FILE", default_value = "optimized_bootstrap")]
    output_bootstrap: PathBuf,
    /// Accepted, of no effect.
    #[arg(short = 'b', long, value_name = "FILE", hide = true)]
    blob: Option<PathBuf>,
    /// Write the result to this file as JSON.
    #[arg(short = 'J', long, value_name = "FILE")]
    output_json: Option<PathBuf>,
}

const OPTIMIZE_HELP: &str = "The list is one absolute path on each line, or JSON, with which parts of files can be named as well (first byte, length):
  {\"version\":\"v1\",\"files\":[{\"path\":\"/usr/bin/python3\"},{\"path\":\"/lib/libc.so\",\"ranges\":[[0,4096]]}]}
Paths that are no regular file of the image are skipped with a warning.

Examples:
  nydus-image optimize -B image.boot -D blobs --prefetch-files list --output-blob-dir blobs -O optimized.boot";

/// Runs `optimize`.
pub fn optimize(args: &OptimizeArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    let dir = &args.output_blob_dir;
    ensure!(dir.is_dir(), "--output-blob-dir {} is not a directory", dir.display());
    let Some(source) = tools::source(None, &args.source)? else {
        bail!("the blobs are needed: give --blob-dir, --config or --backend-type");
    };
    let hints = optimize::read_hints(&args.prefetch_files)?;
    let image = Image::open(&args.bootstrap)?;
    let outputs = Outputs::new();
    watch_signals(&outputs)?;
    let result = result::start(args.output_json.as_deref(), &outputs)?;
    let place = Place::File(args.output_bootstrap.clone());
    let report = optimize::optimize(&image, &hints, &source, place, dir, &outputs)
        .with_context(|| format!("cannot optimize {}", args.bootstrap.display()))?;
    if report.new_blobs.is_empty() {
        tracing::info!("nothing to copy: {} is the same image", report.bootstrap_path.display());
    } else {
        tell("optimized", &report);
    }
    finish(result, &report, started)
}

/// The bootstrap of a chunk dictionary: `PATH` or `bootstrap=PATH`.
fn dictionary(text: &str) -> anyhow::Result<PathBuf> {
    let mut dicts = chunk_dicts(&[text.to_owned()])?;
    let none = "--chunk-dict: blobs of a chunk store are not kept, give the image whose blobs are to stay";
    dicts.images.pop().context(none)
}

/// A log line about what was done.
fn tell(what: &str, report: &Report) {
    let Report { bootstrap_path, blobs, new_blobs, dropped, .. } = report;
    tracing::info!(
        "successfully {what}: bootstrap {}\n{} blobs, {} of them new, {} not used any more",
        bootstrap_path.display(),
        blobs.len(),
        new_blobs.len(),
        dropped.len()
    );
    for blob in new_blobs {
        tracing::info!("new blob {}: {} chunks, {} bytes", blob.path.display(), blob.chunks, blob.size);
    }
}

/// The result as integrators read it.
fn finish(file: Option<Output>, report: &Report, started: Instant) -> anyhow::Result<()> {
    let new_blobs: Vec<String> = report.new_blobs.iter().map(|blob| blob.id.to_string()).collect();
    let built = Built {
        bootstrap: &report.bootstrap_path,
        blobs: &report.blobs,
        external: Default::default(),
        times: &[("dump_blob", started.elapsed())],
        events: &[],
        version: report.version,
        compressor: report.compressor,
        more: &[
            ("tree_digest", report.tree_digest.to_string().into()),
            ("new_blobs", new_blobs.into()),
            ("dropped_blobs", result::ids(&report.dropped).into()),
        ],
    };
    result::finish(file, &built)
}
