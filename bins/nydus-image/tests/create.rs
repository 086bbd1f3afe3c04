//! `create` as people and converters run it: every form of source and output, the texts that are parsed, and what is left behind
//! when it fails.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{command, fails, run, str, text};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Asserts success without a word, as converters run it.
fn succeeds(args: &[&str]) {
    let output = run(&[args, &["--log-level", "warn"]].concat());
    let said = (text(&output.stdout), text(&output.stderr));
    assert_eq!((output.status.code(), said), (Some(0), (String::new(), String::new())), "{args:?}");
}

/// Names in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let all = std::fs::read_dir(dir).unwrap();
    let mut all: Vec<_> = all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

/// A small tar with a few files that do not compress to nothing.
fn tar() -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for n in 0..20u32 {
        let data: Vec<u8> =
            (0..n * 1000).map(|at| ((at ^ n).wrapping_mul(2_654_435_761) >> 20).to_le_bytes()[0]).collect();
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_000);
        out.append_data(&mut header, format!("dir/file-{n}"), data.as_slice()).unwrap();
    }
    out.into_inner().unwrap()
}

/// `bytes` through a program that reads standard input and writes standard output.
fn piped(program: &str, args: &[&str], bytes: &[u8]) -> Vec<u8> {
    let mut child =
        Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    output.stdout
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Bootstrap and blob of [`tar`], made the plain way.
fn expected(dir: &Path) -> (Vec<u8>, Vec<u8>) {
    let (source, boot, blob) = (dir.join("source"), dir.join("expected.boot"), dir.join("expected.blob"));
    std::fs::write(&source, tar()).unwrap();
    succeeds(&["create", "-B", str(&boot), "-b", str(&blob), str(&source)]);
    let both = (std::fs::read(&boot).unwrap(), std::fs::read(&blob).unwrap());
    for path in [source, boot, blob] {
        std::fs::remove_file(path).unwrap();
    }
    both
}

#[test]
fn help_names_what_integrators_look_for() {
    let output = run(&["create", "-h"]);
    let said = text(&output.stdout);
    assert!(output.status.success());
    for wanted in ["--type", "tar-rafs", "--batch-size", "--encrypt", "--chunk-dict", "--blob-inline-meta"] {
        assert!(said.contains(wanted), "{wanted}");
    }
}

/// What a source is, its bytes say, never its name; and whatever the form, the image is the same.
#[test]
fn every_form_of_source_gives_the_same_image() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let image = expected(dir.path());
    let plain = tar();
    let (first, second) = plain.split_at(7777);
    let gzip = |bytes: &[u8]| piped("gzip", &["-c"], bytes);
    let zstd = |bytes: &[u8]| piped("zstd", &["-qc"], bytes);
    let forms = [
        ("plain.tar.gz", plain.clone()),
        ("gzip.tar", gzip(&plain)),
        ("members", [gzip(first), gzip(second)].concat()),
        ("zstd.tgz", zstd(&plain)),
        ("frames.tar", [zstd(first), zstd(second)].concat()),
    ];
    let (boot, blob) = (at("boot"), at("blob"));
    let check = |how: &str| {
        assert!((std::fs::read(&boot).unwrap(), std::fs::read(&blob).unwrap()) == image, "{how}");
        std::fs::remove_file(&boot).unwrap();
        std::fs::remove_file(&blob).unwrap();
    };
    for (name, bytes) in &forms {
        std::fs::write(at(name), bytes).unwrap();
        for kind in [None, Some("tar-rafs"), Some("targz-rafs"), Some("estargz-rafs")] {
            let kind: Vec<&str> = kind.into_iter().flat_map(|kind| ["--type", kind]).collect();
            let args = ["create", "-B", str(&boot), "-b", str(&blob), str(&at(name))];
            succeeds(&[&args[..], &kind].concat());
            check(name);
        }
        for stdin in ["-", "/dev/stdin"] {
            let mut child = command(&["create", "-B", str(&boot), "-b", str(&blob), stdin]);
            let mut child = child.stdin(Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(bytes).unwrap();
            assert!(child.wait_with_output().unwrap().status.success(), "{name} {stdin}");
            check(name);
        }
        let (pipe, bytes) = (at("pipe"), bytes.clone());
        fifo(&pipe);
        let writer = std::thread::spawn({
            let pipe = pipe.clone();
            move || std::fs::write(pipe, bytes).unwrap()
        });
        succeeds(&["create", "--source-type", "tar-rafs", "-B", str(&boot), "-b", str(&blob), str(&pipe)]);
        writer.join().unwrap();
        std::fs::remove_file(pipe).unwrap();
        check(name);
    }
}

/// Options of 2.x that change nothing here are taken in silence; above all, owners and times stay.
#[test]
fn options_without_effect() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let image = expected(dir.path());
    std::fs::write(at("source"), tar()).unwrap();
    let args = ["create", "-B", str(&at("boot")), "-b", str(&at("blob")), str(&at("source"))];
    let none =
        ["--repeatable", "--disable-check", "--crc", "--aligned-chunk", "-v", "6", "--batch-size", "0"];
    succeeds(&[&args[..], &none, &["--parent-bootstrap", "", "--blob-offset", "0"]].concat());
    assert!((std::fs::read(at("boot")).unwrap(), std::fs::read(at("blob")).unwrap()) == image);
}

