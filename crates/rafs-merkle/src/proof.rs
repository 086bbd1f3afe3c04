//! Inclusion proofs: one path and its node digest belong to the tree with a known digest.
//!
//! A proof holds, for every directory on the way, its attributes and one digest for each level of the tree over its entries: 17 digests in a
//! directory of 100,000 names. It is data from outside. [`Proof::check`] rebuilds every hash input from typed values, so nothing but a directory
//! can stand for a directory.

use crate::tree::{self, Attributes, PathId, Scope};
use rafs_format::Digest;
use rafs_format::xattr::Xattr;

/// That a path is part of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Whether times count in the tree.
    pub scope: Scope,
    /// Node digest of what the path names.
    pub node: Digest,
    /// The directories on the way, the root first; as many as the path has names.
    pub steps: Vec<Step>,
}

/// One directory, and where in it the next name of the path is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The directory's attributes.
    pub attributes: Attributes,
    /// Its extended attributes.
    pub xattrs: Vec<OwnedXattr>,
    /// Its entries.
    pub count: u64,
    /// Position of the name among them.
    pub index: u64,
    /// Where the name is a further one of its inode, the id of the first path.
    pub link: Option<PathId>,
    /// Digests beside the way from the entry up to the root over the entries.
    pub siblings: Vec<Digest>,
}

/// An extended attribute that borrows from nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedXattr {
    /// As [`Xattr::prefix`].
    pub prefix: &'static str,
    /// As [`Xattr::suffix`].
    pub suffix: Vec<u8>,
    /// As [`Xattr::value`].
    pub value: Vec<u8>,
}

impl From<&Xattr<'_>> for OwnedXattr {
    fn from(xattr: &Xattr<'_>) -> Self {
        Self { prefix: xattr.prefix, suffix: xattr.suffix.to_vec(), value: xattr.value.to_vec() }
    }
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum ProofError {
    #[error("the path has {names} names, the proof {steps} directories")]
    Length { names: usize, steps: usize },
    #[error("step {step} is not a directory but has mode {mode:#o}")]
    NotADirectory { step: usize, mode: u16 },
    #[error("step {step}: entry {index} of {count} does not have {siblings} digests beside its way up")]
    Shape { step: usize, index: u64, count: u64, siblings: usize },
    #[error("the proof is of a tree with digest {found}, expected {expected}")]
    Root { found: Digest, expected: Digest },
}

impl Proof {
    /// Does `path`, names from the root down, belong to the tree with digest `root`? Returns the node digest of what it names, the tree's
    /// own for no names. To know what that node is, hash it ([`tree::NodeHasher`]) and compare.
    pub fn check(&self, path: &[&[u8]], root: &Digest) -> Result<Digest, ProofError> {
        if path.len() != self.steps.len() {
            return Err(ProofError::Length { names: path.len(), steps: self.steps.len() });
        }
        let mut digest = self.node;
        for (step, (name, dir)) in path.iter().zip(&self.steps).enumerate().rev() {
            digest = dir.digest(step, self.scope, name, &digest)?;
        }
        if digest == *root { Ok(self.node) } else { Err(ProofError::Root { found: digest, expected: *root }) }
    }
}

impl Step {
    /// Node digest of this directory if its entry `name` has digest `node`.
    fn digest(&self, step: usize, scope: Scope, name: &[u8], node: &Digest) -> Result<Digest, ProofError> {
        if !tree::is_directory(&self.attributes) {
            return Err(ProofError::NotADirectory { step, mode: self.attributes.mode });
        }
        let leaf = tree::entry(name, node, self.link.as_ref());
        let root = root(leaf, self.index, self.count, &self.siblings).ok_or(ProofError::Shape {
            step,
            index: self.index,
            count: self.count,
            siblings: self.siblings.len(),
        })?;
        let mut xattrs: Vec<Xattr<'_>> = self
            .xattrs
            .iter()
            .map(|xattr| Xattr { prefix: xattr.prefix, suffix: &xattr.suffix, value: &xattr.value })
            .collect();
        Ok(tree::directory(scope, &self.attributes, &mut xattrs, self.count, &root))
    }
}

/// Root over `count` entries of which the one at `index` is `leaf`; `None` where there are not as many siblings as such a tree has.
fn root(leaf: Digest, index: u64, count: u64, siblings: &[Digest]) -> Option<Digest> {
    let (mut at, mut last) = (index, count.checked_sub(1)?);
    if at > last {
        return None;
    }
    let mut siblings = siblings.iter();
    let mut digest = leaf;
    while last > 0 {
        if at & 1 == 1 {
            digest = tree::inner(siblings.next()?, &digest);
        } else if at < last {
            digest = tree::inner(&digest, siblings.next()?);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    siblings.next().is_none().then_some(digest)
}

/// Digests beside the way from the entry at `index` up to the root over `entries`, which are digests of [`tree::entry`]. Empty where there is no such entry.
pub fn siblings(entries: &[Digest], index: usize) -> Vec<Digest> {
    let mut found = Vec::new();
    if index >= entries.len() {
        return found;
    }
    let (mut level, mut at) = (entries.to_vec(), index);
    while level.len() > 1 {
        found.extend(level.get(at ^ 1));
        let pairs = level.chunks(2).filter_map(|pair| match pair {
            [left, right] => Some(tree::inner(left, right)),
            [one] => Some(*one),
            _ => None,
        });
        level = pairs.collect();
        at /= 2;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_of_every_count_leads_to_the_root() {
        let leaves: Vec<_> = (0..40u8).map(|n| tree::entry(&[n], &Digest([n; 32]), None)).collect();
        let mut entries = tree::Entries::default();
        for count in 1..=40u8 {
            entries.push(&[count - 1], &Digest([count - 1; 32]), None).unwrap();
            let leaves = &leaves[..usize::from(count)];
            for (index, &leaf) in leaves.iter().enumerate() {
                let beside = siblings(leaves, index);
                let found = |index: usize, beside: &[Digest]| root(leaf, index as u64, count.into(), beside);
                assert_eq!(found(index, &beside), Some(entries.root()), "{index} of {count}");
                assert_eq!(found(index, &[beside.clone(), vec![leaf]].concat()), None);
                assert_eq!(found(usize::from(count), &beside), None);
                if let Some((_, fewer)) = beside.split_last() {
                    assert_eq!(found(index, fewer), None);
                }
            }
        }
        assert_eq!(root(leaves[0], 0, 0, &[]), None);
        assert_eq!(siblings(&leaves, 40), []);
    }
}
