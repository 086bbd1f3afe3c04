//! Checking a whole bootstrap: every entry reachable from the root is visited once, in time linear in the bootstrap's length
//! whatever it holds: inodes whose bodies overlap, which could be read a million times over, are refused.

use crate::chunk::{CheckedChunks, tar_chunk};
use crate::read::{DirEntries, Reader, require};
use crate::{BlobFeatures, Bootstrap, DirEntry, FileType, FormatError, Inode, Nid, Version, v5};
use std::collections::HashMap;

/// Counts of a checked image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Directory entries, the root included, `.` and `..` not.
    pub entries: u64,
    /// Distinct inodes.
    pub inodes: u64,
    /// Chunk references of all files.
    pub chunk_refs: u64,
    /// Sum of the sizes of distinct regular files.
    pub file_bytes: u64,
}

/// One entry during a walk.
#[derive(Debug)]
pub struct Visit<'a> {
    /// Names from the root down to this entry, the entry's own last; empty for the root.
    pub path: &'a [&'a [u8]],
    /// The entry; `None` for the root.
    pub entry: Option<DirEntry<'a>>,
    /// Its inode.
    pub inode: Inode,
    /// Was this inode visited before under another name?
    pub again: bool,
}

/// Walks the tree in depth-first pre-order and checks all of it: names in order, `.` and `..` right, no directory twice (no
/// cycles), link counts, types of entries against inodes, xattrs, symlink targets, every chunk reference against the chunk table.
/// `visit` sees every entry. Errors: the first thing wrong, or what `visit` returns.
pub fn check<'a, B: AsRef<[u8]>, E: From<FormatError>>(
    bootstrap: &'a Bootstrap<B>,
    visit: &mut dyn FnMut(&Visit<'_>) -> Result<(), E>,
) -> Result<Summary, E> {
    let root = bootstrap.inode(bootstrap.superblock().root)?;
    if root.file_type != FileType::Directory {
        let (found, expected) = (root.file_type.name(), FileType::Directory.name());
        return Err(FormatError::WrongType { nid: root.nid.0, found, expected }.into());
    }
    let mut walk = Walk::new(bootstrap)?;
    let mut path: Vec<&'a [u8]> = Vec::new();
    walk.enter(&root)?;
    visit(&Visit { path: &path, entry: None, inode: root, again: false })?;
    let mut open = vec![Open::new(bootstrap, root, root.nid)?];
    while let Some(dir) = open.last_mut() {
        let Some(entry) = dir.next()? else {
            dir.finish()?;
            open.pop();
            path.pop();
            continue;
        };
        let inode = bootstrap.inode(entry.nid)?;
        let same = inode.file_type == entry.file_type;
        require(
            same,
            "type of a directory entry",
            entry.nid.0,
            entry.file_type as u64,
            "the type of its inode",
        )?;
        let again = walk.enter(&inode)?;
        path.push(entry.name);
        let depth = path.len() as u64;
        require(
            depth <= MAX_DEPTH,
            "depth of an inode",
            inode.nid.0,
            depth,
            "at most 4096 names from the root",
        )?;
        visit(&Visit { path: &path, entry: Some(entry), inode, again })?;
        if inode.file_type == FileType::Directory {
            let parent = dir.inode.nid;
            dir.directories += 1;
            open.push(Open::new(bootstrap, inode, parent)?);
        } else {
            path.pop();
        }
    }
    Ok(walk.finish()?)
}

/// Most names from the root to an entry: paths of Linux have 4095 bytes. Without a limit, visitors that put paths together would take time
/// quadratic in the size of an image made for that.
const MAX_DEPTH: u64 = 4096;

/// A directory being walked.
struct Open<'a> {
    inode: Inode,
    parent: Nid,
    entries: DirEntries<'a>,
    last: Option<&'a [u8]>,
    /// `.` and `..` seen.
    dots: u32,
    directories: u32,
}

impl<'a> Open<'a> {
    fn new<B: AsRef<[u8]>>(
        bootstrap: &'a Bootstrap<B>,
        inode: Inode,
        parent: Nid,
    ) -> Result<Self, FormatError> {
        let entries = bootstrap.dir_entries(&inode, 0)?;
        Ok(Self { inode, parent, entries, last: None, dots: 0, directories: 0 })
    }

