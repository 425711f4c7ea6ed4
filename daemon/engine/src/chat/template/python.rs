//! What templates expect of Python and minijinja does otherwise.

use crate::chat::json::Json;
use crate::chat::shield::Shield;
use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, StringInput, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};
use std::fmt;
use std::sync::Arc;

/// Adds the filters and functions to an environment.
pub(super) fn install(environment: &mut Environment<'static>, shield: Arc<Shield>) {
    environment.add_filter("tojson", move |value: &Value, options: Kwargs| to_json(value, &options, &shield));
    environment.add_filter("trim", |text: StringInput<'_>, chars: Option<String>| {
        trim(text.as_str(), chars.as_deref())
    });
    environment.add_function("raise_exception", raise);
}

/// A template's own refusal, kept apart from its failures.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise(message: String) -> Result<Value, Error> {
    let error = Error::new(ErrorKind::InvalidOperation, "the template raised an exception");
    Err(error.with_source(Raised(message)))
}

/// What the template said when it refused, if that is what happened.
pub(super) fn raised(error: &Error) -> Option<&str> {
    let first = std::error::Error::source(error);
    let mut chain = std::iter::successors(first, |error| error.source());
    chain.find_map(|error| error.downcast_ref::<Raised>()).map(|raised| raised.0.as_str())
}

/// Python takes four separators for white space that Rust does not.
fn trim(text: &str, chars: Option<&str>) -> String {
    let is_trimmed = |c: char| match chars {
        Some(chars) => chars.contains(c),
        None => c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c),
    };
    text.trim_matches(is_trimmed).to_owned()
}

/// A request's JSON for the template: texts guarded, numbers kept.
pub(crate) fn guarded(json: &Json, shield: &Shield) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(digits) => number(digits),
        Json::String(text) => Value::from(shield.guard(text)),
        Json::Array(items) => items.iter().map(|item| guarded(item, shield)).collect(),
        Json::Object(members) => {
            Value::from_pairs(members.iter().map(|(key, value)| (shield.guard(key), guarded(value, shield))))
        }
    }
}

/// Python's idea of a number: integers without bounds, the rest as a double.
fn number(digits: &str) -> Value {
    if let Ok(small) = digits.parse::<i64>() {
        return Value::from(small);
    }
    match digits.parse::<f64>() {
        Ok(float) if digits.contains(['.', 'e', 'E']) && float.is_finite() => Value::from(float),
        _ => Value::from_object(BigNumber(digits.to_owned())),
    }
}

/// A number that no machine type holds, printed as it was written.
#[derive(Debug)]
struct BigNumber(String);

impl Object for BigNumber {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::NonEnumerable
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `json.dumps` as transformers calls it: nothing escaped for HTML, non-ASCII kept unless asked.
fn to_json(value: &Value, options: &Kwargs, shield: &Shield) -> Result<Value, Error> {
    let indent = options.get::<Option<usize>>("indent")?;
    let ensure_ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    // Accepted for the templates that name them; the layout is the default one.
    let _separators: Option<Value> = options.get("separators")?;
    let _sort_keys: Option<Value> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let mut dump = Dump { indent, ensure_ascii, shield, depth: 0, out: String::new() };
    dump.value(value)?;
    Ok(Value::from(dump.out))
}

/// One `json.dumps`.
struct Dump<'a> {
    indent: Option<usize>,
    ensure_ascii: bool,
    shield: &'a Shield,
    depth: usize,
    out: String,
}

impl Dump<'_> {
    fn value(&mut self, value: &Value) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value)?,
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Map => self.object(value)?,
            ValueKind::Seq | ValueKind::Iterable => self.array(value)?,
            ValueKind::Plain if value.downcast_object_ref::<BigNumber>().is_some() => {
                self.out.push_str(&value.to_string());
            }
            kind => return Err(not_json(kind)),
        }
        Ok(())
    }

    fn number(&mut self, value: &Value) -> Result<(), Error> {
        if value.is_integer() {
            self.out.push_str(&value.to_string());
        } else {
            self.out.push_str(&float_repr(f64::try_from(value.clone())?));
        }
        Ok(())
    }

    fn object(&mut self, value: &Value) -> Result<(), Error> {
        self.enter('{');
        for (place, key) in value.try_iter()?.enumerate() {
            self.separate(place);
            self.key(&key)?;
            self.out.push_str(": ");
            self.value(&value.get_item(&key)?)?;
        }
        self.leave('}');
        Ok(())
    }

    fn array(&mut self, value: &Value) -> Result<(), Error> {
        self.enter('[');
        for (place, item) in value.try_iter()?.enumerate() {
            self.separate(place);
            self.value(&item)?;
        }
        self.leave(']');
        Ok(())
    }

    /// Keys that are no text are written as the text of their value.
    fn key(&mut self, key: &Value) -> Result<(), Error> {
        if let Some(text) = key.as_str() {
            self.text(text);
            return Ok(());
        }
        self.out.push('"');
        self.value(key)?;
        self.out.push('"');
        Ok(())
    }

    fn enter(&mut self, bracket: char) {
        self.out.push(bracket);
        self.depth += 1;
    }

    fn separate(&mut self, place: usize) {
        match (place, self.indent) {
            (0, None) => {}
            (0, Some(_)) => self.new_line(),
            (_, None) => self.out.push_str(", "),
            (_, Some(_)) => {
                self.out.push(',');
                self.new_line();
            }
        }
    }

    fn leave(&mut self, bracket: char) {
        self.depth -= 1;
        let is_empty = self.out.ends_with(['{', '[']);
        if self.indent.is_some() && !is_empty {
            self.new_line();
        }
        self.out.push(bracket);
    }

    fn new_line(&mut self) {
        let width = self.indent.unwrap_or(0) * self.depth;
        self.out.push('\n');
        self.out.extend(std::iter::repeat_n(' ', width));
    }

    /// Guards stand outside of the escaping: escapes could hide a look-alike or make one.
    fn text(&mut self, text: &str) {
        let restored = self.shield.restore(text);
        let mut escaped = String::with_capacity(restored.len() + 2);
        escaped.push('"');
        for c in restored.chars() {
            push_escaped(c, self.ensure_ascii, &mut escaped);
        }
        escaped.push('"');
        self.out.push_str(&self.shield.guard(&escaped));
    }
}

fn push_escaped(c: char, ensure_ascii: bool, out: &mut String) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        _ if c < ' ' || (ensure_ascii && !(' '..='~').contains(&c)) => push_units(c, out),
        _ => out.push(c),
    }
}

/// `\u` escapes of the UTF-16 units.
fn push_units(c: char, out: &mut String) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        let digits = [12, 8, 4, 0].map(|shift| u32::from(*unit) >> shift & 0xf);
        out.push_str("\\u");
        out.extend(digits.iter().filter_map(|digit| char::from_digit(*digit, 16)));
    }
}

/// How Python prints a double: the shortest digits that read back, with an exponent from 1e16 on
/// and below 1e-4.
fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        -4..=15 => format!("{value:?}"),
        exponent => format!("{digits}e{}{:02}", sign(exponent), exponent.unsigned_abs()),
    }
}

fn sign(exponent: i32) -> char {
    if exponent < 0 { '-' } else { '+' }
}

fn not_json(kind: ValueKind) -> Error {
    Error::new(ErrorKind::BadSerialization, format!("a value of kind {kind} is not JSON serializable"))
}
