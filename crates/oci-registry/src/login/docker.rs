//! `config.json` of docker and `auth.json` of podman: who is logged in where. Pure functions on bytes: whatever they are, they return.

use super::{BASE64, Login};
use crate::Secret;
use base64::Engine;
use serde_json::{Map, Value};

/// Docker Hub has many names; logins to one are good for all.
const HUB: [&str; 4] = ["docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"];
/// What docker calls the hub when it asks a helper.
const HUB_SERVER: &str = "https://index.docker.io/v1/";

/// The port that https has where none is named.
const HTTPS: &str = ":443";

/// A parsed file.
#[derive(Debug)]
pub struct DockerConfig {
    auths: Map<String, Value>,
    helpers: Map<String, Value>,
    /// Helper for hosts that have none of their own.
    helper: Option<String>,
}

/// What a file says about a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The login itself.
    Login(Login),
    /// Ask the program `docker-credential-<name>` for `server`.
    Helper {
        /// Part of the program's name; letters, digits, `.`, `_` and `-` only.
        name: String,
        /// What it is asked for.
        server: String,
    },
}

impl DockerConfig {
    /// Parses a file. `None`: it is no JSON object. Members that are not what they should be count as not there.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let Ok(Value::Object(mut root)) = serde_json::from_slice(bytes) else { return None };
        let mut object = |name| match root.remove(name) {
            Some(Value::Object(found)) => found,
            _ => Map::new(),
        };
        let (auths, helpers) = (object("auths"), object("credHelpers"));
        let helper = root.get("credsStore").and_then(helper_name);
        Some(Self { auths, helpers, helper })
    }

    /// What it says about `repo` at `host`, best first: the helper of that host, the helper of all, an entry. As docker does it.
    pub fn entries(&self, host: &str, repo: &str) -> Vec<Entry> {
        let own = self.helpers.iter().find(|(key, _)| is_same_host(place(key).0, host));
        let name = match own {
            Some((_, name)) => helper_name(name),
            None => self.helper.clone(),
        };
        let server = if HUB.iter().any(|hub| hub.eq_ignore_ascii_case(host)) { HUB_SERVER } else { host };
        let helper = name.map(|name| Entry::Helper { name, server: server.to_owned() });
        helper.into_iter().chain(self.login(host, repo).map(Entry::Login)).collect()
    }

    /// The login of the entry that names most of `repo` and has one.
    fn login(&self, host: &str, repo: &str) -> Option<Login> {
        let named = |key: &str| {
            let (at, path) = place(key);
            let inside = repo.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            (is_same_host(at, host) && (path.is_empty() || inside)).then_some(path.len())
        };
        let found = self.auths.iter().filter_map(|(key, value)| Some((named(key)?, login(value)?)));
        found.max_by_key(|(length, _)| *length).map(|(_, login)| login)
    }
}

/// Are these names of one registry? The port of https may be named or not.
pub fn is_same_host(a: &str, b: &str) -> bool {
    let hub = |host: &str| HUB.iter().any(|hub| hub.eq_ignore_ascii_case(host));
    let [a, b] = [a, b].map(|host| host.strip_suffix(HTTPS).unwrap_or(host));
    a.eq_ignore_ascii_case(b) || (hub(a) && hub(b))
}

/// Host and part of a repository that a key of `auths` names: `https://index.docker.io/v1/`, `quay.io`, `quay.io/team`.
fn place(key: &str) -> (&str, &str) {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.trim_matches('/');
    (host, if matches!(path, "v1" | "v2") { "" } else { path })
}

/// A name that cannot lead anywhere but to a program in `PATH`.
fn helper_name(value: &Value) -> Option<String> {
    let usable = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    value.as_str().filter(|name| !name.is_empty() && name.chars().all(usable)).map(str::to_owned)
}

