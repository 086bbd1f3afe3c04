//! The command lines of converters, word by word: a layer through pipes into a blob that holds its bootstrap, and what they do next.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{fails_with, quiet_with, run_with, str, text};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A layer with these files and their content.
fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_000);
        out.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    out.into_inner().unwrap()
}

/// Converts a layer as the converter library does, through two pipes in `dir`: the blob.
fn convert(dir: &Path, layer: &[u8], more: &[&str]) -> Vec<u8> {
    let (source, target) = (dir.join("in"), dir.join("out"));
    for pipe in [&source, &target] {
        assert!(Command::new("mkfifo").arg(pipe).status().unwrap().success());
    }
    let feeder = std::thread::spawn({
        let (source, layer) = (source.clone(), layer.to_vec());
        move || std::fs::write(source, layer).unwrap()
    });
    let reader = std::thread::spawn({
        let target = target.clone();
        move || std::fs::read(target).unwrap()
    });
    let start = ["create", "--log-level", "warn", "--prefetch-policy", "fs", "--blob", str(&target)];
    let form = ["--whiteout-spec", "none", "--fs-version", "6", "--type", "tar-rafs", "--blob-inline-meta"];
    quiet_with(&[&start[..], &form, more, &[str(&source)]].concat(), b"/");
    feeder.join().unwrap();
    let blob = reader.join().unwrap();
    std::fs::remove_file(source).unwrap();
    std::fs::remove_file(target).unwrap();
    blob
}

/// What a blob of [`convert`] is worth to the rest of the program: found, checked and unpacked under its digest.
#[test]
fn a_layer_goes_through_pipes() {
    let dir = tempfile::tempdir().unwrap();
    let layer = layer(&[("a/b", "content"), ("a/.wh.gone", ""), ("c", &"long ".repeat(9000))]);
    let size = ["--chunk-size", "0x1000"];
    let forms = [
        &["--features", "blob-toc"][..],
        &[],
        &["--features", "blob-toc", "--compressor", "lz4_block", "--aligned-chunk"],
        &["--features", "blob-toc", "--compressor", "none"],
    ];
    for more in forms {
        let more = [more, &size].concat();
        let blob = convert(dir.path(), &layer, &more);
        let path = dir.path().join(hex(&blob));
        std::fs::write(&path, &blob).unwrap();
        let output = run_with(&["check", "--data", "-l", "warn", str(&path), "-D", str(dir.path())], b"");
        assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains(&hex(&blob)));
        let unpacked = dir.path().join("x.tar");
        quiet_with(
            &["unpack", "-l", "warn", str(&path), "-D", str(dir.path()), "--output", str(&unpacked)],
            b"",
        );
        let mut archive = tar::Archive::new(std::fs::File::open(&unpacked).unwrap());
        let found: Vec<_> =
            archive.entries().unwrap().map(|e| text(&e.unwrap().path_bytes()).replace('/', " ")).collect();
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found.contains(&"a .wh.gone".to_owned()), "{found:?}");
        // The fallback for a builder without tar-rafs, in the same words but for the source: a directory keeps its markers too.
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        std::fs::create_dir(dir.path().join("blobs")).unwrap();
        std::fs::write(tree.join(".wh.gone"), "").unwrap();
        std::fs::write(tree.join("kept"), "kept").unwrap();
        let json = dir.path().join("json");
        let args = ["create", "--log-level", "warn", "--prefetch-policy", "fs", "--whiteout-spec", "none"];
        let form = ["--fs-version", "6", "--source-type", "directory", "--inline-bootstrap", str(&tree)];
        let place = ["-D", str(&dir.path().join("blobs")), "-J", str(&json)];
        quiet_with(&[&args[..], &more, &form, &place].concat(), b"/");
        let all: Vec<_> = std::fs::read_dir(dir.path().join("blobs")).unwrap().collect();
        let [Ok(blob)] = all.as_slice() else { panic!("{all:?}") };
        let id = hex(&std::fs::read(blob.path()).unwrap());
        assert_eq!(blob.file_name().to_str(), Some(id.as_str()));
        let said: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        assert_eq!((said["blobs"][0].as_str(), said["bootstrap"].as_str()), (Some(id.as_str()), Some("")));
        let listed = run_with(&["check", "-v", str(&blob.path())], b"");
        assert!(text(&listed.stdout).contains("\"/.wh.gone\""), "{}", text(&listed.stdout));
        for path in [&tree, &dir.path().join("blobs")] {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
}

