//! v5 bootstraps of the reference builder: the same tree as in v6, and damage is an error that names its place.
#![allow(clippy::unwrap_used, reason = "a test")]

use rafs_format::check::{Summary, Visit, check};
use rafs_format::{Bootstrap, ChunkIndex, Digest, DirEntry, FileType, FormatError, Nid, Version};
use std::collections::BTreeMap;
use std::path::PathBuf;
use testkit::tree::golden;

const IMAGES: [&str; 9] = [
    "v5-bigdir",
    "v5-dir-lz4",
    "v5-dir-none-aligned",
    "v5-dir-prefetch",
    "v5-dir-prefetch-blob",
    "v5-dir-zstd-sha256-4k-rep",
    "v5-empty",
    "v5-layered",
    "v5-tar",
];

fn read(golden: &std::path::Path, image: &str) -> Vec<u8> {
    let path: PathBuf = golden.join(image).join("image.boot");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn sound(bytes: &[u8]) -> Result<Summary, FormatError> {
    check(&Bootstrap::parse(bytes)?, &mut |_| Ok::<(), FormatError>(()))
}

#[test]
fn golden_images_are_sound_and_every_name_is_found() {
    let Some(golden) = golden() else { return };
    for image in IMAGES {
        let bytes = read(&golden, image);
        let bootstrap = Bootstrap::parse(bytes.as_slice()).unwrap_or_else(|error| panic!("{image}: {error}"));
        assert_eq!(bootstrap.superblock().version, Version::V5);
        let mut dirs = Vec::new();
        let summary = check(&bootstrap, &mut |visit: &Visit<'_>| {
            assert!(bootstrap.stated_digest(&visit.inode)?.is_some());
            if visit.inode.file_type == FileType::Directory {
                dirs.push(visit.inode);
            }
            Ok::<(), FormatError>(())
        });
        let summary = summary.unwrap_or_else(|error| panic!("{image}: {error}"));
        let sb = bootstrap.superblock();
        assert_eq!((summary.entries, summary.inodes), (sb.entries, sb.inodes), "{image}");
        for dir in dirs {
            let entries: Vec<DirEntry<'_>> =
                bootstrap.dir_entries(&dir, 0).unwrap().map(Result::unwrap).collect();
            assert!(entries.is_sorted_by(|a, b| a.name < b.name), "{image}: {}", dir.nid);
            for (n, entry) in entries.iter().enumerate() {
                assert_eq!(bootstrap.lookup(&dir, entry.name).unwrap().as_ref(), Some(entry), "{image}");
                let next = bootstrap.dir_entries(&dir, entry.next).unwrap().next().map(Result::unwrap);
                assert_eq!(next.as_ref(), entries.get(n + 1), "{image}");
            }
            for absent in [b"".as_slice(), b"\x01", b".-", b"...", b"\xff\xff\xff"] {
                assert_eq!(bootstrap.lookup(&dir, absent).unwrap(), None, "{image}");
            }
        }
    }
}

/// The chunks of blob `n` as their records say, by number.
fn chunks_of(bootstrap: &Bootstrap<&[u8]>, n: u32) -> BTreeMap<u32, Digest> {
    let all = bootstrap.chunk_places().map(|place| bootstrap.chunk_at(place.unwrap()).unwrap());
    all.filter(|chunk| chunk.blob == n).map(|chunk| (chunk.index, chunk.digest)).collect()
}

