//! Imports, removals, crashes in between, and what a hostile client tries.

mod change;
mod cuts;
mod import;
mod inspection;
mod manifest;
mod open;
mod power;
mod reference;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::*;

// What the tests are made of.

fn facts(title: &str) -> Facts {
    Facts {
        architecture: "qwen3".to_owned(),
        title: title.to_owned(),
        parameters: 596_049_920,
        quantization: "Q8_0".to_owned(),
        context_length: 40_960,
        vocabulary_size: 151_936,
        dialect: "qwen3".to_owned(),
        tools: true,
        thinking: true,
    }
}

fn named(text: &str) -> ModelName {
    text.parse().expect("a test's own name")
}

fn meant(text: &str) -> ModelRef {
    text.parse().expect("a test's own reference")
}

fn digest_of(content: &[u8]) -> Digest {
    Digest(Sha256::digest(content).into())
}

fn size_of(content: &[u8]) -> Bytes {
    Bytes(content.len() as u64)
}

fn spec(name: &str, content: &[u8]) -> ImportSpec {
    ImportSpec { name: named(name), size: size_of(content), sha256: None }
}

fn seal(store: &Store, name: &str, content: &[u8]) -> Sealed {
    let mut import = store.begin_import(spec(name, content)).unwrap();
    content.chunks(7).for_each(|part| import.write(part).unwrap());
    import.seal().unwrap()
}

fn import(store: &Store, name: &str, content: &[u8]) -> Manifest {
    seal(store, name, content).commit(facts(name)).unwrap()
}

fn open(dir: &TempDir) -> Store {
    Store::open(dir.path()).unwrap()
}

fn fresh() -> (TempDir, Store) {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    (dir, store)
}

fn models(dir: &TempDir) -> PathBuf {
    dir.path().join("models")
}

/// The file names in one directory of the store.
fn names_in(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The store's models with the content of their files.
fn contents(store: &Store) -> BTreeMap<String, Vec<u8>> {
    let content = |manifest: &Manifest| fs::read(store.blob_path(&manifest.weights().digest)).unwrap();
    store.list().iter().map(|manifest| (manifest.name.to_string(), content(manifest))).collect()
}

/// What the models of a map should leave in `blobs/`.
fn blob_names<'a>(contents: impl IntoIterator<Item = &'a Vec<u8>>) -> BTreeSet<String> {
    contents.into_iter().map(|content| format!("sha256-{}", digest_of(content))).collect()
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// What a daemon finds after a power cut at this instant. Checks that nothing is left over.
fn after_power_cut(dir: &TempDir) -> BTreeMap<String, Vec<u8>> {
    let copy = TempDir::new().unwrap();
    copy_tree(dir.path(), copy.path());
    let store = open(&copy);
    let found = contents(&store);
    assert!(store.damaged().is_empty(), "{:?}", store.damaged());
    assert_eq!(names_in(&models(&copy).join("tmp")), BTreeSet::new());
    assert_eq!(names_in(&models(&copy).join("blobs")), blob_names(found.values()));
    found
}

fn map<const N: usize>(models: [(&str, &[u8]); N]) -> BTreeMap<String, Vec<u8>> {
    models.into_iter().map(|(name, content)| (name.to_owned(), content.to_vec())).collect()
}
