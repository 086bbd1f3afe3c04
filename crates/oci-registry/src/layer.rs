//! One layer: a tar stream, compressed or not, as a sequence of entries with all dialects resolved.
//!
//! Resolved here: gzip (multi-member) and zstd by magic; GNU long names and links; PAX records, local and global (path, linkpath,
//! size, uid, gid, mtime with fractions, `SCHILY.xattr.*` with any bytes, `LIBARCHIVE.xattr.*`); base-256 numbers; GNU sparse (old and PAX 0.0, 0.1,
//! 1.0) read as holes; contiguous files as files; concatenated archives. The stream is always read to its end, so that checksums of the
//! compression are looked at and whoever writes into a pipe can finish. Not decided here: what a path means, whiteouts, links.
//! The stream is untrusted: records are bounded ([`MAX_EXTENSION`]), every error names the entry and its offset in the tar.

mod header;
mod pax;
#[cfg(test)]
mod tests;

use header::{BLOCK, Fields, Header};
use pax::{Both, Part, Records, Sparse, check_parts};
use std::io::{BufReader, Cursor, Read};

/// Longest extension record (PAX header, GNU long name) read, in bytes.
pub const MAX_EXTENSION: u64 = 16 << 20;

/// Longest global PAX records that are kept, in bytes. They are looked at for every entry; real ones hold a few.
const MAX_GLOBAL: u64 = 64 << 10;

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
    mut input: R,
) -> std::io::Result<(LayerCompression, Box<dyn Read + Send + 'a>)> {
    let mut magic = Vec::with_capacity(4);
    input.by_ref().take(4).read_to_end(&mut magic)?;
    let kind = match magic.as_slice() {
        [0x1F, 0x8B, ..] => LayerCompression::Gzip,
        [0x28, 0xB5, 0x2F, 0xFD] => LayerCompression::Zstd,
        // A frame to be skipped: parallel compressors put one in front of each frame with data.
        [0x50..=0x5F, 0x2A, 0x4D, 0x18] => LayerCompression::Zstd,
        _ => LayerCompression::None,
    };
    let input = BufReader::with_capacity(BUFFER, Cursor::new(magic).chain(input));
    Ok(match kind {
        LayerCompression::None => (kind, Box::new(input)),
        LayerCompression::Gzip => {
            let plain = flate2::bufread::MultiGzDecoder::new(input);
            (kind, Box::new(BufReader::with_capacity(BUFFER, plain)))
        }
        LayerCompression::Zstd => {
            let plain = zstd::stream::read::Decoder::with_buffer(input)?;
            (kind, Box::new(BufReader::with_capacity(BUFFER, plain)))
        }
    })
}

/// Bytes read at a time.
const BUFFER: usize = 256 << 10;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A file; its data is read from the [`Layer`].
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

/// How a tar stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With the two empty blocks that end an archive, or more of them.
    Marked,
    /// Behind an entry, without them: it may be cut off there, though some writers leave them out.
    Unmarked,
    /// With them, and behind them at this byte something that is no archive. It was left alone, as other readers do.
    Trailing(u64),
}

/// A tar stream being read.
#[derive(Debug)]
pub struct Layer<R> {
    input: R,
    /// Bytes read from `input`.
    offset: u64,
    /// Empty blocks just read, in a row.
    empty_blocks: u64,
    trailing: Option<u64>,
    /// PAX records that hold for all entries from here on.
    global: Records,
    data: Data,
    /// Path of the current entry and where its header is, for messages.
    path: Vec<u8>,
    entry_offset: u64,
}

/// The data of the current entry.
#[derive(Debug, Default)]
struct Data {
    /// Stored bytes not yet read, and the padding behind them.
    stored: u64,
    padding: u64,
    /// Size as a reader sees it, and how far it was read.
    size: u64,
    position: u64,
    /// Stored parts of a sparse file that are not yet read, last first; `None` for a file stored whole.
    parts: Option<Vec<Part>>,
}

