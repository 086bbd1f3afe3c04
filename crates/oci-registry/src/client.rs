//! Reads ranges of blobs of one repository: authentication, redirects, and answers checked to be what was asked for.
//!
//! Does not try again what failed, but for what is part of the protocol: a refused credential and a stale redirect are each replaced once.
//! Invariants: bytes returned are exactly as many as asked for, and the server said they are those; an `Authorization` never goes to
//! another host; nothing is allocated on the word of a server; no failure is remembered. Knows no digests but as names: who wants to know
//! whether the bytes are right must hash them.

mod answer;
mod auth;
mod error;
mod header;
mod http;
mod push;
mod shared;
mod tls;
mod via;

pub use answer::range as ranged_answer;
pub use error::{ClientError, SetupError, TransportError};
pub use header::{Challenge, ContentRange, challenges, content_range, location};
pub use header::{max_age, retry_after, upload_range};
pub use push::Upload;
pub use shared::Clients;
pub use via::{Ping, Urgency, Via};

use crate::Secret;
use crate::login::{Login, Logins};
use auth::{Account, Auth, Credential};
use bytes::Bytes;
use http::Transport;
use parking_lot::Mutex;
pub use reqwest::Url;
use reqwest::header::{
    CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RANGE,
    WWW_AUTHENTICATE,
};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tls::Identity;

/// Header fields and passwords of proxies that are shorter, in bytes, are not looked for in what servers say.
const MIN_SECRET: usize = 4;
/// Logins tried for one request.
const MAX_LOGINS: usize = 4;
/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 5;
/// A redirect is remembered this long where nobody says how long it holds. Signed URLs live longer; what ends earlier is refused and
/// asked for again.
const REDIRECT_LIFE: Duration = Duration::from_secs(600);

/// Where a registry is, and how to talk to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ClientOptions {
    /// TLS, or in the clear?
    pub https: bool,
    /// Host, with a port if need be.
    pub host: String,
    /// Repository, as `library/debian`.
    pub repo: String,
    /// Where blobs are on a host that is no registry: below this path, by their plain names. Then `repo` means nothing.
    pub path: Option<String>,
    /// Unix socket at which the host is asked, whatever its name.
    pub socket: Option<PathBuf>,
    /// Used before all that this machine has.
    pub login: Option<Login>,
    /// Bearer token to begin with.
    pub token: Option<Secret>,
    /// Replaces the scheme of places the registry redirects to.
    pub redirected_scheme: Option<&'static str>,
    /// Replaces the host, and port, of places the registry redirects to.
    pub redirected_host: Option<String>,
    /// Believe any certificate; and where there is no TLS at all, ask in the clear.
    pub skip_verify: bool,
    /// PEM files of authorities trusted beside those of the system.
    pub ca_cert_files: Vec<PathBuf>,
    /// PEM files with a certificate of ours and with its key, for servers that ask who we are.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// Longest time for a whole request with all that belongs to it; `None` for no limit.
    pub timeout: Option<Duration>,
    /// Longest time for connecting; `None` for no limit but the other.
    pub connect_timeout: Option<Duration>,
    /// Value of `User-Agent`; not sent when empty.
    pub user_agent: String,
    /// Forward proxy that all requests go through; `None` for none, whatever the environment says.
    pub via: Option<Via>,
    /// Header fields sent with requests to the host, and nowhere else.
    pub headers: Vec<(String, Secret)>,
    /// Header fields sent with all requests, also those to token services and to where the host redirects.
    pub all_headers: Vec<(String, Secret)>,
}

impl ClientOptions {
    /// What is sent along and must not be shown, beside logins. What is shorter than a secret is left alone: it would be found everywhere.
    fn hidden(&self) -> Vec<Secret> {
        let fields = self.headers.iter().chain(&self.all_headers).map(|(_, value)| value.clone());
        let hidden = fields.chain(self.via.iter().flat_map(Via::hidden));
        hidden.filter(|value| value.expose().len() >= MIN_SECRET).collect()
    }

