//! The one owner of the state of all models: a task that feeds its pure core with what happens and does
//! what follows.
//!
//! It never waits for an engine, a file or a client: supervisors wait, and report.

pub(crate) mod state;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Deref;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;
use tracing::{Instrument, error_span};

use self::state::{
    Books, Effect, Input, InstanceId, Intent, ModelState, Now, Options, Preview, State, UnloadMode, WaiterId,
};
use super::config::Explicit;
use super::lease::{Engine, Hold, Lease, Note, Returns};
use super::supervisor::{Admission, Life, News, Order, Parts, Report};
use super::{AcquireError, InUse, KeepAlive};
use crate::memory::Level;
use crate::memory::ledger::{Ledger, LineId};
use crate::memory::need::Choice;
use crate::units::{Bytes, ModelName};

/// Reports wait here while the registry thinks. Supervisors may wait for room.
const REPORT_QUEUE: usize = 64;

/// A supervisor is let in and stopped once each, and in between told of one size of its context at a time; with room
/// for all that, giving an order never waits.
const ORDER_QUEUE: usize = 16;

/// What is asked of the registry.
#[derive(Debug)]
pub(crate) enum Command {
    Acquire {
        model: ModelName,
        intent: Intent,
        explicit: Option<Explicit>,
        keep_alive: Option<KeepAlive>,
        reply: oneshot::Sender<Result<Lease, AcquireError>>,
    },
    /// What would a load do?
    Plan {
        model: ModelName,
        explicit: Explicit,
        options: Arc<Options>,
        reply: oneshot::Sender<Preview>,
    },
    /// Whether it stays whatever others need, beside what the configuration says.
    Pin {
        model: ModelName,
        pinned: bool,
        reply: oneshot::Sender<bool>,
    },
    /// Memory is needed for something that is no engine.
    MakeRoom {
        need: Bytes,
        purpose: String,
    },
    /// The board is so short of memory.
    Pressure(Level),
    Unload {
        model: ModelName,
        mode: UnloadMode,
        reply: oneshot::Sender<bool>,
    },
    Hold {
        model: ModelName,
        reply: oneshot::Sender<Result<Hold, InUse>>,
    },
    /// The ledger has another budget.
    Budget,
    ShutDown {
        reply: oneshot::Sender<()>,
    },
}

/// All models of which there is something to say, as the world sees them. Clones are cheap.
#[derive(Clone, Debug, Default)]
pub struct Snapshot(Arc<BTreeMap<ModelName, ModelStatus>>);

/// What a model is doing.
#[derive(Clone, Debug, Default)]
pub struct ModelStatus {
    /// In one word.
    pub state: ModelState,
    /// Why; empty where there is nothing to say.
    pub reason: String,
    /// How far a load is.
    pub permille: Option<u32>,
    /// Requests that wait for the load.
    pub waiting: usize,
    /// Crashes since the last good answer.
    pub crashes: u32,
    /// When it was last used.
    pub last_used: Option<SystemTime>,
    /// Its engine, once it is ready.
    pub engine: Option<Arc<Engine>>,
    /// Its process.
    pub pid: Option<u32>,
    /// It waits for memory that others have.
    pub short: bool,
    /// How it is loaded, its context as it is now.
    pub choice: Option<Choice>,
    /// Most tokens that its context may grow to.
    pub ceiling: Option<u32>,
    /// How long a load takes.
    pub expected_load: Option<Duration>,
    /// It stays whatever others need.
    pub pinned: bool,
    /// When it goes if nobody uses it before.
    pub unload_at: Option<SystemTime>,
}

/// The task.
pub(super) struct Registry {
    core: State,
    parts: Parts,
    ledger: Ledger,
    tasks: TaskTracker,
    returns: Returns,
    reports: mpsc::Sender<Report>,
    inbox: mpsc::Receiver<Report>,
    lives: HashMap<InstanceId, LifeHandle>,
    /// Models that nobody uses, and since when.
    idle: BTreeMap<ModelName, (InstanceId, Instant)>,
    waiters: HashMap<WaiterId, Waiter>,
    next_waiter: u64,
    /// Since when the clock runs that the core is told.
    began: Instant,
    /// Models that stay, beside those of the configuration.
    pinned: BTreeSet<ModelName>,
    /// Asked to shut down: nothing is started any more.
    is_shut: bool,
    /// Who asked for that, and wants to hear when all engines are gone.
    shutting_down: Vec<oneshot::Sender<()>>,
    publish: watch::Sender<Snapshot>,
}

