//! Process-wide set-up of llama.cpp.

use std::ffi::CStr;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_sys_2 as sys;

use super::{ffi, log};

/// llama.cpp, ready to be used. One per process.
#[derive(Debug)]
pub struct Backend {
    _inner: LlamaBackend,
}

/// llama.cpp could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("initialise llama.cpp")]
pub struct BackendError(#[from] llama_cpp_2::LlamaCppError);

impl Backend {
    /// Initialises llama.cpp and takes over its log.
    ///
    /// # Errors
    /// When it was initialised before in this process.
    pub fn init() -> Result<Self, BackendError> {
        log::install();
        Ok(Self { _inner: LlamaBackend::init()? })
    }

    /// Gives memory that was freed back to the system, which the allocator would keep for later.
    pub fn trim() {
        // SAFETY: the allocator may be told so at any time.
        unsafe { ffi::hearth_trim() };
    }

    /// llama.cpp's own line about the CPU features in use.
    pub fn system_info(&self) -> String {
        // SAFETY: returns a pointer to a static, NUL-terminated string.
        let text = unsafe { CStr::from_ptr(sys::llama_print_system_info()) };
        text.to_string_lossy().trim().to_owned()
    }
}
