//! Where chunks are stored already, so that a builder need not store them again.
//!
//! A [`Dictionary`] holds the chunks of any number of images in memory and finds them by digest; a [`Store`] keeps those of all images of a node
//! in a file and counts who uses them. Knows bootstraps and no bytes of chunks: whoever builds with a dictionary trusts it as it trusts the images it was made of. Invariant: a position that is
//! handed out is that of a chunk whose blob is in the dictionary's table and holds the chunk's range.
#![forbid(unsafe_code)]

pub mod dictionary;
pub mod store;

pub use dictionary::{Builder, Dictionary, DictionaryError};
pub use store::{Counts, Round, Store, StoreError};
