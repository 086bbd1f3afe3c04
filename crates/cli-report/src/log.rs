//! The log: one line per message, `[YYYY-MM-DD HH:MM:SS.ffffff +00:00] LEVEL text`, coloured only on a terminal.
//!
//! The level of the command line is a ceiling. `RUST_LOG` may ask for less, also by module, as in `warn,rafs_fuse=info`.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Names of levels, for command lines; each is a [`Level`] when parsed.
pub const LEVELS: [&str; 5] = ["trace", "debug", "info", "warn", "error"];

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum LogError {
    #[error("cannot create the directory of log file {}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot open log file {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("this process has a log already")]
    Started { source: tracing_subscriber::util::TryInitError },
}

/// Sends messages from `level` on to `file`, or to standard error. A file is appended to, `.log` is added to a name without
/// extension, and missing directories are created.
pub fn start(level: Level, file: Option<&Path>) -> Result<(), LogError> {
    let (writer, ansi) = match file {
        None => (BoxMakeWriter::new(io::stderr), io::stderr().is_terminal()),
        Some(path) => (BoxMakeWriter::new(Mutex::new(open(&with_extension(path))?)), false),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter(level)).with_ansi(ansi);
    let lines = builder.event_format(Line).with_writer(writer).finish();
    let lines = lines.with(LevelFilter::from_level(level));
    lines.try_init().map_err(|source| LogError::Started { source })
}

/// What `RUST_LOG` lets through, or all up to `level` where it says nothing. Parts of it that make no sense are told on
/// standard error and left out.
fn filter(level: Level) -> EnvFilter {
    match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(wanted) if !wanted.is_empty() => EnvFilter::builder().parse_lossy(wanted),
        _ => EnvFilter::new(level.as_str()),
    }
}

fn open(path: &Path) -> Result<File, LogError> {
    if let Some(dir) = path.parent() {
        let failed = |source| LogError::Directory { path: path.to_path_buf(), source };
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map_err(|source| LogError::Open { path: path.to_path_buf(), source })
}

/// `path`, with `.log` where it has no extension.
fn with_extension(path: &Path) -> PathBuf {
    if path.extension().is_some() { path.to_path_buf() } else { path.with_extension("log") }
}

/// The form of one message.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        write!(out, "[{}] ", timestamp(now.as_secs(), now.subsec_micros()))?;
        match colour(level).filter(|_| out.has_ansi_escapes()) {
            Some(code) => write!(out, "\x1b[{code}m{level}\x1b[0m ")?,
            None => write!(out, "{level} ")?,
        }
        context.field_format().format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}

/// Terminal colour of a level; none for ordinary messages.
fn colour(level: Level) -> Option<u8> {
    match level {
        Level::ERROR => Some(31),
        Level::WARN => Some(33),
        _ => None,
    }
}

/// A time in UTC as `YYYY-MM-DD HH:MM:SS.ffffff +00:00`.
fn timestamp(seconds: u64, micros: u32) -> String {
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06} +00:00")
}

/// Year, month and day of a day counted from 1970-01-01. Years are counted from March here, so that the leap day is the
/// last of its year and months have lengths that one formula gives.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(timestamp(0, 0), "1970-01-01 00:00:00.000000 +00:00");
        assert_eq!(timestamp(951_782_400, 5), "2000-02-29 00:00:00.000005 +00:00");
        assert_eq!(timestamp(1_709_251_199, 0), "2024-02-29 23:59:59.000000 +00:00");
        assert_eq!(timestamp(1_709_251_200, 0), "2024-03-01 00:00:00.000000 +00:00");
        assert_eq!(timestamp(4_107_542_399, 999_999), "2100-02-28 23:59:59.999999 +00:00");
        assert_eq!(timestamp(4_107_542_400, 0), "2100-03-01 00:00:00.000000 +00:00");
    }

    #[test]
    fn log_files_get_an_extension() {
        assert_eq!(with_extension(Path::new("a/x")), Path::new("a/x.log"));
        assert_eq!(with_extension(Path::new("a/x.txt")), Path::new("a/x.txt"));
    }

    #[test]
    fn directories_of_log_files_are_created() {
        let dir = tempfile::tempdir().unwrap();
        open(&dir.path().join("a/b/x.log")).unwrap();
        assert!(dir.path().join("a/b/x.log").exists());
        let error = open(&dir.path().join("a/b/x.log/c/y.log")).unwrap_err();
        assert!(matches!(error, LogError::Directory { .. }), "{error}");
        assert!(matches!(open(dir.path()).unwrap_err(), LogError::Open { .. }));
    }
}
