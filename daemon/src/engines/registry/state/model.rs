//! One model in the registry: where it is in its life, and who waits for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use super::{
    Effect, End, InstanceId, MAX_CRASHES, MAX_WAITERS, ModelState, Options, UnloadMode, View, WaiterId,
};
use crate::engines::AcquireError;
use crate::engines::config::{Explicit, KeepAlive};
use crate::memory::need::{Choice, STEP, Sizes, Wish};
use crate::memory::plan::{Holder, Refusal};
use crate::units::{Bytes, ModelName};

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) phase: Phase,
    /// Wait for a lease, in order.
    pub(super) waiters: VecDeque<WaiterId>,
    /// Wait for the engine to be gone.
    pub(super) unloaders: Vec<WaiterId>,
    /// Crashes since the last good answer.
    pub(super) crashes: u32,
    pub(super) last_used: Option<(u64, SystemTime)>,
    /// Why it is in its phase.
    pub(super) reason: String,
    /// Somebody changes the model on disk.
    pub(super) held: bool,
    /// The ways in which it may be loaded, as they were at the last load.
    pub(super) options: Option<Arc<Options>>,
    /// The way in which it is loaded, its context as it is now.
    pub(super) choice: Option<Choice>,
    /// The context that this life began with, in tokens.
    pub(super) began_with: u32,
    /// What its engine was measured to take beyond the estimate, whatever size its context has.
    pub(super) excess: Bytes,
    /// Its requests need a larger context.
    pub(super) growth: Option<Growth>,
    /// How it is to be loaded, where somebody said so.
    pub(super) explicit: Option<Explicit>,
    /// How the life that it has now was to be loaded.
    pub(super) started_as: Option<Explicit>,
    /// How long it is to stay unused, where a request said so.
    pub(super) keep_alive: Option<KeepAlive>,
    /// How long its last load took, in milliseconds.
    pub(super) load_ms: Option<u64>,
    /// Since when it has been ready.
    pub(super) ready_at: u64,
    /// Since when nobody has used it.
    pub(super) idle_since: Option<u64>,
    /// So many of its ways to be loaded were too much for the board.
    pub(super) too_much: usize,
    /// Most tokens that its context may have since a larger one, to which it had grown, was too much for the board.
    pub(super) most_tokens: Option<u32>,
}

/// A context that is to grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Growth {
    /// To so many tokens at least; the memory is not there yet.
    Wanted(u32),
    /// It is being made.
    Made,
    /// The engine was told something else of it, and has not answered.
    Told,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Absent,
    Loading {
        instance: InstanceId,
        step: Step,
    },
    Ready {
        instance: InstanceId,
        leases: u32,
        charge: Bytes,
    },
    Unloading {
        instance: InstanceId,
        leases: u32,
        charge: Bytes,
        stop: Stop,
    },
    Quarantined,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Estimating,
    /// For memory, since then.
    Waiting {
        since: u64,
    },
    Starting {
        charge: Bytes,
        permille: u32,
        since: u64,
    },
}

/// Whether an engine that shall end has been told so, or needs not be told as it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    AfterLeases,
    Told,
}

impl Model {
    /// Whether it is as good as one that was never heard of.
    pub(super) fn is_blank(&self) -> bool {
        let is_wanted = self.held || !self.waiters.is_empty() || !self.unloaders.is_empty();
        let has_failed =
            self.crashes > 0 || self.too_much > 0 || self.most_tokens.is_some() || !self.reason.is_empty();
        self.phase == Phase::Absent && !has_failed && !is_wanted
    }

    /// It is to be loaded like this. One that is in memory in another way ends its answers and comes back.
    pub(super) fn want(&mut self, explicit: Explicit, out: &mut Vec<Effect>) {
        self.explicit = Some(explicit);
        let is_other = match self.phase {
            Phase::Ready { .. } => self.differs(explicit),
            // The last one who says so has it so.
            Phase::Loading { .. } => self.started_as != Some(explicit),
            _ => false,
        };
        if is_other {
            self.end("loaded anew with another context, as asked", UnloadMode::Wait, out);
        }
    }

    /// Whether it is in memory in another way than somebody wants it. Exactly so many tokens is also no more later.
    pub(super) fn differs(&self, explicit: Explicit) -> bool {
        let Some(Choice { sizes, .. }) = self.choice else { return false };
        let rounded = |tokens: u32| tokens.next_multiple_of(STEP);
        let is_exactly =
            |tokens: u32| [sizes.tokens, self.ceiling()].iter().all(|has| rounded(*has) == rounded(tokens));
        explicit.context_tokens.is_some_and(|tokens| !is_exactly(tokens))
            || explicit.kv_type.is_some_and(|kv_type| kv_type != sizes.kv_type)
    }

    /// Most tokens that its context may grow to.
    pub(super) fn ceiling(&self) -> u32 {
        self.options.as_ref().map_or(0, |options| self.capped(options.ceiling))
    }

