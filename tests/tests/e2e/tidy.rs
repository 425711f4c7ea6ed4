//! House rules that no compiler checks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Crate folder, and the workspace crates that its library or programs may use.
const LAYERS: [(&str, &[&str]); 5] = [
    ("proto", &[]),
    ("daemon/engine", &["hearth-proto"]),
    ("daemon", &["hearth-proto"]),
    ("client", &["hearth-proto"]),
    ("tests", &["hearth-proto", "hearth-client"]),
];

/// What may hold `unsafe`: llama.cpp's edge, and system calls without a safe wrapper, one of the engine's own and those
/// that are tried in its sandbox.
const UNSAFE: [&str; 3] =
    ["daemon/engine/src/llama", "daemon/engine/src/process/slice.rs", "daemon/engine/examples/sandboxed.rs"];

/// What changes a file system or waits for it. In the store only `disk` has these words, so that tests can cut its
/// power between any two acts.
const WRITERS: [&str; 26] = [
    "fs::write",
    "fs::copy",
    "fs::rename",
    "fs::remove_",
    "fs::create_dir",
    "fs::hard_link",
    "fs::set_permissions",
    "io::copy",
    "DirBuilder",
    "OpenOptions",
    "File::create",
    "File::options",
    "Write",
    ".write_at(",
    ".write_all_at(",
    ".set_len(",
    ".set_permissions(",
    ".set_times(",
    ".sync_all(",
    ".sync_data(",
    "symlink(",
    "tempfile",
    "ftruncate",
    "fallocate",
    "ioctl_",
    "at(CWD",
];

/// Code below a path, words that it must not use, and where below it they may be used all the same.
const APART: [(&str, &[&str], &[&str]); 6] = [
    ("daemon/src", &["hearth_proto::v1", "tonic::"], &["daemon/src/rpc", "daemon/src/engines/link.rs"]),
    (
        "daemon/engine/src/chat",
        &["tokio", "std::process", "std::fs", "Instant"],
        &["daemon/engine/src/chat/tests"],
    ),
    ("daemon/engine/src/batch/core.rs", &["tokio", "std::process", "std::fs", "Instant"], &[]),
    ("daemon/src/memory", &["tokio", "std::process", "std::fs", "Instant"], &[]),
    ("daemon/src/store", &["tokio", "tonic"], &[]),
    ("daemon/src/store", &WRITERS, &["daemon/src/store/disk", "daemon/src/store/tests"]),
];

/// A file with more lines than this has more than one job; tables of tests may be longer.
const MOST_LINES: usize = 700;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Files under `folder` that end in `.ending`, without what is built, downloaded or generated.
fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    const SKIPPED: [&str; 5] = ["target", "gen", "node_modules", "__pycache__", "venv"];
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            if !name.starts_with('.') && !SKIPPED.contains(&name) {
                files(&path, ending, found);
            }
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
}

/// Rust sources of a folder of the project, each with its path from the root.
fn sources(folder: &str) -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    files(&root.join(folder), "rs", &mut found);
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a source file");
        (path.strip_prefix(&root).expect("below the root").display().to_string(), text)
    };
    found.into_iter().map(read).collect()
}

fn manifest(folder: &str) -> toml::Table {
    let path = root().join(folder).join("Cargo.toml");
    std::fs::read_to_string(&path).expect("a manifest").parse().expect("TOML")
}

fn dependencies(manifest: &toml::Table, section: &str) -> BTreeSet<String> {
    let table = manifest.get(section).and_then(toml::Value::as_table);
    table.map(|table| table.keys().cloned().collect()).unwrap_or_default()
}

/// Is this code, and not a comment?
fn is_code(line: &str) -> bool {
    !line.trim_start().starts_with("//")
}

#[test]
fn crates_depend_only_downwards() {
    let names: BTreeSet<&str> =
        ["hearth-proto", "hearth-engine", "hearthd", "hearth-client", "hearth-tests"].into();
    for (folder, allowed) in LAYERS {
        for name in dependencies(&manifest(folder), "dependencies") {
            assert!(
                !names.contains(name.as_str()) || allowed.contains(&name.as_str()),
                "{folder} must not depend on {name}"
            );
        }
    }
}

#[test]
fn what_is_kept_apart_stays_apart() {
    for (below, words, except) in APART {
        for (path, text) in sources("daemon") {
            let is_test = path.ends_with("tests.rs");
            if !path.starts_with(below) || is_test || except.iter().any(|allowed| path.starts_with(allowed)) {
                continue;
            }
            for (number, line) in text.lines().enumerate().filter(|(_, line)| is_code(line)) {
                let word = words.iter().find(|word| line.contains(**word));
                assert!(word.is_none(), "{path}:{}: {below} must not know this: {line}", number + 1);
            }
        }
    }
}

