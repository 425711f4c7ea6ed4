//! `Converse` over a real socket, with an engine that calls as often as it is asked to.

use futures_util::Stream;
use pb::converse_request::Kind;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::engines::ModelOverrides;
use crate::engines::date::PromptDate;

/// One side of a conversation.
struct Talk {
    say: mpsc::Sender<pb::ConverseRequest>,
    events: Streaming<pb::Event>,
}

impl Daemon {
    async fn converse(
        &self,
        said: impl Stream<Item = pb::ConverseRequest> + Send + 'static,
    ) -> Streaming<pb::Event> {
        self.inference().converse(said).await.expect("the head comes at once").into_inner()
    }

    /// A conversation that begins with this.
    async fn talk(&self, start: pb::GenerateRequest) -> Talk {
        let (say, said) = mpsc::channel(4);
        say.send(request(Kind::Start(start))).await.expect("there is room");
        Talk { say, events: self.converse(ReceiverStream::new(said)).await }
    }

    /// How a conversation of these messages ends.
    async fn refused(&self, said: Vec<pb::ConverseRequest>) -> Status {
        let events = self.converse(futures_util::stream::iter(said)).await;
        collect(events).await.1.expect("a status")
    }
}

impl Talk {
    /// Events up to a turn, and the ids of its calls.
    async fn turn(&mut self) -> (Vec<pb::Event>, Vec<String>) {
        let (mut events, mut ids) = (Vec::new(), Vec::new());
        loop {
            let event = tokio::time::timeout(PATIENCE, self.events.message()).await.expect("it goes on");
            let event = event.expect("no error").expect("no end");
            if let Some(Event::ToolCall(delta)) = &event.event
                && let Some(pb::tool_call_delta::Delta::Complete(call)) = &delta.delta
            {
                ids.push(call.id.clone());
            }
            let is_turn = matches!(event.event, Some(Event::Turn(_)));
            events.push(event);
            if is_turn {
                return (events, ids);
            }
        }
    }

    async fn reply(&self, messages: Vec<pb::Message>) {
        let next = pb::NextTurn { messages, tool_choice: None };
        self.say.send(request(Kind::Next(next))).await.expect("the daemon listens");
    }

    async fn end(self) -> (Vec<pb::Event>, Option<Status>) {
        collect(self.events).await
    }
}

fn request(kind: Kind) -> pb::ConverseRequest {
    pb::ConverseRequest { kind: Some(kind) }
}

fn said(role: pb::Role, text: &str) -> pb::Message {
    let part = pb::content_part::Part::Text(text.to_owned());
    let parts = vec![pb::ContentPart { part: Some(part) }];
    pb::Message { role: role.into(), parts, ..pb::Message::default() }
}

fn result(id: &str, text: &str) -> pb::Message {
    pb::Message { tool_call_id: Some(id.to_owned()), ..said(pb::Role::Tool, text) }
}

fn asked(text: &str) -> pb::GenerateRequest {
    let conversation = pb::Conversation {
        messages: vec![said(pb::Role::User, text)],
        tools: vec![pb::Tool { name: "f".to_owned(), ..pb::Tool::default() }],
        tool_choice: Some(pb::ToolChoice {
            mode: pb::tool_choice::Mode::Required.into(),
            ..pb::ToolChoice::default()
        }),
        ..pb::Conversation::default()
    };
    let kind = pb::prompt::Kind::Conversation(conversation);
    pb::GenerateRequest { prompt: Some(pb::Prompt { kind: Some(kind) }), ..ask("a", "") }
}

fn finished(events: &[pb::Event]) -> &pb::Finished {
    match events.last().and_then(|event| event.event.as_ref()) {
        Some(Event::Finished(finished)) => finished,
        other => panic!("no end: {other:?}"),
    }
}

