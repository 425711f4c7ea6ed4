//! What a model file is, and what it will need: from its header, and from a dry run of llama.cpp that
//! allocates nothing.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::chat::{Chat, Dialect, ModelFacts};
use crate::gguf::{self, Facts, Header, validate};
use crate::llama::{
    Backend, Context, ContextError, ContextOptions, LoadError, LoadMode, LoadOptions, Memory, Model, Pulse,
};
use crate::prompt::{Prompter, chain};

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

/// Bytes that a load with these sizes takes, without taking them.
///
/// # Errors
/// [`InspectError`] where llama.cpp refuses file or sizes.
pub fn dry_run(backend: &Backend, path: &Path, sizes: &ContextOptions) -> Result<Memory, InspectError> {
    let options = LoadOptions { path, mode: LoadMode::DryRun, repack: true };
    let model = Arc::new(Model::load(backend, &options, &mut |_| true)?);
    let context = Context::new(model, sizes, Arc::new(Pulse::default()))?;
    Ok(context.memory()?)
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
