//! A daemon that says what the name of the model tells it to.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use hearth_client::v1::inference_server::{Inference, InferenceServer};
use hearth_client::v1::models_server::{Models, ModelsServer};
use hearth_client::v1::node_server::NodeServer;
use hearth_client::v1::{self, event, import_event, import_request, load_event, tool_call_delta};
use hearth_client::{Client, Endpoint};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::metadata::MetadataMap;
use tonic::transport::ServerTlsConfig;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status, Streaming, async_trait};
use tonic_types::{ErrorDetails, StatusExt};

use crate::converse;
use crate::node::Board;

pub(crate) type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A daemon on a socket of its own; ends with the test's runtime.
pub(crate) struct Daemon {
    pub(crate) endpoint: Endpoint,
    pub(crate) noted: Noted,
    _dir: tempfile::TempDir,
}

/// What the daemon noticed.
#[derive(Clone, Default)]
pub(crate) struct Noted {
    /// Whether the answer of `endless` was dropped.
    pub(crate) cancelled: Arc<AtomicBool>,
    /// Calls of `generate`, `load` and `import`.
    pub(crate) calls: Arc<AtomicU32>,
    /// How many of them are refused first by the models whose names begin with `later`.
    pub(crate) refusals: Arc<AtomicU32>,
    /// What was said on `converse`, the oldest first.
    pub(crate) said: Arc<Mutex<Vec<v1::converse_request::Kind>>>,
    /// What was asked on `generate`, `load`, `plan` and `pin`, the oldest first.
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
    /// The headers of the last call.
    headers: Arc<Mutex<MetadataMap>>,
}

/// A request that a test looks at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Asked {
    Generate(Box<v1::GenerateRequest>),
    Load(v1::LoadModelRequest),
    Plan(v1::PlanModelRequest),
    Pin(v1::PinModelRequest),
}

impl Noted {
    fn asked(&self, request: Asked) {
        self.asked.lock().expect("no panic").push(request);
    }

    /// The last request.
    pub(crate) fn last(&self) -> Asked {
        self.asked.lock().expect("no panic").last().expect("something was asked").clone()
    }

    /// A header of the last call.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let headers = self.headers.lock().expect("no panic");
        headers.get(name).map(|value| value.to_str().expect("ASCII").to_owned())
    }

    pub(crate) fn note<T>(&self, request: &Request<T>) {
        *self.headers.lock().expect("no panic") = request.metadata().clone();
    }

    /// Whether this call is one of those that are refused first.
    pub(crate) fn refuses(&self) -> bool {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let one_less = |left: u32| left.checked_sub(1);
        self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok()
    }
}

impl Daemon {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("hearth.sock");
        let noted = Noted::default();
        serve_at(&path, &noted);
        Self { endpoint: Endpoint::Unix(path), noted, _dir: dir }
    }

    /// On a port of this machine, with TLS where there is a configuration for it.
    pub(crate) async fn start_tcp(tls: Option<ServerTlsConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (noted, host) = (Noted::default(), "127.0.0.1".to_owned());
        let endpoint = match &tls {
            Some(_) => Endpoint::Https { host, port },
            None => Endpoint::Http { host, port },
        };
        let incoming = TcpListenerStream::new(listener);
        tokio::spawn(router(&noted, tls).serve_with_incoming(incoming));
        Self { endpoint, noted, _dir: tempfile::tempdir().expect("a temporary directory") }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.endpoint.clone()).await.expect("the daemon listens")
    }
}

/// A daemon at this path, from now on.
pub(crate) fn serve_at(path: &std::path::Path, noted: &Noted) {
    let listener = UnixListener::bind(path).expect("a socket in a fresh directory");
    tokio::spawn(router(noted, None).serve_with_incoming(UnixListenerStream::new(listener)));
}

fn router(noted: &Noted, tls: Option<ServerTlsConfig>) -> Router {
    let script = Script { noted: noted.clone() };
    let mut server = tonic::transport::Server::builder();
    if let Some(tls) = tls {
        server = server.tls_config(tls).expect("valid certificates");
    }
    server
        .add_service(InferenceServer::new(script.clone()))
        .add_service(ModelsServer::new(script))
        .add_service(NodeServer::new(Board::default()))
}

