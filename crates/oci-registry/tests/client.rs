//! The client against servers that say what no good server says, and against every step of authentication.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use oci_registry::Secret;
use oci_registry::client::{Client, ClientError, ClientOptions, Ping, SetupError, Urgency, Via};
use parking_lot::Mutex;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use support::{BLOB, DIGEST, Reply, Server, basic, partial, reply};

#[tokio::test]
async fn ranges_are_exact_or_refused() {
    let server = Server::start(partial);
    let client = server.client(|_| {});
    for (range, expected) in [(0..1, "0"), (9..10, "9"), (0..10, "0123456789"), (3..7, "3456")] {
        assert_eq!(client.read(DIGEST, range).await.unwrap(), expected);
    }
    assert_eq!(client.read(DIGEST, 5..5).await.unwrap(), "");
    assert_eq!(server.asked("/").len(), 4, "one request each, none for nothing");
    assert_eq!(server.asked("/")[0].path, "/v2/a/b/blobs/sha256:0a");
    let past = client.read(DIGEST, 5..11).await.unwrap_err();
    assert!(matches!(past, ClientError::OutOfRange { size: 10 }), "{past}");
    assert_eq!(client.size(DIGEST).await.unwrap(), 10);
    let huge = client.read(DIGEST, 0..1 << 40).await.unwrap_err();
    assert!(matches!(huge, ClientError::TooLong { .. }), "{huge}");
}

/// The error of reading 2..6 from a server that answers `answer`.
async fn misled(answer: Reply) -> ClientError {
    let server = Server::start(move |_| answer.clone());
    let client = server.client(|options| options.timeout = Some(Duration::from_secs(30)));
    client.read(DIGEST, 2..6).await.unwrap_err()
}

#[tokio::test]
async fn wrong_answers_are_errors() {
    let ranged = |range: &str| reply(206).header("Content-Range", range);
    for (answer, expected) in [
        (reply(206).body("2345"), "asked for bytes 2..6, got no Content-Range"),
        (ranged("bytes 0-3/10").body("0123"), "asked for bytes 2..6, got bytes 0-3/10"),
        (ranged("bytes 2-4/10").body("234"), "asked for bytes 2..6, got bytes 2-4/10"),
        (ranged("bytes 2-9/10").body("23456789"), "asked for bytes 2..6, got bytes 2-9/10"),
        (ranged("bytes 2-5/10").body("234"), "got 3 bytes"),
        (ranged("bytes 2-5/10").body("23456"), "asked for bytes 2..6, got 5 bytes"),
        (ranged("bytes 2-3/4").body("23"), "blob is 4 bytes long"),
        (reply(200), "got 0 bytes"),
        (reply(200).body("01234"), "got 3 bytes"),
        (reply(204), "status 204"),
        (reply(302), "a redirect to nowhere is not an answer that was expected"),
        (
            reply(302).header("Location", "ftp://x/"),
            "a redirect to nowhere is not an answer that was expected",
        ),
        (reply(307).header("Location", "/again"), "redirected more than 5 times"),
        (reply(401), "the registry offers no way to authenticate that can be used: none"),
        (reply(404).body("\n{\"errors\":\t1}\nmore"), "status 404: {\"errors\": 1}"),
        (reply(416), "status 416"),
        (ranged("bytes */5").body("").status(416), "blob is 5 bytes long"),
        (reply(500).body(vec![b'x'; 1000]), &format!("status 500: {}", "x".repeat(256))),
    ] {
        let error = misled(answer.clone()).await;
        assert_eq!(error.to_string(), expected, "{answer:?}");
    }
    let cut = misled(ranged("bytes 2-5/10").body("23").promise(4)).await;
    assert!(matches!(cut, ClientError::Transport(_)), "{cut}");
    let busy = misled(reply(429).header("Retry-After", "7")).await;
    let pause = Some(Duration::from_secs(7));
    assert!(matches!(busy, ClientError::Status { code: 429, retry_after, .. } if retry_after == pause));
}

