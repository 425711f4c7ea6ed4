//! Reads calls of GLM: the name of a declared tool on a line of its own, its arguments below.
//!
//! ```text
//!             ┌────────── not that line ─────────┐
//!             ▼                                  │
//!  Text ── line start ── NAME, newline ──► Candidate ── a whole object ──► call ──► line start
//!             ▲                                  │
//!             └── anything else: it was text ◄───┘
//! ```
//!
//! No marker says that a call begins, only that a line equals a declared name and an object follows
//! (P3, P11). So a line is held back as long as it may be a name. `<|assistant|>` begins a new
//! message, where one newline belongs to the format and not to the text; some tokens end the answer
//! where they reach it at all.
//!
//! When a candidate fails, its line is text and what stands below is read again. That stays linear:
//! a line of the failed part can begin another candidate only if it is a name, no line of a JSON
//! object is one but for a scalar such as `true`, and behind a scalar no object goes on: the second
//! candidate has its body where the first one failed.

use super::super::delta::Delta;
use super::super::json::scan::{ObjectScan, Step, is_space};
use super::MAX_HELD;
use super::code::Code;
use super::markers::Markers;
use super::prose::Prose;
use super::shape::Call;

const NEXT_MESSAGE: &str = "<|assistant|>";
const MARKERS: &[&str] = &[NEXT_MESSAGE, "<|observation|>", "<|user|>", "<|endoftext|>"];

/// The content of one answer.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    /// Declared names. Without any, there are no calls.
    tools: Vec<String>,
    /// Bytes of the longest name.
    longest: usize,
    state: State,
    markers: Markers,
    prose: Prose,
    code: Code,
    /// Characters to read before any new one, the next one last.
    pending: Vec<char>,
    /// Whether nothing of this message came yet: a newline then belongs to the format.
    fresh: bool,
    /// Whether text of this message must be parted from that of the one before.
    parted: bool,
}

#[derive(Debug, Clone)]
enum State {
    /// Only white space and the beginning of a name came in this line.
    Line(Held),
    /// This line cannot be a name.
    Prose,
    Candidate(Candidate),
    /// The answer is over: a token said so.
    Over,
}

/// The end of a line that may become a name.
#[derive(Debug, Clone, Default)]
struct Held {
    name: String,
    /// White space behind a whole name.
    behind: String,
}

/// A name and what stands below it.
#[derive(Debug, Clone)]
struct Candidate {
    name: String,
    /// White space between name and newline, the newline included.
    behind: String,
    /// Everything behind that newline.
    body: String,
    /// Where the object begins, once it did.
    start: Option<usize>,
    scan: ObjectScan,
}

/// What one character does to a candidate.
enum Verdict {
    Undecided,
    NoCall,
    Whole(Call),
}

impl State {
    fn line() -> Self {
        Self::Line(Held::default())
    }
}

impl Lines {
    pub(super) fn new(tools: Vec<String>) -> Self {
        Self {
            longest: tools.iter().map(String::len).max().unwrap_or(0),
            state: State::line(),
            markers: Markers::new(MARKERS),
            prose: Prose::new(!tools.is_empty()),
            tools,
            code: Code::new(),
            pending: Vec::new(),
            fresh: true,
            parted: false,
        }
    }

    /// Calls so far.
    pub(super) fn made(&self) -> u32 {
        self.prose.made()
    }

    /// The tool whose arguments come, and the text behind the newline below its name.
    pub(super) fn open_call(&self) -> Option<(&str, &str)> {
        match &self.state {
            State::Candidate(candidate) => Some((&candidate.name, &candidate.body)),
            _ => None,
        }
    }

    pub(super) fn push(&mut self, c: char, out: &mut Vec<Delta>) {
        self.pending.push(c);
        self.read_pending(out);
    }

    /// Decides what is open: it was text.
    pub(super) fn finish(&mut self, out: &mut Vec<Delta>) {
        while let State::Candidate(_) = &self.state {
            self.reject(out);
            self.read_pending(out);
        }
        if !matches!(self.state, State::Over) {
            let rest = self.markers.take();
            self.read_text(&rest, out);
            self.end_answer(out);
        }
    }

    fn read_pending(&mut self, out: &mut Vec<Delta>) {
        while let Some(c) = self.pending.pop() {
            self.step(c, out);
        }
    }

    fn step(&mut self, c: char, out: &mut Vec<Delta>) {
        match &mut self.state {
            State::Over => {}
            State::Candidate(candidate) => match candidate.push(c) {
                Verdict::Undecided => {}
                Verdict::NoCall => self.reject(out),
                Verdict::Whole(call) => {
                    self.prose.call(call, out);
                    self.code.end_value();
                    self.state = State::line();
                }
            },
            State::Line(_) | State::Prose => {
                let found = self.markers.push(c);
                self.read_text(&found.text, out);
                match found.marker {
                    Some(NEXT_MESSAGE) => self.next_message(out),
                    Some(_) => self.end_answer(out),
                    None => {}
                }
            }
        }
    }

