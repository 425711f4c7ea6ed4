//! `Converse`: a tool loop on one stream.
//!
//! ```text
//!  client ──start──► turn of the model ──`finished`──► end
//!                        │        ▲
//!                     `turn`      │ results
//!                        ▼        │
//!                     waits for `next` ──half-close──► `finished`, TOOL_CALLS
//!                        └─────── too long ──► REPLY_STALLED
//! ```
//!
//! The lease on the model is kept between turns, so that the model stays in memory with what it has computed while
//! tools run. A model that is to leave memory waits for answers and not for tools: the lease is given back, and the
//! next turn takes its place in line. The conversation is held here, so that nothing is lost but what was computed. An
//! engine that dies in between is replaced by a new one likewise.

use std::pin::pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use hearth_proto::v1 as pb;
use pb::converse_request::Kind;
use tonic::Status;

use super::call::Call;
use super::convert::{Calls, Generate, Next, Said, Summary};
use super::status::{Fault, Invalid};
use super::stream::Outlet;
use super::turn::{Speaker, Tally, count, engine_request, settled};
use crate::engines::KeepAlive;
use crate::engines::event::FinishReason;
use crate::engines::request::{Conversation, GenerateRequest, Prompt};
use crate::engines::{Engines, Lease, ModelState};
use crate::lifecycle::LifecycleWatch;
use crate::metrics::Metrics;
use crate::units::ModelName;

/// How long the first message may take: a program sends it at once.
const START_WAIT: Duration = Duration::from_secs(30);

/// A conversation from its first message to its last event.
pub(super) async fn converse(
    engines: Engines,
    call: Call,
    mut said: impl Stream<Item = Result<pb::ConverseRequest, Status>> + Unpin,
    outlet: Outlet<pb::Event>,
    metrics: Metrics,
    lifecycle: LifecycleWatch,
) -> Result<(), Fault> {
    let request = start(&mut said).await?;
    let model = engines.lookup(&request.model)?.name;
    let request = settled(request, &engines, &model);
    let outlet = outlet.with_stall(engines.reader_stall(&model));
    let tally = Tally::new(metrics.clone(), lifecycle, model.clone(), outlet.reader());
    let keep_alive = request.keep_alive;
    let request = engine_request(&call, request);
    let speaker = Speaker::new(call, &model, request.seed, outlet);
    let work = Loop { engines, model, metrics, speaker, request, keep_alive };
    tally.keep(work.run(said)).await
}

/// The first message: a request for an answer to a conversation.
async fn start(
    said: &mut (impl Stream<Item = Result<pb::ConverseRequest, Status>> + Unpin),
) -> Result<Generate, Fault> {
    let first = tokio::time::timeout(START_WAIT, heard(said)).await;
    let request = match first.map_err(|_| Fault::ReplyStalled(START_WAIT))?? {
        Some(Kind::Start(start)) => Generate::try_from(start)?,
        Some(Kind::Next(_)) | None => return Err(Invalid::new("start", "comes first").into()),
    };
    match request.prompt {
        Prompt::Conversation(_) => Ok(request),
        Prompt::Raw(_) => {
            Err(Invalid::new("prompt.raw", "a raw prompt has no turns: Generate takes it").into())
        }
    }
}

/// What the client says next; `None` where it says nothing more.
async fn heard(
    said: &mut (impl Stream<Item = Result<pb::ConverseRequest, Status>> + Unpin),
) -> Result<Option<Kind>, Fault> {
    match said.next().await {
        None => Ok(None),
        Some(Ok(pb::ConverseRequest { kind: Some(kind) })) => Ok(Some(kind)),
        Some(Ok(pb::ConverseRequest { kind: None })) => {
            Err(Invalid::new("kind", "has no content that this daemon knows").into())
        }
        Some(Err(_)) => Err(Fault::ClientGone),
    }
}

/// A tool loop.
struct Loop {
    engines: Engines,
    model: ModelName,
    metrics: Metrics,
    speaker: Speaker,
    /// What the engine is asked; its conversation grows.
    request: GenerateRequest,
    keep_alive: Option<KeepAlive>,
}

impl Loop {
    /// Turns of the model until it has said what it had to say; how the last one ended, where it is not counted.
    async fn run(
        mut self,
        mut said: impl Stream<Item = Result<pb::ConverseRequest, Status>> + Unpin,
    ) -> Result<Option<Summary>, Fault> {
        let mut lease = self.speaker.lease(&self.engines, &self.model, self.keep_alive).await?;
        loop {
            let mut answer = Said::default();
            let turn = self.speaker.turn(&mut lease, self.request.clone(), |event| answer.hear(event));
            let finished = turn.await?;
            if finished.reason != FinishReason::ToolCalls || answer.calls().is_empty() {
                return self.speaker.finish(finished).await.map(Some);
            }
            let summary = self.speaker.end_turn(finished).await?;
            count(&self.metrics, &self.model, &summary);
            lease.rest();
            let (next, kept) = results(&self.engines, &self.model, lease, &mut said).await?;
            let Some(next) = next else {
                self.speaker.give_up().await?;
                return Ok(None);
            };
            self.speaker.begin_turn();
            go_on(conversation(&mut self.request)?, answer, next)?;
            lease = match kept.filter(|lease| !lease.engine().has_ended()) {
                Some(lease) => lease,
                None => self.speaker.lease(&self.engines, &self.model, self.keep_alive).await?,
            };
            lease.wake();
        }
    }
}

fn conversation(request: &mut GenerateRequest) -> Result<&mut Conversation, Fault> {
    match &mut request.prompt {
        Prompt::Conversation(conversation) => Ok(conversation),
        Prompt::Raw(_) => Err(Fault::Internal("a raw prompt came past the start of a conversation")),
    }
}

