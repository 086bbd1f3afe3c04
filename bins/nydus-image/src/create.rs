//! `nydus-image create`: arguments to options, a progress bar, the result as log lines and JSON.

mod cache;
mod external;
mod reference;
mod stargz;
mod tarfs;
mod units;

use crate::merge::{chunk_dicts, parent};
use crate::prefetch::{self, PrefetchPolicy};
use crate::result::{self, Built};
use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use rafs_builder::create::{
    self, BlobId, Compressor, DigestAlgorithm, End, Input, Options, Places, Report, Version, Whiteouts,
};
use rafs_builder::output::{Outputs, Place};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Arguments of `create`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CreateArgs {
    /// A tar, compressed or not, a pipe with one, `-` for standard input, or a directory.
    #[arg(value_name = "SOURCE")]
    source: PathBuf,
    /// What SOURCE is and what it becomes; without it a directory is `dir-rafs` and anything else `tar-rafs`.
    #[arg(short = 't', long = "type", alias = "source-type", value_enum)]
    kind: Option<Kind>,
    /// Write the bootstrap to this file.
    #[arg(short = 'B', long, value_name = "FILE", required_unless_present_any = ["blob_dir", "blob_inline_meta"])]
    bootstrap: Option<PathBuf>,
    /// Put the bootstrap into the blob, which -b or -D says where to write.
    #[arg(long, alias = "inline-bootstrap", conflicts_with_all = ["bootstrap", "blob_id"])]
    blob_inline_meta: bool,
    /// Put chunk digests and a table of contents into the blob.
    #[arg(long, value_enum, value_name = "FEATURE")]
    features: Option<Feature>,
    /// Write the blob, named by its id, to this directory, and the bootstrap too where -B is not given.
    #[arg(short = 'D', long, value_name = "DIR")]
    blob_dir: Option<PathBuf>,
    /// Write the blob to this file or pipe.
    #[arg(short = 'b', long, value_name = "FILE")]
    blob: Option<PathBuf>,
    /// Name of the blob instead of its SHA-256.
    #[arg(long, value_name = "ID")]
    blob_id: Option<String>,
    /// Largest chunk in bytes, a power of two from 0x1000 to 0x1000000: 0x100000 if not given, 0x400000 for `estargztoc-ref`.
    #[arg(long, value_name = "SIZE", value_parser = number)]
    chunk_size: Option<u64>,
    /// Compression of chunks.
    #[arg(long, value_enum, default_value_t = CompressorArg::Zstd)]
    compressor: CompressorArg,
    /// Level of zstd: 1 is fast, 19 is small.
    #[arg(long, value_name = "LEVEL", default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=19))]
    compression_level: i32,
    /// Digest of chunks.
    #[arg(long, value_enum, default_value_t = DigesterArg::Blake3)]
    digester: DigesterArg,
    /// Threads that hash and compress; one for each core, at most 16, if not given. The image does not depend on it.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Markers that say that something of a lower layer is gone: of --parent-bootstrap. Without it those of a directory are left out, those of a tar kept.
    #[arg(long, value_enum, default_value_t = WhiteoutArg::Oci)]
    whiteout_spec: WhiteoutArg,
    /// What the paths to prefetch, read from standard input or --prefetch-files, are for.
    #[arg(long, value_enum, default_value_t = PrefetchPolicy::None)]
    prefetch_policy: PrefetchPolicy,
    /// File with the absolute paths to prefetch, one on each line, instead of standard input.
    #[arg(long, value_name = "FILE")]
    prefetch_files: Option<PathBuf>,
    /// Write the result to this file as JSON.
    #[arg(short = 'J', long, value_name = "FILE")]
    output_json: Option<PathBuf>,
    /// Show progress: on a terminal, always, or never.
    #[arg(long, value_enum, default_value_t = Progress::Auto)]
    progress: Progress,
    /// RAFS version.
    #[arg(short = 'v', long, value_parser = ["5", "6"], default_value = "6")]
    fs_version: String,
    /// Accepted; the same source always gives the same image.
    #[arg(long)]
    repeatable: bool,
    /// RAFS v5: start decompressed chunks at multiples of 4096, as RAFS v6 always does.
    #[arg(long)]
    aligned_chunk: bool,
    /// Accepted without effect.
    #[arg(long, hide = true)]
    disable_check: bool,
    /// Accepted without effect.
    #[arg(long, hide = true)]
    crc: bool,
    /// Configuration file of a daemon; needed only with --parent-bootstrap or --chunk-dict.
    #[arg(short = 'C', long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Use chunks of this image instead of storing them again: `PATH` or `bootstrap=PATH`; of all images of a chunk store: `store=PATH`. May be given several
    /// times; the first image that has a chunk counts, then the store.
    #[arg(long, value_name = "BOOTSTRAP")]
    chunk_dict: Vec<String>,
    /// Lay SOURCE over this image, and use its chunks. The image stays as it is.
    #[arg(long, value_name = "FILE")]
    parent_bootstrap: Option<OsString>,
    #[command(flatten)]
    units: units::UnitArgs,
    #[command(flatten)]
    cache: cache::CacheArgs,
    #[command(flatten)]
    stargz: stargz::StargzArgs,
    #[command(flatten)]
    external: external::ExternalArgs,
    #[command(flatten)]
    later: LaterArgs,
}

