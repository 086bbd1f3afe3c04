//! Links: those between Markdown files, and those from Rust comments to sections of `docs/`. Knows nothing of the web.

use super::{Files, Problem};
use std::path::{Path, PathBuf};

pub fn check(root: &Path, files: &Files) -> Vec<Problem> {
    let links = files.markdown.iter().flat_map(|(name, text)| {
        let dir = root.join(name).parent().map(Path::to_path_buf).unwrap_or_default();
        let own = root.join(name);
        links(text).into_iter().filter_map(move |(line, target)| {
            let what = dead(&own, &dir, &target)?;
            Some(Problem { file: name.clone(), line, what })
        })
    });
    let references = files.rust.iter().flat_map(|(name, text)| {
        references(text).into_iter().filter_map(move |(line, document, section)| {
            let what = missing(root, &document, section.as_deref())?;
            Some(Problem { file: name.clone(), line, what })
        })
    });
    links.chain(references).collect()
}

/// Lines outside fenced code, numbered, code spans emptied.
fn prose(text: &str) -> impl Iterator<Item = (usize, String)> + '_ {
    let mut fenced = false;
    (1..).zip(text.lines()).filter_map(move |(n, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        let outside: Vec<_> = line.split('`').step_by(2).collect();
        (!fenced && !fence).then(|| (n, outside.join("``")))
    })
}

/// Targets of links with their line.
fn links(text: &str) -> Vec<(usize, String)> {
    let of_line = |(n, line): (usize, String)| {
        let targets: Vec<_> =
            line.split("](").skip(1).filter_map(|rest| rest.split(')').next().map(str::to_owned)).collect();
        targets.into_iter().map(move |target| (n, target))
    };
    prose(text).flat_map(of_line).collect()
}

/// Why a link from the file `own` in `dir` leads nowhere; `None` when it leads somewhere or to the web.
fn dead(own: &Path, dir: &Path, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    let path = if path.is_empty() { own.to_path_buf() } else { dir.join(path) };
    if !path.exists() {
        return Some(format!("links to {target}, which does not exist"));
    }
    let anchor = anchor?;
    let known = headings(&path).iter().any(|heading| slug(heading) == anchor);
    (!known).then(|| format!("links to {target}, but there is no such heading"))
}

/// Headings of a Markdown file, without their marks; none where it cannot be read.
fn headings(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut fenced = false;
    let outside = text.lines().filter(|line| {
        let fence = line.starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    let marked = outside
        .filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')));
    marked.map(|heading| heading.trim().to_owned()).collect()
}

/// What a heading is called in a link.
fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// References of comments to documents, with the section that follows in quotes, if one does.
fn references(text: &str) -> Vec<(usize, PathBuf, Option<String>)> {
    let of_line = |(n, line): (usize, &str)| {
        let comment = line.trim_start().strip_prefix("//").unwrap_or_default();
        let all: Vec<_> =
            comment.match_indices("docs/").filter_map(|(at, _)| reference(&comment[at..])).collect();
        all.into_iter().map(move |(document, section)| (n, document, section))
    };
    (1..).zip(text.lines()).flat_map(of_line).collect()
}

/// The reference that `text` starts with.
fn reference(text: &str) -> Option<(PathBuf, Option<String>)> {
    let (stem, behind) = text.split_once(".md")?;
    let plain = stem.chars().all(|c| c.is_alphanumeric() || matches!(c, '/' | '-' | '_'));
    let quoted = behind.trim_start_matches([',', ':', ' ']).strip_prefix('"');
    let section = quoted
        .and_then(|rest| rest.split_once('"'))
        .map(|(section, _)| section.trim_end_matches('.').to_owned());
    plain.then(|| (PathBuf::from(format!("{stem}.md")), section))
}

fn missing(root: &Path, document: &Path, section: Option<&str>) -> Option<String> {
    let path = root.join(document);
    if !path.is_file() {
        return Some(format!("names {}, which does not exist", document.display()));
    }
    let section = section?;
    let known = headings(&path).iter().any(|heading| heading == section);
    (!known).then(|| format!("names the section {section:?} of {}, which does not exist", document.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_outside_code_are_found() {
        let text = "[a](b.md) and [c](d#e)\n```\n[no](no)\n```\n`[no](no)` [x](y)\n";
        let found: Vec<_> = links(text);
        let expected = [(1, "b.md"), (1, "d#e"), (5, "y")].map(|(n, target)| (n, target.to_owned()));
        assert_eq!(found, expected);
    }

    #[test]
    fn dead_links_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("a.md");
        std::fs::write(&own, "# One, two\n```\n# no\n```\n").unwrap();
        let dead = |target| dead(&own, dir.path(), target);
        for good in ["a.md", "#one-two", "a.md#one-two", "https://x.org/y", "."] {
            assert_eq!(dead(good), None, "{good}");
        }
        for bad in ["b.md", "#no", "a.md#three"] {
            assert!(dead(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn references_take_their_section_along() {
        let text = "/// X. docs/a.md, \"Some words\".\nlet x = \"docs/b.md\"; // no comment line\n//! (docs/c-d.md)\n// docs/ here\n";
        let found = references(text);
        let expected =
            [(1, "docs/a.md".into(), Some("Some words".to_owned())), (3, "docs/c-d.md".into(), None)];
        assert_eq!(found, expected);
    }
}
