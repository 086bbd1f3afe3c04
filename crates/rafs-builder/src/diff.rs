//! `nydus-image diff`: what is different in two images, and what fetching the difference costs.
//!
//! Each image is checked, then one pass over both says which directories are different ([`compare`]); from then on only these are looked into, so the
//! work is that of the changes and of the directories on the way to them, not that of the tree. Changes come in the order of a walk: a directory before what is
//! in it, names in byte order. A path that is in both images is *changed*, also where its type is; what is below an added or removed directory is listed too.

use crate::digest::{self, DigestError, Scope};
use crate::open::Image;
use rafs_format::read::DirEntries;
use rafs_format::{Blob, BlobId, Bootstrap, Chunk, Digest, DirEntry, FileType, FormatError, Inode, Nid};
use rafs_merkle::compare::{self, Checked, CompareError, Pair, Pairs};
use rafs_merkle::tree::PathId;
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::io;

/// Why two images could not be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum DiffError {
    #[error("{path}")]
    Image { path: String, source: DigestError },
    #[error("cannot write the result")]
    Output(#[from] io::Error),
}

/// One path that is not the same in both images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<'a> {
    /// Absolute, raw bytes.
    pub path: &'a [u8],
    /// What happened to it.
    pub kind: Kind<'a>,
}

/// What happened to a path from the first image to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// Only the second has it, with this type.
    Added(FileType),
    /// Only the first has it, with this type.
    Removed(FileType),
    /// Both have it, and these are different; in the order of [`Part`], at least one.
    Changed(&'a [Part]),
}

/// A part of a node that users see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Type; then content, target and device are not compared.
    Type,
    /// Permission bits.
    Mode,
    /// User or group.
    Owner,
    /// Modification time.
    Time,
    /// Extended attributes.
    Xattrs,
    /// Bytes of a file.
    Content,
    /// Target of a symbolic link.
    Target,
    /// Number of a device.
    Device,
    /// Which other path it is a hard link to.
    Link,
}

impl Part {
    /// One word, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Time => "time",
            Self::Xattrs => "xattrs",
            Self::Content => "content",
            Self::Target => "target",
            Self::Device => "device",
            Self::Link => "link",
        }
    }
}

/// What a comparison came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Paths only in the second image.
    pub added: u64,
    /// Paths only in the first.
    pub removed: u64,
    /// Paths different in both.
    pub changed: u64,
    /// Nodes read after it was known which directories are different: a path in both images counts once, a directory that was not looked into not at all.
    pub visited: u64,
}

impl Summary {
    /// Are the trees the same?
    pub fn is_same(&self) -> bool {
        self.added == 0 && self.removed == 0 && self.changed == 0
    }
}

