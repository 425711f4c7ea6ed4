//! Every byte that the engines may use is a line here: reserved before it is allocated, given back when
//! the [`Reservation`] is dropped. The sum of the lines never exceeds the budget.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Budget;
use crate::units::Bytes;

/// The book. Clones share it.
#[derive(Clone, Debug)]
pub struct Ledger {
    budget: Arc<Mutex<Budget>>,
    /// Short sections only, never held across a wait.
    lines: Arc<Mutex<Lines>>,
}

#[derive(Debug, Default)]
struct Lines {
    next: u64,
    by_id: BTreeMap<u64, Line>,
}

/// One reservation, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What for.
    pub label: String,
    /// How much.
    pub bytes: Bytes,
}

/// Bytes that are the holder's until it is dropped.
#[derive(Debug)]
pub struct Reservation {
    lines: Arc<Mutex<Lines>>,
    id: u64,
    bytes: Bytes,
}

/// The ledger has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{need} are needed and {free} are free")]
pub struct NoRoom {
    /// What was asked for.
    pub need: Bytes,
    /// What is free.
    pub free: Bytes,
}

impl Ledger {
    /// An empty book over `budget`.
    pub fn new(budget: Budget) -> Self {
        Self { budget: Arc::new(Mutex::new(budget)), lines: Arc::default() }
    }

    /// What the lines may add up to.
    pub fn budget(&self) -> Budget {
        *self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the lines may add up to this. Where they add up to more already, nothing is free until they do
    /// not.
    pub fn set_budget(&self, budget: Budget) {
        *self.budget.lock().unwrap_or_else(PoisonError::into_inner) = budget;
    }

    /// What is not reserved.
    pub fn free(&self) -> Bytes {
        self.budget().bytes.saturating_sub(lock(&self.lines).sum())
    }

    /// All lines, oldest first.
    pub fn lines(&self) -> Vec<Line> {
        lock(&self.lines).by_id.values().cloned().collect()
    }

    /// Takes `need` out of what is free.
    pub fn reserve(&self, label: impl Into<String>, need: Bytes) -> Result<Reservation, NoRoom> {
        let mut lines = lock(&self.lines);
        let free = self.budget().bytes.saturating_sub(lines.sum());
        if need > free {
            return Err(NoRoom { need, free });
        }
        let id = lines.next;
        lines.next += 1;
        lines.by_id.insert(id, Line { label: label.into(), bytes: need });
        Ok(Reservation { lines: Arc::clone(&self.lines), id, bytes: need })
    }
}

impl Lines {
    fn sum(&self) -> Bytes {
        self.by_id.values().map(|line| line.bytes).sum()
    }
}

impl Reservation {
    /// How much is reserved.
    pub fn bytes(&self) -> Bytes {
        self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        lock(&self.lines).by_id.remove(&self.id);
    }
}

/// A panic elsewhere leaves the lines as they were: each change is a single insert or remove.
fn lock(lines: &Mutex<Lines>) -> MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::BudgetSource;
    use super::*;

    fn ledger(bytes: u64) -> Ledger {
        Ledger::new(Budget { bytes: Bytes(bytes), source: BudgetSource::Configured })
    }

    #[test]
    fn a_dropped_reservation_is_free_again() {
        let ledger = ledger(10);
        let held = ledger.reserve("a", Bytes(7)).expect("there is room");
        assert_eq!(ledger.reserve("b", Bytes(4)).err(), Some(NoRoom { need: Bytes(4), free: Bytes(3) }));
        assert_eq!(ledger.lines(), [Line { label: "a".to_owned(), bytes: Bytes(7) }]);
        drop(held);
        assert_eq!((ledger.free(), ledger.lines().len()), (Bytes(10), 0));
    }

    proptest! {
        /// Over any history of reservations and returns.
        #[test]
        fn ledger_never_exceeds_budget(
            budget in 0u64..1000,
            steps in proptest::collection::vec((any::<bool>(), 0u64..400, any::<proptest::sample::Index>()), 0..200),
        ) {
            let ledger = ledger(budget);
            let mut held: Vec<Reservation> = Vec::new();
            for (give_back, size, which) in steps {
                if give_back && !held.is_empty() {
                    held.swap_remove(which.index(held.len()));
                } else {
                    let free = ledger.free();
                    let got = ledger.reserve("x", Bytes(size));
                    prop_assert_eq!(got.is_ok(), Bytes(size) <= free);
                    held.extend(got.ok());
                }
                let sum: Bytes = held.iter().map(Reservation::bytes).sum();
                prop_assert!(sum <= Bytes(budget));
                prop_assert_eq!(ledger.free(), Bytes(budget).saturating_sub(sum));
            }
        }
    }
}
