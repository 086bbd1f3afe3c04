//! Reading a bootstrap in place. Knows bounds and what both versions share; does not hash, decompress or read blobs.
//!
//! [`Bootstrap::parse`] looks at the magic once; from there on v5 and v6 are two private readers behind the same methods, and
//! nobody above knows which one answers.
//! Opening looks at superblock and tables only. Every other structure is checked when it is looked at, so a damaged corner of an
//! image is an error for who goes there and for nobody else.

use crate::chunk::check_ranges;
use crate::xattr::Xattrs;
use crate::{
    Blob, BlobId, Chunk, ChunkRef, Compressor, Digest, DigestAlgorithm, FileType, FormatError, Inode, Nid,
    SuperFlags, v5, v6,
};
use std::borrow::Cow;
use std::ops::Range;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

pub(crate) const MAX_COMPRESSED: u64 = 1 << 40;
const MAX_UNCOMPRESSED: u64 = 1 << 44;
const MAX_CHUNKS: u32 = 1 << 24;
pub(crate) const MAX_SYMLINK: u64 = 4095;
const MAX_NAME: usize = 255;

/// Which of the two layouts a bootstrap has. For reports: everything else is the same for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// RAFS v5, a layout of its own.
    V5,
    /// RAFS v6, an EROFS image.
    V6,
}

impl Version {
    /// In JSON and on command lines: `5`, `6`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V5 => "5",
            Self::V6 => "6",
        }
    }

    /// Is this how a bootstrap starts? `head` is its first 1028 bytes or more.
    pub fn detect(head: &[u8]) -> Option<Self> {
        if head.starts_with(&v5::MAGIC.to_le_bytes()) {
            Some(Self::V5)
        } else if head.get(1024..1028) == Some(&v6::MAGIC.to_le_bytes()) {
            Some(Self::V6)
        } else {
            None
        }
    }
}

/// What a superblock says, checked. Offsets in bytes from the start of the bootstrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Layout of the bootstrap.
    pub version: Version,
    /// Address unit of data: 4096 (512 in tarfs images).
    pub block_size: u32,
    /// First byte of the metadata area; 0 in v5, which finds inodes through a table.
    pub meta_start: u64,
    /// The root directory.
    pub root: Nid,
    /// Directory entries including the root; hard links count one by one.
    pub entries: u64,
    /// Inodes as the image counts them: distinct ones in v5, the same as `entries` in v6.
    pub inodes: u64,
    /// Superblock flags.
    pub flags: SuperFlags,
    /// Largest chunk in bytes.
    pub chunk_size: u32,
    /// Compression of the newest blob.
    pub compressor: Compressor,
    /// Digest algorithm of the newest blob.
    pub digester: DigestAlgorithm,
    /// Start of the blob table.
    pub blob_table_offset: u64,
    /// Start of the chunk table; 0 in v5, whose chunk records stand behind the inodes.
    pub chunk_table_offset: u64,
    /// Records in the chunk table; 0 in v5.
    pub chunk_table_records: u64,
    /// Start of the prefetch table, 0 for none.
    pub prefetch_table_offset: u64,
    /// Entries in the prefetch table.
    pub prefetch_table_entries: u32,
}

impl Superblock {
    /// Number of chunks of a regular file.
    pub(crate) fn chunk_count(&self, inode: &Inode) -> u64 {
        inode.size.div_ceil(u64::from(self.chunk_size))
    }
}

/// One name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// Raw bytes, 1 to 255 of them, without `/` and NUL.
    pub name: &'a [u8],
    /// The inode it names.
    pub nid: Nid,
    /// Its type as the directory says; the inode decides.
    pub file_type: FileType,
    /// Position of the *next* entry: what [`Bootstrap::dir_entries`] takes to go on behind this one.
    pub next: u64,
}

/// A bootstrap over any bytes: a slice, a vector, a mapped file.
#[derive(Debug, Clone)]
pub struct Bootstrap<B> {
    bytes: B,
    superblock: Superblock,
    blobs: Vec<Blob>,
    form: Form,
}