#[test]
fn the_chunks_of_a_blob_come_in_the_order_of_their_numbers() {
    let Some(golden) = golden() else { return };
    let mut seen = 0;
    for image in IMAGES.into_iter().chain(["v6-dir-zstd", "v6-layered", "v6-tar", "v6-tarfs"]) {
        let Ok(bytes) = std::fs::read(golden.join(image).join("image.boot")) else { continue };
        let bootstrap = Bootstrap::parse(bytes.as_slice()).unwrap();
        let index = ChunkIndex::build(&bootstrap).unwrap();
        for blob in (0..u32::try_from(bootstrap.blobs().len()).unwrap() + 1).chain([255, 256, u32::MAX]) {
            let expected = chunks_of(&bootstrap, blob);
            let end = expected.keys().last().map_or(0, |last| last + 1);
            for number in (0..=end).chain([(1 << 24) - 1, 1 << 24, u32::MAX]) {
                let found = index.at_or_after(&bootstrap, blob, number).unwrap();
                let wanted = expected.range(number..).next();
                assert_eq!(found.map(|chunk| (chunk.index, chunk.digest)), wanted.map(|(&n, &d)| (n, d)));
            }
            seen += expected.len();
        }
    }
    assert!(seen > 100, "{seen} chunks");
}

/// What a visitor sees of one entry.
type Seen = (Vec<Vec<u8>>, FileType, [u64; 8], Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>, Vec<(Digest, u32)>);

fn walk(bytes: &[u8]) -> Vec<Seen> {
    let bootstrap = Bootstrap::parse(bytes).unwrap();
    let index = ChunkIndex::build(&bootstrap).unwrap();
    let mut all = Vec::new();
    check(&bootstrap, &mut |visit: &Visit<'_>| {
        let inode = &visit.inode;
        let is_dir = inode.file_type == FileType::Directory;
        let numbers = [
            u64::from(inode.mode),
            inode.uid.into(),
            inode.gid.into(),
            // Of a directory it is a matter of the layout.
            if is_dir { 0 } else { inode.size },
            inode.nlink.into(),
            inode.mtime_secs.cast_unsigned(),
            inode.mtime_nanos.into(),
            inode.rdev.into(),
        ];
        let target = match inode.file_type {
            FileType::Symlink => bootstrap.symlink_target(inode)?.to_vec(),
            _ => Vec::new(),
        };
        let xattrs = bootstrap
            .xattrs(inode)?
            .map(|xattr| xattr.map(|x| ([x.prefix.as_bytes(), x.suffix].concat(), x.value.to_vec())));
        let mut xattrs: Vec<_> = xattrs.collect::<Result<_, _>>()?;
        xattrs.sort();
        let count = if inode.file_type == FileType::Regular { bootstrap.chunk_count(inode) } else { 0 };
        let chunks = (0..count).map(|n| index.chunk(&bootstrap, inode, n));
        let chunks = chunks.map(|chunk| chunk.map(|chunk| (chunk.digest, chunk.uncompressed_size)));
        let path = visit.path.iter().map(|name| name.to_vec()).collect();
        all.push((path, inode.file_type, numbers, target, xattrs, chunks.collect::<Result<_, _>>()?));
        Ok::<(), FormatError>(())
    })
    .unwrap();
    all
}

/// One source, one chunk size, both versions: nobody can tell which is which.
#[test]
fn v5_and_v6_of_one_source_are_the_same_tree() {
    let Some(golden) = golden() else { return };
    for (old, new) in [
        ("v5-dir-none-aligned", "v6-dir-lz4-8k"),
        ("v5-dir-prefetch", "v6-dir-prefetch"),
        ("v5-bigdir", "v6-bigdir"),
    ] {
        let (old_tree, new_tree) = (walk(&read(&golden, old)), walk(&read(&golden, new)));
        assert_eq!(old_tree.len(), new_tree.len(), "{old}, {new}");
        for (a, b) in old_tree.iter().zip(&new_tree) {
            if old_tree.len() > 1000 || chunk_sizes_differ(&read(&golden, old), &read(&golden, new)) {
                let strip = |seen: &Seen| (seen.0.clone(), seen.1, seen.2, seen.3.clone(), seen.4.clone());
                assert_eq!(strip(a), strip(b), "{old}, {new}");
            } else {
                assert_eq!(a, b, "{old}, {new}");
            }
        }
    }
}

fn chunk_sizes_differ(a: &[u8], b: &[u8]) -> bool {
    let of = |bytes| Bootstrap::parse(bytes).unwrap().superblock().chunk_size;
    of(a) != of(b)
}

