//! Which chunks are fetched early, and in which order: those of the recorded profile, those of the files that somebody listed, all others.
//!
//! Each chunk comes once, whoever names it how often. Nothing is kept but a bit for each chunk and each inode, so the plan of a large image is made as it is
//! carried out. What names nothing that there is, is counted and skipped.

use super::find::find;
use super::{Files, What};
use crate::chunk_set::ChunkSet;
use crate::data::Data;
use crate::profile::Profile;
use crate::{Rafs, VfsError};
use rafs_format::{Chunk, FileType, Inode, Nid};
use std::collections::HashMap;
use std::ops::ControlFlow;

/// Missing paths that are named. The rest is counted.
const NAMED: usize = 10;

/// Why a chunk is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The recorded profile names it.
    Profile,
    /// It is of a file that the image or the operator lists.
    Files,
    /// It is there.
    All,
}

/// `Break`: no more is wanted.
pub(super) type Flow = ControlFlow<()>;
/// Takes chunks in their order.
pub(super) type Sink<'a> = &'a mut dyn FnMut(Stage, &Chunk) -> Flow;

/// What a plan names that the image does not have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Unknown {
    /// Chunks of the profile.
    pub(super) chunks: u64,
    /// Paths.
    pub(super) paths: u64,
    /// The first of them.
    pub(super) first: Vec<Vec<u8>>,
}

/// Gives the chunks of `what` to `sink` until that has enough. Errors: chunks that contradict each other.
pub(super) fn visit(rafs: &Rafs, what: &What, sink: Sink<'_>) -> Result<Unknown, VfsError> {
    let seen = ChunkSet::new(rafs.bootstrap.blobs()).ok();
    let mut plan =
        Plan { rafs, data: rafs.data()?, seen, inodes: Vec::new(), sink, unknown: Unknown::default() };
    let _whether_it_had_enough = plan.run(what);
    Ok(plan.unknown)
}

struct Plan<'a> {
    rafs: &'a Rafs,
    data: &'a Data,
    /// `None` for images of so many chunks that they are not noted: some may come more than once.
    seen: Option<ChunkSet>,
    /// A bit for each inode that was visited, by number. Numbers are places in the bootstrap, so there are no more than it has bytes.
    inodes: Vec<u64>,
    sink: Sink<'a>,
    unknown: Unknown,
}

