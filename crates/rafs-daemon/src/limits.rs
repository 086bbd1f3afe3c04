//! How many files the process may have open. Every cached blob is one, every mount some more.
//!
//! Invariant: nothing here stops a start. A limit that cannot be raised is a warning for the caller to log, as a daemon
//! with few blobs works well below it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::num::ParseIntError;

/// Files that are left to the rest of the machine.
const RESERVED: u64 = 16_384;
/// A machine with fewer open files than this has none to spare: half of them are reserved.
const MIN_FILE_MAX: u64 = 2 * RESERVED;
/// More is not asked for unless the process has it already.
const MAX_OPEN_FILES: u64 = 1_000_000;
/// How many files may be open on the machine.
const FILE_MAX: &str = "/proc/sys/fs/file-max";

/// Why the limit is not what was wanted. The daemon can go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum LimitWarning {
    #[error("the limit of open files stays at {}: cannot read {FILE_MAX}", shown(*now))]
    Read { now: Option<u64>, source: io::Error },
    #[error("the limit of open files stays at {}: {FILE_MAX} does not hold a number", shown(*now))]
    NotANumber { now: Option<u64>, source: ParseIntError },
    #[error("the limit of open files stays at {}: the machine has {file_max}, expected {MIN_FILE_MAX} at least", shown(*now))]
    SmallMachine { now: Option<u64>, file_max: u64 },
    #[error("the limit of open files is {}, not {wanted}", shown(*now))]
    NotAllowed { now: Option<u64>, wanted: u64, source: io::Error },
}

/// A limit for a message.
fn shown(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}

/// Lets this process have about `wanted` files open, or leaves the limit alone where that is 0. Gives the limit in force
/// then, `None` for none. A process without privileges gets as much as its hard limit allows, and a warning.
pub fn raise_open_files(wanted: u64) -> Result<Option<u64>, LimitWarning> {
    let limits = getrlimit(Resource::Nofile);
    let now = limits.current;
    if wanted == 0 {
        return Ok(now);
    }
    let text = std::fs::read_to_string(FILE_MAX).map_err(|source| LimitWarning::Read { now, source })?;
    let file_max = text.trim().parse().map_err(|source| LimitWarning::NotANumber { now, source })?;
    let limit = target(wanted, now, file_max).ok_or(LimitWarning::SmallMachine { now, file_max })?;
    match setrlimit(Resource::Nofile, with(limits, limit)) {
        Ok(()) => Ok(Some(limit)),
        Err(source) => Err(LimitWarning::NotAllowed {
            now: as_far_as_allowed(limits),
            wanted: limit,
            source: source.into(),
        }),
    }
}

/// The limit to set: `wanted`, but not more than what the process has or what the machine can spare. `current` is `None` for
/// no limit. `None` where the machine is too small to say.
fn target(wanted: u64, current: Option<u64>, file_max: u64) -> Option<u64> {
    if file_max < MIN_FILE_MAX {
        return None;
    }
    let spare = (file_max - RESERVED).min(MAX_OPEN_FILES);
    Some(wanted.min(current.unwrap_or(u64::MAX).max(spare)))
}

/// `limits` with the soft limit at `limit`. The hard one is raised with it, never lowered, since that could not be undone.
fn with(limits: Rlimit, limit: u64) -> Rlimit {
    Rlimit { current: Some(limit), maximum: limits.maximum.map(|hard| hard.max(limit)) }
}

/// Raises the soft limit to the hard one, which needs no privilege; the limit in force then.
fn as_far_as_allowed(limits: Rlimit) -> Option<u64> {
    match setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits }) {
        Ok(()) => limits.maximum,
        Err(_) => limits.current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_what_is_wanted_or_what_can_be_spared() {
        for (wanted, current, file_max, expected) in [
            // (wanted, soft limit, fs.file-max) → limit
            (1_000_000, Some(1024), 9_000_000, Some(1_000_000)),
            (2_000_000, Some(1024), 9_000_000, Some(1_000_000)),
            (2_000_000, Some(1_500_000), 9_000_000, Some(1_500_000)),
            (2_000_000, None, 9_000_000, Some(2_000_000)),
            (1_000_000, Some(1024), 100_000, Some(83_616)),
            (1_000_000, Some(90_000), 100_000, Some(90_000)),
            (1_000_000, Some(1024), u64::MAX, Some(1_000_000)),
            (512, Some(1024), 9_000_000, Some(512)),
            (1_000_000, Some(1024), 32_768, Some(16_384)),
            (1_000_000, Some(1024), 32_767, None),
            (1_000_000, None, 0, None),
        ] {
            assert_eq!(target(wanted, current, file_max), expected, "{wanted}, {current:?}, {file_max}");
        }
    }

    #[test]
    fn hard_limits_are_never_lowered() {
        let limits = |soft, hard| Rlimit { current: soft, maximum: hard };
        assert_eq!(with(limits(Some(10), Some(20)), 15), limits(Some(15), Some(20)));
        assert_eq!(with(limits(Some(10), Some(20)), 30), limits(Some(30), Some(30)));
        assert_eq!(with(limits(Some(10), None), 30), limits(Some(30), None));
    }

    #[test]
    fn zero_leaves_the_limit_alone() {
        let before = getrlimit(Resource::Nofile);
        assert_eq!(raise_open_files(0).unwrap(), before.current);
        assert_eq!(getrlimit(Resource::Nofile), before);
    }
}
