//! `nydus-image chunkdict`: arguments to a library call, the result as log lines and JSON. [`store`] has what is about a chunk store.

mod store;

use crate::create::{real, watch_signals};
use crate::result::{self, Built};
use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use rafs_builder::chunkdict::{self, Options, Report};
use rafs_builder::output::Outputs;
use std::path::PathBuf;
use store::StoreCommand;

/// Subcommands of `chunkdict`.
#[derive(Debug, Subcommand)]
pub enum ChunkdictCommand {
    /// Make a chunk dictionary of what images have in common, and of what stays in their versions.
    Generate(GenerateArgs),
    #[command(flatten)]
    Store(StoreCommand),
}

/// Arguments of `chunkdict generate`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct GenerateArgs {
    /// Bootstraps, or blobs that hold them, each in a directory called IMAGE:VERSION.
    #[arg(value_name = "BOOTSTRAP", required = true)]
    sources: Vec<PathBuf>,
    /// Write the dictionary, which is a bootstrap, to this file.
    #[arg(short = 'B', long, value_name = "FILE")]
    bootstrap: PathBuf,
    /// File that remembers images from run to run, as sqlite:///PATH; all that it knows is learnt from. It is a store of its own, no SQLite database.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Directory of blobs: accepted, blobs are not read.
    #[arg(short = 'D', long, value_name = "DIR")]
    blob_dir: Option<PathBuf>,
    /// Configuration file of a daemon: accepted, blobs are not read.
    #[arg(short = 'C', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Accepted: a dictionary has nothing to prefetch.
    #[arg(long, value_name = "POLICY", value_parser = ["fs", "blob", "none"], hide = true)]
    prefetch_policy: Option<String>,
    /// List the blobs of the dictionary.
    #[arg(short = 'v', long)]
    verbose: bool,
    /// Write the result to this file as JSON.
    #[arg(short = 'J', long, value_name = "FILE")]
    output_json: Option<PathBuf>,
}

const EXAMPLES: &str = "Examples:
  nydus-image chunkdict generate -B dict.boot redis:7.0.1/boot redis:7.0.2/boot redis:7.0.3/boot
  nydus-image chunkdict generate -B dict.boot --database sqlite:///var/lib/chunks images/*/boot
  nydus-image create --chunk-dict bootstrap=dict.boot -B image.boot -D blobs layer.tar";

/// Runs `chunkdict`.
pub fn run(command: &ChunkdictCommand) -> anyhow::Result<()> {
    match command {
        ChunkdictCommand::Generate(args) => generate(args),
        ChunkdictCommand::Store(command) => store::run(command),
    }
}

fn generate(args: &GenerateArgs) -> anyhow::Result<()> {
    let database = args.database.as_deref().map(database).transpose()?.flatten();
    let options = Options { sources: args.sources.clone(), database };
    check_different(args, &options)?;
    let outputs = Outputs::new();
    watch_signals(&outputs)?;
    let result = result::start(args.output_json.as_deref(), &outputs)?;
    let report =
        chunkdict::generate(&options, &args.bootstrap, &outputs).context("cannot make a dictionary")?;
    tell(&report, args.verbose);
    let (reading, choosing, writing) = report.times;
    let built = Built {
        bootstrap: &report.bootstrap_path,
        blobs: &report.blobs,
        external: Default::default(),
        times: &[
            ("load_tree_from_bootstrap", reading),
            ("build_tree", choosing),
            ("dump_bootstrap", writing),
        ],
        events: &[],
        version: report.version,
        compressor: report.compressor,
        more: &[],
    };
    result::finish(result, &built)
}

/// The file of a database URL; `None` for one in memory, where nothing is remembered.
fn database(url: &str) -> anyhow::Result<Option<PathBuf>> {
    match url.strip_prefix("sqlite://") {
        Some(":memory:") => Ok(None),
        Some(path) if path.starts_with('/') => Ok(Some(path.into())),
        Some(path) => bail!("--database: {path:?} is no absolute path: give sqlite:///PATH"),
        None => bail!("--database {url:?} is not supported: give sqlite:///PATH"),
    }
}

/// Refuses outputs in the place of each other, of a source or of the database.
fn check_different(args: &GenerateArgs, options: &Options) -> anyhow::Result<()> {
    let mut seen: Vec<PathBuf> = options.sources.iter().map(|path| real(path)).collect();
    let outputs = [("--database", &options.database), ("--output-json", &args.output_json)]
        .map(|(n, p)| (n, p.as_ref()));
    for (name, path) in outputs.into_iter().chain([("--bootstrap", Some(&args.bootstrap))]) {
        let Some(path) = path.filter(|path| !path.exists() || path.is_file()) else { continue };
        let place = real(path);
        ensure!(!seen.contains(&place), "{name} {} is the file of something else", path.display());
        seen.push(place);
    }
    Ok(())
}

/// The result, for the log.
fn tell(report: &Report, verbose: bool) {
    if !report.alone.is_empty() {
        tracing::info!(
            "like no other image, so not recommended for one dictionary: {}",
            report.alone.join(", ")
        );
    }
    for id in &report.small_blobs {
        tracing::warn!("blob {id} is left out: what is known of it is below 4096 bytes");
    }
    for id in &report.left_out {
        tracing::warn!("blob {id} is left out: a dictionary has 254 blobs at most");
    }
    if report.blobs.is_empty() {
        tracing::warn!(
            "the dictionary is empty: nothing stays in the versions of an image, and no ten images are alike"
        );
    }
    if verbose {
        report.blobs.iter().for_each(|id| tracing::info!("blob {id}"));
    }
    tracing::info!(
        "successfully made a dictionary: bootstrap {}\n{} blobs, {} chunks of {} that are known",
        report.bootstrap_path.display(),
        report.blobs.len(),
        report.chunks.0,
        report.chunks.1,
    );
}
