//! Connections: what decides whether two clients may share them, and how they are made.

use super::tls::Identity;
use super::{SetupError, Via, headers, tls};
use crate::Secret;
use std::path::PathBuf;
use std::time::Duration;

/// Where the whole request has no limit, silence has.
const SILENCE: Duration = Duration::from_secs(60);
/// Idle connections are kept this long, and so many of them.
const IDLE: (Duration, usize) = (Duration::from_secs(60), 64);

/// All that connections depend on. Files count by what was in them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Transport {
    /// Believe any certificate.
    pub skip_verify: bool,
    /// PEM files of authorities, with their contents.
    pub authorities: Vec<(PathBuf, Vec<u8>)>,
    /// Who we are, for servers that ask.
    pub identity: Option<Identity>,
    /// Longest time for connecting.
    pub connect_timeout: Option<Duration>,
    /// Does nobody else watch how long a request takes?
    pub watch_silence: bool,
    /// Value of `User-Agent`; not sent when empty.
    pub user_agent: String,
    /// Header fields of all requests.
    pub headers: Vec<(String, Secret)>,
    /// Forward proxy.
    pub via: Option<Via>,
    /// Unix socket at which every host is asked.
    pub socket: Option<PathBuf>,
}

impl Transport {
    /// Connections of this kind; none is made yet.
    pub fn build(&self) -> Result<reqwest::Client, SetupError> {
        let tls = tls::config(self.skip_verify, &self.authorities, self.identity.as_ref())?;
        let mut http = reqwest::Client::builder()
            .default_headers(headers(&self.headers)?)
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .pool_idle_timeout(IDLE.0)
            .pool_max_idle_per_host(IDLE.1);
        if let Some(via) = &self.via {
            http = http.proxy(via.proxy()?);
        }
        if let Some(socket) = &self.socket {
            http = http.unix_socket(socket.as_path());
        }
        if !self.user_agent.is_empty() {
            http = http.user_agent(&self.user_agent);
        }
        if let Some(limit) = self.connect_timeout {
            http = http.connect_timeout(limit);
        }
        if self.watch_silence {
            http = http.read_timeout(SILENCE);
        }
        http.build().map_err(|source| SetupError::Http { source })
    }
}
