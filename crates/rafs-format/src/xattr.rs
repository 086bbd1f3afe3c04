//! Extended attributes: the inline area behind an inode.

use crate::FormatError;
use crate::layout::{XattrEntry, XattrHeader};
use crate::read::{require, structure};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

/// Longest full name, in bytes.
pub const MAX_NAME: usize = 255;
/// Longest value, in bytes.
pub const MAX_VALUE: usize = 65_535;

/// One extended attribute, name in two parts as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Xattr<'a> {
    /// Namespace with its dot: `user.`; the whole name for POSIX ACLs; empty for a namespace that only v5 can store.
    pub prefix: &'static str,
    /// What follows the prefix; any bytes but NUL.
    pub suffix: &'a [u8],
    /// Any bytes.
    pub value: &'a [u8],
}

impl Xattr<'_> {
    /// Does the full name equal `name`?
    pub fn is_named(&self, name: &[u8]) -> bool {
        name.strip_prefix(self.prefix.as_bytes()).is_some_and(|rest| rest == self.suffix)
    }

    /// Length of the full name in bytes.
    pub fn name_len(&self) -> usize {
        self.prefix.len() + self.suffix.len()
    }
}

/// Namespaces by their number on disk; the two ACLs are whole names.
pub(crate) const PREFIXES: [(u8, &str); 5] = [
    (1, "user."),
    (2, "system.posix_acl_access"),
    (3, "system.posix_acl_default"),
    (4, "trusted."),
    (6, "security."),
];

/// Iterator over the attributes of one inode; ends after the first error.
#[derive(Debug, Clone)]
pub struct Xattrs<'a> {
    rest: &'a [u8],
    /// Byte offset of `rest` in the bootstrap, for messages.
    at: u64,
    form: Form,
}

/// How attributes are stored.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// Length, name in full, NUL, value.
    V5,
    /// Lengths, number of the namespace, rest of the name, value.
    V6,
}

impl<'a> Xattrs<'a> {
    /// Attributes of the area at byte `at` of a bootstrap, which is for messages; none in an empty one.
    pub fn parse(area: &'a [u8], at: u64) -> Result<Self, FormatError> {
        if area.is_empty() {
            return Ok(Self { rest: area, at, form: Form::V6 });
        }
        let header: &XattrHeader = structure(area, "xattr header", 0)?;
        let shared = header.shared_count;
        require(shared == 0, "shared xattrs of an inode", at.saturating_add(4), shared.into(), "0")?;
        let size = size_of::<XattrHeader>();
        let rest = area.get(size..).unwrap_or(&[]);
        Ok(Self { rest, at: at.saturating_add(size as u64), form: Form::V6 })
    }

    /// Attributes of a v5 inode: `pairs` is at byte `at` of the bootstrap, without the total in front and the padding behind.
    pub(crate) fn of_v5(pairs: &'a [u8], at: u64) -> Self {
        Self { rest: pairs, at, form: Form::V5 }
    }

    /// The next pair of a v5 inode.
    fn step_v5(&mut self) -> Result<Xattr<'a>, FormatError> {
        let (rest, at) = (self.rest, self.at);
        let length: &U32 = structure(rest, "xattr", 0)?;
        let end = size_of::<U32>().saturating_add(length.get() as usize);
        let pair = rest.get(size_of::<U32>()..end).ok_or(FormatError::OutOfBounds {
            what: "xattr",
            start: at,
            size: end as u64,
            limit: at.saturating_add(rest.len() as u64),
        })?;
        let split = pair.iter().position(|&byte| byte == 0).ok_or_else(|| bad_name(pair, "has no end"))?;
        let (name, value) = pair.split_at(split);
        let value = value.get(1..).unwrap_or(&[]);
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(bad_name(name, "is empty or over 255 bytes"));
        }
        require(value.len() <= MAX_VALUE, "size of an xattr", at, value.len() as u64, "at most 65535")?;
        self.rest = rest.get(end..).unwrap_or(&[]);
        self.at = at.saturating_add(end as u64);
        // A namespace that v6 has no number for is a name like any other here.
        let known = split_name(name);
        let (_, prefix, suffix) = known.unwrap_or((0, "", name));
        Ok(Xattr { prefix, suffix, value })
    }

    /// The next entry of a v6 inode.
    fn step_v6(&mut self) -> Result<Xattr<'a>, FormatError> {
        let (rest, at) = (self.rest, self.at);
        let head: &XattrEntry = structure(rest, "xattr", 0)?;
        let prefix = PREFIXES.iter().find(|(index, _)| *index == head.name_index);
        let &(index, prefix) = prefix.ok_or(FormatError::Value {
            what: "namespace of an xattr",
            at: at.saturating_add(1),
            found: head.name_index.into(),
            expected: "1, 2, 3, 4 or 6",
        })?;
        let name_len = usize::from(head.name_len);
        let whole = matches!(index, 2 | 3);
        require(!whole || name_len == 0, "name length of an ACL", at, name_len as u64, "0")?;
        let value_size = usize::from(head.value_size.get());
        let name_start = size_of::<XattrEntry>();
        let end = name_start + name_len + value_size;
        let outside = || FormatError::OutOfBounds {
            what: "xattr",
            start: at,
            size: end as u64,
            limit: at.saturating_add(rest.len() as u64),
        };
        let suffix = rest.get(name_start..name_start + name_len).ok_or_else(outside)?;
        let value = rest.get(name_start + name_len..end).ok_or_else(outside)?;
        if suffix.contains(&0) {
            return Err(bad_name(suffix, HOLDS_NUL));
        }
        let next = end.next_multiple_of(4).min(rest.len());
        self.rest = rest.get(next..).unwrap_or(&[]);
        self.at = at.saturating_add(next as u64);
        Ok(Xattr { prefix, suffix, value })
    }
}

