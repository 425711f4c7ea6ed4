//! What an answer must look like, as a grammar.
//!
//! ```text
//!  tools, tool choice, output ──► Form { whole: from the first byte of the answer on
//!                                        opened: from the point on where the model opens a call }
//! ```
//!
//! Grammars are llguidance's: Lark text with JSON Schemas inside. Structured output is compact JSON. Calls are
//! spaced as the families were trained on them, with a blank behind each comma and colon: a model that is forced
//! to write what it never saw loses its way, a small one at once. A call is complete when the grammar is: no end token
//! is needed after it.

mod limits;

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::{Value, json};

use super::message::{Conversation, Tool, ToolChoice};
use super::parser::{OpenCall, Style};
use super::schema::{self, SchemaFault};

/// The key of the arguments that Llama 3.1 was trained on, and the one that it takes for it at times.
const PARAMETERS: &str = "parameters";
const ARGUMENTS: &str = "arguments";

/// A form that every answer has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Any JSON object.
    JsonObject,
    /// A value of this JSON Schema, as text.
    JsonSchema(String),
    /// A text that the expression matches as a whole.
    Regex(String),
    /// A text of this Lark grammar.
    Lark(String),
}

/// Why there is no grammar for a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// A field of the request is at fault.
    #[error("{why}")]
    Field {
        /// Its path, as the API names it.
        field: String,
        /// What is wrong.
        why: String,
    },
    /// Calls cannot be demanded of a model whose way of calling is not known.
    #[error("this model's way of writing tool calls is not known, so calls cannot be demanded of it")]
    NoCalls,
}

/// What the answer to one request must look like.
#[derive(Debug, Clone, Default)]
pub struct Form {
    /// Holds from the answer's first byte on, behind the thought.
    pub whole: Option<TopLevelGrammar>,
    /// Holds for a call that the model opens by itself.
    pub opened: Option<Opened>,
    /// How the calls are written that the grammars hold, where those are of calls only.
    pub calls: Option<Style>,
    /// The answer ends after its first call.
    pub single: bool,
    /// Whether the grammars are JSON around calls or as output, so that numbers can be told.
    pub is_json: bool,
    /// Schemas and where they come from, for complaints of the compiler.
    pub sources: Vec<(String, Value)>,
    /// The grammar of the output alone, for complaints too.
    output: Option<GrammarWithLexer>,
}

/// Makes grammars for calls that were opened.
#[derive(Debug, Clone)]
pub struct Opened {
    style: Style,
    tools: Vec<(String, Value)>,
}

impl Form {
    /// The form of an answer.
    ///
    /// # Errors
    /// [`FormError`] with the field at fault.
    pub fn new(
        conversation: &Conversation,
        output: Option<&Output>,
        style: Option<Style>,
        parallel: bool,
    ) -> Result<Self, FormError> {
        let mut form = Self { single: !parallel, ..Self::default() };
        let tools = form.tools(conversation)?;
        let demanded = matches!(conversation.tool_choice, ToolChoice::Required | ToolChoice::Named(_));
        if demanded && tools.is_empty() {
            let field = "prompt.conversation.tool_choice".to_owned();
            return Err(FormError::Field {
                field,
                why: "demands a call of a tool that is not declared".to_owned(),
            });
        }
        let calls = match style {
            Some(style) if !tools.is_empty() => Some(Opened { style, tools }),
            None if demanded => return Err(FormError::NoCalls),
            _ => None,
        };
        // Where calls are demanded there is nothing else that could have the form of the output. Its faults
        // are told all the same: on Converse it may be asked for in a later turn.
        if demanded && let Some(output) = output {
            form.output(output)?;
        }
        let output = output.filter(|_| !demanded);
        form.calls = style.filter(|_| output.is_none());
        form.is_json = !matches!(output, Some(Output::Regex(_) | Output::Lark(_)));
        match (calls, output) {
            (Some(calls), None) if demanded => form.whole = Some(calls.whole(parallel, None)),
            (Some(calls), None) => form.opened = Some(calls),
            (calls, Some(output)) => {
                let output = form.output(output)?;
                form.whole = Some(match calls {
                    Some(calls) => calls.whole(parallel, Some(output)),
                    None => TopLevelGrammar::from_grammar(output),
                });
            }
            (None, None) => {}
        }
        Ok(form)
    }

    /// The form of an answer that calls nothing.
    ///
    /// # Errors
    /// [`FormError`] with the field at fault.
    pub fn output_only(output: Option<&Output>) -> Result<Self, FormError> {
        let mut form =
            Self { is_json: !matches!(output, Some(Output::Regex(_) | Output::Lark(_))), ..Self::default() };
        form.whole = output.map(|output| form.output(output)).transpose()?.map(TopLevelGrammar::from_grammar);
        Ok(form)
    }

    /// The tools that may be called, with their schemas ready.
    fn tools(&mut self, conversation: &Conversation) -> Result<Vec<(String, Value)>, FormError> {
        let callable = conversation.callable();
        let tools = conversation
            .tools
            .iter()
            .enumerate()
            .filter(|(_, tool)| callable.contains(&tool.name().to_owned()));
        tools
            .map(|(index, tool)| {
                let field = format!("prompt.conversation.tools[{index}].parameters");
                let schema = self.schema(&field, arguments(tool, &field)?)?;
                Ok((tool.name().to_owned(), schema))
            })
            .collect()
    }

