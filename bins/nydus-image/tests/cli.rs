//! What integrators rely on: exit codes, what stands on which stream, and the texts that they parse.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{fails, run, run_with, str, text};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Asserts success with a quiet standard error; standard output as text.
fn succeeds(args: &[&str]) -> String {
    let output = run(args);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{args:?}");
    text(&output.stdout)
}

/// Asserts a refused command line.
fn refused(args: &[&str]) -> String {
    let output = run(args);
    assert_eq!(output.status.code(), Some(2), "{args:?}");
    text(&output.stderr)
}

/// A golden image. `None`, told, where there are none.
fn golden(image: &str) -> Option<PathBuf> {
    testkit::tree::golden().map(|dir| dir.join(image))
}

#[test]
fn no_subcommand_is_a_usage_line_and_success() {
    let said = succeeds(&[]);
    assert!(said.starts_with("Usage: nydus-image") && said.lines().count() == 1, "{said}");
    assert!(succeeds(&["--help"]).contains("unpack"));
    assert!(succeeds(&["help", "check"]).contains("--data"));
}

#[test]
fn the_version_can_be_found() {
    for flag in ["--version", "-V"] {
        let said = succeeds(&[flag]);
        assert!(said.starts_with(" \rVersion: \tv"), "{said:?}");
        let after = said.split_once("Version:").unwrap().1.trim_start();
        assert!(after.starts_with('v'), "{said:?}");
        let keys: Vec<_> = said.trim().lines().map(|line| line.split(": \t").next().unwrap()).collect();
        assert_eq!(keys, ["Version", "Git Commit", "Build Time", "Profile", "Rustc"], "{said:?}");
    }
}

#[test]
fn wrong_command_lines_exit_with_2() {
    refused(&["check"]);
    refused(&["check", "a", "-B", "b"]);
    refused(&["check", "-B", "a", "-B", "b"]);
    refused(&["nonsense"]);
    refused(&["inspect"]);
    assert!(refused(&["unpack", "a"]).contains("--output"));
    assert!(refused(&["unpack", "a", "--output", "x", "--output-dir", "y"]).contains("cannot be used with"));
    refused(&["-l", "loud", "check", "a"]);
}

