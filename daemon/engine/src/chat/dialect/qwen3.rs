//! Qwen3, the hybrid models: they open the `<think>` block themselves, and thinking is switched off
//! by an empty block that the template writes.

use super::Sampling;
use crate::chat::message::{Conversation, Thinking};
use crate::chat::parser::{Blocks, Parser};
use crate::chat::segment::Rendered;

/// `<|endoftext|>` ends a text that the model took for a document; few files list it.
pub(super) const STOP_TOKENS: &[&str] = &["<|im_end|>", "<|endoftext|>"];

/// Whether a template writes this dialect. The coder models of the family write calls as XML.
pub(super) fn knows(template: &str) -> bool {
    let has = |text: &str| template.contains(text);
    has("<tool_call>") && has("<|im_start|>") && !has("<function=")
}

pub(super) fn parser(request: &Conversation, prompt: &Rendered) -> Parser {
    // The model opens a block now and then even when it was told not to think.
    Parser::new(Blocks::new(true, prompt.thinking_open), request.callable())
}

/// From the model card. Never greedy: these models then repeat themselves without end.
pub(super) fn sampling(thinking: Thinking) -> Sampling {
    let (temperature, top_p) = match thinking {
        Thinking::On | Thinking::ModelDefault => (0.6, 0.95),
        Thinking::Off => (0.7, 0.8),
    };
    Sampling { temperature: Some(temperature), top_p: Some(top_p), top_k: Some(20), min_p: Some(0.0) }
}
