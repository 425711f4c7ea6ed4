//! Any model: messages in the shape of `OpenAI`'s API go to the file's own template. The answer is
//! text, but for a leading `<think>` block and for calls in `<tool_call>` tags, each where the
//! template knows them.

use crate::chat::json::Json;
use crate::chat::message::{Conversation, Message, Role, Thinking, Tool, ToolCall};
use crate::chat::parser::{Blocks, Parser};
use crate::chat::segment::Rendered;
use crate::chat::shield::Shield;
use crate::chat::template::{Context, Template, guarded};
use minijinja::Value;

/// What a file without a template gets: `ChatML`, which most models have at least seen.
pub(crate) const FALLBACK_TEMPLATE: &str = "\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
";

pub(super) fn parser(request: &Conversation, prompt: &Rendered, template: &Template) -> Parser {
    let tools = if writes_tags(template) { request.callable() } else { Vec::new() };
    Parser::new(Blocks::new(template.thinks(), prompt.thinking_open), tools)
}

/// Qwen2.5, Hermes and many after them; who writes `<function=` puts no JSON into the tags.
pub(super) fn writes_tags(template: &Template) -> bool {
    template.mentions("<tool_call>") && !template.mentions("<function=")
}

/// Rules N1 to N5 for the messages of a request.
pub(super) fn messages(conversation: &Conversation, shield: &Shield) -> Vec<Value> {
    conversation.messages.iter().map(|m| message(m, shield)).collect()
}

/// What a template gets beside the messages.
pub(super) fn context(conversation: &Conversation, messages: Vec<Value>, shield: &Shield) -> Context {
    let tools = conversation.tools.iter().map(Tool::definition);
    let mut context = Context::new();
    context.set("messages", messages);
    if !conversation.tools.is_empty() {
        context.set("tools", tools.map(|t| guarded(t, shield)).collect::<Vec<_>>());
    }
    context.set("add_generation_prompt", conversation.add_generation_prompt);
    match conversation.thinking {
        Thinking::On => context.set("enable_thinking", true),
        Thinking::Off => context.set("enable_thinking", false),
        Thinking::ModelDefault => {}
    }
    if let Some(date) = conversation.date {
        context.set_date(date);
    }
    context
}

/// Absent fields are left out: templates tell an absent key from an empty one.
pub(super) fn message(message: &Message, shield: &Shield) -> Value {
    let text = |text: &str| Value::from(shield.guard(text));
    let mut fields =
        vec![("role", Value::from(message.role.as_template_str())), ("content", text(&message.content()))];
    if let Some(reasoning) = message.reasoning.as_deref().filter(|r| !r.is_empty()) {
        fields.push(("reasoning_content", text(reasoning)));
    }
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| tool_call(call, shield));
        fields.push(("tool_calls", calls.collect()));
    }
    if let (Role::Tool, Some(id)) = (message.role, &message.tool_call_id) {
        fields.push(("tool_call_id", text(id)));
    }
    if let Some(name) = &message.name {
        fields.push(("name", text(name)));
    }
    Value::from_pairs(fields)
}

fn tool_call(call: &ToolCall, shield: &Shield) -> Value {
    let function =
        [("name", Value::from(shield.guard(&call.name))), ("arguments", arguments(&call.arguments, shield))];
    let fields = [
        ("id", Value::from(shield.guard(&call.id))),
        ("type", Value::from("function")),
        ("function", Value::from_pairs(function)),
    ];
    Value::from_pairs(fields)
}

/// Rule N3: an object where the text holds one, else the text.
fn arguments(text: &str, shield: &Shield) -> Value {
    match Json::parse(text) {
        Ok(object @ Json::Object(_)) => guarded(&object, shield),
        _ => Value::from(shield.guard(text)),
    }
}
