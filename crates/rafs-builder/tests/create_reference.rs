//! Images that refer to layers as they are: the reference builder's again byte for byte, read back, merged, and made of damaged layers.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use common::{Made, bootstrap_of, contents, expected, normal, sections, tar_tree};
use proptest::prelude::*;
use rafs_builder::create::{Options, Places, Report, create_reference};
use rafs_builder::merge::{self, Source, merge};
use rafs_builder::open::{BlobSource, Image, LocalFs};
use rafs_builder::output::{Outputs, Place};
use rafs_builder::unpack::{self, Target};
use rafs_builder::{chain, check};
use rafs_format::{BlobFeatures, Digest};
use sha2::{Digest as _, Sha256};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Gives a few bytes at a time, as a pipe may.
struct Drops<R>(R, usize);

impl<R: Read> Read for Drops<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.1.min(into.len());
        self.0.read(&mut into[..count])
    }
}

/// Makes the image of `layer` in `dir`: `boot` and the table object named by its digest, or only that.
fn build(layer: &[u8], options: &Options, inline: bool, dir: &Path) -> Result<Report, String> {
    let bootstrap = (!inline).then(|| Place::File(dir.join("boot")));
    let places = Places { bootstrap, blob: Place::Directory(dir.to_path_buf()) };
    let stream = Box::new(Drops(layer, 10_007));
    create_reference(stream, options, places, &Outputs::new(), &|_| {}).map_err(|error| chain(&error))
}

