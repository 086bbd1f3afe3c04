//! Everything that a reader of bootstraps offers, on bytes that are anything.

use rafs_format::check::{Visit, check};
use rafs_format::{Bootstrap, ChunkIndex, DirEntry, FileType, FormatError, Inode, Nid};
use std::collections::HashSet;

/// Calls that the walk of an unsound image may make: enough to reach every corner of a small one.
const CALLS: u64 = 20_000;

/// Parses, walks and checks `data`. Panics when a sound image contradicts itself; everything else may be an error.
pub fn try_bytes(data: &[u8]) {
    crate::memory::bounded(data.len(), || {
        let Ok(bootstrap) = Bootstrap::parse(data) else { return };
        wander(&bootstrap);
        verify(&bootstrap);
    });
}

/// Looks at whatever can be reached from the root and the prefetch table, sound or not.
fn wander(bootstrap: &Bootstrap<&[u8]>) {
    let _chunks = bootstrap.chunk_places().filter(|place| place.is_ok()).count();
    let index = ChunkIndex::build(bootstrap).ok();
    let mut left = CALLS;
    let mut seen = HashSet::new();
    let mut open: Vec<Nid> = bootstrap.prefetch().take(100).collect();
    open.push(bootstrap.superblock().root);
    while let Some(nid) = open.pop() {
        let Ok(inode) = bootstrap.inode(nid) else { continue };
        left = left.saturating_sub(1);
        if left == 0 || !seen.insert(nid) {
            continue;
        }
        for xattr in bootstrap.xattrs(&inode).into_iter().flatten().take(100) {
            left = left.saturating_sub(1);
            let _named = xattr.is_ok_and(|xattr| xattr.is_named(b"user.x"));
        }
        let _target = bootstrap.symlink_target(&inode).is_ok();
        let _digest = bootstrap.stated_digest(&inode).is_ok();
        for n in 0..bootstrap.chunk_count(&inode).min(100) {
            left = left.saturating_sub(1);
            let _reference = bootstrap.chunk_ref(&inode, n).is_ok();
            let _found = index.as_ref().is_some_and(|index| index.chunk(bootstrap, &inode, n).is_ok());
        }
        let _past_the_end = bootstrap.chunk_ref(&inode, u64::MAX).is_ok();
        for entry in bootstrap.dir_entries(&inode, 0).into_iter().flatten().take(left.min(1000) as usize) {
            left = left.saturating_sub(1);
            let Ok(entry) = entry else { break };
            let _found = bootstrap.lookup(&inode, entry.name).is_ok();
            open.push(entry.nid);
        }
        let _anywhere = bootstrap.dir_entries(&inode, u64::MAX - 1).into_iter().flatten().next().is_some();
    }
}

/// What must hold of an image that the check calls sound.
fn verify(bootstrap: &Bootstrap<&[u8]>) {
    let mut names = 0u64;
    let mut dirs = Vec::new();
    let summary = check(bootstrap, &mut |visit: &Visit<'_>| {
        names += 1;
        assert_eq!(visit.path.last().copied(), visit.entry.map(|entry| entry.name));
        if visit.inode.file_type == FileType::Directory {
            dirs.push(visit.inode.nid);
        }
        Ok::<(), FormatError>(())
    });
    let Ok(summary) = summary else { return };
    assert_eq!(summary.entries, names);
    assert!(summary.inodes <= summary.entries);
    for nid in dirs {
        let inode = sound(bootstrap.inode(nid));
        directory(bootstrap, &inode);
    }
}

/// Every name of a directory is found, and reading it on from any position gives the rest.
fn directory(bootstrap: &Bootstrap<&[u8]>, dir: &Inode) {
    let entries: Vec<DirEntry<'_>> = sound(bootstrap.dir_entries(dir, 0)).map(sound).collect();
    for (n, entry) in entries.iter().enumerate() {
        assert_eq!(sound(bootstrap.lookup(dir, entry.name)).as_ref(), Some(entry));
        let next = sound(bootstrap.dir_entries(dir, entry.next)).next().map(sound);
        assert_eq!(next.as_ref(), entries.get(n + 1));
        let inode = sound(bootstrap.inode(entry.nid));
        match inode.file_type {
            FileType::Symlink => {
                assert_eq!(sound(bootstrap.symlink_target(&inode)).len() as u64, inode.size);
            }
            FileType::Regular if inode.size > 0 => {
                let last = bootstrap.chunk_count(&inode) - 1;
                let _sound = sound(bootstrap.chunk_ref(&inode, last));
            }
            _ => {}
        }
    }
}

/// The value, which a sound image has.
fn sound<T>(found: Result<T, FormatError>) -> T {
    found.unwrap_or_else(|error| panic!("the check passed, but: {error}"))
}
