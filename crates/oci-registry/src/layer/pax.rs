//! PAX records: parsing them, and what those that matter mean. Values are raw bytes.

use super::header::{Header, pax_number};
use std::collections::BTreeSet;

/// Longest sparse map, in parts.
pub(super) const MAX_PARTS: usize = 1 << 20;

/// Records of one extension header, keys and values in order.
#[derive(Debug, Default)]
pub(super) struct Records(Vec<(Vec<u8>, Vec<u8>)>);

impl Records {
    /// Splits `LENGTH KEY=VALUE\n` records; the length counts all of a record, so a value may hold anything.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, String> {
        let mut records = Vec::new();
        // Some writers pad with NULs.
        while bytes.first().is_some_and(|&byte| byte != 0) {
            let bad = || "a PAX record has a wrong length or no key".to_owned();
            let blank = bytes.iter().take(20).position(|&byte| byte == b' ').ok_or_else(bad)?;
            let (digits, _) = bytes.split_at(blank);
            let length = std::str::from_utf8(digits).ok().and_then(|text| text.parse::<usize>().ok());
            let length = length.ok_or_else(bad)?;
            let record = bytes.get(blank + 1..length).ok_or_else(bad)?;
            let record = record.strip_suffix(b"\n").ok_or_else(bad)?;
            let equals = record.iter().position(|&byte| byte == b'=').filter(|&at| at > 0).ok_or_else(bad)?;
            let (key, value) = record.split_at(equals);
            records.push((key.to_vec(), value.get(1..).unwrap_or(&[]).to_vec()));
            bytes = bytes.get(length..).unwrap_or(&[]);
        }
        Ok(Self(records))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes held.
    pub(super) fn size(&self) -> u64 {
        self.0.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }

    /// Replaces records by those of `later` with the same key, and drops those without a meaning: every entry looks at all of these.
    pub(super) fn update(&mut self, later: Self) {
        let keys: BTreeSet<Vec<u8>> = later.0.iter().map(|(key, _)| key.clone()).collect();
        self.0.retain(|(key, _)| !keys.contains(key));
        self.0.extend(later.0.into_iter().filter(|(key, _)| is_known(key)));
    }

    fn last(&self, key: &[u8]) -> Option<&[u8]> {
        self.0.iter().rev().find(|(found, _)| found == key).map(|(_, value)| value.as_slice())
    }
}

/// Does a record with this key mean anything here?
fn is_known(key: &[u8]) -> bool {
    let prefixes: [&[u8]; 3] = [b"SCHILY.xattr.", b"LIBARCHIVE.xattr.", b"GNU.sparse."];
    let keys: [&[u8]; 6] = [b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"];
    keys.contains(&key) || prefixes.iter().any(|prefix| key.starts_with(prefix))
}

/// Full names and values.
type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Records of an entry over those of the whole archive.
#[derive(Debug)]
pub(super) struct Both<'a> {
    pub local: &'a Records,
    pub global: &'a Records,
}

impl Both<'_> {
    /// The value of `key`; an empty one takes back a global record.
    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.local.last(key).or_else(|| self.global.last(key)).filter(|value| !value.is_empty())
    }

    /// Extended attributes by full name, sorted; the raw form wins over the encoded one, a later record over an earlier.
    pub(super) fn xattrs(&self) -> Result<Xattrs, String> {
        let mut found = std::collections::BTreeMap::new();
        for encoded in [true, false] {
            for (key, value) in self.global.0.iter().chain(&self.local.0) {
                if encoded && let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    found.insert(percent_decoded(name), base64_decoded(value)?);
                } else if !encoded && let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    found.insert(name.to_vec(), value.clone());
                }
            }
        }
        Ok(found.into_iter().collect())
    }
}

/// `%XX` as bytes; anything else stays as it is.
fn percent_decoded(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&first, behind)) = rest.split_first() {
        let code = behind.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let code = code.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| first == b'%');
        plain.push(code.unwrap_or(first));
        rest = if code.is_some() { behind.get(2..).unwrap_or(&[]) } else { behind };
    }
    plain
}

