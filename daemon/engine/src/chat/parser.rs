//! Reads the model's answer as it comes.
//!
//! ```text
//!  bytes ── utf8 ──► characters ── thinking ──► reasoning deltas
//!                                     └── content ── calls ──► text and tool-call deltas
//! ```
//!
//! Each stage takes one character at a time and keeps what it cannot decide yet, so the cuts of the
//! input make no difference. What is kept is bounded by [`MAX_HELD`] in each stage, and a character
//! is looked at a fixed number of times at most: see `tags`, `json_calls` and `lines`, which read
//! the calls of one family each.

mod code;
mod early;
mod fence;
mod function;
mod json_calls;
mod lines;
mod markers;
mod outline;
mod prose;
mod python;
mod shape;
mod tags;
mod thinking;
mod utf8;

use super::delta::{Delta, End, Finish};
use early::Early;
use json_calls::JsonCalls;
use lines::Lines;
use tags::Tags;
use thinking::ThinkSplit;
use utf8::Utf8;

pub use thinking::{Blocks, Phase};

/// Most text that is held back while it may still become a call or a separator. Beyond it, text is
/// text.
pub const MAX_HELD: usize = 1024 * 1024;

/// Most text of an open call that [`Parser::open_call`] gives, since it is asked at every token. A
/// call that went on for so long without a grammar was not just opened.
const MAX_OPEN: usize = 4096;

/// How calls are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// JSON in `<tool_call>` tags: Qwen and many others.
    Tags,
    /// Bare JSON, and what follows `<|python_tag|>`: Llama 3.1.
    Json,
    /// A name on a line and JSON below: GLM-4.
    Lines,
}

/// The parser of one answer.
#[derive(Debug, Clone)]
pub struct Parser {
    utf8: Utf8,
    thinking: ThinkSplit,
    content: Content,
    /// Says the parts of calls that a grammar holds as they come.
    early: Option<Early>,
}

/// A call that the model has just opened: the text that follows it is bound by a grammar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenCall {
    /// The tool whose arguments come, if its name was said; else the whole call comes.
    pub tool: Option<String>,
    /// What was written of it already: behind the marker, the line with the name, or the quote that
    /// ends the name.
    pub rest: String,
    /// Whether it is the whole candidate, not an item of a list, which may still turn out to be text.
    pub alone: bool,
}

/// Calls that are held to a grammar from here on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// How they are written.
    pub style: Style,
    /// The call that the model opened, if one is open.
    pub open: Option<OpenCall>,
    /// What was written under the grammar already, without an open call.
    pub seen: Vec<u8>,
}

impl Parser {
    /// A parser that splits off thinking blocks and reads calls to these tools in tags. Without
    /// tools nothing is a call.
    pub fn new(blocks: Blocks, tools: Vec<String>) -> Self {
        Self::reading(Style::Tags, blocks, tools)
    }

    /// A parser of calls in this style.
    pub fn reading(style: Style, blocks: Blocks, tools: Vec<String>) -> Self {
        let content = Content::new(style, tools);
        Self {
            utf8: Utf8::default(),
            thinking: ThinkSplit::new(blocks, content.reads_tags()),
            content,
            early: None,
        }
    }