/// What is known of a bootstrap that only its own version has.
#[derive(Debug, Clone)]
enum Form {
    V5(v5::Tables),
    V6,
}

/// The reader of one version, with what it reads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reader<'a> {
    V5(v5::Reader<'a>),
    V6(v6::Reader<'a>),
}

impl<B: AsRef<[u8]>> Bootstrap<B> {
    /// Checks superblock and tables (not the tree). Cost does not depend on the number of files, but in v5 images of the first builders,
    /// whose blob sizes follow from their chunks only.
    /// Errors: anything the reference loader refuses, docs/format.md "Acceptance".
    pub fn parse(bytes: B) -> Result<Self, FormatError> {
        let all = bytes.as_ref();
        let (superblock, blobs, form) = if Version::detect(all) == Some(Version::V5) {
            let (superblock, mut tables) = v5::superblock(all)?;
            let blobs = v5::blobs(all, &superblock, &mut tables)?;
            (superblock, blobs, Form::V5(tables))
        } else {
            let (superblock, devices) = v6::superblock(all)?;
            let blobs = v6::blobs(all, &superblock, devices)?;
            (superblock, blobs, Form::V6)
        };
        Ok(Self { bytes, superblock, blobs, form })
    }

    /// The same bootstrap, its bytes held by something else; `hold` hands the same bytes on.
    pub fn held_by<C: AsRef<[u8]>>(self, hold: impl FnOnce(B) -> C) -> Bootstrap<C> {
        let Self { bytes, superblock, blobs, form } = self;
        Bootstrap { bytes: hold(bytes), superblock, blobs, form }
    }

    /// The checked superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Are the blobs plain tars? Then chunks have no digests of their own.
    pub fn is_tarfs(&self) -> bool {
        self.superblock.flags.contains(SuperFlags::TARFS)
    }

    /// Data blobs in table order; a blob index is a position here.
    pub fn blobs(&self) -> &[Blob] {
        &self.blobs
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    #[inline]
    pub(crate) fn reader(&self) -> Reader<'_> {
        let (bytes, superblock) = (self.bytes(), &self.superblock);
        match &self.form {
            Form::V5(tables) => Reader::V5(v5::Reader { bytes, superblock, tables }),
            Form::V6 => Reader::V6(v6::Reader { bytes, superblock, blobs: self.blobs.len() }),
        }
    }

    /// The inode at `nid`, its body (xattrs, inline data, chunks) checked to lie within the file.
    pub fn inode(&self, nid: Nid) -> Result<Inode, FormatError> {
        match self.reader() {
            Reader::V5(reader) => reader.inode(nid),
            Reader::V6(reader) => reader.inode(nid),
        }
    }

    /// Names of a directory from position `from` on (0 = start), in byte order, `.` and `..` among them where
    /// they sort. Positions are stable, since images do not change; they mean something to the same image only.
    pub fn dir_entries(&self, dir: &Inode, from: u64) -> Result<DirEntries<'_>, FormatError> {
        expect_type(dir, FileType::Directory)?;
        let cursor = match self.reader() {
            Reader::V5(reader) => Cursor::V5(v5::Cursor::new(reader, dir, from)?),
            Reader::V6(reader) => Cursor::V6(v6::Cursor::new(reader, dir, from)),
        };
        Ok(DirEntries { cursor, failed: false })
    }

    /// Binary search for `name` in a directory.
    pub fn lookup(&self, dir: &Inode, name: &[u8]) -> Result<Option<DirEntry<'_>>, FormatError> {
        expect_type(dir, FileType::Directory)?;
        match self.reader() {
            Reader::V5(reader) => reader.lookup(dir, name),
            Reader::V6(reader) => reader.lookup(dir, name),
        }
    }

    /// The inode at `path`: names separated by `/`, from the root on; empty ones and `.` count for nothing, `..` is the parent. Links on the way are not
    /// followed: an image knows nothing outside itself. `None` where a name is missing or stands for no directory on the way.
    pub fn resolve(&self, path: &[u8]) -> Result<Option<Inode>, FormatError> {
        let mut inode = self.inode(self.superblock.root)?;
        for name in path.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b".")) {
            if inode.file_type != FileType::Directory {
                return Ok(None);
            }
            let Some(entry) = self.lookup(&inode, name)? else { return Ok(None) };
            inode = self.inode(entry.nid)?;
        }
        Ok(Some(inode))
    }

    /// Target of a symbolic link, 1 to 4095 bytes. Owned only where it is stored in two places (long ones in a tarfs).
    pub fn symlink_target(&self, link: &Inode) -> Result<Cow<'_, [u8]>, FormatError> {
        expect_type(link, FileType::Symlink)?;
        match self.reader() {
            Reader::V5(reader) => reader.symlink_target(link).map(Cow::Borrowed),
            Reader::V6(reader) => reader.symlink_target(link),
        }
    }

    /// Extended attributes in stored order.
    pub fn xattrs(&self, inode: &Inode) -> Result<Xattrs<'_>, FormatError> {
        match self.reader() {
            Reader::V5(reader) => reader.xattrs(inode),
            Reader::V6(reader) => reader.xattrs(inode),
        }
    }

    /// The digest that the image itself states for an inode: of a file over the digests of its chunks, of a directory over those of
    /// what is in it, of a symlink over its target, of anything else over nothing (docs/format.md, "Inode digests of v5").
    /// `None` in v6, which has none. It is as good as whoever vouches for the bootstrap: nothing here hashes.
    pub fn stated_digest(&self, inode: &Inode) -> Result<Option<Digest>, FormatError> {
        match self.reader() {
            Reader::V5(reader) => reader.stated_digest(inode).map(Some),
            Reader::V6(_) => Ok(None),
        }
    }

    /// Bytes of the bootstrap that an inode and all that belongs to it take.
    pub(crate) fn extent(&self, inode: &Inode) -> u64 {
        match self.reader() {
            Reader::V5(reader) => reader.extent(inode),
            Reader::V6(reader) => reader.extent(inode),
        }
    }

    /// Number of chunks of a regular file: its size divided by the chunk size, rounded up.
    pub fn chunk_count(&self, inode: &Inode) -> u64 {
        self.superblock.chunk_count(inode)
    }

    /// Which chunk the `n`-th of a regular file is. [`crate::ChunkIndex::chunk`] has all that there is to know of it.
    pub fn chunk_ref(&self, file: &Inode, n: u64) -> Result<ChunkRef, FormatError> {
        self.check_chunk_number(file, n)?;
        match self.reader() {
            Reader::V5(reader) => reader.chunk_ref(file, n),
            Reader::V6(reader) => reader.chunk_ref(file, n),
        }
    }

    /// Checks that `file` is a regular file with an `n`-th chunk.
    pub(crate) fn check_chunk_number(&self, file: &Inode, n: u64) -> Result<(), FormatError> {
        expect_type(file, FileType::Regular)?;
        let (what, limit) = ("chunk of a file", self.chunk_count(file));
        if n < limit { Ok(()) } else { Err(FormatError::OutOfBounds { what, start: n, size: 1, limit }) }
    }

    /// The `n`-th record of the chunk table of a v6 image, in table order (by digest).
    pub fn chunk_record(&self, n: u64) -> Result<Chunk, FormatError> {
        let limit = self.superblock.chunk_table_records;
        if n >= limit {
            return Err(FormatError::OutOfBounds { what: "chunk record", start: n, size: 1, limit });
        }
        Chunk::read(self.bytes(), self.chunk_record_offset(n))
    }

    /// Byte offset of the `n`-th record of the chunk table.
    pub(crate) fn chunk_record_offset(&self, n: u64) -> u64 {
        self.superblock.chunk_table_offset.saturating_add(n.saturating_mul(80))
    }

    /// Where the records of all chunks lie: in v6 those of the chunk table, in its order; in v5 those of all inodes, so that a chunk which
    /// is used several times is there several times; in a tarfs, whose chunks have no records, nothing. Errors: a damaged inode (v5); the last item then.
    pub fn chunk_places(&self) -> Box<dyn Iterator<Item = Result<ChunkPlace, FormatError>> + '_> {
        match self.reader() {
            Reader::V5(reader) => Box::new(v5::ChunkPlaces::new(reader)),
            Reader::V6(_) if self.is_tarfs() => Box::new(std::iter::empty()),
            Reader::V6(_) => {
                let all = 0..self.superblock.chunk_table_records;
                Box::new(all.map(|n| Ok(ChunkPlace(self.chunk_record_offset(n)))))
            }
        }
    }

    /// The record at a place.
    pub fn chunk_at(&self, place: ChunkPlace) -> Result<Chunk, FormatError> {
        Chunk::read(self.bytes(), place.0)
    }

    /// The record at a place, checked to lie within its blob. Errors: as of [`ChunkIndex::resolve`](crate::ChunkIndex::resolve).
    pub fn checked_chunk_at(&self, place: ChunkPlace) -> Result<Chunk, FormatError> {
        let chunk = self.chunk_at(place)?;
        check_ranges(&self.blobs, &chunk, place.0)?;
        Ok(chunk)
    }

    /// Inodes of the prefetch table in their order.
    pub fn prefetch(&self) -> impl Iterator<Item = Nid> + '_ {
        let nids = match self.reader() {
            Reader::V5(reader) => reader.prefetch(),
            Reader::V6(reader) => reader.prefetch(),
        };
        nids.iter().map(|nid| Nid(nid.get().into()))
    }

    /// Stored bytes of a blob that its builder wants fetched first; empty in v6, which has the prefetch table only.
    pub fn readahead(&self, blob: usize) -> Range<u64> {
        match &self.form {
            Form::V5(tables) => tables.readahead(blob),
            Form::V6 => 0..0,
        }
    }
}

