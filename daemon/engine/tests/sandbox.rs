//! What can be done from inside the sandbox: the example program `sandboxed` enters it and tries.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use tempfile::TempDir;

const EPERM: &str = "1";
const EACCES: &str = "13";
const ENOSYS: &str = "38";

/// What a sandboxed process said, and how it ended.
struct Tried {
    report: String,
    outcomes: BTreeMap<String, String>,
    status: ExitStatus,
}

fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().and_then(Path::parent).unwrap().join("examples/sandboxed");
    assert!(program.is_file(), "{} is missing: run `make build` first", program.display());
    program
}

fn tried(attempts: &[&str]) -> Tried {
    let folder = TempDir::new().unwrap();
    let (model, other) = (folder.path().join("model.gguf"), folder.path().join("other"));
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../client/demo/hearth-demo.gguf");
    std::fs::copy(demo, &model).unwrap();
    std::fs::write(&other, "a secret").unwrap();
    let output = Command::new(program())
        .args([&model, &other])
        .args(attempts)
        .env("RUST_BACKTRACE", "1")
        .env("GGML_NO_BACKTRACE", "1")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let (_, report) = lines.next().unwrap();
    let report = report.to_owned();
    let outcomes = lines.map(|(name, outcome)| (name.to_owned(), outcome.to_owned())).collect();
    Tried { report, outcomes, status: output.status }
}

/// Whether the kernel lacks a layer, which ends the test early; says so.
fn lacks(layer: &str, tried: &Tried) -> bool {
    let lacks = tried.report.contains(&format!("no {layer}"));
    if lacks {
        #[expect(clippy::print_stderr, reason = "the test runner shows it")]
        {
            eprintln!("skipped: this kernel lacks {layer}: {}", tried.report);
        }
    }
    lacks
}

/// Tries everything in one process, and asserts that each had this outcome. False: the kernel lacks `layer`.
fn all_end_with(layer: &str, outcome: &str, attempts: &[&str]) -> bool {
    let tried = tried(attempts);
    if lacks(layer, &tried) {
        return false;
    }
    for attempt in attempts {
        let seen = tried.outcomes.get(*attempt);
        assert_eq!(seen.map(String::as_str), Some(outcome), "{attempt} ({:?})", tried.status);
    }
    assert!(tried.status.success(), "{:?}", tried.status);
    true
}

#[test]
fn what_an_engine_needs_goes_through() {
    let needed = ["read-model", "check-model", "thread", "look-at-memory"];
    let tried = tried(&needed);
    for attempt in needed {
        assert_eq!(tried.outcomes[attempt], "ok", "{attempt} in {}", tried.report);
    }
}

#[test]
fn no_other_file_is_read() {
    let attempts = ["read-other", "list-folder", "read-users", "read-other-in-thread"];
    all_end_with("landlock", EACCES, &attempts);
}

#[test]
fn nothing_is_written_made_or_removed() {
    let attempts = [
        "write-model",
        "append-to-model",
        "change-mode-of-model",
        "write-other",
        "remove-other",
        "rename-other",
        "link-other",
        "make-file",
        "make-folder",
    ];
    all_end_with("seccomp", EPERM, &attempts);
}

#[test]
fn there_are_no_sockets() {
    let attempts = [
        "listen-tcp",
        "connect-tcp",
        "bind-udp",
        "listen-unix",
        "connect-unix",
        "pair-of-sockets",
        "connect-in-thread",
    ];
    all_end_with("seccomp", EPERM, &attempts);
}

#[test]
fn there_are_no_other_processes() {
    let attempts = ["start-program", "become-program", "fork", "new-namespace", "signal-parent"];
    all_end_with("seccomp", EPERM, &attempts);
}

#[test]
fn the_process_stays_as_it_is() {
    let attempts = ["executable-memory", "forget-parent", "raise-limit"];
    all_end_with("seccomp", EPERM, &attempts);
}

#[test]
fn young_calls_are_said_not_to_exist() {
    all_end_with("seccomp", ENOSYS, &["clone3", "openat2", "io-uring", "seccomp"]);
}

#[test]
fn what_only_an_attacker_does_is_deadly() {
    const SIGSYS: i32 = 31;
    let mut attempts = vec![
        "ptrace",
        "read-memory-of-others",
        "bpf",
        "perf",
        "keys",
        "userfaultfd",
        "mount",
        "unshare",
        "enter-namespace",
        "open-by-handle",
        "load-module",
        "reboot",
    ];
    attempts.extend(cfg!(target_arch = "x86_64").then_some("x32"));
    for attempt in attempts {
        let tried = tried(&[attempt]);
        if lacks("seccomp", &tried) {
            return;
        }
        assert_eq!(tried.status.signal(), Some(SIGSYS), "{attempt}: {:?}", tried.outcomes);
    }
}

#[test]
fn an_engine_that_aborts_or_panics_does_so_by_its_name() {
    const SIGABRT: i32 = 6;
    const PANIC: i32 = 101;
    assert_eq!(tried(&["abort"]).status.signal(), Some(SIGABRT));
    assert_eq!(tried(&["panic"]).status.code(), Some(PANIC));
}
