//! The rendered prompt, cut into what may hold control tokens and what may not.
//!
//! Cuts are made only beside control tokens of the template. A tokenizer cuts there too, so the ids
//! are those of the whole prompt: the run between two control tokens is one text for it, whoever
//! wrote which part. A run with a guarded look-alike becomes [`Segment::Text`] as a whole.

use super::shield::Shield;

/// A rendered prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The pieces in order. They are tokenized one by one, without adding BOS, and joined.
    pub segments: Vec<Segment>,
    /// The prompt ends inside a `<think>` block, so the answer starts in it.
    pub thinking_open: bool,
}

/// A piece of the prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// To be tokenized with special tokens parsed.
    Template(String),
    /// To be tokenized as plain text.
    Text(String),
}

impl Rendered {
    /// The prompt as one text, for people to read. Tokenizing it as a whole would be an injection.
    pub fn text(&self) -> String {
        self.segments.iter().map(Segment::as_str).collect()
    }
}

impl Segment {
    /// The text of the piece.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Template(text) | Self::Text(text) => text,
        }
    }
}

/// Splits the output of a template that was given guarded texts.
pub(crate) fn split(output: &str, shield: &Shield) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut run = 0;
    let mut at = 0;
    while let Some(c) = output[at..].chars().next() {
        if let Some(len) = shield.control_at(&output[at..]) {
            push_run(&mut segments, &output[run..at], shield);
            push_template(&mut segments, &output[at..at + len]);
            at += len;
            run = at;
        } else {
            at += c.len_utf8();
        }
    }
    push_run(&mut segments, &output[run..], shield);
    segments
}

fn push_run(segments: &mut Vec<Segment>, run: &str, shield: &Shield) {
    if Shield::is_marked(run) {
        segments.push(Segment::Text(shield.restore(run).into_owned()));
    } else {
        push_template(segments, run);
    }
}

fn push_template(segments: &mut Vec<Segment>, text: &str) {
    match segments.last_mut() {
        Some(Segment::Template(last)) => last.push_str(text),
        _ if text.is_empty() => {}
        _ => segments.push(Segment::Template(text.to_owned())),
    }
}
