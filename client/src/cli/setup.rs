//! What every request of a conversation carries beside its messages.

use std::time::Duration;

use hearth_client::ChatRequest;
use hearth_client::v1::{self, tool_choice::Mode};

/// A model, and how it is asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Setup {
    /// `name[:tag]` or a digest.
    pub(super) model: String,
    /// Instructions ahead of the conversation.
    pub(super) system: Option<String>,
    /// What the model may call.
    pub(super) tools: Vec<v1::Tool>,
    pub(super) tool_choice: Option<Mode>,
    pub(super) thinking: v1::Thinking,
    pub(super) sampling: v1::Sampling,
    pub(super) stop: Vec<String>,
    pub(super) max_tokens: Option<u32>,
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
        if let Some(mode) = self.tool_choice {
            request = request.tool_choice(mode);
        }
        if let Some(tokens) = self.max_tokens {
            request = request.max_tokens(tokens);
        }
        if let Some(deadline) = self.deadline {
            request = request.deadline(deadline);
        }
        let request = self.stop.iter().fold(request, |request, text| request.stop(text));
        messages.iter().cloned().fold(request, ChatRequest::message)
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
