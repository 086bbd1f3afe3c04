//! Stores blobs in a repository of an OCI registry: asks whether they are there, takes them over from other repositories, and else sends
//! them in chunks. What does not arrive is sent again from where the registry says it is; a registry that has forgotten gets all of it again.

use crate::registry::{self, Registries};
use crate::retry::{pause, random};
use crate::{BackendCause, BackendError, BlobReader, BlobWriter, Priority, SetupError, Stored, config};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use oci_registry::client::{Client, ClientError, Upload};
use rafs_format::BlobId;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Bytes sent at once, and held in memory. Costs one round trip each.
const CHUNK: u64 = 8 << 20;
/// Larger chunks than this are not made, whatever a registry wants.
const MAX_CHUNK: u64 = 64 << 20;
/// A push is given up when nothing has got further for so long. Nobody waits for it in the kernel, and registries restart.
const PATIENCE: Duration = Duration::from_secs(60);

/// A repository that blobs are stored in.
pub struct RegistryWriter {
    client: Arc<Client>,
    endpoint: Arc<str>,
    mount_from: Vec<String>,
    chunk: u64,
    patience: Duration,
}

impl fmt::Debug for RegistryWriter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("RegistryWriter").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl RegistryWriter {
    /// The repository that `config` names, asked directly. Blobs that are in one of `mount_from`, repositories of the same registry, are
    /// taken from there. Errors: as for [`Registry::new`](crate::Registry::new).
    pub fn new(
        config: &config::Registry,
        registries: &Registries,
        mount_from: Vec<String>,
    ) -> Result<Self, SetupError> {
        let (client, endpoint) = registry::client(config, registries)?;
        Ok(Self { client, endpoint, mount_from, chunk: CHUNK, patience: PATIENCE })
    }

    /// Sends `bytes` at once, not 8 MiB.
    #[must_use]
    pub fn with_chunk(self, bytes: u64) -> Self {
        Self { chunk: bytes.clamp(1, MAX_CHUNK), ..self }
    }

    /// Gives up when nothing has got further for `patience`, not for a minute.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }
}

impl BlobWriter for RegistryWriter {
    fn store<'a>(
        &'a self,
        id: &'a BlobId,
        source: &'a dyn BlobReader,
    ) -> BoxFuture<'a, Result<Stored, BackendError>> {
        Box::pin(async move {
            let size = source.size().await?;
            let digest = format!("sha256:{id}");
            Push { writer: self, id, digest, source, size, sent: 0, hope: Hope::new(self.patience) }
                .run()
                .await
        })
    }
}

/// How long to go on.
struct Hope {
    patience: Duration,
    since: Instant,
    /// Bytes that the registry has had so far, at most.
    best: u64,
    failures: u32,
}

impl Hope {
    fn new(patience: Duration) -> Self {
        Self { patience, since: Instant::now(), best: 0, failures: 0 }
    }

    /// The registry has all bytes before `at`.
    fn reached(&mut self, at: u64) {
        if at > self.best {
            (self.best, self.since, self.failures) = (at, Instant::now(), 0);
        }
    }

    /// Waits until it is time for another try; the error where there is none.
    async fn after(&mut self, cause: BackendCause) -> Result<(), BackendCause> {
        self.failures = self.failures.saturating_add(1);
        let wait = pause(self.failures, cause.retry_after(), random());
        let in_time = self.since.elapsed().saturating_add(wait) < self.patience;
        if cause.is_temporary() && in_time {
            tokio::time::sleep(wait).await;
            return Ok(());
        }
        let tries = self.failures;
        Err(if tries > 1 { BackendCause::Tried { tries, last: Box::new(cause) } } else { cause })
    }
}

/// One blob on its way.
struct Push<'a> {
    writer: &'a RegistryWriter,
    id: &'a BlobId,
    digest: String,
    source: &'a dyn BlobReader,
    size: u64,
    /// Bytes sent, those that were lost included.
    sent: u64,
    hope: Hope,
}

/// What became of a step.
enum Step {
    Done,
    /// The registry does not know of the upload any more.
    Lost,
}

