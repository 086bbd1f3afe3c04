//! Checking a whole bootstrap: every entry reachable from the root is visited once, in time linear in the bootstrap's length
//! whatever it holds: inodes whose bodies overlap, which could be read a million times over, are refused.

use crate::chunk::CheckedChunks;
use crate::read::{DirEntries, require};
use crate::{Bootstrap, DirEntry, FileType, FormatError, Inode, Nid, SuperFlags};
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
struct Open<'a, B> {
    inode: Inode,
    parent: Nid,
    entries: DirEntries<'a, B>,
    last: Option<&'a [u8]>,
    /// `.` and `..` seen.
    dots: u32,
    directories: u32,
}

impl<'a, B: AsRef<[u8]>> Open<'a, B> {
    fn new(bootstrap: &'a Bootstrap<B>, inode: Inode, parent: Nid) -> Result<Self, FormatError> {
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

/// What is known of the tree so far. Memory: one bit for every 32 bytes of the bootstrap, and the hard-linked inodes.
struct Walk<'a, B> {
    bootstrap: &'a Bootstrap<B>,
    /// `None` in a tarfs, which has no chunk records.
    chunks: Option<CheckedChunks>,
    seen: Vec<u64>,
    /// Bytes of the bootstrap that inodes met so far have not taken. No two share any, so it lasts for all of a sound image.
    room: u64,
    /// Links not yet met.
    links: HashMap<u64, u32>,
    summary: Summary,
}

impl<'a, B: AsRef<[u8]>> Walk<'a, B> {
    fn new(bootstrap: &'a Bootstrap<B>) -> Result<Self, FormatError> {
        let tarfs = bootstrap.superblock().flags.contains(SuperFlags::TARFS);
        let chunks = if tarfs { None } else { Some(CheckedChunks::new(bootstrap)?) };
        let seen = vec![0; bootstrap.bytes().len() / (32 * 64) + 1];
        let room = bootstrap.bytes().len() as u64;
        Ok(Self { bootstrap, chunks, seen, room, links: HashMap::new(), summary: Summary::default() })
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
        let (word, bit) = (nid.0 / 64, 1 << (nid.0 % 64));
        // An inode that was read lies within the file, so its number has a bit.
        let Some(word) = usize::try_from(word).ok().and_then(|word| self.seen.get_mut(word)) else {
            return true;
        };
        let was = *word & bit != 0;
        *word |= bit;
        was
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
            _ => Ok(()),
        }
    }

    fn check_chunks(&mut self, inode: &Inode) -> Result<(), FormatError> {
        let count = self.bootstrap.chunk_count(inode);
        self.summary.chunk_refs += count;
        self.summary.file_bytes = self.summary.file_bytes.saturating_add(inode.size);
        let chunk_size = u64::from(self.bootstrap.superblock().chunk_size);
        for n in 0..count {
            let reference = self.bootstrap.chunk_ref(inode, n)?;
            let Some(chunks) = &mut self.chunks else { continue };
            let size = u64::from(chunks.size(reference)?);
            let expected = (inode.size - n * chunk_size).min(chunk_size);
            require(
                size == expected,
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
        let good = stated == self.summary.entries;
        require(
            good,
            "number of entries",
            1040,
            stated,
            "the number of names in all directories and 1 for the root",
        )?;
        Ok(self.summary)
    }
}
