//! Imports by stream and by path, and what is refused.

use super::*;

#[test]
fn an_imported_model_is_there_after_the_store_is_opened_again() {
    let (dir, store) = fresh();
    let manifest = import(&store, "qwen3", b"the weights");
    assert_eq!(manifest.name, named("qwen3:latest"));
    assert_eq!(manifest.weights().digest, digest_of(b"the weights"));
    assert_eq!(manifest.size(), Bytes(11));
    assert_eq!(store.list(), std::slice::from_ref(&manifest));
    drop(store);

    let store = open(&dir);
    assert_eq!(store.get(&meant("qwen3")).unwrap(), manifest);
    assert_eq!(store.get(&meant(&manifest.weights().digest.to_string()[..8])).unwrap(), manifest);
    assert_eq!(contents(&store), map([("qwen3:latest", b"the weights")]));
}

#[test]
fn a_sealed_file_can_be_read_and_not_written_and_is_no_model_yet() {
    let (_dir, store) = fresh();
    let sealed = seal(&store, "a", b"content");
    assert_eq!(fs::read(sealed.path()).unwrap(), b"content");
    assert_eq!(fs::metadata(sealed.path()).unwrap().permissions().mode() & 0o777, 0o440);
    assert_eq!((sealed.digest(), sealed.size()), (digest_of(b"content"), Bytes(7)));
    assert!(store.list().is_empty());
}

#[test]
fn an_import_that_is_dropped_leaves_nothing() {
    let (dir, store) = fresh();
    let tmp = models(&dir).join("tmp");
    let mut import = store.begin_import(spec("a", b"content")).unwrap();
    import.write(b"con").unwrap();
    assert_eq!((import.written(), names_in(&tmp).len()), (Bytes(3), 1));
    drop(import);
    assert_eq!(names_in(&tmp), BTreeSet::new());
    drop(seal(&store, "a", b"content"));
    assert_eq!(names_in(&tmp), BTreeSet::new());
}

#[test]
fn a_file_that_is_too_long_is_refused_with_both_lengths() {
    let (_dir, store) = fresh();
    let mut import = store.begin_import(spec("a", b"12345")).unwrap();
    import.write(b"123").unwrap();
    let error = import.write(b"456").unwrap_err();
    assert!(matches!(error, ImportError::TooLong { announced: Bytes(5), got: Bytes(6) }), "{error}");
}

#[test]
fn a_file_that_is_too_short_is_refused_with_both_lengths() {
    let (_dir, store) = fresh();
    let mut import = store.begin_import(spec("a", b"12345")).unwrap();
    import.write(b"123").unwrap();
    let error = import.seal().unwrap_err();
    assert!(matches!(error, ImportError::TooShort { announced: Bytes(5), got: Bytes(3) }), "{error}");
}

#[test]
fn a_file_of_another_digest_is_refused_with_both_digests() {
    let (dir, store) = fresh();
    let announced = digest_of(b"good");
    let mut import =
        store.begin_import(ImportSpec { sha256: Some(announced), ..spec("a", b"evil") }).unwrap();
    import.write(b"evil").unwrap();
    match import.seal().unwrap_err() {
        ImportError::WrongDigest { announced: wanted, got } => {
            assert_eq!((wanted, got), (announced, digest_of(b"evil")));
        }
        other => panic!("{other}"),
    }
    assert_eq!(names_in(&models(&dir).join("tmp")), BTreeSet::new());
}

#[test]
fn a_file_of_the_announced_digest_is_taken() {
    let (_dir, store) = fresh();
    let mut import =
        store.begin_import(ImportSpec { sha256: Some(digest_of(b"good")), ..spec("a", b"good") }).unwrap();
    import.write(b"good").unwrap();
    assert_eq!(import.seal().unwrap().digest(), digest_of(b"good"));
}

