//! llama.cpp's log: warnings and errors go to `tracing`, and the last error lines are kept, because a
//! failed load carries no other reason.

use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use llama_cpp_sys_2 as sys;

/// Target of its lines.
const TARGET: &str = "llama_cpp";

/// Warnings that nobody can do anything about: an aborted step removes its entries, a context is as large as its
/// work and not as the file allows, and a vocabulary's oddities are mended as it is read.
const NOISE: [&str; 3] = [
    "removing memory module entries",
    "the full capacity of the model will not be utilized",
    "control-looking token",
];

/// How many error lines are kept.
const KEPT: usize = 8;

static ERRORS: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// Whether warnings are of no interest now.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Does something that llama.cpp's warnings say nothing of interest about: trying sizes that nobody asked for. Errors
/// are kept, and logged, all the same.
pub fn quietly<T>(work: impl FnOnce() -> T) -> T {
    QUIET.store(true, Ordering::Relaxed);
    let done = work();
    QUIET.store(false, Ordering::Relaxed);
    done
}

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
            // What failed is reported by who asked for it; this says more about it.
            tracing::warn!(target: TARGET, "{line}");
        }
        sys::GGML_LOG_LEVEL_WARN if QUIET.load(Ordering::Relaxed) => {
            tracing::trace!(target: TARGET, "{line}");
        }
        sys::GGML_LOG_LEVEL_WARN if NOISE.iter().any(|noise| line.contains(noise)) => {
            tracing::trace!(target: TARGET, "{line}");
        }
        sys::GGML_LOG_LEVEL_WARN => tracing::warn!(target: TARGET, "{line}"),
        _ => tracing::trace!(target: TARGET, "{line}"),
    }
}

fn keep(line: &str) {
    let mut kept = ERRORS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if kept.len() == KEPT {
        kept.pop_front();
    }
    kept.push_back(line.chars().take(300).collect());
}
