//! The command line: names, defaults and rules that integrators rely on. Decides nothing.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use rafs_daemon::config::TreeDigest;
use std::ffi::OsString;
use std::path::PathBuf;
use tracing::Level;

const EXAMPLES: &str = "\
Examples:
  nydusd --bootstrap image.boot --localfs-dir /blobs --mountpoint /mnt
      Serve an image whose blobs are in a directory, which is the cache as well.
  nydusd fuse --config config.json --bootstrap image.boot --mountpoint /mnt --log-level warn
      Serve an image whose blobs are where the configuration says.
  nydusd --config config.json --bootstrap image.boot --mountpoint /mnt --record-profile /profiles --prefetch-profile /profiles
      Note what a start reads first; the next start, here or elsewhere, has it fetched in that order before it is read.
  nydusd --check-config --strict-config --config config.json
      Say what is wrong with a configuration, misspelt names included.";

/// Mounts RAFS images and fetches their data on demand.
#[derive(Debug, Parser)]
#[command(
    name = "nydusd",
    // The program prints this build's facts itself.
    version = "",
    propagate_version = true,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    override_usage = "nydusd [fuse] [OPTIONS] --mountpoint <DIR>",
    after_help = EXAMPLES
)]
pub struct Cli {
    /// Without a subcommand, the options are those of `fuse`.
    #[command(flatten)]
    pub fuse: FuseArgs,
    /// What to be.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Subcommands. Those of later versions are known, so that using them is told from a typing error.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve an image through FUSE; the same as no subcommand.
    #[command(override_usage = "nydusd fuse [OPTIONS] --mountpoint <DIR>", after_help = EXAMPLES)]
    Fuse(Box<FuseArgs>),
    /// Serve images through fscache, on request.
    #[command(hide = true)]
    Singleton(Later),
    /// Serve a virtual machine.
    #[command(hide = true)]
    Virtiofs(Later),
    /// Serve an image as a network block device.
    #[command(hide = true)]
    Nbd(Later),
    /// Serve an image to page faults in user space.
    #[command(hide = true)]
    Uffd(Later),
}

/// Arguments of a subcommand that this version does not have.
#[derive(Debug, Args)]
pub struct Later {
    /// Anything.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub rest: Vec<OsString>,
}

/// Options of all subcommands.
#[derive(Debug, Args)]
pub struct GlobalArgs {
    /// Configuration file: version 1 (JSON) or 2 (JSON or TOML).
    #[arg(short = 'C', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Refuse a configuration with unknown fields.
    #[arg(long, requires = "config")]
    pub strict_config: bool,
    /// Say whether the configuration is valid, and exit.
    #[arg(long, requires = "config")]
    pub check_config: bool,
    /// Least severe messages that are logged.
    #[arg(short = 'l', long, value_name = "LEVEL", default_value = "info", value_parser = levels())]
    pub log_level: Level,
    /// Write the log to this file, not to standard error; `.log` is added to a name without extension.
    #[arg(short = 'L', long, value_name = "PATH")]
    pub log_file: Option<PathBuf>,
    /// Size at which a log file is rotated; no effect in this version.
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    pub log_rotation_size: u64,
    /// Files that may be open; 0 leaves the limit alone.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub rlimit_nofile: u64,
    /// Serve the HTTP API on this Unix socket (later version).
    #[arg(short = 'A', long, value_name = "PATH")]
    pub apisock: Option<PathBuf>,
    /// Name of this daemon (later version).
    #[arg(long, value_name = "ID", requires = "supervisor")]
    pub id: Option<String>,
    /// Socket of the supervisor, which keeps the state of a daemon (later version).
    #[arg(long, value_name = "PATH", requires = "id")]
    pub supervisor: Option<PathBuf>,
    /// Wait for the state of another daemon (later version).
    #[arg(long)]
    pub upgrade: bool,
    /// Where to ask for the backend with its credentials (later version).
    #[arg(long, value_name = "URL")]
    pub backend_source: Option<String>,
}

/// Options of `fuse`.
#[derive(Debug, Args)]
pub struct FuseArgs {
    /// Directory to mount at; it must exist.
    #[arg(short = 'M', long, value_name = "DIR", required_unless_present = "check_config")]
    pub mountpoint: Option<PathBuf>,
    /// Metadata of the image; needs --config or --localfs-dir.
    #[arg(short = 'B', long, value_name = "FILE", conflicts_with = "shared_dir")]
    pub bootstrap: Option<PathBuf>,
    /// Mount only the image whose tree has this digest, as `nydus-image` tells it; instead of what the configuration says.
    #[arg(long, value_name = "HEX", requires = "bootstrap")]
    pub tree_digest: Option<TreeDigest>,
    /// Directory with the blobs, also the cache; instead of a configuration.
    #[arg(short = 'D', long, value_name = "DIR", conflicts_with = "config")]
    pub localfs_dir: Option<PathBuf>,
    /// Threads that serve requests, 1 to 1024; without it as many as suit the machine.
    #[arg(long, visible_alias = "thread-num", value_name = "N", value_parser = value_parser!(u16).range(1..=1024))]
    pub fuse_threads: Option<u16>,
    /// What becomes of requests that a dead daemon had read.
    #[arg(long, value_enum, value_name = "POLICY", default_value_t = FailoverPolicy::Resend)]
    pub failover_policy: FailoverPolicy,
    /// Fetch the files and directories that this file lists before they are read, one absolute path in each line (`-`: standard input);
    /// instead of those that the image lists.
    #[arg(long, value_name = "FILE", requires = "bootstrap")]
    pub prefetch_files: Option<PathBuf>,
    /// Fetch what was recorded by --record-profile, in the order in which it was read, before it is read. In a directory it is the
    /// file named after the image.
    #[arg(long, value_name = "FILE", requires = "bootstrap")]
    pub prefetch_profile: Option<PathBuf>,
    /// Record in this file what is read first, until 5 minutes after the first read; written at the end, at SIGUSR1 and each 30 seconds.
    /// In a directory the file is named after the image. A complete profile of the image is left as it is.
    #[arg(long, value_name = "FILE", requires = "bootstrap")]
    pub record_profile: Option<PathBuf>,
    /// Where in the mount the image appears (later version).
    #[arg(short = 'm', long, value_name = "PATH", default_value = "/")]
    pub virtual_mountpoint: PathBuf,
    /// Pass this directory through instead of an image (later version).
    #[arg(short = 's', long, value_name = "DIR")]
    pub shared_dir: Option<PathBuf>,
    /// Mount so that files can be changed (later version).
    #[arg(long)]
    pub writable: bool,
    /// Database of chunks that are local already (later version).
    #[arg(long, value_name = "FILE")]
    pub dedup_db: Option<PathBuf>,
    #[command(flatten)]
    pub global: GlobalArgs,
}

/// What becomes of requests that a dead daemon had read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailoverPolicy {
    /// Nothing; they hang.
    None,
    /// The kernel sends them again.
    Resend,
    /// The kernel lets them fail.
    Flush,
}

/// Names of levels to levels.
fn levels() -> impl TypedValueParser<Value = Level> {
    PossibleValuesParser::new(cli_report::log::LEVELS).try_map(|name| name.parse::<Level>())
}
