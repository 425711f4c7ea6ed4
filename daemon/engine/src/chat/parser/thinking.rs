//! Splits a leading `<think>` block from the answer.
//!
//! ```text
//!  Start ── <think> ──► Open ── </think> ──► Closed ── not a newline ──► Content
//!    │                   │ ▲
//!    │           <tool_call> too much text
//!    │                   ▼ │
//!    │               Undecided ── </think> ──► Closed
//!    └── anything else ──────────────────────────────────────────────► Content
//! ```
//!
//! Only a leading block is thinking (P9). A `<tool_call>` in an open block is thought if the block is
//! closed later, and a call if the model ends its turn there: models forget the closing tag. Until
//! then it cannot be shown as either.

use super::super::delta::{Delta, End};
use super::markers::Markers;
use super::tags::CALL;
use super::{Content, MAX_HELD, say_reasoning};

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// Which thinking blocks an answer may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocks {
    /// None: everything is the answer.
    None,
    /// The answer may open one.
    Leading,
    /// The prompt opened one already.
    Opened,
}

impl Blocks {
    /// From what is known of the template and the end of the prompt.
    pub fn new(template_knows: bool, prompt_opened: bool) -> Self {
        match (template_knows, prompt_opened) {
            (_, true) => Self::Opened,
            (true, false) => Self::Leading,
            (false, false) => Self::None,
        }
    }
}

/// Where an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing but white space or part of a marker came, and a block may still open.
    Start,
    /// A block is open.
    Thinking,
    /// The answer itself: no block can open any more.
    Answer,
}

/// The split of one answer.
#[derive(Debug, Clone)]
pub(super) struct ThinkSplit {
    state: State,
    markers: Markers,
    /// Text that is neither reasoning nor content yet.
    held: String,
    /// Newlines that end the reasoning unless more of it comes.
    newlines: usize,
    /// Whether there is reasoning yet; newlines before it are dropped.
    reasoned: bool,
    /// Whether a call in tags may end a block.
    with_tags: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    Open,
    Undecided,
    Closed,
    Content,
}

impl ThinkSplit {
    pub(super) fn new(blocks: Blocks, with_tags: bool) -> Self {
        let mut split = Self {
            state: State::Start,
            markers: Markers::new(&[OPEN]),
            held: String::new(),
            newlines: 0,
            reasoned: false,
            with_tags,
        };
        match blocks {
            Blocks::None => split.state = State::Content,
            Blocks::Leading => {}
            Blocks::Opened => split.open(),
        }
        split
    }

    pub(super) fn phase(&self) -> Phase {
        match self.state {
            State::Start => Phase::Start,
            State::Open | State::Undecided => Phase::Thinking,
            State::Closed | State::Content => Phase::Answer,
        }
    }

    pub(super) fn push(&mut self, c: char, content: &mut Content, out: &mut Vec<Delta>) {
        match self.state {
            State::Start => self.start(c, content, out),
            State::Open => self.think(c, out),
            State::Undecided => self.hold(c, out),
            State::Closed if c == '\n' => {}
            State::Closed | State::Content => {
                self.state = State::Content;
                content.push(c, out);
            }
        }
    }

    /// Decides what is open. Of a block that was never closed, everything is reasoning, unless the
    /// model ended its turn in it with a call.
    pub(super) fn finish(&mut self, end: End, content: &mut Content, out: &mut Vec<Delta>) {
        let rest = self.markers.take();
        match self.state {
            State::Start => {
                let held = std::mem::take(&mut self.held) + &rest;
                content.push_all(&held, out);
            }
            State::Open => self.reason_all(&rest, out),
            State::Undecided => {
                let held = std::mem::take(&mut self.held) + &rest;
                let is_call = end == End::Natural && self.end_in_call(&held, content, out);
                if !is_call {
                    self.reason_all(&held, out);
                }
            }
            State::Closed | State::Content => {}
        }
        self.state = State::Content;
    }

    fn open(&mut self) {
        self.state = State::Open;
        self.markers = Markers::new(if self.with_tags { &[CLOSE, CALL] } else { &[CLOSE] });
    }

    fn close(&mut self) {
        self.state = State::Closed;
        self.newlines = 0;
    }

    /// White space in front of the block belongs to it; in front of anything else it is content.
    fn start(&mut self, c: char, content: &mut Content, out: &mut Vec<Delta>) {
        let is_space = c.is_whitespace() && !self.markers.is_partial();
        if is_space && self.held.len() < MAX_HELD {
            self.held.push(c);
            return;
        }
        let found = self.markers.push(c);
        if found.marker.is_some() {
            self.held.clear();
            self.open();
        } else if !found.text.is_empty() {
            let held = std::mem::take(&mut self.held) + &found.text + &self.markers.take();
            self.state = State::Content;
            content.push_all(&held, out);
        }
    }

    fn think(&mut self, c: char, out: &mut Vec<Delta>) {
        let found = self.markers.push(c);
        self.reason_all(&found.text, out);
        match found.marker {
            Some(CLOSE) => self.close(),
            Some(call) => {
                self.state = State::Undecided;
                call.clone_into(&mut self.held);
                self.markers = Markers::new(&[CLOSE]);
            }
            None => {}
        }
    }

    fn hold(&mut self, c: char, out: &mut Vec<Delta>) {
        let found = self.markers.push(c);
        self.held.push_str(&found.text);
        let closed = found.marker.is_some();
        if closed || self.held.len() > MAX_HELD {
            let held = std::mem::take(&mut self.held) + &self.markers.take();
            self.reason_all(&held, out);
            self.open();
        }
        if closed {
            self.close();
        }
    }

    fn reason_all(&mut self, text: &str, out: &mut Vec<Delta>) {
        for c in text.chars() {
            self.reason(c, out);
        }
    }

    fn reason(&mut self, c: char, out: &mut Vec<Delta>) {
        if c == '\n' {
            self.newlines += usize::from(self.reasoned);
            return;
        }
        let newlines = "\n".repeat(std::mem::take(&mut self.newlines));
        self.reasoned = true;
        say_reasoning(&newlines, out);
        say_reasoning(c.encode_utf8(&mut [0; 4]), out);
    }

    /// Reads the held text as content. If it makes a call, what stands before the first one was
    /// reasoning, and the rest is as it was read. Else nothing happens.
    fn end_in_call(&mut self, held: &str, content: &mut Content, out: &mut Vec<Delta>) -> bool {
        let mut read = Vec::new();
        let mut calls = content.clone();
        calls.push_all(held, &mut read);
        calls.finish(End::Natural, &mut read);
        if calls.made() == 0 {
            return false;
        }
        let mut deltas = read.into_iter().peekable();
        while let Some(Delta::Text(text)) = deltas.next_if(|d| matches!(d, Delta::Text(_))) {
            self.reason_all(&text, out);
        }
        // The first text behind the calls was put on a new line, but what it was parted from is
        // reasoning and not content.
        let mut is_first = true;
        out.extend(deltas.map(|delta| match delta {
            Delta::Text(text) if std::mem::take(&mut is_first) => Delta::Text(without_newline(text)),
            other => other,
        }));
        *content = calls;
        true
    }
}

fn without_newline(text: String) -> String {
    match text.strip_prefix('\n') {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}