#[test]
fn outputs_go_where_they_are_sent() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let image = expected(dir.path());
    std::fs::write(at("source"), tar()).unwrap();
    let source = at("source");
    // Both into a directory, named by their digests; again, the same.
    std::fs::create_dir(at("both")).unwrap();
    for _ in 0..2 {
        succeeds(&["create", "-D", str(&at("both")), str(&source)]);
        let mut digests = vec![hex(&image.0), hex(&image.1)];
        digests.sort();
        assert_eq!(names(&at("both")), digests);
    }
    for (name, bytes) in [(hex(&image.0), &image.0), (hex(&image.1), &image.1)] {
        assert!(&std::fs::read(at("both").join(name)).unwrap() == bytes);
    }
    // A damaged blob is replaced, and so is another one that was given the same name.
    std::fs::write(at("both").join(hex(&image.1)), "damaged").unwrap();
    std::fs::write(at("both").join("name"), "another").unwrap();
    succeeds(&["create", "-D", str(&at("both")), str(&source)]);
    succeeds(&["create", "-D", str(&at("both")), "--blob-id", "name", str(&source)]);
    for name in [&hex(&image.1), "name"] {
        assert!(std::fs::read(at("both").join(name)).unwrap() == image.1, "{name}");
    }
    // The bootstrap elsewhere.
    std::fs::create_dir(at("one")).unwrap();
    succeeds(&["create", "-D", str(&at("one")), "--bootstrap", str(&at("boot")), str(&source)]);
    assert_eq!(names(&at("one")), [hex(&image.1)]);
    assert!(std::fs::read(at("boot")).unwrap() == image.0);
    // The blob into a pipe, under an id.
    fifo(&at("pipe"));
    let reader = std::thread::spawn({
        let pipe = at("pipe");
        move || std::fs::read(pipe).unwrap()
    });
    let named =
        ["create", "-B", str(&at("named")), "--blob", str(&at("pipe")), "--blob-id", "an-id", str(&source)];
    succeeds(&named);
    assert!(reader.join().unwrap() == image.1);
    assert!(text(&run(&["check", str(&at("named"))]).stdout).contains("\t 0: an-id, "));
    // A directory needs no --type, also with -b; and an image without data has no blob.
    std::fs::create_dir(at("tree")).unwrap();
    std::fs::create_dir(at("none")).unwrap();
    succeeds(&["create", "-B", str(&at("x")), "-b", str(&at("y")), str(&at("tree"))]);
    assert_eq!(std::fs::metadata(at("y")).unwrap().len(), 0);
    succeeds(&["create", "-D", str(&at("none")), str(&at("tree"))]);
    assert_eq!(names(&at("none")), [hex(&std::fs::read(at("x")).unwrap())]);
    // Without a place, or with one that is none.
    assert_eq!(run(&["create", str(&source)]).status.code(), Some(2));
    assert!(fails(&["create", "-B", str(&at("b")), str(&source)]).contains("no place for the --blob"));
    assert!(fails(&["create", "-D", "/no/such", str(&source)]).contains("/no/such"));
    // In each other's place, or in that of the source.
    std::os::unix::fs::symlink("source", at("link")).unwrap();
    let same = [
        [at("b"), at("b"), at("j")],
        [at("b"), at("one/../b"), at("j")],
        [at("source"), at("b"), at("j")],
        [at("b"), at("link"), at("j")],
        [at("b"), at("c"), at("one/../source")],
    ];
    for [boot, blob, json] in same {
        let args = ["create", "-B", str(&boot), "-b", str(&blob), "-J", str(&json), str(&source)];
        assert!(fails(&args).contains("is the same file as"), "{args:?}");
    }
    assert!(std::fs::read(&source).unwrap() == tar());
    succeeds(&["create", "-B", "/dev/null", "-b", "/dev/null", str(&source)]);
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The shape that programs read: pretty, without a newline at the end, keys in this spelling.
#[test]
fn the_result_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("source"), tar()).unwrap();
    std::fs::write(at("json"), "old and longer than what replaces it".repeat(100)).unwrap();
    let (boot, blob, json) = (at("boot"), at("blob"), at("json"));
    succeeds(&[
        "create",
        "-J",
        str(&json),
        "-B",
        str(&boot),
        "-b",
        str(&blob),
        "--compressor",
        "lz4_block",
        str(&at("source")),
    ]);
    let said = std::fs::read_to_string(&json).unwrap();
    assert!(said.starts_with("{\n  \"") && said.ends_with("\n}"), "{said}");
    let value: serde_json::Value = serde_json::from_str(&said).unwrap();
    let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
    let known = [
        "blobs",
        "bootstrap",
        "compressor",
        "external_blobs",
        "external_bootstrap",
        "fs_version",
        "trace",
        "tree_digest",
        "version",
    ];
    let mut sorted = keys.clone();
    sorted.sort();
    assert_eq!(sorted, known);
    assert_eq!(value["blobs"], serde_json::json!([hex(&std::fs::read(&blob).unwrap())]));
    assert_eq!(value["bootstrap"], str(&boot));
    let checked = text(&run(&["check", str(&boot)]).stdout);
    assert!(checked.ends_with(&format!("tree digest: {}\n", value["tree_digest"].as_str().unwrap())));
    assert_eq!((&value["fs_version"], &value["compressor"]), (&"6".into(), &"lz4_block".into()));
    assert_eq!(
        (&value["external_bootstrap"], &value["external_blobs"]),
        (&"".into(), &serde_json::json!([]))
    );
    // One `v`, then the number.
    let version = value["version"].as_str().unwrap().strip_prefix('v').unwrap();
    assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{version}");
    let trace = &value["trace"];
    for key in ["dump_blob", "dump_bootstrap", "total_build"] {
        assert!(trace["consumed_time"][key].is_f64(), "{key}");
    }
    for key in ["blob_uncompressed_size", "dedup_chunks", "dedup_uncompressed_size"] {
        assert!(trace["registered_events"][key].is_u64(), "{key}");
    }
    // A place where it cannot be written is told before the work.
    let refused = [
        "create",
        "-J",
        "/no/such/json",
        "-B",
        str(&at("new")),
        "-b",
        str(&at("new-blob")),
        str(&at("source")),
    ];
    assert!(fails(&refused).contains("cannot create /no/such/json: No such file"));
    assert!(!at("new").exists() && !at("new-blob").exists());
}

