//! `cargo xtask fuzz`: builds and runs the fuzz targets of the crates that have some, on the stable compiler.
//!
//! libFuzzer needs coverage counters, not a sanitizer, and the compiler can insert them by itself; what a sanitizer would
//! find in C, safe Rust does not compile. Inputs start from seeds that the targets make and, where they are, from the golden
//! images. What is found stays in the build directory, so the next run goes on from there.

use crate::{golden, process, workspace};
use anyhow::{Context, ensure};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// A package of fuzz targets, which is a workspace of its own.
#[derive(Debug)]
pub struct Package {
    /// Relative to the workspace.
    pub manifest: &'static str,
    targets: &'static [&'static str],
}

/// All of them. No two targets have the same name.
pub const PACKAGES: [Package; 3] = [
    Package { manifest: "crates/rafs-format/fuzz/Cargo.toml", targets: &["bootstrap", "blob_meta"] },
    Package {
        manifest: "crates/oci-registry/fuzz/Cargo.toml",
        targets: &["header", "docker_config", "tar_stream"],
    },
    Package {
        manifest: "fuzz/Cargo.toml",
        targets: &["sections", "spans", "inflate", "stargz_toc", "gpt", "ready_map"],
    },
];

/// Names of all targets.
pub fn targets() -> impl Iterator<Item = &'static str> {
    PACKAGES.iter().flat_map(|package| package.targets.iter().copied())
}

/// Coverage counters at every edge, a table of where they are, and the operands of comparisons.
const RUSTFLAGS: [&str; 6] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// An input that takes longer, in seconds, is a hang.
const TIMEOUT: u32 = 10;
/// Memory of a whole process that keeps its corpus, in MiB. The targets themselves bound what one input may take.
const RSS_LIMIT: u32 = 2048;
/// Longest input in bytes: the golden images fit, most of them far.
const MAX_LEN: u32 = 1 << 19;

/// Runs `target`, or all targets, for `seconds` each, as many at the same time as there are processors. Errors: an input that crashes, hangs or takes
/// too much memory.
pub fn fuzz(target: Option<&str>, seconds: u64) -> anyhow::Result<()> {
    let home = workspace::scratch("fuzz")?;
    let mut failed = Vec::new();
    for batch in prepare(&home, target)?.chunks(processors()) {
        let running = batch.iter().map(|ready| Running::start(ready, &home, seconds));
        for running in running.collect::<anyhow::Result<Vec<_>>>()? {
            failed.extend(running.wait()?);
        }
    }
    ensure!(failed.is_empty(), "fuzz: {} failed", failed.join(", "));
    Ok(())
}

/// Runs all targets for about `total` seconds, divided equally.
pub fn fuzz_all_within(total: u64) -> anyhow::Result<()> {
    fuzz(None, share(total, targets().count(), processors()))
}

/// How long each of `count` targets runs when `at_once` run at the same time and all of them take `total` seconds; at least 1.
fn share(total: u64, count: usize, at_once: usize) -> u64 {
    let rounds = u64::try_from(count.div_ceil(at_once)).unwrap_or(u64::MAX);
    (total / rounds.max(1)).max(1)
}

/// Processors that this process may use.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// A target that is built.
struct Ready {
    name: &'static str,
    program: PathBuf,
    dirs: Dirs,
}

/// Builds `target`, or all targets, and makes their folders in `home`.
fn prepare(home: &Path, target: Option<&str>) -> anyhow::Result<Vec<Ready>> {
    let is_wanted = |name: &&str| target.is_none_or(|wanted| wanted == *name);
    let mut ready = Vec::new();
    for package in &PACKAGES {
        let manifest = workspace::root().join(package.manifest);
        let wanted: Vec<_> = package.targets.iter().copied().filter(is_wanted).collect();
        if wanted.is_empty() {
            continue;
        }
        let built = build(&manifest)?;
        let folder = manifest.parent().context("the package of fuzz targets has no folder")?;
        for name in wanted {
            ready.push(Ready { name, program: built.join(name), dirs: Dirs::prepare(home, folder, name)? });
        }
    }
    Ok(ready)
}

/// A target that runs. Ends with this value, so that none is left behind.
struct Running<'a> {
    ready: &'a Ready,
    child: Child,
    log: PathBuf,
}

impl<'a> Running<'a> {
    fn start(ready: &'a Ready, home: &Path, seconds: u64) -> anyhow::Result<Self> {
        let log = home.join(format!("{}.log", ready.name));
        println!("fuzz: {} for {seconds} s, log in {}", ready.name, log.display());
        let child = start(&ready.program, &ready.dirs, seconds, &log)?;
        Ok(Self { ready, child, log })
    }

    /// Waits for its end. Returns its name if it failed.
    fn wait(mut self) -> anyhow::Result<Option<&'static str>> {
        let name = self.ready.name;
        let status = self.child.wait().with_context(|| format!("cannot wait for {name}"))?;
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        println!("fuzz: {name}: {}", last_status(&said));
        if status.success() {
            return Ok(None);
        }
        eprintln!("{}", tail(&said, 40));
        eprintln!("fuzz: {name} failed: {status}; the input is in {}", self.ready.dirs.artifacts.display());
        Ok(Some(name))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // One that has ended is not killed again; the code only says so.
        let _ended = self.child.kill();
    }
}

