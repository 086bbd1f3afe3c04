//! Extended attributes: the inline area behind an inode.

use crate::FormatError;

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

/// Iterator over the attributes of one inode; ends after the first error.
#[derive(Debug, Clone)]
pub struct Xattrs<'a> {
    _area: &'a [u8],
}

impl<'a> Iterator for Xattrs<'a> {
    type Item = Result<Xattr<'a>, FormatError>;
    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}

/// Encodes attributes (full name, value) as the inline area of an inode: sorted by name, so that the same set gives
/// the same bytes. Empty in, empty out. Errors: a namespace that cannot be stored, a name or value over its limit, the
/// same name twice, an area over 12 + 4 × 65534 bytes.
pub fn encode(_attributes: &[(&[u8], &[u8])]) -> Result<Vec<u8>, FormatError> {
    todo!()
}