#[tokio::test]
async fn servers_that_ignore_ranges_are_read_to_a_bound() {
    let server = Server::start(|_| reply(200).body(BLOB));
    let client = server.client(|_| {});
    assert_eq!(client.read(DIGEST, 3..7).await.unwrap(), "3456");
    assert_eq!(client.size(DIGEST).await.unwrap(), 10);
    let far = client.read(DIGEST, 1 << 40..(1 << 40) + 1).await.unwrap_err();
    assert!(matches!(far, ClientError::RangesIgnored { .. }), "{far}");
}

#[tokio::test]
async fn silence_ends_with_the_timeout() {
    for sent in ["", "01"] {
        let answer = reply(206).header("Content-Range", "bytes 0-3/10").body(sent).promise(4).hang();
        let server = Server::start(move |_| answer.clone());
        let client = server.client(|options| options.timeout = Some(Duration::from_millis(100)));
        let error = client.read(DIGEST, 0..4).await.unwrap_err();
        assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    }
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let options = ClientOptions { host: dead.to_string(), repo: "a".into(), ..ClientOptions::default() };
    let error = Client::new(&options).unwrap().read(DIGEST, 0..4).await.unwrap_err();
    assert!(error.to_string().contains("Connection refused"), "{error}");
}

#[tokio::test]
async fn basic_credentials_are_sent_when_wanted() {
    let server = Server::start(|request| match request.header("authorization") {
        "Basic dTpwdw==" => partial(request),
        other => reply(401).header("WWW-Authenticate", "Basic realm=\"x\"").body(format!("not {other}, pw")),
    });
    let client = server.client(|options| options.login = Some(basic("u:pw")));
    for _ in 0..2 {
        assert_eq!(client.read(DIGEST, 0..1).await.unwrap(), "0");
    }
    assert_eq!(server.asked("/").len(), 3, "the challenge is answered once");
    let wrong = server.client(|options| options.login = Some(basic("u:secret")));
    let error = wrong.read(DIGEST, 0..1).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("not Basic ***, pw"), "{error}");
    let none = server.client(|_| {}).read(DIGEST, 0..1).await.unwrap_err();
    assert!(matches!(none, ClientError::NoWay { .. }), "{none}");
}

/// A registry with a token service. `valid` is the token it takes; each asked for is `t<n>`.
struct Tokens {
    server: Server,
    valid: Arc<Mutex<String>>,
}

impl Tokens {
    fn start(method: &'static str) -> Self {
        let valid = Arc::new(Mutex::new("t0".to_owned()));
        let current = Arc::clone(&valid);
        let server = Server::start(move |request| {
            let host = request.header("host");
            if request.path.starts_with("/token") {
                if request.method != method {
                    return reply(405);
                }
                // Long enough for all who wait to come.
                std::thread::sleep(Duration::from_millis(50));
                return reply(200)
                    .body(format!("{{\"token\": \"{}\", \"expires_in\": 300}}", current.lock()));
            }
            if request.header("authorization") == format!("Bearer {}", current.lock()) {
                return partial(request);
            }
            let challenge = format!("Bearer realm=\"http://{host}/token?x=y\",service=\"s\"");
            reply(401).header("WWW-Authenticate", &challenge)
        });
        Self { server, valid }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_asked_for_once_by_all_who_wait_and_again_when_refused() {
    let tokens = Tokens::start("GET");
    let client = Arc::new(tokens.server.client(|options| options.login = Some(basic("u:pw"))));
    let all = |n: u64| {
        let one = |_| {
            let client = Arc::clone(&client);
            tokio::spawn(async move { client.read(DIGEST, 0..10).await.unwrap() })
        };
        futures_util::future::join_all((0..n).map(one))
    };
    assert!(all(32).await.into_iter().all(|read| read.unwrap() == BLOB));
    let asked = tokens.server.asked("/token");
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].path, "/token?x=y&service=s&scope=repository%3Aa%2Fb%3Apull");
    assert_eq!(asked[0].header("authorization"), "Basic dTpwdw==");
    // Expired in the middle.
    "t1".clone_into(&mut tokens.valid.lock());
    assert!(all(32).await.into_iter().all(|read| read.unwrap() == BLOB));
    assert_eq!(tokens.server.asked("/token").len(), 2);
}