/// The login in an entry of `auths`. `None`: there is none, as where a helper has it.
fn login(entry: &Value) -> Option<Login> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(token) = text("identitytoken") {
        return Some(Login::Identity(Secret::new(token)));
    }
    if let Some(token) = text("registrytoken") {
        return Some(Login::Token(Secret::new(token)));
    }
    if let Some(auth) = text("auth") {
        let plain = String::from_utf8(BASE64.decode(auth).ok()?).ok()?;
        let (user, password) = plain.split_once(':')?;
        // Docker pads with them.
        return Some(Login::password(user, password.trim_end_matches('\0')));
    }
    Some(Login::password(text("username")?, text("password")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILE: &str = r#"{
        "auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnB3"},
            "r.io:5000": {"auth": "dTpwdw"},
            "quay.io": {"username": "all", "password": "a"},
            "quay.io/team": {"username": "team", "password": "t"},
            "quay.io/team/a": {},
            "id.io": {"auth": "dTpwdw==", "identitytoken": "refresh"},
            "padded.io": {"auth": "dTpwdwAA"},
            "token.io": {"registrytoken": "bearer", "auth": "dTpwdw=="},
            "port.io:443": {"auth": "dTpwdw=="}, "https://other.io": {"auth": "dTpwdw=="},
            "clear.io:80": {"auth": "dTpwdw=="},
            "bad.io": {"auth": "!"}, "none.io": {"auth": "bm8="}, "odd.io": 7
        },
        "credHelpers": {"ecr.aws": "ecr-login", "evil.io": "../../bin/sh", "docker.io": "hub"}
    }"#;

    fn entries(host: &str, repo: &str) -> Vec<Entry> {
        DockerConfig::parse(FILE.as_bytes()).unwrap().entries(host, repo)
    }

    #[test]
    fn logins_are_found_by_host_and_repository() {
        let user = |user: &str, password: &str| vec![Entry::Login(Login::password(user, password))];
        for (host, repo, expected) in [
            ("r.io:5000", "x", user("u", "pw")),
            ("R.IO:5000", "x", user("u", "pw")),
            ("r.io", "x", vec![]),
            ("quay.io", "x", user("all", "a")),
            ("quay.io", "teams/x", user("all", "a")),
            ("quay.io", "team", user("team", "t")),
            ("quay.io", "team/a/b", user("team", "t")),
            ("id.io", "x", vec![Entry::Login(Login::Identity(Secret::new("refresh")))]),
            ("padded.io", "x", user("u", "pw")),
            ("token.io", "x", vec![Entry::Login(Login::Token(Secret::new("bearer")))]),
            ("port.io", "x", user("u", "pw")),
            ("port.io:443", "x", user("u", "pw")),
            ("port.io:8443", "x", vec![]),
            ("port.io:80", "x", vec![]),
            ("other.io:443", "x", user("u", "pw")),
            ("clear.io", "x", vec![]),
            ("clear.io:80", "x", user("u", "pw")),
            ("bad.io", "x", vec![]),
            ("none.io", "x", vec![]),
            ("odd.io", "x", vec![]),
        ] {
            assert_eq!(entries(host, repo), expected, "{host} {repo}");
        }
    }

    #[test]
    fn helpers_come_first_and_are_names_only() {
        let helper = |name: &str, server: &str| Entry::Helper { name: name.into(), server: server.into() };
        assert_eq!(entries("ecr.aws", "x"), [helper("ecr-login", "ecr.aws")]);
        assert_eq!(entries("evil.io", "x"), []);
        for hub in HUB {
            let hub = entries(hub, "library/debian");
            assert_eq!(hub, [helper("hub", HUB_SERVER), Entry::Login(Login::password("hub", "pw"))]);
        }
        assert_eq!(entries("ecr.aws:443", "x"), [helper("ecr-login", "ecr.aws:443")]);
        // An empty name is what docker writes for "no helper here, in spite of the one for all".
        let without = DockerConfig::parse(br#"{"credsStore": "pass", "credHelpers": {"r.io": ""}}"#).unwrap();
        assert_eq!(without.entries("r.io", "x"), []);
        let all = DockerConfig::parse(br#"{"credsStore": "pass", "auths": {"r.io": {}}}"#).unwrap();
        assert_eq!(all.entries("r.io", "x"), [helper("pass", "r.io")]);
    }

    #[test]
    fn other_files_are_refused_and_odd_members_skipped() {
        for wrong in ["", "[]", "{", "null", "\u{feff}{}"] {
            assert!(DockerConfig::parse(wrong.as_bytes()).is_none(), "{wrong}");
        }
        for odd in
            ["{}", r#"{"auths": []}"#, r#"{"credsStore": ""}"#, r#"{"credsStore": 1, "credHelpers": 2}"#]
        {
            assert_eq!(DockerConfig::parse(odd.as_bytes()).unwrap().entries("h", "r"), [], "{odd}");
        }
    }

    proptest! {
        #[test]
        fn any_key_and_host_are_answered(key in "[htps:/.a-b]{0,12}|\\PC{0,12}", host in "\\PC{0,8}", repo in "\\PC{0,8}") {
            let file = serde_json::json!({"auths": {key: {"username": "u", "password": "p"}}}).to_string();
            let found = DockerConfig::parse(file.as_bytes()).unwrap().entries(&host, &repo);
            prop_assert!(found.len() <= 1);
        }
    }
}
