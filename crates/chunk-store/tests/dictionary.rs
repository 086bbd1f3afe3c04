//! Dictionaries against a map from digest and size to what was added first.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use chunk_store::{Builder, Dictionary, DictionaryError};
use common::{CHUNK, blob, chunk, digest, image, image_of};
use proptest::prelude::*;
use rafs_format::{BlobFeatures, Bootstrap, Chunk, Digest, DigestAlgorithm};
use std::collections::BTreeMap;

/// A few digests, some with a common start, so that they meet.
fn few_digests() -> impl Strategy<Value = Digest> {
    (0u64..12, prop::bool::ANY).prop_map(|(number, alike)| {
        let mut found = digest(number);
        if alike {
            found.0[..31].fill(0x55);
        }
        found
    })
}

/// Images of one blob each: its name, and digest and size of each chunk.
type Model = Vec<(u8, Vec<(Digest, u32)>)>;

fn images() -> impl Strategy<Value = Model> {
    let chunks = prop::collection::vec((few_digests(), 1u32..4), 1..20);
    prop::collection::btree_map(0u8..40, chunks, 0..6).prop_map(|all| all.into_iter().collect())
}

fn bootstrap((name, chunks): &(u8, Vec<(Digest, u32)>)) -> Bootstrap<Vec<u8>> {
    let records =
        (0..).zip(chunks).map(|(index, (digest, size))| chunk(0, index, *digest, *size)).collect::<Vec<_>>();
    let count = u32::try_from(records.len()).unwrap();
    image(records, &[blob(&format!("blob-{name}"), count)])
}

fn dictionary<'a>(images: impl IntoIterator<Item = &'a Bootstrap<Vec<u8>>>) -> Dictionary {
    let mut builder = Builder::new(DigestAlgorithm::Blake3);
    images.into_iter().for_each(|image| builder.add(image, image.blobs()).unwrap());
    builder.finish()
}

proptest! {
    #[test]
    fn finds_what_was_added_first(model in images(), again in prop::collection::vec(any::<prop::sample::Index>(), 0..3)) {
        let mut all: Vec<_> = model.iter().map(bootstrap).collect();
        if !all.is_empty() {
            // The same images again change nothing.
            let repeated: Vec<_> = again.iter().map(|at| at.get(&all).clone()).collect();
            all.extend(repeated);
        }
        let found = dictionary(&all);
        let mut first: BTreeMap<(Digest, u32), Chunk> = BTreeMap::new();
        for (number, (_, chunks)) in (0..).zip(&model) {
            for (index, (digest, size)) in (0..).zip(chunks) {
                first.entry((*digest, *size)).or_insert_with(|| chunk(number, index, *digest, *size));
            }
        }
        prop_assert_eq!(found.chunks().collect::<Vec<_>>(), first.values().copied().collect::<Vec<_>>());
        for number in 0..14 {
            for size in 1..5 {
                let digest = digest(number);
                prop_assert_eq!(found.lookup(&digest, size), first.get(&(digest, size)).copied());
            }
        }
        for (digest, _) in first.keys() {
            let smallest = first.iter().find(|((other, _), _)| other == digest).unwrap().1;
            prop_assert_eq!(found.lookup(digest, 0), Some(*smallest), "size 0 is any");
        }
        prop_assert_eq!(found.blobs().len(), model.len());
    }
}

/// Every value at its largest comes back as it went in.
#[test]
fn records_keep_every_bit() {
    let mut described = blob("large", 1 << 24);
    described.chunk_size = 1 << 24;
    described.compressed_size = 1 << 40;
    described.uncompressed_size = (1 << 44) - 4096;
    // Of a blob without a chunk table of its own, so that chunks may reach to its end.
    described.features.insert(BlobFeatures::SEPARATE | BlobFeatures::ZRAN);
    let mut largest = chunk(0, (1 << 24) - 1, Digest([0xFF; 32]), 1 << 24);
    largest.compressed_offset = (1 << 40) - (1 << 25);
    largest.compressed_size = 1 << 25;
    largest.uncompressed_offset = (1 << 44) - (1 << 25);
    let found = dictionary([&image_of(1 << 24, vec![largest], &[described])]);
    assert_eq!(found.lookup(&Digest([0xFF; 32]), 1 << 24), Some(largest));
}

#[test]
fn another_description_of_a_blob_is_refused_and_changes_nothing() {
    let first = image(vec![chunk(0, 0, digest(1), CHUNK)], &[blob("same", 1)]);
    let blobs = [blob("new", 1), blob("same", 2)];
    let second = image(vec![chunk(0, 0, digest(2), 7), chunk(1, 1, digest(3), 7)], &blobs);
    let mut builder = Builder::new(DigestAlgorithm::Blake3);
    builder.add(&first, first.blobs()).unwrap();
    let error = builder.add(&second, second.blobs()).unwrap_err();
    assert!(matches!(error, DictionaryError::Contradiction { id } if id.as_str() == "same"));
    let third = image(vec![chunk(0, 0, digest(4), 7)], &[blob("third", 1)]);
    builder.add(&third, third.blobs()).unwrap();
    let found = builder.finish();
    assert_eq!(found.blobs().iter().map(|blob| blob.id.as_str()).collect::<Vec<_>>(), ["same", "third"]);
    assert_eq!(found.lookup(&digest(4), 7).map(|chunk| chunk.blob), Some(1));
    assert_eq!((found.len(), found.lookup(&digest(2), 7)), (2, None));
}

/// A digest of another algorithm would never be found: such chunks are counted, so that somebody can say so.
#[test]
fn chunks_that_cannot_be_used_are_counted() {
    let mut other = blob("other", 2);
    other.digester = DigestAlgorithm::Sha256;
    let both = image(
        vec![chunk(0, 0, digest(1), 1), chunk(0, 1, digest(2), 1), chunk(1, 0, digest(3), 1)],
        &[other, blob("good", 1)],
    );
    let mut builder = Builder::new(DigestAlgorithm::Blake3);
    // What the bootstrap says of a blob is not what counts, but the description that comes with it.
    let mut blobs = both.blobs().to_vec();
    blobs[0].digester = DigestAlgorithm::Sha256;
    builder.add(&both, &blobs).unwrap();
    assert_eq!(builder.skipped(), 2);
    assert_eq!(builder.finish().len(), 1);
}

#[test]
fn damaged_tables_are_refused() {
    let good = image(vec![chunk(0, 0, digest(1), 7), chunk(0, 1, digest(2), 7)], &[blob("b", 2)]);
    let at = usize::try_from(good.superblock().chunk_table_offset).unwrap();
    // Index, stored size, uncompressed size, stored offset.
    for field in [72, 40, 44, 48] {
        let mut bytes = good.bytes().to_vec();
        bytes[at + field + 3] ^= 0x40;
        let bad = Bootstrap::parse(bytes).unwrap();
        let error = Builder::new(DigestAlgorithm::Blake3).add(&bad, bad.blobs()).unwrap_err();
        assert!(matches!(error, DictionaryError::Format(_)), "{field}: {error}");
    }
    assert!(matches!(
        Builder::new(DigestAlgorithm::Blake3).add(&good, &[]),
        Err(DictionaryError::Names { found: 0, expected: 1 })
    ));
}
