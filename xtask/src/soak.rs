//! `cargo xtask soak`: the long forms of tests that are random, for a night rather than for each change.

use crate::process::{self, Steps};
use crate::{fuzz, workspace};

/// The stub scheduler for two Dragonfly peers, a workspace of its own. Relative to the workspace.
pub const SCHEDULER: &str = "tests/dragonfly/Cargo.toml";

/// Cases of each property; a normal test run has 256.
const CASES: &str = "20000";

/// Fuzzes for about `seconds` in all, then runs the tests of the workspace with many cases for each property, then [`dragonfly`].
pub fn soak(seconds: u64) -> anyhow::Result<()> {
    let mut steps = Steps::default();
    steps.step(format!("fuzz for {seconds} s in all"), || fuzz::fuzz_all_within(seconds))?;
    let mut tests = workspace::cargo();
    tests.args(["test", "--workspace"]).env("PROPTEST_CASES", CASES);
    steps.step(format!("tests with {CASES} cases for each property"), || process::run(&mut tests))?;
    steps.step("two Dragonfly peers", dragonfly)?;
    steps.summary();
    Ok(())
}

/// Runs the test of two real Dragonfly peers, for which it builds a scheduler first. Where there is no `dfdaemon`, that is told and all.
pub fn dragonfly() -> anyhow::Result<()> {
    if !process::exists("dfdaemon") {
        println!(
            "SKIPPED: there is no dfdaemon on this machine; `cargo install dragonfly-client --locked` builds it"
        );
        return Ok(());
    }
    let target = workspace::scratch("dragonfly")?;
    let mut build = workspace::cargo();
    build.args(["build", "--locked", "--manifest-path", SCHEDULER]).arg("--target-dir").arg(&target);
    process::run(build.current_dir(workspace::root()))?;
    let mut test = workspace::cargo();
    test.args(["test", "--package", "tests", "--test", "dragonfly", "--", "--nocapture"]);
    test.env("DRAGONFLY_SCHEDULER", target.join("debug/stub-scheduler"));
    process::run(test.current_dir(workspace::root()))
}
