//! What is stored already when an image is built, and the blob table that comes of using it.
//!
//! Chunk dictionaries and the chunk store are read whole before the build; the pipeline asks for each chunk. Knows images and blob tables, no files of the new
//! image. Invariants: the table depends on the order of chunks alone, not on threads; it has no more blobs than an image may have: where there is no place for
//! another one, chunks are stored again.

use super::collect::Stored;
use super::{CreateError, Options};
use crate::chunkdict::open_store;
use crate::merge::{self, MAX_BLOBS, v5};
use crate::open::Image;
use chunk_store::{Builder, Dictionary, DictionaryError};
use rafs_format::{Blob, BlobFeatures, BlobId, Chunk, Cipher, Compressor, Digest, SuperFlags, Version};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// What there is before a build.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The image that is built upon.
    pub parent: Option<Image>,
    /// Chunks of all images that are given.
    pub dictionary: Option<Dictionary>,
    /// Blobs of the dictionary that are in the table in any case, since the parent has them.
    of_parent: HashSet<u32>,
    /// How many others there is place for beside the own one.
    room: usize,
}

impl Known {
    /// Reads the dictionaries, the parent and the store of `options`. Of the same chunk in several, that of the first dictionary counts, then that of the parent,
    /// then that of the blob in the store that most images have.
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
        if let Some(path) = &options.chunk_store {
            add_store(&mut builder, path, options)?;
        }
        let any = parent.is_some() || !options.chunk_dicts.is_empty() || options.chunk_store.is_some();
        let dictionary = any.then(|| builder.finish());
        let blobs = parent.as_ref().map(merge::named_blobs).transpose()?.unwrap_or_default();
        let ids: HashSet<BlobId> = blobs.into_iter().map(|blob| blob.id).collect();
        let blobs = dictionary.as_ref().map_or(&[][..], Dictionary::blobs);
        let of_parent = (0..).zip(blobs).filter(|(_, blob)| ids.contains(&blob.id)).map(|(n, _)| n).collect();
        let limit = if options.version == Version::V5 { v5::MAX_BLOBS } else { MAX_BLOBS };
        Ok(Self { parent, dictionary, of_parent, room: limit.saturating_sub(1 + ids.len()) })
    }

    /// Position in the dictionary of the chunk with this digest and size.
    pub fn position(&self, digest: &Digest, size: u32) -> Option<u32> {
        self.dictionary.as_ref()?.position(digest, size)
    }
}

/// Adds the chunks of the store at `path` that the new image can use. A blob that a dictionary describes otherwise is left out.
fn add_store(builder: &mut Builder, path: &Path, options: &Options) -> Result<(), CreateError> {
    let store = open_store(path)?;
    let mut differ = 0;
    store.live_blobs::<CreateError>(&|blob| is_usable(blob, options), &mut |blob, chunks| {
        let chunks = chunks.into_iter().map(|chunk| Chunk { blob: 0, ..chunk });
        match builder.add_known(&[blob], chunks) {
            // Nothing of it was added.
            Err(DictionaryError::Contradiction { .. }) => differ += 1,
            added => {
                added.map_err(|source| CreateError::Known { path: path.to_path_buf(), source })?;
            }
        }
        Ok(())
    })?;
    if differ > 0 {
        tracing::warn!(
            "{differ} blobs of {} are not used: a dictionary describes them otherwise",
            path.display()
        );
    }
    Ok(())
}

/// Can an image like the new one use this blob of whatever image? Not if reading it takes a key.
fn is_usable(blob: &Blob, options: &Options) -> bool {
    // Those of v6 have a chunk table.
    let is_v6 = blob.meta.uncompressed_size > 0;
    let compressed = is_v6 || [Compressor::None, options.compressor].contains(&blob.compressor);
    let alike = (blob.chunk_size, blob.digester) == (options.chunk_size, options.digester);
    alike
        && compressed
        && is_v6 == (options.version == Version::V6)
        && blob.cipher == Cipher::None
        && !blob.features.contains(BlobFeatures::EXTERNAL)
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
    /// Numbers by position in the dictionary; `None` for those whose blobs found no place.
    numbers: HashMap<u32, Option<u32>>,
    /// Blobs that found one, not counting those of the parent.
    blobs: HashSet<u32>,
    /// Chunks that did not.
    pub crowded_out: u64,
    /// Positions in the dictionary.
    positions: Vec<u32>,
    /// How many there were when the image's own blob got its first chunk.
    before_own: Option<usize>,
}

impl Borrowed {
    /// The number of the chunk at this position of the dictionary, which is counted down from the largest: chunks of the own blob are
    /// counted up meanwhile. `None`: its blob finds no place in the table, so it is to be stored again.
    pub(super) fn number(&mut self, position: u32, known: &Known) -> Option<u32> {
        if let Entry::Occupied(number) = self.numbers.entry(position) {
            return *number.get();
        }
        let next = u32::MAX - u32::try_from(self.positions.len()).unwrap_or(u32::MAX);
        let number = self.has_place(position, known).then_some(next);
        self.numbers.insert(position, number);
        match number {
            Some(_) => self.positions.push(position),
            None => self.crowded_out += 1,
        }
        number
    }

    /// Is the blob of a chunk in the table, perhaps from now on?
    fn has_place(&mut self, position: u32, known: &Known) -> bool {
        let chunk = known.dictionary.as_ref().and_then(|dictionary| dictionary.chunk(position));
        let Some(Chunk { blob, .. }) = chunk else { return false };
        if known.of_parent.contains(&blob) || self.blobs.contains(&blob) {
            return true;
        }
        self.blobs.len() < known.room && self.blobs.insert(blob)
    }

    /// Says that the image's own blob gets a chunk.
    pub fn own(&mut self) {
        self.before_own.get_or_insert(self.positions.len());
    }
}

/// Says that not all that was known could be used.
pub(super) fn tell_crowded(stored: &Stored) {
    let count = stored.borrowed.crowded_out;
    if count > 0 {
        tracing::warn!(
            "{count} chunks of other images are stored again: there is no place for more blobs in one image"
        );
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