    /// Takes more bytes of the answer and appends what they decide. Text may be added to the last
    /// delta of `out` where it is of the same kind.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<Delta>) {
        let text = self.utf8.push(bytes);
        let Some(early) = &mut self.early else { return self.read(&text, out) };
        early.push(&text, out);
        let mut deltas = Vec::new();
        self.read(&text, &mut deltas);
        out.extend(deltas.into_iter().filter(|delta| !self.was_said(delta)));
    }

    /// A grammar holds the calls that come: what is known of them is said at once.
    pub fn hold(&mut self, hold: &Hold, out: &mut Vec<Delta>) {
        let mut early = Early::new(hold.style, self.calls_made(), hold.open.as_ref(), out);
        early.push(&String::from_utf8_lossy(&hold.seen), out);
        self.early = Some(early);
    }

    fn was_said(&self, delta: &Delta) -> bool {
        self.early.as_ref().is_some_and(|early| early.said(delta))
    }

    /// Decides what is still open, since no more bytes come.
    pub fn finish(&mut self, end: End, out: &mut Vec<Delta>) -> Finish {
        let text = self.utf8.finish();
        let mut deltas = Vec::new();
        self.read(&text, &mut deltas);
        self.thinking.finish(end, &mut self.content, &mut deltas);
        self.content.finish(end, &mut deltas);
        // A call that was cut off is no text where its parts were said.
        let cut_off = self.early.as_ref().is_some_and(|early| early.is_open(self.calls_made()));
        deltas.retain(|delta| !(self.was_said(delta) || cut_off && matches!(delta, Delta::Text(_))));
        out.extend(deltas);
        match end {
            End::Limit => Finish::Length,
            End::Natural if self.calls_made() > 0 => Finish::ToolCalls,
            End::Natural => Finish::Stop,
        }
    }

    /// The call that the model has just opened, if one is open and not whole yet. Cheap enough to
    /// ask after every token. Nothing is open inside a thinking block or without tools.
    pub fn open_call(&self) -> Option<OpenCall> {
        let (tool, rest) = self.content.open_call()?;
        (rest.len() <= MAX_OPEN).then(|| OpenCall {
            tool: tool.map(str::to_owned),
            rest: rest.to_owned(),
            alone: self.content.is_alone(),
        })
    }

    /// Whether the model thinks, answers, or did not begin with either.
    pub fn phase(&self) -> Phase {
        self.thinking.phase()
    }

    /// Whole calls so far.
    pub fn calls_made(&self) -> u32 {
        self.content.made()
    }

    fn read(&mut self, text: &str, out: &mut Vec<Delta>) {
        for c in text.chars() {
            self.thinking.push(c, &mut self.content, out);
        }
    }
}

/// What follows the thinking, read in the style of its family.
#[derive(Debug, Clone)]
enum Content {
    Tags(Tags),
    Json(Box<JsonCalls>),
    Lines(Lines),
}

impl Content {
    fn new(style: Style, tools: Vec<String>) -> Self {
        match style {
            Style::Tags => Self::Tags(Tags::new(tools)),
            Style::Json => Self::Json(Box::new(JsonCalls::new(tools))),
            Style::Lines => Self::Lines(Lines::new(tools)),
        }
    }

    /// Whether calls in tags are read, which may end a thinking block.
    fn reads_tags(&self) -> bool {
        matches!(self, Self::Tags(tags) if tags.reads_calls())
    }

    fn made(&self) -> u32 {
        match self {
            Self::Tags(content) => content.made(),
            Self::Json(content) => content.made(),
            Self::Lines(content) => content.made(),
        }
    }

    fn open_call(&self) -> Option<(Option<&str>, &str)> {
        let named = |(name, rest)| (Some(name), rest);
        match self {
            Self::Tags(content) => content.open_call().map(|rest| (None, rest)),
            Self::Json(content) => content.open_call().map(named),
            Self::Lines(content) => content.open_call().map(named),
        }
    }

    /// Whether the open call is not an item of a list.
    fn is_alone(&self) -> bool {
        match self {
            Self::Json(content) => content.is_alone(),
            Self::Tags(_) | Self::Lines(_) => true,
        }
    }

    fn push_all(&mut self, text: &str, out: &mut Vec<Delta>) {
        for c in text.chars() {
            self.push(c, out);
        }
    }

    fn push(&mut self, c: char, out: &mut Vec<Delta>) {
        match self {
            Self::Tags(content) => content.push(c, out),
            Self::Json(content) => content.push(c, out),
            Self::Lines(content) => content.push(c, out),
        }
    }

    fn finish(&mut self, end: End, out: &mut Vec<Delta>) {
        match self {
            Self::Tags(content) => content.finish(out),
            Self::Json(content) => content.finish(end, out),
            Self::Lines(content) => content.finish(out),
        }
    }
}

/// Appends to the reasoning.
fn say_reasoning(text: &str, out: &mut Vec<Delta>) {
    match out.last_mut() {
        _ if text.is_empty() => {}
        Some(Delta::Reasoning(last)) => last.push_str(text),
        _ => out.push(Delta::Reasoning(text.to_owned())),
    }
}

/// Appends to the answer.
fn say_text(text: &str, out: &mut Vec<Delta>) {
    match out.last_mut() {
        _ if text.is_empty() => {}
        Some(Delta::Text(last)) => last.push_str(text),
        _ => out.push(Delta::Text(text.to_owned())),
    }
}

#[cfg(test)]
mod tests;
