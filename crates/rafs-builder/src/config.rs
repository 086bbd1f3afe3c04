//! The part of a daemon's configuration that tools need: where its blobs are.
//!
//! Reads version 2 (JSON or TOML) and version 1 (JSON) documents and looks at the backend only; everything else in
//! them belongs to the daemon, which checks it. Only local files are served by this version.

use blob_storage::LocalFs;
use serde::Deserialize;
use serde_json::Value;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Longest document read, in bytes.
const MAX_SIZE: u64 = 1 << 20;

/// Why a configuration does not say where blobs are.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum ConfigError {
    #[error("cannot read configuration {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("configuration {} is over {MAX_SIZE} bytes long", path.display())]
    TooLong { path: PathBuf },
    #[error("configuration {} is no JSON", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("configuration {} is no TOML", path.display())]
    Toml { path: PathBuf, source: toml::de::Error },
    #[error("configuration {}: `{field}` is {found}, expected {expected}", path.display())]
    Field { path: PathBuf, field: &'static str, found: String, expected: &'static str },
    #[error("configuration {}: `{field}`", path.display())]
    Backend { path: PathBuf, field: &'static str, source: serde_json::Error },
    #[error("configuration {}: backend type {kind:?} is not supported by this version yet, only localfs", path.display())]
    Unsupported { path: PathBuf, kind: String },
}

/// Local files as a configuration names them.
#[derive(Debug, Deserialize)]
struct Local {
    #[serde(default)]
    blob_file: PathBuf,
    #[serde(default)]
    dir: PathBuf,
    #[serde(default)]
    alt_dirs: Vec<PathBuf>,
}

/// The backend that the configuration in the file at `path` names.
pub fn local_fs(path: &Path) -> Result<LocalFs, ConfigError> {
    let document = read(path)?;
    let wrong = |field, found: &Value, expected| ConfigError::Field {
        path: path.to_path_buf(),
        field,
        found: found.to_string(),
        expected,
    };
    let null = Value::Null;
    let at = |pointer| document.pointer(pointer).unwrap_or(&null);
    let first_version = document.get("version").is_none() && document.get("device").is_some();
    let (kind_field, kind, body_field, body) = if first_version {
        (
            "device.backend.type",
            at("/device/backend/type"),
            "device.backend.config",
            at("/device/backend/config"),
        )
    } else {
        if at("/version").as_u64() != Some(2) {
            return Err(wrong("version", at("/version"), "2"));
        }
        ("backend.type", at("/backend/type"), "backend.localfs", at("/backend/localfs"))
    };
    match kind.as_str() {
        Some("localfs") => {}
        Some(kind) => {
            return Err(ConfigError::Unsupported { path: path.to_path_buf(), kind: kind.to_owned() });
        }
        None => return Err(wrong(kind_field, kind, "the name of a backend")),
    }
    let local = Local::deserialize(body).map_err(|source| ConfigError::Backend {
        path: path.to_path_buf(),
        field: body_field,
        source,
    })?;
    let given = |path: PathBuf| Some(path).filter(|path| !path.as_os_str().is_empty());
    Ok(LocalFs { blob_file: given(local.blob_file), dir: given(local.dir), alt_dirs: local.alt_dirs })
}

/// The document as a tree of values: JSON where it starts with `{`, else TOML.
fn read(path: &Path) -> Result<Value, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_path_buf(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    let read = file.take(MAX_SIZE + 1).read_to_string(&mut text).map_err(failed)?;
    if read as u64 > MAX_SIZE {
        return Err(ConfigError::TooLong { path: path.to_path_buf() });
    }
    if text.trim_start().starts_with('{') {
        serde_json::from_str(&text).map_err(|source| ConfigError::Json { path: path.to_path_buf(), source })
    } else {
        toml::from_str(&text).map_err(|source| ConfigError::Toml { path: path.to_path_buf(), source })
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
        let first = r#"{"device":{"backend":{"type":"localfs","config":{"dir":"/b","blob_file":""}}},"mode":"direct"}"#;
        let toml = "version = 2\n[backend]\ntype = \"localfs\"\n[backend.localfs]\ndir = \"/b\"\n";
        for text in [second, first, toml] {
            assert_eq!(parse(text), Ok(expected.clone()), "{text}");
        }
    }

    #[test]
    fn errors_name_the_field() {
        let said = |text: &str| parse(text).unwrap_err();
        assert!(said(r#"{"version":3}"#).contains("`version` is 3, expected 2"));
        assert!(said(r#"{"version":2}"#).contains("`backend.type` is null"));
        assert!(said(r#"{"version":2,"backend":{"type":"oss"}}"#).contains("\"oss\" is not supported"));
        assert!(
            said(r#"{"version":2,"backend":{"type":"localfs","localfs":{"dir":7}}}"#)
                .contains("`backend.localfs`: invalid type")
        );
        assert!(said("{").contains("is no JSON"));
        assert!(said("x").contains("is no TOML"));
        assert!(said(&" ".repeat(2 << 20)).contains("is over"));
        assert!(
            crate::chain(&local_fs(Path::new("/no/such")).unwrap_err()).contains("/no/such: No such file")
        );
    }
}