#[test]
fn every_dependency_is_used() {
    let mut used_anywhere = BTreeSet::new();
    for (folder, _) in LAYERS {
        let manifest = manifest(folder);
        let mut text: String = sources(folder)
            .into_iter()
            .filter(|(path, _)| folder != "daemon" || !path.starts_with("daemon/engine/"))
            .map(|(_, text)| text)
            .collect();
        let generated = root().join(folder).join("src/gen");
        for file in std::fs::read_dir(generated).into_iter().flatten() {
            text.push_str(&std::fs::read_to_string(file.expect("an entry").path()).unwrap_or_default());
        }
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for name in dependencies(&manifest, section) {
                let name_in_code = name.replace('-', "_");
                let ways = [format!("{name_in_code}::"), format!("use {name_in_code} as ")];
                assert!(ways.iter().any(|way| text.contains(way)), "{folder}: {name} is not used");
                used_anywhere.insert(name);
            }
        }
    }
    let workspace = manifest(".");
    let listed = workspace["workspace"].as_table().expect("a table");
    for name in dependencies(listed, "dependencies") {
        assert!(used_anywhere.contains(&name), "the workspace lists {name}, which no crate uses");
    }
}

#[test]
fn unsafe_stays_at_its_edges() {
    for (path, text) in sources("") {
        if UNSAFE.iter().any(|place| path.starts_with(place)) || path.ends_with("tidy.rs") {
            continue;
        }
        for (number, line) in text.lines().enumerate().filter(|(_, line)| is_code(line)) {
            let found =
                line.contains("unsafe {") || line.contains("unsafe fn") || line.contains("unsafe impl");
            assert!(!found, "{path}:{}: unsafe outside its edges: {line}", number + 1);
        }
    }
}

#[test]
fn nothing_is_left_for_later() {
    let words = ["todo!(", "unimplemented!(", "dbg!(", "#[ignore", "FIXME", "XXX", "HACK"];
    for (path, text) in sources("") {
        if path.ends_with("tidy.rs") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let word = words.iter().find(|word| line.contains(**word));
            assert!(word.is_none(), "{path}:{}: {line}", number + 1);
        }
    }
}

#[test]
fn every_queue_is_bounded() {
    for (path, text) in sources("") {
        if path.ends_with("tidy.rs") {
            continue;
        }
        for (number, line) in text.lines().enumerate().filter(|(_, line)| is_code(line)) {
            let unbounded = line.contains("unbounded") || line.contains("std::sync::mpsc::channel");
            assert!(!unbounded, "{path}:{}: an unbounded queue: {line}", number + 1);
        }
    }
}

#[test]
fn every_file_and_public_module_says_what_it_is_for() {
    for (path, text) in sources("") {
        let first = text.lines().find(|line| !line.is_empty() && !line.starts_with("#!["));
        assert!(first.is_some_and(|line| line.starts_with("//!")), "{path} does not begin with `//!`");
    }
}

#[test]
fn files_have_one_job() {
    for (path, text) in sources("") {
        let lines = text.lines().count();
        let is_test = path.contains("/tests/") || path.ends_with("tests.rs");
        assert!(is_test || lines <= MOST_LINES, "{path} has {lines} lines");
    }
}

#[test]
fn lines_of_documents_fit_and_end_clean() {
    let root = root();
    let mut found = Vec::new();
    for ending in ["rs", "proto", "py", "md", "toml", "sh"] {
        files(&root, ending, &mut found);
    }
    for path in found {
        let text = std::fs::read_to_string(&path).expect("a text file");
        let name = path.display();
        assert!(text.is_empty() || text.ends_with('\n'), "{name} does not end with a newline");
        for (number, line) in text.lines().enumerate() {
            assert!(line.trim_end() == line, "{name}:{}: blanks at the end", number + 1);
            assert!(!line.contains('\t'), "{name}:{}: a tab", number + 1);
        }
    }
}

#[test]
fn every_reason_of_a_refusal_is_explained() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect("a text file");
    let daemon = read("daemon/src/rpc/status.rs");
    let table = daemon.split("#[cfg(test)]").next().unwrap_or_default();
    let reasons: BTreeSet<&str> =
        table.split("Row::new(Code::").skip(1).filter_map(|row| row.split('"').nth(1)).collect();
    assert!(reasons.len() > 30, "{reasons:?}");
    let page = read("docs/troubleshooting.md");
    let entries: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect();
    for reason in &reasons {
        assert!(entries.contains(reason), "docs/troubleshooting.md does not explain {reason}");
    }
    for entry in &entries {
        assert!(
            reasons.contains(entry),
            "docs/troubleshooting.md explains {entry}, which the daemon never says"
        );
    }
    assert!(entries.is_sorted(), "its reasons are not in the order of the alphabet: {entries:?}");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut found = Vec::new();
    for folder in ["docs", "docs/models"] {
        files(&root().join(folder), "md", &mut found);
    }
    found.extend(["README.md", "ARCHITECTURE.md"].map(|name| root().join(name)));
    for path in found {
        let text = std::fs::read_to_string(&path).expect("a text file");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            if file.contains(':') {
                continue;
            }
            let target = if file.is_empty() { path.clone() } else { path.with_file_name(file) };
            let page = std::fs::read_to_string(&target);
            let page = page.unwrap_or_else(|_| panic!("{}: {link} leads nowhere", path.display()));
            let mut anchors = page.lines().filter(|line| line.starts_with('#')).map(anchor);
            assert!(
                heading.is_empty() || anchors.any(|anchor| anchor == heading),
                "{}: {link}",
                path.display()
            );
        }
    }
}

/// How a heading is called in a link to it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}
