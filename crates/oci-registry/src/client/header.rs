//! Header fields that decide something, as values. Pure functions on text that a server wrote: whatever it is, they return, in time linear
//! in its length, and take no more memory than it.

use reqwest::Url;
use std::ops::Range;
use std::time::Duration;

/// Challenges at most that are looked at in one field, and parameters in one challenge.
const MAX_PARTS: usize = 32;

/// One way to authenticate that a server offers in `WWW-Authenticate` (RFC 9110, section 11.6.1).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Challenge {
    /// `basic`, `bearer`, ... in lower case.
    pub scheme: String,
    /// Names in lower case, and values without quotes, in the server's order.
    pub params: Vec<(String, String)>,
}

impl Challenge {
    /// The first parameter called `name`, in lower case.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The challenges of one `WWW-Authenticate` field. What cannot be understood ends the list; it holds what came before.
pub fn challenges(field: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = field;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = token(rest);
        if word.is_empty() || found.len() > MAX_PARTS {
            return found;
        }
        match after.trim_start_matches([' ', '\t']).strip_prefix('=').filter(|_| !found.is_empty()) {
            // `name=value` belongs to the challenge before it.
            Some(value) => {
                let Some((value, after)) = value_of(value.trim_start_matches([' ', '\t'])) else {
                    return found;
                };
                let Some(last) = found.last_mut().filter(|last| last.params.len() < MAX_PARTS) else {
                    return found;
                };
                last.params.push((word.to_ascii_lowercase(), value));
                rest = after;
            }
            None => {
                found.push(Challenge { scheme: word.to_ascii_lowercase(), params: Vec::new() });
                rest = after;
                // After a scheme comes a blank, a comma or nothing.
                if !rest.is_empty() && !rest.starts_with([' ', '\t', ',']) {
                    return found;
                }
            }
        }
    }
}

/// The token (RFC 9110, section 5.6.2) that `text` starts with, maybe empty, and the rest.
fn token(text: &str) -> (&str, &str) {
    let inside = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    text.split_at(text.find(|c| !inside(c)).unwrap_or(text.len()))
}

/// The token or quoted string that `text` starts with, and the rest. `None`: neither, or a quote that does not end.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (word, rest) = token(text);
        return (!word.is_empty()).then(|| (word.to_owned(), rest));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, quoted.get(at + 1..)?)),
            '\\' => value.push(chars.next()?.1),
            _ => value.push(c),
        }
    }
    None
}

/// What `Content-Range` says (RFC 9110, section 14.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentRange {
    /// Half-open, in bytes; `None` in answers that have no bytes (`*`).
    pub range: Option<Range<u64>>,
    /// Length of the whole, in bytes; `None` where the server does not say (`*`).
    pub size: Option<u64>,
}

/// Parses `Content-Range`. `None`: not of bytes, not numbers, an empty or reversed range, one past the size.
pub fn content_range(field: &str) -> Option<ContentRange> {
    let (unit, rest) = field.trim().split_once(' ')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (range, size) = rest.trim().split_once('/')?;
    let size = if size == "*" { None } else { Some(number(size)?) };
    let range = if range == "*" {
        None
    } else {
        let (first, last) = range.split_once('-')?;
        let (first, end) = (number(first)?, number(last)?.checked_add(1)?);
        Some(first..end).filter(|range| !range.is_empty() && size.is_none_or(|size| end <= size)).map(Some)?
    };
    Some(ContentRange { range, size })
}

/// Digits only: no sign, no blanks.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse().ok())?
}

/// `Retry-After` in seconds. Its other form, a date, is not understood and `None`: own pauses apply then.
pub fn retry_after(field: &str) -> Option<Duration> {
    number(field.trim()).map(Duration::from_secs)
}

/// How long `Cache-Control` allows to remember the answer; `None` where it does not say.
pub fn max_age(field: &str) -> Option<Duration> {
    let mut directives = field.split(',').map(|directive| directive.trim().to_ascii_lowercase());
    directives.find_map(|directive| match directive.as_str() {
        "no-store" | "no-cache" => Some(Duration::ZERO),
        other => other.strip_prefix("max-age=").and_then(number).map(Duration::from_secs),
    })
}

/// What `Range` says of an upload: `0-41`, maybe with a unit before it. Half-open, and from 0 on.
pub fn upload_range(field: &str) -> Option<Range<u64>> {
    let field = field.trim();
    let (first, last) = field.strip_prefix("bytes=").unwrap_or(field).split_once('-')?;
    (number(first)? == 0).then(|| Some(0..number(last)?.checked_add(1)?))?
}

