//! Whether a JSON object is a call (P3, P4).

use super::super::json::{Json, Members};
use serde_json::value::RawValue;

/// A call to a declared tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) name: String,
    /// The arguments as the model wrote them, always an object.
    pub(super) arguments: String,
}

/// What a call without arguments is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// A call with none: a tag says that it is a call.
    Empty,
    /// No call: a bare object with a name may be anything.
    NoCall,
}

/// The keys that a call may have.
pub(super) const KEYS: [&str; 6] = ["type", "id", "name", "arguments", "parameters", "function"];

/// Reads `{"name", "arguments"}`, the same inside a `function` object, and the slips that models
/// make: `parameters`, arguments as a string, null or missing arguments. Any other key means that
/// the object is something else, such as a schema that the model repeats.
pub(super) fn read_call(object: &str, tools: &[String], missing: Missing) -> Option<Call> {
    let members: Members<'_> = serde_json::from_str(object).ok()?;
    let fields = Fields::collect(members)?;
    match (fields.name, fields.arguments, fields.function) {
        (Some(name), arguments, None) => call(name, arguments, tools, missing),
        (None, None, Some(function)) => {
            let inner = Fields::collect(serde_json::from_str(function.get()).ok()?)?;
            let None = inner.function else { return None };
            call(inner.name?, inner.arguments, tools, missing)
        }
        _ => None,
    }
}

/// Reads an array of bare calls: all of them, or none.
pub(super) fn read_calls(array: &str, tools: &[String]) -> Option<Vec<Call>> {
    let items: Vec<&RawValue> = serde_json::from_str(array).ok()?;
    let calls = items.into_iter().map(|item| read_call(item.get(), tools, Missing::NoCall));
    calls.collect::<Option<Vec<Call>>>().filter(|calls| !calls.is_empty())
}

/// The members that a call may have.
#[derive(Default)]
struct Fields<'a> {
    name: Option<&'a RawValue>,
    arguments: Option<&'a RawValue>,
    function: Option<&'a RawValue>,
}

impl<'a> Fields<'a> {
    fn collect(members: Members<'a>) -> Option<Self> {
        let mut fields = Self::default();
        for (key, value) in members.0 {
            let field = match key.as_str() {
                "type" | "id" => continue,
                "name" => &mut fields.name,
                "arguments" | "parameters" => &mut fields.arguments,
                "function" => &mut fields.function,
                _ => return None,
            };
            if field.replace(value).is_some() {
                return None;
            }
        }
        Some(fields)
    }
}

fn call(name: &RawValue, arguments: Option<&RawValue>, tools: &[String], missing: Missing) -> Option<Call> {
    let name: String = serde_json::from_str(name.get()).ok()?;
    if !tools.contains(&name) {
        return None;
    }
    let arguments = match (arguments, missing) {
        (Some(arguments), _) => arguments.get(),
        (None, Missing::Empty) => "null",
        (None, Missing::NoCall) => return None,
    };
    Some(Call { name, arguments: as_object(arguments)? })
}

/// The text of the arguments if they are an object, perhaps in a string.
fn as_object(text: &str) -> Option<String> {
    match text.as_bytes().first()? {
        b'{' => Some(text.to_owned()),
        b'"' => {
            let inner: String = serde_json::from_str(text).ok()?;
            let is_object = matches!(Json::parse(&inner), Ok(Json::Object(_)));
            is_object.then(|| inner.trim().to_owned())
        }
        b'n' => Some("{}".to_owned()),
        _ => None,
    }
}