    /// Whether its context is larger than it was at first.
    pub(super) fn has_grown(&self) -> bool {
        self.choice.is_some_and(|choice| choice.sizes.tokens > self.began_with)
    }

    /// A ceiling, as low as it has become.
    pub(super) fn capped(&self, ceiling: u32) -> u32 {
        self.most_tokens.map_or(ceiling, |most| ceiling.min(most))
    }

    /// What was too much for the board once is tried again.
    pub(super) fn forgive(&mut self) {
        (self.too_much, self.most_tokens) = (0, None);
    }

    /// Why it cannot be loaded like this, where that is known already: a model that is in memory must not go for it.
    /// What it does not say may be another than in the life that there is.
    pub(super) fn impossible(&self, explicit: Explicit, budget: Bytes) -> Option<AcquireError> {
        let options = self.options.as_ref().filter(|_| matches!(self.phase, Phase::Ready { .. }))?;
        let (wish, was) = (options.wish, self.started_as.unwrap_or_default());
        let sizes = Sizes {
            tokens: explicit.context_tokens.unwrap_or(wish.sizes.tokens),
            kv_type: explicit.kv_type.unwrap_or(wish.sizes.kv_type),
            ..wish.sizes
        };
        let may_shorten = wish.may_shorten || was.context_tokens.is_some();
        let may_quantize = wish.may_quantize || was.kv_type.is_some();
        let wish = Wish {
            sizes,
            may_shorten: may_shorten && explicit.context_tokens.is_none(),
            may_quantize: may_quantize && explicit.kv_type.is_none(),
            ..wish
        };
        let needs = options.footprint.choices(&wish, 0).into_iter().map(|choice| choice.estimate.peak());
        let need = needs.min().filter(|need| *need > budget)?;
        let context = options.footprint.largest_context(&wish, budget);
        Some(AcquireError::Refused(Refusal::NeverFits { need, budget, context }))
    }

    /// As one who may be asked to give its memory back.
    pub(super) fn holder(&self, name: &ModelName) -> Option<Holder<ModelName>> {
        let Phase::Ready { leases, charge, .. } = self.phase else { return None };
        // While the context is being made, what it takes is not settled.
        if self.growth == Some(Growth::Made) {
            return None;
        }
        Some(Holder {
            model: name.clone(),
            charge,
            ready_at: self.ready_at,
            load_ms: self.load_ms.unwrap_or(0),
            idle_since: self.idle_since.filter(|_| leases == 0),
        })
    }

    /// Why nobody gets a lease or a place in line, if so.
    pub(super) fn refusal(&self, draining: bool, pressed: bool) -> Option<AcquireError> {
        if draining {
            return Some(AcquireError::Draining);
        }
        if self.held {
            return Some(AcquireError::Held);
        }
        match self.phase {
            Phase::Quarantined => Some(AcquireError::Quarantined { reason: self.reason.clone() }),
            Phase::Absent if pressed => Some(AcquireError::Pressure),
            Phase::Loading { .. } | Phase::Unloading { .. } if self.waiters.len() >= MAX_WAITERS => {
                Some(AcquireError::QueueFull { waiting: self.waiters.len() })
            }
            _ => None,
        }
    }

    /// Makes the engine end; what is there already stays.
    pub(super) fn end(&mut self, reason: &str, mode: UnloadMode, out: &mut Vec<Effect>) {
        let (instance, leases, charge) = match self.phase {
            Phase::Absent | Phase::Quarantined | Phase::Unloading { stop: Stop::Told, .. } => return,
            Phase::Loading { instance, step } => (instance, 0, step.charge()),
            Phase::Ready { instance, leases, charge }
            | Phase::Unloading { instance, leases, charge, stop: Stop::AfterLeases } => {
                (instance, leases, charge)
            }
        };
        reason.clone_into(&mut self.reason);
        if matches!(self.growth, Some(Growth::Wanted(_))) {
            self.refuse_growth(instance, out);
        }
        let stop = if leases == 0 || mode == UnloadMode::Abort { Stop::Told } else { Stop::AfterLeases };
        if leases > 0 && mode == UnloadMode::Abort {
            out.push(Effect::Abort { instance });
        }
        if stop == Stop::Told {
            out.push(Effect::Stop { instance });
        }
        self.phase = Phase::Unloading { instance, leases, charge, stop };
    }

    /// One that is to go grows no more: what waits for that would keep it for ever.
    pub(super) fn refuse_growth(&mut self, instance: InstanceId, out: &mut Vec<Effect>) {
        let reason = format!("the model is leaving memory: {}", self.reason);
        self.growth = Some(Growth::Told);
        out.push(Effect::RefuseGrowth { instance, reason });
    }

    /// Most tokens for its context, if one that had grown or was about to was too much.
    fn grown_to(&self, was: Option<Choice>) -> Option<u32> {
        let tokens = was?.sizes.tokens;
        let most = if self.growth == Some(Growth::Made) { tokens } else { tokens / 2 };
        let has_grown = self.growth == Some(Growth::Made) || tokens > self.began_with;
        has_grown.then(|| most.next_multiple_of(STEP).max(self.began_with))
    }

