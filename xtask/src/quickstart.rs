//! `cargo xtask quickstart`: not written yet.

use std::path::Path;

/// Fails.
pub fn quickstart(_image: Option<&Path>) -> anyhow::Result<()> {
    anyhow::bail!("quickstart is not written yet")
}
