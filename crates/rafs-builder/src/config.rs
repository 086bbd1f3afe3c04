//! Where blobs are, as the command line says it: in a daemon's configuration, or in an object that describes one backend.
//!
//! `blob_storage::config` reads both and `blob_storage::open_backend` makes backends of them, so tools serve whatever the daemon serves. Everything else
//! in a configuration belongs to the daemon, which checks it.

use blob_storage::config::{self, Backend as BackendConfig, Document, Kind};
use blob_storage::{Backend, BackendCause, BackendError, BlobReader, OpenError, OpenOptions, open_backend};
use rafs_format::BlobId;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why there is no backend.
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
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{kind:?} is no type of backend: expected one of {}", names())]
    Kind { kind: String },
}

fn names() -> String {
    Kind::ALL.map(Kind::name).join(", ")
}

/// The backend that the configuration in the file at `path` names.
pub fn load(path: &Path) -> Result<Arc<dyn Backend>, ConfigError> {
    open(config::load_backend(path)?)
}

/// The backend of the type `kind` that the JSON object `text` describes: what stands under its name in a configuration. `origin` names it in messages.
pub fn parse(kind: &str, text: &str, origin: &Path) -> Result<Arc<dyn Backend>, ConfigError> {
    if !Kind::ALL.iter().any(|known| known.name() == kind) {
        return Err(ConfigError::Kind { kind: kind.to_owned() });
    }
    let document =
        format!("{{\"version\":2,\"backend\":{{\"type\":\"{kind}\",\"{kind}\":{}}}}}", text.trim());
    let (backend, unknown) = Document::parse(&document, origin)?
        .read(|_, top| top.required_object("backend", BackendConfig::read_v2))?;
    for field in unknown {
        tracing::warn!("{}: {field}", origin.display());
    }
    open(backend)
}

fn open(backend: BackendConfig) -> Result<Arc<dyn Backend>, ConfigError> {
    Ok(open_backend(&backend, &OpenOptions::of_environment(std::env::vars_os())?)?)
}

/// Blobs that are in one backend or, where it does not have them, in another: a directory of blobs that are not uploaded yet, and where the rest is.
#[derive(Debug)]
pub struct Either {
    /// Asked first; one that says at once whether it has a blob.
    pub first: Arc<dyn Backend>,
    /// Asked where that one has no such blob.
    pub second: Arc<dyn Backend>,
}

impl Backend for Either {
    fn open(&self, id: &BlobId) -> Result<Arc<dyn BlobReader>, BackendError> {
        match self.first.open(id) {
            Err(error) if matches!(error.cause, BackendCause::NotFound) => self.second.open(id),
            found => found,
        }
    }
}

/// Bootstrap and backend of the blob cache entry in the file at `path`: JSON with `type` (`bootstrap`, or left out) and `config_v2`, a configuration of
/// version 2 whose `metadata_path` is the bootstrap.
pub fn blob_cache_entry(path: &Path) -> Result<(PathBuf, Arc<dyn Backend>), ConfigError> {
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
        Ok((
            top.required_object("backend", BackendConfig::read_v2)?,
            top.required::<String>("metadata_path")?,
        ))
    })?;
    Ok((bootstrap.into(), open(backend)?))
}

/// Longest entry that is read, in bytes.
const MAX_ENTRY: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use blob_storage::LocalFs;

    fn loaded(text: &str) -> Result<String, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        load(file.path()).map(|backend| format!("{backend:?}")).map_err(|error| crate::chain(&error))
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
            let found = loaded(text).unwrap();
            assert!(found.contains(&format!("{expected:?}")), "{text}: {found}");
        }
    }

    #[test]
    fn a_blob_cache_entry_names_bootstrap_and_backend() {
        let read = |text: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            let entry = blob_cache_entry(file.path()).map_err(|error| crate::chain(&error))?;
            Ok::<_, String>((entry.0, format!("{:?}", entry.1)))
        };
        let config =
            r#"{"version":2,"backend":{"type":"localfs","localfs":{"dir":"/b"}},"metadata_path":"/m"}"#;
        let expected = LocalFs { blob_file: None, dir: Some("/b".into()), alt_dirs: Vec::new() };
        let entry = format!(r#"{{"type":"bootstrap","id":"x","domain_id":"d","config_v2":{config}}}"#);
        let (bootstrap, backend) = read(&entry).unwrap();
        assert_eq!(bootstrap, Path::new("/m"));
        assert!(backend.contains(&format!("{expected:?}")), "{backend}");
        let said = |text: &str| read(text).unwrap_err();
        assert!(said(&entry.replace("\"bootstrap\"", "\"datablob\"")).contains("`type` is \"datablob\""));
        assert!(said("{}").contains("`config_v2` is missing"));
        assert!(said("{").contains("not JSON"));
        assert!(said(&entry.replace("metadata_path", "x")).contains("metadata_path"));
    }

    #[test]
    fn errors_name_the_field() {
        let said = |text: &str| loaded(text).unwrap_err();
        assert!(said(r#"{"version":2,"backend":{"type":7}}"#).contains("`backend.type` is 7, expected"));
        assert!(said("{").contains("is not JSON: EOF"));
        let missing = crate::chain(&load(Path::new("/no/such")).unwrap_err());
        assert_eq!(missing, "cannot read configuration /no/such: No such file or directory (os error 2)");
    }

    #[test]
    fn an_object_alone_is_read_as_part_of_a_configuration() {
        let said = |kind: &str, text: &str| match parse(kind, text, Path::new("--backend-config")) {
            Ok(backend) => format!("{backend:?}"),
            Err(error) => crate::chain(&error),
        };
        assert!(said("registry", r#"{"host":"h","repo":"r"}"#).contains("https://h/r"));
        let missing = said("registry", r#"{"host":"h"}"#);
        assert!(
            missing.contains("configuration --backend-config: `backend.registry.repo` is missing"),
            "{missing}"
        );
        assert!(said("registry", "nonsense").contains("is not JSON"), "{}", said("registry", "nonsense"));
        assert!(
            said("ftp", "{}").contains("\"ftp\" is no type of backend: expected one of localdisk, localfs")
        );
    }

    #[test]
    fn what_one_backend_does_not_have_another_may() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(first.path().join("a"), b"x").unwrap();
        std::fs::write(second.path().join("b"), b"x").unwrap();
        let local = |dir: &Path| -> Arc<dyn Backend> {
            Arc::new(LocalFs { dir: Some(dir.to_path_buf()), ..LocalFs::default() })
        };
        let either = Either { first: local(first.path()), second: local(second.path()) };
        let has = |id: &str| either.open(&BlobId::new(id).unwrap()).is_ok();
        assert_eq!(["a", "b", "c"].map(has), [true, true, false]);
    }
}
