//! Who gets which model, and the processes behind it.
//!
//! [`Engines`] is the handle that the rest of the daemon has. Behind it one task, the `registry`, owns the
//! state of all models; its decisions are made by a pure core. Each loaded or loading model has a
//! `supervisor` task that owns its process from start to end.
//!
//! ```text
//!  Engines ──Command──► registry (core: state) ──Order──► supervisor ──link──► hearth-engine
//!     ▲                     ▲        │                        │
//!     └──── watch ──────────│────────┘◄────────Report─────────┘
//!                           └◄── returned leases
//! ```
//!
//! **Invariant:** nothing here knows the public wire types or chat formats, and nothing waits on a model
//! where others wait for it.

pub mod config;
pub mod date;
pub mod event;
mod footprint;
mod heartbeat;
pub mod inspect;
mod lease;
pub mod link;
pub mod process;
pub mod program;
mod registry;
pub mod request;
pub mod start;
mod supervisor;
mod words;

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

pub use self::config::{
    CONTEXT_TOKENS, Config, Explicit, KeepAlive, KvType, LoadParams, MICRO_BATCH, ModelOverrides, QUEUE,
    SEQUENCES, THREADS,
};
use self::event::{Inspection, Rendered};
use self::footprint::Target;
use self::inspect::{InspectError, Inspectors, Room};
pub use self::lease::{Engine, Hold, Lease, Measured};
use self::link::{EngineFailure, LinkError};
use self::program::Program;
use self::registry::state::Preview;
pub use self::registry::state::{Action, Intent, ModelState, UnloadMode};
use self::registry::{Command, Registry};
pub use self::registry::{ModelStatus, Snapshot};
use self::request::Prompt;
use crate::board::charge::ChargeReader;
use crate::board::oom::OomReader;
use crate::board::watch::Looks;
use crate::config::live::Live;
use crate::lifecycle::watchdog::Pulse;
use crate::memory::Level;
use crate::memory::ledger::Ledger;
use crate::memory::need::Choice;
use crate::memory::plan::Refusal;
use crate::metrics::Metrics;
use crate::store::{LookupError, Manifest, ModelRef, Store};
use crate::telemetry::LogControl;
use crate::units::{Bytes, Digest, ModelName};

/// Commands wait here while the registry thinks, which takes microseconds.
const COMMAND_QUEUE: usize = 64;

/// What the engines stand on.
#[derive(Clone, Debug)]
pub struct Base {
    /// How they are run; each load looks anew.
    pub config: Live,
    /// The engine program.
    pub program: Program,
    /// The models on disk.
    pub store: Store,
    /// The book of memory.
    pub ledger: Ledger,
    /// Brings its budget up to date.
    pub looks: Looks,
    /// What they shall log.
    pub log: LogControl,
    /// Where loads and crashes are counted.
    pub metrics: Metrics,
    /// Who watches over the loops here.
    pub pulse: Pulse,
}

/// The engines, and the way to them. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Engines {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Live,
    store: Store,
    ledger: Ledger,
    looks: Looks,
    inspectors: Inspectors,
    commands: mpsc::Sender<Command>,
    published: watch::Receiver<Snapshot>,
}

/// A lease that is on its way.
#[derive(Debug)]
pub struct Acquiring {
    model: ModelName,
    lease: oneshot::Receiver<Result<Lease, AcquireError>>,
    published: watch::Receiver<Snapshot>,
    /// The progress that was told last.
    told: Option<(u32, bool)>,
}

/// How far a load is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// Thousandths.
    pub permille: u32,
    /// It waits for memory that others have.
    pub short: bool,
    /// How long all of it takes, as the last one did.
    pub expected: Option<std::time::Duration>,
}

/// What somebody wants of a model.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// What for.
    pub intent: Intent,
    /// How it is to be loaded, where the caller says.
    pub explicit: Option<Explicit>,
    /// How long it is to stay unused, where the caller says.
    pub keep_alive: Option<KeepAlive>,
}

