//! The loop that lets a model call the functions of a program until it answers in text.

use futures_util::future::join_all;

use crate::tools::{Given, Tools};
use crate::{Answer, ChatRequest, Client, Error, GenerationEvent, Reply, v1};

/// Rounds of calls that are enough for anything a small model can keep in mind.
const MAX_ROUNDS: usize = 8;

/// How [`Client::run_tools`] goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunOptions {
    /// Most rounds of calls that are answered: a model that calls for ever must end. 8 by default.
    pub max_rounds: usize,
    /// Whether the calls of one turn run at the same time, on one task, rather than one after the other. They do
    /// by default.
    pub concurrent: bool,
}

/// What came of a tool loop.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunOutcome {
    /// The model's last turn, which called nothing. Its usage and times are those of the whole loop.
    pub answer: Answer,
    /// How many turns called tools.
    pub rounds: usize,
    /// Every call, in the order in which the model made them.
    pub calls: Vec<Called>,
    /// All that was said since the request, the answer included: with it the conversation can go on.
    pub messages: Vec<v1::Message>,
}

/// A call and its result.
#[derive(Clone, Debug, PartialEq)]
pub struct Called {
    /// The turn that made it, from 1.
    pub round: usize,
    /// What the model wrote.
    pub call: v1::ToolCall,
    /// What it was told.
    pub result: String,
    /// Whether that was a failure: the tool's own, or that of calling it.
    pub is_failure: bool,
}

/// What happens in a tool loop.
#[derive(Clone, Copy, Debug)]
pub enum RunEvent<'a> {
    /// The daemon says something.
    Model(&'a GenerationEvent),
    /// A tool was run.
    Tool(&'a Called),
}

/// Why a tool loop came to no answer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The call failed.
    #[error(transparent)]
    Call(#[from] Error),
    /// The model still called tools after the last round.
    #[error("the model was still calling tools after {rounds} rounds")]
    Endless {
        /// Rounds that were answered.
        rounds: usize,
        /// What it had called by then.
        calls: Vec<Called>,
    },
}

impl Default for RunOptions {
    fn default() -> Self {
        Self { max_rounds: MAX_ROUNDS, concurrent: true }
    }
}

impl Client {
    /// Asks a model that may call these tools, runs what it calls, and goes on until it answers in text. What a
    /// tool fails with is told to the model as `{"error": "..."}`.
    ///
    /// ```no_run
    /// # async fn example(client: hearth_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use hearth_client::{ChatRequest, NoArguments, RunOptions, Tools};
    ///
    /// let tools = Tools::new().tool("clock", "Tells the time.", |_: NoArguments| async {
    ///     std::time::SystemTime::now().elapsed().map(|time| time.as_secs())
    /// });
    /// let request = ChatRequest::new("demo").user("What time is it?");
    /// let outcome = client.run_tools(request, &tools, RunOptions::default()).await?;
    /// println!("{} after {} calls", outcome.answer.text, outcome.calls.len());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn run_tools(
        &self,
        request: ChatRequest,
        tools: &Tools,
        options: RunOptions,
    ) -> Result<RunOutcome, RunError> {
        self.run_tools_observed(request, tools, options, |_| {}).await
    }

    /// As [`run_tools`](Self::run_tools); `observe` sees everything as it happens.
    pub async fn run_tools_observed(
        &self,
        request: ChatRequest,
        tools: &Tools,
        options: RunOptions,
        mut observe: impl FnMut(RunEvent<'_>) + Send,
    ) -> Result<RunOutcome, RunError> {
        let mut talk = self.converse(request.tools(tools.declared())).await?;
        let mut outcome = RunOutcome::default();
        loop {
            let turn = talk.turn_observed(|event| observe(RunEvent::Model(event))).await?;
            let answer = turn.ok_or(Error::Protocol("the conversation ended in the middle of a turn"))?;
            outcome.messages.push(answer.message());
            if !talk.waits() {
                outcome.answer = answer;
                return Ok(outcome);
            }
            if outcome.rounds == options.max_rounds {
                return Err(RunError::Endless { rounds: outcome.rounds, calls: outcome.calls });
            }
            outcome.rounds += 1;
            let given = run(&answer.tool_calls, tools, options.concurrent).await;
            let mut reply = Reply::new();
            for (call, given) in answer.tool_calls.into_iter().zip(given) {
                let is_failure = given.is_failure();
                let called = Called { round: outcome.rounds, call, result: given.into_text(), is_failure };
                observe(RunEvent::Tool(&called));
                let message = called.message();
                outcome.messages.push(message.clone());
                reply = reply.message(message);
                outcome.calls.push(called);
            }
            talk.reply(reply).await?;
        }
    }
}

async fn run(calls: &[v1::ToolCall], tools: &Tools, concurrent: bool) -> Vec<Given> {
    if concurrent {
        return join_all(calls.iter().map(|call| tools.run(call))).await;
    }
    let mut given = Vec::with_capacity(calls.len());
    for call in calls {
        given.push(tools.run(call).await);
    }
    given
}

impl Called {
    fn message(&self) -> v1::Message {
        let said = crate::chat::said(v1::Role::Tool, &self.result);
        v1::Message { tool_call_id: Some(self.call.id.clone()), ..said }
    }
}
