//! Files that appear whole or not at all: written under another name in the same directory, synced, renamed.
//!
//! Pipes and devices are written as they are; a symbolic link leads to the file that is replaced. Knows nothing of what is written. Invariant:
//! until [`Outputs::commit`], every path it made is on one list, so that whoever ends the process early can remove them.

use parking_lot::{Mutex, MutexGuard};
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
    /// A file in this directory whose name is known at the end. It takes the place of one that is there already: that should be the same,
    /// but may be damaged, or another one where the name is no digest.
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
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Files that are there and have no final name yet.
    temporary: Vec<PathBuf>,
    /// Did some outputs get their final names?
    committed: bool,
}

/// No output gets its final name while this lives; see [`Outputs::abandon`].
#[derive(Debug)]
pub struct Abandoned<'a>(MutexGuard<'a, State>);

impl Abandoned<'_> {
    /// Did outputs get their final names before?
    pub fn came_too_late(&self) -> bool {
        self.0.committed
    }
}

impl Outputs {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Removes all temporary files that are there; for ending the process at once. Waits while outputs get their names, and
    /// keeps others from getting theirs for as long as the result lives: an image is there whole or not at all.
    pub fn abandon(&self) -> Abandoned<'_> {
        let mut state = self.state.lock();
        for path in state.temporary.drain(..) {
            // It may be gone already; nothing else can be done on the way out.
            let _gone = std::fs::remove_file(&path).is_err();
        }
        Abandoned(state)
    }

    /// Starts an output. Errors: the directory is not there or cannot be written.
    pub fn start(&self, place: Place) -> Result<Output, OutputError> {
        let failed = |path: &Path, source| OutputError { action: "create", path: path.to_path_buf(), source };
        let (dir, path) = match &place {
            Place::Directory(dir) => (dir.clone(), dir.clone()),
            Place::File(path) => (directory_of(&behind_links(path)), path.clone()),
        };
        if let Place::File(path) = &place
            && let Ok(meta) = std::fs::metadata(path)
        {
            if meta.is_dir() {
                return Err(failed(path, io::ErrorKind::IsADirectory.into()));
            }
            if is_stream(&meta) {
                let file =
                    OpenOptions::new().write(true).open(path).map_err(|source| failed(path, source))?;
                return Ok(Output { place, written: Written::Stream(file), list: self.clone() });
            }
        }
        let mut state = self.state.lock();
        let permissions = std::fs::Permissions::from_mode(0o666);
        let file =
            tempfile::Builder::new().prefix(".nydus-image-").permissions(permissions).tempfile_in(&dir);
        let file = file.map_err(|error| failed(&path, bare(error)))?;
        state.temporary.push(file.path().to_path_buf());
        drop(state);
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
        let Some(list) = outputs.first().map(|(output, _)| output.list.clone()) else {
            return Ok(Vec::new());
        };
        let mut state = list.state.lock();
        outputs.into_iter().map(|(output, name)| output.rename(name.as_deref(), &mut state)).collect()
    }

    /// Writes a whole file at once.
    pub fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), OutputError> {
        let mut output = self.start(Place::File(path.to_path_buf()))?;
        output.write_all(bytes).map_err(|source| OutputError {
            action: "write",
            path: path.to_path_buf(),
            source,
        })?;
        Self::commit(vec![(output, None)]).map(|_| ())
    }
}

/// The error of the system without the path of a temporary file that was put behind it: nobody asked for that one.
fn bare(error: io::Error) -> io::Error {
    match error.to_string().rsplit_once(" at path \"") {
        Some((cause, _)) => io::Error::new(error.kind(), cause),
        None => error,
    }
}

