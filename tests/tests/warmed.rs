//! The files that `create --blob-cache-dir` writes are a cache that holds the whole blob: a daemon that has them reads nothing else.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::Command;
use testkit::tree::dir_tree;
use tests::{Place, can_mount, program, run_ok};

#[test]
fn a_cache_that_was_built_needs_no_blob() {
    if !can_mount() {
        return;
    }
    let (place, source) = (Place::new(), tempfile::tempdir().unwrap());
    for n in 0..50u32 {
        std::fs::write(source.path().join(format!("f{n}")), format!("{n} ").repeat(n as usize * 99)).unwrap();
    }
    let mut create = Command::new(program("nydus-image"));
    create.arg("create").arg("-B").arg(place.at("boot")).arg("--blob-cache-dir").arg(place.at("cache"));
    run_ok(create.arg(source.path()));
    let data = std::fs::read_dir(place.at("cache")).unwrap().map(|entry| entry.unwrap().file_name());
    let id = data
        .map(|name| name.into_string().unwrap())
        .find_map(|name| Some(name.split_once('.')?.0.to_owned()));
    // The directory of blobs must have one of the name; nothing of use is in it.
    std::fs::write(place.at("blobs").join(id.unwrap()), b"x").unwrap();
    let daemon = place.mount();
    let files = |dir: &std::path::Path| {
        let mut tree = dir_tree(dir);
        tree.remove("/").unwrap();
        tree
    };
    assert!(files(&place.at("mnt")) == files(source.path()));
    daemon.stop();
}
