//! Why a blob could not be read: where, what was asked, what was found, and whether trying again may help.

use std::ops::Range;

/// A failed request. Says the endpoint, what was asked and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{endpoint}: blob {blob}{}: {cause}", range.as_ref().map(|r| format!(", bytes {}..{}", r.start, r.end)).unwrap_or_default())]
pub struct BackendError {
    /// Directory, URL or socket asked, without secrets.
    pub endpoint: String,
    /// Id of the blob.
    pub blob: String,
    /// Bytes asked for; `None` for requests about the blob as a whole.
    pub range: Option<Range<u64>>,
    /// What went wrong.
    #[source]
    pub cause: BackendCause,
}

/// What went wrong with a request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum BackendCause {
    #[error("not found")]
    NotFound,
    #[error("blob is {size} bytes long")]
    OutOfRange { size: u64 },
    #[error("got {found} bytes")]
    Short { found: u64 },
    #[error("{0}")]
    Io(#[source] std::io::Error),
}

impl BackendCause {
    /// May the same request succeed if sent again? Retry asks this and nothing else.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::NotFound | Self::OutOfRange { .. } => false,
            Self::Short { .. } | Self::Io(_) => true,
        }
    }
}
