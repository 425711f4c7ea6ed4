//! What an engine says.

use super::request::ToolCall;
use crate::memory::need::Footprint;
use crate::units::Bytes;

/// One thing that happened to a request in its engine.
#[derive(Clone, Debug, PartialEq)]
pub enum GenerateEvent {
    /// It has a place, behind so many others.
    Accepted {
        /// Requests ahead.
        queue_position: u32,
    },
    /// Its prompt is being computed.
    Prefill {
        /// Tokens so far.
        done: u32,
        /// Tokens in all.
        total: u32,
    },
    /// The context is being made anew, for longer texts or for shorter ones.
    Context {
        /// Answers that end first.
        ahead: u32,
    },
    /// The answer grew.
    Delta(Delta),
    /// The answer is whole.
    Finished(Finished),
}

/// What a token, or a few, added.
#[derive(Clone, Debug, PartialEq)]
pub struct Delta {
    /// What became visible.
    pub kind: DeltaKind,
    /// The tokens behind it, where they were asked for.
    pub logprobs: Vec<TokenLogprob>,
}

/// What became visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeltaKind {
    /// More of the thought.
    Reasoning(String),
    /// More of the answer.
    Text(String),
    /// A call began.
    ToolStarted {
        /// Which call of this answer.
        index: u32,
        /// The tool.
        name: String,
    },
    /// More of a call's arguments.
    ToolArguments {
        /// Which call of this answer.
        index: u32,
        /// JSON text.
        json: String,
    },
    /// A call is whole. The id is left empty: ids are made where the request is known.
    ToolComplete {
        /// Which call of this answer.
        index: u32,
        /// The call.
        call: ToolCall,
    },
    /// Nothing visible.
    Nothing,
}

/// How likely a token was.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: TokenAlternative,
    /// What else might have been.
    pub top: Vec<TokenAlternative>,
}

/// A token with its probability.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenAlternative {
    /// Its id.
    pub token: u32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm.
    pub logprob: f32,
}

/// The end of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Why.
    pub reason: FinishReason,
    /// The text that ended it, for [`FinishReason::StopString`].
    pub stop_string: String,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Those of them that were cached.
    pub cached_tokens: u32,
    /// Tokens written.
    pub generated_tokens: u32,
    /// Those of them that a constraint forced.
    pub forced_tokens: u32,
    /// Waiting in the engine, in milliseconds.
    pub queue_ms: f64,
    /// Computing the prompt, in milliseconds.
    pub prefill_ms: f64,
    /// Writing, in milliseconds.
    pub decode_ms: f64,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// All was said.
    Stop,
    /// A stop text came.
    StopString,
    /// Enough tokens.
    Length,
    /// The context is full.
    ContextFull,
    /// Tools were called.
    ToolCalls,
}

/// What a load says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadEvent {
    /// Thousandths.
    Progress(u32),
    /// Done.
    Loaded(LoadedFacts),
}

/// What a loaded model offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadedFacts {
    /// Tokens shared by all sequences.
    pub context_tokens: u32,
    /// Answers written at the same time.
    pub sequences: u32,
    /// Weights, context and compute buffers, as llama.cpp counts them.
    pub buffers: Bytes,
    /// Layers that a GPU computes, the output counted as one.
    pub gpu_layers: u32,
}

/// What a file is and what it would take to load it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Permanent facts of the file.
    pub facts: crate::store::Facts,
    /// What a load takes, at any size.
    pub footprint: Footprint,
}

/// A prompt as the model sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// As text.
    pub text: String,
    /// As token ids.
    pub tokens: Vec<u32>,
}

/// A sign of life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// Whether llama.cpp has something to compute.
    pub busy: bool,
    /// Grows while it gets on.
    pub progress: u64,
    /// Answers being written.
    pub running: u32,
    /// Requests waiting.
    pub waiting: u32,
    /// Tokens of the context in use.
    pub context_used: u32,
    /// Tokens of the context.
    pub context_tokens: u32,
    /// Tokens that it should have for the requests that are there; 0: it has enough.
    pub wanted_context_tokens: u32,
    /// Tokens written since the start.
    pub generated_tokens: u64,
    /// Prompt tokens computed since the start.
    pub prefilled_tokens: u64,
    /// Memory of the board that a GPU has for it; the kernel counts it to no process.
    pub on_gpu: Bytes,
}
