//! Two real Dragonfly peers, `dfdaemon`, between two nodes and `docker-registry`. `cargo xtask soak dragonfly` builds the stub scheduler that
//! they need and runs this; elsewhere it skips itself.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod docker;

use docker::{DockerRegistry, Kind};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use testkit::blob::pattern;
use tests::{Daemon, PATIENCE, Place, can_mount, has_program};

/// Names the program of the stub scheduler.
const SCHEDULER: &str = "DRAGONFLY_SCHEDULER";
/// Machines of the two peers, which Dragonfly tells apart by address.
const NODES: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2))];
const EIO: i32 = 5;

/// A port of `host` that is free now.
fn free_port(host: IpAddr) -> u16 {
    TcpListener::bind((host, 0)).unwrap().local_addr().unwrap().port()
}

/// The way to the registry, for nodes and peers alike, which notes what goes along. Still listens where the registry does not.
struct Origin {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Origin {
    fn before(registry: &DockerRegistry) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let origin = Self { address: listener.local_addr().unwrap(), asked: Arc::default() };
        let (asked, port) = (Arc::clone(&origin.asked), registry.port);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let asked = Arc::clone(&asked);
                std::thread::spawn(move || forward(&stream, port, &asked));
            }
        });
        origin
    }

    /// The ranges that were asked for since the last call.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

/// Carries one connection to the registry. Requests have heads only, as nothing is written through here.
fn forward(client: &TcpStream, port: u16, asked: &Mutex<Vec<String>>) {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok();
    std::thread::scope(|threads| {
        if let Some(server) = &server {
            threads.spawn(|| {
                let _closed_by_either = std::io::copy(&mut &*server, &mut &*client);
                let _gone_already = client.shutdown(Shutdown::Both);
            });
        }
        let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(found @ 1..) = (&mut &*client).read(&mut buffer) {
            head.extend_from_slice(&buffer[..found]);
            while let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
                let request: Vec<u8> = head.drain(..end + 4).collect();
                let text = String::from_utf8_lossy(&request);
                let range = text
                    .lines()
                    .find_map(|line| line.to_lowercase().strip_prefix("range: ").map(str::to_owned));
                asked.lock().unwrap().push(range.unwrap_or_else(|| "all".into()));
            }
            let sent = server.as_ref().is_some_and(|mut server| server.write_all(&buffer[..found]).is_ok());
            if !sent {
                break;
            }
        }
        let _gone_already = client.shutdown(Shutdown::Both);
        if let Some(server) = &server {
            let _gone_already = server.shutdown(Shutdown::Both);
        }
    });
}

/// A process that ends with this value.
struct Running(Child);

impl Running {
    /// Starts `command`, all it says going to `log`, and waits until it listens at `address`.
    fn start(mut command: Command, log: &Path, address: SocketAddr) -> Self {
        let out = std::fs::File::create(log).unwrap();
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        let mut running = Self(command.spawn().unwrap());
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            let said = || std::fs::read_to_string(log).unwrap();
            assert!(running.0.try_wait().unwrap().is_none(), "{command:?} ended:\n{}", said());
            assert!(started.elapsed() < PATIENCE, "{command:?} does not listen:\n{}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _over_already = self.0.kill().is_ok() && self.0.wait().is_ok();
    }
}

/// A scheduler and two peers that know each other.
struct Swarm {
    proxies: [SocketAddr; 2],
    dir: tempfile::TempDir,
    _running: Vec<Running>,
}

impl Swarm {
    fn start(scheduler: &Path, origin: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = SocketAddr::new(NODES[0], free_port(NODES[0]));
        let mut command = Command::new(scheduler);
        command.arg(address.to_string());
        let mut running = vec![Running::start(command, &dir.path().join("scheduler.log"), address)];
        let text = format!("scheduler: {{ addrs: ['{address}'] }}\n");
        std::fs::write(dir.path().join("dynconfig.yaml"), text).unwrap();
        let proxies = NODES.map(|host| {
            let (proxy, peer) = peer(dir.path(), host, origin);
            running.push(peer);
            proxy
        });
        let swarm = Self { proxies, dir, _running: running };
        // A peer says who it is when it listens already.
        let started = Instant::now();
        while swarm.said().matches("is there").count() < NODES.len() {
            assert!(started.elapsed() < PATIENCE, "peers do not come: {}", swarm.said());
            std::thread::sleep(Duration::from_millis(50));
        }
        swarm
    }

