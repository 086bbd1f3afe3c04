//! What mounts that share a blob's files say about its chunks: who says something else must not use them.
//!
//! A bootstrap is untrusted, and a blob id does not prove a chunk table: two images may name one blob and describe other chunks in it. So the first
//! image whose bytes are verified *claims* a chunk: its number, its place in the data file, and a tag of everything said about it. Who says the
//! same shares it; who says something else, or wants bytes of a claimed place for another chunk, is told so and must keep away.
//! Knows no files and no bytes. Invariant: claimed places do not overlap, so no write for one chunk reaches the bytes of another one.

use parking_lot::Mutex;
use rafs_format::{Blob, BlobFeatures, Chunk};
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

/// Blobs whose chunks need not lie in the order of their numbers; external ones may have chunks without digests, too.
const UNORDERED: BlobFeatures = BlobFeatures::EXTERNAL.union(BlobFeatures::CHUNKDICT_GENERATED);
/// Bits of a place that hold the size of a chunk less one: chunks have at most 2^24 bytes.
const SIZE_BITS: u32 = 24;
/// Data files end before this byte: what is left of a place for its start.
const LIMIT: u64 = 1 << (u64::BITS - SIZE_BITS);

/// What was said about a chunk, as a number: equal for equal descriptions, and not to be guessed for others. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Tag(u64);

#[cfg(test)]
impl Tag {
    pub(crate) fn of_test(tag: u64) -> Self {
        Self(tag)
    }
}

/// An image says of a chunk what cannot be true together with what another one says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contradiction;

/// Was a claim there before?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// No: it can be released if nothing comes of it.
    New,
    /// Yes.
    Known,
}

/// The claims of one blob's files. 16 bytes of memory for each chunk, taken as chunks are claimed.
#[derive(Debug)]
pub(crate) struct Claims {
    /// Random, so that nobody outside can make two descriptions with one tag.
    hasher: RandomState,
    /// Must places follow numbers? What else could overlap is not looked for.
    ordered: bool,
    entries: Mutex<Entries>,
}

#[derive(Debug)]
struct Entries {
    /// 0 for no claim.
    tags: Vec<u64>,
    /// First byte and size, see [`pack`].
    places: Vec<u64>,
    /// Which are claimed, for finding neighbours.
    claimed: Vec<u64>,
}

impl Claims {
    /// No claims, for `chunks` chunks. `shared`: do several images make them? One image does not contradict itself, which is seen to when it is opened.
    pub(crate) fn new(chunks: u32, shared: bool) -> Self {
        let count = chunks as usize;
        // Zeros come from the system as they are touched.
        let entries =
            Entries { tags: vec![0; count], places: vec![0; count], claimed: vec![0; count.div_ceil(64)] };
        Self { hasher: RandomState::new(), ordered: shared, entries: Mutex::new(entries) }
    }

    /// Can images share the files of `blob` at all? Not where their chunks cannot be compared, or nothing proves them.
    pub(crate) fn can_share(blob: &Blob) -> bool {
        !blob.features.intersects(UNORDERED)
    }

    /// The tag of what `blob` and `chunk` say.
    pub(crate) fn tag(&self, blob: &Blob, chunk: &Chunk) -> Tag {
        let stored = (chunk.compressed_offset, chunk.compressed_size, chunk.flags.bits(), chunk.crc32);
        let plain = (chunk.uncompressed_offset, chunk.uncompressed_size);
        let all = (blob.digester as u32, chunk.digest.0, stored, plain);
        Tag(self.hasher.hash_one(all).max(1))
    }

    /// Claims `chunk`. Errors: somebody said something else.
    pub(crate) fn claim(&self, chunk: &Chunk, tag: Tag) -> Result<Claim, Contradiction> {
        let place = place(chunk).ok_or(Contradiction)?;
        let mut entries = self.entries.lock();
        match entries.tags.get(chunk.index as usize) {
            Some(&known) if known == tag.0 => Ok(Claim::Known),
            Some(0) if !self.ordered || entries.fits(chunk.index as usize, &place) => {
                entries.set(chunk.index as usize, tag.0, pack(&place));
                Ok(Claim::New)
            }
            _ => Err(Contradiction),
        }
    }