    /// Connections alone, for whoever speaks another protocol over them. Redirects are not followed. Errors: certificates that cannot be
    /// read, a proxy that cannot be.
    pub fn connections(&self) -> Result<reqwest::Client, SetupError> {
        self.transport()?.build()
    }

    /// Who we are, if servers are told. Errors: certificates that cannot be read.
    fn identity(&self) -> Result<Option<Identity>, SetupError> {
        self.client_cert.as_ref().map(|(cert, key)| Identity::read(cert, key)).transpose()
    }

    /// The part that decides about connections. Errors: certificates that cannot be read.
    fn transport(&self) -> Result<Transport, SetupError> {
        Ok(Transport {
            skip_verify: self.skip_verify,
            authorities: tls::read(&self.ca_cert_files)?,
            identity: self.identity()?,
            headers: self.all_headers.clone(),
            connect_timeout: self.connect_timeout,
            watch_silence: self.timeout.is_none(),
            user_agent: self.user_agent.clone(),
            via: self.via.clone(),
            socket: self.socket.clone(),
        })
    }
}

/// A client of one repository. Cheap to ask from many tasks at once. Must be used inside a tokio runtime with time and I/O.
pub struct Client {
    http: Arc<reqwest::Client>,
    base: Url,
    /// The same in the clear, where that may be tried.
    clear: Option<Url>,
    /// Which of the two it is, once one has answered.
    is_clear: OnceLock<bool>,
    auth: Auth,
    redirected: (Option<&'static str>, Option<String>),
    timeout: Option<Duration>,
    via: Option<Via>,
    headers: HeaderMap,
    /// Where blobs were redirected to, by digest.
    places: Mutex<HashMap<String, Place>>,
}

#[derive(Clone)]
struct Place {
    url: Url,
    until: Instant,
}

impl fmt::Debug for Client {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Client").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of its own, without the logins of this machine; asks nothing yet. [`Clients`] makes others.
    /// Errors: names that cannot be in a URL, certificates that cannot be read.
    pub fn new(options: &ClientOptions) -> Result<Self, SetupError> {
        Self::with(options, Arc::new(options.transport()?.build()?), None)
    }

    /// A client that uses `http`, and `logins` when it has no good one.
    fn with(
        options: &ClientOptions,
        http: Arc<reqwest::Client>,
        logins: Option<Arc<Logins>>,
    ) -> Result<Self, SetupError> {
        let base = base(options)?;
        let clear = if options.skip_verify && options.https {
            Some(self::base(&ClientOptions { https: false, ..options.clone() })?)
        } else {
            None
        };
        let verified = options.https && !options.skip_verify;
        let account = Account {
            host: options.host.clone(),
            repo: options.repo.clone(),
            tls: verified,
            timeout: options.timeout,
            logins,
            hidden: options.hidden(),
        };
        let auth = Auth::new((*http).clone(), account, options.login.clone(), options.token.as_ref());
        let auth = auth.ok().ok_or(SetupError::Token)?;
        let redirected = (options.redirected_scheme, options.redirected_host.clone());
        let (is_clear, places, timeout) = (OnceLock::new(), Mutex::default(), options.timeout);
        let (via, headers) = (options.via.clone(), headers(&options.headers)?);
        Ok(Self { http, base, clear, is_clear, auth, redirected, timeout, via, headers, places })
    }

    /// Uses `login` from now on in place of the one given before; `None` for those of this machine only. What is running goes on as it began.
    pub fn set_login(&self, login: Option<Login>) {
        self.auth.set_login(login);
    }

    /// Where the registry is, as far as is known.
    fn base(&self) -> &Url {
        match &self.clear {
            Some(clear) if self.is_clear.get() == Some(&true) => clear,
            _ => &self.base,
        }
    }

    /// The bytes of `range` (half-open) of the blob: all of them, or an error. An empty range asks nothing.
    pub async fn read(&self, digest: &str, range: Range<u64>) -> Result<Bytes, ClientError> {
        self.read_when(digest, range, Urgency::Now).await
    }