    /// What the scheduler said so far.
    fn said(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("scheduler.log")).unwrap()
    }
}

/// A peer on `host`, the first of which is a seed, and where it is a proxy.
fn peer(dir: &Path, host: IpAddr, origin: SocketAddr) -> (SocketAddr, Running) {
    let seed = host == NODES[0];
    let own = dir.join(host.to_string());
    std::fs::create_dir(&own).unwrap();
    let proxy = SocketAddr::new(host, free_port(host));
    let server = || format!("{{ ip: {host}, port: {} }}", free_port(host));
    let at = own.display();
    // `always`: short ranges come from peers, too, which they do not by default.
    let text = format!(
        "host: {{ hostname: node-{host}, ip: {host} }}\n\
         server: {{ cacheDir: {at}/cache, pluginDir: {at}/plugins }}\n\
         download: {{ server: {{ socketPath: {at}/dfdaemon.sock }} }}\n\
         upload: {{ server: {} }}\nhealth: {{ server: {} }}\nmetrics: {{ server: {} }}\nstats: {{ server: {} }}\n\
         seedPeer: {{ enable: {seed}, type: super }}\n\
         storage: {{ dir: {at}/storage, server: {{ ip: {host}, tcpPort: {}, quicPort: {} }} }}\n\
         proxy:\n  server: {{ ip: {host}, port: {} }}\n  registryMirror: {{ addr: 'http://{origin}' }}\n  \
         rules: [ {{ regex: 'blobs/sha256.*', schedulingPolicy: always }} ]\n",
        server(),
        server(),
        server(),
        server(),
        free_port(host),
        free_port(host),
        proxy.port()
    );
    let config = own.join("dfdaemon.yaml");
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new("dfdaemon");
    command.arg("--console").arg("--config").arg(config).arg("--dynconfig").arg(dir.join("dynconfig.yaml"));
    command.arg("--log-dir").arg(own.join("logs"));
    (proxy, Running::start(command, &own.join("log"), proxy))
}

/// An image whose blob is in the registry.
struct Image {
    place: Place,
    files: Vec<(String, Vec<u8>)>,
}

impl Image {
    /// Number `n`, of more bytes than a piece of Dragonfly has.
    fn new(registry: &DockerRegistry, n: u32) -> Self {
        let source = tempfile::tempdir().unwrap();
        let files: Vec<_> = (0..6_u32).map(|m| (format!("f{m}"), pattern(10 * n + m, 3_000_000))).collect();
        for (name, content) in &files {
            std::fs::write(source.path().join(name), content).unwrap();
        }
        let place = Place::new();
        place.build(source.path(), &["--compressor", "none"]);
        registry.push(&std::fs::read(place.blob()).unwrap());
        Self { place, files }
    }

    /// The image on a node with an own cache, whose blobs come from `origin` by `proxy`.
    fn mount(&self, registry: &DockerRegistry, origin: &Origin, proxy: SocketAddr) -> Node<'_> {
        let home = tempfile::tempdir().unwrap();
        let [cache, mountpoint] = ["cache", "mnt"].map(|name| home.path().join(name));
        std::fs::create_dir(&cache).unwrap();
        std::fs::create_dir(&mountpoint).unwrap();
        let ours = format!(r#""proxy": {{"url": "http://{proxy}", "fallback": true, "check_interval": 5}}"#);
        let backend = registry.backend(None).replace(r#""proxy": {"url": "", "fallback": false}"#, &ours);
        let backend = backend.replace(&format!("127.0.0.1:{}", registry.port), &origin.address.to_string());
        assert!(backend.contains(&ours));
        let config = format!(
            r#"{{"device": {{"backend": {backend}, "cache": {{"type": "blobcache", "config": {{"work_dir": "{}"}}}}}}, "mode": "direct"}}"#,
            cache.display()
        );
        let file = home.path().join("config.json");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(tests::program("nydusd"));
        command.arg("--config").arg(file).arg("--mountpoint").arg(&mountpoint);
        command.arg("--bootstrap").arg(self.place.at("boot"));
        let daemon = Daemon::start(command, &mountpoint);
        Node { image: self, daemon, mountpoint, _home: home }
    }
}

/// A daemon of one node, with one image.
struct Node<'a> {
    image: &'a Image,
    daemon: Daemon,
    mountpoint: PathBuf,
    _home: tempfile::TempDir,
}

