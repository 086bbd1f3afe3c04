//! What the tests of this crate share.

pub use testkit::tree::*;
