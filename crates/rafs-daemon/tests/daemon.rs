//! Daemons in this process: what they refuse, and that several of them live side by side.
#![allow(clippy::unwrap_used, reason = "tests")]

use rafs_daemon::config::{Config, from_local_dir};
use rafs_daemon::{Daemon, DaemonError, Options, PrefetchOptions};
use rafs_format::Compressor;
use std::path::Path;
use testkit::image::{self, TestImage, Version};

/// A directory with bootstrap, blob, mountpoint and cache.
struct Place {
    dir: tempfile::TempDir,
    options: Options,
}

impl Place {
    fn new(content: &[u8]) -> (Self, TestImage) {
        Self::with(content, &image::options(4096, Compressor::Zstd))
    }

    fn with(content: &[u8], options: &image::Options) -> (Self, TestImage) {
        let dir = tempfile::tempdir().unwrap();
        let image = image::of_files(&[("f", content)], options);
        std::fs::create_dir(dir.path().join("mnt")).unwrap();
        std::fs::write(dir.path().join("boot"), &image.bootstrap).unwrap();
        let id = image.parsed().blobs()[0].id.to_string();
        std::fs::write(dir.path().join(id), &image.blob).unwrap();
        let options = Options {
            bootstrap: dir.path().join("boot"),
            mountpoint: dir.path().join("mnt"),
            config: from_local_dir(dir.path()),
            prefetch: PrefetchOptions::default(),
            threads: None,
        };
        (Self { dir, options }, image)
    }

    /// What a daemon says that does not start.
    fn refused(&self) -> String {
        cli_report::chain(&Daemon::start(&self.options).unwrap_err())
    }
}

