//! Imports, removals, crashes in between, and what a hostile client tries.

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

// References.

#[test]
fn a_reference_is_a_name_or_the_beginning_of_a_digest() {
    assert!(matches!(meant("qwen3"), ModelRef::Name(_)));
    assert!(matches!(meant("qwen3:8b"), ModelRef::Name(_)));
    assert!(matches!(meant("deadbee"), ModelRef::Name(_)));
    assert!(matches!(meant("deadbeef"), ModelRef::NameOrDigest(..)));
    assert!(matches!(meant("sha256:DEADBEEF"), ModelRef::Digest(_)));
    assert!(matches!(meant(&"a5".repeat(32)), ModelRef::NameOrDigest(..)));
    for bad in ["", "../x", "a/b", "a:b:c", "sha256:"] {
        assert_eq!(bad.parse::<ModelRef>(), Err(BadModelRef(bad.to_owned())));
    }
}

#[test]
fn a_reference_prints_what_reads_as_the_same() {
    for text in ["qwen3", "qwen3:8b", "DEADBEEF", "deadbeef", "sha256:deadbeef"] {
        assert_eq!(meant(&meant(text).to_string()), meant(text));
    }
}

/// An index with models of made-up digests, which begin alike.
fn index_of(models: &[(&str, [u8; 32])]) -> Index {
    let mut index = Index::default();
    for (name, digest) in models {
        let file = ModelFile { role: FileRole::Weights, digest: Digest(*digest), size: Bytes(10) };
        index.insert(Manifest::new(named(name), vec![file], SystemTime::now(), facts(name)));
    }
    index
}

#[test]
fn a_digest_must_mean_one_file_but_may_have_several_names() {
    let mut other = [0xa5; 32];
    other[31] = 0;
    let index = index_of(&[("b", [0xa5; 32]), ("a", [0xa5; 32]), ("c", other)]);
    let ambiguous = meant("a5a5a5a5");
    assert_eq!(index.get(&ambiguous), Err(LookupError::Ambiguous { model: ambiguous.clone(), matches: 2 }));
    assert_eq!(index.get(&meant(&"A5".repeat(32))).unwrap().name, named("a"));
    assert_eq!(index.get(&Digest(other).into()).unwrap().name, named("c"));
    let unknown = meant("sha256:00000000");
    assert_eq!(index.get(&unknown), Err(LookupError::NotFound { model: unknown.clone() }));
    assert_eq!(index.size(), Bytes(20));
}

#[test]
fn a_name_of_hexadecimal_digits_comes_before_a_digest() {
    let index = index_of(&[("a", [0xa5; 32]), ("a5a5a5a5", [0; 32])]);
    assert_eq!(index.get(&meant("a5a5a5a5")).unwrap().name, named("a5a5a5a5"));
    assert_eq!(index.get(&meant("sha256:a5a5a5a5")).unwrap().name, named("a"));
    assert_eq!(index.get(&meant("a5a5a5a5a5")).unwrap().name, named("a"));
}

// Manifests.

proptest! {
    #[test]
    fn a_manifest_reads_what_it_writes(
        title in ".*",
        parameters: u64,
        digest: [u8; 32],
        size: u64,
        since in 0..u64::MAX / 2_000,
        flags: [bool; 2],
    ) {
        let facts = Facts { parameters, tools: flags[0], thinking: flags[1], ..facts(&title) };
        let file = ModelFile { role: FileRole::Weights, digest: Digest(digest), size: Bytes(size) };
        let now = SystemTime::UNIX_EPOCH + Duration::from_micros(since);
        let manifest = Manifest::new(named("a:b"), vec![file], now, facts);
        prop_assert_eq!(Manifest::parse(&manifest.to_text()).unwrap(), manifest);
    }

    #[test]
    fn no_text_of_a_manifest_makes_the_reader_panic(text: Vec<u8>) {
        prop_assert!(Manifest::parse(&text).is_err());
    }
}

// Importing.

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
    let path = tempfile::NamedTempFile::new_in(models(&dir).join("tmp")).unwrap().into_temp_path();
    let read_only = tempfile::NamedTempFile::from_parts(File::open(&path).unwrap(), path);
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

// Importing a file of this machine.

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

// Replacing and removing.

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

// Inspections.

#[test]
fn an_inspection_is_kept_by_key_as_long_as_its_blob() {
    let (dir, store) = fresh();
    let digest = import(&store, "a", b"content").weights().digest;
    let (key, value) = ("build/1 ../neon", json!({"bytes": 18_446_744_073_709_551_615_u64, "x": [1.5]}));
    assert_eq!(store.inspection(&digest, key), None);
    store.save_inspection(&digest, key, value.clone()).unwrap();
    store.save_inspection(&digest, "other", json!(2)).unwrap();
    store.save_inspection(&digest, "other", json!(3)).unwrap();
    drop(store);

    let store = open(&dir);
    assert_eq!(store.inspection(&digest, key), Some(value));
    assert_eq!(store.inspection(&digest, "other"), Some(json!(3)));
    assert_eq!(store.inspection(&digest, "third"), None);
    store.remove(&named("a")).unwrap();
    assert_eq!(store.inspection(&digest, key), None);
    assert_eq!(names_in(&models(&dir).join("inspections")), BTreeSet::new());
}

#[test]
fn an_inspection_of_an_unknown_blob_is_refused() {
    let (_dir, store) = fresh();
    let error = store.save_inspection(&digest_of(b"x"), "key", json!(1)).unwrap_err();
    assert!(matches!(error, InspectionError::NoBlob { digest } if digest == digest_of(b"x")));
}

#[test]
fn an_inspection_that_cannot_be_kept_is_an_error_of_the_disk() {
    let (dir, store) = fresh();
    let digest = import(&store, "a", b"content").weights().digest;
    fs::write(models(&dir).join("inspections").join(digest.to_string()), "in the way").unwrap();
    let failed = store.save_inspection(&digest, "key", json!(1));
    assert!(matches!(failed, Err(InspectionError::Disk(_))));
    assert_eq!(store.inspection(&digest, "key"), None);
}

#[test]
fn an_inspection_that_cannot_be_read_is_none_and_can_be_made_anew() {
    let (dir, store) = fresh();
    let digest = import(&store, "a", b"content").weights().digest;
    store.save_inspection(&digest, "key", json!(1)).unwrap();
    let folder = models(&dir).join("inspections").join(digest.to_string());
    let file = folder.join(names_in(&folder).first().unwrap());
    fs::write(&file, "{").unwrap();
    assert_eq!(store.inspection(&digest, "key"), None);
    store.save_inspection(&digest, "key", json!(2)).unwrap();
    assert_eq!(store.inspection(&digest, "key"), Some(json!(2)));
}

// Opening.

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

// Damage.

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

// Power cuts. Each test walks the real steps and looks at a copy of the directory between them.

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

// Histories.

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
        let (store, mut file, manifest) = sealed.into_parts(facts("x"), SystemTime::now());
        file.disable_cleanup(true);
        let place = || store.inner.change().place(file, manifest).unwrap();
        match at {
            Cut::Sealed => {}
            Cut::Placed => drop(place()),
            Cut::Published => drop(place().publish().unwrap()),
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
