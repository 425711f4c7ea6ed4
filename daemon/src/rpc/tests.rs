//! The daemon from its socket to a real child process that speaks the link: a scripted engine, which does
//! what the model file and the prompt say. What is proven is the front; real engines have their own tests.

mod converse;
mod engine;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hearth_proto::v1 as pb;
use hearth_proto::v1::inference_client::InferenceClient;
use hearth_proto::v1::models_client::ModelsClient;
use hearth_proto::v1::node_client::NodeClient;
use hyper_util::rt::TokioIo;
use pb::event::Event;
use pb::progress::Stage;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt;

use super::{Backing, Services};
use crate::board::sensors::SensorReader;
use crate::config::Config;
use crate::config::live::Live;
use crate::engines::program::Program;
use crate::engines::{Base, Engines};
use crate::lifecycle::{Lifecycle, Phase};
use crate::listen::{Listener, Reach};
use crate::memory::ledger::Ledger;
use crate::memory::{Budget, BudgetSource, Level};
use crate::metrics::Metrics;
use crate::reload::grants;
use crate::store::Store;
use crate::telemetry::LogControl;
use crate::units::Bytes;

/// Longer than any answer here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A daemon in this process.
struct Daemon {
    folder: tempfile::TempDir,
    lifecycle: Lifecycle,
    engines: Engines,
    ledger: Ledger,
    tasks: TaskTracker,
    servers: TaskTracker,
    channel: Channel,
}

impl Daemon {
    async fn start() -> Self {
        Self::with(|_| {}, 1 << 30).await
    }