/// Builds all targets. Returns the folder of their programs.
fn build(manifest: &Path) -> anyhow::Result<PathBuf> {
    let host = workspace::host()?;
    let target_dir = workspace::scratch("fuzz-target")?;
    let mut command = workspace::cargo();
    // A target is named so that build scripts are built without the flags.
    command.args(["build", "--quiet", "--release", "--locked", "--target", &host]).arg("--manifest-path");
    command.arg(manifest).env("CARGO_TARGET_DIR", &target_dir);
    command.env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f"));
    process::run(&mut command)?;
    Ok(target_dir.join(host).join("release"))
}

/// Folders of one target.
struct Dirs {
    /// What was found to reach new code; kept.
    corpus: PathBuf,
    /// Where to start; made anew: the target adds its own.
    seeds: PathBuf,
    /// Inputs that fail, a prefix of file names.
    artifacts: PathBuf,
}

impl Dirs {
    fn prepare(home: &Path, package: &Path, name: &str) -> anyhow::Result<Self> {
        let dir = |kind: &str| home.join(kind).join(name);
        let dirs = Self { corpus: dir("corpus"), seeds: dir("seeds"), artifacts: dir("artifacts") };
        if dirs.seeds.exists() {
            std::fs::remove_dir_all(&dirs.seeds)?;
        }
        for dir in [&dirs.corpus, &dirs.seeds, &dirs.artifacts] {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        copy_all(&package.join("regressions").join(name), &dirs.seeds)?;
        if name == "bootstrap" {
            copy_golden(&dirs.seeds)?;
        }
        Ok(dirs)
    }
}

/// Copies the files of one folder, if it is there.
fn copy_all(from: &Path, to: &Path) -> anyhow::Result<()> {
    for entry in from.read_dir().into_iter().flatten() {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        std::fs::copy(&path, to.join(name)).with_context(|| format!("cannot copy {}", path.display()))?;
    }
    Ok(())
}

/// Copies the golden bootstraps: those in `RAFS_GOLDEN`, or in `../shared/golden/rafs` beside the workspace.
fn copy_golden(to: &Path) -> anyhow::Result<()> {
    let golden = golden::dir();
    let mut count = 0;
    for entry in golden.read_dir().into_iter().flatten() {
        let image = entry?.path();
        let bootstrap = image.join("image.boot");
        let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !bootstrap.is_file() {
            continue;
        }
        let bytes =
            std::fs::read(&bootstrap).with_context(|| format!("cannot read {}", bootstrap.display()))?;
        std::fs::write(to.join(format!("golden-{name}")), bytes)?;
        count += 1;
    }
    println!("fuzz: {count} golden bootstraps among the seeds");
    Ok(())
}

fn start(program: &Path, dirs: &Dirs, seconds: u64, log: &Path) -> anyhow::Result<Child> {
    let log = std::fs::File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
    let mut command = Command::new(program);
    command.args([
        format!("-max_total_time={seconds}"),
        format!("-timeout={TIMEOUT}"),
        format!("-rss_limit_mb={RSS_LIMIT}"),
        format!("-max_len={MAX_LEN}"),
        format!("-artifact_prefix={}/", dirs.artifacts.display()),
        "-print_final_stats=1".into(),
    ]);
    command.env("FUZZ_SEEDS", &dirs.seeds);
    command.args([&dirs.corpus, &dirs.seeds]).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("cannot run {}", process::name(&command)))
}

/// The last line in which libFuzzer says how far it is.
fn last_status(log: &str) -> &str {
    log.lines()
        .rfind(|line| {
            line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
        .unwrap_or("said nothing")
}

/// The last lines of a log.
fn tail(log: &str, count: usize) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or(&[]).join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_divided_by_rounds() {
        assert_eq!(share(180, 11, 2), 30);
        assert_eq!(share(180, 11, 11), 180);
        assert_eq!(share(180, 11, 64), 180);
        assert_eq!(share(3, 11, 1), 1);
        assert_eq!(share(60, 0, 4), 60);
    }

    /// A target that is built and not listed would never run.
    #[test]
    fn every_program_of_a_package_is_listed() {
        for package in &PACKAGES {
            let manifest = workspace::root().join(package.manifest);
            let text = std::fs::read_to_string(&manifest).unwrap();
            let programs = text.split("[[bin]]\n").skip(1).filter_map(|part| part.split('"').nth(1));
            assert_eq!(programs.collect::<Vec<_>>(), package.targets, "{}", package.manifest);
        }
    }

    #[test]
    fn logs_are_cut_to_what_matters() {
        assert_eq!(last_status("INFO: x\n#1 INIT\n#2 DONE cov: 7\n###### x\nDone 2\n"), "#2 DONE cov: 7");
        assert_eq!(last_status(""), "said nothing");
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
    }
}
