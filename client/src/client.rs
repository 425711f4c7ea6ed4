//! The connection to a daemon, and one method for each call that it serves.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::builder::{ClientBuilder, Habits, Signature};
use crate::endpoint::Endpoint;
use crate::error::{Error, SharedEndpoint};
use crate::events::{self, Events, ImportEvent, LoadEvent, ModelChange};
use crate::retry::{Attempts, random};
use crate::v1::inference_client::InferenceClient;
use crate::v1::models_client::ModelsClient;
use crate::v1::node_client::NodeClient;
use crate::{Call, Conversation, Generation, LoadOptions, conversation, upload, v1};

/// A rendered prompt of a long context, with its tokens.
const LARGEST_MESSAGE_BYTES: usize = 64 << 20;

/// The way to the daemon, with the token on it.
type Signed = InterceptedService<Channel, Signature>;

/// A connection to a daemon. Clones share it; where it broke, the next call makes it anew.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use hearth_client::{Client, Endpoint};
///
/// let client = Client::connect("unix:/run/hearth/hearth.sock".parse::<Endpoint>()?).await?;
/// for model in client.models().await? {
///     println!("{}", model.name);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    endpoint: SharedEndpoint,
    habits: Habits,
    inference: InferenceClient<Signed>,
    models: ModelsClient<Signed>,
    node: NodeClient<Signed>,
}

/// Calls and where they go.
impl Client {
    /// Connects to a daemon; fails where there is none. Nothing is tried twice, no token is sent, and an
    /// `https` endpoint is trusted where the system trusts it.
    pub async fn connect(endpoint: Endpoint) -> Result<Self, Error> {
        Self::builder().endpoint(endpoint).connect().await
    }

    /// A connection with a token, certificates, timeouts or retries of its own.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    pub(crate) fn over(channel: Channel, signature: Signature, endpoint: Endpoint, habits: Habits) -> Self {
        let signed = InterceptedService::new(channel, signature);
        Self {
            endpoint: Arc::new(endpoint),
            habits,
            inference: InferenceClient::new(signed.clone()).max_decoding_message_size(LARGEST_MESSAGE_BYTES),
            models: ModelsClient::new(signed.clone()).max_decoding_message_size(LARGEST_MESSAGE_BYTES),
            node: NodeClient::new(signed).max_decoding_message_size(LARGEST_MESSAGE_BYTES),
        }
    }

    /// Where the daemon is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn failed(&self, status: &Status) -> Error {
        Error::from_status(status, &self.endpoint)
    }

    /// The deadline of a call that begins now.
    pub(crate) fn due<T>(&self, call: &Call<T>) -> Option<Instant> {
        let time = call.options.deadline.or(self.habits.call_timeout);
        time.and_then(|time| Instant::now().checked_add(time))
    }

    /// Makes a call, again where that may help, up to its deadline.
    async fn attempt<M, T, F>(
        &self,
        call: &Call<M>,
        due: Option<Instant>,
        send: impl Fn(Request<M>) -> F,
    ) -> Result<T, Error>
    where
        M: Clone,
        F: Future<Output = Result<T, Error>>,
    {
        let (start, mut attempts) = (Instant::now(), Attempts::new(self.habits.retry));
        loop {
            let left = due.map(|due| due.saturating_duration_since(Instant::now()));
            let error = match send(call.due_in(left).into_request()?).await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let wait = attempts.next(&error, start.elapsed(), random());
            let wait = wait.filter(|wait| due.is_none_or(|due| Instant::now() + *wait < due));
            tokio::time::sleep(wait.ok_or(error)?).await;
        }
    }

    /// A call with one answer.
    async fn ask<M, T, F>(&self, call: impl Into<Call<M>>, send: impl Fn(Request<M>) -> F) -> Result<T, Error>
    where
        M: Clone,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let call = call.into();
        let due = self.due(&call);
        self.attempt(&call, due, |request| {
            let answered = send(request);
            async { answered.await.map(Response::into_inner).map_err(|status| self.failed(&status)) }
        })
        .await
    }

    /// Where calls are tried again, the first event is waited for: up to there the daemon may refuse.
    fn may_ask_again(&self) -> bool {
        !self.habits.retry.is_never()
    }
}

