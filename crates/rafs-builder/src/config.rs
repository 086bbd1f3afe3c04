//! The part of a daemon's configuration that tools need: where its blobs are.
//!
//! `blob_storage::config` reads it; everything else in the document belongs to the daemon, which checks it. Only local files
//! are served by this version.

use blob_storage::LocalFs;
use blob_storage::config::{self, Backend};
use std::path::{Path, PathBuf};

/// Why a configuration does not say where blobs are.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum ConfigError {
    #[error(transparent)]
    Document(#[from] config::ConfigError),
    #[error("configuration {}: backend type {kind:?} is not supported by this version yet, only localfs", path.display())]
    Unsupported { path: PathBuf, kind: &'static str },
}

/// The backend that the configuration in the file at `path` names.
pub fn local_fs(path: &Path) -> Result<LocalFs, ConfigError> {
    match config::load_backend(path)? {
        Backend::LocalFs(local) => Ok(local),
        other => Err(ConfigError::Unsupported { path: path.to_path_buf(), kind: other.kind().name() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<LocalFs, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        local_fs(file.path()).map_err(|error| crate::chain(&error))
    }

    #[test]
    fn all_shapes_are_read() {
        let expected = LocalFs { blob_file: None, dir: Some("/b".into()), alt_dirs: Vec::new() };
        let second =
            r#"{"version":2,"backend":{"type":"localfs","localfs":{"dir":"/b"}},"cache":{"type":"x"}}"#;
        let first =
            r#"{"device":{"backend":{"type":"localfs","config":{"dir":"/b","blob_file":""}}},"mode":"x"}"#;
        let toml = "version = 2\n[backend]\ntype = \"localfs\"\n[backend.localfs]\ndir = \"/b\"\n";
        for text in [second, first, toml] {
            assert_eq!(parse(text), Ok(expected.clone()), "{text}");
        }
    }

    #[test]
    fn errors_name_the_field() {
        let said = |text: &str| parse(text).unwrap_err();
        let oss = r#"{"version":2,"backend":{"type":"oss","oss":{"endpoint":"e","bucket_name":"b"}}}"#;
        assert!(said(oss).contains("\"oss\" is not supported"));
        assert!(said(r#"{"version":2,"backend":{"type":7}}"#).contains("`backend.type` is 7, expected"));
        assert!(said("{").contains("is not JSON: EOF"));
        let missing = crate::chain(&local_fs(Path::new("/no/such")).unwrap_err());
        assert_eq!(missing, "cannot read configuration /no/such: No such file or directory (os error 2)");
    }
}
