//! The link to one engine process: the only place that names the engine's stubs, and beside `rpc` the only
//! one that names tonic's codes.
//!
//! The connection is the socket that the engine was born with. It cannot be made again: a connector that
//! is asked a second time fails for good. When the connection breaks, what counts is how the process
//! ended, so a transport error waits a moment for the exit status and is named after that.

mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use hearth_proto::BUILD_ID;
use hearth_proto::engine as pb;
use hearth_proto::engine::engine_client::EngineClient;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use super::config::LoadParams;
use super::event::{Beat, GenerateEvent, Inspection, LoadEvent, Rendered};
use super::process::{EngineExit, ExitWatch};
use super::request::{GenerateRequest, Prompt};
use crate::memory::need::Choice;

/// What an engine may send ahead on one stream before its reader takes it. Small, so that a slow reader
/// pauses its own sequence soon.
const STREAM_WINDOW: u32 = 64 << 10;

/// A rendered prompt with its tokens is the largest message: a few MB for the longest context.
const MESSAGE_LIMIT: usize = 64 << 20;

/// How long a broken connection waits for the exit status that names the failure.
const EXIT_WAIT: Duration = Duration::from_millis(500);

/// A connection to an engine. Clones share it.
#[derive(Clone, Debug)]
pub struct Link {
    client: EngineClient<Channel>,
    exit: ExitWatch,
    /// Beats are not counted: they tell more than that something was heard.
    signs: Signs,
}

/// When the engine last did something that it was asked for. Clones share it.
#[derive(Clone, Debug)]
pub struct Signs {
    origin: Instant,
    /// Milliseconds after `origin`.
    last: Arc<AtomicU64>,
}

/// The engine's answer to the handshake.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// Instruction set of its build.
    pub cpu_level: String,
    /// llama.cpp's own line on CPU features.
    pub system_info: String,
    /// What keeps it to its model file.
    pub sandbox: String,
    /// GPUs that it may use; empty: none.
    pub gpu: String,
}

/// Why the engine did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkError {
    /// The process ended.
    #[error("{0}")]
    Exited(Arc<EngineExit>),
    /// The connection broke, and the process has not ended for all that is known.
    #[error("the connection to the engine broke: {0}")]
    Broken(String),
    /// The engine said no.
    #[error("{0}")]
    Refused(EngineFailure),
    /// The engine is of another build than the daemon.
    #[error("the engine is of build {theirs}, the daemon of {BUILD_ID}")]
    BuildMismatch {
        /// The engine's build id.
        theirs: String,
    },
    /// The engine broke the protocol.
    #[error("the engine broke the protocol: {0}")]
    Protocol(&'static str),
}

/// What the engine says when it refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineFailure {
    /// What kind of refusal.
    pub reason: FailureReason,
    /// In words, fit for a client.
    pub message: String,
    /// Path of the field at fault. Empty: none.
    pub field: String,
    /// Facts by name.
    pub numbers: BTreeMap<String, u64>,
    /// llama.cpp's own last words. Empty: none.
    pub detail: String,
}

/// Why an engine refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureReason {
    /// A fault of ours.
    Internal,
    /// A field is wrong.
    Invalid,
    /// The prompt does not fit the context.
    PromptTooLong,
    /// Too many are waiting.
    QueueFull,
    /// Time is up.
    Deadline,
    /// The answer was not taken.
    ReaderStalled,
    /// The model cannot do that.
    Unsupported,
    /// llama.cpp does not take the file.
    BadModel,
    /// Front and engine are of different builds.
    BuildMismatch,
    /// Asked to stop.
    Cancelled,
    /// An allocation failed.
    NoMemory,
}

impl std::error::Error for EngineFailure {}

impl fmt::Display for EngineFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.message.contains(&self.detail) {
            return Ok(());
        }
        write!(f, ": {}", self.detail)
    }
}

