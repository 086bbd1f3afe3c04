//! `nydus-image create` with chunks that are not stored one by one as they are: in batches, encrypted, or as the
//! files of a cache.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{run, str};
use std::path::Path;
use std::process::{Command, Output};

fn succeeds(args: &[&str]) -> String {
    let output = run(args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a command that fails with `code` says.
fn fails(code: i32, args: &[&str]) -> String {
    let output = run(args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    said
}

/// A directory of small files and a long one.
fn source(dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    for n in 0..50u32 {
        std::fs::write(dir.join(format!("small-{n}")), format!("file number {n}\n").repeat(20)).unwrap();
    }
    let long: Vec<u8> = (0..40_000u32).flat_map(|n| (n / 3).to_le_bytes()).collect();
    std::fs::write(dir.join("long"), long).unwrap();
}

#[test]
fn small_files_go_into_batches() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    source(&at("source"));
    let mut sizes = Vec::new();
    for (name, batch) in [("plain", "0"), ("batched", "0x10000")] {
        std::fs::create_dir(at(name)).unwrap();
        let boot = at(name).join("boot");
        let blob = at(name).join("blob");
        let (boot, blob) = (str(&boot), str(&blob));
        succeeds(&["create", "-B", boot, "-b", blob, "--batch-size", batch, str(&at("source"))]);
        succeeds(&["check", boot]);
        let out = at(name).join("out");
        succeeds(&["unpack", "-B", boot, "-b", blob, "--output-dir", str(&out)]);
        let same = Command::new("diff").arg("-r").arg(at("source")).arg(&out).status().unwrap();
        assert!(same.success(), "{name}");
        sizes.push(std::fs::metadata(blob).unwrap().len());
    }
    assert!(sizes[1] < sizes[0], "batches compress better: {sizes:?}");
}

#[test]
fn batch_sizes_that_cannot_be() {
    let dir = tempfile::tempdir().unwrap();
    source(&dir.path().join("source"));
    let source = dir.path().join("source");
    let create = |args: &[&str]| {
        let out = dir.path().join("out");
        let out = [str(&out), "-b", "blob"];
        let said = fails(1, &[&["create", "-B"], &out[..], args, &[str(&source)]].concat());
        assert!(!dir.path().join("out").exists());
        said
    };
    assert!(create(&["--batch-size", "5000"]).contains("--batch-size 0x1388 is not a power of two"));
    assert!(create(&["--batch-size", "0x800"]).contains("--batch-size 0x800 is not a power of two"));
    let said = create(&["--batch-size", "0x200000"]);
    assert!(said.contains("--batch-size 0x200000 is larger than --chunk-size 0x100000"), "{said}");
    let said = create(&["--batch-size", "0x1000", "--chunk-size", "0x1000000"]);
    assert!(said.contains("--chunk-size 0x1000000 conflicts with --batch-size"), "{said}");
    assert!(
        create(&["--batch-size", "0x1000", "-v", "5"])
            .contains("--batch-size conflicts with --fs-version 5: it needs RAFS v6")
    );
    for kind in ["targz-ref", "estargz-ref", "estargztoc-ref", "tar-tarfs"] {
        let said = create(&["--batch-size", "0x1000", "-t", kind]);
        let expected = format!("conversion type `{kind}` conflicts with `--batch-size`");
        assert!(said.contains(&expected), "{said}");
    }
    fails(2, &["create", "-B", "b", "-b", "c", "--batch-size", "many", str(&source)]);
}

/// A layer with batches below one without: both are in the merged image.
#[test]
fn layers_with_batches_are_merged() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    source(&at("lower"));
    std::fs::create_dir(at("upper")).unwrap();
    std::fs::write(at("upper/small-7"), "another").unwrap();
    std::fs::create_dir(at("blobs")).unwrap();
    for (layer, batch) in [("lower", "0x8000"), ("upper", "0")] {
        let (boot, blobs, source) = (at(&format!("{layer}.boot")), at("blobs"), at(layer));
        succeeds(&["create", "-B", str(&boot), "-D", str(&blobs), "--batch-size", batch, str(&source)]);
    }
    let (lower, upper, boot) = (at("lower.boot"), at("upper.boot"), at("boot"));
    succeeds(&["merge", "-B", str(&boot), str(&lower), str(&upper)]);
    succeeds(&["check", "--data", str(&boot), "-D", str(&at("blobs"))]);
    succeeds(&["unpack", "-B", str(&boot), "-D", str(&at("blobs")), "--output-dir", str(&at("out"))]);
    std::fs::copy(at("upper/small-7"), at("lower/small-7")).unwrap();
    assert!(Command::new("diff").arg("-r").arg(at("lower")).arg(at("out")).status().unwrap().success());
}

#[test]
fn encrypted_blobs_need_their_key() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    source(&at("source"));
    let (source, boot, blob, key, other) = (at("source"), at("boot"), at("blob"), at("key"), at("other"));
    let create = |more: &[&str]| {
        let args = ["create", "-B", str(&boot), "-b", str(&blob), str(&source)];
        run(&[&args[..], more].concat())
    };
    let said = |output: Output| (output.status.code(), String::from_utf8(output.stderr).unwrap());
    let (code, message) = said(create(&["--encrypt"]));
    assert_eq!(code, Some(1));
    assert!(
        message.contains("--encrypt needs --key-file: the key is not stored with the image"),
        "{message}"
    );
    assert_eq!(said(create(&["--encrypt", "--generate-key"])).0, Some(2), "a key file is needed");
    assert_eq!(said(create(&["--key-file", "k"])).0, Some(2), "nothing to encrypt");
    assert!(!boot.exists() && !blob.exists());

    let args = ["create", "-B", str(&boot), "-b", str(&blob), "-E", "--key-file", str(&key)];
    fails(1, &[&args[..], &[str(&source)]].concat());
    succeeds(&[&args[..], &["--generate-key", "--batch-size", "0x1000", str(&source)]].concat());
    // An existing key is not overwritten, and is used again.
    let message = fails(1, &[&args[..], &["--generate-key", str(&source)]].concat());
    assert!(message.contains("cannot make key file") && message.contains("exists"), "{message}");
    succeeds(&[&args[..], &["--batch-size", "0x1000", str(&source)]].concat());

    std::fs::write(&other, "0123456789abcdef".repeat(2) + &"f".repeat(32)).unwrap();
    let check = ["check", "--data", "-C", str(&at("config")), str(&boot)].map(str::to_owned);
    std::fs::write(
        at("config"),
        r#"{"version":2,"backend":{"type":"localfs","localfs":{"blob_file":"BLOB"}}}"#
            .replace("BLOB", str(&blob)),
    )
    .unwrap();
    let check = |more: &[&str]| {
        let args: Vec<&str> = check.iter().map(String::as_str).chain(more.iter().copied()).collect();
        said(run(&args))
    };
    let (code, message) = check(&[]);
    assert!(code == Some(1) && message.contains("its key is not in the image"), "{message}");
    let (code, message) = check(&["--key-file", str(&other)]);
    assert!(code == Some(1) && message.contains("its mode is 0644"), "{message}");
    std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (code, message) = check(&["--key-file", str(&other)]);
    assert!(code == Some(1) && message.contains("none that was given fits"), "{message}");
    assert_eq!(check(&["--key-file", str(&other), "--key-file", str(&key)]).0, Some(0));
    let out = at("out");
    succeeds(&[
        "unpack",
        "-B",
        str(&boot),
        "-b",
        str(&blob),
        "--key-file",
        str(&key),
        "--output-dir",
        str(&out),
    ]);
    assert!(Command::new("diff").arg("-r").arg(&source).arg(&out).status().unwrap().success());
}

