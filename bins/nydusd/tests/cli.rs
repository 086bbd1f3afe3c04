//! What integrators rely on: exit codes, what stands on which stream, and the texts that they parse. Nothing is mounted:
//! bootstraps and mountpoints named here do not exist.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// A bootstrap that is not there, with a mountpoint that is not there.
const NOTHING: [&str; 4] = ["--bootstrap", "/no/such/boot", "--mountpoint", "/no/such/mnt"];

const VALID: &str = r#"{"version":2,"backend":{"type":"localfs","localfs":{"dir":"/b"}}}"#;
const MISSPELT: &str = r#"{"version":2,"backend":{"type":"localfs","localfs":{"dir":"/b","alt_dir":[]}}}"#;

fn run(args: &[&str]) -> Output {
    run_with_filter(args, None)
}

/// Runs the program with `RUST_LOG` as given.
fn run_with_filter(args: &[&str], filter: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nydusd"));
    command.args(args).env_remove("RUST_LOG");
    if let Some(filter) = filter {
        command.env("RUST_LOG", filter);
    }
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asserts success with a quiet standard error; standard output as text.
fn succeeds(args: &[&str]) -> String {
    let output = run(args);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{args:?}");
    text(&output.stdout)
}

/// Asserts failure with nothing on standard output and one line, the last, on standard error: the log, and that line.
fn fails(args: &[&str]) -> (Vec<String>, String) {
    let output = run(args);
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{args:?}: {said}");
    let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
    let error = lines.pop().unwrap();
    assert!(error.starts_with("Error: "), "{said}");
    // The warning about the limit of open files depends on who runs the test.
    lines.retain(|line| !line.contains("limit of open files"));
    assert!(lines.iter().all(|line| line.starts_with('[')), "{said}");
    (lines, error)
}

/// Asserts a refused command line.
fn refused(args: &[&str]) -> String {
    let output = run(args);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{args:?}");
    text(&output.stderr)
}

/// A file that holds `text`, in a directory that goes with it.
fn file(text: &str) -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("config");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

#[test]
fn the_version_is_that_of_the_build() {
    let expected = build_info::BUILD_INFO.render(Some("nydusd"));
    assert!(expected.contains("\nGit Commit: \t"));
    for args in [&["--version"][..], &["-V"], &["fuse", "--version"], &["fuse", "-V"]] {
        assert_eq!(succeeds(args), expected, "{args:?}");
    }
}

#[test]
fn help_tells_what_there_is() {
    let help = succeeds(&["--help"]);
    for word in
        ["Usage: nydusd [fuse] [OPTIONS] --mountpoint <DIR>", "--localfs-dir", "Examples:", "--thread-num"]
    {
        assert!(help.contains(word), "{word}");
    }
    for hidden in ["singleton", "virtiofs", "nbd", "uffd"] {
        assert!(!help.contains(hidden), "{hidden}");
    }
    assert!(succeeds(&["fuse", "-h"]).contains("Usage: nydusd fuse [OPTIONS] --mountpoint <DIR>"));
    assert!(succeeds(&["help", "fuse"]).contains("--check-config"));
}

#[test]
fn wrong_command_lines_exit_with_2() {
    for (args, expected) in [
        (&[][..], "--mountpoint <DIR>"),
        (&["fuse"], "--mountpoint <DIR>"),
        (&["-B", "b", "-D", "d"], "--mountpoint <DIR>"),
        (&["--apisock", "s", "fuse", "-M", "m"], "'--apisock <PATH>'"),
        (&["-M", "m", "-M", "m"], "multiple times"),
        (&["fuse", "-M", "m", "--config", "a", "--config", "b"], "multiple times"),
        (&["-M", "m", "--writable", "--writable"], "multiple times"),
        (&["-M", "m", "-B", "b", "--shared-dir", "s"], "cannot be used with"),
        (&["-M", "m", "-C", "c", "--localfs-dir", "d"], "cannot be used with"),
        (&["-M", "m", "--prefetch-files", "f"], "--bootstrap <FILE>"),
        (&["-M", "m", "--id", "i"], "--supervisor <PATH>"),
        (&["-M", "m", "--supervisor", "s"], "--id <ID>"),
        (&["-M", "m", "--strict-config"], "--config <FILE>"),
        (&["--check-config"], "--config <FILE>"),
        (&["-M", "m", "--fuse-threads", "0"], "1..=1024"),
        (&["-M", "m", "--thread-num", "1025"], "1..=1024"),
        (&["-M", "m", "--failover-policy", "later"], "[possible values: none, resend, flush]"),
        (&["-M", "m", "-l", "loud"], "[possible values: trace, debug, info, warn, error]"),
        (&["-M", "m", "--rlimit-nofile=-1"], "--rlimit-nofile"),
        (&["-M", "m", "--nonsense"], "--nonsense"),
        (&["nonsense"], "nonsense"),
    ] {
        let said = refused(args);
        assert!(said.starts_with("error: ") && said.contains(expected), "{args:?}: {said}");
    }
}

#[test]
fn subcommands_of_later_versions_say_so() {
    for name in ["singleton", "virtiofs", "nbd", "uffd"] {
        let (_, said) = fails(&[name, "--apisock", "x", "--fscache", "y"]);
        assert_eq!(said, format!("Error: {name} is not supported by this version yet"));
    }
}

#[test]
fn options_of_later_versions_say_so() {
    for (option, args) in [
        ("--apisock", &["-A", "s"][..]),
        ("--supervisor", &["--id", "i", "--supervisor", "s"]),
        ("--upgrade", &["--upgrade"]),
        ("--backend-source", &["--backend-source", "unix:///s"]),
        ("--writable", &["--writable"]),
        ("--dedup-db", &["--dedup-db", "d"]),
        ("--virtual-mountpoint other than `/`", &["-m", "/x"]),
    ] {
        for start in [&["fuse"][..], &[]] {
            let args = [start, args, &NOTHING, &["-D", "d"]].concat();
            let expected = format!("Error: {option} is not supported by this version yet");
            assert_eq!(fails(&args).1, expected, "{args:?}");
        }
    }
    assert_eq!(
        fails(&["-M", "m", "--shared-dir", "s"]).1,
        "Error: --shared-dir is not supported by this version yet"
    );
    assert_eq!(
        fails(&["-M", "m"]).1,
        "Error: a mount without --bootstrap is not supported by this version yet"
    );
}

#[test]
fn options_without_effect_are_accepted_with_a_warning() {
    let quiet =
        [&["-D", "d", "--virtual-mountpoint", "/", "--failover-policy", "flush"][..], &NOTHING].concat();
    assert_eq!(fails(&quiet).0, [""; 0]);
    assert_eq!(fails(&[&quiet[..], &["--log-rotation-size", "0"]].concat()).0, [""; 0]);
    let effectless = ["--log-rotation-size=100", "--thread-num", "7"];
    let (log, _) = fails(&[&["fuse"], &quiet[..], &effectless].concat());
    let texts: Vec<&str> = log.iter().map(|line| line.split_once("] ").unwrap().1).collect();
    assert_eq!(texts, ["WARN --log-rotation-size has no effect in this version"]);
    // [YYYY-MM-DD HH:MM:SS.ffffff +00:00]
    assert!(log.iter().all(|line| line.find(']') == Some(34) && line.contains(" +00:00]")), "{log:?}");
}

#[test]
fn a_list_of_files_has_absolute_paths() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list");
    let given = [&["-D", "d", "--prefetch-files", list.to_str().unwrap()][..], &NOTHING].concat();
    let shown = list.display();
    assert_eq!(
        fails(&given).1,
        format!("Error: cannot read --prefetch-files {shown}: No such file or directory (os error 2)")
    );
    std::fs::write(&list, "/a\n\nb\n").unwrap();
    assert_eq!(
        fails(&given).1,
        format!("Error: --prefetch-files {shown}: line 3 is `b`, expected an absolute path")
    );
}

