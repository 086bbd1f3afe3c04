//! Blobs in a real registry, `docker-registry`: read as ranges, and by files of a mount; with and without password; killed in the middle.
#![allow(clippy::unwrap_used, reason = "tests")]

use blob_storage::config::{self, Auth, ClientCert, Remote};
use blob_storage::{Backend, BackendCause, BlobReader, Patience, Patient, Priority, Registry};
use bytes::Bytes;
use rafs_format::BlobId;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;
use testkit::blob::pattern;
use testkit::tree::sha256;
use tests::{Daemon, PATIENCE, Place, can_mount, has_program, run_ok};

/// User `u`, password `hidden-word`, as bcrypt, cheap.
const HTPASSWD: &str = "u:$2y$04$thrjU/OKVf1YhhXBJhqYZOPp9.MW2XiFTmIydE.5l99nyHDfxHd8G\n";
/// The same as a configuration has it.
const AUTH: &str = "dTpoaWRkZW4td29yZA==";
const REPO: &str = "team/image";

/// A registry of this test's own, on loopback. Its data outlives its process.
struct DockerRegistry {
    dir: tempfile::TempDir,
    port: u16,
    kind: Kind,
    process: Option<Child>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Open,
    Password,
    Tls,
    /// With TLS, and only for those that have a certificate.
    Mutual,
}

impl DockerRegistry {
    /// A running one. `None`: there is none on this machine, which is told.
    fn start(kind: Kind) -> Option<Self> {
        if !has_program("docker-registry") {
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut registry = Self { dir: tempfile::tempdir().unwrap(), port, kind, process: None };
        if matches!(kind, Kind::Tls | Kind::Mutual) && !make_certificates(registry.dir.path()) {
            return None;
        }
        registry.up();
        Some(registry)
    }

    /// Starts the process and waits until it answers.
    fn up(&mut self) {
        let dir = self.dir.path().display();
        let tls = match self.kind {
            Kind::Tls => format!(", tls: {{certificate: {dir}/leaf.pem, key: {dir}/leaf.key}}"),
            Kind::Mutual => {
                format!(
                    ", tls: {{certificate: {dir}/leaf.pem, key: {dir}/leaf.key, clientcas: [{dir}/ca.pem]}}"
                )
            }
            Kind::Open | Kind::Password => String::new(),
        };
        let mut text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {dir}/data}}}}\nhttp: {{addr: '127.0.0.1:{}'{tls}}}\n",
            self.port
        );
        if self.kind == Kind::Password {
            std::fs::write(self.dir.path().join("htpasswd"), HTPASSWD).unwrap();
            text += &format!("auth: {{htpasswd: {{realm: test, path: {dir}/htpasswd}}}}\n");
        }
        let config = self.dir.path().join("config.yml");
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(command.spawn().unwrap());
        let started = Instant::now();
        while self.ask("GET", "/v2/", b"").is_none() {
            assert!(started.elapsed() < PATIENCE, "the registry does not come");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Kills the process.
    fn down(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Status and head of the answer to one request. `None`: nobody answers.
    fn ask(&self, method: &str, target: &str, body: &[u8]) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\nAuthorization: Basic {AUTH}\r\n\
             Content-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
            self.port,
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let (head, _body) = text.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, head.to_owned()))
    }

    /// Stores a blob. Returns its id.
    fn push(&self, blob: &[u8]) -> BlobId {
        let id = sha256(blob);
        let (status, head) = self.ask("POST", &format!("/v2/{REPO}/blobs/uploads/"), b"").unwrap();
        assert_eq!(status, 202, "{head}");
        let location = head.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap();
        let (_scheme, rest) = location.split_once("://").unwrap();
        let target = rest.find('/').map(|slash| &rest[slash..]).unwrap();
        let (status, head) = self.ask("PUT", &format!("{target}&digest=sha256:{id}"), blob).unwrap();
        assert_eq!(status, 201, "{head}");
        BlobId::new(&id).unwrap()
    }

    /// `backend` of a configuration of version 1, as the snapshotter writes it.
    fn backend(&self, auth: Option<&str>) -> String {
        let auth = auth.map_or("null".into(), |auth| format!("\"{auth}\""));
        let scheme = if matches!(self.kind, Kind::Tls | Kind::Mutual) { "https" } else { "http" };
        format!(
            r#"{{"type": "registry", "config": {{"scheme": "{scheme}", "host": "127.0.0.1:{}", "repo": "{REPO}", "auth": {auth},
                "skip_verify": false, "timeout": 30, "connect_timeout": 5, "retry_limit": 1, "blob_url_scheme": "",
                "blob_redirected_host": "", "proxy": {{"url": "", "fallback": false}}}}}}"#,
            self.port
        )
    }

    /// The backend itself.
    fn open(&self, auth: Option<&str>) -> Patient<Registry> {
        self.open_with(auth, |_remote| {})
    }

    /// The same with other settings.
    fn open_with(&self, auth: Option<&str>, change: impl FnOnce(&mut Remote)) -> Patient<Registry> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let document = format!(r#"{{"device": {{"backend": {}}}, "mode": "direct"}}"#, self.backend(auth));
        std::fs::write(file.path(), document).unwrap();
        let config::Backend::Registry(mut config) = config::load_backend(file.path()).unwrap() else {
            panic!()
        };
        assert_eq!(config.auth.as_ref().map(Auth::expose), auth);
        change(&mut config.remote);
        let registry = Registry::new(&config).unwrap();
        let endpoint = registry.endpoint().to_owned();
        Patient::new(registry, Patience::from(&config.remote), &endpoint)
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.down();
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    threads.unwrap().block_on(future)
}