impl<R: Read> Layer<R> {
    /// A stream of plain tar bytes (see [`decompress`]).
    pub fn new(input: R) -> Self {
        Self {
            input,
            offset: 0,
            empty_blocks: 0,
            trailing: None,
            global: Records::default(),
            data: Data::default(),
            path: Vec::new(),
            entry_offset: 0,
        }
    }

    /// How the stream ended; says something once [`Layer::next_entry`] returned `None`.
    pub fn end(&self) -> End {
        match self.trailing {
            Some(offset) => End::Trailing(offset),
            None if self.empty_blocks >= 2 => End::Marked,
            None => End::Unmarked,
        }
    }

    /// Bytes of plain tar read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next entry, its data not yet read (the rest of the previous entry's data is skipped); `None` at the end of the stream.
    pub fn next_entry(&mut self) -> Result<Option<Meta>, LayerError> {
        self.skip(self.data.stored + self.data.padding)?;
        self.data = Data::default();
        self.path.clear();
        let mut local = Records::default();
        let (mut long_path, mut long_link) = (None, None);
        loop {
            self.entry_offset = self.offset;
            let Some(header) = self.header()? else {
                let dangling = !local.is_empty() || long_path.is_some() || long_link.is_some();
                return if dangling {
                    Err(self.malformed("extension without an entry behind it"))
                } else {
                    Ok(None)
                };
            };
            match header.kind() {
                b'x' | b'X' => {
                    local = Records::parse(&self.extension(&header)?).map_err(|e| self.malformed(e))?
                }
                b'g' => {
                    let records = Records::parse(&self.extension(&header)?).map_err(|e| self.malformed(e))?;
                    self.global.update(records);
                    if self.global.size() > MAX_GLOBAL {
                        let problem = format!("global PAX records of over {MAX_GLOBAL} bytes");
                        return Err(self.malformed(problem));
                    }
                }
                b'L' => long_path = Some(without_nul(self.extension(&header)?)),
                b'K' => long_link = Some(without_nul(self.extension(&header)?)),
                // The label of the archive is nothing in it.
                b'V' => {
                    let size = header.size().map_err(|e| self.malformed(e))?;
                    self.skip(size.saturating_add(padding(size)))?;
                }
                _ => return self.entry(&header, &local, long_path, long_link).map(Some),
            }
        }
    }

