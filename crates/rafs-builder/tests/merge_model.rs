//! Merging layers, and building them on top of each other, against a model that is a map from paths to what is there, and against GNU tar: random layers with whiteouts of both kinds, opaque
//! directories, implied parents, links and changes of type.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use common::{Entry as Seen, Tree as SeenTree, dir_tree, sha256, tar_tree};
use proptest::prelude::*;
use rafs_builder::create::{
    Input, Options as CreateOptions, Places, Version, Whiteouts as CreateWhiteouts, create,
};
use rafs_builder::merge::{Options, Source, Whiteouts, merge};
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::output::{Outputs, Place};
use rafs_builder::{check, unpack};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

type Names = Vec<&'static str>;

#[derive(Debug, Clone, PartialEq)]
enum What {
    File(u8, u16),
    /// A further name of the layer's first file, an empty file where there is none.
    Link,
    /// With `true`, what overlayfs calls opaque.
    Directory(bool),
    Symlink,
    Fifo,
    /// Number of a character device; 0 is what overlayfs calls a whiteout.
    Device(u32),
}

/// One layer: explicit entries. Those below something that is no directory are left out.
type Layer = BTreeMap<Names, What>;

fn path() -> impl Strategy<Value = Names> {
    let dir = prop::sample::select(vec!["a", "a", "b", "!"]);
    let names = vec!["a", "b", "c", "!", "~", ".wh.a", ".wh.b", ".wh.c", ".wh.!", ".wh..wh..opq"];
    (prop::collection::vec(dir, 0..3), prop::sample::select(names)).prop_map(|(mut path, name)| {
        path.push(name);
        path
    })
}

fn layer() -> impl Strategy<Value = Layer> {
    let what = prop_oneof![
        4 => (0u8..4, prop_oneof![Just(0u16), Just(1), 4090u16..4100, 0u16..9000]).prop_map(|(f, s)| What::File(f, s)),
        3 => Just(What::Link),
        5 => prop::bool::weighted(0.3).prop_map(What::Directory),
        1 => Just(What::Symlink),
        1 => Just(What::Fifo),
        2 => prop_oneof![Just(What::Device(0)), Just(What::Device(5))],
    ];
    prop::collection::btree_map(path(), what, 0..14).prop_map(|all| {
        let mut kept = Layer::new();
        for (path, what) in all {
            let below_file =
                (1..path.len()).any(|len| !matches!(kept.get(&path[..len]), None | Some(What::Directory(_))));
            if !below_file {
                kept.insert(path, what);
            }
        }
        kept
    })
}

/// The first file of a layer, to which its links lead.
fn first_file(layer: &Layer) -> Option<&Names> {
    // Marker files are not linked to: the link would stand for a file that is gone.
    let is_file = |(path, what): &(&Names, &What)| {
        matches!(what, What::File(..)) && !path.iter().any(|name| name.starts_with(".wh."))
    };
    layer.iter().find(is_file).map(|(path, _)| path)
}

/// Owner of the entries of a layer, by which it is seen where something comes from.
fn stamp(layer: usize, place: usize) -> u64 {
    (layer * 100 + place + 1) as u64
}

fn tar(number: usize, layer: &Layer) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    let first = first_file(layer);
    let place_of = |path: &Names| layer.keys().position(|other| other == path).unwrap();
    // The target of links before them: a tar reader wants it so.
    let order = first.into_iter().chain(layer.keys().filter(|path| Some(*path) != first));
    for path in order {
        let what = &layer[path];
        let mut header = tar::Header::new_gnu();
        let linked = matches!(what, What::Link).then_some(first).flatten();
        header.set_uid(stamp(number, place_of(linked.unwrap_or(path))));
        header.set_gid(7);
        // Linux has no other mode for links.
        header.set_mode(if *what == What::Symlink { 0o777 } else { 0o750 });
        header.set_mtime(1_000);
        let (kind, data) = match what {
            What::File(fill, size) => (b'0', vec![*fill; usize::from(*size)]),
            What::Link if linked.is_some() => (b'1', Vec::new()),
            What::Link => (b'0', Vec::new()),
            What::Directory(opaque) => {
                if *opaque {
                    out.append_pax_extensions([("SCHILY.xattr.trusted.overlay.opaque", b"y".as_slice())])
                        .unwrap();
                }
                (b'5', Vec::new())
            }
            What::Symlink => (b'2', Vec::new()),
            What::Fifo => (b'6', Vec::new()),
            What::Device(_) => (b'3', Vec::new()),
        };
        header.set_path(path.join("/")).unwrap();
        match (what, linked) {
            (What::Symlink, _) => header.set_link_name_literal("to").unwrap(),
            (_, Some(target)) => header.set_link_name_literal(target.join("/")).unwrap(),
            _ => {}
        }
        header.set_device_major(0).unwrap();
        header.set_device_minor(if let What::Device(number) = what { *number } else { 0 }).unwrap();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(data.len() as u64);
        header.set_cksum();
        out.append(&header, data.as_slice()).unwrap();
    }
    out.into_inner().unwrap()
}