/// Where the key may be written: into a bootstrap of its own, on request, nowhere else.
#[test]
fn keys_in_bootstraps() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    source(&at("source"));
    std::fs::create_dir(at("blobs")).unwrap();
    let (source, boot, blobs, key) = (at("source"), at("boot"), at("blobs"), at("key"));
    let with = ["create", "-D", str(&blobs), "-E", "--key-file", str(&key), "--key-in-bootstrap"];
    fails(2, &[&with[..], &[str(&source)]].concat());
    fails(2, &[&with[..], &["--blob-inline-meta", str(&source)]].concat());
    let with = [&with[..], &["-B", str(&boot)]].concat();
    fails(2, &[&with[..], &["--blob-inline-meta", str(&source)]].concat());
    assert!(!key.exists());
    succeeds(&[&with[..], &["--generate-key", str(&source)]].concat());
    succeeds(&["check", "--data", "-D", str(&blobs), str(&boot)]);
    for kind in ["targz-ref", "estargz-ref", "estargztoc-ref", "tar-tarfs"] {
        let said = fails(1, &[&with[..], &["-t", kind, str(&source)]].concat());
        assert!(said.contains(&format!("conversion type `{kind}` conflicts with `--encrypt`")), "{said}");
    }
    assert!(fails(1, &[&with[..], &["-v", "5", str(&source)]].concat()).contains("it needs RAFS v6"));
}

