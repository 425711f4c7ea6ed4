//! References: a name, or the beginning of a digest.

use super::*;

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
