//! The loop's context gets another size, between two steps. What is cached moves along.
//!
//! The cache is copied out, the old context is freed before the new one is made, and the copy is put back. A cache
//! that cannot be copied is computed anew.

use std::time::Instant;

use tokio::sync::oneshot;

use super::event::Failure;
use super::{BatchLoop, Command, Submitter, growth, on_gpu};
use crate::llama::{Backend, ContextError, Saved};

/// What the front says about the context's size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Size {
    /// So many tokens, if that is more than now.
    Tokens(u32),
    /// So many tokens, if that is less than now; and what is kept for later is given up in any case.
    Shed(u32),
    /// There is no memory for what is wanted.
    Refused {
        /// Why, for those who asked.
        reason: String,
    },
}

impl Submitter {
    /// Has the context changed between two steps; returns its tokens afterwards.
    ///
    /// # Errors
    /// [`Failure::QueueFull`] when the loop is behind, [`Failure::Ending`] when it is gone.
    pub async fn resize(&self, size: Size) -> Result<u32, Failure> {
        let (done, resized) = oneshot::channel();
        self.send(Command::Resize(size, done))?;
        resized.await.map_err(|_| Failure::Ending)
    }
}

impl BatchLoop {
    pub(super) fn on_size(&mut self, size: Size, done: oneshot::Sender<u32>) {
        let now = self.context.capacity();
        match size {
            Size::Refused { reason } => self.refuse(&reason),
            Size::Shed(tokens) => self.shed(tokens),
            Size::Tokens(tokens) if tokens.min(self.ceiling) > now => self.grow(tokens.min(self.ceiling)),
            Size::Tokens(_) => {}
        }
        self.starved = false;
        Backend::trim();
        // First, so that no beat says after the answer what was wanted before it.
        self.publish();
        // Who asked may have gone away meanwhile.
        done.send(self.context.capacity()).ok();
    }

    fn refuse(&mut self, reason: &str) {
        let now = Instant::now();
        for id in self.scheduler.refuse() {
            self.fail(id, Failure::NoMemory(reason.to_owned()), now);
        }
    }

    fn grow(&mut self, tokens: u32) {
        if let Err(error) = self.rebuild(tokens) {
            tracing::warn!(%error, tokens, "No larger context");
            self.refuse(&error.to_string());
        }
    }

    /// Gives up what is kept for later, and room. While somebody runs the context stays: moving what they have takes
    /// it twice for a moment, and memory is short.
    fn shed(&mut self, tokens: u32) {
        let ops = self.scheduler.forget_kept();
        self.apply(&ops);
        if self.scheduler.cells_used() > 0 {
            return;
        }
        let least = self.scheduler.cells_needed().max(tokens as usize).max(1);
        let tokens = u32::try_from(growth::rounded(least)).unwrap_or(u32::MAX);
        if tokens < self.context.capacity()
            && let Err(error) = self.rebuild(tokens)
        {
            tracing::warn!(%error, tokens, "No smaller context");
        }
    }

    /// Makes a context of so many tokens with the same cache. Where that fails, the context is as before: who is
    /// held still is.
    fn rebuild(&mut self, tokens: u32) -> Result<(), ContextError> {
        let (started, before) = (Instant::now(), self.context.capacity());
        let used = self.scheduler.cells_used();
        let saved = if used == 0 { None } else { self.context.save() };
        let made = self.context.resize(tokens);
        self.put_back(saved);
        self.on_gpu = on_gpu(&self.context);
        let after = self.context.capacity();
        if made.is_ok() && self.scheduler.resize(after).is_err() {
            // More is cached than there is room for: nobody asks for that.
            self.compute_anew();
            self.scheduler.resize(after).ok();
        }
        let ms = started.elapsed().as_millis();
        tracing::info!(before, after, used, ms, "Context resized");
        made
    }

    fn put_back(&mut self, saved: Option<Saved>) {
        if saved.is_some_and(|saved| self.context.restore(&saved)) {
            self.compare_books();
        } else {
            self.compute_anew();
        }
    }
}
