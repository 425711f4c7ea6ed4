//! llama.cpp's log: warnings and errors go to `tracing`, and the last error lines are kept, because a
//! failed load carries no other reason.

use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_void};
use std::sync::Mutex;

use llama_cpp_sys_2 as sys;

/// How many error lines are kept.
const KEPT: usize = 8;

static ERRORS: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// Routes llama.cpp's and ggml's log to this module.
pub(super) fn install() {
    // SAFETY: `on_line` is a plain function that never unwinds and needs no data.
    unsafe { sys::llama_log_set(Some(on_line), std::ptr::null_mut()) };
}

/// The error lines since the last call, oldest first, joined by `; `.
pub(super) fn take_errors() -> String {
    let mut kept = ERRORS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    kept.drain(..).collect::<Vec<_>>().join("; ")
}

unsafe extern "C" fn on_line(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a NUL-terminated string that lives for the call.
    let line = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let line = line.trim();
    if line.is_empty() {
        return;
    }
    match level {
        sys::GGML_LOG_LEVEL_ERROR => {
            keep(line);
            tracing::warn!(target: "llama.cpp", "{line}");
        }
        // An aborted step says which entries it removes: that is our own doing.
        sys::GGML_LOG_LEVEL_WARN if line.contains("removing memory module entries") => {
            tracing::trace!(target: "llama.cpp", "{line}");
        }
        sys::GGML_LOG_LEVEL_WARN => tracing::info!(target: "llama.cpp", "{line}"),
        _ => tracing::trace!(target: "llama.cpp", "{line}"),
    }
}

fn keep(line: &str) {
    let mut kept = ERRORS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if kept.len() == KEPT {
        kept.pop_front();
    }
    kept.push_back(line.chars().take(300).collect());
}
