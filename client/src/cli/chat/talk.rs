//! A conversation and its turns.

use hearth_client::{Answer, ChatRequest, Client, v1};

use super::show;
use crate::cli::exit::Failure;
use crate::cli::output::Output;
use crate::cli::tools::{self, CannedResult};

/// How often a model may call tools on the way to one answer: one that calls for ever must end.
const MAX_TOOL_ROUNDS: usize = 8;

/// A conversation: what was said, and what of the turn that is going on.
#[derive(Debug)]
pub(super) struct Talk {
    client: Client,
    /// What stood before the first question.
    opening: ChatRequest,
    /// All that was said.
    said: ChatRequest,
    /// All that was said when the turn began, to go back to.
    before: ChatRequest,
    /// What the model has said so far.
    answer: Answer,
    canned: Vec<CannedResult>,
}

impl Talk {
    pub(super) fn new(client: Client, opening: ChatRequest, canned: Vec<CannedResult>) -> Self {
        let (said, before) = (opening.clone(), opening.clone());
        Self { client, opening, said, before, answer: Answer::default(), canned }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Forgets all that was said.
    pub(super) fn reset(&mut self) {
        self.said = self.opening.clone();
    }

    /// The person says something.
    pub(super) fn say(&mut self, text: String) {
        self.before = self.said.clone();
        self.said = self.said.clone().user(text);
    }

    /// A tool answers a call.
    pub(super) fn report(&mut self, call: &v1::ToolCall, text: &str) {
        self.said = self.said.clone().tool_result(&call.id, text);
    }

    /// The model answers. Calls with a canned result are answered at once, all of a round or none; others
    /// are returned.
    pub(super) async fn listen(&mut self, out: &mut Output) -> Result<Vec<v1::ToolCall>, Failure> {
        for _ in 0..MAX_TOOL_ROUNDS {
            let calls = self.round(out).await?;
            let results: Option<Vec<_>> =
                calls.iter().map(|call| tools::result_of(&self.canned, call).map(str::to_owned)).collect();
            let Some(results) = results.filter(|results| !results.is_empty()) else { return Ok(calls) };
            for (call, text) in calls.iter().zip(&results) {
                show::tool_result(text, out)?;
                self.report(call, text);
            }
        }
        Err(Failure::EndlessTools(MAX_TOOL_ROUNDS))
    }

    /// One request and its answer.
    async fn round(&mut self, out: &mut Output) -> Result<Vec<v1::ToolCall>, Failure> {
        self.answer = Answer::default();
        let mut generation = self.client.generate(self.said.clone()).await?;
        while let Some(event) = generation.next().await {
            let event = event?;
            show::event(&event, out)?;
            self.answer.push(event);
        }
        let answer = std::mem::take(&mut self.answer);
        self.said = self.said.clone().message(answer.message());
        Ok(answer.tool_calls)
    }

    /// The turn failed: it is as if the person had said nothing.
    pub(super) fn take_back(&mut self) {
        self.answer = Answer::default();
        self.said = self.before.clone();
    }

    /// The person stopped the answer: what can be read stays said, and what it would have called is not.
    pub(super) fn cut_short(&mut self) {
        let answer = std::mem::take(&mut self.answer);
        if answer.text.is_empty() {
            self.take_back();
        } else {
            self.said = self.said.clone().assistant(answer.text);
        }
    }
}
