//! What is stored already when an image is built, and the blob table that comes of using it.
//!
//! Chunk dictionaries are read whole before the build; the pipeline asks them for each chunk. Knows images and blob tables, no files of the new
//! image. Invariant: the order of the table depends on the order of chunks alone, not on threads.

use super::collect::Stored;
use super::{CreateError, Options};
use crate::merge;
use crate::open::Image;
use chunk_store::{Builder, Dictionary};
use rafs_format::{Blob, BlobId, Chunk, Compressor, SuperFlags, Version};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// What there is before a build.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The image that is built upon.
    pub parent: Option<Image>,
    /// Chunks of all images that are given.
    pub dictionary: Option<Dictionary>,
}

impl Known {
    /// Reads the dictionaries and the parent of `options`. Of the same chunk in several, that of the first dictionary counts, that of the parent last.
    /// Errors: an image that is not built as the new one will be, or that contradicts another.
    pub fn load(options: &Options) -> Result<Self, CreateError> {
        let mut builder = Builder::new(options.digester);
        for path in &options.chunk_dicts {
            let image = Image::open(path)?;
            check_alike(&image, options, true)?;
            let skipped = add(&mut builder, &image)?;
            if skipped > 0 {
                let (path, digester) = (path.display(), options.digester.name());
                tracing::warn!(
                    "{skipped} chunks of {path} are not used: their digests are not by {digester}, or their blobs are elsewhere"
                );
            }
        }
        let parent = options.parent.as_deref().map(Image::open).transpose()?;
        if let Some(parent) = &parent {
            check_alike(parent, options, false)?;
            add(&mut builder, parent)?;
        }
        let any = parent.is_some() || !options.chunk_dicts.is_empty();
        Ok(Self { parent, dictionary: any.then(|| builder.finish()) })
    }
}

/// Adds the chunks of an image. Returns how many cannot be used.
fn add(builder: &mut Builder, image: &Image) -> Result<u64, CreateError> {
    let failed = |source| CreateError::Known { path: image.path().to_path_buf(), source };
    let before = builder.skipped();
    builder.add(image.bootstrap(), &merge::named_blobs(image)?).map_err(failed)?;
    Ok(builder.skipped() - before)
}

/// Refuses an image that cannot be part of the one that is built; with `by_digest`, also one whose chunks it would not find.
fn check_alike(image: &Image, options: &Options, by_digest: bool) -> Result<(), CreateError> {
    let superblock = image.bootstrap().superblock();
    let kind = |tarfs: bool| if tarfs { "a tarfs" } else { "RAFS" }.to_owned();
    let blobs = |external: bool| if external { "external" } else { "native" }.to_owned();
    let owners = |kept: bool| if kept { "kept" } else { "left out" }.to_owned();
    let size = |size: u32| format!("{size:#x}");
    let is_set = |flag| superblock.flags.contains(flag);
    let facts = [
        ("the version", superblock.version.name().to_owned(), options.version.name().to_owned()),
        ("the kind", kind(is_set(SuperFlags::TARFS)), kind(false)),
        ("the kind of its blobs", blobs(image.blobs().iter().any(Blob::is_external)), blobs(false)),
        ("the chunk size", size(superblock.chunk_size), size(options.chunk_size)),
        ("the digester", superblock.digester.name().to_owned(), options.digester.name().to_owned()),
        ("what becomes of owners", owners(is_set(SuperFlags::EXPLICIT_IDS)), owners(true)),
    ];
    let counts = |what: &str| match what {
        "the digester" => by_digest || options.version == Version::V5,
        // Those of a dictionary are left out.
        "the kind of its blobs" => !by_digest,
        _ => true,
    };
    match facts
        .into_iter()
        .chain(coding(image, options))
        .find(|(what, found, expected)| found != expected && counts(what))
    {
        Some((what, found, expected)) => {
            Err(CreateError::Inconsistent { path: image.path().to_path_buf(), what, found, expected })
        }
        None => Ok(()),
    }
}

/// In v5 all blobs of an image are compressed alike, if they are.
fn coding(image: &Image, options: &Options) -> Option<(&'static str, String, String)> {
    let name = |compressor: Compressor| compressor.name().to_owned();
    let found = image.bootstrap().superblock().compressor;
    let counts = options.version == Version::V5 && found != Compressor::None && !image.blobs().is_empty();
    counts.then(|| ("the compression", name(found), name(options.compressor)))
}

