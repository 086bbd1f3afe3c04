//! The file system as functions: every answer against the files an image was made of.
#![allow(clippy::unwrap_used, reason = "tests")]

use blob_cache::{BlobCache, CacheOptions};
use futures_util::FutureExt;
use proptest::collection::vec;
use proptest::prelude::*;
use rafs_builder::create::Input;
use rafs_format::{Compressor, FileType, Nid};
use rafs_vfs::{Rafs, Read, VfsError};
use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use testkit::image::{self, TestImage};
use testkit::model_read;
use testkit::reader::{Mood, TestReader};

/// A mounted image, its reader and its cache directory.
struct Mounted {
    rafs: Rafs,
    reader: Arc<TestReader>,
    runtime: tokio::runtime::Runtime,
    _dir: Option<tempfile::TempDir>,
}

impl Mounted {
    fn new(image: &TestImage) -> Result<Self, VfsError> {
        let dir = tempfile::tempdir().unwrap();
        Self::with(image, Some(dir))
    }

    /// Mounted without a cache where there is no `dir` for it.
    fn with(image: &TestImage, dir: Option<tempfile::TempDir>) -> Result<Self, VfsError> {
        let bootstrap = image.parsed();
        let reader = TestReader::new(image.blob.clone());
        let open = |blob| {
            let cache = match &dir {
                Some(dir) => BlobCache::open(dir.path(), blob, reader.clone(), CacheOptions::default()),
                None => BlobCache::without_disk(blob, reader.clone()),
            };
            Arc::new(cache.unwrap())
        };
        let caches = bootstrap.blobs().iter().map(open).collect();
        let rafs = Rafs::new(bootstrap, caches)?;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Ok(Self { rafs, reader, runtime, _dir: dir })
    }