/// Asking a model.
impl Client {
    /// Answers a conversation, or goes on from a raw prompt. Takes a [`ChatRequest`](crate::ChatRequest),
    /// a [`v1::GenerateRequest`], or a [`Call`] of one.
    pub async fn generate(&self, call: impl Into<Call<v1::GenerateRequest>>) -> Result<Generation, Error> {
        let call = call.into();
        let due = self.due(&call);
        self.attempt(&call, due, |request| async move {
            let answered = self.inference.clone().generate(request).await;
            let wire = answered.map_err(|status| self.failed(&status))?.into_inner();
            let generation = Generation::new(wire, Arc::clone(&self.endpoint), due);
            if self.may_ask_again() { generation.begun().await } else { Ok(generation) }
        })
        .await
    }

    /// Begins a tool loop: the model is kept ready between its turns, and the daemon remembers what was said.
    /// Takes what [`generate`](Self::generate) takes, less raw prompts; a deadline holds for the whole loop.
    ///
    /// ```no_run
    /// # async fn example(client: hearth_client::Client, tool: hearth_client::v1::Tool)
    /// # -> Result<(), hearth_client::Error> {
    /// use hearth_client::{ChatRequest, Reply};
    ///
    /// let request = ChatRequest::new("demo").tool(tool).user("How warm is it?");
    /// let mut talk = client.converse(request).await?;
    /// while let Some(answer) = talk.turn().await? {
    ///     if !talk.waits() {
    ///         println!("{}", answer.text);
    ///         break;
    ///     }
    ///     let reply = answer.tool_calls.iter().fold(Reply::new(), |reply, call| reply.result(&call.id, "12 °C"));
    ///     talk.reply(reply).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn converse(&self, call: impl Into<Call<v1::GenerateRequest>>) -> Result<Conversation, Error> {
        let call = call.into();
        let due = self.due(&call);
        self.attempt(&call, due, |request| async move {
            let (say, request) = conversation::opening(request);
            let answered = self.inference.clone().converse(request).await;
            let wire = answered.map_err(|status| self.failed(&status))?.into_inner();
            let generation = Generation::new(wire, Arc::clone(&self.endpoint), due);
            let generation = if self.may_ask_again() { generation.begun().await? } else { generation };
            Ok(Conversation::new(generation, say))
        })
        .await
    }

    /// The prompt as the model would see it.
    pub async fn render(
        &self,
        call: impl Into<Call<v1::RenderRequest>>,
    ) -> Result<v1::RenderResponse, Error> {
        self.ask(call, |request| {
            let mut inference = self.inference.clone();
            async move { inference.render(request).await }
        })
        .await
    }

    /// Number of tokens of a prompt.
    pub async fn count_tokens(&self, call: impl Into<Call<v1::CountTokensRequest>>) -> Result<u32, Error> {
        let counted = self.ask(call, |request| {
            let mut inference = self.inference.clone();
            async move { inference.count_tokens(request).await }
        });
        Ok(counted.await?.tokens)
    }
}

/// The models on the board.
impl Client {
    /// All models, by name.
    pub async fn models(&self) -> Result<Vec<v1::Model>, Error> {
        let listed = self.ask(v1::ListModelsRequest {}, |request| {
            let mut models = self.models.clone();
            async move { models.list(request).await }
        });
        Ok(listed.await?.models)
    }

    /// One model: `name[:tag]` or a digest.
    pub async fn model(&self, name: &str) -> Result<v1::Model, Error> {
        let request = v1::GetModelRequest { model: name.to_owned() };
        let found = self.ask(request, |request| {
            let mut models = self.models.clone();
            async move { models.get(request).await }
        });
        found.await?.model.ok_or(Error::Protocol("an answer without its model"))
    }

