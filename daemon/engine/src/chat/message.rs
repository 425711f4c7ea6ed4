//! The conversation as the chat formats see it: no wire types, no tokens.

use super::json::{Json, JsonError};

/// One request's conversation.
#[derive(Debug, Clone)]
pub struct Conversation {
    /// Messages, oldest first.
    pub messages: Vec<Message>,
    /// Declared tools; none declared and an empty list are the same.
    pub tools: Vec<Tool>,
    /// Whether the model may call them.
    pub tool_choice: ToolChoice,
    /// Whether one answer may make several calls; `None`: as the dialect has it.
    pub parallel: Option<bool>,
    /// Whether the model should think first.
    pub thinking: Thinking,
    /// Most tokens of a thought.
    pub thinking_budget: Option<u32>,
    /// Whether the prompt ends by opening the assistant's turn.
    pub add_generation_prompt: bool,
    /// What templates that print a date print; without it they use their own or none.
    pub date: Option<Date>,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The operator of the model.
    System,
    /// A newer name for the operator, rendered as [`Role::System`].
    Developer,
    /// The person or program that asks.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

/// One message.
#[derive(Debug, Clone)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// Text parts, rendered with one newline between them; none is the empty text.
    pub parts: Vec<String>,
    /// The assistant's thinking before this message.
    pub reasoning: Option<String>,
    /// Calls the assistant made in this message.
    pub tool_calls: Vec<ToolCall>,
    /// Which call a tool message answers.
    pub tool_call_id: Option<String>,
    /// Name of the speaker or tool, which few templates print.
    pub name: Option<String>,
}

/// One call in the assistant's history.
#[derive(Debug, Clone)]
pub struct ToolCall {
    /// Identifier that the result refers to.
    pub id: String,
    /// Name of the tool.
    pub name: String,
    /// JSON text; should be an object, and is passed on as text if it is not.
    pub arguments: String,
}

/// Whether the model may call tools. The definitions are rendered either way: dropping them would
/// change the very beginning of the prompt and cost the whole prefix cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChoice {
    /// Nothing the model writes is a call.
    None,
    /// The model decides.
    Auto,
    /// At least one call, and nothing else.
    Required,
    /// As `Required`, of the tool with this name.
    Named(String),
}

/// Whether the model should think first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thinking {
    /// It should.
    On,
    /// It should not.
    Off,
    /// What the template does when nothing is said.
    ModelDefault,
}

/// A declared tool.
#[derive(Debug, Clone)]
pub struct Tool {
    name: String,
    definition: Json,
}

/// Why a tool declaration is refused. Fields are named as the API names them.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// No name.
    #[error("tools[{index}].name: empty")]
    NoName {
        /// Position in the request.
        index: usize,
    },
    /// The schema is no JSON.
    #[error("tools[{index}].parameters: not JSON")]
    NotJson {
        /// Position in the request.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: JsonError,
    },
    /// The schema is JSON, but no object.
    #[error("tools[{index}].parameters: not a JSON object but {found}")]
    NotAnObject {
        /// Position in the request.
        index: usize,
        /// What it is.
        found: &'static str,
    },
}

/// A calendar day, since templates print dates and this module has no clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    /// The year, such as 2024.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
}

/// The text is no date of the form `26 Jul 2024`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a date like \"26 Jul 2024\"")]
pub struct DateError;

impl Conversation {
    /// Names of the tools that the answer may call.
    pub(crate) fn callable(&self) -> Vec<String> {
        let named = |tool: &&Tool| match &self.tool_choice {
            ToolChoice::None => false,
            ToolChoice::Auto | ToolChoice::Required => true,
            ToolChoice::Named(name) => tool.name == *name,
        };
        self.tools.iter().filter(named).map(|tool| tool.name.clone()).collect()
    }
}

impl Message {
    /// A message of one text and nothing else.
    pub fn text(role: Role, text: impl Into<String>) -> Self {
        Self {
            role,
            parts: vec![text.into()],
            reasoning: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
            name: None,
        }
    }

    /// The parts as one text (rule N2).
    pub fn content(&self) -> String {
        self.parts.join("\n")
    }
}

impl Role {
    /// The name templates know; developer is a system message (rule N1).
    pub(crate) fn as_template_str(self) -> &'static str {
        match self {
            Self::System | Self::Developer => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

impl Tool {
    /// Builds the definition that templates print from the parts of a declaration. `index` is the
    /// tool's position in the request, for errors. No `parameters` means a tool without a schema.
    pub fn new(
        index: usize,
        name: &str,
        description: Option<&str>,
        parameters: Option<&str>,
    ) -> Result<Self, ToolError> {
        if name.is_empty() {
            return Err(ToolError::NoName { index });
        }
        let mut function = vec![("name".to_owned(), Json::String(name.to_owned()))];
        if let Some(text) = description {
            function.push(("description".to_owned(), Json::String(text.to_owned())));
        }
        if let Some(text) = parameters {
            function.push(("parameters".to_owned(), schema(index, text)?));
        }
        let definition = Json::Object(vec![
            ("type".to_owned(), Json::String("function".to_owned())),
            ("function".to_owned(), Json::Object(function)),
        ]);
        Ok(Self { name: name.to_owned(), definition })
    }

    /// The name a call must use.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The schema of the arguments, where there is one.
    pub(crate) fn parameters(&self) -> Option<serde_json::Value> {
        self.definition.member("function")?.member("parameters").map(Json::to_value)
    }

    /// The definition, keys in declared order, numbers untouched.
    pub fn definition(&self) -> &Json {
        &self.definition
    }
}

fn schema(index: usize, text: &str) -> Result<Json, ToolError> {
    let json = Json::parse(text).map_err(|source| ToolError::NotJson { index, source })?;
    match json {
        Json::Object(_) => Ok(json),
        other => Err(ToolError::NotAnObject { index, found: other.kind() }),
    }
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

impl Date {
    /// Reads `26 Jul 2024`.
    pub fn parse(text: &str) -> Result<Self, DateError> {
        let mut words = text.split_whitespace();
        let (Some(day), Some(month), Some(year), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(DateError);
        };
        let date = Self {
            year: year.parse().map_err(|_| DateError)?,
            month: (1..).zip(MONTHS).find(|(_, name)| name[..3] == *month).ok_or(DateError)?.0,
            day: day.parse().map_err(|_| DateError)?,
        };
        if (1..=31).contains(&date.day) { Ok(date) } else { Err(DateError) }
    }

    /// Formats like `strftime` at midnight; conversions it does not know are kept as they are.
    pub(crate) fn strftime(self, format: &str) -> String {
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c == '%' {
                out.push_str(&self.conversion(chars.next()));
            } else {
                out.push(c);
            }
        }
        out
    }

    fn conversion(self, letter: Option<char>) -> String {
        let Self { year, month, day } = self;
        let month_name = MONTHS[usize::from(month.clamp(1, 12)) - 1];
        match letter {
            Some('Y') => format!("{year:04}"),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('b') => month_name[..3].to_owned(),
            Some('B') => month_name.to_owned(),
            Some('y') => format!("{:02}", year % 100),
            Some('H' | 'M' | 'S') => "00".to_owned(),
            Some('%') | None => "%".to_owned(),
            Some(other) => format!("%{other}"),
        }
    }
}
