//! A recorded profile: which chunks the readers of an image wanted first, in which order, and when.
//!
//! One run records it ([`Recorder`]), the next ones fetch in its order before anybody asks. It names chunks by blob id and number, so that images
//! that share blobs can use each other's. What is in a file is untrusted: everything is checked, and a profile only says what to fetch early.

mod layout;
mod recorder;

pub use recorder::{NotRecorded, Recorder};

use layout::{Header, RawBlob, RawRun};
use rafs_format::{Blob, BlobId, Digest, DigestAlgorithm};
use zerocopy::{FromBytes, IntoBytes};

/// Longest profile, in bytes; a reader may refuse a longer file unread.
pub const MAX_PROFILE_SIZE: u64 =
    (size_of::<Header>() + MAX_BLOBS * size_of::<RawBlob>() + MAX_RUNS * size_of::<RawRun>() + CHECKSUM)
        as u64;
/// Most blobs that a profile names.
const MAX_BLOBS: usize = 4096;
/// Most runs of chunks in a profile.
const MAX_RUNS: usize = 1 << 16;
/// Bytes of the checksum at the end.
const CHECKSUM: usize = 32;

/// A recorded profile. docs/format.md, "Recorded profile".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// The image that it was recorded of, see [`image_digest`].
    pub image: Digest,
    /// Did the recording end by itself, after its time or when it was full? Else the image was unmounted first.
    pub complete: bool,
    /// The blobs that `runs` name by position.
    pub blobs: Vec<BlobId>,
    /// In the order in which they were first wanted.
    pub runs: Vec<Run>,
}

/// Chunks of one blob with numbers in a row, wanted one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Position in [`Profile::blobs`].
    pub blob: u16,
    /// Number of the first chunk.
    pub chunk: u32,
    /// Number of chunks, at least 1.
    pub count: u16,
    /// When the first one was wanted, in milliseconds since the first read of the image.
    pub millis: u32,
}

/// Why bytes are no profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum ProfileError {
    #[error("does not begin as a recorded profile does")]
    Magic,
    #[error("is a recorded profile of version {found}, expected 1")]
    Version { found: u32 },
    #[error("{found} {what}, expected at most {limit}")]
    Limit { what: &'static str, found: u32, limit: usize },
    #[error("is {found} bytes long, expected {expected}: it is cut off, or something was added")]
    Size { found: usize, expected: usize },
    #[error("is damaged: its BLAKE3 checksum is {found}, expected {expected}")]
    Checksum { found: Digest, expected: Digest },
    #[error("{what} of entry {entry} is {found}, expected {expected}")]
    Value { what: &'static str, entry: usize, found: u32, expected: &'static str },
    #[error("blob {blob} has no usable id")]
    BlobId { blob: usize },
}

impl Profile {
    /// Reads a profile. Errors: anything that [`Profile::to_bytes`] would not write.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProfileError> {
        let (header, rest) = Header::ref_from_prefix(bytes).map_err(|_short| ProfileError::Magic)?;
        if header.magic != layout::MAGIC {
            return Err(ProfileError::Magic);
        }
        if header.version.get() != layout::VERSION {
            return Err(ProfileError::Version { found: header.version.get() });
        }
        let blobs = bounded("blobs", header.blobs.get(), MAX_BLOBS)?;
        let runs = bounded("entries", header.runs.get(), MAX_RUNS)?;
        let body = blobs * size_of::<RawBlob>() + runs * size_of::<RawRun>();
        let size = ProfileError::Size { found: bytes.len(), expected: size_of::<Header>() + body + CHECKSUM };
        if rest.len() != body + CHECKSUM {
            return Err(size);
        }
        check(bytes)?;
        let Ok((raw_blobs, rest)) = <[RawBlob]>::ref_from_prefix_with_elems(rest, blobs) else {
            return Err(size);
        };
        let Ok((raw_runs, _)) = <[RawRun]>::ref_from_prefix_with_elems(rest, runs) else { return Err(size) };
        Ok(Self {
            image: Digest(header.image),
            complete: header.flags.get() & layout::COMPLETE != 0,
            blobs: raw_blobs.iter().enumerate().map(blob_id).collect::<Result<_, _>>()?,
            runs: raw_runs.iter().enumerate().map(|(n, raw)| run(n, raw, blobs)).collect::<Result<_, _>>()?,
        })
    }

    /// The bytes of the profile. What is over the limits of the format is left out.
    pub fn to_bytes(&self) -> Vec<u8> {
        let blobs = self.blobs.get(..MAX_BLOBS).unwrap_or(&self.blobs);
        let known = |run: &&Run| usize::from(run.blob) < blobs.len() && run.count > 0;
        let runs: Vec<_> = self.runs.iter().filter(known).take(MAX_RUNS).map(RawRun::of).collect();
        let mut bytes = Vec::new();
        bytes.extend_from_slice(Header::of(self, blobs.len(), runs.len()).as_bytes());
        blobs.iter().for_each(|id| bytes.extend_from_slice(RawBlob::of(id).as_bytes()));
        bytes.extend_from_slice(runs.as_bytes());
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum.0);
        bytes
    }

    /// Does `bytes` begin as a profile does, whatever comes then?
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes.starts_with(&layout::MAGIC)
    }

    /// Number of chunks.
    pub fn chunks(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.count)).sum()
    }
}

