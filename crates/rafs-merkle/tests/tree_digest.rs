//! The tree digest against what it is meant to say: equal for equal trees and for no others, proven by proofs and by nothing changed,
//! and hashed from the very bytes that docs/format.md shows.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use proptest::prelude::*;
use rafs_format::xattr::Xattr;
use rafs_format::{Digest, DigestAlgorithm};
use rafs_merkle::proof::{Proof, ProofError, Step, siblings};
use rafs_merkle::tree::{Attributes, Entries, NodeHasher, PathId, Scope, TreeHasher, entry};
use std::collections::BTreeMap;

/// A tree as people think of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Model {
    perm: u16,
    owner: (u32, u32),
    mtime: (i64, u32),
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Body {
    Directory(BTreeMap<Vec<u8>, Model>),
    File(u64, Vec<(bool, u8)>),
    Symlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
    Socket,
}

impl Model {
    fn attributes(&self) -> Attributes {
        let kind = match self.body {
            Body::Directory(_) => 0o040_000,
            Body::File(..) => 0o100_000,
            Body::Symlink(_) => 0o120_000,
            Body::Char(..) => 0o020_000,
            Body::Block(..) => 0o060_000,
            Body::Fifo => 0o010_000,
            Body::Socket => 0o140_000,
        };
        let ((uid, gid), (mtime_secs, mtime_nanos)) = (self.owner, self.mtime);
        Attributes { mode: kind | self.perm, uid, gid, mtime_secs, mtime_nanos }
    }

    fn xattrs(&self) -> Vec<Xattr<'_>> {
        let pairs = self.xattrs.iter().rev();
        pairs.map(|(suffix, value)| Xattr { prefix: "user.", suffix, value }).collect()
    }

    fn add(&self, name: &[u8], hasher: &mut TreeHasher) -> Option<Digest> {
        let (attributes, mut xattrs) = (self.attributes(), self.xattrs());
        if let Body::Directory(children) = &self.body {
            hasher.open(name, &attributes, &mut xattrs);
            for (name, child) in children {
                child.add(name, hasher);
            }
            return hasher.close().unwrap();
        }
        let node = self.node(hasher.nodes());
        hasher.add(name, &node, None).unwrap();
        None
    }

    fn digest(&self, scope: Scope) -> Digest {
        self.add(b"", &mut TreeHasher::new(scope)).unwrap()
    }

    fn node(&self, hasher: &mut NodeHasher) -> Digest {
        let mut xattrs = self.xattrs();
        match &self.body {
            Body::Directory(children) => {
                let mut entries = Entries::default();
                for (name, child) in children {
                    let node = child.node(hasher);
                    entries.push(name, &node, None).unwrap();
                }
                hasher.begin(&self.attributes(), &mut xattrs).directory(&entries)
            }
            Body::File(size, chunks) => {
                let mut file = hasher.begin(&self.attributes(), &mut xattrs).file(*size, chunks.len() as u64);
                for &(sha, fill) in chunks {
                    let by = if sha { DigestAlgorithm::Sha256 } else { DigestAlgorithm::Blake3 };
                    file.chunk(by, &Digest([fill; 32]));
                }
                file.finish()
            }
            Body::Symlink(target) => hasher.begin(&self.attributes(), &mut xattrs).symlink(target),
            Body::Char(major, minor) | Body::Block(major, minor) => {
                hasher.begin(&self.attributes(), &mut xattrs).device(*major, *minor)
            }
            Body::Fifo | Body::Socket => hasher.begin(&self.attributes(), &mut xattrs).bodiless(),
        }
    }

    /// The same without what [`Scope::Content`] does not look at.
    fn timeless(&self) -> Self {
        let mut model = self.clone();
        model.mtime = (0, 0);
        if let Body::Directory(children) = &mut model.body {
            children.values_mut().for_each(|child| *child = child.timeless());
        }
        model
    }

    /// Every path with its node.
    fn paths(&self) -> Vec<(Vec<Vec<u8>>, &Self)> {
        let mut all = vec![(Vec::new(), self)];
        if let Body::Directory(children) = &self.body {
            for (name, child) in children {
                let below = child.paths().into_iter();
                all.extend(below.map(|(path, node)| ([vec![name.clone()], path].concat(), node)));
            }
        }
        all
    }

    fn prove(&self, path: &[Vec<u8>], scope: Scope) -> Proof {
        let mut hasher = NodeHasher::new(scope);
        let (mut at, mut steps) = (self, Vec::new());
        for name in path {
            let Body::Directory(children) = &at.body else { panic!("no directory") };
            let leaves: Vec<_> =
                children.iter().map(|(name, child)| entry(name, &child.node(&mut hasher), None)).collect();
            let index = children.keys().position(|other| other == name).unwrap();
            steps.push(Step {
                attributes: at.attributes(),
                xattrs: at.xattrs().iter().map(Into::into).collect(),
                count: leaves.len() as u64,
                index: index as u64,
                link: None,
                siblings: siblings(&leaves, index),
            });
            at = &children[name];
        }
        Proof { scope, node: at.node(&mut hasher), steps }
    }
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![b'a', b'b', 0xFF]), 1..3)
}

