//! Files whose data is elsewhere, from the list to the mount: two images, mounted one beside the other, and a blob that is not what it was.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::Command;
use testkit::blob::pattern;
use tests::{Daemon, Place, can_mount, program, run_ok};

const ID: &str = "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee";
const CHUNK: usize = 1 << 20;
/// Where the weights start in the blob.
const START: usize = 512;

fn weights() -> Vec<u8> {
    pattern(3, 2 * CHUNK + 777)
}

/// The list, as nydusify writes it.
fn attributes() -> String {
    let weights = weights();
    let crcs: Vec<_> =
        weights.chunks(CHUNK).map(|chunk| format!("0x{:x}", rafs_merkle::crc32c(chunk))).collect();
    format!(
        "/model/weights type=external file_size={} blob_index=0 blob_id={ID} chunk_size=1MiB chunk_0_compressed_offset={START} \
         compressed_size={} crcs={}\n",
        weights.len(),
        START + weights.len(),
        crcs.join(","),
    )
}

/// A daemon for the image at `boot`.
fn mounted(place: &Place, boot: &Path) -> Daemon {
    let mut command = Command::new(program("nydusd"));
    command.arg("--config").arg(place.at("config.json")).arg("--mountpoint").arg(place.at("mnt"));
    Daemon::start(
        {
            command.arg("--bootstrap").arg(boot);
            command
        },
        &place.at("mnt"),
    )
}

#[test]
fn files_that_are_elsewhere_are_mounted() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    std::fs::create_dir_all(place.at("source/model")).unwrap();
    std::fs::write(place.at("source/model/weights"), b"").unwrap();
    std::fs::write(place.at("source/model/config"), b"{}").unwrap();
    std::fs::write(place.at("attributes"), attributes()).unwrap();
    let blob = [vec![0xAA; START], weights()].concat();
    std::fs::write(place.at("blobs").join(ID), &blob).unwrap();
    let mut create = Command::new(program("nydus-image"));
    create.args(["create", "--attributes"]).arg(place.at("attributes")).arg("-D").arg(place.at("blobs"));
    run_ok(create.arg("-B").arg(place.at("image.boot")).arg(place.at("source")));
    let daemon = mounted(&place, &place.at("image.boot"));
    assert_eq!(std::fs::read(place.at("mnt/model/config")).unwrap(), b"{}");
    assert!(!place.at("mnt/model/weights").exists());
    daemon.stop();
    let daemon = mounted(&place, &place.at("image.external"));
    assert!(std::fs::read(place.at("mnt/model/weights")).unwrap() == weights());
    assert!(!place.at("mnt/model/config").exists());
    daemon.stop();
    // Another byte in the second chunk: that one is refused, on a node that has nothing yet, and the others are read.
    let mut other = blob;
    other[START + CHUNK + 5] ^= 1;
    std::fs::write(place.at("blobs").join(ID), other).unwrap();
    std::fs::remove_dir_all(place.at("cache")).unwrap();
    std::fs::create_dir(place.at("cache")).unwrap();
    let daemon = mounted(&place, &place.at("image.external"));
    let file = std::fs::File::open(place.at("mnt/model/weights")).unwrap();
    let mut bytes = [0; 10];
    let mut read = |at: u64| std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, at).map(|()| bytes);
    assert_eq!(read(0).unwrap(), weights()[..10]);
    assert_eq!(read(u64::try_from(CHUNK).unwrap()).unwrap_err().raw_os_error(), Some(5));
    assert_eq!(read(u64::try_from(2 * CHUNK).unwrap()).unwrap(), weights()[2 * CHUNK..][..10]);
    daemon.stop();
}