impl Plan<'_> {
    fn run(&mut self, what: &What) -> Flow {
        if let Some(profile) = &what.profile {
            self.profile(profile)?;
        }
        let all = match &what.files {
            Files::None => false,
            Files::Table => self.table()?,
            Files::Listed(paths) => self.paths(paths)?,
        };
        if all || what.all { self.all() } else { Flow::Continue(()) }
    }

    fn take(&mut self, stage: Stage, chunk: &Chunk) -> Flow {
        // In a tar the number of a chunk says nothing.
        let numbered = self.seen.as_ref().filter(|_| !self.rafs.bootstrap.is_tarfs());
        match numbered {
            Some(seen) if !seen.insert(chunk.blob, chunk.index) => Flow::Continue(()),
            _ => (self.sink)(stage, chunk),
        }
    }

    fn profile(&mut self, profile: &Profile) -> Flow {
        let named = self.rafs.named_blobs();
        let known: HashMap<_, _> = named.iter().map(|blob| blob.id.as_str()).zip(&self.data.views).collect();
        for run in &profile.runs {
            let id = profile.blobs.get(usize::from(run.blob));
            let view = id.and_then(|id| known.get(id.as_str()));
            for number in (run.chunk..).take(run.count.into()) {
                let chunk = view.and_then(|view| view.chunks.at_or_after(number));
                match chunk.filter(|chunk| chunk.index == number) {
                    Some(chunk) => self.take(Stage::Profile, &chunk)?,
                    None => self.unknown.chunks += 1,
                }
            }
        }
        Flow::Continue(())
    }

    /// What the image itself lists. `true`: that is everything.
    fn table(&mut self) -> ControlFlow<(), bool> {
        self.ranges()?;
        let nids: Vec<_> = self.rafs.bootstrap.prefetch().collect();
        if nids.contains(&self.rafs.root()) {
            return ControlFlow::Continue(true);
        }
        self.inodes(nids)?;
        ControlFlow::Continue(false)
    }

    /// What builders of v5 images want read ahead of each blob.
    fn ranges(&mut self) -> Flow {
        for (at, view) in self.data.views.iter().enumerate() {
            let range = self.rafs.bootstrap.readahead(at);
            let is_inside = |chunk: &Chunk| {
                let end = chunk.compressed_offset.saturating_add(chunk.compressed_size.into());
                chunk.compressed_offset < range.end && end > range.start
            };
            let chunks = if range.is_empty() { None } else { Some(view.chunks_from(0)) };
            for chunk in chunks.into_iter().flatten().filter(is_inside) {
                self.take(Stage::Files, &chunk)?;
            }
        }
        Flow::Continue(())
    }

    /// What was listed. `true`: that is everything, or everything among other things.
    fn paths(&mut self, paths: &[Vec<u8>]) -> ControlFlow<(), bool> {
        let mut all = false;
        for path in paths {
            match find(&self.rafs.bootstrap, path).ok().flatten() {
                Some(inode) if inode.nid == self.rafs.root() => all = true,
                Some(inode) => self.inodes(vec![inode.nid])?,
                None => {
                    self.unknown.paths += 1;
                    if self.unknown.first.len() < NAMED {
                        self.unknown.first.push(path.clone());
                    }
                }
            }
        }
        ControlFlow::Continue(all)
    }

    /// Files, and what is in directories, depth first and in the order of names. What is damaged is skipped: who reads it is told.
    fn inodes(&mut self, mut nids: Vec<Nid>) -> Flow {
        nids.reverse();
        while let Some(nid) = nids.pop() {
            let Ok(inode) = self.rafs.bootstrap.inode(nid) else { continue };
            match inode.file_type {
                _ if !self.is_new(nid) => {}
                FileType::Regular => self.file(&inode)?,
                FileType::Directory => {
                    let first = nids.len();
                    let entries = self.rafs.bootstrap.dir_entries(&inode, 0).into_iter().flatten();
                    let below =
                        entries.map_while(Result::ok).filter(|entry| !matches!(entry.name, b"." | b".."));
                    nids.extend(below.map(|entry| entry.nid));
                    nids.get_mut(first..).unwrap_or_default().reverse();
                }
                _ => {}
            }
        }
        Flow::Continue(())
    }

    /// Notes a valid inode. `false`: it was there before, by another name.
    fn is_new(&mut self, nid: Nid) -> bool {
        let Ok(at) = usize::try_from(nid.0 / 64) else { return false };
        if self.inodes.len() <= at {
            self.inodes.resize(at + 1, 0);
        }
        let Some(word) = self.inodes.get_mut(at) else { return false };
        let bit = 1 << (nid.0 % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    fn file(&mut self, file: &Inode) -> Flow {
        let data = self.data;
        for n in 0..self.rafs.bootstrap.chunk_count(file) {
            if let Ok(chunk) = data.chunks.index.chunk(&self.rafs.bootstrap, file, n) {
                self.take(Stage::Files, &chunk)?;
            }
        }
        Flow::Continue(())
    }

    /// All chunks, blob by blob in the order of their numbers; of tars, which have none, file by file.
    fn all(&mut self) -> Flow {
        if self.rafs.bootstrap.is_tarfs() {
            return self.inodes(vec![self.rafs.root()]);
        }
        let data = self.data;
        for chunk in data.views.iter().flat_map(|view| view.chunks_from(0)) {
            self.take(Stage::All, &chunk)?;
        }
        Flow::Continue(())
    }
}
