//! Finds what would end the process inside llama.cpp, and a few files that load and then talk nonsense.
//!
//! The checks follow llama.cpp's own order: the shape of the model (`llama_model_base::load_hparams`
//! and the graph of the families that Hearth knows), then the vocabulary (`llama_vocab::impl::load`
//! and what tokenizing does later). Each names the key and the numbers.

mod shape;
mod vocabulary;

use super::header::Header;
use super::known;
use super::shown;
use super::value::{Value, ValueError};
use std::ops::RangeInclusive;

#[cfg(test)]
pub(super) use vocabulary::byte_letters;

/// Longest chat template in bytes. The longest of the known families has 11 KB.
pub const MAX_TEMPLATE: usize = 64 * 1024;

/// Longest text of one token in bytes. Real ones have at most a few hundred.
pub const MAX_TOKEN: usize = 4096;

/// Why a file is refused although it is whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A key is missing or has the wrong type.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// A number that no model has.
    #[error("{key} is {found}; it must be {low} to {high}")]
    Range {
        /// The key.
        key: String,
        /// Its value.
        found: u64,
        /// The least possible one.
        low: u64,
        /// The greatest possible one.
        high: u64,
    },
    /// The file is one part of a model.
    #[error("the file is one of {count} parts of a model; only models in one file are served")]
    Split {
        /// How many files the model has.
        count: u64,
    },
    /// Tensors that do not begin where the processor's vector units need them.
    #[error("general.alignment is {found}; at least 32 is needed to map the file")]
    Alignment {
        /// The alignment that the file states.
        found: u32,
    },
    /// An array has the wrong number of elements.
    #[error("{key} has {found} elements; {wanted} are needed")]
    Length {
        /// The key.
        key: String,
        /// Its elements.
        found: usize,
        /// Elements needed.
        wanted: usize,
    },
    /// Query heads cannot share the key/value heads evenly.
    #[error(
        "layer {layer} has {heads} attention heads, which {kv_heads} key/value heads cannot share evenly"
    )]
    Heads {
        /// The layer.
        layer: usize,
        /// Its query heads.
        heads: u64,
        /// Its key/value heads.
        kv_heads: u64,
    },
    /// Keys and values of different length in a family where they are equal.
    #[error(
        "attention.key_length is {key} and attention.value_length {value}; {architecture} needs them equal"
    )]
    HeadLengths {
        /// The family.
        architecture: String,
        /// Length of a key.
        key: u64,
        /// Length of a value.
        value: u64,
    },
    /// A rotary dimension that the family's computation does not allow.
    #[error("rope.dimension_count is {found}; {architecture} with heads of {head} needs {wanted}")]
    RopeDimensions {
        /// The family.
        architecture: String,
        /// What the file has.
        found: u64,
        /// Length of a head.
        head: u64,
        /// What is possible, in words.
        wanted: &'static str,
    },
    /// A GLM-4 file from before April 2025, which turns every dimension and then talks nonsense.
    #[error(
        "glm4.rope.dimension_count is {}, where GLM-4 turns only a part of the {head} dimensions of a \
         head: the file was converted by a version that talks nonsense; get a newer one",
        found.map_or_else(|| "missing".to_owned(), |count| count.to_string())
    )]
    GlmRope {
        /// What the file has.
        found: Option<u64>,
        /// Length of a head.
        head: u64,
    },
    /// A way to stretch the context that llama.cpp does not know.
    #[error("rope.scaling.type is \"{found}\"; known are none, linear, yarn and longrope")]
    RopeScaling {
        /// What the file has.
        found: String,
    },
    /// Experts that do not add up.
    #[error("{used} of {count} experts are used for each token; {wanted}")]
    Experts {
        /// Experts used for each token.
        used: u64,
        /// Experts of a layer.
        count: u64,
        /// What is possible, in words.
        wanted: &'static str,
    },
    /// Groups of experts that do not add up.
    #[error("{used} of {groups} groups are used with {experts} experts, which do not fit each other")]
    ExpertGroups {
        /// Groups used for each token.
        used: u64,
        /// Groups of a layer.
        groups: u64,
        /// Experts of a layer.
        experts: u64,
    },
    /// The normalisation would divide by nothing or worse.
    #[error("{key} is {found}; it must be a small number that is not negative")]
    Epsilon {
        /// The key.
        key: String,
        /// Its value as text.
        found: String,
    },
    /// A tensor without which there is no model.
    #[error("tensor {name} is missing")]
    MissingTensor {
        /// The tensor.
        name: &'static str,
    },
    /// The table of embeddings fits neither the vocabulary nor the width.
    #[error(
        "token_embd.weight has the shape {shape:?}; width {width} and {tokens} tokens need {width} by {tokens}"
    )]
    Embedding {
        /// Its shape.
        shape: Vec<u64>,
        /// Width of the model.
        width: u64,
        /// Tokens of the vocabulary.
        tokens: usize,
    },
    /// A kind of tokenizer that Hearth does not serve.
    #[error("the tokenizer is of the kind \"{found}\"; served are llama, gpt2 and gemma4")]
    Tokenizer {
        /// `tokenizer.ggml.model`.
        found: String,
    },
    /// Two tokens with the same text.
    #[error("tokens {first} and {second} have the same text \"{text}\"")]
    DuplicateToken {
        /// The text.
        text: String,
        /// The first of the two.
        first: usize,
        /// The second.
        second: usize,
    },
    /// A token that is longer than any real one.
    #[error("token {id} is {bytes} bytes long; at most {MAX_TOKEN} are possible")]
    TokenLength {
        /// The token.
        id: usize,
        /// Length of its text.
        bytes: usize,
    },
    /// A token that claims to be one byte and does not say which.
    #[error("token {id} stands for one byte but is written \"{text}\", not as <0x00> to <0xFF>")]
    ByteToken {
        /// The token.
        id: usize,
        /// Its text.
        text: String,
    },
    /// A vocabulary that cannot write every text.
    #[error("the vocabulary has no token for the byte {}", format_args!("<0x{byte:02X}>"))]
    MissingByte {
        /// The byte.
        byte: u8,
    },
    /// A merge that is not two parts with a space between them.
    #[error("merge {index} is \"{text}\", not two parts with a space between them")]
    Merge {
        /// Its place in the list.
        index: usize,
        /// Its text.
        text: String,
    },
    /// A special token that the vocabulary does not have.
    #[error("{key} is {id}, but the vocabulary has {tokens} tokens")]
    SpecialToken {
        /// The key.
        key: String,
        /// The token.
        id: u64,
        /// Tokens of the vocabulary.
        tokens: usize,
    },
    /// A token is to be added to every text, but the file does not say which.
    #[error("{switch} is on, but {key} is missing")]
    NoSuchToken {
        /// What asks for the token.
        switch: &'static str,
        /// The key that would name it.
        key: &'static str,
    },
    /// A chat template that is longer than any real one.
    #[error("{key} is {bytes} bytes long; at most {MAX_TEMPLATE} are possible")]
    Template {
        /// The key.
        key: String,
        /// Its length.
        bytes: usize,
    },
}