    /// The next entry but `.` and `..`, its name checked to be behind the one before.
    fn next(&mut self) -> Result<Option<DirEntry<'a>>, FormatError> {
        for entry in self.entries.by_ref() {
            let entry = entry?;
            if self.last.is_some_and(|last| last >= entry.name) {
                let name = String::from_utf8_lossy(entry.name).into_owned();
                return Err(FormatError::Name {
                    what: "directory entry",
                    name,
                    problem: "is not in byte order",
                });
            }
            self.last = Some(entry.name);
            let expected = match entry.name {
                b"." => self.inode.nid,
                b".." => self.parent,
                _ => return Ok(Some(entry)),
            };
            let nid = entry.nid;
            require(
                nid == expected,
                "inode of . or ..",
                self.inode.nid.0,
                nid.0,
                "the directory or its parent",
            )?;
            self.dots += 1;
        }
        Ok(None)
    }

    /// Checks what is known only at the end: `.` and `..` were there, and the link count.
    fn finish(&self) -> Result<(), FormatError> {
        let Inode { nid, nlink, .. } = self.inode;
        require(self.dots == 2, "number of . and .. in a directory", nid.0, self.dots.into(), "2")?;
        let good = nlink == self.directories.saturating_add(2);
        require(good, "link count of a directory", nid.0, nlink.into(), "2 and one for each directory in it")
    }
}

/// Sets a bit and returns what it was; `None` where there is none.
fn mark(bits: &mut [u64], at: u64) -> Option<bool> {
    let word = usize::try_from(at / 64).ok().and_then(|word| bits.get_mut(word))?;
    let bit = 1 << (at % 64);
    let was = *word & bit != 0;
    *word |= bit;
    Some(was)
}

/// What is known of the tree so far. Memory: one bit for every 32 bytes of the bootstrap, and the hard-linked inodes.
struct Walk<'a, B> {
    bootstrap: &'a Bootstrap<B>,
    /// `None` in a tarfs, which has no chunk records.
    chunks: Option<CheckedChunks>,
    seen: Vec<u64>,
    /// Positions of the inode table of v5 that are in some directory.
    claimed: Vec<u64>,
    /// Bytes of the bootstrap that inodes met so far have not taken. No two share any, so it lasts for all of a sound image.
    room: u64,
    /// Links not yet met.
    links: HashMap<u64, u32>,
    summary: Summary,
}

impl<'a, B: AsRef<[u8]>> Walk<'a, B> {
    fn new(bootstrap: &'a Bootstrap<B>) -> Result<Self, FormatError> {
        let chunks = if bootstrap.is_tarfs() { None } else { Some(CheckedChunks::new(bootstrap)?) };
        let seen = vec![0; bootstrap.bytes().len() / (32 * 64) + 1];
        let mut claimed = Vec::new();
        if let Reader::V5(reader) = bootstrap.reader() {
            reader.check_links()?;
            claimed.clone_from(&seen);
        }
        let room = bootstrap.bytes().len() as u64;
        let (links, summary) = (HashMap::new(), Summary::default());
        Ok(Self { bootstrap, chunks, seen, claimed, room, links, summary })
    }

    /// Counts an entry and checks its inode unless it was met before. `true`: it was.
    fn enter(&mut self, inode: &Inode) -> Result<bool, FormatError> {
        self.summary.entries += 1;
        let again = self.mark(inode.nid);
        if again {
            let left = self.links.get_mut(&inode.nid.0).filter(|left| **left > 0);
            let left = left.ok_or(FormatError::Value {
                what: "link count of an inode",
                at: inode.nid.0,
                found: inode.nlink.into(),
                expected: "one for each of its names, and one name for a directory",
            })?;
            *left -= 1;
            return Ok(true);
        }
        self.check_inode(inode)?;
        Ok(false)
    }

