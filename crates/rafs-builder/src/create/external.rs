//! The image of files whose data is elsewhere: a tree of these files and the directories above them, over blobs that were there before.
//!
//! Nothing of the data is read or copied: where it lies and what its checksums are is what the list of [`crate::attributes`] says. docs/format.md, "External
//! blobs". The tree is put together before anything is written, so that a wrong list leaves nothing behind.

use super::blob::Tail;
use super::collect::Stored;
use super::{CreateError, Options, bad_entry, directory};
use crate::attributes::{ExternalFile, ExternalFiles};
use crate::output::{Output, OutputError};
use crate::tree::{Content, NodeId, TreeBuilder};
use rafs_format::device::BlobMetaLocation;
use rafs_format::write::{self, Options as WriteOptions};
use rafs_format::{Blob, BlobFeatures, BlobId, Chunk, ChunkFlags, Cipher, Compressor, Digest};
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Chunks in one blob: their numbers have 24 bits.
const MAX_CHUNKS: u32 = (1 << 24) - 1;

/// An image of external files that is to be written.
#[derive(Debug)]
pub struct ExternalImage {
    bytes: Vec<u8>,
    /// Ids of its blobs, in the order of its blob table.
    pub blobs: Vec<BlobId>,
    /// Extended attributes left out because Linux has no such namespace.
    pub skipped_xattrs: u64,
}

impl ExternalImage {
    /// The image of the external files of `options` in the directory `root`. Errors: one that is not there, is no regular file, or whose size is not
    /// that of its data.
    pub fn of(root: &Path, options: &Options) -> Result<Self, CreateError> {
        let mut build = Build::new(root, &options.external, options.chunk_size)?;
        for (path, file) in &options.external.files {
            build.file(path, file)?;
        }
        let blobs = build.blobs(options);
        let count = u32::try_from(build.chunks.len()).unwrap_or(u32::MAX);
        let skipped_xattrs = build.skipped_xattrs;
        let (tree, _) = build.tree.finish(&build.chunks, (0..count).collect(), options.chunk_size, &[]);
        let write_options = WriteOptions {
            chunk_size: options.chunk_size,
            compressor: Compressor::None,
            digester: options.digester,
            explicit_ids: true,
            prefetch: Vec::new(),
            form: write::Form::V6,
        };
        let bytes = write::bootstrap(&tree, &blobs, &write_options)?;
        Ok(Self { bytes, blobs: blobs.into_iter().map(|blob| blob.id).collect(), skipped_xattrs })
    }

    /// Writes it as a bootstrap.
    pub fn write(&self, output: &mut Output) -> Result<(), OutputError> {
        let path = output.path();
        output.write_all(&self.bytes).map_err(|source| OutputError { action: "write", path, source })
    }

    /// Writes it as a blob that holds nothing but the bootstrap: the section with its tar header; behind it a table of contents, if `options` say so.
    pub fn write_as_blob(&self, output: Output, options: &Options) -> Result<Output, CreateError> {
        let path = output.path();
        let mut tail = Tail::new(output, &path, options, true, &Stored::default());
        tail.put_bootstrap(&self.bytes)?;
        Ok(tail.finish()?.output)
    }
}

/// What is known of a blob so far.
struct Foreign<'a> {
    id: &'a BlobId,
    size: u64,
    /// Its position in the blob table.
    position: u32,
    chunks: u32,
    uncompressed_size: u64,
}

struct Build<'a> {
    root: &'a Path,
    tree: TreeBuilder,
    chunk_size: u32,
    /// Blobs that hold chunks, by their number in the list.
    foreign: BTreeMap<u32, Foreign<'a>>,
    chunks: Vec<Chunk>,
    skipped_xattrs: u64,
}

impl<'a> Build<'a> {
    fn new(root: &'a Path, list: &'a ExternalFiles, chunk_size: u32) -> Result<Self, CreateError> {
        let mut tree = TreeBuilder::new();
        let meta = root.symlink_metadata().map_err(|source| failed(root, source))?;
        let (xattrs, skipped_xattrs) = directory::xattrs(root)?;
        tree.set_root(directory::root_attributes(&meta), &xattrs)?;
        // A blob of empty files only has no chunks, and is not in the image.
        let used: HashSet<u32> =
            list.files.values().filter(|file| !file.crcs.is_empty()).map(|file| file.blob).collect();
        let blobs = list.blobs.iter().filter(|(index, _)| used.contains(index)).zip(0..);
        let foreign = blobs.map(|((index, (id, size)), position)| {
            (*index, Foreign { id, size: *size, position, chunks: 0, uncompressed_size: 0 })
        });
        Ok(Self { root, tree, chunk_size, foreign: foreign.collect(), chunks: Vec::new(), skipped_xattrs })
    }

