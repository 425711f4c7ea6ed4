//! The thread that owns llama.cpp: it loads the model when told to, and then runs the batch loop.
//!
//! ```text
//!  Waiting ── Load ──► Loading ──► Batch loop ── all handles gone ──► (thread ends, memory is freed)
//!                         └── failed ──► Waiting
//! ```

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::batch::core::Limits;
use crate::batch::pace::{Pace, StepTargets};
use crate::batch::window::Window;
use crate::batch::{self, BatchLoop, Command, Submitter};
use crate::chat::Dialect;
use crate::gguf::Stretch;
use crate::gpu::GpuLayers;
use crate::inspect::{self, Checked, InspectError};
use crate::llama::{Backend, Context, ContextOptions, LoadMode, LoadOptions, Memory, Model, Pulse};
use crate::prompt::Prompter;

/// llama.cpp's graphs and some of its parsers recurse.
const STACK_BYTES: usize = 64 << 20;

/// What a load is told.
#[derive(Clone, Debug)]
pub struct LoadSpec {
    /// The model file.
    pub path: PathBuf,
    /// Sizes of the context; `sequences` counts running answers only.
    pub context: ContextOptions,
    /// Tokens that the context may grow to.
    pub ceiling: u32,
    /// Step times.
    pub targets: StepTargets,
    /// Requests that may wait.
    pub queue: usize,
    /// A reader that takes nothing for so long loses its request.
    pub reader_stall: Duration,
    /// Overrides the choice by architecture and template.
    pub dialect: Option<Dialect>,
    /// Whether weights are copied instead of mapped; `None`: a dry run finds out.
    pub copy_weights: Option<bool>,
    /// Whether forced tokens are computed one by one.
    pub forced_one_by_one: bool,
    /// Layers for a GPU.
    pub gpu_layers: GpuLayers,
}

/// A model that is ready.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Makes prompts.
    pub prompter: Arc<Prompter>,
    /// Takes requests.
    pub submitter: Submitter,
    /// Number of token ids.
    pub vocabulary_size: i32,
    /// Tokens of the context.
    pub context_tokens: u32,
    /// Answers at the same time.
    pub sequences: u32,
    /// What it took.
    pub memory: Memory,
    /// Whether the weights are file pages.
    pub mapped: bool,
    /// Whether forced tokens are computed one by one.
    pub forced_one_by_one: bool,
    /// Layers that a GPU computes, the output counted as one.
    pub gpu_layers: u32,
}

/// News of a load.
#[derive(Debug)]
pub enum LoadNews {
    /// Part done, 0 to 1000.
    Progress(u32),
    /// The end.
    Done(Box<Result<Loaded, InspectError>>),
}

/// What the thread is doing, for the heartbeat.
#[derive(Clone, Debug)]
pub struct Signs {
    /// Bumped while llama.cpp makes progress.
    pub pulse: Arc<Pulse>,
    /// A load is running.
    pub loading: watch::Receiver<bool>,
    /// The batch loop's load.
    pub load: watch::Receiver<batch::Load>,
}

/// The thread's handle.
#[derive(Debug)]
pub struct Worker {
    orders: SyncSender<Order>,
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Order {
    spec: LoadSpec,
    news: mpsc::Sender<LoadNews>,
}

/// A load is running or done already.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("this engine was told to load already")]
pub struct LoadedAlready;

struct Thread {
    backend: Arc<Backend>,
    stopping: Arc<AtomicBool>,
    pulse: Arc<Pulse>,
    loading: watch::Sender<bool>,
    load: watch::Sender<batch::Load>,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(backend: Arc<Backend>) -> io::Result<(Self, Signs)> {
        let (orders, received) = sync_channel(1);
        let stopping = Arc::new(AtomicBool::new(false));
        let (loading, loading_now) = watch::channel(false);
        let (load, load_now) = watch::channel(batch::Load::default());
        let pulse = Arc::new(Pulse::default());
        let signs = Signs { pulse: Arc::clone(&pulse), loading: loading_now, load: load_now };
        let inside = Thread { backend, stopping: Arc::clone(&stopping), pulse, loading, load };
        let thread = std::thread::Builder::new()
            .name("llama".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || inside.run(&received))?;
        Ok((Self { orders, stopping, thread }, signs))
    }

    /// Loads a model; the news end with `Done`.
    ///
    /// # Errors
    /// [`LoadedAlready`].
    pub fn load(&self, spec: LoadSpec) -> Result<mpsc::Receiver<LoadNews>, LoadedAlready> {
        let (news, receiver) = mpsc::channel(16);
        self.orders.try_send(Order { spec, news }).map_err(|_| LoadedAlready)?;
        Ok(receiver)
    }

    /// Ends the thread: a load stops, the batch loop ends as soon as every [`Submitter`] is gone.
    pub fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        drop(self.orders);
        // A panic has ended the process already.
        drop(self.thread.join());
    }
}

/// Ends the process when the thread panics: an engine without it would be alive and of no use. The front
/// sees an abort, and loads the model again.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

