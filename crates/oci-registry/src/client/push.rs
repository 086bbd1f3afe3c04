//! The other direction: blobs go to the repository, in chunks that the registry may have lost when it comes back (OCI distribution
//! specification, "Pushing a blob in chunks").
//!
//! Asks once, as all of the client does: who pushes decides what to try again, with [`Upload::received`] to find out from where. Holds
//! no bytes. The registry compares the digest with what it got; a registry that names another one afterwards is an error here, too.

use super::auth::Credential;
use super::error::ClientError;
use super::header::{self, upload_range};
use super::{Call, Client, Payload, answer, is_redirect, limited, set_query};
use bytes::Bytes;
use reqwest::header::{HeaderName, LOCATION, RANGE};
use reqwest::{Method, Response, StatusCode, Url};
use std::sync::Arc;
use std::time::Duration;

/// Digest of what the registry has stored.
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// Smallest chunk that the registry takes, but for the last.
const MIN_CHUNK: HeaderName = HeaderName::from_static("oci-chunk-min-length");
/// A chunk has the time of a request for each of these, in bytes; slower lines than 1 MiB in 5 s are not worth waiting for.
const PER_LIMIT: u64 = 1 << 20;
/// Time for that where requests have no limit: silence has.
const SLOWEST: Duration = Duration::from_secs(60);

impl Client {
    /// Is the blob in the repository?
    pub async fn has(&self, digest: &str) -> Result<bool, ClientError> {
        limited(self.timeout, async {
            let url = super::url(self.settled().await?, digest)?;
            let (answer, sent) = self.ask(&Call::new(Method::HEAD, &url)).await?;
            match answer.status() {
                StatusCode::NOT_FOUND => Ok(false),
                // It is somewhere else, and it is there.
                status if status.is_success() || is_redirect(status) => Ok(true),
                _ => Err(self.failed(answer, sent.as_deref()).await),
            }
        })
        .await
    }

    /// Makes the blob of the repository `from` one of this repository without sending it. `false`: the registry does not want to.
    pub async fn mount(self: &Arc<Self>, digest: &str, from: &str) -> Result<bool, ClientError> {
        let begun = limited(self.timeout, self.open_upload(&[("mount", digest), ("from", from)])).await?;
        let Some(upload) = begun else { return Ok(true) };
        upload.cancel().await?;
        Ok(false)
    }

    /// Begins to store a blob.
    pub async fn upload(self: &Arc<Self>) -> Result<Upload, ClientError> {
        let begun = limited(self.timeout, self.open_upload(&[])).await?;
        begun.ok_or(ClientError::Answer { found: "a blob that was not sent yet" })
    }

