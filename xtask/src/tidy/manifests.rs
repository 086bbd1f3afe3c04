//! `Cargo.toml` files: what every package says of itself, and that each shared dependency is explained and used.

use super::Problem;
use anyhow::Context;
use std::collections::BTreeSet;
use std::path::Path;
use toml::{Table, Value};

pub fn check(root: &Path) -> anyhow::Result<Vec<Problem>> {
    let shared = read(root, "Cargo.toml")?;
    let mut problems = unexplained(&shared);
    let mut used = BTreeSet::new();
    for package in crate::workspace::members()?.workspace_packages() {
        let path = package.manifest_path.as_std_path();
        let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
        let text = read(root, &name)?;
        let table: Table = text.parse().with_context(|| format!("cannot parse {name}"))?;
        problems.extend(incomplete(&table).into_iter().map(|what| Problem {
            file: name.clone(),
            line: 1,
            what,
        }));
        collect(&table, &mut used);
    }
    problems.extend(unused(&shared, &used));
    Ok(problems)
}

fn read(root: &Path, name: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(root.join(name)).with_context(|| format!("cannot read {name}"))
}

/// Lines of `[workspace.dependencies]` with their numbers: names where a dependency starts, `None` for a comment.
fn shared_dependencies(text: &str) -> Vec<(usize, Option<String>)> {
    let lines = (1..).zip(text.lines());
    let inside = lines.skip_while(|(_, line)| line.trim() != "[workspace.dependencies]").skip(1);
    let inside = inside.take_while(|(_, line)| !line.starts_with('['));
    let told = inside.filter_map(|(n, line)| {
        if line.starts_with('#') {
            return Some((n, None));
        }
        let (name, _) = line.split_once('=')?;
        let name = name.trim().trim_matches('"');
        let plain = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'));
        (plain && !line.starts_with(' ')).then(|| (n, Some(name.to_owned())))
    });
    told.collect()
}

/// Shared dependencies in front of which no comment stands, up to the next empty line or the start of the section.
fn unexplained(text: &str) -> Vec<Problem> {
    let lines: Vec<_> = text.lines().collect();
    let explained = |n: usize| {
        let above = lines.get(..n - 1).unwrap_or(&[]).iter().rev();
        above
            .take_while(|line| !line.trim().is_empty() && !line.starts_with('['))
            .any(|line| line.starts_with('#'))
    };
    let names = shared_dependencies(text).into_iter().filter_map(|(n, name)| Some((n, name?)));
    names
        .filter(|(n, _)| !explained(*n))
        .map(|(line, name)| problem(line, format!("{name} stands under no comment that says why")))
        .collect()
}

/// Shared dependencies that no package uses.
fn unused(text: &str, used: &BTreeSet<String>) -> Vec<Problem> {
    let names = shared_dependencies(text).into_iter().filter_map(|(n, name)| Some((n, name?)));
    names
        .filter(|(_, name)| !used.contains(name))
        .map(|(line, name)| problem(line, format!("{name} is used by no package")))
        .collect()
}

fn problem(line: usize, what: String) -> Problem {
    Problem { file: "Cargo.toml".into(), line, what }
}

/// What the manifest of a package leaves out.
fn incomplete(manifest: &Table) -> Vec<String> {
    let package = manifest.get("package").and_then(Value::as_table);
    let has = |key: &str| package.is_some_and(|package| package.contains_key(key));
    let missing =
        ["description", "license"].into_iter().filter(|key| !has(key)).map(|key| format!("has no {key}"));
    let lints = manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(Value::as_bool);
    let lints = (lints != Some(true)).then(|| "does not say `[lints] workspace = true`".to_owned());
    missing.chain(lints).collect()
}

/// Adds the names of all dependencies in any table of a manifest.
fn collect(table: &Table, used: &mut BTreeSet<String>) {
    for (key, value) in table {
        let Some(inner) = value.as_table() else { continue };
        match key.as_str() {
            "dependencies" | "dev-dependencies" | "build-dependencies" => used.extend(inner.keys().cloned()),
            _ => collect(inner, used),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED: &str = "[workspace]\nx = 1\n\n[workspace.dependencies]\n# Why.\na = \"1\"\nb = { version = \"1\" }\n\nc = \"1\"\n\n[profile.dev]\nd = 1\n";

    fn told(problems: &[Problem]) -> Vec<String> {
        problems.iter().map(Problem::to_string).collect()
    }

    #[test]
    fn each_shared_dependency_is_explained_and_used() {
        assert_eq!(told(&unexplained(SHARED)), ["Cargo.toml:9: c stands under no comment that says why"]);
        let used = ["a", "c"].map(str::to_owned).into();
        assert_eq!(told(&unused(SHARED, &used)), ["Cargo.toml:7: b is used by no package"]);
    }

    #[test]
    fn dependencies_of_all_kinds_count() {
        let manifest = "[dependencies]\na.workspace = true\n[target.x.dev-dependencies]\nb = \"1\"\n[build-dependencies.c]\nx = 1\n";
        let mut used = BTreeSet::new();
        collect(&manifest.parse().unwrap(), &mut used);
        assert_eq!(used, ["a", "b", "c"].map(str::to_owned).into());
    }

    #[test]
    fn packages_describe_themselves() {
        let good = "[package]\ndescription = \"x\"\nlicense.workspace = true\n[lints]\nworkspace = true\n";
        assert_eq!(incomplete(&good.parse().unwrap()), [""; 0]);
        assert_eq!(incomplete(&"[package]\n".parse().unwrap()).len(), 3);
    }
}
