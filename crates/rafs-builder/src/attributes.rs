//! The list of files whose data is elsewhere: what `--attributes` names, parsed and held against the size of chunks.
//!
//! One file a line, in the manner of gitattributes: a path and then `key=value` several times. Knows text only: neither the directory nor blobs. Every
//! error names the line and the key.

use rafs_format::BlobId;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Longest list: enough for the checksums of 20 TiB in chunks of 1 MiB.
const MAX_TEXT: u64 = 256 << 20;

/// Why a list cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum AttributesError {
    #[error("cannot read it")]
    Read(#[from] io::Error),
    #[error("it has over {MAX_TEXT} bytes")]
    TooLong,
    #[error("line {line}: {problem}")]
    Line { line: usize, problem: String },
    #[error("line {line}: failed to parse {key}: {problem}")]
    Key { line: usize, key: String, problem: String },
}

/// Where the data of one file lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalFile {
    /// The line that says so, from 1.
    pub line: usize,
    /// Size of the file, where the list names it.
    pub size: Option<u64>,
    /// Position of the blob in the list of blobs.
    pub blob: u32,
    /// Where the data starts in the blob; it ends `size` bytes further.
    pub offset: u64,
    /// CRC-32C of each chunk.
    pub crcs: Vec<u32>,
}

/// Files whose data is elsewhere, and the blobs that hold it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExternalFiles {
    /// By path, without `/` in front.
    pub files: BTreeMap<Vec<u8>, ExternalFile>,
    /// Ids and sizes by `blob_index`.
    pub blobs: BTreeMap<u32, (BlobId, u64)>,
}

impl ExternalFiles {
    /// Reads a list for an image with chunks of `chunk_size` bytes.
    pub fn read(path: &Path, chunk_size: u32) -> Result<Self, AttributesError> {
        let mut text = Vec::new();
        File::open(path)?.take(MAX_TEXT + 1).read_to_end(&mut text)?;
        if text.len() as u64 > MAX_TEXT {
            return Err(AttributesError::TooLong);
        }
        Self::parse(&text, chunk_size)
    }

    /// Parses a list. Empty lines and those that start with `#` say nothing.
    pub fn parse(text: &[u8], chunk_size: u32) -> Result<Self, AttributesError> {
        let mut all = Self::default();
        for (line, number) in text.split(|&byte| byte == b'\n').zip(1..) {
            let line = line.trim_ascii();
            if !line.is_empty() && !line.starts_with(b"#") {
                all.add(&Line::new(line, number)?, chunk_size)?;
            }
        }
        all.blobs_are_distinct()?;
        Ok(all)
    }

    fn add(&mut self, line: &Line<'_>, chunk_size: u32) -> Result<(), AttributesError> {
        line.exactly("type", "external")?;
        let size = line.optional("file_size", decimal)?;
        let index = line.get("blob_index", |text| u32::try_from(decimal(text)?).ok())?;
        let id = line.get("blob_id", |text| BlobId::new(text).ok().filter(|_| text.len() == 64))?;
        let chunks = line.get("chunk_size", human)?;
        if chunks != u64::from(chunk_size) {
            let problem = format!("it is {chunks:#x}, and --chunk-size of this image is {chunk_size:#x}");
            return Err(line.wrong("chunk_size", problem));
        }
        let offset = line.get("chunk_0_compressed_offset", decimal)?;
        let blob_size = line.get("compressed_size", decimal)?;
        let crcs = line.get("crcs", checksums)?;
        let known = self.blobs.entry(index).or_insert_with(|| (id.clone(), blob_size));
        if known.0 != id {
            return Err(line.wrong("blob_id", format!("it is {id}, and blob {index} was {}", known.0)));
        }
        if known.1 != blob_size {
            let problem = format!("it is {blob_size}, and that of blob {index} was {}", known.1);
            return Err(line.wrong("compressed_size", problem));
        }
        let file = ExternalFile { line: line.number, size, blob: index, offset, crcs };
        match self.files.insert(line.path.clone(), file) {
            None => Ok(()),
            Some(before) => Err(line.bad(format!("its path is that of line {}", before.line))),
        }
    }

