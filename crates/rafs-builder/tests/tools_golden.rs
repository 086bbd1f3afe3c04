//! Images of another builder: they pass the check, unpack to what their descriptions say, and damage to them is found.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use common::Made::{FromDirectory, FromTar};
use common::{Tree, all_blobs, assert_same, bootstrap, dir_tree, expected, golden, tar_tree};
use rafs_builder::check::{self, Problem};
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::unpack::{self, Target, UnpackError};
use rafs_builder::{chain, inspect};
use rafs_format::SuperFlags;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Native images: name, description, how it was made.
const NATIVE: [(&str, &str, common::Made); 28] = [
    ("v5-dir-inline", "expected-nasty.json", FromDirectory),
    ("v5-dir-lz4", "expected-nasty.json", FromDirectory),
    ("v5-dir-none-aligned", "expected-nasty.json", FromDirectory),
    ("v5-dir-prefetch", "expected-nasty.json", FromDirectory),
    ("v5-dir-prefetch-blob", "expected-nasty.json", FromDirectory),
    ("v5-dir-zstd-sha256-4k-rep", "expected-nasty.json", FromDirectory),
    ("v5-tar", "expected-nasty.json", FromTar),
    ("v5-layered", "expected-merged.json", FromDirectory),
    ("v5-empty", "", FromDirectory),
    ("v6-dir-lz4-8k", "expected-nasty.json", FromDirectory),
    ("v6-dir-none-sha256-4k", "expected-nasty.json", FromDirectory),
    ("v6-dir-prefetch", "expected-nasty.json", FromDirectory),
    ("v6-dir-toc", "expected-nasty.json", FromDirectory),
    ("v6-dir-zstd", "expected-nasty.json", FromDirectory),
    ("v6-dir-inline", "expected-nasty.json", FromDirectory),
    ("v6-dir-inline-toc", "expected-nasty.json", FromDirectory),
    ("v6-tar", "expected-nasty.json", FromTar),
    ("v6-tar-inline-toc", "expected-nasty.json", FromTar),
    ("v6-tarref", "expected-nasty.json", FromTar),
    ("v6-tarfs", "expected-nasty.json", FromTar),
    ("v6-tarfs-4k", "expected-nasty.json", FromTar),
    ("v6-zran", "expected-nasty.json", FromTar),
    ("v6-zran-4k", "expected-nasty.json", FromTar),
    ("v6-zran-inline-toc", "expected-nasty.json", FromTar),
    ("v6-zran-toc", "expected-nasty.json", FromTar),
    ("v6-layered", "expected-merged.json", FromDirectory),
    ("v6-merge", "expected-merged.json", FromTar),
    ("v6-empty", "", FromDirectory),
];

/// Images of a directory whose data is in batches, encrypted, or both.
const UNITS: [&str; 3] = ["v6-dir-batch", "v6-dir-encrypt", "v6-dir-encrypt-batch"];

fn local(dir: &Path) -> BlobSource {
    BlobSource::new(Arc::new(LocalFs { dir: Some(dir.to_path_buf()), ..LocalFs::default() })).unwrap()
}

fn open(golden: &Path, name: &str) -> Image {
    Image::open(&bootstrap(golden, name)).unwrap_or_else(|error| panic!("{name}: {}", chain(&error)))
}

/// The description of an image. One that has no owners shows root's.
fn described(image: &Image, description: &Path) -> Tree {
    let mut tree = expected(description);
    if !image.bootstrap().superblock().flags.contains(SuperFlags::EXPLICIT_IDS) {
        tree.values_mut().for_each(|entry| (entry.uid, entry.gid) = (0, 0));
    }
    tree
}

fn problems(image: &Image, source: &BlobSource) -> Vec<String> {
    let report = check::data(image, source, 2).unwrap_or_else(|error| panic!("{}", chain(&error)));
    report.problems.iter().map(|problem| chain(problem)).collect()
}

