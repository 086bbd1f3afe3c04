//! Blobs as files of a directory, named by id.

use crate::{Backend, BackendCause, BackendError, BlobReader, Priority};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use rafs_format::BlobId;
use rustix::io::ReadWriteFlags;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Blobs as files: one file for all ids, or `dir/<id>`, then each of `alt_dirs` when missing or empty there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalFs {
    /// One blob, whatever its id; takes precedence.
    pub blob_file: Option<PathBuf>,
    /// First directory searched.
    pub dir: Option<PathBuf>,
    /// Searched next, in order.
    pub alt_dirs: Vec<PathBuf>,
}

impl LocalFs {
    /// Where a blob may be, best first.
    fn candidates<'a>(&'a self, id: &'a BlobId) -> Box<dyn Iterator<Item = PathBuf> + 'a> {
        match &self.blob_file {
            Some(file) => Box::new(std::iter::once(file.clone())),
            None => Box::new(self.dir.iter().chain(&self.alt_dirs).map(|dir| dir.join(id.as_str()))),
        }
    }

    /// Names all places searched, for messages.
    pub(crate) fn endpoint(&self) -> String {
        let places: Vec<_> = match &self.blob_file {
            Some(file) => vec![file.display().to_string()],
            None => self.dir.iter().chain(&self.alt_dirs).map(|dir| dir.display().to_string()).collect(),
        };
        format!("localfs {}", places.join(", "))
    }
}

impl Backend for LocalFs {
    fn open(&self, id: &BlobId) -> Result<Arc<dyn BlobReader>, BackendError> {
        let failed = |endpoint: String, cause| BackendError {
            endpoint: endpoint.into(),
            blob: id.as_str().into(),
            range: None,
            cause,
        };
        for path in self.candidates(id) {
            match open_file(&path) {
                Ok(Some((file, size))) => {
                    let endpoint = format!("localfs {}", path.display()).into();
                    return Ok(Arc::new(LocalBlob::new(file, 0, size, endpoint, id.as_str().into())));
                }
                Ok(None) => {}
                Err(source) => {
                    return Err(failed(format!("localfs {}", path.display()), BackendCause::Io(source)));
                }
            }
        }
        Err(failed(self.endpoint(), BackendCause::NotFound))
    }
}

/// The file at `path` and its size; `None` when there is none or it is empty.
fn open_file(path: &Path) -> io::Result<Option<(File, u64)>> {
    let meta = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        meta => meta?,
    };
    if !meta.is_file() {
        return Err(io::Error::other("is not a regular file"));
    }
    if meta.len() == 0 {
        return Ok(None);
    }
    Ok(Some((File::open(path)?, meta.len())))
}

/// One blob that is a file. Its size is that at opening: blobs never change.
#[derive(Debug)]
pub(crate) struct LocalBlob {
    file: Arc<File>,
    /// Where in the file it begins.
    first: u64,
    size: u64,
    endpoint: Arc<str>,
    blob: Arc<str>,
}

impl LocalBlob {
    /// The `size` bytes of `file` from `first`. `endpoint` and `blob` are for errors.
    pub(crate) fn new(file: File, first: u64, size: u64, endpoint: Arc<str>, blob: Arc<str>) -> Self {
        Self { file: Arc::new(file), first, size, endpoint, blob }
    }

    fn error(&self, range: Range<u64>, cause: BackendCause) -> BackendError {
        BackendError {
            endpoint: Arc::clone(&self.endpoint),
            blob: Arc::clone(&self.blob),
            range: Some(range),
            cause,
        }
    }
}

impl BlobReader for LocalBlob {
    fn read(&self, range: Range<u64>, _priority: Priority) -> BoxFuture<'_, Result<Bytes, BackendError>> {
        Box::pin(async move {
            let size = range.end.checked_sub(range.start).filter(|_| range.end <= self.size);
            let Some(size) = size.and_then(|size| usize::try_from(size).ok()) else {
                return Err(self.error(range, BackendCause::OutOfRange { size: self.size }));
            };
            let start = self.first.saturating_add(range.start);
            if let Some(bytes) = read_cached(&self.file, start, size) {
                return Ok(bytes);
            }
            let file = Arc::clone(&self.file);
            let done = tokio::task::spawn_blocking(move || read_all(&file, start, size)).await;
            match done {
                Ok(bytes) => bytes.map_err(|cause| self.error(range, cause)),
                Err(stopped) => Err(self.error(range, BackendCause::Io(io::Error::other(stopped)))),
            }
        })
    }

    fn size(&self) -> BoxFuture<'_, Result<u64, BackendError>> {
        Box::pin(async { Ok(self.size) })
    }
}

