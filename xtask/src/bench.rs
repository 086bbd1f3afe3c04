//! `cargo xtask bench`: prints the figures of images, mounts and blobs on a network. Decides nothing and fails only where something cannot be measured.

use crate::{process, workspace};
use anyhow::ensure;

/// Packages with a bench, and its name.
const BENCHES: [(&str, &str); 3] = [("rafs-builder", "figures"), ("tests", "mount"), ("tests", "blobs")];

/// Runs all benches; one that fails does not stop the others.
pub fn bench() -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for (package, name) in BENCHES {
        println!("==> {package}, {name}");
        let mut cargo = workspace::cargo();
        cargo.args(["bench", "--quiet", "--locked", "--package", package, "--bench", name]);
        if let Err(error) = process::run(cargo.current_dir(workspace::root())) {
            eprintln!("{error:#}");
            failed.push(name);
        }
    }
    ensure!(failed.is_empty(), "bench: {} could not be measured", failed.join(", "));
    Ok(())
}