    fn find(&self, path: &str) -> Option<Nid> {
        let mut nid = self.rafs.root();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            nid = self.rafs.lookup(nid, name.as_bytes()).unwrap()?.nid;
        }
        Some(nid)
    }

    fn read(&self, nid: Nid, offset: u64, size: usize) -> Result<Vec<u8>, VfsError> {
        let mut bytes = vec![0xEE; size];
        match self.rafs.read(nid, offset, &mut bytes)? {
            Read::Done(count) => bytes.truncate(count),
            Read::Cold(cold) => bytes = self.runtime.block_on(cold.complete())?.to_vec(),
        }
        Ok(bytes)
    }

    /// Names in a directory, read `step` at a time.
    fn list(&self, dir: Nid, step: usize) -> Vec<Vec<u8>> {
        let (mut names, mut from) = (Vec::new(), 0);
        loop {
            let (mut count, start) = (0, from);
            let sink = &mut |entry: rafs_vfs::DirEntry<'_>| {
                names.push(entry.name.to_vec());
                from = entry.next;
                count += 1;
                count < step
            };
            self.rafs.read_dir(dir, start, sink).unwrap();
            if count == 0 {
                return names;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn read_agrees_with_model(
        files in vec((0u8..3, 0usize..40_000), 1..5),
        bits in 12u32..15,
        reads in vec((0usize..5, 0u64..41_000, 0usize..41_000), 1..20),
    ) {
        // Files of few different bytes share chunks.
        let files: Vec<Vec<u8>> = files.into_iter().map(|(seed, size)| testkit::blob::pattern(seed.into(), size)).collect();
        let names: Vec<String> = (0..files.len()).map(|n| format!("f{n}")).collect();
        let pairs: Vec<(&str, &[u8])> = names.iter().zip(&files).map(|(n, f)| (n.as_str(), f.as_slice())).collect();
        let mounted = Mounted::new(&image::of_files(&pairs, &image::options(1 << bits, Compressor::Zstd))).unwrap();
        for (n, offset, size) in reads {
            let n = n % files.len();
            let nid = mounted.find(&names[n]).unwrap();
            prop_assert!(mounted.read(nid, offset, size).unwrap() == model_read(&files[n], offset, size));
        }
    }
}

#[test]
fn a_cold_byte_costs_one_request_and_a_ready_one_none() {
    let content = testkit::blob::pattern(1, 20_000);
    let mounted =
        Mounted::new(&image::of_files(&[("f", &content)], &image::options(4096, Compressor::Zstd))).unwrap();
    let nid = mounted.find("f").unwrap();
    assert_eq!(mounted.reader.requests(), [], "mounting and looking up read no data");
    assert!(mounted.read(nid, 9000, 1).unwrap() == content[9000..9001]);
    assert!(mounted.read(nid, 8192, 4096).unwrap() == content[8192..12288]);
    assert_eq!(mounted.reader.requests().len(), 1);
    assert!(mounted.read(nid, 0, 1 << 20).unwrap() == content);
    assert_eq!(mounted.reader.requests().len(), 5);
    for (offset, size) in [(20_000, 10), (u64::MAX, 10), (3, 0), (20_001, 1)] {
        assert_eq!(mounted.read(nid, offset, size).unwrap(), [0; 0]);
    }
    assert_eq!(mounted.reader.requests().len(), 5);
}

#[test]
fn a_cold_read_that_was_begun_elsewhere_ends_in_the_runtime() {
    let content = testkit::blob::pattern(2, 20_000);
    let mounted =
        Mounted::new(&image::of_files(&[("f", &content)], &image::options(4096, Compressor::Zstd))).unwrap();
    let nid = mounted.find("f").unwrap();
    mounted.reader.set(Mood::Hanging);
    let Read::Cold(cold) = mounted.rafs.read(nid, 0, &mut [0; 20_000]).unwrap() else { panic!("ready") };
    assert!(cold.is_short());
    let mut reading = Box::pin(cold.complete());
    let inside = mounted.runtime.enter();
    assert!(reading.as_mut().now_or_never().is_none());
    drop(inside);
    mounted.reader.release();
    assert!(mounted.runtime.block_on(reading).unwrap() == content);
}

#[test]
fn names_links_types_and_attributes_are_those_of_the_source() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    std::fs::create_dir(at("d")).unwrap();
    for n in 0..1000 {
        std::fs::write(at(&format!("d/name-{n:04}")), b"").unwrap();
    }
    std::fs::write(at("d/one"), b"hard").unwrap();
    std::fs::hard_link(at("d/one"), at("two")).unwrap();
    symlink("d/one", at("link")).unwrap();
    xattr::set(at("two"), "user.colour", b"blue\0").unwrap();
    xattr::set(at("two"), "trusted.secret", b"1").unwrap();
    let input = Input::Directory(dir.path().to_path_buf());
    let mounted = Mounted::new(&image::build(input, &image::options(4096, Compressor::None))).unwrap();
    let rafs = &mounted.rafs;
    let d = mounted.find("d").unwrap();
    let mut expected: Vec<Vec<u8>> = (0..1000).map(|n| format!("name-{n:04}").into_bytes()).collect();
    expected.extend([b".".to_vec(), b"..".to_vec(), b"one".to_vec()]);
    expected.sort();
    for step in [1, 7, 5000] {
        assert_eq!(mounted.list(d, step), expected);
    }
    assert!(expected.iter().all(|name| rafs.lookup(d, name).unwrap().is_some()));
    assert!(rafs.lookup(d, b"name-1000").unwrap().is_none());
    assert!(rafs.lookup(d, b"").unwrap().is_none());
    let two = mounted.find("two").unwrap();
    assert_eq!(mounted.find("d/one"), Some(two));
    let attr = rafs.attr(two).unwrap();
    assert_eq!((attr.nlink, attr.size, attr.file_type), (2, 4, FileType::Regular));
    assert_eq!(rafs.attr(d).unwrap().nlink, 2);
    let link = mounted.find("link").unwrap();
    assert_eq!(rafs.read_link(link).unwrap(), &b"d/one"[..]);
    assert!(rafs.has_xattrs());
    assert_eq!(rafs.xattr(two, b"user.colour").unwrap(), Some(&b"blue\0"[..]));
    assert_eq!(rafs.xattr(two, b"user.colou").unwrap(), None);
    assert_eq!(rafs.xattr_names(two, |_| true).unwrap(), b"trusted.secret\0user.colour\0");
    assert_eq!(rafs.xattr_names(two, |name| !name.starts_with(b"trusted.")).unwrap(), b"user.colour\0");
    assert_eq!(rafs.totals().entries, 1005);
    assert!(matches!(rafs.read_link(two), Err(VfsError::WrongType { .. })));
    assert!(matches!(rafs.lookup(two, b"x"), Err(VfsError::NotADirectory { .. })));
    assert!(matches!(mounted.read(d, 0, 1), Err(VfsError::IsADirectory { .. })));
    assert!(matches!(mounted.read(link, 0, 1), Err(VfsError::WrongType { .. })));
}

#[test]
fn everybody_may_enter_the_root() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), b"").unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o1700)).unwrap();
    let input = Input::Directory(dir.path().to_path_buf());
    let mounted = Mounted::new(&image::build(input, &image::options(4096, Compressor::None))).unwrap();
    assert_eq!(mounted.rafs.attr(mounted.rafs.root()).unwrap().perm, 0o1755);
}

