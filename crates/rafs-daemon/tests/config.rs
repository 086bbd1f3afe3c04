//! Configurations as integrators write them, in all three shapes: what they mean, and what is said about wrong ones.
#![allow(clippy::unwrap_used, reason = "tests")]

use blob_storage::LocalFs;
use blob_storage::config::{
    AccessKeys, Addressing, Credentials, HttpProxy, LocalDisk, Mirror, ObjectStore, Origin, Proxy, Registry,
};
use blob_storage::config::{Auth, Host, Remote, S3, Scheme, Secret, Url};
use proptest::prelude::*;
use rafs_daemon::config::{self, Backend, Cache, Config, ConfigError, Encryption, EncryptionKey};
use rafs_daemon::config::{FileCache, Mode, Overlay, Prefetch, Rafs, Store, TreeDigest};
use rafs_format::Digest;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// Parses `text`, which must have no unknown fields.
fn parsed(text: &str) -> Config {
    config::parse(text, Path::new("c")).unwrap().strict(Path::new("c")).unwrap()
}

/// Parses `document`, which must have no unknown fields.
fn config(document: &Value) -> Config {
    parsed(&document.to_string())
}

/// What is said about the wrong document `text`, without the words that name it.
fn said(text: &str) -> String {
    let line = config::parse(text, Path::new("c")).unwrap_err().to_string();
    line.strip_prefix("configuration c")
        .unwrap_or_else(|| panic!("{line}"))
        .trim_start_matches(": ")
        .to_owned()
}

/// The backend that `body` describes, the same in both versions.
fn backend(kind: &str, body: &Value) -> Backend {
    let first = json!({"device": {"backend": {"type": kind, "config": body}}, "mode": "direct"});
    let second = json!({"version": 2, "backend": {"type": kind, kind: body}});
    let backend = config(&first).backend;
    assert_eq!(config(&second).backend, backend);
    backend
}

/// A version 1 document as the snapshotter sends it.
fn sent() -> Value {
    json!({
        "device": {
            "id": "/20",
            "backend": {"type": "registry", "config": {
                "scheme": "https", "host": "h", "repo": "r", "auth": "dTpw", "timeout": 5,
                "proxy": {"fallback": false}
            }},
            "cache": {"type": "blobcache", "compressed": false, "validate": false, "config": {"work_dir": "/c"}}
        },
        "mode": "direct", "digest_validate": false, "iostats_files": false, "enable_xattr": true,
        "access_pattern": false, "latest_read_files": false, "amplify_io": 1_048_576,
        "fs_prefetch": {"enable": true, "prefetch_all": true, "threads_count": 8, "merging_size": 1_048_576,
                        "bandwidth_rate": 0}
    })
}

/// The smallest useful version 2 document.
fn small() -> Value {
    json!({
        "version": 2, "id": "img",
        "backend": {"type": "localfs", "localfs": {"dir": "/blobs"}},
        "cache": {"type": "blobcache", "filecache": {"work_dir": "/cache"}},
        "rafs": {"mode": "direct"}
    })
}

const SMALL_TOML: &str = r#"
version = 2
id = "img"
[backend]
type = "localfs"
[backend.localfs]
dir = "/blobs"
[cache]
type = "blobcache"
[cache.filecache]
work_dir = "/cache"
[rafs]
mode = "direct"
"#;

fn remote() -> Remote {
    Remote {
        skip_verify: false,
        ca_cert_files: Vec::new(),
        client_cert: None,
        timeout: Some(Duration::from_secs(5)),
        connect_timeout: Some(Duration::from_secs(5)),
        retry_limit: 3,
        hedge: false,
        proxy: Proxy::default(),
        mirrors: Vec::new(),
    }
}

#[test]
fn three_shapes_mean_the_same() {
    let first = json!({
        "device": {
            "id": "img",
            "backend": {"type": "localfs", "config": {"dir": "/blobs", "readahead": false, "readahead_sec": 3}},
            "cache": {"type": "blobcache", "config": {"work_dir": "/cache"}}
        },
        "mode": "direct"
    });
    let expected = Config {
        id: "img".to_owned(),
        backend: Backend::LocalFs(LocalFs { dir: Some("/blobs".into()), ..LocalFs::default() }),
        cache: Cache {
            store: Store::File(FileCache::new(Path::new("/cache"))),
            compressed: false,
            validate: false,
        },
        rafs: Rafs::default(),
        prefetch: Prefetch::default(),
        key_files: Vec::new(),
        tree_digest: None,
        overlay: None,
    };
    assert_eq!(parsed(SMALL_TOML), expected);
    assert_eq!(config(&small()), expected);
    assert_eq!(config(&first), expected);
}

