//! `nydusd` as operators meet it: what it refuses and how, signals, crashes, unmounts from outside.
#![allow(clippy::unwrap_used, reason = "tests")]

use rustix::mount::UnmountFlags;
use rustix::process::Signal;
use std::path::Path;
use std::process::Command;
use tests::{Daemon, Place, can_mount, is_mounted, program, run, run_ok};

/// A place with a built image of one file.
fn sample() -> Place {
    let place = Place::new();
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("f"), b"content").unwrap();
    place.build(source.path(), &[]);
    place
}

fn content(place: &Place) -> Vec<u8> {
    std::fs::read(place.at("mnt/f")).unwrap()
}

#[test]
fn a_second_mount_of_the_same_directory_is_refused_and_harms_nobody() {
    if !can_mount() {
        return;
    }
    let place = sample();
    let daemon = place.mount();
    let said = place.refused();
    assert!(said.ends_with("mnt is in use: rafs (fuse) is mounted there; unmount it first"), "{said}");
    assert_eq!(content(&place), b"content");
    daemon.stop();
    // A directory that something else is mounted on.
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", place.at("mnt"), "tmpfs", flags, None).unwrap();
    let said = place.refused();
    rustix::mount::unmount(place.at("mnt"), UnmountFlags::DETACH).unwrap();
    assert!(said.ends_with("mnt is in use: tmpfs (tmpfs) is mounted there; unmount it first"), "{said}");
}

#[test]
fn what_is_missing_is_named() {
    let place = sample();
    std::fs::rename(place.at("mnt"), place.at("mnt2")).unwrap();
    let said = place.refused();
    assert!(said.contains("mountpoint") && said.ends_with("mnt does not exist"), "{said}");
    std::fs::rename(place.at("mnt2"), place.at("mnt")).unwrap();
    let blob = place.blob();
    std::fs::remove_file(&blob).unwrap();
    let said = place.refused();
    assert!(said.contains("a blob of") && said.contains("is missing: localfs"), "{said}");
    assert!(said.contains(blob.file_name().unwrap().to_str().unwrap()), "{said}");
    std::fs::write(place.at("boot"), b"rubbish").unwrap();
    let said = place.refused();
    assert!(said.contains("boot is not a RAFS bootstrap, or a damaged one"), "{said}");
    std::fs::remove_file(place.at("boot")).unwrap();
    let said = place.refused();
    assert!(said.contains("cannot read bootstrap") && said.contains("No such file"), "{said}");
}

/// What converters put into a registry: one object with everything in it, the table of contents or not; and its bootstrap alone, named after it.
#[test]
fn a_blob_with_its_bootstrap_inside_is_mounted() {
    if !can_mount() {
        return;
    }
    let (full, empty) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(full.path().join("f"), b"content").unwrap();
    for (source, features) in
        [(&full, None), (&full, Some("blob-toc")), (&empty, None), (&empty, Some("blob-toc"))]
    {
        let place = Place::new();
        let mut create = Command::new(program("nydus-image"));
        create.args(["create", "--blob-inline-meta", "-D"]).arg(place.at("blobs"));
        create.args(features.iter().flat_map(|features| ["--features", features]));
        run_ok(create.arg(source.path()));
        let mounted = |bootstrap: &Path| {
            let mut command = Command::new(program("nydusd"));
            command.arg("--config").arg(place.at("config.json")).arg("--mountpoint").arg(place.at("mnt"));
            let daemon = Daemon::start(
                {
                    command.arg("--bootstrap").arg(bootstrap);
                    command
                },
                &place.at("mnt"),
            );
            let names = std::fs::read_dir(place.at("mnt")).unwrap().count();
            if names == 0 {
                assert!(source.path() == empty.path());
            } else {
                assert_eq!(content(&place), b"content");
            }
            daemon.stop();
        };
        let blob = place.blob();
        mounted(&blob);
        if source.path() == full.path() && features.is_none() {
            let bytes = std::fs::read(&blob).unwrap();
            let size = tar::Header::from_byte_slice(&bytes[bytes.len() - 512..]).entry_size().unwrap();
            let alone = place.at("cache").join(blob.file_name().unwrap());
            let end = bytes.len() - 512;
            std::fs::write(&alone, &bytes[end - usize::try_from(size).unwrap()..end]).unwrap();
            mounted(&alone);
        }
    }
}

