//! Calls that a grammar holds, said as they come.
//!
//! Without a grammar nothing of a call is said before it is whole, since a broken one is text (P8). A call that
//! is held to its grammar cannot break, so its name and its arguments are deltas as soon as they are there. Only
//! the limit can cut it off; then it has no end, and what was said of it stays said.

use super::super::delta::Delta;
use super::super::json::scan::{ObjectScan, Step};
use super::tags::CALL;
use super::{OpenCall, Style};

/// What stands around the name and the arguments of a call, as `chat::grammar` writes it.
struct Frame {
    open: &'static str,
    /// The character that ends the name.
    end_of_name: char,
    close: &'static str,
    between: &'static str,
}

const fn frame(style: Style) -> Frame {
    match style {
        Style::Tags => Frame {
            open: "<tool_call>\n{\"name\": \"",
            end_of_name: '"',
            close: "}\n</tool_call>",
            between: "\n",
        },
        Style::Json => Frame { open: "{\"name\": \"", end_of_name: '"', close: "}", between: "; " },
        Style::Lines => Frame { open: "", end_of_name: '\n', close: "", between: "<|assistant|>" },
    }
}

/// Reads calls whose form is known, one after the other.
#[derive(Debug, Clone)]
pub(super) struct Early {
    style: Style,
    place: Place,
    /// The first call that is read here.
    first: u32,
    /// Calls that were begun before the end of this one.
    begun: u32,
}

#[derive(Debug, Clone)]
enum Place {
    /// A text that is known, and what comes behind it.
    Known(&'static str, Behind),
    Name(String),
    /// Until the arguments begin.
    Object,
    Arguments(ObjectScan),
    /// Something else came: the model writes freely again.
    Lost,
}

#[derive(Debug, Clone, Copy)]
enum Behind {
    Name,
    Separator,
    Open,
}

impl Early {
    /// A reader at the beginning of an answer, or behind what `open` tells. `made` calls are whole.
    pub(super) fn new(style: Style, made: u32, open: Option<&OpenCall>, out: &mut Vec<Delta>) -> Self {
        let opening = frame(style).open;
        let mut early = Self { style, place: Place::Known(opening, Behind::Name), first: made, begun: made };
        let Some(OpenCall { tool, rest, .. }) = open else {
            early.settle();
            return early;
        };
        early.place = match tool {
            // The tag was written.
            None => Place::Known(opening.strip_prefix(CALL).unwrap_or(opening), Behind::Name),
            Some(name) => {
                early.begin(name.clone(), out);
                Place::Object
            }
        };
        early.settle();
        early.push(rest, out);
        early
    }

    /// Takes more text of the answer.
    pub(super) fn push(&mut self, text: &str, out: &mut Vec<Delta>) {
        text.chars().for_each(|c| self.step(c, out));
    }

    /// Whether a call was begun here that is not among those that are whole.
    pub(super) const fn is_open(&self, made: u32) -> bool {
        self.begun > made
    }

    /// Whether the parts of a call were said here already.
    pub(super) fn said(&self, delta: &Delta) -> bool {
        match delta {
            Delta::ToolCallStarted { index, .. } | Delta::ToolCallArguments { index, .. } => {
                (self.first..self.begun).contains(index)
            }
            _ => false,
        }
    }

    fn step(&mut self, c: char, out: &mut Vec<Delta>) {
        match &mut self.place {
            // White space may be elsewhere, where the model wrote before the grammar held it.
            Place::Known(_, _) if c.is_whitespace() => {}
            Place::Known(text, _) => match text.trim_start().strip_prefix(c) {
                Some(rest) => *text = rest.trim_start(),
                None => self.place = Place::Lost,
            },
            Place::Object if c != '{' => {}
            Place::Object => {
                let mut scan = ObjectScan::new();
                scan.push(c);
                self.place = Place::Arguments(scan);
                say_arguments(self.begun.saturating_sub(1), c, out);
            }
            Place::Name(name) => {
                if c == frame(self.style).end_of_name {
                    let name = std::mem::take(name);
                    self.begin(name, out);
                    self.place = Place::Object;
                } else {
                    name.push(c);
                }
            }
            Place::Arguments(scan) => {
                let step = scan.push(c);
                say_arguments(self.begun.saturating_sub(1), c, out);
                match step {
                    Step::More => {}
                    Step::Done => self.place = Place::Known(frame(self.style).close, Behind::Separator),
                    Step::Invalid => self.place = Place::Lost,
                }
            }
            Place::Lost => {}
        }
        self.settle();
    }

    /// Goes on behind texts that are over.
    fn settle(&mut self) {
        let Frame { open, between, .. } = frame(self.style);
        while let Place::Known(text, behind) = &self.place
            && text.trim().is_empty()
        {
            self.place = match behind {
                Behind::Name => Place::Name(String::new()),
                Behind::Separator => Place::Known(between, Behind::Open),
                Behind::Open => Place::Known(open, Behind::Name),
            };
        }
    }

    fn begin(&mut self, name: String, out: &mut Vec<Delta>) {
        out.push(Delta::ToolCallStarted { index: self.begun, name });
        self.begun += 1;
    }
}

fn say_arguments(index: u32, c: char, out: &mut Vec<Delta>) {
    match out.last_mut() {
        Some(Delta::ToolCallArguments { index: last, json }) if *last == index => json.push(c),
        _ => out.push(Delta::ToolCallArguments { index, json: c.to_string() }),
    }
}