    /// [`Client::read`]; proxies on the way are told how urgent it is.
    pub async fn read_when(
        &self,
        digest: &str,
        range: Range<u64>,
        urgency: Urgency,
    ) -> Result<Bytes, ClientError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        limited(self.timeout, async {
            let (response, sent) = self.open(digest, &Want { range: range.clone(), urgency }).await?;
            answer::range(response, &range, |line| self.auth.redact(line, sent.as_deref())).await
        })
        .await
    }

    /// Size of the blob in bytes. Asked for with a range rather than HEAD: signed URLs are good for one method only.
    pub async fn size(&self, digest: &str) -> Result<u64, ClientError> {
        limited(self.timeout, async {
            let want = Want { range: 0..1, urgency: Urgency::Now };
            let (response, sent) = self.open(digest, &want).await?;
            answer::size(response, |line| self.auth.redact(line, sent.as_deref())).await
        })
        .await
    }

    /// An answer to a request for `want`, from wherever the blob is, and the credential that was sent. Its status can be anything but
    /// a redirect or what a credential would change.
    async fn open(
        &self,
        digest: &str,
        want: &Want,
    ) -> Result<(Response, Option<Arc<Credential>>), ClientError> {
        if let Some(url) = self.place(digest) {
            let answer = self.get(&url, want, None).await;
            match answer {
                Ok(answer) if answer.status().is_success() || !is_stale(answer.status()) => {
                    return Ok((answer, None));
                }
                // Elsewhere by now, maybe: the registry knows.
                _stale_or_unreachable => self.forget(digest, &url),
            }
        }
        let mut url = url(self.base(), digest)?;
        let mut asked = self.ask(&Call::get(&url, want)).await;
        if let (Err(ClientError::Transport(error)), Some(clear)) = (&asked, &self.clear)
            && error.is_connect()
            && self.is_clear.get().is_none()
        {
            let other = self::url(clear, digest)?;
            let second = self.ask(&Call::get(&other, want)).await;
            if !matches!(second, Err(ClientError::Transport(_))) {
                self.is_clear.get_or_init(|| true);
                (url, asked) = (other, second);
            }
        }
        let (answer, sent) = asked?;
        self.is_clear.get_or_init(|| false);
        let answer = self.follow(digest, url, answer, want, sent.as_deref()).await?;
        Ok((answer, sent))
    }

