//! The bytes of a recorded profile: header, blobs, runs, BLAKE3 of all that.

use super::{Profile, Run};
use rafs_format::BlobId;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(super) const MAGIC: [u8; 8] = *b"RAFSPROF";
pub(super) const VERSION: u32 = 1;
/// Flag: the recording ended by itself.
pub(super) const COMPLETE: u32 = 1;

/// How a profile begins. On disk: 64 bytes, little endian. docs/format.md, "Recorded profile".
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    /// 0x00
    pub magic: [u8; 8],
    /// 0x08
    pub version: U32,
    /// 0x0C: [`COMPLETE`]; other bits mean nothing.
    pub flags: U32,
    /// 0x10: digest of the image's blobs.
    pub image: [u8; 32],
    /// 0x30: number of blobs, which follow.
    pub blobs: U32,
    /// 0x34: number of runs, which follow the blobs.
    pub runs: U32,
    _reserved: [u8; 8],
}
const _: () = assert!(size_of::<Header>() == 64);

/// A blob. On disk: 64 bytes.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawBlob {
    /// 0x00: its id, NUL-padded.
    pub id: [u8; BlobId::MAX],
}

/// A run of chunks. On disk: 12 bytes, little endian.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawRun {
    /// 0x00: number of the first chunk.
    pub chunk: U32,
    /// 0x04: when it was wanted, in milliseconds.
    pub millis: U32,
    /// 0x08: position of its blob.
    pub blob: U16,
    /// 0x0A: number of chunks.
    pub count: U16,
}
const _: () = assert!(size_of::<RawRun>() == 12);

impl Header {
    /// The header of `profile` with so many blobs and runs, both within their limits.
    pub(super) fn of(profile: &Profile, blobs: usize, runs: usize) -> Self {
        let count = |count| U32::new(u32::try_from(count).unwrap_or(u32::MAX));
        Self {
            magic: MAGIC,
            version: U32::new(VERSION),
            flags: U32::new(if profile.complete { COMPLETE } else { 0 }),
            image: profile.image.0,
            blobs: count(blobs),
            runs: count(runs),
            _reserved: [0; 8],
        }
    }
}

impl RawBlob {
    pub(super) fn of(id: &BlobId) -> Self {
        let mut raw = [0; BlobId::MAX];
        raw.iter_mut().zip(id.as_str().bytes()).for_each(|(to, from)| *to = from);
        Self { id: raw }
    }
}

impl RawRun {
    pub(super) fn of(run: &Run) -> Self {
        let Run { blob, chunk, count, millis } = *run;
        Self {
            chunk: U32::new(chunk),
            millis: U32::new(millis),
            blob: U16::new(blob),
            count: U16::new(count),
        }
    }
}