impl<B: AsRef<[u8]>> Bootstrap<B> {
    /// Block of a flat image at which a blob begins; `None` for v5, which has no flat images, and for a blob that is not there.
    pub fn mapped_block(&self, blob: usize) -> Option<u32> {
        match self.form {
            Form::V6 if blob < self.blobs.len() => v6::mapped_block(self.bytes(), blob),
            _ => None,
        }
    }
}

/// Where a chunk record lies in its bootstrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChunkPlace(pub(crate) u64);

/// Iterator over the names of a directory; ends after the first error.
#[derive(Debug)]
pub struct DirEntries<'a> {
    cursor: Cursor<'a>,
    failed: bool,
}

#[derive(Debug)]
enum Cursor<'a> {
    V5(v5::Cursor<'a>),
    V6(v6::Cursor<'a>),
}

impl<'a> Iterator for DirEntries<'a> {
    type Item = Result<DirEntry<'a>, FormatError>;
    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let step = match &mut self.cursor {
            Cursor::V5(cursor) => cursor.step(),
            Cursor::V6(cursor) => cursor.step(),
        };
        self.failed = step.is_err();
        step.transpose()
    }
}

/// `size` bytes at `start`.
pub(crate) fn slice<'a>(
    bytes: &'a [u8],
    what: &'static str,
    start: u64,
    size: u64,
) -> Result<&'a [u8], FormatError> {
    let from = usize::try_from(start).ok();
    let to = start.checked_add(size).and_then(|end| usize::try_from(end).ok());
    let found = from.zip(to).and_then(|(from, to)| bytes.get(from..to));
    found.ok_or(FormatError::OutOfBounds { what, start, size, limit: bytes.len() as u64 })
}

