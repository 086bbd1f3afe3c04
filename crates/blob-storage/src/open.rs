//! From a configuration to a backend that can be relied on: its routes in order, its tries, its deadlines. The one place that knows which
//! kinds of backends there are, for the daemon and the tools alike. Asks nothing on the network.

use crate::config::{self, Mirror, Origin, Proxy, Remote};
use crate::registry::{cause, of_remote};
use crate::route::{Care, Ping, Route, RouteKind, Routes};
use crate::{
    Backend, BackendCause, Bucket, Counted, Hedge, Hedging, LocalDisk, ObjectSetupError, ObjectStorage,
    Patience, Patient, PullAuth, Registries, Registry, Room, Roomy, SetupError, Throttle, Wrapped,
};
use futures_util::future::BoxFuture;
use oci_registry::client;
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for an answer about how a server is.
const PING: Duration = Duration::from_secs(5);
/// Bytes of one backend that may be on their way at once: four of the longest chunks.
const ROOM: u64 = 64 << 20;

/// Why a configuration gives no backend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum OpenError {
    #[error("the object store cannot be used")]
    ObjectStore { source: Box<ObjectSetupError> },
    #[error("the registry cannot be used")]
    Registry { source: Box<SetupError> },
    #[error("the HTTP server cannot be used")]
    Http { source: Box<SetupError> },
    #[error("proxy {proxy} cannot be used")]
    Proxy { proxy: String, source: Box<SetupError> },
    #[error("IMAGE_PULL_AUTH is not base64 of `user:password`")]
    PullAuth,
    #[error("the value of NYDUS_HEADER_{name} is not UTF-8")]
    Header { name: String },
    #[error("mirror {mirror} cannot be used")]
    Mirror { mirror: String, source: Box<SetupError> },
}

/// What a backend needs beside its configuration.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// What backends of one process share, and the logins that configurations do not have.
    pub registries: Registries,
    /// Most bytes per second that prefetch may ask for on the network; `None` for no limit.
    pub prefetch_bandwidth: Option<u64>,
    /// Replaces the login in the configuration of a registry.
    pub pull_auth: PullAuth,
}

/// The backend that `config` describes. What is on the network is tried again, by other routes where there are some, and answers in
/// time. Blobs are looked for when they are opened or read, not here. Settings that have no effect are told in the log by name.
pub fn open_backend(config: &config::Backend, options: &OpenOptions) -> Result<Arc<dyn Backend>, OpenError> {
    match config {
        config::Backend::LocalFs(local) => Ok(Arc::new(Counted::new(local.clone(), &local.endpoint()))),
        config::Backend::LocalDisk(disk) => {
            let disk = LocalDisk::new(disk);
            let name = disk.endpoint();
            Ok(Arc::new(Counted::new(disk, &name)))
        }
        config::Backend::Registry(registry) => open_registry(registry, options),
        config::Backend::HttpProxy(server) => open_http(server, options),
        config::Backend::Oss(_)
        | config::Backend::S3(_)
        | config::Backend::Gcs(_)
        | config::Backend::Azblob(_)
        | config::Backend::Cos(_) => open_object_store(config, options),
    }
}

/// A registry.
fn open_registry(config: &config::Registry, options: &OpenOptions) -> Result<Arc<dyn Backend>, OpenError> {
    let mut config = config.clone();
    if let Some(auth) = options.pull_auth.login()? {
        config.auth = Some(auth);
    }
    let origin = Registry::shared(&config, &options.registries);
    let origin = origin.map_err(|source| OpenError::Registry { source: Box::new(source) })?;
    let through =
        |url: &config::Url, use_http| Registry::through(&config, &options.registries, url, use_http);
    let proxy = proxy(&config.remote, |url, use_http| {
        through(url, use_http).map_err(|source| no_proxy(url, source))
    })?;
    let mirrors = config.remote.mirrors.iter().map(|one| mirror(&config, options, one));
    let mirrors = mirrors.collect::<Result<_, _>>()?;
    let name = origin.endpoint().to_owned();
    Ok(by_routes(proxy, mirrors, origin, &name, &config.remote, options))
}

/// An HTTP server.
fn open_http(config: &config::HttpProxy, options: &OpenOptions) -> Result<Arc<dyn Backend>, OpenError> {
    let remote = &config.remote;
    let origin = Registry::plain(config, &options.registries, None);
    let origin = origin.map_err(|source| OpenError::Http { source: Box::new(source) })?;
    let name = origin.endpoint().to_owned();
    without_mirrors(remote, &name);
    let proxy = match (&config.origin, &remote.proxy.url) {
        (Origin::Socket(socket), Some(url)) => {
            tracing::warn!("proxy.url {url} has no effect for the Unix socket {}", socket.display());
            None
        }
        _ => proxy(remote, |url, use_http| {
            let through = Registry::plain(config, &options.registries, Some((url, use_http)));
            through.map_err(|source| no_proxy(url, source))
        })?,
    };
    Ok(by_routes(proxy, Vec::new(), origin, &name, remote, options))
}

/// An object store.
fn open_object_store(config: &config::Backend, options: &OpenOptions) -> Result<Arc<dyn Backend>, OpenError> {
    let unusable = |source| OpenError::ObjectStore { source: Box::new(source) };
    let origin = ObjectStorage::shared(config, &options.registries).map_err(unusable)?;
    let (remote, name) = (origin.remote().clone(), origin.endpoint().to_owned());
    without_mirrors(&remote, &name);
    let proxy = proxy(&remote, |url, use_http| {
        ObjectStorage::through(config, &options.registries, url, use_http).map_err(unusable)
    })?;
    Ok(by_routes(proxy, Vec::new(), origin, &name, &remote, options))
}

