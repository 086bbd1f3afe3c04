//! Named sections of a blob: each is followed by a tar header that describes it, so they are found from the end.
//!
//! Knows tar headers and the table of contents, not what sections hold. Bytes come from a function, so that a file and a
//! remote blob are walked alike.

use crate::{CodecError, Decoder};
use rafs_format::Compressor;
use rafs_format::toc::{self, TocEntry, section};
use std::ops::Range;

/// Size of a tar header, in bytes.
pub const HEADER: u64 = 512;
/// Name of the table of contents.
pub const TOC: &[u8] = section::TOC.as_bytes();
/// Name of the bootstrap.
pub const BOOT: &[u8] = section::BOOTSTRAP.as_bytes();
/// Sections looked at to find a bootstrap inside a blob: a table of contents may stand behind it, nothing else.
const MAX_SECTIONS: usize = 2;
/// Longest section that is decompressed, in bytes after decompression.
const MAX_PLAIN: u64 = 1 << 30;

/// A section: its name and where its bytes lie. Its tar header follows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Name, without padding.
    pub name: Vec<u8>,
    /// First byte in the blob, and one past the last.
    pub stored: Range<u64>,
}

/// The section whose tar header ends at `end`; `None` where there is no such header. `read` gives bytes of the blob.
pub fn before<E>(
    end: u64,
    read: &mut dyn FnMut(Range<u64>) -> Result<Vec<u8>, E>,
) -> Result<Option<Section>, E> {
    let Some(start) = end.checked_sub(HEADER) else { return Ok(None) };
    Ok(parse(&read(start..end)?, start))
}

/// The bootstrap inside a blob of `size` bytes: where it is stored and how; `None` for a blob without one, and for any other file. A bootstrap that is a
/// file of its own has no tar header behind it, so this, and not how the file begins, tells them apart: the data of a blob may begin like a bootstrap, and
/// a blob without data is its bootstrap and a header.
pub fn find_bootstrap<E>(
    size: u64,
    read: &mut dyn FnMut(Range<u64>) -> Result<Vec<u8>, E>,
) -> Result<Option<(Range<u64>, Coding)>, E> {
    let mut end = size;
    let mut table = Vec::new();
    for _ in 0..MAX_SECTIONS {
        let Some(Section { name, stored }) = before(end, read)? else { return Ok(None) };
        let size = stored.end - stored.start;
        if name == BOOT {
            let entry = toc::entries(&table).find(|entry| entry.name() == BOOT);
            let plain = Coding { compressor: Compressor::None, plain_size: size };
            return Ok(Some((stored, entry.and_then(Coding::of).unwrap_or(plain))));
        }
        if name != TOC || size > toc::MAX_SIZE {
            return Ok(None);
        }
        table = read(stored.clone())?;
        end = stored.start;
    }
    Ok(None)
}

/// The section that the tar header at `start` describes.
fn parse(bytes: &[u8], start: u64) -> Option<Section> {
    if bytes.len() as u64 != HEADER {
        return None;
    }
    let header = tar::Header::from_byte_slice(bytes);
    let is_header = header.as_gnu().is_some()
        && header.entry_type() == tar::EntryType::Regular
        && header.cksum().is_ok_and(|stated| stated == checksum(bytes));
    let size = header.entry_size().ok().filter(|_| is_header)?;
    let stored = start.checked_sub(size)?..start;
    Some(Section { name: header.path_bytes().into_owned(), stored })
}

/// The checksum of a tar header: the sum of its bytes, those of the checksum field (148 to 155) taken as blanks.
fn checksum(header: &[u8]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    let field = header.get(148..156).map_or(0, sum);
    sum(header) - field + 8 * u32::from(b' ')
}

/// How a section is stored, and its length when decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coding {
    /// Compression.
    pub compressor: Compressor,
    /// Length after decompression, in bytes.
    pub plain_size: u64,
}

impl Coding {
    /// What a table of contents says; `None` for a compression that is not known.
    pub fn of(entry: &TocEntry) -> Option<Self> {
        Some(Self { compressor: entry.compressor()?, plain_size: entry.uncompressed_size.get() })
    }

    /// The plain bytes of a section. Errors: damage, or over 1 GiB of it.
    pub fn decode(self, stored: Vec<u8>) -> Result<Vec<u8>, CodecError> {
        if self.compressor == Compressor::None {
            return Ok(stored);
        }
        let plain = usize::try_from(self.plain_size.min(MAX_PLAIN)).unwrap_or(usize::MAX);
        Decoder::new().decode(self.compressor, &stored, plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, size: u64) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_size(size);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    #[test]
    fn a_header_describes_what_is_before_it() {
        let blob = [vec![7; 100], header("image.blob", 100)].concat();
        let mut read = |range: Range<u64>| {
            Ok::<_, ()>(
                blob[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()].to_vec(),
            )
        };
        let expected = Section { name: b"image.blob".to_vec(), stored: 0..100 };
        assert_eq!(before(612, &mut read), Ok(Some(expected)));
        assert_eq!(before(611, &mut read), Ok(None));
        assert_eq!(before(511, &mut read), Ok(None));
    }

    #[test]
    fn any_damage_to_a_header_is_seen() {
        let good = header("blob.meta", 10);
        assert!(parse(&good, 10).is_some());
        assert!(parse(&good, 9).is_none(), "it would start before the blob");
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x41;
            assert_eq!(parse(&bytes, 10), None, "byte {at}");
        }
    }
}
