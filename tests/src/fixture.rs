//! Model files made at test time: tiny ones that answer, large ones that are slow, and hostile ones.
//!
//! ```no_run
//! use hearth_tests::fixture::{self, Arch};
//!
//! let model = fixture::tiny(Arch::Qwen3);
//! model.write("model.gguf".as_ref())?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! The weights are random and depend on the seed alone, so a file is the same everywhere. What a
//! fixture says is no language, but it is well-behaved: it is printable ASCII, it never ends by itself
//! and it never writes a marker of a chat format (see [`model`]). A test that asks for 40 tokens gets 40.
//!
//! The writer is our own, because it must also write what no correct writer can: see [`hostile()`].

pub mod file;
pub mod hostile;
pub mod model;
pub mod random;
pub mod template;
pub mod vocabulary;

pub use file::{Gguf, Tensor, TensorType, Value};
pub use hostile::{Hostile, hostile};
pub use model::{Arch, Options, Size, scaled, tiny, tiny_with};
