//! The blobs of all layers in one table: which of them are the same, and what each is called.
//!
//! Knows descriptions of blobs, not what is in them. Invariant: one id stands for one description.

use super::{MergeError, Source, digest_of};
use crate::open::Image;
use chunk_store::dictionary::is_same;
use rafs_format::{Blob, BlobFeatures, BlobId, Chunk, Digest};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Blobs in the order in which they were met, each with the layer that had it first.
#[derive(Debug, Default)]
pub(super) struct Table {
    blobs: Vec<(Blob, PathBuf)>,
    by_id: HashMap<BlobId, u32>,
}

impl Table {
    /// Adds the blobs of an image as they are. Returns the position of each.
    pub fn add_image(&mut self, image: &Image) -> Result<Vec<u32>, MergeError> {
        named_blobs(image)?.into_iter().map(|blob| self.add(blob, image.path())).collect()
    }

    /// Adds the blobs of a layer: at most one of its own, besides those of the chunk dictionary.
    pub fn add_layer(
        &mut self,
        image: &Image,
        source: &Source,
        dict: &HashSet<BlobId>,
    ) -> Result<Vec<u32>, MergeError> {
        let path = image.path();
        let count = image.blobs().iter().filter(|blob| !dict.contains(&blob.id)).count();
        if count > 1 {
            return Err(MergeError::SeveralBlobs { path: path.to_path_buf(), count });
        }
        let described = |blob: &Blob| match dict.contains(&blob.id) {
            true => Ok(blob.clone()),
            false => own(blob, source, image.is_inside_blob()),
        };
        image.blobs().iter().map(|blob| self.add(described(blob)?, path)).collect()
    }

    /// Adds a blob unless it is there. Returns its position.
    pub fn add(&mut self, mut blob: Blob, path: &Path) -> Result<u32, MergeError> {
        // From now on its bootstrap is elsewhere, and its id is known.
        blob.features.remove(BlobFeatures::INLINED_FS_META);
        let next = u32::try_from(self.blobs.len())
            .map_err(|_over| MergeError::TooMany { what: "blobs", limit: u32::MAX.into() })?;
        let at = *self.by_id.entry(blob.id.clone()).or_insert(next);
        match self.blobs.get(at as usize) {
            Some((known, other)) if !is_same(known, &blob) => {
                Err(MergeError::Contradiction { id: blob.id, path: path.to_path_buf(), other: other.clone() })
            }
            Some(_) => Ok(at),
            None => {
                self.blobs.push((blob, path.to_path_buf()));
                Ok(at)
            }
        }
    }

    /// The id of the blob at a position, and the layer that had it first.
    pub fn id(&self, at: u32) -> Option<(&BlobId, &Path)> {
        self.blobs.get(at as usize).map(|(blob, path)| (&blob.id, path.as_path()))
    }

    /// All blobs.
    pub fn all(self) -> Vec<Blob> {
        self.blobs.into_iter().map(|(blob, _)| blob).collect()
    }

    /// The blobs that `chunks` lie in, in order of first use; the chunks are changed to match.
    pub fn used_by(self, chunks: &mut [Chunk]) -> Vec<Blob> {
        let mut moved = vec![None; self.blobs.len()];
        let mut used = Vec::new();
        for chunk in chunks {
            let old = chunk.blob as usize;
            let Some((slot, (blob, _))) = moved.get_mut(old).zip(self.blobs.get(old)) else { continue };
            chunk.blob = *slot.get_or_insert_with(|| {
                used.push(blob.clone());
                // No more than there were before.
                u32::try_from(used.len() - 1).unwrap_or(u32::MAX)
            });
        }
        used
    }
}

/// The blobs of an image under the names they are found by. Errors: one that only its file names, which says nothing.
pub(crate) fn named_blobs(image: &Image) -> Result<Vec<Blob>, MergeError> {
    let (source, inside) = (Source::at(image.path()), image.is_inside_blob());
    let named = |blob: &Blob| Ok(Blob { id: own_id(blob, &source, inside)?, ..blob.clone() });
    image.blobs().iter().map(named).collect()
}

/// A layer's own blob, with what its caller knows.
fn own(blob: &Blob, source: &Source, inside: bool) -> Result<Blob, MergeError> {
    let mut blob = blob.clone();
    let known = blob.id.clone();
    let separate = blob.features.contains(BlobFeatures::SEPARATE);
    blob.id = own_id(&blob, source, inside)?;
    if separate {
        // The object of a layer that stays as it was is found by its own id; what the converter wrote holds the metadata.
        blob.meta_digest = source.blob_digest.unwrap_or(blob.meta_digest);
        blob.meta_size = source.blob_size.unwrap_or(blob.meta_size);
    } else {
        blob.compressed_size = source.blob_size.unwrap_or(blob.compressed_size);
    }
    if blob.is_tar() && blob.meta_digest == Digest([0; 32]) && blob.id != known {
        // Under another name it would be unknown what the tar should be.
        blob.meta_digest = known.as_sha256().unwrap_or(blob.meta_digest);
    }
    blob.toc_digest = source.toc_digest.unwrap_or(blob.toc_digest);
    blob.toc_size = source.toc_size.unwrap_or(blob.toc_size);
    Ok(blob)
}

/// What a layer's own blob is called: as its caller says; as its file is called, where the bootstrap comes out of the blob; else as its
/// bootstrap says. A bootstrap that names its blob is believed whatever its file is called.
fn own_id(blob: &Blob, source: &Source, inside: bool) -> Result<BlobId, MergeError> {
    let separate = blob.features.contains(BlobFeatures::SEPARATE);
    if let Some(digest) = source.blob_digest.filter(|_| !separate) {
        return Ok(BlobId::new(&hex::encode(digest.0))?);
    }
    if let Some(id) = &source.original_blob_id {
        return Ok(id.clone());
    }
    if separate || !blob.features.contains(BlobFeatures::INLINED_FS_META) {
        return Ok(blob.id.clone());
    }
    let path = &source.path;
    if is_digest(blob.id.as_str()) && blob.id.as_str() != "x".repeat(64) {
        return Ok(blob.id.clone());
    }
    let failed = |source| MergeError::Read { path: path.clone(), source };
    if !inside {
        return Err(MergeError::NoBlobId { path: path.clone() });
    }
    Ok(BlobId::new(&hex::encode(digest_of(path).map_err(failed)?.0))?)
}

/// Is this a SHA-256 in hex?
fn is_digest(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}
