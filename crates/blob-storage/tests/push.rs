//! Pushing to a registry that fails at every point, before and after it has done what it was asked for. Real registries are in the
//! end-to-end tests.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use blob_storage::{BackendCause, BackendError, BlobReader, BlobWriter, Priority};
use blob_storage::{Registries, RegistryWriter, Stored, config};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use rafs_format::BlobId;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Bytes in memory as a source.
#[derive(Debug)]
struct Source(Bytes);

impl BlobReader for Source {
    fn read(&self, range: Range<u64>, _priority: Priority) -> BoxFuture<'_, Result<Bytes, BackendError>> {
        let index = |at: u64| usize::try_from(at).unwrap();
        let found = self.0.slice(index(range.start)..index(range.end));
        Box::pin(async { Ok(found) })
    }

    fn size(&self) -> BoxFuture<'_, Result<u64, BackendError>> {
        Box::pin(async { Ok(self.0.len() as u64) })
    }
}

/// How the request goes wrong that does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The connection breaks before anything is done.
    Before,
    /// It breaks after the request was done.
    After,
    /// Half of the body is taken, then it breaks.
    Half,
    /// The registry restarts and forgets all uploads.
    Forgets,
    /// It says that something is wrong with it.
    Unwell,
}

/// A registry in memory.
#[derive(Debug, Default)]
struct Registry {
    blobs: BTreeMap<String, Vec<u8>>,
    uploads: BTreeMap<String, Vec<u8>>,
    requests: Vec<String>,
    /// Which request goes wrong, counted from 0, and how.
    fault: Option<(usize, Fault)>,
    /// What it calls a blob that it has stored, where that is something else.
    renames: Option<&'static str>,
    /// Another repository has every blob.
    generous: bool,
}

struct Request {
    method: String,
    path: String,
    query: String,
    range: String,
    body: Vec<u8>,
}

impl Registry {
    fn start(self) -> (SocketAddr, Arc<Mutex<Self>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let registry = Arc::new(Mutex::new(self));
        let shared = Arc::clone(&registry);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                shared.lock().unwrap().serve(&stream);
            }
        });
        (address, registry)
    }

    fn serve(&mut self, mut stream: &TcpStream) {
        let Some(mut request) = read(stream) else { return };
        let fault = self.fault.filter(|(at, _)| *at == self.requests.len()).map(|(_, fault)| fault);
        self.requests.push(format!("{} {}", request.method, request.path));
        let said = match fault {
            Some(Fault::Before) => return,
            Some(Fault::Unwell) => "503 x\r\n".to_owned(),
            Some(Fault::Half) if request.method == "PATCH" => {
                request.body.truncate(request.body.len() / 2);
                request.range.clear();
                let _broken_off = self.answer(request);
                return;
            }
            Some(Fault::Forgets) => {
                self.uploads.clear();
                self.answer(request)
            }
            Some(Fault::After | Fault::Half) => {
                let _lost = self.answer(request);
                return;
            }
            None => self.answer(request),
        };
        let head = format!("HTTP/1.1 {said}Content-Length: 0\r\nConnection: close\r\n\r\n");
        // Who has gone away reads nothing.
        let _sent = stream.write_all(head.as_bytes()).is_ok();
    }

    /// Status line and header fields.
    fn answer(&mut self, request: Request) -> String {
        let Request { method, path, query, range, body } = request;
        let (_repo, name) = path.strip_prefix("/v2/a/b/blobs/").map(|rest| ("a/b", rest)).unwrap();
        if method == "HEAD" {
            return if self.blobs.contains_key(name) { "200 x\r\n" } else { "404 x\r\n" }.into();
        }
        let name = name.strip_prefix("uploads/").unwrap();
        if method == "POST" {
            if self.generous && query.starts_with("mount=") {
                return "201 x\r\n".into();
            }
            let name = format!("u{}", self.requests.len());
            self.uploads.insert(name.clone(), Vec::new());
            return format!("202 x\r\nLocation: /v2/a/b/blobs/uploads/{name}?state=s\r\n");
        }
        assert!(query.starts_with("state=s"), "what the registry says is kept: {query}");
        if method == "DELETE" && self.uploads.remove(name).is_some() {
            return "204 x\r\n".into();
        }
        let Some(upload) = self.uploads.get_mut(name) else { return "404 x\r\n".into() };
        match method.as_str() {
            "PATCH" => {
                if !range.is_empty() && !range.starts_with(&format!("{}-", upload.len())) {
                    return "416 x\r\n".into();
                }
                upload.extend(body);
                format!("202 x\r\nLocation: /v2/a/b/blobs/uploads/{name}?state=s{}\r\n", upload.len())
            }
            "GET" => format!("204 x\r\nRange: 0-{}\r\n", upload.len().saturating_sub(1)),
            _put => {
                let digest = query.split_once("digest=").unwrap().1.replace("%3A", ":");
                let bytes = self.uploads.remove(name).unwrap();
                let said = self.renames.unwrap_or(&digest).to_owned();
                self.blobs.insert(digest, bytes);
                format!("201 x\r\nDocker-Content-Digest: {said}\r\n")
            }
        }
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&read| read > 0)?;
        if line == "\r\n" {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let field = |name: &str| {
        let found =
            lines.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix(name).map(str::to_owned));
        found.unwrap_or_default()
    };
    let mut words = lines[0].split(' ').map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut body = vec![0; field("content-length: ").parse().unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let range = field("content-range: ");
    Some(Request { method, path: path.into(), query: query.into(), range, body })
}

