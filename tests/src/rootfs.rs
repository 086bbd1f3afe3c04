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
        let release = std::fs::read_to_string("/etc/os-release").unwrap();
        let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap();
        let mut command = Command::new("mmdebstrap");
        command.args(["--quiet", "--variant=minbase", "--include=python3-minimal", "--format=tar"]);
        // The sources that this machine is set up for.
        let sources = ["/etc/apt/sources.list", "/etc/apt/sources.list.d/debian.sources"];
        let sources = sources.into_iter().filter(|path| std::path::Path::new(path).exists());
        run_ok(command.arg(suite).arg(&half).args(sources));
        std::fs::rename(&half, &tar).unwrap();
    }
    Some(tar)
}
