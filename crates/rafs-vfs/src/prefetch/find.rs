//! Files by path as a container sees them: symbolic links are followed, inside the image.

use crate::VfsError;
use rafs_format::{Bootstrap, FileType, Inode};

/// Symbolic links followed on one path, as many as Linux does.
const MAX_LINKS: usize = 40;

/// The inode at `path`, links followed, also a last one. `None`: there is nothing, or links lead nowhere.
pub(super) fn find<B: AsRef<[u8]>>(bootstrap: &Bootstrap<B>, path: &[u8]) -> Result<Option<Inode>, VfsError> {
    let root = bootstrap.inode(bootstrap.superblock().root)?;
    let (mut way, mut links) = (vec![root], 0);
    // The next name last.
    let mut names = backwards(path);
    while let Some(name) = names.pop() {
        if name == b".." {
            way.truncate(way.len().saturating_sub(1).max(1));
            continue;
        }
        let Some(dir) = way.last().filter(|dir| dir.file_type == FileType::Directory) else {
            return Ok(None);
        };
        let Some(entry) = bootstrap.lookup(dir, &name)? else { return Ok(None) };
        let inode = bootstrap.inode(entry.nid)?;
        if inode.file_type != FileType::Symlink {
            way.push(inode);
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Ok(None);
        }
        let target = bootstrap.symlink_target(&inode)?;
        if target.starts_with(b"/") {
            way.truncate(1);
        }
        names.extend(backwards(&target));
    }
    Ok(way.pop())
}

/// Names of a path, the first one last; those that say nothing left out.
fn backwards(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    names.rev().map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rafs_builder::create::Input;
    use rafs_format::Compressor;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_inside_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        std::fs::create_dir_all(at("usr/lib/x")).unwrap();
        std::fs::write(at("usr/lib/x/f"), b"content").unwrap();
        for (target, link) in [
            ("usr/lib", "lib"),
            ("/lib/x/f", "absolute"),
            ("../../../../lib/./x//f", "usr/up"),
            ("loop", "loop"),
            ("nowhere", "dangling"),
        ] {
            symlink(target, at(link)).unwrap();
        }
        let options = testkit::image::options(4096, Compressor::None);
        let image = testkit::image::build(Input::Directory(dir.path().to_path_buf()), &options).parsed();
        let found = |path: &str| find(&image, path.as_bytes()).unwrap().map(|inode| inode.size);
        for path in ["/usr/lib/x/f", "/lib/x/f", "lib/x/../x/f", "/absolute", "/usr/up", "/usr/../../lib/x/f"]
        {
            assert_eq!(found(path), Some(7), "{path}");
        }
        for path in ["/loop", "/loop/f", "/dangling", "/usr/lib/x/f/f", "/usr/lib/x/f/..x", "/no/lib"] {
            assert_eq!(found(path), None, "{path}");
        }
        assert!(find(&image, b"/").unwrap().is_some_and(|inode| inode.nid == image.superblock().root));
    }
}
