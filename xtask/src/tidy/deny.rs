//! `deny.toml`, enforced without `cargo-deny`: licences, sources, banned packages and versions of all that a build uses.
//!
//! Reads the same file that `cargo deny` reads, and of it the keys named in [`Rules`]; a source other than Cargo's default
//! registry is always refused. It cannot ask for advisories.

use super::Problem;
use anyhow::Context;
use cargo_metadata::Package;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What `deny.toml` says, as far as this chore reads it.
#[derive(Debug, Deserialize)]
struct Rules {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Debug, Deserialize)]
struct Licenses {
    /// Identifiers, with ` WITH exception` where there is one.
    allow: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Bans {
    deny: Vec<Named>,
    /// Packages that may be there in several versions.
    skip: Vec<Named>,
}

/// A package by name; a version behind `@` or in its own key is left to `cargo deny`.
#[derive(Debug, Deserialize)]
struct Named {
    #[serde(alias = "name")]
    #[serde(rename = "crate")]
    name: String,
}

pub fn check(root: &Path) -> anyhow::Result<Vec<Problem>> {
    let text = std::fs::read_to_string(root.join("deny.toml")).context("cannot read deny.toml")?;
    let rules: Rules = toml::from_str(&text).context("cannot parse deny.toml")?;
    let metadata = crate::workspace::everything()?;
    let used: BTreeSet<_> =
        metadata.resolve.iter().flat_map(|resolve| &resolve.nodes).map(|node| &node.id).collect();
    let packages: Vec<_> = metadata.packages.iter().filter(|package| used.contains(&package.id)).collect();
    let each = packages.iter().flat_map(|package| wrong(&rules, package));
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let twice =
        repeated(&rules, packages.iter().map(|package| (package.name.as_str(), package.version.to_string())));
    Ok(each.chain(twice).map(|(name, what)| at(&lock, &name, what)).collect())
}

/// A problem of the package `name`, placed where `Cargo.lock` names it.
fn at(lock: &str, name: &str, what: String) -> Problem {
    let wanted = format!("name = \"{name}\"");
    let line = lock.lines().position(|line| line == wanted).map_or(1, |n| n + 1);
    Problem { file: "Cargo.lock".into(), line, what: format!("{name} {what}") }
}

/// What is wrong with one package, each with its name.
fn wrong(rules: &Rules, package: &Package) -> Vec<(String, String)> {
    let name = package.name.as_str();
    let license = match package.license.as_deref() {
        Some(license) if allows(license, &rules.licenses.allow) => None,
        Some(license) => Some(format!("has the licence {license}, which deny.toml does not allow")),
        None => Some("names no licence".to_owned()),
    };
    // Our own packages have no source.
    let source = package.source.as_ref().filter(|source| !source.is_crates_io());
    let source = source.map(|source| format!("comes from {source}, not from Cargo's default registry"));
    let banned = rules
        .bans
        .deny
        .iter()
        .any(|banned| banned.bare() == name)
        .then(|| "is banned by deny.toml".to_owned());
    [license, source, banned].into_iter().flatten().map(|what| (name.to_owned(), what)).collect()
}

impl Named {
    /// The name without a version.
    fn bare(&self) -> &str {
        self.name.split('@').next().unwrap_or(&self.name)
    }
}

/// Packages that are there in several versions, though `skip` does not name them.
fn repeated<'a>(rules: &Rules, packages: impl Iterator<Item = (&'a str, String)>) -> Vec<(String, String)> {
    let mut versions: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (name, version) in packages {
        versions.entry(name).or_default().insert(version);
    }
    let skipped = |name: &str| rules.bans.skip.iter().any(|skip| skip.bare() == name);
    let several = versions.into_iter().filter(|(name, versions)| versions.len() > 1 && !skipped(name));
    let told = several.map(|(name, versions)| {
        let list = Vec::from_iter(versions).join(", ");
        (name.to_owned(), format!("is there in several versions ({list}), which deny.toml does not allow"))
    });
    told.collect()
}

/// Can a licence expression be met by allowed licences alone? `OR` (or `/`) needs one side, `AND` both; `OR` binds less. What is
/// no expression is not met.
fn allows(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<_> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words, allowed };
    parser.any().is_some_and(|met| met && parser.words.is_empty())
}

struct Parser<'a> {
    words: &'a [&'a str],
    allowed: &'a [String],
}

impl Parser<'_> {
    /// Takes `word` if it is next.
    fn take(&mut self, word: &str) -> bool {
        match self.words.split_first() {
            Some((next, rest)) if *next == word => {
                self.words = rest;
                true
            }
            _ => false,
        }
    }

    fn any(&mut self) -> Option<bool> {
        let mut met = self.all()?;
        while self.take("OR") {
            met |= self.all()?;
        }
        Some(met)
    }

    fn all(&mut self) -> Option<bool> {
        let mut met = self.one()?;
        while self.take("AND") {
            met &= self.one()?;
        }
        Some(met)
    }

    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let met = self.any()?;
            return self.take(")").then_some(met);
        }
        let (license, rest) = self.words.split_first()?;
        self.words = rest;
        let mut name = (*license).to_owned();
        if self.take("WITH") {
            let (exception, rest) = self.words.split_first()?;
            self.words = rest;
            name = format!("{name} WITH {exception}");
        }
        Some(self.allowed.contains(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_expressions_are_met_as_written() {
        let allowed = ["A", "B", "C WITH e"].map(str::to_owned);
        for good in
            ["A", "A OR X", "X OR A", "X/A", "X / A", "A AND B", "(A OR X) AND B", "X AND X OR A", "C WITH e"]
        {
            assert!(allows(good, &allowed), "{good}");
        }
        for bad in
            ["X", "A AND X", "A AND (X OR X)", "C", "A WITH e", "(A OR X) AND X", "", "A B", "(A", "A OR"]
        {
            assert!(!allows(bad, &allowed), "{bad}");
        }
    }

    #[test]
    fn a_package_in_two_versions_is_told_unless_skipped() {
        let text =
            "[licenses]\nallow = []\n[bans]\ndeny = [{ name = \"x\" }]\nskip = [{ crate = \"a@1\" }]\n";
        let rules: Rules = toml::from_str(text).unwrap();
        assert_eq!(rules.bans.deny[0].bare(), "x");
        let packages = [("a", "1"), ("a", "2"), ("b", "1"), ("b", "2"), ("c", "1")];
        let found = repeated(&rules, packages.into_iter().map(|(name, version)| (name, version.to_owned())));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, "b");
    }
}
