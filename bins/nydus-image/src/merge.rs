//! `nydus-image merge`: arguments to options, the result as a log line and JSON.

use crate::create::{real, watch_signals};
use crate::prefetch::{self, PrefetchPolicy};
use crate::result::{self, Built};
use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use rafs_builder::merge::{self, BlobId, Digest, Options, Source, Whiteouts};
use rafs_builder::output::{Outputs, Place};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Arguments of `merge`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct MergeArgs {
    /// Bootstraps of the layers, or blobs that hold them, the lowest layer first.
    #[arg(value_name = "SOURCE", required = true)]
    sources: Vec<PathBuf>,
    /// Write the merged bootstrap to this file.
    #[arg(short = 'B', long, value_name = "FILE", required_unless_present = "blob_dir")]
    bootstrap: Option<PathBuf>,
    /// Write it to this directory, named by its SHA-256.
    #[arg(short = 'D', long, value_name = "DIR")]
    blob_dir: Option<PathBuf>,
    /// An image below all layers, which may be merged itself.
    #[arg(long, value_name = "FILE")]
    parent_bootstrap: Option<OsString>,
    /// An image with whose chunks the layers were built, or `store=PATH`. May be given several times.
    #[arg(long, value_name = "BOOTSTRAP")]
    chunk_dict: Vec<String>,
    /// Markers of layers that say that something of a lower layer is gone.
    #[arg(long, value_enum, default_value_t = WhiteoutArg::Oci)]
    whiteout_spec: WhiteoutArg,
    /// What the paths to prefetch, read from standard input or --prefetch-files, are for.
    #[arg(long, value_enum, default_value_t = PrefetchPolicy::None)]
    prefetch_policy: PrefetchPolicy,
    /// File with the absolute paths to prefetch, one on each line, instead of standard input.
    #[arg(long, value_name = "FILE")]
    prefetch_files: Option<PathBuf>,
    /// SHA-256 of the blob of each SOURCE; of a layer that stays as it was, that of its metadata.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = digest)]
    blob_digests: Option<Vec<Digest>>,
    /// Id of the data blob of each SOURCE.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = BlobId::new)]
    original_blob_ids: Option<Vec<BlobId>>,
    /// Size of the blob of each SOURCE.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    blob_sizes: Option<Vec<u64>>,
    /// SHA-256 of the table of contents of each SOURCE.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = digest)]
    blob_toc_digests: Option<Vec<Digest>>,
    /// Size of the table of contents of each SOURCE.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    blob_toc_sizes: Option<Vec<u32>>,
    /// Configuration file of a daemon: accepted, blobs are not read.
    #[arg(short = 'C', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write the result to this file as JSON.
    #[arg(short = 'J', long, value_name = "FILE")]
    output_json: Option<PathBuf>,
}

const EXAMPLES: &str = "Examples:
  nydus-image merge -B image.boot blobs/<digest of layer 1> blobs/<digest of layer 2>
  nydus-image merge --parent-bootstrap base.boot -D images -J result.json layer.boot";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WhiteoutArg {
    /// Files called `.wh.NAME`.
    Oci,
    /// Devices 0/0 and opaque attributes.
    Overlayfs,
    /// None: every entry is itself.
    None,
}

/// A SHA-256 in hex.
fn digest(text: &str) -> Result<Digest, String> {
    merge::parse_digest(text).ok_or_else(|| "expected the 64 hexadecimal digits of a SHA-256".to_owned())
}

/// Runs `merge`.
pub fn run(args: &MergeArgs) -> anyhow::Result<()> {
    let options = options(args)?;
    let place = place(args)?;
    check_result(args)?;
    let outputs = Outputs::new();
    watch_signals(&outputs)?;
    // Before the work, so that a place that cannot be written is told at once.
    let result = result::start(args.output_json.as_deref(), &outputs)?;
    let report = merge::merge(&options, place, &outputs).context("cannot merge")?;
    tracing::info!(
        "successfully merged: bootstrap {}\n{} blobs, {} entries",
        report.bootstrap_path.display(),
        report.blobs.len(),
        report.entries,
    );
    let (reading, writing) = report.times;
    let built = Built {
        bootstrap: &report.bootstrap_path,
        blobs: &report.blobs,
        external: Default::default(),
        times: &[("merge_bootstrap", reading), ("dump_bootstrap", writing)],
        events: &[],
        version: report.version,
        compressor: report.compressor,
        more: &[("tree_digest", report.tree_digest.map(|digest| digest.to_string()).into())],
    };
    result::finish(result, &built)
}

