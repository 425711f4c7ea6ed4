//! Tool loops: a script that plays the daemon's side, and what the library and the command line make of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::Stream;
use futures_util::StreamExt;
use hearth_client::v1::{self, FinishReason, converse_request::Kind, event, tool_call_delta};
use hearth_client::{
    ChatRequest, Client, Error, GenerationEvent, NoArguments, Reply, Retry, RunError, RunEvent, RunOptions,
    Tools,
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

use crate::daemon::{Daemon, Flag, Noted, accepted, answer, called, finished, numbered, queue_full, text};
use crate::{PATIENCE, check, run, tools_file, until};

/// The daemon's side of a conversation.
pub(crate) fn talk(
    noted: Noted,
    said: Streaming<v1::ConverseRequest>,
) -> impl Stream<Item = Result<v1::Event, Status>> + Send {
    let flag = Flag(Arc::clone(&noted.cancelled));
    let (events, outbox) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut side = Side { noted, said, events: events.clone(), sequence: 0 };
        if let Err(Some(status)) = side.play().await {
            events.send(Err(status)).await.ok();
        }
    });
    ReceiverStream::new(outbox).map(move |event| {
        let _ = &flag;
        event
    })
}

struct Side {
    noted: Noted,
    said: Streaming<v1::ConverseRequest>,
    events: mpsc::Sender<Result<v1::Event, Status>>,
    sequence: u64,
}

/// Why the script ends early: with a status, or since nobody listens.
type Ended = Option<Status>;

impl Side {
    async fn play(&mut self) -> Result<(), Ended> {
        let Some(Kind::Start(start)) = self.hear().await? else {
            return Err(Some(Status::invalid_argument("no start")));
        };
        let refused = self.noted.refuses();
        match start.model.as_str() {
            "full" => return Err(Some(queue_full(2000))),
            "later" if refused => return Err(Some(queue_full(5))),
            _ => self.say(accepted(&start.model)).await?,
        }
        let mut turn = match start.model.as_str() {
            "endless" => loop {
                tokio::time::sleep(Duration::from_millis(5)).await;
                self.say(text("on and on\n")).await?;
            },
            "caller" | "thorough" => vec![called(), finished(FinishReason::ToolCalls)],
            "twice" => vec![call(0), call(1), finished(FinishReason::ToolCalls)],
            "stuck" if was_answered(&start) => return Err(Some(stalled())),
            _ => answer(&start),
        };
        let mut replies = 0;
        loop {
            let is_over = !matches!(turn.last(), Some(event::Event::Finished(end)) if end.reason() == FinishReason::ToolCalls);
            for event in std::mem::take(&mut turn) {
                let event = took(event);
                self.say(if is_over { event } else { as_turn(event) }).await?;
            }
            if is_over {
                return Ok(());
            }
            let Some(Kind::Next(next)) = self.hear().await? else {
                return self.say(finished(FinishReason::ToolCalls)).await;
            };
            replies += 1;
            turn = match start.model.as_str() {
                "caller" => vec![called(), finished(FinishReason::ToolCalls)],
                "thorough" if replies < 8 => vec![called(), finished(FinishReason::ToolCalls)],
                "slow" | "stuck" => return Err(Some(stalled())),
                _ => vec![text("the tool said "), text(&words(&next)), finished(FinishReason::Stop)],
            };
        }
    }

    async fn say(&mut self, event: event::Event) -> Result<(), Ended> {
        let event = numbered((self.sequence, event));
        self.sequence += 1;
        self.events.send(event).await.map_err(|_| None)
    }

    async fn hear(&mut self) -> Result<Option<Kind>, Ended> {
        let heard = self.said.message().await.map_err(Some)?.and_then(|message| message.kind);
        if let Some(kind) = &heard {
            self.noted.said.lock().expect("no panic").push(kind.clone());
        }
        Ok(heard)
    }
}

fn as_turn(event: event::Event) -> event::Event {
    match event {
        event::Event::Finished(end) => event::Event::Turn(end),
        event => event,
    }
}

/// Each turn reads 10 tokens.
fn took(event: event::Event) -> event::Event {
    let usage = Some(v1::Usage { prompt_tokens: 10, ..v1::Usage::default() });
    match event {
        event::Event::Finished(end) => event::Event::Finished(v1::Finished { usage, ..end }),
        event => event,
    }
}

