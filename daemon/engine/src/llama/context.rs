//! KV cache and compute buffers of a model.

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char, c_void};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use llama_cpp_sys_2 as sys;

use super::ffi::{self, Message};
use super::model::last_words;
use super::{Batch, Memory, Model, Pos, SeqId};

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// 16 bits a value.
    #[default]
    F16,
    /// 8.5 bits a value.
    Q8_0,
    /// 4.5 bits a value.
    Q4_0,
}

/// Sizes of a context.
#[derive(Clone, Copy, Debug)]
pub struct ContextOptions {
    /// Tokens that all sequences hold together.
    pub tokens: u32,
    /// Number of sequences.
    pub sequences: u32,
    /// Most tokens in one `decode`; all of them are computed as one micro-batch, so that an abort
    /// discards the whole step or nothing.
    pub micro_batch: u32,
    /// Type of the KV cache.
    pub kv_type: KvType,
    /// Threads.
    pub threads: i32,
    /// Positions are stretched by YaRN: the window before, and how many times longer it gets.
    pub yarn: Option<(u32, u32)>,
}

/// Shows that llama.cpp makes progress: bumped once per node of the compute graph.
#[derive(Debug, Default)]
pub struct Pulse(AtomicU64);

impl Pulse {
    /// The count so far.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Another sign of life.
    pub fn bump(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the abort callback looks at.
#[derive(Debug)]
struct AbortHook {
    pulse: Arc<Pulse>,
    /// The step is discarded as soon as one of these is set. Only touched by the thread that decodes:
    /// llama.cpp calls back on the thread that called it.
    flags: UnsafeCell<Vec<Arc<AtomicBool>>>,
}

unsafe extern "C" fn on_node(data: *mut c_void) -> bool {
    // SAFETY: `data` is the hook that the context owns, and this is the decoding thread.
    let hook = unsafe { &*data.cast::<AbortHook>() };
    hook.pulse.bump();
    // SAFETY: as above; nobody changes the flags during a decode.
    let flags = unsafe { &*hook.flags.get() };
    flags.iter().any(|flag| flag.load(Ordering::Relaxed))
}

/// Owns the hook. A box would not do: llama.cpp keeps a pointer into it, which moving a box invalidates.
#[derive(Debug)]
struct OwnedHook(NonNull<AbortHook>);

impl OwnedHook {
    fn new(pulse: Arc<Pulse>) -> Self {
        let hook = Box::new(AbortHook { pulse, flags: UnsafeCell::new(Vec::new()) });
        Self(NonNull::from(Box::leak(hook)))
    }

    const fn pulse(&self) -> &Arc<Pulse> {
        // SAFETY: the hook lives as long as `self`, and its pulse never changes.
        unsafe { &self.0.as_ref().pulse }
    }

    /// Takes other flags; not to be called during a decode.
    fn set(&mut self, flags: Vec<Arc<AtomicBool>>) {
        // SAFETY: the hook lives as long as `self`, and llama.cpp looks at it during a decode only, which
        // borrows the context that owns `self`.
        unsafe { *self.0.as_ref().flags.get() = flags };
    }
}

impl Drop for OwnedHook {
    fn drop(&mut self) {
        // SAFETY: it came out of a box, and the context that used it is gone (it is freed first).
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// A copy of a context's cache.
#[derive(Debug)]
pub struct Saved(Vec<u8>);

/// A context; used by one thread.
#[derive(Debug)]
pub struct Context {
    raw: NonNull<sys::llama_context>,
    /// Dropped after the context itself (see `Drop`).
    hook: OwnedHook,
    sequences: u32,
    micro_batch: u32,
    options: ContextOptions,
    /// Dropped after the context itself (see `Drop`).
    model: Arc<Model>,
}

// SAFETY: llama.cpp's context may be used by any one thread at a time; `&mut self` sees to that, and the
// reading methods only read plain numbers.
unsafe impl Send for Context {}

/// Why a context was not made.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// llama.cpp's words.
    #[error("llama.cpp cannot make a context: {0}")]
    Refused(String),
}

/// Why a step was not computed. Nothing of the step stays in the cache.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The cache has no room for it.
    #[error("the KV cache is full")]
    NoRoom,
    /// A flag of the step was set.
    #[error("the step was aborted")]
    Aborted,
    /// A token, position or sequence out of range; our bug.
    #[error("the batch is invalid: {0}")]
    Invalid(String),
    /// An allocation failed.
    #[error("no memory to compute the step: {0}")]
    NoMemory(String),
    /// llama.cpp's code and words.
    #[error("llama.cpp failed to compute (code {code}): {words}")]
    Failed {
        /// Return code.
        code: i32,
        /// Last error lines.
        words: String,
    },
}

impl Context {
    /// Makes a context for `model`.
    ///
    /// # Errors
    /// [`ContextError`], with llama.cpp's last error lines.
    pub fn new(model: Arc<Model>, options: &ContextOptions, pulse: Arc<Pulse>) -> Result<Self, ContextError> {
        let hook = OwnedHook::new(pulse);
        let raw = make(&model, options, &hook)?;
        let ContextOptions { sequences, micro_batch, .. } = *options;
        Ok(Self { raw, hook, sequences, micro_batch, options: *options, model })
    }

    /// Stretches the context's positions, or lets them be as they are. Everything in the cache is forgotten.
    ///
    /// # Errors
    /// As [`Self::resize`].
    pub fn stretch(&mut self, yarn: Option<(u32, u32)>) -> Result<(), ContextError> {
        self.remake(ContextOptions { yarn, ..self.options })
    }

    /// Makes room for so many tokens. Everything in the cache is forgotten: see [`Self::save`].
    ///
    /// # Errors
    /// [`ContextError`]; the context is as before then, and empty. Where not even that one can be made again,
    /// the process ends: an engine without a context is of no use, and the front starts another.
    pub fn resize(&mut self, tokens: u32) -> Result<(), ContextError> {
        self.remake(ContextOptions { tokens, ..self.options })
    }

    /// The memory is given back before the new context takes as much.
    fn remake(&mut self, wanted: ContextOptions) -> Result<(), ContextError> {
        // SAFETY: the context is valid; nothing uses it before `raw` is replaced below.
        unsafe { sys::llama_free(self.raw.as_ptr()) };
        self.hook.pulse().bump();
        let (made, result) = match make(&self.model, &wanted, &self.hook) {
            Ok(raw) => (Ok(raw), Ok(())),
            Err(error) => (make(&self.model, &self.options, &self.hook), Err(error)),
        };
        let Ok(raw) = made else {
            tracing::error!("The context cannot be made again");
            std::process::abort();
        };
        self.raw = raw;
        self.hook.pulse().bump();
        if result.is_ok() {
            self.options = wanted;
        }
        result
    }

    /// A copy of all that is in the cache, as it is shared between sequences. `None`: there is no memory for the
    /// copy, or the model's cache cannot be copied.
    pub fn save(&mut self) -> Option<Saved> {
        drop(super::log::take_errors());
        let mut message = Message::new();
        // SAFETY: the context is valid.
        let size = unsafe { ffi::hearth_state_size(self.raw.as_ptr(), message.as_mut_ptr(), Message::SIZE) };
        let mut bytes: Vec<u8> = Vec::new();
        if size == 0 || bytes.try_reserve_exact(size).is_err() {
            tracing::warn!(bytes = size, reason = %last_words(&message), "The cache cannot be copied");
            return None;
        }
        // SAFETY: `bytes` has room for `size` bytes.
        let written = unsafe {
            let to = bytes.as_mut_ptr();
            ffi::hearth_state_get(self.raw.as_ptr(), to, size, message.as_mut_ptr(), Message::SIZE)
        };
        self.hook.pulse().bump();
        if written != size {
            tracing::warn!(bytes = size, reason = %last_words(&message), "The cache cannot be copied");
            return None;
        }
        // SAFETY: llama.cpp has written all of them.
        unsafe { bytes.set_len(size) };
        Some(Saved(bytes))
    }

    /// Puts back what was saved from this model's context, of the same or another size. False: llama.cpp refused,
    /// and what is in the cache now is not to be relied on.
    pub fn restore(&mut self, saved: &Saved) -> bool {
        drop(super::log::take_errors());
        let mut message = Message::new();
        let Saved(bytes) = saved;
        // SAFETY: `bytes` was filled by `hearth_state_get`, whole.
        let read = unsafe {
            let from = bytes.as_ptr();
            ffi::hearth_state_set(self.raw.as_ptr(), from, bytes.len(), message.as_mut_ptr(), Message::SIZE)
        };
        self.hook.pulse().bump();
        if read != bytes.len() {
            tracing::warn!(reason = %last_words(&message), "The cache cannot be put back");
        }
        read == bytes.len()
    }

    /// Tokens that fit.
    pub fn capacity(&self) -> u32 {
        // SAFETY: the context is valid.
        unsafe { sys::llama_n_ctx(self.raw.as_ptr()) }
    }

    /// The model.
    pub const fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Computes a step. While `abort_on` is not empty, the step is discarded as soon as one of the flags
    /// is set.
    ///
    /// # Errors
    /// [`DecodeError`]; the cache is as before then.
    pub fn decode(&mut self, batch: &mut Batch, abort_on: Vec<Arc<AtomicBool>>) -> Result<(), DecodeError> {
        self.check(batch)?;
        self.hook.set(abort_on);
        drop(super::log::take_errors());
        let mut message = Message::new();
        // SAFETY: the batch's pointers live until it changes; ids were checked above.
        let code = unsafe {
            ffi::hearth_decode(self.raw.as_ptr(), batch.as_raw(), message.as_mut_ptr(), Message::SIZE)
        };
        self.hook.set(Vec::new());
        // A GPU calls back for no node.
        self.hook.pulse().bump();
        match code {
            0 => Ok(()),
            1 => Err(DecodeError::NoRoom),
            2 => Err(DecodeError::Aborted),
            -1 => Err(DecodeError::Invalid(last_words(&message))),
            -2 => Err(DecodeError::NoMemory(last_words(&message))),
            code => Err(DecodeError::Failed { code, words: last_words(&message) }),
        }
    }

    /// What llama.cpp would abort on.
    fn check(&self, batch: &Batch) -> Result<(), DecodeError> {
        let invalid = |what: String| Err(DecodeError::Invalid(what));
        if batch.is_empty() || batch.len() > self.micro_batch as usize {
            return invalid(format!("{} tokens, 1 to {} allowed", batch.len(), self.micro_batch));
        }
        if let Some(token) = batch.tokens().iter().find(|&&token| !self.model.is_token(token)) {
            return invalid(format!("token {token} is not in the vocabulary"));
        }
        if let Some(seq) = batch.sequences().iter().find(|&&seq| !self.is_sequence(seq)) {
            return invalid(format!("sequence {seq} does not exist"));
        }
        Ok(())
    }

    fn is_sequence(&self, seq: SeqId) -> bool {
        u32::try_from(seq).is_ok_and(|seq| seq < self.sequences)
    }

    /// Logits after the token at `index` of the last step, one per token id; `None` if the step did not
    /// ask for them.
    pub fn logits(&self, batch: &Batch, index: usize) -> Option<&[f32]> {
        if !batch.wants_logits(index) {
            return None;
        }
        let at = i32::try_from(index).ok()?;
        // SAFETY: the last decode succeeded with logits wanted at `index`, so the row exists, has
        // `vocabulary_size` floats and lives until the next decode.
        unsafe {
            let row = sys::llama_get_logits_ith(self.raw.as_ptr(), at);
            let size = usize::try_from(self.model.vocabulary_size()).ok()?;
            (!row.is_null()).then(|| std::slice::from_raw_parts(row, size))
        }
    }

    fn memory_handle(&self) -> sys::llama_memory_t {
        // SAFETY: the context is valid.
        unsafe { sys::llama_get_memory(self.raw.as_ptr()) }
    }

    /// Forgets the tokens of `seq` from position `from` on; false if the model cannot cut there.
    pub fn cut(&mut self, seq: SeqId, from: Pos) -> bool {
        debug_assert!(self.is_sequence(seq));
        // SAFETY: the memory belongs to the context; llama.cpp checks the range.
        self.is_sequence(seq) && unsafe { sys::llama_memory_seq_rm(self.memory_handle(), seq, from, -1) }
    }

    /// Lets `to` share the first `length` tokens of `from`. `to` must be empty.
    pub fn share(&mut self, from: SeqId, to: SeqId, length: Pos) {
        if self.is_sequence(from) && self.is_sequence(to) && from != to {
            // SAFETY: as above.
            unsafe { sys::llama_memory_seq_cp(self.memory_handle(), from, to, 0, length) };
        }
    }

    /// Position of the last token of `seq`, or -1 if it has none.
    pub fn last_position(&self, seq: SeqId) -> Pos {
        if self.is_sequence(seq) {
            // SAFETY: as above.
            unsafe { sys::llama_memory_seq_pos_max(self.memory_handle(), seq) }
        } else {
            -1
        }
    }

    /// Bytes that model and context take, from llama.cpp's own books; exact also after a dry run.
    ///
    /// # Errors
    /// [`ContextError`] if llama.cpp throws.
    pub fn memory(&self) -> Result<Memory, ContextError> {
        let mut sum = Memory::default();
        let mut message = Message::new();
        // SAFETY: `add_buffer` gets back the `Memory` on this stack, during the call only.
        let code = unsafe {
            let data = std::ptr::from_mut(&mut sum).cast();
            ffi::hearth_memory(self.raw.as_ptr(), add_buffer, data, message.as_mut_ptr(), Message::SIZE)
        };
        if code == ffi::EXCEPTION { Err(ContextError::Refused(last_words(&message))) } else { Ok(sum) }
    }
}

/// A new context of llama.cpp.
fn make(
    model: &Model,
    options: &ContextOptions,
    hook: &OwnedHook,
) -> Result<NonNull<sys::llama_context>, ContextError> {
    let mut message = Message::new();
    drop(super::log::take_errors());
    let params = context_params(options, hook);
    // SAFETY: the model is valid, `params` comes from llama.cpp's defaults, and whoever calls keeps the hook as
    // long as the context.
    let raw = unsafe { ffi::hearth_context_new(model.as_ptr(), params, message.as_mut_ptr(), Message::SIZE) };
    NonNull::new(raw).ok_or_else(|| ContextError::Refused(last_words(&message)))
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context is valid and used by nobody any more; the model outlives it.
        unsafe { sys::llama_free(self.raw.as_ptr()) };
    }
}

/// Where the shim says that a buffer is.
const ON_GPU: i32 = 1;
const ON_CARD: i32 = 2;

unsafe extern "C" fn add_buffer(
    name: *const c_char,
    place: i32,
    model: usize,
    context: usize,
    compute: usize,
    data: *mut c_void,
) {
    // SAFETY: called by `hearth_memory` with the pointer that `Context::memory` passed.
    let sum = unsafe { &mut *data.cast::<Memory>() };
    let all = (model + context + compute) as u64;
    match place {
        ON_CARD => {
            sum.on_card += all;
            return;
        }
        ON_GPU => sum.on_gpu += all,
        _ => {}
    }
    // SAFETY: ggml's buffer types have static names.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    // Extra buffer types hold weights in an arrangement of their own: CPU_REPACK, AMX, CPU_KLEIDIAI.
    let is_extra = ["REPACK", "AMX", "KLEIDIAI", "SPACEMIT"].iter().any(|extra| name.contains(extra));
    if is_extra || place == ON_GPU {
        sum.weights_repacked += model as u64;
    } else {
        sum.weights_plain += model as u64;
    }
    sum.kv += context as u64;
    sum.compute += compute as u64;
}

fn context_params(options: &ContextOptions, hook: &OwnedHook) -> sys::llama_context_params {
    let kv_type = match options.kv_type {
        KvType::F16 => sys::GGML_TYPE_F16,
        KvType::Q8_0 => sys::GGML_TYPE_Q8_0,
        KvType::Q4_0 => sys::GGML_TYPE_Q4_0,
    };
    // SAFETY: returns a plain struct.
    let mut params = unsafe { sys::llama_context_default_params() };
    params.n_ctx = options.tokens;
    params.n_batch = options.micro_batch;
    params.n_ubatch = options.micro_batch;
    params.n_seq_max = options.sequences;
    // One row of logits per sequence: the compute buffer of an 8B falls from 309 MB to 34 MB.
    params.n_outputs_max = options.sequences;
    params.n_threads = options.threads;
    params.n_threads_batch = options.threads;
    params.type_k = kv_type;
    params.type_v = kv_type;
    // Sequences move between cells only in a unified cache.
    params.kv_unified = true;
    params.swa_full = true;
    params.no_perf = true;
    if let Some((original, factor)) = options.yarn {
        params.rope_scaling_type = sys::LLAMA_ROPE_SCALING_TYPE_YARN;
        params.yarn_orig_ctx = original;
        #[expect(clippy::cast_precision_loss, reason = "factors are small")]
        let factor = factor as f32;
        params.rope_freq_scale = 1.0 / factor;
    }
    params.abort_callback = Some(on_node);
    params.abort_callback_data = hook.0.as_ptr().cast();
    params
}
