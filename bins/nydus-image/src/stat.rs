//! `nydus-image stat`: arguments to a library call, the result as text or JSON.

use clap::Args;
use rafs_builder::output::Outputs;
use rafs_builder::stat::{Base, Statistics};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

/// Arguments of `stat`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct StatArgs {
    /// Bootstrap file, or a blob with its bootstrap inside.
    #[arg(
        short = 'B',
        long,
        value_name = "BOOTSTRAP",
        required_unless_present = "blob_dir",
        conflicts_with = "blob_dir"
    )]
    bootstrap: Option<PathBuf>,
    /// Directory of images: each file without an extension that is a bootstrap or holds one.
    #[arg(short = 'D', long, value_name = "DIR")]
    blob_dir: Option<PathBuf>,
    /// A further image, to be compared with these.
    #[arg(short = 'T', long, value_name = "BOOTSTRAP")]
    target: Option<PathBuf>,
    /// Configuration file of a daemon: accepted, blobs are not read.
    #[arg(short = 'C', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Accepted: each image says how its chunks are digested.
    #[arg(long, value_name = "ALGORITHM", value_parser = ["blake3", "sha256"], hide = true)]
    digester: Option<String>,
    /// Write the result to this file as JSON instead of printing it.
    #[arg(short = 'J', long, value_name = "FILE")]
    output_json: Option<PathBuf>,
}

const EXAMPLES: &str = "Examples:
  nydus-image stat -B image.boot
  nydus-image stat -D images -T new.boot -J result.json";

/// Runs `stat`.
pub fn run(args: &StatArgs) -> anyhow::Result<()> {
    let base = match (&args.bootstrap, &args.blob_dir) {
        (Some(path), _) => Base::Bootstrap(path.clone()),
        (None, dir) => Base::Directory(dir.clone().unwrap_or_default()),
    };
    let statistics = Statistics::collect(&base, args.target.as_deref())?;
    if let Some(path) = &args.output_json {
        Outputs::new().write(path, serde_json::to_string(&statistics)?.as_bytes())?;
        return Ok(());
    }
    let mut out = BufWriter::new(io::stdout().lock());
    statistics.print(&mut out)?;
    Ok(out.flush()?)
}
