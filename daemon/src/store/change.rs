//! Changing what the store holds, one change at a time.
//!
//! ```text
//!  commit:  Change ──place──► Placed ──publish──► Settled ──collect──► done
//!  remove:  Change ─────────────────withdraw────► Settled ──collect──► done
//! ```
//!
//! A model exists if and only if its manifest does, and a manifest never names a file that is not
//! there: the file comes before the manifest and goes after it. A power cut before `publish` or
//! `withdraw` leaves the old state, and one behind it the new one. Files that no manifest names, which
//! such a cut may leave, are removed when the store is opened.
//!
//! The index follows what is visible in the directory. Nothing is removed before the manifest that
//! makes it garbage is known to be on the disk.

use std::sync::MutexGuard;

use tracing::warn;

use super::Inner;
use super::disk::{self, DiskError, DraftPath};
use super::inspection::InspectionError;
use super::manifest::{Manifest, ModelFile};
use super::sweep::sweep;
use crate::units::{Bytes, Digest, ModelName};

/// Why a model is not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    #[error("there is no model `{name}`")]
    NotFound { name: ModelName },
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// The right to change the store.
#[derive(Debug)]
pub(super) struct Change<'a> {
    store: &'a Inner,
    _turn: MutexGuard<'a, ()>,
}

/// The files of a model are in place, and no manifest names them yet.
#[derive(Debug)]
pub(super) struct Placed<'a> {
    change: Change<'a>,
    manifest: Manifest,
}

/// The manifests are as they shall be.
#[derive(Debug)]
pub(super) struct Settled<'a> {
    change: Change<'a>,
    /// Its files may be of no use now.
    retired: Option<Manifest>,
}

impl<'a> Change<'a> {
    /// Of a store, in one's turn.
    pub(super) fn new(store: &'a Inner, turn: MutexGuard<'a, ()>) -> Self {
        Self { store, _turn: turn }
    }

    /// Whether a model has this name.
    pub(super) fn has(&self, name: &ModelName) -> bool {
        self.store.index().contains(name)
    }

    /// Moves the file of a model to its place. A file of the same digest is kept instead: an engine
    /// may have it open, and a second copy would cost its page cache twice.
    pub(super) fn place(self, file: DraftPath, manifest: Manifest) -> Result<Placed<'a>, DiskError> {
        let digest = manifest.weights().digest;
        if !self.store.index().refers_to(&digest) {
            self.move_in(file, &digest).inspect_err(|_| self.give_up(&manifest))?;
        }
        Ok(Placed { change: self, manifest })
    }

    fn move_in(&self, file: DraftPath, digest: &Digest) -> Result<(), DiskError> {
        let blob = self.store.layout.blob(digest);
        file.move_to(&blob).map_err(DiskError::when("move a file to", &blob))?;
        disk::sync_dir(&self.store.layout.blobs())
    }

    /// Removes the manifest of a model.
    pub(super) fn withdraw(self, name: &ModelName) -> Result<Settled<'a>, DiskError> {
        disk::remove_file(&self.store.layout.manifest(name))?;
        let retired = self.store.index().remove(name);
        disk::sync_dir(&self.store.layout.manifests())?;
        Ok(Settled { change: self, retired })
    }

    /// Removes the manifest that was set aside under a name, and with the last of these all blobs
    /// that no model has. Returns what that freed.
    pub(super) fn discard(self, name: &ModelName) -> Result<Bytes, RemoveError> {
        let layout = &self.store.layout;
        let aside = layout.damaged_manifest(name);
        if !aside.exists() {
            return Err(RemoveError::NotFound { name: name.clone() });
        }
        disk::remove_file(&aside)?;
        let used = self.store.index().digests();
        Ok(sweep(layout, &used)?)
    }

    /// Keeps what an inspector found of a blob.
    pub(super) fn keep_inspection(
        &self,
        digest: &Digest,
        key: &str,
        text: &[u8],
    ) -> Result<(), InspectionError> {
        if !self.store.index().refers_to(digest) {
            return Err(InspectionError::NoBlob { digest: *digest });
        }
        let layout = &self.store.layout;
        disk::create_dir(&layout.inspections_of(digest))?;
        disk::replace(&layout.tmp(), &layout.inspection(digest, key), text)?;
        Ok(disk::sync_dir(&layout.inspections_of(digest))?)
    }

    /// Removes the files of a manifest that no other has, and returns their size. What cannot be
    /// removed now is removed when the store is opened.
    fn drop_unused(&self, manifest: &Manifest) -> Bytes {
        let unused = |file: &&ModelFile| !self.store.index().refers_to(&file.digest);
        manifest.files.iter().filter(unused).map(|file| self.drop_file(file)).sum()
    }

    /// Removes the files of a manifest that could not be published.
    fn give_up(&self, manifest: &Manifest) {
        self.drop_unused(manifest);
    }

    fn drop_file(&self, file: &ModelFile) -> Bytes {
        let layout = &self.store.layout;
        let removed = disk::remove_dir(&layout.inspections_of(&file.digest))
            .and_then(|()| disk::remove_file(&layout.blob(&file.digest)));
        match removed {
            Ok(()) => file.size,
            Err(error) => {
                warn!(path = %error.path.display(), error = %error.source, "Left files of no use");
                Bytes(0)
            }
        }
    }
}

impl<'a> Placed<'a> {
    /// Writes the manifest. With its name in the directory the model is of the store.
    pub(super) fn publish(self) -> Result<Settled<'a>, DiskError> {
        let Self { change, manifest } = self;
        let layout = &change.store.layout;
        disk::replace(&layout.tmp(), &layout.manifest(&manifest.name), &manifest.to_text())
            .inspect_err(|_| change.give_up(&manifest))?;
        let retired = change.store.index().insert(manifest);
        disk::sync_dir(&layout.manifests())?;
        Ok(Settled { change, retired })
    }
}

impl Settled<'_> {
    /// Removes the files of no use and returns what that freed.
    pub(super) fn collect(self) -> Bytes {
        self.retired.map_or(Bytes(0), |manifest| self.change.drop_unused(&manifest))
    }
}
