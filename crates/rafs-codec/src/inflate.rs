//! Inflate that stops at the ends of deflate blocks, tells its position to the bit, and starts in the middle of a stream.
//!
//! zlib-rs through the interface of zlib: its own safe interface can do neither. All unsafe code of this crate is here, behind functions that take slices. Rules
//! kept: the stream is initialised before anything else and ended once, when dropped; it does not move (it is boxed); and the pointers into input and
//! output are set anew for each call that reads them.
#![expect(unsafe_code, reason = "the interface of zlib takes pointers")]

use libz_rs_sys as zlib;
use std::ffi::CStr;
use std::fmt;

/// How far deflate looks back, in bytes.
pub const WINDOW: usize = 32 << 10;
/// Logarithm of [`WINDOW`].
const WINDOW_BITS: i32 = 15;

/// What a stream looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapping {
    /// Deflate blocks and nothing else.
    Raw,
    /// One gzip member: header, deflate blocks, checksum.
    Gzip,
}

impl Wrapping {
    /// The code that zlib has for it.
    fn window_bits(self) -> i32 {
        match self {
            Self::Raw => -WINDOW_BITS,
            Self::Gzip => WINDOW_BITS + 16,
        }
    }
}

/// Why a stream does not decode: what the library says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InflateError(String);

/// Where a call stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// More input is needed, or there is no more room.
    Full,
    /// Before a block: behind another one, or behind a header.
    Block,
    /// Behind the end of the stream.
    End,
}

/// What a call did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Bytes taken from the input.
    pub consumed: usize,
    /// Bytes put into the output.
    pub produced: usize,
    /// Bits that were taken and not decoded yet, 0 to 63: the upper ones of the bytes taken last.
    pub pending: u8,
    /// Where it stopped.
    pub stop: Stop,
}

/// An inflate stream.
pub struct Inflater {
    stream: Box<zlib::z_stream>,
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater").field("total_in", &self.stream.total_in).finish_non_exhaustive()
    }
}

impl Inflater {
    /// A stream at its beginning. Errors: no memory for its state, some 50 KiB.
    pub fn new(wrapping: Wrapping) -> Result<Self, InflateError> {
        let mut stream = Box::new(zlib::z_stream::default());
        let size = i32::try_from(size_of::<zlib::z_stream>()).unwrap_or(i32::MAX);
        // SAFETY: the stream is valid and has the default allocator; the version is a C string of the library.
        let code = unsafe {
            zlib::inflateInit2_(&raw mut *stream, wrapping.window_bits(), zlib::zlibVersion(), size)
        };
        // An initialised stream is ended when it is dropped; on failure there is nothing to end.
        if code == zlib::Z_OK { Ok(Self { stream }) } else { Err(error(code, &stream)) }
    }

    /// Back to the beginning of a stream, perhaps of another kind.
    pub fn reset(&mut self, wrapping: Wrapping) -> Result<(), InflateError> {
        // SAFETY: the stream is initialised.
        let code = unsafe { zlib::inflateReset2(&raw mut *self.stream, wrapping.window_bits()) };
        self.done(code)
    }

    /// Puts `bits` (0 to 7) bits of `value` before the input of a raw stream that is at its beginning.
    pub fn prime(&mut self, bits: u8, value: u8) -> Result<(), InflateError> {
        // SAFETY: the stream is initialised.
        let code = unsafe { zlib::inflatePrime(&raw mut *self.stream, bits.into(), value.into()) };
        self.done(code)
    }

    /// Tells a raw stream that is at its beginning what stood before it.
    pub fn set_dictionary(&mut self, dictionary: &[u8]) -> Result<(), InflateError> {
        let size = u32::try_from(dictionary.len()).unwrap_or(u32::MAX);
        // SAFETY: the stream is initialised; the dictionary is read within its length, which is at least `size`, and not kept.
        let code = unsafe { zlib::inflateSetDictionary(&raw mut *self.stream, dictionary.as_ptr(), size) };
        self.done(code)
    }