    fn schema(&mut self, field: &str, schema: Value) -> Result<Value, FormError> {
        let fault = |SchemaFault { path, why }| FormError::Field { field: format!("{field}{path}"), why };
        let prepared = schema::prepare(&schema).map_err(fault)?;
        self.sources.push((field.to_owned(), prepared.clone()));
        Ok(prepared)
    }

    fn output(&mut self, output: &Output) -> Result<GrammarWithLexer, FormError> {
        let at = |field: &str, why: String| FormError::Field { field: field.to_owned(), why };
        let named =
            |grammar: GrammarWithLexer| GrammarWithLexer { name: Some("output".to_owned()), ..grammar };
        let grammar = named(match output {
            Output::JsonObject => GrammarWithLexer::from_json_schema(compact(json!({"type": "object"}))),
            Output::JsonSchema(text) => {
                let bad =
                    |error: serde_json::Error| at("output.json_schema", format!("is not JSON: {error}"));
                let schema = serde_json::from_str(text).map_err(bad)?;
                GrammarWithLexer::from_json_schema(compact(self.schema("output.json_schema", schema)?))
            }
            Output::Regex(expression) => {
                limits::regex(expression).map_err(|why| at("output.regex", why))?;
                GrammarWithLexer::from_regex(expression)
            }
            Output::Lark(grammar) => {
                limits::lark(grammar).map_err(|why| at("output.grammar", why))?;
                GrammarWithLexer::from_lark(Self::embedded(grammar)?)
            }
        });
        self.output = Some(grammar.clone());
        Ok(grammar)
    }

    /// A Lark grammar with the schemas inside of it prepared like all others.
    fn embedded(grammar: &str) -> Result<String, FormError> {
        const MARK: &str = "%json";
        let fault = |why: String| FormError::Field { field: "output.grammar".to_owned(), why };
        let start = grammar.find(MARK).unwrap_or(grammar.len());
        let (mut text, mut rest) = (grammar[..start].to_owned(), &grammar[start..]);
        while let Some(behind) = rest.strip_prefix(MARK) {
            let mut values = serde_json::Deserializer::from_str(behind).into_iter::<Value>();
            let schema = match values.next() {
                Some(Ok(schema)) => schema,
                _ => return Err(fault(format!("a JSON Schema must follow {MARK}"))),
            };
            let prepared = schema::prepare(&schema)
                .map_err(|SchemaFault { path, why }| fault(format!("{MARK} schema, at `{path}`: {why}")))?;
            text.push_str(&format!("{MARK} {}", compact(prepared)));
            let behind = &behind[values.byte_offset()..];
            let end = behind.find(MARK).unwrap_or(behind.len());
            text.push_str(&behind[..end]);
            rest = &behind[end..];
        }
        Ok(text)
    }

    /// Names the field that the compiler complains about. `complaint` compiles a grammar.
    pub fn complain(
        &self,
        why: String,
        output: Option<&Output>,
        complaint: &dyn Fn(&TopLevelGrammar) -> Option<String>,
    ) -> FormError {
        let of_output =
            self.output.clone().and_then(|grammar| complaint(&TopLevelGrammar::from_grammar(grammar)));
        let complaint =
            |schema: &Value| complaint(&TopLevelGrammar::from_json_schema(compact(schema.clone())));
        for (field, schema) in &self.sources {
            if let Some(SchemaFault { path, why }) = schema::locate(schema, &complaint) {
                return FormError::Field { field: format!("{field}{path}"), why };
            }
        }
        let (field, why) = match (output, of_output) {
            (Some(Output::Regex(_)), Some(why)) => ("output.regex", why),
            (Some(Output::Lark(_)), Some(why)) => ("output.grammar", why),
            (Some(_), Some(why)) => ("output.json_schema", why),
            (_, None) | (None, _) => ("prompt.conversation.tools", why),
        };
        FormError::Field { field: field.to_owned(), why }
    }
}

impl Opened {
    /// The grammar of what follows an opening, and what was written of that already, spaced as the grammar has
    /// it: models put white space elsewhere now and then, which means nothing.
    pub fn rest(&self, open: &OpenCall) -> Option<(TopLevelGrammar, String)> {
        let written = respaced(&open.rest);
        let (written, key) = match (&open.tool, self.style) {
            (None, _) if written.is_empty() => (written, PARAMETERS),
            (None, _) => (format!("\n{written}"), PARAMETERS),
            (Some(_), _) if written.starts_with(", \"a") => (written, ARGUMENTS),
            (Some(_), _) => (written, PARAMETERS),
        };
        Some((self.behind(open.tool.as_deref(), key)?, written))
    }

    /// The grammars that will be asked for, as far as that can be known.
    pub fn expected(&self) -> Vec<TopLevelGrammar> {
        match self.style {
            Style::Tags => self.behind(None, PARAMETERS).into_iter().collect(),
            _ => self.tools.iter().filter_map(|(name, _)| self.behind(Some(name), PARAMETERS)).collect(),
        }
    }

