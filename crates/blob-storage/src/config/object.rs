//! An object of a document, taken apart field by field.
//!
//! Reading a field is what makes it known: whatever is left when the reader is done is reported as unknown, with the nearest
//! of the names that were asked for. So no list of names stands beside the code that reads them. A `null` is a field that is
//! not there. The first wrong field ends the reading.

use super::{FieldError, Unknown};
use serde_json::{Map, Value};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Most characters of a value shown in a message.
const MAX_SHOWN: usize = 60;

/// A value without fields.
pub trait Leaf: Sized {
    /// What it must be, as in "expected …".
    const EXPECTED: &'static str;

    /// The value, if it is what it must be.
    fn from_value(value: &Value) -> Option<Self>;

    /// A wrong value as a message may show it.
    fn show(value: &Value) -> String {
        shown(value)
    }
}

impl Leaf for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_value(value: &Value) -> Option<Self> {
        value.as_bool()
    }
}

impl Leaf for String {
    const EXPECTED: &'static str = "a string";

    fn from_value(value: &Value) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
}

impl Leaf for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn from_value(value: &Value) -> Option<Self> {
        value.as_str().filter(|path| !path.is_empty() && !path.contains('\0')).map(Self::from)
    }
}

impl Leaf for Map<String, Value> {
    const EXPECTED: &'static str = "an object";

    fn from_value(value: &Value) -> Option<Self> {
        value.as_object().cloned()
    }

    fn show(value: &Value) -> String {
        kind(value).to_owned()
    }
}

/// An object whose fields are being read.
#[derive(Debug)]
pub struct Object {
    /// Names from the outermost object to this one; empty for the outermost.
    path: String,
    /// Fields not asked for yet.
    fields: Map<String, Value>,
    /// Names asked for.
    known: Vec<&'static str>,
    /// Unknown fields of objects inside this one.
    unknown: Vec<Unknown>,
}

impl Object {
    pub(super) fn new(path: String, fields: Map<String, Value>) -> Self {
        Self { path, fields, known: Vec::new(), unknown: Vec::new() }
    }

    /// The field `name`, if it is there.
    pub fn optional<T: Leaf>(&mut self, name: &'static str) -> Result<Option<T>, FieldError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        leaf(&value, || self.path_of(name)).map(Some)
    }

    /// The field `name`, which must be there.
    pub fn required<T: Leaf>(&mut self, name: &'static str) -> Result<T, FieldError> {
        self.optional(name)?.ok_or_else(|| self.missing(name, T::EXPECTED))
    }

    /// The field `name`, or `default` where it is not there.
    pub fn or<T: Leaf>(&mut self, name: &'static str, default: T) -> Result<T, FieldError> {
        Ok(self.optional(name)?.unwrap_or(default))
    }

    /// A string that must be there and not be empty.
    pub fn text(&mut self, name: &'static str) -> Result<String, FieldError> {
        let text: String = self.required(name)?;
        if text.is_empty() { Err(self.wrong(name, "\"\"", "a string that is not empty")) } else { Ok(text) }
    }

    /// The field `name`; `None` where it is not there or an empty string.
    pub fn filled<T: Leaf>(&mut self, name: &'static str) -> Result<Option<T>, FieldError> {
        if self.fields.get(name).and_then(Value::as_str) == Some("") {
            self.ignore(&[name]);
        }
        self.optional(name)
    }

    /// A list whose items are `T`; empty where it is not there.
    pub fn list<T: Leaf>(&mut self, name: &'static str) -> Result<Vec<T>, FieldError> {
        let items = match self.take(name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(other) => return Err(self.wrong(name, shown(&other), "a list")),
        };
        let path = self.path_of(name);
        items.iter().enumerate().map(|(index, item)| leaf(item, || format!("{path}[{index}]"))).collect()
    }