    fn read_text(&mut self, text: &str, out: &mut Vec<Delta>) {
        for c in text.chars() {
            self.read(c, out);
        }
    }

    /// Reads a character that is part of no marker. Only the last one of what a marker held can
    /// end a line, so a candidate never begins in the middle of such a text.
    fn read(&mut self, c: char, out: &mut Vec<Delta>) {
        if std::mem::take(&mut self.fresh) && c == '\n' {
            return;
        }
        if std::mem::take(&mut self.parted) && self.prose.said() && !self.prose.after_call() {
            self.prose.say('\n', out);
        }
        if self.holds(c) {
            return;
        }
        let indents = matches!(&self.state, State::Line(held) if held.name.is_empty()) && c.is_whitespace();
        self.release(out);
        self.say(c, out);
        self.state = if c == '\n' || indents { State::line() } else { State::Prose };
    }

    /// Whether the character is part of what is held, or of what parts two calls.
    fn holds(&mut self, c: char) -> bool {
        let State::Line(held) = &mut self.state else { return false };
        if c == ';' && held.name.is_empty() && self.prose.after_call() {
            return true;
        }
        if self.code.is_fenced() {
            return false;
        }
        if c == '\n' && self.tools.contains(&held.name) {
            held.behind.push(c);
            self.state = State::Candidate(Candidate::new(std::mem::take(held)));
            return true;
        }
        held.take(c, &self.tools, self.longest)
    }

    /// The line that was held is text.
    fn release(&mut self, out: &mut Vec<Delta>) {
        if let State::Line(held) = std::mem::replace(&mut self.state, State::Prose) {
            self.say_all(&held.name, out);
            self.say_all(&held.behind, out);
        }
    }

    /// The candidate was text. Its name cannot begin another, the rest can.
    fn reject(&mut self, out: &mut Vec<Delta>) {
        if let State::Candidate(candidate) = std::mem::replace(&mut self.state, State::line()) {
            self.say_all(&candidate.name, out);
            self.say_all(&candidate.behind, out);
            self.pending.extend(candidate.body.chars().rev());
        }
    }

    fn next_message(&mut self, out: &mut Vec<Delta>) {
        self.release(out);
        self.code = Code::new();
        self.state = State::line();
        self.fresh = true;
        self.parted = true;
    }

    fn end_answer(&mut self, out: &mut Vec<Delta>) {
        self.release(out);
        self.prose.finish(out);
        self.state = State::Over;
    }

    fn say_all(&mut self, text: &str, out: &mut Vec<Delta>) {
        for c in text.chars() {
            self.say(c, out);
        }
    }

    fn say(&mut self, c: char, out: &mut Vec<Delta>) {
        self.code.push(c);
        self.prose.say(c, out);
    }
}

impl Held {
    /// Takes a character if the line may still be a name with it.
    fn take(&mut self, c: char, tools: &[String], longest: usize) -> bool {
        if self.name.is_empty() && c.is_whitespace() {
            return false;
        }
        if self.name.len() + self.behind.len() + c.len_utf8() <= longest {
            let name = format!("{}{}{c}", self.name, self.behind);
            if tools.iter().any(|tool| tool.starts_with(&name)) {
                *self = Self { name, behind: String::new() };
                return true;
            }
        }
        let ends_name = c.is_whitespace() && c != '\n' && tools.contains(&self.name);
        if ends_name && self.behind.len() < MAX_HELD {
            self.behind.push(c);
            return true;
        }
        false
    }
}

impl Candidate {
    fn new(held: Held) -> Self {
        let Held { name, behind } = held;
        Self { name, behind, body: String::new(), start: None, scan: ObjectScan::new() }
    }

    fn push(&mut self, c: char) -> Verdict {
        self.body.push(c);
        if self.body.len() > MAX_HELD {
            return Verdict::NoCall;
        }
        if self.start.is_none() && !is_space(c) {
            self.start = Some(self.body.len() - c.len_utf8());
        }
        match (self.scan.push(c), self.start) {
            (Step::More, _) => Verdict::Undecided,
            (Step::Done, Some(start)) => Verdict::Whole(self.call(start)),
            (Step::Invalid | Step::Done, _) => Verdict::NoCall,
        }
    }

    fn call(&self, start: usize) -> Call {
        Call { name: self.name.clone(), arguments: self.body[start..].to_owned() }
    }
}
