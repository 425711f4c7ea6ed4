//! How far a model's context can be stretched.
//!
//! Qwen3 and GLM-4-0414 reach four times their native window through YaRN, by their makers' own recipe
//! (factor 4 over an original window of 32,768 tokens; Qwen3's README and configuration, GLM-4's README). YaRN in
//! llama.cpp is static: it changes short texts too, so it is switched on only while a request needs it. Llama
//! 3.1 has its stretching in the file (`rope_freqs`) and needs none of this.

use super::Facts;

/// The recipe of the families that can be stretched.
const FACTOR: u32 = 4;
/// Qwen3's files state 40,960 tokens: the window that it was trained on and room for a prompt.
const QWEN3_STATED: u64 = 40_960;
const QWEN3_ORIGINAL: u32 = 32_768;

/// A stretched context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Tokens of the window before it is stretched.
    pub original: u32,
    /// How many times longer it gets.
    pub factor: u32,
}

impl Stretch {
    /// How a file's context can be stretched, if it can and the file does not say how by itself.
    pub fn of(facts: &Facts) -> Option<Self> {
        if facts.rope_scaling.is_some() {
            return None;
        }
        let stated = facts.context_length?;
        let original = match facts.architecture.as_str() {
            "qwen3" if stated == QWEN3_STATED => QWEN3_ORIGINAL,
            "qwen3" | "glm4" => u32::try_from(stated).ok()?,
            _ => return None,
        };
        // A file that was stretched before it was written states the long window.
        (original <= QWEN3_ORIGINAL).then_some(Self { original, factor: FACTOR })
    }

    /// Tokens of the stretched window.
    pub const fn most(self) -> u32 {
        self.original.saturating_mul(self.factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(architecture: &str, context: u64, scaling: Option<&str>) -> Option<u32> {
        let facts = Facts {
            architecture: architecture.to_owned(),
            context_length: Some(context),
            rope_scaling: scaling.map(str::to_owned),
            ..Facts::default()
        };
        Stretch::of(&facts).map(Stretch::most)
    }

    #[test]
    fn the_two_families_reach_four_times_their_window() {
        assert_eq!(stretch("qwen3", 40_960, None), Some(131_072));
        assert_eq!(stretch("qwen3", 32_768, None), Some(131_072));
        assert_eq!(stretch("glm4", 32_768, None), Some(131_072));
        assert_eq!(stretch("llama", 131_072, None), None);
        assert_eq!(stretch("qwen3", 131_072, None), None);
        assert_eq!(stretch("qwen3", 40_960, Some("yarn")), None);
    }
}
