//! One life of a store: from its opening to the act at which it ends.

use std::rc::Rc;

use super::super::*;
use super::chance::Chance;
use super::ledger::{Change, Ledger, Model};
use disk::record::{self, Done};

/// Few, so that models are replaced.
const NAMES: [&str; 4] = ["a", "a:b", "b", "sha256"];

/// Few, so that models share files. Some end at the edge of a sector.
const SIZES: [usize; 8] = [1, 7, 512, 513, 1024, 3000, 5000, 70_001];

const KEYS: [&str; 2] = ["build/1 neon", "build/2 neon"];

/// A call to the store, and the acts it took.
#[derive(Debug)]
pub(super) struct Mark {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) change: Change,
}

/// An open store that does as it owes so far.
pub(super) struct Life<'a> {
    dir: &'a Path,
    /// `None` for a moment when it is opened again.
    store: Option<Store>,
    ledger: Ledger,
    marks: Vec<Mark>,
    chance: &'a mut Chance,
}

impl<'a> Life<'a> {
    /// Opens a store, checks it, and does this and that with it. A finding is the error.
    pub(super) fn live(dir: &'a Path, ledger: &Ledger, chance: &'a mut Chance) -> Result<Vec<Mark>, String> {
        let store = Some(open_at(dir)?);
        let mut life = Self { dir, store, ledger: ledger.clone(), marks: Vec::new(), chance };
        life.opened(0)?;
        life.check_use()?;
        for _ in 0..life.chance.within(0..=4) {
            life.step()?;
        }
        Ok(life.marks)
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("open between steps")
    }

    /// What is found is owed from now on, and so are the changes that were begun and are found.
    fn opened(&mut self, from: usize) -> Result<(), String> {
        let found = self.ledger.check(self.store())?;
        self.told(from, Change::Opened(found));
        Ok(())
    }

    /// A caller was told of a change that began after so many acts.
    fn told(&mut self, from: usize, change: Change) {
        self.ledger.acknowledge(&change);
        self.marks.push(Mark { from, to: record::length(), change });
    }

    /// Whatever happened, models can be imported and removed.
    fn check_use(&mut self) -> Result<(), String> {
        self.import("next", 5)?;
        self.remove("next")
    }

    fn step(&mut self) -> Result<(), String> {
        let name = *self.chance.one_of(&NAMES);
        let size = *self.chance.one_of(&SIZES);
        match self.chance.within(0..=12) {
            0..=4 => self.import(name, size),
            5 | 6 => self.remove(name),
            7 | 8 => self.inspect(),
            9 => self.abandon(name, size),
            10 | 11 => self.import_two(name, size),
            _ => self.reopen(),
        }
    }

    fn import(&mut self, name: &str, size: usize) -> Result<(), String> {
        let from = record::length();
        let content = self.content(size);
        let sealed = self.seal(name, &content)?;
        self.commit(from, sealed, name, content)
    }

    fn commit(&mut self, from: usize, sealed: Sealed, name: &str, content: Rc<[u8]>) -> Result<(), String> {
        let title = format!("{:016x}", self.chance.next());
        let manifest = sealed.commit(facts(&title)).map_err(|error| format!("commit: {error}"))?;
        assert_eq!(manifest.weights().digest, digest_of(&content));
        self.told(from, Change::Import { name: named(name).to_string(), model: Model { title, content } });
        Ok(())
    }

    fn seal(&mut self, name: &str, content: &[u8]) -> Result<Sealed, String> {
        let mut import = self.begin(name, content)?;
        self.feed(&mut import, content)?;
        import.seal().map_err(|error| format!("seal: {error}"))
    }

    fn begin(&self, name: &str, content: &[u8]) -> Result<Import, String> {
        self.store().begin_import(spec(name, content)).map_err(|error| format!("begin: {error}"))
    }

