//! Which CPU a thread, and what it starts, runs on. A wake-up on another CPU may cost ten times one on the same CPU and hide everything else.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Where daemon and client run.
#[derive(Debug, Clone, Copy)]
pub struct Placement {
    pub name: &'static str,
    /// `None` for anywhere.
    pub daemon: Option<usize>,
    pub client: Option<usize>,
}

/// On the same CPU, and on different ones where there are two.
pub fn placements() -> Vec<Placement> {
    let allowed = sched_getaffinity(None).unwrap();
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
    let first = cpus.next().unwrap();
    let mut all = vec![Placement { name: "same CPU", daemon: Some(first), client: Some(first) }];
    let other = cpus.next().map(Some);
    all.extend(other.map(|other| Placement { name: "two CPUs", daemon: other, client: Some(first) }));
    all
}

/// Wherever the kernel puts them.
pub const FREE: Placement = Placement { name: "free", daemon: None, client: None };

/// Runs something on `cpu` only, where one is given; processes that it starts stay there.
pub fn on<R>(cpu: Option<usize>, run: impl FnOnce() -> R) -> R {
    let Some(cpu) = cpu else { return run() };
    let before = sched_getaffinity(None).unwrap();
    let mut only = CpuSet::new();
    only.set(cpu);
    sched_setaffinity(None, &only).unwrap();
    let result = run();
    sched_setaffinity(None, &before).unwrap();
    result
}