impl Link {
    /// Wraps the daemon's end of the socket. `sequences` is how many answers may flow at once.
    pub async fn connect(socket: UnixStream, exit: ExitWatch, sequences: u32) -> Result<Self, LinkError> {
        let broken = |error: io::Error| LinkError::Broken(error.to_string());
        socket.set_nonblocking(true).map_err(broken)?;
        let socket = tokio::net::UnixStream::from_std(socket).map_err(broken)?;
        let once = Arc::new(Mutex::new(Some(socket)));
        let connector = tower::service_fn(move |_: Uri| {
            let socket = once.lock().unwrap_or_else(PoisonError::into_inner).take();
            let gone = || io::Error::new(io::ErrorKind::NotConnected, "the engine is gone");
            std::future::ready(socket.map(TokioIo::new).ok_or_else(gone))
        });
        let window = STREAM_WINDOW.saturating_mul(sequences.saturating_add(8));
        let channel = Endpoint::from_static("http://engine.invalid")
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(window)
            .connect_with_connector(connector)
            .await
            .map_err(|error| LinkError::Broken(error.to_string()))?;
        let client = EngineClient::new(channel)
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT);
        Ok(Self { client, exit, signs: Signs::new() })
    }

    /// When the engine last did something that it was asked for.
    pub fn signs(&self) -> &Signs {
        &self.signs
    }

    /// Whether the process is known to have ended: what is sent then reaches nobody.
    pub fn has_ended(&self) -> bool {
        self.exit.now().is_some()
    }

    /// Checks that both ends are of one build.
    pub async fn hello(&self) -> Result<Greeting, LinkError> {
        let request = pb::HelloRequest { build_id: BUILD_ID.to_owned() };
        let reply = self.client.clone().hello(request).await;
        let pb::HelloResponse { build_id, cpu_level, system_info, sandbox, gpu } =
            self.named(reply).await?.into_inner();
        if build_id != BUILD_ID {
            return Err(LinkError::BuildMismatch { theirs: build_id });
        }
        Ok(Greeting { cpu_level, system_info, sandbox, gpu })
    }

    /// Reads the file's facts, and what a load would take.
    pub async fn inspect(&self, load: &LoadParams) -> Result<Inspection, LinkError> {
        let request = pb::InspectRequest { load: Some(load.into()) };
        let reply = self.client.clone().inspect(request).await;
        let mut inspection = Inspection::from(self.named(reply).await?.into_inner());
        inspection.footprint.process_sequences = load.sequences.max(1);
        Ok(inspection)
    }

    /// Loads the model in one of the ways in which it may be loaded; its context may grow to `ceiling` tokens.
    pub async fn load(
        &self,
        load: &LoadParams,
        choice: &Choice,
        ceiling: u32,
    ) -> Result<BoxStream<'static, Result<LoadEvent, LinkError>>, LinkError> {
        let Choice { sizes, repack, estimate: _ } = *choice;
        let request = pb::LoadRequest {
            context_tokens: sizes.tokens,
            sequences: sizes.sequences,
            micro_batch: sizes.micro_batch,
            kv_type: pb::KvType::from(sizes.kv_type).into(),
            copy_weights: Some(repack),
            context_ceiling: ceiling,
            ..load.into()
        };
        let reply = self.client.clone().load(request).await;
        let events = self.named(reply).await?.into_inner();
        Ok(self.read(events, LoadEvent::try_from))
    }

    /// Lets the context have so many tokens; how many it has then.
    pub async fn resize(&self, context_tokens: u32) -> Result<u32, LinkError> {
        self.answer_growth(pb::ResizeRequest { context_tokens, ..pb::ResizeRequest::default() }).await
    }

    /// Has everything given up that is kept for later, and the context have so many tokens if nobody needs more; how
    /// many it has then.
    pub async fn shed(&self, context_tokens: u32) -> Result<u32, LinkError> {
        let request = pb::ResizeRequest { context_tokens, shed: true, ..pb::ResizeRequest::default() };
        self.answer_growth(request).await
    }

    /// Says that the context cannot grow; who waits for that fails with the reason.
    pub async fn refuse_growth(&self, reason: String) -> Result<u32, LinkError> {
        let request = pb::ResizeRequest { refused: true, reason, ..pb::ResizeRequest::default() };
        self.answer_growth(request).await
    }

    async fn answer_growth(&self, request: pb::ResizeRequest) -> Result<u32, LinkError> {
        let reply = self.client.clone().resize(request).await;
        let pb::ResizeResponse { context_tokens } = self.named(reply).await?.into_inner();
        Ok(context_tokens)
    }

    /// Asks for an answer. Dropping the stream cancels it.
    pub async fn generate(
        &self,
        request: GenerateRequest,
        deadline: Option<Instant>,
    ) -> Result<BoxStream<'static, Result<GenerateEvent, LinkError>>, LinkError> {
        let mut request = pb::GenerateRequest::from(request);
        request.deadline_ms = deadline.map(|at| milliseconds(at.saturating_duration_since(Instant::now())));
        let reply = self.client.clone().generate(request).await;
        let events = self.named(reply).await?.into_inner();
        Ok(self.read(events, GenerateEvent::try_from))
    }

    /// Renders and tokenizes a prompt.
    pub async fn render(&self, prompt: Prompt, dialect: Option<String>) -> Result<Rendered, LinkError> {
        let request = pb::RenderRequest { prompt: Some(prompt.into()), dialect: dialect.unwrap_or_default() };
        let reply = self.client.clone().render(request).await;
        let pb::RenderResponse { text, tokens } = self.named(reply).await?.into_inner();
        Ok(Rendered { text, tokens })
    }

    /// Changes what the engine logs.
    pub async fn set_log_filter(&self, filter: String) -> Result<(), LinkError> {
        let reply = self.client.clone().set_log_filter(pb::SetLogFilterRequest { filter }).await;
        self.named(reply).await.map(drop)
    }

    /// Signs of life.
    pub async fn watch(&self) -> Result<BoxStream<'static, Result<Beat, LinkError>>, LinkError> {
        let reply = self.client.clone().watch(pb::WatchRequest {}).await;
        let quiet = Self { signs: Signs::new(), ..self.clone() };
        let beats = quiet.named(reply).await?.into_inner();
        Ok(quiet.read(beats, |beat: pb::Beat| Ok(beat.into())))
    }

    async fn named<T>(&self, reply: Result<T, Status>) -> Result<T, LinkError> {
        match reply {
            Ok(reply) => {
                self.signs.mark();
                Ok(reply)
            }
            Err(status) => Err(name(&status, self.exit.clone()).await),
        }
    }

    /// Converts a stream of the engine; each message is a sign of life, and the first error ends it.
    fn read<T, U>(
        &self,
        messages: tonic::Streaming<T>,
        convert: fn(T) -> Result<U, LinkError>,
    ) -> BoxStream<'static, Result<U, LinkError>>
    where
        T: Send + 'static,
        U: Send + 'static,
    {
        let state = (messages, self.exit.clone(), self.signs.clone(), convert);
        let converted = stream::unfold(Some(state), async |state| {
            let (mut messages, exit, signs, convert) = state?;
            match messages.message().await {
                Ok(None) => None,
                Ok(Some(message)) => {
                    signs.mark();
                    let item = convert(message);
                    let rest = item.is_ok().then_some((messages, exit, signs, convert));
                    Some((item, rest))
                }
                Err(status) => Some((Err(name(&status, exit).await), None)),
            }
        });
        converted.boxed()
    }
}

