//! What is different in two images: all of it, nothing else, and not more looked at than needed.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::model::{Children, Maker, Model, model};
use common::{Tree as SeenTree, escape};
use proptest::prelude::*;
use rafs_builder::create::{Input, Options, create};
use rafs_builder::diff::{self, Change, Kind, Part, Price, Summary};
use rafs_builder::digest::{Directories, Scope};
use rafs_builder::open::Image;
use rafs_builder::output::{Outputs, Place};
use rafs_format::{Bootstrap, FormatError, Inode};
use std::collections::BTreeMap;
use std::path::Path;

/// Changes by path: what `diff` prints.
type Changes = BTreeMap<String, Vec<&'static str>>;

fn changes(first: &Image, second: &Image, scope: Scope) -> (Summary, Changes) {
    let mut all = Changes::new();
    let summary = diff::diff(first, second, scope, &mut |change: &Change<'_>| {
        let what = match change.kind {
            Kind::Added(_) => vec!["added"],
            Kind::Removed(_) => vec!["removed"],
            Kind::Changed(parts) => parts.iter().map(|part: &Part| part.name()).collect(),
        };
        assert_eq!(all.insert(escape(change.path), what), None, "told twice");
        Ok(())
    });
    (summary.unwrap(), all)
}

/// One of two trees, some children of the first replaced by those of the second or gone: mostly equal, like two versions of an image.
fn mix(one: &Children, two: &Children, picks: &mut dyn Iterator<Item = u8>) -> Children {
    let mut mixed = one.clone();
    for (name, node) in two {
        match (picks.next().unwrap_or(9), mixed.get_mut(name)) {
            (0, _) => drop(mixed.insert(name.clone(), node.clone())),
            (1, _) => drop(mixed.remove(name)),
            (_, Some(Model::Directory(below, xattrs))) => {
                if let Model::Directory(others, other_xattrs) = node {
                    *below = mix(below, others, picks);
                    if picks.next() == Some(2) {
                        *xattrs = other_xattrs.clone();
                    }
                }
            }
            _ => {}
        }
    }
    mixed
}

/// Paths in the order of a walk.
fn walk_order(image: &Image) -> BTreeMap<String, usize> {
    let mut order = BTreeMap::new();
    rafs_format::check::check(image.bootstrap(), &mut |visit| {
        let path: Vec<u8> = visit.path.iter().flat_map(|name| [b"/", *name].concat()).collect();
        order.insert(escape(&path), order.len());
        Ok::<_, FormatError>(())
    })
    .unwrap();
    order
}

/// The path that a further name of an inode is a link to.
fn link(tree: &SeenTree, order: &BTreeMap<String, usize>, path: &str) -> Option<String> {
    let first = tree[path].links.iter().min_by_key(|path| order[*path])?;
    (first != path).then(|| first.clone())
}

/// The whole specification: compare two maps.
fn expected(one: (&SeenTree, &Image), two: (&SeenTree, &Image)) -> Changes {
    let orders = (walk_order(one.1), walk_order(two.1));
    let mut all = Changes::new();
    for (path, first) in one.0 {
        let Some(second) = two.0.get(path) else {
            all.insert(path.clone(), vec!["removed"]);
            continue;
        };
        let same_type = first.kind == second.kind;
        let parts = [
            ("type", !same_type),
            ("xattrs", first.xattrs != second.xattrs),
            ("content", same_type && (first.size, &first.sha256) != (second.size, &second.sha256)),
            ("target", same_type && first.target != second.target),
            ("device", same_type && first.rdev != second.rdev),
            ("link", link(one.0, &orders.0, path) != link(two.0, &orders.1, path)),
        ];
        let parts: Vec<_> = parts.iter().filter(|(_, different)| *different).map(|(part, _)| *part).collect();
        if !parts.is_empty() {
            all.insert(path.clone(), parts);
        }
    }
    let added = two.0.keys().filter(|path| !one.0.contains_key(*path));
    all.extend(added.map(|path| (path.clone(), vec!["added"])));
    all
}

fn image(children: &Children, dir: &Path, name: &str) -> (Image, SeenTree) {
    let mut maker = Maker::new(children);
    maker.write(dir, name);
    (Image::open(&dir.join(name)).unwrap(), maker.finish())
}

/// An image with the digests of its directories.
struct Hashed<'a>(&'a Bootstrap<Vec<u8>>, Directories<'a, Vec<u8>>);

impl<'a> Hashed<'a> {
    fn new(image: &'a Image, scope: Scope) -> Self {
        Self(image.bootstrap(), Directories::compute(image.bootstrap(), scope).unwrap())
    }

