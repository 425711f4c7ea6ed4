//! An answer as it is written.
//!
//! The stream opens with `Accepted` and closes with `Finished` or with an error, after which it is at its
//! end. Dropping it at any point cancels the work.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::time::Sleep;
use tonic::Streaming;

use crate::error::{Error, SharedEndpoint};
use crate::v1::{self, event, tool_call_delta};

/// How long after the deadline the daemon may still report it, before this side ends the call by itself:
/// the daemon knows what the time went into.
const DEADLINE_GRACE: Duration = Duration::from_millis(500);

/// An answer as it is written: a stream of [`GenerationEvent`]. Dropping it cancels the work.
#[derive(Debug)]
#[must_use = "dropping it cancels the work"]
pub struct Generation {
    /// Gone once the last event or an error was handed out.
    wire: Option<Streaming<v1::Event>>,
    deadline: Option<Pin<Box<Sleep>>>,
    endpoint: SharedEndpoint,
    order: Order,
    /// The first event, where it was waited for.
    first: Option<GenerationEvent>,
}

/// One thing that happened to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum GenerationEvent {
    /// The request was understood and has its place. The first event.
    Accepted {
        /// The id that events and logs know the request by.
        request_id: String,
        /// The model that answers, `name:tag`.
        model: String,
        /// Requests ahead of this one.
        queue_position: u32,
        /// The seed in use.
        seed: u64,
    },
    /// Work before the first token, and with a load how long it will take, where that is known.
    Progress(v1::Progress),
    /// More of the thought.
    Reasoning(v1::TextDelta),
    /// More of the answer.
    Text(v1::TextDelta),
    /// A tool call began; `index` counts the calls of this answer.
    ToolCallStarted {
        /// Which call.
        index: u32,
        /// Pairs it with its result.
        id: String,
        /// Name of the tool.
        name: String,
    },
    /// More of the arguments of a tool call, JSON text.
    ToolCallArguments {
        /// Which call.
        index: u32,
        /// Appended to what came before.
        json: String,
    },
    /// A tool call is whole.
    ToolCall {
        /// Which call.
        index: u32,
        /// The call.
        call: v1::ToolCall,
    },
    /// The model called tools and waits for their results. Only in a
    /// [`Conversation`](crate::Conversation).
    Turn(v1::Finished),
    /// The end of the answer. The last event.
    Finished(v1::Finished),
}

/// All that an answer said.
///
/// ```no_run
/// # async fn example(client: hearth_client::Client) -> Result<(), hearth_client::Error> {
/// use hearth_client::ChatRequest;
///
/// let request = ChatRequest::new("demo").user("Hello!");
/// let answer = client.generate(request.clone()).await?.answer().await?;
/// println!("{}", answer.text);
/// let next = request.message(answer.message()).user("And now?");
/// # drop(next);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The id that events and logs know the request by. Empty: not accepted yet.
    pub request_id: String,
    /// The model that answered, `name:tag`. Empty: not accepted yet.
    pub model: String,
    /// The seed in use.
    pub seed: u64,
    /// What the model thought.
    pub reasoning: String,
    /// What it said.
    pub text: String,
    /// What it called, whole calls only.
    pub tool_calls: Vec<v1::ToolCall>,
    /// How the answer, or the turn of a [`Conversation`](crate::Conversation), ended. Absent: it has not.
    pub finished: Option<v1::Finished>,
}

/// Which event comes next.
#[derive(Debug, Default)]
struct Order {
    sequence: u64,
}

impl Generation {
    pub(crate) fn new(
        wire: Streaming<v1::Event>,
        endpoint: SharedEndpoint,
        deadline: Option<tokio::time::Instant>,
    ) -> Self {
        let deadline = deadline.map(|at| Box::pin(tokio::time::sleep_until(at + DEADLINE_GRACE)));
        Self { wire: Some(wire), deadline, endpoint, order: Order::default(), first: None }
    }

    /// Waits for the first event, which is kept: up to there the daemon may still refuse.
    pub(crate) async fn begun(mut self) -> Result<Self, Error> {
        self.first = self.next().await.transpose()?;
        Ok(self)
    }

    /// The next event; none after the last one or an error.
    pub async fn next(&mut self) -> Option<Result<GenerationEvent, Error>> {
        StreamExt::next(self).await
    }