    /// Reads data of the current entry, holes as zeros: fills `buffer` unless the entry ends first, and returns how much was
    /// filled. A stream that ends inside the entry is an error.
    pub fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError> {
        let left = usize::try_from(self.data.size - self.data.position).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..wanted).filter(|rest| !rest.is_empty()) {
            let (stored, count) = self.data.next_run(rest.len());
            let Some(rest) = rest.get_mut(..count) else { break };
            if stored {
                self.read_exact(rest)?;
                self.data.stored -= count as u64;
            } else {
                rest.fill(0);
            }
            self.data.advance(count as u64);
            filled += count;
        }
        Ok(filled)
    }

    /// Where the data of the current entry starts in the plain tar, before any of it is read; `None` for a file with holes, which does not
    /// lie there as it is.
    pub fn data_offset(&self) -> Option<u64> {
        self.data.parts.is_none().then_some(self.offset)
    }

    /// The next header; `None` at the end of the stream. Empty blocks end an archive; another one may follow.
    fn header(&mut self) -> Result<Option<Header>, LayerError> {
        loop {
            self.entry_offset = self.offset;
            let mut block = [0; BLOCK];
            let filled = self.fill(&mut block)?;
            if filled == 0 {
                return Ok(None);
            }
            if filled == BLOCK && block.iter().all(|&byte| byte == 0) {
                self.empty_blocks += 1;
                continue;
            }
            let parsed = if filled == BLOCK {
                Header::parse(block)
            } else {
                Err("the stream ends inside a header".to_owned())
            };
            match parsed {
                Ok(header) => {
                    self.empty_blocks = 0;
                    return Ok(Some(header));
                }
                Err(_) if self.empty_blocks >= 2 => {
                    self.trailing = Some(self.entry_offset);
                    self.drain()?;
                    return Ok(None);
                }
                Err(problem) => return Err(self.malformed(problem)),
            }
        }
    }

    /// Reads and forgets the rest of the stream.
    fn drain(&mut self) -> Result<(), LayerError> {
        let copied = std::io::copy(&mut self.input, &mut std::io::sink());
        self.offset += copied.map_err(|source| self.io(source))?;
        Ok(())
    }

    /// The data of an extension header, bounded.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, LayerError> {
        let size = header.size().map_err(|problem| self.malformed(problem))?;
        if size > MAX_EXTENSION {
            return Err(
                self.malformed(format!("extension of {size} bytes, at most {MAX_EXTENSION} are read"))
            );
        }
        let mut bytes = Vec::new();
        let read =
            self.input.by_ref().take(size).read_to_end(&mut bytes).map_err(|source| self.io(source))?;
        self.offset += read as u64;
        if (read as u64) < size {
            return Err(self.malformed("the stream ends inside an extension"));
        }
        self.skip(padding(size))?;
        Ok(bytes)
    }

    /// What `header` and the extensions before it say together.
    fn entry(
        &mut self,
        header: &Header,
        local: &Records,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Meta, LayerError> {
        let records = Both { local, global: &self.global };
        let path = records.get(b"GNU.sparse.name").or_else(|| records.get(b"path")).map(<[u8]>::to_vec);
        let path = path.or(long_path).unwrap_or_else(|| header.path());
        let link =
            records.get(b"linkpath").map(<[u8]>::to_vec).or(long_link).unwrap_or_else(|| header.link());
        self.path.clone_from(&path);
        let fields = Fields::read(header, &records).map_err(|problem| self.bad(problem))?;
        let kind = kind(header, &path, link).map_err(|problem| self.bad(problem))?;
        let sparse = Sparse::of(header, &records).map_err(|problem| self.bad(problem))?;
        let xattrs = records.xattrs().map_err(|problem| self.bad(problem))?;
        if path.is_empty() || path.contains(&0) {
            return Err(self.bad("its path is empty or holds a NUL"));
        }
        // A header that only describes has no data, whatever its size says.
        let has_data = kind == EntryKind::Regular || header.kind() == b'D';
        let stored = if has_data { fields.stored } else { 0 };
        self.data = Data { stored, padding: padding(stored), ..Data::default() };
        let mut size = 0;
        if kind == EntryKind::Regular {
            size = self.prepare(header, sparse, stored)?;
        }
        self.data.size = size;
        Ok(Meta {
            path,
            kind,
            mode: fields.mode & 0o7777,
            uid: fields.uid,
            gid: fields.gid,
            mtime_secs: fields.mtime.0,
            mtime_nanos: fields.mtime.1,
            size,
            xattrs,
            offset: self.entry_offset,
        })
    }

    /// Reads the map of a sparse file and returns the size of the file.
    fn prepare(&mut self, header: &Header, sparse: Sparse, stored: u64) -> Result<u64, LayerError> {
        let (size, mut parts) = match sparse {
            Sparse::No => return Ok(stored),
            Sparse::Old { size, mut parts, extended } => {
                let mut more = extended;
                while more {
                    let mut block = [0; BLOCK];
                    if self.fill(&mut block)? < BLOCK {
                        return Err(self.bad("the stream ends inside its sparse map"));
                    }
                    more = header.extend_sparse(&block, &mut parts).map_err(|problem| self.bad(problem))?;
                }
                (size, parts)
            }
            Sparse::Listed { size, parts } => (size, parts),
            Sparse::InData { size } => (size, self.sparse_map()?),
        };
        check_parts(&parts, size, self.data.stored).map_err(|problem| self.bad(problem))?;
        parts.reverse();
        self.data.parts = Some(parts);
        Ok(size)
    }

    /// The map at the start of the data of a sparse file, format 1.0: decimal numbers on lines, padded to a block.
    fn sparse_map(&mut self) -> Result<Vec<Part>, LayerError> {
        let mut map = pax::SparseMap::default();
        while !map.is_complete() {
            let mut block = [0; BLOCK];
            if self.data.stored < BLOCK as u64 || self.fill(&mut block)? < BLOCK {
                return Err(self.bad("the stream ends inside its sparse map"));
            }
            self.data.stored -= BLOCK as u64;
            map.feed(&block).map_err(|problem| self.bad(problem))?;
        }
        Ok(map.into_parts())
    }

    /// Fills `buffer` unless the stream ends first.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.input.read(rest) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.io(source)),
            }
        }
        self.offset += filled as u64;
        Ok(filled)
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), LayerError> {
        let filled = self.fill(buffer)?;
        if filled == buffer.len() { Ok(()) } else { Err(self.bad("the stream ends inside its data")) }
    }

    /// Reads and forgets `count` bytes.
    fn skip(&mut self, count: u64) -> Result<(), LayerError> {
        let skipped = std::io::copy(&mut self.input.by_ref().take(count), &mut std::io::sink());
        let skipped = skipped.map_err(|source| self.io(source))?;
        self.offset += skipped;
        if skipped == count { Ok(()) } else { Err(self.bad("the stream ends inside its data")) }
    }

    fn malformed(&self, problem: impl Into<String>) -> LayerError {
        LayerError::Malformed { offset: self.entry_offset, problem: problem.into() }
    }

    fn bad(&self, problem: impl Into<String>) -> LayerError {
        let path = String::from_utf8_lossy(self.path.get(..256).unwrap_or(&self.path)).into_owned();
        LayerError::Entry { path, offset: self.entry_offset, problem: problem.into() }
    }

    fn io(&self, source: std::io::Error) -> LayerError {
        LayerError::Io { offset: self.offset, source }
    }
}

