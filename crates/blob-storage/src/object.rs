//! Blobs of a bucket of an object store: S3, OSS, Google Cloud Storage, Azure Blob Storage, COS.
//!
//! `opendal` knows how each of them names, signs and finds credentials; what they answer is checked here, by the same rules as a registry's
//! answers ([`transport`]). Asks nothing before the first read. Asks once: trying again is the work of decorators.

mod services;
#[cfg(test)]
mod tests;
mod transport;
mod writer;

use crate::config::{self, Remote};
use crate::registry::{cause, of_remote};
use crate::{Backend, BackendCause, BackendError, BlobReader, Priority, Registries};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use oci_registry::client::{ClientOptions, SetupError, Urgency, Via};
use opendal::options::ReadOptions;
use opendal::{ErrorKind, Operator};
use rafs_format::BlobId;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use transport::Carried;

/// Why there can be no client of an object store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum ObjectSetupError {
    #[error(transparent)]
    Http(#[from] SetupError),
    #[error("{kind}: {problem}")]
    Config { kind: &'static str, problem: String },
    #[error("{kind} is no object store")]
    Other { kind: &'static str },
}

/// A bucket. Its readers share connections and credentials.
#[derive(Clone)]
pub struct ObjectStorage {
    /// For what somebody waits for.
    now: Operator,
    /// For what nobody waits for yet.
    later: Operator,
    endpoint: Arc<str>,
    prefix: Arc<str>,
    remote: Arc<Remote>,
}

impl fmt::Debug for ObjectStorage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ObjectStorage").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl ObjectStorage {
    /// The bucket that `config` names. Errors: a backend that is no object store, names that no store has, certificates that cannot be read.
    pub fn new(config: &config::Backend) -> Result<Self, ObjectSetupError> {
        Self::shared(config, &Registries::default())
    }

    /// The same bucket, with the header fields that all backends of `registries` send.
    pub fn shared(config: &config::Backend, registries: &Registries) -> Result<Self, ObjectSetupError> {
        Self::with(config, registries, None)
    }

    /// The same bucket, asked through a forward proxy, to which places with TLS are named without where `use_http` says so.
    pub fn through(
        config: &config::Backend,
        registries: &Registries,
        proxy: &config::Url,
        use_http: bool,
    ) -> Result<Self, ObjectSetupError> {
        Self::with(config, registries, Some(Via { url: config::Secret::new(proxy.expose()), use_http }))
    }

    fn with(
        config: &config::Backend,
        registries: &Registries,
        via: Option<Via>,
    ) -> Result<Self, ObjectSetupError> {
        let kind = config.kind().name();
        let (store, operator) = services::operator(config).ok_or(ObjectSetupError::Other { kind })?;
        Self::over(
            ClientOptions { via, ..registries.with_fields(of_remote(&store.remote)) },
            kind,
            store,
            operator,
        )
    }

    /// The bucket `store`, asked by connections with these options.
    fn over(
        options: ClientOptions,
        kind: &'static str,
        store: &config::ObjectStore,
        operator: opendal::Result<Operator>,
    ) -> Result<Self, ObjectSetupError> {
        let through = if options.via.is_some() { " through a proxy" } else { "" };
        let proxied = options.via.clone().map(|via| Ok((via, options.connections()?)));
        let proxied = proxied.transpose().map_err(ObjectSetupError::Http)?;
        let http = ClientOptions { via: None, ..options }.connections()?;
        let operator = operator
            .map_err(|error| ObjectSetupError::Config { kind, problem: error.message().to_owned() })?;
        let by = |urgency| {
            let transport = transport::checked(http.clone(), proxied.clone(), urgency);
            operator.clone().with_context(operator.context().with_http_transport(transport))
        };
        let host = store.endpoint.as_ref().map_or_else(|| "default".to_owned(), ToString::to_string);
        Ok(Self {
            now: by(Urgency::Now),
            later: by(Urgency::Later),
            endpoint: format!("{kind} bucket {} of {host}{through}", store.bucket_name).into(),
            prefix: store.object_prefix.as_str().into(),
            remote: Arc::new(store.remote.clone()),
        })
    }

    /// Its limits, certificates and proxy.
    pub(crate) fn remote(&self) -> &Remote {
        &self.remote
    }

    /// What errors call it.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

impl Backend for ObjectStorage {
    fn open(&self, id: &BlobId) -> Result<Arc<dyn BlobReader>, BackendError> {
        Ok(Arc::new(self.blob(id)))
    }
}

impl ObjectStorage {
    fn blob(&self, id: &BlobId) -> ObjectBlob {
        let key = format!("{}{id}", self.prefix);
        ObjectBlob { store: self.clone(), key, blob: id.as_str().into(), size: OnceLock::new() }
    }
}

/// One blob of a bucket.
#[derive(Debug)]
struct ObjectBlob {
    store: ObjectStorage,
    key: String,
    blob: Arc<str>,
    /// Once the store has said it.
    size: OnceLock<u64>,
}

impl ObjectBlob {
    fn error(&self, range: Option<Range<u64>>, cause: BackendCause) -> BackendError {
        BackendError {
            endpoint: Arc::clone(&self.store.endpoint),
            blob: Arc::clone(&self.blob),
            range,
            cause,
        }
    }

    /// What `request` comes to within the time for one.
    async fn within<T>(
        &self,
        range: Option<Range<u64>>,
        request: impl Future<Output = opendal::Result<T>>,
    ) -> Result<T, BackendError> {
        let answer = match self.store.remote.timeout {
            None => request.await,
            Some(limit) => match tokio::time::timeout(limit, request).await {
                Ok(answer) => answer,
                Err(_elapsed) => return Err(self.error(range, BackendCause::Timeout { after: limit })),
            },
        };
        answer.map_err(|error| self.error(range, cause_of(error)))
    }
}

impl BlobReader for ObjectBlob {
    fn read(&self, range: Range<u64>, priority: Priority) -> BoxFuture<'_, Result<Bytes, BackendError>> {
        Box::pin(async move {
            if range.is_empty() {
                return Ok(Bytes::new());
            }
            let options = ReadOptions { range: range.clone().into(), ..ReadOptions::default() };
            let operator = match priority {
                Priority::OnDemand => &self.store.now,
                Priority::Prefetch => &self.store.later,
            };
            let request = operator.read_options(&self.key, options);
            let found = self.within(Some(range.clone()), request).await?.to_bytes();
            let size = found.len() as u64;
            // The transport has counted; this is for whoever stands between.
            if size != range.end - range.start {
                return Err(self.error(Some(range), BackendCause::Short { found: size }));
            }
            Ok(found)
        })
    }

    fn size(&self) -> BoxFuture<'_, Result<u64, BackendError>> {
        Box::pin(async {
            if let Some(size) = self.size.get() {
                return Ok(*size);
            }
            let found = self.within(None, self.store.now.stat(&self.key)).await?;
            Ok(*self.size.get_or_init(|| found.content_length()))
        })
    }
}

/// What an error means to those who know no object stores. Of what `opendal` says itself only the message is kept: the rest names headers.
fn cause_of(error: opendal::Error) -> BackendCause {
    let carried = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<Carried>());
    if let Some(answer) = carried.and_then(Carried::take) {
        return cause(answer);
    }
    let said: crate::Source = format!("{}: {}", error.kind(), error.message()).into();
    match error.kind() {
        ErrorKind::NotFound => BackendCause::NotFound,
        ErrorKind::PermissionDenied | ErrorKind::ConfigInvalid => BackendCause::Auth(said),
        ErrorKind::RateLimited => BackendCause::Answer(said),
        _ if error.is_temporary() => BackendCause::Transport(said),
        ErrorKind::Unsupported | ErrorKind::IsADirectory => BackendCause::Unable(said),
        // Credentials that cannot be had now, answers that make no sense: worth another try.
        _ => BackendCause::Answer(said),
    }
}
