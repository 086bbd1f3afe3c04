//! Paths to prefetch, as `create` and `merge` take them.

use anyhow::{Context, bail};
use clap::ValueEnum;
use std::fs::File;
use std::io::{self, BufRead};
use std::path::Path;

/// What paths to prefetch are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PrefetchPolicy {
    /// A table in the bootstrap.
    Fs,
    /// The order of a directory's files in the blob.
    Blob,
    /// Nothing.
    None,
}

/// Paths to prefetch: absolute, none below one before it. They are in `file`, or else on standard input, unless that is `taken`.
pub fn read(policy: PrefetchPolicy, file: Option<&Path>, taken: bool) -> anyhow::Result<Vec<Vec<u8>>> {
    if policy == PrefetchPolicy::None {
        return Ok(Vec::new());
    }
    let input: Box<dyn BufRead> = match file {
        Some(path) => {
            let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            Box::new(io::BufReader::new(file))
        }
        None if taken => {
            bail!("standard input cannot be both SOURCE and the paths to prefetch: use --prefetch-files")
        }
        None => Box::new(io::stdin().lock()),
    };
    let mut paths: Vec<Vec<u8>> = Vec::new();
    for line in input.split(b'\n') {
        let line = line.context("cannot read the paths to prefetch")?.trim_ascii().to_vec();
        let shown = String::from_utf8_lossy(&line).into_owned();
        let covers = |earlier: &Vec<u8>| {
            let rest = line.strip_prefix(earlier.strip_suffix(b"/").unwrap_or(earlier));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        if line.is_empty() {
        } else if !line.starts_with(b"/") {
            tracing::warn!("path to prefetch {shown:?} is not absolute and left out");
        } else if paths.iter().any(covers) {
            tracing::warn!("path to prefetch {shown:?} is below one before it and left out");
        } else {
            paths.push(line);
        }
    }
    Ok(paths)
}