/// A life as the registry sees it.
struct LifeHandle {
    orders: mpsc::Sender<Order>,
    pid: Option<u32>,
    /// Its line in the ledger.
    line: Option<LineId>,
    engine: Option<Arc<Engine>>,
}

/// Who waits for an answer.
enum Waiter {
    Lease { model: ModelName, reply: oneshot::Sender<Result<Lease, AcquireError>> },
    Unload(oneshot::Sender<bool>),
}

/// All that wakes the registry.
enum Event {
    Returned(Vec<Note>),
    Report(Report),
    Command(Command),
    /// One who waits for a model is there no more.
    Abandoned,
    /// A model was unused for long enough, perhaps.
    TimeUp,
    /// Nobody can ask any more.
    Deserted,
}

impl Waiter {
    /// Whether it waits no more for a lease; `context` is woken once that is so.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> bool {
        match self {
            Self::Lease { reply, .. } => reply.poll_closed(context).is_ready(),
            Self::Unload(_) => false,
        }
    }
}

impl Registry {
    pub(super) fn new(
        parts: Parts,
        ledger: Ledger,
        tasks: TaskTracker,
        publish: watch::Sender<Snapshot>,
    ) -> Self {
        let (reports, inbox) = mpsc::channel(REPORT_QUEUE);
        Self {
            core: State::default(),
            parts,
            ledger,
            tasks,
            returns: Returns::default(),
            reports,
            inbox,
            lives: HashMap::new(),
            idle: BTreeMap::new(),
            waiters: HashMap::new(),
            next_waiter: 0,
            began: Instant::now(),
            pinned: BTreeSet::new(),
            is_shut: false,
            shutting_down: Vec::new(),
            publish,
        }
    }

