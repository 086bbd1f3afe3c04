//! A daemon that is told which tree it should serve serves that one and no other.
#![allow(clippy::unwrap_used, reason = "tests")]

use rafs_builder::digest::{self, Scope};
use rafs_builder::open::Image;
use std::process::Command;
use tests::{Daemon, Place, can_mount, program, run, run_ok};

/// Builds an image of a file with this content: its place and its tree digest.
fn image(content: &str, options: &[&str]) -> (Place, String) {
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("file"), content).unwrap();
    let place = Place::new();
    place.build(source.path(), options);
    let told = run_ok(Command::new(program("nydus-image")).arg("check").arg(place.at("boot")));
    let digest = told.lines().find_map(|line| line.strip_prefix("tree digest: ")).unwrap();
    (place, digest.to_owned())
}

#[test]
fn only_the_tree_that_is_asked_for_is_mounted() {
    for options in [&["-v", "5"][..], &[]] {
        let ((place, right), (_, wrong)) = (image("one", options), image("two", options));
        let with = |digest: &str| {
            let mut command = place.command();
            command.args(["--tree-digest", digest]);
            command
        };
        let output = run(&mut with(&wrong));
        let said = String::from_utf8(output.stderr).unwrap();
        let expected = format!("boot is {right}, expected {wrong}: this is not the image that was asked for");
        assert!(output.status.code() == Some(1) && said.contains(&expected), "{said}");
        let output = run(&mut with("abc"));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains("64 hex digits"), "{said}");
        // The configuration may say it, the option counts more.
        let config = std::fs::read_to_string(place.at("config.json")).unwrap();
        let text = config.replacen('{', &format!(r#"{{"tree_digest": "{wrong}","#), 1);
        std::fs::write(place.at("config.json"), text).unwrap();
        assert!(place.refused().contains(&expected), "{}", place.refused());
        if !can_mount() {
            return;
        }
        let image = Image::open(&place.at("boot")).unwrap();
        // That of the content, in which times do not count, is as good.
        let content = digest::tree(image.bootstrap(), Scope::Content).unwrap().digest.to_string();
        for right in [right.to_uppercase(), content] {
            let daemon = Daemon::start(with(&right), &place.at("mnt"));
            assert_eq!(std::fs::read(place.at("mnt/file")).unwrap(), b"one");
            daemon.stop();
        }
    }
}

/// A tree whose metadata was changed is another one, which no digest of data would tell.
#[test]
fn a_changed_mode_is_seen() {
    let (place, right) = image("one", &["-v", "5"]);
    let mut bytes = std::fs::read(place.at("boot")).unwrap();
    let mode = 0o100_644u32.to_le_bytes();
    let at = bytes.windows(4).position(|four| four == mode).unwrap();
    bytes[at..at + 4].copy_from_slice(&0o100_777u32.to_le_bytes());
    std::fs::write(place.at("boot"), bytes).unwrap();
    let mut command = place.command();
    let output = run(command.args(["--tree-digest", &right]));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("the tree digest of") && said.contains(&format!("expected {right}")), "{said}");
}
