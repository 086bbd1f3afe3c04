//! Reading files that hold secrets: only those that others cannot read. Knows nothing of what is in them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Permissions that a file with a secret must not have: any of others, and of its group to change it. The group may read it, which is how orchestrators
/// hand secrets to services.
const FORBIDDEN: u32 = 0o037;

/// The bytes of the file at `path`, at most `limit`. Errors: others may read it, or it is longer. Pipes have no permissions that matter: who opened them gave them.
pub fn read_private(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    let mode = meta.permissions().mode() & 0o7777;
    if meta.is_file() && mode & FORBIDDEN != 0 {
        let why = format!("its mode is {mode:04o}, so that others may use it: make it 0600 or 0640");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_others_cannot_read_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "12345").unwrap();
        let with = |mode| {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            read_private(&path, 5)
        };
        for mode in [0o600, 0o400, 0o640] {
            assert_eq!(with(mode).unwrap(), b"12345", "{mode:o}");
        }
        for mode in [0o644, 0o660, 0o604, 0o602, 0o601] {
            let error = with(mode).unwrap_err();
            assert!(error.to_string().contains(&format!("{mode:04o}")), "{error}");
        }
        assert_eq!(with(0o600).map(|bytes| bytes.len()).unwrap(), 5);
        assert!(read_private(&path, 4).unwrap_err().to_string().contains("more than 4 bytes"));
        assert!(read_private(Path::new("/dev/zero"), 10).is_err());
    }
}
