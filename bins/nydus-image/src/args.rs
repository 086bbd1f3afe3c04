//! The command line: names, defaults and rules that integrators rely on. Decides nothing.

use crate::chunkdict::ChunkdictCommand;
use crate::create::CreateArgs;
use crate::export::ExportArgs;
use crate::merge::MergeArgs;
use crate::repack::{CompactArgs, OptimizeArgs};
use crate::stat::StatArgs;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Args, Parser, Subcommand};
use std::path::PathBuf;
use tracing::Level;

/// Converts container layers to RAFS images and checks, inspects and unpacks RAFS images.
#[derive(Debug, Parser)]
#[command(name = "nydus-image", disable_version_flag = true, args_override_self = false)]
pub struct Cli {
    /// Write the log to this file, not to standard error; `.log` is added to a name without extension.
    #[arg(short = 'L', long, value_name = "PATH", global = true)]
    pub log_file: Option<PathBuf>,
    /// Least severe messages that are logged.
    #[arg(short = 'l', long, value_name = "LEVEL", default_value = "info", value_parser = levels(), global = true)]
    pub log_level: Level,
    /// Print what this program was built from.
    #[arg(short = 'V', long, action = ArgAction::SetTrue)]
    pub version: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Names of levels to levels.
fn levels() -> impl TypedValueParser<Value = Level> {
    PossibleValuesParser::new(cli_report::log::LEVELS).try_map(|name| name.parse::<Level>())
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build an image from a layer or a directory.
    Create(Box<CreateArgs>),
    /// Check that an image is sound, with --data every chunk of its blobs.
    Check(CheckArgs),
    /// Show what an image holds.
    Inspect(InspectArgs),
    /// Turn an image back into a tar or a directory.
    Unpack(UnpackArgs),
    /// Show what is different in two images, and what fetching the difference costs.
    Diff(DiffArgs),
    /// Check that an image is the one that a tree digest names, with blobs every chunk of it.
    Verify(VerifyArgs),
    /// Lay the images of layers over each other.
    Merge(Box<MergeArgs>),
    /// Write an image as a disk that the kernel mounts by itself.
    Export(ExportArgs),
    /// Write blobs anew that are small or mostly unused.
    Compact(Box<CompactArgs>),
    /// Copy what is wanted first into one extra blob.
    Optimize(Box<OptimizeArgs>),
    /// Make chunk dictionaries, and keep chunk stores.
    #[command(subcommand)]
    Chunkdict(ChunkdictCommand),
    /// Show statistics of images, and which chunks they share.
    Stat(StatArgs),
}

/// Which bootstrap.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct BootstrapArgs {
    /// Bootstrap file, or a blob with its bootstrap inside.
    #[arg(value_name = "BOOTSTRAP")]
    pub positional: Option<PathBuf>,
    /// The same as BOOTSTRAP.
    #[arg(short = 'B', long = "bootstrap", value_name = "BOOTSTRAP")]
    pub option: Option<PathBuf>,
}

/// Where blobs are; one of these where data is needed.
#[derive(Debug, Args, Clone, Default)]
pub struct SourceArgs {
    /// Directory with one file per blob, named by its id.
    #[arg(short = 'D', long, value_name = "DIR")]
    pub blob_dir: Option<PathBuf>,
    /// Configuration file of a daemon, whose backend has the blobs.
    #[arg(short = 'C', long, value_name = "FILE", conflicts_with = "blob_dir")]
    pub config: Option<PathBuf>,
    /// File with the key of an encrypted blob whose image does not hold it; may be given several times.
    #[arg(long, value_name = "FILE")]
    pub key_file: Vec<PathBuf>,
    /// Kind of backend that has the blobs which are not in --blob-dir: registry, and all that the daemon knows.
    #[arg(long, value_name = "TYPE", conflicts_with = "config")]
    pub backend_type: Option<String>,
    /// What stands under the backend's name in a configuration, JSON.
    #[arg(long, value_name = "JSON", conflicts_with = "backend_config_file")]
    pub backend_config: Option<String>,
    /// File with that.
    #[arg(long, value_name = "FILE")]
    pub backend_config_file: Option<PathBuf>,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub bootstrap: BootstrapArgs,
    #[command(flatten)]
    pub source: SourceArgs,
    /// Read every blob and check every chunk against its digest.
    #[arg(long)]
    pub data: bool,
    /// List all inodes and chunks.
    #[arg(short = 'v', long)]
    pub verbose: bool,
    /// Write the result to this file as JSON.
    #[arg(short = 'J', long, value_name = "FILE")]
    pub output_json: Option<PathBuf>,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    pub bootstrap: BootstrapArgs,
    #[command(flatten)]
    pub source: SourceArgs,
    /// Answer this request and exit; `help` lists them.
    #[arg(short = 'R', long, value_name = "REQUEST")]
    pub request: Option<String>,
}

/// Arguments of `unpack`.
#[derive(Debug, Args)]
pub struct UnpackArgs {
    #[command(flatten)]
    pub bootstrap: BootstrapArgs,
    #[command(flatten)]
    pub source: SourceArgs,
    /// File that serves every blob of the image that is not in --blob-dir: the blob of an image that has one, or the layer of which --blob-dir has the chunk table.
    #[arg(short = 'b', long, value_name = "FILE", conflicts_with_all = ["config", "backend_type"])]
    pub blob: Option<PathBuf>,
    /// Write a tar to this file or pipe; `-` for standard output.
    #[arg(long, value_name = "TAR", required_unless_present = "output_dir", conflicts_with = "output_dir")]
    pub output: Option<PathBuf>,
    /// Write the files into this directory, which must be new or empty.
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
}

/// Arguments of `diff`.
#[derive(Debug, Args)]
#[command(after_help = DIFF_HELP)]
pub struct DiffArgs {
    /// Bootstrap of the image that is there.
    #[arg(value_name = "A")]
    pub first: PathBuf,
    /// Bootstrap of the image that is wanted.
    #[arg(value_name = "B")]
    pub second: PathBuf,
    /// Leave modification times out.
    #[arg(long)]
    pub content: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
    /// Print what a node that holds A has to fetch for B: stored bytes of chunks, without the bootstrap.
    #[arg(long)]
    pub price: bool,
    /// Let the exit code tell whether there is more to fetch than SIZE: bytes, or with a unit (KB, MB, GB of 1000; KiB, MiB, GiB of 1024).
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub fail_over: Option<SizeArg>,
}

const DIFF_HELP: &str = "Lines:
  A PATH            only B has it
  D PATH            only A has it
  M PATH PART...    both have it; type, mode, owner, time, xattrs, content, target, device or link changed

Exit codes: 0 the trees are the same, 1 they are not, 2 they cannot be compared.
With --fail-over: 0 not over SIZE, 1 over, 2 as before.";

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub bootstrap: BootstrapArgs,
    /// Tree digest that the image must have, as `check` or the JSON of `create` tells it; one without times is known as such.
    #[arg(long, value_name = "HEX")]
    pub root: String,
    #[command(flatten)]
    pub source: SourceArgs,
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeArg(pub u64);

/// A decimal number, perhaps with a unit.
fn size(text: &str) -> Result<SizeArg, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err(format!("{unit:?} is no unit of bytes")),
    };
    let number: u64 = number.parse().map_err(|error| format!("{error}"))?;
    number.checked_mul(factor).map(SizeArg).ok_or_else(|| "it does not fit into 64 bits".to_owned())
}

impl BootstrapArgs {
    /// The file, whichever way it was given.
    pub fn path(&self) -> PathBuf {
        self.positional.clone().or_else(|| self.option.clone()).unwrap_or_default()
    }
}
