//! What each model is doing, and what follows from what happens. Pure: inputs in, effects out; no clock, no
//! process, no async code.
//!
//! ```text
//!             Acquire, Load                     Ready
//!   Absent ───────────────────► Loading ───────────────────► Ready
//!     ▲                            │ Unload, refusal            │ Unload, eviction
//!     │                            ▼                            ▼
//!     ├──────── Gone ───────── Unloading ◄──────────────────────┤ or its process is seen to have ended
//!     │                                                         │
//!     ├──────── Gone (crash 1, 2) ◄── Loading, Ready ───────────┘
//!     │
//!   Quarantined ◄── Gone (crash 3 without a good answer between); an explicit Load lifts it
//! ```
//!
//! A load passes three steps: its need is estimated, it waits for memory, its engine starts. One load per
//! model, however many wait. An engine that ends is counted until it reports `Gone`, since only then its
//! memory is free. While it is ready its context may grow: the ledger has the memory before the engine has.

mod admission;
mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

pub use admission::Action;
pub(crate) use admission::Preview;

use crate::engines::config::{Explicit, KeepAlive};
use crate::engines::{AcquireError, InUse};
use crate::memory::Level;
use crate::memory::need::{Choice, Footprint, Wish};
use crate::units::{Bytes, ModelName};
use model::{Model, Phase, Step, Stop};

/// Requests that may wait for one model to load. Beyond them a wait is hopeless on any board.
pub(crate) const MAX_WAITERS: usize = 64;

/// A model whose engine crashes so often in a row is not tried again.
pub(crate) const MAX_CRASHES: u32 = 3;

/// A life that has lasted so long says that what was too much for the board once need not be so now. In milliseconds.
const FORGIVEN_AFTER: u64 = 60 * 60 * 1000;

/// One life of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct InstanceId(pub(crate) u64);

/// One who waits for an answer of the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WaiterId(pub(crate) u64);

/// All models of which there is something to say.
#[derive(Debug, Default)]
pub(crate) struct State {
    models: BTreeMap<ModelName, Model>,
    next_instance: u64,
    /// Counts uses: the clock of "least recently used".
    uses: u64,
    draining: bool,
    /// Never evicted, and never too long unused.
    pinned: BTreeSet<ModelName>,
    /// How short of memory the board is.
    pressure: Level,
    /// Under the pressure that there is, caches were given back already.
    shed: bool,
    /// Lines that the input that is being taken in has made another size.
    settled: Settled,
    /// When to look again at who waits for memory.
    alarm: Option<u64>,
}

/// The time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// Milliseconds of a clock that only grows.
    pub(crate) ms: u64,
    /// For the record.
    pub(crate) wall: SystemTime,
}

/// What the ledger says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Books {
    pub(crate) free: Bytes,
    pub(crate) budget: Bytes,
    /// By how much the lines exceed the budget, which has shrunk.
    pub(crate) over: Bytes,
    /// What is reserved for what passes within seconds.
    pub(crate) passing: Bytes,
}

/// What lines have become smaller and larger by since the ledger was looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Settled {
    given: Bytes,
    taken: Bytes,
}

/// The ways in which a model may be loaded.
#[derive(Debug)]
pub(crate) struct Options {
    /// The best first; never empty.
    pub(crate) choices: Vec<Choice>,
    pub(crate) footprint: Footprint,
    pub(crate) wish: Wish,
    /// Most tokens that its context may grow to.
    pub(crate) ceiling: u32,
    /// How long its last load took, in milliseconds.
    pub(crate) load_ms: Option<u64>,
}

/// What somebody wants a model for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// To use it.
    Answer,
    /// To have it in memory; lifts a quarantine.
    Load,
}

/// What happens to running answers of a model that is unloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnloadMode {
    /// They finish.
    Wait,
    /// They end with an error.
    Abort,
}

/// Whether a model was changed while it was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is another one now, or gone.
    Made,
    /// It is what it was.
    None,
}

/// What a lease was good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A good answer.
    Good,
    /// It does not say.
    Neutral,
}

