//! Figures for Prometheus, and the dashboard that shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use hearth_tests::answer::{answer, ask};
use hearth_tests::cli::command;
use hearth_tests::eventually::eventually;
use hearth_tests::fixture::{self, Arch};
use hearth_tests::{Launch, TestDaemon};
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// A daemon whose figures are on a socket in `folder`.
async fn measured(folder: &Path) -> TestDaemon {
    let socket = folder.join("metrics.sock");
    let config =
        format!("[metrics]\nlisten = 'unix:{}'\n[engine]\ncontext_tokens = 8192\n", socket.display());
    TestDaemon::launch(Launch { config, ..Launch::default() }).await
}

async fn get(folder: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(folder.join("metrics.sock")).await.expect("connect");
    stream.write_all(format!("{request} HTTP/1.1\r\nhost: board\r\n\r\n").as_bytes()).await.expect("ask");
    let mut response = String::new();
    stream.read_to_string(&mut response).await.expect("read");
    response
}

/// Every sample: name with labels, and value.
async fn figures(folder: &Path) -> BTreeMap<String, f64> {
    let response = get(folder, "GET /metrics").await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert!(response.contains("application/openmetrics-text"), "{response}");
    let (_, body) = response.split_once("\r\n\r\n").expect("a body");
    assert!(body.trim_end().ends_with("# EOF"), "{body}");
    let samples = body.lines().filter(|line| !line.starts_with('#') && line.contains(' '));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("a value");
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("not a number: {line}")))
    };
    samples.map(sample).collect()
}