impl Data {
    /// Are the next bytes stored, and how many of at most `wanted` are alike?
    fn next_run(&self, wanted: usize) -> (bool, usize) {
        let Some(parts) = &self.parts else { return (true, wanted) };
        let (stored, end) = match parts.last() {
            Some(part) if part.offset <= self.position => (true, part.offset + part.size),
            Some(part) => (false, part.offset),
            None => (false, self.size),
        };
        (stored, usize::try_from(end - self.position).unwrap_or(usize::MAX).min(wanted))
    }

    /// Moves on, dropping parts that are read.
    fn advance(&mut self, count: u64) {
        self.position += count;
        if let Some(parts) = &mut self.parts {
            while parts.last().is_some_and(|part| part.offset + part.size <= self.position) {
                parts.pop();
            }
        }
    }
}

/// What the type flag of `header` means.
fn kind(header: &Header, path: &[u8], link: Vec<u8>) -> Result<EntryKind, String> {
    Ok(match header.kind() {
        b'0' | 0 if path.ends_with(b"/") => EntryKind::Directory,
        b'0' | 0 | b'7' | b'S' => EntryKind::Regular,
        b'1' => EntryKind::HardLink(link),
        b'2' => EntryKind::Symlink(link),
        b'3' => header.device().map(|(major, minor)| EntryKind::CharDevice { major, minor })?,
        b'4' => header.device().map(|(major, minor)| EntryKind::BlockDevice { major, minor })?,
        b'5' | b'D' => EntryKind::Directory,
        b'6' => EntryKind::Fifo,
        b'M' => return Err("is the rest of a file in another volume".to_owned()),
        other => return Err(format!("has the unknown type {:?}", char::from(other))),
    })
}

/// A name up to its first NUL.
fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    name.truncate(end);
    name
}

/// Zeros behind `size` bytes of data.
fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}