#[test]
fn what_the_snapshotter_sends_is_understood_whole() {
    let config = config(&sent());
    assert_eq!(config.id, "/20");
    let expected = Registry {
        scheme: Scheme::Https,
        host: Host::new("h").unwrap(),
        repo: "r".to_owned(),
        auth: Auth::new("dTpw"),
        registry_token: None,
        blob_url_scheme: None,
        blob_redirected_host: None,
        remote: Remote { proxy: Proxy { fallback: false, ..Proxy::default() }, ..remote() },
    };
    assert_eq!(config.backend, Backend::Registry(expected));
    assert_eq!(config.cache.store, Store::File(FileCache::new(Path::new("/c"))));
    assert_eq!(config.rafs, Rafs { enable_xattr: true, ..Rafs::default() });
    assert_eq!(config.prefetch, Prefetch { enable: true, prefetch_all: true, ..Prefetch::default() });
}

#[test]
fn what_is_sent_and_has_no_effect_is_no_warning() {
    let mut document = sent();
    document["warmup"] = json!(3);
    document["id_mapping"] = json!({"inside": 0, "outside": 1000, "range": 65536});
    document["device"]["external_backends"] = json!([{"patch": {}, "type": "x", "config": {}}]);
    assert_eq!(config(&document), config(&sent()));
    let local = json!({"dir": "/b", "readahead": true, "readahead_sec": 1, "proxy": {"fallback": false}});
    backend("localfs", &local);
}

#[test]
fn mirrors_of_2_3_are_read() {
    let mut document = sent();
    document["device"]["backend"]["config"]["mirrors"] = json!([
        {"host": "http://m:65001"},
        {"host": "https://n", "ping_url": "http://n/ping", "headers": {"X-Dragonfly-Registry": "https://h"},
         "health_check_interval": 7, "failure_limit": 9}
    ]);
    let Backend::Registry(registry) = config(&document).backend else { panic!("no registry") };
    let mirror = |host, interval, failure_limit| Mirror {
        host: Url::new(host).unwrap(),
        ping_url: None,
        headers: Vec::new(),
        health_check_interval: Duration::from_secs(interval),
        failure_limit,
    };
    let second = Mirror {
        ping_url: Url::new("http://n/ping"),
        headers: vec![("X-Dragonfly-Registry".to_owned(), Secret::new("https://h"))],
        ..mirror("https://n", 7, 9)
    };
    assert_eq!(registry.remote.mirrors, [mirror("http://m:65001", 5, 5), second]);
}

#[test]
fn version_1_has_its_own_defaults() {
    let mut document = json!({
        "device": {"backend": {"type": "localfs", "config": {"dir": "/b"}}}, "mode": "cached", "fs_prefetch": {}
    });
    let found = config(&document);
    assert_eq!((found.id.as_str(), &found.cache, found.rafs.mode), ("", &Cache::default(), Mode::Cached));
    assert_eq!(found.prefetch, Prefetch { prefetch_all: true, ..Prefetch::default() });
    document["fs_prefetch"] = json!({
        "enable": true, "prefetch_all": false, "stream_prefetch": true,
        "threads_count": 1024, "merging_size": 0x1000_0000, "bandwidth_rate": 7
    });
    let expected = Prefetch {
        enable: true,
        threads: 1024,
        batch_size: 0x1000_0000,
        bandwidth_limit: Some(7),
        prefetch_all: false,
        stream_prefetch: true,
    };
    assert_eq!(config(&document).prefetch, expected);
    for (first, pick) in [
        ("digest_validate", (|rafs| rafs.validate) as fn(&Rafs) -> bool),
        ("iostats_files", |rafs| rafs.iostats_files),
        ("enable_xattr", |rafs| rafs.enable_xattr),
        ("access_pattern", |rafs| rafs.access_pattern),
        ("latest_read_files", |rafs| rafs.latest_read_files),
    ] {
        let mut document = document.clone();
        document[first] = json!(true);
        let rafs = config(&document).rafs;
        assert!(pick(&rafs), "{first}");
        let others = [
            rafs.validate,
            rafs.iostats_files,
            rafs.enable_xattr,
            rafs.access_pattern,
            rafs.latest_read_files,
        ];
        assert_eq!(others.into_iter().filter(|set| *set).count(), 1, "{first}");
    }
    document["amplify_io"] = json!(0);
    assert_eq!(config(&document).rafs.batch_size, 0);
}

