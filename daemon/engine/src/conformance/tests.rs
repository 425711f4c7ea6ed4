//! The project's own vectors always, the shared ones where they are at hand.

use super::*;
use crate::testing::{backend, on_a_large_stack, shared};

fn check(folder: &Path, least: usize) {
    let mut report = Vec::new();
    let tally = on_a_large_stack(|| run(folder, backend(), &mut report)).unwrap();
    assert_eq!(tally.failed, 0, "{}", String::from_utf8_lossy(&report));
    assert!(tally.passed >= least, "{tally:?}");
}

#[test]
fn the_projects_own_vectors_pass() {
    check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors"), 70);
}

#[test]
fn the_shared_vectors_pass() {
    if let Some(shared) = shared() {
        check(&shared.join("vectors"), 300);
    }
}

#[test]
fn a_vector_that_does_not_hold_is_told_with_its_difference() {
    let folder = tempfile::tempdir().unwrap();
    let parse = folder.path().join("parse");
    std::fs::create_dir(&parse).unwrap();
    let vector = |content: &str| {
        format!(
            r#"{{"model": "qwen3-8b", "text": "one\ntwo", "tools": [], "stop": {{"kind": "eog"}},
            "expected": {{"content": "{content}", "reasoning": "", "tool_calls": [], "finish": "stop"}}}}"#
        )
    };
    std::fs::write(parse.join("a.json"), vector("one\\ntwo")).unwrap();
    std::fs::write(parse.join("b.json"), vector("one\\nthree")).unwrap();
    std::fs::write(parse.join("c.json"), "{}").unwrap();
    let mut report = Vec::new();
    let tally = run(folder.path(), backend(), &mut report).unwrap();
    let report = String::from_utf8(report).unwrap();
    assert_eq!(tally, Tally { passed: 1, failed: 2 });
    assert!(
        report.contains("-content \"one\\nthree\"") && report.contains("+content \"one\\ntwo\""),
        "{report}"
    );
    assert!(report.contains("`model` must be text"), "{report}");
    assert!(report.ends_with("1 passed, 2 failed\n"), "{report}");
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(run(empty.path(), backend(), &mut Vec::new()), Err(ConformanceError::Empty(_))));
}