#[test]
fn an_image_without_data_has_no_blobs() {
    let mounted = Mounted::new(&image::of_files(&[("d/e", b"")], &image::options(4096, Compressor::Zstd)));
    let mounted = mounted.unwrap();
    assert_eq!(mounted.read(mounted.find("d/e").unwrap(), 0, 100).unwrap(), [0; 0]);
    assert_eq!(mounted.rafs.totals().bytes, 0);
    let image = image::of_files(&[("f", b"x")], &image::options(4096, Compressor::Zstd));
    let error = Rafs::new(image.parsed(), Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "0 blob caches for 1 blobs");
}

#[test]
fn a_backend_that_fails_is_an_error_and_recovers() {
    let content = testkit::blob::pattern(9, 9000);
    let image = image::of_files(&[("f", &content)], &image::options(4096, Compressor::Zstd));
    let mounted = Mounted::new(&image).unwrap();
    let nid = mounted.find("f").unwrap();
    for mood in [Mood::Failing, Mood::Lying, Mood::Panicking] {
        mounted.reader.set(mood);
        assert!(matches!(mounted.read(nid, 0, 9000), Err(VfsError::Data(_))));
    }
    mounted.reader.set(Mood::Healthy);
    assert!(mounted.read(nid, 0, 9000).unwrap() == content);
}

/// Reads everything there is: contents by path. Errors are counted.
fn walk(mounted: &Mounted) -> (BTreeMap<Vec<u8>, Vec<u8>>, usize) {
    let (mut files, mut errors) = (BTreeMap::new(), 0);
    let mut open = vec![(Vec::new(), mounted.rafs.root())];
    let mut seen = 0;
    while let Some((path, nid)) = open.pop() {
        seen += 1;
        assert!(seen < 10_000, "the walk ends");
        let depth = path.iter().filter(|&&byte| byte == b'/').count();
        let mut entries = Vec::new();
        let sink = &mut |entry: rafs_vfs::DirEntry<'_>| {
            entries.push((entry.name.to_vec(), entry.nid));
            entries.len() < 1000
        };
        errors += usize::from(mounted.rafs.read_dir(nid, 0, sink).is_err());
        for (name, child) in entries {
            let path = [&path[..], b"/", &name].concat();
            let Ok(attr) = mounted.rafs.attr(child) else {
                errors += 1;
                continue;
            };
            errors += usize::from(mounted.rafs.xattr_names(child, |_| true).is_err());
            match attr.file_type {
                FileType::Directory if !matches!(name.as_slice(), b"." | b"..") && depth < 5 => {
                    open.push((path, child));
                }
                FileType::Symlink => errors += usize::from(mounted.rafs.read_link(child).is_err()),
                FileType::Regular => match mounted.read(child, 0, 200_000) {
                    Ok(content) => drop(files.insert(path, content)),
                    Err(_) => errors += 1,
                },
                _ => {}
            }
        }
    }
    (files, errors)
}

/// One flipped byte anywhere in a bootstrap: no panic, no hang, and whatever is read is the content of some file of the image, cut or not:
/// each chunk is verified, while names, sizes and other metadata of RAFS v6 have no checksum of their own.
#[test]
fn one_flipped_byte_in_a_bootstrap_never_invents_data() {
    let (a, b) = (testkit::blob::pattern(1, 9000), testkit::blob::pattern(2, 5000));
    let image = image::of_files(
        &[("d/a", &a), ("d/b", &b), ("empty", b""), ("z", b"z")],
        &image::options(4096, Compressor::Zstd),
    );
    let whole: Vec<&[u8]> = [&a[..], &b[..], b"", b"z"].to_vec();
    let (mut refused, mut bad) = (0, 0);
    // All bytes that say something, and some of the filling.
    let positions = (0..image.bootstrap.len()).filter(|&at| image.bootstrap[at] != 0 || at % 5 == 0);
    for at in positions {
        let mut damaged = image.clone();
        damaged.bootstrap[at] ^= 1 << (at % 8);
        if rafs_format::Bootstrap::parse(damaged.bootstrap.clone()).is_err() {
            refused += 1;
            continue;
        }
        let Ok(mounted) = Mounted::with(&damaged, None) else {
            refused += 1;
            continue;
        };
        let (files, errors) = walk(&mounted);
        bad += usize::from(errors > 0);
        for (path, content) in files {
            let known = whole.iter().any(|file| file.starts_with(&content));
            assert!(known, "byte {at}: {} is no file of the image", String::from_utf8_lossy(&path));
        }
    }
    assert!(refused > 100 && bad > 300, "{refused} refused, {bad} with errors");
}
