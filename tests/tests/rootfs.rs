//! A real Debian: tar to image to mount, compared with what tar unpacks, and used as a container's root.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::Command;
use testkit::tree::{Tree, dir_tree};
use tests::{Place, can_mount, run_ok};

/// What `tar x` makes of `tar`, in `dir`.
fn unpack(tar: &Path, dir: &Path) -> Tree {
    let mut command = Command::new("tar");
    command.args(["--extract", "--numeric-owner", "--same-permissions", "--xattrs", "--xattrs-include=*"]);
    run_ok(command.arg("--file").arg(tar).arg("--directory").arg(dir));
    dir_tree(dir)
}

/// Compares entry by entry, so that a difference names its path.
fn assert_same(found: &Tree, expected: &Tree) {
    let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected));
    for (path, expected) in expected {
        assert_eq!(&found[path], expected, "{path}");
    }
}

#[test]
fn a_debian_is_the_same_mounted_and_unpacked() {
    let Some(tar) = tests::rootfs::tar().filter(|_| can_mount()) else { return };
    let unpacked = tempfile::tempdir().unwrap();
    let expected = unpack(&tar, unpacked.path());
    assert!(expected.len() > 5000, "{} entries are no Debian", expected.len());
    let links = expected.values().filter(|entry| !entry.links.is_empty()).count();
    assert!(links > 0, "it has hard links");
    let lz4 = ["--chunk-size", "0x1000", "--compressor", "lz4_block"];
    for options in [&[][..], &lz4, &["--batch-size", "0x20000"]] {
        let place = Place::new();
        place.build(&tar, options);
        let daemon = place.mount();
        assert_same(&dir_tree(&place.at("mnt")), &expected);
        // Once more from the kernel's cache, and from ours by a new daemon.
        assert_same(&dir_tree(&place.at("mnt")), &expected);
        daemon.stop();
        let daemon = place.mount();
        std::fs::rename(place.at("blobs"), place.at("away")).unwrap();
        assert_same(&dir_tree(&place.at("mnt")), &expected);
        daemon.stop();
    }
}

/// An overlay on a mount, as container runtimes make it. Dropping it unmounts.
struct Overlay<'a> {
    place: &'a Place,
}

impl<'a> Overlay<'a> {
    fn new(place: &'a Place) -> Self {
        // The upper directory must not be on an overlay itself.
        let tmpfs = place.at("upper");
        std::fs::create_dir(&tmpfs).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", &tmpfs, "tmpfs", flags, None).unwrap();
        for name in ["upper/up", "upper/work", "merged"] {
            std::fs::create_dir(place.at(name)).unwrap();
        }
        let at = |name| place.at(name).display().to_string();
        let options =
            format!("lowerdir={},upperdir={},workdir={}", at("mnt"), at("upper/up"), at("upper/work"));
        let options = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount("overlay", place.at("merged"), "overlay", flags, Some(options.as_c_str()))
            .unwrap();
        Self { place }
    }

    fn chroot(&self, program: &[&str]) -> String {
        run_ok(Command::new("chroot").arg(self.place.at("merged")).args(program).env("LC_ALL", "C"))
    }
}

impl Drop for Overlay<'_> {
    fn drop(&mut self) {
        for name in ["merged", "upper"] {
            rustix::mount::unmount(self.place.at(name), rustix::mount::UnmountFlags::DETACH).unwrap();
        }
    }
}

#[test]
fn a_container_runs_on_it() {
    let Some(tar) = tests::rootfs::tar().filter(|_| can_mount()) else { return };
    let place = Place::new();
    place.build(&tar, &[]);
    let daemon = place.mount();
    {
        let overlay = Overlay::new(&place);
        let packages = overlay.chroot(&["dpkg", "-l"]);
        assert!(packages.contains("ii  dpkg ") && packages.contains("ii  libc6"), "{packages}");
        assert_eq!(overlay.chroot(&["dpkg", "--verify"]), "", "no file differs from what its package says");
        let program = "import re; print(re.sub('x', str(sum(range(10))), 'sum x'))";
        assert_eq!(overlay.chroot(&["python3", "-c", program]), "sum 45\n");
        let script =
            "echo new > /etc/hostname && rm /etc/issue && chmod 700 /usr/bin/perl && cat /etc/hostname";
        assert_eq!(overlay.chroot(&["sh", "-c", script]), "new\n");
        assert!(!place.at("merged/etc/issue").exists() && place.at("mnt/etc/issue").exists());
        assert!(place.at("mnt/usr/bin/perl").metadata().is_ok());
    }
    daemon.stop();
}
