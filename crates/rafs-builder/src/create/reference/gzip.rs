//! The stream of a layer that stays as it is: plain bytes come out, and where in the layer they were found.
//!
//! Every stored byte is hashed and counted. A gzip layer may have several members, whose checksums are looked at. Positions are exact: nothing is read ahead
//! of what was asked for, but for input that is buffered here. docs/format.md, "Inflate states".

use super::reach::Log;
use rafs_codec::inflate::{InflateError, Inflater, Stop, WINDOW, Wrapping};
use rafs_format::Digest;
use sha2::{Digest as _, Sha256};
use std::io::{self, Read};

/// Stored bytes read at a time.
const BUFFER: usize = 256 << 10;
/// Bytes that tell what a layer is.
const MAGIC: usize = 4;
/// Stored bytes kept behind the position: as many as there can be whole bytes among pending bits.
const KEPT: usize = 8;

/// A place in a gzip layer before a deflate block, where decoding may start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct State {
    /// First stored byte to feed.
    pub compressed_offset: u64,
    /// Plain bytes before it.
    pub uncompressed_offset: u64,
    /// The stored byte before it; 0 where none of its bits are left.
    pub byte: u8,
    /// How many of its upper bits are still to be decoded.
    pub bits: u8,
    /// The last plain bytes of the member before it, at most 32 KiB.
    pub dictionary: Vec<u8>,
}

/// A layer being read.
pub(super) struct Stream<R> {
    input: R,
    sha256: Sha256,
    /// Stored bytes read from `input`.
    fetched: u64,
    buffer: Vec<u8>,
    /// What of `buffer` is not decoded yet.
    start: usize,
    end: usize,
    /// Of a gzip layer.
    gzip: Option<Gzip>,
    /// Plain bytes given out.
    produced: u64,
}

/// Decoding of a gzip layer.
struct Gzip {
    inflater: Inflater,
    /// Bits taken and not decoded yet.
    pending: u8,
    /// Is it behind the end of a member, or at the start?
    between: bool,
    state: State,
    window: Box<[u8; WINDOW]>,
    /// Stored bytes from the state on.
    log: Log,
}

impl<R: Read> Stream<R> {
    /// The layer that `input` is, by its first bytes. Errors: it cannot be read.
    pub fn new(input: R) -> io::Result<Self> {
        let mut stream = Self {
            input,
            sha256: Sha256::new(),
            fetched: 0,
            buffer: vec![0; KEPT + BUFFER],
            start: KEPT,
            end: KEPT,
            gzip: None,
            produced: 0,
        };
        while stream.end - stream.start < MAGIC && stream.fetch()? > 0 {}
        if stream.rest().starts_with(&[0x1F, 0x8B]) {
            let inflater = Inflater::new(Wrapping::Gzip).map_err(io::Error::other)?;
            let window = Box::new([0; WINDOW]);
            let state = State::default();
            let log = Log::default();
            stream.gzip = Some(Gzip { inflater, pending: 0, between: true, state, window, log });
        }
        Ok(stream)
    }

    /// Is it a gzip layer?
    pub fn is_gzip(&self) -> bool {
        self.gzip.is_some()
    }

    /// The first stored bytes, as far as they are there: what the layer looks like.
    pub fn magic(&self) -> &[u8] {
        self.rest()
    }

    /// Stored bytes that the plain bytes given out so far took.
    pub fn consumed(&self) -> u64 {
        let pending = self.gzip.as_ref().map_or(0, |gzip| u64::from(gzip.pending / 8));
        self.fetched - (self.end - self.start) as u64 - pending
    }

    /// Plain bytes given out so far.
    pub fn produced(&self) -> u64 {
        self.produced
    }

    /// The last place where decoding may start; `None` for a plain layer, and before the first block of a gzip layer.
    pub fn state(&self) -> Option<&State> {
        self.gzip.as_ref().map(|gzip| &gzip.state).filter(|state| state.compressed_offset > 0)
    }