    /// `None`: the blob is there already.
    async fn open_upload(
        self: &Arc<Self>,
        query: &[(&'static str, &str)],
    ) -> Result<Option<Upload>, ClientError> {
        let mut url = self.settled().await?.clone();
        url.set_path(&format!("{}uploads/", url.path()));
        set_query(&mut url, query);
        let (answer, sent) = self.ask(&Call::new(Method::POST, &url)).await?;
        match answer.status() {
            StatusCode::CREATED if !query.is_empty() => Ok(None),
            StatusCode::ACCEPTED => {
                let smallest = answer::text(answer.headers(), MIN_CHUNK).and_then(|text| text.parse().ok());
                let location = self.location(&url, &answer)?;
                Ok(Some(Upload { client: Arc::clone(self), location, smallest: smallest.unwrap_or(0) }))
            }
            _ => Err(self.failed(answer, sent.as_deref()).await),
        }
    }

    /// Where an upload goes on. Registries behind something that ends TLS may forget that they have it.
    fn location(&self, at: &Url, answer: &Response) -> Result<Url, ClientError> {
        let nowhere = || ClientError::Answer { found: "an upload to nowhere" };
        let field = answer::text(answer.headers(), LOCATION).ok_or_else(nowhere)?;
        let mut url = header::location(at, field).ok_or_else(nowhere)?;
        if at.scheme() == "https" && url.scheme() == "http" && url.host_str() == at.host_str() {
            url.set_scheme("https").ok().ok_or_else(nowhere)?;
        }
        // Whoever is to get the bytes gets them as safely as the registry would.
        let safe = url.scheme() == "https" || at.scheme() == "http";
        if safe { Ok(url) } else { Err(nowhere()) }
    }

    /// An answer that is none, as an error.
    async fn failed(&self, answer: Response, sent: Option<&Credential>) -> ClientError {
        answer::status(answer, |line| self.auth.redact(line, sent)).await
    }
}

/// A blob on its way to the repository. Given up by [`Upload::cancel`]; otherwise the registry forgets it in its own time.
#[derive(Debug)]
pub struct Upload {
    client: Arc<Client>,
    location: Url,
    smallest: u64,
}

impl Upload {
    /// The registry takes no smaller chunks, but for the last one; 0 where it does not say.
    pub fn smallest_chunk(&self) -> u64 {
        self.smallest
    }

    /// Sends the bytes from `offset` on, which must be what the registry has so far. After an error it may have some of them.
    pub async fn append(&mut self, offset: u64, bytes: Bytes) -> Result<(), ClientError> {
        let length = bytes.len() as u64;
        let steps = u32::try_from(length / PER_LIMIT).unwrap_or(u32::MAX).saturating_add(1);
        let limit = self.client.timeout.unwrap_or(SLOWEST).saturating_mul(steps);
        let range = offset..offset.saturating_add(length);
        let payload = Payload::Chunk { bytes, range };
        self.step(Method::PATCH, payload, Some(limit), StatusCode::ACCEPTED).await.map(drop)
    }

    /// How many bytes the registry has. `None`: it does not know of the upload, or has too few to say how many.
    pub async fn received(&mut self) -> Result<Option<u64>, ClientError> {
        let limit = self.client.timeout;
        let asked = self.step(Method::GET, Payload::Nothing, limit, StatusCode::NO_CONTENT).await;
        let answer = match asked {
            Err(ClientError::Status { code: 404, .. }) => return Ok(None),
            other => other?,
        };
        let range = answer::text(answer.headers(), RANGE).and_then(upload_range);
        let range = range.ok_or(ClientError::Answer { found: "an upload without a range" })?;
        // `0-0` is said of one byte and of none.
        Ok(Some(range.end).filter(|end| *end > 1))
    }

    /// Makes what was sent the blob `digest`.
    pub async fn finish(&mut self, digest: &str) -> Result<(), ClientError> {
        let mut last = self.location.clone();
        set_query(&mut last, &[("digest", digest)]);
        let location = std::mem::replace(&mut self.location, last);
        let limit = self.client.timeout;
        let done = self.step(Method::PUT, Payload::Nothing, limit, StatusCode::CREATED).await;
        self.location = location;
        match answer::text(done?.headers(), CONTENT_DIGEST) {
            Some(found) if found != digest => {
                Err(ClientError::Renamed { found: found.chars().take(100).collect() })
            }
            _ => Ok(()),
        }
    }

    /// Tells the registry to forget what it got.
    pub async fn cancel(mut self) -> Result<(), ClientError> {
        let limit = self.client.timeout;
        self.step(Method::DELETE, Payload::Nothing, limit, StatusCode::NO_CONTENT).await.map(drop)
    }

    /// One request about the upload, and where it goes on.
    async fn step(
        &mut self,
        method: Method,
        payload: Payload<'_>,
        limit: Option<Duration>,
        expected: StatusCode,
    ) -> Result<Response, ClientError> {
        let call = Call { method, url: &self.location, payload };
        let client = &self.client;
        let answer = limited(limit, async {
            let (answer, sent) = client.ask(&call).await?;
            if answer.status() == expected {
                return Ok(answer);
            }
            Err(client.failed(answer, sent.as_deref()).await)
        })
        .await?;
        if answer.headers().contains_key(LOCATION) && expected != StatusCode::CREATED {
            self.location = client.location(&self.location, &answer)?;
        }
        Ok(answer)
    }
}