    async fn with(change: impl FnOnce(&mut Config), budget: u64) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut config = Config { state_dir: folder.path().join("state"), ..Config::default() };
        config.import_dirs = vec![folder.path().join("models")];
        config.engine.stop_grace = Duration::from_secs(5);
        change(&mut config);
        let (lifecycle, tasks, servers) = (Lifecycle::new(), TaskTracker::new(), TaskTracker::new());
        let store = Store::open(&config.state_dir).expect("a new store");
        let ledger = Ledger::new(Budget { bytes: Bytes(budget), source: BudgetSource::Configured });
        let program = Program::plain(engine::executable(folder.path()));
        let config = Live::fixed(config);
        let base = Base::alone(config.clone(), program, store.clone(), ledger.clone());
        let engines = Engines::start(base, &tasks).expect("start");
        let grants = grants(&config.now());
        let backing = Backing {
            engines: engines.clone(),
            store,
            config,
            lifecycle: lifecycle.watch(),
            grants: watch::Sender::new(Arc::new(grants)).subscribe(),
            tls: None,
            log: LogControl::detached(),
            metrics: Metrics::default(),
            board: super::Board {
                limits: watch::Sender::new(Vec::new()).subscribe(),
                pressure: watch::Sender::new(crate::board::pressure::Report::default()).subscribe(),
                sensors: SensorReader::new("/none"),
            },
            started: SystemTime::now(),
        };
        let services = Services::new(backing).await.expect("descriptors are sound");
        let path = folder.path().join("socket");
        let listener =
            Listener::bind(&crate::config::Endpoint::Unix(path.clone()), Reach::Group).await.expect("bind");
        servers.spawn(services.serve(listener));
        lifecycle.enter(Phase::Serving);
        let channel = connect(path).await;
        Self { folder, lifecycle, engines, ledger, tasks, servers, channel }
    }

    fn models(&self) -> ModelsClient<Channel> {
        ModelsClient::new(self.channel.clone())
    }

    fn inference(&self) -> InferenceClient<Channel> {
        InferenceClient::new(self.channel.clone())
    }

    /// Imports a model whose file says what its engine shall do.
    async fn import(&self, name: &str, script: &str) -> Result<pb::Model, Status> {
        let header = pb::ImportHeader {
            name: name.to_owned(),
            size_bytes: script.len() as u64,
            ..pb::ImportHeader::default()
        };
        let chunks = script.as_bytes().chunks(3).map(|chunk| pb::import_request::Part::Chunk(chunk.to_vec()));
        let parts = std::iter::once(pb::import_request::Part::Header(header)).chain(chunks);
        let parts: Vec<_> = parts.map(|part| pb::ImportRequest { part: Some(part) }).collect();
        let mut events = self.models().import(futures_util::stream::iter(parts)).await?.into_inner();
        while let Some(event) = events.message().await? {
            if let Some(pb::import_event::Event::Done(model)) = event.event {
                return Ok(model);
            }
        }
        Err(Status::internal("an import without an end"))
    }

    async fn generate(&self, model: &str, prompt: &str) -> Result<Streaming<pb::Event>, Status> {
        Ok(self.inference().generate(ask(model, prompt)).await?.into_inner())
    }

    async fn answer(&self, model: &str, prompt: &str) -> (Vec<pb::Event>, Option<Status>) {
        match self.generate(model, prompt).await {
            Ok(stream) => collect(stream).await,
            Err(status) => (Vec::new(), Some(status)),
        }
    }

    async fn load(&self, model: &str) -> Result<(), Status> {
        let request = pb::LoadModelRequest { model: model.to_owned(), ..pb::LoadModelRequest::default() };
        let mut events = self.models().load(request).await?.into_inner();
        while events.message().await?.is_some() {}
        Ok(())
    }

    async fn unload(&self, model: &str, abort: bool) -> Result<bool, Status> {
        let request = pb::UnloadModelRequest { model: model.to_owned(), abort };
        Ok(self.models().unload(request).await?.into_inner().was_loaded)
    }

    async fn render(&self, model: &str) -> Result<(), Status> {
        let pb::GenerateRequest { model, prompt, .. } = ask(model, "say 1");
        let request = pb::RenderRequest { model, prompt, ..pb::RenderRequest::default() };
        self.inference().render(request).await.map(drop)
    }

    async fn state(&self, model: &str) -> (pb::ModelState, String) {
        let request = pb::GetModelRequest { model: model.to_owned() };
        let model = self.models().get(request).await.expect("it is there").into_inner().model;
        let model = model.expect("always set");
        (model.state(), model.state_reason)
    }

    async fn pid(&self) -> u32 {
        let status = NodeClient::new(self.channel.clone()).get_status(pb::GetStatusRequest {}).await;
        status.expect("a status").into_inner().engines.first().map_or(0, |engine| engine.pid)
    }

    /// Ends all, and proves that nothing is left.
    async fn stop(self) {
        self.lifecycle.enter(Phase::Draining);
        self.lifecycle.abort();
        self.engines.shut_down().await;
        let Self { folder, engines, ledger, tasks, servers, channel, .. } = self;
        drop((engines, channel));
        servers.close();
        servers.wait().await;
        tasks.close();
        tasks.wait().await;
        assert_eq!(ledger.lines(), []);
        drop(folder);
    }
}

async fn connect(path: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://daemon.invalid");
    endpoint.connect_with_connector(connector).await.expect("the daemon listens")
}

fn ask(model: &str, prompt: &str) -> pb::GenerateRequest {
    pb::GenerateRequest {
        model: model.to_owned(),
        prompt: Some(pb::Prompt { kind: Some(pb::prompt::Kind::Raw(prompt.to_owned())) }),
        ..pb::GenerateRequest::default()
    }
}

async fn collect(mut stream: Streaming<pb::Event>) -> (Vec<pb::Event>, Option<Status>) {
    let mut events = Vec::new();
    loop {
        match tokio::time::timeout(PATIENCE, stream.message()).await.expect("the stream goes on") {
            Ok(Some(event)) => events.push(event),
            Ok(None) => return (events, None),
            Err(status) => return (events, Some(status)),
        }
    }
}

fn text(events: &[pb::Event]) -> String {
    let texts = events.iter().filter_map(|event| match &event.event {
        Some(Event::Text(delta)) => Some(delta.text.as_str()),
        _ => None,
    });
    texts.collect()
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().map_or_else(String::new, |info| info.reason)
}

