//! Every byte that the daemon and its engines may use is a line here: reserved before it is allocated, resized as
//! what it is for grows or shrinks, given back when the [`Reservation`] is dropped. No line is added or grows beyond
//! the budget.

use std::collections::BTreeMap;
use std::fmt;
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
    /// Whether it stays as long as the daemon runs.
    pub permanent: bool,
}

/// Bytes that are the holder's until it is dropped.
pub struct Reservation {
    lines: Arc<Mutex<Lines>>,
    id: u64,
    /// Called once the bytes are given back.
    bell: Option<Box<dyn FnOnce() + Send + Sync>>,
}

/// Names a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LineId(u64);

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

    /// What is reserved.
    pub fn reserved(&self) -> Bytes {
        lock(&self.lines).sum()
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
        let id = lines.add(label.into(), need, false);
        Ok(Reservation { lines: Arc::clone(&self.lines), id, bell: None })
    }

    /// Makes a line another size. One that gets smaller may always do so; one that is gone stays gone.
    ///
    /// # Errors
    /// [`NoRoom`], and the line is as it was: it would grow by more than is free.
    pub fn resize(&self, line: LineId, bytes: Bytes) -> Result<(), NoRoom> {
        let mut lines = lock(&self.lines);
        let free = self.budget().bytes.saturating_sub(lines.sum());
        let Some(line) = lines.by_id.get_mut(&line.0) else { return Ok(()) };
        let need = bytes.saturating_sub(line.bytes);
        if need > free {
            return Err(NoRoom { need, free });
        }
        line.bytes = bytes;
        Ok(())
    }

    /// Makes a line another size whatever there is room for: what is there already must be counted.
    pub fn set(&self, line: LineId, bytes: Bytes) {
        if let Some(line) = lock(&self.lines).by_id.get_mut(&line.0) {
            line.bytes = bytes;
        }
    }

    /// What is left of the budget to all that comes and goes.
    pub fn for_engines(&self) -> Bytes {
        let lines = lock(&self.lines);
        let permanent = lines.by_id.values().filter(|line| line.permanent).map(|line| line.bytes).sum();
        self.budget().bytes.saturating_sub(permanent)
    }

    /// Adds a line that stays, whatever there is room for: what is there already must be counted.
    pub fn note(&self, label: impl Into<String>, bytes: Bytes) -> Reservation {
        let mut lines = lock(&self.lines);
        let id = lines.add(label.into(), bytes, true);
        Reservation { lines: Arc::clone(&self.lines), id, bell: None }
    }

    /// The size of a line; nothing of one that is gone.
    pub fn size(&self, line: LineId) -> Bytes {
        lock(&self.lines).by_id.get(&line.0).map(|line| line.bytes).unwrap_or_default()
    }
}

impl Lines {
    fn add(&mut self, label: String, bytes: Bytes, permanent: bool) -> u64 {
        let id = self.next;
        self.next += 1;
        self.by_id.insert(id, Line { label, bytes, permanent });
        id
    }

    fn sum(&self) -> Bytes {
        self.by_id.values().map(|line| line.bytes).sum()
    }
}

impl Reservation {
    /// Its line.
    pub fn line(&self) -> LineId {
        LineId(self.id)
    }

    /// The same, and `bell` is called once it is given back, however that comes about. It must not wait.
    pub fn ringing(mut self, bell: impl FnOnce() + Send + Sync + 'static) -> Self {
        self.bell = Some(Box::new(bell));
        self
    }

    /// How much is reserved.
    pub fn bytes(&self) -> Bytes {
        lock(&self.lines).by_id.get(&self.id).map(|line| line.bytes).unwrap_or_default()
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        lock(&self.lines).by_id.remove(&self.id);
        if let Some(bell) = self.bell.take() {
            bell();
        }
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
    fn who_waits_for_bytes_hears_of_them_when_they_are_free() {
        let ledger = ledger(10);
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let seen = ledger.clone();
        let held = ledger.reserve("a", Bytes(7)).expect("there is room");
        let held = held.ringing(move || tell.send(seen.free()).expect("somebody listens"));
        assert!(told.try_recv().is_err());
        drop(held);
        assert_eq!(told.try_recv(), Ok(Bytes(10)));
    }

    #[test]
    fn a_dropped_reservation_is_free_again() {
        let ledger = ledger(10);
        let held = ledger.reserve("a", Bytes(7)).expect("there is room");
        assert_eq!(ledger.reserve("b", Bytes(4)).err(), Some(NoRoom { need: Bytes(4), free: Bytes(3) }));
        assert_eq!(ledger.lines(), [Line { label: "a".to_owned(), bytes: Bytes(7), permanent: false }]);
        drop(held);
        assert_eq!((ledger.free(), ledger.lines().len()), (Bytes(10), 0));
    }

    #[derive(Clone, Debug)]
    enum Act {
        Reserve(u64),
        GiveBack(proptest::sample::Index),
        Resize(proptest::sample::Index, u64),
        Budget(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => (0u64..400).prop_map(Act::Reserve),
            3 => any::<proptest::sample::Index>().prop_map(Act::GiveBack),
            3 => (any::<proptest::sample::Index>(), 0u64..500).prop_map(|(which, bytes)| Act::Resize(which, bytes)),
            1 => (0u64..1000).prop_map(Act::Budget),
        ]
    }

    proptest! {
        /// Over any history of reservations, changes of size, returns and budgets: nothing grows beyond what is
        /// free, and nothing is left when all is given back.
        #[test]
        fn ledger_never_exceeds_budget(
            budget in 0u64..1000,
            acts in proptest::collection::vec(act(), 0..200),
        ) {
            let ledger = ledger(budget);
            let mut held: Vec<Reservation> = Vec::new();
            for act in acts {
                let (free, before) = (ledger.free(), held.iter().map(Reservation::bytes).sum::<Bytes>());
                match act {
                    Act::Reserve(size) => {
                        let got = ledger.reserve("x", Bytes(size));
                        prop_assert_eq!(got.is_ok(), Bytes(size) <= free);
                        held.extend(got.ok());
                    }
                    Act::GiveBack(which) if !held.is_empty() => drop(held.swap_remove(which.index(held.len()))),
                    Act::Resize(which, size) if !held.is_empty() => {
                        let line = held[which.index(held.len())].line();
                        let old = ledger.size(line);
                        let done = ledger.resize(line, Bytes(size));
                        prop_assert_eq!(done.is_ok(), Bytes(size).saturating_sub(old) <= free);
                        prop_assert_eq!(ledger.size(line), if done.is_ok() { Bytes(size) } else { old });
                    }
                    Act::Budget(size) => {
                        ledger.set_budget(Budget { bytes: Bytes(size), source: BudgetSource::Configured });
                    }
                    Act::GiveBack(_) | Act::Resize(..) => {}
                }
                let (sum, budget) = (held.iter().map(Reservation::bytes).sum::<Bytes>(), ledger.budget().bytes);
                prop_assert!(sum <= budget.max(before), "nothing grows where there is no room");
                prop_assert_eq!(ledger.free(), budget.saturating_sub(sum));
            }
            held.clear();
            prop_assert!(ledger.lines().is_empty());
        }
    }
}