    /// Runs until it was shut down, or nobody can ask any more, and all engines are gone.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut deserted = false;
        while !((deserted || self.is_shut) && self.core.is_empty()) {
            let event = self.next_event(&mut commands, deserted).await;
            // Before it is taken in: no model goes for those who have gone.
            self.forget_all_gone();
            match event {
                Event::Returned(notes) => notes.into_iter().for_each(|note| self.take_back(note)),
                Event::Report(report) => self.hear(report),
                Event::Command(command) => self.obey(command),
                Event::Abandoned => {}
                Event::TimeUp => {
                    self.let_go_of_unused();
                    self.feed(Input::Tick);
                }
                Event::Deserted => {
                    deserted = true;
                    self.feed(Input::ShutDown);
                }
            }
            self.after_event();
        }
    }

    /// What is given back and what engines report comes before new wishes, which depend on both.
    async fn next_event(&mut self, commands: &mut mpsc::Receiver<Command>, deserted: bool) -> Event {
        let time_up = self.next_time_up();
        tokio::select! {
            biased;
            notes = self.returns.take() => Event::Returned(notes),
            Some(report) = self.inbox.recv() => Event::Report(report),
            command = commands.recv(), if !deserted => command.map_or(Event::Deserted, Event::Command),
            () = one_gone(&mut self.waiters) => Event::Abandoned,
            () = sleep_until(time_up), if time_up.is_some() => Event::TimeUp,
        }
    }

    /// When the first of the unused models has been so for long enough, or the core wants to look again. Where all
    /// stay for ever and nobody waits, no clock runs.
    fn next_time_up(&self) -> Option<Instant> {
        let unused = self.idle.iter().filter_map(|(model, (_, since))| self.time_up(model, *since));
        let alarm = self.core.alarm().and_then(|ms| self.began.checked_add(Duration::from_millis(ms)));
        unused.map(|(at, _)| at).chain(alarm).min()
    }

    fn time_up(&self, model: &ModelName, since: Instant) -> Option<(Instant, Duration)> {
        let asked = self.core.keep_alive(model);
        match asked.unwrap_or_else(|| self.parts.config.now().keep_alive(model)) {
            KeepAlive::For(time) if !self.all_pinned().contains(model) => {
                Some((since.checked_add(time)?, time))
            }
            _ => None,
        }
    }

    fn all_pinned(&self) -> BTreeSet<ModelName> {
        let mut pinned = self.parts.config.now().pinned();
        pinned.extend(self.pinned.iter().cloned());
        pinned
    }

    fn now(&self) -> Now {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { ms, wall: SystemTime::now() }
    }

    fn books(&self) -> Books {
        let (all, lines) = (self.ledger.budget().bytes, self.ledger.reserved());
        // Inspectors are gone in a second or two.
        let of_engines: Bytes =
            self.lives.values().filter_map(|life| life.line).map(|line| self.ledger.size(line)).sum();
        let budget = self.ledger.for_engines();
        let others = lines.saturating_sub(of_engines + all.saturating_sub(budget));
        Books { free: all.saturating_sub(lines), budget, over: lines.saturating_sub(all), passing: others }
    }

    fn let_go_of_unused(&mut self) {
        let now = Instant::now();
        let unused: Vec<_> = self
            .idle
            .iter()
            .filter_map(|(model, (instance, since))| {
                let (_, time) = self.time_up(model, *since).filter(|(at, _)| *at <= now)?;
                let reason = format!("nobody used it for {}", humantime::format_duration(time));
                Some(Input::Unused { model: model.clone(), instance: *instance, reason })
            })
            .collect();
        unused.into_iter().for_each(|input| self.feed(input));
    }

    /// Keeps the record of who is unused since when.
    fn watch_idle(&mut self) {
        let now = Instant::now();
        let idle = self.core.views().filter(|(_, view)| view.idle);
        self.idle = idle
            .filter_map(|(name, view)| {
                let instance = view.instance?;
                let since = self.idle.get(name).filter(|(known, _)| *known == instance);
                Some((name.clone(), (instance, since.map_or(now, |(_, since)| *since))))
            })
            .collect();
    }

    fn take_back(&mut self, note: Note) {
        match note {
            Note::Lease { model, instance, outcome } => self.feed(Input::Return { model, instance, outcome }),
            Note::Hold { model, change } => {
                self.core.release(&model, change);
                if self.parts.store.get(&model.clone().into()).is_err() {
                    // Of a model that is no more nobody could take the pin off.
                    self.pinned.remove(&model);
                }
            }
        }
    }

    fn hear(&mut self, Report { model, instance, news }: Report) {
        match news {
            News::Estimated(options) => self.feed(Input::Estimated { model, instance, options }),
            News::Spawned(pid) => {
                if let Some(life) = self.lives.get_mut(&instance) {
                    life.pid = Some(pid);
                }
            }
            News::Wants(tokens) => self.feed(Input::Wants { model, instance, tokens }),
            News::Takes(bytes) => self.feed(Input::Takes { model, instance, bytes }),
            News::Resized(tokens) => self.feed(Input::Resized { model, instance, tokens }),
            News::Progress(permille) => self.feed(Input::Progress { model, instance, permille }),
            News::Ready(engine) => {
                if let Some(life) = self.lives.get_mut(&instance) {
                    life.engine = Some(engine);
                }
                self.feed(Input::Ready { model, instance });
            }
            News::Gone(end) => {
                self.lives.remove(&instance);
                self.feed(Input::Gone { model, instance, end });
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Acquire { model, intent, explicit, keep_alive, reply } => {
                self.forget_the_gone(&model);
                self.notice_the_dead(&model);
                let waiter = self.enlist(Waiter::Lease { model: model.clone(), reply });
                self.feed(Input::Acquire { model, waiter, intent, explicit, keep_alive });
            }
            Command::Plan { model, explicit, options, reply } => {
                self.core.pin(self.all_pinned());
                let preview = self.core.preview(&model, explicit, &options, self.books(), self.now().ms);
                // One who no longer waits needs no answer.
                reply.send(preview).ok();
            }
            Command::Pin { model, pinned, reply } => {
                if pinned {
                    self.pinned.insert(model.clone());
                } else {
                    self.pinned.remove(&model);
                }
                let stays = self.all_pinned().contains(&model);
                // Who waits for memory may get it now.
                self.feed(Input::Tick);
                reply.send(stays).ok();
            }
            Command::MakeRoom { need, purpose } => self.feed(Input::MakeRoom { need, purpose }),
            Command::Pressure(level) => self.feed(Input::Pressure(level)),
            Command::Unload { model, mode, reply } => {
                let waiter = self.enlist(Waiter::Unload(reply));
                self.feed(Input::Unload { model, waiter, mode });
            }
            Command::Hold { model, reply } => {
                let held = self.core.hold(&model);
                let hold = held.map(|()| Hold::new(model, self.returns.clone()));
                // One who no longer waits drops the hold, which ends it.
                reply.send(hold).ok();
            }
            Command::Budget => self.feed(Input::Budget),
            Command::ShutDown { reply } => {
                self.is_shut = true;
                self.shutting_down.push(reply);
                self.feed(Input::ShutDown);
            }
        }
    }

    /// Waiters that went away must not fill the line.
    fn forget_the_gone(&mut self, model: &ModelName) {
        let gone: Vec<WaiterId> = self
            .waiters
            .iter()
            .filter(|(_, waiter)| {
                matches!(waiter, Waiter::Lease { model: of, reply } if of == model && reply.is_closed())
            })
            .map(|(id, _)| *id)
            .collect();
        for waiter in gone {
            self.waiters.remove(&waiter);
            self.feed(Input::Abandon { model: model.clone(), waiter });
        }
    }

    /// A load that waits for memory drives nobody out for those who have gone.
    fn forget_all_gone(&mut self) {
        let gone = self.waiters.values().filter_map(|waiter| match waiter {
            Waiter::Lease { model, reply } if reply.is_closed() => Some(model.clone()),
            _ => None,
        });
        let gone: BTreeSet<ModelName> = gone.collect();
        gone.iter().for_each(|model| self.forget_the_gone(model));
    }

    /// How an engine ended is known to its users before its supervisor has reported it. Who asks in between
    /// must not get the dead one.
    fn notice_the_dead(&mut self, model: &ModelName) {
        let is_dead = |life: &LifeHandle| {
            life.engine.as_ref().is_some_and(|engine| engine.model == *model && engine.has_ended())
        };
        let dead = self.lives.iter().find(|(_, life)| is_dead(life)).map(|(instance, _)| *instance);
        if let Some(instance) = dead {
            self.feed(Input::Lost { model: model.clone(), instance });
        }
    }

    fn enlist(&mut self, waiter: Waiter) -> WaiterId {
        let id = WaiterId(self.next_waiter);
        self.next_waiter += 1;
        self.waiters.insert(id, waiter);
        id
    }

    fn feed(&mut self, input: Input) {
        self.core.pin(self.all_pinned());
        let effects = self.core.on(input, self.books(), self.now());
        effects.into_iter().for_each(|effect| self.perform(effect));
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Start { model, instance, explicit, skip } => self.start(model, instance, explicit, skip),
            Effect::Admit { model, instance, choice, ceiling } => {
                self.admit(model, instance, choice, ceiling)
            }
            Effect::Settle { instance, bytes } => {
                if let Some(line) = self.line(instance) {
                    self.ledger.set(line, bytes);
                }
            }
            Effect::Grow { model, instance, bytes, tokens } => self.grow(model, instance, bytes, tokens),
            Effect::RefuseGrowth { instance, reason } => self.order(instance, Order::RefuseGrowth(reason)),
            Effect::Shed { instance, tokens } => self.order(instance, Order::Shed(tokens)),
            Effect::Stop { instance } => self.order(instance, Order::Stop),
            Effect::Abort { instance } => {
                if let Some(engine) = self.engine(instance) {
                    engine.abort.cancel();
                }
            }
            Effect::Grant { waiter, instance } => self.grant(waiter, instance),
            Effect::Fail { waiter, error } => {
                if let Some(Waiter::Lease { reply, .. }) = self.waiters.remove(&waiter) {
                    // One who no longer waits needs no answer.
                    reply.send(Err(error)).ok();
                }
            }
            Effect::Unloaded { waiter, was_loaded } => {
                if let Some(Waiter::Unload(reply)) = self.waiters.remove(&waiter) {
                    reply.send(was_loaded).ok();
                }
            }
        }
    }

    fn start(&mut self, model: ModelName, instance: InstanceId, explicit: Option<Explicit>, skip: usize) {
        let (orders, inbox) = mpsc::channel(ORDER_QUEUE);
        self.lives.insert(instance, LifeHandle { orders, pid: None, line: None, engine: None });
        let span = error_span!("load", model.name = %model);
        let (parts, reports) = (self.parts.clone(), self.reports.clone());
        let life = Life { model, instance, explicit, skip, parts, reports };
        self.tasks.spawn(life.run(inbox).instrument(span.or_current()));
    }

    fn admit(&mut self, model: ModelName, instance: InstanceId, choice: Choice, ceiling: u32) {
        let need = choice.estimate.peak();
        match self.ledger.reserve(format!("engine {model}"), need) {
            Ok(reservation) => {
                if let Some(life) = self.lives.get_mut(&instance) {
                    life.line = Some(reservation.line());
                }
                self.order(instance, Order::Admit(Admission { reservation, choice, ceiling }));
            }
            Err(_) => self.feed(Input::NotReserved { model, instance }),
        }
    }

    fn grow(&mut self, model: ModelName, instance: InstanceId, bytes: Bytes, tokens: u32) {
        let Some(line) = self.line(instance) else { return };
        match self.ledger.resize(line, bytes) {
            Ok(()) => self.order(instance, Order::Resize(tokens)),
            // The budget has shrunk since. What the engine answers settles the line.
            Err(no_room) => {
                tracing::debug!(model.name = %model, %no_room, "No room for a context after all");
                self.order(instance, Order::RefuseGrowth(no_room.to_string()));
            }
        }
    }

    fn line(&self, instance: InstanceId) -> Option<LineId> {
        self.lives.get(&instance)?.line
    }

    /// A supervisor that does not take an order has ended and will report so.
    fn order(&mut self, instance: InstanceId, order: Order) {
        if let Some(life) = self.lives.get(&instance) {
            life.orders.try_send(order).ok();
        }
    }

    fn engine(&self, instance: InstanceId) -> Option<Arc<Engine>> {
        self.lives.get(&instance).and_then(|life| life.engine.clone())
    }

    fn grant(&mut self, waiter: WaiterId, instance: InstanceId) {
        let Some(Waiter::Lease { reply, .. }) = self.waiters.remove(&waiter) else { return };
        let engine = self.engine(instance).expect("a granted engine is ready, and a ready one is known");
        // One who no longer waits drops the lease, which gives it back.
        reply.send(Ok(Lease::new(engine, self.returns.clone()))).ok();
    }

    fn after_event(&mut self) {
        self.watch_idle();
        self.publish();
        if !self.shutting_down.is_empty() && self.core.is_empty() {
            for reply in self.shutting_down.drain(..) {
                reply.send(()).ok();
            }
        }
    }

    fn publish(&self) {
        let mut statuses: BTreeMap<_, _> =
            self.core.views().map(|(name, view)| (name.clone(), self.status(name, view))).collect();
        for name in &self.pinned {
            let pinned = ModelStatus { pinned: true, ..ModelStatus::default() };
            statuses.entry(name.clone()).or_insert(pinned);
        }
        log_changes(&self.publish.borrow().0, &statuses);
        self.publish.send_replace(Snapshot::new(statuses));
    }

    fn status(&self, name: &ModelName, view: state::View) -> ModelStatus {
        let state::View {
            state,
            reason,
            permille,
            waiting,
            crashes,
            last_used,
            instance,
            idle: _,
            short,
            choice,
            ceiling,
            load_ms,
            pinned,
        } = view;
        let life = instance.and_then(|instance| self.lives.get(&instance));
        let unload_at = self
            .idle
            .get(name)
            .and_then(|(_, since)| self.time_up(name, *since))
            .map(|(at, _)| SystemTime::now() + at.saturating_duration_since(Instant::now()));
        ModelStatus {
            state,
            reason,
            permille,
            waiting,
            crashes,
            last_used,
            engine: life.and_then(|life| life.engine.clone()),
            pid: life.and_then(|life| life.pid),
            short,
            choice,
            ceiling,
            expected_load: load_ms.map(Duration::from_millis),
            pinned,
            unload_at,
        }
    }
}

