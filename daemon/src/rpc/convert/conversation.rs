//! Conversations, from the wire to the domain: who said what, which calls were answered, and what may be called.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use hearth_proto::v1 as pb;
use serde_json::Value;

use super::super::status::Invalid;
use super::request::unknown;
use crate::engines::request::{Conversation, Message, Role, Thinking, Tool, ToolCall, ToolChoice, ToolMode};

/// Where a conversation is in a request.
const PATH: &str = "prompt.conversation";

/// Bound of the API, as its comments state it.
const TOOL_NAME: RangeInclusive<usize> = 1..=64;

/// What a client says between two turns of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Next {
    /// The results, in the order in which they were sent, and what else was said.
    pub(crate) messages: Vec<Message>,
    /// Absent: as before.
    pub(crate) tool_choice: Option<ToolChoice>,
}

/// The calls of a conversation so far, and which of them wait for their results.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    known: HashSet<String>,
    open: Vec<Open>,
    /// Counts the messages that made calls.
    rounds: usize,
}

#[derive(Debug)]
struct Open {
    id: String,
    round: usize,
}

pub(super) fn conversation_of(conversation: pb::Conversation) -> Result<Conversation, Invalid> {
    let pb::Conversation { messages, tools, tool_choice, thinking, thinking_budget } = conversation;
    let thinking = thinking_of(thinking)?;
    check_thinking_budget(thinking_budget, thinking)?;
    if messages.is_empty() {
        return Err(Invalid::new(format!("{PATH}.messages"), "is required"));
    }
    let mut calls = Calls::default();
    let messages = messages.into_iter().enumerate();
    let messages =
        messages.map(|(i, message)| message_of(&format!("{PATH}.messages[{i}]"), message, &mut calls));
    let messages = messages.collect::<Result<_, _>>()?;
    let mut names = HashSet::new();
    let tools = tools.into_iter().enumerate();
    let tools = tools.map(|(i, tool)| tool_of(&format!("{PATH}.tools[{i}]"), tool, &mut names));
    let tools = tools.collect::<Result<Vec<_>, _>>()?;
    let tool_choice =
        tool_choice_of(&format!("{PATH}.tool_choice"), tool_choice.unwrap_or_default(), &tools)?;
    Ok(Conversation { messages, tools, tool_choice, thinking, thinking_budget, date: None })
}

fn thinking_of(thinking: i32) -> Result<Thinking, Invalid> {
    match pb::Thinking::try_from(thinking) {
        Ok(pb::Thinking::Unspecified) => Ok(Thinking::Default),
        Ok(pb::Thinking::On) => Ok(Thinking::On),
        Ok(pb::Thinking::Off) => Ok(Thinking::Off),
        Err(_) => Err(unknown(format!("{PATH}.thinking"), thinking)),
    }
}

fn check_thinking_budget(budget: Option<u32>, thinking: Thinking) -> Result<(), Invalid> {
    let bad = |why| Err(Invalid::new(format!("{PATH}.thinking_budget"), why));
    match budget {
        Some(0) => bad("must be at least 1; THINKING_OFF answers at once"),
        Some(_) if thinking == Thinking::Off => {
            bad("is only for a model that thinks, and THINKING_OFF was chosen")
        }
        _ => Ok(()),
    }
}

/// Whether tools are called, and which. `path` is that of the choice.
fn tool_choice_of(path: &str, choice: pb::ToolChoice, tools: &[Tool]) -> Result<ToolChoice, Invalid> {
    use pb::tool_choice::Mode;
    let pb::ToolChoice { mode, name, parallel } = choice;
    let named = |why: String| Invalid::new(format!("{path}.name"), why);
    let wanted = Mode::try_from(mode).map_err(|_| unknown(format!("{path}.mode"), mode))?;
    if wanted != Mode::Named && !name.is_empty() {
        return Err(named("is only for MODE_NAMED".to_owned()));
    }
    let mode = match wanted {
        Mode::Unspecified | Mode::Auto => ToolMode::Auto,
        Mode::None => ToolMode::None,
        Mode::Required if tools.is_empty() => {
            return Err(Invalid::new(format!("{path}.mode"), "needs a tool that can be called"));
        }
        Mode::Required => ToolMode::Required,
        Mode::Named if name.is_empty() => return Err(named("is required for MODE_NAMED".to_owned())),
        Mode::Named if tools.iter().all(|tool| tool.name != name) => {
            return Err(named(format!("no tool `{name}` is declared")));
        }
        Mode::Named => ToolMode::Named(name),
    };
    Ok(ToolChoice { mode, parallel })
}

