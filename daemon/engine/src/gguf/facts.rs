//! What people and the front want to know of a file.

use super::header::Header;
use super::known;
use super::value::{Value, ValueError};
use std::collections::BTreeMap;

/// Permanent facts of a file. What the file does not say, or says in a wrong type, is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// `general.architecture`; empty if the file has none.
    pub architecture: String,
    /// `general.name`.
    pub title: Option<String>,
    /// Elements of all tensors together.
    pub parameters: u64,
    /// Bytes of all tensors together.
    pub tensor_bytes: u64,
    /// The name of the quantization, such as `Q4_K_M`: that of `general.file_type`, or else the type
    /// that most parameters have.
    pub quantization: String,
    /// Tokens of context that the model was made for.
    pub context_length: Option<u64>,
    /// `rope.scaling.type`, where the file scales by itself; `none` counts as absent.
    pub rope_scaling: Option<String>,
    /// Layers.
    pub layers: Option<u64>,
    /// Width of the model.
    pub embedding_length: Option<u64>,
    /// Tokens of the vocabulary.
    pub vocabulary_size: u64,
    /// `tokenizer.ggml.model`: the kind of tokenizer.
    pub tokenizer: Option<String>,
    /// `tokenizer.ggml.pre`: how text is cut before tokenizing.
    pub pre_tokenizer: Option<String>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
    /// Beginning of a sequence.
    pub bos: Option<u32>,
    /// End of a sequence.
    pub eos: Option<u32>,
    /// End of a turn.
    pub eot: Option<u32>,
    /// End of a message with a call, after which the model waits for an answer.
    pub eom: Option<u32>,
    /// What stands for unknown text.
    pub unknown: Option<u32>,
    /// Padding.
    pub padding: Option<u32>,
    /// Whether the file asks for a beginning-of-sequence token before every text.
    pub add_bos: Option<bool>,
}

/// Reads the facts. A header that [`validate::check`](super::validate::check) has not seen is fine.
pub fn facts(header: &Header) -> Facts {
    let architecture = header.str("general.architecture").unwrap_or_default().to_owned();
    let of_architecture = |key: &str| header.u64(&format!("{architecture}.{key}")).ok();
    let token = |key: &str| header.u32(&format!("tokenizer.ggml.{key}")).ok();
    let vocabulary = header.array_len("tokenizer.ggml.tokens").ok();
    Facts {
        title: text(header.str("general.name")),
        parameters: sum(header.tensors().iter().map(super::Tensor::elements)),
        tensor_bytes: sum(header.tensors().iter().map(|tensor| tensor.bytes)),
        quantization: quantization(header),
        context_length: of_architecture("context_length"),
        rope_scaling: text(header.str(&format!("{architecture}.rope.scaling.type")))
            .filter(|kind| kind != "none"),
        layers: of_architecture("block_count"),
        embedding_length: of_architecture("embedding_length"),
        vocabulary_size: vocabulary.and_then(|count| u64::try_from(count).ok()).unwrap_or(0),
        tokenizer: text(header.str("tokenizer.ggml.model")),
        pre_tokenizer: text(header.str("tokenizer.ggml.pre")),
        chat_template: text(header.str("tokenizer.chat_template")),
        bos: token("bos_token_id"),
        eos: token("eos_token_id"),
        eot: token("eot_token_id"),
        eom: token("eom_token_id"),
        unknown: token("unknown_token_id"),
        padding: token("padding_token_id"),
        add_bos: header.bool("tokenizer.ggml.add_bos_token").ok(),
        architecture,
    }
}

fn text(found: Result<&str, ValueError>) -> Option<String> {
    found.ok().map(str::to_owned)
}

/// The reader has proven that each summand fits; all of them lie in one file.
fn sum(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

fn quantization(header: &Header) -> String {
    let stated = header.value("general.file_type").ok().and_then(Value::unsigned);
    let stated = stated.and_then(|id| u32::try_from(id).ok()).and_then(known::file_type);
    stated.unwrap_or_else(|| commonest_type(header)).to_owned()
}

fn commonest_type(header: &Header) -> &'static str {
    let mut elements: BTreeMap<&'static str, u64> = BTreeMap::new();
    for tensor in header.tensors() {
        let count = elements.entry(tensor.kind.name()).or_default();
        *count = count.saturating_add(tensor.elements());
    }
    elements.into_iter().max_by_key(|(_, count)| *count).map_or("none", |(name, _)| name)
}
