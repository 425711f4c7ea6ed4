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
//! memory is free.

mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use crate::engines::{AcquireError, InUse};
use crate::memory::plan::{Idle, Plan, Refusal, Room, plan};
use crate::units::{Bytes, ModelName};
use model::{Model, Phase, Step, Stop};

/// Requests that may wait for one model to load. Beyond them a wait is hopeless on any board.
pub(crate) const MAX_WAITERS: usize = 64;

/// A model whose engine crashes so often in a row is not tried again.
pub(crate) const MAX_CRASHES: u32 = 3;

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
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    Acquire {
        model: ModelName,
        waiter: WaiterId,
        intent: Intent,
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
        need: Bytes,
    },
    /// The ledger did not give what the plan had counted on.
    NotReserved {
        model: ModelName,
        instance: InstanceId,
        refusal: Refusal,
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
    /// The budget is another one.
    Budget,
    ShutDown,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    /// Begin a life.
    Start { model: ModelName, instance: InstanceId },
    /// Reserve memory and let the load go on.
    Admit { model: ModelName, instance: InstanceId, need: Bytes },
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelState {
    /// Not in memory.
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
}

impl State {
    /// Takes in what happened. `free` and `budget` are the ledger's, `now` is for the record only.
    pub(crate) fn on(&mut self, input: Input, free: Bytes, budget: Bytes, now: SystemTime) -> Vec<Effect> {
        let mut effects = Vec::new();
        let out = &mut effects;
        match input {
            Input::Acquire { model, waiter, intent } => self.acquire(model, waiter, intent, now, out),
            Input::Abandon { model, waiter } => self.abandon(&model, waiter),
            Input::Return { model, instance, outcome } => {
                self.take_back(&model, instance, outcome, now, out);
            }
            Input::Unload { model, waiter, mode } => self.unload(&model, waiter, mode, out),
            Input::Estimated { model, instance, need } => self.estimated(&model, instance, need),
            Input::NotReserved { model, instance, refusal } => {
                if self.is_current(&model, instance) {
                    self.refuse(&model, refusal, out);
                }
            }
            Input::Progress { model, instance, permille } => self.progress(&model, instance, permille),
            Input::Ready { model, instance } => self.ready(&model, instance, now, out),
            Input::Lost { model, instance } => self.lost(&model, instance),
            Input::Gone { model, instance, end } => self.gone(&model, instance, &end, out),
            Input::Unused { model, instance, reason } => self.unused(&model, instance, &reason, out),
            Input::Budget => self.fit(budget, out),
            Input::ShutDown => self.shut_down(out),
        }
        self.admit(free, budget, out);
        self.forget_blanks();
        effects
    }

    /// Says which models stay whatever others need.
    pub(crate) fn pin(&mut self, pinned: BTreeSet<ModelName>) {
        self.pinned = pinned;
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
        self.models.iter().map(|(name, model)| (name, model.view()))
    }

    /// Whether no engine is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.models.values().all(|model| matches!(model.phase, Phase::Absent | Phase::Quarantined))
    }

    fn acquire(
        &mut self,
        name: ModelName,
        waiter: WaiterId,
        intent: Intent,
        now: SystemTime,
        out: &mut Vec<Effect>,
    ) {
        let use_number = self.next_use();
        let draining = self.draining;
        let model = self.models.entry(name.clone()).or_default();
        if intent == Intent::Load && model.phase == Phase::Quarantined {
            model.phase = Phase::Absent;
            model.crashes = 0;
        }
        match model.refusal(draining) {
            Some(error) => out.push(Effect::Fail { waiter, error }),
            None => {
                if let Phase::Ready { instance, leases, .. } = &mut model.phase {
                    *leases += 1;
                    model.last_used = Some((use_number, now));
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
            out.push(Effect::Start { model: name.clone(), instance });
        }
    }

    fn abandon(&mut self, name: &ModelName, waiter: WaiterId) {
        if let Some(model) = self.models.get_mut(name) {
            model.waiters.retain(|other| *other != waiter);
        }
    }

    fn take_back(
        &mut self,
        name: &ModelName,
        of: InstanceId,
        outcome: Outcome,
        now: SystemTime,
        out: &mut Vec<Effect>,
    ) {
        let use_number = self.next_use();
        let Some(model) = self.models.get_mut(name) else { return };
        if outcome == Outcome::Good {
            model.crashes = 0;
        }
        match &mut model.phase {
            Phase::Ready { instance, leases, .. } if *instance == of => {
                *leases = leases.saturating_sub(1);
                model.last_used = Some((use_number, now));
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

    fn estimated(&mut self, name: &ModelName, of: InstanceId, wanted: Bytes) {
        if let Some(Phase::Loading { instance, step: step @ Step::Estimating }) = self.phase_mut(name)
            && *instance == of
        {
            *step = Step::Waiting { need: wanted };
        }
    }

    fn progress(&mut self, name: &ModelName, of: InstanceId, now: u32) {
        if let Some(Phase::Loading { instance, step: Step::Starting { permille, .. } }) = self.phase_mut(name)
            && *instance == of
        {
            *permille = now;
        }
    }

    fn ready(&mut self, name: &ModelName, of: InstanceId, now: SystemTime, out: &mut Vec<Effect>) {
        let use_number = self.next_use();
        let Some(model) = self.models.get_mut(name) else { return };
        let Phase::Loading { instance, step: Step::Starting { charge, .. } } = model.phase else { return };
        if instance != of {
            return;
        }
        let leases = u32::try_from(model.waiters.len()).unwrap_or(u32::MAX);
        model.phase = Phase::Ready { instance, leases, charge };
        model.last_used = Some((use_number, now));
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
        if was_loading {
            let error = model.load_error(end);
            model.fail_waiters(&error, out);
        } else if let Some(error) = model.refusal(self.draining) {
            model.fail_waiters(&error, out);
        }
        out.extend(model.unloaders.drain(..).map(|waiter| Effect::Unloaded { waiter, was_loaded: true }));
        if !model.waiters.is_empty() {
            self.start_if_absent(name, out);
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

    /// Idle models go, the one unused for longest first, until the others keep within the budget.
    fn fit(&mut self, budget: Bytes, out: &mut Vec<Effect>) {
        let mut held: Bytes = self.models.values().map(|model| model.phase.staying()).sum();
        let mut idle = self.idle();
        idle.sort_by_key(|model| model.last_used);
        for Idle { model: name, charge, .. } in idle {
            if held <= budget {
                return;
            }
            held = held.saturating_sub(charge);
            if let Some(model) = self.models.get_mut(&name) {
                model.end(&format!("the memory budget shrank to {budget}"), UnloadMode::Wait, out);
            }
        }
    }

    /// Lets loads in that wait for memory, oldest first. One that must wait keeps later ones waiting: what
    /// it waits for is not theirs.
    fn admit(&mut self, mut free: Bytes, budget: Bytes, out: &mut Vec<Effect>) {
        for (instance, name, need) in self.waiting_for_memory() {
            let room = Room { budget, free, coming: self.coming() };
            match plan(need, room, self.idle()) {
                Plan::Load => {
                    free = free.saturating_sub(need);
                    let step = Step::Starting { charge: need, permille: 0 };
                    if let Some(phase) = self.phase_mut(&name) {
                        *phase = Phase::Loading { instance, step };
                    }
                    out.push(Effect::Admit { model: name, instance, need });
                }
                Plan::Wait => break,
                Plan::Evict(models) => {
                    let reason = format!("evicted to make room for {name}");
                    for evicted in models {
                        if let Some(model) = self.models.get_mut(&evicted) {
                            model.end(&reason, UnloadMode::Wait, out);
                        }
                    }
                    break;
                }
                Plan::Refuse(refusal) => self.refuse(&name, refusal, out),
            }
        }
    }

    fn refuse(&mut self, name: &ModelName, refusal: Refusal, out: &mut Vec<Effect>) {
        if let Some(model) = self.models.get_mut(name) {
            model.fail_waiters(&AcquireError::Refused(refusal), out);
            model.end(&refusal.to_string(), UnloadMode::Wait, out);
        }
    }

    fn waiting_for_memory(&self) -> Vec<(InstanceId, ModelName, Bytes)> {
        let waiting = self.models.iter().filter_map(|(name, model)| match model.phase {
            Phase::Loading { instance, step: Step::Waiting { need } } => Some((instance, name.clone(), need)),
            _ => None,
        });
        let mut waiting: Vec<_> = waiting.collect();
        waiting.sort();
        waiting
    }

    fn coming(&self) -> Bytes {
        let charge = |model: &Model| match model.phase {
            Phase::Unloading { charge, stop: Stop::Told, .. } => Some(charge),
            _ => None,
        };
        self.models.values().filter_map(charge).sum()
    }

    fn idle(&self) -> Vec<Idle<ModelName>> {
        let idle = self.models.iter().filter_map(|(name, model)| match model.phase {
            Phase::Ready { leases: 0, charge, .. } if !self.pinned.contains(name) => {
                let last_used = model.last_used.map_or(0, |(number, _)| number);
                Some(Idle { model: name.clone(), charge, last_used })
            }
            _ => None,
        });
        idle.collect()
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
