//! An encrypted image that leaves its key out: mounted with the key file that the configuration names, and not without it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::Command;
use testkit::tree::dir_tree;
use tests::{Place, can_mount, run_ok};

#[test]
fn an_image_without_its_key_is_mounted_with_it() {
    if !can_mount() {
        return;
    }
    let (place, source) = (Place::new(), tempfile::tempdir().unwrap());
    for n in 0..200u32 {
        let data = format!("a file of this image, number {n}\n").repeat(1 + n as usize);
        std::fs::write(source.path().join(format!("f{n}")), data).unwrap();
    }
    let key = place.at("key").display().to_string();
    place.build(source.path(), &["-E", "--key-file", &key, "--generate-key", "--batch-size", "0x2000"]);
    let said = place.refused();
    assert!(said.contains("its key is not in the image, and none that was given fits"), "{said}");
    let config = std::fs::read_to_string(place.at("config.json")).unwrap();
    let with_key = config.replacen('{', &format!("{{\"key_files\": [{key:?}], "), 1);
    std::fs::write(place.at("config.json"), with_key).unwrap();
    run_ok(Command::new("chmod").arg("644").arg(place.at("key")));
    let said = place.refused();
    assert!(said.contains("its mode is 0644"), "{said}");
    run_ok(Command::new("chmod").arg("600").arg(place.at("key")));
    let daemon = place.mount();
    let files = |dir: &std::path::Path| {
        let mut tree = dir_tree(dir);
        tree.remove("/").unwrap();
        tree
    };
    assert!(files(&place.at("mnt")) == files(source.path()));
    daemon.stop();
}
