//! Inspections live as long as their blob.

use super::*;

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