#[test]
fn version_2_sections_are_read() {
    let document = json!({
        "version": 2,
        "external_backends": [],
        "backend": {"type": "localfs", "localfs": {"blob_file": "/f", "dir": "", "alt_dirs": ["/x", "/y"]},
                    "oss": {"endpoint": "e", "bucket_name": "b"}},
        "cache": {"type": "filecache", "compressed": true, "validate": true, "filecache": {
            "disable_indexed_map": true, "enable_encryption": true,
            "encryption_key": "0123456789abcdefABCDEF0123456789"
        }, "fscache": {"work_dir": "/unused"}},
        "rafs": {"mode": "cached", "batch_size": 4096, "validate": true, "enable_xattr": true, "iostats_files": true,
                 "access_pattern": true, "latest_read_files": true},
        "key_files": ["/k1", "/k2"],
        "tree_digest": "ab".repeat(32),
        "overlay": {"upper_dir": "/u", "work_dir": "/w"}
    });
    let key = EncryptionKey::new("0123456789abcdefABCDEF0123456789").unwrap();
    let expected = Config {
        id: String::new(),
        backend: Backend::LocalFs(LocalFs {
            blob_file: Some("/f".into()),
            dir: None,
            alt_dirs: vec!["/x".into(), "/y".into()],
        }),
        cache: Cache {
            store: Store::File(FileCache {
                work_dir: ".".into(),
                disable_indexed_map: true,
                encryption: Some(Encryption::Key(key)),
            }),
            compressed: true,
            validate: true,
        },
        rafs: Rafs {
            mode: Mode::Cached,
            batch_size: 4096,
            validate: true,
            enable_xattr: true,
            iostats_files: true,
            access_pattern: true,
            latest_read_files: true,
        },
        prefetch: Prefetch::default(),
        key_files: vec!["/k1".into(), "/k2".into()],
        tree_digest: Some(TreeDigest(Digest([0xAB; 32]))),
        overlay: Some(Overlay { upper_dir: "/u".into(), work_dir: "/w".into() }),
    };
    assert_eq!(config(&document), expected);
    let bare = json!({"version": 2, "backend": document["backend"]});
    assert_eq!((config(&bare).cache, config(&bare).rafs), (Cache::default(), Rafs::default()));
}

#[test]
fn caches_have_several_names() {
    let store = |cache: Value| {
        let mut document = small();
        document["cache"] = cache;
        config(&document).cache.store
    };
    let files = Store::File(FileCache::new(Path::new("/w")));
    for kind in ["blobcache", "filecache"] {
        assert_eq!(store(json!({"type": kind, "filecache": {"work_dir": "/w"}})), files);
    }
    let fscache = Store::Fscache { work_dir: "/w".into() };
    assert_eq!(store(json!({"type": "fscache", "fscache": {"work_dir": "/w"}})), fscache);
    for cache in [json!({"type": "dummycache"}), json!({"type": ""}), json!({})] {
        assert_eq!(store(cache.clone()), Store::Nowhere, "{cache}");
    }
    let mut first = sent();
    first["device"]["cache"] = json!({"type": "fscache", "config": {"work_dir": "/w"}});
    assert_eq!(config(&first).cache.store, fscache);
    first["device"]["cache"] = json!({"type": "dummycache", "config": {"anything": 1}});
    assert_eq!(config(&first).cache.store, Store::Nowhere);
}

#[test]
fn encryption_is_by_content_or_by_key() {
    let encryption = |more: Value| {
        let mut document = small();
        document["cache"]["filecache"] = more;
        let Store::File(files) = config(&document).cache.store else { panic!("no files") };
        files.encryption
    };
    assert_eq!(encryption(json!({"encryption_key": "0123456789abcdef0123456789abcdef"})), None);
    assert_eq!(
        encryption(json!({"enable_encryption": true, "enable_convergent_encryption": true})),
        Some(Encryption::Convergent)
    );
}

#[test]
fn prefetch_of_version_2_is_switched_on_once() {
    let on = |threads: u16| json!({"enable": true, "threads": threads});
    let off = json!({"enable": false});
    let found = |rafs: Option<&Value>, cache: Option<&Value>| {
        let mut document = small();
        if let Some(prefetch) = rafs {
            document["rafs"]["prefetch"] = prefetch.clone();
        }
        if let Some(prefetch) = cache {
            document["cache"]["prefetch"] = prefetch.clone();
        }
        let prefetch = config(&document).prefetch;
        (prefetch.enable, prefetch.threads)
    };
    assert_eq!(found(None, None), (false, 8));
    assert_eq!(found(Some(&on(3)), None), (true, 3));
    assert_eq!(found(None, Some(&on(4))), (true, 4));
    assert_eq!(found(Some(&on(3)), Some(&on(4))), (true, 4));
    assert_eq!(found(Some(&on(3)), Some(&off)), (false, 8));
    assert_eq!(found(Some(&off), Some(&on(4))), (false, 4));
    let mut document = small();
    document["rafs"]["prefetch"] = json!({"enable": true, "prefetch_all": true, "bandwidth_limit": 1});
    document["cache"]["prefetch"] = json!({"enable": true, "batch_size": 9, "stream_prefetch": true});
    let expected = Prefetch { enable: true, prefetch_all: true, batch_size: 9, ..Prefetch::default() };
    assert_eq!(config(&document).prefetch, expected);
}