/// An authority `ca.pem`, and a certificate of it for 127.0.0.1, `leaf.pem` with `leaf.key`. `false`: they cannot be made here, which is told.
fn make_certificates(dir: &Path) -> bool {
    if !has_program("openssl") {
        return false;
    }
    let leaf = "[x]\nbasicConstraints=CA:FALSE\nsubjectAltName=IP:127.0.0.1\n";
    std::fs::write(dir.join("leaf.cnf"), leaf).unwrap();
    for arguments in [
        "req -x509 -newkey rsa:2048 -nodes -subj /CN=test-ca -days 2 -keyout ca.key -out ca.pem",
        "req -newkey rsa:2048 -nodes -subj /CN=registry -keyout leaf.key -out leaf.csr",
        "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile leaf.cnf -extensions x -out leaf.pem",
    ] {
        run_ok(Command::new("openssl").args(arguments.split(' ')).current_dir(dir));
    }
    true
}

async fn read(blob: &Arc<dyn BlobReader>, range: std::ops::Range<u64>) -> Result<Bytes, BackendCause> {
    blob.read(range, Priority::OnDemand).await.map_err(|error| error.cause)
}

#[test]
fn ranges_are_those_of_the_blob() {
    let Some(registry) = DockerRegistry::start(Kind::Open) else { return };
    let content = pattern(7, 3 << 20);
    let backend = registry.open(None);
    let blob = backend.open(&registry.push(&content)).unwrap();
    let missing = backend.open(&BlobId::new(&sha256(b"other")).unwrap()).unwrap();
    let size = content.len() as u64;
    wait(async {
        assert_eq!(blob.size().await.unwrap(), size);
        for range in [0..1, 0..size, size - 1..size, 12345..1_234_567, 5..5] {
            let expected =
                &content[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
            assert!(read(&blob, range.clone()).await.unwrap() == expected, "{range:?}");
        }
        for range in [size - 1..size + 1, size..size + 1, size + 10..size + 20] {
            let error = read(&blob, range.clone()).await.unwrap_err();
            assert!(matches!(error, BackendCause::OutOfRange { size: found } if found == size), "{error}");
        }
        for error in [missing.size().await.unwrap_err().cause, read(&missing, 0..4).await.unwrap_err()] {
            assert!(matches!(error, BackendCause::NotFound), "{error}");
        }
        let all = (0..64_u64).map(|n| {
            let (blob, start) = (Arc::clone(&blob), n * 48_000);
            tokio::spawn(async move { (start, read(&blob, start..start + 40_000).await.unwrap()) })
        });
        for one in all.collect::<Vec<_>>() {
            let (start, found) = one.await.unwrap();
            let start = usize::try_from(start).unwrap();
            assert!(found == content[start..start + 40_000], "{start}");
        }
    });
}

#[test]
fn a_password_opens_and_a_wrong_one_does_not() {
    let Some(registry) = DockerRegistry::start(Kind::Password) else { return };
    let id = registry.push(b"content");
    wait(async {
        let right = registry.open(Some(AUTH)).open(&id).unwrap();
        assert_eq!(read(&right, 1..4).await.unwrap(), "ont");
        for auth in [None, Some("dTpub3QtaXQ=")] {
            let blob = registry.open(auth).open(&id).unwrap();
            let error = blob.read(1..4, Priority::OnDemand).await.unwrap_err();
            assert!(matches!(error.cause, BackendCause::Auth(_)), "{error}");
            let said = format!("{error} {error:?}");
            assert!(!said.contains("dTpub3QtaXQ") && !said.contains("not-it"), "{said}");
        }
    });
}

#[test]
fn certificates_are_checked_against_the_authorities_given() {
    let Some(registry) = DockerRegistry::start(Kind::Tls) else { return };
    // Whether the blob is there does not matter: who says so has been believed.
    let id = BlobId::new(&sha256(b"other")).unwrap();
    let ca = registry.dir.path().join("ca.pem");
    let stranger = registry.dir.path().join("other.pem");
    run_ok(
        Command::new("openssl")
            .args("req -x509 -newkey rsa:2048 -nodes -subj /CN=y -days 2 -keyout".split(' '))
            .args(["/dev/null", "-out"])
            .arg(&stranger),
    );
    wait(async {
        for (files, skip_verify, believed) in [
            (vec![ca], false, true),
            (vec![], false, false),
            (vec![stranger], false, false),
            (vec![], true, true),
        ] {
            let backend = registry.open_with(None, |remote| {
                (remote.ca_cert_files, remote.skip_verify) = (files.clone(), skip_verify);
            });
            let error = backend.open(&id).unwrap().read(0..4, Priority::OnDemand).await.unwrap_err();
            assert_eq!(
                matches!(error.cause, BackendCause::NotFound),
                believed,
                "{files:?} {skip_verify} {error}"
            );
            assert_eq!(error.to_string().contains("certificate"), !believed, "{error}");
        }
    });
}

#[test]
fn a_registry_that_wants_certificates_gets_ours() {
    let Some(registry) = DockerRegistry::start(Kind::Mutual) else { return };
    let id = BlobId::new(&sha256(b"other")).unwrap();
    let file = |name: &str| registry.dir.path().join(name);
    let ours = ClientCert { cert_file: file("leaf.pem"), key_file: file("leaf.key") };
    wait(async {
        for (client_cert, welcome) in [(Some(ours), true), (None, false)] {
            let backend = registry.open_with(None, |remote| {
                (remote.ca_cert_files, remote.client_cert) = (vec![file("ca.pem")], client_cert.clone());
            });
            let error = backend.open(&id).unwrap().read(0..4, Priority::OnDemand).await.unwrap_err();
            // Whether the blob is there does not matter: who says so has let us in.
            assert_eq!(matches!(error.cause, BackendCause::NotFound), welcome, "{client_cert:?} {error}");
        }
    });
}

#[test]
fn a_registry_that_comes_back_is_read_again() {
    let Some(mut registry) = DockerRegistry::start(Kind::Password) else { return };
    let blob = registry.open(Some(AUTH)).open(&registry.push(b"content")).unwrap();
    wait(async {
        for _ in 0..3 {
            assert_eq!(read(&blob, 0..7).await.unwrap(), "content");
            registry.down();
            let error = read(&blob, 0..7).await.unwrap_err();
            assert!(error.is_temporary() && error.to_string().contains("Connection refused"), "{error}");
            registry.up();
        }
        assert_eq!(read(&blob, 0..7).await.unwrap(), "content");
    });
}

/// Files by path below `root`, which has one level of directories at most.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let names =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.map(|name| (name.clone(), std::fs::read(root.join(&name)).unwrap())).collect()
}

