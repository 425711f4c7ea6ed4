//! What a GGUF file says of itself, read without llama.cpp.
//!
//! ```text
//!  file ── Header::of ──► Header { keys, tensors } ── validate::check ──► warnings ──► llama.cpp
//!                │                                          │
//!                └ HeaderError: not a whole GGUF file       └ Fault: llama.cpp would not survive it
//! ```
//!
//! llama.cpp takes a file at its word. A missing byte token, a layer count of zero or one token
//! listed twice ends the process, by an assertion or by a C++ exception that nothing catches. Every
//! such case that lies in the file alone is therefore found here and has a name, before llama.cpp
//! opens the file. What is left to llama.cpp are the cases that it refuses cleanly itself, such as a
//! missing tensor of a layer or an architecture that it does not know.
//!
//! [`Header::read`] is for bytes from anywhere: it never panics, it reads at most
//! [`header::MAX_HEADER`] bytes and [`header::MAX_KEYS`] keys, and what it allocates grows with what
//! it has read, never with what a length field claims. All text in a file must be UTF-8, which the
//! format asks for and llama.cpp does not check.
//!
//! **Invariant:** this module is pure but for [`Header::of`], which reads the file that it is given.

pub mod facts;
pub mod header;
pub mod known;
pub mod stretch;
pub mod tensor;
pub mod validate;
pub mod value;

mod cursor;

#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;

pub use facts::{Facts, facts};
pub use header::{Header, HeaderError};
pub use stretch::Stretch;
pub use tensor::{Tensor, TensorType};
pub use validate::{Fault, Warning};
pub use value::{Array, Kind, Numbers, Strings, Value, ValueError, optional};

/// Text of a file as it may stand in an error: without control characters and not too long.
fn shown(text: &str) -> String {
    const LONGEST: usize = 100;
    let mut shown: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}