    /// Copies what the stream may look back to, at most 32 KiB. Returns its length.
    pub fn dictionary(&self, into: &mut [u8; WINDOW]) -> Result<usize, InflateError> {
        let mut size = 0;
        // SAFETY: the stream is initialised; 32 KiB are always enough, as the library promises.
        let code =
            unsafe { zlib::inflateGetDictionary(&raw const *self.stream, into.as_mut_ptr(), &raw mut size) };
        self.done(code)?;
        Ok(usize::try_from(size).unwrap_or(WINDOW).min(WINDOW))
    }

    /// Decodes `input` into `output` until one of them ends, or the stream does. With `blocks` it also stops before each block.
    /// Errors: a stream that is damaged, or wants a dictionary that is not there.
    pub fn inflate(&mut self, input: &[u8], output: &mut [u8], blocks: bool) -> Result<Step, InflateError> {
        let most = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let (given, room) = (most(input.len()), most(output.len()));
        let stream = &mut *self.stream;
        (stream.next_in, stream.avail_in) = (input.as_ptr(), given);
        (stream.next_out, stream.avail_out) = (output.as_mut_ptr(), room);
        let flush = if blocks { zlib::Z_BLOCK } else { zlib::Z_NO_FLUSH };
        // SAFETY: the stream is initialised; input and output are valid for the lengths set just now, during this call.
        let code = unsafe { zlib::inflate(&raw mut *stream, flush) };
        let stop = match code {
            zlib::Z_STREAM_END => Stop::End,
            // Without progress there is no error, only nothing to do.
            zlib::Z_OK | zlib::Z_BUF_ERROR if stream.data_type & AT_BLOCK == 0 => Stop::Full,
            zlib::Z_OK | zlib::Z_BUF_ERROR if stream.data_type & LAST_BLOCK == 0 => Stop::Block,
            zlib::Z_OK | zlib::Z_BUF_ERROR => Stop::Full,
            code => return Err(error(code, stream)),
        };
        let taken = |before: u32, after: u32| usize::try_from(before.saturating_sub(after)).unwrap_or(0);
        Ok(Step {
            consumed: taken(given, stream.avail_in),
            produced: taken(room, stream.avail_out),
            pending: u8::try_from(stream.data_type & PENDING).unwrap_or(0),
            stop,
        })
    }

    fn done(&self, code: i32) -> Result<(), InflateError> {
        if code == zlib::Z_OK { Ok(()) } else { Err(error(code, &self.stream)) }
    }
}

/// In `data_type`: how many bits are pending.
const PENDING: i32 = 63;
/// In `data_type`: the block is the last one.
const LAST_BLOCK: i32 = 64;
/// In `data_type`: a block is about to begin, or after the last one the end.
const AT_BLOCK: i32 = 128;

impl Drop for Inflater {
    fn drop(&mut self) {
        // SAFETY: the stream is initialised and not used again. The code only says whether it was.
        let _code = unsafe { zlib::inflateEnd(&raw mut *self.stream) };
    }
}

