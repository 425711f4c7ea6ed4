//! Choosing the next token: llama.cpp's samplers narrow the candidates, the final draw is ours.
//!
//! The draw depends on the seed and the token's index only (see [`rng`]), so a stream can be replayed, and
//! what other requests do never shows.

mod narrow;
mod rng;

use crate::constrain::Mask;
use crate::llama::{Candidate, ChainOptions, Model, SamplerChain, SamplerError, Token};

/// Up to so many candidates are picked out of the logits before the samplers see them.
const FEW: u32 = 1024;

/// How tokens of one answer are chosen; every field is set.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0: always the most likely token.
    pub temperature: f32,
    /// 1: off.
    pub top_p: f32,
    /// 0: off.
    pub top_k: u32,
    /// 0: off.
    pub min_p: f32,
    /// 1: off.
    pub repeat_penalty: f32,
    /// 0: off.
    pub presence_penalty: f32,
    /// 0: off.
    pub frequency_penalty: f32,
    /// Tokens that penalties look back on.
    pub penalty_window: u32,
    /// Added to single logits.
    pub logit_bias: Vec<(Token, f32)>,
    /// Seed of the draw.
    pub seed: u64,
}

impl Default for Sampling {
    /// llama.cpp's defaults, without penalties.
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_p: 0.95,
            top_k: 40,
            min_p: 0.05,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_window: 64,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

/// A token that might have stood in the place of another.
#[derive(Clone, Debug, PartialEq)]
pub struct Alternative {
    /// The token.
    pub token: Token,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes, control tokens spelled out.
    pub bytes: Vec<u8>,
}

/// The probability of a token, and of those that might have stood in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprob {
    /// The token chosen.
    pub token: Token,
    /// Natural logarithm of its probability before sampling changed the distribution.
    pub logprob: f32,
    /// The likeliest tokens with theirs, likeliest first.
    pub top: Vec<Alternative>,
}

/// Why no token was chosen.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The model computed nothing usable.
    #[error("the model's logits are not numbers")]
    NotNumbers,
    /// A sampler failed.
    #[error("run the sampler chain")]
    Chain(#[from] SamplerError),
}

/// Chooses the tokens of one answer.
#[derive(Debug)]
pub struct Sampler {
    options: Sampling,
    chain: Option<SamplerChain>,
    penalties: bool,
    candidates: Vec<Candidate>,
    /// Index of the next draw.
    index: u64,
}

impl Sampler {
    /// A sampler at the start of an answer; `prompt` counts for the penalties.
    pub fn new(options: Sampling, model: &Model, prompt: &[Token]) -> Self {
        let penalties = options.repeat_penalty != 1.0
            || options.presence_penalty != 0.0
            || options.frequency_penalty != 0.0;
        let greedy = options.temperature <= 0.0;
        // Greedy without penalties needs no chain at all.
        let mut chain = (!greedy || penalties)
            .then(|| SamplerChain::new(&chain_options(&options), model.vocabulary_size()));
        if let (Some(chain), true) = (&mut chain, penalties) {
            let window = options.penalty_window as usize;
            prompt.iter().skip(prompt.len().saturating_sub(window)).for_each(|&token| chain.accept(token));
        }
        Self { options, chain, penalties, candidates: Vec::new(), index: 0 }
    }

    /// Chooses the next token from the logits of the whole vocabulary, or of those tokens that a constraint
    /// allows. Nothing changes before [`Sampler::accept`]: a second choice with another mask uses the same draw.
    ///
    /// # Errors
    /// [`SampleError`] where the logits are unusable or a sampler throws.
    pub fn choose(&mut self, logits: &[f32], mask: Option<&Mask>) -> Result<Token, SampleError> {
        self.fill(logits, mask);
        match &mut self.chain {
            None => most_likely(&self.candidates),
            Some(chain) => {
                chain.apply(&mut self.candidates)?;
                if self.options.temperature <= 0.0 {
                    most_likely(&self.candidates)
                } else {
                    draw(&self.candidates, rng::uniform(self.options.seed, self.index))
                }
            }
        }
    }

    /// The chosen token is written.
    pub fn accept(&mut self, token: Token) {
        self.index += 1;
        self.saw(token);
    }

    /// A token was written that nobody chose.
    pub fn saw(&mut self, token: Token) {
        if let (Some(chain), true) = (&mut self.chain, self.penalties) {
            chain.accept(token);
        }
    }

    /// How many of the largest logits can matter, if that is known before any sampler has run: penalties and
    /// biases reorder the logits, so everything goes to the samplers then.
    fn few(&self) -> Option<usize> {
        let Sampling { temperature, top_k, logit_bias, .. } = &self.options;
        let few = if *temperature <= 0.0 { 1 } else { *top_k };
        let as_they_are = !self.penalties && logit_bias.is_empty();
        (as_they_are && (1..=FEW).contains(&few)).then_some(few as usize)
    }

    fn fill(&mut self, logits: &[f32], mask: Option<&Mask>) {
        if let Some(few) = self.few() {
            narrow::largest(logits, mask.map(Mask::words), few, &mut self.candidates);
            return;
        }
        self.candidates.clear();
        self.candidates.extend((0..).zip(logits).map(|(token, &logit)| Candidate {
            token,
            logit,
            probability: 0.0,
        }));
        for &(token, bias) in &self.options.logit_bias {
            if let Some(candidate) = usize::try_from(token).ok().and_then(|at| self.candidates.get_mut(at)) {
                // A bias of -100 is a ban, however large the logit.
                candidate.logit = if bias <= -100.0 { f32::NEG_INFINITY } else { candidate.logit + bias };
            }
        }
        if let Some(mask) = mask {
            self.candidates.retain(|candidate| mask.allows(candidate.token));
        }
    }
}