/// Models over alphabets so small that equal parts, and parts that are equal when put together otherwise, happen.
fn model() -> impl Strategy<Value = Model> {
    let leaf = prop_oneof![
        (0u64..3, prop::collection::vec((any::<bool>(), 0u8..2), 0..3))
            .prop_map(|(size, chunks)| Body::File(size, chunks)),
        bytes().prop_map(Body::Symlink),
        (0u32..2, 0u32..2).prop_map(|(major, minor)| Body::Char(major, minor)),
        (0u32..2, 0u32..2).prop_map(|(major, minor)| Body::Block(major, minor)),
        Just(Body::Fifo),
        Just(Body::Socket),
    ];
    let tree = leaf.prop_map(with_attributes).prop_flat_map(|leaf| leaf);
    let tree = tree.prop_recursive(3, 24, 5, |inner| {
        prop::collection::btree_map(bytes(), inner, 0..5)
            .prop_flat_map(|below| with_attributes(Body::Directory(below)))
    });
    prop::collection::btree_map(bytes(), tree, 0..5)
        .prop_flat_map(|below| with_attributes(Body::Directory(below)))
}

fn with_attributes(body: Body) -> impl Strategy<Value = Model> {
    let xattrs = prop::collection::btree_map(bytes(), bytes(), 0..3);
    let perm = prop::sample::select(vec![0o644, 0o755]);
    (perm, (0u32..2, 0u32..2), (-1i64..1, 0u32..2), xattrs).prop_map(move |(perm, owner, mtime, xattrs)| {
        Model { perm, owner, mtime, xattrs, body: body.clone() }
    })
}

/// The model with one thing changed somewhere.
fn changed(model: &Model, mut at: usize, what: u8) -> Model {
    fn change(model: &mut Model, at: &mut usize, what: u8) {
        if *at == 0 {
            let plain = model.clone_attributes();
            match what {
                0 => model.perm ^= 0o100,
                1 => model.owner.0 ^= 1,
                2 => model.owner.1 ^= 1,
                3 => model.mtime.0 += 7,
                4 => model.mtime.1 += 7,
                5 => drop(model.xattrs.insert(b"new".to_vec(), Vec::new())),
                _ => match &mut model.body {
                    Body::Directory(children) => {
                        drop(children.insert(b"new".to_vec(), plain));
                    }
                    Body::File(size, _) => *size += 1,
                    Body::Symlink(target) => target.push(b'a'),
                    Body::Char(major, _) | Body::Block(major, _) => *major += 1,
                    Body::Fifo => model.body = Body::Socket,
                    Body::Socket => model.body = Body::Fifo,
                },
            }
        }
        *at = at.wrapping_sub(1);
        if let Body::Directory(children) = &mut model.body {
            children.values_mut().for_each(|child| change(child, at, what));
        }
    }
    let mut model = model.clone();
    at %= model.paths().len();
    change(&mut model, &mut at, what);
    model
}

impl Model {
    fn clone_attributes(&self) -> Self {
        Self { xattrs: BTreeMap::new(), body: Body::Fifo, ..*self }
    }
}

