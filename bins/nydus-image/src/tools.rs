//! `check`, `inspect` and `unpack`: arguments to library calls.

use crate::args::{CheckArgs, InspectArgs, SourceArgs, UnpackArgs};
use anyhow::{Context, bail};
use rafs_builder::open::{BlobSource, Image};
use rafs_builder::{chain, check, inspect, unpack};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// What `--version` prints; converters look for `Version:`, blanks and something that starts with `v`.
pub fn version_text() -> String {
    format!(" \rVersion: \tv{}\n", env!("CARGO_PKG_VERSION"))
}

/// Threads to decode with: all cores.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs `check`.
pub fn check(args: &CheckArgs) -> anyhow::Result<()> {
    refuse_config(&args.source)?;
    let start = Instant::now();
    let image = Image::open(&args.bootstrap.path())?;
    let mut out = BufWriter::new(io::stdout().lock());
    if args.verbose {
        check::list(&image, &mut out)?;
    } else {
        check::structure(&image)?;
    }
    let loading = start.elapsed();
    check::print_blobs(&image, &mut out)?;
    if args.data {
        // The lines about the structure stand whatever becomes of the data.
        out.flush()?;
        check_data(args, &image, &mut out)?;
    }
    if let Some(path) = &args.output_json {
        let json = check::json(&image, &json_version(), loading)?;
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(out.flush()?)
}

/// Checks the data of all blobs; each problem is a line on standard error.
fn check_data(args: &CheckArgs, image: &Image, out: &mut dyn Write) -> anyhow::Result<()> {
    if args.source.blob_dir.is_none() && !image.blobs().is_empty() {
        bail!("--data needs the directory of the blobs, --blob-dir");
    }
    let source = BlobSource::local(None, args.source.blob_dir.clone())?;
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
fn json_version() -> String {
    format!("v{}", env!("CARGO_PKG_VERSION"))
}

/// Runs `inspect`.
pub fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    refuse_config(&args.source)?;
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
    refuse_config(&args.source)?;
    if let Some(kind) = &args.backend_type {
        if args.backend_config.is_none() && args.backend_config_file.is_none() {
            bail!("--backend-type needs --backend-config or --backend-config-file");
        }
        bail!("--backend-type {kind} is not supported by this version yet; use --blob-dir or --blob");
    }
    if args.backend_config.is_some() || args.backend_config_file.is_some() {
        bail!("--backend-config and --backend-config-file need --backend-type");
    }
    if args.blob.is_none() && args.source.blob_dir.is_none() {
        bail!("the blobs are needed: give --blob-dir or --blob");
    }
    let image = Image::open(&args.bootstrap.path())?;
    let source = BlobSource::local(args.blob.clone(), args.source.blob_dir.clone())?;
    let stop = stop_on_signals()?;
    Ok(unpack::unpack(&image, &source, &target(args)?, threads(), &stop)?)
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

/// Configuration files come with the remote backends.
fn refuse_config(source: &SourceArgs) -> anyhow::Result<()> {
    match &source.config {
        Some(path) => {
            bail!("--config {} is not supported by this version yet; use --blob-dir", path.display())
        }
        None => Ok(()),
    }
}
