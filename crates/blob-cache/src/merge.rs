//! Which stored ranges are asked for by one request. Pure: knows ranges, no readers.
//!
//! Neighbours are one request as long as that is not too long, and so are ranges with little between them: a request costs more time than a short gap.
//! What lies in gaps is fetched for nothing, so it is at most a twentieth of a request.

use rafs_format::Chunk;
use rafs_format::blob_units::Unit;
use std::ops::Range;

/// Longest gap within a request, in bytes.
const GAP: u64 = 32 << 10;
/// So much of a request may be gaps, in parts of it.
const SHARE: u64 = 20;

/// A chunk and the unit that it is cut from.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) chunk: Chunk,
    pub(crate) unit: Unit,
}

impl Piece {
    /// Are both cut from the same unit?
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        self.unit.compressed == other.unit.compressed
            && self.unit.uncompressed_size == other.unit.uncompressed_size
    }

    /// What it is sorted by: where its unit is, then the place in it.
    pub(crate) fn order(&self) -> (u64, u64, u32) {
        (self.unit.compressed.start, self.unit.compressed.end, self.unit.start)
    }
}

/// Something with a place in the blob.
pub(crate) trait Stored {
    fn piece(&self) -> &Piece;
}

impl Stored for Piece {
    fn piece(&self) -> &Piece {
        self
    }
}

/// Puts `pieces` into requests of at most `most` bytes, unless one unit is longer. In the order of the blob, also within each request.
pub(crate) fn into_requests<P: Stored>(mut pieces: Vec<P>, most: u64) -> Vec<Vec<P>> {
    pieces.sort_by_key(|piece| piece.piece().order());
    let mut requests: Vec<Vec<P>> = Vec::new();
    let mut open = Open { range: 0..0, gaps: 0 };
    for piece in pieces {
        let next = &piece.piece().unit.compressed;
        match requests.last_mut() {
            Some(request) if open.takes(next, most) => request.push(piece),
            _ => {
                open = Open { range: next.clone(), gaps: 0 };
                requests.push(vec![piece]);
            }
        }
    }
    requests
}

/// Bytes of the blob that a request asks for.
pub(crate) fn range_of<P: Stored>(request: &[P]) -> Range<u64> {
    let ranges = request.iter().map(|piece| &piece.piece().unit.compressed);
    let start = ranges.clone().map(|range| range.start).min().unwrap_or(0);
    start..ranges.map(|range| range.end).max().unwrap_or(0).max(start)
}

/// A request that may become longer.
struct Open {
    range: Range<u64>,
    gaps: u64,
}

impl Open {
    /// Takes `next`, which does not start before what was taken last, if it belongs here.
    fn takes(&mut self, next: &Range<u64>, most: u64) -> bool {
        let end = self.range.end.max(next.end);
        let gap = next.start.saturating_sub(self.range.end);
        let (size, gaps) = (end - self.range.start, self.gaps.saturating_add(gap));
        let good = end == self.range.end || (size <= most && gap <= GAP && gaps <= size / SHARE);
        if good {
            (self.range.end, self.gaps) = (end, gaps);
        }
        good
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(range: Range<u64>) -> Piece {
        let unit =
            Unit { compressed: range, uncompressed_size: 1, is_compressed: true, start: 0, resume: None };
        let chunk = testkit::blob::of_sizes("b", &[1], rafs_format::Compressor::None).chunks[0];
        Piece { chunk, unit }
    }

    fn requests(ranges: &[Range<u64>], most: u64) -> Vec<(Range<u64>, usize)> {
        let requests = into_requests(ranges.iter().cloned().map(piece).collect(), most);
        requests.iter().map(|request| (range_of(request), request.len())).collect()
    }

    #[test]
    fn neighbours_are_one_request_up_to_its_limit() {
        assert_eq!(requests(&[], 100), []);
        assert_eq!(requests(&[40..60, 0..20, 20..40], 100), [(0..60, 3)]);
        assert_eq!(requests(&[0..50, 50..100, 100..101], 100), [(0..100, 2), (100..101, 1)]);
        assert_eq!(requests(&[0..500, 500..501], 100), [(0..500, 1), (500..501, 1)], "a long unit");
        // One unit is one unit, however many chunks are cut from it, and contradictions are fetched once.
        assert_eq!(requests(&[0..500, 0..500, 10..20], 100), [(0..500, 3)]);
    }

    #[test]
    fn short_gaps_are_fetched_too() {
        let mib = 1 << 20;
        assert_eq!(requests(&[0..mib, mib + GAP..2 * mib], 4 * mib).len(), 1);
        assert_eq!(requests(&[0..mib, mib + GAP + 1..2 * mib], 4 * mib).len(), 2);
        assert_eq!(requests(&[0..100, 105..110], 4 * mib), [(0..110, 2)]);
        assert_eq!(requests(&[0..100, 106..110], 4 * mib).len(), 2, "not for so little");
    }

    proptest! {
        #[test]
        fn every_piece_is_in_one_request_and_gaps_are_few(
            ranges in prop::collection::vec((0u64..1 << 20, 1u64..100_000), 0..60),
            most in 1u64..1 << 18,
        ) {
            let pieces: Vec<Piece> = ranges.iter().map(|&(at, size)| piece(at..at + size)).collect();
            let mut expected: Vec<_> = pieces.iter().map(Piece::order).collect();
            expected.sort_unstable();
            let requests = into_requests(pieces, most);
            let found: Vec<_> = requests.iter().flatten().map(Piece::order).collect();
            prop_assert_eq!(found, expected);
            for request in &requests {
                let range = range_of(request);
                let (size, mut covered, mut at) = (range.end - range.start, 0, range.start);
                for piece in request {
                    covered += piece.unit.compressed.end.saturating_sub(at.max(piece.unit.compressed.start));
                    at = at.max(piece.unit.compressed.end);
                }
                prop_assert!(size - covered <= size / SHARE);
                let longest = request[0].unit.compressed.end - range.start;
                prop_assert!(size <= most.max(longest));
            }
        }
    }
}
