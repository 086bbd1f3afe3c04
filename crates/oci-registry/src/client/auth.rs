//! What is sent as `Authorization` to one registry for one repository, and how it is had: as the registry's challenge says, with the
//! login that was given or the one that is found on this machine.
//!
//! Invariants: a credential goes to the registry, or to the token service that the registry names, and nowhere else; all who wait for one
//! wait for one search and one request; a refused one is dropped, and where logins are is asked anew; failures are not remembered.

mod token;

use super::error::ClientError;
use super::header::{Challenge, challenges};
use super::redact;
use crate::Secret;
use crate::login::{Found, Login, Logins};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use reqwest::header::HeaderValue;
use std::sync::Arc;
use std::time::{Duration, Instant};
use token::TokenService;

/// Logins that are remembered as refused: a helper may have another one each time.
const MAX_REFUSED: usize = 4;

/// While a token is good, a renewal that failed is tried again after this long.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);

/// Something that opens a registry.
#[derive(Debug)]
pub struct Credential {
    header: HeaderValue,
    /// All that must not be shown of it.
    hidden: Vec<Secret>,
    kind: Kind,
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// A login that the registry gets as it is.
    Login(Login),
    /// `None`: nobody said how long it lives.
    Token(Option<Life>),
}

/// When a token is to be renewed, and when it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Life {
    renewal: Instant,
    end: Instant,
}

impl Credential {
    fn new(scheme: &str, secret: &Secret, kind: Kind, name: String) -> Result<Self, ClientError> {
        let unsendable = ClientError::Answer { found: "a credential that no header can hold" };
        let header = HeaderValue::from_str(&format!("{scheme} {}", secret.expose()));
        let mut header = header.or(Err(unsendable))?;
        header.set_sensitive(true);
        Ok(Self { header, hidden: vec![secret.clone()], kind, name })
    }

    /// A login as the registry itself wants it. Errors: an identity token, which is for token services only.
    fn login(found: &Found) -> Result<Self, ClientError> {
        let (scheme, text) = match &found.login {
            Login::Password(text) => ("Basic", text),
            Login::Token(text) => ("Bearer", text),
            Login::Identity(_) => return Err(ClientError::Answer { found: "a wish for a password" }),
        };
        let kind = Kind::Login(found.login.clone());
        let hidden = found.login.hidden();
        Ok(Self { hidden, ..Self::new(scheme, text, kind, name(found))? })
    }

    /// The value of `Authorization`.
    pub fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    /// What it is, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Did a token service give it?
    pub fn is_token(&self) -> bool {
        matches!(self.kind, Kind::Token(_))
    }

