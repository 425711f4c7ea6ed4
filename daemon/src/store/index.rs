//! The models by name, in memory. Pure: what the disk holds is brought in and taken out by others.

use std::collections::{BTreeMap, BTreeSet};

use super::manifest::{Manifest, ModelFile};
use super::reference::{DigestPrefix, ModelRef};
use crate::units::{Bytes, Digest, ModelName};

/// The manifests of the store by name.
#[derive(Debug, Default)]
pub(super) struct Index {
    models: BTreeMap<ModelName, Manifest>,
}

/// Why no model answers to a reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LookupError {
    #[error("there is no model `{model}`")]
    NotFound { model: ModelRef },
    #[error("`{model}` is the beginning of {matches} digests: write more digits")]
    Ambiguous {
        model: ModelRef,
        /// How many different digests begin so.
        matches: usize,
    },
}

impl Index {
    /// All models, in the order of their names.
    pub(super) fn list(&self) -> Vec<Manifest> {
        self.models.values().cloned().collect()
    }

    /// The model that `model` refers to.
    pub(super) fn get(&self, model: &ModelRef) -> Result<&Manifest, LookupError> {
        let found = match model {
            ModelRef::Name(name) => self.models.get(name),
            ModelRef::Digest(prefix) => self.by_digest(prefix, model)?,
            ModelRef::NameOrDigest(name, prefix) => match self.models.get(name) {
                None => self.by_digest(prefix, model)?,
                found => found,
            },
        };
        found.ok_or_else(|| LookupError::NotFound { model: model.clone() })
    }

    /// Of several names for one digest, the first in order: they have the same file.
    fn by_digest(&self, prefix: &DigestPrefix, model: &ModelRef) -> Result<Option<&Manifest>, LookupError> {
        let mut digests = self.digests();
        digests.retain(|digest| prefix.matches(digest));
        match (digests.first(), digests.len()) {
            (Some(digest), 1) => Ok(self.models.values().find(|manifest| has(manifest, digest))),
            (_, 0) => Ok(None),
            (_, matches) => Err(LookupError::Ambiguous { model: model.clone(), matches }),
        }
    }

    /// Adds a model; what had its name before is returned.
    pub(super) fn insert(&mut self, manifest: Manifest) -> Option<Manifest> {
        self.models.insert(manifest.name.clone(), manifest)
    }

    /// Takes a model out.
    pub(super) fn remove(&mut self, name: &ModelName) -> Option<Manifest> {
        self.models.remove(name)
    }

    /// Whether a model has this name.
    pub(super) fn contains(&self, name: &ModelName) -> bool {
        self.models.contains_key(name)
    }

    /// Whether a model has a file of this digest.
    pub(super) fn refers_to(&self, digest: &Digest) -> bool {
        self.models.values().any(|manifest| has(manifest, digest))
    }

    /// The digests of all files.
    pub(super) fn digests(&self) -> BTreeSet<Digest> {
        self.files().map(|file| file.digest).collect()
    }

    /// Size of all files, each once however many models share it.
    pub(super) fn size(&self) -> Bytes {
        let sizes: BTreeMap<Digest, Bytes> = self.files().map(|file| (file.digest, file.size)).collect();
        sizes.into_values().sum()
    }

    fn files(&self) -> impl Iterator<Item = &ModelFile> {
        self.models.values().flat_map(|manifest| &manifest.files)
    }
}

fn has(manifest: &Manifest, digest: &Digest) -> bool {
    manifest.files.iter().any(|file| file.digest == *digest)
}