    /// In chunks of a length that has nothing to do with sectors.
    fn feed(&mut self, import: &mut Import, content: &[u8]) -> Result<(), String> {
        let chunk = content.len().div_ceil(self.chance.within(1..=6)).max(1);
        let mut chunks = content.chunks(chunk);
        chunks.try_for_each(|chunk| import.write(chunk)).map_err(|error| format!("write: {error}"))
    }

    /// An import beside which another begins and ends.
    fn import_two(&mut self, name: &str, size: usize) -> Result<(), String> {
        let from = record::length();
        let content = self.content(size);
        let mut import = self.begin(name, &content)?;
        let (half, rest) = content.split_at(size / 2);
        self.feed(&mut import, half)?;
        self.told(from, Change::Nothing);
        self.import(NAMES[0], 513)?;
        let from = record::length();
        self.feed(&mut import, rest)?;
        let sealed = import.seal().map_err(|error| format!("seal: {error}"))?;
        self.commit(from, sealed, name, content)
    }

    /// An import that its caller gives up, unfinished or whole.
    fn abandon(&mut self, name: &str, size: usize) -> Result<(), String> {
        let from = record::length();
        let content = self.content(size);
        if self.chance.once_in(2) {
            drop(self.seal(name, &content)?);
        } else {
            let mut import = self.begin(name, &content)?;
            self.feed(&mut import, &content[..size / 2])?;
        }
        self.told(from, Change::Nothing);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), String> {
        let from = record::length();
        let name = named(name);
        let is_there = self.ledger.models().contains_key(name.as_str());
        match self.store().remove(&name) {
            Ok(_) if is_there => self.told(from, Change::Remove { name: name.to_string() }),
            Err(RemoveError::NotFound { .. }) if !is_there => {}
            other => return Err(format!("remove {name}: {other:?}")),
        }
        Ok(())
    }

    /// Keeps an inspection of a model that is there.
    fn inspect(&mut self) -> Result<(), String> {
        let digests: Vec<_> = self.ledger.models().values().map(|model| digest_of(&model.content)).collect();
        if digests.is_empty() {
            return Ok(());
        }
        let from = record::length();
        let digest = *self.chance.one_of(&digests);
        let (key, value) = (*self.chance.one_of(&KEYS), self.chance.next());
        let saved = self.store().save_inspection(&digest, key, json!(value));
        saved.map_err(|error| format!("keep an inspection: {error}"))?;
        self.told(from, Change::Inspect { digest, key, value });
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), String> {
        let from = record::length();
        // Let go first: a store is open once.
        self.store = None;
        self.store = Some(open_at(self.dir)?);
        self.opened(from)
    }

    /// Bytes that differ from sector to sector. One of two contents of the length.
    fn content(&mut self, size: usize) -> Rc<[u8]> {
        let kind = self.chance.next() % 2;
        Chance::of(size as u64 * 2 + kind).bytes(size).into()
    }
}

fn open_at(dir: &Path) -> Result<Store, String> {
    Store::open(dir).map_err(|error| format!("does not open: {error}"))
}

/// An act in a line, for people.
pub(super) fn brief(done: &Done, base: &Path) -> String {
    let below = |path: &Path| path.strip_prefix(base).unwrap_or(path).display().to_string();
    match done {
        Done::Open { path, file, .. } => format!("open {} as {file}", below(path)),
        Done::MakeDir(path) => format!("make directory {}", below(path)),
        Done::Write { file, at, bytes } => format!("write {} bytes at {at} of {file}", bytes.len()),
        Done::SetLength { file, length } => format!("set length of {file} to {length}"),
        Done::SetMode { file, mode } => format!("set mode of {file} to {mode:o}"),
        Done::SyncData(file) => format!("sync the data of {file}"),
        Done::SyncAll(file) => format!("sync {file}"),
        Done::SyncDir(path) => format!("sync directory {}", below(path)),
        Done::Rename { from, to } => format!("rename {} to {}", below(from), below(to)),
        Done::Link { from, to } => format!("link {} to {}", below(from), below(to)),
        Done::RemoveFile(path) => format!("remove {}", below(path)),
        Done::RemoveDir(path) => format!("remove directory {}", below(path)),
    }
}
