//! What can be wrong with a configuration: always the document, the field by its path, what it is and what was expected.
//! Values that may hold credentials are never part of a message.

use std::fmt;
use std::path::PathBuf;

/// Why a document is not a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum ConfigError {
    #[error("cannot read configuration {}", origin.display())]
    Read { origin: PathBuf, source: std::io::Error },
    #[error("configuration {} is over {limit} bytes long", origin.display())]
    TooLong { origin: PathBuf, limit: u64 },
    #[error("configuration {} is not UTF-8 text", origin.display())]
    NotText { origin: PathBuf, source: std::str::Utf8Error },
    #[error("configuration {} is empty", origin.display())]
    Empty { origin: PathBuf },
    #[error("configuration {} starts with `{{` but is not JSON", origin.display())]
    Json { origin: PathBuf, source: serde_json::Error },
    /// The parser's own error would quote the line, which may hold a credential.
    #[error("configuration {} does not start with `{{` as JSON does, and is not TOML: line {line}, column {column}: {problem}", origin.display())]
    Toml { origin: PathBuf, line: usize, column: usize, problem: String },
    #[error("configuration {} has neither `version` (version 2) nor `device` (version 1)", origin.display())]
    NoVersion { origin: PathBuf },
    #[error("configuration {}: {field}", origin.display())]
    Field { origin: PathBuf, field: FieldError },
    #[error("configuration {}: {}", origin.display(), fields.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Unknown { origin: PathBuf, fields: Vec<Unknown> },
}

/// A field that is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{path}` is {}, expected {expected}", found.as_deref().unwrap_or("missing"))]
pub struct FieldError {
    /// Names from the outermost object inwards: `backend.localfs.alt_dirs[1]`.
    pub path: String,
    /// The value, or what kind of value it is; `None` when there is none.
    pub found: Option<String>,
    /// What it must be.
    pub expected: String,
}

/// A field that nobody reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// As in [`FieldError::path`].
    pub path: String,
    /// The known field of the same object whose name is nearest, if one is near.
    pub suggestion: Option<&'static str>,
}

impl fmt::Display for Unknown {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "unknown field `{}`", self.path)?;
        match self.suggestion {
            Some(name) => write!(out, ", did you mean `{name}`?"),
            None => Ok(()),
        }
    }
}
