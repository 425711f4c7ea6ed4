//! The scripted engine: this very test binary, started as a child by a small script. Its model file is a
//! word that says how it behaves; the prompt says what it answers.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::engines::LoadParams;
use futures_util::stream::{self, BoxStream, StreamExt};
use hearth_proto::engine as pb;
use hearth_proto::engine::engine_server::{Engine, EngineServer};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Code, Request, Response, Status};

/// Carries the arguments to the test function that plays the engine.
const VARIABLE: &str = "HEARTH_SCRIPTED_ENGINE";

/// An executable that plays the engine.
pub(super) fn executable(folder: &Path) -> PathBuf {
    let this = std::env::current_exe().expect("the test binary");
    let path = folder.join("engine");
    // Written by a child, so that no descriptor that could write is inherited by another test's child.
    let script = format!(
        "#!/bin/sh\n{VARIABLE}=\"$*\" exec {} --exact rpc::tests::engine::play --nocapture\n",
        this.display()
    );
    let status = std::process::Command::new("sh")
        .args(["-c", "printf '%s' \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh", &script])
        .arg(&path)
        .status();
    assert!(status.is_ok_and(|status| status.success()));
    assert!(path.metadata().is_ok_and(|file| file.permissions().mode() & 0o111 != 0));
    path
}

/// Plays the engine where the process was started as one; a test that passes at once otherwise.
#[test]
fn play() {
    let Ok(arguments) = std::env::var(VARIABLE) else { return };
    let mut words = arguments.split(' ').skip_while(|word| *word != "--model");
    let model = words.nth(1).expect("a model");
    let mut script = String::new();
    std::fs::File::open(model).and_then(|mut file| file.read_to_string(&mut script)).expect("a script");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(serve(script));
}

async fn serve(script: String) {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().expect("the link");
    let socket = UnixStream::from(socket);
    socket.set_nonblocking(true).expect("a socket");
    let (gone, mut is_gone) = tokio::sync::watch::channel(());
    let link = Link { socket: tokio::net::UnixStream::from_std(socket).expect("a socket"), _gone: gone };
    let incoming = stream::iter([Ok::<_, std::io::Error>(link)]).chain(stream::pending());
    let player =
        Player { script, beat: tokio::sync::watch::Sender::new(pb::Beat::default()), hung: Arc::default() };
    let server = Server::builder().add_service(EngineServer::new(player)).serve_with_incoming(incoming);
    tokio::select! {
        _ = server => {}
        // The link was closed.
        _ = is_gone.changed() => {}
    }
}

/// The link's socket, which tells when it is dropped.
struct Link {
    socket: tokio::net::UnixStream,
    _gone: tokio::sync::watch::Sender<()>,
}

impl Connected for Link {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.socket).poll_write(context, buffer)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

struct Player {
    script: String,
    beat: tokio::sync::watch::Sender<pb::Beat>,
    /// Beats without getting on.
    hung: Arc<AtomicBool>,
}

fn refuse(reason: pb::Reason, detail: &str) -> Status {
    let failure = pb::Failure { reason: reason.into(), detail: detail.to_owned(), ..pb::Failure::default() };
    Status::with_details(Code::FailedPrecondition, "no", failure.encode_to_vec().into())
}

fn die() -> ! {
    use std::io::Write;
    std::io::stderr().write_all(b"script.cpp:1: GGML_ASSERT(luck) failed\n").ok();
    std::process::abort()
}

/// A process that does nothing any more. Another thread may take the signal, and this one run on for a moment.
fn stopped() -> Response<<Player as Engine>::GenerateStream> {
    let this = rustix::process::getpid();
    rustix::process::kill_process(this, rustix::process::Signal::STOP).ok();
    Response::new(stream::pending().boxed())
}