/// The line that fails names what it is about, once.
#[test]
fn errors_name_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("garbage"), vec![7; 2000]).unwrap();
    std::fs::write(at("empty"), b"").unwrap();
    std::fs::write(at("good"), tar()).unwrap();
    std::fs::write(at("cut.gz"), &piped("gzip", &["-c"], &tar())[..5000]).unwrap();
    let (boot, blob) = (at("boot"), at("blob"));
    let create = |source: &Path, more: &[&str]| {
        let args = [&["create", "-B", str(&boot), "-b", str(&blob), str(source)], more].concat();
        let said = fails(&args);
        assert!(!boot.exists() && !blob.exists(), "{said}");
        said
    };
    assert!(create(Path::new("/no/such/layer"), &[]).contains("cannot read /no/such/layer: No such file"));
    assert!(create(&at("empty"), &[]).contains(str(&at("empty"))));
    let garbage = create(&at("garbage"), &[]);
    assert!(garbage.contains(str(&at("garbage"))) && garbage.contains("this is no tar header"), "{garbage}");
    let cut = create(&at("cut.gz"), &[]);
    assert!(cut.contains(str(&at("cut.gz"))), "{cut}");
    assert!(create(&at("good"), &["--type", "dir-rafs"]).contains("is not a directory"));
    assert!(create(dir.path(), &["--type", "tar-rafs"]).contains("use --type dir-rafs"));
    assert!(create(&at("good"), &["--chunk-size", "5000"]).contains("0x1388"));
    assert!(create(&at("good"), &["--blob-id", "a/b"]).contains("a/b"));
    assert!(
        create(&at("good"), &["--prefetch-policy", "fs", "--prefetch-files", "/no/such"])
            .contains("/no/such")
    );
    for args in [
        &["--chunk-size", "x"][..],
        &["--compressor", "gzip"],
        &["--threads", "0"],
        &["-v", "4"],
        &["-B", "again"],
    ] {
        let args = [&["create", "-B", "b", "-b", "c", "d"][..], args].concat();
        assert_eq!(run(&args).status.code(), Some(2), "{args:?}");
    }
    assert_eq!(names(dir.path()), ["cut.gz", "empty", "garbage", "good"]);
}

