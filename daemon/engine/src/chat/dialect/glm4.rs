//! GLM-4-0414: a call is a message of its own, the tool's name in its header and the arguments as
//! its content; a result is an observation.

use super::Sampling;
use super::generic;
use crate::chat::message::{Conversation, Message, Role, ToolCall};
use crate::chat::parser::{Blocks, Parser, Style};
use crate::chat::segment::Rendered;
use crate::chat::shield::Shield;
use crate::chat::template::Template;
use minijinja::Value;

/// A call ends with the last, which files do not list: without it the model goes on and invents the
/// result.
pub(super) const STOP_TOKENS: &[&str] = &["<|endoftext|>", "<|user|>", "<|observation|>"];

/// It stands between two calls.
pub(super) const VISIBLE_TOKENS: &[&str] = &["<|assistant|>"];

/// From the makers' own scripts. They penalise repetition too, which breaks JSON, so that is left
/// to the request.
pub(super) const SAMPLING: Sampling =
    Sampling { temperature: Some(0.6), top_p: Some(0.8), top_k: None, min_p: None };

/// Whether a template writes this dialect. Later models of the family write calls in tags.
pub(super) fn knows(template: &str) -> bool {
    template.contains("<|observation|>") && !template.contains("<tool_call>")
}

pub(super) fn parser(request: &Conversation, prompt: &Rendered, template: &Template) -> Parser {
    // The chat models do not think; their sisters that do have another template.
    let blocks = Blocks::new(template.thinks(), prompt.thinking_open);
    Parser::reading(Style::Lines, blocks, request.callable())
}

/// Rules N1, N2, N4, N5 and N7.
pub(super) fn messages(conversation: &Conversation, shield: &Shield) -> Vec<Value> {
    conversation.messages.iter().flat_map(|message| rewrite(message, shield)).collect()
}

/// Rule N7: the text of a message with calls, then each call.
fn rewrite(message: &Message, shield: &Shield) -> Vec<Value> {
    if message.role == Role::Tool {
        return vec![observation(message, shield)];
    }
    let calls = message.tool_calls.iter();
    let mut rewritten = Vec::new();
    if message.tool_calls.is_empty() || !message.content().is_empty() {
        let text = Message { tool_calls: Vec::new(), ..message.clone() };
        rewritten.push(generic::message(&text, shield));
    }
    rewritten.extend(calls.map(|call| call_message(call, shield)));
    rewritten
}

fn observation(message: &Message, shield: &Shield) -> Value {
    Value::from_pairs([("role", "observation".to_owned()), ("content", shield.guard(&message.content()))])
}

/// The template writes the arguments as they are, so they are not read as JSON.
fn call_message(call: &ToolCall, shield: &Shield) -> Value {
    Value::from_pairs([
        ("role", "assistant".to_owned()),
        ("metadata", shield.guard(&call.name)),
        ("content", shield.guard(&call.arguments)),
    ])
}
