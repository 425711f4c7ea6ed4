//! The models on disk.
//!
//! ```text
//!  STATE/models/format              version of all below
//!               lock                held by the running daemon, with its process id
//!               blobs/sha256-HEX    model files, read-only
//!               manifests/NAME:TAG.json
//!               inspections/HEX/…   what inspectors found of a blob, by engine build and CPU
//!               damaged/            manifests that were set aside
//!               tmp/                what is not finished
//! ```
//!
//! A model is a manifest: a name, the digests of its files, and facts that an inspector read out of
//! them. Two models may share a file. Everything is written in `tmp/`, synced and renamed, so a power
//! cut at any instant leaves the old state or the new one; `change` says in which order.
//!
//! The index in memory answers who has which model. The disk is read when the store is opened and
//! written when it changes, and changes are made one at a time. All functions here block.
//!
//! The store knows files, digests and manifests. It does not know what is in a model file, nor who
//! uses it: a file that is removed while an engine has it open stays readable for that engine.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

mod change;
mod disk;
mod format;
mod import;
mod index;
mod inspection;
mod layout;
mod lock;
mod manifest;
mod open;
mod reference;
mod space;
mod sweep;
#[cfg(test)]
mod tests;

use change::Change;
use index::Index;
use layout::Layout;
use lock::Lock;
use space::Space;

pub use change::RemoveError;
pub use disk::DiskError;
pub use import::{Import, ImportError, ImportSpec, Sealed};
pub use index::LookupError;
pub use inspection::InspectionError;
pub use manifest::{Facts, FileRole, Manifest, ManifestError, ModelFile};
pub use open::{Damage, Damaged, OpenError};
pub use reference::{BadModelRef, DigestPrefix, ModelRef};

use crate::units::{Bytes, Digest, ModelName};

/// A handle on the store. Clones are the same store, which is released with the last of them and
/// of their imports.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    /// What the manifests on disk say. Held for moments, and never while the disk is waited for.
    index: Mutex<Index>,
    /// Whose turn it is to change the store. Held while the disk is waited for.
    changes: Mutex<()>,
    space: Arc<Space>,
    /// What was set aside when the store was opened.
    damaged: Vec<Damaged>,
    /// Keeps other daemons out.
    _lock: Lock,
}

/// How much the store takes of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Size of all model files.
    pub models: Bytes,
    /// What the file system has free.
    pub free: Bytes,
}

impl Store {
    /// All models, in the order of their names.
    pub fn list(&self) -> Vec<Manifest> {
        self.inner.index().list()
    }

    /// The model that a caller means.
    pub fn get(&self, model: &ModelRef) -> Result<Manifest, LookupError> {
        self.inner.index().get(model).cloned()
    }

    /// Removes a model, and its files unless another has the same. A model that was set aside can be
    /// removed too. Returns what that freed.
    pub fn remove(&self, name: &ModelName) -> Result<Bytes, RemoveError> {
        let change = self.inner.change();
        if change.has(name) { Ok(change.withdraw(name)?.collect()) } else { change.discard(name) }
    }

    /// Where the file with this digest lies, if a model has it.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.inner.layout.blob(digest)
    }

    /// The manifests that were set aside when the store was opened. The caller tells an operator.
    pub fn damaged(&self) -> &[Damaged] {
        &self.inner.damaged
    }

    /// How much of the disk is taken and free.
    pub fn usage(&self) -> Result<Usage, DiskError> {
        Ok(Usage { models: self.inner.index().size(), free: self.inner.space.free()? })
    }
}

impl Inner {
    /// The index holds after each of its functions, even if its user panicked.
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for one's turn. A change that panicked is like one that a power cut ended.
    fn change(&self) -> Change<'_> {
        Change::new(self, self.changes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