#[test]
fn what_is_to_be_fetched_first_is_known() {
    let Some(golden) = golden() else { return };
    let bytes = read(&golden, "v5-dir-prefetch");
    let bootstrap = Bootstrap::parse(bytes.as_slice()).unwrap();
    let nids: Vec<Nid> = bootstrap.prefetch().collect();
    assert_eq!(nids.len(), 3);
    nids.into_iter().for_each(|nid| assert_eq!(bootstrap.inode(nid).unwrap().nid, nid));
    assert_eq!(bootstrap.readahead(0), 0..0);
    let bytes = read(&golden, "v5-dir-prefetch-blob");
    let readahead = Bootstrap::parse(bytes.as_slice()).unwrap().readahead(0);
    assert!(readahead.start == 0 && readahead.end > 0, "{readahead:?}");
}

/// Images of the first builders have no extended blob table: sizes and counts follow from the chunks.
#[test]
fn blobs_without_an_extended_entry_are_measured() {
    let Some(golden) = golden() else { return };
    for image in ["v5-dir-lz4", "v5-dir-zstd-sha256-4k-rep", "v5-layered"] {
        let mut bytes = read(&golden, image);
        let stated: Vec<_> = Bootstrap::parse(bytes.as_slice()).unwrap().blobs().to_vec();
        let table = word(&bytes, 72);
        // Empty entries first, then no table at all.
        bytes[table..table + 4].fill(0);
        for cut in [false, true] {
            if cut {
                bytes[68..80].fill(0);
            }
            let measured = Bootstrap::parse(bytes.as_slice()).unwrap();
            for (measured, stated) in measured.blobs().iter().zip(&stated) {
                let sizes = |blob: &rafs_format::Blob| {
                    (blob.chunk_count, blob.compressed_size, blob.uncompressed_size, blob.data_end())
                };
                assert_eq!(sizes(measured), sizes(stated), "{image}");
            }
            sound(&bytes).unwrap_or_else(|error| panic!("{image}: {error}"));
        }
    }
}

fn word(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())).unwrap()
}