    /// Puts a model into the store under `name[:tag]`, out of exactly `size_bytes` of `reader`. With
    /// `sha256`, 64 hexadecimal digits, the daemon checks what it got.
    ///
    /// ```no_run
    /// # async fn example(client: hearth_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use hearth_client::ImportEvent;
    ///
    /// let file = tokio::fs::File::open("qwen3-8b.gguf").await?;
    /// let size = file.metadata().await?.len();
    /// let mut import = client.import("qwen3:8b", file, size, None).await?;
    /// while let Some(event) = import.next().await {
    ///     match event? {
    ///         ImportEvent::Progress(progress) => println!("{} bytes", progress.done_bytes),
    ///         ImportEvent::Done(model) => println!("imported {}", model.name),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn import<R>(
        &self,
        name: &str,
        reader: R,
        size_bytes: u64,
        sha256: Option<&str>,
    ) -> Result<Events<ImportEvent>, Error>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        let header = v1::ImportHeader { size_bytes, ..header(name, sha256) };
        self.send_import(header, reader).await
    }

    /// Puts a model into the store from a file on the daemon's side, which must be under one of its
    /// configured `import_dirs`.
    pub async fn import_path(
        &self,
        name: &str,
        path: &Path,
        sha256: Option<&str>,
    ) -> Result<Events<ImportEvent>, Error> {
        let path = path.to_str().ok_or_else(|| Error::Read(not_utf8()))?;
        let header = v1::ImportHeader { source_path: Some(path.to_owned()), ..header(name, sha256) };
        self.send_import(header, tokio::io::empty().take(0)).await
    }

    async fn send_import<R>(&self, header: v1::ImportHeader, reader: R) -> Result<Events<ImportEvent>, Error>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        let (parts, failure, upload) = upload::upload(header, reader);
        let mut failure = Box::pin(failure);
        let mut models = self.models.clone();
        let answered = {
            let mut call = pin!(models.import(parts));
            tokio::select! {
                answered = &mut call => answered,
                error = &mut failure => return Err(Error::Read(error)),
            }
        };
        let wire = answered.map_err(|status| self.failed(&status))?.into_inner();
        let is_done: fn(&ImportEvent) -> bool = |event| matches!(event, ImportEvent::Done(_));
        let stored = events::decode(wire, Arc::clone(&self.endpoint), |event: v1::ImportEvent| event.event);
        let failed = stream::once(async move {
            // Dropped with the events, which ends the upload.
            let _upload = upload;
            Err(Error::Read(failure.await))
        });
        Ok(Events::new(events::until(
            stream::select(events::until(stored, is_done), failed.boxed()),
            is_done,
        )))
    }

    /// Takes a model out of the store; returns the bytes that became free on the disk.
    pub async fn remove(&self, name: &str) -> Result<u64, Error> {
        let request = v1::RemoveModelRequest { model: name.to_owned() };
        let removed = self.ask(request, |request| {
            let mut models = self.models.clone();
            async move { models.remove(request).await }
        });
        Ok(removed.await?.freed_bytes)
    }

    /// Puts a model into memory as the configuration says, and lifts its quarantine.
    pub async fn load(&self, name: &str) -> Result<Events<LoadEvent>, Error> {
        self.load_with(name, LoadOptions::default()).await
    }

    /// Puts a model into memory in a certain way, and lifts its quarantine. A model that is in memory with another
    /// context is loaded anew once its answers have ended.
    pub async fn load_with(&self, name: &str, options: LoadOptions) -> Result<Events<LoadEvent>, Error> {
        self.attempt(&options.load(name).into(), None, |request| async move {
            let answered = self.models.clone().load(request).await;
            let wire = answered.map_err(|status| self.failed(&status))?.into_inner();
            let loading =
                events::decode(wire, Arc::clone(&self.endpoint), |event: v1::LoadEvent| event.event);
            let loading = Events::new(events::until(loading, |event| matches!(event, LoadEvent::Ready(_))));
            if self.may_ask_again() { loading.begun().await } else { Ok(loading) }
        })
        .await
    }

    /// What a load would do now, without doing it. That it would be refused is an answer, not an error.
    pub async fn plan(&self, name: &str, options: LoadOptions) -> Result<v1::PlanModelResponse, Error> {
        self.ask(options.plan(name), |request| {
            let mut models = self.models.clone();
            async move { models.plan(request).await }
        })
        .await
    }

    /// Keeps a model in memory whatever others need, or lets it go again, until the daemon ends; it is not loaded
    /// for that. Returns whether it stays now: what the configuration pins is not let go.
    pub async fn pin(&self, name: &str, pinned: bool) -> Result<bool, Error> {
        let request = v1::PinModelRequest { model: name.to_owned(), pinned };
        let done = self.ask(request, |request| {
            let mut models = self.models.clone();
            async move { models.pin(request).await }
        });
        Ok(done.await?.pinned)
    }

    /// Takes a model out of memory and returns whether it was there. Running answers finish first, or
    /// with `abort` end at once with an error.
    pub async fn unload(&self, name: &str, abort: bool) -> Result<bool, Error> {
        let request = v1::UnloadModelRequest { model: name.to_owned(), abort };
        self.attempt(&request.into(), None, |request| async move {
            let answered = self.models.clone().unload(request).await;
            answered.map(|answer| answer.into_inner().was_loaded).map_err(|status| self.failed(&status))
        })
        .await
    }

    /// All models as they are now, then every change.
    pub async fn watch_models(&self) -> Result<Events<ModelChange>, Error> {
        let call = v1::WatchModelsRequest {}.into();
        let wire = self.attempt(&call, None, |request| async move {
            self.models.clone().watch(request).await.map_err(|status| self.failed(&status))
        });
        let wire = wire.await?.into_inner();
        Ok(Events::new(events::decode(wire, Arc::clone(&self.endpoint), events::model_changes)))
    }
}

