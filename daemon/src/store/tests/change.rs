//! Models are replaced and removed.

use super::*;

#[test]
fn a_model_of_the_same_name_is_replaced_and_its_file_removed() {
    let (dir, store) = fresh();
    import(&store, "a", b"old");
    import(&store, "a", b"new");
    assert_eq!(contents(&store), map([("a:latest", b"new")]));
    assert_eq!(names_in(&models(&dir).join("blobs")), blob_names([&b"new".to_vec()]));
}

#[test]
fn two_models_may_share_a_file_which_goes_with_the_last() {
    let (dir, store) = fresh();
    import(&store, "a", b"same");
    let inode = |store: &Store| fs::metadata(store.blob_path(&digest_of(b"same"))).unwrap().ino();
    let before = inode(&store);
    import(&store, "b", b"same");
    assert_eq!(inode(&store), before);
    assert_eq!(store.usage().unwrap().models, Bytes(4));
    assert_eq!(store.remove(&named("a")).unwrap(), Bytes(0));
    assert_eq!(contents(&store), map([("b:latest", b"same")]));
    assert_eq!(store.remove(&named("b")).unwrap(), Bytes(4));
    assert_eq!(names_in(&models(&dir).join("blobs")), BTreeSet::new());
}

#[test]
fn a_file_that_an_engine_has_open_stays_readable_when_its_model_is_removed() {
    let (_dir, store) = fresh();
    let manifest = import(&store, "a", b"content");
    let file = File::open(store.blob_path(&manifest.weights().digest)).unwrap();
    store.remove(&named("a")).unwrap();
    assert_eq!(std::io::read_to_string(file).unwrap(), "content");
}

#[test]
fn a_model_that_is_not_there_cannot_be_removed() {
    let (_dir, store) = fresh();
    let error = store.remove(&named("a")).unwrap_err();
    assert!(matches!(error, RemoveError::NotFound { name } if name == named("a")));
}

#[test]
fn a_removal_that_fails_leaves_the_model() {
    let (dir, store) = fresh();
    import(&store, "a", b"content");
    let manifest = models(&dir).join("manifests/a:latest.json");
    fs::remove_file(&manifest).unwrap();
    fs::create_dir(&manifest).unwrap();
    assert!(matches!(store.remove(&named("a")), Err(RemoveError::Disk(_))));
    assert_eq!(contents(&store), map([("a:latest", b"content")]));
}

#[test]
fn changes_from_many_threads_come_one_after_another() {
    let (dir, store) = fresh();
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..4 {
                    import(store, ["a", "b"][usize::from(round % 2)], &[thread % 2, round]);
                    drop(store.remove(&named("a")));
                    import(store, "c", b"same");
                }
            });
        }
    });
    let found = contents(&store);
    assert_eq!(names_in(&models(&dir).join("blobs")), blob_names(found.values()));
    assert_eq!(after_power_cut(&dir), found);
}
