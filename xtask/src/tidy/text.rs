//! Rust and Markdown as text: headers, length, blanks at line ends, promises without an issue.

use super::{Files, Problem};

/// Lines that a file may have.
const MAX_LINES: usize = 1000;
/// The word that needs the number of an issue; in two parts, so that this file may name it.
const PROMISE: &str = concat!("TO", "DO");

pub fn check(files: &Files) -> Vec<Problem> {
    let rust = files.rust.iter().flat_map(|(name, text)| {
        let header =
            (!text.starts_with("//!")).then(|| (1, "starts without a `//!` module header".to_owned()));
        problems(name, lines(text).chain(header))
    });
    let markdown = files.markdown.iter().flat_map(|(name, text)| problems(name, lines(text)));
    rust.chain(markdown).collect()
}

fn problems<'a>(
    name: &'a str,
    found: impl Iterator<Item = (usize, String)> + 'a,
) -> impl Iterator<Item = Problem> + 'a {
    found.map(|(line, what)| Problem { file: name.to_owned(), line, what })
}

/// What is wrong with the lines of a file, each with its number.
fn lines(text: &str) -> impl Iterator<Item = (usize, String)> + '_ {
    let count = text.lines().count();
    let long = (count > MAX_LINES).then(|| (MAX_LINES + 1, format!("has {count} lines, over {MAX_LINES}")));
    let end =
        (!text.is_empty() && !text.ends_with('\n')).then(|| (count, "does not end its last line".to_owned()));
    let each = (1..).zip(text.lines()).flat_map(|(n, line)| {
        let blank = line.ends_with([' ', '\t', '\r']).then(|| (n, "ends with a blank".to_owned()));
        let tab = line.contains('\t').then(|| (n, "holds a tab".to_owned()));
        let open = is_open_promise(line)
            .then(|| (n, format!("has a {PROMISE} without an issue, as in {PROMISE}(#12)")));
        [blank, tab, open].into_iter().flatten()
    });
    long.into_iter().chain(end).chain(each)
}

/// Does the line hold the word, by itself, without `#` and a number behind it?
fn is_open_promise(line: &str) -> bool {
    line.match_indices(PROMISE).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + PROMISE.len()..]);
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let whole = !before.ends_with(word) && !after.starts_with(word);
        let numbered = after.split('#').skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        whole && !numbered
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(usize, String)> {
        lines(text).collect()
    }

    #[test]
    fn lines_are_told_by_number() {
        assert_eq!(found("a\nb\n"), []);
        assert_eq!(found(""), []);
        let numbers: Vec<_> = found("a \nb\n\tc\nd").into_iter().map(|(n, _)| n).collect();
        assert_eq!(numbers, [4, 1, 3]);
        assert_eq!(found(&"x\n".repeat(1001))[0].0, 1001);
    }

    #[test]
    fn promises_name_an_issue() {
        for (line, open) in
            [("// @: x", true), ("// @(#12): x", false), ("// @ #", true), ("@S", false), ("fn @_x", false)]
        {
            assert_eq!(is_open_promise(&line.replace('@', PROMISE)), open, "{line}");
        }
    }

    #[test]
    fn rust_files_start_with_a_header() {
        let file = |text: &str| ("a.rs".to_owned(), text.to_owned());
        let files = Files { rust: vec![file("//! X.\n"), file("mod x;\n")], markdown: Vec::new() };
        let all = check(&files);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].to_string(), "a.rs:1: starts without a `//!` module header");
    }
}
