//! What the end-to-end tests share: the two programs as built, a daemon that is always stopped, a real root file system.
#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test that cannot be set up has failed"
)]

pub mod rootfs;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long something is waited for that takes no time unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program `name` of this workspace, in the profile that the tests are built in; built first, once.
pub fn program(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let dir = BUILT.get_or_init(|| {
        // target/<profile>/deps/<test>
        let test = std::env::current_exe().unwrap();
        let dir = test.parent().and_then(Path::parent).unwrap().to_path_buf();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--locked", "--package", "nydusd", "--package", "nydus-image"]);
        if dir.file_name().is_some_and(|name| name == "release") {
            cargo.arg("--release");
        }
        cargo.arg("--target-dir").arg(dir.parent().unwrap());
        // What cargo tells this test about its package. ring's build script would build ring again for it, and all that uses TLS.
        let told = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        for (name, _value) in std::env::vars_os().filter(|(name, _value)| name.to_str().is_some_and(told)) {
            cargo.env_remove(name);
        }
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert!(cargo.current_dir(workspace).status().unwrap().success(), "the programs do not build");
        dir
    });
    dir.join(name)
}

/// Runs a program to its end. Its output is text.
pub fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs a program that must succeed; returns its standard output.
pub fn run_ok(command: &mut Command) -> String {
    let output = run(command);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Can file systems be mounted here? If not, that is told.
pub fn can_mount() -> bool {
    if let Err(error) = std::fs::File::open("/dev/fuse") {
        eprintln!("SKIPPED: /dev/fuse cannot be opened: {error}");
        return false;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can mount");
        return false;
    }
    true
}

/// Is there a program called `name` on this machine? If not, that is told.
pub fn has_program(name: &str) -> bool {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&dirs).any(|dir| dir.join(name).is_file());
    if !found {
        eprintln!("SKIPPED: there is no {name} on this machine");
    }
    found
}

/// A directory with everything an image needs: `blobs/`, `cache/`, `mnt/`, `boot`, `config.json`.
#[derive(Debug)]
pub struct Place {
    dir: tempfile::TempDir,
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// Empty directories and a configuration that names them.
    pub fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["blobs", "cache", "mnt"] {
            std::fs::create_dir(place.at(name)).unwrap();
        }
        let config = format!(
            r#"{{"version": 2, "backend": {{"type": "localfs", "localfs": {{"dir": "{0}/blobs"}}}},
                "cache": {{"type": "blobcache", "filecache": {{"work_dir": "{0}/cache"}}}}}}"#,
            place.dir.path().display()
        );
        std::fs::write(place.at("config.json"), config).unwrap();
        place
    }

    /// A path in it.
    pub fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Builds `source` into it.
    pub fn build(&self, source: &Path, options: &[&str]) {
        let mut create = Command::new(program("nydus-image"));
        create.arg("create").arg("-B").arg(self.at("boot")).arg("-D").arg(self.at("blobs"));
        run_ok(create.args(options).arg(source));
    }

    /// The only blob.
    pub fn blob(&self) -> PathBuf {
        let mut blobs = std::fs::read_dir(self.at("blobs")).unwrap();
        let blob = blobs.next().unwrap().unwrap().path();
        assert!(blobs.next().is_none());
        blob
    }

    /// The command line of a daemon for it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(program("nydusd"));
        command.arg("--config").arg(self.at("config.json"));
        command.arg("--mountpoint").arg(self.at("mnt")).arg("--bootstrap").arg(self.at("boot"));
        command
    }

    /// Mounts it.
    pub fn mount(&self) -> Daemon {
        Daemon::start(self.command(), &self.at("mnt"))
    }

    /// Tries to mount it, which must fail with exit code 1 and one line, which is returned.
    pub fn refused(&self) -> String {
        let output = run(&mut self.command());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let lines: Vec<_> = said.lines().filter(|line| line.starts_with("Error: ")).collect();
        assert_eq!(lines.len(), 1, "{said}");
        lines[0].to_owned()
    }
}

/// A running daemon. Dropping it stops it, whatever state it is in.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    mountpoint: PathBuf,
}

impl Daemon {
    /// Starts `command` and waits until its file system is visible.
    pub fn start(mut command: Command, mountpoint: &Path) -> Self {
        // A group of its own, so that a signal to the test does not reach it before the test is done with it.
        let child = command.stdin(Stdio::null()).process_group(0).spawn().unwrap();
        let mut daemon = Self { child, mountpoint: mountpoint.to_path_buf() };
        let started = Instant::now();
        while !is_mounted(mountpoint) {
            let ended = daemon.child.try_wait().unwrap();
            assert!(ended.is_none(), "the daemon ended: {ended:?}");
            assert!(started.elapsed() < PATIENCE, "the mount does not come");
            std::thread::sleep(Duration::from_millis(2));
        }
        daemon
    }

    /// Takes care of a daemon that was started otherwise and is mounted.
    pub fn adopt(child: Child, mountpoint: &Path) -> Self {
        Self { child, mountpoint: mountpoint.to_path_buf() }
    }

    /// Its process id.
    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// Waits for its end. Returns the exit code, `None` after a signal.
    pub fn wait(&mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(started.elapsed() < PATIENCE, "the daemon does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Stops it as an operator does; it must unmount and succeed.
    pub fn stop(mut self) {
        self.signal(rustix::process::Signal::TERM);
        assert_eq!(self.wait(), Some(0));
        assert!(!is_mounted(&self.mountpoint));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Whatever is over already is fine.
        let _killed = self.child.kill().is_ok() && self.child.wait().is_ok();
        while is_mounted(&self.mountpoint) {
            let flags = rustix::mount::UnmountFlags::DETACH;
            if rustix::mount::unmount(&self.mountpoint, flags).is_err() {
                return;
            }
        }
    }
}

/// Is something mounted on `path`?
pub fn is_mounted(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}
