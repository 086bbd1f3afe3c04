//! Layers with entries in any order against a model that is a map: what a later entry does to an earlier one, implied parents,
//! hard links before, behind and without their target. A layer that the model refuses is refused, and no other.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "tests")]

mod common;

use common::{Entry as Seen, Tree as SeenTree, escape, tar_tree};
use proptest::prelude::*;
use rafs_builder::create::{CreateError, Input, Options, create};
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::output::{Outputs, Place};
use rafs_builder::{chain, check, unpack};
use sha2::Digest as _;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// One entry of a layer. Owner, mode and time follow from its position, so that every entry can be told from the others.
#[derive(Debug, Clone)]
enum Step {
    File(Vec<&'static str>, u8, u16),
    Directory(Vec<&'static str>),
    Symlink(Vec<&'static str>),
    Fifo(Vec<&'static str>),
    Link(Vec<&'static str>, Vec<&'static str>),
    Root,
}

/// Names of directories are seldom those of other things: what is below a file makes the whole layer wrong.
fn path() -> impl Strategy<Value = Vec<&'static str>> {
    let dir = prop::sample::select(vec!["a", "a", "d"]);
    let name = prop::sample::select(vec!["b", "b", "c", "!", ".wh.a", ".wh..wh..opq", "b", "c", "d"]);
    (prop::collection::vec(dir, 0..3), name).prop_map(|(mut path, name)| {
        path.push(name);
        path
    })
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![Just(0u16), Just(1), 4090u16..4100, 0u16..9000];
    prop_oneof![
        4 => (path(), 0u8..3, size).prop_map(|(path, fill, size)| Step::File(path, fill, size)),
        4 => path().prop_map(Step::Directory),
        1 => path().prop_map(Step::Symlink),
        1 => path().prop_map(Step::Fifo),
        4 => (path(), path()).prop_map(|(path, target)| Step::Link(path, target)),
        1 => Just(Step::Root),
    ]
}

/// Owner and time of the entry at position `n`.
fn attributes(n: usize) -> (u64, i64) {
    (n as u64 + 100, n as i64 + 1_000)
}

fn tar(steps: &[Step]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for (n, step) in steps.iter().enumerate() {
        let mut header = tar::Header::new_gnu();
        let (uid, mtime) = attributes(n);
        header.set_mode(0o700 + (n as u32 % 8));
        header.set_uid(uid);
        header.set_gid(7);
        header.set_mtime(mtime.cast_unsigned());
        let (path, kind, data) = match step {
            Step::File(path, fill, size) => (path.join("/"), b'0', content(*fill, *size)),
            Step::Directory(path) => (format!("./{}/", path.join("/")), b'5', Vec::new()),
            Step::Symlink(path) => (path.join("/"), b'2', Vec::new()),
            Step::Fifo(path) => (format!("/{}", path.join("/")), b'6', Vec::new()),
            Step::Link(path, _) => (path.join("//"), b'1', Vec::new()),
            Step::Root => ("./".to_owned(), b'5', Vec::new()),
        };
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        match step {
            Step::Symlink(_) => header.set_link_name_literal("to").unwrap(),
            Step::Link(_, target) => header.set_link_name_literal(target.join("/")).unwrap(),
            _ => {}
        }
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(data.len() as u64);
        header.set_cksum();
        out.append(&header, data.as_slice()).unwrap();
    }
    out.into_inner().unwrap()
}

fn content(fill: u8, size: u16) -> Vec<u8> {
    vec![fill; size.into()]
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    File(u8, u16),
    Directory,
    Symlink,
    Fifo,
    /// A hard link whose target is not there yet.
    Waiting,
}

#[derive(Debug, Clone)]
struct Node {
    kind: Kind,
    /// Position of the entry that gave the attributes; `None` for what is only implied.
    from: Option<usize>,
    /// Files with the same number are the same file.
    file: usize,
}

type Path_ = Vec<&'static str>;

/// The whole specification: a map from paths to nodes.
#[derive(Default)]
struct Model {
    nodes: BTreeMap<Path_, Node>,
    pending: Vec<(usize, Path_, Path_)>,
    root: Option<usize>,
}

impl Model {
    fn parents(&mut self, path: &[&'static str]) -> Result<(), ()> {
        for len in 1..path.len() {
            let implied = Node { kind: Kind::Directory, from: None, file: usize::MAX };
            if self.nodes.entry(path[..len].to_vec()).or_insert(implied).kind != Kind::Directory {
                return Err(());
            }
        }
        Ok(())
    }

    fn put(&mut self, path: &[&'static str], node: Node) {
        if node.kind != Kind::Directory {
            self.nodes.retain(|other, _| !other.starts_with(path));
        }
        self.nodes.insert(path.to_vec(), node);
    }

    /// Puts the link made by entry `n` if its target is there.
    fn link(&mut self, n: usize, path: &[&'static str], target: &[&'static str]) -> Result<bool, ()> {
        match self.nodes.get(target).cloned() {
            None => return Ok(false),
            Some(node) => match node.kind {
                Kind::Waiting => return Ok(false),
                Kind::Directory => return Err(()),
                Kind::File(..) => self.put(path, Node { from: Some(n), ..node }),
                // Other than files there are no hard links: a copy, all of whose attributes are the target's.
                Kind::Symlink | Kind::Fifo => self.put(path, Node { file: usize::MAX, ..node }),
            },
        }
        Ok(true)
    }

    fn step(&mut self, n: usize, step: &Step) -> Result<(), ()> {
        let (path, kind) = match step {
            Step::Root => {
                self.root = Some(n);
                return Ok(());
            }
            Step::Link(path, target) => {
                self.parents(path)?;
                if !self.link(n, path, target)? {
                    self.put(path, Node { kind: Kind::Waiting, from: Some(n), file: n });
                    self.pending.push((n, path.clone(), target.clone()));
                }
                return Ok(());
            }
            Step::File(path, fill, size) => (path, Kind::File(*fill, *size)),
            Step::Directory(path) => (path, Kind::Directory),
            Step::Symlink(path) => (path, Kind::Symlink),
            Step::Fifo(path) => (path, Kind::Fifo),
        };
        self.parents(path)?;
        self.put(path, Node { kind, from: Some(n), file: n });
        Ok(())
    }

    /// Makes the links that wait, each as soon as its target is there.
    fn finish(&mut self) -> Result<(), ()> {
        loop {
            let before = self.pending.len();
            for (n, path, target) in std::mem::take(&mut self.pending) {
                let waits = |node: &Node| node.kind == Kind::Waiting && node.file == n;
                let is_there = self.nodes.get(&path).is_some_and(waits);
                if is_there && !self.link(n, &path, &target)? {
                    self.pending.push((n, path, target));
                }
            }
            match self.pending.len() {
                0 => return Ok(()),
                left if left == before => return Err(()),
                _ => {}
            }
        }
    }

    /// Paths in numbering order.
    fn numbering(&self, dir: &[&'static str], order: &mut Vec<Path_>) {
        let children: Vec<&Path_> =
            self.nodes.keys().filter(|path| path.len() == dir.len() + 1 && path.starts_with(dir)).collect();
        order.extend(children.iter().copied().cloned());
        for child in children {
            if self.nodes[child].kind == Kind::Directory {
                self.numbering(child, order);
            }
        }
    }

    /// What people should see. A file with several names has the attributes of the one that is numbered last.
    fn seen(&self) -> SeenTree {
        let mut order = Vec::new();
        self.numbering(&[], &mut order);
        assert_eq!(order.len(), self.nodes.len(), "the model has no node without a parent");
        let mut by_file: BTreeMap<usize, Vec<&Path_>> = BTreeMap::new();
        for path in &order {
            if matches!(self.nodes[path].kind, Kind::File(..)) {
                by_file.entry(self.nodes[path].file).or_default().push(path);
            }
        }
        let shown = |path: &Path_| format!("/{}", escape(path.join("/").as_bytes()));
        let mut tree = SeenTree::new();
        for path in &order {
            let node = &self.nodes[path];
            let group = by_file.get(&node.file).filter(|_| matches!(node.kind, Kind::File(..)));
            let from = group.map_or(node.from, |group| self.nodes[group[group.len() - 1]].from);
            let links = group.filter(|group| group.len() > 1);
            let links: BTreeSet<String> = links.into_iter().flatten().map(|path| shown(path)).collect();
            let mut entry = match from {
                Some(n) => {
                    let (uid, mtime) = attributes(n);
                    Seen { uid, gid: 7, mtime, mode: format!("{:o}", 0o700 + n % 8), ..Seen::default() }
                }
                None => Seen { mode: "755".into(), ..Seen::default() },
            };
            entry.links = links.into_iter().collect();
            entry.kind = match node.kind {
                Kind::File(fill, size) => {
                    entry.size = size.into();
                    entry.sha256 = hex::encode(sha2::Sha256::digest(content(fill, size)));
                    "reg"
                }
                Kind::Directory => "dir",
                Kind::Symlink => {
                    entry.target = "to".into();
                    "lnk"
                }
                Kind::Fifo => "fifo",
                Kind::Waiting => unreachable!("all links are made"),
            }
            .into();
            tree.insert(shown(path), entry);
        }
        tree
    }
}

fn model(steps: &[Step]) -> Result<Model, ()> {
    let mut model = Model::default();
    for (n, step) in steps.iter().enumerate() {
        model.step(n, step)?;
    }
    model.finish()?;
    Ok(model)
}

fn build(steps: &[Step], dir: &Path) -> Result<(), CreateError> {
    let bytes = tar(steps);
    let options = Options { chunk_size: 0x1000, threads: 2, ..Options::default() };
    let places = (Place::File(dir.join("boot")), Place::Directory(dir.to_path_buf()));
    create(Input::Tar(Box::new(bytes.as_slice())), &options, places, &Outputs::new(), &|_| {}).map(|_| ())
}

/// Builds, checks and unpacks, or sees it refused, as the model says.
fn agrees(steps: &[Step]) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let built = build(steps, dir.path());
    let Ok(model) = model(steps) else {
        let error = built.expect_err("the model refuses it");
        prop_assert!(matches!(error, CreateError::Entry { .. }), "{}", chain(&error));
        prop_assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
        return Ok(());
    };
    built.map_err(|error| TestCaseError::fail(chain(&error)))?;
    let image = Image::open(&dir.path().join("boot")).unwrap();
    check::structure(&image).map_err(|error| TestCaseError::fail(chain(&error)))?;
    let root = image.bootstrap().inode(image.bootstrap().superblock().root).unwrap();
    let expected = model.root.map_or((0, 0), attributes);
    prop_assert_eq!((u64::from(root.uid), root.mtime_secs), expected);
    let local = LocalFs { dir: Some(dir.path().to_path_buf()), ..LocalFs::default() };
    let source = BlobSource::new(Arc::new(local)).unwrap();
    let mut out = Vec::new();
    unpack::tar_to(&image, &source, &mut out, 2).map_err(|error| TestCaseError::fail(chain(&error)))?;
    prop_assert_eq!(tar_tree(&out), model.seen());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn layers_become_what_the_model_says(steps in prop::collection::vec(step(), 1..14), complete in any::<bool>()) {
        let mut steps = steps;
        if complete {
            // Most links find their target in the end.
            let targets = steps.iter().filter_map(|step| match step {
                Step::Link(_, target) => Some(Step::File(target.clone(), 9, 5)),
                _ => None,
            });
            steps.extend(targets.collect::<Vec<_>>());
        }
        agrees(&steps)?;
    }
}

/// A link that waits for its target is replaced by what comes after it in the stream, not the other way round.
#[test]
fn regression_a_waiting_link_does_not_replace_a_later_entry() {
    let link = Step::Link(vec!["a"], vec!["b"]);
    let target = Step::File(vec!["b"], 1, 10);
    let kinds = [Step::File(vec!["a"], 2, 20), Step::Directory(vec!["a"]), Step::Symlink(vec!["a"])];
    for later in kinds {
        agrees(&[link.clone(), later.clone(), target.clone()]).unwrap();
        agrees(&[link.clone(), target.clone(), later]).unwrap();
    }
    let below = [Step::Link(vec!["d", "a"], vec!["b"]), Step::Fifo(vec!["d"]), target];
    agrees(&below).unwrap();
}

/// Links to links that wait, in every order, and rings of them.
#[test]
fn links_to_waiting_links() {
    let chain = [
        Step::Link(vec!["a"], vec!["b"]),
        Step::Link(vec!["b"], vec!["c"]),
        Step::Link(vec!["c"], vec!["!"]),
        Step::File(vec!["!"], 1, 5000),
    ];
    for at in 0..chain.len() {
        for other in 0..chain.len() {
            let mut steps = chain.to_vec();
            steps.swap(at, other);
            agrees(&steps).unwrap();
        }
    }
    assert!(model(&chain[..2]).is_err());
    agrees(&chain[..3]).unwrap();
    agrees(&[Step::Link(vec!["a"], vec!["b"]), Step::Link(vec!["b"], vec!["a"])]).unwrap();
}
