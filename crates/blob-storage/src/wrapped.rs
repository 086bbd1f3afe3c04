//! Backends whose readers are wrapped: by any decorator, or to be counted.

use crate::route::{RouteKind, RouteStats};
use crate::{Backend, BackendError, BlobReader, Meter, MeterStats, Metered, config};
use rafs_format::BlobId;
use std::fmt;
use std::sync::Arc;

/// Puts something around a reader.
type Wrap = dyn Fn(Arc<dyn BlobReader>) -> Arc<dyn BlobReader> + Send + Sync;

/// A backend with something around each of its readers.
pub struct Wrapped<B> {
    inner: B,
    wrap: Box<Wrap>,
}

impl<B: Backend> Wrapped<B> {
    /// `inner`, with `wrap` around its readers.
    pub fn new(
        inner: B,
        wrap: impl Fn(Arc<dyn BlobReader>) -> Arc<dyn BlobReader> + Send + Sync + 'static,
    ) -> Self {
        Self { inner, wrap: Box::new(wrap) }
    }
}

impl<B: fmt::Debug> fmt::Debug for Wrapped<B> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Wrapped").field(&self.inner).finish()
    }
}

impl<B: Backend> Backend for Wrapped<B> {
    fn open(&self, id: &BlobId) -> Result<Arc<dyn BlobReader>, BackendError> {
        Ok((self.wrap)(self.inner.open(id)?))
    }

    fn set_credentials(&self, auth: Option<&config::Auth>) {
        self.inner.set_credentials(auth);
    }

    fn routes(&self) -> Vec<RouteStats> {
        self.inner.routes()
    }
}

/// A backend with one way to its blobs, which is counted.
#[derive(Debug)]
pub struct Counted<B> {
    inner: B,
    name: Arc<str>,
    meter: Arc<Meter>,
}

impl<B: Backend> Counted<B> {
    /// `inner`, which metrics call `name`.
    pub fn new(inner: B, name: &str) -> Self {
        Self { inner, name: name.into(), meter: Arc::default() }
    }
}

impl<B: Backend> Backend for Counted<B> {
    fn open(&self, id: &BlobId) -> Result<Arc<dyn BlobReader>, BackendError> {
        Ok(Arc::new(Metered::new(self.inner.open(id)?, Arc::clone(&self.meter))))
    }

    fn set_credentials(&self, auth: Option<&config::Auth>) {
        self.inner.set_credentials(auth);
    }

    fn routes(&self) -> Vec<RouteStats> {
        let meter = self.meter.stats();
        let MeterStats { reads, errors, bytes, in_flight, .. } = meter;
        let (kind, endpoint) = (RouteKind::Origin, Arc::clone(&self.name));
        vec![RouteStats {
            kind,
            endpoint,
            away: false,
            requests: reads + in_flight,
            bytes,
            errors,
            wrong: 0,
            meter,
        }]
    }
}