#[test]
fn all_backends_are_read() {
    let disk = json!({"device_path": "/dev/vdb", "disable_gpt": true});
    let expected = LocalDisk { device_path: "/dev/vdb".into(), disable_gpt: true };
    assert_eq!(backend("localdisk", &disk), Backend::LocalDisk(expected));

    let oss = json!({
        "endpoint": "oss.example", "bucket_name": "b", "object_prefix": "p/", "access_key_id": "i",
        "access_key_secret": "s", "scheme": "http", "skip_verify": true, "ca_cert_files": ["/a.pem"], "timeout": 0,
        "connect_timeout": 7, "retry_limit": 255, "hedge": true,
        "proxy": {"url": "http://p:1", "ping_url": "http://p:2/ping", "fallback": false, "check_interval": 1,
                  "check_pause_elapsed": 2, "use_http": true, "dragonfly_scheduler_endpoint": "http://d:3"}
    });
    let proxy = Proxy {
        url: Url::new("http://p:1"),
        ping_url: Url::new("http://p:2/ping"),
        fallback: false,
        check_interval: Duration::from_secs(1),
        check_pause_elapsed: Duration::from_secs(2),
        use_http: true,
        dragonfly_scheduler_endpoint: Url::new("http://d:3"),
    };
    let store = ObjectStore {
        scheme: Scheme::Http,
        endpoint: Host::new("oss.example"),
        bucket_name: "b".to_owned(),
        object_prefix: "p/".to_owned(),
        addressing: Addressing::Virtual,
        credentials: Credentials::Keys(AccessKeys {
            id: Secret::new("i"),
            secret: Secret::new("s"),
            token: None,
        }),
        remote: Remote {
            skip_verify: true,
            ca_cert_files: vec!["/a.pem".into()],
            client_cert: None,
            timeout: None,
            connect_timeout: Some(Duration::from_secs(7)),
            retry_limit: 255,
            hedge: true,
            proxy,
            mirrors: Vec::new(),
        },
    };
    assert_eq!(backend("oss", &oss), Backend::Oss(store));

    let s3 = json!({"endpoint": "", "region": "eu", "bucket_name": "b", "access_key_id": ""});
    let store = ObjectStore {
        scheme: Scheme::Https,
        endpoint: None,
        bucket_name: "b".to_owned(),
        object_prefix: String::new(),
        addressing: Addressing::Path,
        credentials: Credentials::Anonymous,
        remote: remote(),
    };
    assert_eq!(backend("s3", &s3), Backend::S3(S3 { region: "eu".to_owned(), store }));

    let registry = json!({
        "host": "h:5000", "repo": "a/b", "auth": null, "registry_token": "t", "blob_url_scheme": "http",
        "blob_redirected_host": "cdn"
    });
    let expected = Registry {
        scheme: Scheme::Https,
        host: Host::new("h:5000").unwrap(),
        repo: "a/b".to_owned(),
        auth: None,
        registry_token: Some(Secret::new("t")),
        blob_url_scheme: Some(Scheme::Http),
        blob_redirected_host: Host::new("cdn"),
        remote: remote(),
    };
    assert_eq!(backend("registry", &registry), Backend::Registry(expected));

    for (addr, origin) in [
        ("https://h/x", Origin::Url(Url::new("https://h/x").unwrap())),
        ("/run/s", Origin::Socket("/run/s".into())),
    ] {
        let expected = HttpProxy { origin, path: "/p".to_owned(), remote: remote() };
        assert_eq!(backend("http-proxy", &json!({"addr": addr, "path": "/p"})), Backend::HttpProxy(expected));
    }
}

