//! Answers of models of no known family.

#![no_main]

mod body;

use body::chat::{self, Dialect};

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::check(Dialect::Generic, data));