/// `call N` makes so many calls, `date` says the day, results are said again behind the choice that holds, and anything else is refused
/// as the engine refuses a schema.
fn converse(talk: &pb::Conversation) -> Result<Response<<Player as Engine>::GenerateStream>, Status> {
    use pb::delta::Kind;
    use pb::generate_event::Event;
    let text = |message: &pb::Message| message.parts.concat();
    let asked = talk.messages.last().map(text).unwrap_or_default();
    if asked == "stop" {
        return Ok(stopped());
    }
    let results: Vec<_> = talk.messages.iter().filter(|message| message.role() == pb::Role::Tool).collect();
    let (deltas, reason) = match asked.strip_prefix("call ").and_then(|count| count.parse().ok()) {
        Some(count) => {
            let call = |index| pb::ToolComplete { index, name: "f".to_owned(), arguments: "{}".to_owned() };
            let calls = (0..count).map(|index| Kind::ToolComplete(call(index)));
            let thought = std::iter::once(Kind::Reasoning("hm".to_owned()));
            (thought.chain(calls).collect::<Vec<_>>(), pb::FinishReason::ToolCalls)
        }
        None if asked == "date" => (vec![Kind::Text(talk.date.clone())], pb::FinishReason::Stop),
        None if results.is_empty() => {
            let failure = pb::Failure {
                reason: pb::Reason::Invalid.into(),
                field: "prompt.conversation.tools[0].parameters.not".to_owned(),
                ..pb::Failure::default()
            };
            return Err(Status::with_details(Code::InvalidArgument, "no", failure.encode_to_vec().into()));
        }
        None => {
            let mode = talk.tool_choice.clone().unwrap_or_default().mode();
            let said: Vec<_> = results.into_iter().map(text).collect();
            let text = format!("{} {}", mode.as_str_name(), said.join(" "));
            (vec![Kind::Text(text)], pb::FinishReason::Stop)
        }
    };
    let accepted = std::iter::once(Event::Accepted(pb::Accepted { queue_position: 0 }));
    let context = pb::Progress { total: 2, context: true, ..pb::Progress::default() };
    let deltas =
        deltas.into_iter().map(|kind| Event::Delta(pb::Delta { kind: Some(kind), ..pb::Delta::default() }));
    let finished = pb::Finished {
        reason: reason.into(),
        prompt_tokens: u32::try_from(talk.messages.len()).unwrap_or(0),
        forced_tokens: 1,
        ..pb::Finished::default()
    };
    let events = accepted.chain([Event::Progress(context)]).chain(deltas).chain([Event::Finished(finished)]);
    let events = events.map(|event| Ok(pb::GenerateEvent { event: Some(event) }));
    Ok(Response::new(stream::iter(events.collect::<Vec<_>>()).boxed()))
}

fn context(tokens: u32, kv_bytes: u64) -> pb::ContextBytes {
    let LoadParams { sequences, micro_batch, .. } = LoadParams::default();
    let kv_type = pb::KvType::F16.into();
    pb::ContextBytes { tokens, sequences, micro_batch, kv_type, kv_bytes, compute_bytes: 0 }
}

#[tonic::async_trait]
impl Engine for Player {
    type LoadStream = BoxStream<'static, Result<pb::LoadEvent, Status>>;
    type GenerateStream = BoxStream<'static, Result<pb::GenerateEvent, Status>>;
    type WatchStream = BoxStream<'static, Result<pb::Beat, Status>>;

    async fn hello(&self, _: Request<pb::HelloRequest>) -> Result<Response<pb::HelloResponse>, Status> {
        Ok(Response::new(pb::HelloResponse {
            build_id: hearth_proto::BUILD_ID.to_owned(),
            cpu_level: "script".to_owned(),
            system_info: String::new(),
            sandbox: String::new(),
            gpu: String::new(),
        }))
    }

    async fn inspect(&self, _: Request<pb::InspectRequest>) -> Result<Response<pb::InspectResponse>, Status> {
        match self.script.as_str() {
            "refuse-inspect" => return Err(refuse(pb::Reason::BadModel, "tensor of doom")),
            "crash-on-inspect" => die(),
            _ => {}
        }
        let kv_bytes = if self.script == "big" { 1 << 40 } else { 1 << 20 };
        Ok(Response::new(pb::InspectResponse {
            architecture: "script".to_owned(),
            contexts: [512, 4096].map(|tokens| context(tokens, kv_bytes)).to_vec(),
            process_bytes: 16 << 20,
            ..pb::InspectResponse::default()
        }))
    }

