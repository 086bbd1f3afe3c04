//! Logins of the user that runs us, as docker and podman have left them on this machine.

use super::Login;
use super::docker::{DockerConfig, Entry};
use super::helper::{HelperError, Helpers};
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Why no login was found where one may be. No message holds one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum LoginError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is longer than {limit} bytes", path.display())]
    TooLong { path: PathBuf, limit: u64 },
    #[error("{} is not a JSON object", path.display())]
    Json { path: PathBuf },
    #[error("{program} for {server}: {}", chain(source.as_ref()))]
    Helper { program: String, server: String, source: Arc<HelperError> },
}

/// All that `error` says.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// A login and who has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The login.
    pub login: Login,
    /// A file or a program, for messages.
    pub from: String,
}

/// Where logins are looked for: files in an order, and the helpers that they name. One for a whole process: a helper that many want to ask the same
/// is run once.
pub struct Logins {
    files: Vec<PathBuf>,
    helpers: Helpers,
}

impl fmt::Debug for Logins {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Logins").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Logins {
    /// Logins in `files`, the first that has one wins. A file need not be there.
    pub fn new(files: Vec<PathBuf>) -> Self {
        Self { files, helpers: Helpers::default() }
    }

    /// Where docker and podman keep them, by the environment that `variable` gives: `$DOCKER_CONFIG/config.json` or that in `~/.docker`,
    /// `$REGISTRY_AUTH_FILE`, and `containers/auth.json` in `$XDG_RUNTIME_DIR` and in `$XDG_CONFIG_HOME` or `~/.config`.
    pub fn of_environment(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = |below: &str| path("HOME").map(|home| home.join(below));
        let containers = |dir: PathBuf| dir.join("containers/auth.json");
        let files = [
            path("DOCKER_CONFIG").or_else(|| home(".docker")).map(|dir| dir.join("config.json")),
            path("REGISTRY_AUTH_FILE"),
            path("XDG_RUNTIME_DIR").map(containers),
            path("XDG_CONFIG_HOME").or_else(|| home(".config")).map(containers),
        ];
        Self::new(files.into_iter().flatten().collect())
    }

    /// Looks for helpers in the directories of `path` instead of those of `PATH`.
    #[must_use]
    pub fn with_path(mut self, path: OsString) -> Self {
        self.helpers.path = Some(path);
        self
    }

    /// Kills a helper that takes longer than `limit`.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.helpers.limit = Some(limit);
        self
    }

    /// The login for `repo` at `host` as it is now; `None`: nobody is logged in there. A file or a helper that fails does not keep the
    /// others from being asked; where they have nothing either, the first error is told. Must be used inside a tokio runtime with time and I/O.
    pub async fn find(&self, host: &str, repo: &str) -> Result<Option<Found>, LoginError> {
        let mut failed = None;
        for file in &self.files {
            match self.look(file, host, repo).await {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    async fn look(&self, file: &Path, host: &str, repo: &str) -> Result<Option<Found>, LoginError> {
        let Some(config) = read(file)? else { return Ok(None) };
        let mut failed = None;
        for entry in config.entries(host, repo) {
            let (found, from) = match entry {
                Entry::Login(login) => (Ok(Some(login)), file.display().to_string()),
                Entry::Helper { name, server } => {
                    let program = format!("docker-credential-{name}");
                    let answer = self.helpers.ask(program.clone(), &server).await;
                    let told = |source| LoginError::Helper { program: program.clone(), server, source };
                    (answer.map_err(told), program.clone())
                }
            };
            match found {
                Ok(Some(login)) => return Ok(Some(Found { login, from })),
                Ok(None) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(None), Err)
    }
}

/// Reads and parses `path`. `None`: there is no such file. Small and local, so it is read where it is wanted.
fn read(path: &Path) -> Result<Option<DockerConfig>, LoginError> {
    let told = |source| LoginError::Read { path: path.to_path_buf(), source };
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => {}
        // A pipe would keep us waiting.
        Ok(_other) => return Err(told(io::Error::other("no regular file"))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(told(error)),
    }
    let file = std::fs::File::open(path).map_err(told)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(told)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(LoginError::TooLong { path: path.to_path_buf(), limit: MAX_FILE });
    }
    DockerConfig::parse(&bytes).map(Some).ok_or_else(|| LoginError::Json { path: path.to_path_buf() })
}
