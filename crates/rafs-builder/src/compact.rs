//! `nydus-image compact`: fewer and fuller blobs for an image. Blobs of which little is used are written anew with what is used, small ones become one,
//! and those that nothing uses are left out.
//!
//! Decides which blobs change; [`crate::repack`] moves their chunks. No blob is changed or removed: other images may use it. Where there is nothing
//! to do, the bootstrap is copied as it is, so that whoever goes on with the output has an image in any case.

use crate::open::{BlobSource, Image};
use crate::output::{Outputs, Place};
use crate::repack::{self, Coding, Loaded, MAX_CHUNKS, Moves, RepackError, Report, Work};
use rafs_format::{Blob, BlobFeatures, BlobId};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

/// What is worth changing. Sizes in bytes.
#[derive(Debug, Clone)]
pub struct Options {
    /// Blobs of whose stored bytes less than this percentage is used are written anew; 0 for none.
    pub min_used_ratio: u8,
    /// Blobs of which less than this is used are merged.
    pub compact_blob_size: u64,
    /// Merged blobs have no more than this.
    pub max_compact_size: u64,
    /// Images of fewer blobs stay as they are; 0 for none.
    pub layers_to_compact: usize,
    /// The image whose blobs are shared by many images: these stay as they are.
    pub chunk_dict: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            min_used_ratio: 0,
            compact_blob_size: 10 << 20,
            max_compact_size: 100 << 20,
            layers_to_compact: 0,
            chunk_dict: None,
        }
    }
}

/// Compacts the image; `place` is for the new bootstrap, `dir` for new blobs. Nothing is left behind on failure.
pub fn compact(
    image: &Image,
    options: &Options,
    source: &BlobSource,
    place: Place,
    dir: &Path,
    outputs: &Outputs,
) -> Result<Report, RepackError> {
    let dict: HashSet<BlobId> = match &options.chunk_dict {
        Some(path) => Image::open(path)?.blobs().iter().map(|blob| blob.id.clone()).collect(),
        None => HashSet::new(),
    };
    let mut loaded = Loaded::new(image)?;
    let lists = loaded.chunks_by_blob();
    let enough = loaded.blobs.len() >= options.layers_to_compact;
    let groups = if enough { plan(&loaded, &lists, options, &dict) } else { Vec::new() };
    let unused = lists.iter().any(Vec::is_empty) && enough;
    // What names itself by the file it came from would be called by the name of the output.
    let renamed = image.bootstrap().blobs().iter().any(Blob::is_named_by_file);
    if groups.is_empty() && !unused && !renamed {
        let blobs = loaded.blobs.clone();
        return loaded.commit(image.bootstrap().bytes(), &blobs, place, outputs);
    }
    let work = Work { image, source, outputs, dir };
    let mut moves = Moves::default();
    for group in groups {
        let coding = group.first().and_then(|blob| loaded.blobs.get(*blob)).map(Coding::of);
        let positions: Vec<u32> =
            group.iter().filter_map(|blob| lists.get(*blob)).flatten().copied().collect();
        if let Some(coding) = coding {
            loaded.gather(&positions, coding, BlobFeatures::empty(), &work, &mut moves)?;
        }
    }
    loaded.repoint(&moves);
    loaded.write(None, place, outputs)
}

/// A blob that may be written anew.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    at: usize,
    /// Stored bytes of it that are used.
    used: u64,
    chunks: usize,
    /// Too little of it is used.
    wasteful: bool,
}

/// Which blobs are written anew, those of a list into one; positions ascending.
fn plan(loaded: &Loaded, lists: &[Vec<u32>], options: &Options, dict: &HashSet<BlobId>) -> Vec<Vec<usize>> {
    let mut groups = Vec::new();
    // Chunks of one blob are all compressed and digested alike.
    let mut small: BTreeMap<(u32, u32), Vec<Candidate>> = BTreeMap::new();
    for (at, (blob, list)) in loaded.blobs.iter().zip(lists).enumerate() {
        let Some(candidate) = candidate(loaded, at, blob, list, options, dict) else { continue };
        if candidate.used < options.compact_blob_size {
            let form = (blob.compressor as u32, blob.digester as u32);
            small.entry(form).or_default().push(candidate);
        } else if candidate.wasteful {
            groups.push(vec![at]);
        }
    }
    small.into_values().for_each(|blobs| groups.extend(merge(blobs, options.max_compact_size)));
    groups.sort();
    groups
}