fn id(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn blobs_in(dir: &Path) -> BlobSource {
    BlobSource::new(Arc::new(LocalFs { dir: Some(dir.to_path_buf()), ..LocalFs::default() })).unwrap()
}

fn assert_sound(image: &Path, dir: &Path) -> Image {
    let image = Image::open(image).unwrap();
    check::structure(&image).unwrap();
    let report = check::data(&image, &blobs_in(dir), 2).unwrap();
    let problems: Vec<_> = report.problems.iter().map(|problem| chain(problem)).collect();
    assert_eq!(problems, Vec::<String>::new());
    image
}

fn unpacked(image: &Image, dir: &Path) -> Vec<u8> {
    let path = dir.join("out.tar");
    unpack::unpack(image, &blobs_in(dir), &Target::Tar(path.clone()), 2, &AtomicBool::new(false)).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn layers_become_the_reference_images() {
    let Some(golden) = common::golden() else { return };
    for (image, source, chunk_size, toc) in [
        ("v6-zran", "nasty.tar.gz", 0x10_0000, false),
        ("v6-zran-4k", "nasty.tar.gz", 0x1000, false),
        ("v6-zran-multi", "zranmulti.tar.gz", 0x2_0000, false),
        ("v6-zran-toc", "nasty.tar.gz", 0x10_0000, true),
        ("v6-tarref", "nasty.tar", 0x10_0000, false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let layer = std::fs::read(golden.join(source)).unwrap();
        let options = Options { chunk_size, toc, reference_states: true, ..Options::default() };
        let report = build(&layer, &options, false, dir.path()).unwrap();
        assert_eq!(report.blob.unwrap().as_str(), id(&layer), "{image}");
        let object = std::fs::read(report.blob_path.unwrap()).unwrap();
        let theirs = std::fs::read_dir(golden.join(image).join("blobs")).unwrap().next().unwrap().unwrap();
        assert!(object == std::fs::read(theirs.path()).unwrap(), "{image}: the object with the chunk table");
        let mut found = normal(std::fs::read(dir.path().join("boot")).unwrap());
        let mut expected = normal(std::fs::read(golden.join(image).join("image.boot")).unwrap());
        assert_eq!(
            Digest(Sha256::digest(&object).into()),
            Digest(found[4096 + 168..][..32].try_into().unwrap())
        );
        if toc {
            // The digest of the object, which there leaves a section out.
            [&mut found, &mut expected].into_iter().for_each(|bytes| bytes[4096 + 168..][..32].fill(0));
        }
        let differ: Vec<_> = (0..found.len()).filter(|&at| found[at] != expected[at]).collect();
        assert!(found.len() == expected.len() && differ.is_empty(), "{image}: differs at {differ:x?}");
    }
}

/// The form that converters make: bootstrap, digests and table of contents in the object.
#[test]
fn a_layer_becomes_the_reference_object_with_all_in_it() {
    let Some(golden) = common::golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    let layer = std::fs::read(golden.join("nasty.tar.gz")).unwrap();
    let report = build(&layer, &Options { toc: true, ..Options::default() }, true, dir.path()).unwrap();
    let path = report.blob_path.unwrap();
    let ours = std::fs::read(&path).unwrap();
    assert_eq!(path.file_name().unwrap().to_str().unwrap(), id(&ours), "it is named by its digest");
    let theirs = std::fs::read(common::bootstrap(&golden, "v6-zran-inline-toc")).unwrap();
    assert_eq!(normal(bootstrap_of(&sections(&ours))), normal(bootstrap_of(&sections(&theirs))));
    let names = |blob: &[u8]| contents(&sections(blob)).iter().map(|e| e.name().to_vec()).collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs));
    for (ours, theirs) in sections(&ours).into_iter().zip(sections(&theirs)).take(2) {
        assert_eq!(ours, theirs);
    }
    std::fs::write(dir.path().join(id(&layer)), &layer).unwrap();
    let image = assert_sound(&path, dir.path());
    let described = expected(&golden.join("expected-nasty.json"));
    common::assert_same(
        "inline",
        &tar_tree(&unpacked(&image, dir.path())),
        &described,
        Made::FromDirectory,
        true,
    );
}

/// Two such layers, merged as converters do it, are the tree that two native layers are.
#[test]
fn layers_are_merged_with_what_converters_know() {
    let Some(golden) = common::golden() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut sources = Vec::new();
    for name in ["nasty.tar.gz", "upper.tar.gz"] {
        let layer = std::fs::read(golden.join(name)).unwrap();
        std::fs::write(dir.path().join(id(&layer)), &layer).unwrap();
        let report = build(&layer, &Options { toc: true, ..Options::default() }, true, dir.path()).unwrap();
        let object = std::fs::read(report.blob_path.unwrap()).unwrap();
        let sections = sections(&object);
        // The bootstrap is taken out and named after the layer; the digest is over the entries alone.
        let boot = dir.path().join(format!("{}.boot", id(&layer)));
        std::fs::write(&boot, bootstrap_of(&sections)).unwrap();
        let toc = &sections.last().unwrap().1;
        sources.push(Source {
            blob_digest: Some(Digest(Sha256::digest(&object).into())),
            blob_size: Some(object.len() as u64),
            toc_digest: Some(Digest(Sha256::digest(toc).into())),
            ..Source::at(boot)
        });
    }
    let boot = dir.path().join("boot");
    let options = merge::Options { sources, ..merge::Options::default() };
    merge(&options, Place::File(boot.clone()), &Outputs::new()).unwrap();
    let image = assert_sound(&boot, dir.path());
    assert!(image.blobs().len() == 2 && image.blobs().iter().all(|blob| blob.meta_size > 0));
    let described = expected(&golden.join("expected-merged.json"));
    let mut found = tar_tree(&unpacked(&image, dir.path()));
    // What the upper layer only implies keeps the attributes of the lower one here.
    for implied in ["/", "/sizes"] {
        let (found, theirs) = (found.get_mut(implied), described.get(implied));
        if let Some((found, theirs)) = found.zip(theirs) {
            *found = theirs.clone();
        }
    }
    common::assert_same("merged", &found, &described, Made::FromDirectory, true);
    // Another table of contents is told.
    let mut bytes = std::fs::read(&boot).unwrap();
    let at = image.bootstrap().bytes().windows(32).position(|w| w == image.blobs()[0].toc_digest.0).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&boot, bytes).unwrap();
    let report = check::data(&Image::open(&boot).unwrap(), &blobs_in(dir.path()), 1).unwrap();
    let problems: Vec<_> = report.problems.iter().map(|problem| problem.to_string()).collect();
    assert!(problems.len() == 1 && problems[0].contains("table of contents"), "{problems:?}");
}

/// A tar of files of `sizes` bytes that compress somewhat.
fn tar_of(sizes: &[usize], seed: u32) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (n, &size) in (0u32..).zip(sizes) {
        let mut state = seed ^ n;
        // Every other kilobyte is from an alphabet of four.
        let plain = (0..size).map(|at| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let byte = state.to_be_bytes()[0];
            if at / 1024 % 2 == 0 { byte & 3 } else { byte }
        });
        let plain: Vec<u8> = plain.collect();
        let mut header = tar::Header::new_gnu();
        header.set_size(size as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("f{n}"), plain.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// The data of all files, by name.
fn files(tar: &[u8]) -> Vec<(PathBuf, Vec<u8>)> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (entry.path().unwrap().into_owned(), bytes)
    });
    let mut files: Vec<_> = entries.collect();
    files.sort();
    files
}

fn round_trip(tar: &[u8], layer: &[u8], chunk_size: u32) -> Image {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(id(layer)), layer).unwrap();
    build(layer, &Options { chunk_size, ..Options::default() }, false, dir.path()).unwrap();
    let image = assert_sound(&dir.path().join("boot"), dir.path());
    assert!(files(&unpacked(&image, dir.path())) == files(tar));
    image
}