#[test]
fn wrong_values_are_named_by_their_path() {
    let first = [
        ("/device", json!([]), "`device` is a list, expected an object"),
        ("/device", json!({}), "`device.backend` is missing, expected an object"),
        ("/tree_digest", json!("abc"), "`tree_digest` is \"abc\", expected a tree digest, 64 hex digits"),
        ("/device/id", json!(3), "`device.id` is 3, expected a string"),
        (
            "/device/backend/type",
            Value::Null,
            "`device.backend.type` is missing, expected one of localdisk, ",
        ),
        (
            "/device/backend/type",
            json!("nfs"),
            "`device.backend.type` is \"nfs\", expected one of localdisk, ",
        ),
        ("/device/backend/config", Value::Null, "`device.backend.config` is missing, expected an object"),
        (
            "/device/backend/config/scheme",
            json!("ftp"),
            "`device.backend.config.scheme` is \"ftp\", expected http or",
        ),
        (
            "/device/backend/config/host",
            Value::Null,
            "`device.backend.config.host` is missing, expected a host",
        ),
        (
            "/device/backend/config/host",
            json!("https://h"),
            "`device.backend.config.host` is \"https://h\", expected",
        ),
        (
            "/device/backend/config/repo",
            json!(""),
            "`device.backend.config.repo` is \"\", expected a string that is",
        ),
        (
            "/device/backend/config/auth",
            json!("u:p"),
            "`device.backend.config.auth` is a string, expected base64 of",
        ),
        (
            "/device/backend/config/timeout",
            json!(-1),
            "`device.backend.config.timeout` is -1, expected a whole number",
        ),
        (
            "/device/backend/config/timeout",
            json!(4_294_967_296u64),
            "`device.backend.config.timeout` is 4294967296, ",
        ),
        (
            "/device/backend/config/timeout",
            json!("5"),
            "`device.backend.config.timeout` is \"5\", expected a whole",
        ),
        (
            "/device/backend/config/retry_limit",
            json!(256),
            "`device.backend.config.retry_limit` is 256, expected a whole number from 0 to 255",
        ),
        (
            "/device/backend/config/ca_cert_files",
            json!(["/a", 7]),
            "`device.backend.config.ca_cert_files[1]` is 7, expected a path",
        ),
        (
            "/device/backend/config/ca_cert_files",
            json!("/a"),
            "`device.backend.config.ca_cert_files` is \"/a\", exp",
        ),
        (
            "/device/backend/config/client_cert_file",
            json!("/a"),
            "`device.backend.config.client_key_file` is missing",
        ),
        (
            "/device/backend/config/proxy",
            json!("x"),
            "`device.backend.config.proxy` is a string, expected an object",
        ),
        (
            "/device/backend/config/proxy/url",
            json!("ftp://x"),
            "`device.backend.config.proxy.url` is \"ftp://x\", exp",
        ),
        (
            "/device/backend/config/proxy/fallback",
            json!(0),
            "`device.backend.config.proxy.fallback` is 0, expected t",
        ),
        (
            "/device/backend/config/mirrors",
            json!([{"host": "http://m"}, {"ping_url": "http://m"}]),
            "`device.backend.config.mirrors[1].host` is missing, exp",
        ),
        (
            "/device/backend/config/mirrors",
            json!([{"host": "http://m", "headers": {"X-A": 7}}]),
            "`device.backend.config.mirrors[0].headers.X-A` is a num",
        ),
        (
            "/device/backend/config/mirrors",
            json!(["http://m"]),
            "`device.backend.config.mirrors[0]` is a string, expecte",
        ),
        (
            "/device/cache/type",
            json!("diskcache"),
            "`device.cache.type` is \"diskcache\", expected one of blobcache, ",
        ),
        (
            "/device/cache/compressed",
            json!("no"),
            "`device.cache.compressed` is \"no\", expected true or false",
        ),
        ("/device/cache/config", Value::Null, "`device.cache.config` is missing, expected an object"),
        (
            "/device/cache/config/work_dir",
            json!(""),
            "`device.cache.config.work_dir` is \"\", expected a path",
        ),
        (
            "/device/cache/config/work_dir",
            json!({}),
            "`device.cache.config.work_dir` is an object, expected a path",
        ),
        (
            "/device/cache/config/encryption_key",
            json!("0123456789abcdef0123456789abcdeg"),
            "`device.cache.config.encryption_key` is a string, expected 32 hex digits",
        ),
        ("/mode", Value::Null, "`mode` is missing, expected direct or cached"),
        ("/mode", json!("fast"), "`mode` is \"fast\", expected direct or cached"),
        ("/digest_validate", json!(1), "`digest_validate` is 1, expected true or false"),
        (
            "/amplify_io",
            json!(268_435_457),
            "`amplify_io` is 268435457, expected a whole number from 0 to 268435456",
        ),
        (
            "/fs_prefetch/threads_count",
            json!(0),
            "`fs_prefetch.threads_count` is 0, expected a whole number from 1 to ",
        ),
        (
            "/fs_prefetch/threads_count",
            json!(1025),
            "`fs_prefetch.threads_count` is 1025, expected a whole number from",
        ),
        (
            "/fs_prefetch/merging_size",
            json!(268_435_457),
            "`fs_prefetch.merging_size` is 268435457, expected a whole",
        ),
        (
            "/fs_prefetch/bandwidth_rate",
            json!(1.5),
            "`fs_prefetch.bandwidth_rate` is 1.5, expected a whole number from",
        ),
    ];
    check_wrong(&sent(), &first);
    let second = [
        ("/version", json!(3), "`version` is 3, expected 2"),
        ("/version", json!("2"), "`version` is \"2\", expected 2"),
        ("/id", json!(["x"]), "`id` is a list, expected a string"),
        ("/backend", Value::Null, "`backend` is missing, expected an object"),
        ("/backend/localfs", Value::Null, "`backend.localfs` is missing, expected an object"),
        (
            "/backend/localfs",
            json!({}),
            "`backend.localfs.dir` is missing, expected a path, or one in `blob_file`",
        ),
        (
            "/backend/localfs/dir",
            json!(""),
            "`backend.localfs.dir` is missing, expected a path, or one in `blob_file`",
        ),
        ("/backend/localfs/dir", json!(["/b"]), "`backend.localfs.dir` is a list, expected a path"),
        ("/backend/localfs/alt_dirs", json!([""]), "`backend.localfs.alt_dirs[0]` is \"\", expected a path"),
        ("/backend/type", json!("localdisk"), "`backend.localdisk` is missing, expected an object"),
        ("/backend/localdisk", json!({}), "`backend.localdisk.device_path` is missing, expected a path"),
        ("/backend/oss", json!({"bucket_name": "b"}), "`backend.oss.endpoint` is missing, expected a host"),
        (
            "/backend/oss",
            json!({"endpoint": "e", "bucket_name": ""}),
            "`backend.oss.bucket_name` is \"\", expected a",
        ),
        (
            "/backend/oss",
            json!({"endpoint": "e", "bucket_name": "b", "access_key_id": "i"}),
            "`backend.oss.access_key_secret` is missing, expected a string, as `access_key_id` is there",
        ),
        ("/backend/s3", json!({"bucket_name": "b"}), "`backend.s3.region` is missing, expected a string"),
        (
            "/backend/http-proxy",
            json!({}),
            "`backend.http-proxy.addr` is missing, expected an http or https URL, or",
        ),
        (
            "/backend/http-proxy",
            json!({"addr": "run/s"}),
            "`backend.http-proxy.addr` is \"run/s\", expected an http",
        ),
        ("/cache/type", json!("fscache"), "`cache.fscache` is missing, expected an object"),
        ("/cache/filecache", Value::Null, "`cache.filecache` is missing, expected an object"),
        (
            "/cache/filecache/enable_encryption",
            json!(true),
            "`cache.filecache.encryption_key` is missing, expected 32",
        ),
        ("/cache/fscache", json!({"work_dir": ""}), "`cache.fscache.work_dir` is \"\", expected a path"),
        ("/cache/prefetch", json!({}), "`cache.prefetch.enable` is missing, expected true or false"),
        (
            "/cache/prefetch",
            json!({"enable": true, "threads": 0}),
            "`cache.prefetch.threads` is 0, expected a whole number from 1 to 1024",
        ),
        ("/rafs/mode", json!("x"), "`rafs.mode` is \"x\", expected direct or cached"),
        (
            "/rafs/batch_size",
            json!(268_435_457),
            "`rafs.batch_size` is 268435457, expected a whole number from 0 to",
        ),
        ("/rafs/prefetch", json!({"enable": 1}), "`rafs.prefetch.enable` is 1, expected true or false"),
        ("/overlay", json!({"upper_dir": "/u"}), "`overlay.work_dir` is missing, expected a path"),
        (
            "/overlay",
            json!({"upper_dir": "", "work_dir": "/w"}),
            "`overlay.upper_dir` is \"\", expected a path",
        ),
    ];
    check_wrong(&small(), &second);
}

