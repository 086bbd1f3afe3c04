//! `cargo xtask soak`: the long forms of tests that are random, for a night rather than for each change.

use crate::process::{self, Steps};
use crate::{fuzz, workspace};

/// Cases of each property; a normal test run has 256.
const CASES: &str = "20000";

/// Fuzzes for about `seconds` in all, then runs the tests of the workspace with many cases for each property.
pub fn soak(seconds: u64) -> anyhow::Result<()> {
    let mut steps = Steps::default();
    steps.step(format!("fuzz for {seconds} s in all"), || fuzz::fuzz_all_within(seconds))?;
    let mut tests = workspace::cargo();
    tests.args(["test", "--workspace"]).env("PROPTEST_CASES", CASES);
    steps.step(format!("tests with {CASES} cases for each property"), || process::run(&mut tests))?;
    steps.summary();
    Ok(())
}
