//! Tools from a file, and what answers their calls.
//!
//! A schema reaches the model as the bytes that the file has: key order, spacing and long numbers included.

mod command;
mod toolbox;

use std::path::Path;

use hearth_client::v1;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::exit::Failure;

pub(super) use command::{Program, ProgramError, ToolCommand};
pub(super) use toolbox::{Consent, Means, Toolbox};

/// Why a text is not a list of tools.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadTools {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("tool {0} has no name")]
    NoName(usize),
    #[error("tool {0} is of type `{1}`; only functions can be called")]
    Type(usize, String),
}

/// `{"name", "description", "parameters"}`, or OpenAI's `{"type": "function", "function": {...}}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<'a> {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default, borrow)]
    function: Option<Function<'a>>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default, borrow)]
    parameters: Option<&'a RawValue>,
    /// OpenAI's wish for constrained arguments; accepted, since many tool lists have it.
    #[serde(default, rename = "strict")]
    _strict: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Function<'a> {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default, borrow)]
    parameters: Option<&'a RawValue>,
    #[serde(default, rename = "strict")]
    _strict: Option<bool>,
}

/// The tools in a file.
pub(super) fn read(path: &Path) -> Result<Vec<v1::Tool>, Failure> {
    let text =
        std::fs::read_to_string(path).map_err(|source| Failure::Read { path: path.to_owned(), source })?;
    parse(&text).map_err(|source| Failure::Tools { path: path.to_owned(), source })
}

fn parse(text: &str) -> Result<Vec<v1::Tool>, BadTools> {
    let entries: Vec<Entry<'_>> = serde_json::from_str(text)?;
    entries.into_iter().enumerate().map(|(index, entry)| tool(index, entry)).collect()
}

fn tool(index: usize, entry: Entry<'_>) -> Result<v1::Tool, BadTools> {
    if let Some(kind) = entry.kind.filter(|kind| kind != "function") {
        return Err(BadTools::Type(index, kind));
    }
    let (name, description, parameters) = match entry.function {
        Some(function) => (function.name, function.description, function.parameters),
        None => (entry.name.ok_or(BadTools::NoName(index))?, entry.description, entry.parameters),
    };
    Ok(v1::Tool { name, description, parameters: parameters.map(|schema| schema.get().to_owned()) })
}

/// `NAME=TEXT`: what a tool of that name answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CannedResult {
    name: String,
    text: String,
}

impl CannedResult {
    /// For clap.
    pub(super) fn parse(argument: &str) -> Result<Self, String> {
        match argument.split_once('=') {
            Some((name, text)) if !name.is_empty() => {
                Ok(Self { name: name.to_owned(), text: text.to_owned() })
            }
            _ => Err("write NAME=TEXT".to_owned()),
        }
    }
}

/// The canned result of a call; of several for one tool, the last.
fn result_of<'a>(canned: &'a [CannedResult], call: &v1::ToolCall) -> Option<&'a str> {
    canned.iter().rev().find(|result| result.name == call.name).map(|result| result.text.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_keep_their_bytes() {
        let schema = "{ \"b\" : 1.0,\n  \"a\":12345678901234567890123, \"é\":\"\\u00e9\" }";
        let plain = format!(r#"[{{"name":"t","description":"d","parameters":{schema}}}]"#);
        let openai = format!(
            r#"[{{"type":"function","function":{{"name":"t","description":"d","parameters":{schema}}}}}]"#
        );
        let flat = format!(
            r#"[{{"type":"function","name":"t","description":"d","parameters":{schema},"strict":true}}]"#
        );
        for text in [plain, openai, flat] {
            let tools = parse(&text).expect("a list of tools");
            assert_eq!(tools[0].name, "t");
            assert_eq!(tools[0].description.as_deref(), Some("d"));
            assert_eq!(tools[0].parameters.as_deref(), Some(schema));
        }
    }

    #[test]
    fn a_tool_may_have_no_parameters() {
        let tools = parse(r#"[{"name":"a"},{"name":"b","parameters":null}]"#).expect("a list of tools");
        assert!(tools.iter().all(|tool| tool.parameters.is_none() && tool.description.is_none()));
    }

    #[test]
    fn what_is_no_list_of_tools_is_refused() {
        assert!(matches!(parse(r#"{"name":"a"}"#), Err(BadTools::Json(_))));
        assert!(matches!(parse(r#"[{"name":"a","paramaters":{}}]"#), Err(BadTools::Json(_))));
        assert!(matches!(parse(r#"[{"description":"a"}]"#), Err(BadTools::NoName(0))));
        assert!(
            matches!(parse(r#"[{"type":"web_search"}]"#), Err(BadTools::Type(0, kind)) if kind == "web_search")
        );
    }

    #[test]
    fn a_canned_result_is_cut_at_the_first_sign() {
        let result = CannedResult::parse("read=a=b").expect("a result");
        let call = v1::ToolCall { name: "read".to_owned(), ..v1::ToolCall::default() };
        assert_eq!(result_of(&[result], &call), Some("a=b"));
        assert!(CannedResult::parse("read").is_err());
        assert!(CannedResult::parse("=x").is_err());
    }
}
