//! What a store owes to its callers.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::super::*;

/// The models by name.
pub(super) type Models = BTreeMap<String, Model>;

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Model {
    /// Of its facts: no two imports have the same.
    pub(super) title: String,
    pub(super) content: Rc<[u8]>,
}

/// What a call to the store changes.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Nothing that a caller was told of.
    Nothing,
    /// The store was opened and had these models.
    Opened(Models),
    Import {
        name: String,
        model: Model,
    },
    Remove {
        name: String,
    },
    Inspect {
        digest: Digest,
        key: &'static str,
        value: u64,
    },
}

/// What must be found when the store is opened.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    /// What was acknowledged.
    models: Models,
    /// What may be there instead: a change was begun.
    or: Option<Models>,
    /// What may be kept of a blob, by its key. Nothing else may be read, and nothing only where that
    /// is in the set.
    inspections: BTreeMap<(Digest, &'static str), BTreeSet<Option<u64>>>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} bytes", self.title, self.content.len())
    }
}

impl Ledger {
    /// The models that were acknowledged.
    pub(super) fn models(&self) -> &Models {
        &self.models
    }

    /// A change is in flight.
    pub(super) fn begin(&mut self, change: &Change) {
        match change {
            Change::Nothing | Change::Opened(_) => {}
            Change::Import { name, model } => {
                self.or.insert(self.models.clone()).insert(name.clone(), model.clone());
            }
            Change::Remove { name } => drop(self.or.insert(self.models.clone()).remove(name)),
            Change::Inspect { digest, key, value } => {
                let may = self.inspections.entry((*digest, key)).or_insert_with(|| [None].into());
                may.insert(Some(*value));
            }
        }
    }

    /// A change was acknowledged.
    pub(super) fn acknowledge(&mut self, change: &Change) {
        match change {
            Change::Nothing => {}
            Change::Opened(models) => (self.models, self.or) = (models.clone(), None),
            Change::Import { name, model } => drop(self.models.insert(name.clone(), model.clone())),
            Change::Remove { name } => drop(self.models.remove(name)),
            Change::Inspect { digest, key, value } => {
                self.inspections.insert((*digest, key), [Some(*value)].into());
            }
        }
        let used = self.digests();
        // An inspection goes with its blob, but one of the same blob may come back.
        for (_, may) in self.inspections.iter_mut().filter(|((digest, _), _)| !used.contains(digest)) {
            may.insert(None);
        }
    }

    fn digests(&self) -> BTreeSet<Digest> {
        self.models.values().map(|model| digest_of(&model.content)).collect()
    }

    /// What an open store has, if it is what it should have.
    pub(super) fn check(&self, store: &Store) -> Result<Models, String> {
        let found = self.check_models(store)?;
        check_folders(store, &found)?;
        self.check_inspections(store, &found)?;
        Ok(found)
    }

    fn check_models(&self, store: &Store) -> Result<Models, String> {
        demand(store.damaged().is_empty(), || format!("set aside: {:?}", store.damaged()))?;
        let found = found(store)?;
        let owed = found == self.models || self.or.as_ref() == Some(&found);
        demand(owed, || format!("found {found:?}, owed {:?} or {:?}", self.models, self.or))?;
        Ok(found)
    }

    fn check_inspections(&self, store: &Store, found: &Models) -> Result<(), String> {
        for content in found.values().map(|model| &model.content) {
            let digest = digest_of(content);
            for ((_, key), may) in self.inspections.iter().filter(|((of, _), _)| *of == digest) {
                let value = store.inspection(&digest, key).and_then(|value| value.as_u64());
                demand(may.contains(&value), || format!("inspection {key} is {value:?}, owed {may:?}"))?;
            }
        }
        Ok(())
    }
}

/// The models of a store with what is in their files.
fn found(store: &Store) -> Result<Models, String> {
    store.list().iter().map(|manifest| Ok((manifest.name.to_string(), model(store, manifest)?))).collect()
}

fn model(store: &Store, manifest: &Manifest) -> Result<Model, String> {
    let path = store.blob_path(&manifest.weights().digest);
    let content = fs::read(&path).map_err(|error| format!("the blob of {}: {error}", manifest.name))?;
    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    demand(digest_of(&content) == manifest.weights().digest, || format!("{}: wrong content", manifest.name))?;
    demand(mode == 0o440, || format!("the blob of {} has mode {mode:o}", manifest.name))?;
    Ok(Model { title: manifest.facts.title.clone(), content: content.into() })
}

/// Checks that there is nothing which no model has.
fn check_folders(store: &Store, found: &Models) -> Result<(), String> {
    let layout = &store.inner.layout;
    let digests: BTreeSet<String> =
        found.values().map(|model| digest_of(&model.content).to_string()).collect();
    let blobs: BTreeSet<String> = digests.iter().map(|digest| format!("sha256-{digest}")).collect();
    let in_tmp = names_in(&layout.tmp());
    demand(in_tmp.is_empty(), || format!("left in tmp/: {in_tmp:?}"))?;
    let in_blobs = names_in(&layout.blobs());
    demand(in_blobs == blobs, || format!("blobs are {in_blobs:?} and should be {blobs:?}"))?;
    let inspected = names_in(&layout.inspections());
    demand(inspected.is_subset(&digests), || format!("inspections of no blob: {inspected:?}"))
}

/// A finding where `holds` is not so.
pub(super) fn demand(holds: bool, finding: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(finding()) }
}
