//! Tokens, and the services that give them to who has a login, or to everybody (the distribution specification's bearer tokens, and OAuth2).

use super::{Account, Credential, Inner, Kind, Life, Search, name};
use crate::Secret;
use crate::client::answer;
use crate::client::error::ClientError;
use crate::client::header::Challenge;
use crate::client::{limited, redact};
use crate::login::{Found, Login};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{RequestBuilder, Url};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

/// Life of a token whose service does not say.
const DEFAULT_LIFE: Duration = Duration::from_secs(600);
/// No token is believed to live longer.
const MAX_LIFE: Duration = Duration::from_secs(24 * 3600);
/// A token is renewed this long before its end, but not more than a tenth of its life.
const MARGIN: Duration = Duration::from_secs(20);
/// And before that by a random part of this, or of another tenth: daemons that were started together do not come together for ever.
const MAX_JITTER: Duration = Duration::from_secs(300);
/// Longest answer of a token service, in bytes.
const MAX_ANSWER: usize = 256 << 10;
/// How we call ourselves to token services; some want a name.
const CLIENT_ID: &str = "nydus-registry-client";

/// Where and for what a token is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenService {
    realm: Url,
    service: Option<String>,
    scope: String,
}

impl TokenService {
    /// Where the challenge says tokens are. `None`: it says nothing usable.
    pub fn of(challenge: &Challenge, account: &Account) -> Option<Self> {
        let realm = Url::parse(challenge.param("realm")?).ok()?;
        let safe = realm.scheme() == "https" || (realm.scheme() == "http" && !account.tls);
        let owned = |name| challenge.param(name).filter(|value| !value.is_empty()).map(str::to_owned);
        (safe && realm.has_host()).then(|| Self {
            service: owned("service"),
            scope: owned("scope").unwrap_or_else(|| format!("repository:{}:pull", account.repo)),
            realm,
        })
    }

    /// The service without what may be secret.
    pub fn endpoint(&self) -> String {
        format!("{}{}", self.realm.origin().ascii_serialization(), self.realm.path())
    }

    /// What is asked for, as pairs.
    fn query(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let service = self.service.as_deref().map(|service| ("service", service));
        service.into_iter().chain([("scope", self.scope.as_str())])
    }
}

/// Does this answer of a token service say that the login is no good?
fn is_refusal(error: &ClientError) -> bool {
    matches!(error, ClientError::Status { code: 400 | 401 | 403, .. })
}

impl Inner {
    /// A token for the first login that the service does not refuse; where it refuses all, one for everybody, as public repositories give
    /// it to those whose login is out of date, too.
    pub(super) async fn token(&self, service: &TokenService) -> Result<Credential, ClientError> {
        let mut search = Search::default();
        let mut last = None;
        while let Some(found) = self.next(&mut search).await {
            if let Login::Token(_) = found.login {
                if self.is_new(&found) {
                    return Credential::login(&found);
                }
                search.troubles.push(format!("{} was refused", name(&found)));
                search.refused.push(found);
                continue;
            }
            match self.ask(service, Some(&found.login)).await {
                Err(error) if is_refusal(&error) => {
                    search.troubles.push(format!("{} was refused: {error}", name(&found)));
                    search.refused.push(found);
                    last = Some(error);
                }
                other => return Ok(other?.called(service, &name(&found))),
            }
        }
        let nobody = format!("nobody{}", search.told());
        match self.ask(service, None).await {
            Ok(token) => Ok(token.called(service, &nobody)),
            // What the login was told says more.
            Err(error) => Err(last.map_or(error, |said| refused(&search, &said))),
        }
    }

    /// Has the registry not refused it? If it has, that is forgotten: who refused it may have been mistaken.
    fn is_new(&self, found: &Found) -> bool {
        let mut state = self.state.lock();
        let before = state.refused.len();
        state.refused.retain(|refused| refused.login != found.login);
        state.refused.len() == before
    }

    /// Asks by the method that worked before, then by the other one where the first is refused.
    async fn ask(&self, service: &TokenService, login: Option<&Login>) -> Result<Credential, ClientError> {
        if let Some(Login::Identity(_)) = login {
            return self.ask_by(service, login, true).await;
        }
        let post = self.state.lock().post;
        let first = self.ask_by(service, login, post).await;
        match first {
            Err(ClientError::Status { code, .. }) if (400..500).contains(&code) && code != 429 => {}
            other => return other,
        }
        match self.ask_by(service, login, !post).await {
            Ok(found) => {
                self.state.lock().post = !post;
                Ok(found)
            }
            // What the usual method was told says more.
            Err(_second) => first,
        }
    }

    async fn ask_by(
        &self,
        service: &TokenService,
        login: Option<&Login>,
        post: bool,
    ) -> Result<Credential, ClientError> {
        limited(self.account.timeout, self.send(self.request(service, login, post)?, login)).await
    }

    async fn send(&self, request: RequestBuilder, login: Option<&Login>) -> Result<Credential, ClientError> {
        let mut response = request.send().await?;
        if !response.status().is_success() {
            let mut hidden = login.map(Login::hidden).unwrap_or_default();
            hidden.extend_from_slice(&self.account.hidden);
            return Err(answer::status(response, |line| redact(line, &hidden)).await);
        }
        token(&answer::all(&mut response, MAX_ANSWER).await?, Instant::now(), random())
    }

