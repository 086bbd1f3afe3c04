//! Compacted and optimized images are the same trees: of random layers that delete and replace what is below them, with every setting, and of golden images.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests; sizes here are small")]

mod common;

use common::{all_blobs, bootstrap, golden};
use rafs_builder::compact::{Options, compact};
use rafs_builder::create::{self, Input, Places, create};
use rafs_builder::digest::{self, Scope};
use rafs_builder::merge::{self, Source};
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::optimize::{Hint, optimize};
use rafs_builder::output::{Outputs, Place};
use rafs_builder::repack::{RepackError, Report};
use rafs_builder::{chain, check, unpack};
use rafs_format::{BlobFeatures, Compressor, Version};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

fn local(dir: &Path, more: Option<&Path>) -> BlobSource {
    let alt_dirs = more.map(Path::to_path_buf).into_iter().collect();
    let local = LocalFs { dir: Some(dir.to_path_buf()), alt_dirs, ..LocalFs::default() };
    BlobSource::new(Arc::new(local)).unwrap()
}

/// Numbers that look random, the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    /// Content of few kinds, so that chunks are shared, compressible or not.
    fn content(&mut self) -> Vec<u8> {
        let (kind, size) = (self.below(6), self.below(20_000));
        let mut noise = Numbers(kind);
        (0..size)
            .map(|at| if kind < 3 { noise.below(256) as u8 } else { (at / 5000) as u8 ^ kind as u8 })
            .collect()
    }

    /// A layer as a tar: files of few names in few directories, and whiteouts of these.
    fn layer(&mut self, whiteouts: bool) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for dir in 0..3 {
            for file in 0..5 {
                let mut header = tar::Header::new_gnu();
                header.set_mode(0o644);
                header.set_mtime(self.below(1000));
                let choice = self.below(10);
                let name = match choice {
                    0..=1 if whiteouts => format!("d{dir}/.wh.f{file}"),
                    2 if whiteouts && file == 0 => format!("d{dir}/.wh..wh..opq"),
                    0..=4 => format!("d{dir}/f{file}"),
                    _ => continue,
                };
                let content = if name.contains(".wh.") { Vec::new() } else { self.content() };
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, name, content.as_slice()).unwrap();
            }
        }
        tar.into_inner().unwrap()
    }
}

/// The same in v5, as far as it has that.
fn v5(options: create::Options) -> create::Options {
    create::Options { version: Version::V5, toc: false, batch_size: 0, ..options }
}

/// Layers built into `dir` and merged there.
fn image(dir: &Path, numbers: &mut Numbers, layers: u64, options: &create::Options) -> Image {
    let mut sources = Vec::new();
    for n in 0..layers {
        let layer = numbers.layer(n > 0);
        let places = Places { bootstrap: None, blob: Place::Directory(dir.to_path_buf()) };
        let input = Input::Tar(Box::new(layer.as_slice()));
        sources.push(Source::at(
            create(input, options, places, &Outputs::new(), &|_| {}).unwrap().blob_path.unwrap(),
        ));
    }
    let options = merge::Options { sources, prefetch: vec![b"/d1".to_vec()], ..merge::Options::default() };
    merge::merge(&options, Place::File(dir.join("boot")), &Outputs::new()).unwrap();
    Image::open(&dir.join("boot")).unwrap()
}

fn unpacked(image: &Image, source: &BlobSource) -> Vec<u8> {
    let mut tar = Vec::new();
    unpack::tar_to(image, source, &mut tar, 2).unwrap_or_else(|error| panic!("{}", chain(&error)));
    tar
}

fn prefetched(image: &Image) -> String {
    let mut out = Vec::new();
    rafs_builder::inspect::answer(image, "prefetch", &mut out).unwrap();
    // Without numbers of inodes.
    String::from_utf8(out).unwrap().split("path").skip(1).collect()
}

