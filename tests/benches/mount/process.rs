//! What the kernel knows of a process: memory, and time on a CPU to the nanosecond.

use std::path::PathBuf;
use std::time::{Duration, Instant};
use tests::Daemon;

/// A process by its directory in /proc.
#[derive(Debug)]
pub struct Process(PathBuf);

impl Process {
    pub fn of(daemon: &Daemon) -> Self {
        Self(format!("/proc/{}", daemon.pid().as_raw_nonzero()).into())
    }

    fn own() -> Self {
        Self("/proc/self".into())
    }

    /// Resident memory in MB: now, the most so far, and without files now.
    pub fn memory(&self) -> [f64; 3] {
        let status = std::fs::read_to_string(self.0.join("status")).unwrap();
        ["VmRSS:", "VmHWM:", "RssAnon:"].map(|name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0 / 1e6
        })
    }

    /// Time on a CPU so far, of all threads that there are.
    fn cpu(&self) -> Duration {
        let threads = std::fs::read_dir(self.0.join("task")).unwrap();
        // A thread may end meanwhile.
        let text =
            threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok());
        text.map(|text| Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())).sum()
    }
}

/// What some work took.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    pub wall: Duration,
    /// On a CPU, of the daemon alone.
    pub daemon: Duration,
    /// On a CPU, of daemon and client together. Unlike `wall` it hardly depends on what else the machine does.
    pub cpu: Duration,
}

/// Measures what the client does with a daemon.
pub fn spent<R>(daemon: &Daemon, work: impl FnOnce() -> R) -> (Spent, R) {
    let (daemon, client) = (Process::of(daemon), Process::own());
    let before = (daemon.cpu(), client.cpu());
    let started = Instant::now();
    let result = work();
    let wall = started.elapsed();
    let (daemon, client) = (daemon.cpu().saturating_sub(before.0), client.cpu().saturating_sub(before.1));
    (Spent { wall, daemon, cpu: daemon + client }, result)
}