/// What went wrong, as the library says it.
fn error(code: i32, stream: &zlib::z_stream) -> InflateError {
    if stream.msg.is_null() {
        let text = match code {
            zlib::Z_NEED_DICT => "it needs a dictionary",
            zlib::Z_MEM_ERROR => "no memory",
            _ => return InflateError(format!("error {code} of zlib")),
        };
        return InflateError(text.to_owned());
    }
    // SAFETY: the library sets it to a C string that is part of the program.
    let text = unsafe { CStr::from_ptr(stream.msg) };
    InflateError(text.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Text that repeats itself from afar, so that dictionaries matter, with parts that do not compress.
    fn plain(size: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        let mut bytes: Vec<u8> = Vec::new();
        while bytes.len() < size {
            let back = next() as usize % 30_000 + 1;
            match (next() % 3, bytes.len().checked_sub(back)) {
                (0, Some(from)) => bytes.extend_from_within(from..(from + 40).min(bytes.len())),
                (1, _) => bytes.extend((0..20).map(|_| next().to_le_bytes()[0])),
                _ => bytes.extend_from_slice(format!("line {}\n", next() % 1000).as_bytes()),
            }
        }
        bytes
    }

    fn gzip(plain: &[u8], level: u32) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    /// A place where decoding may start: bytes consumed and produced, pending bits, dictionary.
    type Place = (usize, usize, u8, Vec<u8>);

    /// All such places of a member, and its plain bytes, with output in pieces of `piece` bytes.
    fn walk(member: &[u8], piece: usize) -> (Vec<Place>, Vec<u8>) {
        let mut inflater = Inflater::new(Wrapping::Gzip).unwrap();
        let (mut at, mut out, mut places) = (0, Vec::new(), Vec::new());
        loop {
            let mut room = vec![0; piece];
            let step = inflater.inflate(&member[at..], &mut room, true).unwrap();
            at += step.consumed;
            out.extend_from_slice(&room[..step.produced]);
            match step.stop {
                Stop::End => return (places, out),
                Stop::Full => {}
                Stop::Block => {
                    let mut dictionary = [0; WINDOW];
                    let size = inflater.dictionary(&mut dictionary).unwrap();
                    let first = at - usize::from(step.pending / 8);
                    places.push((first, out.len(), step.pending % 8, dictionary[..size].to_vec()));
                }
            }
        }
    }

    #[test]
    fn decoding_starts_before_any_block() {
        let plain = plain(1 << 20);
        for level in [1, 6, 9] {
            let member = gzip(&plain, level);
            let (places, whole) = walk(&member, 70_000);
            // At level 1 the encoder makes few blocks.
            let most = if level == 1 { 1 } else { 6 };
            assert!(whole == plain && places.len() >= most, "{} places", places.len());
            assert_eq!(places[0], (10, 0, 0, Vec::new()), "behind the header");
            assert!(level == 1 || places.iter().any(|(.., bits, _)| *bits > 0));
            for (first, from, bits, dictionary) in places {
                assert!(
                    plain[..from].ends_with(&dictionary) && (from < WINDOW || dictionary.len() == WINDOW)
                );
                let mut inflater = Inflater::new(Wrapping::Raw).unwrap();
                let pending = u16::from(member[first - 1]) >> (8 - bits);
                inflater.prime(bits, u8::try_from(pending).unwrap()).unwrap();
                inflater.set_dictionary(&dictionary).unwrap();
                let mut room = vec![0; plain.len() - from];
                let step = inflater.inflate(&member[first..], &mut room, false).unwrap();
                assert!(step.produced == room.len() && room == plain[from..], "from {from}");
            }
        }
    }

    #[test]
    fn places_do_not_depend_on_how_output_is_taken() {
        let member = gzip(&plain(300_000), 6);
        assert_eq!(walk(&member, 1 << 20), walk(&member, 512));
        assert_eq!(walk(&member, 1 << 20), walk(&member, 7));
    }

    #[test]
    fn damage_is_told_and_never_panics() {
        let member = gzip(&plain(20_000), 6);
        let mut found = 0;
        for at in 0..member.len() {
            let mut bad = member.clone();
            bad[at] ^= 0x10;
            let mut inflater = Inflater::new(Wrapping::Gzip).unwrap();
            let mut room = vec![0; 30_000];
            found += usize::from(inflater.inflate(&bad, &mut room, false).is_err());
        }
        assert!(found > member.len() / 2, "{found}");
        let mut inflater = Inflater::new(Wrapping::Gzip).unwrap();
        assert_eq!(
            inflater.inflate(b"not gzip", &mut [0; 9], false).unwrap_err().to_string(),
            "incorrect header check"
        );
        assert!(inflater.set_dictionary(b"a gzip stream takes none").is_err());
        inflater.reset(Wrapping::Raw).unwrap();
        let nothing = Step { consumed: 0, produced: 0, pending: 0, stop: Stop::Full };
        assert_eq!(inflater.inflate(&[], &mut [0; 9], false).unwrap(), nothing);
        assert_eq!(inflater.inflate(&[1], &mut [], true).unwrap().produced, 0);
    }
}
