//! What is sent as `Authorization` to one registry for one repository, and how it is had: as the registry's challenge says.
//!
//! Invariants: a credential goes to the registry, or to the token service that the registry names, and nowhere else; all who wait for a token
//! wait for one request; a refused credential is dropped; failures are not remembered.

use super::error::ClientError;
use super::header::{Challenge, challenges};
use super::{answer, redact};
use crate::Secret;
use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{RequestBuilder, Url};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Life of a token whose service does not say.
const DEFAULT_LIFE: Duration = Duration::from_secs(600);
/// No token is believed to live longer.
const MAX_LIFE: Duration = Duration::from_secs(24 * 3600);
/// A token is renewed this long before its end, but not more than a tenth of its life.
const MARGIN: Duration = Duration::from_secs(20);
/// Longest answer of a token service, in bytes.
const MAX_ANSWER: usize = 256 << 10;
/// How we call ourselves to token services; some want a name.
const CLIENT_ID: &str = "nydus-registry-client";

/// Base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Something that opens a registry.
#[derive(Debug)]
pub struct Credential {
    header: HeaderValue,
    secret: Secret,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Basic,
    /// To be renewed from then on; `None`: nobody said.
    Token(Option<Instant>),
}

impl Credential {
    fn new(scheme: &str, secret: &Secret, kind: Kind) -> Result<Self, ClientError> {
        let unsendable = ClientError::Answer { found: "a credential that no header can hold" };
        let header = HeaderValue::from_str(&format!("{scheme} {}", secret.expose()));
        let mut header = header.or(Err(unsendable))?;
        header.set_sensitive(true);
        Ok(Self { header, secret: secret.clone(), kind })
    }

    /// The value of `Authorization`.
    pub fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    /// The secret part, to keep it out of messages.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// What it is, for messages.
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Basic => "the user and password given",
            Kind::Token(_) => "a token",
        }
    }

    fn is_stale(&self, now: Instant) -> bool {
        matches!(self.kind, Kind::Token(Some(end)) if end <= now)
    }
}

/// Where and for what a token is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Way {
    realm: Url,
    service: Option<String>,
    scope: String,
}

impl Way {
    /// The service without what may be secret.
    fn endpoint(&self) -> String {
        format!("{}{}", self.realm.origin().ascii_serialization(), self.realm.path())
    }

    /// What is asked for, as pairs.
    fn query(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let service = self.service.as_deref().map(|service| ("service", service));
        service.into_iter().chain([("scope", self.scope.as_str())])
    }
}

type Fetch = BoxFuture<'static, Result<Arc<Credential>, Arc<ClientError>>>;
type Flight = Shared<Fetch>;

#[derive(Default)]
struct State {
    current: Option<Arc<Credential>>,
    way: Option<Way>,
    /// Does the token service want POST?
    post: bool,
    /// The running request for a token. It belongs to those who wait: when the last of them leaves, it ends.
    flight: Option<WeakShared<Fetch>>,
}

/// Credentials of one repository.
#[derive(Clone)]
pub struct Auth(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    basic: Option<Secret>,
    /// Asked for where the challenge names no scope.
    scope: String,
    /// Is the registry known by its certificate? Then nothing secret goes to a token service without.
    tls: bool,
    timeout: Option<Duration>,
    state: Mutex<State>,
}

impl Auth {
    /// Credentials for `repo`: `basic` is base64 of `user:password`, `token` a bearer token to begin with.
    pub fn new(
        http: reqwest::Client,
        repo: &str,
        tls: bool,
        timeout: Option<Duration>,
        basic: Option<Secret>,
        token: Option<&Secret>,
    ) -> Result<Self, ClientError> {
        let first = token.map(|token| Credential::new("Bearer", token, Kind::Token(None))).transpose()?;
        let state = Mutex::new(State { current: first.map(Arc::new), ..State::default() });
        let scope = format!("repository:{repo}:pull");
        Ok(Self(Arc::new(Inner { http, basic, scope, tls, timeout, state })))
    }

    /// What to send now; a token near its end is renewed first. `None`: nothing is known to be wanted.
    pub async fn current(&self) -> Option<Arc<Credential>> {
        let (current, way) = {
            let state = self.0.state.lock();
            (state.current.clone()?, state.way.clone())
        };
        match way.filter(|_| current.is_stale(Instant::now())) {
            // The old one may do yet; if not, the registry says so.
            Some(way) => Some(self.token(way, Some(&current)).await.unwrap_or(current)),
            None => Some(current),
        }
    }

