//! How long to try: one rule for all backends on the network.

use crate::config::{self, Remote};
use crate::{Backend, BackendError, BlobReader, Deadline, Retry, RouteStats};
use rafs_format::BlobId;
use std::sync::Arc;
use std::time::Duration;

/// Readers never wait longer than this, or for one try where that may take longer.
const LONGEST: Duration = Duration::from_secs(60);

/// How often and how long a request is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Tries after the first.
    pub retries: u8,
    /// Longest time for all tries together; `None` for no limit: then no new try begins after a minute, and silence ends the last one.
    pub deadline: Option<Duration>,
}

impl From<&Remote> for Patience {
    /// Time enough that each try may take its `timeout`, up to a minute.
    fn from(remote: &Remote) -> Self {
        let retries = remote.retry_limit;
        let all =
            |timeout: Duration| timeout.saturating_mul(u32::from(retries) + 1).min(LONGEST.max(timeout));
        Self { retries, deadline: remote.timeout.map(all) }
    }
}

/// A backend whose readers try again, and give up in time.
#[derive(Debug)]
pub struct Patient<B> {
    inner: B,
    patience: Patience,
    endpoint: String,
}

impl<B: Backend> Patient<B> {
    /// `inner` with `patience`. `endpoint` is for errors.
    pub fn new(inner: B, patience: Patience, endpoint: &str) -> Self {
        Self { inner, patience, endpoint: endpoint.to_owned() }
    }
}

impl<B: Backend> Backend for Patient<B> {
    fn open(&self, id: &BlobId) -> Result<Arc<dyn BlobReader>, BackendError> {
        let Patience { retries, deadline } = self.patience;
        let reader = Retry::new(self.inner.open(id)?, retries, deadline.unwrap_or(LONGEST));
        Ok(match deadline {
            Some(limit) => Arc::new(Deadline::new(reader, limit, &self.endpoint, id.as_str())),
            None => Arc::new(reader),
        })
    }

    fn set_credentials(&self, auth: Option<&config::Auth>) {
        self.inner.set_credentials(auth);
    }

    fn routes(&self) -> Vec<RouteStats> {
        self.inner.routes()
    }
}
