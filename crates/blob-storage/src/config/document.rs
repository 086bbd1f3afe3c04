//! Text to a tree of values: reads the file, finds out format and version, and hands the outermost object to a reader.
//! Errors of a document are about the one format it is taken for.

use super::{ConfigError, FieldError, Object, Unknown};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Longest document read, in bytes.
const MAX_SIZE: u64 = 1 << 20;

/// Which of the two schemas a document follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `device` and `mode`, as integrators send it.
    V1,
    /// `version = 2`.
    V2,
}

/// A configuration whose syntax and version are known, and nothing else yet.
#[derive(Debug)]
pub struct Document {
    origin: PathBuf,
    version: Version,
    top: Map<String, Value>,
}

impl Document {
    /// Reads the file at `path`: UTF-8, at most 1 MiB.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Read { origin: path.to_path_buf(), source };
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(failed)?;
        check_size(bytes.len(), path)?;
        let text = String::from_utf8(bytes).map_err(|error| ConfigError::NotText {
            origin: path.to_path_buf(),
            source: error.utf8_error(),
        })?;
        Self::parse(&text, path)
    }

    /// Takes `text` apart: JSON when it starts with `{`, else TOML; version 2 when it has `version`, else version 1 when it
    /// has `device`. `origin` names it in messages.
    pub fn parse(text: &str, origin: &Path) -> Result<Self, ConfigError> {
        let origin = origin.to_path_buf();
        check_size(text.len(), &origin)?;
        if text.trim().is_empty() {
            return Err(ConfigError::Empty { origin });
        }
        let top = tree(text, &origin)?;
        let given = |name| top.get(name).filter(|value| !value.is_null());
        let version = match (given("version"), given("device")) {
            (Some(version), _) if version.as_u64() == Some(2) => Version::V2,
            (Some(other), _) => return Err(unsupported(origin, other)),
            (None, Some(_)) => Version::V1,
            (None, None) => return Err(ConfigError::NoVersion { origin }),
        };
        Ok(Self { origin, version, top })
    }

    /// What `read` makes of the outermost object, and the fields nobody asked for.
    pub fn read<T>(
        self,
        read: impl FnOnce(Version, &mut Object) -> Result<T, FieldError>,
    ) -> Result<(T, Vec<Unknown>), ConfigError> {
        let mut top = Object::new(String::new(), self.top);
        // Looked at above.
        top.ignore(&["version"]);
        match read(self.version, &mut top) {
            Ok(value) => Ok((value, top.finish())),
            Err(field) => Err(ConfigError::Field { origin: self.origin, field }),
        }
    }
}

fn check_size(size: usize, origin: &Path) -> Result<(), ConfigError> {
    match u64::try_from(size) {
        Ok(size) if size <= MAX_SIZE => Ok(()),
        _ => Err(ConfigError::TooLong { origin: origin.to_path_buf(), limit: MAX_SIZE }),
    }
}

fn unsupported(origin: PathBuf, version: &Value) -> ConfigError {
    let found = Some(super::object::shown(version));
    let field = FieldError { path: "version".to_owned(), found, expected: "2".to_owned() };
    ConfigError::Field { origin, field }
}

/// The outermost object of `text`.
fn tree(text: &str, origin: &Path) -> Result<Map<String, Value>, ConfigError> {
    let origin = || origin.to_path_buf();
    let tree = if text.trim_start().starts_with('{') {
        serde_json::from_str::<Tree>(text).map_err(|source| ConfigError::Json { origin: origin(), source })?
    } else {
        toml::from_str::<Tree>(text).map_err(|error| {
            let (line, column) = position(text, error.span().map_or(0, |span| span.start));
            let problem = error.message().replace('\n', ", ");
            ConfigError::Toml { origin: origin(), line, column, problem }
        })?
    };
    match tree.0 {
        Value::Object(top) => Ok(top),
        // Neither format has anything but an object outermost, as JSON starts with `{` here.
        _ => Ok(Map::new()),
    }
}

/// Line and column, both from 1, of the byte `at` in `text`.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

/// A JSON or TOML value in which no name is given twice and all numbers are finite. `serde_json`'s own reader would keep the
/// last of two fields and drop the other unseen.
struct Tree(Value);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(TreeVisitor).map(Self)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number that is not finite"))?;
        Ok(Value::Number(number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Tree(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Tree(value))) = fields.next_entry::<String, Tree>()? {
            if object.contains_key(&name) {
                return Err(A::Error::custom(format_args!("field `{}` is given twice", name.escape_debug())));
            }
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}