#[test]
fn errors_name_the_file() {
    assert!(fails(&["check", "/no/such/boot"]).contains("/no/such/boot: No such file"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"\x1f\x8b\x08").unwrap();
    let said = fails(&["inspect", str(file.path()), "-R", "stats"]);
    assert!(said.contains(str(file.path())) && said.contains("gzip"), "{said}");
    assert!(
        fails(&["unpack", "x", "--output", "y", "-C", "/no/such.json"])
            .contains("configuration /no/such.json: No such")
    );
    refused(&["unpack", "x", "--output", "y", "-C", "c", "-D", "d"]);
    assert!(fails(&["unpack", "x", "--output", "y"]).contains("--blob-dir"));
    refused(&["unpack", "x", "-D", ".", "--output", ""]);
    let remote = ["unpack", "x", "--output", "y", "--backend-type", "registry"];
    assert!(fails(&remote).contains("--backend-config"));
    assert!(fails(&["unpack", "x", "--output", "y", "--backend-type", "localfs"]).contains("--blob-dir"));
    let missing = fails(&[&remote[..], &["--backend-config", "{}"]].concat());
    assert!(
        missing.contains("configuration --backend-config: `backend.registry.host` is missing"),
        "{missing}"
    );
    let missing = fails(&[&remote[..], &["--backend-config-file", "/no/such.json"]].concat());
    assert!(missing.contains("cannot read /no/such.json: No such"), "{missing}");
    assert!(
        fails(&["unpack", "x", "--output", "y", "--backend-config", "{}"]).contains("need --backend-type")
    );
    refused(&[&remote[..], &["-C", "c"]].concat());
}

#[test]
fn the_log_goes_to_a_file_with_an_extension() {
    let dir = tempfile::tempdir().unwrap();
    fails(&["check", "/no/such", "--log-file", str(&dir.path().join("x")), "--log-level", "warn"]);
    assert!(dir.path().join("x.log").exists());
    fails(&["check", "/no/such", "--log-file", str(&dir.path().join("new/dir/x.txt"))]);
    assert!(dir.path().join("new/dir/x.txt").exists());
    let below_a_file = dir.path().join("x.log/y");
    let said = fails(&["-L", str(&below_a_file), "check", "y"]);
    assert!(said.contains(str(&below_a_file.with_extension("log"))), "{said}");
}

#[test]
fn check_prints_what_is_parsed() {
    let Some(image) = golden("v6-dir-lz4-8k") else { return };
    let boot = image.join("image.boot");
    let expected = "RAFS filesystem metadata is valid, referenced data blobs: \n\
        \t 0: 2b3179746c03c47b449b60f506e65c10174509acba6047e14c6afc471551257b, compressed size 70844, \
        uncompressed size 290816, chunk size: 8192, chunk count: 57, features: aligned cap_toc\n\
        tree digest: 9f4e8dd8e880fee8fdbb7a17a930ce994c1b78727342e66420615a9757b07f0a\n";
    assert_eq!(succeeds(&["check", str(&boot)]), expected);
    assert_eq!(succeeds(&["check", "--log-level", "warn", "--bootstrap", str(&boot)]), expected);
    let with_data = succeeds(&["check", "-B", str(&boot), "--data", "-D", str(&image.join("blobs"))]);
    assert!(with_data.starts_with(expected) && with_data.lines().count() == 4, "{with_data}");
    let config = tempfile::NamedTempFile::new().unwrap();
    let backend = format!(
        "version = 2\nbackend = {{ type = \"localfs\", localfs = {{ dir = {:?} }} }}\n",
        image.join("blobs")
    );
    std::fs::write(config.path(), backend).unwrap();
    assert_eq!(succeeds(&["check", str(&boot), "--data", "--config", str(config.path())]), with_data);
    let empty = golden("v6-empty").unwrap().join("image.boot");
    let header = expected.split_inclusive('\n').next().unwrap();
    let digest = "tree digest: 15eb91d24a0577f1078742df4b990719590843e0bc3c237297ed3bb99f30d2f5\n";
    assert_eq!(succeeds(&["check", str(&empty)]), format!("{header}{digest}"));
    // Its chunks have no digests.
    let tarfs = golden("v6-tarfs").unwrap().join("image.boot");
    assert!(!succeeds(&["check", str(&tarfs)]).contains("tree digest"));
}

#[test]
fn check_lists_inodes_and_chunks() {
    let Some(image) = golden("v6-dir-lz4-8k") else { return };
    let said = succeeds(&["check", "-v", str(&image.join("image.boot"))]);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("inode: dir \"/\": index 1 ino "), "{}", lines[0]);
    let hard =
        lines.iter().position(|line| line.starts_with("inode: hardlink \"/a-hardlink-before\": ")).unwrap();
    assert!(
        lines[hard]
            .contains(" i_nlink 3 i_size 5000 i_blocks 10 i_name_size 17 i_symlink_size 0 has_xattr true")
    );
    assert!(lines[hard + 1].starts_with("\t chunk: id ") && lines[hard + 1].contains(", crc32 0x"));
    assert!(said.contains("inode: symlink \"/ln/abs\": ") && said.contains("link Some(\"/bin/tool\")"));
    assert!(said.contains("\ninode:  \"/dev/null\": "));
    assert!(said.contains("\"/names/bad-\\xFF\\xFE-name\""));
    assert!(lines.iter().any(|line| line.starts_with("RAFS filesystem metadata is valid")));
}