/// Where `Location` leads from `at`: to a place that can be asked by http or https, or `None`.
pub fn location(at: &Url, field: &str) -> Option<Url> {
    at.join(field).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn challenge(scheme: &str, params: &[(&str, &str)]) -> Challenge {
        let params = params.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Challenge { scheme: scheme.to_owned(), params }
    }

    #[test]
    fn challenges_are_found() {
        let docker = r#"Bearer realm="https://a.io/token",service="r.io",scope="repository:a/b:pull,push""#;
        let all =
            [("realm", "https://a.io/token"), ("service", "r.io"), ("scope", "repository:a/b:pull,push")];
        for (field, expected) in [
            ("", vec![]),
            (docker, vec![challenge("bearer", &all)]),
            (r#"Basic realm="a \"b\" c""#, vec![challenge("basic", &[("realm", "a \"b\" c")])]),
            (
                r#"Negotiate, BASIC Realm=x , , Bearer  realm = "y" "#,
                vec![
                    challenge("negotiate", &[]),
                    challenge("basic", &[("realm", "x")]),
                    challenge("bearer", &[("realm", "y")]),
                ],
            ),
            (r#"Bearer realm="no end"#, vec![challenge("bearer", &[])]),
            (r#"Bearer realm="x\"#, vec![challenge("bearer", &[])]),
            ("Bearer realm=", vec![challenge("bearer", &[])]),
            ("Negotiate dG9rZW4==", vec![challenge("negotiate", &[])]),
            ("=x", vec![]),
            ("Basic/1 realm=x", vec![challenge("basic", &[])]),
        ] {
            assert_eq!(challenges(field), expected, "{field}");
        }
        assert!(challenges(&"a ".repeat(10_000)).len() <= MAX_PARTS + 1);
        let long = format!("a {}", "b=c,".repeat(10_000));
        assert!(challenges(&long).iter().all(|one| one.params.len() <= MAX_PARTS));
    }

    #[test]
    fn content_ranges_are_exact() {
        let of = |range, size| Some(ContentRange { range, size });
        for (field, expected) in [
            ("bytes 0-0/1", of(Some(0..1), Some(1))),
            ("Bytes 5-9/10", of(Some(5..10), Some(10))),
            ("bytes 5-9/*", of(Some(5..10), None)),
            ("bytes */7", of(None, Some(7))),
            ("bytes 5-9/9", None),
            ("bytes 9-5/10", None),
            ("bytes +1-2/3", None),
            ("bytes 1 -2/3", None),
            ("bytes -2/3", None),
            ("items 0-0/1", None),
            ("bytes 0-0", None),
            ("bytes=0-0/1", None),
            ("bytes 0-18446744073709551615/*", None),
            ("bytes 0-18446744073709551616/*", None),
            ("", None),
        ] {
            assert_eq!(content_range(field), expected, "{field}");
        }
    }

    #[test]
    fn ranges_of_uploads_begin_at_the_start() {
        for (field, expected) in [
            ("0-41", Some(0..42)),
            (" bytes=0-0", Some(0..1)),
            ("1-4", None),
            ("0-", None),
            ("0", None),
            ("-1", None),
            ("0-+1", None),
            ("0-18446744073709551615", None),
        ] {
            assert_eq!(upload_range(field), expected, "{field}");
        }
    }

    #[test]
    fn locations_are_places_that_can_be_asked() {
        let at = Url::parse("https://r.io/v2/a/blobs/x").unwrap();
        for (field, expected) in [
            ("/y?z", Some("https://r.io/y?z")),
            ("y", Some("https://r.io/v2/a/blobs/y")),
            ("//s.io/y", Some("https://s.io/y")),
            ("http://s.io", Some("http://s.io/")),
            ("file:///etc/passwd", None),
            ("data:,x", None),
            ("https://", None),
        ] {
            assert_eq!(location(&at, field).as_ref().map(Url::as_str), expected, "{field}");
        }
    }

    #[test]
    fn times_are_seconds() {
        assert_eq!(retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), None);
        assert_eq!(retry_after("-1"), None);
        assert_eq!(max_age("public, Max-Age=60"), Some(Duration::from_secs(60)));
        assert_eq!(max_age("no-store, max-age=60"), Some(Duration::ZERO));
        assert_eq!(max_age("public"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in r#"[a-c="\\, \t0-9/*-]{0,40}|\PC{0,40}"#) {
            for one in challenges(&text) {
                prop_assert!(!one.scheme.is_empty());
            }
            if let Some(ContentRange { range: Some(range), size }) = content_range(&text) {
                prop_assert!(range.start < range.end && size.is_none_or(|size| range.end <= size));
            }
            let _answered = (retry_after(&text), max_age(&text));
        }

        #[test]
        fn ranges_come_back(first in 0u64..1000, size in 1u64..1000, more in 0u64..1000) {
            let end = first + size;
            let field = format!("bytes {first}-{}/{}", end - 1, end + more);
            let expected = ContentRange { range: Some(first..end), size: Some(end + more) };
            prop_assert_eq!(content_range(&field), Some(expected));
        }
    }
}
