//! Running a program from the mount, up to its first line and to its end.

use super::interrupt::Interrupt;
use crate::process;
use anyhow::{Context, ensure};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A program that takes longer is killed.
const LIMIT: Duration = Duration::from_secs(60);
/// Entries that the search for a program looks at.
const SEARCH: usize = 20_000;

/// What is run.
#[derive(Debug)]
pub struct Program {
    command: Command,
    /// Known to work, so that its failure is ours.
    must_succeed: bool,
}

/// When a program showed that it runs.
#[derive(Debug)]
pub struct FirstLine {
    /// Since the time that was given: until the first line, or the end without one.
    pub after: Duration,
    /// The line, without its end.
    pub line: Option<String>,
}

impl Program {
    /// The program that says most about the image mounted at `root`: the compiler of a toolchain, the shell of a root file
    /// system, the first other program, or a listing.
    pub fn choose(root: &Path) -> anyhow::Result<Self> {
        let compiler = root.join("bin/rustc");
        if is_program(&compiler) {
            return Ok(Self::of(Command::new(compiler), &["--version"], true));
        }
        let chrooted = |program: &str, arguments: &[&str]| {
            let mut command = Command::new("chroot");
            command.arg(root).arg(program);
            Self::of(command, arguments, true)
        };
        // Only root may change its root.
        if rustix::process::geteuid().is_root() {
            let shell = [
                "-c",
                "if [ -r /etc/os-release ]; then . /etc/os-release; fi; echo \"hello from ${PRETTY_NAME:-a shell}\"",
            ];
            let known: [(&str, &[&str]); 3] = [
                ("/bin/sh", &shell),
                ("/bin/busybox", &["echo", "hello from busybox"]),
                ("/usr/bin/true", &[]),
            ];
            let found = known.into_iter().find(|(program, _)| is_in_root(root, program));
            if let Some((program, arguments)) = found {
                return Ok(chrooted(program, arguments));
            }
        }
        Ok(match search(root)? {
            Some(program) => Self::of(Command::new(program), &["--version"], false),
            None => {
                let mut list = Command::new("ls");
                list.arg("-la");
                Self::of(list, &[&root.to_string_lossy()], true)
            }
        })
    }

    fn of(mut command: Command, arguments: &[&str], must_succeed: bool) -> Self {
        // Nothing of ours: cargo, for one, names the installed toolchain in LD_LIBRARY_PATH, and the libraries would come from there.
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        Self { command, must_succeed }
    }

    /// Program and arguments.
    pub fn name(&self) -> String {
        process::name(&self.command)
    }

    /// Runs the program, and `then` as soon as its first line is there. `since` is when the clock starts.
    pub fn first_line<T>(
        mut self,
        since: Instant,
        interrupt: &Interrupt,
        then: impl FnOnce() -> T,
    ) -> anyhow::Result<(FirstLine, T)> {
        let mut child = self.command.spawn().with_context(|| format!("cannot run {}", self.name()))?;
        let output = child.stdout.take().context("the program has no output")?;
        let deadline = Instant::now() + LIMIT;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            let read = output.read_until(b'\n', &mut line);
            let line = read
                .is_ok_and(|count| count > 0)
                .then(|| String::from_utf8_lossy(&line).trim_end().to_owned());
            // Where nobody waits any more, the program is dead.
            if sender.send((Instant::now(), line)).is_ok() {
                std::io::copy(&mut output.by_ref(), &mut std::io::sink()).unwrap_or_default();
            }
        });
        let (at, line) = loop {
            match lines.recv_timeout(super::interrupt::PAUSE) {
                Ok(first) => break first,
                Err(_)
                    if child.try_wait()?.is_none()
                        && Instant::now() < deadline
                        && interrupt.check().is_ok() => {}
                Err(_) => {
                    let status = interrupt
                        .wait(&mut child, Some(deadline))
                        .with_context(|| process::name(&self.command))?;
                    // Its last words may still be on their way.
                    break lines
                        .recv_timeout(Duration::from_secs(1))
                        .with_context(|| format!("no output: {status}"))?;
                }
            }
        };
        let noted = then();
        let status = interrupt.wait(&mut child, Some(deadline)).with_context(|| self.name())?;
        ensure!(status.success() || !self.must_succeed, "{} failed: {status}", self.name());
        Ok((FirstLine { after: at.saturating_duration_since(since), line }, noted))
    }
}

