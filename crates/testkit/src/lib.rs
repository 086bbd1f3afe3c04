//! Reference models, generators and failing readers for tests. Never a normal dependency.

pub mod blob;
pub mod estargz;
pub mod http;
pub mod image;
pub mod peer;
pub mod reader;
pub mod suite;
pub mod tree;

/// The whole specification of a file read: a slice, clamped at both ends.
pub fn model_read(file: &[u8], offset: u64, size: usize) -> &[u8] {
    let clamp = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(file.len());
    file.get(clamp(offset)..clamp(offset.saturating_add(size as u64))).unwrap_or(&[])
}
