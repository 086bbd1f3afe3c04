//! Saved states of inflating a gzip layer that stays as it is: where decoding may start, and what it must know there. docs/format.md, "Inflate states".
//!
//! A state and what follows it is a *span*; chunks are cut out of decoded spans. Knows where things stand, not how to inflate. No digest covers the
//! states; a wrong one leads to bytes that do not hash to their chunk's digest, never further than the ranges checked here.

use crate::read::{require, structure};
use crate::{Blob, FormatError};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// How far deflate looks back, in bytes: the longest dictionary.
pub const WINDOW: u32 = 32 << 10;
/// Longest span, stored and decoded, in bytes.
pub const MAX_SPAN: u32 = 16 << 20;
/// Size of a state in the table, in bytes, without its dictionary.
pub const CONTEXT_SIZE: usize = size_of::<ContextEntry>();

/// One state, 40 bytes.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ContextEntry {
    /// 0: first stored byte to feed.
    compressed_offset: U64,
    /// 8: where its output stands in the tar.
    uncompressed_offset: U64,
    /// 16: where the dictionary starts behind all states.
    dictionary_offset: U64,
    /// 24: stored bytes of the span.
    compressed_size: U32,
    /// 28: decoded bytes of the span.
    uncompressed_size: U32,
    /// 32: length of the dictionary, up to 32768.
    dictionary_size: U32,
    /// 36: the stored byte before the first one; 0 where none of its bits are left.
    byte: u8,
    /// 37: how many of its upper bits are still to be decoded.
    bits: u8,
    /// 38: 0.
    reserved: [u8; 2],
}
const _: () = assert!(size_of::<ContextEntry>() == 40);

/// A state as it is saved. Its dictionary is kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Context {
    /// First stored byte to feed, in bytes of the layer.
    pub compressed_offset: u64,
    /// Where its output stands in the tar.
    pub uncompressed_offset: u64,
    /// Stored bytes of the span.
    pub compressed_size: u32,
    /// Decoded bytes of the span.
    pub uncompressed_size: u32,
    /// The stored byte before the first one; 0 where none of its bits are left.
    pub byte: u8,
    /// How many of its upper bits are still to be decoded, 0 to 7.
    pub bits: u8,
}

/// Appends `contexts` and behind them their dictionaries to `table`, which holds all entries. Each dictionary is as long as its size says.
pub fn push_contexts<'a>(
    table: &mut Vec<u8>,
    contexts: impl Iterator<Item = (&'a Context, &'a [u8])> + Clone,
) -> Result<(), FormatError> {
    let mut dictionary_offset = 0u64;
    for (context, dictionary) in contexts.clone() {
        let size = u32::try_from(dictionary.len()).unwrap_or(u32::MAX);
        let limits = [
            ("dictionary of an inflate state", size.into(), WINDOW.into()),
            ("stored size of a span", context.compressed_size.into(), u64::from(MAX_SPAN)),
            ("size of a span", context.uncompressed_size.into(), u64::from(MAX_SPAN)),
        ];
        for (what, found, limit) in limits {
            if found > limit {
                return Err(FormatError::Limit { what, found, limit });
            }
        }
        let raw = ContextEntry {
            compressed_offset: context.compressed_offset.into(),
            uncompressed_offset: context.uncompressed_offset.into(),
            dictionary_offset: dictionary_offset.into(),
            compressed_size: context.compressed_size.into(),
            uncompressed_size: context.uncompressed_size.into(),
            dictionary_size: size.into(),
            byte: context.byte,
            bits: context.bits,
            reserved: [0; 2],
        };
        table.extend_from_slice(raw.as_bytes());
        dictionary_offset += u64::from(size);
    }
    contexts.for_each(|(_, dictionary)| table.extend_from_slice(dictionary));
    Ok(())
}

/// What decoding must know to start in the middle of a gzip stream.
#[derive(Clone, PartialEq, Eq)]
pub struct Resume {
    table: Arc<Vec<u8>>,
    dictionary: Range<usize>,
    byte: u8,
    bits: u8,
}

impl fmt::Debug for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("Resume");
        f.field("dictionary", &self.dictionary).field("bits", &self.bits).finish_non_exhaustive()
    }
}

impl Resume {
    /// Plain bytes before the span that it may refer to, at most 32 KiB.
    pub fn dictionary(&self) -> &[u8] {
        self.table.get(self.dictionary.clone()).unwrap_or(&[])
    }

    /// Bits to decode before the first stored byte: how many (0 to 7), and their value.
    pub fn pending(&self) -> (u8, u8) {
        (self.bits, u8::try_from(u16::from(self.byte) >> (8 - u16::from(self.bits))).unwrap_or(0))
    }
}

/// A span as the table names it.
pub(crate) struct Span {
    pub compressed: Range<u64>,
    pub uncompressed_size: u32,
    pub resume: Resume,
}

/// The span whose state is the `number`th of the `count` at byte `start` of `table`. Errors: a state that leaves table or blob.
pub(crate) fn span(
    table: &Arc<Vec<u8>>,
    (start, count): (u64, u32),
    number: u32,
    blob: &Blob,
) -> Result<Span, FormatError> {
    let known = number < count;
    require(known, "number of an inflate state", start, number.into(), "a state of the table")?;
    let at = start + u64::from(number) * CONTEXT_SIZE as u64;
    let raw: &ContextEntry = structure(table, "inflate state", at)?;
    let bits = raw.bits;
    require(bits < 8, "pending bits of an inflate state", at + 37, bits.into(), "0 to 7")?;
    let (stored, size) = (raw.compressed_size.get(), raw.uncompressed_size.get());
    let limited = "1 byte to 16 MiB";
    let good = |size: u32| (1..=MAX_SPAN).contains(&size);
    require(good(stored), "stored size of a span", at + 24, stored.into(), limited)?;
    require(good(size), "size of a span", at + 28, size.into(), limited)?;
    let first = raw.compressed_offset.get();
    let end = first.checked_add(stored.into()).filter(|&end| end <= blob.data_end());
    let Some(end) = end else {
        let (what, size, limit) = ("span", stored.into(), blob.data_end());
        return Err(FormatError::OutOfBounds { what, start: first, size, limit });
    };
    let dictionary = dictionary(table, start + u64::from(count) * CONTEXT_SIZE as u64, raw, at)?;
    let resume = Resume { table: Arc::clone(table), dictionary, byte: raw.byte, bits };
    Ok(Span { compressed: first..end, uncompressed_size: size, resume })
}

/// Where the dictionary of `raw` stands in `table`; dictionaries start at byte `start`.
fn dictionary(table: &[u8], start: u64, raw: &ContextEntry, at: u64) -> Result<Range<usize>, FormatError> {
    let (offset, size) = (raw.dictionary_offset.get(), raw.dictionary_size.get());
    require(size <= WINDOW, "dictionary size of an inflate state", at + 32, size.into(), "up to 32768")?;
    if size == 0 {
        return Ok(0..0);
    }
    let limit = table.len() as u64;
    let range = start.checked_add(offset).and_then(|first| Some(first..first.checked_add(size.into())?));
    let range = range.filter(|range| range.end <= limit);
    let fits =
        range.and_then(|range| Some(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?));
    let outside = FormatError::OutOfBounds {
        what: "dictionary of an inflate state",
        start: offset,
        size: size.into(),
        limit,
    };
    fits.ok_or(outside)
}