/// Asserts that `report` tells of an image with the tree, data and prefetch table of `before`.
fn assert_same_image(before: &Image, report: &Report, source: &BlobSource, what: &str) -> Image {
    let after = Image::open(&report.bootstrap_path).unwrap();
    check::structure(&after).unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
    let ids: Vec<_> = after.blobs().iter().map(|blob| blob.id.clone()).collect();
    assert_eq!(ids, report.blobs, "{what}");
    let data = check::data(&after, source, 2).unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
    assert!(
        data.problems.is_empty(),
        "{what}: {:?}",
        data.problems.iter().map(|p| chain(p)).collect::<Vec<_>>()
    );
    let digest = |image: &Image| digest::tree(image.bootstrap(), Scope::Full).unwrap().digest;
    assert_eq!(digest(&after), digest(before), "{what}");
    assert_eq!(report.tree_digest, digest(before), "{what}");
    assert!(unpacked(&after, source) == unpacked(before, source), "{what}");
    assert_eq!(prefetched(&after), prefetched(before), "{what}");
    after
}

#[test]
fn compacted_images_are_the_same_trees() {
    let mut numbers = Numbers(7);
    let (mut fewer, mut rewritten) = (0, 0);
    for round in 0..30 {
        let dir = tempfile::tempdir().unwrap();
        let compressor = [Compressor::Zstd, Compressor::Lz4Block, Compressor::None][round % 3];
        let built = create::Options {
            compressor,
            chunk_size: 0x1000,
            toc: round % 2 == 0,
            ..create::Options::default()
        };
        let built = if round % 5 == 4 { v5(built) } else { built };
        let layers = 1 + numbers.below(7);
        let before = image(dir.path(), &mut numbers, layers, &built);
        let source = local(dir.path(), None);
        let options = Options {
            min_used_ratio: [0, 50, 95][numbers.below(3) as usize],
            compact_blob_size: [0, 20_000, 10 << 20][numbers.below(3) as usize],
            max_compact_size: [30_000, 100 << 20][numbers.below(2) as usize],
            ..Options::default()
        };
        let mut what = String::new();
        write!(what, "round {round}, {layers} layers, {options:?}").unwrap();
        let place = Place::File(dir.path().join("after"));
        let report = compact(&before, &options, &source, place, dir.path(), &Outputs::new())
            .unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
        let after = assert_same_image(&before, &report, &source, &what);
        for new in &report.new_blobs {
            let bytes = std::fs::read(dir.path().join(new.id.as_str())).unwrap();
            assert_eq!(
                (common::sha256(&bytes), bytes.len() as u64),
                (new.id.to_string(), new.size),
                "{what}"
            );
            let blob = after.blobs().iter().find(|blob| blob.id == new.id).unwrap();
            assert_eq!(blob.features.contains(BlobFeatures::HAS_TOC), built.toc, "{what}");
        }
        fewer += usize::from(after.blobs().len() < before.blobs().len());
        rewritten += report.new_blobs.len();
        // Once more: there is nothing left to do but for what the limits forbid.
        if options.max_compact_size > 1 << 20 {
            let place = Place::File(dir.path().join("again"));
            let again = compact(&after, &options, &source, place, dir.path(), &Outputs::new()).unwrap();
            assert!(again.new_blobs.is_empty() || options.min_used_ratio > 0, "{what}");
            assert_same_image(&before, &again, &source, &what);
        }
    }
    assert!(fewer > 5 && rewritten > 10, "{fewer} images with fewer blobs, {rewritten} new blobs");
}

/// All layers become one blob, whose size is that of what is used and its tables.
#[test]
fn small_blobs_become_one() {
    let dir = tempfile::tempdir().unwrap();
    let built = create::Options { chunk_size: 0x1000, ..create::Options::default() };
    let before = image(dir.path(), &mut Numbers(3), 6, &built);
    assert!(before.blobs().len() > 3);
    let (source, new) = (local(dir.path(), None), tempfile::tempdir().unwrap());
    let place = Place::File(new.path().join("boot"));
    let report = compact(&before, &Options::default(), &source, place, new.path(), &Outputs::new()).unwrap();
    let after = assert_same_image(&before, &report, &local(new.path(), Some(dir.path())), "one");
    assert_eq!((after.blobs().len(), report.new_blobs.len()), (1, 1));
    assert_eq!(report.dropped.len(), before.blobs().len());
    // Nothing else is left there.
    assert_eq!(std::fs::read_dir(new.path()).unwrap().count(), 2);
    assert_eq!(unpacked(&after, &local(new.path(), None)), unpacked(&before, &source));
}