    /// Asks the registry itself, or where it sends uploads, and again where it wants another credential: with one new token at most, and with each login that
    /// there is.
    async fn ask(&self, call: &Call<'_>) -> Result<(Response, Option<Arc<Credential>>), ClientError> {
        let ticket = self.auth.ticket();
        let is = |base: &Url| base.origin() == call.url.origin();
        let at_home = is(&self.base) || self.clear.as_ref().is_some_and(is);
        let mut sent = if at_home { self.auth.current(ticket).await } else { None };
        let mut tries = 0;
        loop {
            let answer = self.send(call, sent.as_deref()).await?;
            if answer.status() != StatusCode::UNAUTHORIZED || !at_home {
                self.auth.accepted();
                return Ok((answer, sent));
            }
            tries += 1;
            let headers = answer.headers().clone();
            let fields: Vec<_> =
                headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).collect();
            let said = self.said(answer, sent.as_deref()).await;
            if let Some(refused) = &sent {
                self.auth.forget(refused);
                if (tries > 1 && refused.is_token()) || tries > MAX_LOGINS {
                    return Err(ClientError::Refused { with: refused.name().to_owned(), said });
                }
            }
            sent = Some(self.auth.answer(&fields, sent.as_ref(), &said, ticket).await?);
        }
    }

    /// What a refusal says.
    async fn said(&self, answer: Response, sent: Option<&Credential>) -> String {
        match answer::status(answer, |line| self.auth.redact(line, sent)).await {
            ClientError::Status { said, .. } => said,
            _ => String::new(),
        }
    }

    /// Goes where the registry's answer points, until something else is answered. The place is remembered where it gives bytes and is
    /// another host's; a credential goes to the registry only.
    async fn follow(
        &self,
        digest: &str,
        mut at: Url,
        mut answer: Response,
        want: &Want,
        sent: Option<&Credential>,
    ) -> Result<Response, ClientError> {
        let mut life = REDIRECT_LIFE;
        for _hop in 0..MAX_REDIRECTS {
            if !is_redirect(answer.status()) {
                let elsewhere = at.origin() != self.base().origin();
                if elsewhere && answer.status().is_success() {
                    self.remember(digest, at, life);
                }
                return Ok(answer);
            }
            let age = answer::text(answer.headers(), CACHE_CONTROL).and_then(header::max_age);
            life = life.min(age.unwrap_or(REDIRECT_LIFE));
            at = self.target(&at, &answer)?;
            let sent = sent.filter(|_| at.origin() == self.base().origin());
            answer = self.get(&at, want, sent).await?;
        }
        if is_redirect(answer.status()) {
            return Err(ClientError::Redirects { limit: MAX_REDIRECTS });
        }
        Ok(answer)
    }

    /// Where a redirect from `at` goes.
    fn target(&self, at: &Url, answer: &Response) -> Result<Url, ClientError> {
        let nowhere = || ClientError::Answer { found: "a redirect to nowhere" };
        let field = answer::text(answer.headers(), LOCATION).ok_or_else(nowhere)?;
        let mut url = location(at, field).ok_or_else(nowhere)?;
        if url.origin() == self.base().origin() {
            return Ok(url);
        }
        let (scheme, host) = &self.redirected;
        let replaced = scheme.is_none_or(|scheme| url.set_scheme(scheme).is_ok())
            && host.as_deref().is_none_or(|host| set_host(&mut url, host));
        replaced.then_some(url).ok_or_else(nowhere)
    }

    async fn get(
        &self,
        url: &Url,
        want: &Want,
        credential: Option<&Credential>,
    ) -> Result<Response, ClientError> {
        self.send(&Call::get(url, want), credential).await
    }

    async fn send(&self, call: &Call<'_>, credential: Option<&Credential>) -> Result<Response, ClientError> {
        let Call { method, url, payload } = call;
        let named = self.via.as_ref().map_or_else(|| (*url).clone(), |via| via.named((*url).clone()));
        let mut request = self.http.request(method.clone(), named);
        if let (Payload::Want(Want { urgency, .. }), Some(_)) = (payload, &self.via) {
            request = Via::hinted(request, url, *urgency);
        }
        if url.origin() == self.base().origin() {
            request = request.headers(self.headers.clone());
        }
        if let Some(credential) = credential {
            request = request.header(reqwest::header::AUTHORIZATION, credential.header());
        }
        // A cache that compresses would change what ranges mean.
        request = request.header(reqwest::header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        Ok(payload.add_to(request).send().await?)
    }

    /// Where the registry is, found out if need be: only where TLS need not be, what it is asked first for tells.
    async fn settled(&self) -> Result<&Url, ClientError> {
        if let (Some(clear), None) = (&self.clear, self.is_clear.get()) {
            let asked = |base: &Url| base.join("/v2/").map(|url| self.http.get(url).send());
            if let Ok(first) = asked(&self.base) {
                let is_clear = match first.await {
                    Ok(_answer) => false,
                    Err(error) if error.is_connect() => match asked(clear) {
                        Ok(second) => second.await.is_ok(),
                        Err(_no_url) => false,
                    },
                    Err(error) => return Err(error.into()),
                };
                self.is_clear.get_or_init(|| is_clear);
            }
        }
        Ok(self.base())
    }

    fn place(&self, digest: &str) -> Option<Url> {
        let mut places = self.places.lock();
        let place = places.get(digest)?;
        if place.until <= Instant::now() {
            places.remove(digest);
            return None;
        }
        Some(place.url.clone())
    }

    fn remember(&self, digest: &str, url: Url, life: Duration) {
        if let Some(until) = Instant::now().checked_add(life).filter(|_| !life.is_zero()) {
            self.places.lock().insert(digest.to_owned(), Place { url, until });
        }
    }

    /// Forgets that the blob is at `url`, unless somebody has found another place meanwhile.
    fn forget(&self, digest: &str, url: &Url) {
        let mut places = self.places.lock();
        if places.get(digest).is_some_and(|place| place.url == *url) {
            places.remove(digest);
        }
    }
}

