//! What the fuzz targets check, apart from the targets so that it can be read and reused: any bytes at all must give values or nothing,
//! without a panic, and no more of them than the bytes can hold.

pub mod docker_config;
pub mod header;
pub mod seeds;
pub mod tar_stream;
