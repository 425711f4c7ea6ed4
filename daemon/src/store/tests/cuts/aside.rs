//! Power cuts around a manifest that is set aside: its file stays for as long as it does.

use super::super::*;
use super::chance::Chance;
use super::model::Disk;
use super::{recorded, scratch};

const LOST: &[u8] = b"the bad one";

/// A disk with a store whose manifest of `bad` was damaged.
fn damaged_disk() -> Disk {
    let dir = scratch();
    let store = open(&dir);
    import(&store, "bad", LOST);
    import(&store, "good", b"the good one");
    drop(store);
    fs::write(models(&dir).join("manifests/bad:latest.json"), "{ cut").unwrap();
    Disk::of(dir.path())
}

/// The same when the store was opened, and set the manifest aside.
fn disk_with_damage_aside() -> Disk {
    let dir = scratch();
    damaged_disk().lay_out(dir.path());
    assert_eq!(open(&dir).damaged().len(), 1);
    Disk::of(dir.path())
}

fn has_lost_one(store: &Store) -> bool {
    store.blob_path(&digest_of(LOST)).exists()
}

fn aside(store: &Store) -> BTreeSet<String> {
    names_in(&store.inner.layout.damaged())
}

/// Cuts off `what` after each of its acts, lets a daemon start, and cuts that off when it is open.
fn cut_everywhere(before: &Disk, what: fn(&Path), check: fn(&Store)) {
    let start = |path: &Path| check(&Store::open(path).unwrap());
    let ((), acts, dir) = recorded(before, what);
    for (end, seed) in (0..=acts.len()).flat_map(|end| (0..8).map(move |seed| (end, seed))) {
        let mut chance = Chance::of(seed);
        let mut disk = before.clone();
        acts[..end].iter().for_each(|done| disk.apply(dir.path(), done));
        disk.close_all();
        if chance.once_in(2) {
            disk = disk.cut(&mut chance);
        }
        let ((), acts, dir) = recorded(&disk, start);
        acts.iter().for_each(|done| disk.apply(dir.path(), done));
        recorded(&disk.cut(&mut chance), start);
    }
}

#[test]
fn a_power_cut_while_a_manifest_is_set_aside_costs_no_blob() {
    let check = |store: &Store| {
        assert!(has_lost_one(store));
        assert_eq!(aside(store), BTreeSet::from(["bad:latest.json".to_owned()]));
        assert_eq!(contents(store), map([("good:latest", b"the good one")]));
    };
    cut_everywhere(&damaged_disk(), |path| drop(Store::open(path).unwrap()), check);
}

/// What is set aside must not come back when its file has gone: it would keep other files for nothing.
fn check_not_in_vain(store: &Store) {
    assert!(store.damaged().is_empty(), "{:?}", store.damaged());
    assert!(aside(store).is_empty() || has_lost_one(store), "{:?} lost its blob", aside(store));
}

#[test]
fn a_power_cut_while_a_model_set_aside_is_removed_does_not_leave_half_of_it() {
    let remove = |path: &Path| {
        Store::open(path).unwrap().remove(&named("bad")).unwrap();
    };
    cut_everywhere(&disk_with_damage_aside(), remove, check_not_in_vain);
}

#[test]
fn a_power_cut_while_a_model_set_aside_is_replaced_does_not_leave_half_of_it() {
    let replace = |path: &Path| {
        import(&Store::open(path).unwrap(), "bad", b"a better one");
        Store::open(path).unwrap().remove(&named("bad")).unwrap();
    };
    cut_everywhere(&disk_with_damage_aside(), replace, check_not_in_vain);
}