/// What a load would do.
#[derive(Clone, Debug)]
pub struct Planned {
    /// In a word.
    pub action: Action,
    /// The way in which it would be loaded, or is.
    pub choice: Choice,
    /// Models that would go: what they hold, and how long it takes to load them, in milliseconds.
    pub evictions: Vec<(ModelName, Bytes, Option<u64>)>,
    /// Most tokens that the context may grow to.
    pub ceiling: u32,
    /// The largest context that the whole budget holds, in tokens.
    pub largest: Option<u32>,
    /// How long the load takes.
    pub expected_load: Option<std::time::Duration>,
    /// What there is in all.
    pub budget: Bytes,
    /// What is not reserved.
    pub free: Bytes,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The inspector says no.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The daemon goes down.
    #[error(transparent)]
    Acquire(#[from] AcquireError),
}

impl From<Intent> for Wanted {
    fn from(intent: Intent) -> Self {
        Self { intent, explicit: None, keep_alive: None }
    }
}

/// What to tell who waits for a lease.
#[derive(Debug)]
pub enum Waiting {
    /// The load got so far; told once for each number.
    Progress(LoadProgress),
    /// The wait is over.
    Over(Result<Lease, AcquireError>),
}

/// Why there is no lease.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AcquireError {
    /// No such model.
    #[error(transparent)]
    Lookup(Arc<LookupError>),
    /// It does not fit.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Too many wait for this model.
    #[error("{waiting} requests wait for the model already")]
    QueueFull {
        /// How many.
        waiting: usize,
    },
    /// It crashed too often.
    #[error("the model is in quarantine: {reason}")]
    Quarantined {
        /// What happened last.
        reason: String,
    },
    /// Its engine ended while it was loaded.
    #[error("loading the model failed: {reason}")]
    Crashed {
        /// How.
        reason: String,
    },
    /// Its engine refused to load it.
    #[error("{0}")]
    LoadRefused(EngineFailure),
    /// The inspector refuses the file.
    #[error("{reason}")]
    BadModel {
        /// Why.
        reason: String,
    },
    /// The load could not be started.
    #[error("the model cannot be loaded: {reason}")]
    CannotStart {
        /// Why.
        reason: String,
    },
    /// The board is short of memory, and this model is not in it.
    #[error("the board is short of memory: no model is loaded or imported until that is over")]
    Pressure,
    /// Somebody unloaded it.
    #[error("the model was unloaded while it was being loaded")]
    Unloaded,
    /// It is being replaced or removed.
    #[error("the model is being replaced or removed")]
    Held,
    /// The daemon goes down.
    #[error("the daemon is going down")]
    Draining,
}

/// Why a model cannot be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the model is in memory")]
pub struct InUse;