    async fn load(&self, request: Request<pb::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        let sequences = request.into_inner().sequences;
        let crash = self.script == "crash-on-load";
        let loaded = pb::Loaded { context_tokens: 512, sequences, memory: None, gpu_layers: 0 };
        let events = [0, 300, 600].map(pb::load_event::Event::ProgressPermille).into_iter();
        let events = events.chain([pb::load_event::Event::Loaded(loaded)]);
        let pause = Duration::from_millis(if self.script == "slow" { 300 } else { 20 });
        let events = stream::iter(events).then(move |event| async move {
            tokio::time::sleep(pause).await;
            if crash && matches!(event, pb::load_event::Event::ProgressPermille(600)) {
                die();
            }
            Ok(pb::LoadEvent { event: Some(event) })
        });
        Ok(Response::new(events.boxed()))
    }

    async fn generate(
        &self,
        request: Request<pb::GenerateRequest>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        use pb::generate_event::Event;
        let prompt = match request.into_inner().prompt.and_then(|prompt| prompt.kind) {
            Some(pb::prompt::Kind::Raw(prompt)) => prompt,
            Some(pb::prompt::Kind::Conversation(talk)) => return converse(&talk),
            None => return Err(refuse(pb::Reason::Invalid, "")),
        };
        self.beat.send_modify(|beat| beat.busy = true);
        match prompt.split_once(' ') {
            None if prompt == "stop" => {
                return Ok(stopped());
            }
            None if prompt == "die" => die(),
            None => {
                self.hung.store(true, Ordering::Relaxed);
                return Ok(Response::new(stream::pending().boxed()));
            }
            Some(_) => {}
        }
        let words: u32 = prompt.split_once(' ').and_then(|(_, count)| count.parse().ok()).unwrap_or(0);
        let beat = self.beat.clone();
        let word =
            |i| pb::Delta { kind: Some(pb::delta::Kind::Text(format!("w{i} "))), ..pb::Delta::default() };
        let words = stream::iter(0..words).then(move |i| async move {
            tokio::time::sleep(Duration::from_millis(2)).await;
            Event::Delta(word(i))
        });
        let finished = stream::once(async move {
            beat.send_modify(|beat| beat.busy = false);
            Event::Finished(pb::Finished::default())
        });
        let accepted = stream::iter([Event::Accepted(pb::Accepted { queue_position: 0 })]);
        let events = accepted.chain(words).chain(finished);
        let events = events.map(|event| Ok(pb::GenerateEvent { event: Some(event) }));
        Ok(Response::new(events.boxed()))
    }

    async fn render(
        &self,
        request: Request<pb::RenderRequest>,
    ) -> Result<Response<pb::RenderResponse>, Status> {
        let text = match request.into_inner().prompt.and_then(|prompt| prompt.kind) {
            Some(pb::prompt::Kind::Raw(text)) => text,
            Some(pb::prompt::Kind::Conversation(talk)) => talk.date,
            None => return Err(refuse(pb::Reason::Invalid, "")),
        };
        let tokens = (0..).zip(text.split(' ')).map(|(i, _)| i).collect();
        Ok(Response::new(pb::RenderResponse { text, tokens }))
    }

    async fn resize(
        &self,
        request: Request<pb::ResizeRequest>,
    ) -> Result<Response<pb::ResizeResponse>, Status> {
        let pb::ResizeRequest { context_tokens, .. } = request.into_inner();
        Ok(Response::new(pb::ResizeResponse { context_tokens }))
    }

    async fn set_log_filter(
        &self,
        _: Request<pb::SetLogFilterRequest>,
    ) -> Result<Response<pb::SetLogFilterResponse>, Status> {
        Ok(Response::new(pb::SetLogFilterResponse {}))
    }

    async fn watch(&self, _: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (changes, hung) = (self.beat.subscribe(), Arc::clone(&self.hung));
        let beats = stream::unfold((changes, hung, 0), |(mut changes, hung, mut progress)| async move {
            if changes.borrow().busy {
                tokio::time::timeout(Duration::from_millis(50), changes.changed()).await.ok();
            } else {
                changes.changed().await.ok();
            }
            if !hung.load(Ordering::Relaxed) {
                progress += 1;
            }
            let beat = pb::Beat { progress, ..*changes.borrow_and_update() };
            Some((Ok(beat), (changes, hung, progress)))
        });
        Ok(Response::new(beats.boxed()))
    }
}
