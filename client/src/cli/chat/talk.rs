//! A conversation and its turns.

use hearth_client::{Answer, Client, v1};

use super::show;
use crate::cli::exit::{Failure, chain};
use crate::cli::output::Output;
use crate::cli::setup::Setup;
use crate::cli::tools::{Means, ProgramError, Toolbox};

/// How often a model may call tools on the way to one answer: one that calls for ever must end.
const MAX_TOOL_ROUNDS: usize = 8;

/// A conversation: what was said, and what of the turn that is going on.
#[derive(Debug)]
pub(super) struct Talk {
    client: Client,
    /// How the model is asked; may change between two turns.
    pub(super) setup: Setup,
    toolbox: Toolbox,
    /// All that was said, oldest first, without the instructions.
    said: Vec<v1::Message>,
    /// What the person asked last, and how much had been said before it.
    question: Option<Question>,
    /// What the model has said so far in its turn.
    answer: Answer,
}

#[derive(Clone, Debug)]
struct Question {
    text: String,
    before: usize,
}

impl Talk {
    pub(super) fn new(client: Client, setup: Setup, toolbox: Toolbox) -> Self {
        Self { client, setup, toolbox, said: Vec::new(), question: None, answer: Answer::default() }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn toolbox(&self) -> &Toolbox {
        &self.toolbox
    }

    pub(super) fn said(&self) -> &[v1::Message] {
        &self.said
    }

    /// Forgets all that was said; instructions and settings stay.
    pub(super) fn clear(&mut self) {
        self.said.clear();
        self.question = None;
    }

    /// Goes on from an earlier conversation.
    pub(super) fn resume(&mut self, said: Vec<v1::Message>) {
        let last = said.iter().rposition(|message| message.role() == v1::Role::User);
        self.question = last.map(|before| Question { text: text_of(&said[before]), before });
        self.said = said;
    }

    /// The person says something.
    pub(super) fn say(&mut self, text: String) {
        self.question = Some(Question { text: text.clone(), before: self.said.len() });
        let said = v1::ContentPart { part: Some(v1::content_part::Part::Text(text)) };
        self.said.push(v1::Message {
            role: v1::Role::User.into(),
            parts: vec![said],
            ..v1::Message::default()
        });
    }

    /// The person asks the last question again, whatever came of it; false: there was none.
    pub(super) fn ask_again(&mut self) -> bool {
        let Some(Question { text, before }) = self.question.take() else { return false };
        self.said.truncate(before);
        self.say(text);
        true
    }

    /// A tool answers a call.
    pub(super) fn report(&mut self, call: &v1::ToolCall, text: &str) {
        let part = v1::ContentPart { part: Some(v1::content_part::Part::Text(text.to_owned())) };
        self.said.push(v1::Message {
            role: v1::Role::Tool.into(),
            parts: vec![part],
            tool_call_id: Some(call.id.clone()),
            ..v1::Message::default()
        });
    }

    /// The model answers. Calls that need nobody are answered at once, all of a round or none; others are
    /// returned.
    pub(super) async fn listen(&mut self, out: &mut Output) -> Result<Vec<v1::ToolCall>, Failure> {
        for _ in 0..MAX_TOOL_ROUNDS {
            let calls = self.round(out).await?;
            if calls.is_empty() || !calls.iter().all(|call| self.toolbox.answers(call)) {
                return Ok(calls);
            }
            for call in &calls {
                let text = self.automatic(call).await;
                show::tool_result(&text, out)?;
                self.report(call, &text);
            }
        }
        Err(Failure::EndlessTools(MAX_TOOL_ROUNDS))
    }

    async fn automatic(&self, call: &v1::ToolCall) -> String {
        match self.toolbox.means(call) {
            Some(Means::Said(text)) => text.to_owned(),
            Some(Means::Program(program)) => result_or_error(program.run(call).await),
            None => String::new(),
        }
    }

    /// One request and its answer.
    async fn round(&mut self, out: &mut Output) -> Result<Vec<v1::ToolCall>, Failure> {
        self.answer = Answer::default();
        let mut generation = self.client.generate(self.setup.request(&self.said)).await?;
        while let Some(event) = generation.next().await {
            let event = event?;
            show::event(&event, out)?;
            self.answer.push(event);
        }
        let answer = std::mem::take(&mut self.answer);
        self.said.push(answer.message());
        Ok(answer.tool_calls)
    }

    /// The turn failed: it is as if the person had said nothing, but may be asked again.
    pub(super) fn take_back(&mut self) {
        self.answer = Answer::default();
        let before = self.question.as_ref().map_or(0, |question| question.before);
        self.said.truncate(before);
    }

    /// The person stopped the answer: what can be read stays said, and what it would have called is not.
    pub(super) fn cut_short(&mut self) {
        let answer = std::mem::take(&mut self.answer);
        if answer.text.is_empty() {
            self.take_back();
        } else {
            let spoken = Answer { text: answer.text, ..Answer::default() };
            self.said.push(spoken.message());
        }
    }
}

/// What the model is told about a program: its result, or why there is none.
pub(super) fn result_or_error(result: Result<String, ProgramError>) -> String {
    result.unwrap_or_else(|error| format!("error: {}", chain(&error)))
}

/// The text of a message.
pub(super) fn text_of(message: &v1::Message) -> String {
    let parts = message.parts.iter().filter_map(|part| part.part.as_ref());
    let texts: Vec<&str> = parts.map(|v1::content_part::Part::Text(text)| text.as_str()).collect();
    texts.join("\n")
}