#[test]
fn an_image_in_a_registry_is_mounted_and_outlives_outages() {
    if !can_mount() {
        return;
    }
    let Some(mut registry) = DockerRegistry::start(Kind::Password) else { return };
    let source = tempfile::tempdir().unwrap();
    for n in 0..20_u32 {
        let content = pattern(n, 1000 + 30_000 * n as usize);
        std::fs::write(source.path().join(format!("f{n}")), content).unwrap();
    }
    let place = Place::new();
    place.build(source.path(), &["--chunk-size", "0x4000"]);
    registry.push(&std::fs::read(place.blob()).unwrap());
    // A wrong password; the right one comes by the environment.
    let backend = registry.backend(Some("dTpub3QtaXQ="));
    let config = format!(
        r#"{{"device": {{"id": "/1", "backend": {backend}, "cache": {{"type": "blobcache", "config": {{"work_dir": "{}"}}}}}},
            "mode": "direct", "digest_validate": false, "iostats_files": false, "enable_xattr": true, "amplify_io": 1048576}}"#,
        place.at("cache").display()
    );
    std::fs::write(place.at("config.json"), config).unwrap();
    let mount = || {
        let mut command = place.command();
        let log = std::fs::File::options().create(true).append(true).open(place.at("log")).unwrap();
        command.env("IMAGE_PULL_AUTH", AUTH).stderr(log);
        Daemon::start(command, &place.at("mnt"))
    };
    let expected = files(source.path());
    let content = |name: &str| std::fs::read(place.at("mnt").join(name));
    let is_io_error = |name: &str| content(name).unwrap_err().raw_os_error() == Some(5);

    let daemon = mount();
    for name in ["f3", "f17"] {
        assert!(content(name).unwrap() == expected[name], "{name}");
    }
    registry.down();
    assert!(is_io_error("f5"));
    assert!(content("f17").unwrap() == expected["f17"]);
    daemon.stop();

    // Mounted while the registry is away: what was read is there, and names and sizes are.
    let daemon = mount();
    for name in ["f3", "f17"] {
        assert!(content(name).unwrap() == expected[name], "{name}");
    }
    assert!(is_io_error("f5") && is_io_error("f19"));
    assert_eq!(std::fs::metadata(place.at("mnt/f19")).unwrap().len(), expected["f19"].len() as u64);
    registry.up();
    assert!(files(&place.at("mnt")) == expected);
    daemon.stop();

    let log = std::fs::read_to_string(place.at("log")).unwrap();
    assert!(log.contains("registry http://127.0.0.1:"), "errors are told: {log}");
    for secret in [AUTH, "hidden-word", "dTpub3QtaXQ", "not-it"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[test]
fn a_daemon_without_credentials_asks_docker_and_its_helpers() {
    if !can_mount() {
        return;
    }
    let Some(registry) = DockerRegistry::start(Kind::Password) else { return };
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("f"), pattern(1, 100_000)).unwrap();
    let place = Place::new();
    place.build(source.path(), &[]);
    registry.push(&std::fs::read(place.blob()).unwrap());
    let config = format!(
        r#"{{"device": {{"backend": {}, "cache": {{"type": "blobcache", "config": {{"work_dir": "{}"}}}}}}, "mode": "direct"}}"#,
        registry.backend(None),
        place.at("cache").display()
    );
    std::fs::write(place.at("config.json"), config).unwrap();
    std::fs::create_dir(place.at("docker")).unwrap();
    let host = format!("127.0.0.1:{}", registry.port);
    let login = |text: String| std::fs::write(place.at("docker/config.json"), text).unwrap();
    let mut command = place.command();
    let path = format!("{}:{}", place.at("docker").display(), std::env::var("PATH").unwrap());
    let log = std::fs::File::options().create(true).append(true).open(place.at("log")).unwrap();
    command.env("DOCKER_CONFIG", place.at("docker")).env("PATH", path).stderr(log);
    let daemon = Daemon::start(command, &place.at("mnt"));
    let content = || std::fs::read(place.at("mnt/f"));
    assert_eq!(content().unwrap_err().raw_os_error(), Some(5), "nobody is logged in");
    // docker login, wrong and then by a helper.
    login(format!(r#"{{"auths": {{"{host}": {{"auth": "dTpub3QtaXQ="}}}}}}"#));
    assert_eq!(content().unwrap_err().raw_os_error(), Some(5), "with another password");
    let helper = place.at("docker/docker-credential-own");
    std::fs::write(&helper, "#!/bin/sh\necho '{\"Username\":\"u\",\"Secret\":\"hidden-word\"}'\n").unwrap();
    run_ok(Command::new("chmod").arg("755").arg(helper));
    login(format!(r#"{{"credHelpers": {{"{host}": "own"}}}}"#));
    assert!(content().unwrap() == pattern(1, 100_000));
    daemon.stop();
    let log = std::fs::read_to_string(place.at("log")).unwrap();
    assert!(log.contains("and no user is given"), "{log}");
    for secret in ["hidden-word", "dTpub3QtaXQ", "not-it"] {
        assert!(!log.contains(secret), "{log}");
    }
}