    /// Reads to the end and returns all that was said.
    pub async fn answer(mut self) -> Result<Answer, Error> {
        let mut answer = Answer::default();
        while let Some(event) = self.next().await {
            answer.push(event?);
        }
        Ok(answer)
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready())
    }

    /// The next message of the daemon as an event; `Ready(Ok(None))` for one that this version does not
    /// know.
    fn poll_event(
        &mut self,
        wire: &mut Streaming<v1::Event>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<GenerationEvent>, Error>> {
        match wire.poll_next_unpin(cx) {
            Poll::Ready(Some(Ok(event))) => Poll::Ready(self.order.on(event)),
            Poll::Ready(Some(Err(status))) => Poll::Ready(Err(Error::from_status(&status, &self.endpoint))),
            Poll::Ready(None) => Poll::Ready(Err(Error::Protocol("the answer ended without its last event"))),
            Poll::Pending if self.is_late(cx) => Poll::Ready(Err(Error::deadline())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Stream for Generation {
    type Item = Result<GenerationEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        let Some(mut wire) = this.wire.take() else { return Poll::Ready(None) };
        loop {
            let polled = this.poll_event(&mut wire, cx);
            let open = match &polled {
                Poll::Pending => true,
                Poll::Ready(Ok(None)) => continue,
                Poll::Ready(Ok(Some(event))) => !matches!(event, GenerationEvent::Finished(_)),
                Poll::Ready(Err(_)) => false,
            };
            this.wire = open.then_some(wire);
            return polled.map(Result::transpose);
        }
    }
}

impl Order {
    /// Takes the event that must be next. None: a kind of event that this version does not know.
    fn on(&mut self, event: v1::Event) -> Result<Option<GenerationEvent>, Error> {
        let v1::Event { request_id, sequence, event } = event;
        if sequence != self.sequence {
            return Err(Error::Protocol("an event of the answer is missing"));
        }
        self.sequence += 1;
        Ok(event.and_then(|event| match event {
            event::Event::Accepted(v1::Accepted { queue_position, seed, model }) => {
                Some(GenerationEvent::Accepted { request_id, model, queue_position, seed })
            }
            event::Event::Progress(progress) => Some(GenerationEvent::Progress(progress)),
            event::Event::Reasoning(delta) => Some(GenerationEvent::Reasoning(delta)),
            event::Event::Text(delta) => Some(GenerationEvent::Text(delta)),
            event::Event::ToolCall(delta) => tool_call(delta),
            event::Event::Turn(turn) => Some(GenerationEvent::Turn(turn)),
            event::Event::Finished(finished) => Some(GenerationEvent::Finished(finished)),
        }))
    }
}

fn tool_call(v1::ToolCallDelta { index, delta }: v1::ToolCallDelta) -> Option<GenerationEvent> {
    Some(match delta? {
        tool_call_delta::Delta::Started(v1::ToolCallStarted { id, name }) => {
            GenerationEvent::ToolCallStarted { index, id, name }
        }
        tool_call_delta::Delta::Arguments(json) => GenerationEvent::ToolCallArguments { index, json },
        tool_call_delta::Delta::Complete(call) => GenerationEvent::ToolCall { index, call },
    })
}

impl Answer {
    /// Adds an event. Events that say nothing of the answer change nothing.
    pub fn push(&mut self, event: GenerationEvent) {
        match event {
            GenerationEvent::Accepted { request_id, model, seed, queue_position: _ } => {
                (self.request_id, self.model, self.seed) = (request_id, model, seed);
            }
            GenerationEvent::Reasoning(delta) => self.reasoning.push_str(&delta.text),
            GenerationEvent::Text(delta) => self.text.push_str(&delta.text),
            GenerationEvent::ToolCall { call, .. } => self.tool_calls.push(call),
            GenerationEvent::Turn(ended) | GenerationEvent::Finished(ended) => self.finished = Some(ended),
            GenerationEvent::Progress(_)
            | GenerationEvent::ToolCallStarted { .. }
            | GenerationEvent::ToolCallArguments { .. } => {}
        }
    }

    /// The answer as a message of the conversation that goes on.
    pub fn message(&self) -> v1::Message {
        let text = match self.text.as_str() {
            "" => Vec::new(),
            text => crate::chat::said(v1::Role::Assistant, text).parts,
        };
        v1::Message {
            role: v1::Role::Assistant.into(),
            parts: text,
            tool_calls: self.tool_calls.clone(),
            reasoning: Some(self.reasoning.clone()).filter(|thought| !thought.is_empty()),
            ..v1::Message::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(sequence: u64, event: event::Event) -> v1::Event {
        v1::Event { request_id: "r".to_owned(), sequence, event: Some(event) }
    }

    fn text(text: &str) -> v1::TextDelta {
        v1::TextDelta { text: text.to_owned(), logprobs: Vec::new() }
    }

    fn call() -> v1::ToolCall {
        v1::ToolCall { id: "c".to_owned(), name: "n".to_owned(), arguments: "{}".to_owned() }
    }

    #[test]
    fn an_answer_is_the_sum_of_its_events() {
        let complete = tool_call_delta::Delta::Complete(call());
        let script = [
            event::Event::Accepted(v1::Accepted { queue_position: 1, seed: 7, model: "m:latest".to_owned() }),
            event::Event::Progress(v1::Progress::default()),
            event::Event::Reasoning(text("hm")),
            event::Event::Text(text("o")),
            event::Event::Text(text("k")),
            event::Event::ToolCall(v1::ToolCallDelta { index: 0, delta: Some(complete) }),
            event::Event::Finished(v1::Finished::default()),
        ];
        let (mut order, mut answer) = (Order::default(), Answer::default());
        for (sequence, event) in (0..).zip(script) {
            let event = order.on(wire(sequence, event)).expect("in order").expect("known");
            answer.push(event);
        }
        assert_eq!((answer.request_id.as_str(), answer.model.as_str(), answer.seed), ("r", "m:latest", 7));
        assert_eq!((answer.reasoning.as_str(), answer.text.as_str()), ("hm", "ok"));
        assert_eq!(answer.tool_calls, [call()]);
        assert!(answer.finished.is_some());
    }

    #[test]
    fn a_missing_event_is_noticed() {
        let mut order = Order::default();
        assert!(order.on(wire(0, event::Event::Text(text("a")))).is_ok());
        assert!(matches!(order.on(wire(2, event::Event::Text(text("c")))), Err(Error::Protocol(_))));
    }

    #[test]
    fn an_event_of_a_newer_daemon_is_passed_over() {
        let mut order = Order::default();
        let unknown = v1::Event { request_id: "r".to_owned(), sequence: 0, event: None };
        assert!(matches!(order.on(unknown), Ok(None)));
        assert!(matches!(order.on(wire(1, event::Event::Text(text("a")))), Ok(Some(_))));
    }

    #[test]
    fn an_answer_of_calls_alone_has_no_content() {
        let answer = Answer { tool_calls: vec![call()], ..Answer::default() };
        let message = answer.message();
        assert_eq!(message.role(), v1::Role::Assistant);
        assert!(message.parts.is_empty());
        assert_eq!(message.reasoning, None);
        assert_eq!(message.tool_calls, [call()]);
    }
}
