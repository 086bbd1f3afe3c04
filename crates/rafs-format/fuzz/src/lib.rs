//! What the fuzz targets check, apart from the targets so that it can be read and reused: any bytes at all must give values or
//! errors, in time and memory that are linear in their number.

pub mod blob_meta;
pub mod bootstrap;
pub mod memory;
pub mod seeds;