    /// Inodes in a directory by name; nothing in what is no directory.
    fn children(&self, dir: Option<&Inode>) -> BTreeMap<&'a [u8], Inode> {
        let entries = dir.into_iter().flat_map(|dir| self.0.dir_entries(dir, 0).into_iter().flatten());
        let entries = entries.map(Result::unwrap).filter(|entry| !matches!(entry.name, b"." | b".."));
        entries.map(|entry| (entry.name, self.0.inode(entry.nid).unwrap())).collect()
    }
}

/// Nodes that a comparison by digests of directories looks at: those in directories that are different.
fn visits(sides: (&Hashed<'_>, &Hashed<'_>), one: Option<&Inode>, two: Option<&Inode>) -> u64 {
    let digests = (one.and_then(|dir| sides.0.1.get(dir.nid)), two.and_then(|dir| sides.1.1.get(dir.nid)));
    if digests.0.is_some() && digests.0 == digests.1 {
        return 0;
    }
    let (first, second) = (sides.0.children(one), sides.1.children(two));
    let names: std::collections::BTreeSet<_> = first.keys().chain(second.keys()).collect();
    1 + names.iter().map(|name| visits(sides, first.get(*name), second.get(*name))).sum::<u64>()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_diff_is_that_of_two_maps(one in model(), two in model(), picks in prop::collection::vec(0u8..6, 0..40)) {
        let dir = tempfile::tempdir().unwrap();
        let mixed = mix(&one, &two, &mut picks.into_iter());
        let (first, seen_first) = image(&one, dir.path(), "first");
        let (second, seen_second) = image(&mixed, dir.path(), "second");
        let (summary, found) = changes(&first, &second, Scope::Full);
        prop_assert_eq!(&found, &expected((&seen_first, &first), (&seen_second, &second)));
        prop_assert_eq!(summary.is_same(), found.is_empty());
        prop_assert_eq!(summary.added + summary.removed + summary.changed, found.len() as u64);
        for scope in [Scope::Full, Scope::Content] {
            let (summary, _) = changes(&first, &second, scope);
            let (one, two) = (Hashed::new(&first, scope), Hashed::new(&second, scope));
            let roots = [&one, &two].map(|side| side.0.inode(side.0.superblock().root).unwrap());
            prop_assert_eq!(summary.visited, visits((&one, &two), Some(&roots[0]), Some(&roots[1])));
            prop_assert_eq!(summary.is_same(), one.1.tree() == two.1.tree());
            let digests = diff::digests(&first, &second, scope).unwrap();
            prop_assert_eq!(digests, (one.1.tree(), two.1.tree()));
        }
        let (summary, found) = changes(&first, &first, Scope::Content);
        prop_assert_eq!((summary.visited, found), (0, Changes::new()));
    }
}

/// A tar of `count` small files, a hundred in a directory; every one of which `is_other` says so has another content.
fn layer(count: u32, is_other: &dyn Fn(u32) -> bool) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for n in 0..count {
        let data = format!("{n}{}", if is_other(n) { "!" } else { "" });
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        out.append_data(&mut header, format!("usr/{}/{}/{n}", n / 1_000, n / 100), data.as_bytes()).unwrap();
    }
    out.into_inner().unwrap()
}

fn built(tar: &[u8], dir: &Path, name: &str) -> Image {
    let at = dir.join(name);
    let places = (Place::File(at.clone()), Place::File(at.with_extension("blob")));
    create(Input::Tar(Box::new(tar)), &Options::default(), places, &Outputs::new(), &|_| {}).unwrap();
    Image::open(&at).unwrap()
}

#[test]
fn only_what_is_on_the_way_to_a_change_is_visited() {
    let dir = tempfile::tempdir().unwrap();
    let first = built(&layer(20_000, &|_| false), dir.path(), "first");
    let second = built(&layer(20_000, &|n| n % 2_000 == 777), dir.path(), "second");
    let (summary, found) = changes(&first, &second, Scope::Full);
    assert_eq!((summary.changed, summary.added, summary.removed), (10, 0, 0));
    assert!(found.keys().all(|path| path.ends_with("777")), "{found:?}");
    // The root, /usr, ten and ten directories, and the thousand files of the latter.
    assert_eq!(summary.visited, 1_022);
}

#[test]
fn the_price_is_what_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let first = built(&layer(100, &|_| false), dir.path(), "first");
    let second = built(&layer(100, &|n| n == 7), dir.path(), "second");
    assert_eq!(diff::price(&first, &first).unwrap(), Price::default());
    let price = diff::price(&first, &second).unwrap();
    // Another blob: all of it is fetched, though all but a file of 2 bytes is known.
    let all = 10 + 2 * 90 + 1;
    assert_eq!(price, Price { chunks: 100, bytes: all, new_chunks: 1, new_bytes: 2 });
}
