//! JSON that stays what it was: key order kept and integers of any length intact.
//!
//! `serde_json::Value` keeps neither without features that would change every other user of it in
//! the process, so this is a small tree of our own on top of its raw values.

pub mod scan;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// How deep objects and arrays may nest.
pub const MAX_DEPTH: usize = 100;

/// A JSON value. Numbers keep their text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// The digits as they were written.
    Number(String),
    /// The text, unescaped.
    String(String),
    /// Values in order.
    Array(Vec<Self>),
    /// Members in the order of their first appearance; of equal keys the last value counts, as in
    /// Python.
    Object(Vec<(String, Self)>),
}

/// Why a text is no JSON that we take.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("nested more than {MAX_DEPTH} deep")]
    TooDeep,
    /// Not JSON.
    #[error(transparent)]
    Syntax(#[from] serde_json::Error),
}

impl Json {
    /// Reads a whole text.
    pub fn parse(text: &str) -> Result<Self, JsonError> {
        // Checked first: raw values are read again at each level, so depth is also a cost.
        if scan::depth(text) > MAX_DEPTH {
            return Err(JsonError::TooDeep);
        }
        read(text)
    }

    /// A member of an object.
    pub(crate) fn member(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The same for those who need no long numbers: what a double cannot hold becomes one all the same.
    pub(crate) fn to_value(&self) -> serde_json::Value {
        use serde_json::Value;
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Number(digits) => serde_json::from_str(digits).unwrap_or(Value::Null),
            Self::String(text) => Value::String(text.clone()),
            Self::Array(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Self::Object(members) => {
                Value::Object(members.iter().map(|(key, value)| (key.clone(), value.to_value())).collect())
            }
        }
    }

    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

/// Compact JSON text.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |text: &str| serde_json::Value::from(text);
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(digits) => f.write_str(digits),
            Self::String(text) => write!(f, "{}", quoted(text)),
            Self::Array(items) => {
                f.write_str("[")?;
                for (at, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if at == 0 { "" } else { "," })?;
                }
                f.write_str("]")
            }
            Self::Object(members) => {
                f.write_str("{")?;
                for (at, (key, value)) in members.iter().enumerate() {
                    write!(f, "{}{}:{value}", if at == 0 { "" } else { "," }, quoted(key))?;
                }
                f.write_str("}")
            }
        }
    }
}

fn read(text: &str) -> Result<Json, JsonError> {
    Ok(match text.trim_start().as_bytes().first() {
        Some(b'{') => Json::Object(read_members(text)?),
        Some(b'[') => Json::Array(read_items(text)?),
        Some(b'"') => Json::String(serde_json::from_str(text)?),
        Some(b't' | b'f') => Json::Bool(serde_json::from_str(text)?),
        Some(b'-' | b'0'..=b'9') => Json::Number(read_number(text)?),
        _ => {
            serde_json::from_str::<()>(text)?;
            Json::Null
        }
    })
}

fn read_number(text: &str) -> Result<String, JsonError> {
    let raw: &RawValue = serde_json::from_str(text)?;
    Ok(raw.get().to_owned())
}

fn read_items(text: &str) -> Result<Vec<Json>, JsonError> {
    let items: Vec<&RawValue> = serde_json::from_str(text)?;
    items.into_iter().map(|item| read(item.get())).collect()
}

fn read_members(text: &str) -> Result<Vec<(String, Json)>, JsonError> {
    let members: Members<'_> = serde_json::from_str(text)?;
    let members = members.0.into_iter();
    members.map(|(key, raw)| Ok((key, read(raw.get())?))).collect()
}

/// The members of an object, each value as its own text.
#[derive(Debug)]
pub(crate) struct Members<'a>(pub(crate) Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor).map(Members)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        let mut places = std::collections::HashMap::new();
        while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
            let place = *places.entry(key.clone()).or_insert(members.len());
            if place == members.len() {
                members.push((key, value));
            } else {
                members[place].1 = value;
            }
        }
        Ok(members)
    }
}
