//! What must happen for memory to be had. Pure: numbers in, a decision out.
//!
//! Free memory is used first; then what engines that are ending give back; then models go that nobody uses. A model
//! in use is never cut off, but it does not keep others out for ever either: each has its *turn*, and once that is
//! over and somebody waits for the memory, it takes nothing new, ends what it does, and goes.
//!
//! Two clients that ask two models in turn, with small pauses, must not make them drive each other out at every
//! request. So within its turn a model is waited for a moment after its last answer, whether the next request is
//! one for it again (as disk schedulers do before they move the head).

use crate::units::Bytes;

/// A turn lasts so many times as long as the load did, so that at most a third of the time goes into loads.
const TURN_LOADS: u64 = 2;

/// Bounds of a turn, in milliseconds: loads of a few milliseconds are no cost, and nobody waits longer than a
/// minute beside one who keeps asking.
const TURN: (u64, u64) = (500, 60_000);

/// Bounds of the wait for another request within a turn, in milliseconds: an eighth of the load.
const PAUSE: (u64, u64) = (20, 1_000);

/// The state of memory when the question is asked.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// What all engines may use.
    pub budget: Bytes,
    /// What is not reserved.
    pub free: Bytes,
    /// What engines that are ending already will give back.
    pub coming: Bytes,
    /// What models hold that are on their way in, or just growing: they may be asked to go once they have come.
    pub arriving: Bytes,
    /// The time, in milliseconds of any clock that only grows.
    pub now: u64,
}

/// A loaded model that may be asked to go.
#[derive(Clone, Debug)]
pub struct Holder<M> {
    /// Which.
    pub model: M,
    /// What it would give back.
    pub charge: Bytes,
    /// Since when it has been ready.
    pub ready_at: u64,
    /// How long its load took, in milliseconds.
    pub load_ms: u64,
    /// Since when nobody has used it; `None` while somebody does.
    pub idle_since: Option<u64>,
}

/// The decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan<M> {
    /// It fits now.
    Load,
    /// It fits once engines that are ending have ended, or at a time when it is to be asked again.
    Wait {
        /// That time.
        until: Option<u64>,
    },
    /// It fits once these are gone, which nobody uses.
    Evict(Vec<M>),
    /// It fits once these, whose turn is over, have ended what they do. Perhaps none yet: there is a time when it is
    /// to be asked again.
    Close {
        /// Those.
        models: Vec<M>,
        /// That time.
        until: Option<u64>,
    },
    /// It does not fit.
    Refuse(Refusal),
}

/// Why memory cannot be had, with the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not even an empty budget holds it.
    #[error("the model needs {need}, more than the whole memory budget of {budget}{}", largest(*context))]
    NeverFits {
        /// What it needs.
        need: Bytes,
        /// What there is in all.
        budget: Bytes,
        /// The largest context that would fit, in tokens.
        context: Option<u32>,
    },
    /// The rest is pinned, or held by what may not wait.
    #[error("the model needs {need}; {free} are free and {idle} more could be freed, the rest is in use")]
    FullNow {
        /// What it needs.
        need: Bytes,
        /// What is free.
        free: Bytes,
        /// What models hold that could go.
        idle: Bytes,
        /// What there is in all.
        budget: Bytes,
    },
}

fn largest(context: Option<u32>) -> String {
    match context {
        Some(tokens) => format!("; with a context of {tokens} tokens it would fit"),
        None => "; it does not fit with any context".to_owned(),
    }
}

impl<M> Holder<M> {
    /// When its turn is over.
    fn turn_ends(&self) -> u64 {
        self.ready_at.saturating_add((self.load_ms * TURN_LOADS).clamp(TURN.0, TURN.1))
    }

    /// Until when another request is waited for, if that is still so.
    fn waited_for(&self, now: u64) -> Option<u64> {
        let pause = (self.load_ms / 8).clamp(PAUSE.0, PAUSE.1);
        let until = self.idle_since?.saturating_add(pause).min(self.turn_ends());
        (until > now).then_some(until)
    }

    /// What is lost with it: the longer it has been idle the less, the longer its load the more.
    fn worth(&self, now: u64) -> (u128, u64) {
        let idle = u128::from(now.saturating_sub(self.idle_since.unwrap_or(now))) + 1;
        let load = u128::from(self.load_ms) + 1;
        (load * 1_000_000 / idle, self.idle_since.unwrap_or(now))
    }
}

/// For a load: who waits may wait for models in use.
pub fn plan<M: Clone + Ord>(need: Bytes, room: Room, holders: &[Holder<M>]) -> Plan<M> {
    match without_waiting(need, room, holders) {
        Plan::Refuse(refusal @ Refusal::FullNow { .. }) => {
            let all: Bytes = holders.iter().map(|holder| holder.charge).sum();
            let askable = room.free + room.coming + all;
            if need <= askable {
                close(need, room, holders)
            } else if need <= askable + room.arriving {
                Plan::Wait { until: None }
            } else {
                Plan::Refuse(refusal)
            }
        }
        Plan::Evict(models) => {
            let waited_for = holders.iter().filter(|holder| models.contains(&holder.model));
            match waited_for.filter_map(|holder| holder.waited_for(room.now)).min() {
                Some(until) => Plan::Wait { until: Some(until) },
                None => Plan::Evict(models),
            }
        }
        other => other,
    }
}

