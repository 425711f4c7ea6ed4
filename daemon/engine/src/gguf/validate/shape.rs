//! The numbers that describe the model: llama.cpp asserts most of them.

use super::{Fault, ranged};
use crate::gguf::header::Header;
use crate::gguf::shown;
use crate::gguf::value::{Array, Value, optional};

/// `LLAMA_MAX_LAYERS`.
const MAX_LAYERS: u64 = 512;

/// `LLAMA_MAX_EXPERTS`.
const MAX_EXPERTS: u64 = 1024;

/// Eight times the width of the widest known model.
const MAX_WIDTH: u64 = 1 << 17;

/// Longest head; the longest known is 576.
const MAX_HEAD: u64 = 1 << 13;

/// Longest context; the longest known is ten million tokens.
const MAX_CONTEXT: u64 = 1 << 26;

/// The keys of one architecture, and the number of layers that its arrays must have.
struct Model<'a> {
    header: &'a Header,
    architecture: &'a str,
    layers: usize,
}

pub(super) fn check(header: &Header, architecture: &str) -> Result<(), Fault> {
    let layers = ranged(header, format!("{architecture}.block_count"), 1..=MAX_LAYERS)?;
    ranged(header, format!("{architecture}.embedding_length"), 1..=MAX_WIDTH)?;
    ranged(header, format!("{architecture}.context_length"), 1..=MAX_CONTEXT)?;
    let layers = usize::try_from(layers).unwrap_or(usize::MAX);
    let model = Model { header, architecture, layers };
    model.prediction_layers()?;
    model.heads()?;
    model.rope()?;
    model.experts()?;
    model.epsilons()
}