/// What is wanted of a blob.
struct Want {
    range: Range<u64>,
    urgency: Urgency,
}

/// One request, which may have to be sent several times.
struct Call<'a> {
    method: Method,
    url: &'a Url,
    payload: Payload<'a>,
}

/// What goes with a request.
enum Payload<'a> {
    Nothing,
    Want(&'a Want),
    /// Bytes of an upload, and which of all those are.
    Chunk {
        bytes: Bytes,
        range: Range<u64>,
    },
}

impl<'a> Call<'a> {
    fn new(method: Method, url: &'a Url) -> Self {
        Self { method, url, payload: Payload::Nothing }
    }

    fn get(url: &'a Url, want: &'a Want) -> Self {
        Self { method: Method::GET, url, payload: Payload::Want(want) }
    }
}

impl Payload<'_> {
    fn add_to(&self, request: RequestBuilder) -> RequestBuilder {
        let last = |range: &Range<u64>| range.end.saturating_sub(1);
        match self {
            // Without a body POST and PUT want to hear that there is none.
            Self::Nothing => request.body(Bytes::new()),
            Self::Want(Want { range, .. }) => {
                request.header(RANGE, format!("bytes={}-{}", range.start, last(range)))
            }
            Self::Chunk { bytes, range } => request
                .header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
                .header(CONTENT_RANGE, format!("{}-{}", range.start, last(range)))
                .body(bytes.clone()),
        }
    }
}

