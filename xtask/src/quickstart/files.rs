//! Files of an image by their names: in a directory, or in a plain tar, which is read in place.
//!
//! Invariant: no name leads out of the directory or the tar, and nothing of a tar is unpacked under a name that it gives.

use anyhow::{Context, bail, ensure};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use tar::EntryType;

/// Documents of images are far shorter.
const DOCUMENT_LIMIT: u64 = 4 << 20;
/// Links are followed that often.
const LINKS: usize = 8;
/// Archives of images have a few entries per layer.
const ENTRIES: usize = 100_000;

/// A directory or a tar.
#[derive(Debug)]
pub enum Files {
    /// A directory with this path.
    Directory(PathBuf),
    /// A tar, and what is in it.
    Tar(PathBuf, HashMap<PathBuf, Place>),
}

/// Where the bytes of a name in a tar are.
#[derive(Debug)]
pub enum Place {
    /// Bytes of the tar.
    Range { offset: u64, size: u64 },
    /// Those of another name.
    Link(PathBuf),
}

impl Files {
    /// What is at `path`; nothing if that is neither a directory nor a plain tar.
    pub fn open(path: &Path) -> anyhow::Result<Option<Self>> {
        if path.is_dir() {
            return Ok(Some(Self::Directory(path.to_path_buf())));
        }
        let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut head = Vec::new();
        file.by_ref().take(512).read_to_end(&mut head)?;
        if head.get(257..262) != Some(b"ustar") {
            return Ok(None);
        }
        file.rewind()?;
        let places = places(file).with_context(|| format!("cannot list {}", path.display()))?;
        Ok(Some(Self::Tar(path.to_path_buf(), places)))
    }

    /// A reader of the file `name` and its size; nothing if there is no such file.
    pub fn read(&self, name: &Path) -> anyhow::Result<Option<(impl Read + use<>, u64)>> {
        let name = plain(name)?;
        let (path, range) = match self {
            Self::Directory(dir) => (dir.join(&name), None),
            Self::Tar(path, places) => match range(places, &name)? {
                Some(range) => (path.clone(), Some(range)),
                None => return Ok(None),
            },
        };
        let metadata = match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| format!("cannot read {}", path.display()))?,
        };
        ensure!(metadata.is_file(), "{} is not a file", path.display());
        let mut file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let (offset, size) = range.unwrap_or((0, metadata.len()));
        file.seek(SeekFrom::Start(offset))?;
        Ok(Some((file.take(size), size)))
    }

    /// All of a short file; nothing if there is no such file.
    pub fn document(&self, name: &Path) -> anyhow::Result<Option<Vec<u8>>> {
        let Some((mut reader, size)) = self.read(name)? else { return Ok(None) };
        ensure!(size <= DOCUMENT_LIMIT, "{} has {size} bytes, more than {DOCUMENT_LIMIT}", name.display());
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).with_context(|| format!("cannot read {}", name.display()))?;
        Ok(Some(bytes))
    }
}

/// The entries of a tar that are files or links. Other names, also those that lead out, cannot be asked for.
fn places(file: File) -> anyhow::Result<HashMap<PathBuf, Place>> {
    let mut places = HashMap::new();
    let mut archive = tar::Archive::new(file);
    for (count, entry) in archive.entries_with_seek()?.enumerate() {
        // More is a file system, and this one's documents would stand first.
        if count >= ENTRIES {
            break;
        }
        let entry = entry?;
        let name = entry.path()?.into_owned();
        let Ok(name) = plain(&name) else { continue };
        let place = match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                Place::Range { offset: entry.raw_file_position(), size: entry.size() }
            }
            kind @ (EntryType::Symlink | EntryType::Link) => {
                let Some(target) = entry.link_name()? else { continue };
                let from = if kind == EntryType::Link { None } else { name.parent() };
                match inside(from.unwrap_or(Path::new("")), &target) {
                    Some(target) => Place::Link(target),
                    None => continue,
                }
            }
            _ => continue,
        };
        places.insert(name, place);
    }
    Ok(places)
}

fn range(places: &HashMap<PathBuf, Place>, name: &Path) -> anyhow::Result<Option<(u64, u64)>> {
    let mut name = name;
    for _ in 0..LINKS {
        match places.get(name) {
            None => return Ok(None),
            Some(Place::Range { offset, size }) => return Ok(Some((*offset, *size))),
            Some(Place::Link(target)) => name = target,
        }
    }
    bail!("{} is behind more than {LINKS} links", name.display())
}

/// `name` without `.`. Errors: it is absolute, empty or has a `..`.
fn plain(name: &Path) -> anyhow::Result<PathBuf> {
    let mut plain = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => plain.push(part),
            Component::CurDir => {}
            _ => bail!("the name {name:?} leads out of the image"),
        }
    }
    ensure!(!plain.as_os_str().is_empty(), "a name is empty");
    Ok(plain)
}

/// Where a link in `dir` leads, unless that is outside.
fn inside(dir: &Path, target: &Path) -> Option<PathBuf> {
    let mut path = dir.to_path_buf();
    for component in target.components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::ParentDir if path.pop() => {}
            _ => return None,
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        assert_eq!(plain(Path::new("./a/./b")).unwrap(), Path::new("a/b"));
        for name in ["/etc/shadow", "../x", "a/../../x", "a/..", "", "."] {
            assert!(plain(Path::new(name)).is_err(), "{name:?}");
        }
        assert_eq!(inside(Path::new("a"), Path::new("../b/layer.tar")), Some("b/layer.tar".into()));
        assert_eq!(inside(Path::new("a"), Path::new("../../b")), None);
        assert_eq!(inside(Path::new("a"), Path::new("/b")), None);
    }

    #[test]
    fn links_that_go_in_circles_are_an_error() {
        let places =
            HashMap::from([("a".into(), Place::Link("b".into())), ("b".into(), Place::Link("a".into()))]);
        assert!(range(&places, Path::new("a")).is_err());
        assert_eq!(range(&places, Path::new("c")).unwrap(), None);
    }
}
