//! SIGINT and SIGTERM as a question that long work asks, so that cleaning up is always the way out.

use crate::process;
use anyhow::{Context, bail, ensure};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often a wait asks whether it is over.
pub const PAUSE: Duration = Duration::from_millis(5);

/// Was the chore told to stop?
#[derive(Debug)]
pub struct Interrupt {
    told: Arc<AtomicBool>,
}

impl Interrupt {
    /// From now on, the signals do not end the process.
    pub fn catch() -> anyhow::Result<Self> {
        let told = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&told)).context("cannot catch signals")?;
        }
        Ok(Self { told })
    }

    /// An error once a signal came.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.told.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }

    /// Runs a command to its end. Errors: it fails, or a signal comes, which ends it.
    pub fn run(&self, command: &mut Command) -> anyhow::Result<()> {
        self.check()?;
        let mut child = command.spawn().with_context(|| format!("cannot run {}", process::name(command)))?;
        let status = self.wait(&mut child, None)?;
        ensure!(status.success(), "{} failed: {status}", process::name(command));
        Ok(())
    }

    /// Waits for `child`. Errors: a signal comes or the time is past `deadline`; the child is killed then.
    pub fn wait(&self, child: &mut Child, deadline: Option<Instant>) -> anyhow::Result<ExitStatus> {
        loop {
            if let Some(status) = child.try_wait().context("cannot wait for a program")? {
                return Ok(status);
            }
            let late = deadline.is_some_and(|deadline| Instant::now() > deadline);
            let late = if late { Err(anyhow::anyhow!("it takes too long")) } else { Ok(()) };
            let stop = self.check().and(late);
            if let Err(error) = stop {
                let killed = child.kill().and_then(|()| child.wait());
                bail!(if killed.is_ok() { error } else { error.context("a program cannot be killed") });
            }
            std::thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interrupt(told: bool) -> Interrupt {
        Interrupt { told: Arc::new(AtomicBool::new(told)) }
    }

    #[test]
    fn programs_end_with_their_status_or_the_signal() {
        assert!(interrupt(false).run(&mut Command::new("true")).is_ok());
        assert!(interrupt(false).run(&mut Command::new("false")).is_err());
        let start = Instant::now();
        assert!(interrupt(true).wait(&mut Command::new("sleep").arg("60").spawn().unwrap(), None).is_err());
        let limit = Some(Instant::now() + Duration::from_millis(20));
        assert!(interrupt(false).wait(&mut Command::new("sleep").arg("60").spawn().unwrap(), limit).is_err());
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