#[test]
fn options_that_exclude_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (boot, blob, source) = (dir.path().join("boot"), dir.path().join("blob"), dir.path().join("source"));
    std::fs::write(&source, layer(&[("a", "b")])).unwrap();
    let inline = ["create", "--blob-inline-meta", "-b", str(&blob), str(&source)];
    for more in [&["-B", str(&boot)][..], &["--blob-id", "x"], &["--features", "blob-toc,more"]] {
        let output = run_with(&[&inline[..], more].concat(), b"");
        assert_eq!(output.status.code(), Some(2), "{more:?}: {}", text(&output.stderr));
        assert!(!boot.exists() && !blob.exists());
    }
    assert!(
        fails_with(1, &["create", "--blob-inline-meta", str(&source)]).contains("no place for the --blob")
    );
}

/// A layer's blob goes into `dir` under its digest, its bootstrap into `dir/boots` under the same name, as converters extract it: the digest.
fn extracted(dir: &Path, layer: &[u8]) -> String {
    let blob = convert(dir, layer, &["--features", "blob-toc"]);
    let digest = hex(&blob);
    std::fs::write(dir.join(&digest), &blob).unwrap();
    // The bootstrap inside is found without tools for it by merging the blob alone.
    let boots = dir.join("boots");
    std::fs::create_dir_all(&boots).unwrap();
    let size = |end: usize| tar::Header::from_byte_slice(&blob[end - 512..end]).entry_size().unwrap();
    let toc_end = blob.len() - 512;
    let boot_end = toc_end - usize::try_from(size(blob.len())).unwrap() - 512;
    let start = boot_end - usize::try_from(size(boot_end + 512)).unwrap();
    let mut zstd =
        Command::new("zstd").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    zstd.stdin.take().unwrap().write_all(&blob[start..boot_end]).unwrap();
    std::fs::write(boots.join(&digest), zstd.wait_with_output().unwrap().stdout).unwrap();
    digest
}

/// The steps of a converter from layers to an image, its options behind what it merges.
#[test]
fn layers_become_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let lower = extracted(dir.path(), &layer(&[("a/gone", "1"), ("a/kept", "22"), ("b", "333")]));
    let upper = extracted(dir.path(), &layer(&[("a/.wh.gone", ""), ("a/new", "4444"), ("b", "55555")]));
    let (boot, json) = (at("image.boot"), at("json"));
    let start = ["merge", "--log-level", "warn", "--prefetch-policy", "fs", "--output-json", str(&json)];
    let sources = [str(&at("boots").join(&lower)), str(&at("boots").join(&upper))];
    let merge = [&start[..], &["--bootstrap", str(&boot)], &sources].concat();
    quiet_with(&merge, b"/");
    let said: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    // The blob table is in order of first use: `/b` comes before what is in `/a`.
    assert_eq!(said["blobs"], serde_json::json!([upper, lower]));
    assert_eq!((&said["fs_version"], &said["compressor"]), (&"6".into(), &"zstd".into()));
    assert_eq!(said["bootstrap"], str(&boot));
    let output = run_with(
        &["check", "--log-level", "error", "--data", "-v", "-D", str(dir.path()), "--bootstrap", str(&boot)],
        b"",
    );
    let said = text(&output.stdout);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
    assert!(said.contains("\"/a/kept\"") && said.contains("\"/a/new\""), "{said}");
    assert!(!said.contains("gone") && !said.contains(".wh."), "{said}");
    let output = run_with(&["inspect", "-l", "warn", str(&boot), "-R", "prefetch"], b"");
    assert!(text(&output.stdout).contains("\"/\""), "{}", text(&output.stdout));
    // Lists behind the sources, for layers that stay as they were; here they name data blobs.
    let first = std::fs::read(&boot).unwrap();
    let lists = [
        "--blob-digests",
        &format!("{lower},{upper}"),
        "--blob-toc-digests",
        &format!("{},{}", "0".repeat(64), "0".repeat(64)),
    ];
    quiet_with(&[&merge[..], &lists].concat(), b"/");
    assert!(std::fs::read(&boot).unwrap() == first);
    // A commit: one more layer on the image; and the same image again, in its own place.
    let top = extracted(dir.path(), &layer(&[("c", "666666")]));
    let (new, source) = (at("new.boot"), at("boots").join(&top));
    quiet_with(
        &[&start[..], &["--bootstrap", str(&new), "--parent-bootstrap", str(&boot), str(&source)]].concat(),
        b"",
    );
    quiet_with(
        &[&start[..], &["--bootstrap", str(&boot), "--parent-bootstrap", str(&boot), str(&source)]].concat(),
        b"",
    );
    assert!(std::fs::read(&boot).unwrap() == std::fs::read(&new).unwrap());
    let said: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(said["blobs"], serde_json::json!([upper, top, lower]));
    // Into a directory, named by its digest.
    std::fs::create_dir(at("into")).unwrap();
    quiet_with(&["merge", "-l", "warn", "-D", str(&at("into")), sources[0], sources[1]], b"");
    let all: Vec<_> = std::fs::read_dir(at("into")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [one] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!(one.file_name().unwrap().to_str(), Some(hex(&std::fs::read(one).unwrap()).as_str()));
}