    /// Adds a file and the directories above it.
    fn file(&mut self, path: &[u8], file: &ExternalFile) -> Result<(), CreateError> {
        let (above, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(at) => (path.get(..at).unwrap_or(&[]), path.get(at + 1..).unwrap_or(&[])),
            None => (&[][..], path),
        };
        let parent = self.directories(above)?;
        let place = self.root.join(OsStr::from_bytes(path));
        let meta = place.symlink_metadata().map_err(|source| failed(&place, source))?;
        if !meta.is_file() {
            return Err(listed(path, file, "it is not a regular file"));
        }
        let size = match file.size {
            Some(size) if meta.len() != 0 && size != meta.len() => {
                let problem = format!("it has {} bytes, and file_size is {size}", meta.len());
                return Err(listed(path, file, &problem));
            }
            Some(size) => size,
            None if meta.len() == 0 => {
                return Err(listed(path, file, "it is empty, and file_size is not there"));
            }
            None => meta.len(),
        };
        let first_chunk = u32::try_from(self.chunks.len()).unwrap_or(u32::MAX);
        self.data(path, file, size)?;
        let xattrs = self.xattrs(&place)?;
        let content = Content { size, xattrs: &xattrs, first_chunk, ..Content::default() };
        self.tree.insert(parent, name, directory::attributes(&meta), &content)?;
        Ok(())
    }

    /// The node of a directory, added with those above it.
    fn directories(&mut self, path: &[u8]) -> Result<NodeId, CreateError> {
        let mut node = self.tree.root();
        let mut place = self.root.to_path_buf();
        for name in super::names(path) {
            place.push(OsStr::from_bytes(name));
            node = match self.tree.child(node, name) {
                Some(child) => child,
                None => {
                    let meta = place.symlink_metadata().map_err(|source| failed(&place, source))?;
                    if !meta.is_dir() {
                        return Err(bad_entry(
                            place.as_os_str().as_bytes(),
                            "an external file is below it, and it is not a directory",
                        ));
                    }
                    let xattrs = self.xattrs(&place)?;
                    let content = Content { xattrs: &xattrs, ..Content::default() };
                    self.tree.insert(node, name, directory::attributes(&meta), &content)?
                }
            };
        }
        Ok(node)
    }

    fn xattrs(&mut self, path: &Path) -> Result<Vec<u8>, CreateError> {
        let (area, skipped) = directory::xattrs(path)?;
        self.skipped_xattrs += skipped;
        Ok(area)
    }

    /// Adds the chunks of a file: as they are, one behind the other.
    fn data(&mut self, path: &[u8], file: &ExternalFile, size: u64) -> Result<(), CreateError> {
        let expected = size.div_ceil(self.chunk_size.into());
        if expected != file.crcs.len() as u64 {
            let problem = format!(
                "failed to parse crcs: there are {}, and its {size} bytes are {expected} chunks",
                file.crcs.len()
            );
            return Err(listed(path, file, &problem));
        }
        let Some(blob) = self.foreign.get_mut(&file.blob).filter(|_| size > 0) else { return Ok(()) };
        if file.offset.checked_add(size).is_none_or(|end| end > blob.size) {
            let problem = format!(
                "its {size} bytes from {} on do not lie in a blob of {} bytes",
                file.offset, blob.size
            );
            return Err(listed(path, file, &problem));
        }
        let mut done = 0;
        for &crc32 in &file.crcs {
            if blob.chunks >= MAX_CHUNKS {
                return Err(CreateError::TooMany { what: "chunks in one blob", limit: MAX_CHUNKS.into() });
            }
            // At most the chunk size.
            let part = u32::try_from(size - done).unwrap_or(u32::MAX).min(self.chunk_size);
            self.chunks.push(Chunk {
                digest: Digest([0; 32]),
                blob: blob.position,
                index: blob.chunks,
                flags: ChunkFlags::HAS_CRC,
                compressed_offset: file.offset + done,
                compressed_size: part,
                uncompressed_offset: blob.uncompressed_size,
                uncompressed_size: part,
                file_offset: 0,
                crc32,
            });
            blob.chunks += 1;
            blob.uncompressed_size += u64::from(part).next_multiple_of(4096);
            done += u64::from(part);
        }
        Ok(())
    }

    /// The blobs as the bootstrap describes them.
    fn blobs(&self, options: &Options) -> Vec<Blob> {
        let describe = |blob: &Foreign<'_>| Blob {
            id: blob.id.clone(),
            chunk_size: self.chunk_size,
            chunk_count: blob.chunks,
            compressor: Compressor::None,
            digester: options.digester,
            features: BlobFeatures::ALIGNED | BlobFeatures::CAP_TAR_TOC | BlobFeatures::EXTERNAL,
            compressed_size: blob.size,
            uncompressed_size: blob.uncompressed_size,
            meta: BlobMetaLocation {
                compressor: Compressor::None,
                compressed_offset: 0,
                compressed_size: 0,
                uncompressed_size: 0,
            },
            toc_size: 0,
            toc_digest: Digest([0; 32]),
            meta_digest: Digest([0; 32]),
            meta_size: 0,
            cipher_iv: 0,
            cipher: Cipher::None,
        };
        self.foreign.values().map(describe).collect()
    }
}

fn failed(path: &Path, source: std::io::Error) -> CreateError {
    CreateError::Source { path: path.to_path_buf(), source }
}

/// A file of the list that cannot be stored.
fn listed(path: &[u8], file: &ExternalFile, problem: &str) -> CreateError {
    bad_entry(path, format!("line {} of the attributes: {problem}", file.line))
}
