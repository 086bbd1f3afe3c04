//! Every backend and every decorator passes the shared suite.
#![allow(clippy::unwrap_used, reason = "tests")]

use blob_storage::config::{self, Backend as Config};
use blob_storage::{
    Backend, BlobReader, Bucket, Care, Deadline, Hedge, Hedging, LocalFs, Meter, Metered, OpenOptions, Retry,
    Room, Roomy, Route, RouteKind, Routes, Throttle, open_backend,
};
use bytes::Bytes;
use rafs_format::BlobId;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use testkit::http::{BlobServer, Reply, Server};
use testkit::reader::{OneBlob, TestReader};
use testkit::suite::{bad_server_suite, blob_reader_suite};

const ID: &str = "0a";
const MINUTE: Duration = Duration::from_secs(60);

fn open(config: &str, id: &str) -> Arc<dyn BlobReader> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!(r#"{{"version": 2, "backend": {config}}}"#)).unwrap();
    let config: Config = config::load_backend(file.path()).unwrap();
    let backend = open_backend(&config, &OpenOptions::default()).unwrap();
    backend.open(&BlobId::new(id).unwrap()).unwrap()
}

/// The registry at `host`, with further fields.
fn registry(host: impl std::fmt::Display, more: &str) -> String {
    format!(
        r#"{{"type": "registry", "registry": {{"scheme": "http", "host": "{host}", "repo": "a/b" {more}}}}}"#
    )
}