    /// The phase after an engine's life.
    pub(super) fn rest(&mut self, end: &End) {
        let was = self.choice.take();
        let grown = self.grown_to(was);
        (self.growth, self.idle_since, self.started_as) = (None, None, None);
        (self.began_with, self.excess) = (0, Bytes(0));
        match end {
            End::Stopped => self.phase = Phase::Absent,
            // It is not in the store, and so nobody's to ask about.
            End::Failed(AcquireError::Lookup(_)) => {
                self.phase = Phase::Absent;
                self.reason.clear();
            }
            End::Failed(error) => {
                self.phase = Phase::Absent;
                self.reason = error.to_string();
            }
            // The way in which it began was not too much: it may be loaded like that again, but not grow as far.
            End::OutOfMemory(reason) if grown.is_some() => {
                self.most_tokens = grown;
                self.reason.clone_from(reason);
                self.phase = Phase::Absent;
            }
            End::OutOfMemory(reason) => {
                // Better ways than the one that was too much would be so all the more.
                let choices =
                    self.options.as_ref().map(|options| options.choices.as_slice()).unwrap_or_default();
                let at = choices.iter().position(|choice| Some(*choice) == was).unwrap_or(0);
                self.too_much += at + 1;
                self.reason.clone_from(reason);
                let tried_all = at + 1 >= choices.len();
                self.phase = if tried_all { Phase::Quarantined } else { Phase::Absent };
            }
            End::Crashed(reason) => {
                self.crashes += 1;
                self.reason = match self.crashes {
                    1 => reason.clone(),
                    crashes => format!("{crashes} crashes in a row, the last: {reason}"),
                };
                let tried_enough = self.crashes >= MAX_CRASHES;
                self.phase = if tried_enough { Phase::Quarantined } else { Phase::Absent };
            }
        }
    }

    pub(super) fn load_error(&self, end: &End) -> AcquireError {
        match end {
            End::Stopped => AcquireError::Unloaded,
            End::Failed(error) => error.clone(),
            End::Crashed(_) | End::OutOfMemory(_) if self.phase == Phase::Quarantined => {
                AcquireError::Quarantined { reason: self.reason.clone() }
            }
            End::Crashed(reason) | End::OutOfMemory(reason) => {
                AcquireError::Crashed { reason: reason.clone() }
            }
        }
    }

    pub(super) fn fail_waiters(&mut self, error: &AcquireError, out: &mut Vec<Effect>) {
        let failed = self.waiters.drain(..);
        out.extend(failed.map(|waiter| Effect::Fail { waiter, error: error.clone() }));
    }

    pub(super) fn view(&self, pinned: bool) -> View {
        let permille = match self.phase {
            Phase::Loading { step: Step::Starting { permille, .. }, .. } => Some(permille),
            Phase::Loading { .. } => Some(0),
            _ => None,
        };
        View {
            state: self.phase.public(),
            reason: self.reason.clone(),
            permille,
            waiting: self.waiters.len(),
            crashes: self.crashes,
            last_used: self.last_used.map(|(_, time)| time),
            instance: self.phase.instance(),
            idle: matches!(self.phase, Phase::Ready { leases: 0, .. }),
            short: matches!(self.phase, Phase::Loading { step: Step::Waiting { .. }, .. }),
            choice: self.choice,
            ceiling: self.options.as_ref().map(|options| self.capped(options.ceiling)),
            load_ms: self.load_ms,
            pinned,
        }
    }
}

impl Phase {
    /// What it will hold as far as is known: engines that are told to end hold nothing then.
    pub(super) fn staying(&self) -> Bytes {
        match self {
            Self::Ready { charge, .. } | Self::Unloading { charge, stop: Stop::AfterLeases, .. } => *charge,
            Self::Loading { step, .. } => step.charge(),
            Self::Absent | Self::Quarantined | Self::Unloading { .. } => Bytes(0),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self, Self::Ready { .. })
    }

    pub(super) fn instance(&self) -> Option<InstanceId> {
        match self {
            Self::Absent | Self::Quarantined => None,
            Self::Loading { instance, .. }
            | Self::Ready { instance, .. }
            | Self::Unloading { instance, .. } => Some(*instance),
        }
    }

    pub(super) fn public(&self) -> ModelState {
        match self {
            Self::Absent => ModelState::Absent,
            Self::Loading { .. } => ModelState::Loading,
            Self::Ready { .. } => ModelState::Ready,
            Self::Unloading { .. } => ModelState::Unloading,
            Self::Quarantined => ModelState::Quarantined,
        }
    }
}

impl Step {
    pub(super) fn charge(&self) -> Bytes {
        match self {
            Self::Estimating | Self::Waiting { .. } => Bytes(0),
            Self::Starting { charge, .. } => *charge,
        }
    }
}