fn set(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// First byte of the record at a position of the inode table, counted from 1.
fn record(bytes: &[u8], position: usize) -> usize {
    word(bytes, word(bytes, 32) + (position - 1) * 4) * 8
}

/// Positions of the records of which this is true.
fn positions(bytes: &[u8], is_wanted: impl Fn(usize) -> bool) -> Vec<usize> {
    (1..=word(bytes, 56)).filter(|&position| is_wanted(record(bytes, position))).collect()
}

fn is_file(bytes: &[u8], at: usize) -> bool {
    word(bytes, at + 60) & 0o170_000 == 0o100_000
}

/// First chunk record of the file at `at`.
fn chunks(bytes: &[u8], at: usize) -> usize {
    let name = usize::from(u16::from_le_bytes(bytes[at + 100..at + 102].try_into().unwrap()));
    let end = at + 128 + name.next_multiple_of(8);
    if bytes[at + 80] & 4 == 0 { end } else { end + 8 + word(bytes, end).next_multiple_of(8) }
}

#[test]
fn contradictions_are_refused_and_named() {
    let Some(golden) = golden() else { return };
    let good = read(&golden, "v5-dir-prefetch");
    let files = positions(&good, |at| is_file(&good, at) && word(&good, at + 96) > 0 && good[at + 80] == 0);
    let several = *files.iter().find(|&&file| word(&good, record(&good, file) + 96) > 1).unwrap();
    let several = chunks(&good, record(&good, several));
    let links = positions(&good, |at| word(&good, at + 88) > 1 && is_file(&good, at));
    let link = *links.iter().find(|&&link| word(&good, record(&good, link) + 40) != link).unwrap();
    let dirs =
        positions(&good, |at| word(&good, at + 60) & 0o170_000 == 0o040_000 && word(&good, at + 96) > 0);
    let (first, second) = (record(&good, dirs[1]), record(&good, dirs[2]));
    let file = record(&good, files[0]);
    let link_at = record(&good, link);
    let (link_chunks, other) = (chunks(&good, link_at), chunks(&good, file));
    let refused = |expected: &str, damage: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        damage(&mut bytes);
        let said = sound(&bytes).map_or_else(|error| error.to_string(), |_| "nothing".into());
        assert!(said.starts_with(expected), "{expected}: {said}");
    };
    refused("version", &|bytes| bytes[5] = 4);
    refused("superblock flags", &|bytes| bytes[17] = 0x10);
    refused("entries of the extended blob table", &|bytes| set(bytes, 68, 2));
    refused("inode table", &|bytes| bytes[32] |= 1);
    refused("prefetch table", &|bytes| set(bytes, 40, 8192));
    refused("number of entries", &|bytes| {
        let (table, entries) = (word(bytes, 32), word(bytes, 56));
        // The same tree in a table that has room for one inode more, which is another name of a file.
        let at = word(bytes, table + (link - 1) * 4);
        set(bytes, table + entries * 4, u32::try_from(at).unwrap());
        set(bytes, 56, u32::try_from(entries).unwrap() + 1);
    });
    refused("first child of a directory", &|bytes| bytes.copy_within(first + 92..first + 100, second + 92));
    refused("first child of a directory", &|bytes| set(bytes, second + 92, 1));
    refused("parent of an inode", &|bytes| bytes[file + 32] ^= 1);
    refused("number of an inode", &|bytes| bytes[first + 40] ^= 1);
    refused("number of chunks of an inode", &|bytes| bytes[file + 96] ^= 1);
    refused("nanoseconds of an inode", &|bytes| set(bytes, file + 108, 1_000_000_000));
    refused("mode of an inode", &|bytes| bytes[file + 62] = 1);
    refused("size of a symlink target", &|bytes| bytes[file + 102] = 1);
    refused("directory entry", &|bytes| bytes[file + 128] = b'/');
    refused("content of another name", &|bytes| bytes[link_at] ^= 1);
    refused("chunk record of another name", &|bytes| {
        // Another chunk of the image, so that the record is right in itself.
        bytes.copy_within(other..other + 80, link_chunks);
    });
    refused("file offset of a chunk record", &|bytes| bytes[several + 80 + 65] ^= 0x10);
    refused("index of a chunk record", &|bytes| bytes[several + 74] = 1);
    refused("uncompressed offset of a chunk record", &|bytes| {
        let at = word(bytes, several + 56);
        set(bytes, several + 80 + 56, u32::try_from(at).unwrap() + 1);
    });
    refused("digest of a chunk record", &|bytes| {
        // The second chunk says that it is the first.
        bytes.copy_within(several + 72..several + 76, several + 80 + 72);
        let first = bytes[several];
        bytes[several + 80] = !first;
    });
}

/// A file whose chunk records are said to be all that follows, several times: reading all of them would cost a multiple of the image.
#[test]
fn regression_inodes_that_share_their_chunks_are_refused() {
    let Some(golden) = golden() else { return };
    let mut bytes = read(&golden, "v5-bigdir");
    let files = positions(&bytes, |at| is_file(&bytes, at));
    for &file in files.iter().take(3) {
        let at = record(&bytes, file);
        let count = u32::try_from((bytes.len() - chunks(&bytes, at)) / 80).unwrap();
        set(&mut bytes, at + 96, count);
        bytes[at + 64..at + 72].copy_from_slice(&(u64::from(count) << 20).to_le_bytes());
    }
    let bootstrap = Bootstrap::parse(bytes.as_slice()).unwrap();
    let inode = bootstrap.inode(Nid(u64::try_from(files[0]).unwrap()));
    assert!(inode.is_ok(), "each one alone may be so: {inode:?}");
    assert!(ChunkIndex::build(&bootstrap).is_err());
    let places = bootstrap.chunk_places().last().unwrap().unwrap_err().to_string();
    assert!(places.starts_with("inodes overlap"), "{places}");
}

