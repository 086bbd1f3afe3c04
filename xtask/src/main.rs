//! Chores of this repository: `cargo xtask CHORE...`. One file per chore; this one knows names and arguments.
//!
//! All chores of a command line are parsed before the first runs, so that a typing error costs no time. Exit code 0: all done;
//! 1: a chore failed, told on standard error; 2: the command line is wrong.
#![forbid(unsafe_code)]

mod bench;
mod ci;
mod fuzz;
mod golden;
mod layers;
mod process;
mod quickstart;
mod soak;
mod tidy;
mod workspace;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask CHORE [ARGUMENTS] [CHORE [ARGUMENTS]]...

  layers                        fail on a dependency between our crates that the architecture does not list
  tidy                          fail on missing headers, dead links, unused dependencies, licences not in deny.toml, ...
  ci                            run everything that decides whether a change lands, without installing packages
  fuzz [TARGET] [--seconds N]   run the fuzz targets (bootstrap, blob_meta, header, docker_config, tar_stream, sections, spans, inflate, stargz_toc, gpt, ready_map; all by default, as many at once as there are processors) for N seconds each, 60 by default
  soak [dragonfly|--seconds N]  run the fuzz targets for N seconds in all, 3600 by default, the property tests with many cases, and two real Dragonfly peers where dfdaemon is installed; or the last alone
  golden                        copy the reference bootstraps that tests must always have from RAFS_GOLDEN into the tree
  bench                         print the figures of images and mounts (minutes; as root)
  quickstart [IMAGE]            build, convert IMAGE (docker save, OCI archive or layout, a tar or a directory; default: the Rust toolchain), mount, run, compare
";

/// One chore of the command line, with its arguments.
#[derive(Debug, PartialEq, Eq)]
enum Chore {
    Layers,
    Tidy,
    Ci,
    Fuzz { target: Option<String>, seconds: u64 },
    Soak { seconds: u64 },
    SoakDragonfly,
    Golden,
    Bench,
    Quickstart { image: Option<PathBuf> },
}

const NAMES: [&str; 8] = ["layers", "tidy", "ci", "fuzz", "soak", "golden", "bench", "quickstart"];

