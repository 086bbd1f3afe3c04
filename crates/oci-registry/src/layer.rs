//! One layer: a tar stream, compressed or not, as a sequence of entries with all dialects resolved.
//!
//! Resolved here: gzip (multi-member) and zstd by magic; GNU long names and links; PAX records, local and global (path, linkpath,
//! size, uid, gid, mtime with fractions, `SCHILY.xattr.*` with any bytes, `LIBARCHIVE.xattr.*`); base-256 numbers; GNU sparse (old and PAX 0.0, 0.1,
//! 1.0) read as holes; contiguous files as files; concatenated archives. Not decided here: what a path means, whiteouts, links.
//! The stream is untrusted: records are bounded ([`MAX_EXTENSION`]), every error names the entry and its offset in the tar.

use std::io::Read;

/// Longest extension record (PAX header, GNU long name) read, in bytes.
pub const MAX_EXTENSION: u64 = 16 << 20;

/// Compression of a layer, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LayerCompression {
    None,
    Gzip,
    Zstd,
}

/// Reads the magic of `input` and returns its plain bytes. An input shorter than a magic is plain.
pub fn decompress<'a, R: Read + Send + 'a>(
    _input: R,
) -> std::io::Result<(LayerCompression, Box<dyn Read + Send + 'a>)> {
    todo!()
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A file; its data is read from the [`Entry`].
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link with its raw target.
    Symlink(Vec<u8>),
    /// A hard link to the entry with this raw path.
    HardLink(Vec<u8>),
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A FIFO.
    Fifo,
}

/// Attributes of one entry, all dialects resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Raw path as written, any bytes but NUL; not normalised.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds, negative before 1970.
    pub mtime_secs: i64,
    /// Modification time, nanoseconds below 1e9, from a PAX record.
    pub mtime_nanos: u32,
    /// Size of the file as a reader sees it, holes included.
    pub size: u64,
    /// Full name and value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Byte offset of the entry's header in the plain tar, for messages.
    pub offset: u64,
}

/// Why a stream is not a tar. Offsets are bytes in the plain tar.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum LayerError {
    #[error("tar entry at byte {offset}: {problem}")]
    Malformed { offset: u64, problem: String },
    #[error("tar entry {path:?} at byte {offset}: {problem}")]
    Entry { path: String, offset: u64, problem: String },
    #[error("reading the layer at byte {offset}")]
    Io {
        offset: u64,
        #[source]
        source: std::io::Error,
    },
}

/// A tar stream being read.
#[derive(Debug)]
pub struct Layer<R> {
    _input: R,
}

impl<R: Read> Layer<R> {
    /// A stream of plain tar bytes (see [`decompress`]).
    pub fn new(input: R) -> Self {
        Self { _input: input }
    }

    /// The next entry, its data not yet read (the rest of the previous entry's data is skipped); `None` at the end of the stream.
    pub fn next_entry(&mut self) -> Result<Option<Meta>, LayerError> {
        todo!()
    }

    /// Reads data of the current entry, holes as zeros: fills `buffer` unless the entry ends first, and returns how much was
    /// filled. A stream that ends inside the entry is an error.
    pub fn read_data(&mut self, _buffer: &mut [u8]) -> Result<usize, LayerError> {
        todo!()
    }
}