/// For an answer that needs more memory while it holds some: it must not wait for others that may wait for it.
pub fn without_waiting<M: Clone + Ord>(need: Bytes, room: Room, holders: &[Holder<M>]) -> Plan<M> {
    let Room { budget, free, coming, arriving: _, now } = room;
    if need > budget {
        return Plan::Refuse(Refusal::NeverFits { need, budget, context: None });
    }
    if need <= free {
        return Plan::Load;
    }
    if need <= free + coming {
        return Plan::Wait { until: None };
    }
    let mut idle: Vec<&Holder<M>> = holders.iter().filter(|holder| holder.idle_since.is_some()).collect();
    idle.sort_by_key(|holder| (holder.worth(now), holder.model.clone()));
    let missing = need.saturating_sub(free + coming);
    let in_idle: Bytes = idle.iter().map(|holder| holder.charge).sum();
    if in_idle < missing {
        return Plan::Refuse(Refusal::FullNow { need, free, idle: in_idle, budget });
    }
    Plan::Evict(enough(missing, &idle))
}

/// Of those in order as many as hold `missing`, and none that the others make up for.
fn enough<M: Clone>(missing: Bytes, holders: &[&Holder<M>]) -> Vec<M> {
    let mut freed = Bytes(0);
    let mut chosen: Vec<&Holder<M>> = Vec::new();
    for holder in holders {
        if freed >= missing {
            break;
        }
        freed = freed + holder.charge;
        chosen.push(holder);
    }
    chosen.retain(|holder| {
        let without = freed.saturating_sub(holder.charge);
        let needless = without >= missing;
        if needless {
            freed = without;
        }
        !needless
    });
    chosen.into_iter().map(|holder| holder.model.clone()).collect()
}