#[test]
fn check_writes_json() {
    let Some(image) = golden("v6-dir-lz4-8k") else { return };
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("out.json");
    succeeds(&["check", "-J", str(&json), str(&image.join("image.boot"))]);
    let said = std::fs::read_to_string(json).unwrap();
    let end = "\"fs_version\":\"6\",\"compressor\":\"lz4_block\",\
        \"tree_digest\":\"9f4e8dd8e880fee8fdbb7a17a930ce994c1b78727342e66420615a9757b07f0a\"}";
    assert!(said.starts_with("{\"version\":\"v") && said.ends_with(end), "{said}");
    assert!(
        said.contains("\"blobs\":[\"2b3179746c03c47b449b60f506e65c10174509acba6047e14c6afc471551257b\"]")
    );
}

#[test]
fn check_reports_damage() {
    let Some(image) = golden("v6-dir-lz4-8k") else { return };
    let (dir, boot) = (tempfile::tempdir().unwrap(), image.join("image.boot"));
    let id = "2b3179746c03c47b449b60f506e65c10174509acba6047e14c6afc471551257b";
    let mut bytes = std::fs::read(image.join("blobs").join(id)).unwrap();
    bytes[0] ^= 1;
    std::fs::write(dir.path().join(id), bytes).unwrap();
    let output = run(&["check", "--data", "-D", str(dir.path()), str(&boot)]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("chunk 0 at 0x0") && said.contains(id) && said.contains("used by \"/"), "{said}");
    assert!(said.lines().last().unwrap().starts_with("Error: "), "{said}");
    // What the metadata say was told before.
    let output = run(&["check", "--data", str(&boot)]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.starts_with("Error: ") && said.contains("--blob-dir"), "{said}");
}

#[test]
fn inspect_answers_one_word_requests() {
    let Some(image) = golden("v6-dir-lz4-8k") else { return };
    let boot = image.join("image.boot");
    let expected = "[{\"blob_id\":\"2b3179746c03c47b449b60f506e65c10174509acba6047e14c6afc471551257b\",\
        \"compressed_size\":70844,\"decompressed_size\":290816,\"readahead_offset\":0,\"readahead_size\":0}]\n";
    assert_eq!(succeeds(&["inspect", "-R blobs", str(&boot)]), expected);
    assert_eq!(succeeds(&["inspect", str(&boot), "--request", "blobs"]), expected);
    assert_eq!(succeeds(&["inspect", "-B", str(&boot), "-R", ""]), "null\n");
    let output = run(&["inspect", "-R", "nonsense", str(&boot)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("unsupported inspect request `nonsense`"));
    assert!(text(&output.stdout).contains("prefetch:"));
    assert!(fails(&["inspect", "-R", "icheck x", str(&boot)]).contains("invalid arguments"));
}

/// As integrators call it; what they read goes on with the output whether or not anything was done.
#[test]
fn compact_writes_an_image_in_any_case() {
    let Some(image) = golden("v6-merge") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (boot, json) = (dir.path().join("image.boot"), dir.path().join("j"));
    std::fs::copy(image.join("image.boot"), &boot).unwrap();
    for blob in std::fs::read_dir(image.join("blobs")).unwrap().map(|blob| blob.unwrap()) {
        std::fs::copy(blob.path(), dir.path().join(blob.file_name())).unwrap();
    }
    let args = ["compact", "--bootstrap", str(&boot), "--blob-dir", str(dir.path()), "--min-used-ratio", "5"];
    let sizes = [
        "--compact-blob-size",
        "10485760",
        "--max-compact-size",
        "104857600",
        "--output-json",
        str(&json),
        "--log-level",
        "warn",
    ];
    let blobs = || {
        let value: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        (value["blobs"].as_array().unwrap().len(), value["bootstrap"].as_str().unwrap().to_owned())
    };
    let few = ["--layers-to-compact", "32"];
    assert_eq!(succeeds(&[&args[..], &sizes, &few].concat()), "");
    let out = dir.path().join("image.bootstrap.compact");
    assert_eq!(blobs(), (2, str(&out).to_owned()));
    assert_eq!(std::fs::read(&out).unwrap(), std::fs::read(&boot).unwrap());
    assert_eq!(succeeds(&[&args[..], &sizes, &["--output-bootstrap", str(&out)]].concat()), "");
    assert_eq!(blobs().0, 1);
    let said = succeeds(&["check", "--data", str(&out), "-D", str(dir.path())]);
    assert!(said.contains("RAFS blob data is valid"), "{said}");
    refused(&["compact", "-D", "."]);
    refused(&["compact", "-B", "x", "-D", ".", "--min-used-ratio", "101"]);
    assert!(fails(&["compact", "-B", str(&boot)]).contains("give --blob-dir"));
}

/// As integrators call it.
#[test]
fn optimize_writes_an_image_with_one_more_blob() {
    let Some(image) = golden("v6-dir-lz4-8k") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (list, json, out) = (dir.path().join("l"), dir.path().join("j"), dir.path().join("out"));
    let (boot, blobs) = (image.join("image.boot"), image.join("blobs"));
    std::fs::write(&list, r#"{"version":"v1","files":[{"path":"/hl/a"}]}"#).unwrap();
    let args = ["optimize", "--log-level", "warn", "--prefetch-files", str(&list), "--bootstrap", str(&boot)];
    let places =
        ["--output-blob-dir", str(dir.path()), "--output-bootstrap", str(&out), "--output-json", str(&json)];
    assert_eq!(succeeds(&[&args[..], &places, &["--blob-dir", str(&blobs)]].concat()), "");
    let value: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(
        (value["blobs"].as_array().unwrap().len(), value["blobs"][1].clone()),
        (2, value["new_blobs"][0].clone())
    );
    assert!(succeeds(&["check", str(&out)]).contains("tree digest"));
    std::fs::write(&list, "/hl/a\nrelative\n/none\n").unwrap();
    let output = run(&[&args[..], &places, &["--blob-dir", str(&blobs), "-b", "x"]].concat());
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), said.matches("skipped").count()), (Some(0), 2), "{said}");
    assert!(fails(&[&args[..], &places].concat()).contains("give --blob-dir"));
    refused(&args);
    assert!(succeeds(&["optimize", "--help"]).contains("one absolute path on each line"));
}