/// How an engine's life ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// As it was told to.
    Stopped,
    /// It did not come up, in an orderly way.
    Failed(AcquireError),
    /// It crashed, or was ended because it hung.
    Crashed(String),
    /// The kernel took it for lack of memory.
    OutOfMemory(String),
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    Acquire {
        model: ModelName,
        waiter: WaiterId,
        intent: Intent,
        /// How it is to be loaded, where the caller says.
        explicit: Option<Explicit>,
        /// How long it is to stay unused, where the caller says.
        keep_alive: Option<KeepAlive>,
    },
    /// The waiter is no more.
    Abandon {
        model: ModelName,
        waiter: WaiterId,
    },
    Return {
        model: ModelName,
        instance: InstanceId,
        outcome: Outcome,
    },
    Unload {
        model: ModelName,
        waiter: WaiterId,
        mode: UnloadMode,
    },
    Estimated {
        model: ModelName,
        instance: InstanceId,
        options: Arc<Options>,
    },
    /// The ledger did not give what the plan had counted on: an inspector was quicker.
    NotReserved {
        model: ModelName,
        instance: InstanceId,
    },
    Progress {
        model: ModelName,
        instance: InstanceId,
        permille: u32,
    },
    Ready {
        model: ModelName,
        instance: InstanceId,
    },
    /// Its requests need a context of so many tokens.
    Wants {
        model: ModelName,
        instance: InstanceId,
        tokens: u32,
    },
    /// It did as it was told of its context, which has so many tokens now.
    Resized {
        model: ModelName,
        instance: InstanceId,
        tokens: u32,
    },
    /// It was measured to take so much, which is more than was reserved.
    Takes {
        model: ModelName,
        instance: InstanceId,
        bytes: Bytes,
    },
    /// Its process has ended; its supervisor will say how.
    Lost {
        model: ModelName,
        instance: InstanceId,
    },
    Gone {
        model: ModelName,
        instance: InstanceId,
        end: End,
    },
    /// Nobody has used it for long enough.
    Unused {
        model: ModelName,
        instance: InstanceId,
        reason: String,
    },
    /// The budget is another one, or somebody gave memory back.
    Budget,
    /// So many bytes are needed for something that is no engine: idle models make room.
    MakeRoom {
        need: Bytes,
        purpose: String,
    },
    /// The board is so short of memory.
    Pressure(Level),
    /// Time has passed.
    Tick,
    ShutDown,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    /// Begin a life. The best `skip` ways to load it were too much before.
    Start { model: ModelName, instance: InstanceId, explicit: Option<Explicit>, skip: usize },
    /// Reserve memory and let the load go on in this way.
    Admit { model: ModelName, instance: InstanceId, choice: Choice, ceiling: u32 },
    /// What it has reserved is so much from now on: less, or what it was measured to take already.
    Settle { instance: InstanceId, bytes: Bytes },
    /// Reserve so much in all, and let its context have so many tokens.
    Grow { model: ModelName, instance: InstanceId, bytes: Bytes, tokens: u32 },
    /// Its context cannot grow.
    RefuseGrowth { instance: InstanceId, reason: String },
    /// Give back what is cached; the context has so many tokens then, if its answers need no more.
    Shed { instance: InstanceId, tokens: u32 },
    /// End an engine or a load.
    Stop { instance: InstanceId },
    /// End its answers first.
    Abort { instance: InstanceId },
    /// Hand out a lease, which is counted from now on.
    Grant { waiter: WaiterId, instance: InstanceId },
    /// Tell a waiter that there is none.
    Fail { waiter: WaiterId, error: AcquireError },
    /// Tell an unloader that the engine is gone.
    Unloaded { waiter: WaiterId, was_loaded: bool },
}

/// What the world sees of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModelState {
    /// Not in memory.
    #[default]
    Absent,
    /// Coming.
    Loading,
    /// In memory.
    Ready,
    /// Going.
    Unloading,
    /// Not tried again.
    Quarantined,
}

/// What the world sees of a model, with the details.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) state: ModelState,
    pub(crate) reason: String,
    pub(crate) permille: Option<u32>,
    pub(crate) waiting: usize,
    pub(crate) crashes: u32,
    pub(crate) last_used: Option<SystemTime>,
    pub(crate) instance: Option<InstanceId>,
    /// It is ready, and nobody uses it.
    pub(crate) idle: bool,
    /// It waits for memory that others have.
    pub(crate) short: bool,
    /// How it is loaded.
    pub(crate) choice: Option<Choice>,
    /// Most tokens that its context may grow to.
    pub(crate) ceiling: Option<u32>,
    /// How long a load takes, in milliseconds.
    pub(crate) load_ms: Option<u64>,
    pub(crate) pinned: bool,
}

impl Settled {
    fn note(&mut self, before: Bytes, after: Bytes) {
        self.given = self.given + before.saturating_sub(after);
        self.taken = self.taken + after.saturating_sub(before);
    }
}

