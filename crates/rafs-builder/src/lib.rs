//! Layers and directories to RAFS images, and back: create, check, inspect, unpack.
//!
//! Building is a bounded pipeline: one thread reads the source, all cores hash and compress chunks, one collector writes the
//! blob in source order. The output is the same bytes whatever the number of threads. Outputs appear whole (temporary file, fsync, rename) or not at all.

pub mod create;
