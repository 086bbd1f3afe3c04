//! The part of a daemon's configuration that tools need: where its blobs are.
//!
//! `blob_storage::config` reads it; everything else in the document belongs to the daemon, which checks it. Only local files
//! are served by this version.

use blob_storage::LocalFs;
use blob_storage::config::{self, Backend, Document};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Why a configuration does not say where blobs are.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum ConfigError {
    #[error(transparent)]
    Document(#[from] config::ConfigError),
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("blob cache entry {}: {problem}", path.display())]
    Entry { path: PathBuf, problem: String },
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

/// Bootstrap and backend of the blob cache entry in the file at `path`: JSON with `type` (`bootstrap`, or left out) and `config_v2`, a configuration of
/// version 2 whose `metadata_path` is the bootstrap.
pub fn blob_cache_entry(path: &Path) -> Result<(PathBuf, LocalFs), ConfigError> {
    let failed = |problem: String| ConfigError::Entry { path: path.to_path_buf(), problem };
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_ENTRY).read_to_string(&mut text));
    read.map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
    let entry: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| failed(format!("it is not JSON: {error}")))?;
    if let Some(kind) = entry.get("type").filter(|kind| *kind != "bootstrap") {
        return Err(failed(format!("`type` is {kind}, expected \"bootstrap\"")));
    }
    let config = entry.get("config_v2").ok_or_else(|| failed("`config_v2` is missing".to_owned()))?;
    let document = Document::parse(&config.to_string(), path)?;
    let ((backend, bootstrap), _unknown) = document.read(|_version, top| {
        Ok((top.required_object("backend", Backend::read_v2)?, top.required::<String>("metadata_path")?))
    })?;
    match backend {
        Backend::LocalFs(local) => Ok((bootstrap.into(), local)),
        other => Err(ConfigError::Unsupported { path: path.to_path_buf(), kind: other.kind().name() }),
    }
}

/// Longest entry that is read, in bytes.
const MAX_ENTRY: u64 = 1 << 20;

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
    fn a_blob_cache_entry_names_bootstrap_and_backend() {
        let read = |text: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            blob_cache_entry(file.path()).map_err(|error| crate::chain(&error))
        };
        let config =
            r#"{"version":2,"backend":{"type":"localfs","localfs":{"dir":"/b"}},"metadata_path":"/m"}"#;
        let expected = LocalFs { blob_file: None, dir: Some("/b".into()), alt_dirs: Vec::new() };
        let entry = format!(r#"{{"type":"bootstrap","id":"x","domain_id":"d","config_v2":{config}}}"#);
        assert_eq!(read(&entry), Ok(("/m".into(), expected)));
        let said = |text: &str| read(text).unwrap_err();
        assert!(said(&entry.replace("\"bootstrap\"", "\"datablob\"")).contains("`type` is \"datablob\""));
        assert!(said("{}").contains("`config_v2` is missing"));
        assert!(said("{").contains("not JSON"));
        assert!(said(&entry.replace("metadata_path", "x")).contains("metadata_path"));
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