#[derive(Clone)]
struct Script {
    noted: Noted,
}

/// Set when the stream that owns it goes away.
pub(crate) struct Flag(pub(crate) Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[async_trait]
impl Inference for Script {
    type GenerateStream = Events<v1::Event>;
    type ConverseStream = Events<v1::Event>;

    async fn converse(
        &self,
        request: Request<Streaming<v1::ConverseRequest>>,
    ) -> Result<Response<Self::ConverseStream>, Status> {
        self.noted.note(&request);
        Ok(Response::new(converse::talk(self.noted.clone(), request.into_inner()).boxed()))
    }

    async fn generate(
        &self,
        request: Request<v1::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        self.noted.note(&request);
        let request = request.into_inner();
        self.noted.asked(Asked::Generate(Box::new(request.clone())));
        let refused = self.noted.refuses();
        let script = match request.model.as_str() {
            "full" => return Err(queue_full(2000)),
            "later" if refused => return Err(queue_full(5)),
            "later-in-stream" if refused => {
                return Ok(Response::new(stream::iter([Err(queue_full(5))]).boxed()));
            }
            "later-in-answer" if refused => {
                let begun = numbered((0, accepted("later-in-answer")));
                return Ok(Response::new(stream::iter([begun, Err(queue_full(5))]).boxed()));
            }
            "cut" => vec![text("half")],
            "endless" => return Ok(Response::new(self.endless())),
            "slow" => vec![memory(), answer(&request).remove(1), finished(v1::FinishReason::Stop)],
            "caller" => vec![called(), finished(v1::FinishReason::ToolCalls)],
            _ => answer(&request),
        };
        let script = std::iter::once(accepted(&request.model)).chain(script);
        Ok(Response::new(stream::iter((0..).zip(script).map(numbered)).boxed()))
    }

    async fn count_tokens(
        &self,
        _: Request<v1::CountTokensRequest>,
    ) -> Result<Response<v1::CountTokensResponse>, Status> {
        Ok(Response::new(v1::CountTokensResponse { tokens: 7 }))
    }

    async fn render(
        &self,
        request: Request<v1::RenderRequest>,
    ) -> Result<Response<v1::RenderResponse>, Status> {
        let tokens = if request.get_ref().with_tokens { vec![1, 2] } else { Vec::new() };
        Ok(Response::new(v1::RenderResponse { text: "<user>hi".to_owned(), tokens }))
    }
}

impl Script {
    /// A word every few milliseconds until nobody listens.
    fn endless(&self) -> Events<v1::Event> {
        let flag = Flag(Arc::clone(&self.noted.cancelled));
        stream::unfold((0, flag), |(n, flag)| async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let event = if n == 0 { accepted("endless") } else { text("on and on\n") };
            Some((numbered((n, event)), (n + 1, flag)))
        })
        .boxed()
    }
}

#[async_trait]
impl Models for Script {
    type ImportStream = Events<v1::ImportEvent>;
    type LoadStream = Events<v1::LoadEvent>;
    type WatchStream = Events<v1::ModelEvent>;

    async fn list(
        &self,
        request: Request<v1::ListModelsRequest>,
    ) -> Result<Response<v1::ListModelsResponse>, Status> {
        self.noted.note(&request);
        Ok(Response::new(v1::ListModelsResponse { models: vec![model("demo:latest", 5 << 20)] }))
    }

    async fn get(
        &self,
        request: Request<v1::GetModelRequest>,
    ) -> Result<Response<v1::GetModelResponse>, Status> {
        match request.into_inner().model.as_str() {
            "missing" => Err(missing()),
            name => Ok(Response::new(v1::GetModelResponse { model: Some(model(name, 1)) })),
        }
    }

