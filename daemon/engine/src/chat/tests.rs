//! The chat formats against vectors: the project's own always, the shared ones where they are.

mod model;
mod parse;
mod render;
pub(crate) mod vector;

use super::*;

pub(crate) fn conversation(messages: Vec<Message>) -> Conversation {
    Conversation {
        messages,
        tools: Vec::new(),
        tool_choice: ToolChoice::Auto,
        parallel: None,
        thinking_budget: None,
        thinking: Thinking::ModelDefault,
        add_generation_prompt: true,
        date: None,
    }
}

fn chat(architecture: &str, template: Option<&str>, control_tokens: &[&str]) -> Chat {
    Chat::new(ModelFacts {
        architecture: architecture.to_owned(),
        template: template.map(str::to_owned),
        control_tokens: control_tokens.iter().map(|&t| t.to_owned()).collect(),
        ..ModelFacts::default()
    })
    .unwrap()
}
