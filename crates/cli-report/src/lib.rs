//! What both programs say to people: log lines in [`log`], and [`chain`], an error with its causes on one line.
//!
//! Knows no program and no other crate of the workspace. Invariant: whoever reads the log of one program can read that of
//! the other.
#![forbid(unsafe_code)]

pub mod log;

/// An error and its causes on one line, each said once: an error whose text already holds its cause does not repeat it.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = next.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn causes_are_said_once() {
        let inner = Layer { text: "no such file", source: None };
        let middle = Layer { text: "cannot read x: no such file", source: Some(Box::new(inner)) };
        let outer = Layer { text: "cannot start", source: Some(Box::new(middle)) };
        assert_eq!(chain(&outer), "cannot start: cannot read x: no such file");
    }
}