#[test]
fn native_images_pass_the_check() {
    let Some(golden) = golden() else { return };
    let blobs = all_blobs(&golden);
    for name in NATIVE.map(|(name, ..)| name).into_iter().chain([
        "v5-bigdir",
        "v6-bigdir",
        "v6-chunkdict",
        "v6-zran-multi",
    ]) {
        let image = open(&golden, name);
        check::structure(&image).unwrap_or_else(|error| panic!("{name}: {}", chain(&error)));
        assert_eq!(problems(&image, &local(blobs.path())), Vec::<String>::new(), "{name}");
    }
}

/// So that a new golden image is not overlooked.
#[test]
fn every_golden_image_is_read_by_some_test() {
    let Some(golden) = golden() else { return };
    let known: Vec<&str> = NATIVE
        .map(|(name, ..)| name)
        .into_iter()
        .chain(UNITS)
        .chain(["v5-bigdir", "v6-bigdir", "v6-chunkdict", "v6-tarfs-merge", "v6-zran-multi"])
        .collect();
    for image in std::fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().file_name()) {
        let name = image.to_str().unwrap();
        assert!(!name.starts_with('v') || known.contains(&name), "{name}");
    }
}

#[test]
fn json_agrees_with_the_other_tool() {
    let Some(golden) = golden() else { return };
    for (name, ..) in NATIVE {
        let json = check::json(&open(&golden, name), "v0-0", std::time::Duration::ZERO, None).unwrap();
        let theirs = std::fs::read_to_string(golden.join(name).join("check.json")).unwrap();
        assert!(!json.contains('\n'));
        assert_eq!(normalized(&json), normalized(&theirs), "{name}");
    }
}

/// JSON without the values that differ from run to run, keys in their order.
fn normalized(json: &str) -> String {
    let mut value: serde_json::Value = serde_json::from_str(json).unwrap();
    value["version"] = "".into();
    // Ours alone.
    let _theirs_has_none = value.as_object_mut().unwrap().remove("tree_digest");
    value["trace"]["consumed_time"]["load_tree_from_bootstrap"] = 0.into();
    let bootstrap = Path::new(value["bootstrap"].as_str().unwrap()).file_name().unwrap().to_owned();
    value["bootstrap"] = bootstrap.to_str().unwrap().into();
    value.to_string()
}

#[test]
fn native_images_unpack_to_what_they_hold() {
    let Some(golden) = golden() else { return };
    let blobs = all_blobs(&golden);
    for (name, description, made) in NATIVE {
        let mut tar = Vec::new();
        let image = open(&golden, name);
        unpack::tar_to(&image, &local(blobs.path()), &mut tar, 3)
            .unwrap_or_else(|error| panic!("{name}: {}", chain(&error)));
        if description.is_empty() {
            assert_eq!(tar, [0; 1024]);
            continue;
        }
        assert_same(name, &tar_tree(&tar), &described(&image, &golden.join(description)), made, false);
        let mut again = Vec::new();
        unpack::tar_to(&image, &local(blobs.path()), &mut again, 1).unwrap();
        assert!(tar == again, "{name}: the same whatever the number of threads");
    }
}

#[test]
fn native_images_unpack_to_directories() {
    let Some(golden) = golden() else { return };
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: owners and devices need root");
        return;
    }
    let blobs = all_blobs(&golden);
    let out = tempfile::tempdir().unwrap();
    for (name, description, made) in NATIVE.into_iter().filter(|(_, description, _)| !description.is_empty())
    {
        let target = out.path().join(name);
        let target = Target::Directory(target);
        let image = open(&golden, name);
        unpack::unpack(&image, &local(blobs.path()), &target, 2, &AtomicBool::new(false))
            .unwrap_or_else(|error| panic!("{name}: {}", chain(&error)));
        let found = dir_tree(&out.path().join(name));
        assert_same(name, &found, &described(&image, &golden.join(description)), made, true);
    }
    let left: Vec<_> = std::fs::read_dir(out.path()).unwrap().collect();
    assert_eq!(left.len(), NATIVE.len() - 2, "no temporary directory stays");
}