/// A layer may be the file that is written; what is there stays where merging fails.
#[test]
fn what_is_read_may_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let lower = extracted(dir.path(), &layer(&[("a", "1")]));
    let upper = extracted(dir.path(), &layer(&[("b", "2")]));
    let [lower, upper] = [lower, upper].map(|digest| dir.path().join("boots").join(digest));
    let boot = dir.path().join("boot");
    quiet_with(&["merge", "-l", "warn", "-B", str(&boot), str(&lower), str(&upper)], b"");
    let kept = std::fs::read(&lower).unwrap();
    let damaged = dir.path().join("damaged");
    std::fs::write(&damaged, &kept[..kept.len() - 4096]).unwrap();
    let missing = dir.path().join("missing");
    for bad in [&damaged, &missing] {
        let said = fails_with(1, &["merge", "-B", str(&lower), "-J", "x.json", str(&lower), str(bad)]);
        assert!(said.contains(str(bad)), "{said}");
        assert!(std::fs::read(&lower).unwrap() == kept);
    }
    let said = fails_with(1, &["merge", "-B", str(&boot), "-J", str(&upper), str(&lower), str(&upper)]);
    assert!(said.contains("is the same file as"), "{said}");
    quiet_with(&["merge", "-l", "warn", "-B", str(&lower), str(&lower), str(&upper)], b"");
    assert!(std::fs::read(&lower).unwrap() == std::fs::read(&boot).unwrap());
    let left: Vec<_> = std::fs::read_dir(dir.path().join("boots")).unwrap().collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn wrong_lists_and_layers_that_do_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let one = at("boots").join(extracted(dir.path(), &layer(&[("a", "1")])));
    let boot = at("boot");
    let merge = ["merge", "-B", str(&boot), str(&one)];
    for list in ["--blob-sizes", "--blob-toc-sizes"] {
        // These are numbers; 2.x aborted here.
        assert_eq!(run_with(&[&merge[..], &[list, "1,x"]].concat(), b"").status.code(), Some(2));
        let said = fails_with(1, &[&merge[..], &[list, "1,2"]].concat());
        assert!(said.contains("2 items for 1 sources"), "{said}");
    }
    for list in ["--blob-digests", "--blob-toc-digests"] {
        assert_eq!(run_with(&[&merge[..], &[list, "abc"]].concat(), b"").status.code(), Some(2));
    }
    assert!(fails_with(1, &[&merge[..], &["--original-blob-ids", "a,b,c"]].concat()).contains("3 items"));
    assert!(
        fails_with(1, &[&merge[..], &["--chunk-dict", "registry=x"]].concat())
            .contains("invalid chunk dict type")
    );
    assert!(
        fails_with(1, &[&merge[..], &["--chunk-dict", "bootstrap=/no/such"]].concat()).contains("/no/such")
    );
    assert_eq!(run_with(&["merge", str(&one)], b"").status.code(), Some(2));
    assert_eq!(run_with(&["merge", "-B", str(&boot)], b"").status.code(), Some(2));
    // Another chunk size: exit code 2 tells converters to build anew.
    let (other, source) = (at("other"), at("source"));
    std::fs::write(&source, layer(&[("b", "2")])).unwrap();
    quiet_with(
        &[
            "create",
            "-l",
            "warn",
            "-B",
            str(&other),
            "-b",
            "/dev/null",
            "--chunk-size",
            "0x1000",
            str(&source),
        ],
        b"",
    );
    let said = fails_with(2, &["merge", "-B", str(&boot), str(&one), str(&other)]);
    assert!(said.contains("chunk size is 0x1000, but 0x100000"), "{said}");
    assert!(!boot.exists());
}

/// 254 blobs are the limit of the format; one more is told with the way out, and leaves nothing.
#[test]
fn too_many_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let mut sources: Vec<&str> = Vec::new();
    for n in 0..255 {
        let (source, boot) = (dir.path().join("source"), dir.path().join(format!("boot-{n}")));
        std::fs::write(&source, layer(&[(&format!("file-{n}"), &format!("content {n}"))])).unwrap();
        quiet_with(&["create", "-l", "warn", "-B", str(&boot), "-b", "/dev/null", str(&source)], b"");
        sources.push(str(&boot));
    }
    let boot = dir.path().join("boot");
    let merge = ["merge", "-l", "warn", "-B", str(&boot)];
    let said = fails_with(2, &[&merge[..], &sources].concat());
    assert!(said.contains("255 blobs, 254 are possible") && said.contains("compact"), "{said}");
    assert!(!boot.exists());
    quiet_with(&[&merge[..], &sources[1..]].concat(), b"");
    let output = run_with(&["check", "-l", "warn", str(&boot)], b"");
    assert!(output.status.success(), "{}", text(&output.stderr));
    // A heading, a line for each blob, the tree digest.
    assert_eq!(text(&output.stdout).lines().count(), 1 + 254 + 1);
}