async fn next_text(stream: &mut Streaming<pb::Event>) {
    loop {
        let event = tokio::time::timeout(PATIENCE, stream.message()).await.expect("the stream goes on");
        let event = event.expect("no error yet").expect("no end yet");
        if matches!(event.event, Some(Event::Text(_))) {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_loads_the_model_and_streams_an_answer() {
    let daemon = Daemon::start().await;
    let model = daemon.import("a", "fine").await.expect("it is imported");
    assert_eq!(model.facts.map(|facts| facts.architecture), Some("script".to_owned()));
    let (events, end) = daemon.answer("a", "say 3").await;
    assert_eq!((text(&events).as_str(), end.map(|end| end.code())), ("w0 w1 w2 ", None));
    let numbers: Vec<_> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    let accepted = events.iter().filter(|event| matches!(event.event, Some(Event::Accepted(_)))).count();
    assert!(accepted == 1 && matches!(events[0].event, Some(Event::Accepted(_))));
    let loading = |event: &pb::Event| matches!(&event.event, Some(Event::Progress(progress)) if progress.stage() == Stage::Load);
    assert!(events.iter().any(loading));
    let Some(Event::Finished(finished)) = &events.last().expect("events").event else { panic!("an end") };
    let timings = finished.timings.expect("always set");
    assert!(timings.load_ms > 0.0 && timings.first_delta_ms >= timings.load_ms);
    let (events, _) = daemon.answer("a", "say 1").await;
    assert!(!events.iter().any(loading));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_is_named_within_a_second_and_comes_back() {
    let daemon = Daemon::start().await;
    daemon.import("a", "fine").await.expect("imported");
    let mut stream = daemon.generate("a", "say 100000").await.expect("begun");
    next_text(&mut stream).await;
    let pid =
        rustix::process::Pid::from_raw(i32::try_from(daemon.pid().await).expect("a pid")).expect("a pid");
    let killed = Instant::now();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    let (_, end) = collect(stream).await;
    let end = end.expect("a status");
    assert!(killed.elapsed() < Duration::from_secs(1));
    assert_eq!((end.code(), reason(&end).as_str()), (Code::Aborted, "ENGINE_LOST"));
    assert!(end.message().contains("SIGKILL"), "{}", end.message());
    let (events, end) = daemon.answer("a", "say 2").await;
    assert_eq!((text(&events).as_str(), end.map(|end| end.code())), ("w0 w1 ", None));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_kills_its_engine_is_not_tried_again() {
    let daemon = Daemon::start().await;
    daemon.import("a", "fine").await.expect("imported");
    for _ in 0..2 {
        let (_, end) = daemon.answer("a", "die").await;
        let end = end.expect("a status");
        assert_eq!((end.code(), reason(&end).as_str()), (Code::Unavailable, "ENGINE_LOST"));
        // One engine died of it: three in a row would be a quarantine.
        let (events, end) = daemon.answer("a", "say 1").await;
        assert_eq!((text(&events).as_str(), end.map(|end| end.code())), ("w0 ", None));
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_crashes_are_a_quarantine_with_the_last_words() {
    let daemon = Daemon::start().await;
    daemon.import("a", "crash-on-load").await.expect("imported");
    for code in [Code::Unavailable, Code::Unavailable, Code::FailedPrecondition, Code::FailedPrecondition] {
        let (_, end) = daemon.answer("a", "say 1").await;
        let end = end.expect("a status");
        assert_eq!(end.code(), code, "{}", end.message());
        let quarantined = code == Code::FailedPrecondition;
        assert_eq!(reason(&end), if quarantined { "MODEL_QUARANTINED" } else { "ENGINE_LOST" });
        assert!(end.message().contains("GGML_ASSERT(luck) failed"), "{}", end.message());
    }
    let (state, why) = daemon.state("a").await;
    assert_eq!(state, pb::ModelState::Quarantined);
    assert!(why.contains("3 crashes in a row") && why.contains("SIGABRT"), "{why}");
    let end = daemon.load("a").await.expect_err("a load tries again");
    assert_eq!(end.code(), Code::Unavailable);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_is_refused_and_leaves_nothing() {
    let daemon = Daemon::start().await;
    for (script, words) in [("refuse-inspect", "tensor of doom"), ("crash-on-inspect", "SIGABRT")] {
        let end = daemon.import("a", script).await.expect_err("refused");
        assert_eq!((end.code(), reason(&end).as_str()), (Code::FailedPrecondition, "BAD_MODEL"));
        assert!(end.message().contains(words), "{}", end.message());
    }
    let models = daemon.models().list(pb::ListModelsRequest {}).await.expect("a list").into_inner().models;
    assert_eq!(models, []);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_board_that_is_short_of_memory_begins_nothing_new() {
    let daemon = Daemon::start().await;
    daemon.import("a", "fine").await.expect("imported");
    daemon.import("b", "fine").await.expect("imported");
    let mut stream = daemon.generate("a", "say 100000").await.expect("begun");
    next_text(&mut stream).await;
    daemon.engines.pressure(Level::Full).await;
    let (imported, loaded, rendered) =
        (daemon.import("c", "fine").await, daemon.load("b").await, daemon.render("b").await);
    for refused in [imported.map(drop), loaded, rendered] {
        let refused = refused.expect_err("nothing is begun");
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::ResourceExhausted, "MEMORY_PRESSURE"),
            "{}",
            refused.message()
        );
        assert!(refused.get_details_retry_info().is_some());
    }
    // What is in memory goes on.
    next_text(&mut stream).await;
    daemon.render("a").await.expect("its engine does it");
    daemon.engines.pressure(Level::None).await;
    daemon.render("b").await.expect("an inspector does it");
    daemon.import("c", "fine").await.expect("imported");
    drop(stream);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_engine_is_replaced_and_a_hung_one_too() {
    // Healthy engines beat forty times in it, so that none of them seems dead on a busy machine.
    let timeout = Duration::from_secs(2);
    let daemon = Daemon::with(|config| config.engine.heartbeat_timeout = timeout, 1 << 30).await;
    daemon.import("a", "fine").await.expect("imported");
    daemon.import("b", "fine").await.expect("imported");
    let mut other = daemon.generate("b", "say 100000").await.expect("begun");
    for (prompt, words) in [("stop", "no sign of life"), ("hang", "no progress")] {
        let (_, end) = daemon.answer("a", prompt).await;
        let end = end.expect("a status");
        assert_eq!(reason(&end), "ENGINE_LOST", "{}", end.message());
        assert!(end.message().contains(words), "{}", end.message());
        next_text(&mut other).await;
    }
    let (events, _) = daemon.answer("a", "say 1").await;
    assert_eq!(text(&events), "w0 ");
    drop(other);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_and_a_deadline_end_the_work() {
    let daemon = Daemon::start().await;
    daemon.import("a", "fine").await.expect("imported");
    let mut stream = daemon.generate("a", "say 100000").await.expect("begun");
    next_text(&mut stream).await;
    drop(stream);
    let waited = tokio::time::timeout(PATIENCE, daemon.unload("a", false)).await;
    assert!(waited.expect("the lease came back").expect("unloaded"));
    let mut request = Request::new(ask("a", "say 100000"));
    request.metadata_mut().insert("grpc-timeout", "1500m".parse().expect("ASCII"));
    let begun = Instant::now();
    let stream = daemon.inference().generate(request).await.expect("the head comes at once").into_inner();
    let (events, end) = collect(stream).await;
    assert!(!text(&events).is_empty());
    assert_eq!(end.map(|end| end.code()), Some(Code::DeadlineExceeded));
    assert!(begun.elapsed() < Duration::from_secs(5));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborting_unload_ends_answers_with_its_name() {
    let daemon = Daemon::start().await;
    daemon.import("a", "fine").await.expect("imported");
    let mut stream = daemon.generate("a", "say 100000").await.expect("begun");
    next_text(&mut stream).await;
    let remove = pb::RemoveModelRequest { model: "a".to_owned() };
    let refused = daemon.models().remove(remove.clone()).await.expect_err("it is in memory");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "MODEL_IN_MEMORY"));
    let again = daemon.import("a", "fine too").await.expect_err("it is in memory");
    assert_eq!(again.code(), Code::FailedPrecondition);
    assert!(daemon.unload("a", true).await.expect("unloaded"));
    let (_, end) = collect(stream).await;
    let end = end.expect("a status");
    assert_eq!((end.code(), reason(&end).as_str()), (Code::Aborted, "MODEL_UNLOADED"));
    let freed = daemon.models().remove(remove).await.expect("removed").into_inner().freed_bytes;
    assert_eq!(freed, 4);
    let (_, end) = daemon.answer("a", "say 1").await;
    assert_eq!(end.map(|end| end.code()), Some(Code::NotFound));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_daemon_finishes_what_runs_and_takes_nothing_new() {
    let daemon = Daemon::start().await;
    daemon.import("a", "fine").await.expect("imported");
    let mut stream = daemon.generate("a", "say 200").await.expect("begun");
    next_text(&mut stream).await;
    daemon.lifecycle.enter(Phase::Draining);
    let (_, refused) = daemon.answer("a", "say 1").await;
    assert_eq!(refused.map(|status| status.code()), Some(Code::Unavailable));
    let (events, end) = collect(stream).await;
    assert_eq!((text(&events).ends_with("w199 "), end.map(|end| end.code())), (true, None));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_never_promised_twice() {
    // Room for an inspector (32 MiB) or for one engine: each is estimated at 18 MiB, and corrected upwards at most.
    let daemon = Daemon::with(|_| {}, 34 << 20).await;
    daemon.import("a", "fine").await.expect("imported");
    daemon.import("b", "fine").await.expect("imported");
    daemon.import("big", "big").await.expect("imported");
    let mut stream = daemon.generate("a", "say 100000").await.expect("begun");
    next_text(&mut stream).await;
    let pin = |pinned| pb::PinModelRequest { model: "a".to_owned(), pinned };
    assert!(daemon.models().pin(pin(true)).await.expect("pinned").into_inner().pinned);
    let full = daemon.load("b").await.expect_err("a stays");
    assert_eq!((full.code(), reason(&full).as_str()), (Code::ResourceExhausted, "MEMORY_FULL"));
    assert!(full.get_details_retry_info().is_some());
    let never = daemon.load("big").await.expect_err("it never fits");
    assert_eq!((never.code(), reason(&never).as_str()), (Code::FailedPrecondition, "NEVER_FITS"));
    let words = never.get_details_error_info().expect("numbers").metadata;
    assert_eq!(words.get("largest_context_tokens").map(String::as_str), Some("0"), "not with any context");
    assert!(!daemon.models().pin(pin(false)).await.expect("let go").into_inner().pinned);
    // In use it is waited for, and goes when its answer has ended.
    let mut waiting = Box::pin(daemon.load("b"));
    let early = tokio::time::timeout(Duration::from_millis(300), waiting.as_mut()).await;
    assert!(early.is_err(), "a is in use");
    drop(stream);
    tokio::time::timeout(PATIENCE, waiting.as_mut()).await.expect("soon").expect("loaded");
    drop(waiting);
    let (state, why) = daemon.state("a").await;
    assert_eq!(state, pb::ModelState::Absent);
    assert!(why.contains("b:latest"), "{why}");
    daemon.stop().await;
}

/// The turn of a model ends when nothing else happens: who has gone by then was noticed before.
#[tokio::test(flavor = "multi_thread")]
async fn no_model_goes_for_one_who_waits_no_more() {
    let daemon = Daemon::with(|_| {}, 34 << 20).await;
    // Its turn is twice its load, which takes more than a second.
    daemon.import("a", "slow").await.expect("imported");
    daemon.import("b", "fine").await.expect("imported");
    let mut stream = daemon.generate("a", "say 100000").await.expect("begun");
    next_text(&mut stream).await;
    let waits = tokio::time::timeout(Duration::from_millis(300), daemon.load("b")).await;
    assert!(waits.is_err(), "a is in use");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(daemon.state("a").await.0, pb::ModelState::Ready);
    assert_eq!(daemon.state("b").await.0, pb::ModelState::Absent);
    drop(stream);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_carry_their_ids_and_fields() {
    let daemon = Daemon::start().await;
    let mut request = Request::new(pb::GenerateRequest { max_tokens: Some(0), ..ask("a", "x") });
    request.metadata_mut().insert("x-request-id", "mine-1".parse().expect("ASCII"));
    let status = daemon.inference().generate(request).await.expect_err("a bad field");
    assert_eq!(status.metadata().get("x-request-id").and_then(|id| id.to_str().ok()), Some("mine-1"));
    let violation = status.get_details_bad_request().expect("a field").field_violations;
    assert_eq!((status.code(), violation[0].field.as_str()), (Code::InvalidArgument, "max_tokens"));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_are_rendered_with_and_without_an_engine() {
    let daemon = Daemon::start().await;
    daemon.import("a", "fine").await.expect("imported");
    for load in [false, true] {
        if load {
            daemon.load("a").await.expect("loaded");
        }
        let prompt = ask("a", "one two").prompt;
        let request = pb::RenderRequest { model: "a".to_owned(), prompt, with_tokens: true };
        let rendered = daemon.inference().render(request).await.expect("rendered").into_inner();
        assert_eq!((rendered.text.as_str(), rendered.tokens.len()), ("one two", 2));
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_this_machine_is_imported_from_allowed_folders_only() {
    let daemon = Daemon::start().await;
    let folder = daemon.folder.path().join("models");
    std::fs::create_dir(&folder).expect("make a folder");
    std::fs::write(folder.join("m"), "fine").expect("write");
    let import = |path: &Path| {
        let source_path = Some(path.to_string_lossy().into_owned());
        let header = pb::ImportHeader { name: "m".to_owned(), source_path, ..pb::ImportHeader::default() };
        let part = pb::ImportRequest { part: Some(pb::import_request::Part::Header(header)) };
        let mut models = daemon.models();
        async move {
            let mut events = models.import(futures_util::stream::iter([part])).await?.into_inner();
            let mut done = None;
            while let Some(event) = events.message().await? {
                done = event.event;
            }
            Ok::<_, Status>(done)
        }
    };
    let done = import(&folder.join("m")).await.expect("imported");
    assert!(matches!(done, Some(pb::import_event::Event::Done(_))));
    let refused = import(Path::new("/etc/passwd")).await.expect_err("outside");
    assert_eq!(refused.code(), Code::PermissionDenied);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_of_every_model() {
    let daemon = Daemon::start().await;
    let mut watch = daemon.models().watch(pb::WatchModelsRequest {}).await.expect("a watch").into_inner();
    let first = watch.message().await.expect("an event").expect("an event");
    assert!(first.in_sync && first.model.is_none());
    daemon.import("a", "fine").await.expect("imported");
    daemon.load("a").await.expect("loaded");
    let ready = async {
        while let Ok(Some(event)) = watch.message().await {
            if event.model.is_some_and(|model| model.state() == pb::ModelState::Ready) {
                return true;
            }
        }
        false
    };
    assert!(tokio::time::timeout(PATIENCE, ready).await.expect("it comes soon"));
    daemon.lifecycle.enter(Phase::Draining);
    let end = watch.message().await.expect_err("the watch ends with the daemon");
    assert_eq!(end.code(), Code::Unavailable);
    daemon.stop().await;
}