impl<'a> Iterator for Xattrs<'a> {
    type Item = Result<Xattr<'a>, FormatError>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let step = match self.form {
            Form::V5 => self.step_v5(),
            Form::V6 => self.step_v6(),
        };
        if step.is_err() {
            self.rest = &[];
        }
        Some(step)
    }
}

/// Encodes attributes (full name, value) as the inline area of an inode: sorted by name, so that the same set gives
/// the same bytes. Empty in, empty out. Errors: a namespace that cannot be stored, a name or value over its limit, the
/// same name twice, an area over 12 + 4 × 65534 bytes.
pub fn encode(attributes: &[(&[u8], &[u8])]) -> Result<Vec<u8>, FormatError> {
    if attributes.is_empty() {
        return Ok(Vec::new());
    }
    let mut sorted: Vec<_> = attributes.to_vec();
    sorted.sort_unstable();
    if let Some(twice) = sorted.windows(2).find_map(|pair| match pair {
        [a, b] if a.0 == b.0 => Some(a.0),
        _ => None,
    }) {
        return Err(bad_name(twice, "is given twice"));
    }
    let mut area = vec![0; size_of::<XattrHeader>()];
    for (name, value) in sorted {
        push(&mut area, name, value)?;
    }
    let (found, limit) = (area.len() as u64, MAX_AREA);
    if found > limit {
        Err(FormatError::Limit { what: "xattrs of one inode", found, limit })
    } else {
        Ok(area)
    }
}

/// Largest inline area, in bytes: its length is counted in units of 4 in 16 bits.
const MAX_AREA: u64 = 12 + 4 * 65_534;

/// Names are listed one behind the other with a NUL after each.
const HOLDS_NUL: &str = "holds a NUL";

fn bad_name(name: &[u8], problem: &'static str) -> FormatError {
    let shown = name.get(..MAX_NAME).unwrap_or(name);
    FormatError::Name { what: "xattr", name: String::from_utf8_lossy(shown).into_owned(), problem }
}

/// Number and text of the namespace of a full name, and what follows it; `None` for one without a number.
fn split_name(name: &[u8]) -> Option<(u8, &'static str, &[u8])> {
    PREFIXES.iter().find_map(|&(index, prefix)| {
        let suffix = name.strip_prefix(prefix.as_bytes())?;
        (suffix.is_empty() || !matches!(index, 2 | 3)).then_some((index, prefix, suffix))
    })
}

/// Appends one attribute to an area.
fn push(area: &mut Vec<u8>, name: &[u8], value: &[u8]) -> Result<(), FormatError> {
    if name.len() > MAX_NAME {
        return Err(bad_name(name, "is over 255 bytes"));
    }
    if name.contains(&0) {
        return Err(bad_name(name, HOLDS_NUL));
    }
    let (name_index, _, suffix) =
        split_name(name).ok_or_else(|| bad_name(name, "is in a namespace that cannot be stored"))?;
    let sizes = u8::try_from(suffix.len()).ok().zip(u16::try_from(value.len()).ok());
    let (name_len, value_size) = sizes.ok_or(FormatError::Limit {
        what: "value of an xattr",
        found: value.len() as u64,
        limit: MAX_VALUE as u64,
    })?;
    let head = XattrEntry { name_len, name_index, value_size: value_size.into() };
    area.extend_from_slice(head.as_bytes());
    area.extend_from_slice(suffix);
    area.extend_from_slice(value);
    area.resize(area.len().next_multiple_of(4), 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_read_back_in_order_of_names() {
        let given: [(&[u8], &[u8]); 4] = [
            (b"user.k", b"v"),
            (b"system.posix_acl_access", b"\x02\0\0\0"),
            (b"security.capability", b""),
            (b"trusted.\xff", &[7; 65_535]),
        ];
        let area = encode(&given).unwrap();
        let found: Vec<_> = Xattrs::parse(&area, 0)
            .unwrap()
            .map(|xattr| xattr.map(|x| ([x.prefix.as_bytes(), x.suffix].concat(), x.value.to_vec())).unwrap())
            .collect();
        let mut expected: Vec<_> = given.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
        expected.sort();
        assert_eq!(found, expected);
        assert_eq!(encode(&[]).unwrap(), [0; 0]);
    }

    #[test]
    fn what_cannot_be_stored_is_refused() {
        let long = [b"user.".as_slice(), &[b'a'; 251]].concat();
        let bad: [&[(&[u8], &[u8])]; 6] = [
            &[(b"system.other", b"")],
            &[(b"system.posix_acl_access.x", b"")],
            &[(b"user.a", b""), (b"user.a", b"")],
            &[(&long, b"")],
            &[(b"user.a", &[0; 65_536])],
            &[(b"user.a\0b", b"")],
        ];
        for attributes in bad {
            assert!(encode(attributes).is_err());
        }
    }

    #[test]
    fn a_name_with_a_nul_is_not_read() {
        let mut area = encode(&[(b"user.ab", b"")]).unwrap();
        let at = area.iter().position(|&byte| byte == b'a').unwrap();
        area[at] = 0;
        assert!(Xattrs::parse(&area, 0).unwrap().next().unwrap().is_err());
    }

    #[test]
    fn damaged_areas_end_with_an_error() {
        let area = encode(&[(b"user.k", b"value"), (b"trusted.t", b"")]).unwrap();
        // The last three bytes are padding.
        for cut in 1..area.len() - 3 {
            let found = Xattrs::parse(&area[..cut], 0).map(|xattrs| xattrs.collect::<Vec<_>>());
            assert!(
                found.is_err() || found.is_ok_and(|all| all.len() < 2 || all.iter().any(Result::is_err)),
                "{cut}"
            );
        }
    }
}