    /// What to send after the registry answered 401 with the challenges in `fields` to a request with `refused`.
    pub async fn answer(
        &self,
        fields: &[&str],
        refused: Option<&Arc<Credential>>,
        said: String,
    ) -> Result<Arc<Credential>, ClientError> {
        let offered: Vec<Challenge> = fields.iter().flat_map(|field| challenges(field)).collect();
        let by = |scheme: &str| offered.iter().find(|challenge| challenge.scheme == scheme);
        if let Some(way) = by("bearer").and_then(|challenge| self.way(challenge)) {
            return self.token(way, refused).await;
        }
        let usable = self.0.basic.as_ref().filter(|_| by("basic").is_some());
        match (usable, refused) {
            (Some(_), Some(refused)) if refused.kind == Kind::Basic => {
                Err(ClientError::Refused { with: refused.name(), said })
            }
            (Some(basic), _) => {
                let found = Arc::new(Credential::new("Basic", basic, Kind::Basic)?);
                self.0.state.lock().current = Some(Arc::clone(&found));
                Ok(found)
            }
            (None, _) => {
                let mut names: Vec<_> = offered.iter().map(|challenge| challenge.scheme.as_str()).collect();
                names.truncate(4);
                let without = if self.0.basic.is_none() { ", and no user is given" } else { "" };
                Err(ClientError::NoWay { offered: format!("{}{without}", names.join(", ")) })
            }
        }
    }

    /// Drops `refused`, unless there is another one by now.
    pub fn forget(&self, refused: &Arc<Credential>) {
        let mut state = self.0.state.lock();
        if state.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, refused)) {
            state.current = None;
        }
    }

    /// `line` without anything that is secret here, or was sent with the request.
    pub fn redact(&self, line: &str, sent: Option<&Credential>) -> String {
        let plain = self.0.basic.as_ref().and_then(plain);
        let mut secrets: Vec<&str> = Vec::new();
        secrets.extend(self.0.basic.as_ref().map(Secret::expose));
        secrets.extend(sent.map(|sent| sent.secret().expose()));
        if let Some((user, password)) = &plain {
            secrets.extend([password.as_str(), user.as_str()]);
        }
        redact(line, &secrets)
    }

    /// Where the challenge says tokens are. `None`: it says nothing usable.
    fn way(&self, challenge: &Challenge) -> Option<Way> {
        let realm = Url::parse(challenge.param("realm")?).ok()?;
        let safe = realm.scheme() == "https" || (realm.scheme() == "http" && !self.0.tls);
        let owned = |name| challenge.param(name).filter(|value| !value.is_empty()).map(str::to_owned);
        (safe && realm.has_host()).then(|| Way {
            service: owned("service"),
            scope: owned("scope").unwrap_or_else(|| self.0.scope.clone()),
            realm,
        })
    }

    /// A token other than `refused`: the one that somebody else has got meanwhile, or the one that is or will be asked for.
    async fn token(
        &self,
        way: Way,
        refused: Option<&Arc<Credential>>,
    ) -> Result<Arc<Credential>, ClientError> {
        let endpoint = way.endpoint();
        let flight = match self.board(way, refused) {
            Ok(current) => return Ok(current),
            Err(flight) => flight,
        };
        flight.await.map_err(|cause| ClientError::Token { endpoint, cause })
    }

    /// A current credential that is not `refused`; as an error the flight that gets one.
    fn board(&self, way: Way, refused: Option<&Arc<Credential>>) -> Result<Arc<Credential>, Flight> {
        let mut state = self.0.state.lock();
        let differs = |one: &Arc<Credential>| refused.is_none_or(|refused| !Arc::ptr_eq(one, refused));
        if let Some(current) = state.current.clone().filter(differs) {
            return Ok(current);
        }
        let running = state.flight.as_ref().and_then(WeakShared::upgrade).filter(|one| one.peek().is_none());
        if let Some(flight) = running {
            return Err(flight);
        }
        let flight = Arc::clone(&self.0).fetch(way.clone()).boxed().shared();
        state.way = Some(way);
        state.flight = flight.downgrade();
        Err(flight)
    }
}

/// User and password in `basic`.
fn plain(basic: &Secret) -> Option<(String, String)> {
    let plain = String::from_utf8(BASE64.decode(basic.expose()).ok()?).ok()?;
    plain.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}

impl Inner {
    /// Asks for a token and makes it the current one.
    async fn fetch(self: Arc<Self>, way: Way) -> Result<Arc<Credential>, Arc<ClientError>> {
        let found = super::limited(self.timeout, self.ask_both_ways(&way)).await;
        let found = Arc::new(found.map_err(Arc::new)?);
        self.state.lock().current = Some(Arc::clone(&found));
        Ok(found)
    }