impl CreateArgs {
    /// The chunk size as given or as it is for this kind.
    fn chunk_size(&self) -> u64 {
        let table = self.kind == Some(Kind::EstargztocRef);
        self.chunk_size.unwrap_or(if table { 0x40_0000 } else { 0x10_0000 })
    }
}

/// Options of 2.x that this version does not have: known, so that using them is told from a typing error.
#[derive(Debug, Args)]
#[command(next_help_heading = "Not supported by this version yet")]
struct LaterArgs {
    /// Added to all offsets in the blob.
    #[arg(long, value_name = "OFFSET", hide = true)]
    blob_offset: Option<u64>,
}

const EXAMPLES: &str = "Examples:
  nydus-image create -B image.boot -D blobs layer.tar.gz
  zstd -dc layer.tar.zst | nydus-image create -B image.boot -b image.blob -
  nydus-image create -t dir-rafs -D images -J result.json rootfs/
  nydus-image create -t tar-tarfs -B layer.boot layer.tar   the tar itself stays the blob
  nydus-image create -t estargztoc-ref -B layer.boot --blob-id SHA256 stargz.index.json
  nydus-image create -t targz-ref --blob-inline-meta --features blob-toc -b layer.meta layer.tar.gz   the layer stays where it is
  nydus-image create -t dir-rafs --attributes FILE -B model.boot -b model.blob model/   data of listed files stays where it is
  nydus-image create --parent-bootstrap base.boot -D images changes.tar
  nydus-image create --chunk-dict bootstrap=known.boot -B image.boot -b image.blob layer.tar";

/// Kinds of conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    #[value(alias = "directory")]
    DirRafs,
    TarRafs,
    TargzRafs,
    EstargzRafs,
    TargzRef,
    EstargzRef,
    #[value(alias = "stargz_index")]
    EstargztocRef,
    TarTarfs,
}

