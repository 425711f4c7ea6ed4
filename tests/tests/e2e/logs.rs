//! What is logged, and how it can be found: the journal's fields, ids that go through to the engine, levels that
//! change while the daemon runs.

use hearth_tests::answer::ask;
use hearth_tests::cli::hearth;
use hearth_tests::eventually::eventually;
use hearth_tests::fixture::{self, Arch};
use hearth_tests::journal::{Entry, Journal};
use hearth_tests::{Launch, TestDaemon};
use tempfile::TempDir;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn field<'a>(entry: &'a Entry, name: &str) -> &'a str {
    entry.get(name).map_or("", String::as_str)
}

async fn ask_by_name(daemon: &TestDaemon) {
    let call =
        ask("tiny", "hello", 3).request_id("errand-7").traceparent(format!("00-{TRACE}-00f067aa0ba902b7-01"));
    daemon.client().generate(call).await.expect("a stream").answer().await.expect("an answer");
}

#[tokio::test]
async fn the_journal_finds_lines_by_model_request_and_trace() {
    let outside = TempDir::new().expect("a temporary folder");
    let journal = Journal::capture(outside.path());
    let Some(through) = journal.namespace() else {
        eprintln!("no mount namespaces here: the journal's socket cannot be captured");
        return;
    };
    let daemon = TestDaemon::launch(Launch {
        config: "[log]\ntarget = 'journal'\n".to_owned(),
        environment: vec![("HEARTH_LOG".to_owned(), "debug".to_owned())],
        through,
        ..Launch::default()
    })
    .await;
    daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
    daemon.import("other", &fixture::tiny(Arch::Llama)).await;
    ask_by_name(&daemon).await;
    assert!(daemon.stop().await.success());

    let ready = journal.with("MESSAGE", "Ready");
    assert_eq!(ready.len(), 1);
    assert_eq!(field(&ready[0], "SYSLOG_IDENTIFIER"), "hearthd");
    assert!(!field(&ready[0], "CODE_FILE").is_empty() && !field(&ready[0], "TARGET").is_empty());
    assert!(
        journal.entries().iter().any(|entry| field(entry, "MESSAGE").starts_with("Effective configuration"))
    );

    let of_model = journal.with("HEARTH_MODEL", "tiny:latest");
    let loaded = of_model.iter().find(|entry| field(entry, "HEARTH_STATE_NEW") == "Ready").expect("its load");
    assert_eq!(field(loaded, "PRIORITY"), "5");
    assert!(field(loaded, "MESSAGE").starts_with("Changed model state"), "{loaded:?}");
    assert!(of_model.iter().all(|entry| !field(entry, "MESSAGE").contains("other")));

    let arrived = journal.with("HEARTH_REQUEST_ID", "errand-7");
    let in_engine = arrived.iter().find(|entry| field(entry, "MESSAGE").starts_with("Request arrived"));
    let in_engine = in_engine.unwrap_or_else(|| panic!("the engine's line: {arrived:#?}"));
    assert_eq!(field(in_engine, "HEARTH_TRACE_ID"), TRACE);
    assert_eq!(field(in_engine, "HEARTH_MODEL"), "tiny:latest");
    assert!(!field(in_engine, "HEARTH_ENGINE_PID").is_empty());
    assert!(
        arrived.iter().any(|entry| field(entry, "HEARTH_RPC") == "generate"),
        "the front's: {arrived:#?}"
    );
    let prompts = journal.entries().into_iter().filter(|entry| entry.values().any(|value| value == "hello"));
    assert_eq!(prompts.count(), 0, "prompts are not logged");
}

#[tokio::test]
async fn levels_change_while_the_daemon_runs_and_reach_the_engines() {
    let daemon = TestDaemon::launch(Launch {
        environment: vec![("HEARTH_LOG".to_owned(), String::new())],
        ..Launch::default()
    })
    .await;
    daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
    ask_by_name(&daemon).await;
    assert_eq!(daemon.count_in_log("Request arrived"), 0, "{}", daemon.log());
    let changed = hearth(&daemon, &["log", "debug", "--json"]).await;
    assert_eq!(changed.code, Some(0), "{changed:?}");
    eventually("the engine has heard of it", || async {
        ask_by_name(&daemon).await;
        (daemon.count_in_log("Request arrived") > 0).then_some(())
    })
    .await;
    let line = daemon.log().lines().find(|line| line.contains("Request arrived")).expect("logged").to_owned();
    assert!(line.contains("errand-7") && line.contains("tiny:latest") && line.contains(TRACE), "{line}");

    let bad = hearth(&daemon, &["log", "=,=", "--json"]).await;
    assert_eq!(bad.of_type("error")[0]["code"], "invalid_argument", "{bad:?}");
    assert_eq!(hearth(&daemon, &["log", "info", "--json"]).await.code, Some(0));
    let short = hearth(&daemon, &["log", "debug", "--for", "50ms", "--json"]).await;
    assert_eq!(short.code, Some(0), "{short:?}");
    eventually("the change is taken back", || async {
        let before = daemon.count_in_log("Request arrived");
        ask_by_name(&daemon).await;
        (daemon.count_in_log("Request arrived") == before).then_some(())
    })
    .await;
}

/// A context beyond what the file was trained for is worth a warning of llama.cpp's; one below is not.
#[tokio::test]
async fn what_llama_cpp_says_comes_with_the_models_name_and_without_its_noise() {
    let daemon = TestDaemon::launch(Launch {
        config: "[models.wide]\ncontext_tokens = 40000\n[models.tiny]\ncontext_tokens = 512\n".to_owned(),
        // Names are there although only warnings are logged.
        environment: vec![("HEARTH_LOG".to_owned(), "warn".to_owned())],
        ..Launch::default()
    })
    .await;
    daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
    daemon.import("wide", &fixture::tiny(Arch::Qwen3)).await;
    daemon.load("tiny").await;
    daemon.load("wide").await;
    daemon.logs("llama_cpp", 1).await;
    let log = daemon.log();
    let said: Vec<&str> = log.lines().filter(|line| line.contains("llama_cpp")).collect();
    for line in &said {
        assert!(line.contains("WARN"), "{line}");
        assert!(line.contains("wide"), "nothing is to be said of the other: {line}");
    }
    assert!(said.len() < 10, "{said:#?}");
}
