//! Key files of encrypted blobs: read, and made. Knows no blobs.

use blob_storage::read_private;
pub use rafs_codec::{Keys, Secret};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Longest key file: digits and some white space.
const LIMIT: u64 = 128;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum KeyError {
    #[error("cannot read key file {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is no key file: a key is 64 hex digits, or 32 bytes, and its halves differ", path.display())]
    NotAKey { path: PathBuf },
    #[error("cannot make key file {}", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("the system gives no random bytes")]
    Random { source: io::Error },
}

/// The key in the file at `path`, which others must not be able to read.
pub fn read(path: &Path) -> Result<Secret, KeyError> {
    let bytes =
        read_private(path, LIMIT).map_err(|source| KeyError::Read { path: path.to_path_buf(), source })?;
    Secret::parse(&bytes).ok_or_else(|| KeyError::NotAKey { path: path.to_path_buf() })
}

/// The keys in all these files.
pub fn read_all(paths: &[PathBuf]) -> Result<Keys, KeyError> {
    let keys = paths.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    Ok(Keys::from(keys))
}

/// A new key, in a new file at `path` that its owner alone can read. Errors: also where there is one already, whose blobs nobody could read any more.
pub fn generate(path: &Path) -> Result<Secret, KeyError> {
    let key = loop {
        // Of two halves that are equal there is one in 2^128.
        if let Ok(key) = Secret::new(random()?) {
            break key;
        }
    };
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = made.and_then(|mut file| {
        file.write_all(format!("{}\n", key.expose()).as_bytes())?;
        file.sync_all()
    });
    written.map_err(|source| KeyError::Make { path: path.to_path_buf(), source })?;
    Ok(key)
}

/// Bytes that nobody can guess.
pub fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let got = rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty());
        filled += got.map_err(|error| KeyError::Random { source: error.into() })?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_that_was_made_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let key = generate(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&path).unwrap(), key);
        let again = generate(&path).unwrap_err();
        assert!(
            matches!(&again, KeyError::Make { source, .. } if source.kind() == io::ErrorKind::AlreadyExists),
            "{again}"
        );
        assert_eq!(read(&path).unwrap(), key, "nothing happened to it");
        assert_ne!(generate(&dir.path().join("other")).unwrap(), key);
    }

    #[test]
    fn what_is_no_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert!(crate::chain(&read(&path).unwrap_err()).contains("No such file"));
        std::fs::write(&path, "hello").unwrap();
        let said = |mode| {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            crate::chain(&read(&path).unwrap_err())
        };
        assert!(said(0o600).contains("is no key file: a key is 64 hex digits"));
        assert!(said(0o644).contains("its mode is 0644"));
        std::fs::write(&path, vec![b'1'; 1000]).unwrap();
        assert!(said(0o600).contains("more than 128 bytes"));
    }
}
