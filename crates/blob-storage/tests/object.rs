//! Object stores: S3 from a server that checks signatures, others from one that answers what it is told.
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot do what it needs has failed; its blobs are small"
)]

use blob_storage::config::{Document, load_backend};
use blob_storage::{
    Backend, BackendCause, BackendError, BlobReader, BlobWriter, ObjectStorage, Priority, Stored,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rafs_format::BlobId;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpListener;

const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "a secret nobody may see";
const ID: &str = "5ce1c0de5ce1c0de5ce1c0de5ce1c0de5ce1c0de5ce1c0de5ce1c0de5ce1c0de";

/// Bytes that are different everywhere.
fn content(size: u32) -> Vec<u8> {
    (0..size).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).take(size as usize).collect()
}

/// A server of buckets that are directories below `root`; only the owner of the keys is let in.
async fn s3_server(root: &Path) -> SocketAddr {
    let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
    service.set_auth(SimpleAuth::from_single(KEY, SECRET));
    let service = service.build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let served =
                    Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
                drop(served);
            });
        }
    });
    address
}

/// The store that a document with this backend names.
fn store(kind: &str, settings: &Value) -> ObjectStorage {
    try_store(kind, settings).unwrap()
}

fn try_store(kind: &str, settings: &Value) -> Result<ObjectStorage, String> {
    let document = json!({"version": 2, "backend": {"type": kind, kind: settings}});
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), document.to_string()).unwrap();
    let backend = load_backend(file.path()).map_err(|error| format!("{error:?}"))?;
    ObjectStorage::new(&backend).map_err(|error| error.to_string())
}

fn s3_settings(address: SocketAddr) -> Value {
    json!({
        "scheme": "http", "endpoint": address.to_string(), "region": "us-east-1", "bucket_name": "blobs",
        "object_prefix": "some/prefix-", "access_key_id": KEY, "access_key_secret": SECRET, "timeout": 10
    })
}

fn with(mut settings: Value, name: &str, value: Value) -> Value {
    settings[name] = value;
    settings
}

fn without(mut settings: Value, names: &[&str]) -> Value {
    for name in names {
        settings.as_object_mut().unwrap().remove(*name);
    }
    settings
}