/// `None`, and a line that says so, where nothing can be mounted.
fn start(place: &Place) -> Option<Daemon> {
    match Daemon::start(&place.options) {
        Ok(daemon) => Some(daemon),
        Err(DaemonError::Fuse(error)) => {
            eprintln!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn parse(text: &str) -> Config {
    rafs_daemon::config::parse(text, Path::new("test")).unwrap().config
}

#[test]
fn what_is_missing_or_damaged_is_one_line_that_names_it() {
    let (mut place, image) = Place::new(b"content");
    let boot = place.options.bootstrap.clone();
    let id = image.parsed().blobs()[0].id.to_string();
    std::fs::rename(place.dir.path().join(&id), place.dir.path().join("away")).unwrap();
    let said = place.refused();
    assert!(said.contains(&format!("a blob of {} is missing: localfs", boot.display())), "{said}");
    assert!(said.contains(&id) && said.ends_with("not found"), "{said}");
    std::fs::rename(place.dir.path().join("away"), place.dir.path().join(&id)).unwrap();
    for (damage, expected) in [
        (&b""[..], "superblock at 0x400"),
        (b"SFAR", "superblock at 0x0 + 0x2000"),
        (&image.bootstrap[..5000], "is not a RAFS bootstrap, or a damaged one"),
    ] {
        std::fs::write(&boot, damage).unwrap();
        let said = place.refused();
        assert!(said.contains(expected) && said.contains("boot"), "{said}");
        assert!(!said.contains('\n'), "{said}");
    }
    std::fs::remove_file(&boot).unwrap();
    assert!(place.refused().starts_with(&format!("cannot read bootstrap {}: No such file", boot.display())));
    std::fs::write(&boot, &image.bootstrap).unwrap();
    place.options.mountpoint = place.dir.path().join("nowhere");
    assert!(place.refused().ends_with("nowhere does not exist"));
}

#[test]
fn any_flipped_byte_of_a_bootstrap_named_after_its_digest_is_found() {
    let (mut place, image) = Place::new(b"content");
    let name = rafs_merkle::digest(rafs_format::DigestAlgorithm::Sha256, &image.bootstrap).to_string();
    place.options.bootstrap = place.dir.path().join(&name);
    // It gets as far as the mountpoint.
    place.options.mountpoint = place.dir.path().join("nowhere");
    std::fs::write(&place.options.bootstrap, &image.bootstrap).unwrap();
    assert!(place.refused().ends_with("nowhere does not exist"));
    for at in (0..image.bootstrap.len()).step_by(37) {
        let mut bytes = image.bootstrap.clone();
        bytes[at] ^= 4;
        std::fs::write(&place.options.bootstrap, bytes).unwrap();
        let said = place.refused();
        assert!(said.contains("is damaged: it is named after its SHA-256"), "byte {at}: {said}");
    }
}

#[test]
fn what_this_version_cannot_do_is_refused_by_name() {
    let (mut place, _) = Place::new(b"content");
    let fscache = r#"{"version": 2, "backend": {"type": "localfs", "localfs": {"dir": "/"}}, "cache": {"type": "fscache", "fscache": {"work_dir": "/tmp"}}}"#;
    place.options.config = parse(fscache);
    assert_eq!(place.refused(), "cache type fscache is not supported by this version yet");
}

#[test]
fn daemons_live_side_by_side() {
    let (one, two) = (Place::new(b"one").0, Place::new(b"two").0);
    let (Some(first), Some(second)) = (start(&one), start(&two)) else { return };
    let read = |place: &Place| std::fs::read(place.options.mountpoint.join("f"));
    assert_eq!((read(&one).unwrap(), read(&two).unwrap()), (b"one".to_vec(), b"two".to_vec()));
    assert_eq!(first.stats().fetches, 1);
    let stopper = first.stopper();
    let server = std::thread::spawn(move || first.serve());
    stopper.stop().unwrap();
    server.join().unwrap().unwrap();
    assert!(read(&one).is_err());
    assert_eq!(read(&two).unwrap(), b"two");
    drop(second);
    assert!(read(&two).is_err(), "a daemon that is dropped unmounts");
}

/// A configuration of the first version: blobs and cache in `dir`.
fn first_version(dir: &Path, digest_validate: bool) -> Config {
    let dir = dir.display();
    parse(&format!(
        r#"{{"device": {{"backend": {{"type": "localfs", "config": {{"dir": "{dir}"}}}},
            "cache": {{"type": "blobcache", "config": {{"work_dir": "{dir}"}}}}}},
            "mode": "direct", "digest_validate": {digest_validate}}}"#
    ))
}

/// Changes a byte of the cache file of `image` in the middle of each chunk of 4096 bytes.
fn damage(place: &Place, image: &TestImage) {
    let name = format!("{}.blob.data", image.parsed().blobs()[0].id);
    let path = place.dir.path().join(name);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.iter_mut().skip(2000).step_by(4096).for_each(|byte| *byte ^= 1);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
}

#[test]
fn digest_validate_finds_what_changes_on_disk_while_it_is_mounted() {
    for version in [Version::V5, Version::V6] {
        let content = testkit::blob::pattern(7, 40_000);
        let options = image::Options { version, ..image::options(4096, Compressor::Zstd) };
        for validate in [true, false] {
            let (mut place, image) = Place::with(&content, &options);
            place.options.config = first_version(place.dir.path(), validate);
            let Some(daemon) = start(&place) else { return };
            let path = place.options.mountpoint.join("f");
            assert!(std::fs::read(&path).unwrap() == content);
            // Equal ones are one.
            let chunks = daemon.stats().fetches;
            assert!((5..=10).contains(&chunks), "{chunks}");
            damage(&place, &image);
            // The pages that were read go, so that the next reader asks the daemon again.
            let file = std::fs::File::open(&path).unwrap();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            drop(file);
            let found = std::fs::read(&path).unwrap();
            assert_eq!(found == content, validate, "{version:?}: unchecked, the damage shows");
            let damaged = if validate { chunks } else { 0 };
            assert_eq!(
                (daemon.stats().damaged, daemon.stats().fetches),
                (damaged, chunks + damaged),
                "{version:?}"
            );
        }
    }
}
