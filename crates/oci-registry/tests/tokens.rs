//! A registry whose token service changes its mind: logins that are revoked, scopes that are refused, tokens that end.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use oci_registry::client::{ClientError, Clients};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{BLOB, DIGEST, Reply, Request, Server, basic, partial, reply};

/// What the service does now.
#[derive(Debug, Clone)]
struct Service {
    /// Who gets tokens, as the header has it.
    user: &'static str,
    /// Gives everybody a token, who without a login gets one that opens nothing.
    anybody: bool,
    /// Does the registry take the tokens of users?
    granted: bool,
    life: u64,
}

const USER: &str = "Basic dTpoaWRkZW4=";

impl Default for Service {
    fn default() -> Self {
        Self { user: USER, anybody: false, granted: true, life: 300 }
    }
}

fn start(service: &Arc<Mutex<Service>>) -> Server {
    let service = Arc::clone(service);
    Server::start(move |request| answer(request, &service.lock().clone()))
}

fn answer(request: &Request, service: &Service) -> Reply {
    let sent = request.header("authorization");
    if request.path.starts_with("/token") {
        let token = match sent {
            "" if service.anybody => "anybody",
            sent if sent == service.user => "user",
            _ => return reply(401).body(format!("who is {sent}?")),
        };
        return reply(200).body(format!(r#"{{"token": "{token}", "expires_in": {}}}"#, service.life));
    }
    if service.granted && sent == "Bearer user" {
        return partial(request);
    }
    let realm = format!("http://{}/token", request.header("host"));
    let scope = "service=\"s\",scope=\"repository:a/b:pull\"";
    let error = if sent.is_empty() { "" } else { ",error=\"insufficient_scope\"" };
    reply(401).header("WWW-Authenticate", &format!("Bearer realm=\"{realm}\",{scope}{error}")).body("denied")
}

#[tokio::test]
async fn a_revoked_login_is_told_by_the_service_and_good_again_when_it_is() {
    let service = Arc::new(Mutex::new(Service { life: 0, ..Service::default() }));
    let server = start(&service);
    let client = server.client(|options| options.login = Some(basic("u:hidden")));
    assert_eq!(client.read(DIGEST, 0..10).await.unwrap(), BLOB);
    (service.lock().user, service.lock().granted) = ("Basic other", false);
    let error = client.read(DIGEST, 0..1).await.unwrap_err();
    let ClientError::Token { endpoint, cause } = &error else { panic!("{error}") };
    assert_eq!(*endpoint, format!("http://{}/token", server.address));
    let said = cause.to_string();
    assert_eq!(said, "access refused with the user and password given: status 401: who is Basic ***?");
    assert!(!format!("{error:?}").contains("hidden"), "{error:?}");
    *service.lock() = Service::default();
    assert_eq!(client.read(DIGEST, 0..10).await.unwrap(), BLOB);
}

#[tokio::test]
async fn a_token_that_opens_nothing_is_told_with_its_scope_and_its_user() {
    let service = Arc::new(Mutex::new(Service { granted: false, anybody: true, ..Service::default() }));
    let server = start(&service);
    let refused = "access refused with a token for repository:a/b:pull of";
    for (login, expected) in [
        (Some("u:hidden"), "the user and password given: denied"),
        (None, "nobody: denied"),
        (
            Some("u:covert"),
            "nobody (the user and password given was refused: status 401: who is Basic ***?): denied",
        ),
    ] {
        let client = server.client(|options| options.login = login.map(basic));
        let error = client.read(DIGEST, 0..1).await.unwrap_err();
        assert!(matches!(error, ClientError::Refused { .. }), "{error}");
        assert_eq!(error.to_string(), format!("{refused} {expected}"));
        let shown = format!("{error:?}");
        assert!(!shown.contains("hidden") && !shown.contains("covert"), "{shown}");
    }
    // Nothing of it is remembered.
    let client = server.client(|options| options.login = Some(basic("u:hidden")));
    assert!(client.read(DIGEST, 0..1).await.is_err());
    service.lock().granted = true;
    assert_eq!(client.read(DIGEST, 0..10).await.unwrap(), BLOB);
}

#[tokio::test]
async fn tokens_are_renewed_before_the_registry_refuses_them() {
    let service = Arc::new(Mutex::new(Service { life: 1, ..Service::default() }));
    let server = start(&service);
    let client = server.client(|options| options.login = Some(basic("u:hidden")));
    let started = Instant::now();
    while server.asked("/token").len() < 3 {
        assert_eq!(client.read(DIGEST, 0..10).await.unwrap(), BLOB);
        assert!(started.elapsed() < Duration::from_secs(60), "no token is renewed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let naked =
        server.asked("/v2").iter().filter(|request| request.header("authorization").is_empty()).count();
    assert_eq!(naked, 1, "the challenge was needed once");
}

#[tokio::test]
async fn mounts_of_one_image_share_a_token_and_mounts_of_others_do_not() {
    let server = start(&Arc::default());
    let clients = Clients::default();
    let client = |repo: &str| {
        let options = server.options(|options| {
            options.repo = repo.into();
            options.login = Some(basic("u:hidden"));
        });
        clients.client(&options).unwrap()
    };
    let (first, second, other) = (client("a/b"), client("a/b"), client("c/d"));
    for client in [&first, &second] {
        assert_eq!(client.read(DIGEST, 0..10).await.unwrap(), BLOB);
    }
    assert_eq!(server.asked("/token").len(), 1);
    assert_eq!(other.read(DIGEST, 0..10).await.unwrap(), BLOB);
    assert_eq!(server.asked("/token").len(), 2, "another scope");
}
