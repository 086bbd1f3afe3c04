//! Tarfs as a snapshotter makes it: a layer's tar through a pipe, a merge, the list of blobs; no output that is not parsed.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{run, str, succeeds, text};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::process::Command;

/// Asserts failure. Returns the line on standard error.
fn fails(args: &[&str]) -> String {
    let output = run(args);
    assert_ne!(output.status.code(), Some(0), "{args:?}");
    text(&output.stderr)
}

fn tar_of(name: &str, content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, content).unwrap();
    tar.into_inner().unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_snapshotter_makes_an_image_of_layers() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| str(&dir.path().join(name));
    std::fs::create_dir(at("blobs")).unwrap();
    let layers = [tar_of("a", &[5; 10_000]), tar_of("d/b", b"beta")];
    // Ids are those of the compressed layers.
    let ids = ["lower", "upper"].map(|name| sha256(name.as_bytes()));
    for (layer, id) in layers.iter().zip(&ids) {
        let pipe = at(&format!("{id}.fifo"));
        assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
        let bytes = layer.clone();
        let writer = std::thread::spawn(move || std::fs::write(pipe, bytes));
        let boot = at(&format!("{id}.boot"));
        let args = ["create", "--type", "tar-tarfs", "--bootstrap", boot, "--blob-id", id];
        let said = succeeds(&[&args[..], &["--blob-dir", at("blobs"), pipe]].concat());
        assert_eq!(said, "");
        writer.join().unwrap().unwrap();
    }
    assert_eq!(std::fs::read_dir(at("blobs")).unwrap().count(), 0, "the tar is the blob");
    let boots = ids.each_ref().map(|id| at(&format!("{id}.boot")));
    assert_eq!(succeeds(&["merge", "--bootstrap", at("image"), boots[0], boots[1]]), "");
    let blobs = succeeds(&["inspect", "-R blobs", at("image")]);
    for id in &ids {
        assert!(blobs.contains(&format!("\"blob_id\":\"{id}\"")), "{blobs}");
    }
    for (layer, id) in layers.iter().zip(&ids) {
        std::fs::write(dir.path().join("blobs").join(id), layer).unwrap();
    }
    succeeds(&["check", at("image"), "--data", "-D", at("blobs")]);
    succeeds(&["unpack", at("image"), "-D", at("blobs"), "--output-dir", at("tree")]);
    assert_eq!(std::fs::read(at("tree/a")).unwrap(), [5; 10_000]);
    assert_eq!(std::fs::read(at("tree/d/b")).unwrap(), b"beta");
    // Another tar under that name is not taken for the layer.
    std::fs::write(dir.path().join("blobs").join(&ids[1]), tar_of("d/b", b"beta!")).unwrap();
    let said = fails(&["unpack", at("image"), "-D", at("blobs"), "--output", at("tar")]);
    assert!(said.contains("is not the one the image was made of"), "{said}");
    assert!(!Path::new(at("tar")).exists());
}

#[test]
fn the_result_is_told_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| str(&dir.path().join(name));
    let tar = tar_of("a", b"alpha");
    std::fs::write(at("tar"), &tar).unwrap();
    succeeds(&["create", "-t", "tar-tarfs", "-B", at("boot"), "-J", at("json"), at("tar")]);
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(at("json")).unwrap()).unwrap();
    assert_eq!(json["blobs"], serde_json::json!([sha256(&tar)]));
    assert_eq!((json["compressor"].as_str(), json["fs_version"].as_str()), (Some("none"), Some("6")));
    assert!(json["tree_digest"].is_null());
}

#[test]
fn options_that_mean_another_kind_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| str(&dir.path().join(name));
    std::fs::write(at("tar"), tar_of("a", b"alpha")).unwrap();
    let conflicts: [&[&str]; 8] = [
        &["--blob", "x"],
        &["--features", "blob-toc"],
        &["--chunk-dict", "x"],
        &["--aligned-chunk"],
        &["--prefetch-policy", "blob", "--prefetch-files", "/dev/null"],
        &["--blob-cache-dir", "x"],
        &["--batch-size", "0x1000"],
        &["--parent-bootstrap", "x"],
    ];
    for more in conflicts {
        let said = fails(&[&["create", "-t", "tar-tarfs", "-B", at("boot"), at("tar")], more].concat());
        assert!(said.contains(more[0]), "{more:?}: {said}");
    }
    let said = fails(&["create", "-t", "tar-tarfs", "--blob-inline-meta", "-D", at(""), at("tar")]);
    assert!(said.contains("--blob-inline-meta"), "{said}");
    let said = fails(&["create", "-t", "tar-tarfs", "-B", at("boot"), "-v", "5", at("tar")]);
    assert!(said.contains("--fs-version 5"), "{said}");
    std::fs::write(at("tar.gz"), [0x1F, 0x8B, 8, 0]).unwrap();
    let said = fails(&["create", "-t", "tar-tarfs", "-B", at("boot"), at("tar.gz")]);
    assert!(said.contains("it is compressed (Gzip)"), "{said}");
    assert!(!Path::new(at("boot")).exists());
}
