//! Reads values out of a TOML document and collects everything that is wrong with it: syntax, types, ranges and
//! keys that nobody knows, each with its path and line.
//!
//! A faulty value reads as absent. What was made of a document with faults is never used.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Fault, Faults};

/// How alike a key must be to one that exists to be suggested: 1 is the same.
const LIKENESS: f64 = 0.7;

/// A document and what was found wrong with it.
#[derive(Debug)]
pub(super) struct Document<'t> {
    text: &'t str,
    found: RefCell<Vec<(usize, Fault)>>,
}

/// A table of a document. Every key that is asked for is known; the others are faults.
#[derive(Debug)]
pub(super) struct Table<'d> {
    document: &'d Document<'d>,
    /// `engine.` or empty.
    prefix: String,
    entries: Option<&'d DeTable<'d>>,
    known: RefCell<Vec<&'static str>>,
}

/// A text and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) text: String,
    key: String,
    at: usize,
}

impl<'t> Document<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, found: RefCell::default() }
    }

    /// Parses the text; syntax errors are kept.
    pub(super) fn parse(&self) -> DeTable<'t> {
        let (root, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            self.fault(at, String::new(), error.message());
        }
        root.into_inner()
    }

    /// The whole document as a table.
    pub(super) fn root<'d>(&'d self, entries: &'d DeTable<'d>) -> Table<'d> {
        Table { document: self, prefix: String::new(), entries: Some(entries), known: RefCell::default() }
    }

    /// What was found, in the order of the text.
    pub(super) fn faults(self) -> Faults {
        let mut found = self.found.into_inner();
        found.sort_by_key(|(at, _)| *at);
        Faults(found.into_iter().map(|(_, fault)| fault).collect())
    }

    fn fault(&self, at: usize, key: String, why: impl Display) {
        let line = 1 + self.text.bytes().take(at).filter(|byte| *byte == b'\n').count();
        self.found.borrow_mut().push((at, Fault { key, line: Some(line), why: why.to_string() }));
    }

    /// A fault of a text.
    pub(super) fn fault_of(&self, text: &Text, why: impl Display) {
        self.fault(text.at, text.key.clone(), why);
    }

    /// What a text says, or a fault.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self, text: &Text) -> Option<T> {
        text.text.parse().map_err(|error| self.fault_of(text, error)).ok()
    }
}

impl<'d> Table<'d> {
    /// Notes a fault of a value of this table.
    pub(super) fn fault(&self, key: &str, why: impl Display) {
        let at = self.entries.and_then(|entries| entries.get(key)).map_or(0, |value| value.span().start);
        self.document.fault(at, self.path(key), why);
    }