/// Which models in use are to end, so that with those that nobody uses there is enough.
fn close<M: Clone + Ord>(need: Bytes, room: Room, holders: &[Holder<M>]) -> Plan<M> {
    let idle: Bytes = holders.iter().filter(|h| h.idle_since.is_some()).map(|h| h.charge).sum();
    let missing = need.saturating_sub(room.free + room.coming + idle);
    let mut busy: Vec<&Holder<M>> = holders.iter().filter(|holder| holder.idle_since.is_none()).collect();
    // Who has been there for longest goes first.
    busy.sort_by_key(|holder| (holder.turn_ends(), holder.model.clone()));
    let chosen = enough(missing, &busy);
    let of_chosen = || busy.iter().filter(|holder| chosen.contains(&holder.model));
    let models =
        of_chosen().filter(|holder| holder.turn_ends() <= room.now).map(|h| h.model.clone()).collect();
    let until = of_chosen().map(|holder| holder.turn_ends()).filter(|end| *end > room.now).min();
    Plan::Close { models, until }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_000_000;

    fn room(budget: u64, free: u64, coming: u64) -> Room {
        Room { budget: Bytes(budget), free: Bytes(free), coming: Bytes(coming), arriving: Bytes(0), now: NOW }
    }

    /// Ready for long and idle since then.
    fn idle(model: u8, charge: u64, idle_since: u64) -> Holder<u8> {
        Holder { model, charge: Bytes(charge), ready_at: 0, load_ms: 100, idle_since: Some(idle_since) }
    }

    fn busy(model: u8, charge: u64, ready_at: u64) -> Holder<u8> {
        Holder { model, charge: Bytes(charge), ready_at, load_ms: 1000, idle_since: None }
    }

    #[test]
    fn free_memory_is_used_first() {
        let models = [idle(1, 5, 900), idle(2, 5, 100), idle(3, 5, 400)];
        assert_eq!(plan(Bytes(4), room(20, 5, 0), &models), Plan::Load);
        assert_eq!(plan(Bytes(7), room(20, 5, 2), &models), Plan::Wait { until: None });
        assert_eq!(plan(Bytes(7), room(20, 5, 0), &models), Plan::Evict(vec![2]));
        assert_eq!(plan(Bytes(11), room(20, 5, 0), &models), Plan::Evict(vec![2, 3]));
    }

    #[test]
    fn what_is_dear_to_load_stays_longer() {
        let dear = Holder { load_ms: 30_000, ..idle(1, 5, NOW - 120_000) };
        let cheap = Holder { load_ms: 1_000, ..idle(2, 5, NOW - 60_000) };
        assert_eq!(plan(Bytes(5), room(20, 0, 0), &[dear.clone(), cheap]), Plan::Evict(vec![2]));
        let fresh = Holder { load_ms: 1_000, ..idle(2, 5, NOW - 2_000) };
        assert_eq!(plan(Bytes(5), room(20, 0, 0), &[dear, fresh]), Plan::Evict(vec![1]), "but not for ever");
    }

    #[test]
    fn nothing_goes_that_a_larger_one_makes_up_for() {
        let models = [idle(1, 2, 100), idle(2, 10, 200)];
        assert_eq!(plan(Bytes(10), room(20, 0, 0), &models), Plan::Evict(vec![2]));
    }

    #[test]
    fn within_its_turn_a_model_is_waited_for_a_moment() {
        let fresh = Holder { ready_at: NOW - 1_000, load_ms: 8_000, ..idle(1, 5, NOW - 10) };
        assert_eq!(
            plan(Bytes(5), room(5, 0, 0), std::slice::from_ref(&fresh)),
            Plan::Wait { until: Some(NOW - 10 + 1_000) }
        );
        assert_eq!(
            without_waiting(Bytes(5), room(5, 0, 0), std::slice::from_ref(&fresh)),
            Plan::Evict(vec![1])
        );
        let done = Holder { ready_at: NOW - 17_000, ..fresh };
        assert_eq!(plan(Bytes(5), room(5, 0, 0), &[done]), Plan::Evict(vec![1]), "its turn is over");
    }

    #[test]
    fn a_model_in_use_ends_after_its_turn() {
        let (old, new) = (busy(1, 5, NOW - 5_000), busy(2, 5, NOW - 500));
        assert_eq!(
            plan(Bytes(5), room(10, 0, 0), &[old.clone(), new.clone()]),
            Plan::Close { models: vec![1], until: None }
        );
        assert_eq!(
            plan(Bytes(10), room(10, 0, 0), &[old, new.clone()]),
            Plan::Close { models: vec![1], until: Some(NOW + 1_500) }
        );
        assert_eq!(
            plan(Bytes(10), room(12, 5, 0), &[new]),
            Plan::Close { models: vec![], until: Some(NOW + 1_500) }
        );
    }

    #[test]
    fn a_refusal_has_the_numbers() {
        let never = Refusal::NeverFits { need: Bytes(21), budget: Bytes(20), context: None };
        assert_eq!(plan::<u8>(Bytes(21), room(20, 20, 0), &[]), Plan::Refuse(never));
        let full = Refusal::FullNow { need: Bytes(12), free: Bytes(5), idle: Bytes(5), budget: Bytes(20) };
        assert_eq!(
            plan(Bytes(12), room(20, 5, 0), &[idle(1, 5, 0)]),
            Plan::Refuse(full),
            "the rest is pinned"
        );
        let arriving = Room { arriving: Bytes(2), ..room(20, 5, 0) };
        assert_eq!(plan(Bytes(12), arriving, &[idle(1, 5, 0)]), Plan::Wait { until: None });
        assert_eq!(
            without_waiting(Bytes(12), room(20, 5, 0), &[idle(1, 5, 0), busy(2, 10, 0)]),
            Plan::Refuse(full)
        );
    }

    proptest! {
        #[test]
        fn what_is_evicted_is_enough_and_none_too_many(
            need in 0u64..100,
            free in 0u64..100,
            coming in 0u64..50,
            charges in proptest::collection::vec((1u64..40, 0u64..100, any::<bool>()), 0..8),
        ) {
            let models: Vec<_> = charges.iter().enumerate()
                .map(|(i, (charge, since, busy))| {
                    let model = idle(u8::try_from(i).expect("few"), *charge, *since);
                    Holder { idle_since: model.idle_since.filter(|_| !busy), ..model }
                })
                .collect();
            let sum = |which: &dyn Fn(&Holder<u8>) -> bool| -> u64 {
                models.iter().filter(|model| which(model)).map(|model| model.charge.0).sum()
            };
            match plan(Bytes(need), room(100, free, coming), &models) {
                Plan::Load => prop_assert!(need <= free),
                Plan::Wait { .. } => prop_assert!(need > free && need <= free + coming),
                Plan::Evict(gone) => {
                    let freed = sum(&|model| gone.contains(&model.model));
                    prop_assert!(need <= free + coming + freed);
                    for one in &gone {
                        prop_assert!(need > free + coming + freed - models[usize::from(*one)].charge.0);
                    }
                    prop_assert!(gone.iter().all(|one| !charges[usize::from(*one)].2), "nobody in use");
                }
                Plan::Close { models: closed, .. } => {
                    let idle = sum(&|model| model.idle_since.is_some());
                    let freed = sum(&|model| closed.contains(&model.model));
                    prop_assert!(need <= free + coming + idle + freed);
                    prop_assert!(need > free + coming + idle);
                }
                Plan::Refuse(_) => prop_assert!(need > free + coming + sum(&|_| true)),
            }
        }
    }
}
