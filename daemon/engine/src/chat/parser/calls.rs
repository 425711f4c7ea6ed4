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
use super::markers::Markers;
use super::shape::{Call, read_call};
use super::{MAX_HELD, say_text};

pub(super) const CALL: &str = "<tool_call>";
const END_OF_CALL: &str = "</tool_call>";

/// The content of one answer.
#[derive(Debug, Clone)]
pub(super) struct Calls {
    /// Declared names. Without any, everything is text.
    tools: Vec<String>,
    state: State,
    /// White space that is dropped if a call follows.
    spaces: String,
    /// Characters to read before any new one, the next one last.
    pending: Vec<char>,
    /// Calls so far.
    made: u32,
    /// Whether there was text that is not white space.
    said: bool,
    /// Whether the last thing was a call: white space behind it is dropped.
    after_call: bool,
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

impl Calls {
    pub(super) fn new(tools: Vec<String>) -> Self {
        Self {
            tools,
            state: State::text(),
            spaces: String::new(),
            pending: Vec::new(),
            made: 0,
            said: false,
            after_call: false,
        }
    }

    /// Whether any call was read.
    pub(super) fn made_any(&self) -> bool {
        self.made > 0
    }

    pub(super) fn push_all(&mut self, text: &str, out: &mut Vec<Delta>) {
        for c in text.chars() {
            self.push(c, out);
        }
    }

    pub(super) fn push(&mut self, c: char, out: &mut Vec<Delta>) {
        if self.tools.is_empty() {
            say_text(c.encode_utf8(&mut [0; 4]), out);
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
                    self.say_all(&markers.take(), out);
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
        say_text(&std::mem::take(&mut self.spaces), out);
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
                self.say_all(&found.text, out);
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
        self.say_all(CALL, out);
        self.pending.extend(text.chars().rev());
    }

    fn call(&mut self, call: Call, out: &mut Vec<Delta>) {
        let Call { name, arguments } = call;
        let index = self.made;
        self.state = State::text();
        self.spaces.clear();
        self.made += 1;
        self.after_call = true;
        out.extend([
            Delta::ToolCallStarted { index, name: name.clone() },
            Delta::ToolCallArguments { index, json: arguments.clone() },
            Delta::ToolCallCompleted { index, name, arguments },
        ]);
    }

    fn say_all(&mut self, text: &str, out: &mut Vec<Delta>) {
        for c in text.chars() {
            self.say(c, out);
        }
    }

    /// Text behind a call starts on a new line (P7).
    fn say(&mut self, c: char, out: &mut Vec<Delta>) {
        if c.is_whitespace() {
            self.space(c, out);
            return;
        }
        if std::mem::take(&mut self.after_call) && self.said {
            self.spaces.push('\n');
        }
        say_text(&std::mem::take(&mut self.spaces), out);
        say_text(c.encode_utf8(&mut [0; 4]), out);
        self.said = true;
    }

    fn space(&mut self, c: char, out: &mut Vec<Delta>) {
        if self.after_call {
            return;
        }
        self.spaces.push(c);
        if self.spaces.len() > MAX_HELD {
            say_text(&std::mem::take(&mut self.spaces), out);
        }
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
        match read_call(self.text.trim(), tools) {
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