/// One node of the model: what it is, whose it is, and its group of hard links.
#[derive(Debug, Clone)]
struct Node {
    what: What,
    /// `None` for a directory that nobody lists.
    stamp: Option<u64>,
    group: Option<usize>,
}

/// The specification: what lower layers have, after one more layer.
fn apply(state: &mut BTreeMap<Names, Node>, number: usize, layer: &Layer, whiteouts: Whiteouts) {
    let is_marker = |path: &[&str], what: Option<&What>| match whiteouts {
        Whiteouts::Oci => path.last().is_some_and(|name| name.starts_with(".wh.")),
        Whiteouts::Overlayfs => what == Some(&What::Device(0)),
        Whiteouts::None => false,
    };
    let hidden = |path: &Names| (1..=path.len()).any(|len| is_marker(&path[..len], layer.get(&path[..len])));
    let remove = |state: &mut BTreeMap<Names, Node>, from: &[&str], itself: bool| {
        state.retain(|path, _| !path.starts_with(from) || (!itself && path.len() == from.len()));
    };
    // What is gone: of lower layers only, so before anything of this one comes.
    for (path, what) in layer {
        let (name, dir) = path.split_last().unwrap();
        if !dir.is_empty() && hidden(&dir.to_vec()) {
            continue;
        }
        match whiteouts {
            Whiteouts::Oci if *name == ".wh..wh..opq" => remove(state, dir, false),
            Whiteouts::Oci => {
                if let Some(gone) = name.strip_prefix(".wh.") {
                    remove(state, &[dir, &[gone]].concat(), true);
                }
            }
            Whiteouts::Overlayfs if *what == What::Device(0) => remove(state, path, true),
            Whiteouts::Overlayfs if *what == What::Directory(true) => remove(state, path, false),
            _ => {}
        }
    }
    let first = first_file(layer);
    for (place, (path, what)) in layer.iter().enumerate() {
        for len in 1..path.len() {
            let parent = path[..len].to_vec();
            if !layer.contains_key(&parent) && !hidden(&parent) {
                let is_dir = matches!(state.get(&parent), Some(Node { what: What::Directory(_), .. }));
                if !is_dir {
                    state.insert(parent, Node { what: What::Directory(false), stamp: None, group: None });
                }
            }
        }
        if hidden(path) {
            continue;
        }
        let mut node = Node { what: what.clone(), stamp: Some(stamp(number, place)), group: None };
        match what {
            What::Link if first.is_some() => {
                let first = first.unwrap();
                node.what = layer[first].clone();
                node.stamp = Some(stamp(number, layer.keys().position(|other| other == first).unwrap()));
                node.group = Some(number);
            }
            What::Link => node.what = What::File(0, 0),
            What::File(..) if Some(path) == first => node.group = Some(number),
            What::Directory(true) if whiteouts == Whiteouts::Overlayfs => node.what = What::Directory(false),
            _ => {}
        }
        if !matches!(what, What::Directory(_)) {
            remove(state, path, true);
        }
        state.insert(path.clone(), node);
    }
}

/// What users should see.
fn seen(state: &BTreeMap<Names, Node>) -> SeenTree {
    let shown = |path: &Names| format!("/{}", path.join("/"));
    let mut tree = SeenTree::new();
    for (path, node) in state {
        let mut entry = Seen {
            mode: if node.stamp.is_some() { "750" } else { "755" }.to_owned(),
            uid: node.stamp.unwrap_or(0),
            gid: if node.stamp.is_some() { 7 } else { 0 },
            mtime: if node.stamp.is_some() { 1_000 } else { 0 },
            ..Seen::default()
        };
        entry.kind = match &node.what {
            What::File(fill, size) => {
                entry.size = (*size).into();
                entry.sha256 = sha256(&vec![*fill; usize::from(*size)]);
                "reg"
            }
            What::Link => unreachable!(),
            What::Directory(opaque) => {
                if *opaque {
                    entry.xattrs.insert("trusted.overlay.opaque".to_owned(), hex::encode("y"));
                }
                "dir"
            }
            What::Symlink => {
                entry.mode = "777".to_owned();
                entry.target = "to".to_owned();
                "lnk"
            }
            What::Fifo => "fifo",
            What::Device(number) => {
                entry.rdev = (0, *number);
                "chr"
            }
        }
        .to_owned();
        if node.group.is_some() {
            let same = state.iter().filter(|(_, other)| other.group == node.group);
            entry.links = same.map(|(path, _)| shown(path)).collect();
            if entry.links.len() == 1 {
                entry.links.clear();
            }
        }
        tree.insert(shown(path), entry);
    }
    tree
}

