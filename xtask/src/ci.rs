//! `cargo xtask ci`: everything that decides whether a change lands. `.ci/run` installs packages and calls this.
//!
//! Nothing is left out where `CI=true`; elsewhere a step whose program is missing is left out and told.

use crate::process::{self, Steps};
use crate::{fuzz, golden, layers, quickstart, soak, tidy, workspace};
use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// How long all fuzz targets run together, in seconds.
const FUZZ_SECONDS: u64 = 180;

/// Runs all steps in order, cheapest first; the first that fails ends the run.
pub fn ci() -> anyhow::Result<()> {
    let mut steps = Steps::default();
    steps.step("format", || {
        cargo(&["fmt", "--all", "--", "--check"])?;
        // Workspaces of their own.
        let fuzz = fuzz::PACKAGES.iter().map(|package| package.manifest);
        fuzz.chain([soak::SCHEDULER])
            .try_for_each(|manifest| cargo(&["fmt", "--manifest-path", manifest, "--", "--check"]))
    })?;
    steps.step("layers", layers::layers)?;
    steps.step("tidy", tidy::tidy)?;
    steps.step("golden", golden::check)?;
    steps.step("clippy", || {
        cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])
    })?;
    steps.step("documentation", || {
        let mut doc = workspace::cargo();
        doc.args(["doc", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "-D warnings");
        process::run(doc.current_dir(workspace::root()))
    })?;
    steps.step("tests", || cargo(&["test", "--workspace", "--locked"]))?;
    steps.step("packages for others", || {
        cargo(&["publish", "--dry-run", "--locked", "-p", "rafs-format", "-p", "rafs-merkle"])
    })?;
    steps.step(format!("fuzz, {FUZZ_SECONDS} s in all"), || fuzz::fuzz_all_within(FUZZ_SECONDS))?;
    steps.step("quick start on a Debian root file system", debian)?;
    steps.summary();
    Ok(())
}

fn cargo(arguments: &[&str]) -> anyhow::Result<()> {
    process::run(workspace::cargo().args(arguments).current_dir(workspace::root()))
}

/// Makes a root file system and runs the quick start on it.
fn debian() -> anyhow::Result<()> {
    if !process::exists("mmdebstrap") {
        ensure!(std::env::var_os("CI").is_none(), "mmdebstrap is not installed");
        println!("SKIPPED: mmdebstrap is not installed");
        return Ok(());
    }
    let dir =
        tempfile::Builder::new().prefix("xtask-rootfs-").tempdir().context("cannot create a directory")?;
    let image = dir.path().join("rootfs.tar");
    process::run(&mut mmdebstrap(&image)?)?;
    quickstart::quickstart(Some(&image))
}

/// The command that makes a small Debian with Python as a tar, from the packages that this machine is set up for.
fn mmdebstrap(image: &Path) -> anyhow::Result<Command> {
    let sources = apt_sources(Path::new("/etc/apt"));
    ensure!(!sources.is_empty(), "no package sources in /etc/apt");
    let release = std::fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let suite = codename(&release).context("/etc/os-release names no release of Debian")?;
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--quiet", "--variant=minbase", "--include=python3-minimal", suite])
        .arg(image)
        .args(sources);
    Ok(command)
}

/// Files that say where packages come from, in byte order.
fn apt_sources(apt: &Path) -> Vec<PathBuf> {
    let further =
        apt.join("sources.list.d").read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let known = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "list" || kind == "sources");
    let mut found: Vec<_> =
        further.filter(known).chain([apt.join("sources.list")]).filter(|path| path.is_file()).collect();
    found.sort();
    found
}

/// The name of the release in the text of `/etc/os-release`.
fn codename(release: &str) -> Option<&str> {
    release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).map(|name| name.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_found() {
        assert_eq!(codename("NAME=\"Debian\"\nVERSION_CODENAME=bookworm\n"), Some("bookworm"));
        assert_eq!(codename("NAME=x\n"), None);
    }

    #[test]
    fn only_files_that_apt_reads_are_sources() {
        let dir = tempfile::tempdir().unwrap();
        let further = dir.path().join("sources.list.d");
        std::fs::create_dir(&further).unwrap();
        for name in ["b.sources", "a.list", "c.list.disabled"] {
            std::fs::write(further.join(name), "").unwrap();
        }
        assert_eq!(apt_sources(dir.path()), [further.join("a.list"), further.join("b.sources")]);
    }
}