    /// Is it time to renew it? If so, can it still be used meanwhile?
    fn age(&self, now: Instant) -> Age {
        match self.kind {
            Kind::Token(Some(life)) if life.end <= now => Age::Over,
            Kind::Token(Some(life)) if life.renewal <= now => Age::Old,
            Kind::Token(_) | Kind::Login(_) => Age::Fresh,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    Fresh,
    Old,
    Over,
}

/// What messages call a login.
fn name(found: &Found) -> String {
    match found.login {
        Login::Password(_) => format!("the user and password {}", found.from),
        Login::Identity(_) => format!("the identity token {}", found.from),
        Login::Token(_) => format!("the registry token {}", found.from),
    }
}

/// How a credential is had.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    Basic,
    Token(TokenService),
}

type Answer = Result<Arc<Credential>, Arc<ClientError>>;
type Fetch = BoxFuture<'static, Answer>;
type Flight = Shared<Fetch>;

#[derive(Default)]
struct State {
    /// Replaces all other logins.
    given: Option<Login>,
    current: Option<Arc<Credential>>,
    /// How the current token was had.
    service: Option<TokenService>,
    /// Does the token service want POST?
    post: bool,
    /// No renewal of a token that is still good begins before.
    renewal: Option<Instant>,
    /// Logins that the registry has refused since it last took one; not sent again while there are others.
    refused: Vec<Found>,
    /// Searches begun.
    flights: u64,
    /// The running one. It belongs to those who wait: when the last of them leaves, it ends.
    flight: Option<WeakShared<Fetch>>,
    /// Number of the last one that ended, and its end.
    last: Option<(u64, Answer)>,
}

/// Credentials of one repository.
#[derive(Clone)]
pub struct Auth(Arc<Inner>);

/// What credentials are for.
#[derive(Debug, Clone)]
pub struct Account {
    /// Host of the registry.
    pub host: String,
    /// Repository.
    pub repo: String,
    /// Is the registry known by its certificate? Then nothing secret goes to a token service without.
    pub tls: bool,
    /// Longest time for a request to a token service.
    pub timeout: Option<Duration>,
    /// Where logins are when none is given.
    pub logins: Option<Arc<Logins>>,
    /// What is sent along and must not be shown.
    pub hidden: Vec<Secret>,
}

struct Inner {
    http: reqwest::Client,
    account: Account,
    state: Mutex<State>,
}

/// What a request that is about to be sent may assume: answers to questions asked later than it was begun are good for it.
#[derive(Debug, Clone, Copy)]
pub struct Ticket(u64);

/// A search for a login: those found so far that are no good, and what went wrong.
#[derive(Default)]
struct Search {
    refused: Vec<Found>,
    troubles: Vec<String>,
    asked_machine: bool,
}

impl Search {
    /// What went wrong, to stand behind something else.
    fn told(&self) -> String {
        if self.troubles.is_empty() { String::new() } else { format!(" ({})", self.troubles.join("; ")) }
    }
}

impl Auth {
    /// Credentials for `account`: `given` is the login to use first, `token` a bearer token to begin with.
    pub fn new(
        http: reqwest::Client,
        account: Account,
        given: Option<Login>,
        token: Option<&Secret>,
    ) -> Result<Self, ClientError> {
        let new = |token| Credential::new("Bearer", token, Kind::Token(None), "the token given".into());
        let current = token.map(new).transpose()?.map(Arc::new);
        let state = Mutex::new(State { given, current, ..State::default() });
        Ok(Self(Arc::new(Inner { http, account, state })))
    }

    /// To be taken before a request is sent.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.0.state.lock().flights)
    }

    /// Uses `login` from now on in place of the one given before; `None` for those of the machine only.
    pub fn set_login(&self, login: Option<Login>) {
        let mut state = self.0.state.lock();
        state.given = login;
        // What a search brings that runs now is of yesterday.
        state.flights += 1;
        (state.current, state.flight, state.last) = (None, None, None);
        state.refused.clear();
    }

    /// What to send now. A token near its end is renewed beside, and one past it first. `None`: nothing is known to be wanted.
    pub async fn current(&self, ticket: Ticket) -> Option<Arc<Credential>> {
        let now = Instant::now();
        let (current, service, age) = {
            let mut state = self.0.state.lock();
            let current = state.current.clone()?;
            let mut age = current.age(now);
            if age == Age::Old && state.renewal.is_some_and(|renewal| now < renewal) {
                age = Age::Fresh;
            }
            if age == Age::Old {
                state.renewal = now.checked_add(RENEWAL_PAUSE);
            }
            (current, state.service.clone(), age)
        };
        let Some(service) = service.filter(|_| age != Age::Fresh) else { return Some(current) };
        match self.board(Way::Token(service), Some(&current), ticket) {
            // What is over may do yet; if not, the registry says so.
            Ok(answer) => Some(answer.unwrap_or(current)),
            Err(flight) if age == Age::Over => Some(flight.await.unwrap_or(current)),
            Err(flight) => {
                // Ends by itself; what it brings is in its place then, and what it fails with is told when it matters.
                drop(tokio::spawn(flight));
                Some(current)
            }
        }
    }

