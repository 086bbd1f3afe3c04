//! Fetching before reading, end to end: what one daemon records and another one fetches, and what lists name.
#![allow(clippy::unwrap_used, reason = "tests")]

use rafs_vfs::profile::Profile;
use rustix::process::Signal;
use std::path::Path;
use std::time::{Duration, Instant};
use tests::{Daemon, PATIENCE, Place, can_mount};

/// 64 KiB of which no two pages are alike.
fn content(seed: u32) -> Vec<u8> {
    (0..16u32 << 10).flat_map(|n| (n ^ seed << 24).to_le_bytes()).collect()
}

/// An image of two files of 64 KiB in chunks of 4 KiB.
fn place() -> Place {
    let place = Place::new();
    let source = tempfile::tempdir().unwrap();
    for (name, seed) in [("a", 1), ("b", 2)] {
        std::fs::write(source.path().join(name), content(seed)).unwrap();
    }
    place.build(source.path(), &["--chunk-size", "0x1000"]);
    place
}

fn recorded(path: &Path) -> Vec<u32> {
    let profile = Profile::parse(&std::fs::read(path).unwrap()).unwrap();
    profile.runs.iter().flat_map(|run| run.chunk..run.chunk + u32::from(run.count)).collect()
}

fn wait_for(done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "it does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_daemon_records_what_is_read_first() {
    if !can_mount() {
        return;
    }
    let place = place();
    let path = place.at("profile");
    let mut command = place.command();
    command.arg("--record-profile").arg(&path);
    let daemon = Daemon::start(command, &place.at("mnt"));
    assert_eq!(std::fs::read(place.at("mnt/b")).unwrap(), content(2));
    daemon.signal(Signal::USR1);
    wait_for(|| path.exists());
    let second: Vec<u32> = (16..32).collect();
    // The kernel reads ahead with several requests at once.
    let mut found = recorded(&path);
    found.sort_unstable();
    assert_eq!(found, second);
    assert_eq!(std::fs::read(place.at("mnt/a")).unwrap().len(), 16 << 12);
    daemon.stop();
    let mut found = recorded(&path);
    assert_eq!(found.len(), 32);
    found[..16].sort_unstable();
    assert_eq!(found[..16], second, "what was read first comes first");
}

/// Waits until the log of a daemon that ended holds `text`.
fn log_of(place: &Place, options: &[&str], until: &str) -> String {
    let log = place.at("log.log");
    let mut command = place.command();
    command.args(options).arg("--log-file").arg(&log);
    let daemon = Daemon::start(command, &place.at("mnt"));
    wait_for(|| std::fs::read_to_string(&log).is_ok_and(|text| text.contains(until)));
    daemon.stop();
    std::fs::read_to_string(&log).unwrap()
}

#[test]
fn a_recorded_start_is_fetched_before_it_is_read() {
    if !can_mount() {
        return;
    }
    let place = place();
    let path = place.at("profile");
    let text = path.display().to_string();
    let missing = log_of(&place, &["--prefetch-profile", &text, "--record-profile", &text], "is mounted");
    assert!(missing.contains("does not exist: nothing is fetched by it"), "{missing}");
    let mut command = place.command();
    command.arg("--record-profile").arg(&path);
    let daemon = Daemon::start(command, &place.at("mnt"));
    assert_eq!(std::fs::read(place.at("mnt/b")).unwrap(), content(2));
    daemon.stop();
    std::fs::remove_dir_all(place.at("cache")).unwrap();
    let log = log_of(&place, &["--prefetch-profile", &text], "done; ");
    assert!(log.contains("done; 16 chunks of"), "{log}");
    assert!(log.contains("unmounted: 16 chunks (") && log.contains(") fetched by 1 requests"), "{log}");
    std::fs::write(&path, b"nothing of the kind").unwrap();
    let damaged = log_of(&place, &["--prefetch-profile", &text], "is mounted");
    assert!(damaged.contains("is not used: "), "{damaged}");
}

#[test]
fn listed_files_are_fetched_before_they_are_read() {
    if !can_mount() {
        return;
    }
    let place = place();
    let list = place.at("list");
    std::fs::write(&list, "/a\n/no/such\n").unwrap();
    let log = log_of(&place, &["--prefetch-files", list.to_str().unwrap()], "listed paths");
    assert!(log.contains("done; 16 chunks of"), "{log}");
    assert!(log.contains("1 listed paths are not in it, as /no/such"), "{log}");
}
