//! `nydus-image verify`: is an image the one that a tree digest names, down to the bytes of its blobs?
//!
//! The digest vouches for the bootstrap, the bootstrap by its chunk digests for the blobs. What is wrong is named as a leaf of the tree: a path, and a chunk of
//! the file there. The digest may be of either scope; one that is of neither says that the bootstrap is another one, not where: for that there
//! is [`crate::diff`] with a bootstrap that has the digest, or data that is known to be right.

use crate::check::{self, CheckError, DataReport, MAX_PROBLEMS, Problem};
use crate::digest::{self, DigestError, Scope};
use crate::open::{BlobSource, Image};
use rafs_format::check::Visit;
use rafs_format::{BlobId, Digest, FileType, FormatError};
use std::collections::HashMap;

/// Why an image could not be verified, or is not sound whatever its digest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum VerifyError {
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error("{path}")]
    Digest { path: String, source: DigestError },
}

/// What verifying found.
#[derive(Debug)]
pub struct Report {
    /// Scope in which the tree has the expected digest; `None` where it does in neither.
    pub scope: Option<Scope>,
    /// Its digest in full scope.
    pub full: Digest,
    /// What the blobs hold, where they were looked at.
    pub data: Option<DataReport>,
    /// Where in the tree bad chunks are, in the order of a walk.
    pub leaves: Vec<Leaf>,
}

/// A chunk of a file that is not what the bootstrap says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// First path of the file, absolute.
    pub path: Vec<u8>,
    /// Number of the chunk in the file, from 0.
    pub chunk: u64,
    /// Position of its problem in the data report.
    pub problem: usize,
}

impl Report {
    /// Is everything as it should be?
    pub fn is_good(&self) -> bool {
        let data = self.data.as_ref().is_none_or(|data| data.problems.is_empty() && data.more == 0);
        self.scope.is_some() && data
    }
}

/// A tree digest as people write it: 64 hexadecimal digits.
pub fn parse_root(text: &str) -> Result<Digest, hex::FromHexError> {
    let mut root = Digest([0; 32]);
    hex::decode_to_slice(text, &mut root.0)?;
    Ok(root)
}

/// Checks the structure of an image, compares its tree digest with `root`, and with `blobs`, which also says how many threads to use, every chunk with its digest.
/// What is wrong with either is part of the report. Errors: a structure that is not sound; a tarfs; blobs that this version cannot read.
pub fn verify(
    image: &Image,
    root: &Digest,
    blobs: Option<(&BlobSource, usize)>,
) -> Result<Report, VerifyError> {
    let digest = |scope| {
        let failed = |source| VerifyError::Digest { path: image.path().display().to_string(), source };
        digest::tree(image.bootstrap(), scope).map(|tree| tree.digest).map_err(failed)
    };
    let full = digest(Scope::Full)?;
    let scope = if full == *root {
        Some(Scope::Full)
    } else {
        (digest(Scope::Content)? == *root).then_some(Scope::Content)
    };
    let data = blobs.map(|(source, threads)| check::data(image, source, threads)).transpose()?;
    let leaves = data.as_ref().map_or(Ok(Vec::new()), |data| leaves(image, &data.problems));
    Ok(Report { scope, full, data, leaves: leaves.map_err(CheckError::from)? })
}

/// Where the chunks among `problems` are used, at most [`MAX_PROBLEMS`] places.
fn leaves(image: &Image, problems: &[Problem]) -> Result<Vec<Leaf>, FormatError> {
    let bad: HashMap<(&BlobId, u32), usize> = problems
        .iter()
        .enumerate()
        .filter_map(|(at, problem)| match problem {
            Problem::Chunk { blob, index, .. } => Some(((blob, *index), at)),
            _ => None,
        })
        .collect();
    let mut leaves = Vec::new();
    if bad.is_empty() {
        return Ok(leaves);
    }
    let bootstrap = image.bootstrap();
    rafs_format::check::check(bootstrap, &mut |visit: &Visit<'_>| {
        if visit.inode.file_type != FileType::Regular || visit.again {
            return Ok(());
        }
        for chunk in 0..bootstrap.chunk_count(&visit.inode) {
            let reference = bootstrap.chunk_ref(&visit.inode, chunk)?;
            let blob = usize::try_from(reference.blob).ok().and_then(|blob| image.blobs().get(blob));
            let problem = blob.and_then(|blob| bad.get(&(&blob.id, reference.chunk)));
            if let Some(&problem) = problem.filter(|_| leaves.len() < MAX_PROBLEMS) {
                leaves.push(Leaf { path: check::full_path(visit.path), chunk, problem });
            }
        }
        Ok::<(), FormatError>(())
    })?;
    Ok(leaves)
}