    /// Asks by the method that worked before, then by the other one where the first is refused.
    async fn ask_both_ways(&self, way: &Way) -> Result<Credential, ClientError> {
        let post = self.state.lock().post;
        let first = self.ask(way, post).await;
        match first {
            Err(ClientError::Status { code, .. }) if (400..500).contains(&code) && code != 429 => {}
            other => return other,
        }
        match self.ask(way, !post).await {
            Ok(found) => {
                self.state.lock().post = !post;
                Ok(found)
            }
            // What the usual method was told says more.
            Err(_second) => first,
        }
    }

    async fn ask(&self, way: &Way, post: bool) -> Result<Credential, ClientError> {
        let mut request = if post { self.post(way) } else { self.get(way) };
        if let Some(basic) = &self.basic {
            request = request.header(AUTHORIZATION, Credential::new("Basic", basic, Kind::Basic)?.header());
        }
        let mut response = request.send().await?;
        if !response.status().is_success() {
            let mut secrets: Vec<_> = self.basic.iter().map(Secret::expose).collect();
            let plain = self.basic.as_ref().and_then(plain);
            if let Some((user, password)) = &plain {
                secrets.extend([password.as_str(), user.as_str()]);
            }
            return Err(answer::status(response, |line| redact(line, &secrets)).await);
        }
        token(&answer::all(&mut response, MAX_ANSWER).await?, Instant::now())
    }

    fn get(&self, way: &Way) -> RequestBuilder {
        let mut url = way.realm.clone();
        url.query_pairs_mut().extend_pairs(way.query());
        self.http.get(url)
    }

    /// The OAuth2 form of the question.
    fn post(&self, way: &Way) -> RequestBuilder {
        let mut form = way.realm.clone();
        form.set_query(None);
        let mut pairs = form.query_pairs_mut();
        pairs.extend_pairs(way.query()).append_pair("client_id", CLIENT_ID);
        if let Some((user, password)) = self.basic.as_ref().and_then(plain) {
            pairs.append_pair("grant_type", "password");
            pairs.append_pair("username", &user).append_pair("password", &password);
        }
        drop(pairs);
        let body = form.query().unwrap_or_default().to_owned();
        let request = self.http.post(way.realm.clone()).body(body);
        request.header(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))
    }
}

/// The token in the JSON `body` of an answer that came at `now`.
fn token(body: &[u8], now: Instant) -> Result<Credential, ClientError> {
    let unusable = || ClientError::Answer { found: "an answer without a token" };
    let body: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let body = body.ok_or_else(unusable)?;
    let field = |name: &str| body.get(name).and_then(|value| value.as_str()).filter(|text| !text.is_empty());
    let text = field("token").or_else(|| field("access_token")).ok_or_else(unusable)?;
    let life = body.get("expires_in").and_then(serde_json::Value::as_u64).map(Duration::from_secs);
    let life = life.unwrap_or(DEFAULT_LIFE).min(MAX_LIFE);
    let renewal = now.checked_add(life.saturating_sub(MARGIN.min(life / 10)));
    Credential::new("Bearer", &Secret::new(text), Kind::Token(renewal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_before_their_end() {
        let now = Instant::now();
        for (body, renewal) in [
            (r#"{"token": "a", "expires_in": 300}"#, 280),
            (r#"{"access_token": "a", "expires_in": 10}"#, 9),
            (r#"{"token": "", "access_token": "a"}"#, 580),
            (r#"{"token": "a", "expires_in": 18446744073709551615}"#, 24 * 3600 - 20),
        ] {
            let found = token(body.as_bytes(), now).unwrap();
            assert_eq!(found.header().to_str().unwrap(), "Bearer a");
            let at = |seconds| now + Duration::from_secs(seconds);
            assert!(!found.is_stale(at(renewal - 1)) && found.is_stale(at(renewal)), "{body}");
        }
        for wrong in ["", "{}", "[]", r#"{"token": 1}"#, r#"{"token": "a\n"}"#] {
            assert!(token(wrong.as_bytes(), now).is_err(), "{wrong}");
        }
    }

    #[test]
    fn credentials_are_never_shown() {
        let secret = Credential::new("Bearer", &Secret::new("hidden"), Kind::Token(None)).unwrap();
        assert!(!format!("{secret:?}").contains("hidden"), "{secret:?}");
    }

    #[test]
    fn nothing_secret_goes_to_a_service_without_tls_when_the_registry_has_it() {
        let http = super::super::plain_http();
        let challenge = |realm: &str| challenges(&format!("Bearer realm=\"{realm}\"")).remove(0);
        for (tls, realm, usable) in [
            (true, "https://a/t", true),
            (true, "http://a/t", false),
            (false, "http://a/t", true),
            (false, "file:///a", false),
            (false, "a", false),
        ] {
            let auth = Auth::new(http.clone(), "r", tls, None, None, None).unwrap();
            assert_eq!(auth.way(&challenge(realm)).is_some(), usable, "{tls} {realm}");
        }
    }
}