/// Compares two images; `each` is told every change. Both are checked on the way, on two threads.
pub fn diff(
    first: &Image,
    second: &Image,
    scope: Scope,
    each: &mut dyn FnMut(&Change<'_>) -> io::Result<()>,
) -> Result<Summary, DiffError> {
    let (one, two) = both_at_once(|| Side::new(first), || Side::new(second));
    let sides = (one?, two?);
    let different = compare::different(&sides.0.checked, &sides.1.checked, scope);
    let different = different.map_err(|error| failed((first, second), error))?;
    let mut diff = Diff {
        sides,
        scope,
        different,
        path: Vec::new(),
        open: Vec::new(),
        pairs: HashMap::new(),
        summary: Summary { added: 0, removed: 0, changed: 0, visited: 0 },
        each,
    };
    if !diff.different.is_empty() {
        diff.run()?;
    }
    Ok(diff.summary)
}

/// Tree digests of two images, on two threads. Nothing that a comparison needs: for who wants to know.
pub fn digests(first: &Image, second: &Image, scope: Scope) -> Result<(Digest, Digest), DiffError> {
    let digest = |image: &Image| {
        let tree = digest::tree(image.bootstrap(), scope).map_err(|source| named(image, source))?;
        Ok::<_, DiffError>(tree.digest)
    };
    let (one, two) = both_at_once(|| digest(first), || digest(second));
    Ok((one?, two?))
}

/// Runs `two` on a thread beside `one`.
fn both_at_once<T: Send>(one: impl FnOnce() -> T, two: impl FnOnce() -> T + Send) -> (T, T) {
    std::thread::scope(|threads| {
        let other = threads.spawn(two);
        let mine = one();
        // A panic there is one here.
        (mine, other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn failed(images: (&Image, &Image), error: CompareError) -> DiffError {
    match error {
        CompareError::First(source) => named(images.0, source.into()),
        CompareError::Second(source) => named(images.1, source.into()),
    }
}

fn named(image: &Image, source: DigestError) -> DiffError {
    DiffError::Image { path: image.path().display().to_string(), source }
}

/// One of the two images.
struct Side<'a> {
    image: &'a Image,
    checked: Checked<'a, Vec<u8>>,
}

impl<'a> Side<'a> {
    fn new(image: &'a Image) -> Result<Self, DiffError> {
        let checked = Checked::new(image.bootstrap());
        Ok(Self { image, checked: checked.map_err(|source| named(image, source))? })
    }

    fn bootstrap(&self) -> &'a Bootstrap<Vec<u8>> {
        self.image.bootstrap()
    }

    fn names(&self, dir: &Inode) -> Result<DirEntries<'a>, DiffError> {
        self.fine(self.bootstrap().dir_entries(dir, 0))
    }

    fn fine<T>(&self, done: Result<T, FormatError>) -> Result<T, DiffError> {
        done.map_err(|source| named(self.image, source.into()))
    }
}

/// A directory that is looked into, in one image or both.
struct Open<'a> {
    names: Pairs<'a>,
    id: PathId,
    /// Length of the path up to here.
    path: usize,
}

struct Diff<'a, 'e> {
    sides: (Side<'a>, Side<'a>),
    scope: Scope,
    /// Directories of both images that are different, as inodes of the first.
    different: HashSet<Nid>,
    path: Vec<u8>,
    open: Vec<Open<'a>>,
    /// What was found of two inodes that both have several names, so that it is found once.
    pairs: HashMap<(Nid, Nid), Vec<Part>>,
    summary: Summary,
    each: &'e mut dyn FnMut(&Change<'_>) -> io::Result<()>,
}