#[tokio::test]
async fn token_services_that_want_post_get_it() {
    let tokens = Tokens::start("POST");
    let client = tokens.server.client(|options| options.login = Some(basic("u:p&w")));
    assert_eq!(client.read(DIGEST, 0..1).await.unwrap(), "0");
    "t1".clone_into(&mut tokens.valid.lock());
    assert_eq!(client.read(DIGEST, 0..1).await.unwrap(), "0");
    let asked = tokens.server.asked("/token");
    let methods: Vec<_> = asked.iter().map(|request| request.method.as_str()).collect();
    assert_eq!(methods, ["GET", "POST", "POST"], "the way that works is remembered");
    assert_eq!(
        asked[1].body,
        "service=s&scope=repository%3Aa%2Fb%3Apull&client_id=nydus-registry-client\
         &grant_type=password&username=u&password=p%26w"
    );
}

#[tokio::test]
async fn a_token_given_is_used_first_and_replaced_when_refused() {
    let tokens = Tokens::start("GET");
    let client = tokens.server.client(|options| options.token = Some(Secret::new("t0")));
    assert_eq!(client.read(DIGEST, 0..1).await.unwrap(), "0");
    assert_eq!(tokens.server.requests.lock().len(), 1);
    "t1".clone_into(&mut tokens.valid.lock());
    assert_eq!(client.read(DIGEST, 0..1).await.unwrap(), "0");
    assert_eq!(tokens.server.asked("/token").len(), 1);
}

#[tokio::test]
async fn a_token_service_that_fails_is_asked_again_by_the_next_read() {
    let broken = Arc::new(Mutex::new(true));
    let state = Arc::clone(&broken);
    let server = Server::start(move |request| {
        let host = request.header("host");
        if request.path.starts_with("/token") {
            let down = *state.lock();
            let said = format!("down for {}, user u", request.header("authorization"));
            return if down { reply(503).body(said) } else { reply(200).body("{\"access_token\": \"t\"}") };
        }
        match request.header("authorization") {
            "Bearer t" => partial(request),
            _ => reply(401).header("WWW-Authenticate", &format!("Bearer realm=\"http://{host}/token\"")),
        }
    });
    let client = server.client(|options| options.login = Some(basic("me:pw")));
    let error = client.read(DIGEST, 0..1).await.unwrap_err().to_string();
    assert!(error.starts_with("no token from http://127.0.0.1:"), "{error}");
    assert!(error.ends_with("/token: status 503: down for Basic ***, user u"), "{error}");
    *broken.lock() = false;
    assert_eq!(client.read(DIGEST, 0..1).await.unwrap(), "0");
}

#[tokio::test]
async fn redirects_are_remembered_and_no_credential_goes_there() {
    let signature = Arc::new(Mutex::new(1));
    let (good, given) = (Arc::clone(&signature), Arc::clone(&signature));
    let store = Server::start(move |request| {
        if request.path == format!("/blob?sig={}", good.lock()) { partial(request) } else { reply(403) }
    });
    let elsewhere = store.address;
    let server = Server::start(move |request| match request.header("authorization") {
        "Basic dTpwdw==" if request.path == "/next" => {
            reply(307).header("Location", &format!("http://{elsewhere}/blob?sig={}", given.lock()))
        }
        "Basic dTpwdw==" => reply(302).header("Location", "/next"),
        _ => reply(401).header("WWW-Authenticate", "Basic realm=\"x\""),
    });
    let client = server.client(|options| options.login = Some(basic("u:pw")));
    assert_eq!(client.read(DIGEST, 0..1).await.unwrap(), "0");
    assert_eq!(server.asked("/").len(), 3);
    assert_eq!(client.read(DIGEST, 1..2).await.unwrap(), "1");
    assert_eq!(server.asked("/").len(), 3, "the place is remembered");
    *signature.lock() = 2;
    assert_eq!(client.read(DIGEST, 2..3).await.unwrap(), "2");
    assert_eq!(server.asked("/").len(), 5, "and asked for again where it is refused");
    let asked = store.asked("/");
    assert_eq!(asked.len(), 4);
    assert!(asked.iter().all(|request| !request.headers.contains_key("authorization")), "{asked:?}");
    assert!(asked.iter().all(|request| request.header("user-agent") == "t/1"));
}

