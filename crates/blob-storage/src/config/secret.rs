//! Values that hold credentials, or may: no message and no debug form shows them.

use super::Leaf;
use super::object::{kind, shown};
use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use oci_registry::Secret;
use serde_json::Value;
use std::fmt;

/// Stands for what is not shown.
const HIDDEN: &str = "***";

impl Leaf for Secret {
    const EXPECTED: &'static str = "a string";

    fn from_value(value: &Value) -> Option<Self> {
        value.as_str().map(Self::new)
    }

    fn show(value: &Value) -> String {
        kind(value).to_owned()
    }
}

/// Base64 as everybody writes it; those who leave out the padding are understood.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// User and password: base64 of `user:password`, as `Authorization: Basic` sends it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Auth(Secret);

impl Auth {
    /// Takes `text` for user and password; `None` where it is no base64 or has no colon inside.
    pub fn new(text: &str) -> Option<Self> {
        let plain = BASE64.decode(text).ok()?;
        plain.contains(&b':').then(|| Self(Secret::new(text)))
    }

    /// The base64, for the one place that sends it.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl Leaf for Auth {
    const EXPECTED: &'static str = "base64 of `user:password`";

    fn from_value(value: &Value) -> Option<Self> {
        value.as_str().and_then(Self::new)
    }

    fn show(value: &Value) -> String {
        kind(value).to_owned()
    }
}

/// An `http://` or `https://` URL, whose user and password are shown as `***`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Url(String);

impl Url {
    /// Takes `text` for a URL; without a scheme, as in `127.0.0.1:4001`, it is one of `http`. `None` for other schemes and
    /// where no host can be.
    pub fn new(text: &str) -> Option<Self> {
        let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"))?;
        let wrong = rest.is_empty() || rest.starts_with('/') || rest.contains(char::is_whitespace);
        (!wrong).then_some(Self(url))
    }

    /// The whole URL, for the one place that connects.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Does it start with `https`?
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https:")
    }

    /// What stands behind the scheme, without a slash at the end: host and port, where there is nothing else.
    pub fn authority(&self) -> &str {
        let rest = self.0.split_once("://").map_or(self.0.as_str(), |(_scheme, rest)| rest);
        rest.strip_suffix('/').unwrap_or(rest)
    }
}

/// `url` without user and password. They are looked for up to the last `@`, also where they hold characters that a URL may
/// not have there: rather too much is hidden than too little.
fn redacted(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(start), Some(at)) if start < at => format!("{}://{HIDDEN}{}", &url[..start], &url[at..]),
        (_, Some(at)) => format!("{HIDDEN}{}", &url[at..]),
        (_, None) => url.to_owned(),
    }
}

/// A wrong string for a message, without user and password if it looks as if it had them.
fn shown_redacted(value: &Value) -> String {
    match value.as_str() {
        Some(text) => shown(&redacted(text).into()),
        None => kind(value).to_owned(),
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", redacted(&self.0))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&redacted(&self.0))
    }
}

impl Leaf for Url {
    const EXPECTED: &'static str = "an http or https URL";

    fn from_value(value: &Value) -> Option<Self> {
        value.as_str().and_then(Self::new)
    }

    fn show(value: &Value) -> String {
        shown_redacted(value)
    }
}

/// A host name or address, with a port if need be. Holds no credentials.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host(String);

impl Host {
    /// Takes `text` for a host; `None` where it is empty or more than a host.
    pub fn new(text: &str) -> Option<Self> {
        let more = |c: char| c == '@' || c == '/' || c.is_whitespace() || c.is_control();
        (!text.is_empty() && !text.contains(more)).then(|| Self(text.to_owned()))
    }

    /// The host as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Host {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Leaf for Host {
    const EXPECTED: &'static str = "a host with an optional port, without scheme, user or path";

    fn from_value(value: &Value) -> Option<Self> {
        value.as_str().and_then(Self::new)
    }

    fn show(value: &Value) -> String {
        shown_redacted(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auth_is_base64_with_a_colon_inside() {
        for right in ["dTpw", "dTpwYQ==", "dTpwYQ", "Og=="] {
            let auth = Auth::new(right).unwrap();
            assert_eq!((auth.expose(), format!("{auth:?}").as_str()), (right, "Auth(***)"));
        }
        for wrong in ["", "u:p", "dXA=", "dTpw!", "dTp"] {
            assert_eq!(Auth::new(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn urls_hide_user_and_password_and_keep_the_rest() {
        for (url, expected) in [
            ("http://h:1/p", "http://h:1/p"),
            ("https://u:p@h:1/p?q", "https://***@h:1/p?q"),
            ("http://u:p/@w@h", "http://***@h"),
            ("u:p@h:80", "http://***@h:80"),
            ("127.0.0.1:4001", "http://127.0.0.1:4001"),
        ] {
            let parsed = Url::new(url).unwrap();
            assert_eq!(parsed.to_string(), expected);
            assert_eq!(format!("{parsed:?}"), format!("{expected:?}"));
            assert!(parsed.expose().ends_with(url));
        }
        for wrong in ["", "http://", "ftp://h", "http:///p", "http://a b", "/run/x.sock"] {
            assert_eq!(Url::new(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn hosts_are_nothing_but_hosts() {
        for right in ["docker.io", "127.0.0.1:5000", "[::1]:5000", "localhost"] {
            assert_eq!(Host::new(right).unwrap().as_str(), right);
        }
        for wrong in ["", "https://docker.io", "u:p@h", "h/p", "a b", "h\n"] {
            assert_eq!(Host::new(wrong), None, "{wrong:?}");
        }
        assert_eq!(Host::show(&"u:p@h".into()), "\"***@h\"");
        assert_eq!(Url::show(&"ftp://u:p@h".into()), "\"ftp://***@h\"");
    }
}
