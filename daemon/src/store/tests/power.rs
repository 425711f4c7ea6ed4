//! Power cuts at every point of a change, and arbitrary histories with cuts in them.

use super::*;

#[test]
fn a_power_cut_while_a_store_is_made_leaves_one_that_opens() {
    let dir = TempDir::new().unwrap();
    let layout = Layout::of(dir.path());
    let nothing = BTreeMap::new();
    assert_eq!(after_power_cut(&dir), nothing);
    disk::create_dir(layout.root()).unwrap();
    assert_eq!(after_power_cut(&dir), nothing);
    fs::write(layout.lock(), "").unwrap();
    assert_eq!(after_power_cut(&dir), nothing);
    disk::create_dir(&layout.tmp()).unwrap();
    fs::write(layout.tmp().join(".tmpformat"), "").unwrap();
    assert_eq!(after_power_cut(&dir), nothing);
    format::check(&layout).unwrap();
    assert_eq!(after_power_cut(&dir), nothing);
    disk::create_dir(&layout.blobs()).unwrap();
    assert_eq!(after_power_cut(&dir), nothing);
}

/// Walks the steps of a commit over a store that holds `before`.
fn cut_a_commit(before: &BTreeMap<String, Vec<u8>>, name: &str, content: &[u8]) {
    let (dir, store) = fresh();
    before.iter().for_each(|(name, content)| drop(import(&store, name, content)));
    let mut after = before.clone();
    after.insert(named(name).to_string(), content.to_vec());

    let mut import = store.begin_import(spec(name, content)).unwrap();
    assert_eq!(after_power_cut(&dir), *before);
    import.write(&content[..content.len() / 2]).unwrap();
    assert_eq!(after_power_cut(&dir), *before);
    import.write(&content[content.len() / 2..]).unwrap();
    let sealed = import.seal().unwrap();
    assert_eq!(after_power_cut(&dir), *before);

    let (_, file, manifest) = sealed.into_parts(facts("x"), SystemTime::now());
    let placed = store.inner.change().place(file, manifest.clone()).unwrap();
    assert_eq!(after_power_cut(&dir), *before);
    let text = manifest.to_text();
    for written in [0, text.len() / 2, text.len()] {
        fs::write(models(&dir).join("tmp/.tmpmanifest"), &text[..written]).unwrap();
        assert_eq!(after_power_cut(&dir), *before);
    }
    let settled = placed.publish().unwrap();
    assert_eq!(after_power_cut(&dir), after);
    settled.collect();
    assert_eq!(after_power_cut(&dir), after);
    assert_eq!(contents(&store), after);
}

#[test]
fn a_power_cut_during_an_import_leaves_the_old_state_or_the_new() {
    cut_a_commit(&map([]), "a", b"content");
    cut_a_commit(&map([("b:latest", b"other")]), "a", b"content");
    cut_a_commit(&map([("b:latest", b"content")]), "a", b"content");
}

#[test]
fn a_power_cut_during_a_replacement_leaves_the_old_state_or_the_new() {
    cut_a_commit(&map([("a:latest", b"old")]), "a", b"new content");
    cut_a_commit(&map([("a:latest", b"same")]), "a", b"same");
    cut_a_commit(&map([("a:latest", b"old"), ("b:latest", b"old")]), "a", b"new");
}

#[test]
fn a_power_cut_during_a_removal_leaves_the_old_state_or_the_new() {
    let (dir, store) = fresh();
    import(&store, "a", b"first");
    import(&store, "b", b"second");
    let settled = store.inner.change().withdraw(&named("a")).unwrap();
    assert_eq!(after_power_cut(&dir), map([("b:latest", b"second")]));
    settled.collect();
    assert_eq!(after_power_cut(&dir), map([("b:latest", b"second")]));
}

/// How far a change comes before the daemon dies.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Sealed,
    Placed,
    Published,
}

#[derive(Clone, Debug)]
enum Step {
    Import { name: usize, content: u8 },
    Abandon { name: usize, content: u8 },
    Remove { name: usize },
    Reopen,
    Die { name: usize, content: u8, at: Cut },
    DieRemoving { name: usize },
}

const NAMES: [&str; 4] = ["a", "a:b", "b", "sha256"];

fn step() -> impl Strategy<Value = Step> {
    let (name, content) = (0..NAMES.len(), 0..4_u8);
    let cut = prop_oneof![Just(Cut::Sealed), Just(Cut::Placed), Just(Cut::Published)];
    prop_oneof![
        4 => (name.clone(), content.clone()).prop_map(|(name, content)| Step::Import { name, content }),
        1 => (name.clone(), content.clone()).prop_map(|(name, content)| Step::Abandon { name, content }),
        2 => name.clone().prop_map(|name| Step::Remove { name }),
        1 => Just(Step::Reopen),
        2 => (name.clone(), content, cut).prop_map(|(name, content, at)| Step::Die { name, content, at }),
        1 => name.prop_map(|name| Step::DieRemoving { name }),
    ]
}

/// A store beside the map it should equal.
struct History {
    dir: TempDir,
    store: Option<Store>,
    model: BTreeMap<String, Vec<u8>>,
}

impl History {
    fn new() -> Self {
        let (dir, store) = fresh();
        Self { dir, store: Some(store), model: BTreeMap::new() }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Import { name, content } => {
                import(self.store(), NAMES[name], &[content]);
                self.expect(name, content);
            }
            Step::Abandon { name, content } => drop(seal(self.store(), NAMES[name], &[content])),
            Step::Remove { name } => {
                let was_there = self.model.remove(named(NAMES[name]).as_str()).is_some();
                assert_eq!(self.store().remove(&named(NAMES[name])).is_ok(), was_there);
            }
            Step::Reopen => self.reopen(),
            Step::Die { name, content, at } => {
                self.die(NAMES[name], content, at);
                if matches!(at, Cut::Published) {
                    self.expect(name, content);
                }
                self.reopen();
            }
            Step::DieRemoving { name } => {
                let name = named(NAMES[name]);
                if self.model.remove(name.as_str()).is_some() {
                    drop(self.store().inner.change().withdraw(&name).unwrap());
                }
                self.reopen();
            }
        }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("open between steps")
    }

    fn expect(&mut self, name: usize, content: u8) {
        self.model.insert(named(NAMES[name]).to_string(), vec![content]);
    }

    fn reopen(&mut self) {
        self.store = None;
        self.store = Some(open(&self.dir));
    }

    /// Stops a commit half way. A file in `tmp/` is left there, as a killed process would.
    fn die(&self, name: &str, content: u8, at: Cut) {
        let sealed = seal(self.store(), name, &[content]);
        let (store, file, manifest) = sealed.into_parts(facts("x"), SystemTime::now());
        let place = |file| store.inner.change().place(file, manifest).unwrap();
        match at {
            Cut::Sealed => std::mem::forget(file),
            Cut::Placed => drop(place(file)),
            Cut::Published => drop(place(file).publish().unwrap()),
        }
    }

    fn check(&self) {
        assert_eq!(contents(self.store()), self.model);
        let blobs = names_in(&models(&self.dir).join("blobs"));
        assert_eq!(blobs, blob_names(self.model.values()));
        assert_eq!(self.store().usage().unwrap().models, Bytes(blobs.len() as u64));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn any_history_of_changes_and_deaths_leaves_what_a_map_would_hold(
        steps in prop::collection::vec(step(), 1..12)
    ) {
        let mut history = History::new();
        for step in steps {
            history.take(step);
            history.check();
        }
        prop_assert_eq!(after_power_cut(&history.dir), history.model);
    }
}
