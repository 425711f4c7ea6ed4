//! Weights and vocabulary.

use std::ffi::{CString, NulError, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token_type::LlamaTokenAttr;
use llama_cpp_sys_2 as sys;

use super::ffi::{self, Message};
use super::{Backend, Token, log};

/// How the file gets into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadMode {
    /// Vocabulary and metadata only. No context can be made of it.
    VocabularyOnly,
    /// Nothing is allocated; sizes can be asked for.
    DryRun,
    /// Weights are file pages, shared and evictable.
    Mapped,
    /// Weights are read into anonymous memory, where the CPU's kernels like them repacked.
    Copied,
}

/// What to load.
#[derive(Clone, Debug)]
pub struct LoadOptions<'a> {
    /// The GGUF file.
    pub path: &'a Path,
    /// How.
    pub mode: LoadMode,
    /// Whether weights may be rearranged for faster kernels, in anonymous memory.
    pub repack: bool,
    /// Layers that a GPU computes, from the last one on, the output first; 0: no GPU is used at all.
    pub gpu_layers: u32,
}

/// Bytes that a load takes, from llama.cpp's own books.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Weights in plain host buffers: file pages where the file is mapped.
    pub weights_plain: u64,
    /// Weights in buffers of their own: rearranged for the CPU's kernels, or a GPU's.
    pub weights_repacked: u64,
    /// KV cache.
    pub kv: u64,
    /// Compute buffers.
    pub compute: u64,
    /// As much of all these is a GPU's that has no memory but the board's. The kernel counts it to no process.
    pub on_gpu: u64,
    /// What a card has in memory of its own; not a part of any of these.
    pub on_card: u64,
}

/// A loaded model.
#[derive(Debug)]
pub struct Model {
    inner: LlamaModel,
    vocabulary_size: i32,
}

/// Why a model did not load.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The path cannot be handed to C.
    #[error("model path `{path}` contains a NUL byte")]
    Path {
        /// The path.
        path: PathBuf,
        /// Where.
        #[source]
        source: NulError,
    },
    /// llama.cpp refused the file; its own words.
    #[error("llama.cpp refused the model: {0}")]
    Refused(String),
}

/// Why a text was not tokenized.
#[derive(Debug, thiserror::Error)]
pub enum TokenizeError {
    /// More than 2 GiB, or more tokens than llama.cpp counts.
    #[error("the text is too long to be tokenized")]
    TooLong,
    /// llama.cpp's words.
    #[error("llama.cpp cannot tokenize the text: {0}")]
    Refused(String),
}

// `LlamaModel` is `repr(transparent)` over a `repr(transparent)` non-null pointer; these hold it to that.
const _: () = assert!(size_of::<LlamaModel>() == size_of::<*mut sys::llama_model>());
const _: () = assert!(align_of::<LlamaModel>() == align_of::<*mut sys::llama_model>());

/// llama.cpp's progress callback, on the stack of the load.
struct Progress<'a>(&'a mut dyn FnMut(f32) -> bool);