/// Chunks of dictionaries that an image uses, in the order of their first use.
#[derive(Debug, Default)]
pub(crate) struct Borrowed {
    /// Numbers by position in the dictionary.
    numbers: HashMap<u32, u32>,
    /// Positions in the dictionary.
    positions: Vec<u32>,
    /// How many there were when the image's own blob got its first chunk.
    before_own: Option<usize>,
}

impl Borrowed {
    /// The number of the chunk at this position of the dictionary, which is counted down from the largest: chunks of the own blob are
    /// counted up meanwhile.
    pub fn number(&mut self, position: u32) -> u32 {
        let next = u32::MAX - u32::try_from(self.positions.len()).unwrap_or(u32::MAX);
        match self.numbers.entry(position) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                self.positions.push(position);
                *new.insert(next)
            }
        }
    }

    /// Says that the image's own blob gets a chunk.
    pub fn own(&mut self) {
        self.before_own.get_or_insert(self.positions.len());
    }
}

/// The blob table of a new image, in which the own blob has a place before all is known of it.
#[derive(Debug, Default)]
pub(super) struct BlobTable {
    /// `None` is the own blob.
    slots: Vec<Option<Blob>>,
}

impl BlobTable {
    /// A table of `blobs`, of which that at `own` is the own one.
    pub fn new(blobs: Vec<Blob>, own: Option<u32>) -> Self {
        let slot = |(at, blob)| Some(blob).filter(|_| Some(at) != own);
        Self { slots: (0..).zip(blobs).map(slot).collect() }
    }

    /// Position of the own blob, if there is one.
    pub fn own(&self) -> Option<usize> {
        self.slots.iter().position(Option::is_none)
    }

    /// The table, with what is known of the own blob by now.
    pub fn with_own(&self, own: Option<&Blob>) -> Vec<Blob> {
        self.slots.iter().filter_map(|slot| slot.as_ref().or(own)).cloned().collect()
    }

    /// For each blob in the order of the table: is it the own one?
    pub fn slots(&self) -> impl Iterator<Item = bool> + '_ {
        self.slots.iter().map(Option::is_none)
    }

    /// Ids in the order of the table; the own one is told.
    pub fn ids(&self, own: Option<&BlobId>) -> Vec<BlobId> {
        let id = |slot: &Option<Blob>| slot.as_ref().map(|blob| blob.id.clone()).or_else(|| own.cloned());
        self.slots.iter().filter_map(id).collect()
    }
}

/// Puts the chunks that `stored` borrowed behind its own ones, and all blobs into one table in the order of their first use.
/// Errors: dictionaries that describe one chunk in two ways.
pub(super) fn join(stored: &mut Stored, dictionary: Option<&Dictionary>) -> Result<BlobTable, CreateError> {
    let borrowed = std::mem::take(&mut stored.borrowed);
    let own_count = u32::try_from(stored.chunks.len()).unwrap_or(u32::MAX);
    let mut table = BlobTable::default();
    let mut slots: HashMap<u32, u32> = HashMap::new();
    let mut own_slot = 0;
    let mut seen: HashMap<(u32, u32), Chunk> = HashMap::new();
    for (n, &position) in (0usize..).zip(&borrowed.positions) {
        if borrowed.before_own == Some(n) {
            own_slot = push(&mut table, None);
        }
        let found = dictionary.and_then(|known| known.chunk(position).map(|chunk| (known, chunk)));
        let Some((known, mut chunk)) = found else { return Err(CreateError::Stopped) };
        let blob = known.blobs().get(chunk.blob as usize).ok_or(CreateError::Stopped)?;
        let first = seen.entry((chunk.blob, chunk.index)).or_insert(chunk);
        if *first != chunk {
            return Err(CreateError::Contradiction { id: blob.id.clone(), index: chunk.index });
        }
        chunk.blob = *slots.entry(chunk.blob).or_insert_with(|| push(&mut table, Some(blob.clone())));
        stored.chunks.push(chunk);
    }
    if borrowed.before_own == Some(borrowed.positions.len()) {
        own_slot = push(&mut table, None);
    }
    let own = stored.chunks.get_mut(..own_count as usize).unwrap_or(&mut []);
    own.iter_mut().for_each(|chunk| chunk.blob = own_slot);
    for position in stored.positions.iter_mut().filter(|position| **position >= own_count) {
        *position = own_count.saturating_add(u32::MAX - *position);
    }
    Ok(table)
}

/// Appends a blob. Returns its position.
fn push(table: &mut BlobTable, blob: Option<Blob>) -> u32 {
    table.slots.push(blob);
    u32::try_from(table.slots.len() - 1).unwrap_or(u32::MAX)
}
