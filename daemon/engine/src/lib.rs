//! One model in one process: the engine of Hearth.
//!
//! In reading order:
//!
//! - [`process`]: what `main` does before anything else: limits, then the sandbox;
//! - [`gguf`]: reads and checks a model file's header before llama.cpp sees the file;
//! - [`llama`]: the edge to llama.cpp, and the only unsafe code;
//! - [`chat`]: conversations to prompts, model text to typed deltas; pure;
//! - [`sample`]: the choice of the next token;
//! - [`constrain`]: grammars that answers are held to;
//! - [`batch`]: the loop that computes many answers together;
//! - [`prompt`]: rendering and tokenizing, on a thread with a large stack;
//! - [`inspect`]: facts and memory needs of a file;
//! - [`worker`]: the thread that owns llama.cpp;
//! - [`serve`]: the link to the front;
//! - [`conformance`]: golden vectors through the code that serves requests;
//! - [`log`]: what is written to standard error.
//!
//! **Invariant:** `chat`, and the cores of `batch` and `sample`, know no tokio, no protobuf, no clock and
//! no path.

pub mod batch;
pub mod chat;
pub mod conformance;
pub mod constrain;
pub mod gguf;
pub mod gpu;
pub mod inspect;
pub mod llama;
pub mod log;
pub mod process;
pub mod prompt;
pub mod sample;
pub mod serve;
#[cfg(test)]
mod testing;
pub mod worker;
