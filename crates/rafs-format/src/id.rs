//! Names of things: blobs by id, data by digest, inodes by number.

use crate::FormatError;
use std::fmt;

/// 32 bytes of BLAKE3 or SHA-256 over plaintext.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Name of a blob, normally the SHA-256 of its bytes in hex: 1 to 64 bytes that are safe as a file name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobId(Box<str>);

impl BlobId {
    /// Longest id, in bytes.
    pub const MAX: usize = 64;

    /// An id from outside. Refused: empty, over 64 bytes, a leading dot, `/`, NUL, control characters or blanks, since ids
    /// become file names and URLs.
    pub fn new(id: &str) -> Result<Self, FormatError> {
        let problem = if id.is_empty() {
            "is empty"
        } else if id.len() > Self::MAX {
            "is over 64 bytes"
        } else if id.starts_with('.') {
            "starts with a dot"
        } else if id.chars().any(|c| c == '/' || c == '\\' || c.is_control() || c.is_whitespace()) {
            "holds a slash, a blank or a control character"
        } else {
            return Ok(Self(id.into()));
        };
        Err(FormatError::Name { what: "blob id", name: id.chars().take(80).collect(), problem })
    }

    /// The digest that the id spells in 64 lower-case hexadecimal digits; `None` where it is another kind of name.
    pub fn as_sha256(&self) -> Option<Digest> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let (pairs, rest) = self.0.as_bytes().as_chunks::<2>();
        let mut digest = [0; 32];
        if pairs.len() != digest.len() || !rest.is_empty() {
            return None;
        }
        for (byte, &[high, low]) in digest.iter_mut().zip(pairs) {
            *byte = digit(high)? << 4 | digit(low)?;
        }
        Some(Digest(digest))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which inode: in v6 its byte offset in the metadata area, in units of 32 bytes (EROFS "node id"); in v5 its number, which all names of a
/// hard-linked file share.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Nid(pub u64);

impl Nid {
    /// First byte of the inode in a v6 bootstrap whose metadata area starts at byte `meta_start`; `None` on overflow.
    pub fn byte_offset(self, meta_start: u64) -> Option<u64> {
        self.0.checked_mul(32)?.checked_add(meta_start)
    }
}

impl fmt::Display for Nid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
