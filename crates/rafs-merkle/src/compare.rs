//! Which directories of two images are different, without hashing what is in them.
//!
//! Digests of directories say the same (two directories have one digest if and only if they are not different here), but cost hashing every node of both
//! images. Both trees are gone through in step instead, and nodes compared with their partners of the same path: attributes, and digests of chunks as the images
//! hold them. Only ids of paths are hashed, for inodes with several names. Time is linear in both bootstraps.

use crate::contents::Contents;
use crate::image::DigestError;
use crate::tree::{Attributes, PathId, Scope};
use rafs_format::check::{self, Visit};
use rafs_format::read::DirEntries;
use rafs_format::{Bootstrap, Digest, DigestAlgorithm, DirEntry, FileType, FormatError, Inode, Nid};
use std::collections::{HashMap, HashSet};

/// An image that was checked, with what comparing it to another one takes.
#[derive(Debug)]
pub struct Checked<'a, B> {
    bootstrap: &'a Bootstrap<B>,
    contents: Contents<'a, B>,
    /// First paths of the inodes that have several names.
    links: HashMap<Nid, PathId>,
}

impl<'a, B: AsRef<[u8]>> Checked<'a, B> {
    /// Checks a whole image like [`check::check`]. Errors: the first thing wrong; chunks without digests.
    pub fn new(bootstrap: &'a Bootstrap<B>) -> Result<Self, DigestError> {
        let contents = Contents::new(bootstrap)?;
        let mut links = Links { first: HashMap::new(), open: vec![PathId::ROOT] };
        check::check(bootstrap, &mut |visit| {
            links.visit(visit);
            Ok::<_, FormatError>(())
        })?;
        Ok(Self { bootstrap, contents, links: links.first })
    }

    /// The image.
    pub fn bootstrap(&self) -> &'a Bootstrap<B> {
        self.bootstrap
    }

    /// The first path of an inode where `name` in the directory `dir` is a further one.
    pub fn link(&self, nid: Nid, dir: &PathId, name: &[u8]) -> Option<PathId> {
        let first = self.links.get(&nid)?;
        (*first != dir.join(name)).then_some(*first)
    }

    /// Digest of the `n`-th chunk of a file, and by what it is.
    pub fn chunk(&self, file: &Inode, n: u64) -> Result<(DigestAlgorithm, Digest), FormatError> {
        self.contents.chunk(file, n)
    }
}

/// First paths of inodes with several names, as a walk in pre-order meets them.
struct Links {
    first: HashMap<Nid, PathId>,
    /// Ids of the directories that the walk is in, the root first.
    open: Vec<PathId>,
}

impl Links {
    fn visit(&mut self, visit: &Visit<'_>) {
        let Some((name, above)) = visit.path.split_last() else { return };
        let inode = &visit.inode;
        let is_directory = inode.file_type == FileType::Directory;
        if visit.again || (!is_directory && inode.nlink < 2) {
            return;
        }
        self.open.truncate(above.len() + 1);
        let id = self.open.last().unwrap_or(&PathId::ROOT).join(name);
        if is_directory {
            self.open.push(id);
        } else {
            self.first.insert(inode.nid, id);
        }
    }
}

/// An image contradicts its own check, which only a bug does.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum CompareError {
    #[error("the first image")]
    First(#[source] FormatError),
    #[error("the second image")]
    Second(#[source] FormatError),
}

/// A name of one or both of two directories.
#[derive(Debug, Clone, Copy)]
pub enum Pair<'a> {
    /// Only in the first.
    First(DirEntry<'a>),
    /// Only in the second.
    Second(DirEntry<'a>),
    /// In both.
    Both(DirEntry<'a>, DirEntry<'a>),
}

/// The names of two directories in step, in byte order, without `.` and `..`. One of the two may be missing.
#[derive(Debug)]
pub struct Pairs<'a> {
    first: Names<'a>,
    second: Names<'a>,
}

impl<'a> Pairs<'a> {
    /// Goes through these.
    pub fn new(first: Option<DirEntries<'a>>, second: Option<DirEntries<'a>>) -> Self {
        let names = |entries| Names { entries, next: None };
        Self { first: names(first), second: names(second) }
    }

    /// The next name; `None` at the end.
    pub fn step(&mut self) -> Result<Option<Pair<'a>>, CompareError> {
        let first = self.first.peek().map_err(CompareError::First)?;
        let second = self.second.peek().map_err(CompareError::Second)?;
        let pair = match (first, second) {
            (None, None) => return Ok(None),
            (Some(one), None) => Pair::First(one),
            (None, Some(two)) => Pair::Second(two),
            (Some(one), Some(two)) => match one.name.cmp(two.name) {
                std::cmp::Ordering::Less => Pair::First(one),
                std::cmp::Ordering::Greater => Pair::Second(two),
                std::cmp::Ordering::Equal => Pair::Both(one, two),
            },
        };
        if !matches!(pair, Pair::Second(_)) {
            self.first.next = None;
        }
        if !matches!(pair, Pair::First(_)) {
            self.second.next = None;
        }
        Ok(Some(pair))
    }
}

