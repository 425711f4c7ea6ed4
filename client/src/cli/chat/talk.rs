//! A conversation and its turns.
//!
//! A question whose calls can be answered is a tool loop: one stream, on which the model stays ready until it has
//! answered. Should the daemon give the loop up because a person took their time, the question goes on with another
//! stream, since all that was said is known here.

use hearth_client::{Answer, Client, Conversation, Error, Generation, GenerationEvent, Reply, reason, v1};

use super::show;
use crate::cli::exit::{Failure, chain};
use crate::cli::output::Output;
use crate::cli::setup::{Setup, ToolChoice};
use crate::cli::tools::{Means, ProgramError, Toolbox};

/// How many rounds of calls are answered on the way to one answer: a model that calls for ever must end.
const MAX_TOOL_ROUNDS: usize = 8;

/// A conversation: what was said, and what of the turn that is going on.
#[derive(Debug)]
pub(super) struct Talk {
    client: Client,
    /// How the model is asked; may change between two turns.
    pub(super) setup: Setup,
    toolbox: Toolbox,
    mode: Mode,
    /// The tool loop that waits for results, if any.
    open: Option<Conversation>,
    /// All that was said, oldest first, without the instructions.
    said: Vec<v1::Message>,
    /// What the person asked last, and how much had been said before it.
    question: Option<Question>,
    /// What the model has said so far in its turn.
    answer: Answer,
}

/// Whether there is somebody who may answer calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// One question; what answers its calls was given beforehand.
    Once,
    /// The person may.
    Conversation,
}

/// What the model is heard on.
enum Stream {
    Once(Box<Generation>),
    Loop(Box<Conversation>),
}

#[derive(Clone, Debug)]
struct Question {
    text: String,
    before: usize,
}

impl Talk {
    pub(super) fn new(client: Client, setup: Setup, toolbox: Toolbox, mode: Mode) -> Self {
        let (said, answer) = (Vec::new(), Answer::default());
        Self { client, setup, toolbox, mode, open: None, said, question: None, answer }
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
        self.open = None;
        self.said.clear();
        self.question = None;
    }

    /// Goes on from an earlier conversation.
    pub(super) fn resume(&mut self, said: Vec<v1::Message>) {
        self.open = None;
        let last = said.iter().rposition(|message| message.role() == v1::Role::User);
        self.question = last.map(|before| Question { text: text_of(&said[before]), before });
        self.said = said;
    }

    /// The person says something.
    pub(super) fn say(&mut self, text: String) {
        self.open = None;
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
        let mut rounds = 0;
        loop {
            let calls = self.round(out).await?;
            if calls.is_empty() || !calls.iter().all(|call| self.toolbox.answers(call)) {
                return Ok(calls);
            }
            if rounds == MAX_TOOL_ROUNDS {
                return Err(Failure::EndlessTools(rounds));
            }
            rounds += 1;
            for call in &calls {
                let text = self.automatic(call).await;
                show::tool_result(&text, out)?;
                self.report(call, &text);
            }
        }
    }

    async fn automatic(&self, call: &v1::ToolCall) -> String {
        match self.toolbox.means(call) {
            Some(Means::Said(text)) => text.to_owned(),
            Some(Means::Program(program)) => result_or_error(program.run(call).await),
            None => String::new(),
        }
    }

    /// One turn of the model.
    async fn round(&mut self, out: &mut Output) -> Result<Vec<v1::ToolCall>, Failure> {
        let mut goes_on = self.open.is_some();
        let mut stream = self.stream().await?;
        self.answer = Answer::default();
        loop {
            let event = match stream.next().await {
                Some(Ok(event)) => event,
                Some(Err(error)) if goes_on && self.is_unheard() && has_waited_too_long(&error) => {
                    goes_on = false;
                    stream = self.begin(Asked::Again).await?;
                    continue;
                }
                Some(Err(error)) => return Err(error.into()),
                None => break,
            };
            show::event(&event, out)?;
            let is_turn = matches!(event, GenerationEvent::Turn(_));
            self.answer.push(event);
            if is_turn {
                break;
            }
        }
        self.open = stream.waiting();
        let answer = std::mem::take(&mut self.answer);
        self.said.push(answer.message());
        Ok(answer.tool_calls)
    }

    /// Where the model is heard next: on the loop that waits for results, or on a new stream.
    async fn stream(&mut self) -> Result<Stream, Error> {
        let Some(mut talk) = self.open.take() else { return self.begin(Asked::Anew).await };
        let results = self.said.iter().rposition(|message| message.role() == v1::Role::Assistant);
        let results = self.said.iter().skip(results.map_or(0, |last| last + 1));
        talk.reply(results.cloned().collect::<Reply>()).await?;
        Ok(Stream::Loop(Box::new(talk)))
    }

    async fn begin(&self, asked: Asked) -> Result<Stream, Error> {
        let mut setup = self.setup.clone();
        if asked == Asked::Again {
            setup.tool_choice = setup.tool_choice.map(ToolChoice::answered);
        }
        let request = setup.request(&self.said);
        Ok(if self.may_loop() {
            Stream::Loop(Box::new(self.client.converse(request).await?))
        } else {
            Stream::Once(Box::new(self.client.generate(request).await?))
        })
    }

    /// Whether calls of the model may be answered.
    fn may_loop(&self) -> bool {
        !self.toolbox.is_empty() || (self.mode == Mode::Conversation && !self.setup.tools.is_empty())
    }

    /// Whether the model has said nothing in its turn.
    fn is_unheard(&self) -> bool {
        let Answer { reasoning, text, tool_calls, .. } = &self.answer;
        reasoning.is_empty() && text.is_empty() && tool_calls.is_empty()
    }

    /// Ends a loop whose calls get no results, and shows how it ended.
    pub(super) async fn end(&mut self, out: &mut Output) -> Result<(), Failure> {
        let Some(mut talk) = self.open.take() else { return Ok(()) };
        talk.end();
        while let Some(event) = talk.next().await {
            show::event(&event?, out)?;
        }
        Ok(())
    }

    /// The turn failed: it is as if the person had said nothing, but may be asked again.
    pub(super) fn take_back(&mut self) {
        self.answer = Answer::default();
        self.open = None;
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

/// Whether a question was asked on another stream before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Anew,
    Again,
}

impl Stream {
    async fn next(&mut self) -> Option<Result<GenerationEvent, Error>> {
        match self {
            Self::Once(generation) => generation.next().await,
            Self::Loop(talk) => talk.next().await,
        }
    }

    /// The loop, where it waits for results.
    fn waiting(self) -> Option<Conversation> {
        match self {
            Self::Loop(talk) if talk.waits() => Some(*talk),
            Self::Loop(_) | Self::Once(_) => None,
        }
    }
}

/// Whether the daemon gave a loop up that a person let wait.
fn has_waited_too_long(error: &Error) -> bool {
    error.refusal().is_some_and(|refusal| refusal.reason.as_deref() == Some(reason::REPLY_STALLED))
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
