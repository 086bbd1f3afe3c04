//! Files whose data is elsewhere, as nydusify packs models: the command line with pipes, both images, what they hold byte by byte, and lists that are wrong.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{run, str, succeeds, text};
use std::path::Path;
use std::process::Command;

const ID: &str = "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee";
const OTHER: &str = "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd";
const CHUNK: usize = 1 << 20;

fn fails(args: &[&str]) -> String {
    let output = run(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", text(&output.stderr));
    text(&output.stderr)
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

fn crcs(data: &[u8]) -> String {
    let all: Vec<_> = data.chunks(CHUNK).map(|chunk| format!("0x{:x}", crc32c(chunk))).collect();
    all.join(",")
}

fn weights() -> Vec<u8> {
    testkit::blob::pattern(3, 2 * CHUNK + 777)
}

/// The lines for a model whose weights are in one blob, from 512 on, and whose index and marker are in another.
fn lines() -> String {
    let weights = weights();
    format!(
        "/model/weights.bin type=external file_size={} blob_index=0 blob_id={ID} chunk_size=1MiB \
         chunk_0_compressed_offset=512 compressed_size={} crcs={}\n\
         model/deep/index type=external blob_index=1 blob_id={OTHER} chunk_size=1048576 \
         chunk_0_compressed_offset=7 compressed_size=100 crcs={:08x}\n\
         model/empty type=external file_size=0 blob_index=1 blob_id={OTHER} chunk_size=1m \
         chunk_0_compressed_offset=7 compressed_size=100 crcs=\n",
        weights.len(),
        512 + weights.len() + 1024,
        crcs(&weights),
        crc32c(b"index"),
    )
}

/// A model in `dir`: its directory `source`, the list `attributes`, and the directory `blobs` with what is elsewhere.
fn model(dir: &Path) {
    let source = dir.join("source");
    std::fs::create_dir_all(source.join("model/deep")).unwrap();
    std::fs::create_dir_all(dir.join("blobs")).unwrap();
    std::fs::write(source.join("model/weights.bin"), b"").unwrap();
    std::fs::write(source.join("model/empty"), b"").unwrap();
    std::fs::write(source.join("model/deep/index"), b"index").unwrap();
    std::fs::write(source.join("model/config.json"), b"{}").unwrap();
    std::fs::write(source.join("README"), b"about").unwrap();
    std::fs::write(dir.join("attributes"), lines()).unwrap();
    let blob = [vec![0xAA; 512], weights(), vec![0; 1024]].concat();
    std::fs::write(dir.join("blobs").join(ID), blob).unwrap();
    let other = [&[1; 7][..], b"index", &[2; 88]].concat();
    std::fs::write(dir.join("blobs").join(OTHER), other).unwrap();
}

fn exists(dir: &Path, names: &[&str]) -> Vec<bool> {
    names.iter().map(|name| dir.join(name).exists()).collect()
}

const NAMES: [&str; 5] =
    ["model/weights.bin", "model/empty", "model/deep/index", "model/config.json", "README"];

/// Asserts that `boot` is the image of the external files: valid, its data too, and unpacked as it should be.
fn is_external(dir: &Path, boot: &Path, out: &str) {
    let (blobs, out) = (str(&dir.join("blobs")), dir.join(out));
    succeeds(&["check", str(boot), "--data", "-D", blobs]);
    succeeds(&["unpack", str(boot), "-D", blobs, "--output-dir", str(&out)]);
    assert_eq!(exists(&out, &NAMES), [true, true, true, false, false]);
    assert!(std::fs::read(out.join("model/weights.bin")).unwrap() == weights());
    assert_eq!(std::fs::read(out.join("model/deep/index")).unwrap(), b"index");
    assert_eq!(std::fs::read(out.join("model/empty")).unwrap(), b"");
}

/// As nydusify packs a model: both images through pipes, whose reader takes one after the other.
#[test]
fn a_model_is_packed_through_pipes() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| str(&dir.path().join(name));
    model(dir.path());
    assert!(Command::new("mkfifo").args([at("blob"), at("external")]).status().unwrap().success());
    let reader = {
        let (blob, external) = (at("blob"), at("external"));
        std::thread::spawn(move || [blob, external].map(|pipe| std::fs::read(pipe).unwrap()))
    };
    let common = ["create", "--log-level", "warn", "--prefetch-policy", "fs", "--blob", at("blob")];
    let kind = ["--type", "dir-rafs", "--whiteout-spec", "none", "--fs-version", "6", "--crc"];
    let inline = ["--blob-inline-meta", "--features", "blob-toc"];
    let list = ["--attributes", at("attributes"), "--external-blob", at("external"), "-J", at("json")];
    let output = run(&[&common[..], &kind, &inline, &list, &[at("source")]].concat());
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
    let [blob, external] = reader.join().unwrap();
    std::fs::write(at("main"), &blob).unwrap();
    std::fs::write(at("models"), &external).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(at("json")).unwrap()).unwrap();
    assert_eq!(
        (&json["external_bootstrap"], &json["external_blobs"]),
        (&"".into(), &serde_json::json!([ID, OTHER]))
    );
    // image.boot, its tar header, the table of contents, its tar header.
    let name = |header: usize| text(external.get(header..header + 14).unwrap());
    let end = external.len();
    assert!(name(end - 512).starts_with("rafs.blob.toc\0") && name(end - 1152).starts_with("image.boot\0"));
    let size = u64::from_str_radix(text(&external[end - 1152 + 124..end - 1152 + 135]).trim(), 8).unwrap();
    assert_eq!((size, &external[..4]), (u64::try_from(end - 1152).unwrap(), &[0x28, 0xB5, 0x2F, 0xFD][..]));
    is_external(dir.path(), Path::new(at("models")), "unpacked");
    succeeds(&["unpack", at("main"), "-b", at("main"), "--output-dir", at("rest")]);
    assert_eq!(exists(Path::new(at("rest")), &NAMES), [false, false, false, true, true]);
    assert!(Path::new(at("rest/model/deep")).is_dir(), "it may hold other files");
}