/// Is there an ELF executable at this path, links followed?
fn is_program(path: &Path) -> bool {
    let Ok(metadata) = std::fs::metadata(path) else { return false };
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return false;
    }
    let mut head = [0; 18];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut head));
    // 2: executable, 3: the same at any address; libraries are 3 too, but rarely executable by mode.
    read.is_ok() && head.starts_with(b"\x7fELF") && matches!(head[16], 2 | 3)
}

/// Is there a file at this absolute path of the file system with this root? Absolute links are followed within it.
fn is_in_root(root: &Path, path: &str) -> bool {
    let mut at = root.join(path.trim_start_matches('/'));
    for _ in 0..8 {
        match std::fs::read_link(&at) {
            Ok(target) if target.is_absolute() => at = root.join(target.strip_prefix("/").unwrap_or(&target)),
            Ok(target) => at = at.parent().unwrap_or(root).join(target),
            Err(_) => break,
        }
    }
    std::fs::metadata(at).is_ok_and(|metadata| metadata.is_file())
}

/// The first program below `root` in breadth-first order.
fn search(root: &Path) -> anyhow::Result<Option<PathBuf>> {
    let mut open = std::collections::VecDeque::from([root.to_path_buf()]);
    let mut seen = 0;
    while let Some(dir) = open.pop_front() {
        let mut entries: Vec<_> = dir.read_dir()?.collect::<Result<_, _>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            seen += 1;
            let kind = entry.file_type()?;
            let path = entry.path();
            let library = path.to_string_lossy().contains(".so");
            if kind.is_file() && !library && is_program(&path) {
                return Ok(Some(path));
            }
            if kind.is_dir() {
                open.push_back(path);
            }
            if seen > SEARCH {
                return Ok(None);
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, must_succeed: bool) -> anyhow::Result<(FirstLine, u32)> {
        let program = Program::of(Command::new("sh"), &["-c", script], must_succeed);
        program.first_line(Instant::now(), &Interrupt::catch().unwrap(), || 7)
    }

    #[test]
    fn the_first_line_is_what_counts() {
        let (first, noted) = run("echo one; sleep 0.2; echo two", true).unwrap();
        assert_eq!((first.line.as_deref(), noted), (Some("one"), 7));
        assert!(first.after < Duration::from_secs(10));
        assert_eq!(run("true", true).unwrap().0.line, None);
        assert_eq!(run("echo x; exit 1", false).unwrap().0.line.as_deref(), Some("x"));
        assert!(run("echo x; exit 1", true).is_err());
    }

    #[test]
    fn programs_are_found_by_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert!(search(root).unwrap().is_none());
        std::fs::create_dir_all(root.join("usr/bin")).unwrap();
        std::fs::write(root.join("usr/bin/script"), "#!/bin/sh\n").unwrap();
        std::fs::copy("/proc/self/exe", root.join("usr/bin/tool")).unwrap();
        std::os::unix::fs::symlink("usr/bin", root.join("bin")).unwrap();
        std::os::unix::fs::symlink("/bin/tool", root.join("usr/bin/link")).unwrap();
        assert_eq!(search(root).unwrap(), Some(root.join("usr/bin/tool")));
        for (path, there) in
            [("/bin/tool", true), ("/usr/bin/link", true), ("/bin/none", false), ("/usr/bin", false)]
        {
            assert_eq!(is_in_root(root, path), there, "{path}");
        }
    }

    #[test]
    fn an_image_without_programs_is_listed() {
        let dir = tempfile::tempdir().unwrap();
        let program = Program::choose(dir.path()).unwrap();
        assert!(program.name().starts_with("ls -la "), "{}", program.name());
    }
}