/// A conversion with a chunk dictionary, as converters call it: the layer points to the dictionary's blob, the merge knows it, the JSON lists it.
#[test]
fn conversion_with_a_chunk_dictionary() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (dict, source, blob, json) = (at("dict.boot"), at("source"), at("blob"), at("json"));
    std::fs::write(&source, layer(&[("a", "shared"), ("b", "old")])).unwrap();
    quiet_with(&["create", "-l", "warn", "-B", str(&dict), "-b", str(&at("dict.blob")), str(&source)], b"");
    let dict_id = hex(&std::fs::read(at("dict.blob")).unwrap());
    std::fs::write(&source, layer(&[("x", "new"), ("y", "shared")])).unwrap();
    let chunk_dict = format!("bootstrap={}", dict.display()).leak();
    let (form, output) =
        (["create", "--log-level", "warn", "--blob-inline-meta"], ["-J", str(&json), "--blob"]);
    let create = [&form[..], &["--chunk-dict", chunk_dict], &output, &[str(&blob), str(&source)]].concat();
    quiet_with(&create, b"");
    let id = hex(&std::fs::read(&blob).unwrap());
    let blobs = |json: &Path| {
        let said: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
        said["blobs"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(blobs(&json), [id.clone(), dict_id.clone()]);
    let layer_path = at(&id);
    std::fs::rename(&blob, &layer_path).unwrap();
    let merge = ["merge", "-l", "warn", "-B", str(&at("boot")), "-J", str(&json), str(&layer_path)];
    let said = fails_with(1, &merge);
    assert!(said.contains("2 data blobs"), "{said}");
    quiet_with(&[&merge[..], &["--chunk-dict", chunk_dict]].concat(), b"");
    assert_eq!(blobs(&json), [id, dict_id]);
    let said = fails_with(1, &["create", "-B", "x", "-b", "y", "--chunk-dict", "registry=x", str(&source)]);
    assert!(said.contains("invalid chunk dict type \"registry\""), "{said}");
    let size = ["create", "-B", "x", "-b", "y", "--chunk-size", "0x1000", "--chunk-dict", chunk_dict];
    let said = fails_with(1, &[&size[..], &[str(&source)]].concat());
    assert!(said.contains("Inconsistent RAFS Filesystem: the chunk size"), "{said}");
}

/// A commit on top of an image: one command makes the new layer and the whole new image; an empty parent is none.
#[test]
fn building_on_top_of_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (base, boot, json, source) = (at("base"), at("boot"), at("json"), at("source"));
    std::fs::write(&source, layer(&[("a", "1"), ("b", "2"), ("dir/c", "3")])).unwrap();
    let (blobs, none) = (dir.path().join("blobs"), ["--parent-bootstrap", ""]);
    std::fs::create_dir(&blobs).unwrap();
    let create = ["create", "-l", "warn", "-D", str(&blobs), "-J", str(&json), str(&source), "-B"];
    quiet_with(&[&create[..], &[str(&base)], &none].concat(), b"");
    std::fs::write(&source, layer(&[(".wh.a", ""), ("b", "1"), ("dir/d", "4")])).unwrap();
    quiet_with(&[&create[..], &[str(&boot), "--parent-bootstrap", str(&base)]].concat(), b"");
    let said: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(said["blobs"].as_array().unwrap().len(), 2);
    assert_eq!(said["trace"]["registered_events"]["dedup_chunks"], 1, "what was in /a");
    let (out, check) = (at("out.tar"), ["check", "-l", "warn", "--data", "-D", str(&blobs), str(&boot)]);
    assert!(run_with(&check, b"").status.success());
    quiet_with(&["unpack", "-l", "warn", "-D", str(&blobs), "-B", str(&boot), "--output", str(&out)], b"");
    let mut archive = tar::Archive::new(std::fs::File::open(out).unwrap());
    let mut found: Vec<(String, String)> = Vec::new();
    for entry in archive.entries().unwrap().map(Result::unwrap).filter(|e| e.header().entry_type().is_file())
    {
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        found.push((path, std::io::read_to_string(entry).unwrap()));
    }
    let expected = [("b", "1"), ("dir/c", "3"), ("dir/d", "4")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(found, expected);
    let size = [&create[..], &[str(&at("x")), "--chunk-size", "0x1000", "--parent-bootstrap", str(&base)]];
    assert!(fails_with(1, &size.concat()).contains("Inconsistent RAFS Filesystem: the chunk size"));
    assert!(!at("x").exists());
}