/// The structure at `at`.
pub(crate) fn structure<'a, T>(bytes: &'a [u8], what: &'static str, at: u64) -> Result<&'a T, FormatError>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    let size = size_of::<T>() as u64;
    let found = slice(bytes, what, at, size)?;
    T::ref_from_bytes(found).ok().ok_or(FormatError::OutOfBounds {
        what,
        start: at,
        size,
        limit: bytes.len() as u64,
    })
}

/// The error of a field that is not what it should be, unless it is.
pub(crate) fn require(
    good: bool,
    what: &'static str,
    at: u64,
    found: u64,
    expected: &'static str,
) -> Result<(), FormatError> {
    if good { Ok(()) } else { Err(FormatError::Value { what, at, found, expected }) }
}

fn expect_type(inode: &Inode, expected: FileType) -> Result<(), FormatError> {
    if inode.file_type == expected {
        return Ok(());
    }
    Err(FormatError::WrongType { nid: inode.nid.0, found: inode.file_type.name(), expected: expected.name() })
}

/// A name as a directory may hold it.
#[inline]
pub(crate) fn checked_name(name: &[u8]) -> Result<&[u8], FormatError> {
    let problem = if name.is_empty() {
        "is empty"
    } else if name.len() > MAX_NAME {
        "is over 255 bytes"
    } else if name.iter().any(|&byte| byte == b'/' || byte == 0) {
        "holds a slash or a NUL"
    } else {
        return Ok(name);
    };
    Err(bad_name(name, problem))
}