#[test]
fn a_directory_with_files_is_refused_and_an_empty_one_taken() {
    let Some(golden) = golden() else { return };
    let image = open(&golden, "v6-empty");
    let (blobs, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let target = Target::Directory(out.path().join("x"));
    std::fs::create_dir(out.path().join("x")).unwrap();
    unpack::unpack(&image, &local(blobs.path()), &target, 1, &AtomicBool::new(false)).unwrap();
    std::fs::write(out.path().join("x/file"), "").unwrap();
    let error =
        unpack::unpack(&image, &local(blobs.path()), &target, 1, &AtomicBool::new(false)).unwrap_err();
    assert!(matches!(error, UnpackError::NotEmpty { .. }), "{}", chain(&error));
    assert!(out.path().join("x/file").exists());
}

/// The target of a symlink that the reference builder's merge corrupts, whose length is right.
const CORRUPTED: &str = "/ln/l4032";

#[test]
fn a_merged_tarfs_unpacks_to_what_it_holds() {
    let Some(golden) = golden() else { return };
    let (image, blobs) = (open(&golden, "v6-tarfs-merge"), all_blobs(&golden));
    assert_eq!(problems(&image, &local(blobs.path())), Vec::<String>::new());
    let mut tar = Vec::new();
    unpack::tar_to(&image, &local(blobs.path()), &mut tar, 2).unwrap();
    let (mut found, mut expected) = (tar_tree(&tar), expected(&golden.join("expected-merged.json")));
    for tree in [&mut found, &mut expected] {
        tree.remove(CORRUPTED).unwrap();
    }
    assert_same("v6-tarfs-merge", &found, &expected, FromTar, false);
}

/// Its chunks have no digests, so the whole tar decides, whatever of it files use.
#[test]
fn a_tar_that_is_not_the_one_of_its_image_is_refused() {
    let Some(golden) = golden() else { return };
    let image = open(&golden, "v6-tarfs");
    let id = image.blobs()[0].id.to_string();
    let mut tar = std::fs::read(golden.join("nasty.tar")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let said = |tar: &[u8]| {
        std::fs::write(dir.path().join(&id), tar).unwrap();
        let (source, mut out) = (local(dir.path()), Vec::new());
        let said = problems(&image, &source);
        let error = unpack::tar_to(&image, &source, &mut out, 1).err();
        assert_eq!(error.is_some(), !said.is_empty());
        assert!(error.is_none() || out.is_empty(), "nothing is written");
        said.join("; ")
    };
    assert_eq!(said(&tar), "");
    for at in [0, 1000, tar.len() - 1] {
        tar[at] ^= 1;
        assert!(said(&tar).contains(&format!("tar {id} is not the one the image was made of")), "{at}");
        tar[at] ^= 1;
    }
    assert!(said(&tar[..tar.len() - 512]).contains("cannot read tar"));
    let longer = [&tar[..], &[0; 512]].concat();
    std::fs::write(dir.path().join(&id), longer).unwrap();
    let size = problems(&image, &local(dir.path())).join("; ");
    assert!(size.contains("bytes long"), "{size}");
}

/// A copy of a golden image that can be damaged.
struct Copy {
    dir: tempfile::TempDir,
    blob: PathBuf,
    boot_bytes: Vec<u8>,
    blob_bytes: Vec<u8>,
}

impl Copy {
    fn of(golden: &Path, name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = std::fs::read_dir(golden.join(name).join("blobs")).unwrap().next().unwrap().unwrap();
        let blob = dir.path().join(source.file_name());
        let boot_bytes = std::fs::read(golden.join(name).join("image.boot")).unwrap();
        let blob_bytes = std::fs::read(source.path()).unwrap();
        std::fs::write(dir.path().join("image.boot"), &boot_bytes).unwrap();
        std::fs::write(&blob, &blob_bytes).unwrap();
        Self { dir, blob, boot_bytes, blob_bytes }
    }

    /// The whole check on this image with byte `at` of the bootstrap flipped: what is wrong.
    fn with_boot_flipped(&self, at: usize) -> Vec<String> {
        let mut bytes = self.boot_bytes.clone();
        bytes[at] ^= 0x41;
        let path = self.dir.path().join("flipped.boot");
        std::fs::write(&path, bytes).unwrap();
        self.check(&path)
    }

    /// The same with byte `at` of the blob flipped.
    fn with_blob_flipped(&self, at: usize) -> Vec<String> {
        let mut bytes = self.blob_bytes.clone();
        bytes[at] ^= 0x41;
        std::fs::write(&self.blob, bytes).unwrap();
        let found = self.check(&self.dir.path().join("image.boot"));
        std::fs::write(&self.blob, &self.blob_bytes).unwrap();
        found
    }

    fn check(&self, boot: &Path) -> Vec<String> {
        let image = match Image::open(boot) {
            Ok(image) => image,
            Err(error) => return vec![chain(&error)],
        };
        if let Err(error) = check::structure(&image) {
            return vec![chain(&error)];
        }
        match check::data(&image, &local(self.dir.path()), 1) {
            Ok(report) => report.problems.iter().map(|problem| chain(problem)).collect(),
            Err(error) => vec![chain(&error)],
        }
    }

    fn u32_at(&self, at: usize) -> usize {
        u32::from_le_bytes(self.boot_bytes[at..at + 4].try_into().unwrap()) as usize
    }
}

#[test]
fn a_flipped_byte_of_a_blob_is_found_and_named() {
    let Some(golden) = golden() else { return };
    let copy = Copy::of(&golden, "v6-dir-lz4-8k");
    assert_eq!(copy.check(&copy.dir.path().join("image.boot")), Vec::<String>::new());
    let image = Image::open(&copy.dir.path().join("image.boot")).unwrap();
    let blob = &image.blobs()[0];
    let (data_end, table_end) =
        (blob.data_end() as usize, (blob.meta.compressed_offset + blob.meta.compressed_size) as usize);
    for at in (0..copy.blob_bytes.len()).step_by(97).chain([data_end - 1, data_end, table_end, table_end + 8])
    {
        let found = copy.with_blob_flipped(at);
        let first = found.first().unwrap_or_else(|| panic!("a flip at {at:#x} passes")).clone();
        assert!(first.contains(blob.id.as_str()), "{first}");
        if at < data_end {
            assert!(
                found.iter().any(|one| one.contains(", chunk ") && one.contains("used by \"/")),
                "{found:?}"
            );
        } else if at < table_end {
            assert!(first.contains("chunk table"), "{found:?}");
        }
        // The rest is the header of the chunk table, most of it reserved: the SHA-256 of the whole blob covers it.
        assert!(found.iter().any(|one| one.contains("SHA-256")), "{found:?}");
    }
}

/// In a blob with a table of contents, whose id is not its SHA-256, tar headers and the digests in the table cover the rest.
#[test]
fn a_flipped_byte_of_a_blob_with_sections_is_found() {
    let Some(golden) = golden() else { return };
    let copy = Copy::of(&golden, "v6-dir-toc");
    assert_eq!(copy.check(&copy.dir.path().join("image.boot")), Vec::<String>::new());
    for at in (0..copy.blob_bytes.len()).step_by(89) {
        assert_ne!(copy.with_blob_flipped(at), Vec::<String>::new(), "a flip at {at:#x} passes");
    }
}

#[test]
fn a_flipped_byte_of_a_bootstrap_is_found_where_it_matters() {
    let Some(golden) = golden() else { return };
    let copy = Copy::of(&golden, "v6-dir-lz4-8k");
    let (ext, slot, blobs) = (1152, 1408, 4096);
    let chunks = copy.u32_at(ext + 24);
    let root = copy.u32_at(1024 + 40) * 4096 + 4096;
    let regions = [
        ("superblock magic", 1024),
        ("checksum", 1024 + 4),
        ("block size", 1024 + 12),
        ("root", 1024 + 15),
        ("metadata address", 1024 + 40),
        ("incompatible features", 1024 + 80),
        ("devices", 1024 + 86),
        ("flags", ext),
        ("blob table offset", ext + 9),
        ("blob table size", ext + 16),
        ("chunk size", ext + 20),
        ("chunk table offset", ext + 25),
        ("chunk table size", ext + 32),
        ("id in the device slot", slot),
        ("blocks in the device slot", slot + 64),
        ("id in the blob table", blobs),
        ("blob index", blobs + 64),
        ("chunk size of the blob", blobs + 69),
        ("chunk count", blobs + 72),
        ("compressor", blobs + 76),
        ("digester", blobs + 80),
        ("features", blobs + 84),
        ("compressed size", blobs + 88),
        ("uncompressed size", blobs + 97),
        ("chunk info offset", blobs + 112),
        ("chunk info compressed size", blobs + 120),
        ("chunk info uncompressed size", blobs + 128),
        ("root format", root),
        ("root type", root + 5),
        ("root size", root + 10),
        ("root links", root + 44),
        ("digest of a chunk", chunks),
        ("blob of a chunk", chunks + 32),
        ("flags of a chunk", chunks + 36),
        ("compressed size of a chunk", chunks + 40),
        ("uncompressed size of a chunk", chunks + 44),
        ("compressed offset of a chunk", chunks + 48),
        ("uncompressed offset of a chunk", chunks + 57),
        ("index of a chunk", chunks + 72),
        ("checksum of a chunk", chunks + 76),
    ];
    for (region, at) in regions {
        assert_ne!(copy.with_boot_flipped(at), Vec::<String>::new(), "{region} at {at:#x}");
    }
}

/// Any flip may pass (v6 has no digest over names, owners, modes and times), none may panic.
#[test]
fn no_flipped_byte_of_a_bootstrap_panics() {
    let Some(golden) = golden() else { return };
    let copy = Copy::of(&golden, "v6-dir-none-sha256-4k");
    let end = copy.boot_bytes.len();
    let path = copy.dir.path().join("flipped.boot");
    for at in (1024..end).step_by(31) {
        for mask in [0x01, 0xFF] {
            let mut bytes = copy.boot_bytes.clone();
            bytes[at] ^= mask;
            std::fs::write(&path, &bytes).unwrap();
            let Ok(image) = Image::open(&path) else { continue };
            let _sound = check::structure(&image).is_ok();
            let _listed = check::list(&image, &mut std::io::sink()).is_ok();
        }
    }
}

#[test]
fn a_missing_and_a_short_blob_are_problems() {
    let Some(golden) = golden() else { return };
    let copy = Copy::of(&golden, "v6-dir-zstd");
    let boot = copy.dir.path().join("image.boot");
    std::fs::write(&copy.blob, &copy.blob_bytes[..copy.blob_bytes.len() / 2]).unwrap();
    let image = Image::open(&boot).unwrap();
    let report = check::data(&image, &local(copy.dir.path()), 2).unwrap();
    assert!(matches!(report.problems[0], Problem::Size { .. }), "{:?}", report.problems);
    std::fs::remove_file(&copy.blob).unwrap();
    let found = copy.check(&boot);
    assert!(found[0].contains("not found") && found[0].contains(image.blobs()[0].id.as_str()), "{found:?}");
}

#[test]
fn a_failed_unpack_leaves_nothing() {
    let Some(golden) = golden() else { return };
    let copy = Copy::of(&golden, "v6-dir-zstd");
    let mut bytes = copy.blob_bytes.clone();
    bytes[20] ^= 1;
    std::fs::write(&copy.blob, bytes).unwrap();
    let out = tempfile::tempdir().unwrap();
    let image = Image::open(&copy.dir.path().join("image.boot")).unwrap();
    for target in [Target::Tar(out.path().join("x")), Target::Directory(out.path().join("x"))] {
        let error = unpack::unpack(&image, &local(copy.dir.path()), &target, 2, &AtomicBool::new(false));
        let said = chain(&error.unwrap_err());
        assert!(said.contains("chunk 0 at 0x0"), "{said}");
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
    }
    let stopped = AtomicBool::new(true);
    std::fs::write(&copy.blob, &copy.blob_bytes).unwrap();
    let target = Target::Tar(out.path().join("x"));
    let error = unpack::unpack(&image, &local(copy.dir.path()), &target, 2, &stopped).unwrap_err();
    assert!(matches!(error, UnpackError::Interrupted));
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
}

fn answer(image: &Image, request: &str) -> String {
    let mut out = Vec::new();
    inspect::answer(image, request, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn requests_are_answered_as_programs_expect() {
    let Some(golden) = golden() else { return };
    let image = open(&golden, "v6-dir-prefetch");
    let blob = &image.blobs()[0];
    assert_eq!(answer(&image, "stats"), "{\"inodes_count\":225}\n");
    assert_eq!(
        answer(&image, " blobs"),
        format!(
            "[{{\"blob_id\":\"{}\",\"compressed_size\":{},\"decompressed_size\":{},\"readahead_offset\":0,\"readahead_size\":0}}]\n",
            blob.id, blob.compressed_size, blob.uncompressed_size
        )
    );
    let prefetch: serde_json::Value = serde_json::from_str(&answer(&image, "prefetch")).unwrap();
    let first = prefetch.as_array().unwrap().first().unwrap();
    assert!(first["inode"].is_u64() && first["path"][0].as_str().unwrap().starts_with('/'), "{prefetch}");
    assert_eq!(answer(&image, "exit"), "null\n");
    assert!(answer(&image, "ls").ends_with("null\n"));
    let stat = answer(&image, "stat /hl/a");
    assert!(stat.contains("Chunk list:") && stat.contains("Permissions:            640"), "{stat}");
    let inode = stat.lines().next().unwrap().split_whitespace().last().unwrap();
    let paths = answer(&image, &format!("icheck {inode}"));
    for path in ["/a-hardlink-before", "/hl/a", "/hl/b"] {
        assert!(paths.contains(&format!("Path: {path:?}")), "{paths}");
    }
    assert!(answer(&image, "chunk 0").contains("File: "));
    for wrong in ["nonsense", "ls x", "help"] {
        let mut out = Vec::new();
        let error = inspect::answer(&image, wrong, &mut out).unwrap_err();
        assert!(chain(&error).starts_with("unsupported inspect request"), "{error}");
        assert!(String::from_utf8(out).unwrap().contains("prefetch:"));
    }
}

/// A chunk is found by where it is stored, under each name of each file that has it; the blocks of devices follow from the bootstrap's own size.
#[test]
fn chunks_and_devices_are_shown() {
    let Some(golden) = golden() else { return };
    let image = open(&golden, "v6-dir-prefetch");
    let stat = answer(&image, "stat /hl/a");
    let offset = stat.split("compressed offset: ").nth(1).unwrap().split(',').next().unwrap();
    let found = answer(&image, &format!("chunk {offset}"));
    for path in ["/a-hardlink-before", "/hl/a", "/hl/b"] {
        assert!(found.contains(&format!("File: {path:?}\n        0: file offset: 0")), "{found}");
    }
    assert!(found.ends_with("null\n"));
    assert_eq!(answer(&image, "chunk 0xffffffff"), "null\n");
    let shown = |image: &Image, field: &str| {
        let mut out = Vec::new();
        inspect::interactive(image, &mut &b"blobs\nq\n"[..], &mut out).unwrap();
        let said = String::from_utf8(out).unwrap();
        let line = said.lines().find(|line| line.starts_with(field)).unwrap().to_owned();
        line.split_whitespace().last().unwrap().to_owned()
    };
    let first = image.bootstrap().bytes().len().next_multiple_of(0x8_0000) / 4096;
    assert_eq!(shown(&image, "Mapped Block Address:"), first.to_string());
    assert_eq!(shown(&image, "Prefetch Data Size:"), "0");
    let old = open(&golden, "v5-dir-prefetch-blob");
    assert_eq!(shown(&old, "Mapped Block Address:"), "none");
    assert_eq!(shown(&old, "Prefetch Data Size:"), old.bootstrap().readahead(0).end.to_string());
}

#[test]
fn requests_about_v5_are_answered_in_the_same_shape() {
    let Some(golden) = golden() else { return };
    let image = open(&golden, "v5-dir-prefetch-blob");
    assert_eq!(answer(&image, "stats"), "{\"inodes_count\":222}\n");
    let blobs: serde_json::Value = serde_json::from_str(&answer(&image, "blobs")).unwrap();
    assert!(blobs[0]["readahead_offset"] == 0 && blobs[0]["readahead_size"].as_u64() > Some(0), "{blobs}");
    let image = open(&golden, "v5-dir-prefetch");
    let (old, new) = (answer(&image, "prefetch"), answer(&open(&golden, "v6-dir-prefetch"), "prefetch"));
    let paths = |json: &str| {
        let all: Vec<serde_json::Value> = serde_json::from_str(json).unwrap();
        all.into_iter().map(|one| one["path"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(paths(&old), paths(&new));
    let paths = answer(&image, "icheck 2");
    for path in ["/a-hardlink-before", "/hl/a", "/hl/b"] {
        assert!(paths.contains(&format!("Path: {path:?}")), "{paths}");
    }
    assert!(answer(&image, "stat /hl/a").contains("Chunk list:"));
}

/// v5 has a digest for each inode, that of the root over all: what a file holds cannot be changed without changing it.
#[test]
fn a_wrong_digest_of_an_inode_is_found_and_named() {
    let Some(golden) = golden() else { return };
    let copy = Copy::of(&golden, "v5-dir-zstd-sha256-4k-rep");
    assert_eq!(copy.check(&copy.dir.path().join("image.boot")), Vec::<String>::new());
    let table = copy.u32_at(32);
    let record = |position: usize| copy.u32_at(table + (position - 1) * 4) * 8;
    let of_type = |wanted: usize| {
        let mut all = (2..=copy.u32_at(56)).map(record);
        all.find(|at| copy.u32_at(at + 60) & 0o170_000 == wanted && copy.u32_at(at + 88) == 1).unwrap()
    };
    let root = record(1);
    assert!(copy.with_boot_flipped(root)[0].contains("digest of \"/\" is"));
    for kind in [0o100_000, 0o120_000, 0o010_000] {
        let found = copy.with_boot_flipped(of_type(kind));
        assert!(found[0].contains("digest of \"/"), "{found:?}");
    }
    // The target of a symlink.
    let link = of_type(0o120_000);
    let name = usize::from(u16::from_le_bytes(copy.boot_bytes[link + 100..link + 102].try_into().unwrap()));
    let found = copy.with_boot_flipped(link + 128 + name.next_multiple_of(8));
    assert!(found[0].contains("digest of \"/"), "{found:?}");
}

#[test]
fn a_session_keeps_its_directory_and_ends_with_its_input() {
    let Some(golden) = golden() else { return };
    let image = open(&golden, "v6-tar");
    let mut out = Vec::new();
    let mut input = &b"cd bin\nls\ncd ..\ncd bin/tool\nstat none\nwhat\nstats\nblobs"[..];
    inspect::interactive(&image, &mut input, &mut out).unwrap();
    let said = String::from_utf8(out).unwrap();
    assert!(said.contains("\"tool\"") && said.contains("bin/tool is not a directory"), "{said}");
    assert!(said.contains("\"none\" does not exist") && said.contains("unsupported"), "{said}");
    assert!(said.ends_with("Inspecting RAFS :> \n"), "{said}");
}

/// One of them has batches whose encrypted form is longer than what they hold, which the reference reader refuses.
#[test]
fn batches_and_encrypted_images_read_as_described() {
    let Some(golden) = golden() else { return };
    let blobs = all_blobs(&golden);
    for name in UNITS {
        let image = open(&golden, name);
        assert_eq!(problems(&image, &local(blobs.path())), Vec::<String>::new(), "{name}");
        for threads in [1, 3] {
            let mut tar = Vec::new();
            unpack::tar_to(&image, &local(blobs.path()), &mut tar, threads)
                .unwrap_or_else(|error| panic!("{name}: {}", chain(&error)));
            let expected = expected(&golden.join("expected-nasty.json"));
            assert_same(name, &tar_tree(&tar), &expected, FromDirectory, false);
        }
    }
}