    /// Takes a [`Claim::New`] back.
    pub(crate) fn release(&self, chunk: u32) {
        self.entries.lock().set(chunk as usize, 0, 0);
    }

    /// Is `chunk` claimed, and as `tag` says?
    pub(crate) fn agrees(&self, chunk: u32, tag: Tag) -> bool {
        self.entries.lock().tags.get(chunk as usize) == Some(&tag.0)
    }
}

impl Entries {
    /// Is `place` behind that of the claimed chunk before, and in front of that of the one behind?
    fn fits(&self, chunk: usize, place: &Range<u64>) -> bool {
        let at = |n: usize| self.places.get(n).map_or(0..0, |&packed| unpack(packed));
        self.before(chunk).is_none_or(|n| at(n).end <= place.start)
            && self.behind(chunk).is_none_or(|n| place.end <= at(n).start)
    }

    fn before(&self, chunk: usize) -> Option<usize> {
        let (word, bit) = (chunk / 64, chunk % 64);
        let first = self.claimed.get(word)? & ((1 << bit) - 1);
        let earlier = (0..word).rev().filter_map(|n| Some((n, *self.claimed.get(n)?)));
        let found = std::iter::once((word, first)).chain(earlier).find(|(_, bits)| *bits != 0);
        found.map(|(n, bits)| n * 64 + 63 - bits.leading_zeros() as usize)
    }

    fn behind(&self, chunk: usize) -> Option<usize> {
        let (word, bit) = (chunk / 64, chunk % 64);
        let first = self.claimed.get(word)? & (u64::MAX << bit) & !(1 << bit);
        let later = (word + 1..self.claimed.len()).filter_map(|n| Some((n, *self.claimed.get(n)?)));
        let found = std::iter::once((word, first)).chain(later).find(|(_, bits)| *bits != 0);
        found.map(|(n, bits)| n * 64 + bits.trailing_zeros() as usize)
    }

    fn set(&mut self, chunk: usize, tag: u64, place: u64) {
        let bit = 1 << (chunk % 64);
        if let (Some(t), Some(p), Some(c)) =
            (self.tags.get_mut(chunk), self.places.get_mut(chunk), self.claimed.get_mut(chunk / 64))
        {
            (*t, *p) = (tag, place);
            if tag == 0 { *c &= !bit } else { *c |= bit }
        }
    }
}

/// Where `chunk` is in the data file; `None` for what no format allows.
fn place(chunk: &Chunk) -> Option<Range<u64>> {
    let (start, size) = (chunk.uncompressed_offset, u64::from(chunk.uncompressed_size));
    let fits = start < LIMIT && (1..=1 << SIZE_BITS).contains(&size);
    fits.then(|| start..start + size)
}

fn pack(place: &Range<u64>) -> u64 {
    place.start << SIZE_BITS | (place.end - place.start - 1)
}

