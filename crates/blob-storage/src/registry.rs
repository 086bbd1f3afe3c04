//! Blobs of a repository of an OCI registry. Asks nothing before the first read, so a registry that is away keeps nobody from mounting;
//! knows nothing of HTTP but what errors say.

use crate::config::{self, Origin, Remote, Scheme, Url};
use crate::{Backend, BackendCause, BackendError, BlobReader, Priority, Status};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use oci_registry::Secret;
use oci_registry::client::{Client, ClientError, ClientOptions, Clients, SetupError, Urgency, Via};
use oci_registry::login::{Login, Logins};
use rafs_format::BlobId;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// Registries of one daemon: mounts share what they can, which is connections, tokens, and helpers that are asked for logins. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    clients: Arc<Clients>,
    headers: Vec<(String, Secret)>,
}

impl Registries {
    /// None is known yet. `logins` are asked where a configuration has none, or one that is refused.
    pub fn new(logins: Logins) -> Self {
        Self { clients: Arc::new(Clients::new(Some(Arc::new(logins)))), headers: Vec::new() }
    }

    /// Header fields that are sent with every request, also those to token services and to where registries redirect.
    #[must_use]
    pub fn with_headers(self, headers: Vec<(String, Secret)>) -> Self {
        Self { headers, ..self }
    }

    fn client(&self, options: ClientOptions) -> Result<Arc<Client>, SetupError> {
        self.clients.client(&self.with_fields(options))
    }

    /// `options` with the header fields of all requests.
    pub(crate) fn with_fields(&self, options: ClientOptions) -> ClientOptions {
        ClientOptions { all_headers: self.headers.clone(), ..options }
    }
}

/// A repository. Its readers share connections, credentials and the knowledge where blobs are.
#[derive(Debug)]
pub struct Registry {
    client: Arc<Client>,
    endpoint: Arc<str>,
    /// Stands before the id in names of blobs.
    prefix: &'static str,
}

impl Registry {
    /// The repository that `config` names, asked directly, with the login there or none. Errors: names that no registry has, certificates
    /// that cannot be read.
    pub fn new(config: &config::Registry) -> Result<Self, SetupError> {
        Self::shared(config, &Registries::default())
    }

    /// The same, with connections, tokens and logins that others have, too.
    pub fn shared(config: &config::Registry, registries: &Registries) -> Result<Self, SetupError> {
        Self::with(options(config), registries, &name(config))
    }

    /// The same repository, asked through a forward proxy.
    pub fn through(
        config: &config::Registry,
        registries: &Registries,
        proxy: &Url,
        use_http: bool,
    ) -> Result<Self, SetupError> {
        let via = Some(Via { url: Secret::new(proxy.expose()), use_http });
        let endpoint = format!("{} through {proxy}", name(config));
        Self::with(ClientOptions { via, ..options(config) }, registries, &endpoint)
    }

    /// The same repository of a mirror, which is trusted with the login in `config`, as in Nydus 2.x: whoever writes the configuration
    /// names both. The logins of this machine are asked for those of the mirror. Errors: as for [`Registry::new`], and header fields that cannot be sent.
    pub fn mirrored(
        config: &config::Registry,
        registries: &Registries,
        mirror: &config::Mirror,
    ) -> Result<Self, SetupError> {
        let host = mirror.host.authority().to_owned();
        let (https, headers) = (mirror.host.is_https(), mirror.headers.clone());
        let endpoint = format!("registry {}, repository {}", mirror.host, config.repo);
        Self::with(ClientOptions { https, host, headers, ..options(config) }, registries, &endpoint)
    }

    fn with(options: ClientOptions, registries: &Registries, endpoint: &str) -> Result<Self, SetupError> {
        Ok(Self { client: registries.client(options)?, endpoint: endpoint.into(), prefix: "sha256:" })
    }

    /// A server that is no registry: it has each blob under its plain id, by the same rules of ranges, redirects and errors. `via` is a
    /// forward proxy and whether places with TLS are named to it by `http`; a server at a Unix socket has none.
    pub fn plain(
        config: &config::HttpProxy,
        registries: &Registries,
        via: Option<(&Url, bool)>,
    ) -> Result<Self, SetupError> {
        let mut options = of_remote(&config.remote);
        let mut endpoint = match &config.origin {
            Origin::Socket(socket) => format!("http-proxy {}", socket.display()),
            Origin::Url(url) => format!("http-proxy {url}"),
        };
        match &config.origin {
            Origin::Socket(socket) => {
                (options.host, options.socket) = ("localhost".to_owned(), Some(socket.clone()));
                options.path = Some(config.path.clone());
            }
            Origin::Url(url) => {
                let (host, before) = url.authority().split_once('/').unwrap_or((url.authority(), ""));
                (options.https, options.host) = (url.is_https(), host.to_owned());
                options.path = Some(format!("{before}/{}", config.path.trim_start_matches('/')));
            }
        }
        if let Some((proxy, use_http)) = via {
            options.via = Some(Via { url: Secret::new(proxy.expose()), use_http });
            endpoint = format!("{endpoint} through {proxy}");
        }
        Ok(Self { prefix: "", ..Self::with(options, registries, &endpoint)? })
    }

