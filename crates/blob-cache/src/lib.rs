//! The local, verified copy of a blob.
//!
//! `<work_dir>/<blob id>.blob.data` holds the decompressed blob, sparse, each chunk at its uncompressed offset; so it is an EROFS
//! device too. `<blob id>.blob.data.chunk_map` says which chunks it *may* hold. Invariants: only bytes that hashed to their digest are
//! written; a chunk is marked ready after its bytes are written; a mark found on disk at start is a hint: the chunk is hashed again
//! on its first use in this process, so a torn, stale or foreign file costs a fetch and never a wrong byte.
//! The files belong to one open cache at a time; a second one keeps a private copy, since it could not trust what the other writes.
//! Fetching is asynchronous and single flight: readers of one chunk share one fetch. Reading a ready chunk is synchronous.
//! Where the cache's disk fails (full, read-only, I/O error), reads go on uncached from memory and a log line says so.

mod cache;
mod claims;
mod dir;
mod disk;
mod error;
mod fill;
mod flight;
mod made;
mod many;
mod merge;
mod part;
mod readers;
mod ready;
mod recent;
mod store;
mod tar;
mod units;
mod view;

pub use blob_storage::Priority;
pub use cache::{BlobCache, CacheOptions, CacheStats};
pub use dir::CacheDir;
pub use error::CacheError;
pub use fill::is_short;
pub use part::Part;
pub use view::{BlobView, ChunkTable};
