//! The text around the calls (P7): white space before a call is dropped, what separates calls is
//! dropped, and text behind a call starts on a new line.

use super::super::delta::Delta;
use super::shape::Call;
use super::{MAX_HELD, say_text};

/// What was said of an answer, and the white space that cannot be said yet.
#[derive(Debug, Clone)]
pub(super) struct Prose {
    /// White space that is dropped if a call follows.
    spaces: String,
    /// Whether there can be calls. Without them white space is said as it comes.
    with_calls: bool,
    /// Calls so far.
    made: u32,
    /// Whether there was text that is not white space.
    said: bool,
    /// Whether the last thing was a call: separators behind it are dropped.
    after_call: bool,
}

impl Prose {
    pub(super) fn new(with_calls: bool) -> Self {
        Self { spaces: String::new(), with_calls, made: 0, said: false, after_call: false }
    }

    /// Calls so far.
    pub(super) fn made(&self) -> u32 {
        self.made
    }

    /// Whether there was text that is not white space.
    pub(super) fn said(&self) -> bool {
        self.said
    }

    /// Whether the last thing was a call, separators left out.
    pub(super) fn after_call(&self) -> bool {
        self.after_call
    }

    pub(super) fn say_all(&mut self, text: &str, out: &mut Vec<Delta>) {
        for c in text.chars() {
            self.say(c, out);
        }
    }

    pub(super) fn say(&mut self, c: char, out: &mut Vec<Delta>) {
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
        if !self.with_calls || self.spaces.len() > MAX_HELD {
            say_text(&std::mem::take(&mut self.spaces), out);
        }
    }

    /// A call, said when it is whole.
    pub(super) fn call(&mut self, call: Call, out: &mut Vec<Delta>) {
        let Call { name, arguments } = call;
        let index = self.made;
        self.spaces.clear();
        self.made += 1;
        self.after_call = true;
        out.extend([
            Delta::ToolCallStarted { index, name: name.clone() },
            Delta::ToolCallArguments { index, json: arguments.clone() },
            Delta::ToolCallCompleted { index, name, arguments },
        ]);
    }

    /// Calls that were read elsewhere, as deltas.
    pub(super) fn adopt(&mut self, made: u32, calls: Vec<Delta>, out: &mut Vec<Delta>) {
        self.spaces.clear();
        self.made += made;
        self.after_call = true;
        out.extend(calls);
    }

    /// White space at the end is text.
    pub(super) fn finish(&mut self, out: &mut Vec<Delta>) {
        say_text(&std::mem::take(&mut self.spaces), out);
    }
}
