//! Two trees side by side: names, types, modes, owners, device numbers, sizes, link targets and every byte.

use super::interrupt::Interrupt;
use anyhow::{Context, ensure};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Differences that are told one by one.
const TOLD: usize = 10;
/// Bytes read at a time.
const BUFFER: usize = 1 << 20;

/// What comparing two trees gave.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Names compared, the root included.
    pub entries: u64,
    /// Bytes of files compared.
    pub bytes: u64,
    /// Differences found.
    pub count: u64,
    /// The first ones.
    pub first: Vec<String>,
}

impl Comparison {
    /// Compares `found` with `expected`, owners only if `owners`. Errors: a signal, or an `expected` that cannot be read; what is wrong
    /// with `found` is a difference.
    pub fn of(expected: &Path, found: &Path, owners: bool, interrupt: &Interrupt) -> anyhow::Result<Self> {
        let mut comparison = Self::default();
        let mut open = vec![PathBuf::new()];
        while let Some(path) = open.pop() {
            interrupt.check()?;
            let sides = (expected.join(&path), found.join(&path));
            let metadata =
                sides.0.symlink_metadata().with_context(|| format!("cannot read {}", sides.0.display()))?;
            comparison.entries += 1;
            match sides.1.symlink_metadata() {
                Ok(other) => {
                    comparison.properties(&path, &metadata, &other, owners);
                    // Told as a mode; to open what might be a FIFO could take forever.
                    if other.file_type() != metadata.file_type() {
                        continue;
                    }
                }
                Err(error) => {
                    comparison.differ(&path, format!("cannot be read: {error}"));
                    continue;
                }
            }
            if metadata.is_dir() {
                open.extend(comparison.names(&path, &sides)?);
            } else if metadata.is_file() {
                comparison.data(&path, &sides, interrupt)?;
            } else if metadata.is_symlink() {
                let target = sides.0.read_link()?;
                match sides.1.read_link() {
                    Ok(other) if other == target => {}
                    other => comparison.differ(&path, format!("leads to {other:?}, not {target:?}")),
                }
            }
        }
        Ok(comparison)
    }

    /// An error naming the first differences, if there are any.
    pub fn verdict(&self) -> anyhow::Result<()> {
        let more = self.count.saturating_sub(self.first.len() as u64);
        let rest = if more > 0 { format!("\n  and {more} more") } else { String::new() };
        ensure!(self.count == 0, "the mount differs from its source:\n  {}{rest}", self.first.join("\n  "));
        Ok(())
    }

    fn differ(&mut self, path: &Path, what: String) {
        self.count += 1;
        if self.first.len() < TOLD {
            self.first.push(format!("/{} {what}", path.display()));
        }
    }

    fn properties(&mut self, path: &Path, expected: &Metadata, found: &Metadata, owners: bool) {
        // A mount lets everybody list its root, whatever the source does.
        let wider = if path.as_os_str().is_empty() { 0o555 } else { 0 };
        let mut fields = vec![("mode", u64::from(expected.mode() | wider), u64::from(found.mode()))];
        if owners {
            fields.push(("user", expected.uid().into(), found.uid().into()));
            fields.push(("group", expected.gid().into(), found.gid().into()));
        }
        if expected.is_file() {
            fields.push(("size", expected.len(), found.len()));
        }
        if expected.file_type().is_block_device() || expected.file_type().is_char_device() {
            fields.push(("device", expected.rdev(), found.rdev()));
        }
        for (name, expected, found) in fields.into_iter().filter(|(_, expected, found)| expected != found) {
            let shown = |value: u64| if name == "mode" { format!("{value:o}") } else { value.to_string() };
            self.differ(path, format!("has the {name} {}, not {}", shown(found), shown(expected)));
        }
    }

    /// Compares the names in a directory. Returns the paths of those on both sides.
    fn names(&mut self, path: &Path, sides: &(PathBuf, PathBuf)) -> anyhow::Result<Vec<PathBuf>> {
        let expected = list(&sides.0).with_context(|| format!("cannot list {}", sides.0.display()))?;
        let found = match list(&sides.1) {
            Ok(found) => found,
            Err(error) => {
                self.differ(path, format!("cannot be listed: {error}"));
                return Ok(Vec::new());
            }
        };
        expected.difference(&found).for_each(|name| self.differ(&path.join(name), "is missing".to_owned()));
        found
            .difference(&expected)
            .for_each(|name| self.differ(&path.join(name), "is not in the source".to_owned()));
        Ok(expected.intersection(&found).map(|name| path.join(name)).collect())
    }