#[test]
fn without_dev_fuse_it_says_so() {
    if !can_mount() {
        return;
    }
    let place = sample();
    // In a mount namespace of its own, with nothing in /dev.
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount -t tmpfs none /dev && exec \"$@\"", "sh"]);
    command.arg(program("nydusd")).args(place.command().get_args());
    let output = run(&mut command);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let expected = "Error: /dev/fuse cannot be opened: load the fuse kernel module, or give the container the device: No such file";
    assert!(said.lines().any(|line| line.starts_with(expected)), "{said}");
}

#[test]
fn sigterm_and_sigint_unmount_and_sighup_does_not() {
    if !can_mount() {
        return;
    }
    let place = sample();
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = place.mount();
        assert_eq!(content(&place), b"content");
        daemon.signal(Signal::HUP);
        assert_eq!(content(&place), b"content");
        daemon.signal(signal);
        assert_eq!(daemon.wait(), Some(0));
        assert!(!is_mounted(&place.at("mnt")));
    }
}

#[test]
fn a_mount_in_use_does_not_keep_the_daemon() {
    if !can_mount() {
        return;
    }
    let place = sample();
    let daemon = place.mount();
    let open = std::fs::File::open(place.at("mnt/f")).unwrap();
    let dir = std::fs::File::open(place.at("mnt")).unwrap();
    daemon.stop();
    drop((open, dir));
    place.mount().stop();
}

#[test]
fn an_unmount_from_outside_is_an_ordinary_end() {
    if !can_mount() {
        return;
    }
    let place = sample();
    let mut daemon = place.mount();
    rustix::mount::unmount(place.at("mnt"), UnmountFlags::empty()).unwrap();
    assert_eq!(daemon.wait(), Some(0));
}

#[test]
fn a_killed_daemon_leaves_errors_and_its_successor_starts_as_if_nothing_were() {
    if !can_mount() {
        return;
    }
    let place = sample();
    for _ in 0..3 {
        let mut daemon = place.mount();
        assert_eq!(content(&place), b"content");
        daemon.signal(Signal::KILL);
        assert_eq!(daemon.wait(), None);
        let dead = std::fs::read_dir(place.at("mnt")).unwrap_err();
        assert_eq!(dead.raw_os_error(), Some(rustix::io::Errno::NOTCONN.raw_os_error()));
        let next = place.mount();
        // The dead mount was there already, and the kernel still has pages of it; only a live one answers this, with the type of FUSE.
        let patience = std::time::Instant::now();
        while !rustix::fs::statfs(place.at("mnt")).is_ok_and(|told| told.f_type == 0x6573_5546) {
            assert!(patience.elapsed() < tests::PATIENCE);
        }
        assert_eq!(content(&place), b"content");
        next.stop();
        drop(daemon);
    }
}

