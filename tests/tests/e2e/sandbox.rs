//! Real engines of a real daemon run in their sandbox. What it denies is tried in the engine's own test `sandbox`.

use std::path::Path;

use hearth_tests::TestDaemon;
use hearth_tests::answer::{answer, ask, usage};
use hearth_tests::eventually::eventually;
use hearth_tests::fixture::{self, Arch};

/// What the kernel says of a process or a thread, `/proc/…/status`; nothing where it has ended.
fn field(of: &Path, name: &str) -> Option<String> {
    let status = std::fs::read_to_string(of.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// Nothing can gain rights, and system calls are filtered.
fn is_closed(of: &Path) -> bool {
    field(of, "NoNewPrivs").as_deref() == Some("1") && field(of, "Seccomp").as_deref() == Some("2")
}

fn kernel_filters() -> bool {
    let filters = field(Path::new("/proc/self"), "Seccomp").is_some();
    if !filters {
        #[expect(clippy::print_stderr, reason = "the test runner shows it")]
        {
            eprintln!("skipped: this kernel does not filter system calls");
        }
    }
    filters
}

#[tokio::test]
async fn every_thread_of_an_engine_is_in_the_sandbox_and_it_answers() {
    if !kernel_filters() {
        return;
    }
    let daemon = TestDaemon::start().await;
    daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
    daemon.load("tiny").await;
    let said = answer(&daemon.client(), ask("tiny", "hello", 8)).await.expect("an answer");
    assert_eq!(usage(&said).generated_tokens, 8);
    let engine = daemon.engine("tiny").await.expect("it is loaded");
    assert!(engine.sandbox.contains("seccomp"), "{}", engine.sandbox);
    let tasks = Path::new("/proc").join(engine.pid.to_string()).join("task");
    let threads: Vec<_> = std::fs::read_dir(tasks).expect("its threads").flatten().collect();
    assert!(threads.len() >= 3, "the link, llama.cpp, prompts: {threads:?}");
    for thread in threads {
        assert!(is_closed(&thread.path()), "{:?}", field(&thread.path(), "Name"));
    }
    assert_eq!(daemon.count_in_log("Sandbox has a gap"), 0, "{}", engine.sandbox);
}

#[tokio::test]
async fn an_inspector_is_in_it_too() {
    if !kernel_filters() {
        return;
    }
    let daemon = TestDaemon::start().await;
    daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
    let parent = daemon.pid().as_raw_nonzero().to_string();
    let client = daemon.client();
    let ask_on = async {
        loop {
            client.count_tokens(ask("tiny", "hello", 1)).await.expect("a count");
        }
    };
    // They are short-lived, and open for as long as it takes to get to the sandbox.
    let look = eventually("an inspector in the sandbox", || {
        let processes = std::fs::read_dir("/proc").expect("processes").flatten().map(|entry| entry.path());
        let seen = processes
            .filter(|process| field(process, "PPid").as_deref() == Some(&parent))
            .filter(|process| is_inspector(process))
            .any(|process| is_closed(&process));
        async move { seen.then_some(()) }
    });
    tokio::select! {
        () = ask_on => {}
        () = look => {}
    }
}

fn is_inspector(process: &Path) -> bool {
    let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).nth(1) == Some(b"inspect")
}