/// Whether a request begins with the results of calls.
fn was_answered(start: &v1::GenerateRequest) -> bool {
    asked_of(start).messages.last().is_some_and(|last| last.role() == v1::Role::Tool)
}

fn asked_of(start: &v1::GenerateRequest) -> v1::Conversation {
    match start.prompt.clone().and_then(|prompt| prompt.kind) {
        Some(v1::prompt::Kind::Conversation(asked)) => asked,
        other => panic!("no conversation: {other:?}"),
    }
}

fn call(index: u32) -> event::Event {
    let arguments = format!("{{\"n\":{index}}}");
    let call = v1::ToolCall { id: format!("c-{index}"), name: "read".to_owned(), arguments };
    event::Event::ToolCall(v1::ToolCallDelta { index, delta: Some(tool_call_delta::Delta::Complete(call)) })
}

fn words(next: &v1::NextTurn) -> String {
    let parts = next.messages.iter().flat_map(|message| &message.parts).filter_map(|part| part.part.as_ref());
    let texts: Vec<_> = parts.map(|v1::content_part::Part::Text(text)| text.as_str()).collect();
    texts.join(", ")
}

fn stalled() -> Status {
    let details = ErrorDetails::with_error_info("REPLY_STALLED", "hearth", std::collections::HashMap::new());
    Status::with_error_details(Code::Aborted, "too slow", details)
}

fn asking(model: &str) -> ChatRequest {
    let tool = v1::Tool { name: "read".to_owned(), ..v1::Tool::default() };
    ChatRequest::new(model).tool(tool).user("hi")
}

fn said(daemon: &Daemon) -> Vec<Kind> {
    daemon.noted.said.lock().expect("no panic").clone()
}

