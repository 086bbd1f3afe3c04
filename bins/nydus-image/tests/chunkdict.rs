//! `chunkdict generate` as integrators call it.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{fails, quiet, run, str, text};
use std::path::Path;

/// `IMAGE:VERSION/boot` of a directory with a large file that stays and a small one that does not.
fn image(root: &Path, name: &str) -> &'static str {
    image_of("6", root, name)
}

fn image_of(version: &str, root: &Path, name: &str) -> &'static str {
    let (source, dir) = (root.join("source"), root.join(name));
    std::fs::create_dir_all(&source).unwrap();
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(source.join("stays"), vec![7; 9000]).unwrap();
    std::fs::write(source.join("changes"), name).unwrap();
    let boot = str(&dir.join("boot"));
    quiet(&["create", "-l", "warn", "-v", version, "-D", str(root), "-B", boot, str(&source)]);
    boot
}

#[test]
fn a_dictionary_of_two_versions_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| str(&dir.path().join(name));
    let (first, second) = (image(dir.path(), "redis:7.0.1"), image(dir.path(), "redis:7.0.2"));
    let database: &str = format!("sqlite://{}", at("database")).leak();
    let (dict, json) = (at("dict"), at("json"));
    let start = ["chunkdict", "generate", "--log-level", "warn", "--bootstrap", dict, "--database", database];
    quiet(&[&start[..], &["--output-json", json, first, second]].concat());
    let said: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!((said["bootstrap"].as_str(), said["fs_version"].as_str()), (Some(dict), Some("6")));
    assert_eq!((said["blobs"].as_array().unwrap().len(), said["compressor"].as_str()), (1, Some("zstd")));
    let once = std::fs::read(dict).unwrap();
    quiet(&[&start[..], &["-J", json, "-D", at(""), "-v", first, second]].concat());
    assert!(std::fs::read(dict).unwrap() == once, "a second run knows nothing new");
    let shown = run(&["check", "-l", "warn", dict]);
    assert!(text(&shown.stdout).contains("is-chunkdict-generated"), "{}", text(&shown.stdout));
    let chunk_dict: &str = format!("bootstrap={dict}").leak();
    let new = ["create", "-l", "warn", "-D", str(dir.path()), "-B", at("new"), "-J", json, at("source")];
    quiet(&[&new[..], &["--chunk-dict", chunk_dict]].concat());
    let said: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!(said["trace"]["registered_events"]["dedup_uncompressed_size"], 9000);
    assert!(run(&["check", "-l", "warn", "--data", "-D", str(dir.path()), at("new")]).status.success());
}

#[test]
fn a_dictionary_has_the_version_of_its_images() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| str(&dir.path().join(name));
    let images = ["a:1", "a:2"].map(|name| image_of("5", dir.path(), name));
    quiet(
        &[&["chunkdict", "generate", "-l", "warn", "-B", at("dict"), "-J", at("json")], &images[..]].concat(),
    );
    let said: serde_json::Value = serde_json::from_slice(&std::fs::read(at("json")).unwrap()).unwrap();
    assert_eq!((&said["fs_version"], said["blobs"].as_array().unwrap().len()), (&"5".into(), 1));
    let option: &str = format!("bootstrap={}", at("dict")).leak();
    let new = [
        "create",
        "-l",
        "warn",
        "-D",
        str(dir.path()),
        "-B",
        at("new"),
        "--chunk-dict",
        option,
        at("source"),
    ];
    assert!(fails(&new).contains("the version"), "a v6 image cannot use it");
    quiet(&[&new[..], &["-v", "5", "-J", at("json")]].concat());
    let said: serde_json::Value = serde_json::from_slice(&std::fs::read(at("json")).unwrap()).unwrap();
    assert_eq!(said["trace"]["registered_events"]["dedup_uncompressed_size"], 9000);
}

