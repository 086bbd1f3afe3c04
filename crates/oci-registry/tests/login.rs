//! Logins that the machine has: files that change, helpers that are real programs, and registries that refuse.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use oci_registry::client::{Client, ClientError, ClientOptions, Clients};
use oci_registry::login::{Found, HelperError, Login, LoginError, Logins};
use parking_lot::Mutex;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{BLOB, DIGEST, Reply, Request, Server, basic, partial, reply};

/// A home with configurations and helpers.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.at(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// `docker-credential-<name>`, a shell script. `$HOME_DIR` in it is this directory.
    fn helper(&self, name: &str, script: &str) {
        let script = script.replace("$HOME_DIR", self.0.path().to_str().unwrap());
        let path = self.write(&format!("bin/docker-credential-{name}"), &format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Logins in `config.json`.
    fn logins(&self) -> Logins {
        let mut path = OsString::from(self.at("bin"));
        path.push(":/usr/bin:/bin");
        Logins::new(vec![self.at("config.json")]).with_path(path)
    }

    fn client(&self, server: &Server) -> Arc<Client> {
        self.client_with(server, |_| {})
    }

    fn client_with(&self, server: &Server, change: impl FnOnce(&mut ClientOptions)) -> Arc<Client> {
        Clients::new(Some(Arc::new(self.logins()))).client(&server.options(change)).unwrap()
    }

    /// How often helpers were run that note it.
    fn runs(&self) -> usize {
        std::fs::read_to_string(self.at("runs")).unwrap_or_default().lines().count()
    }
}

/// A registry that takes the user and password that are in the mutex.
fn registry(password: &Arc<Mutex<Login>>) -> Server {
    let password = Arc::clone(password);
    Server::start(
        move |request| if opens(request, &password.lock()) { partial(request) } else { challenge() },
    )
}

fn challenge() -> Reply {
    reply(401).header("WWW-Authenticate", "Basic realm=\"x\"").body("denied")
}

fn opens(request: &Request, login: &Login) -> bool {
    let Login::Password(text) = login else { return false };
    request.header("authorization") == format!("Basic {}", text.expose())
}

fn file(host: impl std::fmt::Display, user: &str, password: &str) -> String {
    format!(r#"{{"auths": {{"{host}": {{"username": "{user}", "password": "{password}"}}}}}}"#)
}

#[tokio::test]
async fn files_are_looked_at_in_their_order_and_may_be_missing_or_broken() {
    let home = Home::new();
    let names: [(&str, &str); 4] = [
        ("DOCKER_CONFIG", "d"),
        ("REGISTRY_AUTH_FILE", "r/auth.json"),
        ("XDG_RUNTIME_DIR", "x"),
        ("XDG_CONFIG_HOME", "c"),
    ];
    let variable = |name: &str| {
        names.iter().find(|(key, _)| *key == name).map(|(_, value)| home.at(value).into_os_string())
    };
    let logins = Logins::of_environment(variable);
    let from = async || logins.find("h", "r").await.map(|found| found.map(|found| found.from));
    assert_eq!(from().await.unwrap(), None);
    let places = ["d/config.json", "r/auth.json", "x/containers/auth.json", "c/containers/auth.json"];
    for place in places.into_iter().rev() {
        let path = home.write(place, &file("h", "u", place));
        assert_eq!(from().await.unwrap(), Some(path.display().to_string()));
    }
    // A broken one does not hide the others.
    let broken = home.write("d/config.json", "hidden");
    assert_eq!(from().await.unwrap(), Some(home.at(places[1]).display().to_string()));
    let error = Logins::new(vec![broken]).find("h", "r").await.unwrap_err();
    assert!(matches!(error, LoginError::Json { .. }) && !error.to_string().contains("hidden"), "{error}");
    let error = Logins::new(vec![home.at("d")]).find("h", "r").await.unwrap_err();
    assert!(matches!(error, LoginError::Read { .. }), "{error}");
    let long = home.write("long", &" ".repeat((1 << 20) + 1));
    let error = Logins::new(vec![long]).find("h", "r").await.unwrap_err();
    assert!(matches!(error, LoginError::TooLong { .. }), "{error}");
    // Without its variable, docker's file is at home.
    let home_only = Logins::of_environment(|name| (name == "HOME").then(|| home.at("h").into()));
    let path = home.write("h/.docker/config.json", &file("h", "u", "p"));
    let found = home_only.find("h", "r").await.unwrap();
    assert_eq!(found, Some(Found { login: basic("u:p"), from: path.display().to_string() }));
}

#[tokio::test]
async fn a_login_that_changes_on_disk_is_used_by_the_next_read() {
    let home = Home::new();
    let password = Arc::new(Mutex::new(basic("u:one")));
    let server = registry(&password);
    let client = home.client(&server);
    let error = client.read(DIGEST, 0..1).await.unwrap_err();
    assert!(matches!(error, ClientError::NoWay { .. }), "{error}");
    for word in ["one", "two"] {
        home.write("config.json", &file(server.address, "u", word));
        *password.lock() = basic(&format!("u:{word}"));
        assert_eq!(client.read(DIGEST, 0..10).await.unwrap(), BLOB);
    }
    // Revoked: refused once more with what is there, told with where it is from, and not for good.
    *password.lock() = basic("u:three");
    let error = client.read(DIGEST, 0..1).await.unwrap_err();
    let told = format!("the user and password of {}: denied", home.at("config.json").display());
    assert_eq!(error.to_string(), format!("access refused with {told}"));
    assert!(!format!("{error:?} {client:?}").contains("two"), "{error:?}");
    *password.lock() = basic("u:two");
    assert_eq!(client.read(DIGEST, 0..10).await.unwrap(), BLOB);
}

#[tokio::test]
async fn a_login_given_comes_first_and_the_machine_knows_more() {
    let home = Home::new();
    let password = Arc::new(Mutex::new(basic("u:given")));
    let server = registry(&password);
    home.write("config.json", &file(server.address, "u", "found"));
    let client = home.client_with(&server, |options| options.login = Some(basic("u:given")));
    assert_eq!(client.read(DIGEST, 0..10).await.unwrap(), BLOB);
    *password.lock() = basic("u:found");
    assert_eq!(client.read(DIGEST, 0..10).await.unwrap(), BLOB);
    *password.lock() = basic("u:later");
    let error = client.read(DIGEST, 0..1).await.unwrap_err().to_string();
    assert!(error.contains("the user and password given") && error.contains("config.json"), "{error}");
    client.set_login(Some(basic("u:later")));
    assert_eq!(client.read(DIGEST, 0..10).await.unwrap(), BLOB);
    client.set_login(None);
    *password.lock() = basic("u:found");
    assert_eq!(client.read(DIGEST, 0..10).await.unwrap(), BLOB);
}

#[tokio::test]
async fn a_registry_token_is_sent_as_it_is_and_given_up_when_refused() {
    let home = Home::new();
    for scheme in ["Bearer", "Basic"] {
        let good = Arc::new(Mutex::new("one"));
        let wanted = Arc::clone(&good);
        let server = Server::start(move |request| {
            if request.path.starts_with("/token") {
                return reply(403).body("no anonymous tokens");
            }
            if request.header("authorization") == format!("Bearer {}", *wanted.lock()) {
                return partial(request);
            }
            let realm = format!("{scheme} realm=\"http://{}/token\"", request.header("host"));
            reply(401).header("WWW-Authenticate", &realm).body("denied")
        });
        let file = |token: &str| {
            let entry = format!(r#"{{"auths": {{"{}": {{"registrytoken": "{token}"}}}}}}"#, server.address);
            home.write("config.json", &entry);
        };
        file("one");
        let client = home.client(&server);
        assert_eq!(client.read(DIGEST, 0..10).await.unwrap(), BLOB, "{scheme}");
        *good.lock() = "two";
        let error = client.read(DIGEST, 0..10).await.unwrap_err();
        let told = format!("{error} {:?}", std::error::Error::source(&error).map(ToString::to_string));
        assert!(
            told.contains("registry token of") || told.contains("no anonymous tokens"),
            "{scheme}: {told}"
        );
        // Another one on disk counts at once, and so does one that was refused by mistake.
        *good.lock() = "one";
        assert_eq!(client.read(DIGEST, 0..10).await.unwrap(), BLOB, "{scheme}");
        *good.lock() = "three";
        file("three");
        assert_eq!(client.read(DIGEST, 0..10).await.unwrap(), BLOB, "{scheme}");
    }
}

const STORE: &str = r#"{"credsStore": "test"}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_helper_is_run_once_for_all_who_wait_and_again_when_refused() {
    let home = Home::new();
    home.write("config.json", STORE);
    home.write("word", "one");
    home.helper(
        "test",
        "read server; echo \"$server $@\" >> $HOME_DIR/runs; sleep 0.1\n\
         printf '{\"ServerURL\":\"%s\",\"Username\":\"u\",\"Secret\":\"%s\"}' \"$server\" \"$(cat $HOME_DIR/word)\"",
    );
    let password = Arc::new(Mutex::new(basic("u:one")));
    let server = registry(&password);
    let shared = Clients::new(Some(Arc::new(home.logins())));
    let clients = ["a/b", "c/d"]
        .map(|repo| shared.client(&server.options(|options| options.repo = repo.into())).unwrap());
    let all = || {
        let one = |n: usize| {
            let client = Arc::clone(&clients[n % 2]);
            tokio::spawn(async move { client.read(DIGEST, 0..10).await.unwrap() })
        };
        futures_util::future::join_all((0..32).map(one))
    };
    assert!(all().await.into_iter().all(|read| read.unwrap() == BLOB));
    assert_eq!(home.runs(), 1);
    let said = std::fs::read_to_string(home.at("runs")).unwrap();
    assert_eq!(
        said,
        format!("{} get\n", server.address),
        "the server on standard input, nothing else in arguments"
    );
    // Both the helper and the registry have another one, long after.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    home.write("word", "two");
    *password.lock() = basic("u:two");
    assert!(all().await.into_iter().all(|read| read.unwrap() == BLOB));
    assert_eq!(home.runs(), 2);
}

#[tokio::test]
async fn helpers_that_misbehave_are_killed_and_told_without_what_they_said() {
    let home = Home::new();
    home.write("config.json", STORE);
    // A child that would outlive it, and holds its output open.
    home.helper("test", "sleep 1000 & echo $! > $HOME_DIR/child; wait");
    let logins = home.logins().with_limit(Duration::from_millis(200));
    let error = logins.find("h", "r").await.unwrap_err();
    let LoginError::Helper { source, .. } = &error else { panic!("{error}") };
    assert!(matches!(**source, HelperError::Timeout { .. }), "{error}");
    let child = std::fs::read_to_string(home.at("child")).unwrap();
    let started = Instant::now();
    // A zombie of somebody else's is dead, too.
    let is_alive = || {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
        !state.is_empty() && !state.contains(") Z")
    };
    while is_alive() {
        assert!(started.elapsed() < Duration::from_secs(60), "the child of the helper lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
    for (script, expected) in [
        ("exec yes hidden", "docker-credential-test for h: its answer is longer than 65536 bytes"),
        ("echo hidden; exit 3", "docker-credential-test for h: exit status: 3, and"),
        ("echo hidden", "docker-credential-test for h: its answer is not one of a credential helper"),
    ] {
        home.helper("test", script);
        let error = home.logins().find("h", "r").await.unwrap_err();
        assert!(error.to_string().starts_with(expected), "{script}: {error}");
        assert!(!format!("{error} {error:?}").contains("hidden"), "{error:?}");
    }
    home.helper("test", "echo 'credentials not found in native keychain'; exit 1");
    assert_eq!(home.logins().find("h", "r").await.unwrap(), None);
    std::fs::remove_file(home.at("bin/docker-credential-test")).unwrap();
    let error = home.logins().find("h", "r").await.unwrap_err().to_string();
    assert!(error.ends_with("it cannot be run: No such file or directory (os error 2)"), "{error}");
}

#[tokio::test]
async fn a_helper_slower_than_a_read_may_be_is_there_for_the_next_one() {
    let home = Home::new();
    home.write("config.json", STORE);
    home.helper(
        "test",
        "echo >> $HOME_DIR/runs; while [ ! -e $HOME_DIR/go ]; do sleep 0.01; done; echo '{\"Username\":\"u\",\"Secret\":\"p\"}'",
    );
    let server = registry(&Arc::new(Mutex::new(basic("u:p"))));
    let client = home.client_with(&server, |options| options.timeout = Some(Duration::from_millis(300)));
    let error = client.read(DIGEST, 0..1).await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    home.write("go", "");
    let started = Instant::now();
    while client.read(DIGEST, 0..10).await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(60), "the helper's answer does not come");
    }
    assert_eq!(home.runs(), 1);
}

#[tokio::test]
async fn identity_tokens_are_changed_for_tokens() {
    let home = Home::new();
    let server = Server::start(|request| match (request.path.as_str(), request.header("authorization")) {
        ("/token", "") if request.body.contains("grant_type=refresh_token&refresh_token=r%2Fx") => {
            reply(200).body(r#"{"access_token": "t"}"#)
        }
        ("/token", _) => reply(401).body(format!("not {}", request.body)),
        (_, "Bearer t") => partial(request),
        _ => {
            let realm = format!("Bearer realm=\"http://{}/token\"", request.header("host"));
            reply(401).header("WWW-Authenticate", &realm)
        }
    });
    let auths = |token| format!(r#"{{"auths": {{"{}": {{"identitytoken": "{token}"}}}}}}"#, server.address);
    home.write("config.json", &auths("r/x"));
    let client = home.client(&server);
    assert_eq!(client.read(DIGEST, 0..10).await.unwrap(), BLOB);
    home.write("config.json", &auths("hidden"));
    let error = home.client(&server).read(DIGEST, 0..1).await.unwrap_err().to_string();
    assert!(error.contains("access refused with the identity token of"), "{error}");
    assert!(error.contains("status 401") && !error.contains("hidden"), "{error}");
}
