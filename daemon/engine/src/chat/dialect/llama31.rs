//! Llama 3.1, and the models after it that kept its template: bare JSON calls, one in a message.

use super::Sampling;
use super::generic;
use crate::chat::message::{Conversation, Message, Role, ToolCall};
use crate::chat::parser::{Blocks, Parser, Style};
use crate::chat::segment::Rendered;
use crate::chat::shield::Shield;
use crate::chat::template::Template;
use minijinja::Value;

/// A call to a built-in tool ends with `<|eom_id|>`, everything else with the last; a file names one
/// of them at most.
pub(super) const STOP_TOKENS: &[&str] = &["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"];

/// What follows it is a call, or code for the interpreter.
pub(super) const VISIBLE_TOKENS: &[&str] = &["<|python_tag|>"];

/// From the model's generation settings; there is no thinking to depend on.
pub(super) const SAMPLING: Sampling =
    Sampling { temperature: Some(0.6), top_p: Some(0.9), top_k: None, min_p: None };

/// Whether a template writes this dialect: headers, and results under the name of the interpreter.
/// Some finetunes keep the headers and write calls in tags.
pub(super) fn knows(template: &str) -> bool {
    let has = |text: &str| template.contains(text);
    has("<|start_header_id|>") && (has("ipython") || has("<|python_tag|>")) && !has("<tool_call>")
}

pub(super) fn parser(request: &Conversation, prompt: &Rendered, template: &Template) -> Parser {
    let blocks = Blocks::new(template.thinks(), prompt.thinking_open);
    Parser::reading(Style::Json, blocks, request.callable())
}

/// Rules N1 to N6.
pub(super) fn messages(conversation: &Conversation, shield: &Shield) -> Vec<Value> {
    let mut rewritten = Vec::new();
    let mut rest = conversation.messages.as_slice();
    while let Some((message, behind)) = rest.split_first() {
        rest = behind;
        if message.tool_calls.len() < 2 {
            rewritten.push(generic::message(message, shield));
            continue;
        }
        let count = behind.iter().take_while(|m| m.role == Role::Tool).count();
        let (results, behind) = behind.split_at(count);
        rest = behind;
        let split = split_calls(message, results);
        rewritten.extend(split.iter().map(|m| generic::message(m, shield)));
    }
    rewritten
}

/// Rule N6: the template refuses two calls in a message, so each gets its own, with its result
/// behind it. Results that belong to none come last.
fn split_calls(message: &Message, results: &[Message]) -> Vec<Message> {
    let mut results: Vec<&Message> = results.iter().collect();
    let mut split = Vec::new();
    for (index, call) in message.tool_calls.iter().enumerate() {
        split.push(one_call(message, index, call));
        let own = results.iter().position(|result| result.tool_call_id.as_ref() == Some(&call.id));
        split.extend(own.map(|own| results.remove(own).clone()));
    }
    split.extend(results.into_iter().cloned());
    split
}

/// The text of the message stays with the first call.
fn one_call(message: &Message, index: usize, call: &ToolCall) -> Message {
    let first = index == 0;
    Message {
        role: message.role,
        parts: if first { message.parts.clone() } else { Vec::new() },
        reasoning: message.reasoning.clone().filter(|_| first),
        tool_calls: vec![call.clone()],
        tool_call_id: None,
        name: message.name.clone(),
    }
}