fn options(args: &MergeArgs) -> anyhow::Result<Options> {
    let dicts = chunk_dicts(&args.chunk_dict)?;
    let mut sources: Vec<Source> = args.sources.iter().map(Source::at).collect();
    fill("--blob-digests", &args.blob_digests, &mut sources, |s, v| s.blob_digest = Some(v))?;
    fill("--original-blob-ids", &args.original_blob_ids, &mut sources, |s, v| s.original_blob_id = Some(v))?;
    fill("--blob-sizes", &args.blob_sizes, &mut sources, |s, v| s.blob_size = Some(v))?;
    fill("--blob-toc-digests", &args.blob_toc_digests, &mut sources, |s, v| s.toc_digest = Some(v))?;
    fill("--blob-toc-sizes", &args.blob_toc_sizes, &mut sources, |s, v| s.toc_size = Some(v))?;
    Ok(Options {
        parent: parent(args.parent_bootstrap.as_deref()),
        sources,
        chunk_dicts: dicts.images,
        chunk_store: dicts.store,
        whiteouts: match args.whiteout_spec {
            WhiteoutArg::Oci => Whiteouts::Oci,
            WhiteoutArg::Overlayfs => Whiteouts::Overlayfs,
            WhiteoutArg::None => Whiteouts::None,
        },
        prefetch: match prefetch::read(args.prefetch_policy, args.prefetch_files.as_deref(), false)? {
            paths if args.prefetch_policy == PrefetchPolicy::Fs => paths,
            _ => Vec::new(),
        },
    })
}

/// Gives each source its item of a list, if there is one.
fn fill<T: Clone>(
    name: &str,
    list: &Option<Vec<T>>,
    sources: &mut [Source],
    set: impl Fn(&mut Source, T),
) -> anyhow::Result<()> {
    let Some(list) = list else { return Ok(()) };
    let (found, wanted) = (list.len(), sources.len());
    ensure!(found == wanted, "{name} has {found} items for {wanted} sources: one for each is needed");
    sources.iter_mut().zip(list).for_each(|(source, item)| set(source, item.clone()));
    Ok(())
}

/// The bootstrap of a parent; integrators give an empty path for none.
pub fn parent(path: Option<&OsStr>) -> Option<PathBuf> {
    path.filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Where chunks are that are stored already.
#[derive(Debug, Default)]
pub struct ChunkDicts {
    /// Bootstraps.
    pub images: Vec<PathBuf>,
    /// A chunk store.
    pub store: Option<PathBuf>,
}

/// Chunk dictionaries as they are given: `PATH`, `bootstrap=PATH` or `store=PATH`, of the latter one at most.
pub fn chunk_dicts(texts: &[String]) -> anyhow::Result<ChunkDicts> {
    let mut dicts = ChunkDicts::default();
    for text in texts {
        match text.split_once('=') {
            Some(("bootstrap", path)) => dicts.images.push(path.into()),
            Some(("store", path)) => {
                ensure!(
                    Path::new(path).is_file(),
                    "there is no chunk store {path}: `chunkdict add` makes one"
                );
                ensure!(dicts.store.is_none(), "--chunk-dict names two chunk stores: one is possible");
                dicts.store = Some(path.into());
            }
            Some((kind, _)) if !kind.contains('/') && !Path::new(text).exists() => {
                bail!("invalid chunk dict type {kind:?}: give `bootstrap=PATH`, `store=PATH` or `PATH`")
            }
            _ => dicts.images.push(text.into()),
        }
    }
    Ok(dicts)
}

/// Where the bootstrap goes.
fn place(args: &MergeArgs) -> anyhow::Result<Place> {
    match (&args.bootstrap, &args.blob_dir) {
        (Some(path), _) => Ok(Place::File(path.clone())),
        (None, Some(dir)) => {
            ensure!(dir.is_dir(), "--blob-dir {} is not a directory", dir.display());
            Ok(Place::Directory(dir.clone()))
        }
        (None, None) => bail!("no place for the bootstrap: give --bootstrap or --blob-dir"),
    }
}

/// Refuses to write the result over what is read, or over the bootstrap. The bootstrap itself may take the place of a source.
fn check_result(args: &MergeArgs) -> anyhow::Result<()> {
    let Some(path) = args.output_json.as_deref().filter(|path| !path.exists() || path.is_file()) else {
        return Ok(());
    };
    let parent = parent(args.parent_bootstrap.as_deref());
    let others = args.sources.iter().chain(&parent).chain(&args.bootstrap);
    for other in others {
        let same = real(other) == real(path);
        ensure!(!same, "--output-json {} is the same file as {}", path.display(), other.display());
    }
    Ok(())
}