#[test]
fn an_import_that_does_not_fit_the_disk_is_refused_before_it_begins() {
    let (dir, store) = fresh();
    let huge = ImportSpec { size: Bytes(u64::MAX), ..spec("a", b"") };
    match store.begin_import(huge).unwrap_err() {
        ImportError::NoSpace { need, free } => {
            assert_eq!(need, Bytes(u64::MAX));
            assert!(free > Bytes(0));
        }
        other => panic!("{other}"),
    }
    assert_eq!(names_in(&models(&dir).join("tmp")), BTreeSet::new());
}

#[test]
fn what_running_imports_will_take_is_not_free() {
    let (_dir, store) = fresh();
    let most = Bytes(store.usage().unwrap().free.0 / 4 * 3);
    let spec = |name| ImportSpec { name: named(name), size: most, sha256: None };
    let running = store.begin_import(spec("a")).unwrap();
    let error = store.begin_import(spec("b")).unwrap_err();
    assert!(matches!(error, ImportError::NoSpace { need, free } if need == most && free < most), "{error}");
    drop(running);
    store.begin_import(spec("b")).unwrap();
}

#[test]
fn a_claim_shrinks_by_what_is_written_and_ends_with_the_import() {
    let dir = TempDir::new().unwrap();
    let space = Space::at(dir.path().to_owned());
    let mut claim = space.claim(Bytes(1000)).unwrap();
    claim.fill(Bytes(400));
    assert_eq!(*space.outstanding(), Bytes(600));
    claim.fill(Bytes(4000));
    assert_eq!(*space.outstanding(), Bytes(0));
    let second = space.claim(Bytes(1000)).unwrap();
    drop((claim, second));
    assert_eq!(*space.outstanding(), Bytes(0));
}

#[test]
fn a_file_longer_than_the_cache_window_comes_through_whole() {
    let (_dir, store) = fresh();
    let content: Vec<u8> = (0..65 << 20).map(|i: u32| i.to_le_bytes()[i as usize % 3]).collect();
    let mut import = store.begin_import(spec("a", &content)).unwrap();
    content.chunks(3 << 20).for_each(|part| import.write(part).unwrap());
    let sealed = import.seal().unwrap();
    assert_eq!(sealed.digest(), digest_of(&content));
    assert!(fs::read(sealed.path()).unwrap() == content);
}

#[test]
fn a_commit_that_fails_leaves_the_old_state() {
    let (dir, store) = fresh();
    import(&store, "a", b"old");
    let sealed = seal(&store, "a", b"new");
    let (manifests, hidden) = (models(&dir).join("manifests"), models(&dir).join("hidden"));
    fs::rename(&manifests, &hidden).unwrap();
    let error = sealed.commit(facts("a")).unwrap_err();
    assert!(matches!(&error, ImportError::Disk(e) if e.doing == "replace" && !e.is_full()), "{error}");
    assert!(error.source().is_some());
    fs::rename(&hidden, &manifests).unwrap();
    assert_eq!(contents(&store), map([("a:latest", b"old")]));
    assert_eq!(after_power_cut(&dir), map([("a:latest", b"old")]));
    assert_eq!(names_in(&models(&dir).join("blobs")), blob_names([&b"old".to_vec()]));
}

#[test]
fn an_import_into_a_store_without_its_directory_is_an_error_of_the_disk() {
    let (dir, store) = fresh();
    fs::remove_dir(models(&dir).join("tmp")).unwrap();
    assert!(matches!(store.begin_import(spec("a", b"x")), Err(ImportError::Disk(_))));
}

#[test]
fn an_import_that_the_disk_refused_a_part_of_is_spoiled() {
    let (dir, store) = fresh();
    let draft = disk::Draft::create(&models(&dir).join("tmp")).unwrap();
    let file = File::open(draft.path()).unwrap();
    let read_only = draft.through(file);
    let claim = store.inner.space.claim_nothing();
    let mut import = Import::new(&store, spec("a", b"content"), read_only, claim);
    assert!(matches!(import.write(b"content"), Err(ImportError::Disk(_))));
    assert!(matches!(import.write(b"content"), Err(ImportError::Spoiled)));
    assert!(matches!(import.seal(), Err(ImportError::Spoiled)));
    assert_eq!(names_in(&models(&dir).join("tmp")), BTreeSet::new());
}