/// The file that `path` stands for: what symbolic links lead to, or `path` itself where there is nothing.
pub(crate) fn behind_links(path: &Path) -> PathBuf {
    if path.is_symlink() {
        path.canonicalize().unwrap_or_else(|_dangling| path.to_path_buf())
    } else {
        path.to_path_buf()
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

    /// The file, for writing it in any order; `None` for a pipe or device.
    pub(crate) fn regular(&self) -> Option<&File> {
        match &self.written {
            Written::Temporary(file) => Some(file.as_file()),
            Written::Stream(_) => None,
        }
    }

    /// The path asked for: a file, or the directory.
    pub fn path(&self) -> PathBuf {
        match &self.place {
            Place::File(path) | Place::Directory(path) => path.clone(),
        }
    }

    fn rename(self, name: Option<&str>, state: &mut State) -> Result<Option<PathBuf>, OutputError> {
        let (target, path) = match (&self.place, name) {
            (Place::File(path), _) => (behind_links(path), path.clone()),
            (Place::Directory(dir), Some(name)) => (dir.join(name), dir.join(name)),
            (Place::Directory(_), None) => return Ok(None),
        };
        let Written::Temporary(file) = self.written else { return Ok(Some(path)) };
        let temporary = file.path().to_path_buf();
        let failed = |source| OutputError { action: "rename", path: path.clone(), source };
        file.persist(&target).map_err(|error| failed(error.error))?;
        let dir = File::open(directory_of(&target)).map_err(failed)?;
        dir.sync_all().map_err(failed)?;
        state.committed = true;
        state.temporary.retain(|path| *path != temporary);
        Ok(Some(path))
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
    fn committed_outputs_have_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let outputs = Outputs::new();
        std::fs::write(dir.path().join("boot"), b"old").unwrap();
        std::fs::write(dir.path().join("id"), b"damaged").unwrap();
        let mut boot = outputs.start(Place::File(dir.path().join("boot"))).unwrap();
        boot.write_all(b"new").unwrap();
        let mut blob = outputs.start(Place::Directory(dir.path().to_path_buf())).unwrap();
        blob.write_all(b"whole").unwrap();
        let none = outputs.start(Place::Directory(dir.path().to_path_buf())).unwrap();
        Outputs::commit(vec![(boot, None), (blob, Some("id".into())), (none, None)]).unwrap();
        assert_eq!(names(dir.path()), ["boot", "id"]);
        assert_eq!(std::fs::read(dir.path().join("boot")).unwrap(), b"new");
        assert_eq!(std::fs::read(dir.path().join("id")).unwrap(), b"whole");
    }

    /// What `/dev/stdout` and other links lead to is replaced, not the link.
    #[test]
    fn links_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (link, file) = (dir.path().join("link"), dir.path().join("below/file"));
        std::fs::create_dir(dir.path().join("below")).unwrap();
        std::fs::write(&file, b"old").unwrap();
        std::os::unix::fs::symlink("below/file", &link).unwrap();
        Outputs::new().write(&link, b"new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        assert_eq!(names(&dir.path().join("below")), ["file"]);
        let dangling = dir.path().join("dangling");
        std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
        Outputs::new().write(&dangling, b"new").unwrap();
        assert_eq!(std::fs::read(&dangling).unwrap(), b"new");
    }

    #[test]
    fn errors_name_what_was_asked_for_and_say_why_once() {
        let said = |path: &str| crate::chain(&Outputs::new().write(Path::new(path), b"x").unwrap_err());
        assert_eq!(
            said("/no/such/boot"),
            "cannot create /no/such/boot: No such file or directory (os error 2)"
        );
        assert_eq!(said("/tmp"), "cannot create /tmp: is a directory");
        assert!(
            said("/dev/full").starts_with("cannot write /dev/full: No space left"),
            "{}",
            said("/dev/full")
        );
    }

    /// Once it has begun to give up, nothing gets its name any more; what has it before stays.
    #[test]
    fn giving_up_and_naming_exclude_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let outputs = Outputs::new();
        outputs.write(&dir.path().join("first"), b"1").unwrap();
        let mut second = outputs.start(Place::File(dir.path().join("second"))).unwrap();
        second.write_all(b"2").unwrap();
        let abandoned = outputs.abandon();
        assert!(abandoned.came_too_late());
        let naming = std::thread::spawn(move || Outputs::commit(vec![(second, None)]).is_ok());
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(names(dir.path()), ["first"]);
        drop(abandoned);
        assert!(!naming.join().unwrap(), "its file is gone");
        assert_eq!(names(dir.path()), ["first"]);
        assert!(!Outputs::new().abandon().came_too_late());
    }
}
