//! `diff` and `verify`: arguments to library calls, findings to lines or JSON.

use crate::args::{DiffArgs, SizeArg, VerifyArgs};
use crate::tools;
use anyhow::{Context, bail};
use cli_report::chain;
use rafs_builder::check::DataReport;
use rafs_builder::diff::{self, Change, Kind, Part, Price, Summary};
use rafs_builder::digest::Scope;
use rafs_builder::open::Image;
use rafs_builder::verify;
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
        let (one, two) = diff::digests(&first, &second, scope)?;
        let digests = [one.to_string(), two.to_string()];
        let text = serde_json::to_string_pretty(&summary_json(&summary, digests, &changes, price.as_ref()))?;
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
    digests: [String; 2],
    changes: &[serde_json::Value],
    price: Option<&Price>,
) -> serde_json::Value {
    let mut value = json!({
        "same": summary.is_same(),
        "tree_digests": digests,
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

/// Runs `verify`. What is wrong with the data is a line each on standard error, a chunk one for each file that has it.
pub fn verify(args: &VerifyArgs) -> anyhow::Result<()> {
    let root = verify::parse_root(&args.root).with_context(|| format!("--root {:?}", args.root))?;
    let source = tools::source(None, &args.source)?;
    let image = Image::open(&args.bootstrap.path())?;
    let report = verify::verify(&image, &root, source.as_ref().map(|source| (source, tools::threads())))?;
    let mut out = io::stdout().lock();
    let path = image.path().display();
    if let Some(scope) = report.scope {
        let without = if scope == Scope::Content { ", without times" } else { "" };
        writeln!(out, "RAFS tree is the expected one{without}: {root}")?;
    }
    let data = report.data.as_ref();
    let problems = data.map_or(0, |data| data.more + data.problems.len() as u64);
    if let Some(data) = data {
        tell_data(data, &report.leaves)?;
    }
    match (report.scope, problems) {
        (None, 0) => bail!("{path}: the tree digest is {}, expected {root}", report.full),
        (None, count) => {
            bail!(
                "{path}: the tree digest is {}, expected {root}; {count} problem(s) in the data",
                report.full
            )
        }
        (Some(_), 0) => {}
        (Some(_), count) => bail!("{path}: {count} problem(s) in the data"),
    }
    if let Some(data) = data {
        writeln!(out, "RAFS blob data is valid: {} chunks, {} bytes", data.chunks, data.bytes)?;
    }
    Ok(())
}

/// What is wrong with the data.
fn tell_data(data: &DataReport, leaves: &[verify::Leaf]) -> io::Result<()> {
    let mut err = io::stderr().lock();
    for (at, problem) in data.problems.iter().enumerate() {
        let mut told = false;
        for leaf in leaves.iter().filter(|leaf| leaf.problem == at) {
            writeln!(err, "{}, chunk {} of the file: {}", shown(&leaf.path), leaf.chunk, chain(problem))?;
            told = true;
        }
        if !told {
            writeln!(err, "{}", chain(problem))?;
        }
    }
    if data.more > 0 {
        writeln!(err, "and {} more", data.more)?;
    }
    Ok(())
}
