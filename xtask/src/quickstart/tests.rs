//! The parts of the chore, and the whole of it on small images in each of the forms that it takes.

use super::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::Write;

#[test]
fn the_configuration_is_toml_whatever_the_paths_hold() {
    let text = configuration(Path::new("/a \"b\""), Path::new("/c\\d"));
    let table: toml::Table = text.parse().unwrap();
    assert_eq!(table["backend"]["localfs"]["dir"].as_str(), Some("/a \"b\""));
    assert_eq!(table["cache"]["filecache"]["work_dir"].as_str(), Some("/c\\d"));
}

#[test]
fn holes_of_cache_files_are_not_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join("x.blob.data")).unwrap();
    file.set_len(1 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[1; 8192], 65_536).unwrap();
    file.sync_all().unwrap();
    std::fs::write(dir.path().join("x.blob.meta"), [1; 100]).unwrap();
    let found = fetched(dir.path()).unwrap();
    assert_eq!(found.of, 1 << 20);
    assert!((8192..65_536).contains(&found.bytes), "{found:?}");
}

#[test]
fn numbers_are_shown_as_people_read_them() {
    assert!((percent(1, 8) - 12.5).abs() < 1e-9);
    assert!(percent(1, 0).abs() < 1e-9);
    assert_eq!(format!("{:.1}", megabytes(1_550_000)), "1.6");
}

/// An entry: its type, its path, its data or link target.
type Entry = (tar::EntryType, &'static str, &'static [u8]);

const FILE: tar::EntryType = tar::EntryType::Regular;
const DIR: tar::EntryType = tar::EntryType::Directory;
const LINK: tar::EntryType = tar::EntryType::Symlink;

/// What each layer has; what is gone stands in a lower one.
const LAYERS: [&[Entry]; 3] = [
    &[
        (DIR, "etc/", b""),
        (FILE, "etc/gone", b"1"),
        (FILE, "etc/stays", b"22"),
        (DIR, "opaque/", b""),
        (FILE, "opaque/old", b"333"),
        (FILE, "was-file", b"4"),
        (DIR, "was-dir/", b""),
        (FILE, "was-dir/x", b"5"),
    ],
    &[
        (FILE, "etc/.wh.gone", b""),
        (FILE, "opaque/.wh..wh..opq", b""),
        (FILE, "opaque/new", b"666"),
        (DIR, "was-file/", b""),
        (FILE, "was-file/y", b"7"),
        (LINK, "was-dir", b"etc"),
    ],
    &[(FILE, "etc/stays", b"changed"), (FILE, ".wh.was-file", b""), (DIR, "top/", b"")],
];