/// Puts blobs together, the smallest first, up to `max` bytes each. One that stays alone is left as it is unless it is wasteful.
fn merge(mut blobs: Vec<Candidate>, max: u64) -> Vec<Vec<usize>> {
    blobs.sort_by_key(|blob| (blob.used, blob.at));
    let mut groups: Vec<(u64, usize, Vec<Candidate>)> = Vec::new();
    for blob in blobs {
        match groups.last_mut() {
            Some((bytes, chunks, group))
                if bytes.saturating_add(blob.used) <= max && *chunks + blob.chunks <= MAX_CHUNKS =>
            {
                *bytes += blob.used;
                *chunks += blob.chunks;
                group.push(blob);
            }
            _ => groups.push((blob.used, blob.chunks, vec![blob])),
        }
    }
    let worth = |group: &[Candidate]| group.len() > 1 || group.iter().any(|blob| blob.wasteful);
    let groups = groups.into_iter().filter(|(_, _, group)| worth(group));
    let positions = groups.map(|(_, _, group)| {
        let mut positions: Vec<usize> = group.iter().map(|blob| blob.at).collect();
        positions.sort_unstable();
        positions
    });
    positions.collect()
}

/// What is used of a blob; `None` for one that is not used at all, or that stays as it is.
fn candidate(
    loaded: &Loaded,
    at: usize,
    blob: &Blob,
    list: &[u32],
    options: &Options,
    dict: &HashSet<BlobId>,
) -> Option<Candidate> {
    if list.is_empty() || dict.contains(&blob.id) {
        return None;
    }
    let batches = blob.features.contains(BlobFeatures::BATCH).then_some("batch");
    if let Some(kind) = repack::kept_kind(blob).or(batches) {
        tracing::info!("blob {} stays as it is: {kind} blobs are not compacted", blob.id);
        return None;
    }
    let sizes = list.iter().filter_map(|at| loaded.tree.chunks.get(*at as usize));
    let used: u64 = sizes.map(|chunk| u64::from(chunk.compressed_size)).sum();
    let percent = u128::from(used) * 100 / u128::from(blob.compressed_size.max(1));
    tracing::info!("blob {}: {used} of {} bytes are used, {percent}%", blob.id, blob.compressed_size);
    let wasteful = percent < u128::from(options.min_used_ratio);
    Some(Candidate { at, used, chunks: list.len(), wasteful })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(at: usize, used: u64, wasteful: bool) -> Candidate {
        Candidate { at, used, chunks: 1, wasteful }
    }

    #[test]
    fn small_blobs_are_put_together_smallest_first() {
        let all = vec![blob(0, 50, false), blob(1, 10, false), blob(2, 60, false), blob(3, 20, false)];
        assert_eq!(merge(all.clone(), 100), [vec![0, 1, 3]]);
        assert_eq!(merge(all.clone(), 140), [vec![0, 1, 2, 3]]);
        assert_eq!(merge(all, 30), [vec![1, 3]]);
    }

    #[test]
    fn a_blob_alone_is_written_anew_only_where_it_is_wasteful() {
        assert_eq!(merge(vec![blob(4, 50, false)], 100), Vec::<Vec<usize>>::new());
        assert_eq!(merge(vec![blob(4, 50, true)], 100), [vec![4]]);
        let full = Candidate { chunks: MAX_CHUNKS, ..blob(1, 1, false) };
        assert_eq!(merge(vec![full, blob(2, 2, false)], 100), Vec::<Vec<usize>>::new());
    }
}