    /// Marks an inode as seen. `true`: it was already.
    fn mark(&mut self, nid: Nid) -> bool {
        // An inode that was read lies within the file, so its number has a bit.
        mark(&mut self.seen, nid.0).unwrap_or(true)
    }

    fn check_inode(&mut self, inode: &Inode) -> Result<(), FormatError> {
        self.summary.inodes += 1;
        let size = self.bootstrap.extent(inode);
        self.room = self.room.checked_sub(size).ok_or(FormatError::OutOfBounds {
            what: "inodes overlap: the sum of their sizes",
            start: self.bootstrap.bytes().len() as u64 - self.room,
            size,
            limit: self.bootstrap.bytes().len() as u64,
        })?;
        require(inode.nlink > 0, "link count of an inode", inode.nid.0, 0, "at least 1")?;
        if inode.nlink > 1 && inode.file_type != FileType::Directory {
            self.links.insert(inode.nid.0, inode.nlink - 1);
        }
        for xattr in self.bootstrap.xattrs(inode)? {
            xattr?;
        }
        match inode.file_type {
            FileType::Symlink => self.bootstrap.symlink_target(inode).map(|_| ()),
            FileType::Regular => self.check_chunks(inode),
            FileType::Directory => self.claim(inode),
            _ => Ok(()),
        }
    }

    /// Takes the children of a v5 directory for it alone. They are not stored in the directory, so that many could have the same ones, and
    /// an image could have many more names than bytes.
    fn claim(&mut self, dir: &Inode) -> Result<(), FormatError> {
        let Reader::V5(reader) = self.bootstrap.reader() else { return Ok(()) };
        let (first, end) = v5::Reader::children(dir);
        for position in first..end {
            let expected = "children that are in no other directory";
            require(
                mark(&mut self.claimed, position.into()) == Some(false),
                "first child of a directory",
                dir.nid.0,
                position.into(),
                expected,
            )?;
            reader.check_parent(position, dir.nid)?;
        }
        Ok(())
    }

    /// Is the `n`-th chunk of a file in a dictionary? Its one file has a place for a whole chunk for each of its chunks, of whatever size they are.
    fn is_dictionary(&self, inode: &Inode, n: u64) -> Result<bool, FormatError> {
        let blob = self.bootstrap.chunk_ref(inode, n)?.blob as usize;
        let features = self.bootstrap.blobs().get(blob).map(|blob| blob.features);
        Ok(features.is_some_and(|features| features.contains(BlobFeatures::CHUNKDICT_GENERATED)))
    }

    fn check_chunks(&mut self, inode: &Inode) -> Result<(), FormatError> {
        let count = self.bootstrap.chunk_count(inode);
        self.summary.chunk_refs += count;
        self.summary.file_bytes = self.summary.file_bytes.saturating_add(inode.size);
        let chunk_size = u64::from(self.bootstrap.superblock().chunk_size);
        for n in 0..count {
            let Some(chunks) = &mut self.chunks else {
                tar_chunk(self.bootstrap, inode, n, self.bootstrap.chunk_ref(inode, n)?)?;
                continue;
            };
            let size = u64::from(chunks.size_in(self.bootstrap, inode, n)?);
            let expected = (inode.size - n * chunk_size).min(chunk_size);
            require(
                size == expected || (size < expected && self.is_dictionary(inode, n)?),
                "size of a chunk of an inode",
                inode.nid.0,
                size,
                "what the file needs there",
            )?;
        }
        Ok(())
    }

    fn finish(self) -> Result<Summary, FormatError> {
        let missing = self.links.iter().find(|(_, left)| **left > 0);
        if let Some((&nid, &left)) = missing {
            let expected = "a name for each link";
            return Err(FormatError::Value {
                what: "links without a name of an inode",
                at: nid,
                found: left.into(),
                expected,
            });
        }
        let stated = self.bootstrap.superblock().entries;
        let at = match self.bootstrap.superblock().version {
            Version::V5 => 56,
            Version::V6 => 1040,
        };
        let good = stated == self.summary.entries;
        require(
            good,
            "number of entries",
            at,
            stated,
            "the number of names in all directories and 1 for the root",
        )?;
        Ok(self.summary)
    }
}
