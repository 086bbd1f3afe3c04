//! What is at an OCI registry, without RAFS. [`client`]: blobs by ranges, with authentication and redirects. [`layer`]: layers as a
//! stream of entries, compression recognised by magic, tar dialects (ustar, GNU, PAX) resolved.
#![forbid(unsafe_code)]

pub mod client;
pub mod layer;
mod secret;

pub use secret::Secret;