/// Something to know about a file that is served nevertheless.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// Most likely llama.cpp refuses the file, cleanly.
    #[error("the architecture \"{name}\" is not known to this build")]
    Architecture {
        /// `general.architecture`.
        name: String,
    },
    /// Long runs of one kind of character overflow the stack while tokenizing: prompts must be limited.
    #[error(
        "the pre-tokenizer \"{pre}\" cannot cut long runs of letters; prompts with such runs are limited"
    )]
    LongRuns {
        /// `tokenizer.ggml.pre`, or `default`.
        pre: String,
    },
    /// Text that holds this byte loses it on the way to the model.
    #[error("the vocabulary has no token for the byte {byte:#04x}; text that holds it loses it")]
    LosesByte {
        /// The byte.
        byte: u8,
    },
}

/// Finds the first fault, or everything that is worth a warning.
///
/// # Errors
/// The fault for which the file must not reach llama.cpp.
pub fn check(header: &Header) -> Result<Vec<Warning>, Fault> {
    whole_model(header)?;
    let architecture = header.str("general.architecture")?;
    templates(header)?;
    shape::check(header, architecture)?;
    let mut warnings = vocabulary::check(header)?;
    vocabulary_fits_embedding(header, architecture)?;
    if !known::architecture(architecture) {
        warnings.push(Warning::Architecture { name: shown(architecture) });
    }
    Ok(warnings)
}

fn whole_model(header: &Header) -> Result<(), Fault> {
    let count = super::optional(header.u64("split.count"))?.unwrap_or(1);
    if count > 1 {
        return Err(Fault::Split { count });
    }
    match header.alignment() {
        0..32 => Err(Fault::Alignment { found: header.alignment() }),
        _ => Ok(()),
    }
}

/// A file can have several templates; each of them is compiled when it is asked for.
fn templates(header: &Header) -> Result<(), Fault> {
    for (key, value) in header.keys().filter(|(key, _)| key.starts_with("tokenizer.chat_template")) {
        match value {
            Value::String(text) if text.len() > MAX_TEMPLATE => {
                return Err(Fault::Template { key: shown(key), bytes: text.len() });
            }
            _ => {}
        }
    }
    Ok(())
}

fn vocabulary_fits_embedding(header: &Header, architecture: &str) -> Result<(), Fault> {
    let name = "token_embd.weight";
    let table = header.tensor(name).ok_or(Fault::MissingTensor { name })?;
    let width = header.u64(&format!("{architecture}.embedding_length"))?;
    let tokens = header.array_len("tokenizer.ggml.tokens")?;
    match table.shape.as_slice() {
        [columns, rows] if *columns == width && usize::try_from(*rows) == Ok(tokens) => Ok(()),
        _ => Err(Fault::Embedding { shape: table.shape.clone(), width, tokens }),
    }
}

/// The value of a key whose range is known.
fn ranged(header: &Header, key: String, range: RangeInclusive<u64>) -> Result<u64, Fault> {
    let found = header.u64(&key)?;
    if range.contains(&found) {
        return Ok(found);
    }
    Err(Fault::Range { key: shown(&key), found, low: *range.start(), high: *range.end() })
}