    /// What to send after the registry answered 401 with the challenges in `fields` and the line `said` to a request with `refused`.
    pub async fn answer(
        &self,
        fields: &[&str],
        refused: Option<&Arc<Credential>>,
        said: &str,
        ticket: Ticket,
    ) -> Result<Arc<Credential>, ClientError> {
        let offered: Vec<Challenge> = fields.iter().flat_map(|field| challenges(field)).collect();
        let by = |scheme: &str| offered.iter().find(|challenge| challenge.scheme == scheme);
        let account = &self.0.account;
        if let Some(service) = by("bearer").and_then(|challenge| TokenService::of(challenge, account)) {
            let endpoint = service.endpoint();
            let token = self.fly(Way::Token(service), refused, ticket).await;
            return token.map_err(|cause| ClientError::Token { endpoint, cause });
        }
        if by("basic").is_some() {
            let found = self.fly(Way::Basic, refused, ticket).await;
            return found.map_err(|error| said_by(&error, said));
        }
        let names: Vec<_> = offered.iter().take(4).map(|challenge| challenge.scheme.as_str()).collect();
        let names = if names.is_empty() { "none".into() } else { names.join(", ") };
        Err(ClientError::NoWay { offered: names })
    }

    /// Drops `refused`, unless there is another one by now.
    pub fn forget(&self, refused: &Arc<Credential>) {
        let mut state = self.0.state.lock();
        if state.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, refused)) {
            state.current = None;
            if let Kind::Login(login) = &refused.kind {
                if state.refused.len() >= MAX_REFUSED {
                    state.refused.clear();
                }
                state.refused.push(Found { login: login.clone(), from: refused.name.clone() });
            }
        }
    }

    /// The registry has taken what was sent.
    pub fn accepted(&self) {
        self.0.state.lock().refused.clear();
    }

    /// `line` without anything that is secret here, or was sent with the request.
    pub fn redact(&self, line: &str, sent: Option<&Credential>) -> String {
        let mut secrets = sent.map_or_else(Vec::new, |sent| sent.hidden.clone());
        secrets.extend(self.0.state.lock().given.iter().flat_map(Login::hidden));
        secrets.extend_from_slice(&self.0.account.hidden);
        redact(line, &secrets)
    }

    /// A credential other than `refused`: the one that somebody else has got meanwhile, or the one that is or will be searched for.
    async fn fly(&self, way: Way, refused: Option<&Arc<Credential>>, ticket: Ticket) -> Answer {
        match self.board(way, refused, ticket) {
            Ok(answer) => answer,
            Err(flight) => flight.await,
        }
    }

    /// A current credential that is not `refused`, or the end of a search that began after `ticket`; as an error the flight that gets one.
    fn board(&self, way: Way, refused: Option<&Arc<Credential>>, ticket: Ticket) -> Result<Answer, Flight> {
        let mut state = self.0.state.lock();
        let differs = |one: &Arc<Credential>| refused.is_none_or(|refused| !Arc::ptr_eq(one, refused));
        if let Some(current) = state.current.clone().filter(differs) {
            return Ok(Ok(current));
        }
        let running = state.flight.as_ref().and_then(WeakShared::upgrade).filter(|one| one.peek().is_none());
        if let Some(flight) = running {
            return Err(flight);
        }
        match &state.last {
            Some((number, Err(error))) if *number > ticket.0 => return Ok(Err(Arc::clone(error))),
            _ => {}
        }
        state.flights += 1;
        let flight = Arc::clone(&self.0).fetch(state.flights, way.clone()).boxed().shared();
        if let Way::Token(service) = way {
            state.service = Some(service);
        }
        state.flight = flight.downgrade();
        Err(flight)
    }
}

/// What all who waited are told, with what the registry said to this one.
fn said_by(error: &ClientError, said: &str) -> ClientError {
    match error {
        ClientError::Refused { with, .. } => {
            ClientError::Refused { with: with.clone(), said: said.to_owned() }
        }
        ClientError::NoWay { offered } => ClientError::NoWay { offered: offered.clone() },
        other => ClientError::NoWay { offered: other.to_string() },
    }
}

