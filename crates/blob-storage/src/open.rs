//! From a configuration to a backend that can be relied on: its routes in order, its tries, its deadlines. The one place that knows which
//! kinds of backends there are, for the daemon and the tools alike. Asks nothing on the network.

use crate::config::{self, Mirror, Origin, Proxy, Remote};
use crate::registry::cause;
use crate::route::{Care, Ping, Route, RouteKind, Routes};
use crate::{
    Backend, BackendCause, Bucket, Counted, Hedge, Hedging, LocalDisk, ObjectSetupError, ObjectStorage,
    Patience, Patient, Registries, Registry, Room, Roomy, SetupError, Throttle, Wrapped,
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

/// A registry by proxy, mirrors and directly, in this order.
fn open_registry(config: &config::Registry, options: &OpenOptions) -> Result<Arc<dyn Backend>, OpenError> {
    let remote = &config.remote;
    let registry = Registry::shared(config, &options.registries)
        .map_err(|source| OpenError::Registry { source: Box::new(source) })?;
    let name = registry.endpoint().to_owned();
    let mut before = Vec::new();
    before.extend(proxy(config, options)?);
    for one in &remote.mirrors {
        before.push(mirror(config, options, one)?);
    }
    let origin = Route::new(RouteKind::Origin, &name, Arc::new(registry), Care::default());
    // Where there is no falling back, the proxy is the only way out.
    let only = !remote.proxy.fallback && remote.proxy.url.is_some();
    let (before, last) = if only { (Vec::new(), before.swap_remove(0)) } else { (before, origin) };
    if only && !remote.mirrors.is_empty() {
        tracing::warn!(
            "mirrors have no effect where proxy.fallback is false: {name} is asked by the proxy only"
        );
    }
    Ok(on_network(Routes::new(before, last, remote.timeout), remote, &name, options))
}

/// An HTTP server by its proxy, then directly.
fn open_http(config: &config::HttpProxy, options: &OpenOptions) -> Result<Arc<dyn Backend>, OpenError> {
    let remote = &config.remote;
    let server = Registry::plain(config, &options.registries, None);
    let server = server.map_err(|source| OpenError::Http { source: Box::new(source) })?;
    let name = server.endpoint().to_owned();
    if !remote.mirrors.is_empty() {
        tracing::warn!("mirrors have no effect for {name}");
    }
    let origin = Route::new(RouteKind::Origin, &name, Arc::new(server), Care::default());
    let routes = match http_proxy(config, options)? {
        Some(proxy) if !remote.proxy.fallback => Routes::new(Vec::new(), proxy, remote.timeout),
        proxy => Routes::new(proxy.into_iter().collect(), origin, remote.timeout),
    };
    Ok(on_network(routes, remote, &name, options))
}

/// The way through the proxy of an HTTP server, if there is one.
fn http_proxy(config: &config::HttpProxy, options: &OpenOptions) -> Result<Option<Route>, OpenError> {
    let remote = &config.remote;
    let Some(url) = proxy_url(remote) else { return Ok(None) };
    if let Origin::Socket(socket) = &config.origin {
        tracing::warn!("proxy.url {url} has no effect for the Unix socket {}", socket.display());
        return Ok(None);
    }
    let wrong = |source| OpenError::Proxy { proxy: url.to_string(), source: Box::new(source) };
    let through = Registry::plain(config, &options.registries, Some((url, remote.proxy.use_http)));
    let (through, care) = (through.map_err(wrong)?, care(remote).map_err(wrong)?);
    Ok(Some(Route::new(RouteKind::Proxy, &url.to_string(), Arc::new(through), care)))
}

/// An object store by its proxy, then directly.
fn open_object_store(config: &config::Backend, options: &OpenOptions) -> Result<Arc<dyn Backend>, OpenError> {
    let unusable = |source| OpenError::ObjectStore { source: Box::new(source) };
    let store = ObjectStorage::new(config).map_err(unusable)?;
    let (remote, name) = (store.remote().clone(), store.endpoint().to_owned());
    if !remote.mirrors.is_empty() {
        tracing::warn!("mirrors have no effect for {name}");
    }
    let origin = Route::new(RouteKind::Origin, &name, Arc::new(store), Care::default());
    let proxy = match proxy_url(&remote) {
        Some(url) => {
            let through = ObjectStorage::through(config, url, remote.proxy.use_http).map_err(unusable)?;
            let wrong = |source| OpenError::Proxy { proxy: url.to_string(), source: Box::new(source) };
            let care = care(&remote).map_err(wrong)?;
            Some(Route::new(RouteKind::Proxy, &url.to_string(), Arc::new(through), care))
        }
        None => None,
    };
    let routes = match proxy {
        Some(proxy) if !remote.proxy.fallback => Routes::new(Vec::new(), proxy, remote.timeout),
        proxy => Routes::new(proxy.into_iter().collect(), origin, remote.timeout),
    };
    Ok(on_network(routes, &remote, &name, options))
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

/// The way through the proxy of `config`, if there is one.
fn proxy(config: &config::Registry, options: &OpenOptions) -> Result<Option<Route>, OpenError> {
    let Some(url) = proxy_url(&config.remote) else { return Ok(None) };
    let wrong = |source| OpenError::Proxy { proxy: url.to_string(), source: Box::new(source) };
    let use_http = config.remote.proxy.use_http;
    let registry = Registry::through(config, &options.registries, url, use_http).map_err(wrong)?;
    let care = care(&config.remote).map_err(wrong)?;
    Ok(Some(Route::new(RouteKind::Proxy, &url.to_string(), Arc::new(registry), care)))
}

/// Where the proxy of `remote` is. Says which other kind of proxy has no effect.
fn proxy_url(remote: &Remote) -> Option<&config::Url> {
    if let Some(scheduler) = &remote.proxy.dragonfly_scheduler_endpoint {
        tracing::warn!(
            "proxy.dragonfly_scheduler_endpoint {scheduler} has no effect: peers are asked at proxy.url"
        );
    }
    remote.proxy.url.as_ref()
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

/// Asks at `url` as `remote` trusts.
fn ping(url: Option<&config::Url>, remote: &Remote) -> Result<Option<Box<dyn Ping>>, SetupError> {
    let Some(url) = url else { return Ok(None) };
    let limit = remote.timeout.unwrap_or(PING);
    let ping = client::Ping::new(url.expose(), limit, remote.skip_verify, &remote.ca_cert_files)?;
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