    fn request(
        &self,
        service: &TokenService,
        login: Option<&Login>,
        post: bool,
    ) -> Result<RequestBuilder, ClientError> {
        let request = if post { self.post(service, login) } else { self.get(service) };
        let Some(Login::Password(basic)) = login else { return Ok(request) };
        let kind = Kind::Token(None);
        Ok(request.header(AUTHORIZATION, Credential::new("Basic", basic, kind, String::new())?.header()))
    }

    fn get(&self, service: &TokenService) -> RequestBuilder {
        let mut url = service.realm.clone();
        url.query_pairs_mut().extend_pairs(service.query());
        self.http.get(url)
    }

    /// The OAuth2 form of the question.
    fn post(&self, service: &TokenService, login: Option<&Login>) -> RequestBuilder {
        let mut form = service.realm.clone();
        form.set_query(None);
        let mut pairs = form.query_pairs_mut();
        pairs.extend_pairs(service.query()).append_pair("client_id", CLIENT_ID);
        if let Some(Login::Identity(token)) = login {
            pairs.append_pair("grant_type", "refresh_token").append_pair("refresh_token", token.expose());
        } else if let Some((user, password)) = login.and_then(Login::plain) {
            pairs.append_pair("grant_type", "password");
            pairs.append_pair("username", &user).append_pair("password", &password);
        }
        drop(pairs);
        let body = form.query().unwrap_or_default().to_owned();
        let request = self.http.post(service.realm.clone()).body(body);
        request.header(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))
    }
}

impl Credential {
    /// This token, by what it is for and who has it.
    fn called(self, service: &TokenService, who: &str) -> Self {
        Self { name: format!("a token for {} of {who}", service.scope), ..self }
    }
}

/// All logins were refused; `error` is what the last was told.
fn refused(search: &Search, error: &ClientError) -> ClientError {
    let names: Vec<_> = search.refused.iter().map(name).collect();
    ClientError::Refused { with: names.join(" and "), said: error.to_string() }
}

/// A number that differs each time; the standard library has no other source of them.
fn random() -> u32 {
    let bits = RandomState::new().build_hasher().finish();
    u32::try_from(bits >> 32).unwrap_or(u32::MAX)
}

/// When a token that lives for `life` from `now` on is to be renewed. `random` says how much jitter there is.
fn life(now: Instant, life: Duration, random: u32) -> Option<Life> {
    let tenth = life / 10;
    let jitter = tenth.min(MAX_JITTER).mul_f64(f64::from(random) / f64::from(u32::MAX));
    let renewal = now.checked_add(life.saturating_sub(MARGIN.min(tenth) + jitter))?;
    Some(Life { renewal, end: now.checked_add(life)? })
}

/// The token in the JSON `body` of an answer that came at `now`.
fn token(body: &[u8], now: Instant, random: u32) -> Result<Credential, ClientError> {
    let unusable = || ClientError::Answer { found: "an answer without a token" };
    let body: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let body = body.ok_or_else(unusable)?;
    let field = |name: &str| body.get(name).and_then(|value| value.as_str()).filter(|text| !text.is_empty());
    let text = field("token").or_else(|| field("access_token")).ok_or_else(unusable)?;
    let lives = body.get("expires_in").and_then(serde_json::Value::as_u64).map(Duration::from_secs);
    let life = life(now, lives.unwrap_or(DEFAULT_LIFE).min(MAX_LIFE), random);
    Credential::new("Bearer", &Secret::new(text), Kind::Token(life), "a token".into())
}

#[cfg(test)]
mod tests {
    use super::super::Age;
    use super::*;
    use crate::client::header::challenges;

    #[test]
    fn tokens_are_renewed_before_their_end() {
        let now = Instant::now();
        for (body, [first, last, end]) in [
            (r#"{"token": "a", "expires_in": 300}"#, [250, 280, 300]),
            (r#"{"access_token": "a", "expires_in": 10}"#, [8, 9, 10]),
            (r#"{"token": "", "access_token": "a"}"#, [520, 580, 600]),
            (r#"{"token": "a", "expires_in": 18446744073709551615}"#, [86080, 86380, 86400]),
        ] {
            for (random, renewal) in [(u32::MAX, first), (0, last)] {
                let found = token(body.as_bytes(), now, random).unwrap();
                assert_eq!(found.header().to_str().unwrap(), "Bearer a");
                let at = |seconds| found.age(now + Duration::from_secs(seconds));
                assert_eq!(
                    [at(renewal - 1), at(renewal), at(end - 1)],
                    [Age::Fresh, Age::Old, Age::Old],
                    "{body}"
                );
                assert_eq!(at(end), Age::Over, "{body}");
            }
        }
        // Over as soon as it is there.
        assert_eq!(token(br#"{"token": "a", "expires_in": 0}"#, now, 0).unwrap().age(now), Age::Over);
        for wrong in ["", "{}", "[]", r#"{"token": 1}"#, r#"{"token": "a\n"}"#] {
            assert!(token(wrong.as_bytes(), now, 0).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_secret_goes_to_a_service_without_tls_when_the_registry_has_it() {
        let challenge = |realm: &str| challenges(&format!("Bearer realm=\"{realm}\"")).remove(0);
        for (tls, realm, usable) in [
            (true, "https://a/t", true),
            (true, "http://a/t", false),
            (false, "http://a/t", true),
            (false, "file:///a", false),
            (false, "a", false),
        ] {
            let account = Account {
                host: "h".into(),
                repo: "r".into(),
                tls,
                timeout: None,
                logins: None,
                hidden: Vec::new(),
            };
            assert_eq!(TokenService::of(&challenge(realm), &account).is_some(), usable, "{tls} {realm}");
        }
    }
}