/// `size` bytes of `file` from `start` where the page cache has all of them: reading them takes no longer than handing the request to
/// another thread. `None`: it has not, or the file system cannot tell.
fn read_cached(file: &File, start: u64, size: usize) -> Option<Bytes> {
    let mut bytes = vec![0; size];
    let into = &mut [IoSliceMut::new(&mut bytes)];
    let read = rustix::io::preadv2(file, into, start, ReadWriteFlags::NOWAIT);
    (read == Ok(size)).then(|| bytes.into())
}

/// `size` bytes of `file` from `start`: all of them, or an error that says how many there were.
fn read_all(file: &File, start: u64, size: usize) -> Result<Bytes, BackendCause> {
    let mut bytes = vec![0; size];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, start.saturating_add(filled as u64)) {
            Ok(0) => return Err(BackendCause::Short { found: filled as u64 }),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(BackendCause::Io(error)),
        }
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> BlobId {
        BlobId::new("abc").unwrap()
    }

    fn wait<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn ranges_are_read_whole_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("abc"), b"0123456789").unwrap();
        let blob = LocalFs { dir: Some(dir.path().into()), ..LocalFs::default() }.open(&id()).unwrap();
        assert_eq!(wait(blob.size()).unwrap(), 10);
        for (range, expected) in [(0..10, "0123456789"), (0..1, "0"), (9..10, "9"), (4..4, ""), (10..10, "")]
        {
            let found = wait(blob.read(range.clone(), Priority::OnDemand)).unwrap();
            assert_eq!(found, expected.as_bytes(), "{range:?}");
        }
        #[expect(clippy::reversed_empty_ranges, reason = "must be refused")]
        for range in [9..11, 11..11, 5..4, 0..u64::MAX] {
            let error = wait(blob.read(range, Priority::OnDemand)).unwrap_err();
            assert!(matches!(error.cause, BackendCause::OutOfRange { size: 10 }), "{error}");
        }
        std::fs::File::options().write(true).open(dir.path().join("abc")).unwrap().set_len(4).unwrap();
        let error = wait(blob.read(2..8, Priority::OnDemand)).unwrap_err();
        assert!(matches!(error.cause, BackendCause::Short { found: 2 }), "{error}");
        assert!(error.to_string().contains("blob abc, bytes 2..8: got 2 bytes"), "{error}");
    }

    #[test]
    fn directories_are_searched_in_order() {
        let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        let at = |n: usize| dirs[n].path().to_path_buf();
        let backend = LocalFs { blob_file: None, dir: Some(at(0)), alt_dirs: vec![at(1), at(2)] };
        let error = backend.open(&id()).unwrap_err();
        assert!(matches!(error.cause, BackendCause::NotFound) && !error.cause.is_temporary());
        assert!(error.to_string().contains(dirs[2].path().to_str().unwrap()), "{error}");
        std::fs::write(at(0).join("abc"), b"").unwrap();
        std::fs::write(at(1).join("abc"), b"one").unwrap();
        std::fs::write(at(2).join("abc"), b"two").unwrap();
        let read =
            |backend: &LocalFs| wait(backend.open(&id()).unwrap().read(0..3, Priority::Prefetch)).unwrap();
        assert_eq!(read(&backend), "one");
        let one_file = LocalFs { blob_file: Some(at(2).join("abc")), ..backend };
        assert_eq!(read(&one_file), "two");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("abc")).unwrap();
        let backend = LocalFs { dir: Some(dir.path().into()), ..LocalFs::default() };
        let error = backend.open(&id()).unwrap_err();
        assert!(error.to_string().contains("is not a regular file"), "{error}");
    }
}