/// Records of the blob table, 256 bytes each from 4096 on, and of the chunk table, 80 bytes each.
#[test]
fn images_of_external_files_stand_beside_the_bootstrap() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| str(&dir.path().join(name));
    model(dir.path());
    let list = ["--attributes", at("attributes"), "-J", at("json")];
    let create = ["create", "-B", at("image.boot"), "-b", at("blob"), at("source")];
    succeeds(&[&create[..], &list].concat());
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(at("json")).unwrap()).unwrap();
    assert_eq!(json["external_bootstrap"], at("image.external"));
    is_external(dir.path(), Path::new(at("image.external")), "unpacked");
    let image = std::fs::read(at("image.external")).unwrap();
    assert_eq!(text(&image[4096..4160]), ID);
    assert_eq!(text(&image[4352..4416]), OTHER);
    let number =
        |at: usize, len: usize| image[at..at + len].iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
    // Chunks, the stored end, and the features: 0x800 above all.
    assert_eq!((number(4096 + 72, 4), number(4352 + 72, 4)), (3, 1));
    assert_eq!(number(4096 + 84, 4) & 0x800, 0x800);
    // The chunk records of the weights, found by their checksums: raw, at 512 and each behind the one before, zeros for a digest.
    for (n, chunk) in weights().chunks(CHUNK).enumerate() {
        let crc = crc32c(chunk).to_le_bytes();
        let records: Vec<_> = image
            .chunks(16)
            .enumerate()
            .map(|(n, _)| n * 16)
            .filter(|&at| {
                at + 80 <= image.len() && image[at + 76..at + 80] == crc && image[at..at + 32] == [0; 32]
            })
            .collect();
        assert_eq!(records.len(), 1, "{n}");
        let at = records[0];
        let offset = u64::try_from(512 + n * CHUNK).unwrap();
        let size = u64::try_from(chunk.len()).unwrap();
        assert_eq!((number(at + 36, 4) & 1, number(at + 40, 4), number(at + 44, 4)), (0, size, size));
        assert_eq!(number(at + 48, 8), offset);
    }
    // In a directory it is named like the bootstrap.
    std::fs::create_dir(at("images")).unwrap();
    succeeds(&[&["create", "-D", at("images"), at("source")][..], &list].concat());
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(at("json")).unwrap()).unwrap();
    let (main, external) =
        (json["bootstrap"].as_str().unwrap(), json["external_bootstrap"].as_str().unwrap());
    assert_eq!(format!("{main}.external"), external);
    assert!(std::fs::read(external).unwrap() == image);
}