impl Next {
    /// What follows a turn whose calls are the last ones in `calls`: a result for each, then anything else.
    pub(crate) fn of(next: pb::NextTurn, calls: &mut Calls, tools: &[Tool]) -> Result<Self, Invalid> {
        let pb::NextTurn { messages, tool_choice } = next;
        let mut results_are_over = false;
        let mut said = Vec::with_capacity(messages.len());
        for (i, message) in messages.into_iter().enumerate() {
            let path = format!("next.messages[{i}]");
            let message = message_of(&path, message, calls)?;
            let why = match message.role {
                Role::Tool if results_are_over => Some("results come before anything else"),
                Role::Assistant => Some("must not be the model's: the daemon knows what the model said"),
                Role::Tool => None,
                Role::User | Role::System => {
                    results_are_over = true;
                    None
                }
            };
            if let Some(why) = why {
                return Err(Invalid::new(format!("{path}.role"), why));
            }
            said.push(message);
        }
        if let Some(id) = calls.first_open() {
            return Err(Invalid::new("next.messages", format!("has no result of the call `{id}`")));
        }
        let choice = tool_choice.map(|choice| tool_choice_of("next.tool_choice", choice, tools));
        Ok(Self { messages: said, tool_choice: choice.transpose()? })
    }
}

impl Calls {
    /// The calls of a conversation that was checked already.
    pub(crate) fn of(messages: &[Message]) -> Self {
        let mut calls = Self::default();
        for message in messages {
            if let Some(id) = &message.tool_call_id {
                calls.open.retain(|open| open.id != *id);
            }
            calls.made(&message.tool_calls);
        }
        calls
    }

    /// The model made these calls, whose ids are its own.
    pub(crate) fn made(&mut self, made: &[ToolCall]) {
        if made.is_empty() {
            return;
        }
        self.begin_round();
        for call in made {
            self.add(call.id.clone());
        }
    }

    fn begin_round(&mut self) {
        self.rounds += 1;
    }

    /// False: there was a call with this id before.
    fn add(&mut self, id: String) -> bool {
        let is_new = self.known.insert(id.clone());
        if is_new {
            self.open.push(Open { id, round: self.rounds });
        }
        is_new
    }

    /// A call of the last round that waits for its result.
    fn first_open(&self) -> Option<&str> {
        let open = self.open.iter().find(|open| open.round == self.rounds);
        open.map(|open| open.id.as_str())
    }

    /// A result came. One without an id is that of the first call of the last round that has none yet; returns
    /// the id of its call.
    fn answered(&mut self, path: &str, id: Option<String>) -> Result<String, Invalid> {
        let field = || format!("{path}.tool_call_id");
        let by_order = || self.first_open().map(str::to_owned);
        let Some(id) = id.clone().or_else(by_order) else {
            return Err(Invalid::new(field(), "no call before waits for a result"));
        };
        match self.open.iter().position(|open| open.id == id) {
            Some(place) => Ok(self.open.remove(place).id),
            None if self.known.contains(&id) => {
                Err(Invalid::new(field(), format!("the call `{id}` has its result already")))
            }
            None => Err(Invalid::new(field(), format!("no call before has the id `{id}`"))),
        }
    }
}

