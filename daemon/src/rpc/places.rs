//! Places for connections: so many in all, and so many for each user or host, so that nobody takes them all.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections of one user or host: a few programs with a few each.
const EACH: usize = 64;

/// Connections of a listener: well below the 1,024 descriptors that a process has by default.
const ALL: usize = 384;

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    /// A user of this machine.
    User(u32),
    /// A host.
    Host(IpAddr),
}

/// The places. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    /// Short sections only.
    taken: Arc<Mutex<HashMap<Origin, usize>>>,
}

/// One place; given back on drop.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    origin: Origin,
}

impl Places {
    /// A place, unless there is none left. Root always gets one: somebody must be able to look.
    pub(crate) fn take(&self, origin: Origin) -> Option<Place> {
        let mut taken = self.taken();
        let all: usize = taken.values().sum();
        let own = taken.entry(origin).or_default();
        if origin != Origin::User(0) && (*own >= EACH || all >= ALL) {
            return None;
        }
        *own += 1;
        Some(Place { places: self.clone(), origin })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<Origin, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(own) = taken.get_mut(&self.origin) {
            *own -= 1;
        }
        taken.retain(|_, count| *count > 0);
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(uid) => write!(f, "uid {uid}"),
            Self::Host(address) => write!(f, "{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_take_every_place() {
        let places = Places::default();
        let held: Vec<_> = (0..EACH).map(|_| places.take(Origin::User(7)).expect("room")).collect();
        assert!(places.take(Origin::User(7)).is_none());
        assert!(places.take(Origin::User(8)).is_some());
        drop(held);
        assert!(places.take(Origin::User(7)).is_some());
        assert!(places.taken().is_empty(), "what is not held is forgotten");
    }

    #[test]
    fn all_places_together_are_bounded_and_root_gets_in() {
        let places = Places::default();
        let held: Vec<_> = (0..1000).filter_map(|uid| places.take(Origin::User(1 + uid))).collect();
        assert_eq!(held.len(), ALL);
        assert!(places.take(Origin::User(0)).is_some());
    }
}