fn main() -> ExitCode {
    let chores = match parse(std::env::args_os().skip(1)) {
        Ok(chores) => chores,
        Err(problem) => {
            eprintln!("{problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let mut failed = false;
    // A later chore runs after a failed one: both reports are wanted.
    for chore in &chores {
        if let Err(error) = run(chore) {
            eprintln!("Error: {error:#}");
            failed = true;
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn run(chore: &Chore) -> anyhow::Result<()> {
    match chore {
        Chore::Layers => layers::layers(),
        Chore::Tidy => tidy::tidy(),
        Chore::Ci => ci::ci(),
        Chore::Fuzz { target, seconds } => fuzz::fuzz(target.as_deref(), *seconds),
        Chore::Soak { seconds } => soak::soak(*seconds),
        Chore::SoakDragonfly => soak::dragonfly(),
        Chore::Golden => golden::golden(),
        Chore::Bench => bench::bench(),
        Chore::Quickstart { image } => quickstart::quickstart(image.as_deref()),
    }
}

/// Chores in the order they are given. Errors: what is wrong, as text.
fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Vec<Chore>, String> {
    let mut rest = arguments.into_iter().peekable();
    let mut chores = Vec::new();
    while let Some(name) = rest.next() {
        let mut values = Vec::new();
        while let Some(value) = rest.next_if(|next| !NAMES.iter().any(|name| next == name)) {
            values.push(value);
        }
        chores.push(chore(&name, values)?);
    }
    if chores.is_empty() { Err("a chore is missing".into()) } else { Ok(chores) }
}

fn chore(name: &OsString, mut values: Vec<OsString>) -> Result<Chore, String> {
    let name = name.to_string_lossy();
    match &*name {
        "layers" => nothing_else(values).map(|()| Chore::Layers),
        "tidy" => nothing_else(values).map(|()| Chore::Tidy),
        "ci" => nothing_else(values).map(|()| Chore::Ci),
        "golden" => nothing_else(values).map(|()| Chore::Golden),
        "bench" => nothing_else(values).map(|()| Chore::Bench),
        "fuzz" => {
            let (seconds, mut rest) = take_seconds(values)?;
            let target = (!rest.is_empty()).then(|| rest.remove(0).to_string_lossy().into_owned());
            if let Some(unknown) =
                target.as_deref().filter(|target| fuzz::targets().all(|known| known != *target))
            {
                return Err(format!(
                    "no fuzz target {unknown}; there are {}",
                    fuzz::targets().collect::<Vec<_>>().join(", ")
                ));
            }
            nothing_else(rest)?;
            Ok(Chore::Fuzz { target, seconds: seconds.unwrap_or(60) })
        }
        "soak" if values.first().is_some_and(|value| value == "dragonfly") => {
            nothing_else(values.split_off(1)).map(|()| Chore::SoakDragonfly)
        }
        "soak" => {
            let (seconds, rest) = take_seconds(values)?;
            nothing_else(rest)?;
            Ok(Chore::Soak { seconds: seconds.unwrap_or(3600) })
        }
        "quickstart" => {
            let mut values = values.into_iter();
            let image = values.next();
            if let Some(option) = image.as_ref().filter(|image| image.to_string_lossy().starts_with('-')) {
                return Err(format!("unknown option {}", option.display()));
            }
            nothing_else(values.collect())?;
            Ok(Chore::Quickstart { image: image.map(PathBuf::from) })
        }
        _ => Err(format!("unknown chore {name}")),
    }
}

/// Takes `--seconds N` or `--seconds=N` out of `values`.
fn take_seconds(values: Vec<OsString>) -> Result<(Option<u64>, Vec<OsString>), String> {
    let mut seconds = None;
    let mut rest = Vec::new();
    let mut values = values.into_iter();
    while let Some(value) = values.next() {
        let text = value.to_string_lossy().into_owned();
        let number = match text.strip_prefix("--seconds") {
            Some("") => values.next().map(|number| number.to_string_lossy().into_owned()),
            Some(number) => number.strip_prefix('=').map(str::to_owned),
            None => {
                rest.push(value);
                continue;
            }
        };
        let number = number.and_then(|number| number.parse().ok()).filter(|&number| number > 0);
        seconds = Some(number.ok_or("--seconds takes a number of seconds, at least 1")?);
    }
    Ok((seconds, rest))
}

fn nothing_else(values: Vec<OsString>) -> Result<(), String> {
    match values.first() {
        Some(value) => Err(format!("unexpected argument {}", value.display())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Vec<Chore>, String> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn chores_take_their_own_arguments() {
        assert_eq!(parsed("layers tidy"), Ok(vec![Chore::Layers, Chore::Tidy]));
        let fuzz = Chore::Fuzz { target: Some("bootstrap".into()), seconds: 5 };
        assert_eq!(parsed("fuzz --seconds 5 bootstrap ci"), Ok(vec![fuzz, Chore::Ci]));
        assert_eq!(parsed("fuzz"), Ok(vec![Chore::Fuzz { target: None, seconds: 60 }]));
        assert_eq!(parsed("soak --seconds=7"), Ok(vec![Chore::Soak { seconds: 7 }]));
        assert_eq!(parsed("soak dragonfly tidy"), Ok(vec![Chore::SoakDragonfly, Chore::Tidy]));
        let image = Some(PathBuf::from("a.tar"));
        assert_eq!(parsed("quickstart a.tar"), Ok(vec![Chore::Quickstart { image }]));
        assert_eq!(parsed("quickstart"), Ok(vec![Chore::Quickstart { image: None }]));
    }

    #[test]
    fn the_usage_names_every_fuzz_target() {
        let listed = fuzz::targets().collect::<Vec<_>>().join(", ");
        assert!(USAGE.contains(&format!("({listed};")), "{listed}");
    }

    #[test]
    fn wrong_command_lines_are_refused() {
        for line in [
            "",
            "lint",
            "tidy now",
            "fuzz nothing",
            "fuzz --seconds",
            "fuzz --seconds 0",
            "soak dragonfly 1",
            "soak 1 dragonfly",
            "quickstart -x",
            "quickstart a b",
        ] {
            assert!(parsed(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn the_usage_has_a_line_for_each_chore() {
        for name in NAMES {
            assert_eq!(
                USAGE.lines().filter(|line| line.starts_with(&format!("  {name} "))).count(),
                1,
                "{name}"
            );
        }
    }
}
