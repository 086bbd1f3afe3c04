//! Stores whose hosts name buckets, through a proxy, as these hosts are nowhere; and signatures of OSS, computed as its documentation
//! says.

use super::*;
use crate::config::{AccessKeys, Addressing, Credentials, Host, ObjectStore, Remote, S3, Scheme, Secret};
use hmac::{KeyInit, Mac};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;
use std::time::Duration;

const KEY: &str = "44CF9590006BF252F707";
const SECRET: &str = "OtxrzxIsfpFjA7SwPzILwy8Bw21TLhquhboDYROV";
const ID: &str = "5ce1c0de5ce1c0de5ce1c0de5ce1c0de5ce1c0de5ce1c0de5ce1c0de5ce1c0de";

/// Signature of a request as OSS documents it (version 1): HMAC-SHA1 over what is asked, in base64.
fn oss_signature(to_sign: &str) -> String {
    let mut mac = hmac::Hmac::<sha1::Sha1>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(to_sign.as_bytes());
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, mac.finalize().into_bytes())
}

/// The example of the documentation.
#[test]
fn oss_signatures_are_those_published() {
    let to_sign = "PUT\nODBGOERFMDMzQTczRUY3NUE3NzA5QzdFNUYzMDQxNEM=\ntext/html\nThu, 17 Nov 2005 18:49:58 GMT\n\
                   x-oss-magic:abracadabra\nx-oss-meta-author:foo@bar.com\n/oss-example/nelson";
    assert_eq!(oss_signature(to_sign), "26NBxoKdsyly4EDv6inkoDft/yA=");
}

/// Answers one request with the bytes 3 to 5; returns the head of the request.
fn answering() -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut found = Vec::new();
        let mut byte = [0];
        while !found.ends_with(b"\r\n\r\n") && socket.read(&mut byte).unwrap() > 0 {
            found.push(byte[0]);
        }
        let answer =
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 3-5/10\r\nContent-Length: 3\r\n\r\n345";
        socket.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(found).unwrap()
    });
    (address, asked)
}

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let lines = request.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
}

/// The bucket `blobs` of a store that only a proxy can find.
fn bucket(credentials: Credentials) -> ObjectStore {
    ObjectStore {
        scheme: Scheme::Http,
        endpoint: Host::new("store.test"),
        bucket_name: "blobs".into(),
        object_prefix: "some/prefix-".into(),
        addressing: Addressing::Virtual,
        credentials,
        remote: Remote {
            skip_verify: false,
            client_cert: None,
            ca_cert_files: Vec::new(),
            timeout: Some(Duration::from_secs(10)),
            connect_timeout: None,
            retry_limit: 0,
            hedge: false,
            proxy: config::Proxy::default(),
            mirrors: Vec::new(),
        },
    }
}

/// Reads the bytes 3 to 5 of a blob of the store that `config` makes; returns what the store was asked.
async fn asked(credentials: Credentials, config: impl Fn(ObjectStore) -> config::Backend) -> String {
    let (address, asked) = answering();
    let config = config(bucket(credentials));
    let proxy = config::Url::new(&format!("http://{address}")).unwrap();
    let fields = Registries::default().with_headers(vec![("X-Tenant".into(), Secret::new("t-1"))]);
    let store = ObjectStorage::through(&config, &fields, &proxy, false).unwrap();
    let blob = store.open(&BlobId::new(ID).unwrap()).unwrap();
    assert_eq!(blob.read(3..6, Priority::OnDemand).await.unwrap(), "345");
    let asked = asked.join().unwrap();
    let line = format!("GET http://blobs.store.test/some/prefix-{ID} HTTP/1.1\r\n");
    assert!(asked.starts_with(&line), "{asked}");
    assert_eq!(header(&asked, "host"), Some("blobs.store.test"));
    // What a peer wants to know.
    assert!(asked.to_lowercase().contains("\r\nx-dragonfly-priority: 6\r\n"), "{asked}");
    assert_eq!(header(&asked, "range"), Some("bytes=3-5"));
    // What the environment adds is not part of what is signed.
    assert_eq!(header(&asked, "x-tenant"), Some("t-1"));
    assert!(!header(&asked, "authorization").unwrap_or_default().contains("x-tenant"), "{asked}");
    asked
}

fn keys(token: Option<&str>) -> Credentials {
    Credentials::Keys(AccessKeys {
        id: Secret::new(KEY),
        secret: Secret::new(SECRET),
        token: token.map(Secret::new),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_to_oss_are_signed() {
    for token in [None, Some("of-the-session")] {
        let asked = asked(keys(token), config::Backend::Oss).await;
        let date = header(&asked, "date").unwrap();
        assert_eq!(header(&asked, "x-oss-security-token"), token);
        let mut own: Vec<_> = asked
            .lines()
            .filter(|line| line.starts_with("x-oss-"))
            .map(|line| line.replacen(": ", ":", 1) + "\n")
            .collect();
        own.sort();
        let kind = header(&asked, "content-type").unwrap_or_default();
        let signature =
            oss_signature(&format!("GET\n\n{kind}\n{date}\n{}/blobs/some/prefix-{ID}", own.concat()));
        assert_eq!(header(&asked, "authorization"), Some(format!("OSS {KEY}:{signature}").as_str()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_name_buckets_where_that_is_wanted() {
    let s3 = |store| config::Backend::S3(S3 { region: "eu".into(), store });
    let signed = asked(keys(Some("of-the-session")), s3).await;
    let authorization = header(&signed, "authorization").unwrap();
    assert!(authorization.starts_with(&format!("AWS4-HMAC-SHA256 Credential={KEY}/")), "{authorization}");
    assert_eq!(header(&signed, "x-amz-security-token"), Some("of-the-session"));
    let signed = asked(keys(None), config::Backend::Cos).await;
    assert!(header(&signed, "authorization").unwrap().contains("q-signature="), "{signed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_signs_nothing() {
    let asked = asked(Credentials::Anonymous, config::Backend::Oss).await;
    assert_eq!(header(&asked, "authorization"), None, "{asked}");
}