#[test]
fn a_cache_instead_of_a_blob() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    source(&at("source"));
    std::fs::create_dir(at("cache")).unwrap();
    let (source, boot, cache) = (at("source"), at("boot"), at("cache"));
    let with = ["create", "--blob-cache-dir", str(&cache)];
    for (kind, code) in [("tar-tarfs", 1), ("estargz-rafs", 1), ("estargz-ref", 1), ("estargztoc-ref", 1)] {
        let said = fails(code, &[&with[..], &["-t", kind, "-B", str(&boot), str(&source)]].concat());
        assert!(
            said.contains(&format!("conversion type `{kind}` conflicts with `--blob-cache-dir`")),
            "{said}"
        );
    }
    for more in [&["-b", "b"][..], &["-D", "d"], &["--compressor", "none"], &["--encrypt"]] {
        let said = fails(2, &[&with[..], &["-B", str(&boot)], more, &[str(&source)]].concat());
        assert!(said.contains("cannot be used with"), "{said}");
    }
    let said = fails(2, &[&with[..], &["--blob-inline-meta", str(&source)]].concat());
    assert!(said.contains("cannot be used with"), "{said}");
    fails(2, &[&with[..], &[str(&source)]].concat());
    let said = fails(1, &["create", "--blob-cache-dir", "/no/such", "-B", str(&boot), str(&source)]);
    assert!(said.contains("--blob-cache-dir /no/such is not a directory"), "{said}");
    let said = fails(1, &[&with[..], &["-B", str(&boot), "-v", "5", str(&source)]].concat());
    assert!(said.contains("--blob-cache-dir conflicts with --fs-version 5"), "{said}");
    assert!(!boot.exists() && std::fs::read_dir(&cache).unwrap().next().is_none());
    succeeds(&[&with[..], &["-B", str(&boot), str(&source)]].concat());
    let mut names: Vec<_> = std::fs::read_dir(&cache)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap().split_off(64))
        .collect();
    names.sort();
    assert_eq!(names, [".blob.data", ".blob.data.chunk_map", ".blob.meta"]);
    assert!(succeeds(&["check", str(&boot)]).contains("RAFS filesystem metadata is valid"));
}

/// The command line of nydusify's `pack`, which names a blob and no type: a directory is one. 2.x asks for --external-blob then and fails.
#[test]
fn a_directory_is_packed_as_nydusify_asks() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    source(&at("source"));
    let (boot, blob, json, source) = (at("boot"), at("blob"), at("json"), at("source"));
    let output = run(&[
        "create",
        "--aligned-chunk",
        "--bootstrap",
        str(&boot),
        "--log-level",
        "warn",
        "--whiteout-spec",
        "oci",
        "--output-json",
        str(&json),
        "--blob",
        str(&blob),
        "--fs-version",
        "6",
        "--compressor",
        "zstd",
        "--chunk-size",
        "0x100000",
        "--crc",
        "--disable-check",
        "--parent-bootstrap",
        "",
        str(&source),
    ]);
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()), "silent");
    let id = std::fs::read_to_string(&json).unwrap();
    assert!(blob.exists() && id.contains("\"blobs\"") && id.contains("\"fs_version\": \"6\""), "{id}");
    let out = at("out");
    succeeds(&["unpack", "-B", str(&boot), "-b", str(&blob), "--output-dir", str(&out)]);
    assert!(Command::new("diff").arg("-r").arg(&source).arg(&out).status().unwrap().success());
}
