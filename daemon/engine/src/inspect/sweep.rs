//! Which contexts are measured: every combination of a few values for each size, those of the request among them.

use crate::gguf::{Facts, Stretch};
use crate::llama::{ContextOptions, KvType};

/// The smallest context that is measured, in tokens; each further one is twice as large.
const SMALLEST: u32 = 512;
/// No context is measured beyond this only because the model reaches further, in tokens.
const REACH: u32 = 131_072;

/// Values of each size. Ascending, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axes {
    /// Tokens of the context.
    pub tokens: Vec<u32>,
    /// Most tokens in a step.
    pub micro_batches: Vec<u32>,
    /// Answers at the same time.
    pub sequences: Vec<u32>,
    /// Types of the KV cache.
    pub kv_types: Vec<KvType>,
}

impl Axes {
    /// Around what a load asks for; `wanted` names its tokens, which are not 0, and `ceiling` how far it may grow.
    pub fn around(wanted: &ContextOptions, ceiling: u32, facts: &Facts) -> Self {
        let declared = facts.context_length.and_then(|tokens| u32::try_from(tokens).ok()).unwrap_or(0);
        let reach = Stretch::of(facts).map_or(declared, |stretch| stretch.most().max(declared));
        let most = reach.min(REACH).max(wanted.tokens).max(ceiling);
        let doubled = std::iter::successors(Some(SMALLEST), |tokens| tokens.checked_mul(2));
        let ceiling = Some(ceiling).filter(|&tokens| tokens > 0);
        let tokens = doubled.take_while(|&tokens| tokens / 2 < most).chain([wanted.tokens]).chain(ceiling);
        Self {
            tokens: ascending(tokens),
            micro_batches: ascending([64, 256, wanted.micro_batch]),
            sequences: ascending([1, 4, 8, wanted.sequences]),
            kv_types: vec![KvType::F16, KvType::Q8_0, KvType::Q4_0],
        }
    }

    /// Every combination; those of one KV type are together.
    pub fn combinations(&self, wanted: &ContextOptions) -> impl Iterator<Item = ContextOptions> {
        self.kv_types.iter().flat_map(move |&kv_type| {
            let of_type = ContextOptions { kv_type, ..*wanted };
            self.sequences.iter().flat_map(move |&sequences| {
                let of_sequences = ContextOptions { sequences, ..of_type };
                self.micro_batches.iter().flat_map(move |&micro_batch| {
                    let of_batch = ContextOptions { micro_batch, ..of_sequences };
                    self.tokens.iter().map(move |&tokens| ContextOptions { tokens, ..of_batch })
                })
            })
        })
    }
}

fn ascending(values: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let mut values: Vec<u32> = values.into_iter().collect();
    values.sort_unstable();
    values.dedup();
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(tokens: u32, sequences: u32, micro_batch: u32) -> ContextOptions {
        ContextOptions { tokens, sequences, micro_batch, kv_type: KvType::F16, threads: 1, yarn: None }
    }

    fn facts(architecture: &str, context: u64) -> Facts {
        let architecture = architecture.to_owned();
        Facts { architecture, context_length: Some(context), ..Facts::default() }
    }

    #[test]
    fn axes_reach_as_far_as_the_model_and_name_what_is_asked() {
        let axes = Axes::around(&wanted(3000, 2, 128), 10_000, &facts("llama", 8192));
        assert_eq!(axes.tokens, [512, 1024, 2048, 3000, 4096, 8192, 10_000, 16_384]);
        assert_eq!((axes.micro_batches, axes.sequences), (vec![64, 128, 256], vec![1, 2, 4, 8]));
        let stretched = Axes::around(&wanted(4096, 4, 256), 0, &facts("qwen3", 40_960));
        assert_eq!(stretched.tokens.last(), Some(&131_072));
        let far = Axes::around(&wanted(4096, 4, 256), 0, &facts("llama", 1 << 20));
        assert_eq!(far.tokens.last(), Some(&131_072));
    }

    #[test]
    fn every_combination_comes_once() {
        let request = wanted(3000, 2, 128);
        let axes = Axes::around(&request, 0, &facts("llama", 8192));
        let mut all: Vec<_> = axes
            .combinations(&request)
            .map(|sizes| (sizes.tokens, sizes.sequences, sizes.micro_batch, format!("{:?}", sizes.kv_type)))
            .collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!((count, all.len()), (6 * 4 * 3 * 3, 6 * 4 * 3 * 3));
        assert!(all.contains(&(3000, 2, 128, "Q4_0".to_owned())));
    }
}