fn starts(daemon: &Daemon) -> Vec<v1::GenerateRequest> {
    let starts = said(daemon).into_iter().filter_map(|kind| match kind {
        Kind::Start(start) => Some(start),
        Kind::Next(_) => None,
    });
    starts.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_goes_from_turn_to_turn() {
    let daemon = Daemon::start();
    let mut talk = daemon.client().await.converse(asking("demo")).await.expect("taken");
    assert!(matches!(talk.reply(Reply::new()).await, Err(Error::NothingAsked)));
    let turn = talk.turn().await.expect("no error").expect("a turn");
    assert!(talk.waits());
    assert_eq!((turn.model.as_str(), turn.tool_calls.len()), ("demo:latest", 1));
    talk.reply(Reply::new().result(&turn.tool_calls[0].id, "21 °C").user("and?")).await.expect("it waits");
    assert!(!talk.waits());
    let answer = talk.turn().await.expect("no error").expect("an answer");
    assert_eq!((answer.text.as_str(), answer.model.as_str()), ("the tool said 21 °C, and?", "demo:latest"));
    assert!(!talk.waits());
    assert_eq!(talk.turn().await.expect("no error"), None);
    assert!(talk.next().await.is_none());
    let Some(Kind::Next(next)) = said(&daemon).pop() else { panic!("the reply") };
    assert_eq!(next.messages[0].tool_call_id.as_deref(), Some("c-1"));
    assert_eq!(next.tool_choice, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_without_results_ends_in_good_order() {
    let daemon = Daemon::start();
    let mut talk = daemon.client().await.converse(asking("demo")).await.expect("taken");
    talk.turn().await.expect("no error").expect("a turn");
    talk.end();
    assert!(matches!(talk.reply(Reply::new()).await, Err(Error::NothingAsked)));
    let end = talk.next().await.expect("an event").expect("no error");
    assert!(matches!(end, GenerationEvent::Finished(end) if end.reason() == FinishReason::ToolCalls));
    assert!(talk.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_conversation_cancels_it() {
    for model in ["endless", "demo"] {
        let daemon = Daemon::start();
        let mut talk = daemon.client().await.converse(asking(model)).await.expect("taken");
        assert!(matches!(talk.next().await, Some(Ok(GenerationEvent::Accepted { .. }))));
        if model == "demo" {
            talk.turn().await.expect("no error").expect("a turn");
        }
        assert!(!daemon.noted.cancelled.load(Ordering::SeqCst));
        drop(talk);
        until("the daemon sees the cancel", || daemon.noted.cancelled.load(Ordering::SeqCst)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_was_given_up_says_why() {
    let daemon = Daemon::start();
    let mut talk = daemon.client().await.converse(asking("slow")).await.expect("taken");
    let turn = talk.turn().await.expect("no error").expect("a turn");
    talk.reply(Reply::new().result(&turn.tool_calls[0].id, "x")).await.expect("it waits");
    let error = talk.turn().await.expect_err("given up");
    let reason = error.refusal().and_then(|refusal| refusal.reason.as_deref());
    assert_eq!(reason, Some(hearth_client::reason::REPLY_STALLED));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_tried_again_like_any_other_call() {
    let daemon = Daemon::start();
    let client = Client::builder().endpoint(daemon.endpoint.clone()).retry(Retry::times(5));
    let client = client.connect().await.expect("the daemon listens");
    daemon.noted.refusals.store(2, Ordering::SeqCst);
    let mut talk = client.converse(asking("later")).await.expect("tried again");
    assert!(talk.turn().await.expect("no error").is_some());
    assert_eq!(daemon.noted.calls.load(Ordering::SeqCst), 3);
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Place {
    n: u32,
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_run_until_the_model_answers() {
    let daemon = Daemon::start();
    let tools =
        Tools::new().tool("read", "Reads.", |place: Place| async move { Ok::<_, String>(place.n + 20) });
    let mut seen = Vec::new();
    let observe = |event: RunEvent<'_>| {
        seen.push(match event {
            RunEvent::Model(GenerationEvent::Accepted { .. }) => "accepted",
            RunEvent::Model(GenerationEvent::ToolCall { .. }) => "call",
            RunEvent::Model(GenerationEvent::Turn(_)) => "turn",
            RunEvent::Model(GenerationEvent::Text(_)) => "text",
            RunEvent::Model(GenerationEvent::Finished(_)) => "finished",
            RunEvent::Model(_) => "other",
            RunEvent::Tool(_) => "tool",
        });
    };
    let request = ChatRequest::new("twice").user("hi");
    let client = daemon.client().await;
    let outcome = client.run_tools_observed(request, &tools, RunOptions::default(), observe).await;
    let outcome = outcome.expect("an answer");
    assert_eq!(outcome.answer.text, "the tool said 20, 21");
    assert_eq!((outcome.rounds, outcome.calls.len(), outcome.messages.len()), (1, 2, 4));
    let calls: Vec<_> = outcome.calls.iter().map(|c| (c.round, c.call.id.as_str(), c.is_failure)).collect();
    assert_eq!(calls, [(1, "c-0", false), (1, "c-1", false)]);
    let order = ["accepted", "call", "call", "turn", "tool", "tool", "text", "text", "finished"];
    assert_eq!(seen, order);
    let starts = starts(&daemon);
    let asked = asked_of(&starts[0]);
    assert!(asked.tools[0].parameters.as_deref().is_some_and(|schema| schema.contains("\"n\"")));
}

/// Each of two calls waits for the other one.
#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_turn_run_together() {
    let daemon = Daemon::start();
    let (tell, told) = oneshot::channel();
    let (tell, told) = (std::sync::Mutex::new(Some(tell)), Arc::new(tokio::sync::Mutex::new(Some(told))));
    let tools = Tools::new().tool("read", "Reads.", move |place: Place| {
        let tell = if place.n == 1 { tell.lock().expect("no panic").take() } else { None };
        let told = Arc::clone(&told);
        async move {
            match tell {
                Some(tell) => tell.send(()).map_err(|()| "nobody waits"),
                None => match told.lock().await.take() {
                    Some(told) => told.await.map_err(|_| "nobody told"),
                    None => Err("asked twice"),
                },
            }
        }
    });
    let running = async {
        let request = ChatRequest::new("twice").user("hi");
        daemon.client().await.run_tools(request, &tools, RunOptions::default()).await
    };
    let outcome = tokio::time::timeout(PATIENCE, running).await.expect("they do not wait for ever");
    assert_eq!(outcome.expect("an answer").answer.text, "the tool said null, null");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tool_fails_with_is_told_to_the_model() {
    let daemon = Daemon::start();
    let client = daemon.client().await;
    let failing = Tools::new().tool("read", "", |_: Place| async { Err::<(), _>("it rains") });
    let other = Tools::new().tool("write", "", |_: NoArguments| async { Ok::<_, String>(()) });
    for (tools, told) in [
        (failing, r#"the tool said {"error":"it rains"}"#),
        (other, r#"the tool said {"error":"there is no tool `read`"}"#),
    ] {
        let request = ChatRequest::new("demo").user("hi");
        let outcome = client.run_tools(request, &tools, RunOptions::default()).await.expect("an answer");
        assert_eq!(outcome.answer.text, told);
        assert!(outcome.calls[0].is_failure);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rounds_are_bounded() {
    let daemon = Daemon::start();
    let tools = Tools::new().tool("read", "", |_: Place| async { Ok::<_, String>("x") });
    for (max_rounds, concurrent) in [(3, true), (0, false)] {
        let request = ChatRequest::new("caller").user("hi");
        let options = RunOptions { max_rounds, concurrent };
        let error = daemon.client().await.run_tools(request, &tools, options).await.expect_err("no answer");
        let RunError::Endless { so_far } = error else { panic!("{error}") };
        assert_eq!((so_far.rounds, so_far.calls.len()), (max_rounds, max_rounds));
        assert_eq!((so_far.messages.len(), so_far.answer.tool_calls.len()), (2 * max_rounds + 1, 1));
    }
    until("the daemon sees the cancel", || daemon.noted.cancelled.load(Ordering::SeqCst)).await;
    let request = ChatRequest::new("full").user("hi");
    let failed = daemon.client().await.run_tools(request, &tools, RunOptions::default()).await;
    assert!(matches!(failed, Err(RunError::Call { source: Error::Refused(_), .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_may_take_longer_than_the_daemon_waits() {
    let daemon = Daemon::start();
    let tools = Tools::new().tool("read", "", |_: Place| async { Ok::<_, String>("x") });
    let request = ChatRequest::new("slow").user("hi").required_tools().parallel_tools(false);
    let request = request.deadline(PATIENCE);
    let outcome = daemon.client().await.run_tools(request, &tools, RunOptions::default()).await;
    let outcome = outcome.expect("an answer");
    assert_eq!((outcome.rounds, outcome.calls.len(), outcome.messages.len()), (1, 1, 3));
    assert_eq!(outcome.answer.text, "the tool said x");
    let usage = outcome.answer.finished.and_then(|whole| whole.usage);
    assert_eq!(usage.map(|usage| usage.prompt_tokens), Some(20), "that of both streams");
    let (first, second) = match starts(&daemon).as_slice() {
        [first, second] => (asked_of(first), asked_of(second)),
        other => panic!("{other:?}"),
    };
    assert_eq!(second.messages, [first.messages.as_slice(), &outcome.messages[..2]].concat());
    assert_eq!(second.tools, first.tools);
    let choice = second.tool_choice.expect("as before, but it need not call");
    assert_eq!((choice.mode(), choice.parallel), (v1::tool_choice::Mode::Auto, Some(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_loop_that_fails_has_done_is_not_lost() {
    let daemon = Daemon::start();
    let tools = Tools::new().tool("read", "", |_: Place| async { Ok::<_, String>("x") });
    let request = ChatRequest::new("stuck").user("hi");
    let failed = daemon.client().await.run_tools(request, &tools, RunOptions::default()).await;
    let Err(RunError::Call { source, so_far }) = failed else { panic!("{failed:?}") };
    let reason = source.refusal().and_then(|refusal| refusal.reason.as_deref());
    assert_eq!(reason, Some(hearth_client::reason::REPLY_STALLED));
    let roles: Vec<_> = so_far.messages.iter().map(v1::Message::role).collect();
    assert_eq!(roles, [v1::Role::Assistant, v1::Role::Tool]);
    assert_eq!((so_far.rounds, so_far.calls[0].result.as_str()), (1, "x"));
    assert_eq!(starts(&daemon).len(), 2, "one more is tried, and no third");
}

/// It needs as many rounds as are allowed, or one more than that.
#[tokio::test(flavor = "multi_thread")]
async fn the_results_of_the_last_round_are_heard() {
    let daemon = Daemon::start();
    let tools = Tools::new().tool("read", "", |_: Place| async { Ok::<_, String>("x") });
    let run_tools = async |max_rounds| {
        let options = RunOptions { max_rounds, ..RunOptions::default() };
        daemon.client().await.run_tools(ChatRequest::new("thorough").user("hi"), &tools, options).await
    };
    let outcome = run_tools(RunOptions::default().max_rounds).await.expect("an answer");
    assert_eq!((outcome.rounds, outcome.answer.text.as_str()), (8, "the tool said x"));
    assert!(matches!(run_tools(7).await, Err(RunError::Endless { .. })));
    let output = run(&daemon, &["chat", "thorough", "-p", "hi", "--tool-result", "read=x"], "").await;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.ends_with("the tool said x\n"), "{shown}");
    assert_eq!((output.status.code(), shown.matches('←').count()), (Some(0), 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_goes_on_with_another_loop_where_one_was_given_up() {
    let daemon = Daemon::start();
    let file = tools_file();
    let tools = file.path().to_str().expect("a plain path");
    let shown = "→ read {\"n\":1}\nthe tool said 42\n";
    check(&daemon, &["chat", "slow", "--tools", tools], "a\n42\n", shown).await;
    assert_eq!(starts(&daemon).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_whose_calls_nobody_answers_ends_in_good_order() {
    let daemon = Daemon::start();
    let file = tools_file();
    let tools = file.path().to_str().expect("a plain path");
    let args = ["--json", "chat", "demo", "-p", "hi", "--tools", tools, "--tool-result", "other=x"];
    let output = run(&daemon, &args, "").await;
    let lines = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    let kinds: Vec<_> = lines.lines().filter_map(|line| line.split('"').nth(3)).collect();
    assert_eq!(kinds, ["accepted", "tool_call", "turn", "finished"], "{lines}");
}

/// What the options of the command line ask for.
#[tokio::test(flavor = "multi_thread")]
async fn choices_and_forms_reach_the_daemon() {
    let daemon = Daemon::start();
    let file = tools_file();
    let tools = file.path().to_str().expect("a plain path");
    let schema = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(schema.path(), "{\"type\":\"object\"}").expect("written");
    let schema = schema.path().to_str().expect("a plain path");
    let asked = async |more: &[&str]| {
        let base = ["chat", "demo", "-p", "hi", "--tools", tools, "--tool-result", "read=x"];
        let output = run(&daemon, &[&base, more].concat(), "").await;
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        starts(&daemon).pop().expect("a start")
    };
    let choice = |request: &v1::GenerateRequest| {
        let talk = asked_of(request);
        (talk.tool_choice, talk.thinking_budget)
    };
    let (chosen, budget) =
        choice(&asked(&["--tool-choice", "read", "--no-parallel", "--think-budget", "5"]).await);
    let named = v1::tool_choice::Mode::Named;
    let wanted = v1::ToolChoice { mode: named.into(), name: "read".to_owned(), parallel: Some(false) };
    assert_eq!((chosen, budget), (Some(wanted), Some(5)));
    let (chosen, _) = choice(&asked(&["--tool-choice", "required"]).await);
    assert_eq!(chosen.map(|choice| choice.mode()), Some(v1::tool_choice::Mode::Required));
    let (chosen, _) = choice(&asked(&[]).await);
    assert_eq!(chosen, None);
    use v1::output::Kind as Form;
    for (more, form) in [
        (["--schema", schema].as_slice(), Form::JsonSchema("{\"type\":\"object\"}".to_owned())),
        (&["--grammar", schema], Form::Grammar("{\"type\":\"object\"}".to_owned())),
        (&["--regex", "a+"], Form::Regex("a+".to_owned())),
        (&["--json-output"], Form::Json(v1::JsonObject {})),
    ] {
        assert_eq!(asked(more).await.output.and_then(|output| output.kind), Some(form));
    }
    let output = run(&daemon, &["chat", "demo", "-p", "hi", "--json-output", "--regex", "a"], "").await;
    assert_eq!(output.status.code(), Some(2));
}
