//! Opening an image: a bootstrap file becomes a checked [`Image`], and its blobs are found by id.
//!
//! Knows files and names, no chunks. The bootstrap is read whole: tools look at all of it anyway, and a file that changes
//! under a mapping would kill the process. A data blob with its bootstrap inside is taken for that bootstrap.

pub use blob_storage::{Backend, LocalFs};
use blob_storage::{BackendError, BlobReader};
use bytes::Bytes;
use rafs_codec::Keys;
use rafs_codec::sections;
use rafs_format::{Blob, BlobId, Bootstrap, FormatError, Version};
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why an image could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum OpenError {
    #[error("cannot read bootstrap {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not a RAFS bootstrap: {looks}", path.display())]
    NotABootstrap { path: PathBuf, looks: String },
    #[error("bootstrap {} is not valid", path.display())]
    Format { path: PathBuf, source: FormatError },
    #[error("the bootstrap inside {} does not decode", path.display())]
    Inlined { path: PathBuf, source: rafs_codec::CodecError },
    #[error("cannot start threads for reading blobs")]
    Threads { source: io::Error },
}

/// One image: its bootstrap, and its blobs under the ids they are found by.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    bootstrap: Bootstrap<Vec<u8>>,
    blobs: Vec<Blob>,
    inside: bool,
}

impl Image {
    /// Reads and parses the bootstrap at `path`, which may also be a data blob with its bootstrap inside.
    /// Checks superblock and tables, not the tree. Errors name the file.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let (bytes, inside) = read_bootstrap(path)?;
        let bootstrap = Bootstrap::parse(bytes)
            .map_err(|source| OpenError::Format { path: path.to_path_buf(), source })?;
        let blobs = bootstrap.blobs().iter().map(|blob| blob.named_by(path.file_name())).collect();
        Ok(Self { path: path.to_path_buf(), bootstrap, blobs, inside })
    }

    /// An image that is in no file yet; errors name it as `name`.
    pub(crate) fn in_memory(name: &str, bytes: Vec<u8>) -> Result<Self, OpenError> {
        let path = PathBuf::from(name);
        let parsed = Bootstrap::parse(bytes);
        let bootstrap = parsed.map_err(|source| OpenError::Format { path: path.clone(), source })?;
        let blobs = bootstrap.blobs().to_vec();
        Ok(Self { path, bootstrap, blobs, inside: false })
    }

    /// The file it was read from, as given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Is the file a blob that holds the bootstrap?
    pub fn is_inside_blob(&self) -> bool {
        self.inside
    }

    /// The parsed bootstrap. Its blob ids are those stored, see [`Image::blobs`].
    pub fn bootstrap(&self) -> &Bootstrap<Vec<u8>> {
        &self.bootstrap
    }

    /// Blobs in table order. A blob that holds its own bootstrap cannot name itself there, so such a blob has the file's
    /// name up to the first dot as its id.
    pub fn blobs(&self) -> &[Blob] {
        &self.blobs
    }
}

/// All bytes of the bootstrap in the file at `path`, and whether it is inside a blob.
fn read_bootstrap(path: &Path) -> Result<(Vec<u8>, bool), OpenError> {
    let failed = |source| OpenError::Read { path: path.to_path_buf(), source };
    let mut file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    let size = if meta.is_file() { meta.len() } else { 0 };
    let inside = sections::find_bootstrap(size, &mut |range| read_range(&file, &range));
    if let Some((stored, coding)) = inside.map_err(failed)? {
        let stored = read_range(&file, &stored).map_err(failed)?;
        let plain = coding.decode(stored);
        let plain = plain.map_err(|source| OpenError::Inlined { path: path.to_path_buf(), source })?;
        return Ok((plain, true));
    }
    let mut bytes = Vec::new();
    file.by_ref().take(4096).read_to_end(&mut bytes).map_err(failed)?;
    if Version::detect(&bytes).is_none() {
        return Err(OpenError::NotABootstrap { path: path.to_path_buf(), looks: describe(&bytes) });
    }
    file.read_to_end(&mut bytes).map_err(failed)?;
    Ok((bytes, false))
}

