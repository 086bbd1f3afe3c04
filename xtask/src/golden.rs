//! `cargo xtask golden`: copies the bootstraps of the reference builder that tests must always have into
//! `crates/rafs-format/tests/golden`. Nothing else writes there.
//!
//! All golden images together live elsewhere and tests look at them where they are; these few are one of each layout, so that a
//! checkout alone, or the published crate, still shows that what we read and write is the reference's. A file that is no longer
//! the reference's, or that nobody lists, is an error of `cargo xtask ci`.

use crate::workspace;
use anyhow::{Context, ensure};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Images whose bootstraps are kept: each version, without files, with many names in one directory, and each way to store data.
const IMAGES: [&str; 8] = [
    "v5-dir-lz4",
    "v5-empty",
    "v6-chunkdict",
    "v6-dir-batch",
    "v6-dir-lz4-8k",
    "v6-empty",
    "v6-tarfs",
    "v6-zran-multi",
];

/// The folder that keeps them, relative to the workspace.
const KEPT: &str = "crates/rafs-format/tests/golden";

/// The golden images: `RAFS_GOLDEN`, or `../shared/golden/rafs` beside the workspace.
pub fn dir() -> PathBuf {
    let beside = workspace::root().join("../shared/golden/rafs");
    std::env::var_os("RAFS_GOLDEN").map_or(beside, PathBuf::from)
}

/// Writes the kept bootstraps anew. Errors: no golden images.
pub fn golden() -> anyhow::Result<()> {
    let from = dir();
    ensure!(from.is_dir(), "no golden images at {}: set RAFS_GOLDEN", from.display());
    let kept = workspace::root().join(KEPT);
    std::fs::create_dir_all(&kept).with_context(|| format!("cannot create {}", kept.display()))?;
    for path in files(&kept)? {
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    for image in IMAGES {
        let to = kept.join(format!("{image}.boot"));
        std::fs::write(&to, bootstrap(&from, image)?)
            .with_context(|| format!("cannot write {}", to.display()))?;
        println!("golden: {}", to.display());
    }
    Ok(())
}

/// Checks that what is kept is what is listed and, where the golden images are, the same bytes.
pub fn check() -> anyhow::Result<()> {
    let (from, kept) = (dir(), workspace::root().join(KEPT));
    let expected: BTreeSet<PathBuf> =
        IMAGES.into_iter().map(|image| kept.join(format!("{image}.boot"))).collect();
    let found: BTreeSet<PathBuf> = files(&kept)?.into_iter().collect();
    ensure!(found == expected, "{}: not the files that are listed; run `cargo xtask golden`", kept.display());
    if !from.is_dir() {
        println!("SKIPPED: no golden images at {} to compare with", from.display());
        return Ok(());
    }
    for image in IMAGES {
        let path = kept.join(format!("{image}.boot"));
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let same = bytes == bootstrap(&from, image)?;
        ensure!(same, "{} is not the reference's; run `cargo xtask golden`", path.display());
    }
    Ok(())
}

/// The bootstrap of an image in the golden folder.
fn bootstrap(from: &Path, image: &str) -> anyhow::Result<Vec<u8>> {
    let path = from.join(image).join("image.boot");
    std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// Bootstraps in a folder.
fn files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = dir.read_dir().with_context(|| format!("cannot read {}", dir.display()))?;
    let all: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    Ok(all.into_iter().filter(|path| path.extension() == Some(OsStr::new("boot"))).collect())
}
