//! Why a registry did not give what it was asked for. No message holds a credential or the query of a URL.

use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum SetupError {
    #[error("`{host}` is no host of a registry")]
    Host { host: String },
    #[error("`{repo}` is no name of a repository")]
    Repo { repo: String },
    #[error("the token given holds characters that cannot be sent")]
    Token,
    #[error("cannot read certificates {}", path.display())]
    ReadCertificates { path: PathBuf, source: std::io::Error },
    #[error("{} has no certificate in PEM, or a damaged one", path.display())]
    Certificates { path: PathBuf },
    #[error("the proxy's address cannot be used")]
    Proxy,
    #[error("the address to ask whether a server is well cannot be used")]
    Ping,
    #[error("`{name}` is no name of a header field, or its value cannot be sent")]
    Header { name: String },
    #[error("{} has no private key in PEM, or a damaged one", path.display())]
    Key { path: PathBuf },
    #[error("TLS cannot be set up")]
    Tls { source: rustls::Error },
    #[error("an HTTP client cannot be set up")]
    Http { source: reqwest::Error },
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum ClientError {
    /// `said` is the first line of the body.
    #[error("status {code}{}", tail(said))]
    Status { code: u16, said: String, retry_after: Option<Duration> },
    #[error("blob is {size} bytes long")]
    OutOfRange { size: u64 },
    #[error("got {found} bytes")]
    Short { found: u64 },
    #[error("no answer within {after:?}")]
    Timeout { after: Duration },
    #[error("access refused with {with}{}", tail(said))]
    Refused { with: String, said: String },
    #[error("the registry offers no way to authenticate that can be used: {offered}")]
    NoWay { offered: String },
    #[error("no token from {endpoint}: {cause}")]
    Token {
        endpoint: String,
        #[source]
        cause: Arc<ClientError>,
    },
    #[error("asked for bytes {}..{}, got {found}", asked.start, asked.end)]
    WrongRange { asked: Range<u64>, found: String },
    #[error("the server ignores ranges and the bytes are past its first {limit}")]
    RangesIgnored { limit: u64 },
    #[error("more than {limit} bytes asked for at once")]
    TooLong { limit: u64 },
    #[error("{found} is not an answer that was expected")]
    Answer { found: &'static str },
    #[error("the registry has stored it as {found}")]
    Renamed { found: String },
    #[error("redirected more than {limit} times")]
    Redirects { limit: usize },
    #[error("`{digest}` cannot be a digest")]
    Digest { digest: String },
    #[error("{0}")]
    Transport(#[source] TransportError),
}

/// `: text`, or nothing.
fn tail(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

/// What keeps bytes from coming or going: names, connections, TLS. Says all its causes, and no URL.
#[derive(Debug)]
pub struct TransportError(reqwest::Error);

impl TransportError {
    /// Was there no connection, or none that TLS could use?
    pub fn is_connect(&self) -> bool {
        self.0.is_connect()
    }
}

impl From<reqwest::Error> for TransportError {
    fn from(error: reqwest::Error) -> Self {
        Self(error.without_url())
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(next) = cause {
            write!(out, ": {next}")?;
            cause = next.source();
        }
        Ok(())
    }
}

impl Error for TransportError {}

impl From<reqwest::Error> for ClientError {
    fn from(error: reqwest::Error) -> Self {
        Self::Transport(error.into())
    }
}
