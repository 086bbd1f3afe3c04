//! Sections of a blob and its table of contents, on bytes that are anything.

use rafs_codec::sections::{BOOT, Coding, HEADER, Section, before, find_bootstrap};
use rafs_format::toc::{TocEntry, entries, section};
use rafs_format::{Compressor, Digest, FormatError};
use std::convert::Infallible;
use std::ops::Range;

/// Longest section that is decompressed here, in bytes. The table of contents may say more, up to what the decoder allows.
const PLAIN: u64 = 1 << 20;
/// Where the checksum of a tar header stands.
const CHECKSUM: Range<usize> = 148..156;

/// Takes `data` for a blob, as it is and with right checksums in its last two tar headers. Panics when a section leaves the blob or a table of
/// contents gives an entry that is not what it was read from.
pub fn try_bytes(data: &[u8]) {
    walk(data);
    let mut blob = data.to_vec();
    let mut end = blob.len();
    for _ in 0..2 {
        if !repair(&mut blob, end) {
            break;
        }
        let Some(found) = before(end as u64, &mut reader(&blob)).unwrap_or_else(|never| match never {})
        else {
            break;
        };
        end = usize::try_from(found.stored.start).unwrap_or(0);
    }
    walk(&blob);
}

/// Looks at all sections, then for the bootstrap.
fn walk(blob: &[u8]) {
    let size = blob.len() as u64;
    let mut end = size;
    while let Ok(Some(Section { name, stored })) = before(end, &mut reader(blob)) {
        assert!(stored.start <= stored.end && stored.end + HEADER == end && name.len() <= 512, "{stored:?}");
        table(&reader(blob)(stored.clone()).unwrap_or_else(|never| match never {}));
        end = stored.start;
    }
    let found = find_bootstrap(size, &mut reader(blob)).unwrap_or_else(|never| match never {});
    let Some((stored, coding)) = found else { return };
    assert!(stored.start <= stored.end && stored.end < size);
    if coding.compressor == Compressor::None || coding.plain_size <= PLAIN {
        let stored = reader(blob)(stored).unwrap_or_else(|never| match never {});
        if let Ok(plain) = coding.decode(stored) {
            assert!(coding.compressor == Compressor::None || plain.len() as u64 == coding.plain_size);
        }
    }
}

/// Every entry that can be written is written as it was read, but for what means nothing.
fn table(bytes: &[u8]) {
    for entry in entries(bytes) {
        let coding = Coding::of(entry);
        assert_eq!(coding.map(|coding| coding.compressor), entry.compressor());
        let (Ok(name), Some(by)) = (std::str::from_utf8(entry.name()), entry.compressor()) else { continue };
        let stored = (entry.compressed_offset.get(), entry.compressed_size.get());
        let again = TocEntry::new(name, by, entry.digest(), stored, entry.uncompressed_size.get());
        let again = again.unwrap_or_else(|error| panic!("read, but not written: {error}"));
        assert_eq!((again.name(), again.compressor()), (entry.name(), entry.compressor()));
        assert_eq!(again.encode()[24..80], entry.encode()[24..80]);
    }
}

/// Reads of `blob`. Panics at a range that leaves it.
fn reader(blob: &[u8]) -> impl FnMut(Range<u64>) -> Result<Vec<u8>, Infallible> {
    |range| {
        let range = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let found = range.and_then(|(start, end)| blob.get(start..end));
        Ok(found.unwrap_or_else(|| panic!("a read leaves the blob")).to_vec())
    }
}

/// Makes the checksum right of the tar header that ends at `end`. `false` where there is no room for one.
fn repair(blob: &mut [u8], end: usize) -> bool {
    let Some(start) = end.checked_sub(512) else { return false };
    let Some(header) = blob.get_mut(start..end) else { return false };
    header[CHECKSUM].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    true
}

/// A section and the tar header behind it.
fn with_header(name: &str, data: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).unwrap_or_else(|error| panic!("{error}"));
    header.set_size(data.len() as u64);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    [data, header.as_bytes()].concat()
}

/// A bootstrap behind data, as it is and compressed, with and without a table of contents.
pub fn seeds() -> Result<Vec<Vec<u8>>, FormatError> {
    let data = with_header(section::DATA, &[7; 100]);
    let plain = with_header(section::BOOTSTRAP, &[8; 600]);
    let mut all = vec![plain.clone(), [data.clone(), plain.clone()].concat()];
    for by in [Compressor::None, Compressor::Zstd, Compressor::Lz4Block] {
        let mut encoder = rafs_codec::Encoder::new(by, 3).unwrap_or_else(|error| panic!("{error}"));
        let mut stored = Vec::new();
        if !encoder.encode(&[8; 600], &mut stored).unwrap_or_else(|error| panic!("{error}")) {
            stored = vec![8; 600];
        }
        let name = std::str::from_utf8(BOOT).unwrap_or_default();
        let place = (data.len() as u64, stored.len() as u64);
        let entry = TocEntry::new(name, by, Digest([3; 32]), place, 600)?;
        let toc = [TocEntry::new(section::DATA, by, Digest([2; 32]), (0, 100), 100)?, entry];
        let toc: Vec<u8> = toc.iter().flat_map(|entry| entry.encode().to_vec()).collect();
        all.push(
            [data.clone(), with_header(section::BOOTSTRAP, &stored), with_header(section::TOC, &toc)]
                .concat(),
        );
    }
    Ok(all)
}
