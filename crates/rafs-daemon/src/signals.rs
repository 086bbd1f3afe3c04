//! A daemon that ends with the process's signals.

use crate::{Daemon, DaemonError, Options, Stopper};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How long a detached mount is served to those who still use it before the process ends and they get errors. Reads that wait for a
/// backend wait in vain then; whoever sent the signal waits no longer than this.
const GRACE: Duration = Duration::from_secs(1);

/// What ends a daemon.
enum Event {
    Signal(i32),
    Ended(Result<(), DaemonError>),
}

/// Mounts and serves until SIGTERM, SIGINT or an unmount from outside; all of them are success. SIGHUP is ignored, told. A second SIGTERM or
/// SIGINT does not wait for users of the mount. SIGUSR1 writes what was recorded so far.
pub fn run(options: &Options) -> Result<(), DaemonError> {
    let (sender, events) = channel();
    // Before mounting, so that no signal finds a mount without somebody to remove it.
    watch(sender.clone())?;
    let daemon = Daemon::start(options)?;
    let stopper = daemon.stopper();
    let server = std::thread::Builder::new().name("serve".into());
    let serve = move || {
        // The receiver goes with the process.
        let _told = sender.send(Event::Ended(daemon.serve())).is_ok();
    };
    let _server = server.spawn(serve).map_err(|source| DaemonError::Threads { source })?;
    let signal = loop {
        match events.recv() {
            Ok(Event::Ended(result)) => return result,
            Ok(Event::Signal(SIGUSR1)) => save(&stopper),
            Ok(Event::Signal(signal)) => break signal,
            Err(_closed) => return Ok(()),
        }
    };
    tracing::info!("signal {signal}: unmounting");
    stopper.stop()?;
    match events.recv_timeout(GRACE) {
        Ok(Event::Ended(result)) => result,
        Ok(Event::Signal(_)) => Ok(()),
        Err(RecvTimeoutError::Timeout) => {
            tracing::warn!("the mount is still in use: its users get errors from now on");
            Ok(())
        }
        Err(RecvTimeoutError::Disconnected) => Ok(()),
    }
}

fn save(stopper: &Stopper) {
    if !stopper.save_profile() {
        tracing::info!("SIGUSR1 is ignored: nothing is recorded");
    }
}

/// Sends signals that the daemon acts on to `sender`.
fn watch(sender: Sender<Event>) -> Result<(), DaemonError> {
    let mut signals =
        Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1]).map_err(|source| DaemonError::Signals { source })?;
    let watcher = std::thread::Builder::new().name("signals".into());
    let watch = move || {
        for signal in signals.forever() {
            if signal == SIGHUP {
                tracing::info!("SIGHUP is ignored: there is nothing to reload");
            } else if sender.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    };
    watcher.spawn(watch).map(drop).map_err(|source| DaemonError::Threads { source })
}