impl Push<'_> {
    async fn run(mut self) -> Result<Stored, BackendError> {
        if self.is_there().await? {
            return Ok(Stored::There);
        }
        for from in &self.writer.mount_from {
            // Where this fails, the blob can still be sent; what keeps it from that is told then.
            if let Ok(true) = self.writer.client.mount(&self.digest, from).await {
                return Ok(Stored::Mounted);
            }
        }
        loop {
            let mut upload = self.begin().await?;
            match self.send_all(&mut upload).await {
                Ok(Step::Done) => {
                    return Ok(Stored::Sent { size: self.size, again: self.sent.saturating_sub(self.size) });
                }
                Ok(Step::Lost) => {}
                Err(error) => {
                    // A courtesy: the registry forgets it in its own time anyway.
                    let _forgotten = upload.cancel().await.is_ok();
                    return Err(error);
                }
            }
        }
    }

    fn error(&self, range: Option<Range<u64>>, cause: BackendCause) -> BackendError {
        let (endpoint, blob) = (Arc::clone(&self.writer.endpoint), self.id.as_str().into());
        BackendError { endpoint, blob, range, cause }
    }

    /// Waits after `error` until it is time for another try.
    async fn again(&mut self, range: Option<Range<u64>>, error: ClientError) -> Result<(), BackendError> {
        let waited = self.hope.after(registry::cause(error)).await;
        waited.map_err(|cause| self.error(range, cause))
    }

    async fn is_there(&mut self) -> Result<bool, BackendError> {
        loop {
            match self.writer.client.has(&self.digest).await {
                Ok(there) => return Ok(there),
                Err(error) => self.again(None, error).await?,
            }
        }
    }

    async fn begin(&mut self) -> Result<Upload, BackendError> {
        loop {
            match self.writer.client.upload().await {
                Ok(upload) if upload.smallest_chunk() <= MAX_CHUNK => return Ok(upload),
                Ok(_wants_more) => {
                    let cause = ClientError::Answer { found: "a wish for chunks over 64 MiB" };
                    return Err(self.error(None, BackendCause::Unable(Box::new(cause))));
                }
                Err(error) => self.again(None, error).await?,
            }
        }
    }

    /// Sends everything from the start, and has it made a blob.
    async fn send_all(&mut self, upload: &mut Upload) -> Result<Step, BackendError> {
        let chunk = self.writer.chunk.max(upload.smallest_chunk());
        let mut at = 0;
        while at < self.size {
            let end = at.saturating_add(chunk).min(self.size);
            let bytes = self.source.read(at..end, Priority::Prefetch).await?;
            if let Step::Lost = self.send(upload, at..end, bytes).await? {
                return Ok(Step::Lost);
            }
            at = end;
        }
        self.finish(upload).await
    }

    /// Sends `bytes`, which are those of `range`, until the registry has all of them.
    async fn send(
        &mut self,
        upload: &mut Upload,
        range: Range<u64>,
        bytes: Bytes,
    ) -> Result<Step, BackendError> {
        let mut at = range.start;
        while at < range.end {
            let from = usize::try_from(at - range.start).unwrap_or(usize::MAX).min(bytes.len());
            let rest = bytes.slice(from..);
            self.sent = self.sent.saturating_add(rest.len() as u64);
            match upload.append(at, rest).await {
                Ok(()) => at = range.end,
                Err(error) => match self.found(upload, &range, error).await? {
                    Some(received) => at = received,
                    None => return Ok(Step::Lost),
                },
            }
            self.hope.reached(at);
        }
        Ok(Step::Done)
    }

    /// Where to go on after `error` while sending `range`. `None`: from the start.
    async fn found(
        &mut self,
        upload: &mut Upload,
        range: &Range<u64>,
        error: ClientError,
    ) -> Result<Option<u64>, BackendError> {
        let mut error = error;
        loop {
            let is_lost = matches!(error, ClientError::Status { code: 404, .. });
            // Sent from where the registry is not, maybe: it will say where it is.
            if !matches!(error, ClientError::Status { code: 404 | 416, .. }) {
                self.again(Some(range.clone()), error).await?;
            } else {
                let lost = BackendCause::Answer(Box::new(error));
                let waited = self.hope.after(lost).await;
                waited.map_err(|cause| self.error(Some(range.clone()), cause))?;
            }
            if is_lost {
                return Ok(None);
            }
            match upload.received().await {
                // What came before was confirmed and is gone here.
                Ok(received) => {
                    return Ok(received.filter(|at| (range.start..=range.end).contains(at)));
                }
                Err(other) => error = other,
            }
        }
    }

    /// Has all that was sent made the blob.
    async fn finish(&mut self, upload: &mut Upload) -> Result<Step, BackendError> {
        loop {
            let error = match upload.finish(&self.digest).await {
                Ok(()) => return Ok(Step::Done),
                Err(error) => error,
            };
            let is_lost = matches!(error, ClientError::Status { code: 404, .. });
            let cause = if is_lost { BackendCause::Answer(Box::new(error)) } else { registry::cause(error) };
            let waited = self.hope.after(cause).await;
            waited.map_err(|cause| self.error(None, cause))?;
            // The answer may be what got lost.
            if self.is_there().await? {
                return Ok(Step::Done);
            }
            if is_lost {
                return Ok(Step::Lost);
            }
        }
    }
}
