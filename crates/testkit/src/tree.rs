//! Golden images and file system trees as values that can be compared.
#![expect(
    clippy::unwrap_used,
    missing_docs,
    clippy::missing_panics_doc,
    reason = "a test that cannot read what it compares has failed"
)]

use oci_registry::layer::{EntryKind, Layer, Meta};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The golden images: `RAFS_GOLDEN`, or `../shared/golden/rafs` beside the workspace. `None`, told, where there are none.
pub fn golden() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/golden/rafs");
    let dir = std::env::var_os("RAFS_GOLDEN").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    if !dir.is_dir() {
        eprintln!("SKIPPED: no golden images at {}", dir.display());
        return None;
    }
    Some(dir)
}

/// SHA-256 of `bytes` in hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// A directory with all blobs of all golden images, as links.
pub fn all_blobs(golden: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let link = |from: PathBuf, name: &OsStr| {
        let to = dir.path().join(name);
        if !to.exists() {
            std::os::unix::fs::symlink(from, to).unwrap();
        }
    };
    for image in std::fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path()) {
        for blob in std::fs::read_dir(image.join("blobs")).into_iter().flatten().map(Result::unwrap) {
            link(blob.path(), &blob.file_name());
        }
    }
    for tar in ["nasty.tar", "upper.tar", "nasty.tar.gz", "zranmulti.tar.gz"] {
        let id = hex::encode(Sha256::digest(std::fs::read(golden.join(tar)).unwrap()));
        link(golden.join(tar), OsStr::new(&id));
    }
    dir
}

/// The bootstrap of a golden image: `image.boot`, or its only blob when that holds the bootstrap.
pub fn bootstrap(golden: &Path, image: &str) -> PathBuf {
    let separate = golden.join(image).join("image.boot");
    if separate.exists() {
        return separate;
    }
    let mut blobs = std::fs::read_dir(golden.join(image).join("blobs")).unwrap();
    blobs.next().unwrap().unwrap().path()
}

/// One entry of a tree, everything that users can see.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    pub kind: String,
    pub mode: String,
    pub uid: u64,
    pub gid: u64,
    pub mtime: i64,
    pub mtime_ns: u32,
    pub size: u64,
    pub sha256: String,
    pub target: String,
    pub rdev: (u32, u32),
    pub xattrs: BTreeMap<String, String>,
    /// All paths of a hard link group, sorted.
    pub links: Vec<String>,
}

/// Entries by path, paths escaped as in the golden descriptions.
pub type Tree = BTreeMap<String, Entry>;

