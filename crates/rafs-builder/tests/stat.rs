//! Statistics of golden images, counted again from their descriptions and records.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Tree, bootstrap, expected, golden};
use rafs_builder::open::Image;
use rafs_builder::stat::{Base, Statistics};
use rafs_format::Chunk;
use std::collections::BTreeMap;
use std::path::Path;

fn of(golden: &Path, name: &str) -> Statistics {
    Statistics::collect(&Base::Bootstrap(bootstrap(golden, name)), None).unwrap()
}

/// Distinct chunks of an image by digest.
fn records(golden: &Path, name: &str) -> BTreeMap<[u8; 32], Chunk> {
    let image = Image::open(&bootstrap(golden, name)).unwrap();
    let all = image.bootstrap();
    all.chunk_places()
        .map(|place| all.chunk_at(place.unwrap()).unwrap())
        .map(|chunk| (chunk.digest.0, chunk))
        .collect()
}

/// Files as they are counted: by their first names.
fn sizes(tree: &Tree) -> Vec<u64> {
    let first =
        |(path, entry): &(&String, &common::Entry)| entry.links.first().is_none_or(|first| first == *path);
    tree.iter().filter(|(_, entry)| entry.kind == "reg").filter(first).map(|(_, entry)| entry.size).collect()
}

#[test]
fn images_are_counted_as_described() {
    let Some(golden) = golden() else { return };
    let tree = expected(&golden.join("expected-nasty.json"));
    let kinds = |kind: &str| tree.values().filter(|entry| entry.kind == kind).count() as u64;
    let sizes = sizes(&tree);
    for name in ["v6-dir-zstd", "v6-dir-none-sha256-4k", "v5-dir-lz4", "v6-dir-inline-toc", "v6-tarfs"] {
        let stat = of(&golden, name).base_image;
        assert_eq!(
            (stat.dirs, stat.files, stat.symlinks),
            (kinds("dir"), kinds("reg"), kinds("lnk")),
            "{name}"
        );
        assert_eq!(stat.file_sizes.iter().sum::<u64>(), sizes.len() as u64, "{name}");
        assert_eq!(stat.file_size, sizes.iter().sum::<u64>(), "{name}");
        let blocks: u64 = sizes.iter().map(|size| size.div_ceil(4096)).sum();
        assert_eq!(
            (stat.padding_size, stat.chunk_sizes[0]),
            (blocks * 4096 - stat.file_size, blocks),
            "{name}"
        );
        assert_eq!(stat.uncomp_size, blocks * 4096, "{name}");
        assert_eq!(stat.dedup_chunks + stat.ref_chunks, 0, "{name}");
        if name != "v6-tarfs" {
            let image = Image::open(&bootstrap(&golden, name)).unwrap();
            let chunk_size = u64::from(image.bootstrap().superblock().chunk_size);
            assert_eq!(
                stat.chunks,
                sizes.iter().map(|size| size.div_ceil(chunk_size)).sum::<u64>(),
                "{name}"
            );
            let records = records(&golden, name);
            let stored: u64 = records.values().map(|chunk| u64::from(chunk.compressed_size)).sum();
            assert_eq!((stat.own_chunks, stat.own_comp_size), (records.len() as u64, stored), "{name}");
        } else {
            assert_eq!(stat.own_chunks, 0);
        }
    }
}

/// Two images of the same tree and one of another: what they share is counted once, the target against all of them.
#[test]
fn shared_chunks_are_counted_once() {
    let Some(golden) = golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    for (name, image) in [("a", "v6-tar"), ("b", "v6-dir-toc"), ("no.boot", "v6-bigdir")] {
        std::fs::copy(bootstrap(&golden, image), dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("blob"), b"no image").unwrap();
    let base = Base::Directory(dir.path().to_path_buf());
    let target = bootstrap(&golden, "v6-merge");
    let all = Statistics::collect(&base, Some(&target)).unwrap();
    let (one, target) = (records(&golden, "v6-tar"), records(&golden, "v6-merge"));
    assert_eq!(all.base_image.own_chunks, 2 * one.len() as u64);
    assert_eq!(all.base_image.dedup_chunks, one.len() as u64);
    assert_eq!(all.base_image.dedup_comp_size * 2, all.base_image.own_comp_size);
    let shared = target.keys().filter(|digest| one.contains_key(*digest)).count() as u64;
    assert!(shared > 0);
    assert_eq!(
        (all.target_image.ref_chunks, all.target_image.own_chunks),
        (shared, target.len() as u64 - shared)
    );
    let mut text = Vec::new();
    all.print(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let rows: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("Global Dedup")).skip(1).collect();
    assert_eq!(rows.len(), 2, "{text}");
    let numbers = |row: &str| row.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let (raw, distinct) = (format!("{:#x}", 2 * one.len()), format!("{:#x}", one.len()));
    assert_eq!(numbers(rows[1])[..3], ["2".to_owned(), raw, distinct]);
    assert!(text.starts_with("Target Image Statistics:\n"), "{text}");
}
