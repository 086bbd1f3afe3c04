//! Files that appear whole or not at all: written under another name in the same directory, synced, renamed.
//!
//! Pipes and devices are written as they are. Knows nothing of what is written. Invariant: until [`Outputs::commit`], every path it made is on one list, so
//! that whoever ends the process early can remove them.

use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::NamedTempFile;

/// Where an output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// This file, pipe or device.
    File(PathBuf),
    /// A file in this directory whose name is known at the end. One that is there already is kept: equal names mean equal content.
    Directory(PathBuf),
}

/// Why an output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct OutputError {
    /// What failed: `create`, `write`, `sync`, `rename`.
    pub action: &'static str,
    /// The output, or the directory of an output without a name yet.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// Temporary files of one run. Clones are the same list.
#[derive(Debug, Clone, Default)]
pub struct Outputs {
    temporary: Arc<Mutex<Vec<PathBuf>>>,
}

impl Outputs {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Removes all temporary files that are there; for ending the process at once. Blocks while outputs are being renamed and keeps others
    /// from being renamed afterwards, for as long as the returned guard lives.
    pub fn abandon(&self) -> impl Drop + '_ {
        let mut paths = self.temporary.lock();
        for path in paths.drain(..) {
            // It may be gone already; nothing else can be done on the way out.
            let _gone = std::fs::remove_file(&path).is_err();
        }
        paths
    }

    /// Starts an output. Errors: the directory is not there or cannot be written.
    pub fn start(&self, place: Place) -> Result<Output, OutputError> {
        let (dir, path) = match &place {
            Place::Directory(dir) => (dir.clone(), dir.clone()),
            Place::File(path) => (directory_of(path), path.clone()),
        };
        let failed = |source| OutputError { action: "create", path: path.clone(), source };
        if let Place::File(path) = &place
            && std::fs::metadata(path).is_ok_and(|meta| is_stream(&meta))
        {
            let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
            return Ok(Output { place, written: Written::Stream(file), list: self.clone() });
        }
        let mut paths = self.temporary.lock();
        let permissions = std::fs::Permissions::from_mode(0o666);
        let file =
            tempfile::Builder::new().prefix(".nydus-image-").permissions(permissions).tempfile_in(&dir);
        let file = file.map_err(failed)?;
        paths.push(file.path().to_path_buf());
        drop(paths);
        Ok(Output { place, written: Written::Temporary(file), list: self.clone() })
    }

    /// Syncs and renames outputs, all or none of them as far as the file system lets: everything is synced before anything is renamed.
    /// `names` are for outputs that go to a directory; `None` there drops the output. Returns the final paths.
    pub fn commit(outputs: Vec<(Output, Option<String>)>) -> Result<Vec<Option<PathBuf>>, OutputError> {
        for (output, _) in &outputs {
            let path = output.path();
            output
                .file()
                .sync_all()
                .or_else(|error| match &output.written {
                    // Pipes cannot be synced.
                    Written::Stream(_) => Ok(()),
                    Written::Temporary(_) => Err(error),
                })
                .map_err(|source| OutputError { action: "sync", path, source })?;
        }
        outputs.into_iter().map(|(output, name)| output.rename(name.as_deref())).collect()
    }
}

fn is_stream(meta: &std::fs::Metadata) -> bool {
    let kind = meta.file_type();
    kind.is_fifo() || kind.is_char_device() || kind.is_socket() || kind.is_block_device()
}

fn directory_of(path: &Path) -> PathBuf {
    path.parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// One output being written; removed when dropped.
#[derive(Debug)]
pub struct Output {
    place: Place,
    written: Written,
    list: Outputs,
}

#[derive(Debug)]
enum Written {
    Temporary(NamedTempFile),
    Stream(File),
}

impl Output {
    fn file(&self) -> &File {
        match &self.written {
            Written::Temporary(file) => file.as_file(),
            Written::Stream(file) => file,
        }
    }

    /// The path asked for: a file, or the directory.
    pub fn path(&self) -> PathBuf {
        match &self.place {
            Place::File(path) | Place::Directory(path) => path.clone(),
        }
    }

    fn rename(self, name: Option<&str>) -> Result<Option<PathBuf>, OutputError> {
        let target = match (&self.place, name) {
            (Place::File(path), _) => path.clone(),
            (Place::Directory(dir), Some(name)) => dir.join(name),
            (Place::Directory(_), None) => return Ok(None),
        };
        let Written::Temporary(file) = self.written else { return Ok(Some(target)) };
        let mut paths = self.list.temporary.lock();
        let temporary = file.path().to_path_buf();
        let failed = |source| OutputError { action: "rename", path: target.clone(), source };
        let keep_old = matches!(self.place, Place::Directory(_)) && target.exists();
        if keep_old {
            file.close().map_err(failed)?;
        } else {
            file.persist(&target).map_err(|error| failed(error.error))?;
            let dir = File::open(directory_of(&target)).map_err(failed)?;
            dir.sync_all().map_err(failed)?;
        }
        paths.retain(|path| *path != temporary);
        Ok(Some(target))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.written {
            Written::Temporary(file) => file.as_file_mut().write(bytes),
            Written::Stream(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut all: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        all.sort();
        all
    }

    #[test]
    fn nothing_is_left_of_what_is_not_committed() {
        let dir = tempfile::tempdir().unwrap();
        let outputs = Outputs::new();
        let mut output = outputs.start(Place::File(dir.path().join("x"))).unwrap();
        output.write_all(b"half").unwrap();
        assert_eq!(names(dir.path()).len(), 1);
        drop(output);
        assert_eq!(names(dir.path()), [] as [&str; 0]);
        let _left = outputs.start(Place::Directory(dir.path().to_path_buf())).unwrap();
        drop(outputs.abandon());
        assert_eq!(names(dir.path()), [] as [&str; 0]);
    }

    #[test]
    fn committed_outputs_have_their_names_and_keep_equal_ones() {
        let dir = tempfile::tempdir().unwrap();
        let outputs = Outputs::new();
        std::fs::write(dir.path().join("boot"), b"old").unwrap();
        std::fs::write(dir.path().join("id"), b"same").unwrap();
        let mut boot = outputs.start(Place::File(dir.path().join("boot"))).unwrap();
        boot.write_all(b"new").unwrap();
        let blob = outputs.start(Place::Directory(dir.path().to_path_buf())).unwrap();
        let none = outputs.start(Place::Directory(dir.path().to_path_buf())).unwrap();
        Outputs::commit(vec![(boot, None), (blob, Some("id".into())), (none, None)]).unwrap();
        assert_eq!(names(dir.path()), ["boot", "id"]);
        assert_eq!(std::fs::read(dir.path().join("boot")).unwrap(), b"new");
        assert_eq!(std::fs::read(dir.path().join("id")).unwrap(), b"same");
    }
}
