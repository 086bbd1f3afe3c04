//! Images of the reference builder, mounted and compared with their descriptions.
#![allow(clippy::unwrap_used, reason = "tests")]

use testkit::tree::{self, Made};
use tests::{Place, can_mount};

#[test]
fn images_of_the_reference_builder_mount_and_read_as_described() {
    let Some(golden) = tree::golden().filter(|_| can_mount()) else { return };
    let images = [
        ("v5-empty", "", Made::FromDirectory),
        ("v5-tar", "expected-nasty.json", Made::FromTar),
        ("v5-dir-lz4", "expected-nasty.json", Made::FromDirectory),
        ("v5-dir-none-aligned", "expected-nasty.json", Made::FromDirectory),
        ("v5-dir-prefetch", "expected-nasty.json", Made::FromDirectory),
        ("v5-layered", "expected-merged.json", Made::FromDirectory),
        ("v6-tar", "expected-nasty.json", Made::FromTar),
        ("v6-dir-lz4-8k", "expected-nasty.json", Made::FromDirectory),
        ("v6-dir-zstd", "expected-nasty.json", Made::FromDirectory),
        ("v6-dir-none-sha256-4k", "expected-nasty.json", Made::FromDirectory),
        ("v6-dir-prefetch", "expected-nasty.json", Made::FromDirectory),
        ("v6-merge", "expected-merged.json", Made::FromTar),
        ("v6-tarfs", "expected-nasty.json", Made::FromTar),
        ("v6-tarfs-4k", "expected-nasty.json", Made::FromTar),
        ("v6-dir-batch", "expected-nasty.json", Made::FromDirectory),
        ("v6-dir-encrypt", "expected-nasty.json", Made::FromDirectory),
        ("v6-dir-encrypt-batch", "expected-nasty.json", Made::FromDirectory),
        ("v6-tarref", "expected-nasty.json", Made::FromTar),
        ("v6-zran", "expected-nasty.json", Made::FromTar),
        ("v6-zran-4k", "expected-nasty.json", Made::FromTar),
        ("v6-zran-toc", "expected-nasty.json", Made::FromTar),
        ("v6-zran-inline-toc", "expected-nasty.json", Made::FromTar),
    ];
    // Those of all images: one with a parent uses the parent's too.
    let blobs = tree::all_blobs(&golden);
    for (image, description, made) in images {
        let place = Place::new();
        std::fs::copy(tree::bootstrap(&golden, image), place.at("boot")).unwrap();
        for blob in std::fs::read_dir(blobs.path()).unwrap().map(Result::unwrap) {
            std::fs::copy(blob.path(), place.at("blobs").join(blob.file_name())).unwrap();
        }
        let daemon = place.mount();
        if description.is_empty() {
            assert_eq!(std::fs::read_dir(place.at("mnt")).unwrap().count(), 0);
            daemon.stop();
            continue;
        }
        let mut expected = tree::expected(&golden.join(description));
        // Everybody may enter the root of a mount.
        if let Some(root) = expected.get_mut("/") {
            let mode = u32::from_str_radix(&root.mode, 8).unwrap();
            root.mode = format!("{:o}", mode | 0o555);
        }
        tree::assert_same(image, &tree::dir_tree(&place.at("mnt")), &expected, made, true);
        daemon.stop();
    }
}

/// What we write as v5, of the same layer, mounts and reads as described.
#[test]
fn images_of_v5_that_are_built_here_mount_and_read_as_described() {
    let Some(golden) = tree::golden().filter(|_| can_mount()) else { return };
    let description = tree::expected(&golden.join("expected-nasty.json"));
    let sha256 = ["-v", "5", "--digester", "sha256", "--compressor", "none", "--aligned-chunk"];
    for options in [&["-v", "5"][..], &["-v", "5", "--chunk-size", "0x1000"], &sha256] {
        let place = Place::new();
        place.build(&golden.join("nasty.tar"), options);
        let daemon = place.mount();
        let mut expected = description.clone();
        if let Some(root) = expected.get_mut("/") {
            let mode = u32::from_str_radix(&root.mode, 8).unwrap();
            root.mode = format!("{:o}", mode | 0o555);
        }
        // Times of a tar have nanoseconds here.
        let found = tree::dir_tree(&place.at("mnt"));
        tree::assert_same("v5", &found, &expected, Made::FromDirectory, true);
        daemon.stop();
    }
}