    /// Whether the key is there, with whatever value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.is_some_and(|entries| entries.contains_key(key))
    }

    /// A text.
    pub(super) fn text(&self, key: &'static str) -> Option<Text> {
        let value = self.value(key)?;
        let text = value.get_ref().as_str();
        text.map(|text| self.found_text(self.path(key), text, value.span())).or_else(|| {
            self.mistyped(key, value, "text in quotes");
            None
        })
    }

    /// A text that is not empty.
    pub(super) fn path_of(&self, key: &'static str) -> Option<PathBuf> {
        self.text(key).filter(|text| !text.text.is_empty()).map(|text| text.text.into())
    }

    /// What a text says.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self, key: &'static str) -> Option<T> {
        self.document.parsed(&self.text(key)?)
    }

    /// What a text says, or a whole number as one would write it into a text.
    pub(super) fn parsed_or_number<T: FromStr<Err: Display>>(&self, key: &'static str) -> Option<T> {
        let value = self.value(key)?;
        let written = match value.get_ref() {
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
            DeValue::String(text) => text,
            _ => {
                self.mistyped(key, value, "text in quotes or a whole number");
                return None;
            }
        };
        self.document.parsed(&self.found_text(self.path(key), written, value.span()))
    }

    /// A time above zero, such as `30s`.
    pub(super) fn time(&self, key: &'static str) -> Option<Duration> {
        let text = self.text(key)?;
        match humantime::parse_duration(&text.text) {
            Ok(time) if !time.is_zero() => return Some(time),
            Ok(_) => self.fault(key, "must be longer than nothing"),
            Err(error) => {
                self.fault(key, format_args!("`{}` is not a time such as 30s or 250ms: {error}", text.text));
            }
        }
        None
    }

    /// Yes or no.
    pub(super) fn flag(&self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.mistyped(key, value, "true or false");
        }
        flag
    }

    /// A whole number within a range.
    pub(super) fn number(&self, key: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        let value = self.value(key)?;
        let Some(integer) = value.get_ref().as_integer() else {
            self.mistyped(key, value, "a whole number");
            return None;
        };
        let number = u32::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.fault(key, format_args!("{integer} is not within {} to {}", range.start(), range.end()));
        }
        number
    }

    /// A number that `accepts`; `range` says which in words.
    pub(super) fn decimal(
        &self,
        key: &'static str,
        accepts: impl FnOnce(f32) -> bool,
        range: &str,
    ) -> Option<f32> {
        let value = self.value(key)?;
        let text = match value.get_ref() {
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
            DeValue::Float(float) => float.as_str(),
            _ => {
                self.mistyped(key, value, "a number");
                return None;
            }
        };
        let number = text.parse().ok().filter(|number| accepts(*number));
        if number.is_none() {
            self.fault(key, format_args!("{text} is not {range}"));
        }
        number
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &'static str) -> Option<Vec<Text>> {
        let value = self.value(key)?;
        let Some(list) = value.get_ref().as_array() else {
            self.mistyped(key, value, "a list of texts");
            return None;
        };
        let texts = list.iter().enumerate().filter_map(|(i, value)| {
            let path = format!("{}[{i}]", self.path(key));
            let text = value.get_ref().as_str();
            if text.is_none() {
                let why = format_args!("must be text in quotes, not {}", kind(value));
                self.document.fault(value.span().start, path.clone(), why);
            }
            text.map(|text| self.found_text(path, text, value.span()))
        });
        Some(texts.collect())
    }

    /// A table; an empty one where it is absent.
    pub(super) fn table(&self, key: &'static str) -> Self {
        let value = self.value(key);
        let entries = value.and_then(|value| value.get_ref().as_table());
        if let Some(value) = value.filter(|_| entries.is_none()) {
            self.mistyped(key, value, "a table");
        }
        self.below(self.path(key), entries)
    }

    /// The tables of a list.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Self> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(list) = value.get_ref().as_array() else {
            self.mistyped(key, value, "a list of tables");
            return Vec::new();
        };
        let tables = list.iter().enumerate().map(|(i, value)| {
            let path = format!("{}[{i}]", self.path(key));
            let entries = value.get_ref().as_table();
            if entries.is_none() {
                let why = format_args!("must be a table, not {}", kind(value));
                self.document.fault(value.span().start, path.clone(), why);
            }
            self.below(path, entries)
        });
        tables.collect()
    }

    /// The tables of a table whose keys are names.
    pub(super) fn named(&self, key: &'static str) -> Vec<(Text, Self)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(entries) = value.get_ref().as_table() else {
            self.mistyped(key, value, "a table");
            return Vec::new();
        };
        let named = entries.iter().map(|(name, value)| {
            let path = format!("{}.{:?}", self.path(key), name.get_ref());
            let entries = value.get_ref().as_table();
            if entries.is_none() {
                let why = format_args!("must be a table, not {}", kind(value));
                self.document.fault(value.span().start, path.clone(), why);
            }
            (self.found_text(path.clone(), name.get_ref(), name.span()), self.below(path, entries))
        });
        named.collect()
    }

    /// Ends the reading: what was never asked for is a fault.
    pub(super) fn end(self) {
        let known = self.known.borrow();
        for (key, _) in self.entries.into_iter().flat_map(|entries| entries.iter()) {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            let like = known.iter().map(|known| (strsim::jaro_winkler(name, known), known));
            let best = like.filter(|(likeness, _)| *likeness > LIKENESS).max_by(|a, b| a.0.total_cmp(&b.0));
            let why = match best {
                Some((_, best)) => format!("there is no such key; `{best}` is meant?"),
                None => format!("there is no such key; here are {}", known.join(", ")),
            };
            self.document.fault(key.span().start, self.path(name), why);
        }
    }

    fn value(&self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.known.borrow_mut().push(key);
        self.entries?.get(key)
    }

    fn below(&self, path: String, entries: Option<&'d DeTable<'d>>) -> Self {
        Self { document: self.document, prefix: path + ".", entries, known: RefCell::default() }
    }

    fn path(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn found_text(&self, key: String, text: &str, span: Range<usize>) -> Text {
        Text { text: text.to_owned(), key, at: span.start }
    }

    fn mistyped(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        let why = format_args!("must be {wanted}, not {}", kind(value));
        self.document.fault(value.span().start, self.path(key), why);
    }
}

fn kind(value: &Spanned<DeValue<'_>>) -> &'static str {
    match value.get_ref() {
        DeValue::String(_) => "text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