/// What a profile calls an image: BLAKE3 over its blobs, each with the length of its id (1 byte), the id, its number of chunks (4 bytes, little endian)
/// and its decompressed size (8 bytes). Images that differ only in metadata have one, and their profiles fit each other.
pub fn image_digest(blobs: &[Blob]) -> Digest {
    let mut text = Vec::new();
    for blob in blobs {
        let id = blob.id.as_str().as_bytes();
        // At most 64.
        text.push(u8::try_from(id.len()).unwrap_or(u8::MAX));
        text.extend_from_slice(id);
        text.extend_from_slice(&blob.chunk_count.to_le_bytes());
        text.extend_from_slice(&blob.uncompressed_size.to_le_bytes());
    }
    checksum(&text)
}

fn checksum(bytes: &[u8]) -> Digest {
    rafs_merkle::digest(DigestAlgorithm::Blake3, bytes)
}

fn bounded(what: &'static str, found: u32, limit: usize) -> Result<usize, ProfileError> {
    let count = usize::try_from(found).ok().filter(|&count| count <= limit);
    count.ok_or(ProfileError::Limit { what, found, limit })
}

/// Compares the checksum at the end with what is before it.
fn check(bytes: &[u8]) -> Result<(), ProfileError> {
    let Some((body, expected)) = bytes.split_last_chunk::<CHECKSUM>() else {
        return Err(ProfileError::Magic);
    };
    let (found, expected) = (checksum(body), Digest(*expected));
    if found == expected { Ok(()) } else { Err(ProfileError::Checksum { found, expected }) }
}

fn blob_id((blob, raw): (usize, &RawBlob)) -> Result<BlobId, ProfileError> {
    let end = raw.id.iter().position(|&byte| byte == 0).unwrap_or(raw.id.len());
    let (id, padding) = raw.id.split_at(end);
    let id = std::str::from_utf8(id).ok().filter(|_| padding.iter().all(|&byte| byte == 0));
    id.and_then(|id| BlobId::new(id).ok()).ok_or(ProfileError::BlobId { blob })
}

