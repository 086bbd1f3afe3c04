//! A whole file in memory, fast: bootstraps of large images take most of the time to the first `ls`.
//!
//! The bytes are a copy. Mapping the file itself would be faster still, but whoever truncates it then kills the daemon (SIGBUS) and
//! whoever writes to it changes what was checked.

use bytes::Bytes;
use memmap2::{Advice, Mmap, MmapMut};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// From this length on, in bytes, memory comes in huge pages (2 MiB each, so that no more than a quarter is wasted): 38.7 MB are read in 10 ms
/// instead of 22, most of which were faults of small pages.
const HUGE: u64 = 8 << 20;

/// The bytes of the file at `path`.
pub(crate) fn read(path: &Path) -> io::Result<Bytes> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() < HUGE {
        drop(file);
        return std::fs::read(path).map(Bytes::from);
    }
    read_huge(&file, meta.len()).map(Bytes::from_owner)
}

/// The first `length` bytes of `file`, which has so many.
fn read_huge(file: &File, length: u64) -> io::Result<Mmap> {
    let mut memory = MmapMut::map_anon(usize::try_from(length).map_err(io::Error::other)?)?;
    if let Err(error) = memory.advise(Advice::HugePage) {
        // A kernel without them.
        tracing::debug!("no huge pages: {error}");
    }
    file.read_exact_at(&mut memory, 0)?;
    memory.make_read_only()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_all_sizes_are_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        for length in [0, 1, 4096, HUGE - 1, HUGE, HUGE + 4097] {
            let bytes: Vec<u8> = (0..length).map(|n| n.to_le_bytes()[(n % 3) as usize]).collect();
            std::fs::write(&path, &bytes).unwrap();
            assert!(read(&path).unwrap() == bytes, "{length}");
        }
        assert!(read(dir.path()).is_err() && read(&dir.path().join("none")).is_err());
    }

    #[test]
    fn a_file_that_shrinks_meanwhile_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(HUGE).unwrap();
        let error = read_huge(&file, HUGE + 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
