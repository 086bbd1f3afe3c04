//! The tree that layers give when they are applied in order, made by `tar` and by moving files: nothing of what is tested is used.
//!
//! Each layer is unpacked by itself. Then what its whiteouts name is removed from the tree, and the rest is moved into it.
//! Links in the tree are never followed.

use super::interrupt::Interrupt;
use crate::process;
use anyhow::Context;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

/// Names that begin so say that the rest of the name is gone from lower layers.
const WHITEOUT: &[u8] = b".wh.";
/// All that lower layers have in this directory is gone.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Unpacks a tar into the new directory `to`.
pub fn unpack(tar: &Path, to: &Path, interrupt: &Interrupt) -> anyhow::Result<()> {
    std::fs::create_dir(to).with_context(|| format!("cannot create {}", to.display()))?;
    // What an image has where its tar does not mention the root.
    std::fs::set_permissions(to, PermissionsExt::from_mode(0o755))?;
    let mut command = Command::new("tar");
    command.args(["-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C"]).arg(to);
    interrupt.run(command.arg("-f").arg(tar))
}

/// Applies a layer to the tree at `root`, by way of the new directory `by`.
pub fn apply(tar: &Path, root: &Path, by: &Path, interrupt: &Interrupt) -> anyhow::Result<()> {
    unpack(tar, by, interrupt)?;
    let told = directories(tar)?;
    let layer = Unpacked { root, by, told: &told };
    layer.whiteouts(Path::new("")).context("cannot apply the whiteouts")?;
    layer.rest(Path::new("")).context("cannot apply the layer")?;
    std::fs::remove_dir_all(by).with_context(|| format!("cannot remove {}", by.display()))
}

struct Unpacked<'a> {
    root: &'a Path,
    by: &'a Path,
    /// Directories that the layer has entries for; others are only implied by what is in them.
    told: &'a HashSet<PathBuf>,
}

impl Unpacked<'_> {
    fn whiteouts(&self, dir: &Path) -> anyhow::Result<()> {
        // Where the tree has no directory, no link either, there is nothing to remove.
        if !metadata(&self.root.join(dir))?.is_some_and(|metadata| metadata.is_dir()) {
            return Ok(());
        }
        for (name, kind) in list(&self.by.join(dir))? {
            if name.as_bytes() == OPAQUE {
                for (name, _) in list(&self.root.join(dir))? {
                    remove(&self.root.join(dir).join(name))?;
                }
            } else if let Some(gone) = name.as_bytes().strip_prefix(WHITEOUT) {
                if !matches!(gone, b"" | b"." | b"..") {
                    remove(&self.root.join(dir).join(OsStr::from_bytes(gone)))?;
                }
            } else if kind.is_dir() {
                self.whiteouts(&dir.join(name))?;
            }
        }
        Ok(())
    }

    fn rest(&self, dir: &Path) -> anyhow::Result<()> {
        let (from, to) = (self.by.join(dir), self.root.join(dir));
        if self.told.contains(dir) {
            let metadata = from.symlink_metadata()?;
            std::os::unix::fs::lchown(&to, Some(metadata.uid()), Some(metadata.gid()))?;
            std::fs::set_permissions(&to, metadata.permissions())?;
        }
        for (name, kind) in list(&from)? {
            if name.as_bytes().starts_with(WHITEOUT) {
                continue;
            }
            let path = dir.join(&name);
            if kind.is_dir() {
                self.directory(&path)?;
            } else {
                remove(&to.join(&name))?;
                std::fs::rename(from.join(&name), to.join(&name))?;
            }
        }
        Ok(())
    }

    fn directory(&self, path: &Path) -> anyhow::Result<()> {
        let to = self.root.join(path);
        if !metadata(&to)?.is_some_and(|metadata| metadata.is_dir()) {
            remove(&to)?;
            std::fs::create_dir(&to)?;
            let metadata = self.by.join(path).symlink_metadata()?;
            std::os::unix::fs::lchown(&to, Some(metadata.uid()), Some(metadata.gid()))?;
            std::fs::set_permissions(&to, metadata.permissions())?;
        }
        self.rest(path)
    }
}

/// The directories that a tar has entries for.
fn directories(tar: &Path) -> anyhow::Result<HashSet<PathBuf>> {
    let mut command = Command::new("tar");
    let listed = process::output(command.args(["-t", "--quoting-style=escape", "-f"]).arg(tar))?;
    let names = listed.lines().filter(|line| line.ends_with('/')).map(unescaped);
    Ok(names.map(|name| normal(&name)).collect())
}

fn normal(path: &Path) -> PathBuf {
    path.components().filter(|component| matches!(component, Component::Normal(_))).collect()
}

/// A name as `tar` lists it, with `\n`, `\\`, `\303` and the like.
fn unescaped(name: &str) -> PathBuf {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        let (true, Some((&escaped, behind))) = (byte == b'\\', rest.split_first()) else {
            plain.push(byte);
            continue;
        };
        let digits = rest.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let octal = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(octal.unwrap_or(match escaped {
            b'a' => 7,
            b'b' => 8,
            b't' => b'\t',
            b'n' => b'\n',
            b'v' => 11,
            b'f' => 12,
            b'r' => b'\r',
            other => other,
        }));
        rest = if octal.is_some() { &rest[3..] } else { behind };
    }
    OsString::from_vec(plain).into()
}

fn list(dir: &Path) -> anyhow::Result<Vec<(OsString, std::fs::FileType)>> {
    let entries = dir.read_dir().with_context(|| format!("cannot list {}", dir.display()))?;
    entries
        .map(|entry| entry.and_then(|entry| Ok((entry.file_name(), entry.file_type()?))).map_err(Into::into))
        .collect()
}

fn metadata(path: &Path) -> anyhow::Result<Option<Metadata>> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Removes whatever is there, if anything is.
fn remove(path: &Path) -> anyhow::Result<()> {
    let removed = match metadata(path)? {
        None => Ok(()),
        Some(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Some(_) => std::fs::remove_file(path),
    };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_names_are_read() {
        assert_eq!(unescaped("a\\n\\\\\\303\\251 b/"), Path::new("a\n\\é b/"));
        assert_eq!(normal(Path::new("./usr//bin/")), Path::new("usr/bin"));
        assert_eq!(normal(Path::new("./")), Path::new(""));
    }
}
