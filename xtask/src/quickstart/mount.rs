//! A running `nydusd` and its mount. Invariant: neither outlives the value.

use super::interrupt::{Interrupt, PAUSE};
use crate::process;
use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// A daemon that takes longer to mount hangs.
const MOUNT_LIMIT: Duration = Duration::from_secs(30);
/// A daemon that takes longer to end hangs.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A daemon with a visible mount.
#[derive(Debug)]
pub struct Mount {
    daemon: Child,
    mountpoint: PathBuf,
    log: PathBuf,
    started: Instant,
    visible_after: Duration,
    stopped: bool,
}

impl Mount {
    /// Starts the daemon and waits until the kernel lists its mount. What it says goes to the file `log`.
    /// Errors: it ends before, or takes too long; the log is part of the message.
    pub fn start(
        daemon: &mut Command,
        mountpoint: &Path,
        log: &Path,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        let said = std::fs::File::create(log).context("cannot create the log of nydusd")?;
        daemon.stdin(std::process::Stdio::null()).stdout(said.try_clone()?).stderr(said);
        // A Ctrl-C of the terminal is for us: we unmount when nothing uses the mount any more.
        daemon.process_group(0);
        let started = Instant::now();
        let child = daemon.spawn().with_context(|| format!("cannot run {}", process::name(daemon)))?;
        let mountpoint = mountpoint.canonicalize()?;
        let log = log.to_path_buf();
        let mut mount =
            Self { daemon: child, mountpoint, log, started, visible_after: Duration::ZERO, stopped: false };
        mount.wait_until_visible(interrupt)?;
        Ok(mount)
    }

    fn wait_until_visible(&mut self, interrupt: &Interrupt) -> anyhow::Result<()> {
        while !is_mounted(&self.mountpoint)? {
            interrupt.check()?;
            if let Some(status) = self.daemon.try_wait()? {
                self.stopped = true;
                bail!("nydusd ended before it mounted: {status}\n{}", self.said());
            }
            ensure!(self.started.elapsed() < MOUNT_LIMIT, "nydusd does not mount\n{}", self.said());
            std::thread::sleep(Duration::from_micros(200));
        }
        self.visible_after = self.started.elapsed();
        Ok(())
    }

    /// When the daemon was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// How long after that its mount was visible.
    pub fn visible_after(&self) -> Duration {
        self.visible_after
    }

    /// Asks the daemon to unmount and to end. Errors: it fails, hangs or leaves its mount; both are gone all the same.
    pub fn stop(mut self) -> anyhow::Result<()> {
        let status = self.end()?;
        ensure!(status.success(), "nydusd failed when it was told to end: {status}\n{}", self.said());
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<ExitStatus> {
        self.stopped = true;
        let asked = kill_process(Pid::from_child(&self.daemon), Signal::TERM);
        let asked_at = Instant::now();
        let mut status = self.daemon.try_wait()?;
        while status.is_none() && asked_at.elapsed() < STOP_LIMIT {
            std::thread::sleep(PAUSE);
            status = self.daemon.try_wait()?;
        }
        if status.is_none() {
            self.daemon.kill()?;
            self.daemon.wait()?;
        }
        let left = is_mounted(&self.mountpoint)?;
        if left {
            process::run(Command::new("umount").arg("-l").arg(&self.mountpoint))?;
        }
        let status = status.context("nydusd does not end when told to")?;
        asked.context("nydusd had ended before it was told to")?;
        ensure!(!left, "nydusd left its mount");
        Ok(status)
    }

    /// What the daemon said.
    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if !self.stopped
            && let Err(error) = self.end()
        {
            eprintln!("{error:#}");
        }
    }
}

/// Does the kernel list a mount at this absolute path? Unlike looking at the path, this cannot wait for the daemon.
fn is_mounted(mountpoint: &Path) -> anyhow::Result<bool> {
    let table = std::fs::read("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(mountpoints(&table).any(|listed| listed == mountpoint))
}

/// Mountpoints of a mount table: the fifth word of each line, where blanks and the like are `\` and three octal digits.
fn mountpoints(table: &[u8]) -> impl Iterator<Item = PathBuf> + '_ {
    let lines = table.split(|&byte| byte == b'\n');
    let words = lines.filter_map(|line| line.split(|&byte| byte == b' ').nth(4));
    words.map(|word| PathBuf::from(OsString::from_vec(unescape(word))))
}

fn unescape(word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&byte, behind)) = rest.split_first() {
        let digits =
            behind.get(..3).filter(|_| byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { &behind[3..] } else { behind };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_tables_are_read() {
        let table = b"22 1 0:20 / /proc rw - proc proc rw\n30 1 0:41 / /a\\040b\\134\\011 rw - fuse x rw\n\n";
        let found: Vec<_> = mountpoints(table).collect();
        assert_eq!(found, [Path::new("/proc"), Path::new("/a b\\\t")]);
        assert!(is_mounted(Path::new("/proc")).unwrap());
        assert!(!is_mounted(Path::new("/proc/self")).unwrap());
        assert_eq!(unescape(b"\\9 \\04"), b"\\9 \\04");
        assert_eq!(unescape("é".as_bytes()), "é".as_bytes());
    }

    #[test]
    fn a_daemon_that_ends_early_is_told_with_its_words() {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = Command::new("sh");
        daemon.args(["-c", "echo no such file >&2; exit 3"]);
        let interrupt = Interrupt::catch().unwrap();
        let error = Mount::start(&mut daemon, dir.path(), &dir.path().join("log"), &interrupt).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("no such file") && said.contains("status: 3"), "{said}");
    }
}