    /// Compares the bytes of a file; of one that differs, the first place is told.
    fn data(&mut self, path: &Path, sides: &(PathBuf, PathBuf), interrupt: &Interrupt) -> anyhow::Result<()> {
        let mut expected =
            File::open(&sides.0).with_context(|| format!("cannot read {}", sides.0.display()))?;
        let mut found = match File::open(&sides.1) {
            Ok(found) => found,
            Err(error) => {
                self.differ(path, format!("cannot be opened: {error}"));
                return Ok(());
            }
        };
        let (mut left, mut right) = (Vec::new(), Vec::new());
        let mut at = 0;
        loop {
            interrupt.check()?;
            fill(&mut expected, &mut left).with_context(|| format!("cannot read {}", sides.0.display()))?;
            if let Err(error) = fill(&mut found, &mut right) {
                self.differ(path, format!("cannot be read from byte {at} on: {error}"));
                return Ok(());
            }
            if left != right {
                let same = left.iter().zip(&right).take_while(|(a, b)| a == b).count();
                self.differ(path, format!("has other data from byte {} on", at + same as u64));
                return Ok(());
            }
            if left.is_empty() {
                return Ok(());
            }
            at += left.len() as u64;
            self.bytes += left.len() as u64;
        }
    }
}

fn list(dir: &Path) -> std::io::Result<BTreeSet<OsString>> {
    dir.read_dir()?.map(|entry| Ok(entry?.file_name())).collect()
}

/// Reads the next bytes: [`BUFFER`] of them, fewer only at the end.
fn fill(file: &mut File, buffer: &mut Vec<u8>) -> std::io::Result<()> {
    buffer.clear();
    file.take(BUFFER as u64).read_to_end(buffer).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A tree with a file longer than a buffer, an empty directory and a link.
    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::create_dir_all(dir.path().join("a/empty")).unwrap();
        std::fs::write(dir.path().join("a/long"), vec![5; BUFFER + 10]).unwrap();
        symlink("a/long", dir.path().join("link")).unwrap();
        dir
    }

    fn compared(expected: &Path, found: &Path) -> Comparison {
        std::fs::set_permissions(found, PermissionsExt::from_mode(0o755)).unwrap();
        Comparison::of(expected, found, true, &Interrupt::catch().unwrap()).unwrap()
    }

    #[test]
    fn equal_trees_are_equal() {
        let (one, two) = (tree(), tree());
        let comparison = compared(one.path(), two.path());
        assert_eq!((comparison.entries, comparison.bytes), (5, BUFFER as u64 + 10));
        assert!(comparison.verdict().is_ok());
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        type Change = fn(&Path);
        let changes: [(Change, &str); 6] = [
            (|root| std::fs::write(root.join("more"), "").unwrap(), "/more is not in the source"),
            (|root| std::fs::remove_dir(root.join("a/empty")).unwrap(), "/a/empty is missing"),
            (
                |root| {
                    std::fs::remove_file(root.join("link")).unwrap();
                    symlink("a", root.join("link")).unwrap();
                },
                "/link leads to Ok(\"a\"), not \"a/long\"",
            ),
            (
                |root| {
                    let mut data = vec![5; BUFFER + 10];
                    data[BUFFER + 3] = 6;
                    std::fs::write(root.join("a/long"), data).unwrap();
                },
                "/a/long has other data from byte 1048579 on",
            ),
            (
                |root| File::options().write(true).open(root.join("a/long")).unwrap().set_len(9).unwrap(),
                "/a/long has the size 9, not 1048586",
            ),
            (
                |root| {
                    std::fs::remove_dir(root.join("a/empty")).unwrap();
                    std::fs::write(root.join("a/empty"), "").unwrap();
                },
                "/a/empty has the mode ",
            ),
        ];
        for (change, expected) in changes {
            let (one, two) = (tree(), tree());
            change(two.path());
            let said = compared(one.path(), two.path()).verdict().unwrap_err().to_string();
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn ten_differences_are_named() {
        let (one, two) = (tree(), tree());
        (0..14).for_each(|n| std::fs::write(two.path().join(format!("{n:02}")), "").unwrap());
        let said = compared(one.path(), two.path()).verdict().unwrap_err().to_string();
        assert!(
            said.contains("/09 is") && !said.contains("/10 is") && said.ends_with("and 4 more"),
            "{said}"
        );
    }
}