/// Base64 with or without padding.
fn base64_decoded(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut plain = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for &byte in text.iter().filter(|&&byte| byte != b'=') {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err("a LIBARCHIVE.xattr record is not base64".to_owned()),
        };
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            let [.., byte] = (bits >> count).to_be_bytes();
            plain.push(byte);
            bits &= (1 << count) - 1;
        }
    }
    Ok(plain)
}

/// Seconds and nanoseconds of a decimal time: `12.5`, `-0.25`. Digits beyond nanoseconds are cut.
pub(super) fn mtime(value: &[u8]) -> Result<(i64, u32), String> {
    let bad = || format!("PAX record mtime {:?} is not a time", String::from_utf8_lossy(value));
    let text = std::str::from_utf8(value).map_err(|_binary| bad())?;
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    if !part.bytes().all(|byte| byte.is_ascii_digit()) || !whole.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let seconds: i64 = whole.parse().map_err(|_empty_or_long| bad())?;
    let nanos = part.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanos = nanos.fold(0, |nanos, digit| nanos * 10 + u32::from(digit - b'0'));
    Ok(match (negative, nanos) {
        (false, nanos) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, nanos) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

/// A stored part of a sparse file; everything else in it is zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub offset: u64,
    pub size: u64,
}

/// How a file with holes is stored.
#[derive(Debug)]
pub(super) enum Sparse {
    /// It is stored whole.
    No,
    /// Old GNU form: parts in the header, more in blocks behind it.
    Old { size: u64, parts: Vec<Part>, extended: bool },
    /// PAX 0.0 and 0.1: parts in records.
    Listed { size: u64, parts: Vec<Part> },
    /// PAX 1.0: parts at the start of the data.
    InData { size: u64 },
}

impl Sparse {
    pub(super) fn of(header: &Header, records: &Both<'_>) -> Result<Self, String> {
        if header.kind() == b'S' {
            let mut parts = Vec::new();
            let extended = header.sparse_parts(&mut parts)?;
            return Ok(Self::Old { size: header.real_size()?, parts, extended });
        }
        let size = |key: &[u8]| match records.get(key) {
            Some(value) => pax_number(key, value),
            None => Err(format!("PAX record {} of a sparse file is missing", String::from_utf8_lossy(key))),
        };
        match (records.get(b"GNU.sparse.major"), records.get(b"GNU.sparse.minor")) {
            (Some(b"1"), Some(b"0")) => return Ok(Self::InData { size: size(b"GNU.sparse.realsize")? }),
            (Some(_), _) if records.get(b"GNU.sparse.major") != Some(b"0") => {
                return Err("has a sparse format that is not known".to_owned());
            }
            _ => {}
        }
        if let Some(map) = records.get(b"GNU.sparse.map") {
            let numbers = map.split(|&byte| byte == b',').filter(|number| !number.is_empty());
            let numbers: Vec<u64> =
                numbers.map(|n| pax_number(b"GNU.sparse.map", n)).collect::<Result<_, _>>()?;
            return Ok(Self::Listed { size: size(b"GNU.sparse.size")?, parts: pairs(&numbers)? });
        }
        let listed = |(key, value): &(Vec<u8>, Vec<u8>)| match key.as_slice() {
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => Some(pax_number(key, value)),
            _ => None,
        };
        let numbers: Vec<u64> = records.local.0.iter().filter_map(listed).collect::<Result<_, _>>()?;
        if numbers.is_empty() && records.get(b"GNU.sparse.size").is_none() {
            return Ok(Self::No);
        }
        Ok(Self::Listed { size: size(b"GNU.sparse.size")?, parts: pairs(&numbers)? })
    }
}

/// Parts from offset, size, offset, size, ...
fn pairs(numbers: &[u64]) -> Result<Vec<Part>, String> {
    if !numbers.len().is_multiple_of(2) || numbers.len() / 2 > MAX_PARTS {
        return Err("its sparse map is cut off or too long".to_owned());
    }
    let pair = |pair: &[u64]| match pair {
        [offset, size] => Some(Part { offset: *offset, size: *size }),
        _ => None,
    };
    Ok(numbers.chunks_exact(2).filter_map(pair).collect())
}

/// Checks that parts are in order, within the file, and as long together as what is stored; empty ones are dropped by reading.
pub(super) fn check_parts(parts: &[Part], size: u64, stored: u64) -> Result<(), String> {
    let (mut end, mut total) = (0, 0u64);
    for part in parts {
        let next = part.offset.checked_add(part.size).filter(|&next| next <= size && part.offset >= end);
        end = next.ok_or("its sparse map is out of order or runs past its size")?;
        // Parts do not overlap and end within the file.
        total += part.size;
    }
    if total == stored {
        Ok(())
    } else {
        Err(format!("its sparse map covers {total} bytes, {stored} are stored"))
    }
}

/// A sparse map being read from the start of a file's data.
#[derive(Debug, Default)]
pub(super) struct SparseMap {
    numbers: Vec<u64>,
    digits: Vec<u8>,
    /// Numbers still to come; `None` until their count is read.
    left: Option<usize>,
}

impl SparseMap {
    pub(super) fn is_complete(&self) -> bool {
        self.left == Some(0)
    }

    /// Takes one block; what stands in it behind the last number is padding.
    pub(super) fn feed(&mut self, block: &[u8]) -> Result<(), String> {
        for &byte in block {
            if self.is_complete() {
                return Ok(());
            }
            if byte != b'\n' && self.digits.len() < 20 {
                self.digits.push(byte);
                continue;
            }
            let number = pax_number(b"sparse map", &std::mem::take(&mut self.digits))?;
            match &mut self.left {
                Some(left) => {
                    self.numbers.push(number);
                    *left -= 1;
                }
                None => {
                    let parts = usize::try_from(number).ok().filter(|&parts| parts <= MAX_PARTS);
                    self.left = Some(2 * parts.ok_or("its sparse map is too long")?);
                }
            }
        }
        Ok(())
    }

    pub(super) fn into_parts(self) -> Vec<Part> {
        pairs(&self.numbers).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fractions_and_signs() {
        assert_eq!(mtime(b"12"), Ok((12, 0)));
        assert_eq!(mtime(b"12.5"), Ok((12, 500_000_000)));
        assert_eq!(mtime(b"12.1234567899"), Ok((12, 123_456_789)));
        assert_eq!(mtime(b"-0.25"), Ok((-1, 750_000_000)));
        assert_eq!(mtime(b"-3"), Ok((-3, 0)));
        for bad in [b"".as_slice(), b"1.x", b"--1", b"1e5", b"\xff", b"99999999999999999999"] {
            assert!(mtime(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn records_hold_any_bytes() {
        let records = Records::parse(b"25 SCHILY.xattr.user.a=\n\n9 path=b\n\0\0").unwrap();
        assert_eq!(records.0.len(), 2);
        assert_eq!(records.last(b"path"), Some(b"b".as_slice()));
        assert_eq!(records.0[0].1, b"\n");
        for bad in [b"5 a=b".as_slice(), b"99 a=b\n", b"x a=b\n", b"4 =\n", b"0 a=b\n", b"2 a=b\n"] {
            assert!(Records::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn both_forms_of_xattrs() {
        let local = Records(vec![
            (b"LIBARCHIVE.xattr.user.a%20b".to_vec(), b"aGVsbG8=".to_vec()),
            (b"LIBARCHIVE.xattr.user.x".to_vec(), b"AA".to_vec()),
            (b"SCHILY.xattr.user.x".to_vec(), b"raw".to_vec()),
        ]);
        let both = Both { local: &local, global: &Records::default() };
        let expected = vec![(b"user.a b".to_vec(), b"hello".to_vec()), (b"user.x".to_vec(), b"raw".to_vec())];
        assert_eq!(both.xattrs().unwrap(), expected);
    }
}
