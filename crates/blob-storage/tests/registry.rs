//! What the registry backend makes of answers. How the client gets them is tested in `oci-registry`, and real registries in the
//! end-to-end tests.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use blob_storage::config::{self, Secret, Url};
use blob_storage::{
    Backend, BackendCause, BackendError, BlobReader, Patience, Patient, Priority, Registries, Registry,
};
use rafs_format::BlobId;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

/// The backend as the snapshotter's document has it, with secrets.
fn registry(host: SocketAddr) -> Registry {
    Registry::new(&config(host)).unwrap()
}

fn config(host: SocketAddr) -> config::Registry {
    let document = format!(
        r#"{{"device": {{"backend": {{"type": "registry", "config": {{"scheme": "http", "host": "{host}", "repo": "a/b",
            "auth": "dTpoaWRkZW4=", "registry_token": "hidden", "retry_limit": 2}}}}}}, "mode": "direct"}}"#
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), document).unwrap();
    let config::Backend::Registry(config) = config::load_backend(file.path()).unwrap() else { panic!() };
    assert_eq!(config.remote.proxy.url.as_ref().map(Url::expose), None);
    config
}

/// A server that says `answer` to everybody.
fn server(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 4096];
            let _done = stream.read(&mut head).is_ok() && stream.write_all(answer.as_bytes()).is_ok();
        }
    });
    address
}

fn open(backend: &impl Backend) -> Arc<dyn BlobReader> {
    backend.open(&BlobId::new("0a").unwrap()).unwrap()
}

async fn failed(answer: &'static str) -> BackendError {
    open(&registry(server(answer))).read(0..4, Priority::OnDemand).await.unwrap_err()
}

#[tokio::test]
async fn errors_say_what_was_asked_and_whether_to_ask_again() {
    for (answer, temporary, said) in [
        ("HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n", false, "not found"),
        ("HTTP/1.1 403 x\r\nContent-Length: 3\r\n\r\nno\n", false, "status 403: no"),
        ("HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n", true, "status 503"),
        ("HTTP/1.1 429 x\r\nContent-Length: 0\r\n\r\n", true, "status 429"),
        ("HTTP/1.1 206 x\r\nContent-Length: 0\r\n\r\n", true, "asked for bytes 0..4, got no Content-Range"),
        ("HTTP/1.1 200 x\r\nContent-Length: 0\r\n\r\n", true, "got 0 bytes"),
        ("HTTP/1.1 307 x\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", false, "redirected more than 5 times"),
        (
            "HTTP/1.1 401 x\r\nWWW-Authenticate: Basic\r\nContent-Length: 7\r\n\r\nhidden!",
            false,
            "access refused with the user and password given: ***!",
        ),
        (
            "HTTP/1.1 416 x\r\nContent-Range: bytes */3\r\nContent-Length: 0\r\n\r\n",
            false,
            "blob is 3 bytes long",
        ),
        ("nonsense", true, "error sending request"),
    ] {
        let error = failed(answer).await;
        let line = error.to_string();
        assert!(line.starts_with("registry http://127.0.0.1:"), "{line}");
        assert!(line.contains(&format!("/a/b: blob 0a, bytes 0..4: {said}")), "{line}");
        assert_eq!(error.cause.is_temporary(), temporary, "{line}");
        assert!(!format!("{line} {error:?}").contains("hidden"), "{error:?}");
    }
}

#[tokio::test]
async fn a_registry_that_is_away_is_an_error_of_reads_and_tried_again() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let registry = registry(nobody);
    assert!(!format!("{registry:?}").contains("hidden"), "{registry:?}");
    let endpoint = registry.endpoint().to_owned();
    let patience = Patience { retries: 1, deadline: None };
    let blob = open(&Patient::new(registry, patience, &endpoint));
    let error = blob.size().await.unwrap_err();
    assert!(matches!(error.cause, BackendCause::Tried { tries: 2, .. }), "{error}");
    assert!(error.to_string().contains("Connection refused"), "{error}");
}

#[tokio::test]
async fn a_registry_that_is_busy_is_asked_again_and_told_what_all_are_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = std::thread::spawn(move || {
        let answers = [
            "HTTP/1.1 429 x\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 206 x\r\nContent-Range: bytes 0-3/9\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbyte",
        ];
        answers.map(|answer| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 4096];
            let length = stream.read(&mut head).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&head[..length]).into_owned()
        })
    });
    let fields = vec![("X-Tenant".to_owned(), Secret::new("seven"))];
    let registries = Registries::default().with_headers(fields);
    let registry = Registry::shared(&config(address), &registries).unwrap();
    let blob = open(&Patient::new(registry, Patience { retries: 1, deadline: None }, "r"));
    assert_eq!(blob.read(0..4, Priority::OnDemand).await.unwrap(), "byte");
    let asked = asked.join().unwrap();
    assert!(asked.iter().all(|head| head.contains("x-tenant: seven\r\n")), "{asked:?}");
}