/// The names in a directory, one of which can be looked at before it is taken.
#[derive(Debug)]
struct Names<'a> {
    entries: Option<DirEntries<'a>>,
    next: Option<DirEntry<'a>>,
}

impl<'a> Names<'a> {
    #[inline]
    fn peek(&mut self) -> Result<Option<DirEntry<'a>>, FormatError> {
        while self.next.is_none() {
            match self.entries.as_mut().and_then(Iterator::next).transpose()? {
                Some(entry) if matches!(entry.name, b"." | b"..") => {}
                Some(entry) => self.next = Some(entry),
                None => break,
            }
        }
        Ok(self.next)
    }
}

/// The directories that both images have and that are different in anything, or in anything below them, as inodes of the first image.
pub fn different<B: AsRef<[u8]>>(
    first: &Checked<'_, B>,
    second: &Checked<'_, B>,
    scope: Scope,
) -> Result<HashSet<Nid>, CompareError> {
    if first.bootstrap.bytes() == second.bootstrap.bytes() {
        return Ok(HashSet::new());
    }
    let mut comparison = Comparison {
        first,
        second,
        scope,
        open: Vec::new(),
        pairs: HashMap::new(),
        different: HashSet::new(),
    };
    comparison.run()?;
    Ok(comparison.different)
}

/// A directory of both images that is gone through.
struct Open<'a> {
    names: Pairs<'a>,
    /// Its inode in the first image.
    nid: Nid,
    id: PathId,
    is_same: bool,
}

struct Comparison<'a, B> {
    first: &'a Checked<'a, B>,
    second: &'a Checked<'a, B>,
    scope: Scope,
    open: Vec<Open<'a>>,
    /// Are two inodes that both have several names the same? So that long files with many names are compared once.
    pairs: HashMap<(Nid, Nid), bool>,
    different: HashSet<Nid>,
}