impl Node<'_> {
    /// Is each file the one that was built?
    fn read_all(&self) -> Result<bool, i32> {
        let mut right = true;
        for (name, content) in &self.image.files {
            let found =
                std::fs::read(self.mountpoint.join(name)).map_err(|error| error.raw_os_error().unwrap())?;
            right &= found == *content;
        }
        Ok(right)
    }

    /// Is the first byte of the first file right?
    fn read_one(&self) -> bool {
        let (name, content) = &self.image.files[0];
        let mut byte = [0];
        std::fs::File::open(self.mountpoint.join(name)).unwrap().read_exact(&mut byte).unwrap();
        byte[0] == content[0]
    }
}

/// Do all these ask for no more than how long a blob is, as a peer does that meets it?
fn only_sizes(asked: &[String]) -> bool {
    asked.iter().all(|range| range == "bytes=0-0")
}

#[test]
fn a_second_node_reads_an_image_whose_registry_is_stopped() {
    let Some(scheduler) = std::env::var_os(SCHEDULER) else {
        eprintln!("SKIPPED: {SCHEDULER} is not set; `cargo xtask soak dragonfly` sets it");
        return;
    };
    if !has_program("dfdaemon") || !can_mount() {
        return;
    }
    let Some(mut registry) = DockerRegistry::start(Kind::Open) else { return };
    let images = [Image::new(&registry, 1), Image::new(&registry, 2)];
    let origin = Origin::before(&registry);
    let swarm = Swarm::start(Path::new(&scheduler), origin.address);
    let first = images.each_ref().map(|image| image.mount(&registry, &origin, swarm.proxies[0]));
    for node in &first {
        assert_eq!(node.read_all(), Ok(true), "{}", swarm.said());
    }
    let asked = origin.asked();
    println!("the first node: {} requests at the origin", asked.len());
    assert!(!only_sizes(&asked), "somebody must have fetched it: {asked:?}");

    // The second peer meets the blob of one image: it asks the origin how long it is, once, and takes all bytes from the first.
    let [known, unknown] = images.each_ref().map(|image| image.mount(&registry, &origin, swarm.proxies[1]));
    let started = Instant::now();
    assert!(known.read_one(), "{}", swarm.said());
    let asked = origin.asked();
    println!("the second node, one byte: {:?}, {asked:?} at the origin", started.elapsed());
    assert!(only_sizes(&asked), "{asked:?}\n{}", swarm.said());

    registry.down();
    let started = Instant::now();
    assert_eq!(known.read_all(), Ok(true), "{}", swarm.said());
    let asked = origin.asked();
    println!("the second node, all of it: {:?}, {asked:?} at the origin", started.elapsed());
    assert_eq!(asked, [""; 0], "{}", swarm.said());

    // A blob that the second peer has never met: an error by both routes, and forgotten.
    let started = Instant::now();
    assert_eq!(unknown.read_all(), Err(EIO));
    println!("the second node, a blob that its peer has not met: EIO after {:?}", started.elapsed());
    registry.up();
    assert_eq!(unknown.read_all(), Ok(true), "{}", swarm.said());
    for node in [known, unknown].into_iter().chain(first) {
        node.daemon.stop();
    }
}
