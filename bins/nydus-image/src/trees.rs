//! `diff`: arguments to library calls, findings to lines or JSON.

use crate::args::{DiffArgs, SizeArg};
use anyhow::Context;
use rafs_builder::diff::{self, Change, Kind, Part, Price, Summary};
use rafs_builder::digest::Scope;
use rafs_builder::open::Image;
use serde_json::json;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

/// Runs `diff`. Success is exit code 0 for equal trees, or for a price that is not over, and 1 otherwise; the caller makes failures 2.
pub fn diff(args: &DiffArgs) -> anyhow::Result<ExitCode> {
    let (first, second) = open_both(args)?;
    let scope = if args.content { Scope::Content } else { Scope::Full };
    let mut out = BufWriter::new(io::stdout().lock());
    let mut changes = Vec::new();
    let summary = diff::diff(&first, &second, scope, &mut |change| {
        if args.json {
            changes.push(change_json(change));
            return Ok(());
        }
        writeln!(out, "{}", change_line(change))
    })?;
    let priced = args.price || args.fail_over.is_some();
    let price = priced.then(|| diff::price(&first, &second)).transpose()?;
    if args.json {
        let text = serde_json::to_string_pretty(&summary_json(&summary, &changes, price.as_ref()))?;
        writeln!(out, "{text}")?;
    } else if let Some(price) = &price {
        writeln!(out, "{}", price_line(price))?;
    }
    out.flush().context("cannot write the result")?;
    let bad = match (args.fail_over, price) {
        (Some(SizeArg(limit)), Some(price)) => price.bytes > limit,
        _ => !summary.is_same(),
    };
    Ok(ExitCode::from(u8::from(bad)))
}

/// Both images, read at the same time.
fn open_both(args: &DiffArgs) -> anyhow::Result<(Image, Image)> {
    std::thread::scope(|threads| {
        let second = threads.spawn(|| Image::open(&args.second));
        let first = Image::open(&args.first);
        let second = second.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((first?, second?))
    })
}

/// One line: `A path`, `D path`, `M path what changed`.
fn change_line(change: &Change<'_>) -> String {
    let path = shown(change.path);
    match change.kind {
        Kind::Added(_) => format!("A {path}"),
        Kind::Removed(_) => format!("D {path}"),
        Kind::Changed(parts) => {
            let mut line = format!("M {path}");
            for part in parts {
                // Writing to a string does not fail.
                let _done = write!(line, " {}", part.name()).is_ok();
            }
            line
        }
    }
}

/// A path as it is, or quoted where it would not be one word on one line.
fn shown(path: &[u8]) -> String {
    let plain = std::str::from_utf8(path)
        .ok()
        .filter(|path| !path.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\\')));
    plain.map_or_else(|| format!("{:?}", OsStr::from_bytes(path)), str::to_owned)
}

/// What fetching costs.
fn price_line(price: &Price) -> String {
    let Price { chunks, bytes, new_chunks, new_bytes } = price;
    format!("to fetch: {chunks} chunks, {bytes} bytes; new content: {new_chunks} chunks, {new_bytes} bytes")
}

/// One change as JSON; `path_hex` only where the path is not UTF-8.
fn change_json(change: &Change<'_>) -> serde_json::Value {
    let mut value = match change.kind {
        Kind::Added(kind) => json!({ "change": "added", "type": kind.name() }),
        Kind::Removed(kind) => json!({ "change": "removed", "type": kind.name() }),
        Kind::Changed(parts) => {
            json!({ "change": "changed", "parts": parts.iter().map(|part: &Part| part.name()).collect::<Vec<_>>() })
        }
    };
    value["path"] = String::from_utf8_lossy(change.path).into();
    if std::str::from_utf8(change.path).is_err() {
        value["path_hex"] = change.path.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
    }
    value
}

/// All of a comparison as JSON.
fn summary_json(
    summary: &Summary,
    changes: &[serde_json::Value],
    price: Option<&Price>,
) -> serde_json::Value {
    let mut value = json!({
        "same": summary.is_same(),
        "tree_digests": [summary.digests.0.to_string(), summary.digests.1.to_string()],
        "added": summary.added,
        "removed": summary.removed,
        "changed": summary.changed,
        "visited": summary.visited,
        "changes": changes,
    });
    if let Some(Price { chunks, bytes, new_chunks, new_bytes }) = price {
        value["price"] =
            json!({ "chunks": chunks, "bytes": bytes, "new_chunks": new_chunks, "new_bytes": new_bytes });
    }
    value
}