fn unpack(packed: u64) -> Range<u64> {
    let start = packed >> SIZE_BITS;
    start..start + (packed & ((1 << SIZE_BITS) - 1)) + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rafs_format::{ChunkFlags, Compressor, Digest};

    fn chunk(index: u32, start: u64, size: u32) -> Chunk {
        Chunk {
            digest: Digest([7; 32]),
            blob: 0,
            index,
            flags: ChunkFlags::empty(),
            compressed_offset: 0,
            compressed_size: 1,
            uncompressed_offset: start,
            uncompressed_size: size,
            file_offset: 0,
            crc32: 0,
        }
    }

    fn blob() -> Blob {
        testkit::blob::of_sizes("b", &[1], Compressor::None).blob
    }

    fn claim(claims: &Claims, chunk: &Chunk) -> Result<Claim, Contradiction> {
        claims.claim(chunk, claims.tag(&blob(), chunk))
    }

    #[test]
    fn a_tag_tells_everything_that_is_said() {
        let (claims, blob, known) = (Claims::new(9, true), blob(), chunk(3, 4096, 100));
        let tag = claims.tag(&blob, &known);
        let elsewhere = Chunk { blob: 5, file_offset: 9, ..known };
        assert_eq!(claims.tag(&blob, &elsewhere), tag, "where an image has it does not count");
        let others = [
            Chunk { digest: Digest([8; 32]), ..known },
            Chunk { flags: ChunkFlags::COMPRESSED, ..known },
            Chunk { compressed_offset: 1, ..known },
            Chunk { compressed_size: 2, ..known },
            Chunk { uncompressed_offset: 8192, ..known },
            Chunk { uncompressed_size: 101, ..known },
            Chunk { crc32: 1, ..known },
        ];
        for other in &others {
            assert_ne!(claims.tag(&blob, other), tag, "{other:?}");
        }
        let mut other = blob;
        other.digester = rafs_format::DigestAlgorithm::Sha256;
        assert_ne!(claims.tag(&other, &known), tag);
        assert_ne!(Claims::new(9, true).tag(&blob_of(&other), &known), tag, "another process has other tags");
    }

    fn blob_of(other: &Blob) -> Blob {
        Blob { digester: rafs_format::DigestAlgorithm::Blake3, ..other.clone() }
    }

    #[test]
    fn who_says_something_else_is_told() {
        let claims = Claims::new(200, true);
        assert_eq!(claim(&claims, &chunk(64, 8192, 4096)), Ok(Claim::New));
        assert_eq!(claim(&claims, &chunk(64, 8192, 4096)), Ok(Claim::Known));
        for other in [
            chunk(64, 8192, 4097),
            chunk(64, 0, 4096),
            chunk(63, 4096, 4097),
            chunk(1, 12288, 1),
            chunk(65, 12287, 9),
            chunk(199, 0, 10),
            chunk(200, 99999, 1),
            chunk(70, LIMIT, 1),
            chunk(70, 20000, 0),
            chunk(70, 20000, (1 << 24) + 1),
        ] {
            assert_eq!(claim(&claims, &other), Err(Contradiction), "{other:?}");
        }
        assert_eq!(claim(&claims, &chunk(63, 4096, 4096)), Ok(Claim::New));
        assert_eq!(claim(&claims, &chunk(199, 12288, 1 << 24)), Ok(Claim::New));
        claims.release(64);
        assert_eq!(claim(&claims, &chunk(64, 8192, 4095)), Ok(Claim::New), "what is released is free");
    }

    #[test]
    fn one_image_alone_may_have_any_order() {
        let claims = Claims::new(3, false);
        for n in [2, 0, 1] {
            assert_eq!(claim(&claims, &chunk(n, u64::from(3 - n) * 4096, 4096)), Ok(Claim::New));
        }
    }

    proptest! {
        /// Whatever is claimed in whatever order, places do not overlap and follow the numbers.
        #[test]
        fn claimed_places_never_overlap(wanted in prop::collection::vec((0u32..150, 0u64..40, 1u32..6), 1..60)) {
            let claims = Claims::new(140, true);
            let mut held: Vec<Chunk> = Vec::new();
            for (index, start, size) in wanted {
                let new = chunk(index, start, size);
                let end = |c: &Chunk| c.uncompressed_offset + u64::from(c.uncompressed_size);
                let same = held.contains(&new);
                let fits = index < 140 && held.iter().all(|c| match c.index.cmp(&index) {
                    std::cmp::Ordering::Less => end(c) <= start,
                    std::cmp::Ordering::Greater => end(&new) <= c.uncompressed_offset,
                    std::cmp::Ordering::Equal => false,
                });
                let expected = if same { Ok(Claim::Known) } else if fits { Ok(Claim::New) } else { Err(Contradiction) };
                prop_assert_eq!(claim(&claims, &new), expected);
                if expected == Ok(Claim::New) {
                    held.push(new);
                }
            }
        }
    }
}