/// Adds `query` to the parameters of `url`.
fn set_query(url: &mut Url, query: &[(&'static str, &str)]) {
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
}

/// Header fields as the HTTP client takes them.
fn headers(fields: &[(String, Secret)]) -> Result<HeaderMap, SetupError> {
    let mut found = HeaderMap::new();
    for (name, value) in fields {
        let wrong = || SetupError::Header { name: name.chars().take(100).collect() };
        let name = HeaderName::from_bytes(name.as_bytes()).ok().ok_or_else(wrong)?;
        let mut value = HeaderValue::from_str(value.expose()).ok().ok_or_else(wrong)?;
        value.set_sensitive(true);
        found.append(name, value);
    }
    Ok(found)
}

/// `https://host/v2/<repo>/blobs/`, or `https://host/<path>/`.
fn base(options: &ClientOptions) -> Result<Url, SetupError> {
    let usable = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(usable);
    if options.path.is_none() && !options.repo.split('/').all(name) {
        return Err(SetupError::Repo { repo: options.repo.clone() });
    }
    let wrong = || SetupError::Host { host: options.host.rsplit('@').next().unwrap_or_default().to_owned() };
    if options.host.is_empty() || options.host.contains(['/', '@', '?', '#', '\\']) {
        return Err(wrong());
    }
    let scheme = if options.https { "https" } else { "http" };
    let mut url = Url::parse(&format!("{scheme}://{}", options.host)).ok().ok_or_else(wrong)?;
    match &options.path {
        None => url.set_path(&format!("v2/{}/blobs/", options.repo)),
        Some(path) if path.trim_matches('/').is_empty() => url.set_path("/"),
        Some(path) => url.set_path(&format!("{}/", path.trim_matches('/'))),
    }
    Ok(url)
}

/// Where the registry at `base` has the blob.
fn url(base: &Url, digest: &str) -> Result<Url, ClientError> {
    let usable = |c: char| c.is_ascii_alphanumeric() || ":_-+.".contains(c);
    if digest.is_empty() || digest.starts_with('.') || !digest.chars().all(usable) {
        return Err(ClientError::Digest { digest: digest.chars().take(100).collect() });
    }
    let mut url = base.clone();
    url.set_path(&format!("{}{digest}", base.path()));
    Ok(url)
}

/// Replaces host and port of `url` by those in `host`. `false`: it is no host.
fn set_host(url: &mut Url, host: &str) -> bool {
    let Ok(other) = Url::parse(&format!("{}://{host}/", url.scheme())) else { return false };
    url.set_host(other.host_str()).is_ok() && url.set_port(other.port()).is_ok()
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Does an answer from a remembered place say that the place is no longer good?
fn is_stale(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 403 | 404 | 410) || is_redirect(status)
}

/// The result of `work`, or an error after `limit`.
async fn limited<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    let Some(after) = limit else { return work.await };
    let done = tokio::time::timeout(after, work).await;
    done.unwrap_or(Err(ClientError::Timeout { after }))
}

/// `line` without `secrets`, and without queries of URLs, which may hold signatures.
fn redact(line: &str, secrets: &[Secret]) -> String {
    let mut line = line.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        line = line.replace(secret.expose(), "***");
    }
    let mut rest = line.as_str();
    let mut shown = String::new();
    while let Some((before, query)) = rest.split_once('?') {
        let end = query.find(|c: char| c.is_whitespace() || "\"'<>".contains(c)).unwrap_or(query.len());
        let (query, after) = query.split_at(end);
        shown.push_str(before);
        shown.push_str(if query.contains('=') { "?***" } else { "?" });
        shown.push_str(if query.contains('=') { "" } else { query });
        rest = after;
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(host: &str, repo: &str) -> ClientOptions {
        ClientOptions { host: host.into(), repo: repo.into(), ..ClientOptions::default() }
    }

    #[test]
    fn names_that_would_be_more_than_names_are_refused() {
        for host in ["", "a/b", "u:p@h", "h?x", "h#x", "a b", "h:99999"] {
            let refused = base(&options(host, "r"));
            assert!(matches!(refused, Err(SetupError::Host { .. })), "{host}: {refused:?}");
        }
        for repo in ["", "/", "a//b", "../x", "a/..", "a/./b", "a?b", "a#b", "a b", "a%2fb"] {
            let refused = base(&options("h", repo));
            assert!(matches!(refused, Err(SetupError::Repo { .. })), "{repo}: {refused:?}");
        }
        for (path, expected) in [
            ("", "http://h/"),
            ("/", "http://h/"),
            ("/a b?c/", "http://h/a%20b%3Fc/"),
            ("x/../y", "http://h/y/"),
        ] {
            let elsewhere = ClientOptions { path: Some(path.into()), ..options("h", "") };
            assert_eq!(base(&elsewhere).unwrap().as_str(), expected);
        }
        let client = Client::new(&options("[::1]:5000", "a/b-c_d.e")).unwrap();
        let url_of = |digest| url(client.base(), digest);
        let url = url_of("sha256:0a").unwrap();
        assert_eq!(url.as_str(), "http://[::1]:5000/v2/a/b-c_d.e/blobs/sha256:0a");
        for digest in ["", "a/b", "..", "a?b", "a b"] {
            assert!(matches!(url_of(digest), Err(ClientError::Digest { .. })), "{digest}");
        }
    }

    #[test]
    fn what_servers_say_is_shown_without_secrets() {
        for (line, expected) in [
            ("wrong password pw for me", "wrong password *** for me"),
            ("see https://s3/x?X-Sig=abc&y=1 or not?", "see https://s3/x?*** or not?"),
            ("<a href=\"x?y=z\">?", "<a href=\"x?***\">?"),
            ("", ""),
        ] {
            assert_eq!(redact(line, &[Secret::new("pw"), Secret::new("")]), expected);
        }
    }

    #[test]
    fn hosts_of_redirects_are_replaced_with_their_ports() {
        let mut url = Url::parse("https://a:1/p?q").unwrap();
        assert!(set_host(&mut url, "b"));
        assert_eq!(url.as_str(), "https://b/p?q");
        assert!(set_host(&mut url, "[::1]:7") && !set_host(&mut url, ""));
        assert_eq!(url.as_str(), "https://[::1]:7/p?q");
    }
}