fn run(entry: usize, raw: &RawRun, blobs: usize) -> Result<Run, ProfileError> {
    let run = Run {
        blob: raw.blob.get(),
        chunk: raw.chunk.get(),
        count: raw.count.get(),
        millis: raw.millis.get(),
    };
    let wrong = |what, found, expected| ProfileError::Value { what, entry, found, expected };
    if usize::from(run.blob) >= blobs {
        return Err(wrong("blob", run.blob.into(), "one of those that the profile names"));
    }
    if run.count == 0 {
        return Err(wrong("number of chunks", 0, "at least 1"));
    }
    if run.chunk.checked_add(run.count.into()).is_none() {
        return Err(wrong("first chunk", run.chunk, "a number that its chunks fit behind"));
    }
    Ok(run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn profile() -> Profile {
        let ids = ["a", &"f".repeat(64)].map(|id| BlobId::new(id).unwrap());
        let run = |blob, chunk, count, millis| Run { blob, chunk, count, millis };
        Profile {
            image: Digest([7; 32]),
            complete: true,
            blobs: ids.to_vec(),
            runs: vec![run(1, 5, 3, 0), run(0, u32::MAX - 1, 1, 12), run(1, 0, 1, u32::MAX)],
        }
    }

    /// `bytes` with the checksum that they should have.
    fn sealed(bytes: &[u8]) -> Vec<u8> {
        let body = &bytes[..bytes.len() - CHECKSUM];
        [body, &checksum(body).0].concat()
    }

    #[test]
    fn a_profile_is_what_was_written() {
        let bytes = profile().to_bytes();
        assert_eq!(bytes.len(), 64 + 2 * 64 + 3 * 12 + 32);
        assert_eq!(Profile::parse(&bytes).unwrap(), profile());
        assert_eq!(profile().chunks(), 5);
        let empty = Profile { blobs: Vec::new(), runs: Vec::new(), complete: false, ..profile() };
        assert_eq!(Profile::parse(&empty.to_bytes()).unwrap(), empty);
    }

    #[test]
    fn every_byte_counts() {
        let good = profile().to_bytes();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Profile::parse(&bad).is_err(), "byte {at}");
            assert!(Profile::parse(&good[..at]).is_err(), "cut at {at}");
        }
        assert!(Profile::parse(&[good.as_slice(), b"x"].concat()).is_err());
    }

    #[test]
    fn wrong_values_are_named() {
        let said = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = profile().to_bytes();
            change(&mut bytes);
            Profile::parse(&sealed(&bytes)).unwrap_err().to_string()
        };
        let runs = 64 + 2 * 64;
        assert_eq!(said(&|bytes| bytes[0] = b'r'), "does not begin as a recorded profile does");
        assert_eq!(said(&|bytes| bytes[8] = 2), "is a recorded profile of version 2, expected 1");
        assert_eq!(said(&|bytes| bytes[0x32] = 1), "65538 blobs, expected at most 4096");
        assert_eq!(said(&|bytes| bytes[0x36] = 2), "131075 entries, expected at most 65536");
        assert_eq!(
            said(&|bytes| bytes[0x34] = 4),
            "is 260 bytes long, expected 272: it is cut off, or something was added"
        );
        assert_eq!(said(&|bytes| bytes[64] = b'/'), "blob 0 has no usable id");
        assert_eq!(said(&|bytes| bytes[64 + 2] = b'x'), "blob 0 has no usable id");
        assert_eq!(
            said(&|bytes| bytes[runs + 8] = 2),
            "blob of entry 0 is 2, expected one of those that the profile names"
        );
        assert_eq!(
            said(&|bytes| bytes[runs + 10] = 0),
            "number of chunks of entry 0 is 0, expected at least 1"
        );
        let many = said(&|bytes| bytes[runs + 12 + 10] = 2);
        assert_eq!(
            many,
            "first chunk of entry 1 is 4294967294, expected a number that its chunks fit behind"
        );
    }

    #[test]
    fn what_is_over_the_limits_is_left_out() {
        let mut long = profile();
        long.runs = vec![long.runs[0]; MAX_RUNS + 5];
        long.blobs = vec![long.blobs[1].clone(); MAX_BLOBS + 5];
        long.runs[0].blob = u16::try_from(MAX_BLOBS).unwrap();
        let bytes = long.to_bytes();
        assert_eq!(bytes.len() as u64, MAX_PROFILE_SIZE);
        let read = Profile::parse(&bytes).unwrap();
        assert_eq!((read.blobs.len(), read.runs.len()), (MAX_BLOBS, MAX_RUNS));
        assert_eq!(read.runs[0], long.runs[1]);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_profile_or_an_error(
            mut bytes in vec(any::<u8>(), 0..400), counts in (0u32..4, 0u32..9), headed in any::<bool>(),
        ) {
            if headed && bytes.len() >= 64 + CHECKSUM {
                bytes[..8].copy_from_slice(&layout::MAGIC);
                bytes[8..16].copy_from_slice(&[1, 0, 0, 0, 1, 0, 0, 0]);
                bytes[0x30..0x34].copy_from_slice(&counts.0.to_le_bytes());
                bytes[0x34..0x38].copy_from_slice(&counts.1.to_le_bytes());
                let whole = 64 + counts.0 as usize * 64 + counts.1 as usize * 12 + CHECKSUM;
                bytes.resize(whole, 0x41);
                bytes = sealed(&bytes);
            }
            if let Ok(profile) = Profile::parse(&bytes) {
                prop_assert_eq!(Profile::parse(&profile.to_bytes()), Ok(profile));
            }
        }
    }
}