#[test]
fn a_full_disk_can_be_told_from_a_broken_one() {
    let error = |code: i32| DiskError::when("write", Path::new("x"))(std::io::Error::from_raw_os_error(code));
    let (no_space, over_quota, broken) = (28, 122, 5);
    assert!(error(no_space).is_full() && error(over_quota).is_full() && !error(broken).is_full());
    assert_eq!(error(broken).to_string(), "cannot write x");
}

#[test]
fn an_import_may_move_to_another_thread() {
    fn check<T: Send + 'static>() {}
    check::<Store>();
    check::<Import>();
    check::<Sealed>();
    check::<ImportError>();
}

fn source(dir: &TempDir, content: &[u8]) -> File {
    let path = dir.path().join("source.gguf");
    fs::write(&path, content).unwrap();
    File::options().read(true).write(true).open(path).unwrap()
}

fn go_on(_: Bytes) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn a_file_is_copied_from_its_beginning_and_progress_is_told() {
    let (dir, store) = fresh();
    let content = vec![7; 5 << 19];
    let file = source(&dir, &content);
    std::io::Seek::seek(&mut &file, std::io::SeekFrom::End(0)).unwrap();
    let mut heard = vec![];
    let sealed = store
        .import_copy(spec("a", &content), &file, |done| {
            heard.push(done.0);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(heard, [1 << 20, 2 << 20, 5 << 19]);
    assert_eq!(sealed.digest(), digest_of(&content));
    sealed.commit(facts("a")).unwrap();
    assert_eq!(contents(&store), map([("a:latest", &content)]));
}

#[test]
fn a_copy_can_be_stopped() {
    let (dir, store) = fresh();
    let file = source(&dir, b"content");
    let stopped = store.import_copy(spec("a", b"content"), &file, |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(ImportError::Stopped)));
    assert_eq!(names_in(&models(&dir).join("tmp")), BTreeSet::new());
}

#[test]
fn a_copy_is_checked_like_any_import() {
    let (dir, store) = fresh();
    let file = source(&dir, b"content");
    let short = store.import_copy(spec("a", b"contents"), &file, go_on);
    assert!(matches!(short, Err(ImportError::TooShort { announced: Bytes(8), got: Bytes(7) })));
    let long = store.import_copy(spec("a", b"conte"), &file, go_on);
    assert!(matches!(long, Err(ImportError::TooLong { announced: Bytes(5), got: Bytes(7) })));
    let other = ImportSpec { sha256: Some(digest_of(b"other")), ..spec("a", b"content") };
    assert!(matches!(store.import_copy(other, &file, go_on), Err(ImportError::WrongDigest { .. })));
    let unreadable = File::options().write(true).open(dir.path().join("source.gguf")).unwrap();
    let failed = store.import_copy(spec("a", b"content"), &unreadable, go_on);
    assert!(matches!(failed, Err(ImportError::Source(_))));
}

#[test]
fn a_source_that_changes_its_length_under_the_copy_is_refused() {
    let (dir, store) = fresh();
    let content = vec![7; 3 << 20];
    let file = source(&dir, &content);
    let grow = |_| {
        file.write_all_at(b"more", 3 << 20).unwrap();
        ControlFlow::Continue(())
    };
    let longer = store.import_copy(spec("a", &content), &file, grow).map(|sealed| sealed.digest());
    file.set_len(3 << 20).unwrap();
    let shrink = |_| {
        file.set_len(2 << 20).unwrap();
        ControlFlow::Continue(())
    };
    let shorter = store.import_copy(spec("a", &content), &file, shrink).map(|sealed| sealed.digest());
    // Where the two files share blocks, the import does not see the change at all.
    let whole = |result: &Result<Digest, ImportError>| matches!(result, Ok(d) if *d == digest_of(&content));
    assert!(whole(&longer) || matches!(longer, Err(ImportError::TooLong { .. })), "{longer:?}");
    assert!(whole(&shorter) || matches!(shorter, Err(ImportError::TooShort { .. })), "{shorter:?}");
}