/// Nothing beside an image without external files; but whoever waits for --external-blob gets something.
#[test]
fn without_files_nothing_is_made_that_nobody_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| str(&dir.path().join(name));
    model(dir.path());
    std::fs::write(at("none"), "# none\n").unwrap();
    let create = ["create", "-B", at("boot"), "-b", at("blob"), at("source")];
    succeeds(&[&create[..], &["--attributes", at("none")]].concat());
    assert!(Path::new(at("boot")).exists() && !Path::new(at("boot.external")).exists());
    let json = [&create[..], &["--external-blob", at("external"), "-J", at("json")]].concat();
    succeeds(&json);
    assert_eq!(std::fs::metadata(at("external")).unwrap().len(), 0);
    let inline =
        ["create", "--blob-inline-meta", "-b", at("blob"), "--external-blob", at("external"), at("source")];
    succeeds(&inline);
    assert!(succeeds(&["check", at("external")]).contains("RAFS filesystem metadata is valid"));
}

#[test]
fn wrong_lists_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| str(&dir.path().join(name));
    model(dir.path());
    let good = lines();
    let wrong = |from: &str, to: &str, expected: &str| {
        assert!(good.contains(from), "{from}");
        std::fs::write(at("attributes"), good.replacen(from, to, 1)).unwrap();
        let create = ["create", "-B", at("boot"), "-b", at("blob"), at("source")];
        let said = fails(&[&create[..], &["--attributes", at("attributes")]].concat());
        assert!(said.contains(expected), "{said}\n{expected}");
        let left = ["boot", "blob", "boot.external"].map(|name| Path::new(at(name)).exists());
        assert_eq!(left, [false; 3], "{said}");
    };
    wrong("chunk_size=1MiB", "chunk_size=4MiB", "line 1: failed to parse chunk_size: it is 0x400000");
    wrong(" crcs=", " crc=", "line 1: failed to parse crcs: it is not there");
    wrong("crcs=0x", "crcs=1,0x", "line 1 of the attributes: failed to parse crcs: there are 4");
    wrong("file_size=", "file_sizes=", "line 1 of the attributes: it is empty, and file_size is not there");
    wrong("offset=512", "offset=1537", "do not lie in a blob");
    wrong("offset=512", "offset=18446744073709551615", "do not lie in a blob");
    wrong(
        "deep/index type=external",
        "deep/index type=external file_size=6",
        "it has 5 bytes, and file_size is 6",
    );
    wrong("model/deep/index", "model/deep", "line 2 of the attributes: it is not a regular file");
    wrong("model/deep/index", "model/nowhere", "nowhere");
    wrong("model/deep/index", "README/index", "it is not a directory");
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| str(&dir.path().join(name));
    model(dir.path());
    let list = ["--attributes", at("attributes")];
    let to = ["create", "-B", at("boot"), "-b", at("blob"), at("source")];
    let said = |more: &[&str]| fails(&[&to[..], &list, more].concat());
    assert!(said(&["-t", "tar-rafs"]).contains("`tar-rafs` conflicts with `--attributes`"));
    assert!(said(&["-v", "5"]).contains("--attributes conflicts with --fs-version 5"));
    assert!(said(&["--external-blob", at("blob")]).contains("is the same file as --blob"));
    let inline = ["create", "--blob-inline-meta", "-b", at("blob"), at("source")];
    assert!(fails(&[&inline[..], &list].concat()).contains("needs --external-blob"));
    let tar = ["create", "-B", at("boot"), "-b", at("blob"), at("attributes")];
    assert!(fails(&[&tar[..], &list].concat()).contains("need a directory"));
}