impl Model<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// A number that may be absent.
    fn number(&self, name: &str) -> Result<Option<u64>, Fault> {
        Ok(optional(self.header.u64(&self.key(name)))?)
    }

    /// A number that may be absent and has a range.
    fn ranged(&self, name: &str, range: std::ops::RangeInclusive<u64>) -> Result<Option<u64>, Fault> {
        match self.number(name)? {
            None => Ok(None),
            Some(_) => ranged(self.header, self.key(name), range).map(Some),
        }
    }

    /// One number for each layer; a file writes one for all or an array.
    fn per_layer(&self, name: &str) -> Result<Option<Vec<u64>>, Fault> {
        let key = self.key(name);
        let Some(value) = optional(self.header.value(&key))? else { return Ok(None) };
        let Value::Array(array) = value else {
            return Ok(Some(vec![self.header.u64(&key)?; self.layers]));
        };
        let wrong = || Fault::Value(value.not(&key, "unsigned integers"));
        let Array::Numbers(numbers) = array else { return Err(wrong()) };
        let found: Option<Vec<u64>> = numbers.iter().map(|number| number.unsigned()).collect();
        let found = found.ok_or_else(wrong)?;
        if found.len() != self.layers {
            return Err(Fault::Length { key: shown(&key), found: found.len(), wanted: self.layers });
        }
        Ok(Some(found))
    }

    /// Layers for multi-token prediction are part of all layers.
    fn prediction_layers(&self) -> Result<(), Fault> {
        let most = u64::try_from(self.layers).unwrap_or(MAX_LAYERS);
        self.ranged("nextn_predict_layers", 0..=most).map(|_| ())
    }

    fn heads(&self) -> Result<(), Fault> {
        let Some(heads) = self.per_layer("attention.head_count")? else { return Ok(()) };
        let kv_heads = self.per_layer("attention.head_count_kv")?.unwrap_or_else(|| heads.clone());
        for (layer, (&heads, &kv_heads)) in heads.iter().zip(&kv_heads).enumerate() {
            // Layers without attention have no heads of one kind or of both.
            let bare = (heads == 0 || kv_heads == 0) && !self.is_dense();
            let even = kv_heads > 0 && heads > 0 && heads.is_multiple_of(kv_heads);
            if !(bare || even) {
                return Err(Fault::Heads { layer, heads, kv_heads });
            }
        }
        Ok(())
    }

    /// The families whose computation is known here in every detail.
    fn is_dense(&self) -> bool {
        matches!(self.architecture, "llama" | "qwen3" | "glm4")
    }

    fn rope(&self) -> Result<(), Fault> {
        self.rope_scaling()?;
        let stated_key = self.ranged("attention.key_length", 1..=MAX_HEAD)?;
        let stated_value = self.ranged("attention.value_length", 1..=MAX_HEAD)?;
        let dimensions = self.ranged("rope.dimension_count", 0..=MAX_HEAD)?;
        if !self.is_dense() {
            return Ok(());
        }
        let usual = self.usual_head_length()?;
        let (key, value) = (stated_key.unwrap_or(usual), stated_value.unwrap_or(usual));
        if key != value {
            return Err(Fault::HeadLengths { architecture: self.architecture.to_owned(), key, value });
        }
        self.rope_dimensions(key, dimensions)
    }

    fn rope_scaling(&self) -> Result<(), Fault> {
        match optional(self.header.str(&self.key("rope.scaling.type")))? {
            None | Some("none" | "linear" | "yarn" | "longrope") => Ok(()),
            Some(other) => Err(Fault::RopeScaling { found: shown(other) }),
        }
    }

    /// The length of a head where the file does not state it.
    fn usual_head_length(&self) -> Result<u64, Fault> {
        let width = self.number("embedding_length")?.unwrap_or(0);
        let heads = self.per_layer("attention.head_count")?;
        let first = heads.and_then(|heads| heads.first().copied()).unwrap_or(0);
        Ok(width.checked_div(first).unwrap_or(0))
    }

    fn rope_dimensions(&self, head: u64, stated: Option<u64>) -> Result<(), Fault> {
        let found = stated.unwrap_or(head);
        if self.architecture == "glm4" && found == head {
            return Err(Fault::GlmRope { found: stated, head });
        }
        let wanted = match self.architecture {
            "glm4" if found > head => "fewer of them",
            "llama" | "qwen3" if found != head => "all of them",
            _ if found == 0 || !found.is_multiple_of(2) => "an even number of them",
            _ => return Ok(()),
        };
        Err(Fault::RopeDimensions { architecture: self.architecture.to_owned(), found, head, wanted })
    }

    fn experts(&self) -> Result<(), Fault> {
        let count = self.ranged("expert_count", 0..=MAX_EXPERTS)?.unwrap_or(0);
        let used = self.per_layer("expert_used_count")?.unwrap_or_default();
        let used = used.into_iter().max().unwrap_or(0);
        let wanted = match (count, used) {
            (0, 0) => return self.expert_groups(count),
            (_, used) if used > count => "a token cannot use more than there are",
            (_, 0) => "a token must use at least one",
            _ => return self.expert_groups(count),
        };
        Err(Fault::Experts { used, count, wanted })
    }

    fn expert_groups(&self, experts: u64) -> Result<(), Fault> {
        let groups = self.number("expert_group_count")?.unwrap_or(0);
        let used = self.number("expert_group_used_count")?.unwrap_or(0);
        let fits = match groups {
            0 => true,
            1 => experts > 1,
            _ => groups < experts && experts.is_multiple_of(groups) && (1..groups).contains(&used),
        };
        if fits { Ok(()) } else { Err(Fault::ExpertGroups { used, groups, experts }) }
    }

    fn epsilons(&self) -> Result<(), Fault> {
        for name in ["attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"] {
            let key = self.key(name);
            match optional(self.header.f32(&key))? {
                Some(found) if !(0.0..1.0).contains(&found) => {
                    return Err(Fault::Epsilon { key: shown(&key), found: found.to_string() });
                }
                _ => {}
            }
        }
        Ok(())
    }
}
