//! Archives written by GNU tar in all its formats, compared with the tree they were made from.
#![allow(clippy::unwrap_used, reason = "tests")]

use oci_registry::layer::{EntryKind, Layer, Meta};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

/// Runs a program; `false` where it is missing or fails.
fn run(program: &str, arguments: &[&str], dir: &Path) -> bool {
    Command::new(program).args(arguments).current_dir(dir).status().is_ok_and(|status| status.success())
}

fn read_all(bytes: &[u8]) -> BTreeMap<String, (Meta, Vec<u8>)> {
    let mut layer = Layer::new(bytes);
    let mut all = BTreeMap::new();
    while let Some(meta) = layer.next_entry().unwrap() {
        let mut data = vec![0xAA; usize::try_from(meta.size).unwrap()];
        // Odd steps, so that parts and holes are cut anywhere.
        for step in data.chunks_mut(7001) {
            let wanted = step.len();
            assert_eq!(layer.read_data(step).unwrap(), wanted);
        }
        let path =
            String::from_utf8_lossy(&meta.path).trim_start_matches("./").trim_end_matches('/').to_owned();
        all.insert(path, (meta, data));
    }
    all
}

fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("small"), b"hello").unwrap();
    std::fs::write(path("empty"), b"").unwrap();
    std::fs::hard_link(path("small"), path("small-link")).unwrap();
    std::os::unix::fs::symlink("small", path("symlink")).unwrap();
    std::fs::create_dir_all(path("dir/sub")).unwrap();
    assert!(run("mkfifo", &["fifo"], dir.path()));
    let sparse = std::fs::File::create(path("sparse")).unwrap();
    sparse.set_len(3_000_000).unwrap();
    for n in 0..40u8 {
        sparse.write_all_at(&[n + 1; 5000], u64::from(n) * 65_536).unwrap();
    }
    assert!(run("touch", &["-d", "1969-12-31T23:59:58.25Z", "small"], dir.path()));
    dir
}

#[test]
fn every_format_of_gnu_tar() {
    let dir = tree();
    let source = std::fs::read(dir.path().join("sparse")).unwrap();
    let formats: [&[&str]; 8] = [
        &["--format=v7"],
        &["--format=ustar"],
        &["--format=oldgnu", "--sparse"],
        &["--format=gnu", "--sparse"],
        &["--format=posix"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
    ];
    for format in formats {
        let out = tempfile::NamedTempFile::new().unwrap();
        let out_path = out.path().to_str().unwrap();
        let is_old = matches!(format, ["--format=v7" | "--format=ustar"]);
        let mut arguments = vec!["-cf", out_path, "--numeric-owner"];
        arguments.extend_from_slice(format);
        if is_old {
            // These cannot hold a FIFO or a time before 1970.
            arguments.extend(["--exclude=fifo", "--mtime=@5"]);
        }
        arguments.push(".");
        assert!(run("tar", &arguments, dir.path()), "{format:?}");
        let all = read_all(&std::fs::read(out.path()).unwrap());
        assert_eq!(all["sparse"].1, source, "{format:?}");
        assert_eq!(all["dir/sub"].0.kind, EntryKind::Directory, "{format:?}");
        assert_eq!(all["symlink"].0.kind, EntryKind::Symlink(b"small".to_vec()), "{format:?}");
        let links = [&all["small"].0.kind, &all["small-link"].0.kind];
        assert!(links.iter().any(|kind| matches!(kind, EntryKind::HardLink(_))), "{format:?}");
        let file = all.values().find(|(meta, _)| meta.kind == EntryKind::Regular && meta.size == 5).unwrap();
        assert_eq!(file.1, b"hello");
        if !is_old {
            assert_eq!(all["fifo"].0.kind, EntryKind::Fifo, "{format:?}");
            let nanos = if format[0] == "--format=posix" { 250_000_000 } else { 0 };
            assert_eq!((file.0.mtime_secs, file.0.mtime_nanos), (-2, nanos), "{format:?}");
        }
        let owner = std::fs::metadata(dir.path()).unwrap();
        assert_eq!((file.0.uid, file.0.gid, file.0.mode), (owner.uid(), owner.gid(), 0o644), "{format:?}");
    }
}

#[test]
fn long_names_in_every_format_that_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let deep = (0..8).map(|_| "n".repeat(90)).collect::<Vec<_>>().join("/");
    std::fs::create_dir_all(dir.path().join(&deep)).unwrap();
    std::os::unix::fs::symlink("t".repeat(3000), dir.path().join("link")).unwrap();
    for format in ["--format=oldgnu", "--format=gnu", "--format=posix"] {
        let out = tempfile::NamedTempFile::new().unwrap();
        assert!(run("tar", &["-cf", out.path().to_str().unwrap(), format, "."], dir.path()));
        let all = read_all(&std::fs::read(out.path()).unwrap());
        assert!(all.contains_key(&deep), "{format}");
        assert_eq!(all["link"].0.kind, EntryKind::Symlink("t".repeat(3000).into_bytes()), "{format}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any damage ends in an error or in entries; it never panics, hangs or asks for more memory than there is input.
    #[test]
    fn damage_is_survived(flips in proptest::collection::vec((0usize..20_480, any::<u8>()), 1..6), cut in 0usize..20_480) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), [7; 3000]).unwrap();
        std::fs::File::create(dir.path().join("s")).unwrap().set_len(70_000).unwrap();
        let out = dir.path().join("out.tar");
        prop_assert!(run("tar", &["-cSf", out.to_str().unwrap(), "--format=posix", "a", "s"], dir.path()));
        let mut bytes = std::fs::read(&out).unwrap();
        for (at, flip) in flips {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= flip;
            }
        }
        bytes.truncate(cut.max(1));
        let mut layer = Layer::new(bytes.as_slice());
        let mut buffer = [0; 4096];
        let mut total = 0;
        while let Ok(Some(_)) = layer.next_entry() {
            while let Ok(count @ 1..) = layer.read_data(&mut buffer) {
                total += count;
                if total > 10_000_000 {
                    break;
                }
            }
        }
    }
}