/// Names a failed call: what the engine said, else how it ended, else what the transport says.
async fn name(status: &Status, mut exit: ExitWatch) -> LinkError {
    if let Some(failure) = failure(status) {
        return LinkError::Refused(failure);
    }
    match tokio::time::timeout(EXIT_WAIT, exit.wait()).await {
        Ok(exit) => LinkError::Exited(exit),
        Err(_) if status.code() == Code::Unimplemented => {
            LinkError::Protocol("it does not know a call of this link")
        }
        Err(_) => LinkError::Broken(status.message().to_owned()),
    }
}

fn failure(status: &Status) -> Option<EngineFailure> {
    if status.details().is_empty() {
        return None;
    }
    let failure = pb::Failure::decode(status.details()).ok()?;
    let reason = failure.reason().into();
    let pb::Failure { reason: _, field, numbers, detail } = failure;
    let numbers = numbers.into_iter().collect();
    Some(EngineFailure { reason, message: status.message().to_owned(), field, numbers, detail })
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Signs {
    fn new() -> Self {
        Self { origin: Instant::now(), last: Arc::default() }
    }

    fn mark(&self) {
        self.last.store(milliseconds(self.origin.elapsed()), Ordering::Relaxed);
    }

    /// When the last sign came.
    pub fn last(&self) -> Instant {
        self.origin + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }
}
