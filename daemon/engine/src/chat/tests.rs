//! The chat formats as a whole; what vectors say is checked by `conformance`.

mod model;
mod parse;

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
