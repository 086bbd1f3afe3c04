//! `nydus-image optimize`: chunks that are wanted first, copied into one extra blob, so that they are fetched as a unit.
//!
//! Which ones are wanted a list of files says, perhaps with ranges. Knows lists and paths; [`crate::repack`] copies. What other files share with the listed
//! ones is read from the extra blob, too: it is the same content. Source blobs are not changed.

use crate::create::names;
use crate::open::{BlobSource, Image};
use crate::output::{Outputs, Place};
use crate::repack::{self, Coding, Loaded, MAX_CHUNKS, Moves, RepackError, Report, Work};
use rafs_format::tree::{Entry, NewInode, Tree};
use rafs_format::{Blob, BlobFeatures, FileType};
use serde::Deserialize;
use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Longest list of files, in bytes.
const MAX_LIST: u64 = 256 << 20;

/// Why a list of files is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum HintError {
    #[error("cannot read list {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("list {} is over {MAX_LIST} bytes long", path.display())]
    TooLong { path: PathBuf },
    #[error("list {} starts with `{{` but is not the JSON of a list", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("list {}: `version` is {found:?}, expected \"v1\"", path.display())]
    Version { path: PathBuf, found: String },
}

/// A file that is wanted first.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Hint {
    /// Its absolute path.
    pub path: String,
    /// First byte and length of each part that is wanted; all of the file without any.
    #[serde(default)]
    pub ranges: Option<Vec<(u64, u64)>>,
}

#[derive(Debug, Deserialize)]
struct Document {
    version: String,
    #[serde(default)]
    files: Vec<Hint>,
}

/// Reads a list: JSON, `{"version":"v1","files":[{"path":"/a","ranges":[[0,10]]}]}`, or one path on each line.
pub fn read_hints(path: &Path) -> Result<Vec<Hint>, HintError> {
    let failed = |source| HintError::Read { path: path.to_path_buf(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_LIST + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_LIST {
        return Err(HintError::TooLong { path: path.to_path_buf() });
    }
    if !text.trim_start().starts_with('{') {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        return Ok(lines.map(|line| Hint { path: line.to_owned(), ranges: None }).collect());
    }
    let list: Document =
        serde_json::from_str(&text).map_err(|source| HintError::Json { path: path.to_path_buf(), source })?;
    if list.version != "v1" {
        return Err(HintError::Version { path: path.to_path_buf(), found: list.version });
    }
    Ok(list.files)
}

/// Copies what `hints` want into an extra blob in `dir`, the last one of the image that is written to `place`. Where they want nothing that can be copied the
/// bootstrap is copied as it is. Nothing is left behind on failure.
pub fn optimize(
    image: &Image,
    hints: &[Hint],
    source: &BlobSource,
    place: Place,
    dir: &Path,
    outputs: &Outputs,
) -> Result<Report, RepackError> {
    let mut loaded = Loaded::new(image)?;
    let (positions, coding) = wanted(&loaded, hints);
    let Some(coding) = coding else {
        // What names itself by the file it came from would be called by the name of the output.
        if image.bootstrap().blobs().iter().any(Blob::is_named_by_file) {
            return loaded.write(None, place, outputs);
        }
        let blobs = loaded.blobs.clone();
        return loaded.commit(image.bootstrap().bytes(), &blobs, place, outputs);
    };
    let mut moves = Moves::default();
    let work = Work { image, source, outputs, dir };
    let blob = loaded.gather(&positions, coding, BlobFeatures::PREFETCH_SEPARATED, &work, &mut moves)?;
    loaded.repoint(&moves);
    loaded.write(Some(blob), place, outputs)
}

/// Chunks to copy, by blob and place in it, and how the extra blob stores them: as most of them are. `None` for no chunks.
fn wanted(loaded: &Loaded, hints: &[Hint]) -> (Vec<u32>, Option<Coding>) {
    let mut positions = HashSet::new();
    for hint in hints {
        match find(&loaded.tree, &hint.path) {
            Some(inode) => positions.extend(chunks(loaded, inode, hint.ranges.as_deref())),
            None => tracing::warn!("{:?} is no absolute path of a file in the image: skipped", hint.path),
        }
    }
    let mut bytes: HashMap<Coding, u64> = HashMap::new();
    let mut usable: Vec<(u32, Coding)> = Vec::new();
    let mut left = 0u64;
    for at in positions {
        let chunk = loaded.tree.chunks.get(at as usize);
        let blob = chunk.and_then(|chunk| loaded.blobs.get(chunk.blob as usize));
        match (chunk, blob.filter(|blob| repack::kept_kind(blob).is_none())) {
            (Some(chunk), Some(blob)) => {
                *bytes.entry(Coding::of(blob)).or_default() += u64::from(chunk.uncompressed_size);
                usable.push((at, Coding::of(blob)));
            }
            _ => left += 1,
        }
    }
    let order = |coding: &Coding| (coding.compressor as u32, coding.digester as u32);
    let coding =
        bytes.into_iter().max_by_key(|(coding, bytes)| (*bytes, order(coding))).map(|(coding, _)| coding);
    let mut positions: Vec<u32> =
        usable.iter().filter(|(_, by)| Some(*by) == coding).map(|(at, _)| *at).collect();
    left += (usable.len() - positions.len()) as u64;
    let place = |at: &u32| {
        loaded.tree.chunks.get(*at as usize).map(|c| (c.blob, c.compressed_offset, c.uncompressed_offset))
    };
    positions.sort_by_key(|at| (place(at), *at));
    left += positions.len().saturating_sub(MAX_CHUNKS) as u64;
    positions.truncate(MAX_CHUNKS);
    if left > 0 {
        tracing::warn!(
            "{left} chunks stay where they are: they are compressed otherwise, encrypted, in an unmodified layer, or too many"
        );
    }
    (positions, coding)
}

/// The regular file at an absolute path.
fn find<'a>(tree: &'a Tree, path: &str) -> Option<&'a NewInode> {
    let path = path.as_bytes();
    let mut entry: &Entry = tree.entries.first().filter(|_| path.starts_with(b"/"))?;
    for name in names(path) {
        let children = tree.entries.get(entry.children())?;
        let at = children.binary_search_by_key(&name, |child| tree.span(child.name)).ok()?;
        entry = children.get(at)?;
    }
    let inode = tree.inodes.get(entry.inode as usize)?;
    Some(inode).filter(|inode| FileType::from_mode(inode.mode) == Some(FileType::Regular))
}

