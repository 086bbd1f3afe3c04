//! Why a blob could not be read: where, what was asked, what was found, and whether trying again may help.

use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// An error of the library that speaks a backend's protocol. Holds no secrets.
pub type Source = Box<dyn Error + Send + Sync>;

/// A failed request. Says the endpoint, what was asked and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{endpoint}: blob {blob}{}: {cause}", range.as_ref().map(|r| format!(", bytes {}..{}", r.start, r.end)).unwrap_or_default())]
pub struct BackendError {
    /// Directory, URL or socket asked, without secrets.
    pub endpoint: Arc<str>,
    /// Id of the blob.
    pub blob: Arc<str>,
    /// Bytes asked for; `None` for requests about the blob as a whole.
    pub range: Option<Range<u64>>,
    /// What went wrong.
    #[source]
    pub cause: BackendCause,
}

/// An HTTP status that is no success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Three digits.
    pub code: u16,
    /// First line of the body, without secrets; may be empty.
    pub said: String,
    /// When the server wants to be asked again.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, said, .. } = self;
        write!(out, "status {code}{}{said}", if said.is_empty() { "" } else { ": " })
    }
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
    #[error("{0}")]
    Status(Box<Status>),
    #[error("no answer within {after:?}")]
    Timeout { after: Duration },
    /// Credentials are missing or refused.
    #[error("{0}")]
    Auth(#[source] Source),
    /// Bytes do not come or go: names, connections, TLS.
    #[error("{0}")]
    Transport(#[source] Source),
    /// An answer to something else, or none that makes sense.
    #[error("{0}")]
    Answer(#[source] Source),
    /// What is asked for cannot be had from this server, however often.
    #[error("{0}")]
    Unable(#[source] Source),
    /// What the last try said.
    #[error("{last}, tried {tries} times")]
    Tried { tries: u32, last: Box<BackendCause> },
}

impl BackendCause {
    /// May the same request succeed if sent again? Retry asks this and nothing else.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::NotFound | Self::OutOfRange { .. } | Self::Auth(_) | Self::Unable(_) => false,
            Self::Status(status) => matches!(status.code, 408 | 429 | 500..=599),
            Self::Short { .. } | Self::Io(_) | Self::Timeout { .. } => true,
            Self::Transport(_) | Self::Answer(_) => true,
            Self::Tried { last, .. } => last.is_temporary(),
        }
    }

    /// How long the server wants to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status(status) => status.retry_after,
            _ => None,
        }
    }
}
