//! Stored bytes to plain ones and back: compression, and decryption of the units of encrypted blobs. Output is bounded by the caller, always: a
//! frame that wants to be longer than it should is an error, never memory. Knows no digests: what it returns is unverified. No I/O.
//! [`sections`] finds what stands in a blob besides chunks, through a function that reads.

mod cipher;
pub mod inflate;
mod member;
pub mod sections;
mod span;
mod units;

pub use cipher::{Key, Keys, Secret};
pub use units::{UnitCodec, UnitError};

use rafs_format::Compressor;
use std::fmt;
use std::io::{self, Read};

/// Why stored bytes do not decode, or plain bytes do not encode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum CodecError {
    #[error("{codec}: {stored} stored bytes do not decode: {reason}")]
    Corrupt { codec: &'static str, stored: usize, reason: String },
    #[error("{codec}: decodes to {found} bytes, expected {expected}")]
    Length { codec: &'static str, found: usize, expected: usize },
    #[error("{codec}: {plain} bytes do not encode: {reason}")]
    Encode { codec: &'static str, plain: usize, reason: String },
    #[error("cipher {cipher} is not one of blobs, or its key cannot be used")]
    Cipher { cipher: &'static str },
    #[error("its key is not in the image, and none that was given fits")]
    NoKey,
    #[error("{stored} encrypted bytes cannot be decrypted: 16 are the least")]
    Encrypted { stored: usize },
    #[error("{codec} is read, never written")]
    ReadOnly { codec: &'static str },
}

/// Decodes chunks one after the other, keeping its working memory between them.
#[derive(Default)]
pub struct Decoder {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("zstd", &self.zstd.is_some()).finish()
    }
}

impl Decoder {
    /// A decoder without working memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes one stored unit to exactly `plain_size` bytes. Allocates `plain_size` and no more (the caller has checked it against the chunk size).
    pub fn decode(
        &mut self,
        by: Compressor,
        stored: &[u8],
        plain_size: usize,
    ) -> Result<Vec<u8>, CodecError> {
        if by == Compressor::None {
            exact(name(by), stored.len(), plain_size)?;
            return Ok(stored.to_vec());
        }
        let mut plain = vec![0; plain_size];
        let found = match by {
            Compressor::None => Ok(plain_size),
            Compressor::Lz4Block => unpack_lz4(stored, &mut plain),
            Compressor::Gzip => unpack_gzip(stored, &mut plain),
            Compressor::Zstd => self.unpack_zstd(stored, &mut plain),
        };
        let corrupt = |error: io::Error| CodecError::Corrupt {
            codec: name(by),
            stored: stored.len(),
            reason: error.to_string(),
        };
        exact(name(by), found.map_err(corrupt)?, plain_size)?;
        Ok(plain)
    }

    /// One or more zstd frames; output that does not fit `plain` is an error of the library.
    fn unpack_zstd(&mut self, stored: &[u8], plain: &mut [u8]) -> io::Result<usize> {
        let decoder = match self.zstd.take() {
            Some(decoder) => self.zstd.insert(decoder),
            None => self.zstd.insert(zstd::bulk::Decompressor::new()?),
        };
        decoder.decompress_to_buffer(stored, plain)
    }
}

/// One LZ4 block. The library wants sizes as `i32`, which no chunk exceeds.
fn unpack_lz4(stored: &[u8], plain: &mut [u8]) -> io::Result<usize> {
    let limit = i32::try_from(plain.len()).map_err(io::Error::other)?;
    lz4::block::decompress_to_buffer(stored, Some(limit), plain)
}

/// One gzip stream. A byte more than fits `plain` is counted, so that the caller sees a wrong length.
fn unpack_gzip(stored: &[u8], plain: &mut [u8]) -> io::Result<usize> {
    let mut input = flate2::bufread::MultiGzDecoder::new(stored);
    let mut filled = 0;
    while let Some(rest) = plain.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match input.read(rest)? {
            0 => return Ok(filled),
            count => filled += count,
        }
    }
    // Reading on to the end also checks the checksum.
    Ok(filled + input.read(&mut [0])?)
}

/// `found` must be `expected` bytes.
fn exact(codec: &'static str, found: usize, expected: usize) -> Result<(), CodecError> {
    if found == expected { Ok(()) } else { Err(CodecError::Length { codec, found, expected }) }
}

/// Name of a codec in messages.
fn name(by: Compressor) -> &'static str {
    match by {
        Compressor::None => "none",
        Compressor::Lz4Block => "lz4",
        Compressor::Gzip => "gzip",
        Compressor::Zstd => "zstd",
    }
}

/// Encodes chunks one after the other, keeping its working memory between them.
pub struct Encoder {
    with: With,
}

/// Working memory of an [`Encoder`].
enum With {
    None,
    Lz4,
    Zstd(zstd::bulk::Compressor<'static>),
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").field("codec", &self.codec()).finish()
    }
}

impl Encoder {
    /// `level` is for zstd (1 to 19; 3 is what the reference builder uses) and ignored otherwise.
    /// Errors: gzip, which is read only; no memory for the codec.
    pub fn new(by: Compressor, level: i32) -> Result<Self, CodecError> {
        let failed =
            |error: io::Error| CodecError::Encode { codec: "zstd", plain: 0, reason: error.to_string() };
        let with = match by {
            Compressor::None => With::None,
            Compressor::Lz4Block => With::Lz4,
            Compressor::Gzip => return Err(CodecError::ReadOnly { codec: name(by) }),
            Compressor::Zstd => With::Zstd(zstd::bulk::Compressor::new(level).map_err(failed)?),
        };
        Ok(Self { with })
    }

    /// Name of the codec in messages.
    fn codec(&self) -> &'static str {
        match self.with {
            With::None => name(Compressor::None),
            With::Lz4 => name(Compressor::Lz4Block),
            With::Zstd(_) => name(Compressor::Zstd),
        }
    }

    /// Room that [`Encoder::encode_into`] needs for `plain` bytes.
    pub fn bound(&self, plain: usize) -> usize {
        match self.with {
            With::None => 0,
            // More than any LZ4 block of this length, also where the library refuses such a length.
            With::Lz4 => plain.saturating_add(plain / 255).saturating_add(16),
            With::Zstd(_) => zstd::zstd_safe::compress_bound(plain),
        }
    }

    /// Encodes `plain` as one unit into the front of `out`, which must be [`Encoder::bound`] bytes long or longer. Returns the
    /// length of the unit; `None`: encoding does not make it strictly smaller and the chunk is to be stored as it is.
    pub fn encode_into(&mut self, plain: &[u8], out: &mut [u8]) -> Result<Option<usize>, CodecError> {
        let codec = self.codec();
        let done = match &mut self.with {
            With::None => return Ok(None),
            With::Lz4 => lz4::block::compress_to_buffer(plain, None, false, out),
            With::Zstd(encoder) => encoder.compress_to_buffer(plain, out),
        };
        let failed =
            |error: io::Error| CodecError::Encode { codec, plain: plain.len(), reason: error.to_string() };
        let size = done.map_err(failed)?;
        Ok(Some(size).filter(|&size| size < plain.len()))
    }

    /// Encodes `plain` as one unit into `out` (cleared first). `false`: encoding does not make it strictly smaller, `out` is
    /// empty and the chunk is to be stored as it is.
    pub fn encode(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<bool, CodecError> {
        out.resize(self.bound(plain.len()), 0);
        let size = self.encode_into(plain, out)?;
        out.truncate(size.unwrap_or(0));
        Ok(size.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    /// `plain` as a stored unit of each codec, also where that is not smaller.
    fn stored(by: Compressor, plain: &[u8]) -> Vec<u8> {
        match by {
            Compressor::None => plain.to_vec(),
            Compressor::Lz4Block => lz4::block::compress(plain, None, false).unwrap(),
            Compressor::Gzip => gzip(plain),
            Compressor::Zstd => zstd::bulk::compress(plain, 3).unwrap(),
        }
    }

    const ALL: [Compressor; 4] = [Compressor::None, Compressor::Lz4Block, Compressor::Gzip, Compressor::Zstd];

    #[test]
    fn output_is_exactly_as_long_as_the_caller_says() {
        let plain = vec![7; 100_000];
        for by in ALL {
            let unit = stored(by, &plain);
            assert_eq!(Decoder::new().decode(by, &unit, plain.len()).unwrap(), plain);
            for wrong in [0, 1, plain.len() - 1, plain.len() + 1] {
                assert!(Decoder::new().decode(by, &unit, wrong).is_err(), "{by:?} as {wrong} bytes");
            }
        }
    }

    #[test]
    fn incompressible_input_is_left_as_it_is() {
        let plain: Vec<u8> = (0..=255).collect();
        for by in [Compressor::None, Compressor::Lz4Block, Compressor::Zstd] {
            let mut out = vec![1, 2, 3];
            assert!(!Encoder::new(by, 3).unwrap().encode(&plain, &mut out).unwrap(), "{by:?}");
            assert!(out.is_empty());
        }
        assert_eq!(Encoder::new(Compressor::Gzip, 3).unwrap_err(), CodecError::ReadOnly { codec: "gzip" });
    }

    #[test]
    fn a_cut_unit_is_an_error() {
        let plain: Vec<u8> = (0..20_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for by in ALL {
            let unit = stored(by, &plain);
            for len in (0..unit.len()).step_by(97) {
                assert!(Decoder::new().decode(by, &unit[..len], plain.len()).is_err(), "{by:?} cut at {len}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes(plain in proptest::collection::vec(0u8..4, 0..5000)) {
            let mut decoder = Decoder::new();
            for by in [Compressor::Lz4Block, Compressor::Zstd] {
                let mut encoder = Encoder::new(by, 3).unwrap();
                let mut out = Vec::new();
                for _ in 0..2 {
                    if encoder.encode(&plain, &mut out).unwrap() {
                        prop_assert!(out.len() < plain.len());
                        prop_assert_eq!(&decoder.decode(by, &out, plain.len()).unwrap(), &plain);
                    }
                }
            }
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), size in 0usize..5000) {
            for by in ALL {
                if let Ok(plain) = Decoder::new().decode(by, &bytes, size) {
                    prop_assert_eq!(plain.len(), size);
                }
            }
        }
    }
}
