//! One 512-byte tar header and its fields. Dialects: V7, ustar, GNU. Knows no extension records.

use super::pax::{Both, Part, mtime};

/// Unit of a tar, in bytes.
pub(super) const BLOCK: usize = 512;

/// A header whose checksum is right.
#[derive(Debug)]
pub(super) struct Header {
    block: [u8; BLOCK],
}

impl Header {
    /// Checks the checksum: the sum of all bytes, those of its own field taken as blanks. Old programs summed signed bytes.
    pub(super) fn parse(block: [u8; BLOCK]) -> Result<Self, String> {
        let header = Self { block };
        let stated = number(header.field(148, 8)).ok().flatten();
        let bytes =
            || block.iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { b' ' } else { byte });
        let unsigned: i64 = bytes().map(i64::from).sum();
        let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
        match stated {
            Some(sum) if sum == unsigned || sum == signed => Ok(header),
            _ => Err("this is no tar header: its checksum is wrong".to_owned()),
        }
    }

    fn field(&self, at: usize, size: usize) -> &[u8] {
        self.block.get(at..at + size).unwrap_or(&[])
    }

    /// Bytes up to the first NUL.
    fn text(&self, at: usize, size: usize) -> &[u8] {
        let field = self.field(at, size);
        let end = field.iter().position(|&byte| byte == 0).unwrap_or(size);
        field.get(..end).unwrap_or(field)
    }

    /// The type flag.
    pub(super) fn kind(&self) -> u8 {
        self.block.get(156).copied().unwrap_or(0)
    }

    /// Path of the header alone.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        let is_ustar = self.field(257, 6) == b"ustar\0";
        match self.text(345, 155) {
            prefix if is_ustar && !prefix.is_empty() => [prefix, b"/", name].concat(),
            _ => name.to_vec(),
        }
    }

    /// Link target of the header alone.
    pub(super) fn link(&self) -> Vec<u8> {
        self.text(157, 100).to_vec()
    }

    /// Bytes of data as stored.
    pub(super) fn size(&self) -> Result<u64, String> {
        unsigned("size", self.field(124, 12))
    }

    /// Major and minor device number.
    pub(super) fn device(&self) -> Result<(u32, u32), String> {
        Ok((
            small("device major number", self.field(329, 8))?,
            small("device minor number", self.field(337, 8))?,
        ))
    }

    /// Size of the whole file in an old GNU sparse header.
    pub(super) fn real_size(&self) -> Result<u64, String> {
        unsigned("size of a sparse file", self.field(483, 12))
    }

    /// Adds the parts in an old GNU sparse header; `true`: a block with more follows.
    pub(super) fn sparse_parts(&self, parts: &mut Vec<Part>) -> Result<bool, String> {
        add_parts(self.field(386, 96), parts)?;
        Ok(self.block.get(482).is_some_and(|&more| more != 0))
    }

    /// Adds the parts in a block that follows such a header.
    pub(super) fn extend_sparse(&self, block: &[u8; BLOCK], parts: &mut Vec<Part>) -> Result<bool, String> {
        add_parts(block.get(..504).unwrap_or(&[]), parts)?;
        if parts.len() > super::pax::MAX_PARTS {
            return Err("its sparse map is too long".to_owned());
        }
        Ok(block.get(504).is_some_and(|&more| more != 0))
    }
}

/// Adds (offset, size) pairs of 12 bytes each, up to the first empty one.
fn add_parts(table: &[u8], parts: &mut Vec<Part>) -> Result<(), String> {
    for entry in table.chunks_exact(24) {
        let (offset, size) = entry.split_at(12);
        if size.first().is_none_or(|&byte| byte == 0) {
            break;
        }
        parts.push(Part { offset: unsigned("sparse offset", offset)?, size: unsigned("sparse size", size)? });
    }
    Ok(())
}

/// Numbers of an entry, PAX records put in.
#[derive(Debug)]
pub(super) struct Fields {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Bytes of data as stored.
    pub stored: u64,
}

impl Fields {
    pub(super) fn read(header: &Header, records: &Both<'_>) -> Result<Self, String> {
        let decimal = |key: &[u8]| records.get(key).map(|value| pax_number(key, value)).transpose();
        let id = |key: &[u8], what, at| match decimal(key)? {
            Some(id) => u32::try_from(id).map_err(|_too_large| format!("{what} {id} is over 32 bits")),
            None => small(what, header.field(at, 8)),
        };
        Ok(Self {
            mode: small("mode", header.field(100, 8))?,
            uid: id(b"uid", "uid", 108)?,
            gid: id(b"gid", "gid", 116)?,
            mtime: match records.get(b"mtime") {
                Some(value) => mtime(value)?,
                None => (number(header.field(136, 12)).map_err(|e| format!("mtime {e}"))?.unwrap_or(0), 0),
            },
            stored: match decimal(b"size")? {
                Some(size) => size,
                None => header.size()?,
            },
        })
    }
}

/// A decimal number of a PAX record.
pub(super) fn pax_number(key: &[u8], value: &[u8]) -> Result<u64, String> {
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| format!("PAX record {} is not a number", String::from_utf8_lossy(key)))
}

/// A number of at most 32 bits; blank is 0.
fn small(what: &str, field: &[u8]) -> Result<u32, String> {
    let found = number(field).map_err(|problem| format!("{what} {problem}"))?.unwrap_or(0);
    u32::try_from(found).map_err(|_outside| format!("{what} {found} does not fit 32 bits"))
}

/// A number that is not negative; blank is 0.
fn unsigned(what: &str, field: &[u8]) -> Result<u64, String> {
    let found = number(field).map_err(|problem| format!("{what} {problem}"))?.unwrap_or(0);
    u64::try_from(found).map_err(|_negative| format!("{what} {found} is negative"))
}

/// A number: octal digits among blanks and NULs, or base 256 (first bit set, big-endian, two's complement). `None`: blank.
fn number(field: &[u8]) -> Result<Option<i64>, String> {
    if let Some((&first, rest)) = field.split_first().filter(|(first, _)| **first & 0x80 != 0) {
        // The bit behind the mark is the sign.
        let start =
            if first & 0x40 == 0 { i128::from(first & 0x3F) } else { i128::from(first & 0x3F) - 0x40 };
        let value =
            rest.iter().fold(start, |value, &byte| value.saturating_mul(256).saturating_add(byte.into()));
        return i64::try_from(value).map(Some).map_err(|_outside| "does not fit 64 bits".to_owned());
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_blank(byte)).unwrap_or(field.len());
    let digits = field.get(start..).unwrap_or(&[]);
    let end = digits.iter().position(is_blank).unwrap_or(digits.len());
    let mut value = 0i64;
    for &byte in digits.get(..end).unwrap_or(&[]) {
        if !(b'0'..=b'7').contains(&byte) {
            return Err("is not an octal number".to_owned());
        }
        // Twelve digits are 36 bits.
        value = value << 3 | i64::from(byte - b'0');
    }
    Ok((end > 0).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_all_dialects() {
        let good: [(&[u8], Option<i64>); 7] = [
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"777777777777", Some(0o777_777_777_777)),
            (b"\0\0\0\0\0\0\0\0", None),
            (b"        ", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
        ];
        for (field, expected) in good {
            assert_eq!(number(field), Ok(expected), "{field:?}");
        }
        assert!(number(b"12x45").is_err());
        assert!(number(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").is_err());
    }
}
