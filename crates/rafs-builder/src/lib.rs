//! Layers and directories to RAFS images, and back: create, merge, compact, check, inspect, stat, unpack; and what two images have in common: diff, verify.
//!
//! Building is a bounded pipeline: one thread reads the source, all cores hash and compress chunks, one collector writes the
//! blob in source order. The output is the same bytes whatever the number of threads. Outputs appear whole (temporary file, fsync, rename) or not at all.
//!
//! The other way round, [`open`] finds bootstrap and blobs, [`data`] turns stored chunks into verified bytes, and [`check`],
//! [`inspect`] and [`unpack`] stand on both. [`digest`] says by one digest what a tree is, on which [`diff`] and [`verify`] stand.

pub mod attributes;
pub mod check;
pub mod chunkdict;
pub mod compact;
pub mod config;
pub mod create;
pub mod data;
pub mod diff;
pub mod export;
pub mod inspect;
pub mod keys;
pub mod merge;
pub mod open;
pub mod optimize;
pub mod output;
pub mod repack;
pub mod stat;
pub mod tree;
pub mod unpack;
pub mod verify;

pub use cli_report::chain;
pub use rafs_merkle::image as digest;
