//! One flipped byte in each region of bootstrap, blob and cache, seen through a mount by the real daemon: an error that names what is wrong,
//! EIO, or the right bytes; never other bytes, a hang or a crash.
#![allow(clippy::unwrap_used, reason = "tests")]

use rafs_format::Bootstrap;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use tests::{Daemon, Place, can_mount, run};

/// Files by path below a directory; what cannot be read is `None`.
type Files = BTreeMap<String, Option<Vec<u8>>>;

fn files(root: &Path) -> Files {
    let mut all = Files::new();
    let mut open = vec![String::new()];
    while let Some(dir) = open.pop() {
        let Ok(entries) = std::fs::read_dir(root.join(&dir)) else {
            all.insert(dir, None);
            continue;
        };
        for entry in entries {
            let Ok(entry) = entry else {
                all.insert(format!("{dir}?"), None);
                continue;
            };
            let path = format!("{dir}{}", entry.file_name().to_string_lossy());
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(format!("{path}/")),
                Ok(kind) if kind.is_file() => {
                    drop(all.insert(path.clone(), std::fs::read(root.join(path)).ok()))
                }
                Ok(_) => {}
                Err(_) => drop(all.insert(path, None)),
            }
        }
    }
    all
}

fn sample() -> (Place, Files) {
    let source = tempfile::tempdir().unwrap();
    std::fs::create_dir(source.path().join("d")).unwrap();
    for n in 0..12u32 {
        let content = testkit::blob::pattern(n, 3000 + 2000 * n as usize);
        std::fs::write(source.path().join(format!("d/f{n}")), content).unwrap();
    }
    std::os::unix::fs::symlink("d/f1", source.path().join("link")).unwrap();
    xattr::set(source.path().join("d/f3"), "user.k", b"value").unwrap();
    let place = Place::new();
    let options = ["--chunk-size", "0x1000", "--prefetch-policy", "fs", "--prefetch-files"];
    std::fs::write(place.at("prefetch"), b"/d/f1\n").unwrap();
    let list = place.at("prefetch").display().to_string();
    place.build(source.path(), &[&options[..], &[&list]].concat());
    (place, files(source.path()))
}

