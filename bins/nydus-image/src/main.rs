//! `nydus-image`: command line in, one call of `rafs-builder`, exit code out.
//!
//! Results go to standard output, everything else to standard error. A failure is one line there, `Error: <what>: <why>`,
//! and exit code 1; a wrong command line is exit code 2, and so are layers that do not fit together. Only `diff` answers by its exit code, and its
//! failures are 2 like those of diff(1).

mod args;
mod chunkdict;
mod create;
mod export;
mod merge;
mod prefetch;
mod repack;
mod result;
mod stat;
mod tools;
mod trees;

use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use rafs_builder::merge::MergeError;
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = start(&cli);
    match done {
        Ok(code) => code,
        Err(error) => {
            let line = cli_report::chain(error.as_ref());
            // Nothing can be done when standard error is gone as well.
            let _told = writeln!(io::stderr(), "Error: {line}").is_ok();
            exit_code(&cli, &error)
        }
    }
}

/// 1; or 2 where the layers of a merge do not fit together, since converters build them anew then, and for trouble of `diff`.
fn exit_code(cli: &Cli, error: &anyhow::Error) -> ExitCode {
    let merging = error.downcast_ref::<MergeError>();
    let differing = matches!(cli.command, Some(Command::Diff(_)));
    let two = differing || merging.is_some_and(MergeError::is_inconsistent);
    if two { ExitCode::from(2) } else { ExitCode::FAILURE }
}

/// Starts the log, then does what the command line says.
fn start(cli: &Cli) -> anyhow::Result<ExitCode> {
    cli_report::log::start(cli.log_level, cli.log_file.as_deref())?;
    run(cli)
}

/// Does what the command line says.
fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    if cli.version {
        io::stdout().write_all(build_info::BUILD_INFO.render(None).as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    match &cli.command {
        Some(Command::Create(args)) => create::run(args),
        Some(Command::Check(args)) => tools::check(args),
        Some(Command::Inspect(args)) => tools::inspect(args),
        Some(Command::Unpack(args)) => tools::unpack(args),
        Some(Command::Merge(args)) => merge::run(args),
        Some(Command::Export(args)) => export::run(args),
        Some(Command::Compact(args)) => repack::compact(args),
        Some(Command::Optimize(args)) => repack::optimize(args),
        Some(Command::Chunkdict(command)) => chunkdict::run(command),
        Some(Command::Stat(args)) => stat::run(args),
        Some(Command::Verify(args)) => trees::verify(args),
        Some(Command::Diff(args)) => return trees::diff(args),
        // Integrators rely on success here.
        None => Ok(writeln!(io::stdout(), "{}", Cli::command().render_usage())?),
    }?;
    Ok(ExitCode::SUCCESS)
}
