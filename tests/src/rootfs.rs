//! A real Debian root file system as a tar, made once for all tests.

use crate::{has_program, run_ok};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// A tar of a minimal Debian with Python; `None`, told, where none can be made. Kept beside the tests' other temporary files and used again by
/// later runs.
pub fn tar() -> Option<PathBuf> {
    static TAR: OnceLock<Option<PathBuf>> = OnceLock::new();
    TAR.get_or_init(make).clone()
}

#[expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
fn make() -> Option<PathBuf> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can make a root file system");
        return None;
    }
    if !has_program("mmdebstrap") {
        return None;
    }
    let dir = std::env::var_os("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let tar = dir.join("debian-rootfs.tar");
    let half = dir.join(format!("debian-rootfs-{}.tar", std::process::id()));
    if !tar.exists() {
        let sources = if std::path::Path::new("/etc/apt/sources.list").exists() {
            "/etc/apt/sources.list".to_owned()
        } else {
            "/etc/apt/sources.list.d/debian.sources".to_owned()
        };
        let mut command = Command::new("mmdebstrap");
        command.args(["--quiet", "--variant=minbase", "--include=python3-minimal", "--format=tar"]);
        run_ok(command.arg("bookworm").arg(&half).arg(sources));
        std::fs::rename(&half, &tar).unwrap();
    }
    Some(tar)
}