impl<B: AsRef<[u8]>> Comparison<'_, B> {
    fn run(&mut self) -> Result<(), CompareError> {
        let roots = (self.first.bootstrap.superblock().root, self.second.bootstrap.superblock().root);
        self.enter(roots.0, roots.1, PathId::ROOT)?;
        while let Some(dir) = self.open.last_mut() {
            match dir.names.step()? {
                Some(Pair::Both(one, two)) => self.pair(&one, &two)?,
                Some(_) => dir.is_same = false,
                None => self.leave(),
            }
        }
        Ok(())
    }

    /// Opens a directory that both images have.
    fn enter(&mut self, one: Nid, two: Nid, id: PathId) -> Result<(), CompareError> {
        let (one, two) = self.inodes(one, two)?;
        let names = Pairs::new(
            Some(self.first.bootstrap.dir_entries(&one, 0).map_err(CompareError::First)?),
            Some(self.second.bootstrap.dir_entries(&two, 0).map_err(CompareError::Second)?),
        );
        let is_same = self.is_same_head(&one, &two)?;
        self.open.push(Open { names, nid: one.nid, id, is_same });
        Ok(())
    }

    /// Closes the directory opened last.
    fn leave(&mut self) {
        let Some(dir) = self.open.pop().filter(|dir| !dir.is_same) else { return };
        self.different.insert(dir.nid);
        if let Some(parent) = self.open.last_mut() {
            parent.is_same = false;
        }
    }

    /// A name that both images have in the directory opened last.
    fn pair(&mut self, one: &DirEntry<'_>, two: &DirEntry<'_>) -> Result<(), CompareError> {
        let Some(dir) = self.open.last() else { return Ok(()) };
        let (id, known) = (dir.id, !dir.is_same);
        // The check has compared types of entries with those of inodes.
        if one.file_type == FileType::Directory && two.file_type == FileType::Directory {
            return self.enter(one.nid, two.nid, id.join(one.name));
        }
        let is_same = !known
            && one.file_type == two.file_type
            && self.is_same_node(one.nid, two.nid)?
            && self.first.link(one.nid, &id, one.name) == self.second.link(two.nid, &id, one.name);
        if let Some(dir) = self.open.last_mut().filter(|_| !is_same) {
            dir.is_same = false;
        }
        Ok(())
    }

    fn inodes(&self, one: Nid, two: Nid) -> Result<(Inode, Inode), CompareError> {
        let one = self.first.bootstrap.inode(one).map_err(CompareError::First)?;
        let two = self.second.bootstrap.inode(two).map_err(CompareError::Second)?;
        Ok((one, two))
    }

    /// Are two inodes of one type, no directories, the same?
    fn is_same_node(&mut self, one: Nid, two: Nid) -> Result<bool, CompareError> {
        if let Some(&known) = self.pairs.get(&(one, two)) {
            return Ok(known);
        }
        let (one, two) = self.inodes(one, two)?;
        let is_same = self.is_same_head(&one, &two)? && self.is_same_body(&one, &two)?;
        if one.nlink > 1 && two.nlink > 1 {
            self.pairs.insert((one.nid, two.nid), is_same);
        }
        Ok(is_same)
    }

    /// Are attributes the same, extended ones among them?
    fn is_same_head(&self, one: &Inode, two: &Inode) -> Result<bool, CompareError> {
        let seen = |inode: &Inode| match self.scope {
            Scope::Full => Attributes::from(inode),
            Scope::Content => Attributes { mtime_secs: 0, mtime_nanos: 0, ..Attributes::from(inode) },
        };
        if seen(one) != seen(two) {
            return Ok(false);
        }
        let one = sorted_xattrs(self.first.bootstrap, one).map_err(CompareError::First)?;
        let two = sorted_xattrs(self.second.bootstrap, two).map_err(CompareError::Second)?;
        Ok(one == two)
    }

    fn is_same_body(&self, one: &Inode, two: &Inode) -> Result<bool, CompareError> {
        let (first, second) = (self.first.bootstrap, self.second.bootstrap);
        Ok(match one.file_type {
            FileType::Regular => self.is_same_content(one, two)?,
            FileType::Symlink => {
                let target = first.symlink_target(one).map_err(CompareError::First)?;
                target == second.symlink_target(two).map_err(CompareError::Second)?
            }
            FileType::CharDevice | FileType::BlockDevice => {
                (one.major(), one.minor()) == (two.major(), two.minor())
            }
            FileType::Fifo | FileType::Socket | FileType::Directory => true,
        })
    }

    fn is_same_content(&self, one: &Inode, two: &Inode) -> Result<bool, CompareError> {
        let count = self.first.bootstrap.chunk_count(one);
        if one.size != two.size || count != self.second.bootstrap.chunk_count(two) {
            return Ok(false);
        }
        for n in 0..count {
            let chunk = self.first.chunk(one, n).map_err(CompareError::First)?;
            if chunk != self.second.chunk(two, n).map_err(CompareError::Second)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Full name and value of an extended attribute.
pub type NamedXattr<'a> = (Vec<u8>, &'a [u8]);

/// Extended attributes by full name, then value: two inodes have the same ones where these are equal.
pub fn sorted_xattrs<'a, B: AsRef<[u8]>>(
    bootstrap: &'a Bootstrap<B>,
    inode: &Inode,
) -> Result<Vec<NamedXattr<'a>>, FormatError> {
    let pairs = bootstrap.xattrs(inode)?.map(|xattr| {
        let xattr = xattr?;
        Ok(([xattr.prefix.as_bytes(), xattr.suffix].concat(), xattr.value))
    });
    let mut pairs = pairs.collect::<Result<Vec<_>, _>>()?;
    pairs.sort_unstable();
    Ok(pairs)
}