#[tokio::test]
async fn requests_tokens_stages_engines_and_memory_are_counted() {
    let outside = TempDir::new().expect("a temporary folder");
    let daemon = measured(outside.path()).await;
    daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
    let client = daemon.client();
    for _ in 0..2 {
        answer(&client, ask("tiny", "hello there", 5)).await.expect("an answer");
    }
    answer(&client, ask("nobody", "hello", 5)).await.expect_err("no such model");
    let figures_now = figures(outside.path()).await;
    let of = |name: &str| *figures_now.get(name).unwrap_or_else(|| panic!("no {name} in {figures_now:#?}"));
    assert_eq!(of(r#"hearth_calls_total{rpc="generate",outcome="ok"}"#), 2.0);
    assert_eq!(of(r#"hearth_calls_total{rpc="generate",outcome="MODEL_NOT_FOUND"}"#), 1.0);
    assert_eq!(of(r#"hearth_tokens_total{model="tiny:latest",kind="generated"}"#), 10.0);
    assert!(of(r#"hearth_tokens_total{model="tiny:latest",kind="prompt"}"#) > 0.0);
    assert!(of(r#"hearth_tokens_total{model="tiny:latest",kind="cached"}"#) > 0.0, "the second time");
    for stage in ["queue", "load", "prefill", "decode", "first_delta"] {
        let name = format!(r#"hearth_stage_seconds_count{{model="tiny:latest",stage="{stage}"}}"#);
        assert_eq!(of(&name), 2.0, "{stage}");
    }
    assert_eq!(of(r#"hearth_loads_total{model="tiny:latest",outcome="ok"}"#), 1.0);
    assert_eq!(of(r#"hearth_load_seconds_count{model="tiny:latest"}"#), 1.0);
    assert_eq!(of(r#"hearth_model_state{model="tiny:latest",state="ready"}"#), 1.0);
    assert_eq!(of(r#"hearth_imports_total{reason="ok"}"#), 1.0);
    assert_eq!(of(r#"hearth_context_tokens{model="tiny:latest"}"#), 8192.0);
    assert!(
        of("hearth_memory_budget_bytes") > of(r#"hearth_memory_reserved_bytes{line="engine tiny:latest"}"#)
    );
    assert!(of("process_resident_memory_bytes") > 0.0 && of("hearth_store_models_bytes") > 0.0);

    let hurried = ask("tiny", "hello", 100_000).deadline(std::time::Duration::from_millis(300));
    answer(&client, hurried).await.expect_err("its time is over");
    let mut stream = client.generate(ask("tiny", "hello", 100_000)).await.expect("a stream");
    stream.next().await.expect("an event").expect("accepted");
    drop(stream);
    eventually("the cancel is counted", || async {
        let figures = figures(outside.path()).await;
        assert_eq!(
            figures.get(r#"hearth_answers_total{model="tiny:latest",outcome="DEADLINE"}"#),
            Some(&1.0)
        );
        (figures.get(r#"hearth_cancels_total{model="tiny:latest"}"#) == Some(&1.0)).then_some(())
    })
    .await;
    kill_process(daemon.engine_pid("tiny").await, Signal::KILL).expect("kill the engine");
    eventually("the crash is counted", || async {
        let figures = figures(outside.path()).await;
        (figures.get(r#"hearth_crashes_total{model="tiny:latest"}"#) == Some(&1.0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn only_the_figures_are_served() {
    let outside = TempDir::new().expect("a temporary folder");
    let daemon = measured(outside.path()).await;
    assert!(get(outside.path(), "GET /").await.starts_with("HTTP/1.1 404"));
    assert!(get(outside.path(), "POST /metrics").await.starts_with("HTTP/1.1 405"));
    assert!(get(outside.path(), "nonsense").await.starts_with("HTTP/1.1 400"));
    assert!(daemon.stop().await.success());
    assert!(!outside.path().join("metrics.sock").exists());
}

/// Counters that have not counted are not shown: each counts once.
async fn everything_happens(daemon: &TestDaemon, folder: &Path) {
    daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
    let client = daemon.client();
    answer(&client, ask("tiny", "hello", 5)).await.expect("an answer");
    let mut stream = client.generate(ask("tiny", "hello", 100_000)).await.expect("a stream");
    stream.next().await.expect("an event").expect("accepted");
    drop(stream);
    daemon.signal(Signal::HUP);
    let refused =
        command(daemon, &["status"]).env("HEARTH_TOKEN", "guess").output().await.expect("run hearth");
    assert!(!refused.status.success());
    kill_process(daemon.engine_pid("tiny").await, Signal::KILL).expect("kill the engine");
    eventually("all is counted", || async {
        let figures = figures(folder).await;
        let names = ["cancels", "reloads", "refusals", "crashes"].map(|name| format!("hearth_{name}_total"));
        names.iter().all(|name| figures.keys().any(|key| key.starts_with(name))).then_some(())
    })
    .await;
    answer(&client, ask("tiny", "hello", 5)).await.expect("an engine again");
}

/// All texts of a JSON value under the key `expr`.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| expressions(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

/// Names of metrics in an expression.
fn names(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("hearth_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn the_dashboard_shows_what_there_is() {
    let outside = TempDir::new().expect("a temporary folder");
    let daemon = measured(outside.path()).await;
    everything_happens(&daemon, outside.path()).await;
    let known = get(outside.path(), "GET /metrics").await;
    let known: BTreeSet<&str> =
        known.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/grafana/hearth.json");
    let dashboard = std::fs::read_to_string(path).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("it is JSON");
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    let used: BTreeSet<String> = found.iter().flat_map(|expression| names(expression)).collect();
    assert!(used.len() > 12, "{used:?}");
    for name in &used {
        let family =
            ["_total", "_bucket", "_count", "_sum", "_info"].iter().find_map(|end| name.strip_suffix(end));
        let is_known = known.contains(name.as_str()) || family.is_some_and(|family| known.contains(family));
        assert!(is_known, "the dashboard shows {name}, which is none of {known:?}");
    }
    for family in known.iter().filter(|family| family.starts_with("hearth_") && !family.ends_with("build")) {
        let is_shown = used.iter().any(|name| name.starts_with(family));
        assert!(is_shown, "the dashboard does not show {family}");
    }
}
