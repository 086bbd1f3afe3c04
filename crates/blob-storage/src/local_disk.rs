//! Blobs as partitions of a disk, or a disk as one blob.

mod gpt;

use crate::local_fs::LocalBlob;
use crate::{Backend, BackendCause, BackendError, BlobReader, config};
use gpt::Partition;
use rafs_format::BlobId;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Length of the part of a blob id that the name of a partition holds.
const NAME: usize = 32;

/// Blobs on a block device, or in an image of one. Looked for when a blob is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalDisk {
    path: PathBuf,
    is_one_blob: bool,
}

impl LocalDisk {
    /// The disk that `config` names.
    pub fn new(config: &config::LocalDisk) -> Self {
        Self { path: config.device_path.clone(), is_one_blob: config.disable_gpt }
    }

    /// What errors and metrics call it.
    pub fn endpoint(&self) -> String {
        format!("localdisk {}", self.path.display())
    }

    /// Where the blob is: the disk, its first byte there, its length. The length is that of the partition, of which a blob may use less.
    fn find(&self, id: &BlobId) -> Result<(File, u64, u64), BackendCause> {
        let (disk, size) = open(&self.path).map_err(BackendCause::Io)?;
        if self.is_one_blob {
            return Ok((disk, 0, size));
        }
        let partitions = gpt::partitions(&disk, size).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => BackendCause::Unable(Box::new(error)),
            _ => BackendCause::Io(error),
        })?;
        let found = pick(&partitions, id.as_str()).ok_or(BackendCause::NotFound)?;
        Ok((disk, found.start, found.size))
    }
}

/// The partition of the blob `id`: called so, or by its first half with the second one as GUID; else one of no particular kind with the first half
/// as its name, as disks have that are older than Nydus 2.2.
fn pick<'a>(partitions: &'a [Partition], id: &str) -> Option<&'a Partition> {
    let half = id.split_at_checked(NAME);
    let halves = |one: &&Partition| half == Some((one.name.as_str(), one.guid.as_str()));
    let exact = partitions.iter().find(|one| one.name == id).or_else(|| partitions.iter().find(halves));
    let old = |one: &&Partition| one.is_basic && half.is_some_and(|(name, _)| name == one.name);
    exact.or_else(|| partitions.iter().find(old))
}

/// The disk and its size in bytes.
fn open(path: &PathBuf) -> io::Result<(File, u64)> {
    let mut disk = File::open(path)?;
    let kind = disk.metadata()?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(io::Error::other("is neither a block device nor a regular file"));
    }
    let size = disk.seek(SeekFrom::End(0))?;
    Ok((disk, size))
}

impl Backend for LocalDisk {
    fn open(&self, id: &BlobId) -> Result<Arc<dyn BlobReader>, BackendError> {
        let endpoint: Arc<str> = self.endpoint().into();
        let blob: Arc<str> = id.as_str().into();
        match self.find(id) {
            Ok((disk, start, size)) => Ok(Arc::new(LocalBlob::new(disk, start, size, endpoint, blob))),
            Err(cause) => Err(BackendError { endpoint, blob, range: None, cause }),
        }
    }
}
