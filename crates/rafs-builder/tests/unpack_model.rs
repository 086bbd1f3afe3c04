//! Any small tree, written as an image, passes the check, is found name by name, and unpacks to itself.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use common::model::{Maker, model};
use common::tar_tree;
use proptest::prelude::*;
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::{chain, check, unpack};
use rafs_format::{Bootstrap, FileType};
use std::sync::Arc;

/// Every entry of a directory is found by its name and from every position, and no other name is.
fn lookups_agree(bootstrap: &Bootstrap<Vec<u8>>) -> Result<(), TestCaseError> {
    let root = bootstrap.superblock().root;
    let mut open = vec![root];
    while let Some(nid) = open.pop() {
        let dir = bootstrap.inode(nid).unwrap();
        let all: Vec<_> = bootstrap.dir_entries(&dir, 0).unwrap().map(Result::unwrap).collect();
        for (n, entry) in all.iter().enumerate() {
            let found = bootstrap.lookup(&dir, entry.name).unwrap();
            prop_assert_eq!(found.map(|found| (found.nid, found.next)), Some((entry.nid, entry.next)));
            for other in [[entry.name, b"\x01"].concat(), entry.name[..entry.name.len() - 1].to_vec()] {
                let is_there = all.iter().any(|entry| entry.name == other);
                prop_assert_eq!(bootstrap.lookup(&dir, &other).unwrap().is_some(), is_there);
            }
            // Large directories from some positions only: it is quadratic.
            if n % 17 == 0 {
                let rest = bootstrap.dir_entries(&dir, entry.next).unwrap().map(Result::unwrap);
                prop_assert!(rest.eq(all.iter().skip(n + 1).copied()), "behind entry {}", n);
            }
            if entry.file_type == FileType::Directory && !matches!(entry.name, b"." | b"..") {
                open.push(entry.nid);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_written_is_what_unpacks(children in model()) {
        let dir = tempfile::tempdir().unwrap();
        let mut maker = Maker::new(&children);
        maker.write(dir.path(), "image.boot");
        let image = Image::open(&dir.path().join("image.boot")).unwrap();
        let summary = check::structure(&image).unwrap();
        prop_assert_eq!(summary.entries, maker.tree.entries.len() as u64);
        lookups_agree(image.bootstrap())?;
        let local = LocalFs { dir: Some(dir.path().to_path_buf()), ..LocalFs::default() };
        let source = BlobSource::new(Arc::new(local)).unwrap();
        let report = check::data(&image, &source, 2).unwrap();
        let problems: Vec<_> = report.problems.iter().map(|problem| chain(problem)).collect();
        prop_assert_eq!(problems, Vec::<String>::new());
        let mut tar = Vec::new();
        unpack::tar_to(&image, &source, &mut tar, 2).unwrap();
        prop_assert_eq!(tar_tree(&tar), maker.finish());
    }
}
