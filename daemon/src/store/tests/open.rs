//! Opening: locks, formats, leftovers, and models that are set aside.

use super::*;

#[test]
fn a_second_daemon_is_refused_and_told_of_the_first() {
    let (dir, store) = fresh();
    let import = store.begin_import(spec("a", b"x")).unwrap();
    match Store::open(dir.path()).unwrap_err() {
        error @ OpenError::InUse { pid: Some(pid), .. } => {
            assert_eq!(pid, std::process::id());
            assert!(error.to_string().ends_with(&format!("in use by process {pid}")), "{error}");
        }
        other => panic!("{other}"),
    }
    drop(store);
    assert!(matches!(Store::open(dir.path()), Err(OpenError::InUse { .. })));
    drop(import);
    open(&dir);
}

#[test]
fn the_process_that_had_the_store_last_does_not_show_in_the_lock() {
    let (dir, store) = fresh();
    drop(store);
    fs::write(models(&dir).join("lock"), "4294967295 and much more text than a process id has").unwrap();
    let _store = open(&dir);
    let pid = format!("{}\n", std::process::id());
    assert_eq!(fs::read_to_string(models(&dir).join("lock")).unwrap(), pid);
}

#[test]
fn a_store_of_a_newer_format_is_refused_and_left_as_it_is() {
    let (dir, store) = fresh();
    drop(store);
    fs::write(models(&dir).join("format"), "2\n").unwrap();
    fs::write(models(&dir).join("tmp/of-the-future"), "").unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 2, known: 1 }), "{error}");
    assert!(models(&dir).join("tmp/of-the-future").exists());
}

#[test]
fn a_store_whose_format_is_lost_is_refused_and_left_as_it_is() {
    for format in [None, Some(""), Some("0"), Some("one"), Some("\u{0}\u{0}")] {
        let (dir, store) = fresh();
        import(&store, "a", b"content");
        drop(store);
        let path = models(&dir).join("format");
        format.map_or_else(|| fs::remove_file(&path), |text| fs::write(&path, text)).unwrap();
        assert!(matches!(Store::open(dir.path()), Err(OpenError::NoFormat { .. })), "{format:?}");
        fs::write(&path, "1").unwrap();
        assert_eq!(contents(&open(&dir)), map([("a:latest", b"content")]));
    }
}

#[test]
fn a_state_directory_that_cannot_be_made_is_an_error_of_the_disk() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Store::open(&file.join("state")).unwrap_err();
    assert!(matches!(&error, OpenError::Disk(e) if e.doing == "create"), "{error}");
}

#[test]
fn the_state_directory_is_made_with_its_parents() {
    let dir = TempDir::new().unwrap();
    let state = dir.path().join("deep/er/state");
    Store::open(&state).unwrap();
    assert_eq!(fs::read_to_string(state.join("models/format")).unwrap(), "1\n");
}

#[test]
fn what_was_not_finished_is_removed_at_start_and_what_is_not_ours_is_left() {
    let (dir, store) = fresh();
    let kept = import(&store, "a", b"content").weights().digest;
    drop(store);
    let (stray, models) = (digest_of(b"stray"), models(&dir));
    fs::write(models.join("tmp/.tmpXYZ"), "half").unwrap();
    fs::write(models.join(format!("blobs/sha256-{stray}")), "stray").unwrap();
    fs::write(models.join("blobs/README"), "notes").unwrap();
    fs::create_dir(models.join(format!("inspections/{stray}"))).unwrap();
    let store = open(&dir);
    assert_eq!(names_in(&models.join("tmp")), BTreeSet::new());
    let blobs = ["README".to_owned(), format!("sha256-{kept}")];
    assert_eq!(names_in(&models.join("blobs")), BTreeSet::from(blobs));
    assert_eq!(names_in(&models.join("inspections")), BTreeSet::new());
    assert_eq!(contents(&store), map([("a:latest", b"content")]));
}

#[test]
fn what_cannot_be_removed_does_not_keep_the_store_from_opening() {
    let (dir, store) = fresh();
    import(&store, "a", b"content");
    drop(store);
    fs::create_dir(models(&dir).join("tmp/stubborn")).unwrap();
    assert_eq!(contents(&open(&dir)), map([("a:latest", b"content")]));
}

/// A store with the models `bad` and `good` after something happened to the files of `bad`, given its
/// manifest and its blob.
fn damaged_store(harm: impl FnOnce(&Path, &Path)) -> (TempDir, Store) {
    let (dir, store) = fresh();
    import(&store, "bad", b"the bad one");
    import(&store, "good", b"the good one");
    let blob = store.blob_path(&digest_of(b"the bad one"));
    drop(store);
    harm(&models(&dir).join("manifests/bad:latest.json"), &blob);
    let store = open(&dir);
    assert_eq!(contents(&store), map([("good:latest", b"the good one")]));
    (dir, store)
}

fn only_damage(store: &Store) -> &Damage {
    match store.damaged() {
        [damaged] => {
            assert_eq!(damaged.file, "bad:latest.json");
            &damaged.why
        }
        other => panic!("{other:?}"),
    }
}

