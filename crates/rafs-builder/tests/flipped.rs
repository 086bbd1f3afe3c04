//! One wrong byte anywhere in a small image: an error that names what is wrong, or the same content. Never a panic, a hang, or
//! other content with success.
//!
//! RAFS v6 has no checksum over metadata, so names, modes, owners, times, device numbers, symlink targets and xattrs may come out
//! changed by a flip that leaves them well formed; such a flip is let pass here, and only such a flip. File data has a digest per chunk,
//! and the references to chunks must agree with it twice (number and place): it may never come out wrong.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use common::{Tree, tar_tree};
use rafs_builder::create::{Compressor, Input, Options, create};
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::output::{Outputs, Place};
use rafs_builder::{chain, check, unpack};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// An image with something of everything, and a place to put damaged copies of it.
struct Fixture {
    dir: tempfile::TempDir,
    source: BlobSource,
    boot: Vec<u8>,
    blob: Vec<u8>,
    blob_path: PathBuf,
    tree: Tree,
}

fn layer() -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: u8, target: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_path(path).unwrap();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(0o644);
        header.set_uid(5);
        header.set_gid(6);
        header.set_mtime(7);
        header.set_size(data.len() as u64);
        header.set_link_name_literal(target).unwrap();
        header.set_cksum();
        out.append(&header, data).unwrap();
    };
    let noise: Vec<u8> = (0..9000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 23) as u8).collect();
    add("PaxHeaders/x", b'x', "", b"27 SCHILY.xattr.user.k=val\n");
    add("dir/noise", b'0', "", &noise);
    add("dir/link", b'1', "dir/noise", b"");
    add("dir/same", b'0', "", &noise[..4096]);
    add("dir/zeros", b'0', "", &[0; 8192]);
    add("empty", b'0', "", b"");
    add("small", b'0', "", b"small");
    add("symlink", b'2', "small", b"");
    add("fifo", b'6', "", b"");
    for n in 0..150 {
        add(&format!("many/{n:0>30}"), b'6', "", b"");
    }
    out.into_inner().unwrap()
}

impl Fixture {
    fn new(compressor: Compressor) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { chunk_size: 0x1000, threads: 1, compressor, ..Options::default() };
        let places = (Place::File(dir.path().join("boot")), Place::Directory(dir.path().to_path_buf()));
        let bytes = layer();
        let report =
            create(Input::Tar(Box::new(bytes.as_slice())), &options, places, &Outputs::new(), &|_| {})
                .unwrap();
        let blob_path = report.blob_path.unwrap();
        Self::of(dir, blob_path)
    }

    /// A golden image, where there are such.
    fn golden(name: &str) -> Option<Self> {
        let image = common::golden()?.join(name);
        let dir = tempfile::tempdir().unwrap();
        let blob = std::fs::read_dir(image.join("blobs")).unwrap().next().unwrap().unwrap();
        let blob_path = dir.path().join(blob.file_name());
        std::fs::write(&blob_path, std::fs::read(blob.path()).unwrap()).unwrap();
        std::fs::write(dir.path().join("boot"), std::fs::read(image.join("image.boot")).unwrap()).unwrap();
        Some(Self::of(dir, blob_path))
    }

    /// The image in `dir`, whose bootstrap is called `boot`. It is sound.
    fn of(dir: tempfile::TempDir, blob_path: PathBuf) -> Self {
        let local = LocalFs { dir: Some(dir.path().to_path_buf()), ..LocalFs::default() };
        let mut fixture = Self {
            source: BlobSource::new(Arc::new(local)).unwrap(),
            boot: std::fs::read(dir.path().join("boot")).unwrap(),
            blob: std::fs::read(&blob_path).unwrap(),
            blob_path,
            dir,
            tree: Tree::new(),
        };
        let (said, tree) = fixture.look(&fixture.boot);
        assert_eq!(said, None);
        fixture.tree = tree.unwrap();
        fixture
    }

    /// What the check says of an image with this bootstrap, and what it unpacks to, if it does.
    fn look(&self, boot: &[u8]) -> (Option<String>, Option<Tree>) {
        let path = self.dir.path().join("damaged");
        std::fs::write(&path, boot).unwrap();
        let image = match Image::open(&path) {
            Ok(image) => image,
            Err(error) => return (Some(chain(&error)), None),
        };
        let mut tar = Vec::new();
        let unpacked = unpack::tar_to(&image, &self.source, &mut tar, 1);
        let tree = unpacked.is_ok().then(|| tar_tree(&tar));
        if let Err(error) = check::structure(&image) {
            return (Some(chain(&error)), tree);
        }
        let said = match check::data(&image, &self.source, 1) {
            Ok(report) => report.problems.first().map(|problem| chain(problem)),
            Err(error) => Some(chain(&error)),
        };
        (said, tree)
    }

    /// Asserts that file data is right in what was unpacked, and returns what else differs.
    fn compare(&self, found: &Tree, what: &str) -> bool {
        let by_path = |tree: &Tree| -> BTreeMap<String, (String, u64)> {
            let files = tree.iter().filter(|(_, entry)| entry.kind == "reg");
            files.map(|(path, entry)| (path.clone(), (entry.sha256.clone(), entry.size))).collect()
        };
        let (found_files, expected_files) = (by_path(found), by_path(&self.tree));
        if found_files.keys().eq(expected_files.keys()) {
            assert_eq!(found_files, expected_files, "{what}: file data");
        } else {
            // A name has changed: the same files under other names.
            let sorted = |files: BTreeMap<String, (String, u64)>| {
                let mut all: Vec<_> = files.into_values().collect();
                all.sort();
                all
            };
            assert_eq!(sorted(found_files), sorted(expected_files), "{what}: file data");
        }
        *found != self.tree
    }
}

