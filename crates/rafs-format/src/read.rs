//! Reading a bootstrap in place. Knows layouts and bounds; does not hash, decompress or read blobs.
//!
//! Opening looks at superblock, extended superblock, device slots and blob table only. Every other structure is checked
//! when it is looked at, so a damaged corner of an image is an error for who goes there and for nobody else.

use crate::{
    Blob, Chunk, ChunkRef, Compressor, DigestAlgorithm, FileType, FormatError, Inode, Nid, SuperFlags,
};

/// What a superblock says, checked. Offsets in bytes from the start of the bootstrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Address unit of data: 4096 (512 in tarfs images).
    pub block_size: u32,
    /// First byte of the metadata area.
    pub meta_start: u64,
    /// The root directory.
    pub root: Nid,
    /// Directory entries including the root; hard links count one by one.
    pub entries: u64,
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
    /// Start of the chunk table.
    pub chunk_table_offset: u64,
    /// Records in the chunk table.
    pub chunk_table_records: u64,
    /// Start of the prefetch table, 0 for none.
    pub prefetch_table_offset: u64,
    /// Entries in the prefetch table.
    pub prefetch_table_entries: u32,
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
}

impl<B: AsRef<[u8]>> Bootstrap<B> {
    /// Checks superblock and tables (not the tree). Cost does not depend on the number of files.
    /// Errors: anything the reference loader refuses, docs/format.md "Acceptance".
    pub fn parse(_bytes: B) -> Result<Self, FormatError> {
        todo!()
    }

    /// The checked superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Data blobs in table order; a blob index is a position here.
    pub fn blobs(&self) -> &[Blob] {
        &self.blobs
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// The inode at `nid`, its body (xattrs, inline data, chunk references) checked to lie within the file.
    pub fn inode(&self, _nid: Nid) -> Result<Inode, FormatError> {
        todo!()
    }

    /// Names of a directory from position `from` on (0 = start), in byte order, `.` and `..` among them where
    /// they sort. Positions are (directory block << 16 | entry in the block); stable, since images do not change.
    pub fn dir_entries<'a>(&'a self, _dir: &Inode, _from: u64) -> Result<DirEntries<'a, B>, FormatError> {
        todo!()
    }

    /// Binary search for `name` in a directory: blocks first, then entries.
    pub fn lookup(&self, _dir: &Inode, _name: &[u8]) -> Result<Option<DirEntry<'_>>, FormatError> {
        todo!()
    }

    /// Target of a symbolic link, 1 to 4095 bytes.
    pub fn symlink_target(&self, _link: &Inode) -> Result<&[u8], FormatError> {
        todo!()
    }

    /// Extended attributes in stored order.
    pub fn xattrs<'a>(&'a self, _inode: &Inode) -> Result<crate::xattr::Xattrs<'a>, FormatError> {
        todo!()
    }

    /// Number of chunks of a regular file: its size divided by the chunk size, rounded up.
    pub fn chunk_count(&self, inode: &Inode) -> u64 {
        inode.size.div_ceil(u64::from(self.superblock.chunk_size))
    }

    /// The `n`-th chunk reference of a regular file.
    pub fn chunk_ref(&self, _file: &Inode, _n: u64) -> Result<ChunkRef, FormatError> {
        todo!()
    }

    /// The `n`-th record of the chunk table, in table order (by digest).
    pub fn chunk_record(&self, _n: u64) -> Result<Chunk, FormatError> {
        todo!()
    }

    /// Inodes of the prefetch table in their order.
    pub fn prefetch(&self) -> impl Iterator<Item = Nid> + '_ {
        std::iter::empty()
    }
}

/// Iterator over the names of a directory; ends after the first error.
#[derive(Debug)]
pub struct DirEntries<'a, B> {
    _bootstrap: &'a Bootstrap<B>,
}

impl<'a, B: AsRef<[u8]>> Iterator for DirEntries<'a, B> {
    type Item = Result<DirEntry<'a>, FormatError>;
    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}