fn flip(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// Does every file that can be read have the right bytes? Returns how many cannot.
fn assert_right_or_refused(what: &str, found: &Files, expected: &Files) -> usize {
    for (path, content) in found {
        if let Some(content) = content {
            assert!(
                expected.get(path).is_some_and(|e| e.as_ref() == Some(content)),
                "{what}: {path} is wrong"
            );
        }
    }
    expected.keys().filter(|path| found.get(*path).is_none_or(Option::is_none)).count()
}

#[test]
fn a_flipped_byte_of_the_blob_costs_the_files_that_need_it() {
    if !can_mount() {
        return;
    }
    let (place, expected) = sample();
    let blob = place.blob();
    let size = std::fs::metadata(&blob).unwrap().len();
    let bootstrap = Bootstrap::parse(std::fs::read(place.at("boot")).unwrap()).unwrap();
    let data_end = bootstrap.blobs()[0].meta.compressed_offset;
    // In the data, in the chunk table behind it, in its header.
    for at in [0, data_end / 3, data_end - 1, data_end, size - 4096, size - 1] {
        flip(&blob, at);
        std::fs::remove_dir_all(place.at("cache")).unwrap();
        let daemon = place.mount();
        let bad = assert_right_or_refused(&format!("byte {at}"), &files(&place.at("mnt")), &expected);
        assert!(bad <= 12, "byte {at}: {bad} files");
        assert_eq!(bad > 0, at < data_end, "byte {at}: only data is needed");
        daemon.stop();
        flip(&blob, at);
    }
    // Its end is missing.
    std::fs::File::options().write(true).open(&blob).unwrap().set_len(data_end / 2).unwrap();
    std::fs::remove_dir_all(place.at("cache")).unwrap();
    let daemon = place.mount();
    assert!(assert_right_or_refused("cut", &files(&place.at("mnt")), &expected) > 0);
    daemon.stop();
}

#[test]
fn a_flipped_byte_of_the_cache_is_fetched_again() {
    if !can_mount() {
        return;
    }
    let (place, expected) = sample();
    let daemon = place.mount();
    assert_eq!(files(&place.at("mnt")), expected);
    daemon.stop();
    for name in ["data", "data.chunk_map"] {
        let blob = place.blob().file_name().unwrap().to_str().unwrap().to_owned();
        let path = place.at("cache").join(format!("{blob}.blob.{name}"));
        let size = std::fs::metadata(&path).unwrap().len();
        for at in [0, size / 2, size - 1] {
            flip(&path, at);
            let daemon = place.mount();
            assert_eq!(files(&place.at("mnt")), expected, "{name}, byte {at}");
            daemon.stop();
        }
    }
}

/// Regions of a bootstrap by name.
fn regions(bytes: &[u8]) -> Vec<(&'static str, Range<u64>)> {
    let bootstrap = Bootstrap::parse(bytes).unwrap();
    let sb = bootstrap.superblock();
    let blobs = bootstrap.blobs().len() as u64;
    let root = sb.root.byte_offset(sb.meta_start).unwrap();
    vec![
        ("superblock", 1024..1152),
        ("extended superblock", 1152..1408),
        ("device slots", 1408..1408 + blobs * 128),
        ("blob table", sb.blob_table_offset..sb.blob_table_offset + blobs * 256),
        ("prefetch table", sb.prefetch_table_offset..sb.prefetch_table_offset + 4),
        ("inodes, names, xattrs and chunk references", root..sb.chunk_table_offset),
        ("chunk table", sb.chunk_table_offset..sb.chunk_table_offset + sb.chunk_table_records * 80),
    ]
}

/// RAFS v6 has no checksum over names and attributes; a bootstrap that is named after its digest has one. Every flipped byte of such a one is
/// found before anything is mounted.
#[test]
fn a_flipped_byte_of_a_bootstrap_named_after_its_digest_is_refused() {
    let (place, _) = sample();
    let bytes = std::fs::read(place.at("boot")).unwrap();
    let name = testkit::tree::sha256(&bytes);
    std::fs::rename(place.at("boot"), place.at(&name)).unwrap();
    for (region, range) in regions(&bytes) {
        for at in [range.start, (range.start + range.end) / 2, range.end - 1] {
            flip(&place.at(&name), at);
            let mut command = std::process::Command::new(tests::program("nydusd"));
            command.arg("--config").arg(place.at("config.json")).arg("--mountpoint").arg(place.at("mnt"));
            let output = run(command.arg("--bootstrap").arg(place.at(&name)));
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{region}, byte {at}: {said}");
            assert!(
                said.contains("is damaged: it is named after its SHA-256"),
                "{region}, byte {at}: {said}"
            );
            flip(&place.at(&name), at);
        }
    }
}

/// Without that, it is refused, or what depends on the byte is; whatever can be read is a file of the image, since each chunk is verified.
#[test]
fn a_flipped_byte_of_any_bootstrap_is_an_error_or_shows_no_invented_bytes() {
    if !can_mount() {
        return;
    }
    let (place, expected) = sample();
    let bytes = std::fs::read(place.at("boot")).unwrap();
    let (mut refused, mut partly) = (0, 0);
    for (region, range) in regions(&bytes) {
        let step = (range.end - range.start) / 9 + 1;
        for at in (range.start..range.end).step_by(usize::try_from(step).unwrap()) {
            flip(&place.at("boot"), at);
            let output = start_or_refuse(&place);
            match output {
                Err(said) => {
                    assert!(said.contains("boot"), "{region}, byte {at}: {said}");
                    refused += 1;
                }
                Ok(daemon) => {
                    let found = files(&place.at("mnt"));
                    for (path, content) in found.iter().filter_map(|(p, c)| Some((p, c.as_ref()?))) {
                        let known = expected.values().flatten().any(|file| file.starts_with(content));
                        assert!(known, "{region}, byte {at}: {path} is no file of the image");
                    }
                    partly += usize::from(found != expected);
                    daemon.stop();
                }
            }
            flip(&place.at("boot"), at);
        }
    }
    assert!(refused > 5 && partly > 5, "{refused} refused, {partly} with errors");
}

/// Starts a daemon that may refuse the image.
fn start_or_refuse(place: &Place) -> Result<Daemon, String> {
    let mut command = place.command();
    command.stderr(std::process::Stdio::piped()).stdin(std::process::Stdio::null());
    let mut child = command.spawn().unwrap();
    while !tests::is_mounted(&place.at("mnt")) {
        if child.try_wait().unwrap().is_some() {
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(1));
            return Err(String::from_utf8(output.stderr).unwrap());
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Ok(Daemon::adopt(child, &place.at("mnt")))
}
