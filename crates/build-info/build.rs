//! Asks git, the compiler and the clock about this build, and hands the answers to `src/lib.rs` as `BUILD_INFO_*`.
//!
//! Runs again when HEAD moves or `SOURCE_DATE_EPOCH` changes, not at every build. Outside a git checkout the commit is `unknown`.
//! With `SOURCE_DATE_EPOCH` set, two builds of one commit by one compiler give the same values.

#[path = "src/calendar.rs"]
mod calendar;

use std::env;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/calendar.rs");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    rerun_when_head_moves();
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    answer("GIT_COMMIT", &output("git", &["rev-parse", "HEAD"]).unwrap_or_else(unknown));
    answer("TIME", &calendar::rfc3339(build_seconds()));
    answer("PROFILE", &env::var("PROFILE").unwrap_or_else(|_| unknown()));
    answer("RUSTC", &output(&rustc, &["--version"]).unwrap_or_else(unknown));
}

fn answer(name: &str, value: &str) {
    println!("cargo::rustc-env=BUILD_INFO_{name}={value}");
}

fn unknown() -> String {
    "unknown".into()
}

/// What `program` prints, trimmed; `None` when it fails or prints nothing.
fn output(program: &str, args: &[&str]) -> Option<String> {
    let done = Command::new(program).args(args).output().ok().filter(|done| done.status.success())?;
    let text = String::from_utf8(done.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// A commit or a checkout changes HEAD, the file of its branch, or the packed references. Cargo takes a missing file for a
/// changed one, hence only those that exist.
fn rerun_when_head_moves() {
    let branch = output("git", &["symbolic-ref", "-q", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        let path = output("git", &["rev-parse", "--git-path", name]);
        if let Some(path) = path.filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

/// Seconds since 1970 that this build claims: `SOURCE_DATE_EPOCH`, else now.
fn build_seconds() -> u64 {
    let fixed = env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.trim().parse().ok());
    fixed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()))
}