/// Every way in which a proof can be changed that changes what it says.
fn forgeries(proof: &Proof, step: usize) -> Vec<Proof> {
    let mut all = Vec::new();
    let mut forge = |change: &dyn Fn(&mut Proof)| {
        let mut forged = proof.clone();
        change(&mut forged);
        all.push(forged);
    };
    let other = Digest([9; 32]);
    forge(&|proof| proof.node.0[7] ^= 1);
    forge(&|proof| proof.scope = if proof.scope == Scope::Full { Scope::Content } else { Scope::Full });
    forge(&|proof| drop(proof.steps.remove(step)));
    forge(&|proof| proof.steps.insert(step, proof.steps[step].clone()));
    forge(&|proof| proof.steps[step].attributes.mode ^= 0o1);
    forge(&|proof| proof.steps[step].attributes.mode ^= 0o100_000);
    forge(&|proof| proof.steps[step].attributes.uid += 1);
    forge(&|proof| proof.steps[step].count += 1);
    forge(&|proof| proof.steps[step].index ^= 1);
    forge(&|proof| proof.steps[step].index += 2);
    forge(&|proof| proof.steps[step].link = Some(PathId(other)));
    forge(&|proof| proof.steps[step].siblings.push(other));
    forge(&|proof| {
        let xattrs = [Xattr { prefix: "trusted.", suffix: b"", value: b"" }];
        proof.steps[step].xattrs.extend(xattrs.iter().map(Into::into));
    });
    if !proof.steps[step].siblings.is_empty() {
        forge(&|proof| proof.steps[step].siblings[0].0[0] ^= 0x80);
        forge(&|proof| {
            let siblings = &mut proof.steps[step].siblings;
            siblings.truncate(siblings.len() - 1);
        });
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn digests_are_equal_for_equal_trees_and_no_others(one in model(), two in model(), at in 0usize..100, what in 0u8..7) {
        for (one, two) in [(&one, &two), (&one, &one.clone()), (&one, &changed(&one, at, what))] {
            prop_assert_eq!(one.digest(Scope::Full) == two.digest(Scope::Full), one == two);
            let same = one.timeless() == two.timeless();
            prop_assert_eq!(one.digest(Scope::Content) == two.digest(Scope::Content), same);
        }
        prop_assert_ne!(one.digest(Scope::Content), one.digest(Scope::Full));
        prop_assert_eq!(one.digest(Scope::Full), one.node(&mut NodeHasher::new(Scope::Full)));
    }

    #[test]
    fn a_path_is_proven_by_its_proof_and_by_nothing_changed(model in model(), full in any::<bool>(), at in 0usize..100) {
        let scope = if full { Scope::Full } else { Scope::Content };
        let root = model.digest(scope);
        for (path, node) in model.paths() {
            let proof = model.prove(&path, scope);
            let names: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(proof.check(&names, &root), Ok(node.node(&mut NodeHasher::new(scope))));
            let found = proof.check(&names, &Digest([0; 32]));
            prop_assert_eq!(found, Err(ProofError::Root { found: root, expected: Digest([0; 32]) }));
            prop_assert!(proof.check(&[&names[..], &[b"x"]].concat(), &root).is_err());
            if names.is_empty() {
                continue;
            }
            let step = at % names.len();
            let mut other = names.clone();
            other[step] = b"other";
            prop_assert!(proof.check(&other, &root).is_err());
            for forged in forgeries(&proof, step) {
                prop_assert!(forged.check(&names, &root).is_err(), "{:?}", forged);
            }
        }
    }
}

/// The example of docs/format.md: every input that it shows is hashed to the digest that it shows, and the last is the digest of the tree.
#[test]
fn the_worked_example_is_true() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/format.md");
    let text = std::fs::read_to_string(path).unwrap();
    let section = text.split_once("## Tree digest\n").unwrap().1;
    let block = section.split_once("```text\n").unwrap().1.split_once("```").unwrap().0;
    let mut digests = BTreeMap::new();
    let mut input = Vec::new();
    for line in
        block.lines().map(|line| line.split('#').next().unwrap().trim()).filter(|line| !line.is_empty())
    {
        if let Some((name, digest)) = line.split_once(" = ") {
            assert_eq!(blake3::hash(&input).to_string(), digest, "{name}");
            digests.insert(name, digest);
            input.clear();
        } else {
            for part in line.split(' ') {
                let named = part.strip_prefix('<').and_then(|name| name.strip_suffix('>'));
                let hex = named.map_or(part, |name| digests[name]);
                input.extend(hex::decode(hex).unwrap());
            }
        }
    }
    let mut hasher = TreeHasher::new(Scope::Full);
    let directory = Attributes { mode: 0o040_755, uid: 0, gid: 0, mtime_secs: 1, mtime_nanos: 0 };
    let file = Attributes { mode: 0o100_644, uid: 1000, gid: 100, mtime_secs: -1, mtime_nanos: 500_000_000 };
    hasher.open(b"", &directory, &mut []);
    let mut xattrs = [Xattr { prefix: "user.", suffix: b"k", value: b"v" }];
    let mut chunks = hasher.nodes().begin(&file, &mut xattrs).file(6, 1);
    chunks.chunk(DigestAlgorithm::Blake3, &rafs_merkle::digest(DigestAlgorithm::Blake3, b"hello\n"));
    let node = chunks.finish();
    let first = hasher.path_id(b"a");
    hasher.add(b"a", &node, None).unwrap();
    hasher.add(b"b", &node, Some(&first)).unwrap();
    let link = Attributes { mode: 0o120_777, uid: 0, gid: 0, mtime_secs: 1, mtime_nanos: 0 };
    let link = hasher.nodes().begin(&link, &mut []).symlink(b"a");
    hasher.add(b"c", &link, None).unwrap();
    assert_eq!(hasher.close().unwrap().unwrap().to_string(), digests["tree"]);
}
