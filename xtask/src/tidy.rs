//! `cargo xtask tidy`: what reviewers would otherwise say again and again. Reads files, changes none.
//!
//! Every check collects all that is wrong, each with file and line, and the chore fails once at the end.

mod deny;
mod manifests;
mod markdown;
mod text;

use anyhow::{Context, ensure};
use std::fmt;
use std::path::{Path, PathBuf};

/// Folders with Rust code.
const CODE: [&str; 4] = ["crates", "bins", "tests", "xtask"];

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Problem {
    /// Relative to the workspace.
    file: String,
    /// Counted from 1.
    line: usize,
    what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// Fails, naming all of them, on files that are not as this project wants them.
pub fn tidy() -> anyhow::Result<()> {
    let root = crate::workspace::root();
    let files = Files::read(&root)?;
    let mut problems = text::check(&files);
    problems.extend(markdown::check(&root, &files));
    problems.extend(manifests::check(&root)?);
    problems.extend(deny::check(&root)?);
    if !root.join("CHANGELOG.md").is_file() {
        problems.push(Problem { file: "CHANGELOG.md".into(), line: 1, what: "is missing".into() });
    }
    problems.sort();
    problems.iter().for_each(|problem| eprintln!("{problem}"));
    ensure!(problems.is_empty(), "tidy: {} problems", problems.len());
    println!("tidy: {} Rust and {} Markdown files are in order", files.rust.len(), files.markdown.len());
    Ok(())
}

/// Text files by kind, each with its path relative to the workspace.
struct Files {
    rust: Vec<(String, String)>,
    markdown: Vec<(String, String)>,
}

impl Files {
    fn read(root: &Path) -> anyhow::Result<Self> {
        let mut files = Self { rust: Vec::new(), markdown: Vec::new() };
        for path in walk(root)? {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            let extension = path.extension().unwrap_or_default();
            let list = if extension == "rs" && CODE.iter().any(|dir| Path::new(&name).starts_with(dir)) {
                &mut files.rust
            } else if extension == "md" {
                &mut files.markdown
            } else {
                continue;
            };
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {name}"))?;
            list.push((name, text));
        }
        Ok(files)
    }
}

/// All files below `root` in byte order but those of git and of builds.
fn walk(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(dir) = open.pop() {
        let entries = std::fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?;
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                let skip = entry.file_name() == ".git" || path.join("CACHEDIR.TAG").exists();
                open.extend((!skip).then_some(path));
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
