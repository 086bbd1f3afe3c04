//! What the fuzz targets check, apart from the targets so that it can be read and reused: any bytes at all must give values or
//! errors, in time and memory that are linear in their number.
//!
//! Parsers of crates with large dependencies (storage back-ends, databases) are taken by path, one file each: a run builds in a minute then.

pub mod gpt;
pub mod inflate;
pub mod ready_map;
pub mod sections;
pub mod spans;
pub mod stargz_toc;