    /// Refuses a blob with two numbers: it would stand twice in the image.
    fn blobs_are_distinct(&self) -> Result<(), AttributesError> {
        let mut seen = HashMap::new();
        for (index, (id, _)) in &self.blobs {
            if let Some(other) = seen.insert(id, index) {
                let line = self.files.values().filter(|file| file.blob == *index).map(|file| file.line).min();
                let problem = format!("blob {id} is number {other} and number {index}");
                let key = "blob_index".to_owned();
                return Err(AttributesError::Key { line: line.unwrap_or(0), key, problem });
            }
        }
        Ok(())
    }
}

/// One line, its values by key.
struct Line<'a> {
    number: usize,
    path: Vec<u8>,
    values: HashMap<&'a str, &'a str>,
}

impl<'a> Line<'a> {
    fn new(text: &'a [u8], number: usize) -> Result<Self, AttributesError> {
        let bad = |problem: String| AttributesError::Line { line: number, problem };
        let mut words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let path = path(words.next().unwrap_or(b"")).map_err(|problem| bad(problem.to_owned()))?;
        let mut values = HashMap::new();
        for word in words {
            let pair = std::str::from_utf8(word).ok().and_then(|word| word.split_once('='));
            let Some((key, value)) = pair else {
                let word = String::from_utf8_lossy(word);
                return Err(bad(format!("{word:?} is not key=value")));
            };
            if values.insert(key, value).is_some() {
                return Err(bad(format!("it has {key} twice")));
            }
        }
        Ok(Self { number, path, values })
    }

    fn bad(&self, problem: String) -> AttributesError {
        AttributesError::Line { line: self.number, problem }
    }

    fn wrong(&self, key: &str, problem: String) -> AttributesError {
        AttributesError::Key { line: self.number, key: key.to_owned(), problem }
    }

    /// The value of `key`, which must be there.
    fn get<T>(&self, key: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, AttributesError> {
        match self.optional(key, parse)? {
            Some(value) => Ok(value),
            None => Err(self.wrong(key, "it is not there".to_owned())),
        }
    }

    fn optional<T>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, AttributesError> {
        let Some(text) = self.values.get(key) else { return Ok(None) };
        match parse(text) {
            Some(value) => Ok(Some(value)),
            None => Err(self.wrong(key, format!("{text:?} is not {}", form(key)))),
        }
    }

    /// A misspelt type would put what stands in for a file into the image, as its data.
    fn exactly(&self, key: &str, expected: &str) -> Result<(), AttributesError> {
        match self.values.get(key) {
            Some(found) if *found == expected => Ok(()),
            Some(found) => Err(self.wrong(key, format!("{found:?} is not {expected:?}"))),
            None => Err(self.wrong(key, "it is not there".to_owned())),
        }
    }
}

/// What the value of a key must be.
fn form(key: &str) -> &'static str {
    match key {
        "blob_id" => "an id of 64 characters",
        "blob_index" => "a number of 32 bits",
        "chunk_size" => "a size in bytes, or like 4MiB",
        "crcs" => "a list of hexadecimal numbers of 32 bits with commas between",
        _ => "a number",
    }
}

/// A path from the root, without `/` in front and empty names between.
fn path(text: &[u8]) -> Result<Vec<u8>, &'static str> {
    if text.starts_with(b"\"") {
        return Err("its path is in quotes, which are not understood");
    }
    let names: Vec<&[u8]> = crate::create::names(text).collect();
    if names.is_empty() || names.iter().any(|name| *name == b".." || name.contains(&0)) {
        return Err("its path is empty, has `..` or NUL in it, or is the root");
    }
    Ok(names.join(&b'/'))
}

