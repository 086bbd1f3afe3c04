//! Credential helpers: programs that hold logins for others and speak docker's protocol. They get a server on standard input and answer
//! with JSON on standard output.
//!
//! Invariants: a helper is run once for all who wait for the same answer; it is killed with all it started when it takes too long or says
//! too much; what it says is in no message, for it may be a password.

use super::Login;
use crate::Secret;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// A helper that takes longer is killed. Those of clouds need seconds.
const LIMIT: Duration = Duration::from_secs(30);
/// Longest answer, in bytes; tokens of clouds have thousands.
const MAX_ANSWER: usize = 64 << 10;
/// An answer is good for all who ask within this time, so that no helper is run more often than once a second.
const HOLD: Duration = Duration::from_secs(1);
/// Our own secret, which helpers have no use for.
const PULL_AUTH: &str = "IMAGE_PULL_AUTH";
/// In place of a user: the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// Why a helper gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum HelperError {
    #[error("it cannot be run")]
    Run(#[source] io::Error),
    #[error("it does not end within {} s", after.as_secs())]
    Timeout { after: Duration },
    #[error("its answer is longer than {limit} bytes")]
    TooLong { limit: usize },
    #[error("{status}, and it says of no server that it has no login")]
    Failed { status: ExitStatus },
    #[error("its answer is not one of a credential helper")]
    Answer,
    #[error("it was given up")]
    GivenUp,
}

type Answer = Result<Option<Login>, Arc<HelperError>>;

/// A run that others may wait for, too.
#[derive(Clone)]
struct Run {
    answer: Shared<BoxFuture<'static, Answer>>,
    ended: Arc<OnceLock<Instant>>,
}

/// Helpers of one machine.
#[derive(Default)]
pub struct Helpers {
    /// Where they are looked for; `None` for `PATH`.
    pub path: Option<OsString>,
    /// Longest time for one.
    pub limit: Option<Duration>,
    /// By program and server.
    runs: Mutex<HashMap<(String, String), Run>>,
}

impl Helpers {
    /// What `program` says about `server`; `None`: it has no login there. The run goes on when nobody waits any more, so that those who
    /// have less time than it needs find its answer when they come again.
    pub async fn ask(&self, program: String, server: &str) -> Answer {
        let run = {
            let mut runs = self.runs.lock();
            runs.retain(|_, run| run.ended.get().is_none_or(|ended| ended.elapsed() < HOLD));
            let key = (program.clone(), server.to_owned());
            runs.entry(key).or_insert_with(|| self.start(program, server.to_owned())).clone()
        };
        run.answer.await
    }

    fn start(&self, program: String, server: String) -> Run {
        let ended = Arc::new(OnceLock::new());
        let (end, path, limit) = (Arc::clone(&ended), self.path.clone(), self.limit.unwrap_or(LIMIT));
        let task = tokio::spawn(async move {
            let answer = tokio::time::timeout(limit, run(&program, path, &server)).await;
            end.get_or_init(Instant::now);
            answer.unwrap_or(Err(HelperError::Timeout { after: limit }))
        });
        let given_up = |_over| Err(HelperError::GivenUp);
        let answer = task.map(move |done| done.unwrap_or_else(given_up).map_err(Arc::new));
        Run { answer: answer.boxed().shared(), ended }
    }
}

/// Everything that a helper has started; killed when dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            // Whoever has ended already need not be killed.
            let _over = kill_process_group(group, Signal::KILL).is_ok();
        }
    }
}

async fn run(program: &str, path: Option<OsString>, server: &str) -> Result<Option<Login>, HelperError> {
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.process_group(0).kill_on_drop(true).env_remove(PULL_AUTH);
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let mut child = command.spawn().map_err(HelperError::Run)?;
    let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let mut group = Group(id);
    let (status, said) = talk(&mut child, server).await?;
    // What it leaves running after a good end is its own business.
    group.0 = None;
    answer(status, &said)
}

/// Asks, listens and waits for the end.
async fn talk(child: &mut Child, server: &str) -> Result<(ExitStatus, Vec<u8>), HelperError> {
    if let Some(mut input) = child.stdin.take() {
        // One that knows without being asked reads nothing.
        let _read = input.write_all(format!("{server}\n").as_bytes()).await.is_ok();
    }
    let mut said = Vec::new();
    if let Some(output) = child.stdout.take() {
        let bound = MAX_ANSWER as u64 + 1;
        output.take(bound).read_to_end(&mut said).await.map_err(HelperError::Run)?;
    }
    if said.len() > MAX_ANSWER {
        return Err(HelperError::TooLong { limit: MAX_ANSWER });
    }
    Ok((child.wait().await.map_err(HelperError::Run)?, said))
}

/// What the output of a helper means.
fn answer(status: ExitStatus, said: &[u8]) -> Result<Option<Login>, HelperError> {
    if !status.success() {
        let none = String::from_utf8_lossy(said).to_ascii_lowercase().contains("credentials not found");
        return if none { Ok(None) } else { Err(HelperError::Failed { status }) };
    }
    let said: serde_json::Value = serde_json::from_slice(said).ok().ok_or(HelperError::Answer)?;
    let text = |name: &str| said.get(name).and_then(serde_json::Value::as_str).ok_or(HelperError::Answer);
    Ok(match (text("Username")?, text("Secret")?) {
        (_, "") => None,
        (TOKEN_USER, token) => Some(Login::Identity(Secret::new(token))),
        (user, password) => Some(Login::password(user, password)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn answers_are_those_of_the_protocol() {
        let good = |said: &str| answer(ExitStatus::from_raw(0), said.as_bytes());
        let login = good(r#"{"ServerURL":"x","Username":"u","Secret":"p"}"#).unwrap();
        assert_eq!(login, Some(Login::password("u", "p")));
        let token = good(r#"{"Username":"<token>","Secret":"t"}"#).unwrap();
        assert_eq!(token, Some(Login::Identity(Secret::new("t"))));
        assert_eq!(good(r#"{"Username":"","Secret":""}"#).unwrap(), None);
        for wrong in ["", "hidden", "{}", r#"{"Username":"u"}"#, r#"{"Username":"u","Secret":7}"#] {
            let error = good(wrong).unwrap_err();
            assert!(matches!(error, HelperError::Answer) && !error.to_string().contains("hidden"), "{wrong}");
        }
        let failed = |said: &str| answer(ExitStatus::from_raw(1 << 8), said.as_bytes());
        assert_eq!(failed("credentials not found in native keychain\n").unwrap(), None);
        let error = failed("hidden").unwrap_err().to_string();
        assert!(error.starts_with("exit status: 1") && !error.contains("hidden"), "{error}");
    }
}
