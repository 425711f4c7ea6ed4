//! `<function=NAME>{json}</function>`, which Llama writes when a prompt asks for it.

use super::super::json::scan::{ObjectScan, Step, is_space};
use super::MAX_HELD;
use super::markers::Markers;
use super::shape::Call;

pub(super) const FUNCTION: &str = "<function=";
const END_OF_FUNCTION: &str = "</function>";

/// Text behind the marker that may become a call.
#[derive(Debug, Clone)]
pub(super) struct Function {
    /// Everything behind the marker.
    text: String,
    part: Part,
}

#[derive(Debug, Clone)]
enum Part {
    Name,
    /// The object, and where the text behind the name begins.
    Body(usize, ObjectScan),
    Tail(Call, Markers),
}

/// What one character does to it.
pub(super) enum Verdict {
    Undecided,
    Whole(Call),
    /// It was text; so many bytes at its end may be something else.
    NoCall(usize),
}

impl Function {
    pub(super) fn new() -> Self {
        Self { text: String::new(), part: Part::Name }
    }

    pub(super) fn push(&mut self, c: char, tools: &[String]) -> Verdict {
        self.text.push(c);
        if self.text.len() > MAX_HELD {
            return Verdict::NoCall(c.len_utf8());
        }
        match &mut self.part {
            Part::Name => self.name(c, tools),
            Part::Body(start, scan) => match scan.push(c) {
                Step::More => Verdict::Undecided,
                Step::Invalid => Verdict::NoCall(c.len_utf8()),
                Step::Done => {
                    let start = *start;
                    self.end_of_body(start)
                }
            },
            Part::Tail(call, markers) => tail(c, call, markers),
        }
    }

    /// What was held, and the call if it is whole but for its closing tag.
    pub(super) fn finish(self) -> (String, Option<Call>) {
        match self.part {
            Part::Tail(call, _) => (self.text, Some(call)),
            _ => (self.text, None),
        }
    }

    fn name(&mut self, c: char, tools: &[String]) -> Verdict {
        if let Some(name) = self.text.strip_suffix('>')
            && tools.iter().any(|tool| tool == name)
        {
            self.part = Part::Body(self.text.len(), ObjectScan::new());
            return Verdict::Undecided;
        }
        let is_open = tools.iter().any(|tool| tool.starts_with(&self.text));
        if is_open { Verdict::Undecided } else { Verdict::NoCall(c.len_utf8()) }
    }

    fn end_of_body(&mut self, start: usize) -> Verdict {
        let name = self.text[..start - 1].to_owned();
        let arguments = self.text[start..].trim().to_owned();
        self.part = Part::Tail(Call { name, arguments }, Markers::new(&[END_OF_FUNCTION]));
        Verdict::Undecided
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
        None => Verdict::NoCall(found.text.len() + markers.take().len()),
    }
}
