//! RAFS v5 on the command line: the options of converters, what comes out, and what does not go with it.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::text;
use std::path::{Path, PathBuf};
use std::process::Output;

fn run(args: &[&str]) -> Output {
    common::run(&[&["--log-level", "warn"], args].concat())
}

#[track_caller]
fn succeeds(args: &[&str]) -> Vec<u8> {
    let output = run(args);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{args:?}");
    output.stdout
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().unwrap().to_owned()
}

fn json(at: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(at).unwrap()).unwrap()
}

/// A directory with a file of two chunks, another name of it and a link.
fn tree(dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    std::fs::create_dir_all(tree.join("sub")).unwrap();
    std::fs::write(tree.join("file"), vec![7; 5000]).unwrap();
    std::fs::hard_link(tree.join("file"), tree.join("sub/again")).unwrap();
    std::os::unix::fs::symlink("../file", tree.join("sub/link")).unwrap();
    tree
}

/// Both versions of one directory: the result says which, the tree is the same, and so is what unpacks.
#[test]
fn one_directory_in_both_versions() {
    let dir = tempfile::tempdir().unwrap();
    let tree = tree(dir.path());
    let at = |name: &str| path(dir.path(), name);
    let mut seen = Vec::new();
    for (version, more) in [("5", vec![]), ("5", vec!["--aligned-chunk"]), ("6", vec![])] {
        let (boot, result) = (at("boot"), at("result"));
        let source = tree.to_str().unwrap();
        let out = ["-B", &boot, "-D", &at(""), "-J", &result, "--chunk-size", "0x1000", source];
        succeeds(&[&["create", "-v", version], more.as_slice(), &out].concat());
        let built = json(&result);
        assert_eq!(built["fs_version"], version);
        let data = ["check", &boot, "--data", "-D", &at(""), "-J", &result];
        succeeds(&data);
        let checked = json(&result);
        assert_eq!(
            (&checked["fs_version"], &checked["tree_digest"]),
            (&version.into(), &built["tree_digest"])
        );
        succeeds(&["unpack", "-B", &boot, "--blob-dir", &at(""), "--output", &at("tar")]);
        seen.push((built["tree_digest"].clone(), std::fs::read(at("tar")).unwrap()));
    }
    assert!(seen[0] == seen[1] && seen[1] == seen[2]);
}

#[test]
fn what_needs_v6_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let tree = tree(dir.path());
    let said = |more: &[&str]| {
        let to = path(dir.path(), "blob");
        let out = ["create", "-v", "5", "--blob-inline-meta", "-b", &to, tree.to_str().unwrap()];
        let output = run(&[&out, more].concat());
        assert!(output.status.code() == Some(1) && !dir.path().join("blob").exists());
        text(&output.stderr)
    };
    let toc = said(&["--features", "blob-toc"]);
    assert!(toc.starts_with("Error: --features blob-toc conflicts with --fs-version 5"), "{toc}");
    assert!(said(&["--batch-size", "0x1000"]).contains("--batch-size conflicts with --fs-version 5"));
    let boot = path(dir.path(), "boot");
    let output = run(&["create", "-v", "5", "--type", "tar-tarfs", "-B", &boot, "layer.tar"]);
    let tarfs = text(&output.stderr);
    assert!(tarfs.starts_with("Error: --type tar-tarfs conflicts with --fs-version 5"), "{tarfs}");
}

/// Layers of v5 are merged; with one of v6 among them converters are told to build them anew.
#[test]
fn layers_are_merged() {
    let dir = tempfile::tempdir().unwrap();
    let tree = tree(dir.path());
    let at = |name: &str| path(dir.path(), name);
    for (version, boot) in [("5", "old"), ("6", "new")] {
        succeeds(&["create", "-v", version, "-B", &at(boot), "-D", &at(""), tree.to_str().unwrap()]);
    }
    succeeds(&["merge", "-B", &at("boot"), "-J", &at("result"), &at("old"), &at("old")]);
    let said = json(&at("result"));
    assert_eq!((&said["fs_version"], said["blobs"].as_array().unwrap().len()), (&"5".into(), 1));
    succeeds(&["check", &at("boot"), "--data", "-D", &at(""), "-J", &at("result")]);
    assert_eq!(json(&at("result"))["tree_digest"], said["tree_digest"]);
    let output = run(&["merge", "-B", &at("mixed"), &at("old"), &at("new")]);
    let told = text(&output.stderr);
    assert_eq!((output.status.code(), dir.path().join("mixed").exists()), (Some(2), false), "{told}");
    assert!(told.contains("the RAFS version is 6, but 5 in"), "{told}");
}