/// Looks at everything that can be reached, sound or not.
fn wander(bytes: &[u8]) {
    let Ok(bootstrap) = Bootstrap::parse(bytes) else { return };
    let _sound = check(&bootstrap, &mut |_| Ok::<(), FormatError>(())).is_ok();
    let index = ChunkIndex::build(&bootstrap).ok();
    for nid in (0..bootstrap.superblock().entries.min(300) + 2).map(Nid) {
        let Ok(inode) = bootstrap.inode(nid) else { continue };
        let _xattrs = bootstrap.xattrs(&inode).map(Iterator::count).is_ok();
        let _target = bootstrap.symlink_target(&inode).is_ok();
        for entry in bootstrap.dir_entries(&inode, 0).into_iter().flatten().take(300).flatten() {
            let _found = bootstrap.lookup(&inode, entry.name).is_ok();
        }
        if let Some(index) = &index {
            let chunks = 0..bootstrap.chunk_count(&inode).min(20);
            let _good = chunks.filter(|&n| index.chunk(&bootstrap, &inode, n).is_ok()).count();
            let _any = index.at_or_after(&bootstrap, 0, u32::try_from(nid.0).unwrap_or(0)).is_ok();
        }
    }
}

#[test]
fn no_flipped_byte_panics() {
    let Some(golden) = golden() else { return };
    for (image, step) in [("v5-dir-prefetch", 59), ("v5-layered", 149), ("v5-empty", 1)] {
        let good = read(&golden, image);
        let super_fields = 0..80;
        for at in super_fields.chain((8192..good.len()).step_by(step)) {
            let mut bytes = good.clone();
            bytes[at] ^= [0x01, 0x80, 0xFF, 0x10][at % 4];
            wander(&bytes);
        }
    }
}

#[test]
fn a_bootstrap_that_ends_early_is_refused() {
    let Some(golden) = golden() else { return };
    for image in ["v5-dir-prefetch", "v5-empty"] {
        let good = read(&golden, image);
        for len in (0..good.len()).filter(|len| *len < 300 || len % 331 == 0 || good.len() - len < 300) {
            let error = sound(&good[..len]).expect_err("a part of an image passes");
            assert!(error.to_string().len() > 10);
            wander(&good[..len]);
        }
    }
}

/// The few that are always there.
#[test]
fn kept_bootstraps_are_sound() {
    for image in ["v5-dir-lz4", "v5-empty"] {
        let path = format!("{}/tests/golden/{image}.boot", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(&path).unwrap();
        let summary = sound(&bytes).unwrap_or_else(|error| panic!("{image}: {error}"));
        assert_eq!(
            summary.entries,
            Bootstrap::parse(bytes.as_slice()).unwrap().superblock().entries,
            "{image}"
        );
    }
}

/// The same names in both versions.
#[test]
fn paths_are_resolved_name_by_name() {
    for image in ["v5-dir-lz4", "v6-dir-lz4-8k"] {
        let path = format!("{}/tests/golden/{image}.boot", env!("CARGO_MANIFEST_DIR"));
        let bootstrap = Bootstrap::parse(std::fs::read(&path).unwrap()).unwrap();
        let of = |path: &str| bootstrap.resolve(path.as_bytes()).unwrap().map(|inode| inode.nid);
        let root = Some(bootstrap.superblock().root);
        assert_eq!([of(""), of("/"), of("/."), of("/.."), of("/dup/..")], [root; 5], "{image}");
        let file = of("/dup/one");
        assert!(file.is_some() && file != root);
        assert_eq!([of("dup/one"), of("//dup/./one"), of("/hl/../dup/one")], [file; 3], "{image}");
        assert_eq!(
            [of("/dup/none"), of("/dup/one/x"), of("/none/.."), of("/dup/one/..")],
            [None; 4],
            "{image}"
        );
    }
}