/// Prefetch patterns come on standard input, which then cannot be the source.
#[test]
fn patterns_to_prefetch() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("source"), tar()).unwrap();
    let args = [
        "create",
        "--prefetch-policy",
        "fs",
        "-l",
        "warn",
        "-B",
        str(&at("boot")),
        "-b",
        str(&at("blob")),
        str(&at("source")),
    ];
    let mut child = command(&args).stdin(Stdio::piped()).spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"/dir/file-3\n\n /dir/file-1 \nrelative\n/dir/file-3/below\n/missing\n")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.success() && said.lines().count() == 2, "{said}");
    assert!(
        said.contains("\"relative\" is not absolute") && said.contains("\"/dir/file-3/below\" is below"),
        "{said}"
    );
    let listed = text(&run(&["inspect", str(&at("boot")), "-R", "prefetch"]).stdout);
    let value: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let paths: Vec<&str> =
        value.as_array().unwrap().iter().map(|entry| entry["path"][0].as_str().unwrap()).collect();
    assert_eq!(paths, ["/dir/file-3", "/dir/file-1"]);
    let stdin = ["create", "--prefetch-policy", "fs", "-B", "x", "-b", "y", "-"];
    assert!(fails(&stdin).contains("use --prefetch-files"));
}

/// An image that is there stays as it is when building another one in its place fails.
#[test]
fn a_failed_build_keeps_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["boot", "blob", "json"] {
        std::fs::write(at(name), name).unwrap();
    }
    let bytes = tar();
    std::fs::write(at("cut"), &bytes[..bytes.len() / 2 + 100]).unwrap();
    std::fs::write(at("good"), bytes).unwrap();
    let (boot, blob, json) = (at("boot"), at("blob"), at("json"));
    let args = ["create", "-B", str(&boot), "-b", str(&blob), "-J", str(&json)];
    assert!(fails(&[&args[..], &[str(&at("cut"))]].concat()).contains("dir/file-"));
    for name in ["boot", "blob", "json"] {
        assert_eq!(std::fs::read_to_string(at(name)).unwrap(), name);
    }
    assert_eq!(names(dir.path()), ["blob", "boot", "cut", "good", "json"]);
    succeeds(&[&args[..], &[str(&at("good"))]].concat());
    assert_eq!(names(dir.path()), ["blob", "boot", "cut", "good", "json"]);
    assert_ne!(std::fs::read(&boot).unwrap(), b"boot");
}

