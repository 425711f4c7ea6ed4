//! Reads `<tool_call>` tags in the content.
//!
//! ```text
//!  Text ── <tool_call> ──► Body ── a whole object that is a call ──► Tail ── </tool_call> ──► Text
//!   ▲                       │                                          │
//!   └───────────────────────┴── anything else: it was text ◄───────────┘
//! ```
//!
//! A broken call is text with its markers (P8), so nothing of a call is said before it is whole.
//! When a candidate fails, its marker is text and what follows is read again, since it may hold the
//! marker of a good one. That stays linear: a marker inside a living candidate stands in one of its
//! strings, where the inner candidate reads the quotes the other way round, so no third one can
//! live beside these two, and each character is read three times at most.

use super::super::delta::Delta;
use super::super::json::scan::{ObjectScan, Step, is_space};
use super::MAX_HELD;
use super::markers::Markers;
use super::prose::Prose;
use super::shape::{Call, Missing, read_call};

pub(super) const CALL: &str = "<tool_call>";
const END_OF_CALL: &str = "</tool_call>";

/// The content of one answer.
#[derive(Debug, Clone)]
pub(super) struct Tags {
    /// Declared names. Without any, everything is text.
    tools: Vec<String>,
    state: State,
    prose: Prose,
    /// Characters to read before any new one, the next one last.
    pending: Vec<char>,
}

#[derive(Debug, Clone)]
enum State {
    Text(Markers),
    Candidate(Candidate),
}

/// Text that may become a call.
#[derive(Debug, Clone)]
struct Candidate {
    /// Everything behind the marker.
    text: String,
    part: Part,
}

#[derive(Debug, Clone)]
enum Part {
    Body(ObjectScan),
    Tail(Call, Markers),
}

/// What one character does to a candidate.
enum Verdict {
    Undecided,
    NoCall,
    Whole(Call),
}

impl State {
    fn text() -> Self {
        Self::Text(Markers::new(&[CALL]))
    }
}

impl Tags {
    pub(super) fn new(tools: Vec<String>) -> Self {
        let prose = Prose::new(!tools.is_empty());
        Self { tools, state: State::text(), prose, pending: Vec::new() }
    }

    /// Calls so far.
    pub(super) fn made(&self) -> u32 {
        self.prose.made()
    }

    /// Whether a call can be read at all.
    pub(super) fn reads_calls(&self) -> bool {
        !self.tools.is_empty()
    }

    /// Text behind the marker of a call whose object is not whole yet.
    pub(super) fn open_call(&self) -> Option<&str> {
        match &self.state {
            State::Candidate(Candidate { text, part: Part::Body(_) }) => Some(text),
            _ => None,
        }
    }

    pub(super) fn push(&mut self, c: char, out: &mut Vec<Delta>) {
        if self.tools.is_empty() {
            self.prose.say(c, out);
            return;
        }
        self.pending.push(c);
        self.read_pending(out);
    }

    /// Decides what is open: a whole object needs no closing tag any more, anything else is text.
    pub(super) fn finish(&mut self, out: &mut Vec<Delta>) {
        loop {
            match std::mem::replace(&mut self.state, State::text()) {
                State::Text(mut markers) => {
                    self.prose.say_all(&markers.take(), out);
                    break;
                }
                State::Candidate(Candidate { part: Part::Tail(call, _), .. }) => {
                    self.call(call, out);
                }
                State::Candidate(Candidate { text, part: Part::Body(_) }) => {
                    self.reject(&text, out);
                    self.read_pending(out);
                }
            }
        }
        self.prose.finish(out);
    }

    fn read_pending(&mut self, out: &mut Vec<Delta>) {
        while let Some(c) = self.pending.pop() {
            self.step(c, out);
        }
    }

    fn step(&mut self, c: char, out: &mut Vec<Delta>) {
        match &mut self.state {
            State::Text(markers) => {
                let found = markers.push(c);
                self.prose.say_all(&found.text, out);
                if found.marker.is_some() {
                    self.state = State::Candidate(Candidate::new());
                }
            }
            State::Candidate(candidate) => match candidate.push(c, &self.tools) {
                Verdict::Undecided => {}
                Verdict::Whole(call) => self.call(call, out),
                Verdict::NoCall => {
                    let text = std::mem::take(&mut candidate.text);
                    self.reject(&text, out);
                }
            },
        }
    }

    /// The candidate was text. Its marker cannot begin another, the rest can.
    fn reject(&mut self, text: &str, out: &mut Vec<Delta>) {
        self.state = State::text();
        self.prose.say_all(CALL, out);
        self.pending.extend(text.chars().rev());
    }

    fn call(&mut self, call: Call, out: &mut Vec<Delta>) {
        self.state = State::text();
        self.prose.call(call, out);
    }
}

impl Candidate {
    fn new() -> Self {
        Self { text: String::new(), part: Part::Body(ObjectScan::new()) }
    }

    fn push(&mut self, c: char, tools: &[String]) -> Verdict {
        self.text.push(c);
        if self.text.len() > MAX_HELD {
            return Verdict::NoCall;
        }
        match &mut self.part {
            Part::Body(scan) => match scan.push(c) {
                Step::More => Verdict::Undecided,
                Step::Invalid => Verdict::NoCall,
                Step::Done => self.end_of_body(tools),
            },
            Part::Tail(call, markers) => tail(c, call, markers),
        }
    }

    fn end_of_body(&mut self, tools: &[String]) -> Verdict {
        match read_call(self.text.trim(), tools, Missing::Empty) {
            Some(call) => {
                self.part = Part::Tail(call, Markers::new(&[END_OF_CALL]));
                Verdict::Undecided
            }
            None => Verdict::NoCall,
        }
    }
}

/// Behind the object only white space and the closing tag may come.
fn tail(c: char, call: &Call, markers: &mut Markers) -> Verdict {
    if is_space(c) && !markers.is_partial() {
        return Verdict::Undecided;
    }
    let found = markers.push(c);
    match found.marker {
        Some(_) => Verdict::Whole(call.clone()),
        None if found.text.is_empty() => Verdict::Undecided,
        None => Verdict::NoCall,
    }
}
