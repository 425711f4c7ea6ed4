//! The connection to a daemon, and one method for each call that it serves.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;
use tonic::transport::{self, Channel};

use crate::endpoint::Endpoint;
use crate::error::{Error, SharedEndpoint};
use crate::events::{self, Events, ImportEvent, LoadEvent, ModelChange};
use crate::v1::inference_client::InferenceClient;
use crate::v1::models_client::ModelsClient;
use crate::v1::node_client::NodeClient;
use crate::{Call, Generation, upload, v1};

/// How long a host may take to answer before it counts as unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a quiet TCP connection with a running call is tested: a board that lost its power says nothing.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// What a reader may be behind before the daemon pauses its sequence: minutes of text, in little memory.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
/// A rendered prompt of a long context, with its tokens.
const LARGEST_MESSAGE_BYTES: usize = 64 << 20;

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
    inference: InferenceClient<Channel>,
    models: ModelsClient<Channel>,
    node: NodeClient<Channel>,
}

/// Calls and where they go.
impl Client {
    /// Connects to a daemon; fails where there is none.
    pub async fn connect(endpoint: Endpoint) -> Result<Self, Error> {
        let transport = transport(&endpoint)?;
        let channel = transport.connect().await.map_err(|error| Error::unreachable(&endpoint, &error))?;
        Ok(Self::over(channel, endpoint))
    }

    fn over(channel: Channel, endpoint: Endpoint) -> Self {
        Self {
            endpoint: Arc::new(endpoint),
            inference: InferenceClient::new(channel.clone()).max_decoding_message_size(LARGEST_MESSAGE_BYTES),
            models: ModelsClient::new(channel.clone()).max_decoding_message_size(LARGEST_MESSAGE_BYTES),
            node: NodeClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE_BYTES),
        }
    }

    /// Where the daemon is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn failed(&self, status: &tonic::Status) -> Error {
        Error::from_status(status, &self.endpoint)
    }
}

/// Asking a model.
impl Client {
    /// Answers a conversation, or goes on from a raw prompt. Takes a [`ChatRequest`](crate::ChatRequest),
    /// a [`v1::GenerateRequest`], or a [`Call`] of one.
    pub async fn generate(&self, call: impl Into<Call<v1::GenerateRequest>>) -> Result<Generation, Error> {
        let call = call.into();
        let deadline = call.options.deadline.and_then(|wait| Instant::now().checked_add(wait));
        let request = call.into_request()?;
        let response =
            self.inference.clone().generate(request).await.map_err(|status| self.failed(&status))?;
        Ok(Generation::new(response.into_inner(), Arc::clone(&self.endpoint), deadline))
    }

    /// The prompt as the model would see it.
    pub async fn render(
        &self,
        call: impl Into<Call<v1::RenderRequest>>,
    ) -> Result<v1::RenderResponse, Error> {
        let request = call.into().into_request()?;
        let response = self.inference.clone().render(request).await;
        response.map(tonic::Response::into_inner).map_err(|status| self.failed(&status))
    }

    /// Number of tokens of a prompt.
    pub async fn count_tokens(&self, call: impl Into<Call<v1::CountTokensRequest>>) -> Result<u32, Error> {
        let request = call.into().into_request()?;
        let response = self.inference.clone().count_tokens(request).await;
        response.map(|response| response.into_inner().tokens).map_err(|status| self.failed(&status))
    }
}

/// The models on the board.
impl Client {
    /// All models, by name.
    pub async fn models(&self) -> Result<Vec<v1::Model>, Error> {
        let response = self.models.clone().list(v1::ListModelsRequest {}).await;
        response.map(|response| response.into_inner().models).map_err(|status| self.failed(&status))
    }

    /// One model: `name[:tag]` or a digest.
    pub async fn model(&self, name: &str) -> Result<v1::Model, Error> {
        let request = v1::GetModelRequest { model: name.to_owned() };
        let response = self.models.clone().get(request).await.map_err(|status| self.failed(&status))?;
        response.into_inner().model.ok_or(Error::Protocol("an answer without its model"))
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
        let response = self.models.clone().remove(request).await;
        response.map(|response| response.into_inner().freed_bytes).map_err(|status| self.failed(&status))
    }

    /// Puts a model into memory, and lifts its quarantine.
    pub async fn load(&self, name: &str) -> Result<Events<LoadEvent>, Error> {
        let request = v1::LoadModelRequest { model: name.to_owned() };
        let wire =
            self.models.clone().load(request).await.map_err(|status| self.failed(&status))?.into_inner();
        let loading = events::decode(wire, Arc::clone(&self.endpoint), |event: v1::LoadEvent| event.event);
        Ok(Events::new(events::until(loading, |event| matches!(event, LoadEvent::Ready(_)))))
    }

    /// Takes a model out of memory and returns whether it was there. Running answers finish first, or
    /// with `abort` end at once with an error.
    pub async fn unload(&self, name: &str, abort: bool) -> Result<bool, Error> {
        let request = v1::UnloadModelRequest { model: name.to_owned(), abort };
        let response = self.models.clone().unload(request).await;
        response.map(|response| response.into_inner().was_loaded).map_err(|status| self.failed(&status))
    }

    /// All models as they are now, then every change.
    pub async fn watch_models(&self) -> Result<Events<ModelChange>, Error> {
        let request = v1::WatchModelsRequest {};
        let response = self.models.clone().watch(request).await.map_err(|status| self.failed(&status))?;
        let wire = response.into_inner();
        Ok(Events::new(events::decode(wire, Arc::clone(&self.endpoint), events::model_changes)))
    }
}

/// The daemon and its board.
impl Client {
    /// What the daemon is doing.
    pub async fn status(&self) -> Result<v1::GetStatusResponse, Error> {
        let response = self.node.clone().get_status(v1::GetStatusRequest {}).await;
        response.map(tonic::Response::into_inner).map_err(|status| self.failed(&status))
    }

    /// What the daemon is doing, now and whenever it changed, at most once per interval. Without one the
    /// daemon's default holds.
    pub async fn watch_status(
        &self,
        min_interval: Option<Duration>,
    ) -> Result<Events<v1::GetStatusResponse>, Error> {
        let min_interval_ms =
            min_interval.map(|interval| u32::try_from(interval.as_millis()).unwrap_or(u32::MAX));
        let request = v1::WatchStatusRequest { min_interval_ms };
        let response =
            self.node.clone().watch_status(request).await.map_err(|status| self.failed(&status))?;
        Ok(Events::new(events::decode(response.into_inner(), Arc::clone(&self.endpoint), Some)))
    }
}

fn transport(endpoint: &Endpoint) -> Result<transport::Endpoint, Error> {
    let transport = transport::Endpoint::from_shared(endpoint.to_uri()?)
        .map_err(|error| Error::unreachable(endpoint, &error))?
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES);
    Ok(match endpoint {
        Endpoint::Unix(_) => transport,
        Endpoint::Http { .. } => {
            transport.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE)
        }
    })
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
