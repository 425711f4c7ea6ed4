//! Reads the model's answer as it comes.
//!
//! ```text
//!  bytes ── utf8 ──► characters ── thinking ──► reasoning deltas
//!                                     └── content ── calls ──► text and tool-call deltas
//! ```
//!
//! Each stage takes one character at a time and keeps what it cannot decide yet, so the cuts of the
//! input make no difference. What is kept is bounded by [`MAX_HELD`] in each stage, and a character
//! is looked at a fixed number of times at most: see `calls`.

mod calls;
mod markers;
mod shape;
mod thinking;
mod utf8;

use super::delta::{Delta, End, Finish};
use calls::Calls;
use thinking::ThinkSplit;
use utf8::Utf8;

pub use thinking::Blocks;

/// Most text that is held back while it may still become a call or a separator. Beyond it, text is
/// text.
pub const MAX_HELD: usize = 1024 * 1024;

/// The parser of one answer.
#[derive(Debug, Clone)]
pub struct Parser {
    utf8: Utf8,
    thinking: ThinkSplit,
    calls: Calls,
}

impl Parser {
    /// A parser that splits off thinking blocks and reads calls to these tools. Without tools
    /// nothing is a call.
    pub fn new(blocks: Blocks, tools: Vec<String>) -> Self {
        Self {
            utf8: Utf8::default(),
            thinking: ThinkSplit::new(blocks, !tools.is_empty()),
            calls: Calls::new(tools),
        }
    }

    /// Takes more bytes of the answer and appends what they decide. Text may be added to the last
    /// delta of `out` where it is of the same kind.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<Delta>) {
        let text = self.utf8.push(bytes);
        self.read(&text, out);
    }

    /// Decides what is still open, since no more bytes come.
    pub fn finish(&mut self, end: End, out: &mut Vec<Delta>) -> Finish {
        let text = self.utf8.finish();
        self.read(&text, out);
        self.thinking.finish(end, &mut self.calls, out);
        self.calls.finish(out);
        match end {
            End::Limit => Finish::Length,
            End::Natural if self.calls.made_any() => Finish::ToolCalls,
            End::Natural => Finish::Stop,
        }
    }

    fn read(&mut self, text: &str, out: &mut Vec<Delta>) {
        for c in text.chars() {
            self.thinking.push(c, &mut self.calls, out);
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
