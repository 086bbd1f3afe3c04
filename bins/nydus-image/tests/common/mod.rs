//! Running the program, for all tests of its command line.
#![allow(dead_code, reason = "each test program uses a part")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The program with nothing on standard input; what it says is caught.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nydus-image"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it.
pub fn run(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

/// Runs it with `stdin` as its standard input.
pub fn run_with(args: &[&str], stdin: &[u8]) -> Output {
    let mut child = command(args).stdin(Stdio::piped()).spawn().unwrap();
    // Who does not read standard input may be gone.
    let _sent = child.stdin.take().unwrap().write_all(stdin).is_ok();
    child.wait_with_output().unwrap()
}

/// Asserts success without a word.
pub fn quiet(args: &[&str]) {
    quiet_with(args, b"");
}

/// Asserts success without a word, with `stdin` as standard input.
pub fn quiet_with(args: &[&str], stdin: &[u8]) {
    let output = run_with(args, stdin);
    let said = (text(&output.stdout), text(&output.stderr));
    assert_eq!((output.status.code(), said), (Some(0), (String::new(), String::new())), "{args:?}");
}

/// Asserts success without a warning. Returns what is on standard output.
pub fn succeeds(args: &[&str]) -> String {
    let output = run(&[args, &["--log-level", "warn"]].concat());
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{args:?}");
    text(&output.stdout)
}

/// Asserts failure with this exit code, nothing on standard output and one line on standard error: that line.
pub fn fails_with(code: i32, args: &[&str]) -> String {
    let output = run(args);
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{args:?}: {said}");
    assert!(said.starts_with("Error: ") && said.ends_with('\n') && said.lines().count() == 1, "{said}");
    said
}

/// The same with exit code 1.
pub fn fails(args: &[&str]) -> String {
    fails_with(1, args)
}

/// What was printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A path as an argument. It is never freed, so that lists of arguments can be built in one go.
pub fn str(path: &Path) -> &'static str {
    path.to_str().unwrap().to_owned().leak()
}

/// A file of JSON.
pub fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}