fn field(status: &Status) -> String {
    let fields = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    fields.first().map(|violation| violation.field.clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_is_one_stream_with_one_beginning_and_one_end() {
    let daemon = Daemon::start().await;
    daemon.import("a", "fine").await.expect("imported");
    let mut talk = daemon.talk(asked("call 2")).await;
    let (mut events, first) = talk.turn().await;
    assert_eq!(first.len(), 2);
    talk.reply(vec![result(&first[1], "5"), result(&first[0], "4"), said(pb::Role::User, "call 1")]).await;
    let (more, second) = talk.turn().await;
    events.extend(more);
    assert!(second.len() == 1 && !first.contains(&second[0]), "{first:?} {second:?}");
    talk.reply(vec![result(&second[0], "6")]).await;
    let (more, end) = talk.end().await;
    assert!(end.is_none(), "{end:?}");
    events.extend(more);
    // Two results came with the first reply, one with the second; who had to call need not call again.
    assert_eq!(text(&events), "MODE_AUTO 5 4 6");
    let numbers: Vec<_> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    let count =
        |is: fn(&Event) -> bool| events.iter().filter_map(|e| e.event.as_ref()).filter(|e| is(e)).count();
    assert_eq!(count(|event| matches!(event, Event::Accepted(_))), 1);
    assert_eq!(count(|event| matches!(event, Event::Finished(_))), 1);
    let context =
        |event: &Event| matches!(event, Event::Progress(p) if p.stage() == Stage::Context && p.total == 2);
    assert_eq!(count(context), 3);
    let whole = finished(&events);
    assert_eq!(whole.reason(), pb::FinishReason::Stop);
    // 1 message, then the turn with its 2 results and the next question, then again a turn and its result.
    let usage = whole.usage.expect("always set");
    assert_eq!((usage.prompt_tokens, usage.forced_tokens), (1 + 5 + 7, 3));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_gives_no_results_ends_the_loop_in_good_order() {
    let daemon = Daemon::start().await;
    daemon.import("a", "fine").await.expect("imported");
    let mut talk = daemon.talk(asked("call 1")).await;
    talk.turn().await;
    let Talk { say, events } = talk;
    drop(say);
    let (events, end) = collect(events).await;
    assert!(end.is_none(), "{end:?}");
    assert_eq!((events.len(), finished(&events).reason()), (1, pb::FinishReason::ToolCalls));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_keeps_a_model_waiting_loses_it() {
    let wait = Duration::from_millis(300);
    let daemon = Daemon::with(|config| config.engine.reply_wait = wait, 1 << 30).await;
    daemon.import("a", "fine").await.expect("imported");
    let mut talk = daemon.talk(asked("call 1")).await;
    talk.turn().await;
    let Talk { say, events } = talk;
    let end = collect(events).await.1.expect("a status");
    assert_eq!((end.code(), reason(&end).as_str()), (Code::Aborted, "REPLY_STALLED"));
    drop(say);
    let waited = tokio::time::timeout(PATIENCE, daemon.unload("a", false)).await;
    assert!(waited.expect("the lease came back").expect("unloaded"));
    daemon.stop().await;
}

/// A model that is to leave waits for answers, not for tools.
#[tokio::test(flavor = "multi_thread")]
async fn a_loop_between_two_turns_keeps_nobody_waiting_and_goes_on() {
    // Room for one model.
    let daemon = Daemon::with(|_| {}, 34 << 20).await;
    daemon.import("a", "fine").await.expect("imported");
    daemon.import("b", "fine").await.expect("imported");
    let mut talk = daemon.talk(asked("call 1")).await;
    let (_, ids) = talk.turn().await;
    let (events, end) = daemon.answer("b", "say 1").await;
    assert_eq!((text(&events).as_str(), end.map(|end| end.code())), ("w0 ", None));
    talk.reply(vec![result(&ids[0], "4"), said(pb::Role::User, "call 1")]).await;
    let (_, ids) = talk.turn().await;
    let unloaded = tokio::time::timeout(PATIENCE, daemon.unload("a", false)).await;
    assert!(unloaded.expect("soon").expect("unloaded"));
    talk.reply(vec![result(&ids[0], "5")]).await;
    let (events, end) = talk.end().await;
    assert_eq!((text(&events).as_str(), end.map(|end| end.code())), ("MODE_AUTO 4 5", None));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_ends_the_wait_for_results() {
    let daemon = Daemon::start().await;
    daemon.import("a", "fine").await.expect("imported");
    let mut talk = daemon.talk(asked("call 1")).await;
    talk.turn().await;
    assert!(daemon.unload("a", true).await.expect("unloaded"));
    let end = talk.end().await.1.expect("a status");
    assert_eq!((end.code(), reason(&end).as_str()), (Code::Aborted, "MODEL_UNLOADED"));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_between_two_turns_is_replaced() {
    let daemon = Daemon::start().await;
    daemon.import("a", "fine").await.expect("imported");
    let mut talk = daemon.talk(asked("call 1")).await;
    let (_, ids) = talk.turn().await;
    let pid = i32::try_from(daemon.pid().await).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    let begun = Instant::now();
    while daemon.state("a").await.0 == pb::ModelState::Ready {
        assert!(begun.elapsed() < PATIENCE, "its end is noticed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    talk.reply(vec![result(&ids[0], "4")]).await;
    let (events, end) = talk.end().await;
    assert_eq!((text(&events).as_str(), end.map(|end| end.code())), ("MODE_AUTO 4", None));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_named() {
    let daemon = Daemon::start().await;
    daemon.import("a", "fine").await.expect("imported");
    let start = |request: pb::GenerateRequest| self::request(Kind::Start(request));
    let next = || request(Kind::Next(pb::NextTurn::default()));
    for (said, wanted) in [
        (vec![], "start"),
        (vec![next()], "start"),
        (vec![pb::ConverseRequest { kind: None }], "kind"),
        (vec![start(ask("a", "say 1"))], "prompt.raw"),
        (vec![start(pb::GenerateRequest { max_tokens: Some(0), ..asked("call 1") })], "max_tokens"),
        (vec![start(asked("call 1")), start(asked("call 1"))], "start"),
        (vec![start(asked("call 1")), next()], "next.messages"),
        // The engine's own words.
        (vec![start(asked("hello"))], "prompt.conversation.tools[0].parameters.not"),
    ] {
        let end = daemon.refused(said).await;
        assert_eq!((end.code(), field(&end).as_str()), (Code::InvalidArgument, wanted), "{end:?}");
    }
    let mut talk = daemon.talk(asked("call 1")).await;
    talk.turn().await;
    talk.reply(vec![result("nobody", "4")]).await;
    let end = talk.end().await.1.expect("a status");
    assert_eq!(field(&end), "next.messages[0].tool_call_id");
    let missing =
        daemon.refused(vec![start(pb::GenerateRequest { model: "b".to_owned(), ..asked("x") })]).await;
    assert_eq!((missing.code(), reason(&missing).as_str()), (Code::NotFound, "MODEL_NOT_FOUND"));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_while_its_tools_run_gives_the_model_back() {
    let daemon = Daemon::start().await;
    daemon.import("a", "fine").await.expect("imported");
    let mut talk = daemon.talk(asked("call 1")).await;
    talk.turn().await;
    drop(talk);
    let waited = tokio::time::timeout(PATIENCE, daemon.unload("a", false)).await;
    assert!(waited.expect("the lease came back").expect("unloaded"));
    daemon.stop().await;
}

/// It beats once when it is idle, and is then not to be taken for dead; when it is asked again it is to answer.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_owes_signs_of_life_in_every_turn_and_none_between_them() {
    let timeout = Duration::from_secs(2);
    let daemon = Daemon::with(|config| config.engine.heartbeat_timeout = timeout, 1 << 30).await;
    daemon.import("a", "fine").await.expect("imported");
    let mut talk = daemon.talk(asked("call 1")).await;
    let (_, ids) = talk.turn().await;
    tokio::time::sleep(timeout * 2).await;
    talk.reply(vec![result(&ids[0], "4"), said(pb::Role::User, "stop")]).await;
    let (_, end) = talk.end().await;
    let end = end.expect("a status");
    assert_eq!((end.code(), reason(&end).as_str()), (Code::Aborted, "ENGINE_LOST"));
    assert!(end.message().contains("no sign of life"), "{}", end.message());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_is_told_the_day_that_is_configured() {
    let fixed = |config: &mut Config| {
        config.engine.date = "26 Jul 2024".parse().expect("a day");
        let none = ModelOverrides { date: Some(PromptDate::None), ..ModelOverrides::default() };
        config.models.insert("b".parse().expect("a name"), none);
    };
    let daemon = Daemon::with(fixed, 1 << 30).await;
    for (model, day) in [("a", "26 Jul 2024"), ("b", "")] {
        daemon.import(model, "fine").await.expect("imported");
        let asked = || pb::GenerateRequest { model: model.to_owned(), ..asked("date") };
        let rendered = async || {
            let request =
                pb::RenderRequest { model: model.to_owned(), prompt: asked().prompt, with_tokens: false };
            daemon.inference().render(request).await.expect("rendered").into_inner().text
        };
        assert_eq!(rendered().await, day, "by an inspector");
        let generated = daemon.inference().generate(asked()).await.expect("the head comes at once");
        assert_eq!(text(&collect(generated.into_inner()).await.0), day);
        let conversed = daemon.converse(futures_util::stream::iter([request(Kind::Start(asked()))])).await;
        assert_eq!(text(&collect(conversed).await.0), day);
        assert_eq!(rendered().await, day, "by its engine");
    }
    daemon.stop().await;
}