/// A change to the text of a manifest.
fn edit(from: &str, to: &str) -> impl FnOnce(&Path, &Path) {
    move |manifest, _| {
        let text = fs::read_to_string(manifest).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(manifest, text.replace(from, to)).unwrap();
    }
}

#[test]
fn a_manifest_that_cannot_be_read_is_set_aside_as_it_is() {
    let (dir, store) = damaged_store(|manifest, _| fs::write(manifest, "{ cut").unwrap());
    assert!(matches!(only_damage(&store), Damage::Manifest(ManifestError::Json(_))));
    let aside = models(&dir).join("damaged/bad:latest.json");
    assert_eq!(fs::read_to_string(aside).unwrap(), "{ cut");
    assert_eq!(names_in(&models(&dir).join("manifests")), BTreeSet::from(["good:latest.json".to_owned()]));
}

#[test]
fn a_manifest_that_says_nonsense_is_set_aside() {
    let digest = digest_of(b"the bad one").to_string();
    let (_dir, store) = damaged_store(edit(&digest, "a5"));
    assert!(matches!(only_damage(&store), Damage::Manifest(ManifestError::Digest(_))));
    let (_dir, store) = damaged_store(edit("bad:latest", "../bad"));
    assert!(matches!(only_damage(&store), Damage::Manifest(ManifestError::Name(_))));
    let (_dir, store) = damaged_store(edit("bad:latest", "good:latest"));
    assert!(matches!(only_damage(&store), Damage::Misnamed { name } if name == "good:latest"));
    let (_dir, store) = damaged_store(|manifest, _| {
        let mut value: serde_json::Value = serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
        value["files"] = json!([]);
        fs::write(manifest, value.to_string()).unwrap();
    });
    assert!(matches!(only_damage(&store), Damage::Manifest(ManifestError::NoFiles)));
}

#[test]
fn a_manifest_that_is_no_file_is_set_aside() {
    let (_dir, store) = damaged_store(|manifest, _| {
        fs::remove_file(manifest).unwrap();
        fs::create_dir(manifest).unwrap();
    });
    assert!(matches!(only_damage(&store), Damage::Disk(_)));
}

#[test]
fn a_manifest_whose_blob_is_missing_is_set_aside() {
    let (_dir, store) = damaged_store(|_, blob| fs::remove_file(blob).unwrap());
    assert!(
        matches!(only_damage(&store), Damage::BlobMissing { digest } if *digest == digest_of(b"the bad one"))
    );
}

#[test]
fn a_manifest_whose_blob_was_cut_is_set_aside() {
    let (_dir, store) = damaged_store(|_, blob| {
        fs::remove_file(blob).unwrap();
        fs::write(blob, "the b").unwrap();
    });
    let damage = only_damage(&store);
    assert!(matches!(damage, Damage::BlobSize { found: Bytes(5), expected: Bytes(11), .. }), "{damage}");
}

#[test]
fn a_blob_outlives_the_damage_of_its_manifest_until_the_model_is_imported_again() {
    let (dir, store) = damaged_store(|manifest, _| fs::write(manifest, "{ cut").unwrap());
    let blob = store.blob_path(&digest_of(b"the bad one"));
    drop(store);
    let store = open(&dir);
    assert!(store.damaged().is_empty());
    assert!(blob.exists());
    import(&store, "bad", b"a better one");
    drop(store);
    let store = open(&dir);
    assert!(!blob.exists());
    assert_eq!(names_in(&models(&dir).join("damaged")), BTreeSet::new());
    assert_eq!(contents(&store).len(), 2);
}

#[test]
fn a_blob_that_was_cut_is_healed_by_importing_it_again() {
    let (dir, store) = damaged_store(|_, blob| {
        fs::remove_file(blob).unwrap();
        fs::write(blob, "the b").unwrap();
    });
    import(&store, "bad", b"the bad one");
    let both = map([("bad:latest", b"the bad one"), ("good:latest", b"the good one")]);
    assert_eq!(contents(&store), both);
    assert_eq!(after_power_cut(&dir), both);
}

#[test]
fn a_model_that_was_set_aside_can_be_removed() {
    let (dir, store) = damaged_store(|manifest, _| fs::write(manifest, "{ cut").unwrap());
    assert_eq!(store.remove(&named("bad")).unwrap(), Bytes(11));
    assert!(matches!(store.remove(&named("bad")), Err(RemoveError::NotFound { .. })));
    assert_eq!(after_power_cut(&dir), map([("good:latest", b"the good one")]));
}

#[test]
fn two_manifests_set_aside_keep_all_blobs_until_both_are_gone() {
    let (dir, store) = damaged_store(|manifest, _| fs::write(manifest, "{ cut").unwrap());
    drop(store);
    fs::write(models(&dir).join("manifests/good:latest.json"), "").unwrap();
    let store = open(&dir);
    assert_eq!(store.remove(&named("bad")).unwrap(), Bytes(0));
    assert_eq!(store.remove(&named("good")).unwrap(), Bytes(11 + 12));
}
