//! The edge to llama.cpp, and the only unsafe code of Hearth's engine.
//!
//! Everything here is a thin, safe type over llama.cpp's C API:
//!
//! - [`Backend`]: process-wide set-up, log capture, [`Device`]s;
//! - [`Model`]: weights and vocabulary, loaded with our own parameters;
//! - [`Context`]: KV cache and compute buffers; `decode`, logits, sequence operations, abort hook;
//! - [`Batch`]: the tokens of one step.
//!
//! C++ exceptions are caught in `shim.cpp`; what llama.cpp *aborts* on is kept away from it by
//! [`crate::gguf`] and by the limits of the callers, and costs one process where that fails.
//!
//! **Invariant:** a `Context` is used by one thread only; tokens and sequence ids are checked against the
//! vocabulary and the sequence count before they reach C.

#![expect(unsafe_code, reason = "the one place that calls llama.cpp")]

mod backend;
mod batch;
mod context;
mod device;
mod ffi;
mod log;
mod model;
mod sampler;

pub use backend::{Backend, BackendError};
pub use batch::Batch;
pub use context::{Context, ContextError, ContextOptions, DecodeError, KvType, Pulse, Saved};
pub use device::{Device, DeviceMemory};
pub use log::quietly;
pub use model::{LoadError, LoadMode, LoadOptions, Memory, Model, TokenizeError};
pub use sampler::{Candidate, ChainOptions, SamplerChain, SamplerError};

/// Id of a token in a model's vocabulary.
pub type Token = i32;
/// Id of a sequence in a context, counting from 0.
pub type SeqId = i32;
/// Position of a token in its sequence, counting from 0.
pub type Pos = i32;
