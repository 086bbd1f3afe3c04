//! `export` as snapshotters run it: what is on standard output, where the disk goes, and which options go together.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{run, str, text};

/// Asserts this exit code and nothing on standard output. Returns what is on standard error.
fn fails(code: i32, args: &[&str]) -> String {
    let output = run(args);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(code), String::new()), "{args:?}");
    text(&output.stderr)
}

/// A directory with a tarfs: `boot`, and its tar under its id in `blobs`.
fn tarfs() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3000);
    header.set_mode(0o644);
    tar.append_data(&mut header, "file", &[9; 3000][..]).unwrap();
    std::fs::create_dir(at("blobs")).unwrap();
    std::fs::write(at("blobs/layer"), tar.into_inner().unwrap()).unwrap();
    let tar = at("blobs/layer");
    let args = ["create", "-t", "tar-tarfs", "--blob-id", "layer", "-B", str(&at("boot")), str(&tar)];
    assert!(run(&args).status.success());
    dir
}

#[test]
fn the_line_for_verity_is_all_that_is_said() {
    let dir = tarfs();
    let at = |name: &str| str(&dir.path().join(name));
    let args = ["export", "--block", "--localfs-dir", at("blobs"), "--bootstrap", at("boot"), "--output"];
    let plain = run(&[&args[..], &[at("plain"), "--log-level", "warn"]].concat());
    assert_eq!(
        (plain.status.code(), text(&plain.stdout), text(&plain.stderr)),
        (Some(0), "".into(), "".into())
    );
    let output = run(&[&args[..], &[at("disk"), "--verity", "--threads", "3"]].concat());
    assert!(output.status.success());
    let said = text(&output.stdout);
    let size = std::fs::metadata(at("plain")).unwrap().len();
    let start = format!(
        "dm-verity options: --no-superblock --format=1 -s \"\" --hash=sha256 --data-block-size=512 \
         --hash-block-size=4096 --data-blocks {} --hash-offset {} ",
        size / 512,
        size.next_multiple_of(4096)
    );
    let root = said.strip_prefix(&start).unwrap_or_else(|| panic!("{said:?}")).strip_suffix('\n').unwrap();
    assert!(root.len() == 64 && root.bytes().all(|byte| byte.is_ascii_hexdigit()), "{root}");
    let (plain, disk) = (std::fs::read(at("plain")).unwrap(), std::fs::read(at("disk")).unwrap());
    assert!(disk.starts_with(&plain) && disk.len() > plain.len());
}

#[test]
fn the_disk_stands_beside_the_blobs_unless_told_otherwise() {
    let dir = tarfs();
    let at = |name: &str| str(&dir.path().join(name));
    assert!(run(&["export", "--block", "-D", at("blobs"), "-B", at("boot")]).status.success());
    assert!(dir.path().join("blobs/boot.disk").is_file());
    // Nothing is cached beside it.
    assert_eq!(std::fs::read_dir(at("blobs")).unwrap().count(), 2);
    let entry = serde_json::json!({
        "type": "bootstrap", "id": "x", "domain_id": "x",
        "config_v2": {
            "version": 2, "backend": {"type": "localfs", "localfs": {"dir": at("blobs")}},
            "cache": {"type": "filecache"}, "metadata_path": at("boot"),
        },
    });
    std::fs::write(at("entry"), entry.to_string()).unwrap();
    assert!(run(&["export", "--block", "-C", at("entry"), "-O", at("disk")]).status.success());
    assert!(std::fs::read(at("disk")).unwrap() == std::fs::read(at("blobs/boot.disk")).unwrap());
}

#[test]
fn options_go_together_as_they_should() {
    let dir = tarfs();
    let at = |name: &str| str(&dir.path().join(name));
    assert!(fails(1, &["export", "-D", at("blobs"), "-B", at("boot")]).contains("--block"));
    for args in [
        &["-B", "x"][..],
        &["-D", "x"],
        &[],
        &["-C", "x"],
        &["-C", "x", "-O", "y", "-B", "z", "-D", "d"],
        &["-B", "x", "-D", "y", "--threads", "0"],
    ] {
        fails(2, &[&["export", "--block"], args].concat());
    }
    let said = fails(1, &["export", "--block", "-B", at("missing"), "-D", at("blobs")]);
    assert!(said.contains("cannot read bootstrap") && said.contains("missing"), "{said}");
    std::fs::write(at("blobs/layer"), vec![0; 4608]).unwrap();
    let said = fails(1, &["export", "--block", "-B", at("boot"), "-D", at("blobs")]);
    assert!(said.contains("is not the one the image was made of"), "{said}");
    assert_eq!(std::fs::read_dir(at("blobs")).unwrap().count(), 1, "nothing is left");
}
