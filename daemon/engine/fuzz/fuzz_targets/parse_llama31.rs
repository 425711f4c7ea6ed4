//! Answers of Llama 3.1.

#![no_main]

mod body;

use body::chat::{self, Dialect};

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::check(Dialect::Llama31, data));