/// Further parts of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Feature {
    BlobToc,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CompressorArg {
    None,
    #[value(name = "lz4_block")]
    Lz4Block,
    Zstd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DigesterArg {
    Blake3,
    Sha256,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WhiteoutArg {
    Oci,
    Overlayfs,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Progress {
    Auto,
    Always,
    Never,
}

/// A decimal number, or a hexadecimal one behind `0x`.
fn number(text: &str) -> Result<u64, std::num::ParseIntError> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    }
}

/// Runs `create`.
pub fn run(args: &CreateArgs) -> anyhow::Result<()> {
    args.units.check(args)?;
    refuse_later(args)?;
    if args.kind == Some(Kind::TarTarfs) {
        tarfs::check(args)?;
    }
    if let Some(kind) = args.kind.filter(|kind| kind.is_reference()) {
        reference::check(args, kind)?;
    }
    let options = options(args)?;
    let outputs = Outputs::new();
    watch_signals(&outputs)?;
    let (input, size) = input(args)?;
    // Before the work, so that a place that cannot be written is told at once.
    let result = result::start(args.output_json.as_deref(), &outputs)?;
    let external = external::Pending::new(args, &input, &options, &outputs)?;
    let bar = progress_bar(args.progress, size);
    let progress = |count| bar.inc(count);
    let report = match input {
        Input::Tar(stream) if args.kind == Some(Kind::TarTarfs) => {
            create::create_tarfs(stream, &options, tarfs::place(args)?, &outputs, &progress)
        }
        Input::Tar(stream) if args.kind == Some(Kind::EstargztocRef) => {
            create::create_stargz(stream, &options, &args.stargz.options(args)?, &outputs)
        }
        Input::Tar(stream) if args.kind.is_some_and(Kind::is_reference) => {
            create::create_reference(stream, &options, places(args)?, &outputs, &progress)
        }
        input => match (args.cache.dir(), &args.bootstrap) {
            (Some(dir), Some(bootstrap)) => {
                check_different(args)?;
                let bootstrap = Place::File(bootstrap.clone());
                create::create_cache(input, &options, bootstrap, dir, &outputs, &progress)
            }
            _ => create::create(input, &options, places(args)?, &outputs, &progress),
        },
    };
    bar.finish_and_clear();
    let report = report.with_context(|| format!("cannot build an image of {}", args.source.display()))?;
    let written = external.map(|external| external.write(args, &report, &options, &outputs)).transpose()?;
    tell(&report);
    let external = written.unwrap_or_default();
    let (data, bootstrap) = report.times;
    let built = Built {
        bootstrap: &report.bootstrap_path,
        blobs: &report.blobs,
        external: (external.bootstrap, external.blobs),
        times: &[("dump_blob", data), ("dump_bootstrap", bootstrap)],
        events: &[
            ("blob_uncompressed_size", report.uncompressed_size),
            ("dedup_chunks", report.duplicates.0),
            ("dedup_uncompressed_size", report.duplicates.1),
        ],
        version: options.version,
        compressor: options.compressor,
        more: &[("tree_digest", report.tree_digest.map(|digest| digest.to_string()).into())],
    };
    result::finish(result, &built)
}

/// Refuses what this version does not do, by name.
fn refuse_later(args: &CreateArgs) -> anyhow::Result<()> {
    let later = &args.later;
    args.cache.check(args.kind, &args.fs_version)?;
    args.external.check(args)?;
    if let Some(option) = args.stargz.misplaced(args.kind) {
        bail!(
            "{option} conflicts with a conversion that is not estargztoc-ref: the chunk table is in the blob"
        );
    }
    let offset = later.blob_offset.unwrap_or(0);
    ensure!(offset == 0, "--blob-offset is not supported by this version yet");
    Ok(())
}

fn options(args: &CreateArgs) -> anyhow::Result<Options> {
    let size = args.chunk_size();
    let chunk_size =
        u32::try_from(size).ok().filter(|s| s.is_power_of_two() && (0x1000..=0x100_0000).contains(s));
    let chunk_size = chunk_size
        .with_context(|| format!("--chunk-size {size:#x} is not a power of two from 0x1000 to 0x1000000"))?;
    let blob_id = args.blob_id.as_deref().map(BlobId::new).transpose().context("--blob-id cannot be used")?;
    let (defaults, dicts) = (Options::default(), chunk_dicts(&args.chunk_dict)?);
    let version = if args.fs_version == "5" { Version::V5 } else { Version::V6 };
    if let Some(kind) = args.kind.filter(|kind| version == Version::V5 && !kind.stores_chunks()) {
        bail!("--type {} conflicts with --fs-version 5: it needs RAFS v6", kind.name());
    }
    let toc = args.features == Some(Feature::BlobToc);
    ensure!(
        !toc || version == Version::V6,
        "--features blob-toc conflicts with --fs-version 5: it needs RAFS v6"
    );
    Ok(Options {
        version,
        aligned_chunks: args.aligned_chunk,
        chunk_size,
        batch_size: args.units.batch_size(chunk_size)?,
        compressor: match args.compressor {
            // The stored blob is one that nobody keeps.
            _ if args.cache.dir().is_some() => Compressor::None,
            _ if args.kind == Some(Kind::TarTarfs) => Compressor::None,
            _ if args.kind == Some(Kind::EstargztocRef) => Compressor::Gzip,
            _ if args.kind.is_some_and(Kind::is_reference) => Compressor::Gzip,
            CompressorArg::None => Compressor::None,
            CompressorArg::Lz4Block => Compressor::Lz4Block,
            CompressorArg::Zstd => Compressor::Zstd,
        },
        level: args.compression_level,
        digester: match args.digester {
            DigesterArg::Blake3 => DigestAlgorithm::Blake3,
            DigesterArg::Sha256 => DigestAlgorithm::Sha256,
        },
        threads: args.threads.map_or(defaults.threads, usize::from),
        blob_id,
        whiteouts: match args.whiteout_spec {
            WhiteoutArg::Oci => Whiteouts::Oci,
            WhiteoutArg::Overlayfs => Whiteouts::Overlayfs,
            WhiteoutArg::None => Whiteouts::None,
        },
        prefetch: prefetch::read(
            args.prefetch_policy,
            args.prefetch_files.as_deref(),
            is_stdin(&args.source),
        )?,
        prefetch_table: args.prefetch_policy == PrefetchPolicy::Fs,
        external: Arc::new(args.external.files(chunk_size)?),
        encryption: args.units.encryption(args)?,
        reference_states: false,
        toc,
        parent: parent(args.parent_bootstrap.as_deref()),
        chunk_dicts: dicts.images,
        chunk_store: dicts.store,
    })
}

fn is_stdin(source: &Path) -> bool {
    source == Path::new("-") || source == Path::new("/dev/stdin")
}

/// Where bootstrap and blob go.
fn places(args: &CreateArgs) -> anyhow::Result<Places> {
    let dir = |what: &str| {
        let dir = args
            .blob_dir
            .clone()
            .with_context(|| format!("no place for the {what}: give {what} or --blob-dir"))?;
        ensure!(dir.is_dir(), "--blob-dir {} is not a directory", dir.display());
        Ok::<_, anyhow::Error>(Place::Directory(dir))
    };
    let bootstrap = match &args.bootstrap {
        _ if args.blob_inline_meta => None,
        Some(path) => Some(Place::File(path.clone())),
        None => Some(dir("--bootstrap")?),
    };
    let blob = args.blob.clone().map_or_else(|| dir("--blob"), |path| Ok(Place::File(path)))?;
    check_different(args)?;
    Ok(Places { bootstrap, blob })
}

/// Refuses outputs in each other's place or in that of the source, whatever they are called. Pipes and devices may be given twice.
fn check_different(args: &CreateArgs) -> anyhow::Result<()> {
    let external = args.external.beside(args.bootstrap.as_deref());
    let outputs = [
        ("--bootstrap", &args.bootstrap),
        ("--blob", &args.blob),
        ("--output-json", &args.output_json),
        ("--external-blob", &args.external.external_blob),
        ("the image of external files", &external),
    ];
    let mut seen = vec![("SOURCE", real(&args.source))];
    for (name, path) in outputs {
        let Some(path) = path.as_deref().filter(|path| !path.exists() || path.is_file()) else { continue };
        let place = real(path);
        if let Some((other, _)) = seen.iter().find(|(_, seen)| *seen == place) {
            bail!("{name} {} is the same file as {other}", path.display());
        }
        seen.push((name, place));
    }
    Ok(())
}

/// `path` without links and dots, as far as it is there.
pub fn real(path: &Path) -> PathBuf {
    let in_parent = || {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        parent.canonicalize().ok().zip(path.file_name()).map(|(parent, name)| parent.join(name))
    };
    path.canonicalize().ok().or_else(in_parent).unwrap_or_else(|| path.to_path_buf())
}

/// Opens the source. With it its size in bytes, where that is known.
fn input(args: &CreateArgs) -> anyhow::Result<(Input<'static>, Option<u64>)> {
    let path = &args.source;
    let shown = path.display();
    let wants_dir = args.kind == Some(Kind::DirRafs);
    if path == Path::new("-") {
        ensure!(!wants_dir, "standard input is not a directory");
        return Ok((Input::Tar(Box::new(io::stdin())), None));
    }
    let meta = std::fs::metadata(path).with_context(|| format!("cannot read {shown}"))?;
    if meta.is_dir() {
        ensure!(wants_dir || args.kind.is_none(), "{shown} is a directory: use --type dir-rafs");
        return Ok((Input::Directory(path.clone()), None));
    }
    ensure!(!wants_dir, "{shown} is not a directory");
    let kind = meta.file_type();
    let is_stream = kind.is_file() || kind.is_fifo() || kind.is_char_device();
    ensure!(is_stream, "{shown} is neither a file nor a pipe nor a directory");
    let mut file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
    let mut magic = [0; 4];
    let size = if kind.is_file() { Some(meta.len()) } else { None };
    if size.is_some() {
        use std::io::Seek;
        let read = file.read(&mut magic).with_context(|| format!("cannot read {shown}"))?;
        file.rewind().with_context(|| format!("cannot read {shown}"))?;
        ensure!(read > 0, "{shown} is empty: not a tar");
    }
    // Progress counts plain bytes, whose number a compressed file does not tell.
    let compressed = matches!(magic, [0x1F, 0x8B, ..] | [0x28, 0xB5, 0x2F, 0xFD]);
    Ok((Input::Tar(Box::new(file)), size.filter(|_| !compressed)))
}

/// Removes what is half done when a signal ends the program.
pub fn watch_signals(outputs: &Outputs) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot watch signals")?;
    let outputs = outputs.clone();
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let abandoned = outputs.abandon();
            let left =
                if abandoned.came_too_late() { "the image is complete" } else { "nothing was written" };
            // Nothing can be done when standard error is gone as well.
            let _told = writeln!(io::stderr(), "Error: ended by signal {signal}; {left}").is_ok();
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

fn progress_bar(progress: Progress, size: Option<u64>) -> ProgressBar {
    let shown = match progress {
        Progress::Auto => io::stderr().is_terminal(),
        Progress::Always => true,
        Progress::Never => false,
    };
    if !shown {
        return ProgressBar::hidden();
    }
    let (bar, form) = match size {
        Some(size) => (ProgressBar::new(size), "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {bytes_per_sec} {elapsed}"),
    };
    if let Ok(style) = ProgressStyle::with_template(form) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// The result, for the log.
fn tell(report: &Report) {
    if report.whiteouts > 0 {
        tracing::warn!("{} whiteouts were left out: --whiteout-spec none keeps them", report.whiteouts);
    }
    if report.skipped_xattrs > 0 {
        tracing::warn!(
            "{} extended attributes outside the namespaces of Linux were left out",
            report.skipped_xattrs
        );
    }
    match report.end {
        Some(End::Unmarked) => {
            tracing::warn!("the tar has no end mark: it may be cut off behind its last entry")
        }
        Some(End::Trailing(at)) => {
            tracing::warn!("what is behind the end of the tar, from byte {at} on, was left out")
        }
        Some(End::Marked) | None => {}
    }
    let blobs: Vec<&str> = report.blobs.iter().map(BlobId::as_str).collect();
    let blobs = if blobs.is_empty() { vec!["<none>"] } else { blobs };
    tracing::info!(
        "successfully built: bootstrap {}\ndata blob size: {:#x}\ndata blobs: {blobs:?}\n{} entries, {} chunks, {} more that were there before",
        if report.bootstrap_path.as_os_str().is_empty() {
            "<none>".into()
        } else {
            report.bootstrap_path.to_string_lossy()
        },
        report.blob_size,
        report.entries,
        report.chunks,
        report.duplicates.0,
    );
}
