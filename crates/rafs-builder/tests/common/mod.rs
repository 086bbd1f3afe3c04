//! Golden images and file system trees as values that can be compared.
#![allow(dead_code, reason = "each test program uses a part")]

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
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
    for tar in ["nasty.tar", "upper.tar"] {
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
    let mut archive = tar::Archive::new(bytes);
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let raw = entry.path_bytes().into_owned();
        assert!(!raw.starts_with(b"/"), "paths are relative");
        let path = format!("/{}", escape(raw.strip_suffix(b"/").unwrap_or(&raw)));
        let link = entry.link_name_bytes().map(|name| escape(&name)).unwrap_or_default();
        if entry.header().entry_type() == tar::EntryType::Link {
            let first = format!("/{link}");
            assert!(tree.contains_key(&first), "{path} links to {first}, which comes before it");
            groups.entry(first.clone()).or_insert_with(|| vec![first]).push(path);
            continue;
        }
        let mut found = from_header(entry.header());
        found.target = link;
        read_pax(&mut entry, &mut found);
        let mut data = Vec::new();
        entry.read_to_end(&mut data).unwrap();
        if found.kind == "reg" {
            found.size = data.len() as u64;
            found.sha256 = hex::encode(Sha256::digest(&data));
        }
        assert!(tree.insert(path.clone(), found).is_none(), "{path} is there twice");
    }
    link_up(&mut tree, groups);
    tree
}

/// What the fixed header says.
fn from_header(header: &tar::Header) -> Entry {
    let device = || (header.device_major().unwrap().unwrap(), header.device_minor().unwrap().unwrap());
    assert_eq!(header.username_bytes().unwrap(), b"", "owner names are left out");
    let (kind, rdev) = match header.entry_type() {
        tar::EntryType::Regular => ("reg", (0, 0)),
        tar::EntryType::Directory => ("dir", (0, 0)),
        tar::EntryType::Symlink => ("lnk", (0, 0)),
        tar::EntryType::Char => ("chr", device()),
        tar::EntryType::Block => ("blk", device()),
        tar::EntryType::Fifo => ("fifo", (0, 0)),
        other => panic!("unexpected {other:?}"),
    };
    Entry {
        kind: kind.to_owned(),
        mode: format!("{:o}", header.mode().unwrap()),
        uid: header.uid().unwrap(),
        gid: header.gid().unwrap(),
        mtime: i64::try_from(header.mtime().unwrap()).unwrap(),
        rdev,
        ..Entry::default()
    }
}

/// Applies PAX records.
fn read_pax<R: Read>(entry: &mut tar::Entry<'_, R>, found: &mut Entry) {
    for record in entry.pax_extensions().unwrap().into_iter().flatten() {
        let record = record.unwrap();
        let value = record.value_bytes();
        match record.key().unwrap() {
            "mtime" => {
                let text = std::str::from_utf8(value).unwrap();
                let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
                found.mtime = seconds.parse().unwrap();
                found.mtime_ns = format!("{fraction:0<9}").parse().unwrap();
            }
            "path" | "linkpath" => {}
            key => {
                let name = key.strip_prefix("SCHILY.xattr.").unwrap_or_else(|| panic!("unexpected {key}"));
                found.xattrs.insert(name.to_owned(), hex::encode(value));
            }
        }
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