/// A file system mounted for one test; unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    /// A tmpfs of `size` bytes at `at`. `None`, told, where mounting is not possible.
    fn tmpfs(at: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs", str(at)]).output();
        if !done.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: a tmpfs cannot be mounted here: {done:?}");
            return None;
        }
        Some(Self(at.to_path_buf()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::write(&source, tar()).unwrap();
    let Some(small) = Mount::tmpfs(&dir.path().join("small"), "size=64k") else { return };
    let at = |name: &str| small.0.join(name);
    std::fs::write(at("boot"), b"old").unwrap();
    let out = ["create", "-B", str(&at("boot")), "-b", str(&at("blob")), str(&source)];
    let said = fails(&out);
    assert!(said.contains("No space left") && said.contains(str(&at("blob"))), "{said}");
    // With room for the blob elsewhere, the bootstrap still fits not, once the disk is really full.
    std::fs::write(at("fill"), vec![0; 56 << 10]).unwrap();
    let out = ["create", "-B", str(&at("boot")), "-b", str(&dir.path().join("blob")), str(&source)];
    let said = fails(&out);
    assert!(said.contains("No space left") && said.contains(str(&at("boot"))), "{said}");
    assert_eq!(names(&small.0), ["boot", "fill"]);
    assert_eq!(std::fs::read(at("boot")).unwrap(), b"old");
    assert_eq!(names(dir.path()), ["small", "source"], "not a blob without its bootstrap");
}

#[test]
fn a_read_only_directory_is_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::write(&source, tar()).unwrap();
    let Some(fixed) = Mount::tmpfs(&dir.path().join("fixed"), "ro") else { return };
    let (there, here) = (fixed.0.join("x"), dir.path().join("x"));
    for (boot, blob) in [(&there, &here), (&here, &there)] {
        let said = fails(&["create", "-B", str(boot), "-b", str(blob), str(&source)]);
        assert!(
            said.contains(&format!("cannot create {}: Read-only file system", there.display())),
            "{said}"
        );
        assert_eq!(names(dir.path()), ["fixed", "source"]);
    }
    assert!(fails(&["create", "-D", str(&fixed.0), str(&source)]).contains(str(&fixed.0)));
}

/// Whoever reads the blob from a pipe may stop: an error, no hang, no bootstrap of a blob that nobody has.
#[test]
fn a_reader_of_the_blob_that_stops() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("source"), tar()).unwrap();
    fifo(&at("pipe"));
    let reader = std::thread::spawn({
        let pipe = at("pipe");
        move || File::open(pipe).unwrap().read(&mut [0; 100]).unwrap()
    });
    let said = fails(&[
        "create",
        "--compressor",
        "none",
        "-B",
        str(&at("boot")),
        "-b",
        str(&at("pipe")),
        str(&at("source")),
    ]);
    assert!(said.contains("Broken pipe") && said.contains("pipe"), "{said}");
    reader.join().unwrap();
    assert_eq!(names(dir.path()), ["pipe", "source"]);
}

/// Starts a build that is fed slowly, so that it can be interrupted anywhere.
fn slow_build(dir: &Path, out: &[&str]) -> (Child, std::thread::JoinHandle<()>) {
    let args = [&["create", "-l", "warn"], out, &["-"]].concat();
    let mut child = command(&args).current_dir(dir).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || {
        for part in tar().chunks(3000) {
            // The other end is gone when it was interrupted.
            if input.write_all(part).is_err() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_micros(300));
        }
    });
    (child, feeder)
}

fn signal(child: &Child, name: &str) {
    // It may have ended already.
    let _sent =
        Command::new("kill").args(["-s", name, &child.id().to_string()]).stderr(Stdio::null()).status();
}

