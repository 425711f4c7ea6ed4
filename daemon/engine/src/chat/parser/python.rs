//! What Llama writes behind `<|python_tag|>`, JSON left out: `NAME.call(key="value")`, or code for
//! the interpreter.

use super::MAX_HELD;
use super::shape::Call;

/// Tools that take code, the one that Llama was trained with first.
const CODE_TOOLS: [&str; 2] = ["code_interpreter", "python"];

/// The declared tool that takes code.
pub(super) fn code_tool(tools: &[String]) -> Option<&'static str> {
    CODE_TOOLS.into_iter().find(|name| tools.iter().any(|tool| tool == name))
}

/// The call that runs a code.
pub(super) fn code_call(tool: &str, code: &str) -> Call {
    Call { name: tool.to_owned(), arguments: format!("{{\"code\": {}}}", quoted(code)) }
}

/// `NAME.call(key="value", …)` as it comes.
#[derive(Debug, Clone, Default)]
pub(super) struct Builtin {
    text: String,
    /// The name, once the opening bracket came.
    name: Option<String>,
    nesting: Nesting,
}

/// What one character does to it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Undecided,
    Whole(Call),
    /// The character does not go on with it.
    NoCall,
    /// The closing bracket came, but what it closes are no keywords.
    NoKeywords,
}

impl Builtin {
    /// Everything that was taken, the character that broke it left out.
    pub(super) fn into_text(self) -> String {
        self.text
    }

    pub(super) fn push(&mut self, c: char, tools: &[String]) -> Verdict {
        if self.text.len() >= MAX_HELD {
            return Verdict::NoCall;
        }
        let Some(name) = &self.name else { return self.push_name(c, tools) };
        let inside = self.nesting.push(c);
        if inside != Inside::Broken {
            self.text.push(c);
        }
        match inside {
            Inside::Broken => Verdict::NoCall,
            Inside::Ended => {
                let start = name.len() + CALL.len();
                let keywords = keywords(&self.text[start..self.text.len() - 1]);
                let call = |arguments| Verdict::Whole(Call { name: name.clone(), arguments });
                keywords.map_or(Verdict::NoKeywords, call)
            }
            _ => Verdict::Undecided,
        }
    }

    fn push_name(&mut self, c: char, tools: &[String]) -> Verdict {
        let text = format!("{}{c}", self.text);
        let begins = |tool: &String| match text.strip_prefix(tool.as_str()) {
            Some(rest) => CALL.starts_with(rest),
            None => tool.starts_with(&text),
        };
        if !tools.iter().any(begins) {
            return Verdict::NoCall;
        }
        self.name = text.strip_suffix(CALL).filter(|name| tools.iter().any(|t| t == name)).map(str::to_owned);
        self.text = text;
        Verdict::Undecided
    }
}

const CALL: &str = ".call(";

/// Where in the brackets of a call a text is.
#[derive(Debug, Clone, Default)]
struct Nesting {
    depth: usize,
    quote: Option<char>,
    escaped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    Plain,
    Text,
    /// The bracket that was open at the start is closed.
    Ended,
    Broken,
}

impl Nesting {
    fn push(&mut self, c: char) -> Inside {
        if let Some(quote) = self.quote {
            return self.in_text(c, quote);
        }
        match c {
            '"' | '\'' => {
                self.quote = Some(c);
                return Inside::Text;
            }
            '(' | '[' | '{' => self.depth += 1,
            ')' if self.depth == 0 => return Inside::Ended,
            ')' | ']' | '}' => match self.depth.checked_sub(1) {
                Some(depth) => self.depth = depth,
                None => return Inside::Broken,
            },
            _ => {}
        }
        Inside::Plain
    }

    fn in_text(&mut self, c: char, quote: char) -> Inside {
        match c {
            '\n' => return Inside::Broken,
            _ if self.escaped => self.escaped = false,
            '\\' => self.escaped = true,
            _ if c == quote => self.quote = None,
            _ => {}
        }
        Inside::Text
    }
}

/// The JSON object of `key=value, …`.
fn keywords(text: &str) -> Option<String> {
    let mut members: Vec<(&str, String)> = Vec::new();
    for part in parts(text) {
        let (key, value) = part.split_once('=')?;
        let key = key.trim();
        let is_new = members.iter().all(|(known, _)| *known != key);
        members.push((Some(key).filter(|key| is_new && is_identifier(key))?, json_value(value.trim())?));
    }
    let members = members.iter().map(|(key, value)| format!("{}: {value}", quoted(key)));
    Some(format!("{{{}}}", members.collect::<Vec<_>>().join(", ")))
}

/// What the outer commas part; Python takes one at the end too.
fn parts(text: &str) -> Vec<&str> {
    let mut nesting = Nesting::default();
    let mut parts = Vec::new();
    let mut start = 0;
    for (at, c) in text.char_indices() {
        if nesting.push(c) == Inside::Plain && c == ',' && nesting.depth == 0 {
            parts.push(&text[start..at]);
            start = at + 1;
        }
    }
    if !text[start..].trim().is_empty() {
        parts.push(&text[start..]);
    }
    parts
}

fn is_identifier(text: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.chars().all(is_word) && text.starts_with(|c: char| !c.is_numeric())
}

/// A literal as JSON: as it is written where the two languages agree.
fn json_value(text: &str) -> Option<String> {
    let value = match text {
        "True" => "true",
        "False" => "false",
        "None" => "null",
        _ => {
            let plain = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
            if let Some(plain) = plain.filter(|plain| !plain.contains(['\\', '\''])) {
                return Some(quoted(plain));
            }
            serde_json::from_str::<serde::de::IgnoredAny>(text).ok()?;
            text
        }
    };
    Some(value.to_owned())
}

/// A text as a JSON string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_become_an_object() {
        let cases = [
            ("", Some("{}")),
            (r#"query="a, b=\"c\"", count=3"#, Some(r#"{"query": "a, b=\"c\"", "count": 3}"#)),
            (" x = 'it' , y=[1, {\"a\": 2}], ", Some(r#"{"x": "it", "y": [1, {"a": 2}]}"#)),
            ("a=True,b=None,c=-1.50", Some(r#"{"a": true, "b": null, "c": -1.50}"#)),
            ("\"positional\"", None),
            ("a=1, a=2", None),
            ("1a=1", None),
            ("a=", None),
            ("a=b", None),
            (",", None),
        ];
        for (text, expected) in cases {
            assert_eq!(keywords(text).as_deref(), expected, "{text}");
        }
    }
}
