//! OCI layers as a stream of entries: compression recognised by magic, tar dialects (ustar, GNU, PAX) resolved. Knows no RAFS.
#![forbid(unsafe_code)]

pub mod layer;
