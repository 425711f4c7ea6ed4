//! Short-lived engine processes that look at a file without loading its weights: at import, and for
//! `Render` and `CountTokens` of a model that is not in memory.
//!
//! A file that crashes its inspector is refused like one that llama.cpp refuses in words: that is what
//! the inspector is for. One that the kernel took for lack of memory says nothing of its file.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout, timeout_at};

use super::config::LoadParams;
use super::event::{Inspection, Rendered};
use super::link::{FailureReason, Link, LinkError};
use super::process::{EngineExit, SpawnError, Spawner, Spec, Task};
use super::program::Program;
use super::registry::Command;
use super::request::Prompt;
use super::start::{Spawned, StartError};
use crate::board::oom::OomReader;
use crate::memory::ledger::{Ledger, NoRoom, Reservation};
use crate::units::Bytes;

/// Inspectors at a time.
const INSPECTORS: usize = 2;

/// What an inspector takes: the program itself, and the vocabulary of its file, several times over while it is read.
/// A vocabulary is a part of the file, and no file has a larger one than that; measured with 152,000 tokens.
const PROGRAM: Bytes = Bytes(32 << 20);
const VOCABULARY: Bytes = Bytes(96 << 20);

/// How often one who waits for memory looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Questions that may wait for an inspector. Each is answered in a second or two, so that beyond them
/// [`WAIT`] would be over before their turn.
const WAITING: usize = 32;

/// How long a question may wait for an inspector: most of [`TIMEOUT`] is left for the answer.
const WAIT: Duration = Duration::from_secs(30);

/// Waiting, and reading a header and a vocabulary from a slow card.
const TIMEOUT: Duration = Duration::from_secs(120);

/// How long an inspector has to end by itself. Nothing is lost with it.
const GRACE: Duration = Duration::from_millis(500);

/// Whether others make room for an inspector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// They do.
    Made,
    /// Only what is free is used.
    Free,
}

/// Runs inspectors. Clones share the limit.
#[derive(Clone, Debug)]
pub struct Inspectors {
    spawner: Spawner,
    /// Who has an inspector or waits for one.
    line: Arc<Semaphore>,
    places: Arc<Semaphore>,
    ledger: Ledger,
    /// Where idle models are asked to make room.
    registry: mpsc::WeakSender<Command>,
    running: Running,
    /// The board is so short of memory that nothing is begun that can wait.
    pressed: Arc<AtomicBool>,
    ooms: OomReader,
}

/// Processes of inspectors. Clones share the list.
#[derive(Clone, Debug, Default)]
struct Running(Arc<Mutex<BTreeSet<u32>>>);

/// A process is on the list until this is dropped.
struct Noted {
    running: Running,
    pid: u32,
}

impl Running {
    /// Each change is a single insert or remove.
    fn pids(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, pid: u32) -> Noted {
        self.pids().insert(pid);
        Noted { running: self.clone(), pid }
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.running.pids().remove(&self.pid);
    }
}

/// Why there is no inspection.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// llama.cpp refuses the file; these are its words.
    #[error("llama.cpp refuses the file: {0}")]
    BadModel(String),
    /// The file made the inspector crash.
    #[error("inspecting the file failed: {0}")]
    Crashed(Arc<EngineExit>),
    /// The inspector says no for another reason.
    #[error(transparent)]
    Link(LinkError),
    /// There is no inspector.
    #[error(transparent)]
    Spawn(SpawnError),
    /// It took too long.
    #[error("inspecting the file took longer than {} s", .0.as_secs())]
    Timeout(Duration),
    /// There is no memory for an inspector, and none came free.
    #[error("looking at the file takes {need}, and {free} are free")]
    NoRoom {
        /// What it takes.
        need: Bytes,
        /// What is free.
        free: Bytes,
        /// What there is for engines and inspectors.
        budget: Bytes,
    },
    /// The board is short of memory.
    #[error("the board is short of memory: no file is looked at until that is over")]
    Pressure,
    /// There are too many questions, or those before this one take too long.
    #[error("no inspector is free and {waiting} questions wait for one already")]
    Busy {
        /// How many.
        waiting: usize,
    },
}

impl Inspectors {
    /// What they run.
    pub(super) fn program(&self) -> &Arc<Program> {
        self.spawner.program()
    }

    /// Inspectors out of `spawner`.
    pub(super) fn new(spawner: Spawner, ledger: Ledger, registry: mpsc::WeakSender<Command>) -> Self {
        let line = Arc::new(Semaphore::new(INSPECTORS + WAITING));
        let places = Arc::new(Semaphore::new(INSPECTORS));
        Self {
            spawner,
            line,
            places,
            ledger,
            registry,
            running: Running::default(),
            pressed: Arc::default(),
            ooms: OomReader::new("/"),
        }
    }

    /// Says whether the board is so short of memory that no inspector is started. Those that run go on: they end in
    /// seconds, and give back what they have.
    pub(super) fn press(&self, pressed: bool) {
        self.pressed.store(pressed, Ordering::Relaxed);
    }

    /// What was said last.
    pub(super) fn is_pressed(&self) -> bool {
        self.pressed.load(Ordering::Relaxed)
    }