#[test]
fn long_layers_have_many_spans() {
    let tar = tar_of(&[3_000_000, 10, 2_500_000, 700_000, 0, 1], 5);
    for cut in [tar.len(), 1_000_000, 1_000_001] {
        // Two members, or one and an empty one.
        let layer = [gzip(&tar[..cut]), gzip(&tar[cut..])].concat();
        round_trip(&tar, &layer, 0x2_0000);
        let table = |reference_states| {
            let dir = tempfile::tempdir().unwrap();
            let options = Options { chunk_size: 0x2_0000, reference_states, ..Options::default() };
            let report = build(&layer, &options, false, dir.path()).unwrap();
            std::fs::metadata(report.blob_path.unwrap()).unwrap().len()
        };
        let (small, reference) = (table(false), table(true));
        assert!(small * 2 < reference, "{small} bytes instead of {reference}");
    }
    let image = round_trip(&tar, &tar, 0x2_0000);
    assert!(!image.blobs()[0].features.contains(BlobFeatures::ZRAN));
}

#[test]
fn damaged_layers_are_refused_and_leave_nothing() {
    let tar = tar_of(&[100_000, 5000], 1);
    let layer = gzip(&tar);
    let refused = |layer: &[u8]| {
        let dir = tempfile::tempdir().unwrap();
        let said = build(layer, &Options::default(), false, dir.path()).unwrap_err();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{said}");
        said
    };
    for cut in [2, 9, 11, 1000, layer.len() / 2, layer.len() - 9, layer.len() - 1] {
        let said = refused(&layer[..cut]);
        assert!(
            said.contains("near byte") && said.contains("ends inside a gzip member"),
            "cut at {cut}: {said}"
        );
    }
    let mut bad = layer.clone();
    let last = bad.len() - 8;
    bad[last] ^= 1;
    assert!(refused(&bad).contains("incorrect data check"));
    assert!(refused(&[layer.as_slice(), &[7; 100]].concat()).contains("incorrect header check"));
    assert!(refused(&[0x28, 0xB5, 0x2F, 0xFD, 0, 0, 0, 0]).contains("zstd"));
    assert!(refused(b"").contains("empty"));
    assert!(refused(&tar[..70_000]).contains("f0"));
}

/// Whatever becomes of a layer or of its table behind an image's back: no panic, and nothing false is unpacked.
#[test]
fn damage_behind_an_image_is_found() {
    let tar = tar_of(&[40_000, 60_000], 3);
    let layer = gzip(&tar);
    let dir = tempfile::tempdir().unwrap();
    let (data, boot) = (dir.path().join(id(&layer)), dir.path().join("boot"));
    std::fs::write(&data, &layer).unwrap();
    let report =
        build(&layer, &Options { chunk_size: 0x4000, ..Options::default() }, false, dir.path()).unwrap();
    let object = report.blob_path.unwrap();
    let image = Image::open(&boot).unwrap();
    let table = std::fs::read(&object).unwrap();
    let found = || !check::data(&image, &blobs_in(dir.path()), 1).unwrap().problems.is_empty();
    for at in (0..layer.len()).step_by(997) {
        let mut bad = layer.clone();
        bad[at] ^= 0x20;
        std::fs::write(&data, bad).unwrap();
        assert!(found(), "byte {at} of the layer");
    }
    std::fs::write(&data, &layer[..layer.len() / 2]).unwrap();
    assert!(found(), "a cut layer");
    std::fs::write(&data, &layer).unwrap();
    for at in (0..table.len()).step_by(31) {
        let mut bad = table.clone();
        bad[at] ^= 0x20;
        std::fs::write(&object, bad).unwrap();
        assert!(found(), "byte {at} of the table");
    }
    std::fs::remove_file(&object).unwrap();
    let report = check::data(&image, &blobs_in(dir.path()), 1).unwrap();
    assert!(chain(&report.problems[0]).contains("cannot open the object with the chunk table"));
    std::fs::write(&object, &table).unwrap();
    assert!(!found());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn any_layer_reads_back(
        sizes in prop::collection::vec(0usize..60_000, 0..8), seed in any::<u32>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..3), shift in 12u32..18,
    ) {
        let tar = tar_of(&sizes, seed);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(tar.len())).collect();
        cuts.extend([0, tar.len()]);
        cuts.sort_unstable();
        let layer: Vec<u8> = cuts.windows(2).flat_map(|pair| gzip(&tar[pair[0]..pair[1]])).collect();
        round_trip(&tar, &layer, 1 << shift);
    }
}
