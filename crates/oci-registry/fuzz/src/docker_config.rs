//! Docker's configuration, on bytes that are anything.

use oci_registry::login::{DockerConfig, Entry, Login};

/// A file with every kind of entry.
pub const SEEDS: &[&str] = &[
    r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}, "r.io/a": {"username": "u", "password": "p"}, "r.io": {"identitytoken": "t"}}}"#,
    r#"{"credsStore": "pass", "credHelpers": {"r.io": "ecr-login", "docker.io": "../x"}, "auths": {"r.io": {}}}"#,
    "{}",
];

/// Takes `data` for a file and asks it about two repositories. Panics when a helper could be something else than a program in `PATH`, or when
/// an entry cannot be used.
pub fn try_bytes(data: &[u8]) {
    let Some(config) = DockerConfig::parse(data) else { return };
    for (host, repo) in [("r.io", "a/b"), ("registry-1.docker.io", "library/debian")] {
        let entries = config.entries(host, repo);
        assert!(entries.len() <= 2);
        for entry in entries {
            match entry {
                Entry::Helper { name, .. } => {
                    assert!(!name.is_empty() && !name.contains(['/', '\0', '\n', ' ']), "{name:?}");
                }
                Entry::Login(login @ Login::Password(_)) => {
                    assert!(login.plain().is_some_and(|(user, _)| !user.contains(':')));
                }
                Entry::Login(Login::Identity(token) | Login::Token(token)) => assert!(!token.is_empty()),
            }
        }
    }
}