fn message_of(path: &str, message: pb::Message, calls: &mut Calls) -> Result<Message, Invalid> {
    let field = |name: &str| format!("{path}.{name}");
    let role = match pb::Role::try_from(message.role) {
        Ok(pb::Role::System) => Role::System,
        Ok(pb::Role::User) => Role::User,
        Ok(pb::Role::Assistant) => Role::Assistant,
        Ok(pb::Role::Tool) => Role::Tool,
        Ok(pb::Role::Unspecified) => return Err(Invalid::new(field("role"), "is required")),
        Err(_) => return Err(unknown(field("role"), message.role)),
    };
    let pb::Message { role: _, parts, tool_calls, tool_call_id, reasoning, name } = message;
    only(role == Role::Assistant || tool_calls.is_empty(), field("tool_calls"), "an assistant")?;
    only(role == Role::Assistant || reasoning.is_none(), field("reasoning"), "an assistant")?;
    only(role == Role::Tool || tool_call_id.is_none(), field("tool_call_id"), "a tool")?;
    if parts.is_empty() && tool_calls.is_empty() {
        return Err(Invalid::new(field("parts"), "is required"));
    }
    let tool_call_id = match role {
        Role::Tool => Some(calls.answered(path, tool_call_id)?),
        Role::System | Role::User | Role::Assistant => None,
    };
    let parts = parts.into_iter().enumerate();
    let parts = parts.map(|(i, part)| part_of(&format!("{path}.parts[{i}]"), part));
    let parts = parts.collect::<Result<_, _>>()?;
    if !tool_calls.is_empty() {
        calls.begin_round();
    }
    let tool_calls = tool_calls.into_iter().enumerate();
    let tool_calls = tool_calls.map(|(i, call)| call_of(&format!("{path}.tool_calls[{i}]"), call, calls));
    let tool_calls = tool_calls.collect::<Result<_, _>>()?;
    Ok(Message { role, parts, tool_calls, tool_call_id, reasoning, name })
}

fn only(fits: bool, field: String, who: &str) -> Result<(), Invalid> {
    if fits { Ok(()) } else { Err(Invalid::new(field, format!("is only for a message of {who}"))) }
}

fn part_of(path: &str, part: pb::ContentPart) -> Result<String, Invalid> {
    use pb::content_part::Part;
    match part.part {
        Some(Part::Text(text)) => Ok(text),
        None => Err(Invalid::new(path, "has no content that this daemon knows")),
    }
}

fn call_of(path: &str, call: pb::ToolCall, calls: &mut Calls) -> Result<ToolCall, Invalid> {
    let pb::ToolCall { id, name, arguments } = call;
    if id.is_empty() {
        return Err(Invalid::new(format!("{path}.id"), "is required"));
    }
    if !calls.add(id.clone()) {
        return Err(Invalid::new(format!("{path}.id"), format!("`{id}` is the id of a call before")));
    }
    check_tool_name(&format!("{path}.name"), &name)?;
    check_object(&format!("{path}.arguments"), &arguments)?;
    Ok(ToolCall { id, name, arguments })
}

fn tool_of(path: &str, tool: pb::Tool, names: &mut HashSet<String>) -> Result<Tool, Invalid> {
    let pb::Tool { name, description, parameters } = tool;
    check_tool_name(&format!("{path}.name"), &name)?;
    if !names.insert(name.clone()) {
        return Err(Invalid::new(format!("{path}.name"), format!("`{name}` is declared twice")));
    }
    if let Some(parameters) = &parameters {
        check_object(&format!("{path}.parameters"), parameters)?;
    }
    Ok(Tool { name, description, parameters })
}

fn check_tool_name(path: &str, name: &str) -> Result<(), Invalid> {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    if TOOL_NAME.contains(&name.len()) && name.bytes().all(known) {
        return Ok(());
    }
    Err(Invalid::new(path, "must have 1 to 64 characters out of A-Z a-z 0-9 _ - ."))
}

/// JSON whose outermost value is an object. serde_json bounds its depth.
fn check_object(path: &str, text: &str) -> Result<(), Invalid> {
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(_)) => Ok(()),
        Ok(_) => Err(Invalid::new(path, "is JSON but not an object")),
        Err(error) => Err(Invalid::new(path, format!("is not JSON: {error}"))),
    }
}