impl Books {
    /// As the ledger will say. What is given back pays for what is over the budget before it is free.
    fn after(self, settled: Settled) -> Self {
        let (has, owes) = (self.free + settled.given, self.over + settled.taken);
        Self { free: has.saturating_sub(owes), over: owes.saturating_sub(has), ..self }
    }
}

impl State {
    /// Takes in what happened.
    pub(crate) fn on(&mut self, input: Input, books: Books, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        let out = &mut effects;
        match input {
            Input::Acquire { model, waiter, intent, explicit, keep_alive } => {
                let wanted = (intent, explicit, keep_alive);
                self.acquire(model, waiter, wanted, books, now, out);
            }
            Input::Abandon { model, waiter } => self.abandon(&model, waiter, out),
            Input::Takes { model, instance, bytes } => self.takes(&model, instance, bytes, out),
            Input::Return { model, instance, outcome } => {
                self.take_back(&model, instance, outcome, now, out);
            }
            Input::Unload { model, waiter, mode } => self.unload(&model, waiter, mode, out),
            Input::Estimated { model, instance, options } => {
                self.estimated(&model, instance, options, now);
            }
            Input::NotReserved { model, instance } => self.not_reserved(&model, instance),
            Input::Progress { model, instance, permille } => self.progress(&model, instance, permille),
            Input::Ready { model, instance } => self.ready(&model, instance, now, out),
            Input::Wants { model, instance, tokens } => self.wants(&model, instance, tokens, out),
            Input::Resized { model, instance, tokens } => self.resized(&model, instance, tokens, out),
            Input::Lost { model, instance } => self.lost(&model, instance),
            Input::Gone { model, instance, end } => self.gone(&model, instance, &end, out),
            Input::Unused { model, instance, reason } => self.unused(&model, instance, &reason, out),
            Input::Budget => {}
            Input::MakeRoom { need, purpose } => self.make_room(need, &purpose, books, now.ms, out),
            Input::Pressure(level) => self.press(level, now.ms, out),
            Input::Tick => {}
            Input::ShutDown => self.shut_down(out),
        }
        let books = books.after(std::mem::take(&mut self.settled));
        self.fit(books, now.ms, out);
        let free = self.grow(books, now.ms, out);
        self.admit(Books { free, ..books }, now.ms, out);
        self.forget_blanks();
        effects
    }

    /// Says which models stay whatever others need.
    pub(crate) fn pin(&mut self, pinned: BTreeSet<ModelName>) {
        self.pinned = pinned;
    }

    /// How long a model is to stay unused, where a request said so.
    pub(crate) fn keep_alive(&self, model: &ModelName) -> Option<KeepAlive> {
        self.models.get(model)?.keep_alive
    }

    /// When time alone may change something.
    pub(crate) fn alarm(&self) -> Option<u64> {
        self.alarm
    }

    /// Keeps a model out of memory until it is released.
    pub(crate) fn hold(&mut self, model: &ModelName) -> Result<(), InUse> {
        let entry = self.models.entry(model.clone()).or_default();
        if entry.held || !matches!(entry.phase, Phase::Absent | Phase::Quarantined) {
            return Err(InUse);
        }
        entry.held = true;
        Ok(())
    }

    /// Ends a hold. What is known of a model that was changed is forgotten.
    pub(crate) fn release(&mut self, model: &ModelName, change: Change) {
        match (change, self.models.get_mut(model)) {
            (Change::Made, _) => drop(self.models.remove(model)),
            (Change::None, Some(model)) => model.held = false,
            (Change::None, None) => {}
        }
        self.forget_blanks();
    }

    /// Names come from clients: only those of which there is something to say are kept.
    fn forget_blanks(&mut self) {
        self.models.retain(|_, model| !model.is_blank());
    }

    /// What the world sees.
    pub(crate) fn views(&self) -> impl Iterator<Item = (&ModelName, View)> {
        self.models.iter().map(|(name, model)| (name, model.view(self.pinned.contains(name))))
    }