/// The daemon and its board.
impl Client {
    /// What the daemon is doing.
    pub async fn status(&self) -> Result<v1::GetStatusResponse, Error> {
        self.ask(v1::GetStatusRequest {}, |request| {
            let mut node = self.node.clone();
            async move { node.get_status(request).await }
        })
        .await
    }

    /// Changes what the daemon and its engines log: a level, or directives such as
    /// `info,hearthd::engines=debug`; empty: what the configuration says. With `time` the configuration holds
    /// again after it. Returns the filter in force and the one before it.
    pub async fn set_log_filter(
        &self,
        filter: &str,
        time: Option<Duration>,
    ) -> Result<v1::SetLogFilterResponse, Error> {
        let for_ms = time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let request = v1::SetLogFilterRequest { filter: filter.to_owned(), for_ms };
        self.ask(request, |request| {
            let mut node = self.node.clone();
            async move { node.set_log_filter(request).await }
        })
        .await
    }

    /// What the daemon is doing, now and whenever it changed, at most once per interval. Without one the
    /// daemon's default holds.
    pub async fn watch_status(
        &self,
        min_interval: Option<Duration>,
    ) -> Result<Events<v1::GetStatusResponse>, Error> {
        let min_interval_ms =
            min_interval.map(|interval| u32::try_from(interval.as_millis()).unwrap_or(u32::MAX));
        let call = v1::WatchStatusRequest { min_interval_ms }.into();
        let wire = self.attempt(&call, None, |request| async move {
            self.node.clone().watch_status(request).await.map_err(|status| self.failed(&status))
        });
        Ok(Events::new(events::decode(wire.await?.into_inner(), Arc::clone(&self.endpoint), Some)))
    }
}

fn header(name: &str, sha256: Option<&str>) -> v1::ImportHeader {
    v1::ImportHeader {
        name: name.to_owned(),
        sha256: sha256.map(str::to_owned),
        role: v1::FileRole::Weights.into(),
        ..v1::ImportHeader::default()
    }
}

fn not_utf8() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidInput, "its path is not UTF-8")
}
