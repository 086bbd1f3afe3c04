//! Checks of the object that holds the chunk table of a layer that stays as it is: size, table of contents, sections, and its digest.
//!
//! Where the bootstrap does not name that object, nothing is said about it: an image of a plain tar is read without it, one of a gzip layer cannot
//! be opened in the first place.

use super::{Found, Problem, add, check_sections, hash};
use crate::data::{self, OpenBlob};
use crate::open::{BlobFile, BlobSource, Image};
use blob_storage::BackendError;
use rafs_codec::sections;
use rafs_format::{Blob, BlobFeatures, BlobId, Digest};
use sha2::{Digest as _, Sha256};
use std::ops::Range;
use std::sync::Mutex;

/// Place of these problems in a report: before those of chunks.
const FIRST: u64 = 0;

/// Checks the object with the chunk table of `blob`, whose data is `open`.
pub(super) fn check(
    image: &Image,
    (number, blob): (u32, &Blob),
    source: &BlobSource,
    open: &OpenBlob,
    found: &Mutex<Found>,
) {
    let named = image.is_inside_blob() || blob.table_id().is_some();
    if !blob.is_separate() || !named {
        return;
    }
    let report = |problem| add(found, (number, FIRST), problem);
    match data::table_file(image, blob, source, &open.file) {
        Err(source) => report(Problem::Open { source }),
        Ok(object) => match check_object(blob, open, &object) {
            Ok(problems) => problems.into_iter().for_each(report),
            Err(source) => report(Problem::Read { blob: name(blob), source }),
        },
    }
}

/// What the object is called in messages.
fn name(blob: &Blob) -> BlobId {
    blob.table_id().unwrap_or_else(|| blob.id.clone())
}

fn check_object(blob: &Blob, open: &OpenBlob, object: &BlobFile) -> Result<Vec<Problem>, BackendError> {
    let size = object.size()?;
    let mut problems = Vec::new();
    if blob.meta_size != 0 && blob.meta_size != size {
        problems.push(Problem::Size { blob: name(blob), found: size, expected: blob.meta_size });
    }
    let has_toc = blob.features.contains(BlobFeatures::HAS_TOC);
    if has_toc {
        problems.extend(check_toc(blob, object, size)?);
        problems.extend(check_sections(blob, (open, object), size)?.err());
    }
    // With a table of contents some builders made the digest before all of the object was written, so it says nothing there.
    if !has_toc && let Some(id) = blob.table_id() {
        let digest = hash(0..size, &mut |range| object.read(range))?;
        if digest != blob.meta_digest {
            problems.push(Problem::Id { blob: id, found: digest });
        }
    }
    Ok(problems)
}

/// Compares the table of contents with its digest, where that is known: over its entries and their tar header, as builders count, or over
/// the entries alone, as converters do that merge layers.
fn check_toc(blob: &Blob, object: &BlobFile, size: u64) -> Result<Option<Problem>, BackendError> {
    if blob.toc_digest == Digest([0; 32]) {
        return Ok(None);
    }
    let mut read = |range: Range<u64>| object.read(range).map(|bytes| bytes.to_vec());
    let toc = sections::before(size, &mut read)?.filter(|toc| toc.name == sections::TOC);
    let Some(toc) = toc.filter(|toc| toc.stored.end - toc.stored.start <= rafs_format::toc::MAX_SIZE) else {
        return Ok(Some(Problem::Toc { blob: name(blob), at: size.saturating_sub(sections::HEADER) }));
    };
    let bytes = read(toc.stored.start..size)?;
    let entries = bytes.len().saturating_sub(usize::try_from(sections::HEADER).unwrap_or(0));
    let digest = |bytes: &[u8]| Digest(Sha256::digest(bytes).into());
    let known = [digest(&bytes), digest(bytes.get(..entries).unwrap_or(&[]))];
    let same = known.contains(&blob.toc_digest);
    Ok((!same).then(|| Problem::Toc { blob: name(blob), at: toc.stored.start }))
}
