//! The engine's end of the link: one gRPC connection over the socket that came as standard input.
//!
//! The end of the connection is the end of the engine: the front has closed it or is dead.

mod beat;
mod convert;
mod failure;
mod link;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt as _};
use hearth_proto::BUILD_ID;
use hearth_proto::engine as pb;
use hearth_proto::engine::engine_server::{Engine, EngineServer};
use tokio::sync::oneshot;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use crate::batch::answer::AnswerOptions;
use crate::batch::resize::Size;
use crate::chat::{Dialect, Output};
use crate::inspect::{self, InspectError};
use crate::llama::{Backend, Device, LoadMode, LoadOptions, Model};
use crate::log::LogFilter;
use crate::process::Surroundings;
use crate::prompt::{BigStack, Prepared, Prompter, Purpose, chain};
use crate::worker::{LoadNews, LoadSpec, Loaded, Signs, Worker};

pub use link::LinkError;

/// Flow-control window of one stream, in bytes: what a stalled reader can hold back.
const STREAM_WINDOW: u32 = 64 << 10;
/// Window of the connection: every stream can fill its own.
const CONNECTION_WINDOW: u32 = 256 * STREAM_WINDOW;
/// Largest message, in bytes: a prompt of the greatest length with room to spare.
const MAX_MESSAGE: usize = 64 << 20;

type Streaming<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The engine service.
#[derive(Debug)]
pub struct Service {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    model: PathBuf,
    surroundings: Surroundings,
    backend: Arc<Backend>,
    worker: Worker,
    signs: Signs,
    stack: BigStack,
    loaded: Arc<OnceLock<Loaded>>,
    /// For rendering without weights.
    vocabulary: OnceLock<Arc<Prompter>>,
    filter: LogFilter,
}

