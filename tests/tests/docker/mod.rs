//! A real registry, `docker-registry`, for tests of what reads from one.
#![allow(dead_code, reason = "not every test has use for all of it")]

use blob_storage::config::{self, Auth, Remote};
use blob_storage::{Patience, Patient, Registry};
use rafs_format::BlobId;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use testkit::tree::sha256;
use tests::{PATIENCE, has_program, run_ok};

/// User `u`, password `hidden-word`, as bcrypt, cheap.
const HTPASSWD: &str = "u:$2y$04$thrjU/OKVf1YhhXBJhqYZOPp9.MW2XiFTmIydE.5l99nyHDfxHd8G\n";
/// The same as a configuration has it.
pub const AUTH: &str = "dTpoaWRkZW4td29yZA==";
pub const REPO: &str = "team/image";

/// A registry of this test's own, on loopback. Its data outlives its process.
pub struct DockerRegistry {
    pub dir: tempfile::TempDir,
    pub port: u16,
    pub kind: Kind,
    process: Option<Child>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Open,
    Password,
    Tls,
    /// With TLS, and only for those that have a certificate.
    Mutual,
}

impl DockerRegistry {
    /// A running one. `None`: there is none on this machine, which is told.
    pub fn start(kind: Kind) -> Option<Self> {
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
    pub fn up(&mut self) {
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
             storage: {{filesystem: {{rootdirectory: {dir}/data}}}}\nhttp: {{secret: kept, addr: '127.0.0.1:{}'{tls}}}\n",
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
    pub fn down(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Status and head of the answer to one request. `None`: nobody answers.
    pub fn ask(&self, method: &str, target: &str, body: &[u8]) -> Option<(u16, String)> {
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
    pub fn push(&self, blob: &[u8]) -> BlobId {
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

    /// [`DockerRegistry::push`], also to one that speaks TLS, which does not for a while.
    pub fn push_in_the_clear(&mut self, blob: &[u8]) -> BlobId {
        if self.kind != Kind::Tls {
            return self.push(blob);
        }
        let id = self.restarted(Kind::Open).push(blob);
        self.restarted(Kind::Tls);
        id
    }

    fn restarted(&mut self, kind: Kind) -> &Self {
        self.down();
        self.kind = kind;
        self.up();
        self
    }

    /// `backend` of a configuration of version 1, as the snapshotter writes it.
    pub fn backend(&self, auth: Option<&str>) -> String {
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
    pub fn open(&self, auth: Option<&str>) -> Patient<Registry> {
        self.open_with(auth, |_remote| {})
    }

    /// The same with other settings.
    pub fn open_with(&self, auth: Option<&str>, change: impl FnOnce(&mut Remote)) -> Patient<Registry> {
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