#[test]
fn two_daemons_that_start_at_once_do_not_both_mount() {
    if !can_mount() {
        return;
    }
    let place = sample();
    for _ in 0..20 {
        let quiet = || place.command().stderr(std::process::Stdio::null()).spawn().unwrap();
        let mut both: Vec<_> = (0..2).map(|_| quiet()).collect();
        // The one that is refused ends by itself.
        let patience = std::time::Instant::now();
        let refused = loop {
            if let Some(n) = both.iter_mut().position(|child| child.try_wait().unwrap().is_some()) {
                break n;
            }
            if patience.elapsed() > tests::PATIENCE {
                both.iter_mut().for_each(|child| child.kill().unwrap());
                panic!("both of them run");
            }
        };
        let mut refused = both.remove(refused);
        assert_eq!(refused.wait().unwrap().code(), Some(1));
        let mut winner = both.remove(0);
        while !is_mounted(&place.at("mnt")) {
            assert!(winner.try_wait().unwrap().is_none(), "neither of them runs");
        }
        assert_eq!(content(&place), b"content");
        rustix::process::kill_process(rustix::process::Pid::from_child(&winner), Signal::TERM).unwrap();
        assert_eq!(winner.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn relative_paths_and_localfs_dir_work() {
    if !can_mount() {
        return;
    }
    let place = sample();
    let mut command = Command::new(program("nydusd"));
    command.current_dir(place.at("")).args(["fuse", "-D", "blobs", "-B", "boot", "-M", "mnt"]);
    let daemon = tests::Daemon::start(command, &place.at("mnt").canonicalize().unwrap());
    assert_eq!(content(&place), b"content");
    daemon.stop();
    assert!(Path::new(&place.at("blobs")).read_dir().unwrap().count() == 3, "blob, data and map");
}

#[test]
fn configurations_of_all_shapes_mount_and_unknown_fields_are_told() {
    if !can_mount() {
        return;
    }
    let place = sample();
    let (blobs, cache) = (place.at("blobs"), place.at("cache"));
    let (blobs, cache) = (blobs.display(), cache.display());
    let toml = format!(
        "version = 2\n[backend]\ntype = \"localfs\"\n[backend.localfs]\ndir = \"{blobs}\"\n\
         [cache]\ntype = \"blobcache\"\n[cache.filecache]\nwork_dir = \"{cache}\"\n[rafs]\nmode = \"direct\"\n"
    );
    let first = format!(
        r#"{{"device": {{"id": "/20", "backend": {{"type": "localfs", "config": {{"dir": "{blobs}"}}}},
            "cache": {{"type": "blobcache", "compressed": false, "config": {{"work_dir": "{cache}"}}}}}},
            "mode": "direct", "digest_validate": true, "enable_xattr": true, "amplify_io": 1048576,
            "fs_prefetch": {{"enable": true, "threads_count": 8, "merging_size": 1048576}}}}"#
    );
    let uncached =
        format!(r#"{{"version": 2, "backend": {{"type": "localfs", "localfs": {{"dir": "{blobs}"}}}}}}"#);
    for text in [toml, first.clone(), uncached] {
        std::fs::write(place.at("config.json"), text).unwrap();
        let daemon = place.mount();
        assert_eq!(content(&place), b"content");
        daemon.stop();
    }
    std::fs::write(place.at("config.json"), first.replace("\"enable_xattr\"", "\"enable_xatr\"")).unwrap();
    let mut command = place.command();
    let said = String::from_utf8(run(command.arg("--strict-config")).stderr).unwrap();
    assert!(said.contains("enable_xatr") && said.contains("did you mean `enable_xattr`"), "{said}");
    let daemon = place.mount();
    assert_eq!(content(&place), b"content");
    daemon.stop();
    std::fs::write(place.at("config.json"), first.replace("\"work_dir\": \"", "\"work_dir\": 7, \"x\": \""))
        .unwrap();
    let said = place.refused();
    assert!(said.contains("device.cache.config.work_dir"), "{said}");
}

#[test]
fn an_ordinary_user_mounts_through_fusermount3() {
    if !can_mount() || !tests::has_program("fusermount3") || !tests::has_program("setpriv") {
        return;
    }
    let place = sample();
    let nobody = rustix::fs::Uid::from_raw(65534);
    for name in ["", "cache", "mnt"] {
        let none = rustix::fs::AtFlags::empty();
        rustix::fs::chownat(rustix::fs::CWD, place.at(name), Some(nobody), None, none).unwrap();
    }
    // Programs in a place that this user cannot reach are of no use.
    std::fs::copy(program("nydusd"), place.at("nydusd")).unwrap();
    // Everybody may open the device, as on ordinary machines; in a mount namespace of its own, so that this one stays as it is.
    let script = r#"
        set -e
        mknod device c 10 229 && chmod 666 device && mount --bind device /dev/fuse
        user="setpriv --reuid=65534 --regid=65534 --clear-groups"
        $user ./nydusd "$@" & daemon=$!
        n=0
        until $user cat mnt/f 2>/dev/null; do n=$((n + 1)); test $n -lt 600; sleep 0.1; done
        kill $daemon; wait $daemon; echo ", exit $?, $(grep -c "$PWD/mnt" /proc/self/mountinfo || true) mounts left"
    "#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).args(place.command().get_args());
    let told = run(command.current_dir(place.at("")));
    let (out, log) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert_eq!(out, "content, exit 0, 0 mounts left\n", "{log}");
}
