//! Declarations of the functions in `shim.cpp`, and the buffer they put their errors in.

use std::ffi::{c_char, c_void};

use llama_cpp_sys_2 as sys;

/// What the shim returns for a caught exception.
pub(super) const EXCEPTION: i32 = -1000;

pub(super) type EachBuffer = unsafe extern "C" fn(*const c_char, i32, usize, usize, usize, *mut c_void);

unsafe extern "C" {
    pub(super) fn hearth_model_load(
        path: *const c_char,
        params: sys::llama_model_params,
        message: *mut c_char,
        size: usize,
    ) -> *mut sys::llama_model;
    pub(super) fn hearth_context_new(
        model: *mut sys::llama_model,
        params: sys::llama_context_params,
        message: *mut c_char,
        size: usize,
    ) -> *mut sys::llama_context;
    pub(super) fn hearth_decode(
        ctx: *mut sys::llama_context,
        batch: sys::llama_batch,
        message: *mut c_char,
        size: usize,
    ) -> i32;
    pub(super) fn hearth_tokenize(
        vocab: *const sys::llama_vocab,
        text: *const c_char,
        text_len: i32,
        tokens: *mut sys::llama_token,
        n_tokens_max: i32,
        parse_special: bool,
        message: *mut c_char,
        size: usize,
    ) -> i32;
    pub(super) fn hearth_sampler_apply(
        sampler: *mut sys::llama_sampler,
        candidates: *mut sys::llama_token_data_array,
        message: *mut c_char,
        size: usize,
    ) -> i32;
    pub(super) fn hearth_memory(
        ctx: *const sys::llama_context,
        each: EachBuffer,
        data: *mut c_void,
        message: *mut c_char,
        size: usize,
    ) -> i32;
    pub(super) fn hearth_state_size(ctx: *mut sys::llama_context, message: *mut c_char, size: usize)
    -> usize;
    pub(super) fn hearth_state_get(
        ctx: *mut sys::llama_context,
        to: *mut u8,
        length: usize,
        message: *mut c_char,
        size: usize,
    ) -> usize;
    pub(super) fn hearth_state_set(
        ctx: *mut sys::llama_context,
        from: *const u8,
        length: usize,
        message: *mut c_char,
        size: usize,
    ) -> usize;
    pub(super) fn hearth_largest_staged(
        model: *const sys::llama_model,
        message: *mut c_char,
        size: usize,
    ) -> usize;
    pub(super) fn hearth_trim();
}

/// Room for the text of a C++ exception.
#[derive(Debug)]
pub(super) struct Message([u8; 256]);

impl Message {
    pub(super) const SIZE: usize = 256;

    pub(super) const fn new() -> Self {
        Self([0; Self::SIZE])
    }

    pub(super) const fn as_mut_ptr(&mut self) -> *mut c_char {
        self.0.as_mut_ptr().cast()
    }

    /// The text so far; empty if nothing was thrown.
    pub(super) fn text(&self) -> String {
        let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(self.0.len());
        String::from_utf8_lossy(&self.0[..end]).into_owned()
    }
}
