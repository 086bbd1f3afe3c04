//! Running other programs: their failure is an error that names them.

use anyhow::{Context, ensure};
use std::fmt;
use std::process::Command;
use std::time::{Duration, Instant};

/// Runs `command` to its end, its output going where ours goes. Errors: it cannot be started, or fails.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", name(command)))?;
    ensure!(status.success(), "{} failed: {status}", name(command));
    Ok(())
}

/// What `command` prints. Errors: it cannot be started, fails, or prints what is not UTF-8.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let done = command.output().with_context(|| format!("cannot run {}", name(command)))?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{} failed: {}\n{said}", name(command), done.status);
    String::from_utf8(done.stdout).with_context(|| format!("{} did not print text", name(command)))
}

/// Is there a program of this name in `PATH`?
pub fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Program and arguments, for messages.
pub fn name(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Steps with a heading each, and how long they took.
#[derive(Debug, Default)]
pub struct Steps {
    taken: Vec<(String, Duration)>,
}

impl Steps {
    /// Prints `heading`, does `step` and notes its time.
    pub fn step<T>(
        &mut self,
        heading: impl fmt::Display,
        step: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let heading = heading.to_string();
        println!("==> {heading}");
        let start = Instant::now();
        let done = step().with_context(|| heading.clone())?;
        self.taken.push((heading, start.elapsed()));
        Ok(done)
    }

    /// Prints how long each step took.
    pub fn summary(&self) {
        let all: Duration = self.taken.iter().map(|(_, time)| *time).sum();
        println!("==> done in {:.1} s", all.as_secs_f64());
        for (heading, time) in &self.taken {
            println!("{:>8.1} s  {heading}", time.as_secs_f64());
        }
    }
}