impl Service {
    /// A service for the model file at `model`.
    pub fn new(
        model: PathBuf,
        surroundings: Surroundings,
        backend: Arc<Backend>,
        worker: Worker,
        signs: Signs,
        stack: BigStack,
        filter: LogFilter,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                model,
                surroundings,
                backend,
                worker,
                signs,
                stack,
                loaded: Arc::default(),
                vocabulary: OnceLock::new(),
                filter,
            }),
        }
    }

    /// Serves the connection on `socket` until it ends; then ends the worker.
    ///
    /// # Errors
    /// [`LinkError`] where the socket is unusable.
    pub async fn run(self, socket: OwnedFd) -> Result<(), LinkError> {
        let inner = Arc::clone(&self.inner);
        let (ended, end) = oneshot::channel();
        let incoming = link::incoming(socket, ended)?;
        let server = EngineServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let serving = tonic::transport::Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .add_service(server)
            .serve_with_incoming(incoming);
        tokio::select! {
            served = serving => served.map_err(LinkError::Serve)?,
            _ = end => {}
        }
        // Streams that are still open are dropped with the server above, which cancels their requests.
        match Arc::try_unwrap(inner) {
            Ok(inner) => {
                let Inner { worker, loaded, .. } = inner;
                drop(loaded);
                worker.stop();
            }
            // A connection task still holds on; the process ends anyway.
            Err(_) => tracing::debug!("Link ended with calls under way"),
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Engine for Service {
    type LoadStream = Streaming<pb::LoadEvent>;
    type GenerateStream = Streaming<pb::GenerateEvent>;
    type WatchStream = Streaming<pb::Beat>;

    async fn hello(&self, request: Request<pb::HelloRequest>) -> Result<Response<pb::HelloResponse>, Status> {
        let theirs = request.into_inner().build_id;
        if theirs != BUILD_ID {
            return Err(failure::build_mismatch(&theirs, BUILD_ID));
        }
        Ok(Response::new(pb::HelloResponse {
            build_id: BUILD_ID.to_owned(),
            cpu_level: env!("HEARTH_CPU_LEVEL").to_owned(),
            system_info: self.inner.backend.system_info(),
            sandbox: self.inner.surroundings.sandbox.clone(),
            gpu: gpus(&self.inner.backend.devices()),
        }))
    }

    async fn inspect(
        &self,
        request: Request<pb::InspectRequest>,
    ) -> Result<Response<pb::InspectResponse>, Status> {
        let load = request.into_inner().load.unwrap_or_default();
        let spec = self.inner.load_spec(load)?;
        let inner = Arc::clone(&self.inner);
        let inspected = self.inner.stack.run(move || inner.inspect(&spec)).await.map_err(failure::not_run)?;
        Ok(Response::new(inspected.map_err(|error| failure::inspect(&error))?))
    }

    async fn load(&self, request: Request<pb::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        let spec = self.inner.load_spec(request.into_inner())?;
        let news = self.inner.worker.load(spec).map_err(failure::loaded_already)?;
        let loaded = Arc::clone(&self.inner.loaded);
        let events = ReceiverStream::new(news).map(move |news| match news {
            LoadNews::Progress(permille) => Ok(convert::load_progress(permille)),
            LoadNews::Done(outcome) => {
                let model = outcome.map_err(|error| failure::inspect(&error))?;
                let event = convert::loaded(&model);
                // One load succeeds per process: the worker runs the batch loop from then on.
                loaded.get_or_init(|| model);
                Ok(event)
            }
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn generate(
        &self,
        request: Request<pb::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let request = convert::generate(request.into_inner())?;
        // Of the highest level, so that its ids are there whatever is logged.
        let span = tracing::error_span!(
            "generate",
            request.id = %request.request_id,
            trace.id = trace_id(&request.traceparent)
        );
        self.answer(request).instrument(span).await
    }

    async fn render(
        &self,
        request: Request<pb::RenderRequest>,
    ) -> Result<Response<pb::RenderResponse>, Status> {
        let request = request.into_inner();
        let dialect = convert::dialect(&request.dialect)?;
        let prompt = convert::prompt(request.prompt)?;
        let prompter = match self.inner.loaded.get() {
            Some(loaded) => Arc::clone(&loaded.prompter),
            None => self.inner.vocabulary(dialect).await?,
        };
        let prepared = self.inner.prepare(prompter, prompt, None).await?;
        Ok(Response::new(pb::RenderResponse {
            text: prepared.text,
            tokens: prepared.tokens.iter().map(|token| token.unsigned_abs()).collect(),
        }))
    }

    async fn resize(
        &self,
        request: Request<pb::ResizeRequest>,
    ) -> Result<Response<pb::ResizeResponse>, Status> {
        let size = convert::size(request.into_inner());
        let loaded = self.inner.loaded.get().ok_or_else(failure::not_loaded)?;
        if matches!(size, Size::Shed(_)) {
            // Before the loop, which then gives back what is free.
            loaded.prompter.forget_grammars();
        }
        let resized = loaded.submitter.resize(size).await;
        let context_tokens = resized.map_err(|failed| failure::batch(&failed))?;
        Ok(Response::new(pb::ResizeResponse { context_tokens }))
    }

    async fn set_log_filter(
        &self,
        request: Request<pb::SetLogFilterRequest>,
    ) -> Result<Response<pb::SetLogFilterResponse>, Status> {
        let filter = request.into_inner().filter;
        let set = self.inner.filter.set(&filter);
        set.map_err(|error| failure::invalid("filter", error.to_string()))?;
        Ok(Response::new(pb::SetLogFilterResponse {}))
    }

    async fn watch(&self, _: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let beats = beat::beats(self.inner.signs.clone());
        Ok(Response::new(Box::pin(beats.map(Ok))))
    }
}

impl Service {
    /// Submits a request; the lines that are logged meanwhile carry its ids.
    async fn answer(
        &self,
        request: convert::Generate,
    ) -> Result<Response<Streaming<pb::GenerateEvent>>, Status> {
        let arrived = Instant::now();
        let loaded = self.inner.loaded.get().ok_or_else(failure::not_loaded)?;
        tracing::debug!("Request arrived");
        let thinking = request.prompt.thinking();
        let one_call = request.prompt.wants_one_call();
        let prepared =
            self.inner.prepare(Arc::clone(&loaded.prompter), request.prompt, Some(request.output)).await?;
        let sampling = request.sampling.over(loaded.prompter.sampling(thinking), loaded.vocabulary_size)?;
        let options = AnswerOptions {
            sampling,
            parser: prepared.parser,
            stop: request.stop,
            max_tokens: request.max_tokens,
            logprobs: request.logprobs,
            extra_ends: loaded.prompter.extra_ends().to_vec(),
            visible: loaded.prompter.visible().to_vec(),
            guide: prepared.guide,
            one_by_one: loaded.forced_one_by_one,
            one_call,
        };
        let deadline = request.deadline.map(|left| arrived + left);
        let answers = loaded
            .submitter
            .submit(prepared.tokens, options, deadline)
            .map_err(|refused| failure::batch(&refused))?;
        let span = tracing::Span::current();
        let events = answers.map(move |item| match item {
            Ok(event) => Ok(convert::event(event)),
            Err(failed) => {
                span.in_scope(|| tracing::debug!(error = %chain(&failed), "Request failed"));
                Err(failure::batch(&failed))
            }
        });
        Ok(Response::new(Box::pin(events)))
    }
}

/// The trace of a W3C trace context, `version-trace-parent-flags`.
fn trace_id(traceparent: &str) -> Option<&str> {
    traceparent.split('-').nth(1).filter(|trace| !trace.is_empty())
}

impl Inner {
    fn load_spec(&self, load: pb::LoadRequest) -> Result<LoadSpec, Status> {
        convert::load_spec(load, self.model.clone(), self.surroundings.cores)
    }

    /// Makes a prompt on the thread with the large stack.
    /// To be answered in a form, or only to be looked at.
    async fn prepare(
        &self,
        prompter: Arc<Prompter>,
        prompt: convert::Prompt,
        answer: Option<Option<Output>>,
    ) -> Result<Prepared, Status> {
        let made = self
            .stack
            .run(move || {
                let purpose = match &answer {
                    None => Purpose::Look,
                    Some(output) => Purpose::Answer(output.as_ref()),
                };
                match &prompt {
                    convert::Prompt::Conversation(conversation) => {
                        prompter.conversation(conversation, purpose)
                    }
                    convert::Prompt::Raw(text) => prompter.raw(text, purpose),
                }
            })
            .await
            .map_err(failure::not_run)?;
        made.map_err(|error| failure::prompt(&error))
    }

    /// The prompt maker of a model whose weights are not loaded.
    async fn vocabulary(self: &Arc<Self>, dialect: Option<Dialect>) -> Result<Arc<Prompter>, Status> {
        if let Some(prompter) = self.vocabulary.get() {
            return Ok(Arc::clone(prompter));
        }
        let inner = Arc::clone(self);
        let made = self.stack.run(move || inner.load_vocabulary(dialect)).await.map_err(failure::not_run)?;
        let made = made.map_err(|error| failure::inspect(&error))?;
        Ok(Arc::clone(self.vocabulary.get_or_init(|| Arc::new(made))))
    }

    fn load_vocabulary(&self, dialect: Option<Dialect>) -> Result<Prompter, InspectError> {
        let checked = inspect::check(&self.model)?;
        let options =
            LoadOptions { path: &self.model, mode: LoadMode::VocabularyOnly, repack: false, gpu_layers: 0 };
        let model = Model::load(&self.backend, &options, &mut |_| true)?;
        Ok(inspect::prompter(Arc::new(model), &checked, dialect))
    }

    fn inspect(&self, spec: &LoadSpec) -> Result<pb::InspectResponse, InspectError> {
        let LoadSpec { context, ceiling, dialect, gpu_layers, .. } = spec;
        let (backend, memory) = (&self.backend, &self.surroundings.memory);
        let inspected =
            inspect::inspect(backend, &self.model, context, *ceiling, *dialect, *gpu_layers, memory)?;
        Ok(convert::inspected(&inspected))
    }
}

/// GPUs by their makers' names, each once.
fn gpus(devices: &[Device]) -> String {
    let mut names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
    names.dedup();
    names.join(", ")
}

/// Time left of a deadline, as it crosses the link.
pub(crate) const fn millis(left: u64) -> Duration {
    Duration::from_millis(left)
}