    async fn import(
        &self,
        request: Request<Streaming<v1::ImportRequest>>,
    ) -> Result<Response<Self::ImportStream>, Status> {
        let mut parts = request.into_inner();
        let Some(import_request::Part::Header(header)) = parts.message().await?.and_then(|r| r.part) else {
            return Err(Status::invalid_argument("no header"));
        };
        if self.noted.refuses() && header.name == "later" {
            return Err(queue_full(5));
        }
        let mut got = 0;
        while let Some(part) = parts.message().await? {
            if let Some(import_request::Part::Chunk(chunk)) = part.part {
                got += chunk.len() as u64;
            }
        }
        let total_bytes = header.size_bytes;
        let progress = import_event::Event::Progress(v1::ImportProgress { done_bytes: got, total_bytes });
        let done = import_event::Event::Done(model(&header.name, got));
        let events = [progress, done].map(|event| Ok(v1::ImportEvent { event: Some(event) }));
        Ok(Response::new(stream::iter(events).boxed()))
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveModelRequest>,
    ) -> Result<Response<v1::RemoveModelResponse>, Status> {
        match request.into_inner().model.as_str() {
            "missing" => Err(missing()),
            _ => Ok(Response::new(v1::RemoveModelResponse { freed_bytes: 2048 })),
        }
    }

    async fn load(
        &self,
        request: Request<v1::LoadModelRequest>,
    ) -> Result<Response<Self::LoadStream>, Status> {
        let request = request.into_inner();
        self.noted.asked(Asked::Load(request.clone()));
        let kv_type = request.kv_type;
        let context_tokens = request.context_tokens.unwrap_or(512);
        let name = request.model;
        if name == "huge" {
            return Err(never_fits());
        }
        if self.noted.refuses() && name == "later" {
            return Ok(Response::new(stream::iter([Err(queue_full(5))]).boxed()));
        }
        let ready = v1::LoadedModel {
            name,
            context_tokens,
            sequences: 8,
            load_ms: 12.0,
            context_ceiling: 1024,
            kv_type,
            reserved_bytes: 3 << 20,
        };
        let events = [load_event::Event::ProgressPermille(500), load_event::Event::Ready(ready)]
            .map(|event| Ok(v1::LoadEvent { event: Some(event) }));
        Ok(Response::new(stream::iter(events).boxed()))
    }

    async fn plan(
        &self,
        request: Request<v1::PlanModelRequest>,
    ) -> Result<Response<v1::PlanModelResponse>, Status> {
        let request = request.into_inner();
        self.noted.asked(Asked::Plan(request.clone()));
        if request.model == "missing" {
            return Err(missing());
        }
        let evicted =
            v1::PlannedEviction { model: "old:latest".to_owned(), bytes: 1 << 30, reload_ms: Some(8000.0) };
        Ok(Response::new(v1::PlanModelResponse {
            action: v1::plan_model_response::Action::Evict.into(),
            reason: "it needs 2.0 GiB and 1.0 GiB are free".to_owned(),
            need: Some(v1::MemoryNeed {
                weights_bytes: 1 << 30,
                kv_bytes: 512 << 20,
                compute_bytes: 256 << 20,
                process_bytes: 256 << 20,
                loaded_bytes: 2 << 30,
                peak_bytes: 3 << 30,
            }),
            evictions: vec![evicted],
            context_tokens: 2048,
            context_ceiling: 4096,
            kv_type: v1::KvType::Q80.into(),
            repacked: true,
            largest_context_tokens: 8192,
            budget_bytes: 4 << 30,
            free_bytes: 1 << 30,
            expected_load_ms: Some(12_000.0),
        }))
    }

    async fn pin(
        &self,
        request: Request<v1::PinModelRequest>,
    ) -> Result<Response<v1::PinModelResponse>, Status> {
        let request = request.into_inner();
        self.noted.asked(Asked::Pin(request.clone()));
        let pinned = request.pinned || request.model == "fixed";
        Ok(Response::new(v1::PinModelResponse { pinned }))
    }

    async fn unload(
        &self,
        _: Request<v1::UnloadModelRequest>,
    ) -> Result<Response<v1::UnloadModelResponse>, Status> {
        Ok(Response::new(v1::UnloadModelResponse { was_loaded: true }))
    }

    async fn watch(&self, _: Request<v1::WatchModelsRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let opening =
            v1::ModelEvent { model: Some(model("demo:latest", 1)), in_sync: true, ..Default::default() };
        Ok(Response::new(stream::iter([Ok(opening)]).boxed()))
    }
}