/// Puts each value in its place of `document` and looks at what is said then.
fn check_wrong(document: &Value, rows: &[(&str, Value, &str)]) {
    for (place, value, expected) in rows {
        let mut document = document.clone();
        let (parent, name) = place.rsplit_once('/').unwrap();
        document.pointer_mut(parent).unwrap()[name] = value.clone();
        let found = said(&document.to_string());
        assert!(found.starts_with(expected), "{place} = {value}: {found}");
    }
}

#[test]
fn long_values_are_cut_and_control_characters_escaped() {
    let mut document = small();
    document["rafs"]["mode"] = json!("x".repeat(1000));
    assert!(said(&document.to_string()).len() < 150);
    document["rafs"]["mode"] = json!("a\n\u{1b}[31m");
    assert!(said(&document.to_string()).contains(r#""a\n\u{1b}[31m""#));
}

#[test]
fn what_is_no_configuration_is_told_from_one_that_is_wrong() {
    for empty in ["", " \n\t"] {
        assert_eq!(said(empty), " is empty");
    }
    for other in [
        "{}",
        "# nothing\n",
        "a = 1\n",
        r#"{"Version": 2}"#,
        r#"{"version": null, "device": null}"#,
        r#"{"mode":"direct"}"#,
    ] {
        assert_eq!(said(other), " has neither `version` (version 2) nor `device` (version 1)", "{other}");
    }
    assert_eq!(said("{\"version\": 2,}"), " starts with `{` but is not JSON");
    let toml = " does not start with `{` as JSON does, and is not TOML: line 2, column ";
    assert!(said("version = 2\nid = x\n").starts_with(toml), "{}", said("version = 2\nid = x\n"));
    assert!(said("[1, 2]").contains("is not TOML: line 1, column 3"), "{}", said("[1, 2]"));
    assert_eq!(said(&" ".repeat((1 << 20) + 1)), " is over 1048576 bytes long");
}

#[test]
fn a_field_given_twice_is_refused() {
    let json = r#"{"version":2,"backend":{"type":"localfs","localfs":{"dir":"/a","dir":"/b"}}}"#;
    let ConfigError::Json { source, .. } = config::parse(json, Path::new("c")).unwrap_err() else {
        panic!("another error")
    };
    assert!(source.to_string().starts_with("field `dir` is given twice at line 1 column "), "{source}");
    assert!(said("version = 2\nversion = 2\n").contains("line 2, column 1: duplicate key"));
}

#[test]
fn unknown_fields_are_warnings_with_a_suggestion() {
    let mut document = small();
    document["backend"]["localfs"]["dirr"] = json!("/x");
    document["cache"]["work_dir"] = json!("/x");
    document["cache"]["filecache"]["workdir"] = json!("/x");
    document["rafs"]["prefetch"] = json!({"enable": true, "prefetchall": true});
    document["ID"] = json!("x");
    document["device"] = json!({});
    let parsed = config::parse(&document.to_string(), Path::new("c")).unwrap();
    let lines: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
    let expected = [
        "unknown field `backend.localfs.dirr`, did you mean `dir`?",
        "unknown field `cache.filecache.workdir`, did you mean `work_dir`?",
        "unknown field `cache.work_dir`",
        "unknown field `rafs.prefetch.prefetchall`, did you mean `prefetch_all`?",
        "unknown field `ID`",
        "unknown field `device`",
    ];
    assert_eq!(lines, expected);
    assert_eq!(parsed.config.backend, config(&small()).backend);
    let error = parsed.strict(Path::new("c")).unwrap_err();
    let ConfigError::Unknown { fields, .. } = &error else { panic!("{error}") };
    assert_eq!(fields.len(), 6);
    let line = format!("configuration c: {}", expected.join("; "));
    assert_eq!(error.to_string(), line);
}

#[test]
fn unknown_fields_of_version_1_are_found_at_all_depths() {
    for (place, expected) in [
        ("", "`fs_prefetchh`, did you mean `fs_prefetch`?"),
        ("/device", "`device.fs_prefetchh`"),
        ("/device/backend", "`device.backend.fs_prefetchh`"),
        ("/device/backend/config", "`device.backend.config.fs_prefetchh`"),
        ("/device/backend/config/proxy", "`device.backend.config.proxy.fs_prefetchh`"),
        ("/device/cache", "`device.cache.fs_prefetchh`"),
        ("/device/cache/config", "`device.cache.config.fs_prefetchh`"),
        ("/fs_prefetch", "`fs_prefetch.fs_prefetchh`"),
    ] {
        let mut document = sent();
        document.pointer_mut(place).unwrap()["fs_prefetchh"] = json!({});
        let parsed = config::parse(&document.to_string(), Path::new("c")).unwrap();
        let lines: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(lines, [format!("unknown field {expected}")], "{place}");
    }
}

#[test]
fn secrets_are_in_no_output() {
    let mut document = sent();
    let config_of = "/device/backend/config";
    let body = document.pointer_mut(config_of).unwrap();
    body["auth"] = json!("aHVudGVyMjpodW50ZXIy");
    body["registry_token"] = json!("hunter2");
    body["proxy"] = json!({"url": "http://u:hunter2@p:1", "ping_url": "http://hunter2@p:2",
                           "dragonfly_scheduler_endpoint": "http://hunter2:hunter2@p:3"});
    body["mirrors"] = json!([{"host": "http://u:hunter2@m", "headers": {"Authorization": "hunter2"}}]);
    document["device"]["cache"]["config"]["enable_encryption"] = json!(true);
    document["device"]["cache"]["config"]["encryption_key"] = json!("deadbeefdeadbeefdeadbeefdeadbeef");
    let keys = json!({"endpoint": "e", "bucket_name": "b", "access_key_id": "hunter2", "access_key_secret": "hunter2"});
    let shown = format!("{:?} {:#?} {:?}", config(&document), config(&document), backend("oss", &keys));
    for secret in ["hunter2", "aHVudGVyMjpodW50ZXIy", "deadbeef"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    let wrong = [
        ("auth", json!("hunter2")),
        ("auth", json!(["hunter2"])),
        ("registry_token", json!({"hunter2": 1})),
        ("registry_token", json!(20_002)),
        ("proxy", json!({"url": "ftp://u:hunter2@p"})),
        ("host", json!("https://u:hunter2@h")),
    ];
    for (name, value) in wrong {
        let mut document = sent();
        document.pointer_mut(config_of).unwrap()[name] = value;
        let said = format!("{:?}", config::parse(&document.to_string(), Path::new("c")).unwrap_err());
        assert!(!said.contains("hunter2") && !said.contains("20002"), "{said}");
    }
    let broken = "version = 2\n[backend.registry]\nregistry_token = hunter2\n";
    let said = format!("{:?}", config::parse(broken, Path::new("c")).unwrap_err());
    assert!(said.contains("line: 3") && !said.contains("hunter2"), "{said}");
}

#[test]
fn files_are_read_or_say_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    std::fs::write(&file, SMALL_TOML).unwrap();
    assert_eq!(config::load(&file).unwrap().config, config(&small()));
    std::fs::write(&file, b"id = \"\xff\"").unwrap();
    assert!(matches!(config::load(&file).unwrap_err(), ConfigError::NotText { .. }));
    std::fs::write(&file, vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(matches!(config::load(&file).unwrap_err(), ConfigError::TooLong { .. }));
    std::fs::write(&file, format!("{SMALL_TOML}{}", " ".repeat((1 << 20) - SMALL_TOML.len()))).unwrap();
    assert!(config::load(&file).is_ok());
    let ConfigError::Read { origin, source } = config::load(&dir.path().join("none")).unwrap_err() else {
        panic!("another error")
    };
    assert_eq!((origin, source.kind()), (dir.path().join("none"), std::io::ErrorKind::NotFound));
}

#[test]
fn a_directory_stands_for_a_whole_configuration() {
    let first = json!({
        "device": {
            "backend": {"type": "localfs", "config": {"dir": "/d"}},
            "cache": {"type": "blobcache", "config": {"work_dir": "/d"}}
        },
        "mode": "direct", "digest_validate": false, "iostats_files": false, "enable_xattr": false
    });
    assert_eq!(config::from_local_dir(Path::new("/d")), config(&first));
}

/// Values that a document may have anywhere, with names that mean something.
fn any_value() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec![
        "version", "id", "device", "backend", "cache", "rafs", "prefetch", "type", "config", "localfs",
        "registry", "dir", "host", "auth", "proxy", "url", "work_dir", "mode", "enable", "threads",
        "alt_dirs", "x",
    ]);
    let text = prop::sample::select(vec![
        "",
        "localfs",
        "registry",
        "blobcache",
        "direct",
        "/d",
        "http://h",
        "dTpw",
        "é",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        Just(json!(2)),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..8).prop_map(|fields| fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect()),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_panic(text in prop_oneof![".*", "[{}\\[\\]\":,a-c0-9=.\n]*"]) {
        let _done = config::parse(&text, Path::new("c")).is_ok();
    }

    #[test]
    fn no_value_panics_and_errors_are_one_line(
        base in prop::sample::select(vec![sent(), small()]),
        place in any::<prop::sample::Index>(),
        value in any_value(),
    ) {
        let mut document = base;
        let mut places = Vec::new();
        pointers(&document, "", &mut places);
        *document.pointer_mut(&places[place.index(places.len())]).unwrap() = value;
        if let Err(error) = config::parse(&document.to_string(), Path::new("c")) {
            prop_assert_eq!(error.to_string().lines().count(), 1);
        }
    }
}

/// Places of all values in `value`.
fn pointers(value: &Value, at: &str, places: &mut Vec<String>) {
    places.push(at.to_owned());
    for (name, field) in value.as_object().into_iter().flatten() {
        pointers(field, &format!("{at}/{name}"), places);
    }
}

#[test]
fn deep_documents_are_refused() {
    for text in ["{\"a\":".repeat(100_000), format!("a = {}", "[".repeat(100_000))] {
        assert!(config::parse(&text, Path::new("c")).is_err());
    }
}