    /// What follows the name of a tool, or the mark of any call.
    fn behind(&self, tool: Option<&str>, key: &str) -> Option<TopLevelGrammar> {
        let text = match (tool, self.style) {
            (None, _) => format!("start: {}", self.body()),
            (Some(_), Style::Lines) => "start: a0".to_owned(),
            (Some(_), _) => format!("start: {} a0 \"}}\"", Value::from(format!(", \"{key}\": "))),
        };
        let tools: Vec<(String, Value)> = match tool {
            None => self.tools.clone(),
            Some(name) => self.tools.iter().filter(|(tool, _)| tool == name).cloned().collect(),
        };
        (!tools.is_empty())
            .then(|| TopLevelGrammar::from_lark(format!("{text}\n{}", arguments_rules(&tools))))
    }

    /// One or more calls, or something else instead.
    fn whole(&self, parallel: bool, other: Option<GrammarWithLexer>) -> TopLevelGrammar {
        let (call, between) = match self.style {
            Style::Tags => (format!("\"<tool_call>\" {}", self.body()), "\"\\n\""),
            Style::Json => (
                format!("\"{{\\\"name\\\": \\\"\" ({}) \"}}\"", self.choices("\\\", \\\"parameters\\\": ")),
                "\"; \"",
            ),
            Style::Lines => (self.choices("\\n"), "<|assistant|>"),
        };
        let calls = if parallel { format!("call ({between} call)*") } else { "call".to_owned() };
        let mut grammars = Vec::new();
        let start = if other.is_some() { format!("calls | @output\ncalls: {calls}") } else { calls };
        grammars.push(GrammarWithLexer::from_lark(format!(
            "start: {start}\ncall: {call}\n{}",
            arguments_rules(&self.tools)
        )));
        grammars.extend(other);
        TopLevelGrammar { grammars, max_tokens: None }
    }

    /// What stands between the tags.
    fn body(&self) -> String {
        format!(
            "\"\\n{{\\\"name\\\": \\\"\" ({}) \"}}\\n</tool_call>\"",
            self.choices("\\\", \\\"arguments\\\": ")
        )
    }

    /// Each name with what separates it from its arguments.
    fn choices(&self, separator: &str) -> String {
        let choices = self.tools.iter().enumerate();
        let choices: Vec<String> =
            choices.map(|(at, (name, _))| format!("\"{name}{separator}\" a{at}")).collect();
        choices.join(" | ")
    }
}

/// The beginning of a JSON text with the white space that [`spaced`] has: none, but one blank behind each comma
/// and colon. Behind the last one there is none yet if there was none.
fn respaced(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let (mut in_string, mut escaped, mut parted) = (false, false, false);
    for c in json.chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            text.push(c);
        } else if c.is_whitespace() {
            if std::mem::take(&mut parted) {
                text.push(' ');
            }
        } else {
            if std::mem::take(&mut parted) {
                text.push(' ');
            }
            in_string = c == '"';
            parted = matches!(c, ',' | ':');
            text.push(c);
        }
    }
    text
}

/// One rule for the arguments of each tool.
fn arguments_rules(tools: &[(String, Value)]) -> String {
    let rules = tools.iter().enumerate();
    let rules: Vec<String> =
        rules.map(|(at, (_, schema))| format!("a{at}: %json {}\n", spaced(schema.clone()))).collect();
    rules.concat()
}

/// The schema of a tool's arguments, which are always an object whether it says so or not; without one there are
/// no arguments.
fn arguments(tool: &Tool, field: &str) -> Result<Value, FormError> {
    let mut schema = tool.parameters().unwrap_or_else(|| json!({"properties": {}}));
    let fault = |path: &str| FormError::Field {
        field: format!("{field}.{path}"),
        why: "the arguments of a tool are an object".to_owned(),
    };
    let is_object = match schema.get("type") {
        None => true,
        Some(Value::Array(types)) => types.iter().any(|name| name == "object"),
        Some(name) => name == "object",
    };
    if !is_object {
        return Err(fault("type"));
    }
    if schema.get("$ref").is_some() {
        // Beside a reference a type would only be another condition.
        return if schema::leads_to_object(&schema) { Ok(schema) } else { Err(fault("$ref")) };
    }
    if let Some(members) = schema.as_object_mut() {
        members.insert("type".to_owned(), json!("object"));
    }
    Ok(schema)
}

/// JSON without white space.
fn compact(schema: Value) -> Value {
    separated(schema, ",", ":")
}

/// JSON as Python's `json.dumps` writes it, from which the training data of all three families comes.
fn spaced(schema: Value) -> Value {
    separated(schema, ", ", ": ")
}

fn separated(mut schema: Value, item: &str, key: &str) -> Value {
    if schema == Value::Bool(true) {
        schema = json!({});
    }
    if let Some(members) = schema.as_object_mut() {
        members.insert(
            "x-guidance".to_owned(),
            json!({"whitespace_flexible": false, "item_separator": item, "key_separator": key}),
        );
    }
    schema
}

#[cfg(test)]
mod tests;
