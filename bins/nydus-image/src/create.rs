//! `nydus-image create`: placeholder until building lands.

/// Arguments of `create`.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {}

/// Runs `create`.
pub fn run(_args: &CreateArgs) -> anyhow::Result<()> {
    anyhow::bail!("create is not supported by this version yet")
}
