//! `nydusd`: command line in, one call of `rafs-daemon`, exit code out.
//!
//! Standard output has nothing but help, the version and the answer of `--check-config`. A failure is one line on standard
//! error, `Error: <what>: <why>`, and exit code 1; a wrong command line is exit code 2.

mod args;

use anyhow::{Context, bail, ensure};
use args::{Cli, Command, FuseArgs};
use clap::Parser;
use clap::error::ErrorKind;
use rafs_daemon::config::{self, Config};
use rafs_daemon::{Options, PrefetchOptions};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;

/// Longest list of files, in bytes.
const MAX_LIST: u64 = 16 << 20;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let line = cli_report::chain(error.as_ref());
            // Nothing can be done when standard error is gone as well.
            let _told = writeln!(io::stderr(), "Error: {line}").is_ok();
            ExitCode::FAILURE
        }
    }
}

/// Does what the command line says.
fn start() -> anyhow::Result<()> {
    let cli = match Cli::try_parse() {
        Err(error) if error.kind() == ErrorKind::DisplayVersion => {
            let text = build_info::BUILD_INFO.render(Some("nydusd"));
            return Ok(io::stdout().write_all(text.as_bytes())?);
        }
        Err(error) => error.exit(),
        Ok(cli) => cli,
    };
    match cli.command {
        Some(Command::Fuse(args)) => fuse(&args),
        Some(Command::Singleton(_)) => later("singleton"),
        Some(Command::Virtiofs(_)) => later("virtiofs"),
        Some(Command::Nbd(_)) => later("nbd"),
        Some(Command::Uffd(_)) => later("uffd"),
        None => fuse(&cli.fuse),
    }
}

/// The answer to what comes later.
fn later(name: &str) -> anyhow::Result<()> {
    bail!("{name} is not supported by this version yet")
}

/// Runs `fuse`.
fn fuse(args: &FuseArgs) -> anyhow::Result<()> {
    cli_report::log::start(args.global.log_level, args.global.log_file.as_deref())?;
    refuse_later(args)?;
    if let (true, Some(path)) = (args.global.check_config, &args.global.config) {
        return check_config(path, args.global.strict_config);
    }
    let options = options(args)?;
    warn_without_effect(args);
    if let Err(warning) = rafs_daemon::limits::raise_open_files(args.global.rlimit_nofile) {
        tracing::warn!("{}", cli_report::chain(&warning));
    }
    Ok(rafs_daemon::run(&options)?)
}

/// Refuses what this version does not do, by name.
fn refuse_later(args: &FuseArgs) -> anyhow::Result<()> {
    let global = &args.global;
    let options = [
        (global.apisock.is_some(), "--apisock"),
        (global.supervisor.is_some(), "--supervisor"),
        (global.id.is_some(), "--id"),
        (global.upgrade, "--upgrade"),
        (global.backend_source.is_some(), "--backend-source"),
        (args.shared_dir.is_some(), "--shared-dir"),
        (args.writable, "--writable"),
        (args.dedup_db.is_some(), "--dedup-db"),
        (args.virtual_mountpoint != Path::new("/"), "--virtual-mountpoint other than `/`"),
    ];
    match options.into_iter().find(|(given, _)| *given) {
        Some((_, name)) => later(name),
        None => Ok(()),
    }
}

/// Says which options change nothing.
fn warn_without_effect(args: &FuseArgs) {
    if args.global.log_rotation_size > 0 {
        tracing::warn!("--log-rotation-size has no effect in this version");
    }
}

/// Prints what is wrong with the configuration, or that nothing is.
fn check_config(path: &Path, strict: bool) -> anyhow::Result<()> {
    let parsed = config::load(path)?;
    let shown = path.display();
    let mut lines: Vec<String> =
        parsed.warnings.iter().map(|unknown| format!("configuration {shown}: {unknown}")).collect();
    if strict {
        parsed.strict(path)?;
    }
    if lines.is_empty() {
        lines.push(format!("configuration {shown} is valid"));
    }
    Ok(writeln!(io::stdout(), "{}", lines.join("\n"))?)
}

fn options(args: &FuseArgs) -> anyhow::Result<Options> {
    let Some(bootstrap) = args.bootstrap.clone() else {
        bail!("a mount without --bootstrap is not supported by this version yet");
    };
    let mut config = load(args)?;
    config.tree_digest = args.tree_digest.or(config.tree_digest);
    Ok(Options {
        bootstrap,
        mountpoint: args.mountpoint.clone().context("--mountpoint is missing")?,
        config,
        prefetch: PrefetchOptions {
            record_profile: args.record_profile.clone(),
            profile: args.prefetch_profile.clone(),
            files: args.prefetch_files.as_deref().map(listed).transpose()?,
        },
        threads: args.fuse_threads.map(usize::from),
    })
}

/// Paths that the list at `path` has.
fn listed(path: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let shown = path.display();
    let mut bytes = Vec::new();
    let file: Box<dyn Read> = match path.to_str() {
        Some("-") => Box::new(io::stdin()),
        _ => Box::new(File::open(path).with_context(|| format!("cannot read --prefetch-files {shown}"))?),
    };
    let read = file.take(MAX_LIST + 1).read_to_end(&mut bytes);
    read.with_context(|| format!("cannot read --prefetch-files {shown}"))?;
    ensure!(bytes.len() as u64 <= MAX_LIST, "--prefetch-files {shown} is longer than {MAX_LIST} bytes");
    rafs_daemon::read_list(&bytes).with_context(|| format!("--prefetch-files {shown}"))
}

/// The configuration; unknown fields are logged, or refused when that is wanted.
fn load(args: &FuseArgs) -> anyhow::Result<Config> {
    let Some(path) = &args.global.config else {
        let dir = args.localfs_dir.as_ref().context("--bootstrap needs --config or --localfs-dir")?;
        return Ok(config::from_local_dir(dir));
    };
    let parsed = config::load(path)?;
    if args.global.strict_config {
        return Ok(parsed.strict(path)?);
    }
    for unknown in &parsed.warnings {
        tracing::warn!("configuration {}: {unknown}", path.display());
    }
    Ok(parsed.config)
}
