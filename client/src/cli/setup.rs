//! What every request of a conversation carries beside its messages.

use std::convert::Infallible;
use std::str::FromStr;
use std::time::Duration;

use hearth_client::v1::{self, output, tool_choice::Mode};
use hearth_client::{ChatRequest, KeepAlive};

/// Whether a model calls its tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ToolChoice {
    None,
    Auto,
    Required,
    /// The tool of this name.
    Named(String),
}

/// A model, and how it is asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Setup {
    /// `name[:tag]` or a digest.
    pub(super) model: String,
    /// Instructions ahead of the conversation.
    pub(super) system: Option<String>,
    /// What the model may call.
    pub(super) tools: Vec<v1::Tool>,
    pub(super) tool_choice: Option<ToolChoice>,
    /// Whether one answer may make several calls.
    pub(super) parallel: Option<bool>,
    pub(super) thinking: v1::Thinking,
    pub(super) thinking_budget: Option<u32>,
    /// What every answer looks like.
    pub(super) output: Option<output::Kind>,
    pub(super) sampling: v1::Sampling,
    pub(super) stop: Vec<String>,
    pub(super) max_tokens: Option<u32>,
    /// How long the model stays in memory once nobody uses it.
    pub(super) keep_alive: Option<KeepAlive>,
    /// Time for each answer.
    pub(super) deadline: Option<Duration>,
}

impl Setup {
    /// The conversation as a request.
    pub(super) fn request(&self, messages: &[v1::Message]) -> ChatRequest {
        let mut request = ChatRequest::new(&self.model)
            .thinking(self.thinking)
            .tools(self.tools.iter().cloned())
            .sampling(self.sampling.clone());
        if let Some(system) = &self.system {
            request = request.system(system);
        }
        request = match &self.tool_choice {
            Some(ToolChoice::None) => request.tool_choice(Mode::None),
            Some(ToolChoice::Auto) => request.tool_choice(Mode::Auto),
            Some(ToolChoice::Required) => request.required_tools(),
            Some(ToolChoice::Named(name)) => request.named_tool(name),
            None => request,
        };
        if let Some(allowed) = self.parallel {
            request = request.parallel_tools(allowed);
        }
        if let Some(tokens) = self.thinking_budget {
            request = request.thinking_budget(tokens);
        }
        if let Some(form) = &self.output {
            request = request.output(form.clone());
        }
        if let Some(tokens) = self.max_tokens {
            request = request.max_tokens(tokens);
        }
        if let Some(keep_alive) = self.keep_alive {
            request = request.keep_alive(keep_alive);
        }
        if let Some(deadline) = self.deadline {
            request = request.deadline(deadline);
        }
        let request = self.stop.iter().fold(request, |request, text| request.stop(text));
        messages.iter().cloned().fold(request, ChatRequest::message)
    }
}

impl ToolChoice {
    /// What holds once the results of its calls are known: who had to call need not call again.
    pub(super) fn answered(self) -> Self {
        match self {
            Self::Required | Self::Named(_) => Self::Auto,
            choice @ (Self::None | Self::Auto) => choice,
        }
    }
}

impl FromStr for ToolChoice {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "none" => Self::None,
            "auto" => Self::Auto,
            "required" => Self::Required,
            name => Self::Named(name.to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_come_first() {
        let setup = Setup { model: "m".to_owned(), system: Some("s".to_owned()), ..Setup::default() };
        let said = v1::Message { role: v1::Role::User.into(), ..v1::Message::default() };
        let request = setup.request(&[said]);
        let roles: Vec<_> = request.messages().iter().map(v1::Message::role).collect();
        assert_eq!(roles, [v1::Role::System, v1::Role::User]);
    }
}
