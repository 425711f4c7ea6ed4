//! The loop that lets a model call the functions of a program until it answers in text.

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::tools::{Given, Tools};
use crate::{Answer, Call, ChatRequest, Client, Conversation, Error, GenerationEvent, Reply, reason, v1};

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
    /// The model's last turn. Where it called nothing, its usage and times are those of the whole loop.
    pub answer: Answer,
    /// How many rounds of calls were answered.
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

/// Why a tool loop came to no answer, and what was said and called by then: tools that ran have left their traces.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The call failed.
    #[error("the tool loop failed")]
    Call {
        /// How.
        source: Error,
        /// All that came before. Behind those of the request, its messages are where another loop can go on.
        so_far: Box<RunOutcome>,
    },
    /// The model still called tools after the last round.
    #[error("the model was still calling tools after {} rounds", so_far.rounds)]
    Endless {
        /// All that came before. Its last message has the calls that were not answered.
        so_far: Box<RunOutcome>,
    },
}

/// How a loop ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Answered,
    Endless,
}

/// What turns of a model took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Taken {
    usage: v1::Usage,
    timings: v1::Timings,
}

/// A tool loop: what was asked, and what came of it so far.
struct Run<'r, O> {
    client: &'r Client,
    request: ChatRequest,
    /// When all of it, streams that the daemon gave up included, must be over.
    due: Option<Instant>,
    tools: &'r Tools,
    options: RunOptions,
    observe: O,
    outcome: RunOutcome,
    /// What all turns took that called tools.
    turns: Taken,
    /// What of that was on streams that the daemon gave up, which it does not count. Absent: there was none.
    lost: Option<Taken>,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self { max_rounds: MAX_ROUNDS, concurrent: true }
    }
}

impl Client {
    /// Asks a model that may call these tools, runs what it calls, and goes on until it answers in text. What a
    /// tool fails with is told to the model as `{"error": "..."}`. Tools may take their time: where the daemon has
    /// given the loop up meanwhile (`reply_wait`), it goes on with another one.
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
        observe: impl FnMut(RunEvent<'_>) + Send,
    ) -> Result<RunOutcome, RunError> {
        let request = request.tools(tools.declared());
        let due = self.due(&Call::<v1::GenerateRequest>::from(request.clone()));
        let mut run = Run {
            client: self,
            request,
            due,
            tools,
            options,
            observe,
            outcome: RunOutcome::default(),
            turns: Taken::default(),
            lost: None,
        };
        let ended = run.run().await;
        let so_far = run.outcome;
        match ended {
            Ok(Ended::Answered) => Ok(so_far),
            Ok(Ended::Endless) => Err(RunError::Endless { so_far: Box::new(so_far) }),
            Err(source) => Err(RunError::Call { source, so_far: Box::new(so_far) }),
        }
    }
}

impl<O: FnMut(RunEvent<'_>) + Send> Run<'_, O> {
    async fn run(&mut self) -> Result<Ended, Error> {
        let mut talk = self.client.converse(self.request.clone()).await?;
        loop {
            let answer = match self.turn(&mut talk).await {
                Err(error) if self.outcome.rounds > 0 && has_waited_too_long(&error) => {
                    talk = self.begin_again().await?;
                    self.turn(&mut talk).await?
                }
                turn => turn?,
            };
            self.outcome.messages.push(answer.message());
            self.outcome.answer = answer;
            if !talk.waits() {
                if let (Some(lost), Some(whole)) = (self.lost, &mut self.outcome.answer.finished) {
                    lost.add_to(whole);
                }
                return Ok(Ended::Answered);
            }
            if self.outcome.rounds == self.options.max_rounds {
                return Ok(Ended::Endless);
            }
            talk.reply(self.results().await).await?;
        }
    }

    async fn turn(&mut self, talk: &mut Conversation) -> Result<Answer, Error> {
        let turn = talk.turn_observed(|event| (self.observe)(RunEvent::Model(event))).await?;
        turn.ok_or(Error::Protocol("the conversation ended in the middle of a turn"))
    }

    /// Asks again on another stream, with all that was said on the one that the daemon gave up.
    async fn begin_again(&mut self) -> Result<Conversation, Error> {
        self.lost = Some(self.turns);
        let said = self.outcome.messages.iter().cloned();
        let mut request = said.fold(self.request.clone().answered(), ChatRequest::message);
        if let Some(due) = self.due {
            request = request.deadline(due.saturating_duration_since(Instant::now()));
        }
        self.client.converse(request).await
    }

    /// Runs what the last turn called.
    async fn results(&mut self) -> Reply {
        self.outcome.rounds += 1;
        let answer = &self.outcome.answer;
        if let Some(turn) = &answer.finished {
            self.turns.add(turn);
        }
        let calls = answer.tool_calls.clone();
        let given = run(&calls, self.tools, self.options.concurrent).await;
        let mut reply = Reply::new();
        for (call, given) in calls.into_iter().zip(given) {
            let is_failure = given.is_failure();
            let called = Called { round: self.outcome.rounds, call, result: given.into_text(), is_failure };
            (self.observe)(RunEvent::Tool(&called));
            let message = called.message();
            self.outcome.messages.push(message.clone());
            reply = reply.message(message);
            self.outcome.calls.push(called);
        }
        reply
    }
}

impl Taken {
    /// Adds another turn. The first delta is that of the first one.
    fn add(&mut self, turn: &v1::Finished) {
        let v1::Usage { prompt_tokens, cached_tokens, generated_tokens, forced_tokens } =
            turn.usage.unwrap_or_default();
        for (sum, part) in [
            (&mut self.usage.prompt_tokens, prompt_tokens),
            (&mut self.usage.cached_tokens, cached_tokens),
            (&mut self.usage.generated_tokens, generated_tokens),
            (&mut self.usage.forced_tokens, forced_tokens),
        ] {
            *sum = sum.saturating_add(part);
        }
        let v1::Timings { queue_ms, load_ms, prefill_ms, decode_ms, first_delta_ms } =
            turn.timings.unwrap_or_default();
        self.timings.queue_ms += queue_ms;
        self.timings.load_ms += load_ms;
        self.timings.prefill_ms += prefill_ms;
        self.timings.decode_ms += decode_ms;
        if self.timings.first_delta_ms == 0.0 {
            self.timings.first_delta_ms = first_delta_ms;
        }
    }

    /// Adds these to what the turns after them took.
    fn add_to(mut self, later: &mut v1::Finished) {
        self.add(later);
        (later.usage, later.timings) = (Some(self.usage), Some(self.timings));
    }
}

/// Whether the daemon gave a loop up whose tools took their time.
fn has_waited_too_long(error: &Error) -> bool {
    error.refusal().is_some_and(|refusal| refusal.reason.as_deref() == Some(reason::REPLY_STALLED))
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
