//! Servers that say in every answer all that they were sent: no output of ours may repeat what is secret.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use oci_registry::Secret;
use oci_registry::client::{Client, ClientError, ClientOptions, Clients, Via};
use oci_registry::login::{Login, Logins};
use std::error::Error;
use std::fmt::Write;
use std::sync::Arc;
use support::{DIGEST, Reply, Request, Server, basic, reply};

/// Each in what is sent, plain or in base64.
const SECRETS: [&str; 9] = [
    "covert-password",
    "dTpjb3ZlcnQtcGFzc3dvcmQ",
    "covert-identity",
    "covert-given",
    "covert-token",
    "covert-field",
    "covert-proxy",
    "cDpjb3ZlcnQtcHJveHk",
    "covert-stored",
];

/// Everything that was sent, on one line.
fn echo(request: &Request) -> String {
    let mut line = format!("{} {}", request.method, request.path);
    for name in ["authorization", "proxy-authorization", "x-field"] {
        write!(line, " {name}={}", request.header(name)).unwrap();
    }
    format!("{line} {}", request.body)
}

/// Refuses everybody with `status` at the registry, and with `token` at the token service, if that is no success.
fn unkind(request: &Request, scheme: &str, status: u16, token: u16) -> Reply {
    if request.path.contains("/token") {
        let said = if token == 200 { r#"{"token": "covert-token"}"#.to_owned() } else { echo(request) };
        return reply(token).body(said);
    }
    let realm = format!("{scheme} realm=\"http://{}/token\"", request.header("host"));
    reply(status).header("WWW-Authenticate", &realm).body(echo(request))
}

/// All that an error can show.
fn shown(error: &ClientError) -> String {
    let first: &dyn Error = error;
    let causes = std::iter::successors(Some(first), |&error| error.source());
    causes.map(|error| format!("{error} {error:?}\n")).collect()
}

fn check(what: &str, text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{what} shows {secret}: {text}");
    }
}

async fn try_all(what: &str, client: &Arc<Client>) {
    let errors: [Option<ClientError>; 5] = [
        client.read(DIGEST, 0..4).await.err(),
        client.size(DIGEST).await.err(),
        client.has(DIGEST).await.err(),
        client.mount(DIGEST, "c/d").await.err(),
        client.upload().await.err(),
    ];
    for error in errors {
        let error = error.unwrap_or_else(|| panic!("{what} succeeds"));
        check(what, &shown(&error));
    }
    check(what, &format!("{client:?}"));
}

#[tokio::test]
async fn a_secret_that_is_cut_off_is_not_shown_in_part() {
    for filler in 200..260 {
        let server = Server::start(move |request| {
            let said = format!("{} {}", "x".repeat(filler), request.header("authorization"));
            reply(401).header("WWW-Authenticate", "Basic").body(said)
        });
        let client = server.client(|options| options.login = Some(basic("u:covert-password")));
        let text = shown(&client.read(DIGEST, 0..4).await.unwrap_err());
        assert!(!text.contains("dTpjb3"), "{filler}: {text}");
    }
}

#[tokio::test]
async fn whatever_servers_say_no_output_shows_a_secret() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let fields = || vec![("X-Field".to_owned(), Secret::new("covert-field"))];
    let logins: [(Option<Login>, Option<&str>); 5] = [
        (Some(basic("u:covert-password")), None),
        (Some(Login::Identity(Secret::new("covert-identity"))), None),
        (Some(Login::Token(Secret::new("covert-token"))), None),
        (None, Some("covert-given")),
        (None, None),
    ];
    for scheme in ["Basic", "Bearer", "Odd"] {
        for (status, token) in [(401, 200), (401, 401), (401, 500), (403, 200), (500, 200)] {
            let server = Server::start(move |request| unkind(request, scheme, status, token));
            let stored = format!(
                r#"{{"auths": {{"{}": {{"username": "u", "password": "covert-stored"}}}}}}"#,
                server.address
            );
            std::fs::write(file.path(), stored).unwrap();
            let clients = Clients::new(Some(Arc::new(Logins::new(vec![file.path().into()]))));
            check("Clients", &format!("{clients:?}"));
            for (login, given) in &logins {
                for through_proxy in [false, true] {
                    let options: ClientOptions = server.options(|options| {
                        options.login.clone_from(login);
                        options.token = given.map(Secret::new);
                        (options.headers, options.all_headers) = (fields(), fields());
                        let url = Secret::new(format!("http://p:covert-proxy@{}", server.address));
                        options.via = through_proxy.then_some(Via { url, use_http: true });
                    });
                    check("options", &format!("{options:?}"));
                    let what = format!("{scheme} {status} {token} {login:?} {through_proxy}");
                    try_all(&what, &clients.client(&options).unwrap()).await;
                }
            }
        }
    }
}