/// Bytes outside 0x21 to 0x7e and `%` as `%XX`.
pub fn escape(bytes: &[u8]) -> String {
    let escaped = bytes.iter().map(|&byte| match byte {
        b'%' => "%25".to_owned(),
        0x21..=0x7e => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    escaped.collect()
}

/// A golden description.
pub fn expected(path: &Path) -> Tree {
    let all: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let number = |value: &serde_json::Value| u32::try_from(value.as_u64().unwrap_or(0)).unwrap();
    let entry = |one: &serde_json::Value| Entry {
        kind: text(&one["type"]),
        mode: text(&one["mode"]),
        uid: one["uid"].as_u64().unwrap(),
        gid: one["gid"].as_u64().unwrap(),
        mtime: one["mtime"].as_i64().unwrap(),
        mtime_ns: number(&one["mtime_ns"]),
        size: one["size"].as_u64().unwrap_or(0),
        sha256: text(&one["sha256"]),
        target: text(&one["target"]),
        rdev: (number(&one["rdev"][0]), number(&one["rdev"][1])),
        xattrs: one["xattrs"]
            .as_object()
            .map(|all| all.iter().map(|(name, value)| (name.clone(), text(value))).collect())
            .unwrap_or_default(),
        links: one["links"].as_array().map(|all| all.iter().map(text).collect()).unwrap_or_default(),
    };
    all.as_array().unwrap().iter().map(|one| (text(&one["path"]), entry(one))).collect()
}

/// Gives all members of a hard link group what its first member has, and the list of all of them.
fn link_up(tree: &mut Tree, groups: BTreeMap<String, Vec<String>>) {
    for (first, mut members) in groups {
        members.sort();
        let shared = Entry { links: members.clone(), ..tree[&first].clone() };
        for member in members {
            tree.insert(member, shared.clone());
        }
    }
}

/// Content of a tar; also checks that it is well formed.
pub fn tar_tree(bytes: &[u8]) -> Tree {
    assert_eq!(bytes.len() % 512, 0);
    assert!(bytes.ends_with(&[0; 1024]), "a tar ends with two empty blocks");
    let mut tree = Tree::new();
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut layer = Layer::new(bytes);
    while let Some(meta) = layer.next_entry().unwrap() {
        assert!(!meta.path.starts_with(b"/"), "paths are relative");
        let path = format!("/{}", escape(meta.path.strip_suffix(b"/").unwrap_or(&meta.path)));
        if let EntryKind::HardLink(link) = &meta.kind {
            let first = format!("/{}", escape(link));
            assert!(tree.contains_key(&first), "{path} links to {first}, which comes before it");
            groups.entry(first.clone()).or_insert_with(|| vec![first]).push(path);
            continue;
        }
        let mut found = from_meta(&meta);
        if found.kind == "reg" {
            let mut data = vec![0; usize::try_from(meta.size).unwrap()];
            assert_eq!(layer.read_data(&mut data).unwrap(), data.len());
            found.size = meta.size;
            found.sha256 = hex::encode(Sha256::digest(&data));
        }
        assert!(tree.insert(path.clone(), found).is_none(), "{path} is there twice");
    }
    link_up(&mut tree, groups);
    tree
}

fn from_meta(meta: &Meta) -> Entry {
    let (kind, rdev, target) = match &meta.kind {
        EntryKind::Regular => ("reg", (0, 0), String::new()),
        EntryKind::Directory => ("dir", (0, 0), String::new()),
        EntryKind::Symlink(target) => ("lnk", (0, 0), escape(target)),
        EntryKind::CharDevice { major, minor } => ("chr", (*major, *minor), String::new()),
        EntryKind::BlockDevice { major, minor } => ("blk", (*major, *minor), String::new()),
        EntryKind::Fifo => ("fifo", (0, 0), String::new()),
        other => panic!("unexpected {other:?}"),
    };
    let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    Entry {
        kind: kind.to_owned(),
        mode: format!("{:o}", meta.mode),
        uid: meta.uid.into(),
        gid: meta.gid.into(),
        mtime: meta.mtime_secs,
        mtime_ns: meta.mtime_nanos,
        target,
        rdev,
        xattrs: meta.xattrs.iter().map(|(name, value)| (text(name), hex::encode(value))).collect(),
        ..Entry::default()
    }
}

/// Content of a directory, the root as `/`.
pub fn dir_tree(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut inodes: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    add_path(root, b"", &mut tree, &mut inodes);
    let groups = inodes.into_values().filter(|paths| paths.len() > 1);
    link_up(&mut tree, groups.map(|paths| (paths[0].clone(), paths)).collect());
    tree
}

fn add_path(at: &Path, name: &[u8], tree: &mut Tree, inodes: &mut BTreeMap<u64, Vec<String>>) {
    let meta = at.symlink_metadata().unwrap();
    let kind = meta.file_type();
    let path = if name.is_empty() { "/".to_owned() } else { escape(name) };
    let mut entry = Entry {
        mode: format!("{:o}", meta.mode() & 0o7777),
        uid: meta.uid().into(),
        gid: meta.gid().into(),
        mtime: meta.mtime(),
        mtime_ns: u32::try_from(meta.mtime_nsec()).unwrap(),
        ..Entry::default()
    };
    let device = |rdev| (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    entry.kind = if kind.is_dir() {
        "dir"
    } else if kind.is_symlink() {
        entry.target = escape(std::fs::read_link(at).unwrap().as_os_str().as_bytes());
        "lnk"
    } else if kind.is_char_device() {
        entry.rdev = device(meta.rdev());
        "chr"
    } else if kind.is_block_device() {
        entry.rdev = device(meta.rdev());
        "blk"
    } else if kind.is_fifo() {
        "fifo"
    } else {
        entry.size = meta.len();
        entry.sha256 = hex::encode(Sha256::digest(std::fs::read(at).unwrap()));
        "reg"
    }
    .to_owned();
    for name in xattr::list(at).unwrap() {
        let value = xattr::get(at, &name).unwrap().unwrap();
        entry.xattrs.insert(escape(name.as_bytes()), hex::encode(value));
    }
    if entry.kind != "dir" {
        inodes.entry(meta.ino()).or_default().push(path.clone());
    }
    tree.insert(path, entry);
    if kind.is_dir() {
        for child in std::fs::read_dir(at).unwrap().map(Result::unwrap) {
            let name = [name, b"/", child.file_name().as_bytes()].concat();
            add_path(&child.path(), &name, tree, inodes);
        }
    }
}

/// How a golden image may differ from its description, by how it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// From a directory: times with nanoseconds, no time of the root.
    FromDirectory,
    /// From a tar: whole seconds.
    FromTar,
}

/// Compares a tree with a golden description. Members of a hard link group have the attributes of one of them.
pub fn assert_same(image: &str, found: &Tree, expected: &Tree, made: Made, with_root: bool) {
    let names = |tree: &Tree| tree.keys().filter(|path| *path != "/").cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{image}: names");
    for (path, found) in found {
        let mut expected = expected[path].clone();
        let mut found = found.clone();
        assert!(with_root || path != "/", "{image}: a tar has no root");
        // The upper layer of merged images does not list `/` and `/sizes`, and directory builds ignore the root's time.
        if path == "/" || path == "/sizes" {
            (found.mtime, found.mtime_ns) = (expected.mtime, expected.mtime_ns);
        }
        if made == Made::FromTar {
            expected.mtime_ns = 0;
        }
        if !expected.links.is_empty() {
            (found.mtime, found.mtime_ns) = (expected.mtime, expected.mtime_ns);
        }
        assert_eq!(found, expected, "{image}: {path}");
    }
}
