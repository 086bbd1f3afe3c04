//! Extended attributes: the inline area behind an inode.

use crate::FormatError;
use crate::layout::{XattrEntry, XattrHeader};
use crate::read::{require, structure};

/// Longest full name, in bytes.
pub const MAX_NAME: usize = 255;
/// Longest value, in bytes.
pub const MAX_VALUE: usize = 65_535;

/// One extended attribute, name in two parts as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Xattr<'a> {
    /// Namespace with its dot: `user.`; the whole name for POSIX ACLs.
    pub prefix: &'static str,
    /// What follows the prefix; any bytes.
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
}

impl<'a> Xattrs<'a> {
    /// Attributes of the area at byte `at` of a bootstrap; none in an empty one.
    pub(crate) fn parse(area: &'a [u8], at: u64) -> Result<Self, FormatError> {
        if area.is_empty() {
            return Ok(Self { rest: area, at });
        }
        let header: &XattrHeader = structure(area, "xattr header", 0)?;
        let shared = header.shared_count;
        require(shared == 0, "shared xattrs of an inode", at.saturating_add(4), shared.into(), "0")?;
        let size = size_of::<XattrHeader>();
        Ok(Self { rest: area.get(size..).unwrap_or(&[]), at: at.saturating_add(size as u64) })
    }

    fn step(&mut self) -> Result<Xattr<'a>, FormatError> {
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
        let step = self.step();
        if step.is_err() {
            self.rest = &[];
        }
        Some(step)
    }
}

/// Encodes attributes (full name, value) as the inline area of an inode: sorted by name, so that the same set gives
/// the same bytes. Empty in, empty out. Errors: a namespace that cannot be stored, a name or value over its limit, the
/// same name twice, an area over 12 + 4 × 65534 bytes.
pub fn encode(_attributes: &[(&[u8], &[u8])]) -> Result<Vec<u8>, FormatError> {
    todo!()
}