fn reader(store: &ObjectStorage, id: &str) -> Arc<dyn BlobReader> {
    store.open(&BlobId::new(id).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_s3_objects_are_read() {
    let root = tempfile::tempdir().unwrap();
    let bytes = content(300_000);
    std::fs::create_dir_all(root.path().join("blobs/some")).unwrap();
    std::fs::write(root.path().join("blobs/some").join(format!("prefix-{ID}")), &bytes).unwrap();
    let address = s3_server(root.path()).await;
    let store = store("s3", &s3_settings(address));
    assert_eq!(store.endpoint(), format!("s3 bucket blobs of {address}"));
    let blob = reader(&store, ID);
    assert_eq!(blob.size().await.unwrap(), 300_000);
    for range in [0..1, 299_999..300_000, 0..300_000, 4096..8192, 7..7] {
        let found = blob.read(range.clone(), Priority::OnDemand).await.unwrap();
        assert_eq!(found, bytes[range.start as usize..range.end as usize], "{range:?}");
    }
    for range in [299_999..300_001, 300_000..300_001, 1 << 40..(1 << 40) + 1] {
        let error = blob.read(range.clone(), Priority::OnDemand).await.unwrap_err();
        assert!(!error.cause.is_temporary(), "{range:?}: {error}");
        assert!(error.to_string().contains(&format!("bytes {}..{}", range.start, range.end)), "{error}");
    }
    let many = (0..64_u64).map(|n| blob.read(n * 1000..n * 1000 + 999, Priority::OnDemand));
    for (n, found) in futures_util::future::join_all(many).await.into_iter().enumerate() {
        assert_eq!(found.unwrap(), bytes[n * 1000..n * 1000 + 999], "{n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_and_missing_objects_are_told_without_secrets() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("blobs")).unwrap();
    let settings = s3_settings(s3_server(root.path()).await);
    let missing = reader(&store("s3", &settings), ID);
    let error = missing.read(0..1, Priority::OnDemand).await.unwrap_err();
    assert!(matches!(error.cause, BackendCause::NotFound), "{error}");
    let error = missing.size().await.unwrap_err();
    assert!(matches!(error.cause, BackendCause::NotFound), "{error}");

    let wrong = with(settings.clone(), "access_key_secret", json!("another secret"));
    let error = reader(&store("s3", &wrong), ID).read(0..1, Priority::OnDemand).await.unwrap_err();
    let said = format!("{error} {error:?}");
    assert!(said.contains("status 403: SignatureDoesNotMatch"), "{said}");
    assert!(!said.contains("secret") && !said.contains(KEY), "{said}");
    assert!(!error.cause.is_temporary());

    let nobody = without(settings, &["access_key_id", "access_key_secret"]);
    let error = reader(&store("s3", &nobody), ID).read(0..1, Priority::OnDemand).await.unwrap_err();
    assert!(error.to_string().contains("status 403"), "{error}");
    assert!(!format!("{:?}", store("s3", &nobody)).contains("secret"));
}

/// Neither endless waiting nor a panic where nobody is.
#[tokio::test]
async fn a_store_that_is_away_or_silent_is_an_error_in_time() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error =
        reader(&store("s3", &s3_settings(closed)), ID).read(0..1, Priority::OnDemand).await.unwrap_err();
    assert!(error.cause.is_temporary(), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = with(s3_settings(silent.local_addr().unwrap()), "timeout", json!(1));
    let error = reader(&store("s3", &settings), ID).read(0..1, Priority::OnDemand).await.unwrap_err();
    assert!(matches!(error.cause, BackendCause::Timeout { .. }), "{error}");
}

/// One answer per connection to whatever is asked; returns what was.
fn answering(answer: String) -> (SocketAddr, std::thread::JoinHandle<String>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let request = head(&mut socket);
        socket.write_all(answer.as_bytes()).unwrap();
        request
    });
    (address, asked)
}

/// The head of a request.
fn head(socket: &mut impl Read) -> String {
    let mut found = Vec::new();
    while !found.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if socket.read(&mut byte).unwrap() == 0 {
            break;
        }
        found.push(byte[0]);
    }
    String::from_utf8(found).unwrap()
}

/// Whatever a server answers: the bytes asked for, or an error.
#[tokio::test(flavor = "multi_thread")]
async fn no_wrong_answer_is_taken() {
    let whole = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789".to_owned();
    let cases = [
        // The range ignored: the bytes are there all the same.
        (whole, Ok("345")),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into(), Err("got 0 bytes")),
        (ranged("bytes 3-5/10", 3, "345"), Ok("345")),
        (ranged("bytes 0-2/10", 3, "012"), Err("got bytes 0-2/10")),
        (ranged("bytes 3-5/10", 3, "34"), Err("end of file")),
        (ranged("bytes 3-5/10", 4, "3456"), Err("got 4 bytes")),
        (ranged("", 3, "345"), Err("no Content-Range")),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".into(),
            Err("status 302"),
        ),
        (refusal("429 Slow", "Retry-After: 7\r\n", "SlowDown"), Err("status 429: SlowDown: m")),
        (refusal("503 No", "", "ServiceUnavailable"), Err("status 503: ServiceUnavailable: m")),
    ];
    for (answer, expected) in cases {
        let (address, _asked) = answering(answer.clone());
        let found = reader(&store("s3", &s3_settings(address)), ID).read(3..6, Priority::OnDemand).await;
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{answer}"),
            (Err(error), Err(expected)) => {
                assert!(error.to_string().contains(expected), "{answer}: {error}");
                let wait = error.cause.retry_after().map(|wait| wait.as_secs());
                assert_eq!(wait, answer.contains("Retry-After").then_some(7), "{answer}");
            }
            (found, _) => panic!("{answer}: {found:?}"),
        }
    }
}