#[test]
fn what_is_to_stay_stays() {
    let dir = tempfile::tempdir().unwrap();
    let built = create::Options { chunk_size: 0x1000, ..create::Options::default() };
    let before = image(dir.path(), &mut Numbers(3), 6, &built);
    let bytes = std::fs::read(before.path()).unwrap();
    let after = dir.path().join("after");
    let run = |options: Options, source: &BlobSource| {
        compact(&before, &options, source, Place::File(after.clone()), dir.path(), &Outputs::new())
    };
    let nowhere = tempfile::tempdir().unwrap();
    // No blob is read where nothing is done.
    let few = Options { layers_to_compact: 7, ..Options::default() };
    let report = run(few, &local(nowhere.path(), None)).unwrap();
    assert!(report.new_blobs.is_empty() && report.dropped.is_empty());
    assert_eq!((std::fs::read(&after).unwrap(), report.blobs.len()), (bytes.clone(), before.blobs().len()));
    let dict =
        Options { chunk_dict: Some(before.path().to_path_buf()), min_used_ratio: 100, ..Options::default() };
    assert!(run(dict, &local(nowhere.path(), None)).unwrap().new_blobs.is_empty());
    assert_eq!(std::fs::read(&after).unwrap(), bytes);
    // A missing or damaged blob: nothing is written.
    std::fs::remove_file(&after).unwrap();
    let count = || std::fs::read_dir(dir.path()).unwrap().count();
    let files = count();
    let said = chain(&run(Options::default(), &local(nowhere.path(), None)).unwrap_err());
    assert!(said.starts_with("cannot open blob "), "{said}");
    let blob = dir.path().join(before.blobs()[1].id.as_str());
    let mut damaged = std::fs::read(&blob).unwrap();
    let end = before.blobs()[1].data_end() as usize;
    damaged[..end].fill(0x55);
    std::fs::write(&blob, &damaged).unwrap();
    let error = run(Options::default(), &local(dir.path(), None)).unwrap_err();
    assert!(matches!(error, RepackError::Chunk(_)), "{}", chain(&error));
    assert_eq!(count(), files);
}