    /// Memory for one inspector. Idle models make room if need be; what is in use is waited for, a while.
    async fn room(&self, model: &Path, label: &str, room: Room) -> Result<Reservation, InspectError> {
        let size = std::fs::metadata(model).map_or(VOCABULARY, |file| Bytes(file.len()));
        let need = PROGRAM + (size + size).min(VOCABULARY);
        let deadline = Instant::now() + WAIT;
        loop {
            if self.is_pressed() {
                return Err(InspectError::Pressure);
            }
            let NoRoom { need, free } = match self.ledger.reserve(format!("inspector {label}"), need) {
                Ok(reservation) => return Ok(reservation.ringing(self.bell())),
                Err(no_room) => no_room,
            };
            let budget = self.ledger.for_engines();
            if Instant::now() >= deadline || need > budget {
                return Err(InspectError::NoRoom { need, free, budget });
            }
            if room == Room::Made
                && let Some(registry) = self.registry.upgrade()
            {
                let purpose = format!("an inspection of {label}");
                // One that has ended has no models.
                registry.send(Command::MakeRoom { need, purpose }).await.ok();
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The facts of a file, and what it would take to load it.
    pub async fn inspect(
        &self,
        model: &Path,
        label: &str,
        load: &LoadParams,
        room: Room,
    ) -> Result<Inspection, InspectError> {
        self.ask(model, label, room, |link| async move { link.inspect(load).await }).await
    }

    /// A prompt as the model would see it.
    pub async fn render(
        &self,
        model: &Path,
        label: &str,
        prompt: Prompt,
        dialect: Option<String>,
    ) -> Result<Rendered, InspectError> {
        self.ask(model, label, Room::Made, |link| async move { link.render(prompt, dialect).await }).await
    }

    /// Dropping the future ends the inspector.
    async fn ask<T, F>(
        &self,
        model: &Path,
        label: &str,
        room: Room,
        question: impl FnOnce(Link) -> F,
    ) -> Result<T, InspectError>
    where
        F: Future<Output = Result<T, LinkError>>,
    {
        let deadline = Instant::now() + TIMEOUT;
        let kills = self.ooms.kills();
        let _in_line = self.line.try_acquire().map_err(|_| self.busy())?;
        let place = timeout(WAIT, self.places.acquire()).await.map_err(|_| self.busy())?;
        let _place = place.map_err(|_| InspectError::Spawn(SpawnError::Ending))?;
        let reservation = Some(self.room(model, label, room).await?);
        let spec = Spec { task: Task::Inspect, model, label, reservation };
        let asked = async {
            let inspector = Spawned::spawn(&self.spawner, spec).await?.greet(1).await?;
            let _running = self.running.note(inspector.process.pid());
            let answer = question(inspector.link).await;
            Ok::<_, StartError>((answer, inspector.process))
        };
        let too_long = |_| InspectError::Timeout(TIMEOUT);
        let asked = timeout_at(deadline, asked).await.map_err(too_long)?;
        let (answer, process) = asked.map_err(|error| self.blame(error.into(), kills))?;
        process.stop(GRACE).await;
        answer.map_err(|error| self.blame(error.into(), kills))
    }

    /// An inspector that the kernel killed since `kills` were counted says nothing of the file.
    fn blame(&self, error: InspectError, kills: u64) -> InspectError {
        match error {
            InspectError::Crashed(exit) if exit.was_killed() && self.ooms.kills() > kills => {
                InspectError::Pressure
            }
            error => error,
        }
    }

    /// Tells the registry that the memory of an inspector is free again, however it came to its end: somebody may wait
    /// for it. Where the registry has no place for more news, it looks again anyway.
    fn bell(&self) -> impl FnOnce() + Send + Sync + 'static {
        let registry = self.registry.clone();
        move || {
            if let Some(registry) = registry.upgrade() {
                registry.try_send(Command::Budget).ok();
            }
        }
    }

    /// Processes that run now.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.running.pids().iter().copied().collect()
    }

    fn busy(&self) -> InspectError {
        InspectError::Busy { waiting: WAITING.saturating_sub(self.line.available_permits()) }
    }
}

impl From<LinkError> for InspectError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Refused(failure) if failure.reason == FailureReason::BadModel => {
                let words = if failure.detail.is_empty() { failure.message } else { failure.detail };
                Self::BadModel(words)
            }
            LinkError::Exited(exit) => Self::Crashed(exit),
            other => Self::Link(other),
        }
    }
}

impl From<StartError> for InspectError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Spawn(error) => Self::Spawn(error),
            StartError::Link(error) => error.into(),
            StartError::Silent(time) | StartError::Stalled(time) => Self::Timeout(time),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::memory::{Budget, BudgetSource};
    use crate::telemetry::LogControl;

    fn inspectors() -> Inspectors {
        let budget = Budget { bytes: Bytes(1 << 30), source: BudgetSource::Configured };
        let spawner = Spawner::start(Program::plain("/none"), LogControl::detached(), TaskTracker::new())
            .expect("a thread");
        Inspectors::new(spawner, Ledger::new(budget), mpsc::channel(1).0.downgrade())
    }

    async fn ask(inspectors: &Inspectors) -> Result<Inspection, InspectError> {
        inspectors.inspect(Path::new("/x"), "x", &LoadParams::default(), Room::Made).await
    }

    #[tokio::test]
    async fn who_finds_the_line_full_is_refused_at_once() {
        let inspectors = inspectors();
        let everybody = u32::try_from(INSPECTORS + WAITING).expect("a few");
        let line = inspectors.line.try_acquire_many(everybody).expect("nobody else is there");
        let asked = Instant::now();
        assert!(matches!(ask(&inspectors).await, Err(InspectError::Busy { waiting: WAITING })));
        assert!(asked.elapsed() < WAIT);
        drop(line);
        assert!(matches!(ask(&inspectors).await, Err(InspectError::Spawn(SpawnError::Start { .. }))));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_an_inspector_for_ever() {
        let inspectors = inspectors();
        let _places = inspectors.places.try_acquire_many(2).expect("nobody else is there");
        let asked = Instant::now();
        assert!(matches!(ask(&inspectors).await, Err(InspectError::Busy { .. })));
        assert!(asked.elapsed() >= WAIT && asked.elapsed() < TIMEOUT);
    }
}
