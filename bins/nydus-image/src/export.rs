//! `nydus-image export`: arguments to one call, and the one line that integrators parse.

use crate::create::watch_signals;
use crate::tools;
use anyhow::{Context, bail};
use clap::Args;
use rafs_builder::config;
use rafs_builder::export::{self, Options};
use rafs_builder::open::{Backend, BlobSource, Image, LocalFs};
use rafs_builder::output::Outputs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

const HELP: &str = "Examples:
  nydus-image export --block -B image.boot -D blobs -O image.disk && mount -t erofs -o loop,ro image.disk /mnt
  nydus-image export --block --verity --bootstrap image.boot --localfs-dir blobs

With --verity the options for veritysetup(8) are the one line on standard output.";

/// Arguments of `export`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct ExportArgs {
    /// Write a disk that the kernel mounts as EROFS; there is no other form yet.
    #[arg(long)]
    block: bool,
    /// Bootstrap file, or a blob with its bootstrap inside.
    #[arg(
        short = 'B',
        long,
        value_name = "FILE",
        requires = "localfs_dir",
        required_unless_present = "config"
    )]
    bootstrap: Option<PathBuf>,
    /// Directory with one file per blob, named by its id.
    #[arg(short = 'D', long, alias = "blob-dir", value_name = "DIR", requires = "bootstrap")]
    localfs_dir: Option<PathBuf>,
    /// JSON that names bootstrap and backend: {"type":"bootstrap","id":…,"config_v2":{"version":2,"backend":…,"metadata_path":…}}.
    #[arg(short = 'C', long, value_name = "FILE", conflicts_with_all = ["bootstrap", "localfs_dir"], requires = "output")]
    config: Option<PathBuf>,
    /// The disk; without it the bootstrap's name and `.disk`, in the directory of the blobs.
    #[arg(short = 'O', long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Threads that read, verify and write; one for each core if not given. The disk does not depend on it.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Put a hash tree of dm-verity behind the data, and print how it is opened.
    #[arg(long)]
    verity: bool,
}

/// Runs `export`.
pub fn run(args: &ExportArgs) -> anyhow::Result<()> {
    if !args.block {
        bail!("what to export to is missing: give --block");
    }
    let (bootstrap, backend) = image(args)?;
    let image = Image::open(&bootstrap)?;
    let output = match (&args.output, &args.localfs_dir) {
        (Some(path), _) => path.clone(),
        (None, Some(dir)) => {
            let mut name = bootstrap.file_name().context("the bootstrap has no file name")?.to_owned();
            name.push(".disk");
            dir.join(name)
        }
        (None, None) => bail!("no place for the disk: give --output"),
    };
    let options =
        Options { threads: args.threads.map_or_else(tools::threads, usize::from), verity: args.verity };
    let source = BlobSource::new(backend)?;
    let outputs = Outputs::new();
    watch_signals(&outputs)?;
    let report = export::block(&image, &source, &output, options, &outputs)
        .with_context(|| format!("cannot export {}", bootstrap.display()))?;
    tracing::info!("{}: {} bytes of file system", output.display(), report.size);
    if let Some(verity) = report.verity {
        writeln!(io::stdout(), "{verity}")?;
    }
    Ok(())
}

/// The bootstrap, and where its blobs are.
fn image(args: &ExportArgs) -> anyhow::Result<(PathBuf, Arc<dyn Backend>)> {
    match (&args.config, &args.bootstrap, &args.localfs_dir) {
        (Some(path), ..) => Ok(config::blob_cache_entry(path)?),
        (None, Some(bootstrap), Some(dir)) => {
            let backend = LocalFs { blob_file: None, dir: Some(dir.clone()), alt_dirs: Vec::new() };
            Ok((bootstrap.clone(), Arc::new(backend)))
        }
        _ => bail!("the image is missing: give --bootstrap and --localfs-dir, or --config"),
    }
}