impl Inner {
    /// Gets a credential and makes it the current one.
    async fn fetch(self: Arc<Self>, number: u64, way: Way) -> Answer {
        let found = match &way {
            Way::Basic => self.basic().await,
            Way::Token(service) => self.token(service).await,
        };
        let found = found.map(Arc::new).map_err(Arc::new);
        let mut state = self.state.lock();
        if state.flights == number {
            if let Ok(found) = &found {
                state.current = Some(Arc::clone(found));
            }
            state.last = Some((number, found.clone()));
        }
        found
    }

    /// The first login for the registry itself that it has not refused.
    async fn basic(&self) -> Result<Credential, ClientError> {
        let refused = self.state.lock().refused.clone();
        let mut search = Search { refused, ..Search::default() };
        while let Some(found) = self.next(&mut search).await {
            if !matches!(found.login, Login::Identity(_)) {
                return Credential::login(&found);
            }
            search.troubles.push(format!("{} is of no use here", name(&found)));
            search.refused.push(found);
        }
        // From now on each may be tried again: who refused it may have been mistaken.
        let refused = std::mem::take(&mut self.state.lock().refused);
        let names: Vec<_> = refused.into_iter().map(|found| found.from).collect();
        let (with, troubles) = (names.join(" and "), search.told());
        Err(if with.is_empty() {
            ClientError::NoWay { offered: format!("basic, and no user is given{troubles}") }
        } else {
            ClientError::Refused { with: with + &troubles, said: String::new() }
        })
    }

    /// A login that `search` has not refused: the one given, then that of this machine.
    async fn next(&self, search: &mut Search) -> Option<Found> {
        let fresh = |found: &Found| search.refused.iter().all(|refused| refused.login != found.login);
        let given = self.state.lock().given.clone().map(|login| Found { login, from: "given".into() });
        if let Some(found) = given.filter(fresh) {
            return Some(found);
        }
        let logins =
            self.account.logins.as_ref().filter(|_| !std::mem::replace(&mut search.asked_machine, true))?;
        match logins.find(&self.account.host, &self.account.repo).await {
            Ok(found) => {
                found.map(|found| Found { from: format!("of {}", found.from), ..found }).filter(fresh)
            }
            Err(error) => {
                search.troubles.push(error.to_string());
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_never_shown() {
        let secret = Secret::new("covert");
        let token = Credential::new("Bearer", &secret, Kind::Token(None), "t".into()).unwrap();
        let found = Found { login: Login::Password(secret), from: "given".into() };
        let shown = format!("{token:?} {:?} {found:?}", Credential::login(&found).unwrap());
        assert!(!shown.contains("covert"), "{shown}");
    }

    #[tokio::test]
    async fn nobody_waits_for_the_renewal_of_a_token_that_is_good() {
        // Takes connections and says nothing.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let realm = format!("Bearer realm=\"http://{}/token\"", silent.local_addr().unwrap());
        let account = Account {
            host: "h".into(),
            repo: "r".into(),
            tls: false,
            timeout: None,
            logins: None,
            hidden: Vec::new(),
        };
        let service = TokenService::of(&challenges(&realm)[0], &account);
        let auth = Auth::new(reqwest_client(), account, None, None).unwrap();
        let now = Instant::now();
        let life = Life { renewal: now, end: now + Duration::from_secs(1000) };
        let token =
            Credential::new("Bearer", &Secret::new("t"), Kind::Token(Some(life)), String::new()).unwrap();
        let token = Arc::new(token);
        (auth.0.state.lock().current, auth.0.state.lock().service) = (Some(Arc::clone(&token)), service);
        for _ in 0..3 {
            let ticket = auth.ticket();
            assert!(Arc::ptr_eq(&auth.current(ticket).await.unwrap(), &token));
        }
        assert_eq!(auth.0.state.lock().flights, 1, "a renewal was begun, and one only");
    }

    fn reqwest_client() -> reqwest::Client {
        crate::client::ClientOptions::default().transport().unwrap().build().unwrap()
    }
}
