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
//!
//! # Reading
//!
//! Open a bootstrap from bytes, walk it, resolve a path, list the chunks of a file:
//!
//! ```
//! use rafs_format::{Bootstrap, ChunkIndex, FileType, FormatError, check};
//!
//! # fn image() -> &'static [u8] { include_bytes!("../tests/golden/v6-dir-lz4-8k.boot") }
//! let bytes: &[u8] = image();
//! let bootstrap = Bootstrap::parse(bytes)?;
//!
//! // Everything, each structure checked. The closure may return an error of its own.
//! let mut links = Vec::new();
//! let summary = check::check(&bootstrap, &mut |visit| {
//!     if visit.inode.file_type == FileType::Symlink {
//!         links.push(bootstrap.symlink_target(&visit.inode)?.into_owned());
//!     }
//!     Ok::<(), FormatError>(())
//! })?;
//! assert_eq!(summary.entries, bootstrap.superblock().entries);
//! assert!(!links.is_empty());
//!
//! // One directory.
//! let root = bootstrap.inode(bootstrap.superblock().root)?;
//! for entry in bootstrap.dir_entries(&root, 0)? {
//!     let entry = entry?;
//!     println!("{} {}", entry.nid, String::from_utf8_lossy(entry.name));
//! }
//!
//! // One file: what it is made of, and where each part is stored.
//! let file = bootstrap.resolve(b"/dup/one")?.expect("the image has this file");
//! let index = ChunkIndex::build(&bootstrap)?;
//! for n in 0..bootstrap.chunk_count(&file) {
//!     let chunk = index.chunk(&bootstrap, &file, n)?;
//!     let blob = bootstrap.blobs().get(chunk.blob as usize).map(|blob| &blob.id);
//!     println!("{} is {} bytes at {} of {blob:?}", chunk.digest, chunk.compressed_size, chunk.compressed_offset);
//! }
//! # Ok::<(), FormatError>(())
//! ```
//!
//! # Writing
//!
//! A root directory with an empty file and a link to it. Names, targets and extended attributes are spans of one byte table:
//!
//! ```
//! use rafs_format::tree::{Entry, NewInode, Span, Tree};
//! use rafs_format::write::{self, Form, Options};
//! use rafs_format::{Bootstrap, Compressor, DigestAlgorithm, FormatError};
//!
//! let bytes = b"filelinkfile".to_vec();
//! let (file, link, target) = (Span { start: 0, len: 4 }, Span { start: 4, len: 4 }, Span { start: 8, len: 4 });
//! let tree = Tree {
//!     bytes,
//!     // The root first, then its children in byte order of their names.
//!     entries: vec![
//!         Entry { name: Span::default(), inode: 0, children: (1, 3) },
//!         Entry { name: file, inode: 1, children: (0, 0) },
//!         Entry { name: link, inode: 2, children: (0, 0) },
//!     ],
//!     inodes: vec![
//!         NewInode { mode: 0o040_755, ..NewInode::default() },
//!         NewInode { mode: 0o100_644, ..NewInode::default() },
//!         NewInode { mode: 0o120_777, target, ..NewInode::default() },
//!     ],
//!     ..Tree::default()
//! };
//! let options = Options {
//!     chunk_size: 1 << 20,
//!     compressor: Compressor::Zstd,
//!     digester: DigestAlgorithm::Blake3,
//!     explicit_ids: true,
//!     prefetch: Vec::new(),
//!     form: Form::V6,
//! };
//! let written = write::bootstrap(&tree, &[], &options)?;
//!
//! let bootstrap = Bootstrap::parse(written)?;
//! let link = bootstrap.resolve(b"/link")?.expect("it was just written");
//! assert_eq!(*bootstrap.symlink_target(&link)?, *b"file");
//! # Ok::<(), FormatError>(())
//! ```
#![forbid(unsafe_code)]

pub mod blob_entries;
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
pub mod zran;

pub use chunk::{Chunk, ChunkFlags, ChunkIndex, ChunkRef};
pub use device::Blob;
pub use error::FormatError;
pub use features::{BlobFeatures, Cipher, Compressor, DigestAlgorithm, SuperFlags};
pub use id::{BlobId, Digest, Nid};
pub use inode::{FileType, Inode};
pub use read::{Bootstrap, ChunkPlace, DirEntry, Superblock, Version};
