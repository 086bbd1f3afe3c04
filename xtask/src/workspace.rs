//! Where the workspace is and which packages it has: what every chore asks first.

use anyhow::Context;
use cargo_metadata::{Metadata, MetadataCommand};
use std::path::{Path, PathBuf};

/// The directory of the root `Cargo.toml`.
pub fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}

/// Packages of the workspace only; needs no network.
pub fn members() -> anyhow::Result<Metadata> {
    let manifest = root().join("Cargo.toml");
    MetadataCommand::new().manifest_path(manifest).no_deps().exec().context("cannot list the packages")
}

/// All packages that a build for this machine uses, with their licences and sources.
pub fn everything() -> anyhow::Result<Metadata> {
    let manifest = root().join("Cargo.toml");
    // Other platforms are left out: the project runs on Linux only, and their packages would have to be downloaded.
    let options = ["--locked".into(), "--filter-platform".into(), host()?];
    let mut command = MetadataCommand::new();
    command.manifest_path(manifest).other_options(options).exec().context("cannot list the dependencies")
}

/// The target triple of this machine.
pub fn host() -> anyhow::Result<String> {
    let said = crate::process::output(std::process::Command::new("rustc").arg("-vV"))?;
    let triple = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(triple.context("rustc -vV names no host")?.to_owned())
}

/// The cargo that runs this chore, as if it were called by hand: without what it has told this program about its own package. ring's build
/// script would build ring again for that, and all that uses TLS.
pub fn cargo() -> std::process::Command {
    let mut command = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let told = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _value) in std::env::vars_os() {
        if name.to_str().is_some_and(told) {
            command.env_remove(name);
        }
    }
    command
}

/// A directory for what chores make: below the build directory, which git ignores.
pub fn scratch(name: &str) -> anyhow::Result<PathBuf> {
    Ok(members()?.target_directory.into_std_path_buf().join(name))
}