/// Thinks, then calls the first tool, says what the tool said, or repeats the person.
pub(crate) fn answer(request: &v1::GenerateRequest) -> Vec<event::Event> {
    let Some(v1::prompt::Kind::Conversation(talk)) = request.prompt.clone().and_then(|prompt| prompt.kind)
    else {
        return vec![finished(v1::FinishReason::Stop)];
    };
    let last = talk.messages.last().expect("a conversation has messages");
    let said = match last.parts.first().and_then(|part| part.part.as_ref()) {
        Some(v1::content_part::Part::Text(text)) => text.as_str(),
        None => "",
    };
    match last.role() {
        v1::Role::Tool => vec![text("the tool said "), text(said), finished(v1::FinishReason::Stop)],
        _ if talk.tools.is_empty() => {
            let words = format!("{} of {}", said, talk.messages.len());
            vec![thought("hm"), text(&words), finished(v1::FinishReason::Stop)]
        }
        _ => vec![called(), finished(v1::FinishReason::ToolCalls)],
    }
}

pub(crate) fn numbered((sequence, event): (u64, event::Event)) -> Result<v1::Event, Status> {
    Ok(v1::Event { request_id: "r-1".to_owned(), sequence, event: Some(event) })
}

pub(crate) fn accepted(model: &str) -> event::Event {
    event::Event::Accepted(v1::Accepted { queue_position: 0, seed: 3, model: format!("{model}:latest") })
}

pub(crate) fn text(text: &str) -> event::Event {
    event::Event::Text(v1::TextDelta { text: text.to_owned(), logprobs: Vec::new() })
}

/// The model waits for memory, and its load takes a while then.
fn memory() -> event::Event {
    let stage = v1::progress::Stage::Memory.into();
    event::Event::Progress(v1::Progress { stage, expected_ms: Some(1500.0), ..v1::Progress::default() })
}

fn thought(text: &str) -> event::Event {
    event::Event::Reasoning(v1::TextDelta { text: text.to_owned(), logprobs: Vec::new() })
}

pub(crate) fn called() -> event::Event {
    let call =
        v1::ToolCall { id: "c-1".to_owned(), name: "read".to_owned(), arguments: "{\"n\":1}".to_owned() };
    let delta = Some(tool_call_delta::Delta::Complete(call));
    event::Event::ToolCall(v1::ToolCallDelta { index: 0, delta })
}

pub(crate) fn finished(reason: v1::FinishReason) -> event::Event {
    event::Event::Finished(v1::Finished { reason: reason.into(), ..v1::Finished::default() })
}

fn model(name: &str, size_bytes: u64) -> v1::Model {
    let file = v1::ModelFile { role: v1::FileRole::Weights.into(), sha256: "ab".repeat(32), size_bytes };
    let facts = v1::ModelFacts {
        architecture: "qwen3".to_owned(),
        parameters: 4_200_000,
        quantization: "F16".to_owned(),
        context_length: 512,
        dialect: "qwen3".to_owned(),
        ..v1::ModelFacts::default()
    };
    v1::Model {
        name: name.to_owned(),
        files: vec![file],
        facts: Some(facts),
        state: v1::ModelState::Absent.into(),
        expected_load_ms: Some(3200.0),
        pinned: true,
        ..v1::Model::default()
    }
}

fn missing() -> Status {
    let details = ErrorDetails::with_error_info(
        "MODEL_NOT_FOUND",
        "hearth",
        [("model".to_owned(), "missing".to_owned())],
    );
    Status::with_error_details(tonic::Code::NotFound, "there is no model `missing`", details)
}

fn never_fits() -> Status {
    let numbers = [("need_bytes", "9000"), ("budget_bytes", "8000"), ("largest_context_tokens", "4096")];
    let numbers = numbers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let details = ErrorDetails::with_error_info("NEVER_FITS", "hearth", numbers);
    Status::with_error_details(tonic::Code::FailedPrecondition, "it needs 9000 bytes of 8000", details)
}

pub(crate) fn queue_full(retry_ms: u64) -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(Duration::from_millis(retry_ms)));
    details.set_error_info("QUEUE_FULL", "hearth", [("waiting".to_owned(), "64".to_owned())]);
    Status::with_error_details(tonic::Code::ResourceExhausted, "64 requests are waiting already", details)
}
