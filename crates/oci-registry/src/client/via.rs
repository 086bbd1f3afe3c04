//! A forward proxy: how to reach it, how to name places to it, and what a peer of a swarm (Dragonfly) wants to know about a request.
//! Other proxies pass these fields on or drop them. Also the question whether such a server is well.

use super::error::{ClientError, SetupError};
use super::{ClientOptions, answer, limited, redact, tls};
use crate::Secret;
use crate::login::Login;
use reqwest::{RequestBuilder, Url};
use std::fmt;
use std::time::Duration;

/// A forward proxy that requests go through.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Via {
    /// Where it is, with user and password if need be.
    pub url: Secret,
    /// Name places to it by `http`, so that it sees what is asked for; it goes on by TLS itself. Otherwise it is asked for a tunnel to a
    /// place with TLS, and sees nothing.
    pub use_http: bool,
}

/// How much a request matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody waits for it.
    Now,
    /// Nobody does yet.
    Later,
}

impl Urgency {
    /// In the words of Dragonfly, whose levels go from 0 to 6.
    fn level(self) -> &'static str {
        match self {
            Self::Now => "6",
            Self::Later => "3",
        }
    }
}

/// Names of query parameters that say who may read and until when, not what: whole names, and what names start with.
const SIGNING: (&[&str], &[&str]) = (
    &[
        "signature",
        "expires",
        "policy",
        "key-pair-id",
        "ossaccesskeyid",
        "awsaccesskeyid",
        "googleaccessid",
        "security-token",
        "auth_key",
        "sig",
        "se",
        "st",
        "sp",
        "sv",
        "sr",
        "sip",
        "spr",
        "ske",
        "skt",
        "sks",
        "skv",
        "skoid",
        "sktid",
    ],
    &[
        "x-amz-",
        "x-goog-",
        "x-oss-",
        "x-obs-",
        "x-cos-",
        "q-sign-",
        "q-ak",
        "q-key-time",
        "q-header-list",
        "q-url-param-list",
    ],
);

impl Via {
    /// For an HTTP client.
    pub fn proxy(&self) -> Result<reqwest::Proxy, SetupError> {
        reqwest::Proxy::all(self.url.expose()).map_err(|_url_inside| SetupError::Proxy)
    }

    /// User and password of the proxy, in every form.
    pub(super) fn hidden(&self) -> Vec<Secret> {
        let Ok(url) = Url::parse(self.url.expose()) else { return Vec::new() };
        let Some(password) = url.password() else { return Vec::new() };
        let login = Login::password(url.username(), password);
        login.hidden()
    }

    /// `url` as it is named to the proxy.
    pub fn named(&self, mut url: Url) -> Url {
        if self.use_http && url.scheme() == "https" {
            // The default port of https is not that of http; any other one stays.
            let _changed = url.set_scheme("http").is_ok();
        }
        url
    }

    /// `request` for what is at `url`, with what peers want to know: that they may share it, how urgent it is, and what of the query
    /// does not say what is asked for, so that all who ask for it are seen to ask for the same.
    pub fn hinted(request: RequestBuilder, url: &Url, urgency: Urgency) -> RequestBuilder {
        let request =
            request.header("X-Dragonfly-Use-P2P", "true").header("X-Dragonfly-Priority", urgency.level());
        match signing(url) {
            names if names.is_empty() => request,
            names => request.header("X-Dragonfly-Filtered-Query-Params", names.join(",")),
        }
    }
}

/// Names of the parameters of `url` that sign it. Only what a header can hold.
fn signing(url: &Url) -> Vec<String> {
    let (whole, starts) = SIGNING;
    let signs = |name: &str| {
        let name = name.to_ascii_lowercase();
        whole.contains(&name.as_str()) || starts.iter().any(|start| name.starts_with(start))
    };
    let plain = |name: &str| name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c));
    let names = url.query_pairs().map(|(name, _value)| name.into_owned());
    names.filter(|name| plain(name) && signs(name)).collect()
}

/// Asks a server whether it is well.
pub struct Ping {
    http: reqwest::Client,
    url: Url,
    limit: Duration,
}

impl fmt::Debug for Ping {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Ping").finish_non_exhaustive()
    }
}

impl Ping {
    /// Asks at `url`, which is http or https, for at most `limit`, with the trust and the certificate of a client with these options; what else is
    /// there does not count. Errors: no URL, certificates that cannot be read.
    pub fn new(url: &str, limit: Duration, options: &ClientOptions) -> Result<Self, SetupError> {
        let url = Url::parse(url).ok().ok_or(SetupError::Ping)?;
        let authorities = tls::read(&options.ca_cert_files)?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::config(
                options.skip_verify,
                &authorities,
                options.identity()?.as_ref(),
            )?)
            .no_proxy()
            .build()
            .map_err(|source| SetupError::Http { source })?;
        Ok(Self { http, url, limit })
    }

    /// An error, unless the answer is a success.
    pub async fn ask(&self) -> Result<(), ClientError> {
        limited(Some(self.limit), async {
            let response = self.http.get(self.url.clone()).send().await?;
            if response.status().is_success() {
                return Ok(());
            }
            Err(answer::status(response, |line| redact(line, &[])).await)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_named_by_http_where_wanted() {
        for (use_http, url, expected) in [
            (true, "https://r/v2/x", "http://r/v2/x"),
            (true, "https://r:5000/v2/x?y=z", "http://r:5000/v2/x?y=z"),
            (true, "http://r/", "http://r/"),
            (false, "https://r/", "https://r/"),
        ] {
            let via = Via { url: Secret::new("http://p"), use_http };
            assert_eq!(via.named(Url::parse(url).unwrap()).as_str(), expected);
        }
    }

    #[test]
    fn what_signs_a_url_is_known() {
        for (query, expected) in [
            ("", ""),
            ("X-Amz-Signature=a&X-Amz-Date=b&digest=c", "X-Amz-Signature,X-Amz-Date"),
            ("Expires=1&OSSAccessKeyId=2&Signature=3&x=4", "Expires,OSSAccessKeyId,Signature"),
            ("sig=1&seed=2&se=3", "sig,se"),
            ("x-amz-%0d%0aevil=1", ""),
        ] {
            let url = Url::parse(&format!("https://s/x?{query}")).unwrap();
            assert_eq!(signing(&url).join(","), expected);
        }
    }

    #[test]
    fn addresses_of_proxies_are_never_shown() {
        for url in ["http://u:hidden@ /", "hidden\n", "ftp:///hidden"] {
            let via = Via { url: Secret::new(url), use_http: false };
            assert!(!format!("{via:?} {:?}", via.proxy().err()).contains("hidden"), "{url}");
        }
    }
}