fn writer(host: SocketAddr, mount_from: &[&str]) -> RegistryWriter {
    let document = format!(
        r#"{{"device": {{"backend": {{"type": "registry", "config": {{"scheme": "http", "host": "{host}", "repo": "a/b",
            "auth": "dTpoaWRkZW4="}}}}}}, "mode": "direct"}}"#
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), document).unwrap();
    let config::Backend::Registry(config) = config::load_backend(file.path()).unwrap() else { panic!() };
    let from = mount_from.iter().map(ToString::to_string).collect();
    RegistryWriter::new(&config, &Registries::default(), from).unwrap().with_chunk(4)
}

const BLOB: &[u8] = b"0123456789";

/// Stores [`BLOB`] under a name that this registry does not check.
async fn store(writer: &RegistryWriter) -> Result<Stored, BackendError> {
    writer.store(&BlobId::new("0a").unwrap(), &Source(Bytes::from_static(BLOB))).await
}

#[tokio::test]
async fn a_blob_is_sent_once_in_chunks() {
    let (address, registry) = Registry::default().start();
    let writer = writer(address, &["other", "c/d"]);
    assert_eq!(store(&writer).await.unwrap(), Stored::Sent { size: 10, again: 0 });
    assert_eq!(store(&writer).await.unwrap(), Stored::There);
    let registry = registry.lock().unwrap();
    assert_eq!(registry.blobs["sha256:0a"], BLOB);
    let methods: Vec<_> = registry.requests.iter().map(|line| line.split(' ').next().unwrap()).collect();
    // Two repositories that do not have it, and the uploads that are offered instead.
    let mounts = ["POST", "DELETE", "POST", "DELETE"];
    assert_eq!(
        methods,
        [&["HEAD"], &mounts[..], &["POST", "PATCH", "PATCH", "PATCH", "PUT", "HEAD"]].concat()
    );
    assert!(registry.uploads.is_empty());
}

#[tokio::test]
async fn a_blob_of_another_repository_is_taken_over() {
    let (address, registry) = Registry { generous: true, ..Registry::default() }.start();
    assert_eq!(store(&writer(address, &["c/d"])).await.unwrap(), Stored::Mounted);
    assert_eq!(registry.lock().unwrap().requests.len(), 2);
}

#[tokio::test]
async fn whatever_goes_wrong_once_the_blob_arrives_whole() {
    for fault in [Fault::Before, Fault::After, Fault::Half, Fault::Forgets, Fault::Unwell] {
        for at in 0.. {
            let (address, registry) = Registry { fault: Some((at, fault)), ..Registry::default() }.start();
            let stored =
                store(&writer(address, &[])).await.unwrap_or_else(|error| panic!("{fault:?} {at}: {error}"));
            let registry = registry.lock().unwrap();
            assert_eq!(registry.blobs["sha256:0a"], BLOB, "{fault:?} {at} {:?}", registry.requests);
            assert!(matches!(stored, Stored::Sent { size: 10, .. }));
            if registry.requests.len() <= at {
                assert!(at >= 6, "all requests had their turn: {at}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_push_that_gets_no_further_is_given_up() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let hopeless = writer(nobody, &[]).with_patience(Duration::from_millis(200));
    let error = store(&hopeless).await.unwrap_err();
    assert!(matches!(error.cause, BackendCause::Tried { .. }), "{error}");
    assert!(!format!("{error} {error:?} {hopeless:?}").contains("hidden"), "{error:?}");
    let (address, registry) = Registry { renames: Some("sha256:0b"), ..Registry::default() }.start();
    let error = store(&writer(address, &[])).await.unwrap_err();
    assert!(error.to_string().ends_with("the registry has stored it as sha256:0b"), "{error}");
    assert!(registry.lock().unwrap().requests.last().unwrap().starts_with("DELETE"));
}