/// Which bytes are damaged: each `n`-th, or each with `RAFS_FLIP_STRIDE=1`, which takes minutes. Both defaults are prime, so that
/// they come to every field of structures that stand in a row.
fn stride(default: usize) -> usize {
    std::env::var("RAFS_FLIP_STRIDE").map_or(default, |stride| stride.parse().unwrap())
}

#[test]
fn every_byte_of_a_bootstrap() {
    let (refused, same, changed) = flip_all(&Fixture::new(Compressor::Zstd), stride(7));
    assert!(refused > 500 && same > 500 && changed > 100);
}

/// The same of v5, which also has a digest of each inode.
#[test]
fn every_byte_of_a_v5_bootstrap() {
    let Some(fixture) = Fixture::golden("v5-dir-prefetch") else { return };
    let (refused, same, changed) = flip_all(&fixture, stride(163));
    assert!(refused > 100 && same > 50 && changed > 20);
}

/// Flips each `step`-th byte of the bootstrap: how many flips are refused, mean nothing, change names or attributes.
fn flip_all(fixture: &Fixture, step: usize) -> (u32, u32, u32) {
    let (mut refused, mut same, mut changed) = (0, 0, 0);
    for at in (0..fixture.boot.len()).step_by(step) {
        let mut boot = fixture.boot.clone();
        boot[at] ^= [0x01, 0x80, 0xFF, 0x10][at % 4];
        let what = format!("byte {at:#x}");
        let (said, tree) = fixture.look(&boot);
        let differs = tree.as_ref().is_some_and(|tree| fixture.compare(tree, &what));
        match said {
            Some(said) => {
                assert!(said.len() > 10 && said.lines().count() == 1, "{what}: {said}");
                refused += 1;
            }
            None => {
                assert!(tree.is_some(), "{what}: the check is content, but it does not unpack");
                *if differs { &mut changed } else { &mut same } += 1;
            }
        }
    }
    println!("{refused} flips refused, {same} mean nothing, {changed} change names or attributes");
    (refused, same, changed)
}

#[test]
fn every_byte_of_a_blob() {
    for compressor in [Compressor::Zstd, Compressor::Lz4Block, Compressor::None] {
        let fixture = Fixture::new(compressor);
        let image = Image::open(&fixture.dir.path().join("boot")).unwrap();
        let blob = &image.blobs()[0];
        for at in (0..fixture.blob.len()).step_by(stride(23)) {
            let mut bytes = fixture.blob.clone();
            bytes[at] ^= [0x01, 0x80, 0xFF, 0x10][at % 4];
            std::fs::write(&fixture.blob_path, &bytes).unwrap();
            let what = format!("{compressor:?}, byte {at:#x} of the blob");
            let (said, tree) = fixture.look(&fixture.boot);
            let said = said.unwrap_or_else(|| panic!("{what} passes"));
            assert!(said.contains(blob.id.as_str()), "{what}: {said}");
            if let Some(tree) = tree {
                assert!(!fixture.compare(&tree, &what), "{what}: attributes are not in the blob");
            }
        }
    }
}

/// A bootstrap or blob that ends early.
#[test]
fn every_length() {
    let fixture = Fixture::new(Compressor::Zstd);
    for len in (0..fixture.boot.len()).step_by(512) {
        let (said, tree) = fixture.look(&fixture.boot[..len]);
        let said = said.unwrap_or_else(|| panic!("a bootstrap of {len} bytes passes"));
        assert!(said.contains("damaged") && tree.is_none(), "{len}: {said}");
    }
    for len in (0..fixture.blob.len()).step_by(301) {
        std::fs::write(&fixture.blob_path, &fixture.blob[..len]).unwrap();
        let (said, tree) = fixture.look(&fixture.boot);
        let said = said.unwrap_or_else(|| panic!("a blob of {len} bytes passes"));
        assert!(
            said.contains(" bytes long, the bootstrap says") || len == 0 && said.contains("not found"),
            "{said}"
        );
        tree.inspect(|tree| assert!(!fixture.compare(tree, "a short blob")));
    }
}
