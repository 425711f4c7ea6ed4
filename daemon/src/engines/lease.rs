//! Rights that give themselves back: the right to use an engine, and the right to change a model that is
//! not in memory.
//!
//! A right may be dropped anywhere, so giving back must neither wait nor fail. It puts a note into a box
//! and rings a bell; the registry empties the box. The box holds at most one note per right.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::event::{Beat, LoadedFacts};
use super::link::Link;
use super::registry::state::{Change, InstanceId, Outcome};
use crate::board::charge::Charge;
use crate::memory::ledger::LineId;
use crate::units::{Bytes, ModelName};

/// A loaded model. What outlives it fails by name.
#[derive(Debug)]
pub struct Engine {
    pub(super) model: ModelName,
    pub(super) instance: InstanceId,
    pub(super) pid: u32,
    pub(super) cpu_level: String,
    pub(super) sandbox: String,
    pub(super) gpu: String,
    pub(super) link: Link,
    pub(super) facts: LoadedFacts,
    pub(super) load_time: std::time::Duration,
    /// Ends what its leases do.
    pub(super) abort: CancellationToken,
    /// How many leases are out and do not rest; the supervisor watches the engine only while there are any.
    pub(super) leases: watch::Sender<u32>,
    /// Its last beat.
    pub(super) beat: watch::Sender<Beat>,
    /// Its line in the ledger.
    pub(super) line: LineId,
    /// What it really takes.
    pub(super) measured: watch::Sender<Measured>,
}

/// What an engine was measured to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// The last time.
    pub now: Charge,
    /// The most of all times.
    pub peak: Bytes,
}

/// The right to use an engine.
#[derive(Debug)]
pub struct Lease {
    engine: Arc<Engine>,
    outcome: Outcome,
    rests: bool,
    returns: Returns,
}

/// The right to change a model while it is not in memory.
#[derive(Debug)]
pub struct Hold {
    model: ModelName,
    change: Change,
    returns: Returns,
}

/// Where rights are given back. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Returns {
    inner: Arc<ReturnBox>,
}

#[derive(Debug, Default)]
struct ReturnBox {
    /// Short sections only.
    notes: Mutex<Vec<Note>>,
    bell: Notify,
}

/// A right that was given back.
#[derive(Debug)]
pub(super) enum Note {
    Lease { model: ModelName, instance: InstanceId, outcome: Outcome },
    Hold { model: ModelName, change: Change },
}

impl Engine {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Instruction set of its build.
    pub fn cpu_level(&self) -> &str {
        &self.cpu_level
    }

    /// What keeps it to its model file.
    pub fn sandbox(&self) -> &str {
        &self.sandbox
    }

    /// GPUs that it may use; empty: none.
    pub fn gpu(&self) -> &str {
        &self.gpu
    }

    /// What it offers.
    pub fn facts(&self) -> LoadedFacts {
        self.facts
    }

    /// Whether its process is known to have ended.
    pub fn has_ended(&self) -> bool {
        self.link.has_ended()
    }

    /// How long the load took.
    pub fn load_time(&self) -> std::time::Duration {
        self.load_time
    }

    /// Its last beat.
    pub fn beat(&self) -> Beat {
        *self.beat.borrow()
    }

    /// Its line in the ledger.
    pub fn line(&self) -> LineId {
        self.line
    }

    /// What it was measured to take; nothing before the first time.
    pub fn measured(&self) -> Measured {
        *self.measured.borrow()
    }

    /// The connection to it.
    pub fn link(&self) -> &Link {
        &self.link
    }
}

impl Lease {
    pub(super) fn new(engine: Arc<Engine>, returns: Returns) -> Self {
        engine.leases.send_modify(|leases| *leases += 1);
        Self { engine, outcome: Outcome::Neutral, rests: false, returns }
    }

    /// Nothing is asked of the engine for now, which stays where it is all the same: it owes no sign of life.
    pub fn rest(&mut self) {
        if !std::mem::replace(&mut self.rests, true) {
            self.engine.leases.send_modify(|leases| *leases = leases.saturating_sub(1));
        }
    }

    /// Something is asked of it again. To be called before it is asked.
    pub fn wake(&mut self) {
        if std::mem::replace(&mut self.rests, false) {
            self.engine.leases.send_modify(|leases| *leases += 1);
        }
    }

    /// What the lease is on.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The engine gave a good answer: it is not in a row of crashes.
    pub fn mark_good(&mut self) {
        self.outcome = Outcome::Good;
    }

    /// Resolves once the answer must end, as the model is taken out of memory.
    pub async fn aborted(&self) {
        self.engine.abort.cancelled().await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.rest();
        self.returns.put(Note::Lease {
            model: self.engine.model.clone(),
            instance: self.engine.instance,
            outcome: self.outcome,
        });
    }
}

impl Hold {
    pub(super) fn new(model: ModelName, returns: Returns) -> Self {
        Self { model, change: Change::None, returns }
    }

    /// The model is another one now, or gone: what is known of it is to be forgotten.
    pub fn mark_changed(&mut self) {
        self.change = Change::Made;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.returns.put(Note::Hold { model: self.model.clone(), change: self.change });
    }
}

impl Returns {
    fn put(&self, note: Note) {
        self.inner.notes.lock().unwrap_or_else(PoisonError::into_inner).push(note);
        self.inner.bell.notify_one();
    }

    /// Everything that was given back since; waits until there is something.
    pub(super) async fn take(&self) -> Vec<Note> {
        loop {
            let notes = std::mem::take(&mut *self.inner.notes.lock().unwrap_or_else(PoisonError::into_inner));
            if !notes.is_empty() {
                return notes;
            }
            self.inner.bell.notified().await;
        }
    }
}