    /// The last place begins a span: what follows it is kept until it is clear what the span looks back to.
    pub fn pin(&mut self) {
        if let Some(gzip) = &mut self.gzip {
            gzip.log.pin();
        }
    }

    /// The stored bytes behind the pinned place, once they are all there; `ended` where no more come.
    pub fn pinned(&mut self, ended: bool) -> Option<Vec<u8>> {
        let produced = self.produced;
        self.gzip.as_mut().and_then(|gzip| gzip.log.pinned(produced, ended))
    }

    /// SHA-256 and length of the layer, of which everything was read.
    pub fn finish(self) -> (Digest, u64) {
        (Digest(self.sha256.finalize().into()), self.fetched)
    }

    fn rest(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or(&[])
    }

    /// Reads more input behind what is there, and keeps some bytes before it. Returns how many came; 0 at the end.
    fn fetch(&mut self) -> io::Result<usize> {
        if self.end == self.buffer.len() {
            let from = self.start - KEPT;
            self.buffer.copy_within(from..self.end, 0);
            (self.start, self.end) = (KEPT, self.end - from);
        }
        let count = loop {
            match self.input.read(self.buffer.get_mut(self.end..).unwrap_or(&mut [])) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                count => break count?,
            }
        };
        let end = self.end + count;
        self.sha256.update(self.buffer.get(self.end..end).unwrap_or(&[]));
        self.fetched += count as u64;
        self.end = end;
        Ok(count)
    }

    /// The next plain bytes of a gzip layer, at most up to the next place where decoding may start.
    fn inflate(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.start == self.end && self.fetch()? == 0 {
                let between = self.gzip.as_ref().is_some_and(|gzip| gzip.between);
                return if between { Ok(0) } else { Err(self.damaged("it ends inside a gzip member")) };
            }
            let Some(gzip) = &mut self.gzip else { return Ok(0) };
            let input = self.buffer.get(self.start..self.end).unwrap_or(&[]);
            let step = gzip.inflater.inflate(input, into, true);
            let step = match step {
                Ok(step) => step,
                Err(error) => return Err(self.damaged(&error.to_string())),
            };
            (gzip.between, gzip.pending) = (false, step.pending);
            gzip.log.add(input.get(..step.consumed).unwrap_or(&[]), self.produced);
            self.start += step.consumed;
            self.produced += step.produced as u64;
            match step.stop {
                Stop::Full => {}
                Stop::Block => self.note().map_err(io::Error::other)?,
                Stop::End => self.next_member().map_err(io::Error::other)?,
            }
            if step.produced > 0 {
                return Ok(step.produced);
            }
        }
    }

    /// Notes that decoding may start here.
    fn note(&mut self) -> Result<(), InflateError> {
        let (consumed, uncompressed_offset) = (self.consumed(), self.produced);
        let Some(gzip) = &mut self.gzip else { return Ok(()) };
        let bits = gzip.pending % 8;
        let before = (self.start - usize::from(gzip.pending / 8)).checked_sub(1);
        let byte = before.filter(|_| bits > 0).and_then(|at| self.buffer.get(at)).copied();
        let size = gzip.inflater.dictionary(&mut gzip.window)?;
        let state = &mut gzip.state;
        (state.compressed_offset, state.uncompressed_offset) = (consumed, uncompressed_offset);
        (state.byte, state.bits) = (byte.unwrap_or(0), bits);
        state.dictionary.clear();
        state.dictionary.extend_from_slice(gzip.window.get(..size).unwrap_or(&[]));
        let ahead = self.start - usize::from(gzip.pending / 8)..self.start;
        gzip.log.begin(consumed, uncompressed_offset, self.buffer.get(ahead).unwrap_or(&[]));
        Ok(())
    }

    /// A member is at its end; another one may follow.
    fn next_member(&mut self) -> Result<(), InflateError> {
        let Some(gzip) = &mut self.gzip else { return Ok(()) };
        self.start -= usize::from(gzip.pending / 8);
        gzip.log.take_back(usize::from(gzip.pending / 8));
        (gzip.pending, gzip.between) = (0, true);
        gzip.inflater.reset(Wrapping::Gzip)
    }

    fn damaged(&self, problem: &str) -> io::Error {
        let (stored, plain) = (self.consumed(), self.produced);
        let text =
            format!("the gzip layer is damaged near byte {stored} (byte {plain} of the tar): {problem}");
        io::Error::new(io::ErrorKind::InvalidData, text)
    }
}

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        if self.gzip.is_some() {
            return self.inflate(into);
        }
        if self.start == self.end && self.fetch()? == 0 {
            return Ok(0);
        }
        let count = into.len().min(self.end - self.start);
        let (to, from) = (into.get_mut(..count), self.buffer.get(self.start..self.start + count));
        if let Some((to, from)) = to.zip(from) {
            to.copy_from_slice(from);
        }
        self.start += count;
        self.produced += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn member(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    /// A reader that gives a few bytes at a time.
    struct Drops<'a>(&'a [u8], usize);

    impl Read for Drops<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(into.len());
            self.0.read(&mut into[..count])
        }
    }

    fn plain(size: u32) -> Vec<u8> {
        (0..size).flat_map(|n| n.wrapping_mul(n / 7).to_le_bytes()).collect()
    }

    fn all(layer: &[u8], drops: usize) -> io::Result<(Vec<u8>, Vec<State>, u64)> {
        let mut stream = Stream::new(Drops(layer, drops))?;
        let (mut out, mut states, mut room) = (Vec::new(), Vec::new(), [0; 777]);
        loop {
            let count = stream.read(&mut room)?;
            if let Some(state) = stream.state().filter(|&state| states.last() != Some(state)) {
                states.push(state.clone());
            }
            if count == 0 {
                return Ok((out, states, stream.consumed()));
            }
            out.extend_from_slice(&room[..count]);
        }
    }

    #[test]
    fn members_follow_each_other_however_input_comes() {
        let (a, b) = (plain(50_000), plain(9_000));
        let layer = [member(&a), member(b""), member(&b)].concat();
        let (out, states, consumed) = all(&layer, usize::MAX).unwrap();
        assert!(out == [a, b].concat() && states.len() > 3);
        assert_eq!((states[0].compressed_offset, states[0].bits), (10, 0));
        assert_eq!(consumed, layer.len() as u64);
        for drops in [1, 3, 1000] {
            let again = all(&layer, drops).unwrap();
            assert!(again == (out.clone(), states.clone(), consumed), "{drops} bytes at a time");
        }
    }

    #[test]
    fn a_cut_or_damaged_layer_names_the_place() {
        let layer = [member(&plain(20_000)), member(&plain(100))].concat();
        let first = member(&plain(20_000)).len();
        for cut in (3..layer.len()).step_by(53).filter(|&cut| cut != first) {
            let error = all(&layer[..cut], usize::MAX).unwrap_err().to_string();
            assert!(error.contains("ends inside a gzip member"), "cut at {cut}: {error}");
        }
        let mut bad = layer.clone();
        bad[first - 6] ^= 1;
        let error = all(&bad, usize::MAX).unwrap_err().to_string();
        assert!(error.contains("near byte") && error.contains("incorrect data check"), "{error}");
        let trailing = [layer.as_slice(), b"rubbish"].concat();
        assert!(all(&trailing, usize::MAX).unwrap_err().to_string().contains("incorrect header check"));
    }

    #[test]
    fn a_plain_layer_is_passed_on() {
        let (out, states, consumed) = all(b"plain", 1).unwrap();
        assert_eq!((out.as_slice(), states.len(), consumed), (b"plain".as_slice(), 0, 5));
        assert_eq!(all(b"", 1).unwrap().2, 0);
    }
}
