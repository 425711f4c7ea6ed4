//! A message that is one code fence of calls and nothing else, which is no example but a call (P10).
//!
//! Whether nothing follows is known at the end, so the fence is held until then, or until it shows
//! something that is no call: most code blocks do at their first character.

use super::super::delta::{Delta, End};
use super::MAX_HELD;
use super::json_calls::JsonCalls;

/// Longest text behind the opening marks, such as `json`.
const MAX_INFO: usize = 64;

/// A fence that began the message.
#[derive(Debug, Clone)]
pub(super) struct Fence {
    /// Everything so far.
    text: String,
    mark: char,
    /// How many opened it.
    len: usize,
    part: Part,
    inside: Box<JsonCalls>,
    /// What the inside made.
    calls: Vec<Delta>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Opening,
    /// The rest of the first line, in bytes.
    Info(usize),
    Inside,
    /// So many closing marks.
    Closing(usize),
    Behind,
}

impl Fence {
    pub(super) fn new(mark: char, tools: &[String]) -> Self {
        Self {
            text: String::from(mark),
            mark,
            len: 1,
            part: Part::Opening,
            inside: Box::new(JsonCalls::fenced(tools.to_vec())),
            calls: Vec::new(),
        }
    }

    /// Everything it was made of.
    pub(super) fn into_text(self) -> String {
        self.text
    }

    /// Takes a character; `false`: this is no fence of calls.
    pub(super) fn push(&mut self, c: char) -> bool {
        self.text.push(c);
        if self.text.len() > MAX_HELD {
            return false;
        }
        match self.part {
            Part::Opening if c == self.mark => self.len += 1,
            Part::Opening if self.len < 3 => return false,
            Part::Opening => return self.info(c, 0),
            Part::Info(len) => return self.info(c, len),
            Part::Inside if c == self.mark && self.inside.is_idle() => self.part = Part::Closing(1),
            Part::Inside => return self.inside(c),
            Part::Closing(count) if c == self.mark => self.part = Part::Closing(count + 1),
            Part::Closing(count) if count < self.len => return false,
            Part::Closing(_) | Part::Behind => {
                self.part = Part::Behind;
                return c.is_whitespace();
            }
        }
        true
    }

    /// What was called, if it was calls and nothing else. A fence that is not closed lasts until the
    /// end of the text.
    pub(super) fn finish(&mut self, end: End) -> Option<Vec<Delta>> {
        if matches!(self.part, Part::Opening | Part::Info(_)) {
            return None;
        }
        self.inside.finish(end, &mut self.calls);
        let is_calls = self.inside.made() > 0 && !self.inside.has_text();
        is_calls.then(|| std::mem::take(&mut self.calls))
    }

    /// Calls of the inside.
    pub(super) fn made(&self) -> u32 {
        self.inside.made()
    }

    fn info(&mut self, c: char, len: usize) -> bool {
        match c {
            '\n' => self.part = Part::Inside,
            '{' | '[' | '<' => {
                self.part = Part::Inside;
                return self.inside(c);
            }
            _ => self.part = Part::Info(len + c.len_utf8()),
        }
        c != self.mark && len < MAX_INFO
    }

    fn inside(&mut self, c: char) -> bool {
        self.inside.push(c, &mut self.calls);
        !self.inside.has_text()
    }
}
