//! A thread with a large stack that runs short pieces of work one after the other.

use std::io;

use tokio::sync::{mpsc, oneshot};

/// Work that may wait for the thread; each piece takes milliseconds.
const QUEUE: usize = 64;
/// Stack of the thread that handles templates and grammars, which recurse.
pub const STACK_BYTES: usize = 64 << 20;

type Work = Box<dyn FnOnce() + Send>;

/// A handle to the thread. The thread ends when the last handle is gone.
#[derive(Clone, Debug)]
pub struct BigStack {
    queue: mpsc::Sender<Work>,
}

/// Why a piece of work gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRun {
    /// The thread has too much to do.
    #[error("too many prompts are being prepared")]
    Busy,
    /// The work panicked: our bug, and it would again.
    #[error("preparing the prompt failed inside the engine")]
    Panicked,
}

impl BigStack {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start() -> io::Result<Self> {
        let (queue, mut work) = mpsc::channel::<Work>(QUEUE);
        std::thread::Builder::new().name("prompt".to_owned()).stack_size(STACK_BYTES).spawn(move || {
            while let Some(piece) = work.blocking_recv() {
                // A panic costs its own piece only: the reply channel is dropped.
                // Its request hears of it, and logs it.
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(piece)).ok();
            }
        })?;
        Ok(Self { queue })
    }

    /// Runs `work` on the thread and returns what it returns.
    ///
    /// # Errors
    /// [`NotRun`].
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotRun> {
        let (reply, answer) = oneshot::channel();
        // What is logged meanwhile carries the ids of the request.
        let span = tracing::Span::current();
        let piece = Box::new(move || {
            let _entered = span.entered();
            drop(reply.send(work()));
        });
        self.queue.try_send(piece).map_err(|_| NotRun::Busy)?;
        answer.await.map_err(|_| {
            tracing::error!("Preparing a prompt panicked");
            NotRun::Panicked
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_costs_its_own_work_only_and_is_not_called_busy() {
        let stack = BigStack::start().unwrap();
        assert_eq!(stack.run(|| -> u32 { panic!("on purpose") }).await, Err(NotRun::Panicked));
        assert_eq!(stack.run(|| 7).await, Ok(7));
    }
}
