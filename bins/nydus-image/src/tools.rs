//! `check`, `inspect` and `unpack`: arguments to library calls.

use crate::args::{CheckArgs, InspectArgs, SourceArgs, UnpackArgs};
use anyhow::{Context, bail};
use build_info::BUILD_INFO;
use cli_report::chain;
use rafs_builder::open::{Backend, BlobSource, Image, LocalFs};
use rafs_builder::output::Outputs;
use rafs_builder::{check, config, inspect, keys, unpack};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Threads to decode with: all cores.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs `check`.
pub fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let start = Instant::now();
    let image = Image::open(&args.bootstrap.path())?;
    let mut out = BufWriter::new(io::stdout().lock());
    if args.verbose {
        check::list(&image, &mut out)?;
    }
    let (_, digest) = check::structure_and_digest(&image)?;
    let loading = start.elapsed();
    check::print_blobs(&image, &mut out)?;
    if let Some(digest) = digest {
        writeln!(out, "tree digest: {digest}")?;
    }
    if args.data {
        // The lines about the structure stand whatever becomes of the data.
        out.flush()?;
        check_data(args, &image, &mut out)?;
    }
    if let Some(path) = &args.output_json {
        let json = check::json(&image, &json_version(), loading, digest)?;
        Outputs::new().write(path, json.as_bytes())?;
    }
    Ok(out.flush()?)
}

/// Checks the data of all blobs; each problem is a line on standard error.
fn check_data(args: &CheckArgs, image: &Image, out: &mut dyn Write) -> anyhow::Result<()> {
    let Some(source) = source(None, &args.source)? else {
        bail!("--data needs the blobs: give --blob-dir, --config or --backend-type");
    };
    let report = check::data(image, &source, threads())?;
    for problem in &report.problems {
        writeln!(io::stderr(), "{}", chain(problem))?;
    }
    if report.more > 0 {
        writeln!(io::stderr(), "and {} more", report.more)?;
    }
    let problems = report.more + report.problems.len() as u64;
    if problems > 0 {
        bail!("{}: {problems} problem(s) in the data", image.path().display());
    }
    writeln!(out, "RAFS blob data is valid: {} chunks, {} bytes", report.chunks, report.bytes)?;
    Ok(())
}

/// `<describe>-<commit>` in JSON output.
pub fn json_version() -> String {
    format!("{}-{}", BUILD_INFO.package_version, BUILD_INFO.git_commit)
}

/// Runs `inspect`.
pub fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    let image = Image::open(&args.bootstrap.path())?;
    let mut out = BufWriter::new(io::stdout().lock());
    let done = match &args.request {
        Some(request) => inspect::answer(&image, request, &mut out),
        None => inspect::interactive(&image, &mut io::stdin().lock(), &mut out),
    };
    // What was said before a failure is part of the answer.
    out.flush()?;
    Ok(done?)
}

/// Runs `unpack`.
pub fn unpack(args: &UnpackArgs) -> anyhow::Result<()> {
    let Some(source) = source(args.blob.as_ref(), &args.source)? else {
        bail!("the blobs are needed: give --blob-dir, --blob, --config or --backend-type");
    };
    let image = Image::open(&args.bootstrap.path())?;
    let stop = stop_on_signals()?;
    Ok(unpack::unpack(&image, &source, &target(args)?, threads(), &stop)?)
}

/// A directory of blobs.
fn in_dir(dir: &Path) -> Arc<dyn Backend> {
    Arc::new(LocalFs { dir: Some(dir.to_path_buf()), ..LocalFs::default() })
}

/// A file that is any blob.
fn the_file(file: &Path) -> Arc<dyn Backend> {
    Arc::new(LocalFs { blob_file: Some(file.to_path_buf()), ..LocalFs::default() })
}

/// `second` for what `first` has not.
fn either(first: Arc<dyn Backend>, second: Arc<dyn Backend>) -> Arc<dyn Backend> {
    Arc::new(config::Either { first, second })
}

/// Where the blobs are; `None` when nothing was said about it.
pub fn source(file: Option<&PathBuf>, args: &SourceArgs) -> anyhow::Result<Option<BlobSource>> {
    let files = match (&args.blob_dir, file) {
        (Some(dir), Some(file)) => Some(either(in_dir(dir), the_file(file))),
        (Some(dir), None) => Some(in_dir(dir)),
        (None, file) => file.map(|file| the_file(file)),
    };
    let remote = match &args.config {
        Some(path) => Some(config::load(path)?),
        None => remote(args)?,
    };
    let backend = match (files, remote) {
        (None, None) => return Ok(None),
        (Some(one), None) | (None, Some(one)) => one,
        (Some(first), Some(second)) => either(first, second),
    };
    let keys = keys::read_all(&args.key_file)?;
    Ok(Some(BlobSource::new(backend)?.with_keys(keys)))
}

/// The backend that the options describe.
fn remote(args: &SourceArgs) -> anyhow::Result<Option<Arc<dyn Backend>>> {
    let SourceArgs { backend_type, backend_config, backend_config_file, .. } = args;
    let (text, origin) = match (backend_config, backend_config_file) {
        (Some(text), _) => (text.clone(), PathBuf::from("--backend-config")),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path);
            (text.with_context(|| format!("cannot read {}", path.display()))?, path.clone())
        }
        (None, None) => match backend_type.as_deref() {
            None => return Ok(None),
            Some("localfs") => bail!("--backend-type localfs: use --blob-dir instead"),
            Some(_) => bail!("--backend-type needs --backend-config or --backend-config-file"),
        },
    };
    match backend_type.as_deref() {
        Some("localfs") => bail!("--backend-type localfs: use --blob-dir instead"),
        Some(kind) => Ok(Some(config::parse(kind, &text, &origin)?)),
        None => bail!("--backend-config and --backend-config-file need --backend-type"),
    }
}

/// Where to unpack to.
fn target(args: &UnpackArgs) -> anyhow::Result<unpack::Target> {
    Ok(match (&args.output, &args.output_dir) {
        (Some(path), _) if path == Path::new("-") => unpack::Target::Stdout,
        (Some(path), _) => unpack::Target::Tar(path.clone()),
        (None, Some(path)) => unpack::Target::Directory(path.clone()),
        (None, None) => bail!("give --output or --output-dir"),
    })
}

/// A flag that SIGINT and SIGTERM set, so that temporary files are removed. The second signal ends the process at once.
fn stop_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}
