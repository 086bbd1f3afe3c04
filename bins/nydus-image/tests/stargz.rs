//! The table of contents of an eStargz layer as a snapshotter converts it, and what is read back.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{run, str, succeeds, text};
use sha2::{Digest, Sha256};
use std::path::Path;
use testkit::estargz::{Kind, layer};

fn fails(args: &[&str]) -> String {
    let output = run(args);
    assert_ne!(output.status.code(), Some(0), "{args:?}");
    text(&output.stderr)
}

#[test]
fn a_snapshotter_converts_a_table() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| str(&dir.path().join(name));
    let big: Vec<u8> = (0..9_000_000u32).map(|n| (n / 1000).to_le_bytes()[0]).collect();
    let entries = [("d/".to_owned(), Kind::Directory), ("d/big".to_owned(), Kind::File(big.clone()))];
    let layer = layer(&entries, 0x40_0000);
    let id: String = Sha256::digest(&layer.bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::create_dir(at("blobs")).unwrap();
    std::fs::write(dir.path().join("blobs").join(&id), &layer.bytes).unwrap();
    std::fs::write(at("toc"), &layer.toc).unwrap();
    let create = ["create", "--source-type", "stargz_index", "--bootstrap", at("boot"), "--blob-id", &id];
    let more = ["--repeatable", "--disable-check", "--fs-version", "6", "--chunk-size", "0x400000"];
    assert_eq!(succeeds(&[&create[..], &more, &["--blob-meta", at("meta"), at("toc")]].concat()), "");
    // Three entries in their page, and the header.
    assert_eq!(std::fs::metadata(at("meta")).unwrap().len(), 8192);
    assert_eq!(succeeds(&["merge", "--bootstrap", at("image"), at("boot")]), "");
    succeeds(&["check", at("image"), "--data", "-D", at("blobs")]);
    succeeds(&["unpack", at("image"), "-D", at("blobs"), "--output-dir", at("tree")]);
    assert!(std::fs::read(at("tree/d/big")).unwrap() == big);
    // The chunk size is that of such layers, unless another one is given.
    let said = succeeds(&[&create[..], &["-J", at("json"), at("toc")]].concat());
    assert_eq!(said, "");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(at("json")).unwrap()).unwrap();
    assert_eq!((&json["blobs"][0], &json["compressor"]), (&id.into(), &"gzip".into()));
}

#[test]
fn what_does_not_go_with_a_table_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| str(&dir.path().join(name));
    std::fs::write(at("toc"), b"{\"version\":1,\"entries\":[]}").unwrap();
    let create = ["create", "-t", "estargztoc-ref", "-B", at("boot"), at("toc")];
    let with = |more: &[&str]| fails(&[&create[..], more].concat());
    assert!(with(&[]).contains("needs --blob-id"));
    assert!(with(&["--blob-id", "x", "--blob", "y"]).contains("--type estargztoc-ref conflicts with --blob"));
    assert!(with(&["--blob-id", "x", "--fs-version", "5"]).contains("--fs-version 5"));
    assert!(with(&["--blob-id", "x", "--blob-data-size", "xyz"]).contains("--blob-data-size"));
    let said =
        fails(&["create", "-t", "tar-rafs", "-B", at("b"), "-D", at(""), "--blob-meta", at("m"), at("toc")]);
    assert!(said.contains("--blob-meta conflicts"), "{said}");
    std::fs::write(at("toc"), b"{}").unwrap();
    assert!(with(&["--blob-id", "x"]).contains("table of contents of the layer cannot be used"));
    assert!(!Path::new(at("boot")).exists());
}