pub(crate) fn bad_name(name: &[u8], problem: &'static str) -> FormatError {
    let shown = String::from_utf8_lossy(name.get(..name.len().min(80)).unwrap_or(&[])).into_owned();
    FormatError::Name { what: "directory entry", name: shown, problem }
}

/// The chunk size of a superblock, found at byte `at`.
pub(crate) fn check_chunk_size(chunk_size: u32, at: u64) -> Result<(), FormatError> {
    let good = chunk_size.is_power_of_two() && (0x1000..=0x100_0000).contains(&chunk_size);
    require(good, "chunk size", at, chunk_size.into(), "a power of two, 4 KiB to 16 MiB")
}

/// Limits of every blob. `at`: where chunk count, compressed size and uncompressed size were found.
pub(crate) fn check_blob_limits(blob: &Blob, at: [u64; 3]) -> Result<(), FormatError> {
    let [count_at, compressed_at, uncompressed_at] = at;
    let count = blob.chunk_count;
    let (compressed, uncompressed) = (blob.compressed_size, blob.uncompressed_size);
    require((1..=MAX_CHUNKS).contains(&count), "chunks of a blob", count_at, count.into(), "1 to 2^24")?;
    require(
        compressed <= MAX_COMPRESSED,
        "compressed size of a blob",
        compressed_at,
        compressed,
        "at most 2^40",
    )?;
    let fits = uncompressed <= MAX_UNCOMPRESSED;
    require(fits, "uncompressed size of a blob", uncompressed_at, uncompressed, "at most 2^44")
}

/// The id of a blob.
pub(crate) fn blob_id(id: &[u8]) -> Result<BlobId, FormatError> {
    match std::str::from_utf8(id) {
        Ok(id) => BlobId::new(id),
        Err(_) => Err(FormatError::Name {
            what: "blob id",
            name: String::from_utf8_lossy(id.get(..id.len().min(80)).unwrap_or(&[])).into_owned(),
            problem: "is not UTF-8",
        }),
    }
}

/// What stands before the first NUL, or all of it.
pub(crate) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or(bytes)
}

/// The first of several; zstd for none.
pub(crate) fn compressor_of(flags: SuperFlags) -> Compressor {
    if flags.contains(SuperFlags::COMPRESSION_NONE) {
        Compressor::None
    } else if flags.contains(SuperFlags::COMPRESSION_LZ4) {
        Compressor::Lz4Block
    } else if flags.contains(SuperFlags::COMPRESSION_GZIP) {
        Compressor::Gzip
    } else {
        Compressor::Zstd
    }
}

/// BLAKE3 for none.
pub(crate) fn digester_of(flags: SuperFlags) -> DigestAlgorithm {
    let sha256 = flags.contains(SuperFlags::DIGEST_SHA256) && !flags.contains(SuperFlags::DIGEST_BLAKE3);
    if sha256 { DigestAlgorithm::Sha256 } else { DigestAlgorithm::Blake3 }
}