/// The names that programs read, in the one order that 2.x has.
#[test]
fn stat_prints_text_or_writes_json() {
    let Some(image) = golden("v6-dir-lz4-8k") else { return };
    let (dir, boot) = (tempfile::tempdir().unwrap(), image.join("image.boot"));
    let said = succeeds(&["stat", "-B", str(&boot)]);
    assert!(said.starts_with("Base Image Statistics:\n\nDirectories:            "), "{said}");
    assert!(
        said.contains("\nFile Size Bits:\t\tFile Count:\n0:\t\t\t") && !said.contains("Thresh"),
        "{said}"
    );
    let json = dir.path().join("j");
    assert!(fails(&["stat", "-D", str(dir.path())]).contains("no bootstrap in directory"));
    std::fs::copy(&boot, dir.path().join("a")).unwrap();
    assert_eq!(succeeds(&["stat", "-D", str(dir.path()), "-T", str(&boot), "-J", str(&json)]), "");
    let text = std::fs::read_to_string(&json).unwrap();
    assert!(
        text.starts_with("{\"dedup_enabled\":true,\"target_enabled\":true,\"base_image\":{\"dirs\":"),
        "{text}"
    );
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["target_image"].as_object().unwrap().len(), 19);
    refused(&["stat"]);
    refused(&["stat", "-B", "x", "-D", "y"]);
}

#[test]
fn inspect_ends_with_its_input() {
    let Some(image) = golden("v6-dir-lz4-8k") else { return };
    let output = run_with(&["inspect", str(&image.join("image.boot"))], b"stats\n");
    assert_eq!(output.status.code(), Some(0));
    let said = text(&output.stdout);
    assert!(said.starts_with("Inspecting RAFS :> ") && said.matches("Inspecting").count() == 2, "{said}");
}