    /// What errors call it.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

/// The repository that `config` names, asked directly, and what errors call it.
pub(crate) fn client(
    config: &config::Registry,
    registries: &Registries,
) -> Result<(Arc<Client>, Arc<str>), SetupError> {
    Ok((registries.client(options(config))?, name(config).into()))
}

fn scheme(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    }
}

/// What errors and logs call the repository.
fn name(config: &config::Registry) -> String {
    format!("registry {}://{}/{}", scheme(config.scheme), config.host, config.repo)
}

fn login(auth: &config::Auth) -> Login {
    Login::Password(Secret::new(auth.expose()))
}

fn options(config: &config::Registry) -> ClientOptions {
    ClientOptions {
        https: config.scheme == Scheme::Https,
        host: config.host.to_string(),
        repo: config.repo.clone(),
        login: config.auth.as_ref().map(login),
        token: config.registry_token.clone(),
        redirected_scheme: config.blob_url_scheme.map(scheme),
        redirected_host: config.blob_redirected_host.as_ref().map(ToString::to_string),
        ..of_remote(&config.remote)
    }
}

/// What all servers on the network have.
pub(crate) fn of_remote(remote: &Remote) -> ClientOptions {
    ClientOptions {
        skip_verify: remote.skip_verify,
        ca_cert_files: remote.ca_cert_files.clone(),
        client_cert: remote.client_cert.clone().map(|cert| (cert.cert_file, cert.key_file)),
        timeout: remote.timeout,
        connect_timeout: remote.connect_timeout,
        user_agent: concat!("nydusd/", env!("CARGO_PKG_VERSION")).to_owned(),
        ..ClientOptions::default()
    }
}

impl Backend for Registry {
    fn open(&self, id: &BlobId) -> Result<Arc<dyn BlobReader>, BackendError> {
        Ok(Arc::new(RegistryBlob {
            client: Arc::clone(&self.client),
            endpoint: Arc::clone(&self.endpoint),
            digest: format!("{}{id}", self.prefix),
            blob: id.as_str().into(),
            size: OnceLock::new(),
        }))
    }

    fn set_credentials(&self, auth: Option<&config::Auth>) {
        self.client.set_login(auth.map(login));
    }
}

/// One blob of a repository.
#[derive(Debug)]
struct RegistryBlob {
    client: Arc<Client>,
    endpoint: Arc<str>,
    digest: String,
    blob: Arc<str>,
    /// Once the registry has said it.
    size: OnceLock<u64>,
}

impl RegistryBlob {
    fn error(&self, range: Option<Range<u64>>, error: ClientError) -> BackendError {
        BackendError {
            endpoint: Arc::clone(&self.endpoint),
            blob: Arc::clone(&self.blob),
            range,
            cause: cause(error),
        }
    }
}

impl BlobReader for RegistryBlob {
    fn read(&self, range: Range<u64>, priority: Priority) -> BoxFuture<'_, Result<Bytes, BackendError>> {
        let urgency = match priority {
            Priority::OnDemand => Urgency::Now,
            Priority::Prefetch => Urgency::Later,
        };
        Box::pin(async move {
            let read = self.client.read_when(&self.digest, range.clone(), urgency).await;
            read.map_err(|error| self.error(Some(range), error))
        })
    }

    fn size(&self) -> BoxFuture<'_, Result<u64, BackendError>> {
        Box::pin(async {
            if let Some(size) = self.size.get() {
                return Ok(*size);
            }
            let size = self.client.size(&self.digest).await.map_err(|error| self.error(None, error))?;
            Ok(*self.size.get_or_init(|| size))
        })
    }
}

/// What an error means to those who know no registries.
pub(crate) fn cause(error: ClientError) -> BackendCause {
    match error {
        ClientError::Status { code: 404, .. } => BackendCause::NotFound,
        ClientError::Status { code, said, retry_after } => {
            BackendCause::Status(Box::new(Status { code, said, retry_after }))
        }
        ClientError::OutOfRange { size } => BackendCause::OutOfRange { size },
        ClientError::Short { found } => BackendCause::Short { found },
        ClientError::Timeout { after } => BackendCause::Timeout { after },
        ClientError::Transport(source) => BackendCause::Transport(Box::new(source)),
        ClientError::Token { ref cause, .. } if is_passing(cause) => BackendCause::Transport(Box::new(error)),
        ClientError::Refused { .. } | ClientError::NoWay { .. } | ClientError::Token { .. } => {
            BackendCause::Auth(Box::new(error))
        }
        ClientError::RangesIgnored { .. }
        | ClientError::TooLong { .. }
        | ClientError::Redirects { .. }
        | ClientError::Renamed { .. }
        | ClientError::Digest { .. } => BackendCause::Unable(Box::new(error)),
        // Wrong ranges, and whatever comes to be: worth another try.
        other => BackendCause::Answer(Box::new(other)),
    }
}

/// May a token service that failed so give a token soon?
fn is_passing(cause: &ClientError) -> bool {
    match cause {
        ClientError::Status { code, .. } => matches!(code, 408 | 429 | 500..=599),
        ClientError::Timeout { .. } | ClientError::Transport(_) => true,
        _ => false,
    }
}
