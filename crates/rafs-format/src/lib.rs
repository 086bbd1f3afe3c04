//! RAFS on-disk structures: bytes to values and back.
//!
//! A *bootstrap* holds all metadata of a file system (RAFS v6, which is a valid EROFS image, or the older v5); *blobs* hold the
//! data of its files, cut into chunks. This crate knows layouts and nothing else: no I/O, no clock, no hashing, no
//! decompression. Every length and offset read from an image is checked before it is used; a bad image is a
//! [`FormatError`] that names the place, never a panic.
//!
//! Shape of a reader: [`Bootstrap::parse`] takes any `AsRef<[u8]>` and looks at the superblock and tables only, so it
//! costs the same for ten files and a million. Everything else is looked up when asked. v5 and v6 are the same to whoever asks.
//! Shape of a writer: a [`tree::Tree`] in numbering order goes in, the bytes of a bootstrap come out of
//! [`write::bootstrap`].
#![forbid(unsafe_code)]

pub mod blob_meta;
pub mod blob_units;
pub mod check;
pub mod chunk;
pub mod device;
mod error;
pub mod features;
pub mod id;
pub mod inode;
pub mod layout;
pub mod read;
pub mod toc;
pub mod tree;
mod v5;
mod v6;
pub mod write;
pub mod xattr;

pub use chunk::{Chunk, ChunkFlags, ChunkIndex, ChunkRef};
pub use device::Blob;
pub use error::FormatError;
pub use features::{BlobFeatures, Cipher, Compressor, DigestAlgorithm, SuperFlags};
pub use id::{BlobId, Digest, Nid};
pub use inode::{FileType, Inode};
pub use read::{Bootstrap, ChunkPlace, DirEntry, Superblock, Version};
