//! Room on the disk: what is free, and what the running imports will still take of it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::statvfs;

use super::disk::DiskError;
use super::import::ImportError;
use crate::units::Bytes;

/// Left free on the disk by every import: for the journal, manifests, and the other programs of the
/// board, most of which fare badly on a full disk.
const RESERVE: Bytes = Bytes(64 * Bytes::MIB.0);

/// The file system of the store.
#[derive(Debug)]
pub(super) struct Space {
    /// A directory on it.
    path: PathBuf,
    /// What running imports have announced and not yet written.
    outstanding: Mutex<Bytes>,
}

/// Room that one import will still fill. Dropping it gives the room back.
#[derive(Debug)]
pub(super) struct Claim {
    space: Arc<Space>,
    left: Bytes,
}

impl Space {
    /// The file system that holds `path`.
    pub(super) fn at(path: PathBuf) -> Arc<Self> {
        Arc::new(Self { path, outstanding: Mutex::default() })
    }

    /// What the file system says is free for the daemon.
    pub(super) fn free(&self) -> Result<Bytes, DiskError> {
        let stat = statvfs(&self.path)
            .map_err(|e| DiskError::when("ask for the free space of", &self.path)(e.into()))?;
        Ok(Bytes(stat.f_bavail.saturating_mul(stat.f_frsize)))
    }

    /// Room for `need`, or the refusal of the import.
    pub(super) fn claim(self: &Arc<Self>, need: Bytes) -> Result<Claim, ImportError> {
        let mut outstanding = self.outstanding();
        let free = room(self.free()?, *outstanding);
        if need > free {
            return Err(ImportError::NoSpace { need, free });
        }
        *outstanding = *outstanding + need;
        Ok(Claim { space: Arc::clone(self), left: need })
    }

    /// What running imports will still take.
    pub(super) fn outstanding(&self) -> MutexGuard<'_, Bytes> {
        self.outstanding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For an import that takes no room.
    pub(super) fn claim_nothing(self: &Arc<Self>) -> Claim {
        Claim { space: Arc::clone(self), left: Bytes(0) }
    }
}

impl Claim {
    /// `written` of the room is now filled, and the file system counts it itself.
    pub(super) fn fill(&mut self, written: Bytes) {
        let filled = written.min(self.left);
        let mut outstanding = self.space.outstanding();
        *outstanding = outstanding.saturating_sub(filled);
        self.left = self.left.saturating_sub(filled);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.fill(self.left);
    }
}

/// What a new import may take of `free`.
fn room(free: Bytes, outstanding: Bytes) -> Bytes {
    free.saturating_sub(RESERVE).saturating_sub(outstanding)
}
