//! The table of contents of an eStargz layer: JSON from outside, one entry at a time.
//!
//! Knows the JSON, no images. Entries go to a sink as they are read, so that memory grows with what is kept of them and not with the text. Source:
//! `estargz.md` of the stargz-snapshotter. The text is at most [`MAX_TOC`] bytes with at most [`MAX_ENTRIES`] entries.

use serde::Deserialize;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;

/// Longest table, in bytes: of a million entries with long names.
pub(super) const MAX_TOC: u64 = 512 << 20;
/// Entries in a table, a chunk being one.
pub(super) const MAX_ENTRIES: usize = 1 << 24;

/// One entry. Numbers that are not there are 0.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Entry {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub size: u64,
    pub modtime: String,
    pub link_name: String,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub dev_major: u32,
    pub dev_minor: u32,
    /// Values in base64.
    pub xattrs: BTreeMap<String, String>,
    /// Of the whole file.
    pub digest: String,
    /// Where the gzip member of the chunk starts in the layer.
    pub offset: u64,
    pub chunk_offset: u64,
    /// 0: as long as the file goes on.
    pub chunk_size: u64,
    pub chunk_digest: String,
    /// Where the chunk starts in the plain bytes of its member.
    pub inner_offset: u64,
}

/// Why a table was not read to its end.
pub(super) enum TocError<E> {
    /// It is no such table.
    Json(serde_json::Error),
    /// What the sink said.
    Sink(E),
}

/// Reads a table and hands each entry to `sink`. Errors: the first of the sink; text that is no table of version 1.
pub(super) fn read<E>(
    text: impl Read,
    sink: &mut dyn FnMut(Entry) -> Result<(), E>,
) -> Result<(), TocError<E>> {
    let mut failed = None;
    // A byte more than the limit, so that a text that is too long ends inside.
    let mut json = serde_json::Deserializer::from_reader(text.take(MAX_TOC + 1));
    let seed = Toc { sink: &mut |entry| sink(entry).map_err(|error| failed = Some(error)) };
    let read = seed.deserialize(&mut json).and_then(|()| json.end());
    match (failed, read) {
        (Some(error), _) => Err(TocError::Sink(error)),
        (None, Err(error)) => Err(TocError::Json(error)),
        (None, Ok(())) => Ok(()),
    }
}

type Sink<'a> = dyn FnMut(Entry) -> Result<(), ()> + 'a;

/// The outermost object.
struct Toc<'a> {
    sink: &'a mut Sink<'a>,
}

impl<'de> DeserializeSeed<'de> for Toc<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Toc<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the table of contents of an eStargz layer")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut version, mut entries) = (None, false);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "version" => version = Some(map.next_value::<u64>()?),
                "entries" if !entries => {
                    entries = true;
                    map.next_value_seed(Entries { sink: &mut *self.sink })?;
                }
                "entries" => return Err(A::Error::duplicate_field("entries")),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        match version {
            Some(1) if entries => Ok(()),
            Some(1) => Err(A::Error::missing_field("entries")),
            Some(other) => Err(A::Error::custom(format!("version {other}, expected 1"))),
            None => Err(A::Error::missing_field("version")),
        }
    }
}

/// The list of entries.
struct Entries<'a, 'b> {
    sink: &'a mut Sink<'b>,
}

impl<'de> DeserializeSeed<'de> for Entries<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut count = 0;
        while let Some(entry) = list.next_element::<Entry>()? {
            count += 1;
            if count > MAX_ENTRIES {
                return Err(A::Error::custom(format!("over {MAX_ENTRIES} entries")));
            }
            // The sink has said why.
            (self.sink)(entry).map_err(|()| A::Error::custom("an entry is refused"))?;
        }
        Ok(())
    }
}

/// Seconds since the epoch of `YYYY-MM-DDTHH:MM:SSZ`, perhaps with a fraction, which is dropped; 0 of nothing. `None`: another form.
pub(super) fn seconds(time: &str) -> Option<i64> {
    if time.is_empty() {
        return Some(0);
    }
    let time = time.strip_suffix('Z')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let (date, time) = time.split_once('T')?;
    let numbers = |text: &str, by: char| -> Option<[i64; 3]> {
        let digits = |part: &str| {
            (part.len() <= 4 && part.bytes().all(|byte| byte.is_ascii_digit())).then(|| part.parse().ok())?
        };
        let numbers: Vec<i64> = text.split(by).map(digits).collect::<Option<_>>()?;
        numbers.try_into().ok()
    };
    let ([year, month, day], [hour, minute, second]) = (numbers(date, '-')?, numbers(time, ':')?);
    let good = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second)
        && fraction.bytes().all(|byte| byte.is_ascii_digit());
    // Years that start in March have their leap day at the end; 719,468 days from there to 1970.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = year * 365 + leaps + (month * 153 + 2) / 5 + day - 1 - 719_468;
    good.then(|| days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of the entries, or what is wrong.
    fn names(text: &str) -> Result<Vec<String>, String> {
        let mut names = Vec::new();
        let read = read(text.as_bytes(), &mut |entry| {
            names.push(entry.name.clone());
            if entry.name == "bad" { Err("bad entry") } else { Ok(()) }
        });
        match read {
            Ok(()) => Ok(names),
            Err(TocError::Json(error)) => Err(error.to_string()),
            Err(TocError::Sink(error)) => Err(error.to_owned()),
        }
    }

    #[test]
    fn entries_come_one_by_one() {
        let text =
            r#"{"entries":[{"name":"a","type":"reg","size":1},{"name":"b","more":[1]}],"x":{},"version":1}"#;
        assert_eq!(names(text).unwrap(), ["a", "b"]);
        assert_eq!(names(r#"{"version":1,"entries":[]}"#).unwrap(), [] as [&str; 0]);
    }

    #[test]
    fn what_is_no_table_is_told() {
        let said = |text: &str| names(text).unwrap_err();
        assert!(said("").contains("EOF"));
        assert!(said("[]").contains("expected the table of contents"));
        assert!(said(r#"{"entries":[]}"#).contains("missing field `version`"));
        assert!(said(r#"{"version":2,"entries":[]}"#).contains("version 2, expected 1"));
        assert!(said(r#"{"version":1}"#).contains("missing field `entries`"));
        assert!(said(r#"{"version":1,"entries":[],"entries":[]}"#).contains("duplicate field"));
        assert!(said(r#"{"version":1,"entries":[{"size":-1}]}"#).contains("line 1 column"));
        assert!(said(r#"{"version":1,"entries":[]} x"#).contains("trailing characters"));
        assert_eq!(said(r#"{"version":1,"entries":[{"name":"bad"},{"size":"x"}]}"#), "bad entry");
    }

    /// Made by date(1).
    #[test]
    fn times_are_seconds() {
        assert_eq!(seconds(""), Some(0));
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("2000-02-29T12:30:59Z"), Some(951_827_459));
        assert_eq!(seconds("2023-11-14T22:13:20.5Z"), Some(1_700_000_000));
        assert_eq!(seconds("1969-12-31T23:59:59Z"), Some(-1));
        assert_eq!(seconds("0001-01-01T00:00:00Z"), Some(-62_135_596_800));
        for bad in
            ["x", "2000-02-29", "2000-13-01T00:00:00Z", "2000-01-01T00:00:00+01:00", "2000-01-01T24:00:00Z"]
        {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }
}
