//! A tool loop on one stream.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tonic::Request;

use crate::chat::said;
use crate::v1::{self, converse_request::Kind, tool_choice};
use crate::{Answer, Error, Generation, GenerationEvent};

/// A message is sent before the next one can be wanted.
const MESSAGES: usize = 1;

/// A conversation in which the model may call tools: a stream of [`GenerationEvent`] that stops at each turn
/// until the results of its calls are given. Dropping it cancels the work.
#[derive(Debug)]
#[must_use = "dropping it cancels the work"]
pub struct Conversation {
    generation: Generation,
    /// Gone once nothing more is to be said.
    say: Option<mpsc::Sender<v1::ConverseRequest>>,
    waits: bool,
    /// Who answers, as the first event says it; every turn begins with it.
    begun: Answer,
}

/// What a program says between two turns of a model: a result for each call, and what else it has to say.
///
/// ```
/// use hearth_client::Reply;
///
/// let reply = Reply::new().result("call_1", r#"{"celsius": 12}"#).user("In Fahrenheit, please.");
/// # drop(reply);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use = "it is sent by `Conversation::reply`"]
pub struct Reply {
    next: v1::NextTurn,
}

/// The first message, and the way for those that follow.
pub(crate) fn opening(
    request: Request<v1::GenerateRequest>,
) -> (mpsc::Sender<v1::ConverseRequest>, Request<impl Stream<Item = v1::ConverseRequest> + Send + 'static>) {
    let (say, inbox) = mpsc::channel(MESSAGES);
    let rest = stream::unfold(inbox, |mut inbox: mpsc::Receiver<_>| async {
        let message = inbox.recv().await?;
        Some((message, inbox))
    });
    let request = request.map(|start| {
        let start = v1::ConverseRequest { kind: Some(Kind::Start(start)) };
        stream::once(std::future::ready(start)).chain(rest)
    });
    (say, request)
}

impl Conversation {
    pub(crate) fn new(generation: Generation, say: mpsc::Sender<v1::ConverseRequest>) -> Self {
        Self { generation, say: Some(say), waits: false, begun: Answer::default() }
    }

    /// The next event; none after the last one or an error. After [`GenerationEvent::Turn`] nothing comes before
    /// [`reply`](Self::reply) or [`end`](Self::end).
    pub async fn next(&mut self) -> Option<Result<GenerationEvent, Error>> {
        StreamExt::next(self).await
    }

    /// Reads to the end of the model's turn and returns what it said; none after the last one.
    pub async fn turn(&mut self) -> Result<Option<Answer>, Error> {
        self.turn_observed(|_| {}).await
    }

    /// As [`turn`](Self::turn); `observe` sees each event as it comes.
    pub async fn turn_observed(
        &mut self,
        mut observe: impl FnMut(&GenerationEvent),
    ) -> Result<Option<Answer>, Error> {
        let mut answer = self.begun.clone();
        while let Some(event) = self.next().await {
            let event = event?;
            observe(&event);
            answer.push(event);
            if answer.finished.is_some() {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }

    /// Whether the model waits for the results of its calls.
    pub fn waits(&self) -> bool {
        self.waits
    }

    /// Answers the calls of the turn that just ended. Where the daemon has ended the conversation in the
    /// meantime, the next event says why.
    ///
    /// # Errors
    /// [`Error::NothingAsked`]: the model waits for no results.
    pub async fn reply(&mut self, reply: impl Into<Reply>) -> Result<(), Error> {
        let Some(say) = self.say.as_ref().filter(|_| self.waits) else { return Err(Error::NothingAsked) };
        let kind = Some(Kind::Next(reply.into().next));
        // Nobody takes it once the call has ended, whose status is the next event.
        say.send(v1::ConverseRequest { kind }).await.ok();
        self.waits = false;
        Ok(())
    }

    /// Says that no more results will come: a model that waits for some, or will, ends with
    /// `FINISH_REASON_TOOL_CALLS`.
    pub fn end(&mut self) {
        self.say = None;
    }
}

impl Stream for Conversation {
    type Item = Result<GenerationEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = ready!(self.generation.poll_next_unpin(cx));
        match &event {
            Some(Ok(accepted @ GenerationEvent::Accepted { .. })) => self.begun.push(accepted.clone()),
            Some(Ok(GenerationEvent::Turn(_))) => self.waits = true,
            Some(Ok(GenerationEvent::Finished(_)) | Err(_)) | None => self.waits = false,
            Some(Ok(_)) => {}
        }
        Poll::Ready(event)
    }
}

impl Reply {
    /// Nothing so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the result of the call with this id.
    pub fn result(self, call_id: impl Into<String>, text: impl Into<String>) -> Self {
        self.message(v1::Message { tool_call_id: Some(call_id.into()), ..said(v1::Role::Tool, text) })
    }

    /// Adds what the person or program says, behind the results.
    pub fn user(self, text: impl Into<String>) -> Self {
        self.message(said(v1::Role::User, text))
    }

    /// Adds any message.
    pub fn message(mut self, message: v1::Message) -> Self {
        self.next.messages.push(message);
        self
    }

    /// Says whether the model may call its tools from its next turn on. A tool is named by
    /// [`named_tool`](Self::named_tool). Without a choice the last one stays, but who had to call need not call
    /// again; a choice replaces the last one as a whole, whether several calls are allowed included.
    pub fn tool_choice(mut self, mode: tool_choice::Mode) -> Self {
        let choice = self.choice();
        choice.mode = mode.into();
        choice.name.clear();
        self
    }

    /// Has the model call this one of its tools in its next turn, and say nothing else.
    pub fn named_tool(self, name: impl Into<String>) -> Self {
        let mut reply = self.tool_choice(tool_choice::Mode::Named);
        reply.choice().name = name.into();
        reply
    }

    /// Says whether one answer may make several calls from the next turn on. Said alone, it is a choice in which the
    /// model decides whether it calls.
    pub fn parallel_tools(mut self, allowed: bool) -> Self {
        self.choice().parallel = Some(allowed);
        self
    }

    fn choice(&mut self) -> &mut v1::ToolChoice {
        self.next.tool_choice.get_or_insert_default()
    }
}

impl From<v1::NextTurn> for Reply {
    fn from(next: v1::NextTurn) -> Self {
        Self { next }
    }
}

impl FromIterator<v1::Message> for Reply {
    fn from_iter<I: IntoIterator<Item = v1::Message>>(messages: I) -> Self {
        messages.into_iter().fold(Self::new(), Self::message)
    }
}

#[cfg(test)]
mod tests {
    use tool_choice::Mode;

    use super::*;

    fn chosen(reply: Reply) -> (Mode, String, Option<bool>) {
        let choice = reply.next.tool_choice.expect("was chosen");
        (choice.mode(), choice.name, choice.parallel)
    }

    #[test]
    fn the_last_choice_of_a_reply_holds_and_keeps_whether_several_may_be_called() {
        let reply = Reply::new().result("c", "x");
        assert_eq!(reply.next.tool_choice, None);
        let named = chosen(reply.clone().parallel_tools(false).named_tool("a"));
        assert_eq!(named, (Mode::Named, "a".to_owned(), Some(false)));
        let required = chosen(reply.clone().named_tool("a").parallel_tools(true).tool_choice(Mode::Required));
        assert_eq!(required, (Mode::Required, String::new(), Some(true)));
        assert_eq!(chosen(reply.parallel_tools(false)), (Mode::Unspecified, String::new(), Some(false)));
    }
}