/// Resolves once one who waits for a model has gone away: others may wait behind it.
async fn one_gone(waiters: &mut HashMap<WaiterId, Waiter>) {
    std::future::poll_fn(|context| {
        let mut gone = false;
        // Every one of them is to wake the registry.
        for waiter in waiters.values_mut() {
            gone |= waiter.poll_gone(context);
        }
        if gone { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

async fn sleep_until(time: Option<Instant>) {
    if let Some(time) = time {
        tokio::time::sleep_until(time.into()).await;
    }
}

/// States change here only, so this is where they are logged.
fn log_changes(old: &BTreeMap<ModelName, ModelStatus>, new: &BTreeMap<ModelName, ModelStatus>) {
    let forgotten = old.keys().filter(|name| !new.contains_key(*name));
    for name in new.keys().chain(forgotten) {
        let state = |statuses: &BTreeMap<ModelName, ModelStatus>| {
            statuses.get(name).map_or(ModelState::Absent, |status| status.state)
        };
        let (before, now) = (state(old), state(new));
        let reason = new.get(name).map_or("", |status| &status.reason);
        if before == now {
            continue;
        }
        if now == ModelState::Quarantined {
            tracing::error!(model.name = %name, %reason, "Quarantined model");
        } else {
            tracing::info!(
                model.name = %name,
                state.old = ?before,
                state.new = ?now,
                %reason,
                "Changed model state"
            );
        }
    }
}

impl Snapshot {
    pub(super) fn new(statuses: BTreeMap<ModelName, ModelStatus>) -> Self {
        Self(Arc::new(statuses))
    }
}

impl Deref for Snapshot {
    type Target = BTreeMap<ModelName, ModelStatus>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}