#[tokio::test]
async fn redirects_can_be_sent_to_another_host_by_configuration() {
    let store = Server::start(partial);
    let server = Server::start(|_| reply(307).header("Location", "https://bucket.invalid/blob"));
    let client = server.client(|options| {
        options.redirected_scheme = Some("http");
        options.redirected_host = Some(store.address.to_string());
    });
    assert_eq!(client.read(DIGEST, 0..1).await.unwrap(), "0");
    assert_eq!(store.asked("/blob").len(), 1);
}

#[tokio::test]
async fn a_registry_without_tls_is_asked_in_the_clear_only_where_nothing_is_verified() {
    let tokens = Tokens::start("GET");
    let verifying = tokens.server.client(|options| options.https = true);
    let error = verifying.read(DIGEST, 0..1).await.unwrap_err();
    assert!(matches!(error, ClientError::Transport(_)), "{error}");
    assert!(tokens.server.asked("/").is_empty(), "nothing was sent in the clear");
    let client = tokens.server.client(|options| (options.https, options.skip_verify) = (true, true));
    for _ in 0..2 {
        assert_eq!(client.read(DIGEST, 0..1).await.unwrap(), "0");
    }
    assert_eq!(tokens.server.asked("/").len(), 4, "challenge, token, two reads");
}

#[tokio::test]
async fn a_proxy_is_asked_for_places_by_their_names() {
    let proxy = Server::start(partial);
    let via = |use_http| {
        let url = Secret::new(format!("http://u:pw@{}", proxy.address));
        Some(Via { url, use_http })
    };
    // Nobody has these names: only the proxy can have answered.
    for (https, use_http) in [(false, false), (true, true)] {
        let client = proxy.client(|options| {
            (options.host, options.https, options.via) = ("registry.invalid".into(), https, via(use_http));
        });
        assert_eq!(client.read(DIGEST, 2..6).await.unwrap(), "2345");
        assert_eq!(client.read_when(DIGEST, 3..5, Urgency::Later).await.unwrap(), "34");
    }
    let asked = proxy.asked("http://registry.invalid/v2/a/b/blobs/sha256:0a");
    assert_eq!(asked.len(), 4);
    for (request, priority) in asked.iter().zip(["6", "3", "6", "3"]) {
        assert_eq!(request.header("x-dragonfly-priority"), priority);
        assert_eq!(request.header("x-dragonfly-use-p2p"), "true");
        assert_eq!(request.header("x-dragonfly-filtered-query-params"), "");
        assert_eq!(request.header("proxy-authorization"), "Basic dTpwdw==");
    }
    // Without `use_http`, a registry with TLS is asked through a tunnel, in which the proxy sees nothing.
    let client = proxy.client(|options| {
        (options.host, options.https, options.via) = ("registry.invalid".into(), true, via(false));
    });
    let error = client.read(DIGEST, 2..6).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("pw"), "{error:?}");
    assert_eq!(proxy.requests.lock().last().unwrap().method, "CONNECT");
    assert_eq!(proxy.requests.lock().last().unwrap().header("x-dragonfly-priority"), "");
}