    /// Whether no engine is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.models.values().all(|model| matches!(model.phase, Phase::Absent | Phase::Quarantined))
    }

    fn acquire(
        &mut self,
        name: ModelName,
        waiter: WaiterId,
        (intent, explicit, keep_alive): (Intent, Option<Explicit>, Option<KeepAlive>),
        books: Books,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        let use_number = self.next_use();
        let (draining, pressed) = (self.draining, self.pressure == Level::Full);
        let model = self.models.entry(name.clone()).or_default();
        if intent == Intent::Load && model.phase == Phase::Quarantined {
            model.phase = Phase::Absent;
            model.crashes = 0;
        }
        if intent == Intent::Load {
            // Somebody who asks for it by name knows of more memory.
            model.forgive();
        }
        let refusal = model.refusal(draining, pressed).or_else(|| model.impossible(explicit?, books.budget));
        match refusal {
            Some(error) => out.push(Effect::Fail { waiter, error }),
            None => {
                model.keep_alive = keep_alive.or(model.keep_alive);
                if let Some(explicit) = explicit {
                    model.want(explicit, out);
                }
                if let Phase::Ready { instance, leases, .. } = &mut model.phase {
                    *leases += 1;
                    model.idle_since = None;
                    model.last_used = Some((use_number, now.wall));
                    out.push(Effect::Grant { waiter, instance: *instance });
                } else {
                    model.waiters.push_back(waiter);
                    self.start_if_absent(&name, out);
                }
            }
        }
    }

    fn start_if_absent(&mut self, name: &ModelName, out: &mut Vec<Effect>) {
        let instance = InstanceId(self.next_instance);
        let Some(model) = self.models.get_mut(name) else { return };
        if model.phase == Phase::Absent {
            self.next_instance += 1;
            model.phase = Phase::Loading { instance, step: Step::Estimating };
            model.reason.clear();
            model.started_as = model.explicit;
            let (explicit, skip) = (model.explicit, model.too_much);
            out.push(Effect::Start { model: name.clone(), instance, explicit, skip });
        }
    }

    fn abandon(&mut self, name: &ModelName, waiter: WaiterId, out: &mut Vec<Effect>) {
        let Some(model) = self.models.get_mut(name) else { return };
        let waited = model.waiters.len();
        model.waiters.retain(|other| *other != waiter);
        let has_begun = matches!(model.phase, Phase::Loading { step: Step::Starting { .. }, .. });
        let is_loading = matches!(model.phase, Phase::Loading { .. });
        if waited > 0 && model.waiters.is_empty() && is_loading && !has_begun {
            model.end("nobody waits for it any more", UnloadMode::Wait, out);
        }
    }

    fn take_back(
        &mut self,
        name: &ModelName,
        of: InstanceId,
        outcome: Outcome,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        let use_number = self.next_use();
        let Some(model) = self.models.get_mut(name) else { return };
        if outcome == Outcome::Good {
            model.crashes = 0;
            let lasts = model.phase.is_ready() && now.ms.saturating_sub(model.ready_at) >= FORGIVEN_AFTER;
            if lasts {
                // The board is another one than when the kernel took its engine: the next load may be as at first.
                model.forgive();
            }
        }
        match &mut model.phase {
            Phase::Ready { instance, leases, .. } if *instance == of => {
                *leases = leases.saturating_sub(1);
                model.last_used = Some((use_number, now.wall));
                if *leases == 0 {
                    model.idle_since = Some(now.ms);
                }
            }
            Phase::Unloading { instance, leases, stop, .. } if *instance == of => {
                *leases = leases.saturating_sub(1);
                if *leases == 0 && *stop == Stop::AfterLeases {
                    *stop = Stop::Told;
                    out.push(Effect::Stop { instance: of });
                }
            }
            _ => {}
        }
    }

    fn unload(&mut self, name: &ModelName, waiter: WaiterId, mode: UnloadMode, out: &mut Vec<Effect>) {
        let loaded = self.models.get_mut(name).filter(|model| model.phase.instance().is_some());
        let Some(model) = loaded else {
            return out.push(Effect::Unloaded { waiter, was_loaded: false });
        };
        model.unloaders.push(waiter);
        if matches!(model.phase, Phase::Loading { .. }) {
            model.fail_waiters(&AcquireError::Unloaded, out);
        }
        model.end("unloaded on request", mode, out);
    }

    fn estimated(&mut self, name: &ModelName, of: InstanceId, options: Arc<Options>, now: Now) {
        let Some(model) = self.models.get_mut(name) else { return };
        if model.phase == (Phase::Loading { instance: of, step: Step::Estimating }) {
            model.load_ms = options.load_ms.or(model.load_ms);
            model.phase = Phase::Loading { instance: of, step: Step::Waiting { since: now.ms } };
            model.options = Some(options);
        }
    }

    /// Back to its place in line, which goes by the numbers of instances.
    fn not_reserved(&mut self, name: &ModelName, of: InstanceId) {
        let Some(model) = self.models.get_mut(name) else { return };
        if let Phase::Loading { instance, step: Step::Starting { since, .. } } = model.phase
            && instance == of
        {
            model.phase = Phase::Loading { instance, step: Step::Waiting { since } };
            model.choice = None;
        }
    }

    fn progress(&mut self, name: &ModelName, of: InstanceId, now: u32) {
        if let Some(Phase::Loading { instance, step: Step::Starting { permille, .. } }) = self.phase_mut(name)
            && *instance == of
        {
            *permille = now;
        }
    }

    fn ready(&mut self, name: &ModelName, of: InstanceId, now: Now, out: &mut Vec<Effect>) {
        let use_number = self.next_use();
        let Some(model) = self.models.get_mut(name) else { return };
        let Phase::Loading { instance, step: Step::Starting { charge, since, .. } } = model.phase else {
            return;
        };
        if instance != of {
            return;
        }
        // What the load alone needed is free again.
        let loaded = model.choice.map_or(charge, |choice| choice.estimate.loaded().min(charge));
        if loaded < charge {
            self.settled.note(charge, loaded);
            out.push(Effect::Settle { instance, bytes: loaded });
        }
        let leases = u32::try_from(model.waiters.len()).unwrap_or(u32::MAX);
        model.phase = Phase::Ready { instance, leases, charge: loaded };
        model.ready_at = now.ms;
        model.load_ms = Some(now.ms.saturating_sub(since));
        model.idle_since = (leases == 0).then_some(now.ms);
        model.last_used = Some((use_number, now.wall));
        out.extend(model.waiters.drain(..).map(|waiter| Effect::Grant { waiter, instance }));
    }

    /// Nobody gets a lease on the dead: who asks from now on waits for the next engine.
    fn lost(&mut self, name: &ModelName, of: InstanceId) {
        let Some(model) = self.models.get_mut(name) else { return };
        match model.phase {
            Phase::Ready { instance, leases, charge }
            | Phase::Unloading { instance, leases, charge, stop: Stop::AfterLeases }
                if instance == of =>
            {
                model.phase = Phase::Unloading { instance, leases, charge, stop: Stop::Told };
                "its engine has ended".clone_into(&mut model.reason);
            }
            _ => {}
        }
    }

    fn gone(&mut self, name: &ModelName, of: InstanceId, end: &End, out: &mut Vec<Effect>) {
        if !self.is_current(name, of) {
            return;
        }
        let Some(model) = self.models.get_mut(name) else { return };
        let was_loading = matches!(model.phase, Phase::Loading { .. });
        model.rest(end);
        // What did not fit is tried again smaller, for those who wait.
        let tries_again = matches!(end, End::OutOfMemory(_)) && model.phase == Phase::Absent;
        if was_loading && !tries_again {
            let error = model.load_error(end);
            model.fail_waiters(&error, out);
        } else if let Some(error) = model.refusal(self.draining, false) {
            model.fail_waiters(&error, out);
        }
        out.extend(model.unloaders.drain(..).map(|waiter| Effect::Unloaded { waiter, was_loaded: true }));
        if !model.waiters.is_empty() {
            self.start_if_absent(name, out);
        } else if let Some(model) = self.models.get_mut(name) {
            model.explicit = None;
            model.keep_alive = None;
        }
    }

    fn shut_down(&mut self, out: &mut Vec<Effect>) {
        self.draining = true;
        for model in self.models.values_mut() {
            model.fail_waiters(&AcquireError::Draining, out);
            model.end("the daemon is going down", UnloadMode::Abort, out);
        }
    }

    fn unused(&mut self, name: &ModelName, of: InstanceId, reason: &str, out: &mut Vec<Effect>) {
        let is_pinned = self.pinned.contains(name);
        if let Some(model) = self.models.get_mut(name)
            && matches!(model.phase, Phase::Ready { instance, leases: 0, .. } if instance == of)
            && !is_pinned
        {
            model.end(reason, UnloadMode::Wait, out);
        }
    }

    fn is_current(&self, name: &ModelName, of: InstanceId) -> bool {
        self.models.get(name).and_then(|model| model.phase.instance()) == Some(of)
    }

    fn phase_mut(&mut self, name: &ModelName) -> Option<&mut Phase> {
        self.models.get_mut(name).map(|model| &mut model.phase)
    }

    fn next_use(&mut self) -> u64 {
        self.uses += 1;
        self.uses
    }
}

#[cfg(test)]
mod tests;
