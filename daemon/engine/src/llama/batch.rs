//! The tokens of one step.

use llama_cpp_sys_2 as sys;

use super::{Pos, SeqId, Token};

/// Tokens to compute in one call of `decode`, each for one sequence.
#[derive(Debug)]
pub struct Batch {
    tokens: Vec<Token>,
    positions: Vec<Pos>,
    /// One sequence id each; `pointers` and `counts` describe them the way C wants it.
    sequences: Vec<SeqId>,
    pointers: Vec<*mut SeqId>,
    counts: Vec<i32>,
    wants_logits: Vec<i8>,
}

impl Batch {
    /// An empty batch that will hold up to `capacity` tokens without growing.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            tokens: Vec::with_capacity(capacity),
            positions: Vec::with_capacity(capacity),
            sequences: Vec::with_capacity(capacity),
            pointers: Vec::with_capacity(capacity),
            counts: Vec::with_capacity(capacity),
            wants_logits: Vec::with_capacity(capacity),
        }
    }

    /// Empties the batch.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.pointers.clear();
        self.counts.clear();
        self.wants_logits.clear();
    }

    /// Adds a token; returns its index, by which its logits are found after the step.
    pub fn push(&mut self, token: Token, position: Pos, sequence: SeqId, logits: bool) -> usize {
        self.tokens.push(token);
        self.positions.push(position);
        self.sequences.push(sequence);
        self.counts.push(1);
        self.wants_logits.push(i8::from(logits));
        self.tokens.len() - 1
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    pub(super) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    pub(super) fn sequences(&self) -> &[SeqId] {
        &self.sequences
    }

    pub(super) fn wants_logits(&self, index: usize) -> bool {
        self.wants_logits.get(index).is_some_and(|&wanted| wanted != 0)
    }

    /// The batch as C sees it; valid until the batch changes.
    pub(super) fn as_raw(&mut self) -> sys::llama_batch {
        self.pointers.clear();
        self.pointers.extend(self.sequences.iter_mut().map(std::ptr::from_mut));
        sys::llama_batch {
            n_tokens: i32::try_from(self.tokens.len()).unwrap_or(i32::MAX),
            token: self.tokens.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: self.positions.as_mut_ptr(),
            n_seq_id: self.counts.as_mut_ptr(),
            seq_id: self.pointers.as_mut_ptr(),
            logits: self.wants_logits.as_mut_ptr(),
        }
    }
}
