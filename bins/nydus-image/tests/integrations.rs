//! Command lines of those that call this program, word by word, where no other test has them: exit code, standard output, and a quiet standard error.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{json, quiet_with, run_with, str, text};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// Asserts success with a quiet standard error: standard output.
fn succeeds(args: &[&str]) -> String {
    let output = run_with(args, b"");
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{args:?}");
    text(&output.stdout)
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A tree with files of several sizes.
fn source(dir: &Path) -> PathBuf {
    let tree = dir.join("source");
    std::fs::create_dir_all(tree.join("etc")).unwrap();
    std::fs::write(tree.join("etc/small"), "small").unwrap();
    std::fs::write(tree.join("etc/other"), "other content").unwrap();
    let large: Vec<u8> = (0..300_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(tree.join("large"), large).unwrap();
    tree
}

/// The tree as a tar.
fn tar(tree: &Path) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    out.append_dir_all(".", tree).unwrap();
    out.into_inner().unwrap()
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Reads a pipe to its end, beside whoever writes it.
fn drained(path: &Path) -> std::thread::JoinHandle<Vec<u8>> {
    fifo(path);
    let path = path.to_path_buf();
    std::thread::spawn(move || std::fs::read(path).unwrap())
}

/// Regular files of a tar with their content.
fn files(tar: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(tar);
    let mut found = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        if entry.header().entry_type().is_file() {
            found.push((text(&entry.path_bytes()).trim_start_matches("./").to_owned(), content));
        }
    }
    found.sort();
    found
}

/// An image of `tree`: its bootstrap, and its blob in `dir/blobs`.
fn image(dir: &Path, tree: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (boot, blobs) = (dir.join(name), dir.join("blobs"));
    std::fs::create_dir_all(&blobs).unwrap();
    quiet_with(&["create", "-l", "warn", "-B", str(&boot), "-D", str(&blobs), str(tree)], b"");
    let blob = json_of_check(dir, &boot)["blobs"][0].as_str().unwrap().to_owned();
    (boot, blobs.join(blob))
}

/// What `check` writes.
fn json_of_check(dir: &Path, boot: &Path) -> Value {
    let result = dir.join("check.json");
    succeeds(&["check", "--log-level", "warn", "--output-json", str(&result), "--bootstrap", str(boot)]);
    json(&result)
}

/// A converter's line for a layer, with every option it may add, in both versions.
#[test]
fn layers_are_converted_with_all_options() {
    let dir = tempfile::tempdir().unwrap();
    let tree = source(dir.path());
    let (dict, _) = image(dir.path(), &tree, "dict.boot");
    let dict = format!("bootstrap={}", dict.display());
    let layer = tar(&tree);
    let forms: [&[&str]; 5] = [
        &["--fs-version", "5"],
        &["--fs-version", "5", "--compressor", "lz4_block", "--aligned-chunk", "--chunk-size", "0x10000"],
        &["--fs-version", "6", "--features", "blob-toc", "--chunk-dict", &dict],
        &[
            "--fs-version",
            "6",
            "--features",
            "blob-toc",
            "--chunk-size",
            "0x20000",
            "--batch-size",
            "0x10000",
        ],
        &["--fs-version", "6", "--compressor", "none", "--chunk-size", "4194304"],
    ];
    for (n, form) in forms.into_iter().enumerate() {
        let (input, output) = (dir.path().join(format!("in{n}")), dir.path().join(format!("out{n}")));
        fifo(&input);
        let blob = drained(&output);
        let feeder = std::thread::spawn({
            let (input, layer) = (input.clone(), layer.clone());
            move || std::fs::write(input, layer).unwrap()
        });
        let start = ["create", "--log-level", "warn", "--prefetch-policy", "fs", "--blob", str(&output)];
        let middle = ["--whiteout-spec", "none", "--type", "tar-rafs", "--blob-inline-meta"];
        quiet_with(&[&start[..], &middle, form, &[str(&input)]].concat(), b"/\n");
        feeder.join().unwrap();
        let blob = blob.join().unwrap();
        let named = dir.path().join("blobs").join(hex(&blob));
        std::fs::write(&named, &blob).unwrap();
        let unpacked = dir.path().join("unpacked.tar");
        let blobs = str(&dir.path().join("blobs"));
        quiet_with(&["unpack", "-l", "warn", str(&named), "-D", blobs, "--output", str(&unpacked)], b"");
        assert!(files(&std::fs::read(&unpacked).unwrap()) == files(&layer), "{form:?}");
    }
}

/// Gives ranges of one blob to whoever connects to a socket.
fn serve(socket: &Path, blob: Vec<u8>) {
    let listener = UnixListener::bind(socket).unwrap();
    let blob = Arc::new(blob);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let blob = Arc::clone(&blob);
            std::thread::spawn(move || answer(stream, &blob));
        }
    });
}

