//! The command lines of converters, word by word: a layer through pipes into a blob that holds its bootstrap, and what they do next.
#![allow(clippy::unwrap_used, reason = "tests")]

use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs the program with `stdin` as its standard input.
fn run(args: &[&str], stdin: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nydus-image"));
    let command = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Who does not read standard input may be gone.
    let _sent = child.stdin.take().unwrap().write_all(stdin).is_ok();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asserts success without a word.
fn quiet(args: &[&str], stdin: &[u8]) {
    let output = run(args, stdin);
    let said = (text(&output.stdout), text(&output.stderr));
    assert_eq!((output.status.code(), said), (Some(0), (String::new(), String::new())), "{args:?}");
}

/// Asserts failure with this exit code and one line on standard error: that line.
fn fails(code: i32, args: &[&str]) -> String {
    let output = run(args, b"");
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{args:?}: {said}");
    assert!(said.starts_with("Error: ") && said.lines().count() == 1, "{said}");
    said
}

/// A path as an argument. It is never freed, so that lists of arguments can be built in one go.
fn str(path: &Path) -> &'static str {
    path.to_str().unwrap().to_owned().leak()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A layer with these files and their content.
fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_000);
        out.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    out.into_inner().unwrap()
}

/// Converts a layer as the converter library does, through two pipes in `dir`: the blob.
fn convert(dir: &Path, layer: &[u8], more: &[&str]) -> Vec<u8> {
    let (source, target) = (dir.join("in"), dir.join("out"));
    for pipe in [&source, &target] {
        assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
    }
    let feeder = std::thread::spawn({
        let (source, layer) = (source.clone(), layer.to_vec());
        move || std::fs::write(source, layer).unwrap()
    });
    let reader = std::thread::spawn({
        let target = target.clone();
        move || std::fs::read(target).unwrap()
    });
    let start = ["create", "--log-level", "warn", "--prefetch-policy", "fs", "--blob", str(&target)];
    let form = ["--whiteout-spec", "none", "--fs-version", "6", "--type", "tar-rafs", "--blob-inline-meta"];
    quiet(&[&start[..], &form, more, &[str(&source)]].concat(), b"/");
    feeder.join().unwrap();
    let blob = reader.join().unwrap();
    std::fs::remove_file(source).unwrap();
    std::fs::remove_file(target).unwrap();
    blob
}

/// What a blob of [`convert`] is worth to the rest of the program: found, checked and unpacked under its digest.
#[test]
fn a_layer_goes_through_pipes() {
    let dir = tempfile::tempdir().unwrap();
    let layer = layer(&[("a/b", "content"), ("a/.wh.gone", ""), ("c", &"long ".repeat(9000))]);
    let size = ["--chunk-size", "0x1000"];
    let forms = [
        &["--features", "blob-toc"][..],
        &[],
        &["--features", "blob-toc", "--compressor", "lz4_block", "--aligned-chunk"],
        &["--features", "blob-toc", "--compressor", "none"],
    ];
    for more in forms {
        let more = [more, &size].concat();
        let blob = convert(dir.path(), &layer, &more);
        let path = dir.path().join(hex(&blob));
        std::fs::write(&path, &blob).unwrap();
        let output = run(&["check", "--data", "-l", "warn", str(&path), "-D", str(dir.path())], b"");
        assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains(&hex(&blob)));
        let unpacked = dir.path().join("x.tar");
        quiet(&["unpack", "-l", "warn", str(&path), "-D", str(dir.path()), "--output", str(&unpacked)], b"");
        let mut archive = tar::Archive::new(std::fs::File::open(&unpacked).unwrap());
        let found: Vec<_> =
            archive.entries().unwrap().map(|e| text(&e.unwrap().path_bytes()).replace('/', " ")).collect();
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found.contains(&"a .wh.gone".to_owned()), "{found:?}");
        // The fallback for a builder without tar-rafs, in the same words but for the source: a directory keeps its markers too.
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        std::fs::create_dir(dir.path().join("blobs")).unwrap();
        std::fs::write(tree.join(".wh.gone"), "").unwrap();
        std::fs::write(tree.join("kept"), "kept").unwrap();
        let json = dir.path().join("json");
        let args = ["create", "--log-level", "warn", "--prefetch-policy", "fs", "--whiteout-spec", "none"];
        let form = ["--fs-version", "6", "--source-type", "directory", "--inline-bootstrap", str(&tree)];
        let place = ["-D", str(&dir.path().join("blobs")), "-J", str(&json)];
        quiet(&[&args[..], &more, &form, &place].concat(), b"/");
        let all: Vec<_> = std::fs::read_dir(dir.path().join("blobs")).unwrap().collect();
        let [Ok(blob)] = all.as_slice() else { panic!("{all:?}") };
        let id = hex(&std::fs::read(blob.path()).unwrap());
        assert_eq!(blob.file_name().to_str(), Some(id.as_str()));
        let said: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        assert_eq!((said["blobs"][0].as_str(), said["bootstrap"].as_str()), (Some(id.as_str()), Some("")));
        let listed = run(&["check", "-v", str(&blob.path())], b"");
        assert!(text(&listed.stdout).contains("\"/.wh.gone\""), "{}", text(&listed.stdout));
        for path in [&tree, &dir.path().join("blobs")] {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
}

#[test]
fn options_that_exclude_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (boot, blob, source) = (dir.path().join("boot"), dir.path().join("blob"), dir.path().join("source"));
    std::fs::write(&source, layer(&[("a", "b")])).unwrap();
    let inline = ["create", "--blob-inline-meta", "-b", str(&blob), str(&source)];
    for more in [&["-B", str(&boot)][..], &["--blob-id", "x"], &["--features", "blob-toc,more"]] {
        let output = run(&[&inline[..], more].concat(), b"");
        assert_eq!(output.status.code(), Some(2), "{more:?}: {}", text(&output.stderr));
        assert!(!boot.exists() && !blob.exists());
    }
    assert!(fails(1, &["create", "--blob-inline-meta", str(&source)]).contains("no place for the --blob"));
}