/// Says that `remote` has mirrors in vain, if it has some.
fn without_mirrors(remote: &Remote, name: &str) {
    if !remote.mirrors.is_empty() {
        tracing::warn!("mirrors have no effect for {name}");
    }
}

/// `origin` by the proxy, then the mirrors, then directly, with all that a backend on the network needs around it. Where there is no falling
/// back, the proxy is the only way out.
fn by_routes(
    proxy: Option<Route>,
    mirrors: Vec<Route>,
    origin: impl Backend + 'static,
    name: &str,
    remote: &Remote,
    options: &OpenOptions,
) -> Arc<dyn Backend> {
    let routes = match proxy {
        Some(proxy) if !remote.proxy.fallback => {
            if !mirrors.is_empty() {
                tracing::warn!(
                    "mirrors have no effect where proxy.fallback is false: {name} is asked by the proxy only"
                );
            }
            Routes::new(Vec::new(), proxy, remote.timeout)
        }
        proxy => {
            let origin = Route::new(RouteKind::Origin, name, Arc::new(origin), Care::default());
            Routes::new(proxy.into_iter().chain(mirrors).collect(), origin, remote.timeout)
        }
    };
    on_network(routes, remote, name, options)
}

/// `routes` with all that a backend on the network needs around it. A pause for the sake of bandwidth is not part of the time that a read has.
fn on_network(routes: Routes, remote: &Remote, name: &str, options: &OpenOptions) -> Arc<dyn Backend> {
    let room = Room::new(ROOM);
    let hedging = remote.hedge.then(Arc::<Hedging>::default);
    let bounded = Wrapped::new(routes, move |reader| match &hedging {
        Some(hedging) => Arc::new(Roomy::new(Hedge::new(reader, Arc::clone(hedging)), Arc::clone(&room))),
        None => Arc::new(Roomy::new(reader, Arc::clone(&room))),
    });
    let patient = Patient::new(bounded, Patience::from(remote), name);
    let Some(rate) = options.prefetch_bandwidth else { return Arc::new(patient) };
    // What comes in one second may come at once.
    let bucket = Bucket::new(rate, rate);
    Arc::new(Wrapped::new(patient, move |reader| Arc::new(Throttle::new(reader, Arc::clone(&bucket)))))
}

/// The way through the proxy of `remote`, if there is one. `through` makes the backend anew, asked through the proxy at this URL, to which places with TLS may be named
/// by `http`. Says which other kind of proxy has no effect.
fn proxy<B: Backend + 'static>(
    remote: &Remote,
    through: impl FnOnce(&config::Url, bool) -> Result<B, OpenError>,
) -> Result<Option<Route>, OpenError> {
    if let Some(scheduler) = &remote.proxy.dragonfly_scheduler_endpoint {
        tracing::warn!(
            "proxy.dragonfly_scheduler_endpoint {scheduler} has no effect: peers are asked at proxy.url"
        );
    }
    let Some(url) = &remote.proxy.url else { return Ok(None) };
    let backend = through(url, remote.proxy.use_http)?;
    let care = care(remote).map_err(|source| no_proxy(url, source))?;
    Ok(Some(Route::new(RouteKind::Proxy, &url.to_string(), Arc::new(backend), care)))
}

fn no_proxy(url: &config::Url, source: SetupError) -> OpenError {
    OpenError::Proxy { proxy: url.to_string(), source: Box::new(source) }
}

/// How the proxy of `remote` is looked after.
fn care(remote: &Remote) -> Result<Care, SetupError> {
    let Proxy { ping_url, check_interval, check_pause_elapsed, .. } = &remote.proxy;
    Ok(Care {
        check_interval: *check_interval,
        check_pause_elapsed: *check_pause_elapsed,
        ping: ping(ping_url.as_ref(), remote)?,
        ..Care::default()
    })
}

/// The way to `mirror`.
fn mirror(config: &config::Registry, options: &OpenOptions, mirror: &Mirror) -> Result<Route, OpenError> {
    let name = mirror.host.to_string();
    let wrong = |source| OpenError::Mirror { mirror: name.clone(), source: Box::new(source) };
    let registry = Registry::mirrored(config, &options.registries, mirror).map_err(wrong)?;
    let care = Care {
        failure_limit: mirror.failure_limit.into(),
        check_interval: mirror.health_check_interval,
        ping: ping(mirror.ping_url.as_ref(), &config.remote).map_err(wrong)?,
        ..Care::default()
    };
    Ok(Route::new(RouteKind::Mirror, &name, Arc::new(registry), care))
}

/// Asks at `url` with the trust and the certificate of `remote`.
fn ping(url: Option<&config::Url>, remote: &Remote) -> Result<Option<Box<dyn Ping>>, SetupError> {
    let Some(url) = url else { return Ok(None) };
    let limit = remote.timeout.unwrap_or(PING);
    let ping = client::Ping::new(url.expose(), limit, &of_remote(remote))?;
    Ok(Some(Box::new(HttpPing(ping))))
}

/// A URL that answers where its server is well.
#[derive(Debug)]
struct HttpPing(client::Ping);

impl Ping for HttpPing {
    fn ping(&self) -> BoxFuture<'_, Result<(), BackendCause>> {
        Box::pin(async { self.0.ask().await.map_err(cause) })
    }
}
