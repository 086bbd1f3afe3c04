//! The digest that the tree of an image must have.

use blob_storage::config::Leaf;
use rafs_format::Digest;
use serde_json::Value;
use std::str::FromStr;

/// The digest that the tree of an image must have to be mounted: full or content, as `nydus-image` tells it. docs/format.md, "Tree digest".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeDigest(pub Digest);

/// This is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {}", TreeDigest::EXPECTED)]
pub struct NotADigest;

impl FromStr for TreeDigest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let mut digest = [0; 32];
        if text.len() != 2 * digest.len() || !text.is_ascii() {
            return Err(NotADigest);
        }
        for (byte, digits) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let value =
                |digit: &u8| char::from(*digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
            let [high, low] = digits else { return Err(NotADigest) };
            *byte = value(high).zip(value(low)).map(|(high, low)| high << 4 | low).ok_or(NotADigest)?;
        }
        Ok(Self(Digest(digest)))
    }
}

impl Leaf for TreeDigest {
    const EXPECTED: &'static str = "a tree digest, 64 hex digits";

    fn from_value(value: &Value) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_64_hex_digits() {
        let text = "0123456789abcdefABCDEF".to_owned() + &"f0".repeat(21);
        let digest: TreeDigest = text.parse().unwrap();
        assert_eq!(digest.0.to_string(), text.to_lowercase());
        for bad in ["", &text[1..], &format!("{text}0"), &text.replace('f', "g"), &"é".repeat(32)] {
            assert_eq!(bad.parse::<TreeDigest>(), Err(NotADigest), "{bad}");
        }
    }
}
