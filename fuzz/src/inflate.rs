//! Inflating, and entering a stream in its middle, on bytes that are anything.

use flate2::{Compression, write::GzEncoder};
use rafs_codec::inflate::{Inflater, Stop, WINDOW, Wrapping};
use rafs_format::FormatError;
use std::io::Write;

/// Plain bytes that are looked at.
const ROOM: usize = 256 << 10;
/// Places in a stream that are entered again.
const PLACES: usize = 6;

/// Where decoding may start: stored bytes before it, plain bytes before it, pending bits, and what it may look back to.
#[derive(Debug)]
pub struct Place {
    /// First stored byte to feed.
    pub stored: usize,
    /// First plain byte that comes.
    pub plain: usize,
    /// Bits of the stored byte before that are still to be decoded.
    pub bits: u8,
    /// Plain bytes before it.
    pub dictionary: Vec<u8>,
}

/// Decodes `data` as gzip. Panics when output depends on where decoding started or on how it was asked for.
pub fn try_bytes(data: &[u8]) {
    let (places, plain, at_end) = walk(data);
    let mut room = vec![0; plain.len()];
    let mut inflater = new(Wrapping::Gzip);
    if let Ok(step) = inflater.inflate(data, &mut room, false) {
        assert!(step.consumed <= data.len() && room[..step.produced] == plain[..step.produced]);
        assert!(!at_end || step.produced == plain.len());
    }
    for place in places.iter().take(PLACES) {
        enter(data, place, &plain, at_end);
    }
}

/// Enters `data` at `place`: what comes is the rest of `plain`, all of it if the stream was good to its end.
fn enter(data: &[u8], place: &Place, plain: &[u8], at_end: bool) {
    assert!(plain[..place.plain].ends_with(&place.dictionary) && place.bits < 8);
    assert_eq!(place.dictionary.len(), place.plain.min(WINDOW));
    let mut inflater = new(Wrapping::Raw);
    let pending = u16::from(data[place.stored - 1]) >> (8 - place.bits);
    let primed = inflater.prime(place.bits, u8::try_from(pending).unwrap_or(0));
    primed.unwrap_or_else(|error| panic!("{place:?}: {error}"));
    inflater.set_dictionary(&place.dictionary).unwrap_or_else(|error| panic!("{place:?}: {error}"));
    let rest = &plain[place.plain..];
    let mut room = vec![0; rest.len()];
    match inflater.inflate(&data[place.stored..], &mut room, false) {
        Ok(step) => {
            assert!(room[..step.produced] == rest[..step.produced], "{place:?}");
            assert!(!at_end || step.produced == rest.len(), "{place:?}");
        }
        Err(error) => assert!(!at_end, "{place:?}: {error}"),
    }
}

/// Decodes the first gzip member of `data`, block by block: places before blocks, plain bytes, and whether its end was reached.
pub fn walk(data: &[u8]) -> (Vec<Place>, Vec<u8>, bool) {
    let mut inflater = new(Wrapping::Gzip);
    let (mut at, mut filled, mut plain, mut places) = (0, 0, vec![0; ROOM], Vec::new());
    let mut at_end = false;
    while let Ok(step) = inflater.inflate(&data[at..], &mut plain[filled..], true) {
        at += step.consumed;
        filled += step.produced;
        assert!(step.pending < 64 && usize::from(step.pending / 8) <= at);
        at_end = step.stop == Stop::End;
        if at_end || (step.stop == Stop::Full && step.consumed == 0 && step.produced == 0) {
            break;
        }
        if step.stop == Stop::Block {
            let mut dictionary = [0; WINDOW];
            let size = inflater.dictionary(&mut dictionary).unwrap_or_else(|error| panic!("{error}"));
            let stored = at - usize::from(step.pending / 8);
            if places.len() < PLACES {
                let dictionary = dictionary[..size].to_vec();
                places.push(Place { stored, plain: filled, bits: step.pending % 8, dictionary });
            } else if step.consumed == 0 && step.produced == 0 {
                break;
            }
        }
    }
    plain.truncate(filled);
    (places, plain, at_end)
}

fn new(wrapping: Wrapping) -> Inflater {
    Inflater::new(wrapping).unwrap_or_else(|error| panic!("{error}"))
}

/// A gzip member with text that repeats itself and text that does not.
pub fn member(size: u32, level: u32) -> (Vec<u8>, Vec<u8>) {
    let word = |n: u32| if n % 7 == 0 { n.wrapping_mul(0x9E37_79B1) } else { n / 50 };
    let plain: Vec<u8> = (0..size / 4).flat_map(|n| word(n).to_le_bytes()).collect();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    let written = encoder.write_all(&plain).and_then(|()| encoder.finish());
    (written.unwrap_or_else(|error| panic!("{error}")), plain)
}

/// Members of one block and of several, of each kind of block.
pub fn seeds() -> Result<Vec<Vec<u8>>, FormatError> {
    Ok([(0, 6), (100, 6), (40_000, 0), (40_000, 1), (120_000, 6), (200_000, 9)]
        .into_iter()
        .map(|(size, level)| member(size, level).0)
        .collect())
}