/// Why a prompt was not rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// No such model.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// There is no lease.
    #[error(transparent)]
    Acquire(#[from] AcquireError),
    /// The engine of the loaded model says no.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The inspector says no.
    #[error(transparent)]
    Inspect(#[from] InspectError),
}

#[cfg(test)]
impl Base {
    /// A base with nothing around it, for tests.
    pub fn alone(config: Live, program: Program, store: Store, ledger: Ledger) -> Self {
        let (log, metrics, pulse) = (LogControl::detached(), Metrics::default(), Pulse::default());
        let looks = crate::board::watch::looks().0;
        Self { config, program, store, ledger, looks, log, metrics, pulse }
    }
}

impl Engines {
    /// Starts the registry.
    ///
    /// # Errors
    /// There is no thread to start processes from.
    pub fn start(base: Base, tasks: &TaskTracker) -> std::io::Result<Self> {
        let Base { config, program, store, ledger, looks, log, metrics, pulse } = base;
        let spawner = process::Spawner::start(program, log.clone(), tasks.clone())?;
        let (commands, inbox) = mpsc::channel(COMMAND_QUEUE);
        // Weak, or the registry would keep itself alive.
        let inspectors = Inspectors::new(spawner.clone(), ledger.clone(), commands.downgrade());
        let (publish, published) = watch::channel(Snapshot::default());
        let supervisor = supervisor::Parts {
            spawner,
            inspectors: inspectors.clone(),
            store: store.clone(),
            config: config.clone(),
            log,
            metrics,
            pulse: pulse.clone(),
            ledger: ledger.clone(),
            charges: ChargeReader::new("/"),
            ooms: OomReader::new("/"),
        };
        let registry = Registry::new(supervisor, ledger.clone(), tasks.clone(), publish);
        let run = async move { pulse.guard("engine registry", registry.run(inbox)).await };
        tasks.spawn(run);
        let shared = Shared { config, store, ledger, looks, inspectors, commands, published };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The book of memory.
    pub fn ledger(&self) -> &Ledger {
        &self.shared.ledger
    }

    /// Brings the budget up to date, where nobody does that by himself: while no model is in memory. Others may have
    /// taken memory since the last one went.
    pub async fn renew_budget(&self) {
        let is_idle = self.shared.published.borrow().values().all(|status| status.pid.is_none());
        if is_idle {
            self.shared.looks.look().await;
        }
    }

    /// What all models are doing; ever new.
    pub fn watch(&self) -> watch::Receiver<Snapshot> {
        self.shared.published.clone()
    }

    /// The model that a caller means.
    pub fn lookup(&self, model: &ModelRef) -> Result<Manifest, LookupError> {
        self.shared.store.get(model)
    }

    /// Asks for a lease on a model, which is loaded for it if need be.
    pub async fn acquire(&self, model: &ModelName, wish: Wanted) -> Result<Acquiring, AcquireError> {
        let (reply, lease) = oneshot::channel();
        let published = self.watch();
        let Wanted { intent, explicit, keep_alive } = wish;
        let model = model.clone();
        self.renew_budget().await;
        self.send(Command::Acquire { model: model.clone(), intent, explicit, keep_alive, reply }).await?;
        Ok(Acquiring { model, lease, published, told: None })
    }

    /// What a load would do now, without doing it.
    pub async fn plan(&self, manifest: &Manifest, explicit: &Explicit) -> Result<Planned, PlanError> {
        let Shared { config, store, ledger, inspectors, .. } = &*self.shared;
        let target = Target::from_manifest(store, &config.now(), manifest, Some(explicit));
        let options = target.options(store, inspectors, Room::Free, 0).await?;
        let (reply, preview) = oneshot::channel();
        let model = manifest.name.clone();
        let explicit = *explicit;
        self.renew_budget().await;
        self.send(Command::Plan { model, explicit, options: Arc::clone(&options), reply }).await?;
        let Preview { action, choice, ceiling, evictions } =
            preview.await.map_err(|_| AcquireError::Draining)?;
        let budget = ledger.for_engines();
        Ok(Planned {
            action,
            choice,
            evictions,
            ceiling,
            largest: options.footprint.largest_context(&options.wish, budget),
            expected_load: options.load_ms.map(std::time::Duration::from_millis),
            budget,
            free: ledger.free(),
        })
    }

    /// Keeps a model in memory whatever others need, or lets it go again. Whether it stays now.
    pub async fn pin(&self, model: &ModelName, pinned: bool) -> Result<bool, AcquireError> {
        let (reply, stays) = oneshot::channel();
        self.send(Command::Pin { model: model.clone(), pinned, reply }).await?;
        stays.await.map_err(|_| AcquireError::Draining)
    }

    /// Whether a model stays whatever others need, where it is in memory or not.
    pub fn is_pinned(&self, model: &ModelName) -> bool {
        let listed = self.shared.published.borrow().get(model).is_some_and(|status| status.pinned);
        listed || self.shared.config.now().pinned().contains(model)
    }

    /// Says how short of memory the board is: caches and idle models go, and nothing new is begun that can wait.
    pub async fn pressure(&self, level: Level) {
        self.shared.inspectors.press(level == Level::Full);
        // A registry that has ended has no models.
        self.send(Command::Pressure(level)).await.ok();
    }

    /// Whether work may begin that nobody's answer depends on, like an import.
    ///
    /// # Errors
    /// The board is so short of memory that it may not ([`AcquireError::Pressure`]).
    pub fn may_begin(&self) -> Result<(), AcquireError> {
        if self.shared.inspectors.is_pressed() { Err(AcquireError::Pressure) } else { Ok(()) }
    }

    /// Takes a model out of memory. True where it was in memory.
    pub async fn unload(&self, model: &ModelName, mode: UnloadMode) -> Result<bool, AcquireError> {
        let (reply, done) = oneshot::channel();
        self.send(Command::Unload { model: model.clone(), mode, reply }).await?;
        done.await.map_err(|_| AcquireError::Draining)
    }

    /// Keeps a model out of memory while it is replaced or removed.
    pub async fn hold(&self, model: &ModelName) -> Result<Result<Hold, InUse>, AcquireError> {
        let (reply, held) = oneshot::channel();
        self.send(Command::Hold { model: model.clone(), reply }).await?;
        held.await.map_err(|_| AcquireError::Draining)
    }

    /// Says that the ledger has another budget: idle models that it has no room for go, and who waits for memory
    /// may get it.
    pub async fn budget_changed(&self) {
        // A registry that has ended has no models.
        self.send(Command::Budget).await.ok();
    }

    /// Ends all engines. Resolves once they are gone.
    pub async fn shut_down(&self) {
        let (reply, done) = oneshot::channel();
        if self.send(Command::ShutDown { reply }).await.is_ok() {
            // An error says that the registry has ended, and with it all engines.
            done.await.ok();
        }
    }

    /// Inspects a file that is not yet a model of the store.
    pub async fn inspect_file(
        &self,
        file: &std::path::Path,
        name: &ModelName,
    ) -> Result<Inspection, InspectError> {
        let load = self.shared.config.now().load_params(name);
        self.shared.inspectors.inspect(file, name.as_str(), &load, Room::Made).await
    }

    /// Processes that look at files just now.
    pub fn inspector_pids(&self) -> Vec<u32> {
        self.shared.inspectors.pids()
    }

    /// Keeps what an inspection at import found, so that the first load need not ask again.
    pub fn keep_footprint(&self, name: &ModelName, digest: &Digest, inspection: &Inspection) {
        footprint::keep(
            &self.shared.store,
            self.shared.inspectors.program(),
            self.shared.config.now().load_params(name).gpu_layers,
            digest,
            name,
            &inspection.footprint,
        );
    }

    /// How long the last load of a model took on this board.
    pub fn expected_load(&self, manifest: &Manifest) -> Option<std::time::Duration> {
        let observed = footprint::observed(
            &self.shared.store,
            self.shared.inspectors.program(),
            self.shared.config.now().load_params(&manifest.name).gpu_layers,
            &manifest.weights().digest,
        );
        observed.load_ms.map(std::time::Duration::from_millis)
    }

    /// The prompt as the model would see it: by its engine where it is loaded, else by an inspector.
    pub async fn render(&self, manifest: &Manifest, prompt: Prompt) -> Result<Rendered, RenderError> {
        let prompt = prompt.dated(self.date(&manifest.name));
        let dialect = self.shared.config.now().load_params(&manifest.name).dialect;
        if self.is_ready(&manifest.name) {
            let lease = self.acquire(&manifest.name, Intent::Answer.into()).await?.lease().await?;
            return Ok(lease.engine().link().render(prompt, dialect).await?);
        }
        let file = self.shared.store.blob_path(&manifest.weights().digest);
        let label = manifest.name.as_str();
        Ok(self.shared.inspectors.render(&file, label, prompt, dialect).await?)
    }

    /// How tokens of `model` are chosen where the request does not say.
    pub fn sampling(&self, model: &ModelName) -> request::Sampling {
        self.shared.config.now().sampling(model)
    }

    /// The day that the template of `model` is told now.
    pub fn date(&self, model: &ModelName) -> Option<date::Day> {
        self.shared.config.now().date(model).at(SystemTime::now())
    }

    /// How long a reader may leave an answer of `model` lying.
    pub fn reader_stall(&self, model: &ModelName) -> std::time::Duration {
        self.shared.config.now().load_params(model).reader_stall
    }

    /// How long a tool loop waits for the results of its calls.
    pub fn reply_wait(&self) -> std::time::Duration {
        self.shared.config.now().engine.reply_wait
    }

    fn is_ready(&self, model: &ModelName) -> bool {
        let snapshot = self.shared.published.borrow();
        snapshot.get(model).is_some_and(|status| status.state == ModelState::Ready)
    }

    async fn send(&self, command: Command) -> Result<(), AcquireError> {
        self.shared.commands.send(command).await.map_err(|_| AcquireError::Draining)
    }
}

impl Acquiring {
    /// What the model is doing while one waits.
    pub fn status(&self) -> Option<ModelStatus> {
        self.published.borrow().get(&self.model).cloned()
    }

    /// What happens next. Not to be called again once the wait is over.
    pub async fn next(&mut self) -> Waiting {
        loop {
            // The lease first: progress is of no use to one who has it.
            tokio::select! {
                biased;
                lease = &mut self.lease => return Waiting::Over(over(lease)),
                changed = self.published.changed() => {
                    if changed.is_err() {
                        return Waiting::Over(over((&mut self.lease).await));
                    }
                    if let Some(progress) = self.news() {
                        return Waiting::Progress(progress);
                    }
                }
            }
        }
    }

    /// The lease, without the tale of how it came.
    pub async fn lease(self) -> Result<Lease, AcquireError> {
        over(self.lease.await)
    }

    /// How far the load is, if that was not told before: most of what is published is about other models.
    fn news(&mut self) -> Option<LoadProgress> {
        let published = self.published.borrow_and_update();
        let ModelStatus { permille, short, expected_load, .. } = published.get(&self.model)?;
        let (permille, short, expected) = ((*permille)?, *short, *expected_load);
        let is_news = self.told.replace((permille, short)) != Some((permille, short));
        is_news.then_some(LoadProgress { permille, short, expected })
    }
}

fn over(
    lease: Result<Result<Lease, AcquireError>, oneshot::error::RecvError>,
) -> Result<Lease, AcquireError> {
    lease.unwrap_or(Err(AcquireError::Draining))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures_util::FutureExt;

    use super::*;

    fn loading(model: &ModelName, permille: u32) -> Snapshot {
        let status = ModelStatus {
            state: ModelState::Loading,
            permille: Some(permille),
            waiting: 1,
            ..ModelStatus::default()
        };
        Snapshot::new(BTreeMap::from([(model.clone(), status)]))
    }

    #[test]
    fn progress_is_told_once() {
        let model: ModelName = "a".parse().expect("a name");
        let (publish, published) = watch::channel(Snapshot::default());
        let (reply, lease) = oneshot::channel();
        let mut acquiring = Acquiring { model: model.clone(), lease, published, told: None };
        let mut told = |permille| {
            publish.send_replace(loading(&model, permille));
            match acquiring.next().now_or_never() {
                Some(Waiting::Progress(progress)) => Some(progress.permille),
                Some(Waiting::Over(_)) => panic!("the wait goes on"),
                None => None,
            }
        };
        assert_eq!([0, 0, 300, 300, 600].map(&mut told), [Some(0), None, Some(300), None, Some(600)]);
        // The load begins anew with another engine.
        assert_eq!(told(0), Some(0));
        drop(reply);
        assert!(matches!(acquiring.next().now_or_never(), Some(Waiting::Over(Err(AcquireError::Draining)))));
    }
}