/// A blob with its bootstrap of one tar; without data its bootstrap alone.
fn build_one(dir: &Path, bytes: &[u8], options: &CreateOptions) -> PathBuf {
    let options = CreateOptions {
        chunk_size: 4096,
        threads: 1,
        toc: options.version == Version::V6,
        ..options.clone()
    };
    let places = Places { bootstrap: None, blob: Place::Directory(dir.to_path_buf()) };
    let input = Input::Tar(Box::new(bytes));
    create(input, &options, places, &Outputs::new(), &|_| {}).unwrap().blob_path.unwrap()
}

/// One for each layer.
fn build(dir: &Path, layers: &[Layer], options: &CreateOptions) -> Vec<PathBuf> {
    let layers = layers.iter().enumerate();
    layers.map(|(number, layer)| build_one(dir, &tar(number, layer), options)).collect()
}

/// The same, each built with the chunks of those before it.
fn build_with_dictionaries(dir: &Path, layers: &[Layer]) -> Vec<PathBuf> {
    let mut built = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let options = CreateOptions { chunk_dicts: built.clone(), ..CreateOptions::default() };
        built.push(build_one(dir, &tar(number, layer), &options));
    }
    built
}

/// An image of nothing, and each layer built on top of what is there.
fn build_on_top(dir: &Path, layers: &[Layer], options: &CreateOptions) -> Vec<u8> {
    let mut below = build_one(dir, &[0; 1024], options);
    for (number, layer) in layers.iter().enumerate() {
        let options = CreateOptions { parent: Some(below), ..options.clone() };
        below = build_one(dir, &tar(number, layer), &options);
    }
    unpacked(dir, &below)
}

/// Merges blobs and unpacks what comes of it.
fn merged(dir: &Path, options: &Options) -> Vec<u8> {
    merge(options, Place::File(dir.join("boot")), &Outputs::new()).unwrap();
    unpacked(dir, &dir.join("boot"))
}

/// The tar of an image.
fn unpacked(dir: &Path, boot: &Path) -> Vec<u8> {
    let image = Image::open(boot).unwrap();
    check::structure(&image).unwrap();
    let source =
        BlobSource::new(Arc::new(LocalFs { dir: Some(dir.to_path_buf()), ..LocalFs::default() })).unwrap();
    let mut out = Vec::new();
    unpack::tar_to(&image, &source, &mut out, 1).unwrap();
    out
}

fn sources(paths: &[PathBuf]) -> Vec<Source> {
    paths.iter().map(Source::at).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn merging_is_laying_maps_over_each_other(layers in prop::collection::vec(layer(), 1..5)) {
        let dir = tempfile::tempdir().unwrap();
        let paths = build(dir.path(), &layers, &CreateOptions::default());
        let v5 = CreateOptions { version: Version::V5, ..CreateOptions::default() };
        let of_v5 = build(dir.path(), &layers, &v5);
        for whiteouts in [Whiteouts::Oci, Whiteouts::Overlayfs, Whiteouts::None] {
            let mut state = BTreeMap::new();
            for (number, layer) in layers.iter().enumerate() {
                apply(&mut state, number, layer, whiteouts);
            }
            let options = Options { sources: sources(&paths), whiteouts, ..Options::default() };
            let found = tar_tree(&merged(dir.path(), &options));
            let expected = seen(&state);
            prop_assert_eq!(&found, &expected, "{:?}", whiteouts);
            let same = match whiteouts {
                Whiteouts::Oci => CreateWhiteouts::Oci,
                Whiteouts::Overlayfs => CreateWhiteouts::Overlayfs,
                Whiteouts::None => CreateWhiteouts::None,
            };
            let on_top = CreateOptions { whiteouts: same, ..CreateOptions::default() };
            let found = tar_tree(&build_on_top(dir.path(), &layers, &on_top));
            prop_assert_eq!(&found, &expected, "{:?}, each on top of the last", whiteouts);
            if whiteouts != Whiteouts::Oci {
                continue;
            }
            // v5 is the same.
            let digest = |paths| {
                let options = Options { sources: sources(paths), whiteouts, ..Options::default() };
                merge(&options, Place::File(dir.path().join("other")), &Outputs::new()).unwrap().tree_digest
            };
            let (new, old) = (digest(&paths), digest(&of_v5));
            prop_assert!(new.is_some() && new == old, "{:?}: {:?}, {:?} in v5", whiteouts, new, old);
            prop_assert_eq!(tar_tree(&unpacked(dir.path(), &dir.path().join("other"))), expected.clone());
            let on_top = CreateOptions { version: Version::V5, ..on_top };
            let found = tar_tree(&build_on_top(dir.path(), &layers, &on_top));
            prop_assert_eq!(&found, &expected, "{:?}, each on top of the last, v5", whiteouts);
        }
        // With the chunks of lower layers it is the same tree.
        let shared = build_with_dictionaries(dir.path(), &layers);
        let options = Options { sources: sources(&shared), chunk_dicts: shared, whiteouts: Whiteouts::None, ..Options::default() };
        let found = tar_tree(&merged(dir.path(), &options));
        let plain = Options { sources: sources(&paths), whiteouts: Whiteouts::None, ..Options::default() };
        prop_assert_eq!(found, tar_tree(&merged(dir.path(), &plain)));
        // In two steps it is the same image.
        let whole = std::fs::read(dir.path().join("boot")).unwrap();
        for cut in 1..layers.len() {
            let below = dir.path().join("below");
            let lower = Options { sources: sources(&paths[..cut]), whiteouts: Whiteouts::None, ..Options::default() };
            merge(&lower, Place::File(below.clone()), &Outputs::new()).unwrap();
            let upper = Options {
                parent: Some(below), sources: sources(&paths[cut..]), whiteouts: Whiteouts::None, ..Options::default()
            };
            merge(&upper, Place::File(dir.path().join("boot")), &Outputs::new()).unwrap();
            prop_assert!(std::fs::read(dir.path().join("boot")).unwrap() == whole, "cut at {}", cut);
        }
    }
}