#[test]
fn a_configuration_is_needed_and_must_be_right() {
    assert_eq!(fails(&NOTHING).1, "Error: --bootstrap needs --config or --localfs-dir");
    let missing = [&["--config", "/no/such.json"][..], &NOTHING].concat();
    assert_eq!(
        fails(&missing).1,
        "Error: cannot read configuration /no/such.json: No such file or directory (os error 2)"
    );
    for (text, expected) in [
        ("", " is empty"),
        ("{}", " has neither `version` (version 2) nor `device` (version 1)"),
        ("{", " starts with `{` but is not JSON: EOF while parsing an object at line 1 column 1"),
        (r#"{"version":1}"#, ": `version` is 1, expected 2"),
        (
            r#"{"version":2,"backend":{"type":"localfs","localfs":{"dir":7}}}"#,
            ": `backend.localfs.dir` is 7, expected a path",
        ),
    ] {
        let (_dir, path) = file(text);
        for check in [&["-C", &path][..], &["-C", &path, "--check-config"]] {
            let (log, said) = fails(&[check, &NOTHING].concat());
            assert_eq!((log.len(), said), (0, format!("Error: configuration {path}{expected}")));
        }
    }
}

#[test]
fn unknown_fields_are_warnings_unless_one_is_strict() {
    let (_dir, path) = file(MISSPELT);
    let unknown =
        format!("configuration {path}: unknown field `backend.localfs.alt_dir`, did you mean `alt_dirs`?");
    let args = [&["fuse", "--config", &path][..], &NOTHING].concat();
    let (log, said) = fails(&args);
    assert!(log.len() == 1 && log[0].ends_with(&format!("] WARN {unknown}")), "{log:?}");
    assert!(!said.contains("alt_dir"), "{said}");
    let (log, said) = fails(&[&args[..], &["--strict-config"]].concat());
    assert_eq!((log.len(), said), (0, format!("Error: {unknown}")));
    assert_eq!(succeeds(&["--check-config", "-C", &path]), format!("{unknown}\n"));
    let (_, said) = fails(&["fuse", "--check-config", "--strict-config", "-C", &path]);
    assert_eq!(said, format!("Error: {unknown}"));
}

#[test]
fn a_valid_configuration_is_called_so() {
    let (_dir, path) = file(VALID);
    let expected = format!("configuration {path} is valid\n");
    assert_eq!(succeeds(&["--check-config", "--config", &path]), expected);
    assert_eq!(succeeds(&["fuse", "--check-config", "--config", &path, "--strict-config"]), expected);
}

#[test]
fn the_log_goes_to_a_file_in_a_new_directory() {
    let (dir, path) = file(MISSPELT);
    let log: &Path = &dir.path().join("a/b/nydusd");
    let args = [&["-C", &path, "--log-file", log.to_str().unwrap()][..], &NOTHING].concat();
    let output = run(&args);
    assert_eq!(text(&output.stderr).lines().count(), 1, "{}", text(&output.stderr));
    run(&args);
    let written = std::fs::read_to_string(log.with_extension("log")).unwrap();
    assert_eq!(written.matches("] WARN configuration").count(), 2, "{written}");
}

#[test]
fn the_log_level_is_a_ceiling_for_the_filter_of_the_environment() {
    let (_dir, path) = file(MISSPELT);
    let warns = |level: &str, filter| {
        let args = [&["-C", &path, "-l", level][..], &NOTHING].concat();
        text(&run_with_filter(&args, filter).stderr).contains("WARN configuration")
    };
    assert!(warns("warn", None) && warns("trace", None) && !warns("error", None));
    assert!(warns("info", Some("")) && warns("info", Some("nydusd=warn")));
    assert!(!warns("info", Some("error")) && !warns("info", Some("info,nydusd=error")));
    assert!(!warns("error", Some("trace")));
}