fn chain_options(options: &Sampling) -> ChainOptions {
    let greedy = options.temperature <= 0.0;
    ChainOptions {
        repeat_penalty: options.repeat_penalty,
        presence_penalty: options.presence_penalty,
        frequency_penalty: options.frequency_penalty,
        penalty_window: options.penalty_window,
        top_k: if greedy { 0 } else { options.top_k },
        top_p: if greedy { 1.0 } else { options.top_p },
        min_p: if greedy { 0.0 } else { options.min_p },
        temperature: if greedy { 1.0 } else { options.temperature },
    }
}

/// The candidate with the largest logit; of equals the one with the smallest id.
fn most_likely(candidates: &[Candidate]) -> Result<Token, SampleError> {
    let better =
        |a: &Candidate, b: &Candidate| a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
    let best = candidates.iter().filter(|candidate| !candidate.logit.is_nan()).fold(
        None,
        |best: Option<&Candidate>, next| match best {
            Some(best) if !better(next, best) => Some(best),
            _ => Some(next),
        },
    );
    best.filter(|best| best.logit > f32::NEG_INFINITY).map(|best| best.token).ok_or(SampleError::NotNumbers)
}

/// The candidate in whose share of the probability `u` falls.
fn draw(candidates: &[Candidate], u: f64) -> Result<Token, SampleError> {
    let largest = candidates.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max);
    if !largest.is_finite() {
        return Err(SampleError::NotNumbers);
    }
    let weight = |candidate: &Candidate| f64::from(candidate.logit - largest).exp();
    let total: f64 = candidates.iter().map(weight).filter(|weight| weight.is_finite()).sum();
    let mut left = u * total;
    let mut last = None;
    for candidate in candidates {
        let share = weight(candidate);
        if share > 0.0 {
            last = Some(candidate.token);
            left -= share;
            if left < 0.0 {
                break;
            }
        }
    }
    last.ok_or(SampleError::NotNumbers)
}

/// Log probabilities of `token` and of the `count` likeliest tokens, from raw logits; `piece` gives a
/// token's bytes.
pub fn logprob(logits: &[f32], token: Token, count: usize, piece: impl Fn(Token) -> Vec<u8>) -> Logprob {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
    #[expect(clippy::cast_possible_truncation, reason = "rounding to the precision of the answer")]
    let of = |logit: f32| (f64::from(logit - largest) - total.ln()) as f32;
    let mut ranked: Vec<(Token, f32)> = (0..).zip(logits.iter().copied()).collect();
    let likelier = |a: &(Token, f32), b: &(Token, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let count = count.min(ranked.len());
    if count > 0 && count < ranked.len() {
        ranked.select_nth_unstable_by(count - 1, likelier);
    }
    ranked.truncate(count);
    ranked.sort_by(likelier);
    let own = usize::try_from(token).ok().and_then(|at| logits.get(at)).copied().unwrap_or(f32::NEG_INFINITY);
    let alternative = |(token, logit)| Alternative { token, logprob: of(logit), bytes: piece(token) };
    Logprob { token, logprob: of(own), top: ranked.into_iter().map(alternative).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(logits: &[f32]) -> Vec<Candidate> {
        (0..).zip(logits).map(|(token, &logit)| Candidate { token, logit, probability: 0.0 }).collect()
    }

    #[test]
    fn a_draw_follows_the_probabilities() {
        // Probabilities 0.5, 0.25, 0.25.
        let list = candidates(&[2f32.ln(), 0.0, 0.0]);
        let mut seen = [0u32; 3];
        for index in 0..20_000 {
            seen[usize::try_from(draw(&list, rng::uniform(1, index)).unwrap()).unwrap()] += 1;
        }
        assert!((9_600..10_400).contains(&seen[0]), "{seen:?}");
        assert!((4_700..5_300).contains(&seen[1]), "{seen:?}");
    }

    #[test]
    fn equal_logits_go_to_the_smaller_id() {
        assert_eq!(most_likely(&candidates(&[0.0, 3.0, 3.0])).unwrap(), 1);
    }

    #[test]
    fn unusable_logits_are_an_error() {
        assert!(most_likely(&candidates(&[f32::NAN, f32::NAN])).is_err());
        assert!(draw(&candidates(&[f32::NEG_INFINITY]), 0.5).is_err());
        assert!(draw(&candidates(&[f32::NAN]), 0.5).is_err());
    }

    #[test]
    fn log_probabilities_sum_to_one_and_are_ranked() {
        let none = |_| Vec::new();
        let found = logprob(&[1.0, 4.0, 2.0, 4.0], 2, 4, none);
        let sum: f32 = found.top.iter().map(|top| top.logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-5);
        assert_eq!(found.top.iter().map(|top| top.token).collect::<Vec<_>>(), [1, 3, 2, 0]);
        assert!((found.logprob - found.top[2].logprob).abs() < 1e-6);
        assert_eq!(logprob(&[1.0, 2.0], 0, 0, none).top, []);
    }
}