/// Positions of the chunks of a file that lie in one of `ranges` in part, or of all.
fn chunks<'a>(
    loaded: &'a Loaded,
    inode: &NewInode,
    ranges: Option<&'a [(u64, u64)]>,
) -> impl Iterator<Item = u32> + 'a {
    let size = u64::from(loaded.options.chunk_size);
    let touched = move |start: u64| {
        let end = start.saturating_add(size);
        let touches =
            |(from, length): &(u64, u64)| *length > 0 && *from < end && from.saturating_add(*length) > start;
        ranges.is_none_or(|ranges| ranges.iter().any(touches))
    };
    let run = (0u64..).zip(loaded.tree.chunks_of(inode, size));
    run.filter(move |(n, _)| touched(n.saturating_mul(size))).map(|(_, at)| *at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Hint>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read_hints(file.path()).map_err(|error| crate::chain(&error))
    }

    #[test]
    fn lists_are_json_or_lines() {
        let hint = |path: &str, ranges| Hint { path: path.to_owned(), ranges };
        assert_eq!(read(""), Ok(vec![]));
        assert_eq!(read("/a\n\n  /b c \n"), Ok(vec![hint("/a", None), hint("/b c", None)]));
        let json = r#" {"version":"v1","files":[{"path":"/a","ranges":[[0,10],[20,1]]},{"path":"/b"}]}"#;
        assert_eq!(read(json), Ok(vec![hint("/a", Some(vec![(0, 10), (20, 1)])), hint("/b", None)]));
        assert_eq!(read(r#"{"version":"v1"}"#), Ok(vec![]));
        assert!(
            read(r#"{"version":"v2","files":[]}"#)
                .unwrap_err()
                .contains("`version` is \"v2\", expected \"v1\"")
        );
        assert!(read("{").unwrap_err().contains("is not the JSON of a list: EOF"));
        assert!(read(r#"{"version":"v1","files":[{"path":"/a","ranges":[[0]]}]}"#).is_err());
    }
}
