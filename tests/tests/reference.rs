//! Layers that stay as they are, as converters take them: a pipe in, a pipe out, a merge; then unpacked, and mounted from the original files.
#![allow(clippy::unwrap_used, reason = "tests")]

use sha2::{Digest, Sha256};
use std::path::Path;
use std::process::{Command, Stdio};
use testkit::tree::{self, Made};
use tests::{Place, can_mount, program, run_ok};

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn nydus_image() -> Command {
    let mut command = Command::new(program("nydus-image"));
    command.stdin(Stdio::null());
    command
}

/// What is written for `layer`, through pipes in `dir`.
fn convert(dir: &Path, layer: &[u8]) -> Vec<u8> {
    let (source, target) = (dir.join("in"), dir.join("out"));
    for pipe in [&source, &target] {
        run_ok(Command::new("mkfifo").arg(pipe));
    }
    let feeder = std::thread::spawn({
        let (source, layer) = (source.clone(), layer.to_vec());
        move || std::fs::write(source, layer).unwrap()
    });
    let reader = std::thread::spawn({
        let target = target.clone();
        move || std::fs::read(target).unwrap()
    });
    let mut create = nydus_image();
    create.args(["create", "--log-level", "warn", "--type", "targz-ref", "--blob-inline-meta"]);
    create.args(["--features", "blob-toc", "--blob"]).arg(&target).arg(&source);
    assert_eq!(run_ok(&mut create), "");
    feeder.join().unwrap();
    let object = reader.join().unwrap();
    std::fs::remove_file(source).unwrap();
    std::fs::remove_file(target).unwrap();
    object
}

/// The bootstrap and the table of contents in `object`, as converters find them: by the tar headers at the end.
fn parts(object: &[u8], dir: &Path, layer: &str) -> String {
    let end = object.len() - 512;
    let header = tar::Header::from_byte_slice(&object[end..]);
    assert_eq!(&*header.path_bytes(), b"rafs.blob.toc");
    let start = end - usize::try_from(header.entry_size().unwrap()).unwrap();
    let toc = &object[start..end];
    let entry = toc.chunks(128).find(|entry| entry[8..24].starts_with(b"image.boot")).unwrap();
    let word =
        |at: usize| usize::try_from(u64::from_le_bytes(entry[at..at + 8].try_into().unwrap())).unwrap();
    let stored = &object[word(56)..word(56) + word(64)];
    let path = dir.join(layer);
    std::fs::write(path.with_extension("zst"), stored).unwrap();
    run_ok(Command::new("zstd").arg("-qdf").arg(path.with_extension("zst")).arg("-o").arg(&path));
    hex(toc)
}

#[test]
fn layers_stay_as_they_are_from_conversion_to_mount() {
    let Some(golden) = tree::golden().filter(|_| tests::has_program("zstd")) else { return };
    let place = Place::new();
    let mut sources = Vec::new();
    let (mut digests, mut tocs, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
    for name in ["nasty.tar.gz", "upper.tar.gz"] {
        let layer = std::fs::read(golden.join(name)).unwrap();
        let object = convert(&place.at(""), &layer);
        // The layer and what was written for it, as in a registry.
        let (layer_id, object_id) = (hex(&layer), hex(&object));
        std::fs::write(place.at("blobs").join(&layer_id), &layer).unwrap();
        std::fs::write(place.at("blobs").join(&object_id), &object).unwrap();
        tocs.push(parts(&object, &place.at(""), &layer_id));
        sources.push(place.at(&layer_id));
        digests.push(object_id);
        sizes.push(object.len().to_string());
    }
    let mut merge = nydus_image();
    merge.args(["merge", "--log-level", "warn", "--bootstrap"]).arg(place.at("boot")).args(&sources);
    merge.args(["--blob-digests", &digests.join(","), "--blob-toc-digests", &tocs.join(",")]);
    run_ok(merge.args(["--blob-sizes", &sizes.join(",")]));
    run_ok(nydus_image().arg("check").arg("--data").arg(place.at("boot")).arg("-D").arg(place.at("blobs")));
    let expected = tree::expected(&golden.join("expected-merged.json"));
    let mut unpack = nydus_image();
    unpack.arg("unpack").arg(place.at("boot")).arg("-D").arg(place.at("blobs"));
    run_ok(unpack.arg("--output").arg(place.at("out.tar")));
    let found = tree::tar_tree(&std::fs::read(place.at("out.tar")).unwrap());
    assert_alike("unpacked", found, &expected);
    if !can_mount() {
        return;
    }
    let daemon = place.mount();
    assert_alike("mounted", tree::dir_tree(&place.at("mnt")), &expected);
    daemon.stop();
}

/// Compares with the description, but for directories that the upper layer only implies: here they keep what the lower one gave them.
fn assert_alike(what: &str, mut found: tree::Tree, expected: &tree::Tree) {
    for implied in ["/", "/sizes"] {
        if let Some((found, theirs)) = found.get_mut(implied).zip(expected.get(implied)) {
            *found = theirs.clone();
        }
    }
    tree::assert_same(what, &found, expected, Made::FromDirectory, true);
}
