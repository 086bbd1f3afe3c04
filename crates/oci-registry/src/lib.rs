//! What is at an OCI registry, without RAFS. [`client`]: blobs by ranges, with authentication and redirects. [`login`]: users and
//! passwords, where docker and podman keep them. [`layer`]: layers as a
//! stream of entries, compression recognised by magic, tar dialects (ustar, GNU, PAX) resolved.
#![forbid(unsafe_code)]

pub mod client;
pub mod layer;
pub mod login;
mod secret;

pub use secret::Secret;
