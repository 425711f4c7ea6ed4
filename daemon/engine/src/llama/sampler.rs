//! llama.cpp's samplers over our own candidate array. The final draw is not made here.

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_sys_2 as sys;

use super::Token;
use super::ffi::{self, Message};

/// A token that may come next.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Candidate {
    /// Its id.
    pub token: Token,
    /// Its logit, changed by the samplers.
    pub logit: f32,
    /// Its probability, where a sampler computed it.
    pub probability: f32,
}

// The samplers see the candidates as llama.cpp's own array.
const _: () = assert!(size_of::<Candidate>() == size_of::<sys::llama_token_data>());
const _: () = assert!(align_of::<Candidate>() == align_of::<sys::llama_token_data>());
const _: () = assert!(size_of::<LlamaTokenData>() == size_of::<sys::llama_token_data>());
const _: () = assert!(size_of::<LlamaSampler>() == size_of::<*mut sys::llama_sampler>());

/// What the chain does, in this order: penalties, top-k, top-p, min-p, temperature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChainOptions {
    /// 1: off.
    pub repeat_penalty: f32,
    /// 0: off.
    pub presence_penalty: f32,
    /// 0: off.
    pub frequency_penalty: f32,
    /// Tokens that penalties look back on.
    pub penalty_window: u32,
    /// 0: off.
    pub top_k: u32,
    /// 1: off.
    pub top_p: f32,
    /// 0: off.
    pub min_p: f32,
    /// Above 0.
    pub temperature: f32,
}

/// The samplers of one answer.
#[derive(Debug)]
pub struct SamplerChain {
    inner: LlamaSampler,
}

/// A sampler threw.
#[derive(Debug, thiserror::Error)]
#[error("llama.cpp's sampler failed: {0}")]
pub struct SamplerError(String);

impl SamplerChain {
    /// The chain for a vocabulary of `vocabulary_size` tokens; samplers that are off are left out.
    pub fn new(options: &ChainOptions, vocabulary_size: i32) -> Self {
        let mut chain = Vec::with_capacity(5);
        let window = i32::try_from(options.penalty_window).unwrap_or(i32::MAX);
        let penalties = options.repeat_penalty != 1.0
            || options.presence_penalty != 0.0
            || options.frequency_penalty != 0.0;
        if penalties && window > 0 {
            chain.push(LlamaSampler::penalties(
                vocabulary_size,
                window,
                options.repeat_penalty,
                options.frequency_penalty,
                options.presence_penalty,
            ));
        }
        if options.top_k > 0 {
            chain.push(LlamaSampler::top_k(i32::try_from(options.top_k).unwrap_or(i32::MAX)));
        }
        if options.top_p < 1.0 {
            chain.push(LlamaSampler::top_p(options.top_p, 1));
        }
        if options.min_p > 0.0 {
            chain.push(LlamaSampler::min_p(options.min_p, 1));
        }
        chain.push(LlamaSampler::temp(options.temperature));
        Self { inner: LlamaSampler::chain(chain, true) }
    }

    /// Tells the penalties of a token that is now part of the text.
    pub fn accept(&mut self, token: Token) {
        self.inner.accept(LlamaToken(token));
    }

    /// Runs the samplers over `candidates`, which may shrink and be reordered.
    ///
    /// # Errors
    /// [`SamplerError`] with the exception's text.
    pub fn apply(&mut self, candidates: &mut Vec<Candidate>) -> Result<(), SamplerError> {
        let mut array = sys::llama_token_data_array {
            data: candidates.as_mut_ptr().cast(),
            size: candidates.len(),
            selected: -1,
            sorted: false,
        };
        let mut message = Message::new();
        // SAFETY: `LlamaSampler` is one non-null pointer (asserted above), `array` describes the
        // candidates, and every sampler of the chain works in place and only ever shrinks the array.
        let code = unsafe {
            let sampler = *std::ptr::from_mut(&mut self.inner).cast::<*mut sys::llama_sampler>();
            ffi::hearth_sampler_apply(sampler, &raw mut array, message.as_mut_ptr(), Message::SIZE)
        };
        if code != 0 || array.size == 0 || array.size > candidates.len() {
            return Err(SamplerError(message.text()));
        }
        if !std::ptr::eq(array.data, candidates.as_ptr().cast()) {
            return Err(SamplerError("the candidates moved".to_owned()));
        }
        candidates.truncate(array.size);
        Ok(())
    }
}