/// Extracts a layer over what is there: whiteouts by hand, the rest by GNU tar.
fn extract(root: &Path, archive: &Path, layer: &Layer) {
    let remove = |path: &Path| match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path).unwrap(),
        Ok(_) => std::fs::remove_file(path).unwrap(),
        Err(_) => {}
    };
    let visible = |names: &[&str]| names.iter().all(|name| !name.starts_with(".wh."));
    for path in layer.keys() {
        let (name, dir) = path.split_last().unwrap();
        if !visible(dir) {
            continue;
        }
        let at = root.join(dir.join("/"));
        // Not through a link that a lower layer has there.
        if !at.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            continue;
        }
        if *name == ".wh..wh..opq" {
            std::fs::read_dir(&at).unwrap().for_each(|child| remove(&child.unwrap().path()));
        } else if let Some(gone) = name.strip_prefix(".wh.") {
            remove(&at.join(gone));
        }
    }
    // What tar does not do by itself: a file where a directory is, attributes that a directory no longer has.
    for (path, what) in layer.iter().filter(|(path, _)| visible(path)) {
        let at = root.join(path.join("/"));
        let is_dir = at.symlink_metadata().is_ok_and(|meta| meta.is_dir());
        match what {
            What::Directory(_) if is_dir => {
                xattr::list(&at).unwrap().for_each(|name| xattr::remove(&at, name).unwrap());
            }
            What::Directory(_) => {}
            _ if is_dir => remove(&at),
            _ => {}
        }
    }
    // Nor a way through what is no directory.
    for path in layer.keys().filter(|path| visible(&path[..path.len() - 1])) {
        for len in 1..path.len() {
            let parent = root.join(path[..len].join("/"));
            if parent.symlink_metadata().is_ok_and(|meta| !meta.is_dir()) {
                remove(&parent);
            }
            // A parent of a marker alone is implied, too.
            if !parent.exists() {
                std::fs::create_dir(&parent).unwrap();
            }
        }
    }
    let options = ["-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*"];
    let out = Command::new("tar")
        .args(options)
        .args(["--exclude=.wh.*", "-C"])
        .arg(root)
        .arg("-f")
        .arg(archive)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// What differs between a directory and an image by nature: times of directories, which change with what is put into them.
fn comparable(mut tree: SeenTree) -> SeenTree {
    tree.remove("/");
    tree.values_mut()
        .filter(|entry| entry.kind == "dir")
        .for_each(|entry| (entry.mtime, entry.mtime_ns) = (0, 0));
    tree
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn merging_is_extracting_one_layer_after_the_other(layers in prop::collection::vec(layer(), 1..5)) {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: owners, devices and trusted xattrs need root");
            return Ok(());
        }
        let dir = tempfile::tempdir().unwrap();
        let paths = build(dir.path(), &layers, &CreateOptions::default());
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        for (number, layer) in layers.iter().enumerate() {
            let archive = dir.path().join("layer.tar");
            std::fs::write(&archive, tar(number, layer)).unwrap();
            extract(&root, &archive, layer);
        }
        let options = Options { sources: sources(&paths), ..Options::default() };
        let found = tar_tree(&merged(dir.path(), &options));
        prop_assert_eq!(comparable(found), comparable(dir_tree(&root)));
    }
}