    /// What `read` makes of each object of a list; empty where it is not there.
    pub fn objects<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&mut Self) -> Result<T, FieldError>,
    ) -> Result<Vec<T>, FieldError> {
        let items: Vec<Map<String, Value>> = self.list(name)?;
        let mut found = Vec::new();
        for (index, fields) in items.into_iter().enumerate() {
            let mut object = Self::new(format!("{}[{index}]", self.path_of(name)), fields);
            found.push(read(&mut object)?);
            self.unknown.extend(object.finish());
        }
        Ok(found)
    }

    /// Names, whatever they are, and values of the object `name`; empty where it is not there.
    pub fn pairs<T: Leaf>(&mut self, name: &'static str) -> Result<Vec<(String, T)>, FieldError> {
        let fields: Map<String, Value> = self.or(name, Map::new())?;
        let path = self.path_of(name);
        let pair = |(key, value): (String, Value)| {
            let value = leaf(&value, || join(&path, &key.escape_debug().to_string()))?;
            Ok((key, value))
        };
        fields.into_iter().map(pair).collect()
    }

    /// A whole number in `range`, or `default` where it is not there.
    pub fn number<N>(
        &mut self,
        name: &'static str,
        default: N,
        range: RangeInclusive<N>,
    ) -> Result<N, FieldError>
    where
        N: TryFrom<u64> + PartialOrd + Display,
    {
        let Some(value) = self.take(name) else { return Ok(default) };
        let number = value.as_u64().and_then(|number| N::try_from(number).ok());
        number.filter(|number| range.contains(number)).ok_or_else(|| {
            let expected = format!("a whole number from {} to {}", range.start(), range.end());
            self.wrong(name, shown(&value), expected)
        })
    }

    /// A number of seconds that fits 32 bits, or `default` of them where it is not there.
    pub fn seconds(&mut self, name: &'static str, default: u32) -> Result<Duration, FieldError> {
        Ok(Duration::from_secs(self.number(name, default, 0..=u32::MAX)?.into()))
    }

    /// What `read` makes of the object `name`, if it is there.
    pub fn object<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, FieldError>,
    ) -> Result<Option<T>, FieldError> {
        let mut object = match self.take(name) {
            None => return Ok(None),
            Some(Value::Object(fields)) => Self::new(self.path_of(name), fields),
            Some(other) => return Err(self.wrong(name, kind(&other), "an object")),
        };
        let value = read(&mut object)?;
        self.unknown.extend(object.finish());
        Ok(Some(value))
    }

    /// What `read` makes of the object `name`, which must be there.
    pub fn required_object<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, FieldError>,
    ) -> Result<T, FieldError> {
        self.object(name, read)?.ok_or_else(|| self.missing(name, "an object"))
    }

    /// Makes `names` known without looking at them.
    pub fn ignore(&mut self, names: &[&'static str]) {
        for name in names {
            let _unused = self.take(name);
        }
    }

    /// The error that `name` is `found`.
    pub fn wrong(
        &self,
        name: &'static str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> FieldError {
        FieldError { path: self.path_of(name), found: Some(found.into()), expected: expected.into() }
    }

    /// The error that `name` is not there.
    pub fn missing(&self, name: &'static str, expected: impl Into<String>) -> FieldError {
        FieldError { path: self.path_of(name), found: None, expected: expected.into() }
    }

    /// Fields that nobody asked for, here and further in, sorted by name in each object.
    pub(super) fn finish(mut self) -> Vec<Unknown> {
        for name in self.fields.keys() {
            let path = join(&self.path, &name.escape_debug().to_string());
            self.unknown.push(Unknown { path, suggestion: nearest(name, &self.known) });
        }
        self.unknown
    }

    fn take(&mut self, name: &'static str) -> Option<Value> {
        if !self.known.contains(&name) {
            self.known.push(name);
        }
        self.fields.remove(name).filter(|value| !value.is_null())
    }

    fn path_of(&self, name: &str) -> String {
        join(&self.path, name)
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn leaf<T: Leaf>(value: &Value, path: impl FnOnce() -> String) -> Result<T, FieldError> {
    T::from_value(value).ok_or_else(|| FieldError {
        path: path(),
        found: Some(T::show(value)),
        expected: T::EXPECTED.to_owned(),
    })
}

/// The one of `known` nearest to `name`, if at most a third of `name` would have to change.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let distance = |other: &str| strsim::damerau_levenshtein(name, other);
    let near = known.iter().map(|other| (distance(other), *other)).min()?;
    (near.0 <= name.chars().count().div_ceil(3)).then_some(near.1)
}

/// A value for a message: short ones as they are, of others the kind.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) if text.chars().nth(MAX_SHOWN).is_some() => {
            let start: String = text.chars().take(MAX_SHOWN).collect();
            format!("{start:?}…")
        }
        Value::String(text) => format!("{text:?}"),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => kind(value).to_owned(),
    }
}

/// What kind of value it is.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
