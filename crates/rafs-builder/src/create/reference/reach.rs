//! Which bytes before a span it looks back to. Only they are worth a place in its inflate state.
//!
//! Back-references reach 32 KiB, so that only the first 32 KiB of a span's output can refer to what stands before it; what comes later copies from those. How a
//! stream is decoded does not depend on the bytes that it copies. So its beginning is decoded three times, with made-up windows: one has the lower
//! byte of each position, one the upper, one the complement of the lower. Output where the first and the third differ was copied, from the position that
//! the first two tell. This is exact: a byte that is left out could be anything.

use rafs_codec::inflate::{InflateError, Inflater, Stop, WINDOW, Wrapping};
use rafs_format::zran::Context;

/// Stored bytes kept of one span's beginning; if that takes more, its window is kept whole.
const MAX_LOG: usize = 1 << 20;

/// Stored bytes of a layer from a place on, until it is clear what follows the place looks back to.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Where `bytes` start in the layer.
    start: u64,
    bytes: Vec<u8>,
    /// The last place: stored bytes and plain bytes before it.
    last: (u64, u64),
    /// The place where the last span begins, if its window is still looked for.
    pin: Option<(u64, u64)>,
    /// What followed a pinned place, all there.
    ready: Option<Vec<u8>>,
    /// Did the last bytes taken become part of `bytes`?
    grows: bool,
    overflow: bool,
}

/// Does anything from plain byte `at` on refer to what stands before `place`?
fn is_past(place: (u64, u64), at: u64) -> bool {
    at >= place.1 + WINDOW as u64
}

impl Log {
    /// Decoding takes `taken`, and what it makes starts at plain byte `at`.
    pub fn add(&mut self, taken: &[u8], at: u64) {
        // A pinned place is not behind the last one.
        self.grows = !self.overflow && !is_past(self.last, at);
        if !self.grows {
            return;
        }
        self.bytes.extend_from_slice(taken);
        if self.bytes.len() > MAX_LOG {
            (self.bytes, self.overflow, self.pin) = (Vec::new(), true, None);
        }
    }

    /// There is a place before stored byte `stored`; `ahead` was taken already.
    pub fn begin(&mut self, stored: u64, plain: u64, ahead: &[u8]) {
        self.ready = self.pinned(plain, false);
        self.last = (stored, plain);
        if self.pin.is_none() {
            (self.start, self.overflow) = (stored, false);
            self.bytes.clear();
            self.bytes.extend_from_slice(ahead);
        }
    }

    /// The last `count` bytes were not decoded.
    pub fn take_back(&mut self, count: usize) {
        if self.grows {
            self.bytes.truncate(self.bytes.len().saturating_sub(count));
        }
    }

    /// A span begins at the last place. One before it that is not done keeps its whole window.
    pub fn pin(&mut self) {
        self.pin = Some(self.last).filter(|_| !self.overflow);
        self.ready = None;
    }

    /// The stored bytes from the pinned place on, once, when output is at `produced` and all of them are there or the layer `ended`.
    pub fn pinned(&mut self, produced: u64, ended: bool) -> Option<Vec<u8>> {
        if self.ready.is_some() {
            return self.ready.take();
        }
        let place = self.pin.filter(|&place| ended || is_past(place, produced))?;
        self.pin = None;
        let from = usize::try_from(place.0.checked_sub(self.start)?).ok()?;
        self.bytes.get(from..).map(<[u8]>::to_vec)
    }
}

/// Sets the bytes of `dictionary` that decoding of `stored`, from the state `context` on, never looks back to, to 0, and cuts them off at its beginning.
pub(super) fn keep_reached(
    context: &Context,
    dictionary: &mut Vec<u8>,
    stored: &[u8],
) -> Result<(), InflateError> {
    let mut reached = vec![false; dictionary.len()];
    let window = |byte: &dyn Fn([u8; 2]) -> u8| -> Vec<u8> {
        let positions = (0..=u16::MAX).take(dictionary.len());
        positions.map(|position| byte(position.to_le_bytes())).collect()
    };
    let low = beginning(context, &window(&|[low, _]| low), stored)?;
    let high = beginning(context, &window(&|[_, high]| high), stored)?;
    let other = beginning(context, &window(&|[low, _]| !low), stored)?;
    for ((low, high), _) in low.iter().zip(&high).zip(&other).filter(|((low, _), other)| low != other) {
        if let Some(reached) = reached.get_mut(usize::from(u16::from_le_bytes([*low, *high]))) {
            *reached = true;
        }
    }
    let unused = reached.iter().take_while(|reached| !**reached).count();
    dictionary.iter_mut().zip(&reached).filter(|(_, reached)| !**reached).for_each(|(byte, _)| *byte = 0);
    dictionary.drain(..unused);
    Ok(())
}

/// The first 32 KiB of what `stored` decodes to with `window` before it, less where it or its gzip member ends before.
fn beginning(context: &Context, window: &[u8], stored: &[u8]) -> Result<Vec<u8>, InflateError> {
    let mut inflater = Inflater::new(Wrapping::Raw)?;
    let pending = u16::from(context.byte) >> (8 - u16::from(context.bits.min(7)));
    inflater.prime(context.bits, u8::try_from(pending).unwrap_or(0))?;
    inflater.set_dictionary(window)?;
    let (mut plain, mut at, mut filled) = (vec![0; WINDOW], 0, 0);
    while let Some(room) = plain.get_mut(filled..).filter(|room| !room.is_empty()) {
        let step = inflater.inflate(stored.get(at..).unwrap_or(&[]), room, false)?;
        at += step.consumed;
        filled += step.produced;
        if step.stop == Stop::End || (step.consumed == 0 && step.produced == 0) {
            break;
        }
    }
    plain.truncate(filled);
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// What stands for `plain` in a deflate stream, behind `before`.
    fn stored(before: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(before).unwrap();
        encoder.flush().unwrap();
        let at = encoder.get_ref().len();
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap().split_off(at)
    }

    #[test]
    fn only_what_is_looked_back_to_stays() {
        let mut state = 7u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        });
        let before: Vec<u8> = noise.take(WINDOW).collect();
        let (used, again) = (before[20_000..20_100].to_vec(), before[32_000..32_050].to_vec());
        let plain = [used.as_slice(), b"<>", &again, &used].concat();
        let stored = stored(&before, &plain);
        assert!(stored.len() < 100, "{} bytes: it refers to what is before", stored.len());
        let mut dictionary = before.clone();
        keep_reached(&Context::default(), &mut dictionary, &stored).unwrap();
        let kept = dictionary.iter().filter(|&&byte| byte != 0).count();
        assert!((140..=160).contains(&kept), "{kept} bytes are kept");
        assert!(dictionary.len() <= WINDOW - 20_000);
        let mut inflater = Inflater::new(Wrapping::Raw).unwrap();
        inflater.set_dictionary(&dictionary).unwrap();
        let mut out = vec![0; plain.len()];
        inflater.inflate(&stored, &mut out, false).unwrap();
        assert!(out == plain);
    }
}