/// What the first bytes of a file look like, for people who gave the wrong one.
fn describe(head: &[u8]) -> String {
    let known = match head {
        [] => "it is empty",
        [0x1F, 0x8B, ..] => "it looks like gzip data",
        [0x28, 0xB5, 0x2F, 0xFD, ..] => "it looks like zstd data",
        [b'{', ..] => "it looks like JSON",
        [0x7F, b'E', b'L', b'F', ..] => "it looks like a program",
        _ if head.get(257..262) == Some(b"ustar") => "it looks like a tar archive",
        _ => {
            let first: Vec<String> = head.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            return format!("it starts with {}", first.join(" "));
        }
    };
    known.to_owned()
}

/// Bytes `range` of `file`.
fn read_range(file: &File, range: &Range<u64>) -> io::Result<Vec<u8>> {
    let size = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes)
}

/// Finds and reads blobs for tools: an async backend behind calls that wait.
#[derive(Debug)]
pub struct BlobSource {
    backend: Arc<dyn Backend>,
    keys: Keys,
    runtime: tokio::runtime::Runtime,
}

impl BlobSource {
    /// Blobs of any backend.
    pub fn new(backend: Arc<dyn Backend>) -> Result<Self, OpenError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|source| OpenError::Threads { source })?;
        Ok(Self { backend, keys: Keys::default(), runtime })
    }

    /// With keys for encrypted blobs whose images leave theirs out.
    #[must_use]
    pub fn with_keys(self, keys: Keys) -> Self {
        Self { keys, ..self }
    }

    /// `blob` with its key, where that is known.
    pub(crate) fn unlocked(&self, blob: &Blob) -> Blob {
        self.keys.unlock(blob)
    }

    /// The blob called `id`. Errors: the backend's.
    pub fn open(&self, id: &BlobId) -> Result<BlobFile, BackendError> {
        Ok(BlobFile { reader: self.backend.open(id)?, runtime: self.runtime.handle().clone() })
    }

    /// The file at `path`, whatever the backend; `id` is what errors call it.
    pub fn open_path(&self, path: &Path, id: &BlobId) -> Result<BlobFile, BackendError> {
        let local = LocalFs { blob_file: Some(path.to_path_buf()), ..LocalFs::default() };
        Ok(BlobFile { reader: Backend::open(&local, id)?, runtime: self.runtime.handle().clone() })
    }
}

/// One blob, read by waiting. Its bytes are *unverified*.
#[derive(Debug, Clone)]
pub struct BlobFile {
    reader: Arc<dyn BlobReader>,
    runtime: tokio::runtime::Handle,
}

impl BlobFile {
    /// Size of the blob in bytes.
    pub fn size(&self) -> Result<u64, BackendError> {
        self.runtime.block_on(self.reader.size())
    }

    /// The bytes of `range` (half-open): all of them, or an error.
    pub fn read(&self, range: Range<u64>) -> Result<Bytes, BackendError> {
        self.runtime.block_on(self.reader.read(range, blob_storage::Priority::OnDemand))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: &[u8]) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Image::open(file.path()).unwrap_err().to_string()
    }

    #[test]
    fn a_file_that_is_no_bootstrap_is_described() {
        assert!(message(b"").contains("is not a RAFS bootstrap: it is empty"), "{}", message(b""));
        assert!(message(b"\x1f\x8b\x08\0").contains("gzip"));
        assert!(message(b"\x28\xb5\x2f\xfd..").contains("zstd"));
        assert!(message(b"hello").contains("starts with 68 65 6c 6c 6f"));
        assert!(message(&[b"SFAR".as_slice(), &[0; 8188]].concat()).contains("is not valid"));
        let mut tar = vec![0; 1024];
        tar[257..262].copy_from_slice(b"ustar");
        assert!(message(&tar).contains("tar archive"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Image::open(Path::new("/no/such/boot")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read bootstrap /no/such/boot");
    }
}