#[test]
fn unpack_writes_files_streams_and_directories() {
    let Some(image) = golden("v6-bigdir") else { return };
    let (boot, blobs) = (image.join("image.boot"), image.join("blobs"));
    let dir = tempfile::tempdir().unwrap();
    let tar = dir.path().join("out.tar");
    assert_eq!(
        succeeds(&["unpack", "--bootstrap", str(&boot), "-D", str(&blobs), "--output", str(&tar)]),
        ""
    );
    let bytes = std::fs::read(&tar).unwrap();
    let mut archive = tar::Archive::new(bytes.as_slice());
    assert!(archive.entries().unwrap().filter(|entry| entry.is_ok()).count() >= 3_000);
    let blob = std::fs::read_dir(&blobs).unwrap().next().unwrap().unwrap().path();
    let stdout = run(&["unpack", str(&boot), "--blob", str(&blob), "--output", "-"]);
    assert!(stdout.stdout == bytes && stdout.stderr.is_empty());
    assert!(
        fails(&["unpack", str(&boot), "-D", str(&blobs), "--output", str(dir.path())])
            .contains("--output-dir")
    );
    let out = dir.path().join("tree");
    succeeds(&["unpack", str(&boot), "-D", str(&blobs), "--output-dir", str(&out), "-l", "error"]);
    assert!(out.is_dir());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing but the outputs is there");
}

#[test]
fn unpack_writes_into_a_pipe() {
    let Some(image) = golden("v6-dir-zstd") else { return };
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || std::fs::read(fifo).unwrap()
    });
    let (boot, blobs) = (image.join("image.boot"), image.join("blobs"));
    succeeds(&["unpack", str(&boot), "-D", str(&blobs), "--output", str(&fifo), "--log-level", "warn"]);
    let piped = reader.join().unwrap();
    let stdout = run(&["unpack", str(&boot), "-D", str(&blobs), "--output", "-"]).stdout;
    assert!(piped == stdout && !piped.is_empty());
}

