//! What the tests of this crate share.
#![allow(dead_code, unused_imports, reason = "each test program uses a part")]

pub mod model;

pub use testkit::tree::*;
