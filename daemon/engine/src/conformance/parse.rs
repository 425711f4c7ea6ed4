//! Parse vectors: what an answer means, however its bytes are cut.

use std::path::Path;

use super::Failure;
use super::vector::{self, VectorError, get, items, optional_text, text};
use crate::chat::json::Json;
use crate::chat::{
    Chat, Conversation, Delta, End, Finish, Message, ModelFacts, Parser, Role, Thinking, Tool, ToolChoice,
};

/// Templates that look like those of the families: the parser depends on no more than that.
const LOOKS: [(&str, &str); 3] = [
    ("qwen3", "<|im_start|> <tool_call> {{ tools }} </think> {{ messages }}"),
    ("glm4", "<|observation|> {{ tools }} {{ messages }}"),
    ("llama", "<|start_header_id|> ipython {{ tools }} {{ messages }}"),
];

/// What an answer was read as.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) reasoning: String,
    pub(crate) content: String,
    /// Names and arguments.
    pub(crate) calls: Vec<(String, String)>,
    pub(crate) finish: String,
    /// Deltas that contradict each other.
    pub(crate) faults: Vec<String>,
}

/// Checks one vector: byte by byte, as a whole, and cut in two at every byte.
pub(super) fn check(path: &Path) -> Result<(), Failure> {
    let json = vector::read(path)?;
    check_with(&json, &parser(&json)?)
}

pub(crate) fn check_with(json: &Json, parser: &Parser) -> Result<(), Failure> {
    let end = match get(json, "stop").map_or(Ok(""), |stop| text(stop, "kind"))? {
        "length" => End::Limit,
        _ => End::Natural,
    };
    let bytes = text(json, "text")?.as_bytes();
    let wanted = expected(json)?;
    let compare = |how: String, found: &Reading| {
        if agrees(&wanted, found) { Ok(()) } else { Failure::compare(how, &wanted.lines(), &found.lines()) }
    };
    compare("byte by byte".to_owned(), &Reading::of(parser, bytes.chunks(1), end))?;
    for at in 0..=bytes.len() {
        let (first, second) = bytes.split_at(at);
        compare(format!("cut at byte {at}"), &Reading::of(parser, [first, second].into_iter(), end))?;
    }
    Ok(())
}

/// A parser as the engine gets it for the answer to a request.
fn parser(json: &Json) -> Result<Parser, VectorError> {
    let (architecture, _) = vector::family(text(json, "model")?);
    let look = LOOKS.iter().find(|(name, _)| *name == architecture).map_or("", |(_, look)| look);
    let unusable = |error: &dyn std::error::Error| VectorError::Unusable(error.to_string());
    let chat = Chat::new(ModelFacts {
        architecture: architecture.to_owned(),
        template: Some(look.to_owned()),
        ..ModelFacts::default()
    });
    let chat = chat.map_err(|error| unusable(&error))?;
    let name = |tool: &Json| match tool {
        Json::String(name) => Tool::new(0, name, None, None).map_err(|error| unusable(&error)),
        _ => Err(VectorError::Field { field: "tools".to_owned(), wanted: "names" }),
    };
    let request = Conversation {
        messages: vec![Message::text(Role::User, "")],
        tools: items(json, "tools")?.iter().map(name).collect::<Result<_, _>>()?,
        tool_choice: ToolChoice::Auto,
        parallel: None,
        thinking: match get(json, "thinking") {
            Some(Json::Bool(true)) => Thinking::On,
            Some(Json::Bool(false)) => Thinking::Off,
            _ => Thinking::ModelDefault,
        },
        thinking_budget: None,
        add_generation_prompt: true,
        date: None,
    };
    let prompt = chat.render(&request).map_err(|error| unusable(&error))?;
    Ok(chat.parser(&request, &prompt))
}

fn expected(json: &Json) -> Result<Reading, VectorError> {
    let Some(expected) = get(json, "expected") else {
        return Err(VectorError::Field { field: "expected".to_owned(), wanted: "an object" });
    };
    let call = |call: &Json| {
        let arguments = match optional_text(call, "arguments_text")? {
            Some(text) => text.to_owned(),
            None => get(call, "arguments").map(Json::to_string).unwrap_or_default(),
        };
        Ok((text(call, "name")?.to_owned(), arguments))
    };
    Ok(Reading {
        reasoning: optional_text(expected, "reasoning")?.unwrap_or_default().to_owned(),
        content: optional_text(expected, "content")?.unwrap_or_default().to_owned(),
        calls: items(expected, "tool_calls")?.iter().map(call).collect::<Result<_, VectorError>>()?,
        finish: text(expected, "finish")?.to_owned(),
        faults: Vec::new(),
    })
}

/// Arguments agree as text or as JSON.
fn agrees(wanted: &Reading, found: &Reading) -> bool {
    let same = |wanted: &str, found: &str| {
        wanted == found || matches!((Json::parse(wanted), Json::parse(found)), (Ok(a), Ok(b)) if a == b)
    };
    let calls = wanted.calls.iter().zip(&found.calls);
    (&wanted.reasoning, &wanted.content, &wanted.finish) == (&found.reasoning, &found.content, &found.finish)
        && found.faults.is_empty()
        && wanted.calls.len() == found.calls.len()
        && calls.into_iter().all(|(wanted, found)| wanted.0 == found.0 && same(&wanted.1, &found.1))
}

impl Reading {
    /// Reads an answer that comes in pieces.
    pub(crate) fn of<'a>(parser: &Parser, pieces: impl Iterator<Item = &'a [u8]>, end: End) -> Self {
        let mut parser = parser.clone();
        let mut deltas = Vec::new();
        for piece in pieces {
            // Each piece has deltas of its own, as the engine's tokens do.
            let mut out = Vec::new();
            parser.push(piece, &mut out);
            deltas.extend(out);
        }
        let finish = parser.finish(end, &mut deltas);
        let mut reading = Self::collect(deltas, finish);
        if parser.calls_made() as usize != reading.calls.len() {
            reading.faults.push(format!("the parser counts {} calls", parser.calls_made()));
        }
        reading
    }

    /// Adds up the deltas, and checks that the parts of each call make the whole.
    fn collect(deltas: Vec<Delta>, finish: Finish) -> Self {
        let finish = match finish {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::ToolCalls => "tool_calls",
        };
        let mut reading = Self { finish: finish.to_owned(), ..Self::default() };
        let mut open: Option<(u32, String, String)> = None;
        for delta in deltas {
            match delta {
                Delta::Reasoning(text) => reading.reasoning.push_str(&text),
                Delta::Text(text) => reading.content.push_str(&text),
                Delta::ToolCallStarted { index, name } => open = Some((index, name, String::new())),
                Delta::ToolCallArguments { index, json } => match &mut open {
                    Some(open) if open.0 == index => open.2.push_str(&json),
                    _ => reading.faults.push(format!("arguments of call {index}, which is not open")),
                },
                Delta::ToolCallCompleted { index, name, arguments } => {
                    let parts = open.take();
                    if parts != Some((index, name.clone(), arguments.clone())) {
                        reading.faults.push(format!("call {index} is not what its parts were"));
                    }
                    reading.calls.push((name, arguments));
                }
            }
        }
        reading
    }

    /// For people to compare.
    fn lines(&self) -> String {
        let calls: String =
            self.calls.iter().map(|(name, arguments)| format!("call {name} {arguments}\n")).collect();
        let faults: String = self.faults.iter().map(|fault| format!("FAULT {fault}\n")).collect();
        format!(
            "finish {}\nreasoning {:?}\ncontent {:?}\n{calls}{faults}",
            self.finish, self.reasoning, self.content
        )
    }
}
