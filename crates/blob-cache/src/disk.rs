//! The cache files of one blob: data and map. Bytes in, bytes out; knows no digests and trusts nothing it finds.
//!
//! Layout as in Nydus 2.x (docs/format.md, "Local cache"). The data file is locked for the process that opened it; where another one has it,
//! a nameless file in the same directory takes its place, which ends with this process.

use crate::CacheError;
use parking_lot::Mutex;
use rafs_format::Blob;
use rustix::fs::FlockOperation;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Header of a map, in bytes.
const MAP_HEADER: u64 = 4096;
/// First 12 bytes of a map: magic, version 1, second magic; little endian.
const MAP_MAGIC: [u8; 12] = *b"PAMB\x01\0\0\0PAMC";
/// How often opening is tried again when somebody removes the file meanwhile.
const TRIES: usize = 8;

/// Open cache files.
#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    data: File,
    /// `None` for a nameless file, which nobody opens again.
    map: Option<Mutex<Map>>,
}

/// The map: its file, and its bitmap as it is there.
#[derive(Debug)]
struct Map {
    file: File,
    bits: Vec<u8>,
}

impl Disk {
    /// Opens or creates both files. With them comes the bitmap found: which chunks *may* be there.
    pub(crate) fn open(work_dir: &Path, blob: &Blob) -> Result<(Self, Vec<u8>), CacheError> {
        let path = work_dir.join(format!("{}.blob.data", blob.id));
        let failed = |action, source| CacheError::Disk { action, path: path.clone(), source };
        std::fs::create_dir_all(work_dir).map_err(|source| failed("create the directory of", source))?;
        let Some(data) = open_locked(&path).map_err(|source| failed("open", source))? else {
            tracing::info!(
                "cache file {} is in use by another process: a private copy is used until this one ends",
                path.display()
            );
            return Ok((Self::nameless(work_dir, blob)?, Vec::new()));
        };
        let fresh = fit(&data, blob.uncompressed_size).map_err(|source| failed("size", source))?;
        let map = open_map(&map_path(&path), blob.chunk_count, fresh);
        let map = map.map_err(|source| failed("open the map of", source))?;
        let hints = map.bits.clone();
        Ok((Self { path, data, map: Some(Mutex::new(map)) }, hints))
    }

    /// A data file without a name, and so without a map. The directory must exist.
    pub(crate) fn nameless(work_dir: &Path, blob: &Blob) -> Result<Self, CacheError> {
        let path = work_dir.join(format!("{}.blob.data", blob.id));
        let failed = |action, source| CacheError::Disk { action, path: path.clone(), source };
        let data = tempfile::tempfile_in(work_dir).map_err(|source| failed("make a copy of", source))?;
        data.set_len(blob.uncompressed_size).map_err(|source| failed("size", source))?;
        Ok(Self { path, data, map: None })
    }

    /// Path of the data file, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Fills `into` from byte `offset` on. A file that ends before is an error.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.data.read_exact_at(into, offset)
    }

    /// Writes `bytes` at byte `offset`.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.data.write_all_at(bytes, offset)
    }

    /// Notes in the map that `chunk` is there. Its bytes must be written before.
    pub(crate) fn mark(&self, chunk: u32) -> io::Result<()> {
        let Some(map) = &self.map else { return Ok(()) };
        let mut map = map.lock();
        let at = chunk / 8;
        let Some(byte) = map.bits.get_mut(at as usize) else { return Ok(()) };
        *byte |= 0x80 >> (chunk % 8);
        let byte = *byte;
        map.file.write_all_at(&[byte], MAP_HEADER + u64::from(at))
    }
}

fn map_path(data: &Path) -> PathBuf {
    let mut name = data.as_os_str().to_owned();
    name.push(".chunk_map");
    name.into()
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// The file at `path`, locked; `None` when somebody else has it.
fn open_locked(path: &Path) -> io::Result<Option<File>> {
    for _ in 0..TRIES {
        let file = open_file(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // Between open and lock it may have been removed and made anew.
        let same = |meta: &std::fs::Metadata| -> io::Result<bool> {
            let ours = file.metadata()?;
            Ok((ours.dev(), ours.ino()) == (meta.dev(), meta.ino()))
        };
        match std::fs::metadata(path) {
            Ok(meta) if same(&meta)? => return Ok(Some(file)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Makes `data` exactly `size` bytes long. `true`: it holds nothing of use. One that was longer belongs to something else and is emptied.
fn fit(data: &File, size: u64) -> io::Result<bool> {
    let found = data.metadata()?.len();
    if found > size {
        data.set_len(0)?;
    }
    data.set_len(size)?;
    Ok(found == 0 || found > size)
}

/// The map at `path`, made anew where `fresh` or where it is not one for `chunks` chunks.
fn open_map(path: &Path, chunks: u32, fresh: bool) -> io::Result<Map> {
    let file = open_file(path)?;
    let bytes = u64::from(chunks).div_ceil(8);
    let mut head = [0; MAP_MAGIC.len()];
    let usable = !fresh
        && file.metadata()?.len() == MAP_HEADER + bytes
        && file.read_exact_at(&mut head, 0).is_ok()
        && head == MAP_MAGIC;
    let mut bits = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    if usable {
        file.read_exact_at(&mut bits, MAP_HEADER)?;
    } else {
        file.set_len(0)?;
        file.set_len(MAP_HEADER + bytes)?;
        file.write_all_at(&MAP_MAGIC, 0)?;
    }
    Ok(Map { file, bits })
}
