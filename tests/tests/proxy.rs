//! A real forward proxy, `squid`, between the registry backend and `docker-registry`: used while it is there, missed by nobody when it is
//! killed, used again when it is back.
#![allow(clippy::unwrap_used, reason = "tests")]

mod docker;

use blob_storage::config::{self, Proxy, Url};
use blob_storage::{Backend, OpenOptions, Priority, RouteKind, RouteStats, open_backend};
use docker::{AUTH, DockerRegistry, Kind};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use testkit::blob::pattern;
use tests::{PATIENCE, has_program};

/// A squid of this test's own, on loopback, that keeps nothing.
struct Squid {
    dir: tempfile::TempDir,
    port: u16,
    process: Option<Child>,
}

impl Squid {
    /// A running one. `None`: there is none on this machine, which is told.
    fn start() -> Option<Self> {
        if !has_program("squid") {
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut squid = Self { dir: tempfile::tempdir().unwrap(), port, process: None };
        squid.up();
        Some(squid)
    }

    /// Starts the process and waits until it listens.
    fn up(&mut self) {
        let text = format!(
            "http_port 127.0.0.1:{}\nhttp_access allow all\ncache deny all\ncache_mem 0\nvisible_hostname test\n\
             pid_filename none\naccess_log none\ncache_log /dev/null\nnetdb_filename none\npinger_enable off\n\
             shutdown_lifetime 0 seconds\n",
            self.port
        );
        let config = self.dir.path().join("squid.conf");
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("squid");
        command.arg("-N").arg("-f").arg(config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(command.spawn().unwrap());
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(started.elapsed() < PATIENCE, "the proxy does not come");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills the process.
    fn down(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

impl Drop for Squid {
    fn drop(&mut self) {
        self.down();
    }
}

/// The registry through the proxy, as the daemon opens it.
fn open(registry: &DockerRegistry, squid: &Squid) -> Arc<dyn Backend> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let document =
        format!(r#"{{"device": {{"backend": {}}}, "mode": "direct"}}"#, registry.backend(Some(AUTH)));
    std::fs::write(file.path(), document).unwrap();
    let mut config = config::load_backend(file.path()).unwrap();
    let config::Backend::Registry(settings) = &mut config else { panic!("no registry") };
    let url = Url::new(&format!("127.0.0.1:{}", squid.port));
    settings.remote.proxy = Proxy { url, check_interval: Duration::from_secs(1), ..Proxy::default() };
    settings.remote.ca_cert_files = match registry.kind {
        Kind::Tls => vec![registry.dir.path().join("ca.pem")],
        Kind::Open | Kind::Password | Kind::Mutual => Vec::new(),
    };
    open_backend(&config, &OpenOptions::default()).unwrap()
}

fn route(backend: &Arc<dyn Backend>, kind: RouteKind) -> RouteStats {
    backend.routes().into_iter().find(|route| route.kind == kind).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_is_read_through_a_proxy() {
    let Some(squid) = Squid::start() else { return };
    for kind in [Kind::Open, Kind::Password, Kind::Tls] {
        let Some(mut registry) = DockerRegistry::start(kind) else { return };
        let content = pattern(3, 1 << 20);
        let id = registry.push_in_the_clear(&content);
        let backend = open(&registry, &squid);
        let blob = backend.open(&id).unwrap();
        for start in (0..content.len()).step_by(100_000) {
            let end = content.len().min(start + 100_000);
            let found = blob.read(start as u64..end as u64, Priority::OnDemand).await.unwrap();
            assert!(found == content[start..end], "{kind:?} {start}");
        }
        assert_eq!(blob.size().await.unwrap(), content.len() as u64);
        let proxy = route(&backend, RouteKind::Proxy);
        assert_eq!((proxy.bytes, proxy.errors), (content.len() as u64, 0), "{kind:?}");
        assert_eq!(route(&backend, RouteKind::Origin).requests, 0, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_killed_is_missed_by_nobody() {
    let Some(mut squid) = Squid::start() else { return };
    let Some(registry) = DockerRegistry::start(Kind::Password) else { return };
    let content = pattern(4, 1 << 20);
    let backend = open(&registry, &squid);
    let blob = backend.open(&registry.push(&content)).unwrap();
    // Readers all the time, whatever becomes of the proxy.
    let reader = |n: usize| {
        let (blob, content) = (Arc::clone(&blob), content.clone());
        async move {
            for round in 0..40 {
                let start = (n * 31 + round * 7919) % 1_000_000;
                let found = blob.read(start as u64..start as u64 + 40_000, Priority::OnDemand).await.unwrap();
                assert!(found == content[start..start + 40_000], "{start}");
            }
        }
    };
    let readers: Vec<_> = (0..4).map(|n| tokio::spawn(reader(n))).collect();
    while route(&backend, RouteKind::Proxy).bytes == 0 {
        tokio::task::yield_now().await;
    }
    squid.down();
    for one in readers {
        one.await.unwrap();
    }
    reader(9).await;
    let (proxy, origin) = (route(&backend, RouteKind::Proxy), route(&backend, RouteKind::Origin));
    assert!(proxy.away && proxy.errors >= 3 && origin.bytes > 0, "{proxy:?} {origin:?}");
    squid.up();
    let started = Instant::now();
    while route(&backend, RouteKind::Proxy).bytes == proxy.bytes {
        assert!(started.elapsed() < PATIENCE, "nobody goes back to the proxy");
        reader(5).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!route(&backend, RouteKind::Proxy).away);
    let before = route(&backend, RouteKind::Origin).requests;
    reader(7).await;
    assert_eq!(route(&backend, RouteKind::Origin).requests, before, "all through the proxy again");
}
