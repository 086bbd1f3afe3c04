//! The kernel's table of mounts, as far as mounting needs it. Format: proc_pid_mountinfo(5).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// `major:minor`.
    pub device: String,
    pub mountpoint: PathBuf,
    pub fs_type: String,
    pub source: String,
}

/// What is mounted on `path` (absolute, no symbolic links), the topmost; `None` when nothing is.
pub(crate) fn at(path: &Path) -> io::Result<Option<Entry>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(entries(&table).filter(|entry| entry.mountpoint == path).last())
}

/// Entries of a table; lines of another form are left out.
fn entries(table: &[u8]) -> impl Iterator<Item = Entry> + '_ {
    table.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
        let device = text(fields.nth(2)?);
        let mountpoint = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
        // Optional fields end with a dash.
        let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
        Some(Entry { device, mountpoint, fs_type: text(rest.next()?), source: text(rest.next()?) })
    })
}

/// Blanks, tabs, newlines and backslashes are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, behind)) = rest.split_first() {
        let digits = behind.get(..3).filter(|_| byte == b'\\');
        let code = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(code.unwrap_or(byte));
        rest = behind.get(if code.is_some() { 3 } else { 0 }..).unwrap_or(&[]);
    }
    plain
}

/// `path` without symbolic links and dots. Its last component is not looked at where it is a plain name: a dead mount there would answer nothing.
pub(crate) fn resolve(path: &Path) -> io::Result<PathBuf> {
    let plain = path.file_name().filter(|name| {
        let last = path.as_os_str().as_bytes().rsplit(|&byte| byte == b'/').find(|part| !part.is_empty());
        last == Some(name.as_bytes())
    });
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match plain {
        Some(name) => {
            let path = parent.canonicalize()?.join(name);
            match std::fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_symlink() => path.canonicalize(),
                _ => Ok(path),
            }
        }
        None => path.canonicalize(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = br"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
40 22 0:35 / /a\040b rw,nosuid shared:2 master:1 - tmpfs tmpfs rw
41 40 0:36 / /a\040b ro - fuse rafs ro,user_id=0
garbage
";

    #[test]
    fn the_last_entry_of_a_path_is_the_topmost() {
        let all: Vec<_> = entries(TABLE).collect();
        assert_eq!(all.len(), 3);
        let top = all.iter().rfind(|entry| entry.mountpoint == Path::new("/a b")).unwrap();
        assert_eq!(
            (top.device.as_str(), top.fs_type.as_str(), top.source.as_str()),
            ("0:36", "fuse", "rafs")
        );
        assert_eq!(all[1].source, "tmpfs");
    }

    #[test]
    fn escapes_are_three_octal_digits() {
        assert_eq!(unescape(br"\134x\011\12"), b"\\x\t\\12");
        assert_eq!(unescape(br"\9"), br"\9");
    }

    #[test]
    fn paths_are_resolved_up_to_a_last_plain_name() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("d")).unwrap();
        std::os::unix::fs::symlink("d", real.join("link")).unwrap();
        for path in ["d", "d/", "link", "d/../d", "./d/.", "link/."] {
            assert_eq!(resolve(&real.join(path)).unwrap(), real.join("d"), "{path}");
        }
        assert_eq!(resolve(&real.join("new")).unwrap(), real.join("new"));
        assert!(resolve(&real.join("no/new")).is_err());
        assert_eq!(resolve(Path::new("/")).unwrap(), Path::new("/"));
    }
}