fn ranged(range: &str, length: usize, body: &str) -> String {
    let range = if range.is_empty() { String::new() } else { format!("Content-Range: {range}\r\n") };
    format!(
        "HTTP/1.1 206 Partial Content\r\n{range}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

fn refusal(status: &str, header: &str, code: &str) -> String {
    let body = format!("<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>m</Message></Error>");
    format!("HTTP/1.1 {status}\r\n{header}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let lines = request.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
}

/// Without keys a request says nothing of who asks.
#[tokio::test(flavor = "multi_thread")]
async fn anonymous_requests_are_not_signed() {
    let settings = |address, kind| {
        let all = without(s3_settings(address), &["access_key_id", "access_key_secret"]);
        if kind == "s3" { all } else { without(all, &["region"]) }
    };
    // Hosts of the others name buckets, and this one has no name.
    for kind in ["s3", "gcs", "azblob"] {
        let (address, asked) = answering(ranged("bytes 3-5/10", 3, "345"));
        let settings = settings(address, kind);
        let found = reader(&store(kind, &settings), ID).read(3..6, Priority::OnDemand).await;
        assert_eq!(found.unwrap_or_else(|error| panic!("{kind}: {error}")), "345");
        let asked = asked.join().unwrap();
        assert!(header(&asked, "authorization").is_none(), "{kind}: {asked}");
        assert!(asked.lines().next().unwrap().contains("prefix-"), "{kind}: {asked}");
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let settings = s3_settings("127.0.0.1:1".parse().unwrap());
    let said = |kind: &str, settings: Value| try_store(kind, &settings).unwrap_err();
    assert!(said("s3", with(settings.clone(), "credentials", json!("environment"))).contains("credentials"));
    assert!(said("s3", with(settings.clone(), "addressing", json!("cname"))).contains("virtual or path"));
    let lonely = without(settings.clone(), &["access_key_id", "access_key_secret"]);
    assert!(said("s3", with(lonely.clone(), "session_token", json!("t"))).contains("access_key_id"));
    assert!(said("s3", with(lonely.clone(), "credentials", json!("keys"))).contains("access_key_id"));
    assert!(said("cos", without(lonely.clone(), &["region"])).contains("access_key_id"));
    let gcs = with(without(lonely, &["region"]), "credential_path", json!("/no/such"));
    assert!(said("gcs", gcs).contains("/no/such"));
    drop(Document::load(Path::new("/no/such")).unwrap_err());
}

/// A blob of `0`, `1`, ... that may be shorter than it says.
#[derive(Debug)]
struct Source {
    bytes: Vec<u8>,
    says: u64,
}

impl BlobReader for Source {
    fn read(&self, range: Range<u64>, _: Priority) -> BoxFuture<'_, Result<Bytes, BackendError>> {
        let found = self.bytes.get(range.start as usize..range.end as usize).map(Bytes::copy_from_slice);
        let short = BackendError {
            endpoint: "the source".into(),
            blob: ID.into(),
            range: Some(range),
            cause: BackendCause::Short { found: 0 },
        };
        Box::pin(async { found.ok_or(short) })
    }

    fn size(&self) -> BoxFuture<'_, Result<u64, BackendError>> {
        Box::pin(async { Ok(self.says) })
    }
}

fn source(size: u32) -> Source {
    Source { bytes: content(size), says: size.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_stored_whole_or_not_at_all() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("blobs/some")).unwrap();
    let store = store("s3", &s3_settings(s3_server(root.path()).await));
    let id = BlobId::new(ID).unwrap();
    let object = root.path().join("blobs/some").join(format!("prefix-{ID}"));

    // In one part, and in several.
    for size in [1, 40 << 20] {
        let source = source(size);
        assert_eq!(store.store(&id, &source).await.unwrap(), Stored::Sent { size: size.into(), again: 0 });
        assert_eq!(std::fs::read(&object).unwrap(), source.bytes, "{size}");
        assert_eq!(store.store(&id, &source).await.unwrap(), Stored::There);
        let found = reader(&store, ID).read(0..1, Priority::OnDemand).await.unwrap();
        assert_eq!(found, source.bytes[..1]);
    }
    std::fs::remove_file(&object).unwrap();

    // A source that breaks off in its second part.
    let broken = Source { says: 40 << 20, ..source(20 << 20) };
    let error = store.store(&id, &broken).await.unwrap_err();
    assert!(error.to_string().starts_with("the source: blob"), "{error}");
    assert!(!object.exists());
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = self::store("s3", &s3_settings(closed)).store(&id, &source(1)).await.unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
}
