//! `cargo xtask layers`: which of our crates may use which. Knows [`MAY_USE`], which is the architecture, and nothing of code.

use anyhow::ensure;
use cargo_metadata::{DependencyKind, Package};

/// Each package of ours, lowest layer first, and the packages of ours that it may use. A package without a row fails.
/// docs/architecture.md says what each is.
const MAY_USE: &[(&str, &[&str])] = &[
    ("build-info", &[]),
    ("cli-report", &[]),
    ("rafs-format", &[]),
    ("rafs-merkle", &["rafs-format"]),
    ("rafs-codec", &["rafs-format"]),
    ("chunk-store", &["rafs-format", "rafs-merkle"]),
    ("oci-registry", &[]),
    ("blob-storage", &["rafs-format", "oci-registry"]),
    // Of rafs-format it takes blobs and chunks as the bootstrap describes them.
    ("blob-cache", &["rafs-format", "rafs-merkle", "rafs-codec", "chunk-store", "blob-storage"]),
    ("rafs-vfs", &["rafs-format", "rafs-merkle", "blob-cache"]),
    ("rafs-fuse", &["cli-report", "rafs-vfs"]),
    ("rafs-erofs", &["rafs-format", "blob-cache"]),
    (
        "rafs-builder",
        &[
            "cli-report",
            "rafs-format",
            "rafs-merkle",
            "rafs-codec",
            "chunk-store",
            "oci-registry",
            "blob-storage",
        ],
    ),
    (
        "rafs-daemon",
        &[
            "build-info",
            "cli-report",
            "rafs-format",
            "rafs-merkle",
            "rafs-codec",
            "chunk-store",
            "oci-registry",
            "blob-storage",
            "blob-cache",
            "rafs-vfs",
            "rafs-fuse",
            "rafs-erofs",
        ],
    ),
    ("testkit", ANY),
    ("nydus-image", &["build-info", "cli-report", "rafs-builder"]),
    ("nydusd", &["build-info", "cli-report", "rafs-daemon"]),
    ("tests", ANY),
    ("xtask", &[]),
];

/// Any package of ours.
const ANY: &[&str] = &["*"];
/// May only be a dev-dependency, whoever uses it but the package of end-to-end tests, which is tests all through.
const DEV_ONLY: &str = "testkit";
const ALL_TESTS: &str = "tests";

/// Fails, naming each, on every dependency between packages of the workspace that [`MAY_USE`] does not list.
pub fn layers() -> anyhow::Result<()> {
    let metadata = crate::workspace::members()?;
    let packages = metadata.workspace_packages();
    let problems: Vec<_> = packages.iter().flat_map(|package| wrong(package)).collect();
    problems.iter().for_each(|problem| eprintln!("{problem}"));
    ensure!(problems.is_empty(), "layers: {} dependencies are not allowed", problems.len());
    println!("layers: {} packages keep to their layers", packages.len());
    Ok(())
}

/// What is wrong with the dependencies of `package`.
fn wrong(package: &Package) -> Vec<String> {
    let ours = package.dependencies.iter().filter(|dep| dep.path.is_some());
    let used: Vec<_> =
        ours.filter(|dep| dep.kind != DependencyKind::Development).map(|dep| &*dep.name).collect();
    let manifest = package.manifest_path.as_str();
    forbidden(MAY_USE, package.name.as_str(), &used)
        .iter()
        .map(|problem| format!("{manifest}: {problem}"))
        .collect()
}

/// Dependencies `used` by the package `name` that its row does not list, as messages.
fn forbidden(table: &[(&str, &[&str])], name: &str, used: &[&str]) -> Vec<String> {
    let Some((_, allowed)) = table.iter().find(|(row, _)| *row == name) else {
        return vec![format!("{name} has no row in MAY_USE of xtask/src/layers.rs")];
    };
    let problem = |dep: &&str| match *dep {
        DEV_ONLY if name != ALL_TESTS => Some(format!("{name} may use {DEV_ONLY} as a dev-dependency only")),
        dep if allowed.contains(&dep) || *allowed == ANY => None,
        dep => Some(format!("{name} may not use {dep}")),
    };
    used.iter().filter_map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_dependencies_pass() {
        let table: &[(&str, &[&str])] = &[("a", &[]), ("b", &["a"]), ("e", ANY)];
        assert_eq!(forbidden(table, "b", &["a"]), [""; 0]);
        assert_eq!(forbidden(table, "e", &["a", "b"]), [""; 0]);
        assert_eq!(forbidden(table, "a", &["b"]), ["a may not use b"]);
        assert_eq!(forbidden(table, "e", &["testkit"]), ["e may use testkit as a dev-dependency only"]);
        assert_eq!(forbidden(table, "c", &[]), ["c has no row in MAY_USE of xtask/src/layers.rs"]);
    }

    #[test]
    fn rows_list_rows_above_them_only() {
        for (n, (name, allowed)) in MAY_USE.iter().enumerate() {
            for used in allowed.iter().filter(|used| **used != "*") {
                assert!(MAY_USE[..n].iter().any(|(above, _)| above == used), "{name} uses {used}");
            }
        }
    }
}
