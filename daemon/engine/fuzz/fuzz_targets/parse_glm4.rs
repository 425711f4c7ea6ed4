//! Answers of GLM-4.

#![no_main]

mod body;

use body::chat::{self, Dialect};

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::check(Dialect::Glm4, data));