impl Thread {
    fn run(self, orders: &Receiver<Order>) {
        let _guard = AbortOnPanic;
        while let Ok(Order { spec, news }) = orders.recv() {
            self.loading.send_replace(true);
            let (commands, received) = sync_channel(batch::COMMANDS);
            let outcome = self.load(&spec, commands, &news);
            self.loading.send_replace(false);
            match outcome {
                Ok((loaded, context, limits, window)) => {
                    // The loop ends when the last submitter is gone, so the news must not keep one.
                    drop(news.blocking_send(LoadNews::Done(Box::new(Ok(loaded)))));
                    drop(news);
                    let pace = Pace::new(spec.targets);
                    BatchLoop::new(context, limits, window, pace, self.load).run(&received);
                    return;
                }
                Err(error) => drop(news.blocking_send(LoadNews::Done(Box::new(Err(error))))),
            }
        }
    }

    fn load(
        &self,
        spec: &LoadSpec,
        commands: SyncSender<Command>,
        news: &mpsc::Sender<LoadNews>,
    ) -> Result<(Loaded, Context, Limits, Window), InspectError> {
        let checked = inspect::check(&spec.path)?;
        let sizes = sizes(&spec.context, &checked);
        warn_of_long_context(sizes.tokens, &checked);
        let gpu_layers = inspect::gpu_layers(&self.backend, &spec.path, &checked, spec.gpu_layers, &sizes)?;
        let repack = match spec.copy_weights {
            Some(copied) => copied,
            None => inspect::rearranges(&self.backend, &spec.path, &sizes, gpu_layers)?,
        };
        // What a GPU has is never a page of the file.
        let copied = repack || gpu_layers > 0;
        let mode = if copied { LoadMode::Copied } else { LoadMode::Mapped };
        let options = LoadOptions { path: &spec.path, mode, repack, gpu_layers };
        let mut told = 0;
        let model =
            Model::load(&self.backend, &options, &mut |done| self.on_progress(done, &mut told, news))?;
        let model = Arc::new(model);
        if copied {
            let_file_pages_go(&spec.path);
        }
        let context = Context::new(Arc::clone(&model), &sizes, Arc::clone(&self.pulse))?;
        let limits = limits(spec, &sizes, &context);
        let window = Window::of(&checked.facts, limits.ceiling);
        let loaded = Loaded {
            prompter: Arc::new(inspect::prompter(Arc::clone(&model), &checked, spec.dialect)),
            submitter: Submitter::new(commands, spec.reader_stall),
            vocabulary_size: model.vocabulary_size(),
            context_tokens: context.capacity(),
            sequences: running(&spec.context),
            memory: context.memory()?,
            mapped: !copied,
            forced_one_by_one: spec.forced_one_by_one,
            gpu_layers,
        };
        // What reading the file took beside the weights.
        Backend::trim();
        Ok((loaded, context, limits, window))
    }

    fn on_progress(&self, done: f32, told: &mut u32, news: &mpsc::Sender<LoadNews>) -> bool {
        self.pulse.bump();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000")]
        let permille = (done.clamp(0.0, 1.0) * 1000.0) as u32;
        if permille >= *told + 10 {
            *told = permille;
            // Lossy: the reader is told of the next one.
            drop(news.try_send(LoadNews::Progress(permille)));
        }
        !self.stopping.load(Ordering::Relaxed)
    }
}

/// Sizes as llama.cpp gets them: twice the sequences, so that prefixes of ended requests stay cached.
/// The context is what all answers have together, so it may be larger than what the model reaches; one answer
/// gets no more than that.
pub fn sizes(wanted: &ContextOptions, checked: &Checked) -> ContextOptions {
    let tokens = match wanted.tokens {
        0 => declared(checked).unwrap_or(DEFAULT_CONTEXT).min(DEFAULT_CONTEXT),
        tokens => tokens,
    };
    let sequences = running(wanted);
    let micro_batch = wanted.micro_batch.max(sequences);
    ContextOptions { tokens, sequences: sequences * 2, micro_batch, ..*wanted }
}

/// Context of a model whose configuration names none, in tokens.
const DEFAULT_CONTEXT: u32 = 4096;
/// llama.cpp has 256 sequences at most, and half of them keep prefixes.
const MAX_SEQUENCES: u32 = 128;

/// Answers at the same time.
pub fn running(wanted: &ContextOptions) -> u32 {
    wanted.sequences.clamp(1, MAX_SEQUENCES)
}

/// Tokens that the model was made for.
fn declared(checked: &Checked) -> Option<u32> {
    checked.facts.context_length.and_then(|tokens| u32::try_from(tokens).ok())
}

fn warn_of_long_context(tokens: u32, checked: &Checked) {
    if let Some(declared) = declared(checked).filter(|&declared| tokens > declared)
        && Stretch::of(&checked.facts).is_none()
    {
        tracing::warn!(context = tokens, declared, "Context is longer than the model was made for");
    }
}

fn limits(spec: &LoadSpec, sizes: &ContextOptions, context: &Context) -> Limits {
    Limits {
        running: running(&spec.context) as usize,
        sequences: sizes.sequences as usize,
        cells: context.capacity(),
        ceiling: context.capacity().max(spec.ceiling),
        micro_batch: sizes.micro_batch,
        queue: spec.queue,
        can_rewind: context.model().can_rewind(),
    }
}

/// The weights are copied: their file pages would only be memory that looks used.
fn let_file_pages_go(path: &std::path::Path) {
    use rustix::fs::{Advice, fadvise};
    let advised = std::fs::File::open(path).and_then(|file| Ok(fadvise(&file, 0, None, Advice::DontNeed)?));
    if let Err(error) = advised {
        tracing::debug!(%error, "File pages stay cached");
    }
}
