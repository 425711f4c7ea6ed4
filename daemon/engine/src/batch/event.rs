//! What a request's reader gets.

use std::time::Duration;

use crate::chat::Delta;
use crate::llama::Token;
use crate::sample::Logprob;

/// One thing that happened to a request, in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// First: requests ahead in the queue.
    Accepted {
        /// How many.
        ahead: usize,
    },
    /// Prompt tokens computed so far.
    Prefill {
        /// So far.
        done: usize,
        /// In all.
        total: usize,
    },
    /// The request waits for another context, and for answers that end before.
    ContextWait {
        /// How many.
        ahead: usize,
    },
    /// More of the answer.
    Delta(AnswerDelta),
    /// Last.
    Ended(Ended),
}

/// More of an answer.
#[derive(Clone, Debug)]
pub struct AnswerDelta {
    /// What became known; `None` where only tokens did.
    pub delta: Option<Delta>,
    /// Tokens sampled since the last delta.
    pub tokens: Vec<Token>,
    /// Their log probabilities and bytes, where wanted.
    pub logprobs: Vec<(Logprob, Vec<u8>)>,
}

/// The end of an answer.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Why.
    pub why: Why,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them found in the cache.
    pub cached_tokens: usize,
    /// Tokens written.
    pub generated_tokens: u32,
    /// Those of them that nobody chose.
    pub forced_tokens: u32,
    /// Waiting for a sequence.
    pub queue: Duration,
    /// Computing the prompt.
    pub prefill: Duration,
    /// Writing.
    pub decode: Duration,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The model had said what it had to say.
    Stop,
    /// This stop text came.
    StopString(String),
    /// The token limit.
    Length,
    /// The context.
    ContextFull,
    /// The model called tools.
    ToolCalls,
}

/// Why a request ended without an answer.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Failure {
    /// See [`super::core::Refusal::QueueFull`].
    #[error("{waiting} requests are waiting already, which is as many as may")]
    QueueFull {
        /// How many wait.
        waiting: usize,
    },
    /// See [`super::core::Refusal::PromptTooLong`].
    #[error("the prompt has {prompt} tokens, but the context holds {context} and the answer needs room too")]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// Nothing to compute.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// Time is up.
    #[error("the deadline passed")]
    Deadline,
    /// The reader took nothing for too long.
    #[error("the reader took nothing for {} ms", .stalled.as_millis())]
    ReaderStalled {
        /// How long.
        stalled: Duration,
    },
    /// An allocation failed again and again.
    #[error("the model cannot go on: {0}")]
    NoMemory(String),
    /// The model's computation failed.
    #[error("the model cannot go on: {0}")]
    Compute(String),
    /// The engine is ending.
    #[error("the engine is ending")]
    Ending,
}
