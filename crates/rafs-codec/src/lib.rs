//! Chunk compression. Output is bounded by the caller, always: a frame that wants to be longer than it should is an error, never memory.
//! Knows nothing of chunks, blobs or digests. No I/O.

use rafs_format::Compressor;

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
    #[error("{codec} is read, never written")]
    ReadOnly { codec: &'static str },
}

/// Decodes chunks one after the other, keeping its working memory between them.
#[derive(Default)]
pub struct Decoder {}

impl Decoder {
    /// A decoder without working memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes one stored unit to exactly `plain_size` bytes. Allocates `plain_size` and no more (the caller has checked it against the chunk size).
    pub fn decode(
        &mut self,
        _by: Compressor,
        _stored: &[u8],
        _plain_size: usize,
    ) -> Result<Vec<u8>, CodecError> {
        todo!()
    }
}

/// Encodes chunks one after the other, keeping its working memory between them.
pub struct Encoder {}

impl Encoder {
    /// `level` is for zstd (1 to 19; 3 is what the reference builder uses) and ignored otherwise.
    pub fn new(_by: Compressor, _level: i32) -> Result<Self, CodecError> {
        todo!()
    }

    /// Encodes `plain` as one unit into `out` (cleared first). `false`: encoding does not make it strictly smaller, `out` is
    /// empty and the chunk is to be stored as it is.
    pub fn encode(&mut self, _plain: &[u8], _out: &mut Vec<u8>) -> Result<bool, CodecError> {
        todo!()
    }
}
