//! Why bytes are not the structure they claim to be.

/// Why bytes are not the structure they claim to be. All offsets and sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum FormatError {
    #[error("{what} at {start:#x} + {size:#x} runs past {limit:#x}")]
    OutOfBounds { what: &'static str, start: u64, size: u64, limit: u64 },
    #[error("{what} at {at:#x} is {found:#x}, expected {expected}")]
    Value { what: &'static str, at: u64, found: u64, expected: &'static str },
    #[error("{what} {name:?}: {problem}")]
    Name { what: &'static str, name: String, problem: &'static str },
    #[error("{what} cannot be written: {found} is over the limit of {limit}")]
    Limit { what: &'static str, found: u64, limit: u64 },
    #[error("inode {nid} is a {found}, expected a {expected}")]
    WrongType { nid: u64, found: &'static str, expected: &'static str },
    #[error("chunk {chunk} of blob {blob} at block {block} is not in the chunk table")]
    NoSuchChunk { blob: u32, chunk: u32, block: u32 },
    #[error("{what} is not supported by this version")]
    Unsupported { what: &'static str },
}