impl<'a> Diff<'a, '_> {
    fn run(&mut self) -> Result<(), DiffError> {
        let roots = (self.sides.0.bootstrap().superblock().root, self.sides.1.bootstrap().superblock().root);
        self.path.push(b'/');
        self.both(roots.0, roots.1, PathId::ROOT)?;
        while let Some(mut dir) = self.open.pop() {
            self.path.truncate(dir.path);
            let images = (self.sides.0.image, self.sides.1.image);
            let Some(pair) = dir.names.step().map_err(|error| failed(images, error))? else { continue };
            let (Pair::First(DirEntry { name, .. })
            | Pair::Second(DirEntry { name, .. })
            | Pair::Both(DirEntry { name, .. }, _)) = pair;
            if self.path.last() != Some(&b'/') {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name);
            let id = dir.id;
            self.open.push(dir);
            match pair {
                Pair::Both(left, right) => self.pair(&left, &right, id)?,
                Pair::First(left) => self.alone(left.nid, true, id)?,
                Pair::Second(right) => self.alone(right.nid, false, id)?,
            }
        }
        Ok(())
    }

    /// A name that both images have.
    fn pair(&mut self, left: &DirEntry<'a>, right: &DirEntry<'a>, dir: PathId) -> Result<(), DiffError> {
        let name = left.name;
        if left.file_type == FileType::Directory && right.file_type == FileType::Directory {
            let is_different = self.different.contains(&left.nid);
            return if is_different { self.both(left.nid, right.nid, dir.join(name)) } else { Ok(()) };
        }
        self.summary.visited += 1;
        let one = self.sides.0.fine(self.sides.0.bootstrap().inode(left.nid))?;
        let two = self.sides.1.fine(self.sides.1.bootstrap().inode(right.nid))?;
        let mut parts = self.parts(&one, &two)?;
        let links = (&self.sides.0.checked, &self.sides.1.checked);
        if links.0.link(one.nid, &dir, name) != links.1.link(two.nid, &dir, name) {
            parts.push(Part::Link);
        }
        self.tell_changed(&parts)?;
        // Where the type changed, one may be a directory. Nothing below it has a partner, so nobody asks for its id.
        let is_directory = |inode: &Inode| inode.file_type == FileType::Directory;
        if is_directory(&one) {
            let names = Pairs::new(Some(self.sides.0.names(&one)?), None);
            self.open.push(Open { names, id: dir, path: self.path.len() });
        } else if is_directory(&two) {
            let names = Pairs::new(None, Some(self.sides.1.names(&two)?));
            self.open.push(Open { names, id: dir, path: self.path.len() });
        }
        Ok(())
    }

    /// A directory that is different in the two images.
    fn both(&mut self, left: Nid, right: Nid, id: PathId) -> Result<(), DiffError> {
        self.summary.visited += 1;
        let one = self.sides.0.fine(self.sides.0.bootstrap().inode(left))?;
        let two = self.sides.1.fine(self.sides.1.bootstrap().inode(right))?;
        let mut parts = Vec::new();
        self.attributes(&one, &two, &mut parts)?;
        self.tell_changed(&parts)?;
        let names = Pairs::new(Some(self.sides.0.names(&one)?), Some(self.sides.1.names(&two)?));
        self.open.push(Open { names, id, path: self.path.len() });
        Ok(())
    }

    /// A name that only one image has.
    fn alone(&mut self, nid: Nid, is_first: bool, dir: PathId) -> Result<(), DiffError> {
        self.summary.visited += 1;
        let side = if is_first { &self.sides.0 } else { &self.sides.1 };
        let inode = side.fine(side.bootstrap().inode(nid))?;
        let kind = if is_first { Kind::Removed(inode.file_type) } else { Kind::Added(inode.file_type) };
        if inode.file_type == FileType::Directory {
            let names = Some(side.names(&inode)?);
            let names = if is_first { Pairs::new(names, None) } else { Pairs::new(None, names) };
            // Nothing below has a partner, so nobody asks for links.
            self.open.push(Open { names, id: dir, path: self.path.len() });
        }
        *(if is_first { &mut self.summary.removed } else { &mut self.summary.added }) += 1;
        Ok((self.each)(&Change { path: &self.path, kind })?)
    }

    fn tell_changed(&mut self, parts: &[Part]) -> Result<(), DiffError> {
        if parts.is_empty() {
            return Ok(());
        }
        self.summary.changed += 1;
        Ok((self.each)(&Change { path: &self.path, kind: Kind::Changed(parts) })?)
    }

    /// What is different in two inodes that are not both directories.
    fn parts(&mut self, one: &Inode, two: &Inode) -> Result<Vec<Part>, DiffError> {
        let both = (one.nid, two.nid);
        if let Some(parts) = self.pairs.get(&both) {
            return Ok(parts.clone());
        }
        let mut parts = Vec::new();
        if one.file_type != two.file_type {
            parts.push(Part::Type);
        }
        self.attributes(one, two, &mut parts)?;
        if one.file_type == two.file_type {
            parts.extend(self.body(one, two)?);
        }
        if one.nlink > 1 && two.nlink > 1 {
            self.pairs.insert(both, parts.clone());
        }
        Ok(parts)
    }

    /// Adds what is different in two inodes besides type, body and links.
    fn attributes(&self, one: &Inode, two: &Inode, parts: &mut Vec<Part>) -> Result<(), DiffError> {
        let time = |inode: &Inode| (inode.mtime_secs, inode.mtime_nanos);
        let different = [
            (Part::Mode, one.mode & 0o7777 != two.mode & 0o7777),
            (Part::Owner, (one.uid, one.gid) != (two.uid, two.gid)),
            (Part::Time, self.scope == Scope::Full && time(one) != time(two)),
            (Part::Xattrs, self.xattrs_differ(one, two)?),
        ];
        parts.extend(different.iter().filter(|(_, different)| *different).map(|(part, _)| *part));
        Ok(())
    }

    fn xattrs_differ(&self, one: &Inode, two: &Inode) -> Result<bool, DiffError> {
        let sorted = |side: &Side<'a>, inode| side.fine(compare::sorted_xattrs(side.bootstrap(), inode));
        Ok(sorted(&self.sides.0, one)? != sorted(&self.sides.1, two)?)
    }

    /// What is different in the bodies of two inodes of one type, no directories.
    fn body(&mut self, one: &Inode, two: &Inode) -> Result<Option<Part>, DiffError> {
        let (first, second) = (&self.sides.0, &self.sides.1);
        Ok(match one.file_type {
            FileType::Regular => self.content_differs(one, two)?.then_some(Part::Content),
            FileType::Symlink => {
                let targets = (
                    first.fine(first.bootstrap().symlink_target(one))?,
                    second.fine(second.bootstrap().symlink_target(two))?,
                );
                (targets.0 != targets.1).then_some(Part::Target)
            }
            FileType::CharDevice | FileType::BlockDevice => (one.rdev != two.rdev).then_some(Part::Device),
            FileType::Fifo | FileType::Socket | FileType::Directory => None,
        })
    }

    fn content_differs(&self, one: &Inode, two: &Inode) -> Result<bool, DiffError> {
        let (first, second) = (&self.sides.0, &self.sides.1);
        let chunks = first.bootstrap().chunk_count(one);
        if one.size != two.size || chunks != second.bootstrap().chunk_count(two) {
            return Ok(true);
        }
        for n in 0..chunks {
            if first.fine(first.checked.chunk(one, n))? != second.fine(second.checked.chunk(two, n))? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What a node that holds one image has to fetch for another, by the chunk tables of both. Bytes are stored bytes; the bootstrap is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Price {
    /// Chunks of the second image that are in no blob of the first.
    pub chunks: u64,
    /// Their bytes: what a node fetches until all of the second image is there.
    pub bytes: u64,
    /// Those of them whose content the first image does not have anywhere.
    pub new_chunks: u64,
    /// Their bytes: what would be fetched if the second image were built with the first as its chunk dictionary.
    pub new_bytes: u64,
}

/// Prices `second` for a node that holds all of `first`. Time and memory are linear in the chunks of both.
pub fn price(first: &Image, second: &Image) -> Result<Price, DiffError> {
    let failed = |image, source: FormatError| named(image, source.into());
    let mut places: HashSet<(&BlobId, u32)> = HashSet::new();
    let mut contents = HashSet::new();
    for_each_chunk(first, &mut |blob, chunk| {
        places.insert((&blob.id, chunk.index));
        contents.insert((blob.digester as u32, chunk.digest));
    })
    .map_err(|source| failed(first, source))?;
    let mut price = Price::default();
    for_each_chunk(second, &mut |blob, chunk| {
        // Each chunk once, though a bad table may have it several times.
        if !places.insert((&blob.id, chunk.index)) {
            return;
        }
        let stored = u64::from(chunk.compressed_size);
        (price.chunks, price.bytes) = (price.chunks + 1, price.bytes + stored);
        if contents.insert((blob.digester as u32, chunk.digest)) {
            (price.new_chunks, price.new_bytes) = (price.new_chunks + 1, price.new_bytes + stored);
        }
    })
    .map_err(|source| failed(second, source))?;
    Ok(price)
}

fn for_each_chunk<'a>(image: &'a Image, each: &mut dyn FnMut(&'a Blob, &Chunk)) -> Result<(), FormatError> {
    for n in 0..image.bootstrap().superblock().chunk_table_records {
        let chunk = image.bootstrap().chunk_record(n)?;
        let blob = usize::try_from(chunk.blob).ok().and_then(|blob| image.blobs().get(blob));
        let none = FormatError::NoSuchChunk { blob: chunk.blob, chunk: chunk.index, block: 0 };
        each(blob.ok_or(none)?, &chunk);
    }
    Ok(())
}