/// Builds a tree with three files; the digest that the result names.
fn build(dir: &Path, name: &str) -> (PathBuf, String) {
    let (boot, json) = (dir.join(name), dir.join("json"));
    let blobs = dir.join("blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let output =
        run(&["create", "-B", str(&boot), "-D", str(&blobs), "-J", str(&json), str(&dir.join("tree"))]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    (boot, said["tree_digest"].as_str().unwrap().to_owned())
}

/// Two versions of a tree: bootstraps and digests.
fn versions(dir: &Path) -> [(PathBuf, String); 2] {
    let tree = dir.join("tree");
    std::fs::create_dir_all(tree.join("etc")).unwrap();
    std::fs::write(tree.join("etc/a b"), "one").unwrap();
    std::fs::write(tree.join("etc/gone"), "x").unwrap();
    std::fs::write(tree.join("stays"), "same").unwrap();
    let first = build(dir, "first");
    std::fs::write(tree.join("etc/a b"), "two").unwrap();
    std::fs::remove_file(tree.join("etc/gone")).unwrap();
    std::fs::write(tree.join("new"), "new").unwrap();
    // Times of all that was touched, so that only some of it changes.
    for path in ["etc/a b", "etc", "."] {
        let touched = Command::new("touch").arg("-hd@5").arg(tree.join(path)).status().unwrap();
        assert!(touched.success());
    }
    [first, build(dir, "second")]
}

/// Standard output and exit code of a run with a quiet standard error.
fn answers(args: &[&str]) -> (String, i32) {
    let output = run(args);
    assert_eq!(text(&output.stderr), "", "{args:?}");
    (text(&output.stdout), output.status.code().unwrap())
}

#[test]
fn diff_answers_like_diff() {
    let dir = tempfile::tempdir().unwrap();
    let [(first, one), (second, two)] = versions(dir.path());
    let (first, second) = (str(&first), str(&second));
    assert_eq!(answers(&["diff", first, first]), (String::new(), 0));
    let lines = "M /etc time\nM \"/etc/a b\" time content\nD /etc/gone\nA /new\n";
    assert_eq!(answers(&["diff", first, second]), (lines.to_owned(), 1));
    let lines = "M \"/etc/a b\" content\nA /etc/gone\nD /new\n";
    assert_eq!(answers(&["diff", "--content", second, first]), (lines.to_owned(), 1));
    let (said, code) = answers(&["diff", "--json", "--price", "--content", first, second]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &said["same"], &said["changed"]), (1, &false.into(), &1.into()));
    assert_eq!(
        said["changes"][0],
        serde_json::json!({ "change": "changed", "path": "/etc/a b", "parts": ["content"] })
    );
    assert_eq!(
        said["changes"][2],
        serde_json::json!({ "change": "added", "path": "/new", "type": "regular file" })
    );
    // Two new chunks of three bytes, and the blob is another one.
    let price = serde_json::json!({ "chunks": 3, "bytes": 10, "new_chunks": 2, "new_bytes": 6 });
    assert_eq!(said["price"], price);
    let (said, _) = answers(&["diff", "--json", first, second]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["tree_digests"], serde_json::json!([one, two]));
    for (limit, code) in [("9", 1), ("10", 0), ("10B", 0), ("1 KiB", 0), ("200MB", 0), ("0", 1)] {
        let (said, found) = answers(&["diff", "--fail-over", limit, first, second]);
        assert_eq!(found, code, "{limit}");
        assert!(said.ends_with("to fetch: 3 chunks, 10 bytes; new content: 2 chunks, 6 bytes\n"), "{said}");
    }
    assert_eq!(answers(&["diff", "--fail-over", "0", first, first]).1, 0);
}

#[test]
fn diff_in_trouble_exits_with_2() {
    let output = run(&["diff", "/no/such/a", "/no/such/b"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    assert!(text(&output.stderr).starts_with("Error: ") && text(&output.stderr).contains("/no/such/a"));
    assert!(refused(&["diff", "--fail-over", "5 apples", "a", "b"]).contains("apples"));
    assert!(refused(&["diff", "--fail-over", "99999999999GiB", "a", "b"]).contains("64 bits"));
    refused(&["diff", "a"]);
    let Some(image) = golden("v6-tarfs") else { return };
    let tarfs = image.join("image.boot");
    let output = run(&["diff", str(&tarfs), str(&tarfs)]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("tarfs"), "{}", text(&output.stderr));
}

#[test]
fn verify_compares_with_a_root() {
    let dir = tempfile::tempdir().unwrap();
    let [(boot, root), (second, other)] = versions(dir.path());
    let (boot, blobs) = (str(&boot), dir.path().join("blobs"));
    assert_eq!(
        succeeds(&["verify", "--root", &root, boot]),
        format!("RAFS tree is the expected one: {root}\n")
    );
    let said = succeeds(&["verify", "--root", &root, "-B", boot, "--blob-dir", str(&blobs)]);
    assert!(said.ends_with("\nRAFS blob data is valid: 3 chunks, 8 bytes\n"), "{said}");
    let said = fails(&["verify", "--root", &other, boot]);
    assert!(said.contains(&format!("the tree digest is {root}, expected {other}")), "{said}");
    succeeds(&["verify", "--root", &other, str(&second)]);
    assert!(fails(&["verify", "--root", "abc", boot]).contains("--root \"abc\""));
    refused(&["verify", boot]);
    // One byte of the chunk of /stays.
    for blob in std::fs::read_dir(&blobs).unwrap() {
        let path = blob.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(4).position(|four| four == b"same") {
            bytes[at] = b'S';
        }
        std::fs::write(path, bytes).unwrap();
    }
    let output = run(&["verify", "--root", &root, boot, "-D", str(&blobs)]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains("\n/stays, chunk 0 of the file: blob ")
            || said.starts_with("/stays, chunk 0 of the file: blob "),
        "{said}"
    );
    assert!(said.lines().last().unwrap().contains("problem(s) in the data"), "{said}");
}
