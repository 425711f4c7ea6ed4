//! What a model file is, and what it will need: from its header, and from a dry run of llama.cpp that
//! allocates nothing.

pub mod sweep;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::chat::{Chat, Dialect, ModelFacts};
use crate::gguf::{self, Facts, Header, validate};
use crate::gpu::{self, GpuLayers, NoGpu};
use crate::llama::{
    Backend, Context, ContextError, ContextOptions, LoadError, LoadMode, LoadOptions, Memory, Model, Pulse,
    quietly,
};
use crate::process::resident::Resident;
use crate::prompt::{Prompter, chain};
use crate::worker;
use sweep::Axes;

/// Why a file is refused.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The file cannot be read.
    #[error("open the model file")]
    Open(#[source] std::io::Error),
    /// It is no GGUF file, or a damaged one.
    #[error("read the GGUF header")]
    Header(#[source] gguf::HeaderError),
    /// It says something that llama.cpp would die of.
    #[error("check the GGUF header")]
    Fault(#[source] validate::Fault),
    /// llama.cpp refused it.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// llama.cpp cannot make a context of it.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// Layers are wanted on a GPU that is not there.
    #[error(transparent)]
    NoGpu(#[from] NoGpu),
    /// The system does not say how much memory this process has.
    #[error("read the memory of this process")]
    Resident(#[source] io::Error),
}

/// Bytes of the weights in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightBytes {
    /// All of them as they are in the file.
    pub mapped: u64,
    /// All of them where some are rearranged; 0: none are.
    pub rearranged: u64,
    /// The largest that is rearranged: it is in memory twice while it is.
    pub staging: u64,
}

/// What a file is, and what it takes.
#[derive(Debug)]
pub struct Inspected {
    /// What the header says.
    pub facts: Facts,
    /// Makes prompts.
    pub prompter: Prompter,
    /// Bytes of the weights.
    pub weights: WeightBytes,
    /// Contexts, in the sizes that a load names, and their bytes.
    pub contexts: Vec<(ContextOptions, Memory)>,
    /// Resident bytes of a process that has vocabulary and context, without weights and the context's buffers.
    pub process: u64,
    /// Resident bytes that the first grammar adds.
    pub grammar: u64,
}

/// A file whose header was read and found harmless.
#[derive(Debug)]
pub struct Checked {
    /// What the header says.
    pub facts: Facts,
    /// Whether its pre-tokenizer recurses over runs of letters.
    pub recursive_tokenizer: bool,
}

/// Reads and checks the header.
///
/// # Errors
/// [`InspectError`] with the reason.
pub fn check(path: &Path) -> Result<Checked, InspectError> {
    let file = File::open(path).map_err(InspectError::Open)?;
    let header = Header::of(&file).map_err(InspectError::Header)?;
    let warnings = validate::check(&header).map_err(InspectError::Fault)?;
    for warning in &warnings {
        tracing::warn!(%warning, "Model file");
    }
    let recursive_tokenizer =
        warnings.iter().any(|warning| matches!(warning, validate::Warning::LongRuns { .. }));
    Ok(Checked { facts: gguf::facts(&header), recursive_tokenizer })
}

/// Looks at a file and measures what it takes, around a load with the sizes of `wanted` that may grow to `ceiling`
/// tokens. Nothing of the weights is read.
///
/// # Errors
/// [`InspectError`] where the file is refused, or the sizes.
pub fn inspect(
    backend: &Backend,
    path: &Path,
    wanted: &ContextOptions,
    ceiling: u32,
    dialect: Option<Dialect>,
    on_gpu: GpuLayers,
    resident: &Resident,
) -> Result<Inspected, InspectError> {
    let checked = check(path)?;
    let sizes = worker::sizes(wanted, &checked);
    let gpu_layers = gpu_layers(backend, path, &checked, on_gpu, &sizes)?;
    let model = dry_load(backend, path, true, gpu_layers)?;
    let prompter = prompter(Arc::clone(&model), &checked, dialect);
    let (memory, process, grammar) = {
        let context = Context::new(Arc::clone(&model), &sizes, Arc::new(Pulse::default()))?;
        // A dry run maps no file, and what reading this one took is free again: an engine has as much, its context's
        // own books included.
        Backend::trim();
        let process = resident.bytes().map_err(InspectError::Resident)?;
        // Right behind it, as in an engine: what reading has left in the heap is used again for the tables.
        let with_grammar =
            prompter.with_first_grammar(|| resident.bytes()).transpose().map_err(InspectError::Resident)?;
        let grammar = with_grammar.map_or(0, |bytes| bytes.saturating_sub(process));
        (context.memory()?, process, grammar)
    };
    let weights = weights(backend, path, &model, &memory, &sizes, gpu_layers)?;
    let wanted = ContextOptions { tokens: sizes.tokens, sequences: worker::running(wanted), ..*wanted };
    let axes = Axes::around(&wanted, ceiling, &checked.facts);
    let contexts = quietly(|| sweep(&model, &wanted, &axes, &checked));
    Ok(Inspected { facts: checked.facts, prompter, weights, contexts, process, grammar })
}

/// Whether a load rearranges weights: then it copies them.
///
/// # Errors
/// [`InspectError`] where llama.cpp refuses file or sizes.
pub fn rearranges(
    backend: &Backend,
    path: &Path,
    sizes: &ContextOptions,
    gpu_layers: u32,
) -> Result<bool, InspectError> {
    Ok(measured(&dry_load(backend, path, true, gpu_layers)?, sizes)?.weights_repacked > 0)
}

/// Layers that a load gives to a GPU, the output counted as one.
///
/// # Errors
/// [`InspectError`] where some are wanted and there is no GPU, or llama.cpp refuses file or sizes.
pub fn gpu_layers(
    backend: &Backend,
    path: &Path,
    checked: &Checked,
    wanted: GpuLayers,
    sizes: &ContextOptions,
) -> Result<u32, InspectError> {
    let layers = checked.facts.layers.and_then(|layers| u32::try_from(layers).ok()).unwrap_or(0);
    gpu::layers(wanted, &backend.devices(), layers.saturating_add(1), |layers| {
        Ok(measured(&dry_load(backend, path, true, layers)?, sizes)?.on_card)
    })
}

fn dry_load(backend: &Backend, path: &Path, repack: bool, gpu_layers: u32) -> Result<Arc<Model>, LoadError> {
    let options = LoadOptions { path, mode: LoadMode::DryRun, repack, gpu_layers };
    Ok(Arc::new(Model::load(backend, &options, &mut |_| true)?))
}

/// Bytes of a model and a context, in sizes as llama.cpp gets them.
fn measured(model: &Arc<Model>, sizes: &ContextOptions) -> Result<Memory, ContextError> {
    Context::new(Arc::clone(model), sizes, Arc::new(Pulse::default()))?.memory()
}

/// `model` rearranges what it can, and took `memory`.
fn weights(
    backend: &Backend,
    path: &Path,
    model: &Model,
    memory: &Memory,
    sizes: &ContextOptions,
    gpu_layers: u32,
) -> Result<WeightBytes, InspectError> {
    let all = memory.weights_plain + memory.weights_repacked;
    if memory.weights_repacked == 0 {
        return Ok(WeightBytes { mapped: all, rearranged: 0, staging: 0 });
    }
    let staging = model.largest_rearranged();
    if memory.on_gpu > 0 {
        // What a GPU has is copied in any case, so that mapping is no way to take less.
        return Ok(WeightBytes { mapped: all.saturating_add(staging), rearranged: all, staging });
    }
    let plain = measured(&dry_load(backend, path, false, gpu_layers)?, sizes)?;
    Ok(WeightBytes { mapped: plain.weights_plain, rearranged: all, staging })
}

/// Measures every context of `axes` that llama.cpp makes.
fn sweep(
    model: &Arc<Model>,
    wanted: &ContextOptions,
    axes: &Axes,
    checked: &Checked,
) -> Vec<(ContextOptions, Memory)> {
    let started = Instant::now();
    let mut contexts = Vec::new();
    for sizes in axes.combinations(wanted) {
        match measured(model, &worker::sizes(&sizes, checked)) {
            Ok(memory) => contexts.push((sizes, memory)),
            Err(error) => tracing::debug!(error = %chain(&error), ?sizes, "No such context"),
        }
    }
    let ms = started.elapsed().as_millis();
    tracing::debug!(contexts = contexts.len(), ms, "Contexts measured");
    contexts
}

/// The prompt maker of a loaded model.
pub fn prompter(model: Arc<Model>, checked: &Checked, dialect: Option<Dialect>) -> Prompter {
    let control_tokens = model.special_tokens().into_iter().filter(|token| token.control);
    let chat = Chat::new(ModelFacts {
        architecture: checked.facts.architecture.clone(),
        template: checked.facts.chat_template.clone(),
        bos_token: model.bos_text(),
        eos_token: model.eos_text(),
        control_tokens: control_tokens.map(|token| token.text).filter(|text| !text.is_empty()).collect(),
        dialect,
    });
    if let Err(error) = &chat {
        tracing::warn!(error = %chain(error), "Chat template cannot be used");
    }
    Prompter::new(model, chat, checked.recursive_tokenizer)
}