/// Signals at every moment of a run: what has a final name is whole, and everything or nothing has one.
#[test]
fn signals_leave_nothing_half_done() {
    let dir = tempfile::tempdir().unwrap();
    let image = expected(dir.path());
    let mut ended = [0; 2];
    for n in 0..90u64 {
        let name = ["TERM", "INT", "HUP", "KILL"][usize::try_from(n % 4).unwrap()];
        let (mut child, feeder) = slow_build(dir.path(), &["-B", "boot", "-b", "blob"]);
        // Spread over the run, which takes about 40 ms.
        std::thread::sleep(std::time::Duration::from_micros(n * n * 7));
        signal(&child, name);
        let status = child.wait().unwrap();
        feeder.join().unwrap();
        let found = names(dir.path());
        let left: Vec<&String> = found.iter().filter(|name| name.starts_with('.')).collect();
        assert!(left.is_empty() || name == "KILL", "{name} {n}: {found:?}");
        left.iter().for_each(|name| std::fs::remove_file(dir.path().join(name)).unwrap());
        let whole = found.iter().filter(|name| !name.starts_with('.')).count();
        if name == "KILL" {
            // Nothing can hold off this one; between two names it leaves the blob, which is whole.
            assert!(whole < 2 || dir.path().join("boot").exists());
        } else {
            assert!(matches!(whole, 0 | 2), "{name} {n}: {found:?}");
        }
        if status.success() {
            assert_eq!(whole, 2, "{name} {n}");
        }
        ended[usize::from(status.success())] += 1;
        for (name, bytes) in [("boot", &image.0), ("blob", &image.1)] {
            let path = dir.path().join(name);
            if path.exists() {
                assert!(&std::fs::read(&path).unwrap() == bytes, "{name} {n}");
                std::fs::remove_file(path).unwrap();
            }
        }
    }
    println!("{} runs were ended by a signal, {} had finished", ended[0], ended[1]);
    assert!(ended[0] > 0);
}

/// The exit code says which signal it was, and one line says what is left.
#[test]
fn a_signal_is_an_exit_code_and_a_line() {
    let dir = tempfile::tempdir().unwrap();
    for (name, code) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
        let mut child = command(&["create", "-B", "boot", "-b", "blob", "-"]);
        let mut child = child.current_dir(dir.path()).stdin(Stdio::piped()).spawn().unwrap();
        // Held open, so that it waits for more.
        let mut input = child.stdin.take().unwrap();
        input.write_all(&tar()[..5000]).unwrap();
        while names(dir.path()).len() < 2 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains("nothing was written") && said.lines().count() == 1, "{said}");
        assert_eq!(names(dir.path()), [] as [&str; 0]);
    }
}

/// The same for `unpack`, which makes a file or a whole directory.
#[test]
fn a_signal_leaves_nothing_half_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut out = tar::Builder::new(Vec::new());
    for n in 0..300u32 {
        let data: Vec<u8> = (0..40_000u32).flat_map(|at| (at * n).to_le_bytes()).collect();
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        out.append_data(&mut header, format!("dir-{}/file-{n}", n % 7), data.as_slice()).unwrap();
    }
    std::fs::write(at("source"), out.into_inner().unwrap()).unwrap();
    std::fs::create_dir(at("blobs")).unwrap();
    std::fs::create_dir(at("out")).unwrap();
    succeeds(&["create", "-B", str(&at("boot")), "-D", str(&at("blobs")), str(&at("source"))]);
    let mut interrupted = 0;
    for n in 0..24u64 {
        let (form, target) =
            [("--output", "x.tar"), ("--output-dir", "tree")][usize::try_from(n % 2).unwrap()];
        let target = at("out").join(target);
        let args = ["unpack", str(&at("boot")), "-D", str(&at("blobs")), form, str(&target)];
        let child = command(&args).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_micros(n * n * 300));
        signal(&child, ["TERM", "INT"][usize::try_from(n / 2 % 2).unwrap()]);
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            assert!(target.exists());
            let removed =
                if target.is_dir() { std::fs::remove_dir_all(target) } else { std::fs::remove_file(target) };
            removed.unwrap();
        } else {
            interrupted += 1;
            // No code: before it could watch for signals.
            let said = text(&output.stderr);
            assert!(output.status.code().is_none() || said.contains("interrupted"), "{said}");
        }
        assert_eq!(names(&at("out")), [] as [&str; 0], "{n}");
    }
    println!("{interrupted} of 24 runs were interrupted");
    assert!(interrupted > 0);
}