/// The HTTP server at `addr`, with further fields.
fn http(addr: impl std::fmt::Display, more: &str) -> String {
    format!(r#"{{"type": "http-proxy", "http-proxy": {{"addr": "{addr}", "path": "/some/blobs" {more}}}}}"#)
}

/// One try of a second: what hangs is an error soon.
const HASTY: &str = r#", "timeout": 1, "retry_limit": 0"#;
/// Time enough for a machine that does other things as well.
const AMPLE: &str = r#", "timeout": 60"#;

#[tokio::test(flavor = "multi_thread")]
async fn local_files() {
    let dir = tempfile::tempdir().unwrap();
    blob_reader_suite(async |bytes: Bytes| {
        std::fs::write(dir.path().join(ID), &bytes).unwrap();
        let local = LocalFs { dir: Some(dir.path().into()), ..LocalFs::default() };
        local.open(&BlobId::new(ID).unwrap()).unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_one_blob() {
    let file = tempfile::NamedTempFile::new().unwrap();
    blob_reader_suite(async |bytes: Bytes| {
        std::fs::write(file.path(), &bytes).unwrap();
        let path = file.path().display();
        open(
            &format!(
                r#"{{"type": "localdisk", "localdisk": {{"device_path": "{path}", "disable_gpt": true}}}}"#
            ),
            ID,
        )
    })
    .await;
}

/// Runs the suite over what `config` makes of the address of a server.
async fn over_a_server(config: impl AsyncFn(&BlobServer) -> String) {
    let servers = std::cell::RefCell::new(Vec::new());
    blob_reader_suite(async |bytes| {
        let server = BlobServer::start(&[(ID, bytes)]);
        let reader = open(&config(&server).await, ID);
        servers.borrow_mut().push(server);
        reader
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry() {
    over_a_server(async |server| registry(server.server().address(), AMPLE)).await;
    over_a_server(async |server| registry(server.server().address(), r#", "timeout": 60, "hedge": true"#))
        .await;
    bad_server_suite(|server, id| open(&registry(server.server().address(), HASTY), id)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_behind_a_proxy() {
    let by_proxy = |server: &BlobServer| {
        let proxy = server.server().address();
        registry(proxy, &format!(r#", "timeout": 60, "proxy": {{"url": "http://{proxy}"}}"#))
    };
    over_a_server(async |server| by_proxy(server)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_server() {
    over_a_server(async |server| http(format!("http://{}", server.server().address()), AMPLE)).await;
    bad_server_suite(|server, id| open(&http(format!("http://{}", server.server().address()), HASTY), id))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_server_at_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    over_a_server(async |server| {
        server.server().listen_at(&socket);
        http(socket.display(), AMPLE)
    })
    .await;
    let socket = dir.path().join("bad");
    bad_server_suite(|server, id| {
        if !socket.exists() {
            server.server().listen_at(&socket);
        }
        open(&http(socket.display(), HASTY), id)
    })
    .await;
}

/// Kinds of object stores, and what they need beside a bucket.
const STORES: [(&str, &str); 5] = [
    ("s3", r#", "region": "us-east-1", "access_key_id": "k", "access_key_secret": "s""#),
    ("oss", r#", "access_key_id": "k", "access_key_secret": "s""#),
    ("cos", r#", "access_key_id": "k", "access_key_secret": "s""#),
    ("gcs", ""),
    ("azblob", ""),
];

/// A bucket whose every host is reached through the proxy `server`, which has what is asked for: hosts of most stores name the bucket.
fn store((kind, own): (&str, &str), proxy: SocketAddr, more: &str) -> String {
    format!(
        r#"{{"type": "{kind}", "{kind}": {{"scheme": "http", "endpoint": "store.test", "bucket_name": "blobs",
            "proxy": {{"url": "http://{proxy}", "fallback": false}} {own} {more}}}}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn object_stores() {
    for kind in STORES.into_iter().filter(|(kind, _)| *kind != "gcs") {
        over_a_server(async |server| store(kind, server.server().address(), AMPLE)).await;
    }
}

/// How large an object is, Google says in JSON, at the place without `alt=media`.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_store_of_google() {
    let servers = std::cell::RefCell::new(Vec::new());
    blob_reader_suite(async |bytes: Bytes| {
        let server = Server::start(move |request| {
            if request.target.contains("alt=media") {
                return Reply::part(request, &bytes);
            }
            let told = format!(
                r#"{{"name": "{ID}", "size": "{}", "updated": "2024-01-01T00:00:00Z"}}"#,
                bytes.len()
            );
            Reply::status(200).header("Content-Type", "application/json").body(told)
        });
        let reader = open(&store(("gcs", ""), server.address(), AMPLE), ID);
        servers.borrow_mut().push(server);
        reader
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn object_stores_that_answer_as_no_good_one_does() {
    // What hangs takes its second; all of them at once.
    let suites = STORES.map(|kind| {
        bad_server_suite(move |server, id| open(&store(kind, server.server().address(), HASTY), id))
    });
    futures_util::future::join_all(suites).await;
}

#[tokio::test]
async fn an_http_server_is_asked_below_its_path() {
    let server = BlobServer::start(&[(ID, Bytes::from_static(b"0123456789"))]);
    for (addr, path) in [("", "/some/blobs/0a"), ("/", "/some/blobs/0a"), ("/more/", "/more/some/blobs/0a")] {
        let reader = open(&http(format!("http://{}{addr}", server.server().address()), AMPLE), ID);
        assert_eq!(reader.read(3..5, blob_storage::Priority::OnDemand).await.unwrap(), "34");
        assert_eq!(server.server().requests().last().unwrap().target, path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn decorators() {
    blob_reader_suite(async |bytes: Bytes| TestReader::new(bytes) as _).await;
    blob_reader_suite(async |bytes: Bytes| Arc::new(Retry::new(TestReader::new(bytes), 3, MINUTE)) as _)
        .await;
    blob_reader_suite(async |bytes: Bytes| {
        Arc::new(Deadline::new(TestReader::new(bytes), MINUTE, "e", "b")) as _
    })
    .await;
    let meter = Arc::new(Meter::default());
    blob_reader_suite(async |bytes: Bytes| {
        Arc::new(Metered::new(TestReader::new(bytes), Arc::clone(&meter))) as _
    })
    .await;
    assert_eq!(meter.stats().in_flight, 0);
    // Less room than some reads want, and than all together want.
    let room = Room::new(100_000);
    blob_reader_suite(async |bytes: Bytes| {
        Arc::new(Roomy::new(TestReader::new(bytes), Arc::clone(&room))) as _
    })
    .await;
    assert_eq!(room.used(), 0);
    let bucket = Bucket::new(1 << 30, 1 << 20);
    blob_reader_suite(async |bytes: Bytes| {
        Arc::new(Throttle::new(TestReader::new(bytes), Arc::clone(&bucket))) as _
    })
    .await;
    let hedging = Arc::new(Hedging::default());
    blob_reader_suite(async |bytes: Bytes| {
        Arc::new(Hedge::new(TestReader::new(bytes), Arc::clone(&hedging))) as _
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes() {
    for dead in [false, true] {
        blob_reader_suite(async |bytes: Bytes| {
            let route = |kind, reader| Route::new(kind, "test", Arc::new(OneBlob(reader)), Care::default());
            let first = TestReader::failing_after(bytes.clone(), if dead { 0 } else { u64::MAX });
            let last = route(RouteKind::Origin, TestReader::new(bytes));
            let routes = Routes::new(vec![route(RouteKind::Proxy, first)], last, Some(MINUTE));
            routes.open(&BlobId::new(ID).unwrap()).unwrap()
        })
        .await;
    }
}