/// Digits and nothing else.
fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// A number of bytes, KiB, MiB or GiB; the units may be short, and are powers of 1024 in any form.
fn human(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return None,
    };
    decimal(number)?.checked_mul(factor)
}

/// Numbers in hexadecimal, with or without `0x`; nothing for an empty file.
fn checksums(text: &str) -> Option<Vec<u32>> {
    let number = |text: &str| {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        // A sign would be taken for a part of the number.
        digits
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit())
            .then(|| u32::from_str_radix(digits, 16).ok())
            .flatten()
    };
    if text.is_empty() { Some(Vec::new()) } else { text.split(',').map(number).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee";

    fn line() -> String {
        format!(
            "m/w type=external file_size=5 blob_index=0 blob_id={ID} chunk_size=1MiB \
             chunk_0_compressed_offset=512 compressed_size=1000 crcs=0xAb,1"
        )
    }

    fn parse(text: &str) -> Result<ExternalFiles, String> {
        ExternalFiles::parse(text.as_bytes(), 1 << 20).map_err(|error| error.to_string())
    }

    #[test]
    fn lines_say_where_data_is() {
        let all = parse(&format!("# models\n\n/{}\r\n", line())).unwrap();
        let file = ExternalFile { line: 3, size: Some(5), blob: 0, offset: 512, crcs: vec![0xAB, 1] };
        assert_eq!(all.files, BTreeMap::from([(b"m/w".to_vec(), file)]));
        assert_eq!(all.blobs, BTreeMap::from([(0, (BlobId::new(ID).unwrap(), 1000))]));
        assert_eq!(parse(&line().replace(" file_size=5", "")).unwrap().files[&b"m/w"[..]].size, None);
        assert_eq!(parse("").unwrap(), ExternalFiles::default());
    }

    #[test]
    fn each_key_that_is_missing_or_wrong_is_named_with_its_line() {
        let keys = [
            "type",
            "blob_index",
            "blob_id",
            "chunk_size",
            "chunk_0_compressed_offset",
            "compressed_size",
            "crcs",
        ];
        for key in keys {
            let gone = line().replace(&format!(" {key}="), " other=");
            let expected = format!("line 2: failed to parse {key}: it is not there");
            assert_eq!(parse(&format!("\n{gone}")), Err(expected));
            let wrong = line().replace(&format!(" {key}="), &format!(" {key}=+"));
            let error = parse(&wrong).unwrap_err();
            assert!(error.starts_with(&format!("line 1: failed to parse {key}: \"+")), "{error}");
        }
    }

    #[test]
    fn lines_that_contradict_are_refused() {
        let second =
            |from: &str, to: &str| format!("{}\n{}", line(), line().replace("m/w", "x").replace(from, to));
        let cases = [
            (second("m/w", "m/w").replace("\nx ", "\n//m/./w "), "line 2: its path is that of line 1"),
            (second(ID, &"d".repeat(64)), "line 2: failed to parse blob_id"),
            (second("=1000", "=1001"), "line 2: failed to parse compressed_size"),
            (second("blob_index=0", "blob_index=1"), "line 2: failed to parse blob_index"),
            (line().replace("1MiB", "4MiB"), "line 1: failed to parse chunk_size: it is 0x400000, and"),
            (line().replace("1MiB", "18446744073709551615G"), "line 1: failed to parse chunk_size"),
            (line().replace(ID, "e"), "line 1: failed to parse blob_id"),
            (line() + " crcs=1", "line 1: it has crcs twice"),
            (line() + " word", "line 1: \"word\" is not key=value"),
            (line().replace("m/w", "m/../w"), "line 1: its path"),
            (line().replace("m/w", "/"), "line 1: its path"),
            (line().replace("m/w", "\"m/w\""), "line 1: its path is in quotes"),
        ];
        for (text, expected) in cases {
            let error = parse(&text).unwrap_err();
            assert!(error.starts_with(expected), "{error}\n{expected}");
        }
    }
}