/// Blobs of one image only: one that nothing uses is left out, all are written anew where less than all of them is used.
#[test]
fn golden_images_are_compacted_or_refused() {
    let Some(golden) = golden() else { return };
    let blobs = all_blobs(&golden);
    let source = local(blobs.path(), None);
    for name in [
        "v6-dir-lz4-8k",
        "v6-merge",
        "v6-layered",
        "v6-dir-inline-toc",
        "v6-dir-toc",
        "v6-chunkdict",
        "v6-dir-batch",
        "v6-dir-encrypt",
        "v6-zran",
        "v6-empty",
        "v5-tar",
        "v5-layered",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let before = Image::open(&bootstrap(&golden, name)).unwrap();
        let options = Options { min_used_ratio: 100, ..Options::default() };
        let place = Place::File(dir.path().join("boot"));
        let report = compact(&before, &options, &source, place, dir.path(), &Outputs::new())
            .unwrap_or_else(|error| panic!("{name}: {}", chain(&error)));
        assert_same_image(&before, &report, &local(dir.path(), Some(blobs.path())), name);
        // Of a v5 blob of one layer all is used: it holds nothing but data.
        let kept = ["v6-dir-batch", "v6-dir-encrypt", "v6-zran", "v6-empty", "v5-tar"].contains(&name);
        assert_eq!(report.new_blobs.is_empty(), kept, "{name}");
    }
    let dir = tempfile::tempdir().unwrap();
    let image = Image::open(&bootstrap(&golden, "v6-tarfs")).unwrap();
    let place = Place::File(dir.path().join("boot"));
    let error =
        compact(&image, &Options::default(), &source, place, dir.path(), &Outputs::new()).unwrap_err();
    assert!(chain(&error).contains("is a tarfs"), "{}", chain(&error));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

fn hint(path: &str, ranges: Option<Vec<(u64, u64)>>) -> Hint {
    Hint { path: path.to_owned(), ranges }
}

/// The extra blob is the last one, flagged, and holds the chunks of the listed files and nothing else.
#[test]
fn optimized_images_are_the_same_trees() {
    let mut numbers = Numbers(11);
    for round in 0..12 {
        let dir = tempfile::tempdir().unwrap();
        let built = create::Options {
            chunk_size: 0x1000,
            toc: round % 2 == 0,
            batch_size: if round % 3 == 0 { 0x1000 } else { 0 },
            ..create::Options::default()
        };
        let is_v5 = round % 4 == 3;
        let built = if is_v5 { v5(built) } else { built };
        let layers = 1 + numbers.below(4);
        let before = image(dir.path(), &mut numbers, layers, &built);
        let source = local(dir.path(), None);
        let hints: Vec<Hint> =
            (0..3).flat_map(|d| (0..5).map(move |f| hint(&format!("/d{d}/f{f}"), None))).collect();
        let place = Place::File(dir.path().join("after"));
        let what = format!("round {round}");
        let report = optimize(&before, &hints[..7], &source, place, dir.path(), &Outputs::new())
            .unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
        let after = assert_same_image(&before, &report, &source, &what);
        let last = after.blobs().last().unwrap();
        assert_eq!(last.id, report.new_blobs[0].id, "{what}");
        let readahead = after.bootstrap().readahead(after.blobs().len() - 1);
        assert_eq!(last.features.contains(BlobFeatures::PREFETCH_SEPARATED), !is_v5, "{what}");
        assert_eq!(readahead, if is_v5 { 0..last.compressed_size } else { 0..0 }, "{what}");
        let entry = if is_v5 { 0 } else { 16 };
        assert_eq!(last.meta.uncompressed_size, u64::from(last.chunk_count) * entry, "{what}");
        // What is listed is in the extra blob, all of it.
        let position = after.blobs().len() as u32 - 1;
        for Hint { path, .. } in &hints[..7] {
            let bootstrap = after.bootstrap();
            let Ok(inode) = bootstrap.resolve(path.as_bytes()) else { continue };
            let Some(inode) = inode else { continue };
            for n in 0..bootstrap.chunk_count(&inode) {
                assert_eq!(bootstrap.chunk_ref(&inode, n).unwrap().blob, position, "{what}, {path}");
            }
        }
    }
}

#[test]
fn ranges_take_the_chunks_they_touch() {
    let dir = tempfile::tempdir().unwrap();
    let source_dir = dir.path().join("source");
    std::fs::create_dir(&source_dir).unwrap();
    let mut noise = Numbers(1);
    let content: Vec<u8> = (0..0x5000).map(|_| noise.below(256) as u8).collect();
    std::fs::write(source_dir.join("f"), content).unwrap();
    std::fs::hard_link(source_dir.join("f"), source_dir.join("g")).unwrap();
    let built = create::Options { chunk_size: 0x1000, ..create::Options::default() };
    let places = (Place::File(dir.path().join("boot")), Place::Directory(dir.path().to_path_buf()));
    create(Input::Directory(source_dir), &built, places, &Outputs::new(), &|_| {}).unwrap();
    let before = Image::open(&dir.path().join("boot")).unwrap();
    let source = local(dir.path(), None);
    let run = |hints: &[Hint]| {
        let place = Place::File(dir.path().join("after"));
        let report = optimize(&before, hints, &source, place, dir.path(), &Outputs::new()).unwrap();
        assert_same_image(&before, &report, &source, "ranges");
        report.new_blobs.first().map_or(0, |blob| blob.chunks)
    };
    assert_eq!(run(&[hint("/f", Some(vec![(0xFFF, 1)]))]), 1);
    assert_eq!(run(&[hint("/g", Some(vec![(0xFFF, 2)]))]), 2);
    assert_eq!(run(&[hint("/f", Some(vec![(0x1000, 0x1000), (0x4FFF, u64::MAX)]))]), 2);
    assert_eq!(run(&[hint("/f", None), hint("/g", None)]), 5);
    // Nothing is wanted: the bootstrap as it is.
    let nothing = [
        hint("/none", None),
        hint("f", None),
        hint("/", None),
        hint("/f", Some(vec![(0, 0)])),
        hint("/f", Some(vec![])),
    ];
    assert_eq!(run(&nothing), 0);
    assert_eq!(std::fs::read(dir.path().join("after")).unwrap(), std::fs::read(before.path()).unwrap());
}
