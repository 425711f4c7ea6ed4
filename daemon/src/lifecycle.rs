//! The life of the daemon.
//!
//! ```text
//!  Starting ──bound──► Serving ──SIGTERM/SIGINT──► Draining ──all done──► Stopped
//!                                                     │
//!                                    deadline or second signal: abort
//! ```
//!
//! `Draining`: nothing new is taken, what runs goes on. `abort`: what still runs ends with a status.
//! Readers see the phase through a `watch` and the abort through a token; only [`Lifecycle`] changes them.

pub mod notify;
pub mod signal;
pub mod watchdog;

use std::fmt;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Where the daemon is in its life, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Opens its store and sockets.
    Starting,
    /// Takes requests.
    Serving,
    /// Finishes what runs.
    Draining,
    /// Has ended.
    Stopped,
}

/// The one writer of the phase.
#[derive(Debug)]
pub struct Lifecycle {
    phase: watch::Sender<Phase>,
    draining: CancellationToken,
    abort: CancellationToken,
}

/// A reader of the phase. Clones are cheap.
#[derive(Clone, Debug)]
pub struct LifecycleWatch {
    phase: watch::Receiver<Phase>,
    draining: CancellationToken,
    abort: CancellationToken,
}

impl Lifecycle {
    /// A daemon that starts.
    pub fn new() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Starting),
            draining: CancellationToken::new(),
            abort: CancellationToken::new(),
        }
    }

    /// A reader.
    pub fn watch(&self) -> LifecycleWatch {
        LifecycleWatch {
            phase: self.phase.subscribe(),
            draining: self.draining.clone(),
            abort: self.abort.clone(),
        }
    }

    /// Goes on to `next`. Phases only go forward.
    pub fn enter(&self, next: Phase) {
        let old = self.phase.send_replace(next);
        tracing::info!(phase.old = %old, phase.new = %next, "Changed phase");
        if matches!(next, Phase::Draining | Phase::Stopped) {
            self.draining.cancel();
        }
    }

    /// Ends what still runs, with a status.
    pub fn abort(&self) {
        self.abort.cancel();
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

impl LifecycleWatch {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Resolves once nothing new is taken.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Resolves once what runs must end.
    pub async fn aborted(&self) {
        self.abort.cancelled().await;
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        })
    }
}