fn tar_of(entries: &[(tar::EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for &(kind, path, data) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        // Links that are unpacked have this one, whatever their tar says.
        header.set_mode(match kind {
            DIR => 0o750,
            LINK => 0o777,
            _ => 0o640,
        });
        header.set_uid(3);
        header.set_gid(4);
        header.set_mtime(1_000_000);
        header.set_path(path).unwrap();
        let data = if kind == LINK {
            header.set_link_name(std::str::from_utf8(data).unwrap()).unwrap();
            &[]
        } else {
            data
        };
        header.set_size(data.len() as u64);
        header.set_cksum();
        tar.append(&header, data).unwrap();
    }
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn hex_of(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Files by name.
#[derive(Default)]
struct Parts(Vec<(String, Vec<u8>)>);

impl Parts {
    /// Adds a blob. Returns its descriptor.
    fn blob(&mut self, bytes: Vec<u8>) -> Value {
        let digits = hex_of(&bytes);
        let descriptor = json!({"mediaType": "x", "digest": format!("sha256:{digits}"), "size": bytes.len()});
        self.0.push((format!("blobs/sha256/{digits}"), bytes));
        descriptor
    }

    /// An OCI layout whose index has an index, for two platforms.
    fn oci() -> Self {
        let mut parts = Self::default();
        let layers: Vec<_> = LAYERS.iter().map(|layer| parts.blob(gzip(&tar_of(layer)))).collect();
        let mut other = parts.blob(b"{\"layers\": []}".to_vec());
        other["platform"] = json!({"os": "plan9", "architecture": "amd64"});
        let mut manifest = parts.blob(json!({"layers": layers}).to_string().into_bytes());
        manifest["platform"] = json!({"os": "linux", "architecture": "amd64"});
        let inner = parts.blob(json!({"manifests": [other, manifest]}).to_string().into_bytes());
        parts.0.push(("oci-layout".into(), b"{\"imageLayoutVersion\": \"1.0.0\"}".to_vec()));
        parts.0.push(("index.json".into(), json!({"manifests": [inner]}).to_string().into_bytes()));
        parts
    }

    fn saved() -> Self {
        let mut parts = Self::default();
        let tars = LAYERS.map(tar_of);
        let ids: Vec<_> = tars.iter().map(|tar| format!("sha256:{}", hex_of(tar))).collect();
        let config = json!({"rootfs": {"type": "layers", "diff_ids": ids}}).to_string().into_bytes();
        let config_name = format!("{}.json", hex_of(&config));
        // The last one is compressed, as some tools do.
        let [one, two, three] = tars;
        let names = ["1/layer.tar", "2/layer.tar", "3/layer.tar"];
        parts.0 = vec![
            (names[0].into(), one),
            (names[1].into(), two),
            (names[2].into(), gzip(&three)),
            (config_name.clone(), config),
        ];
        let manifest = json!([{"Config": config_name, "RepoTags": ["x:1"], "Layers": names}]);
        parts.0.push(("manifest.json".into(), manifest.to_string().into_bytes()));
        parts
    }

    fn tar(&self, to: &Path) {
        let entries: Vec<_> =
            self.0.iter().map(|(name, data)| (FILE, name.as_str(), data.as_slice())).collect();
        std::fs::write(to, tar_of(&entries)).unwrap();
    }

    fn directory(&self, to: &Path) {
        for (name, data) in &self.0 {
            let path = to.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, data).unwrap();
        }
    }
}

/// The three forms, in a directory.
fn forms(dir: &Path) -> [PathBuf; 3] {
    let forms = ["saved.tar", "oci.tar", "layout"].map(|name| dir.join(name));
    Parts::saved().tar(&forms[0]);
    Parts::oci().tar(&forms[1]);
    Parts::oci().directory(&forms[2]);
    forms
}

#[test]
fn images_are_told_from_layers_and_applied_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let interrupt = Interrupt::catch().unwrap();
    for form in forms(dir.path()) {
        let home = tempfile::tempdir().unwrap();
        let source = Source::find(Some(&form)).unwrap();
        let Kind::Image(image) = &source.kind else { panic!("{} is no image", form.display()) };
        let layers = image.copy_layers(home.path(), &interrupt).unwrap();
        let root = source.unpacked(&layers, home.path(), &interrupt).unwrap();
        let read = |name: &str| std::fs::read_to_string(root.join(name)).ok();
        assert_eq!(read("etc/stays").as_deref(), Some("changed"));
        assert_eq!(read("opaque/new").as_deref(), Some("666"));
        for gone in ["etc/gone", "opaque/old", "was-file", "etc/.wh.gone", "opaque/.wh..wh..opq"] {
            assert!(root.join(gone).symlink_metadata().is_err(), "{gone}");
        }
        assert_eq!(root.join("was-dir").read_link().unwrap(), Path::new("etc"));
        // The second layer only implies it.
        assert_eq!(root.join("opaque").metadata().unwrap().mode() & 0o7777, 0o750);
        assert!(root.join("top").is_dir() && !home.path().join("layer").exists());
    }
    let layer = dir.path().join("layer.tar");
    std::fs::write(&layer, tar_of(&[(FILE, "manifest.json", b"{}")])).unwrap();
    assert!(matches!(Source::find(Some(&layer)).unwrap().kind, Kind::Tar));
    assert!(Source::find(Some(dir.path())).unwrap().is_directory());
}

#[test]
fn wrong_bytes_are_found_by_their_digest() {
    let interrupt = Interrupt::catch().unwrap();
    for make in [Parts::saved, Parts::oci] {
        // The first layer, and what is behind the layers: a config, a manifest.
        for (at, early) in [(0, false), (make().0.len() - 2, true)] {
            let dir = tempfile::tempdir().unwrap();
            let mut parts = make();
            let at = if early {
                parts.0.iter().rposition(|(name, _)| name.contains("sha256") || name.len() > 60).unwrap_or(at)
            } else {
                at
            };
            let data = &mut parts.0[at].1;
            let last = data.len() - 1;
            data[last] ^= 1;
            let path = dir.path().join("image.tar");
            parts.tar(&path);
            let error = match Image::open(&path) {
                Err(error) => error,
                Ok(image) => {
                    assert!(!early);
                    image.unwrap().copy_layers(dir.path(), &interrupt).unwrap_err()
                }
            };
            assert!(format!("{error:#}").contains("has the digest"), "{error:#}");
        }
    }
}

#[test]
fn names_that_lead_out_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    for name in ["../layer.tar", "/etc/hostname"] {
        let config = json!({"rootfs": {"diff_ids": [format!("sha256:{}", "0".repeat(64))]}});
        let manifest = json!([{"Config": "config.json", "Layers": [name]}]);
        let parts = [("config.json", config), ("manifest.json", manifest)];
        Parts(parts.map(|(name, value)| (name.to_owned(), value.to_string().into_bytes())).into()).tar(&path);
        let image = Image::open(&path).unwrap().unwrap();
        let error = image.copy_layers(dir.path(), &Interrupt::catch().unwrap()).unwrap_err();
        assert!(format!("{error:#}").contains("leads out"), "{error:#}");
    }
}

#[test]
fn images_are_converted_mounted_and_equal_to_their_layers() {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("SKIPPED: needs root and /dev/fuse");
        return;
    }
    let mut build = workspace::cargo();
    build.args(["build", "--package", "nydus-image", "--package", "nydusd"]);
    process::run(build.current_dir(workspace::root())).unwrap();
    let programs = workspace::members().unwrap().target_directory.into_std_path_buf().join("debug");
    let interrupt = Interrupt::catch().unwrap();
    let dir = tempfile::tempdir().unwrap();
    for form in forms(dir.path()) {
        let home = tempfile::tempdir().unwrap();
        let source = Source::find(Some(&form)).unwrap();
        let report = show(&source, &programs, home.path(), &interrupt, &mut Steps::default()).unwrap();
        report.comparison.verdict().unwrap();
        // The root, etc, etc/stays, opaque, opaque/new, was-dir, top.
        assert_eq!(report.comparison.entries, 7);
        assert!(report.table(&source.name()).contains("3 layers"));
    }
}