/// Adds a turn and what came after it.
fn go_on(conversation: &mut Conversation, answer: Said, next: pb::NextTurn) -> Result<(), Invalid> {
    conversation.messages.push(answer.message());
    let mut calls = Calls::of(&conversation.messages);
    let Next { messages, tool_choice } = Next::of(next, &mut calls, &conversation.tools)?;
    conversation.messages.extend(messages);
    let before = std::mem::take(&mut conversation.tool_choice);
    conversation.tool_choice = tool_choice.unwrap_or_else(|| before.answered());
    Ok(())
}

/// Waits for the results of a turn's calls; `None` where the client gives none. The lease comes back with them where
/// the model did not have to leave.
async fn results(
    engines: &Engines,
    model: &ModelName,
    lease: Lease,
    said: &mut (impl Stream<Item = Result<pb::ConverseRequest, Status>> + Unpin),
) -> Result<(Option<pb::NextTurn>, Option<Lease>), Fault> {
    let wait = engines.reply_wait();
    let mut next = pin!(tokio::time::timeout(wait, heard(said)));
    let kept = tokio::select! {
        // What ends the wait outranks what would go on, and others who wait the client that is quick.
        biased;
        () = lease.aborted() => return Err(Fault::UnloadedInAnswer),
        () = leaving(engines, model) => None,
        next = &mut next => Some(next),
    };
    let (next, lease) = match kept {
        Some(next) => (next, Some(lease)),
        None => {
            drop(lease);
            (next.await, None)
        }
    };
    match next.map_err(|_| Fault::ReplyStalled(wait))?? {
        None => Ok((None, lease)),
        Some(Kind::Next(next)) => Ok((Some(next), lease)),
        Some(Kind::Start(_)) => Err(Invalid::new("start", "comes once").into()),
    }
}

/// Resolves once the model is to leave memory when its answers have ended.
async fn leaving(engines: &Engines, model: &ModelName) {
    let mut states = engines.watch();
    let is_leaving = states
        .wait_for(|states| states.get(model).is_some_and(|status| status.state == ModelState::Unloading))
        .await
        .is_ok();
    if !is_leaving {
        // A registry that has ended has ended its engines, which is noticed elsewhere.
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;
    use crate::engines::request::{Role, ToolChoice, ToolMode};

    fn message(role: pb::Role, text: &str) -> pb::Message {
        let part = pb::content_part::Part::Text(text.to_owned());
        let parts = vec![pb::ContentPart { part: Some(part) }];
        pb::Message { role: role.into(), parts, ..pb::Message::default() }
    }

    fn asked(mode: pb::tool_choice::Mode) -> Conversation {
        let tool_choice = pb::ToolChoice { mode: mode.into(), ..pb::ToolChoice::default() };
        let conversation = pb::Conversation {
            messages: vec![message(pb::Role::User, "hi")],
            tools: vec![pb::Tool { name: "f".to_owned(), ..pb::Tool::default() }],
            tool_choice: Some(pb::ToolChoice { parallel: Some(false), ..tool_choice }),
            ..pb::Conversation::default()
        };
        let prompt = pb::Prompt { kind: Some(pb::prompt::Kind::Conversation(conversation)) };
        match super::super::convert::prompt_of(Some(prompt)) {
            Ok(Prompt::Conversation(conversation)) => conversation,
            other => panic!("{other:?}"),
        }
    }

    fn called() -> Said {
        use pb::tool_call_delta::Delta;
        let call = pb::ToolCall { id: "1".to_owned(), name: "f".to_owned(), arguments: "{}".to_owned() };
        let delta = pb::ToolCallDelta { index: 0, delta: Some(Delta::Complete(call)) };
        let event = pb::Event { event: Some(pb::event::Event::ToolCall(delta)), ..pb::Event::default() };
        let mut said = Said::default();
        said.hear(&event);
        said
    }

    #[test]
    fn who_had_to_call_need_not_call_again() {
        use pb::tool_choice::Mode;
        for (mode, then) in
            [(Mode::Required, ToolMode::Auto), (Mode::Auto, ToolMode::Auto), (Mode::None, ToolMode::None)]
        {
            let mut conversation = asked(mode);
            let next = pb::NextTurn { messages: vec![message(pb::Role::Tool, "4")], tool_choice: None };
            go_on(&mut conversation, called(), next).expect("it fits");
            assert_eq!(conversation.tool_choice, ToolChoice { mode: then, parallel: Some(false) });
            let roles: Vec<_> = conversation.messages.iter().map(|message| message.role).collect();
            assert_eq!(roles, [Role::User, Role::Assistant, Role::Tool]);
            assert_eq!(conversation.messages[2].tool_call_id.as_deref(), Some("1"));
        }
    }

    #[test]
    fn a_choice_between_turns_holds() {
        let mut conversation = asked(pb::tool_choice::Mode::Required);
        let choice = pb::ToolChoice {
            mode: pb::tool_choice::Mode::Named.into(),
            name: "f".to_owned(),
            parallel: None,
        };
        let next = pb::NextTurn { messages: vec![message(pb::Role::Tool, "4")], tool_choice: Some(choice) };
        go_on(&mut conversation, called(), next).expect("it fits");
        assert_eq!(conversation.tool_choice.mode, ToolMode::Named("f".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_not_waited_for() {
        let mut silent = stream::pending();
        let asked = tokio::time::Instant::now();
        assert!(matches!(start(&mut silent).await, Err(Fault::ReplyStalled(START_WAIT))));
        assert_eq!(asked.elapsed(), START_WAIT);
    }
}