#[test]
fn wrong_command_lines() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| str(&dir.path().join(name));
    let boot = image(dir.path(), "a:1");
    let start = ["chunkdict", "generate", "-l", "warn", "-B", at("dict")];
    let with = |more: &[&'static str]| [&start[..], more].concat();
    assert_eq!(run(&start).status.code(), Some(2), "no bootstrap");
    assert_eq!(run(&["chunkdict", "generate", boot]).status.code(), Some(2), "no place");
    assert_eq!(run(&["chunkdict"]).status.code(), Some(2));
    assert!(fails(&with(&[boot, "--database", "mysql://x"])).contains("sqlite:///PATH"));
    assert!(fails(&with(&[boot, "--database", "sqlite://x"])).contains("no absolute path"));
    assert!(fails(&with(&["/no/such:1/boot"])).contains("/no/such:1/boot"));
    let loose = at("boot");
    std::fs::copy(boot, loose).unwrap();
    assert!(fails(&with(&[loose])).contains("Invalid image name"));
    let sqlite = at("sqlite");
    std::fs::write(sqlite, [b"SQLite format 3\0".as_slice(), &[0; 4080]].concat()).unwrap();
    let url: &str = format!("sqlite://{sqlite}").leak();
    assert!(fails(&with(&[boot, "--database", url])).contains("is an SQLite database"));
    assert!(fails(&["chunkdict", "generate", "-B", boot, boot]).contains("is the file of something else"));
    assert!(!Path::new(at("dict")).exists());
    // One version teaches nothing, which is a warning.
    quiet(&[
        "chunkdict",
        "generate",
        "-l",
        "error",
        "-B",
        at("dict"),
        "--database",
        "sqlite://:memory:",
        boot,
    ]);
}

/// The life of a store: images go in, builds use them, images go out, blobs are collected.
#[test]
fn a_store_of_all_images() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| str(&dir.path().join(name));
    let (first, second) = (image(dir.path(), "redis:1"), image(dir.path(), "redis:2"));
    let store = ["--store", at("chunks")];
    let said = |args: &[&'static str]| {
        let output = run(&[&["chunkdict"], args, &["-l", "warn"], &store[..]].concat());
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{args:?}");
        text(&output.stdout)
    };
    let option: &str = format!("store={}", at("chunks")).leak();
    let new = ["create", "-l", "warn", "-D", str(dir.path()), "-B", at("new"), "-J", at("json")];
    let new = [&new[..], &["--chunk-dict", option, at("source")]].concat();
    assert!(fails(&new).contains("there is no chunk store"));
    assert!(fails(&["chunkdict", "list", "--store", at("chunks")]).contains("there is no chunk store"));
    assert!(
        fails(&["chunkdict", "add", "--name", "x", "--store", at("chunks"), at("none")])
            .contains("none is no file")
    );
    assert!(!Path::new(at("chunks")).exists());
    assert_eq!(said(&["add", "--name", "redis:1", first]), "");
    assert_eq!(said(&["add", "--name", "redis:2", second]), "");
    assert_eq!(said(&["list"]), "redis:1\nredis:2\n");
    let counts: serde_json::Value = serde_json::from_str(&said(&["list", "--json"])).unwrap();
    assert_eq!(
        (&counts["live_blobs"], &counts["chunks"], &counts["references"]),
        (&2.into(), &4.into(), &4.into())
    );
    // All that the new image has is in the store.
    quiet(&new);
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(at("json")).unwrap()).unwrap();
    assert_eq!(json["trace"]["registered_events"]["dedup_uncompressed_size"], 9000 + 7);
    assert!(run(&["check", "-l", "warn", "--data", "-D", str(dir.path()), at("new")]).status.success());
    let twice = [&new[..], &["--chunk-dict", option]].concat();
    assert!(fails(&twice).contains("two chunk stores"));
    let compact = ["compact", "-B", first, "-D", str(dir.path()), "--chunk-dict", option];
    assert!(fails(&compact).contains("blobs of a chunk store are not kept"));
    // Collection: the blob of the image that is taken out, in two steps.
    assert_eq!(said(&["remove", "redis:1"]), "");
    let missing = fails(&["chunkdict", "remove", "redis:1", "--store", at("chunks")]);
    assert!(missing.contains("not in the chunk store: redis:1"), "{missing}");
    let condemned = said(&["condemn"]);
    let blob = condemned.strip_prefix("round 1\n").unwrap();
    assert_eq!(blob.trim_end().len(), 64, "{condemned}");
    assert_eq!(said(&["sweep", "--round", "1"]), blob);
    assert_eq!(said(&["sweep", "--round", "1"]), "");
    let gone = fails(&["chunkdict", "add", "--name", "redis:1", "--store", at("chunks"), first]);
    assert!(gone.contains("may be deleted already"), "{gone}");
    assert_eq!(said(&["add", "--stored", "--name", "redis:1", first]), "");
}