unsafe extern "C" fn on_progress(done: f32, data: *mut c_void) -> bool {
    // SAFETY: `data` is the `Progress` of the `load` that is running on this thread.
    let progress = unsafe { &mut *data.cast::<Progress<'_>>() };
    (progress.0)(done)
}

impl Model {
    /// Loads a model; `progress` gets the part done, 0 to 1, and stops the load by returning false.
    ///
    /// # Errors
    /// [`LoadError`], with llama.cpp's last error lines.
    pub fn load(
        _backend: &Backend,
        options: &LoadOptions<'_>,
        progress: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Self, LoadError> {
        let path = CString::new(options.path.as_os_str().as_bytes())
            .map_err(|source| LoadError::Path { path: options.path.to_owned(), source })?;
        let mut progress = Progress(progress);
        let mut message = Message::new();
        drop(log::take_errors());
        let mut params = model_params(options, &mut progress);
        // An empty list: otherwise a GPU would compute large steps even without any layer of its own.
        let mut no_devices: [sys::ggml_backend_dev_t; 1] = [std::ptr::null_mut()];
        if options.gpu_layers == 0 {
            params.devices = no_devices.as_mut_ptr();
        }
        // SAFETY: `path`, `progress` and `no_devices` outlive the call; `params` comes from llama.cpp's defaults.
        let raw =
            unsafe { ffi::hearth_model_load(path.as_ptr(), params, message.as_mut_ptr(), Message::SIZE) };
        if raw.is_null() {
            return Err(LoadError::Refused(last_words(&message)));
        }
        // SAFETY: `raw` is a valid model that nobody else owns; size and layout are asserted above.
        let inner = unsafe { std::mem::transmute::<*mut sys::llama_model, LlamaModel>(raw) };
        let vocabulary_size = inner.vocab().n_tokens();
        Ok(Self { inner, vocabulary_size })
    }

    pub(super) fn as_ptr(&self) -> *mut sys::llama_model {
        // SAFETY: the reverse of the transmute in `load`; the pointer is only read from.
        unsafe { *std::ptr::from_ref(&self.inner).cast::<*mut sys::llama_model>() }
    }

    fn vocab_ptr(&self) -> *const sys::llama_vocab {
        // SAFETY: the model is valid as long as `self`.
        unsafe { sys::llama_model_get_vocab(self.as_ptr()) }
    }

    /// Bytes of the largest weight that a load rearranges: it is in memory twice meanwhile. 0: none is.
    pub fn largest_rearranged(&self) -> u64 {
        let mut message = Message::new();
        // SAFETY: the model is valid as long as `self`.
        let bytes = unsafe { ffi::hearth_largest_staged(self.as_ptr(), message.as_mut_ptr(), Message::SIZE) };
        bytes as u64
    }

    /// Number of token ids; 0 for a model without a vocabulary.
    pub const fn vocabulary_size(&self) -> i32 {
        self.vocabulary_size
    }

    /// Whether a cached sequence can be cut back to any length. State-space models cannot.
    pub fn can_rewind(&self) -> bool {
        !self.inner.is_recurrent() && !self.inner.is_hybrid()
    }

    /// Whether ids are in range; everything below relies on it.
    pub const fn is_token(&self, token: Token) -> bool {
        0 <= token && token < self.vocabulary_size
    }

    /// The token that ends an answer, if the file names one.
    pub fn end(&self) -> Option<Token> {
        let end = self.inner.vocab().eos().0;
        self.is_end(end).then_some(end)
    }

    /// Whether the model ends its turn with this token.
    pub fn is_end(&self, token: Token) -> bool {
        self.is_token(token) && self.inner.vocab().is_eog(LlamaToken(token))
    }

    /// Whether the token is markup that has no text of its own.
    pub fn is_control(&self, token: Token) -> bool {
        self.is_token(token) && self.inner.vocab().is_control(LlamaToken(token))
    }

    /// The BOS token, where the model wants one in front of a raw prompt.
    pub fn bos_to_add(&self) -> Option<Token> {
        let vocab = self.inner.vocab();
        let bos = vocab.bos().0;
        (vocab.should_add_bos() && self.is_token(bos)).then_some(bos)
    }

    /// Text of the BOS token, for templates that write it.
    pub fn bos_text(&self) -> String {
        self.token_text(self.inner.vocab().bos().0)
    }

    /// Text of the EOS token.
    pub fn eos_text(&self) -> String {
        self.token_text(self.inner.vocab().eos().0)
    }

    /// The text by which a token is written in the vocabulary; empty for an id out of range.
    pub fn token_text(&self, token: Token) -> String {
        if !self.is_token(token) {
            return String::new();
        }
        let vocab = self.inner.vocab();
        vocab.text(LlamaToken(token)).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Every token that is matched as a whole in template text: control tokens and user-defined ones.
    pub fn special_tokens(&self) -> Vec<SpecialToken> {
        let vocab = self.inner.vocab();
        (0..self.vocabulary_size)
            .filter_map(|id| {
                let attrs = vocab.attr(LlamaToken(id));
                let control =
                    attrs.contains(LlamaTokenAttr::Control) || attrs.contains(LlamaTokenAttr::Unknown);
                let defined = attrs.contains(LlamaTokenAttr::UserDefined);
                (control || defined).then(|| SpecialToken { id, text: self.token_text(id), control })
            })
            .collect()
    }

    /// Bytes of a token as they appear in an answer: nothing for control tokens.
    pub fn piece(&self, token: Token, out: &mut Vec<u8>) {
        if self.is_token(token) {
            self.inner.vocab().token_to_piece_into(LlamaToken(token), out, false, None);
        }
    }

    /// Bytes of a token, control tokens spelled out.
    pub fn piece_spelled(&self, token: Token) -> Vec<u8> {
        let mut out = Vec::new();
        if self.is_token(token) {
            self.inner.vocab().token_to_piece_into(LlamaToken(token), &mut out, true, None);
        }
        out
    }

    /// Appends the tokens of `text`. With `parse_special`, control tokens spelled in the text become
    /// themselves; without, they are text. BOS and EOS are never added.
    ///
    /// # Errors
    /// [`TokenizeError`]; `out` is as before then.
    pub fn tokenize(
        &self,
        text: &str,
        parse_special: bool,
        out: &mut Vec<Token>,
    ) -> Result<(), TokenizeError> {
        let length = i32::try_from(text.len()).map_err(|_| TokenizeError::TooLong)?;
        if length == 0 {
            return Ok(());
        }
        let start = out.len();
        // A token covers at least one byte of text, up to a leading space that SPM vocabularies add.
        let mut room = text.len() / 2 + 16;
        loop {
            out.resize(start + room, 0);
            let mut message = Message::new();
            // SAFETY: `text` has `length` bytes and `out` room for `room` tokens from `start` on.
            let count = unsafe {
                ffi::hearth_tokenize(
                    self.vocab_ptr(),
                    text.as_ptr().cast(),
                    length,
                    out.as_mut_ptr().add(start),
                    i32::try_from(room).unwrap_or(i32::MAX),
                    parse_special,
                    message.as_mut_ptr(),
                    Message::SIZE,
                )
            };
            match usize::try_from(count) {
                Ok(count) => {
                    out.truncate(start + count);
                    return Ok(());
                }
                Err(_) if count == i32::MIN => {
                    out.truncate(start);
                    let text = message.text();
                    return Err(if text.is_empty() {
                        TokenizeError::TooLong
                    } else {
                        TokenizeError::Refused(text)
                    });
                }
                // llama.cpp answers with the negated count when the room is too small.
                Err(_) => room = count.unsigned_abs() as usize,
            }
        }
    }
}

/// A token that is matched as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialToken {
    /// Its id.
    pub id: Token,
    /// How it is spelled.
    pub text: String,
    /// Whether it is a control token; else it is one that the vocabulary's maker added as text.
    pub control: bool,
}

fn model_params(options: &LoadOptions<'_>, progress: &mut Progress<'_>) -> sys::llama_model_params {
    // SAFETY: returns a plain struct.
    let mut params = unsafe { sys::llama_model_default_params() };
    params.vocab_only = options.mode == LoadMode::VocabularyOnly;
    params.no_alloc = options.mode == LoadMode::DryRun;
    params.load_mode = match options.mode {
        LoadMode::Mapped => sys::LLAMA_LOAD_MODE_MMAP,
        _ => sys::LLAMA_LOAD_MODE_NONE,
    };
    params.use_extra_bufts = options.repack;
    params.n_gpu_layers = i32::try_from(options.gpu_layers).unwrap_or(i32::MAX);
    params.check_tensors = false;
    params.progress_callback = Some(on_progress);
    params.progress_callback_user_data = std::ptr::from_mut(progress).cast();
    params
}

/// The exception's text, or the last error lines of the log.
pub(super) fn last_words(message: &Message) -> String {
    let lines = log::take_errors();
    match (message.text(), lines) {
        (thrown, lines) if !thrown.is_empty() && !lines.is_empty() => format!("{thrown}; {lines}"),
        (thrown, lines) if thrown.is_empty() && !lines.is_empty() => lines,
        (thrown, _) if !thrown.is_empty() => thrown,
        _ => "no reason was given".to_owned(),
    }
}