#[tokio::test]
async fn peers_are_told_what_of_a_query_says_nothing() {
    let proxy = Server::start(|request| match request.path.as_str() {
        path if path.starts_with("http://store.invalid/") => partial(request),
        _ => reply(307).header("Location", "http://store.invalid/x?id=1&X-Amz-Date=2&X-Amz-Signature=3"),
    });
    let url = Secret::new(format!("http://{}", proxy.address));
    let client = proxy.client(|options| {
        (options.host, options.via) = ("registry.invalid".into(), Some(Via { url, use_http: false }));
        options.headers = vec![("X-Mine".into(), Secret::new("m"))];
    });
    assert_eq!(client.read(DIGEST, 0..4).await.unwrap(), "0123");
    let filtered = &proxy.asked("http://store.invalid/")[0];
    assert_eq!(filtered.header("x-dragonfly-filtered-query-params"), "X-Amz-Date,X-Amz-Signature");
    assert_eq!(filtered.header("x-mine"), "", "what is for the registry goes nowhere else");
    assert_eq!(proxy.asked("http://registry.invalid/")[0].header("x-mine"), "m");
    for name in ["", "a b", "a\n"] {
        let headers = vec![(name.to_owned(), Secret::new("hidden"))];
        let refused = Client::new(&ClientOptions {
            host: "h".into(),
            repo: "r".into(),
            headers,
            ..ClientOptions::default()
        });
        assert!(matches!(refused, Err(SetupError::Header { .. })), "{name:?}");
    }
}

#[tokio::test]
async fn a_server_is_well_when_it_answers_so() {
    let well = Server::start(|request| reply(if request.path == "/ping" { 200 } else { 500 }));
    let ping = |path: &str| {
        let url = format!("http://{}{path}", well.address);
        Ping::new(&url, Duration::from_secs(30), &ClientOptions::default()).unwrap()
    };
    ping("/ping").ask().await.unwrap();
    let error = ping("/").ask().await.unwrap_err();
    assert!(matches!(error, ClientError::Status { code: 500, .. }), "{error}");
    let hangs = Server::start(|_| reply(200).hang().promise(1));
    let limit = Duration::from_millis(50);
    // A status is an answer, whatever becomes of the body.
    let url = format!("http://{}", hangs.address);
    Ping::new(&url, Duration::from_secs(30), &ClientOptions::default()).unwrap().ask().await.unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let error = Ping::new(&url, limit, &ClientOptions::default()).unwrap().ask().await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    assert!(matches!(Ping::new("no url", limit, &ClientOptions::default()), Err(SetupError::Ping)));
}

#[tokio::test]
async fn fields_for_everybody_go_to_the_registry_its_tokens_and_its_store() {
    let store = Server::start(partial);
    let elsewhere = store.address;
    let server = Server::start(move |request| {
        let host = request.header("host");
        match request.header("authorization") {
            _ if request.path.starts_with("/token") => reply(200).body(r#"{"token": "t"}"#),
            "Bearer t" => reply(307).header("Location", &format!("http://{elsewhere}/blob")),
            _ => reply(401).header("WWW-Authenticate", &format!("Bearer realm=\"http://{host}/token\"")),
        }
    });
    let fields = |name: &str| vec![(name.to_owned(), Secret::new("hidden"))];
    let client = server.client(|options| options.all_headers = fields("X-Tenant"));
    assert_eq!(client.read(DIGEST, 0..1).await.unwrap(), "0");
    let asked = [server.asked("/"), store.asked("/")].concat();
    assert_eq!(asked.len(), 4);
    assert!(asked.iter().all(|request| request.header("x-tenant") == "hidden"), "{asked:?}");
    let wrong = Client::new(&server.options(|options| options.all_headers = fields("a b"))).unwrap_err();
    assert!(
        !format!("{wrong} {wrong:?}").contains("hidden") && wrong.to_string().contains("`a b`"),
        "{wrong}"
    );
}