/// One request, one answer, closed.
fn answer(mut stream: UnixStream, blob: &[u8]) -> Option<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = text(&head).to_lowercase();
    let range = head.lines().find_map(|line| line.strip_prefix("range: bytes="));
    let (first, last) = range.and_then(|range| range.split_once('-')).unwrap_or(("0", ""));
    let first: usize = first.parse().ok()?;
    let end = last.trim().parse().map_or(blob.len(), |last: usize| (last + 1).min(blob.len()));
    let part = blob.get(first..end)?;
    let reply = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{}/{}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        end - 1,
        blob.len(),
        part.len()
    );
    stream.write_all(reply.as_bytes()).ok()?;
    if !head.starts_with("head ") {
        stream.write_all(part).ok()?;
    }
    Some(())
}

/// Back to a tar: from a file, and from a converter that serves the blob over a socket.
#[test]
fn images_are_turned_back() {
    let dir = tempfile::tempdir().unwrap();
    let tree = source(dir.path());
    let (boot, blob) = image(dir.path(), &tree, "image.boot");
    let socket = dir.path().join("socket");
    serve(&socket, std::fs::read(&blob).unwrap());
    let config = format!(r#"{{"addr":"{}"}}"#, socket.display());
    let sources: [&[&str]; 2] =
        [&["--blob", str(&blob)], &["--backend-type", "http-proxy", "--backend-config", &config]];
    for (n, source) in sources.into_iter().enumerate() {
        let output = dir.path().join(format!("out{n}"));
        let found = drained(&output);
        let start = ["unpack", "--log-level", "warn", "--bootstrap", str(&boot), "--output", str(&output)];
        quiet_with(&[&start[..], source].concat(), b"");
        assert!(files(&found.join().unwrap()) == files(&tar(&tree)), "{source:?}");
    }
}

/// What nydusify runs besides conversion.
#[test]
fn nydusify_checks_inspects_compacts_optimizes_and_makes_dictionaries() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let tree = source(dir.path());
    let (boot, blob) = image(dir.path(), &tree, "image.boot");
    let id = blob.file_name().unwrap().to_str().unwrap();
    let found = json_of_check(dir.path(), &boot);
    assert_eq!(
        (&found["fs_version"], &found["compressor"], &found["blobs"][0]),
        (&"6".into(), &"zstd".into(), &id.into())
    );

    // Both streams are read together there, and must be JSON.
    let output = run_with(&["inspect", str(&boot), "--request", "blobs"], b"");
    assert!(output.status.success());
    let both: Value = serde_json::from_slice(&[output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(both[0]["blob_id"], id);

    let backend = at("backend.json");
    std::fs::write(&backend, format!(r#"{{"device_path":"{}"}}"#, at("none").display())).unwrap();
    let blobs = str(&at("blobs"));
    let (compacted, result) = (at("compacted.boot"), at("result.json"));
    let sizes =
        ["--min-used-ratio", "5", "--compact-blob-size", "10485760", "--max-compact-size", "104857600"];
    let start = ["compact", "--bootstrap", str(&boot), "--blob-dir", blobs, "--layers-to-compact", "32"];
    let end = ["--log-level", "info", "--output-json", str(&result), "--output-bootstrap", str(&compacted)];
    let from = ["--backend-type", "localdisk", "--backend-config-file", str(&backend)];
    let output = run_with(&[&start[..], &sizes, &from, &end].concat(), b"");
    assert!(output.status.success() && output.stdout.is_empty(), "{}", text(&output.stderr));
    assert_eq!(json(&result)["blobs"][0], id);
    assert_eq!(json_of_check(dir.path(), &compacted)["tree_digest"], found["tree_digest"]);

    std::fs::write(at("hot"), r#"{"version":"v1","files":[{"path":"/large","ranges":[[0,10]]}]}"#).unwrap();
    let (optimized, hot) = (at("optimized.boot"), at("hot"));
    let start = ["optimize", "--log-level", "warn", "--prefetch-files", str(&hot), "--bootstrap", str(&boot)];
    let places = ["--output-blob-dir", blobs, "--output-bootstrap", str(&optimized)];
    quiet_with(&[&start[..], &places, &["--output-json", str(&result), "--blob-dir", blobs]].concat(), b"");
    assert_eq!(json(&result)["blobs"].as_array().unwrap().len(), 2);
    assert_eq!(json_of_check(dir.path(), &optimized)["tree_digest"], found["tree_digest"]);

    for version in ["v1", "v2"] {
        let named = at(&format!("app:{version}"));
        std::fs::create_dir(&named).unwrap();
        std::fs::copy(&boot, named.join("nydus_bootstrap")).unwrap();
    }
    let (dict, database) = (at("dict.boot"), format!("sqlite://{}", at("database").display()));
    let versions = ["v1", "v2"].map(|version| str(&at(&format!("app:{version}")).join("nydus_bootstrap")));
    let start =
        ["chunkdict", "generate", "--log-level", "error", "--bootstrap", str(&dict), "--database", &database];
    let output = run_with(&[&start[..], &["--output-json", str(&result)], &versions].concat(), b"");
    assert!(output.status.success() && output.stdout.is_empty(), "{}", text(&output.stderr));
    assert_eq!(json(&result)["bootstrap"], str(&dict));
}

/// Lines of test suites.
#[test]
fn what_test_suites_expect() {
    let dir = tempfile::tempdir().unwrap();
    let tree = source(dir.path());
    let (boot, _) = image(dir.path(), &tree, "image.boot");
    let listed = succeeds(&["check", "--log-level", "error", "--bootstrap", str(&boot), "-v"]);
    assert!(
        listed.contains("\"/etc/small\"") && listed.contains("RAFS filesystem metadata is valid"),
        "{listed}"
    );
    let layer = dir.path().join("layer.tar");
    std::fs::write(&layer, tar(&tree)).unwrap();
    let (reference, blobs) = (dir.path().join("reference.boot"), dir.path().join("blobs"));
    quiet_with(
        &[
            "create",
            "-l",
            "warn",
            "-t",
            "targz-ref",
            "--bootstrap",
            str(&reference),
            "--blob-dir",
            str(&blobs),
            str(&layer),
        ],
        b"",
    );
    for kind in ["tar-tarfs", "estargz-rafs", "estargz-ref"] {
        let args = ["create", "-t", kind, "--blob-cache-dir", str(&blobs), "-B", str(&boot), str(&layer)];
        let output = run_with(&args, b"");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(&format!("conversion type `{kind}` conflicts with `--blob-cache-dir`")),
            "{said}"
        );
    }
    let output =
        run_with(&["create", "--blob-cache-dir", str(&blobs), "-b", "x", "-B", str(&boot), str(&tree)], b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("cannot be used with"), "{}", text(&output.stderr));
}

/// A layer that stays as it is, anywhere, with the object that has its chunk table in a directory. What else is stored somewhere does not matter to it.
#[test]
fn a_layer_is_unpacked_from_its_own_file() {
    let dir = tempfile::tempdir().unwrap();
    let tree = source(dir.path());
    let at = |name: &str| str(&dir.path().join(name));
    std::fs::write(at("layer.tar"), tar(&tree)).unwrap();
    assert!(Command::new("gzip").args(["-k", at("layer.tar")]).status().unwrap().success());
    std::fs::create_dir(at("objects")).unwrap();
    let (dict, _) = image(dir.path(), &tree, "image.boot");
    let dict = format!("bootstrap={}", dict.display());
    for (layer, boot) in [("layer.tar.gz", "gzip.boot"), ("layer.tar", "tar.boot")] {
        let create = ["create", "-l", "warn", "-t", "targz-ref", "-D", at("objects"), "-B", at(boot)];
        quiet_with(&[&create[..], &["--chunk-dict", &dict, at(layer)]].concat(), b"");
        let unpack = ["unpack", "-l", "warn", "-B", at(boot), "--output-dir"];
        quiet_with(
            &[&unpack[..], &[at(&format!("{boot}.d")), "-D", at("objects"), "-b", at(layer)]].concat(),
            b"",
        );
        let unpacked = dir.path().join(format!("{boot}.d"));
        let (unpacked, tree) = (str(&unpacked), str(&tree));
        assert!(
            Command::new("diff").args(["-r", "--no-dereference", tree, unpacked]).status().unwrap().success()
        );
        let output = run_with(&[&unpack[..], &[at("nothing"), "-D", at("objects")]].concat(), b"");
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains("cannot open blob"), "{said}");
        assert!(!Path::new(at("nothing")).exists());
    }
    for option in ["--parent-bootstrap", "--blob-cache-dir"] {
        let create = ["create", "-t", "targz-ref", "-B", at("x"), option, at("objects"), at("layer.tar.gz")];
        let said = text(&run_with(&create, b"").stderr);
        assert!(said.contains(&format!("conflicts with `{option}`: the layer stays as it is")), "{said}");
    }
}
