//! What a manifest says comes back as it was.

use super::*;

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
