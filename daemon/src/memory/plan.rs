//! What must happen for a model to be admitted. Pure: numbers in, a decision out.

use crate::units::Bytes;

/// The state of memory when the question is asked.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// What all engines may use.
    pub budget: Bytes,
    /// What is not reserved.
    pub free: Bytes,
    /// What engines that are ending already will give back.
    pub coming: Bytes,
}

/// A loaded model that nobody uses.
#[derive(Clone, Debug)]
pub struct Idle<M> {
    /// Which.
    pub model: M,
    /// What it would give back.
    pub charge: Bytes,
    /// When it was last used, on any clock that only grows.
    pub last_used: u64,
}

/// The decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan<M> {
    /// It fits now.
    Load,
    /// It fits once engines that are ending have ended.
    Wait,
    /// It fits once these, too, are gone.
    Evict(Vec<M>),
    /// It does not fit.
    Refuse(Refusal),
}

/// Why a model cannot come, with the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not even an empty budget holds it.
    #[error("the model needs {need}, more than the whole memory budget of {budget}")]
    NeverFits {
        /// What it needs.
        need: Bytes,
        /// What there is in all.
        budget: Bytes,
    },
    /// The rest is in use.
    #[error("the model needs {need}; {free} are free and {idle} more could be freed, the rest is in use")]
    FullNow {
        /// What it needs.
        need: Bytes,
        /// What is free.
        free: Bytes,
        /// What idle models hold.
        idle: Bytes,
        /// What there is in all.
        budget: Bytes,
    },
}

/// Free memory first; then idle models, the one unused for longest first; else a refusal.
pub fn plan<M: Clone>(need: Bytes, room: Room, mut idle: Vec<Idle<M>>) -> Plan<M> {
    let Room { budget, free, coming } = room;
    if need > budget {
        return Plan::Refuse(Refusal::NeverFits { need, budget });
    }
    if need <= free {
        return Plan::Load;
    }
    if need <= free + coming {
        return Plan::Wait;
    }
    idle.sort_by_key(|model| model.last_used);
    let missing = need.saturating_sub(free + coming);
    let in_idle: Bytes = idle.iter().map(|model| model.charge).sum();
    if in_idle < missing {
        return Plan::Refuse(Refusal::FullNow { need, free, idle: in_idle, budget });
    }
    let mut freed = Bytes(0);
    let enough = |model: &Idle<M>| {
        let wanted = freed < missing;
        freed = freed + model.charge;
        wanted.then(|| model.model.clone())
    };
    Plan::Evict(idle.iter().map_while(enough).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn room(budget: u64, free: u64, coming: u64) -> Room {
        Room { budget: Bytes(budget), free: Bytes(free), coming: Bytes(coming) }
    }

    fn idle(model: u8, charge: u64, last_used: u64) -> Idle<u8> {
        Idle { model, charge: Bytes(charge), last_used }
    }

    #[test]
    fn free_memory_is_used_first() {
        let models = || vec![idle(1, 5, 9), idle(2, 5, 1), idle(3, 5, 4)];
        assert_eq!(plan(Bytes(4), room(20, 5, 0), models()), Plan::Load);
        assert_eq!(plan(Bytes(7), room(20, 5, 2), models()), Plan::Wait);
        assert_eq!(plan(Bytes(7), room(20, 5, 0), models()), Plan::Evict(vec![2]));
        assert_eq!(plan(Bytes(11), room(20, 5, 0), models()), Plan::Evict(vec![2, 3]));
    }

    #[test]
    fn a_refusal_has_the_numbers() {
        assert_eq!(
            plan(Bytes(21), room(20, 20, 0), Vec::<Idle<u8>>::new()),
            Plan::Refuse(Refusal::NeverFits { need: Bytes(21), budget: Bytes(20) })
        );
        let full = Refusal::FullNow { need: Bytes(12), free: Bytes(5), idle: Bytes(5), budget: Bytes(20) };
        assert_eq!(plan(Bytes(12), room(20, 5, 0), vec![idle(1, 5, 0)]), Plan::Refuse(full));
    }

    proptest! {
        #[test]
        fn what_is_evicted_is_enough_and_none_too_many(
            need in 0u64..100,
            free in 0u64..100,
            coming in 0u64..50,
            charges in proptest::collection::vec((1u64..40, 0u64..100), 0..8),
        ) {
            let models: Vec<_> = charges.iter().enumerate()
                .map(|(i, (charge, used))| idle(u8::try_from(i).expect("few"), *charge, *used))
                .collect();
            let charge = |i: &u8| charges[usize::from(*i)].0;
            match plan(Bytes(need), room(100, free, coming), models) {
                Plan::Load => prop_assert!(need <= free),
                Plan::Wait => prop_assert!(need > free && need <= free + coming),
                Plan::Evict(gone) => {
                    let freed: u64 = gone.iter().map(charge).sum();
                    prop_assert!(need <= free + coming + freed);
                    let last = gone.last().map(charge).expect("an eviction names someone");
                    prop_assert!(need > free + coming + freed - last);
                }
                Plan::Refuse(_) => {
                    let all: u64 = charges.iter().map(|(charge, _)| charge).sum();
                    prop_assert!(need > free + coming + all);
                }
            }
        }
    }
}
