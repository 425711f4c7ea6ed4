//! One model in the registry: where it is in its life, and who waits for it.

use std::collections::VecDeque;
use std::time::SystemTime;

use super::{Effect, End, InstanceId, MAX_CRASHES, MAX_WAITERS, ModelState, UnloadMode, View, WaiterId};
use crate::engines::AcquireError;
use crate::units::Bytes;

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
    Waiting { need: Bytes },
    Starting { charge: Bytes, permille: u32 },
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
        let Self { phase, waiters, unloaders, crashes, last_used: _, reason, held } = self;
        let is_wanted = *held || !waiters.is_empty() || !unloaders.is_empty();
        *phase == Phase::Absent && *crashes == 0 && reason.is_empty() && !is_wanted
    }

    /// Why nobody gets a lease or a place in line, if so.
    pub(super) fn refusal(&self, draining: bool) -> Option<AcquireError> {
        if draining {
            return Some(AcquireError::Draining);
        }
        if self.held {
            return Some(AcquireError::Held);
        }
        match self.phase {
            Phase::Quarantined => Some(AcquireError::Quarantined { reason: self.reason.clone() }),
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
        let stop = if leases == 0 || mode == UnloadMode::Abort { Stop::Told } else { Stop::AfterLeases };
        if leases > 0 && mode == UnloadMode::Abort {
            out.push(Effect::Abort { instance });
        }
        if stop == Stop::Told {
            out.push(Effect::Stop { instance });
        }
        self.phase = Phase::Unloading { instance, leases, charge, stop };
    }

    /// The phase after an engine's life.
    pub(super) fn rest(&mut self, end: &End) {
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
            End::Crashed(_) if self.phase == Phase::Quarantined => {
                AcquireError::Quarantined { reason: self.reason.clone() }
            }
            End::Crashed(reason) => AcquireError::Crashed { reason: reason.clone() },
        }
    }

    pub(super) fn fail_waiters(&mut self, error: &AcquireError, out: &mut Vec<Effect>) {
        let failed = self.waiters.drain(..);
        out.extend(failed.map(|waiter| Effect::Fail { waiter, error: error.clone() }));
    }

    pub(super) fn view(&self) -> View {
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
