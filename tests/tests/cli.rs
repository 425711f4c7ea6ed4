//! The command line against a real daemon.

use hearth_tests::TestDaemon;
use hearth_tests::cli::{Run, command, ended, hearth, hearth_with};
use hearth_tests::eventually::eventually;
use hearth_tests::fixture::{self, Arch};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

const TOOLS: &str = r#"[{"name": "get_temperature", "description": "Read the temperature of a sensor.",
  "parameters": {"type": "object", "properties": {"sensor": {"type": "string"}}, "required": ["sensor"]}}]"#;

#[track_caller]
fn well(run: Run) -> Run {
    assert_eq!(run.code, Some(0), "{run:?}");
    run
}

#[track_caller]
fn only_line(run: &Run) -> Value {
    let lines = run.lines();
    assert_eq!(lines.len(), 1, "{run:?}");
    lines.into_iter().next().expect("one line")
}

async fn with_demo() -> TestDaemon {
    let daemon = TestDaemon::start().await;
    well(hearth(&daemon, &["import", "--demo"]).await);
    daemon
}

#[tokio::test]
async fn a_model_goes_through_its_whole_life() {
    let daemon = TestDaemon::start().await;
    let imported = well(hearth(&daemon, &["import", "--demo", "--json"]).await);
    let model = imported.of_type("imported").pop().expect("the model");
    assert_eq!(model["name"], "demo:latest");
    assert_eq!(model["facts"]["dialect"], "qwen3");

    let listed = well(hearth(&daemon, &["models", "--json"]).await);
    assert_eq!(only_line(&listed)["name"], "demo:latest");
    let one = well(hearth(&daemon, &["models", "demo", "--json"]).await);
    assert_eq!(only_line(&one)["files"], model["files"]);

    let loaded = well(hearth(&daemon, &["load", "demo", "--json"]).await);
    assert_eq!(loaded.of_type("loaded").len(), 1, "{loaded:?}");
    let status = only_line(&well(hearth(&daemon, &["status", "--json"]).await));
    assert_eq!(status["engines"][0]["state"], "ready", "{status}");
    assert!(status["memory"]["reserved_bytes"].as_u64() > Some(0), "{status}");

    let rendered = only_line(&well(hearth(&daemon, &["render", "demo", "-p", "Hello", "--json"]).await));
    let prompt = rendered["text"].as_str().expect("text").to_owned();
    assert!(prompt.contains("<|im_start|>user\nHello<|im_end|>"), "{prompt}");
    let counted = only_line(&well(hearth(&daemon, &["count", "demo", "-p", "Hello", "--json"]).await));
    assert!(counted["tokens"].as_u64() > Some(4), "{counted}");

    let busy = hearth(&daemon, &["rm", "demo", "--json"]).await;
    assert_eq!(busy.code, Some(1), "{busy:?}");
    assert_eq!(only_line(&busy)["code"], "failed_precondition");
    let unloaded = only_line(&well(hearth(&daemon, &["unload", "demo", "--json"]).await));
    assert_eq!(unloaded["was_loaded"], true);
    let removed = only_line(&well(hearth(&daemon, &["rm", "demo", "--json"]).await));
    assert!(removed["freed_bytes"].as_u64() > Some(1_000_000), "{removed}");
    assert!(well(hearth(&daemon, &["models", "--json"]).await).lines().is_empty());
}

#[tokio::test]
async fn an_answer_streams_as_lines_in_their_order() {
    let daemon = with_demo().await;
    let run = well(hearth(&daemon, &["chat", "demo", "--think", "off", "-p", "Hello", "--json"]).await);
    let kinds: Vec<String> =
        run.lines().iter().map(|l| l["type"].as_str().expect("type").to_owned()).collect();
    assert_eq!(kinds.first().map(String::as_str), Some("accepted"));
    assert_eq!(kinds.last().map(String::as_str), Some("finished"));
    assert!(kinds.iter().filter(|kind| *kind == "text").count() > 2, "it streams: {kinds:?}");
    let finished = run.of_type("finished").pop().expect("the end");
    assert_eq!(finished["reason"], "stop");
    assert!(finished["usage"]["generated_tokens"].as_u64() > Some(2), "{finished}");
    assert!(finished["timings"]["decode_ms"].as_f64() > Some(0.0), "{finished}");

    let human = well(hearth(&daemon, &["chat", "demo", "--think", "off", "-p", "Hello"]).await);
    assert!(!human.stdout.trim().is_empty());
    let piped = well(hearth_with(&daemon, &["chat", "demo", "--think", "off", "-p", "-"], "Hello\n").await);
    assert!(!piped.stdout.trim().is_empty());
}

#[tokio::test]
async fn a_tool_is_called_and_its_result_is_answered() {
    let daemon = with_demo().await;
    let tools = daemon.folder().join("tools.json");
    std::fs::write(&tools, TOOLS).expect("write the tools");
    let tools = tools.to_str().expect("UTF-8");
    let question = "What is the temperature of the north sensor?";
    let base = ["chat", "demo", "--temperature", "0", "--tools", tools, "-p", question, "--json"];
    let called = well(hearth(&daemon, &base).await);
    let call = called.of_type("tool_call").pop().expect("a call");
    assert_eq!(call["name"], "get_temperature");
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().expect("text")).expect("JSON");
    assert!(arguments["sensor"].is_string(), "{arguments}");
    assert_eq!(called.of_type("finished").pop().expect("the end")["reason"], "tool_calls");

    let canned = [&base[..], &["--tool-result", r#"get_temperature={"value": 12, "unit": "C"}"#]].concat();
    let answered = well(hearth(&daemon, &canned).await);
    assert_eq!(answered.of_type("finished").len(), 2, "{answered:?}");
    assert!(answered.text().contains("12"), "{answered:?}");
}

#[tokio::test]
async fn a_piped_conversation_remembers_and_ends_with_its_input() {
    let daemon = with_demo().await;
    let args = ["chat", "demo", "--think", "off", "--temperature", "0", "--json"];
    let run = well(hearth_with(&daemon, &args, "Hello\nWhat can you do?\n").await);
    let ends = run.of_type("finished");
    assert_eq!(ends.len(), 2, "{run:?}");
    let tokens = |end: &Value, key: &str| end["usage"][key].as_u64().expect("a number");
    assert!(tokens(&ends[1], "prompt_tokens") > tokens(&ends[0], "prompt_tokens"));
    assert!(tokens(&ends[1], "cached_tokens") > 0, "the first turn is not computed again: {run:?}");
}

#[tokio::test]
async fn failures_have_codes_and_names() {
    let daemon = TestDaemon::start().await;
    let unknown = hearth(&daemon, &["chat", "nothing", "-p", "Hello", "--json"]).await;
    assert_eq!(unknown.code, Some(1));
    let error = only_line(&unknown);
    assert_eq!((&error["code"], &error["reason"]), (&json!("not_found"), &json!("MODEL_NOT_FOUND")));

    let usage = hearth(&daemon, &["chat", "--json", "--no-such-option"]).await;
    assert_eq!(usage.code, Some(2));
    assert_eq!(only_line(&usage)["code"], "usage");

    let nobody = hearth(&daemon, &["models", "--endpoint", "unix:/nonexistent/hearth.sock", "--json"]).await;
    assert_eq!(nobody.code, Some(69));
    assert_eq!(only_line(&nobody)["code"], "unreachable");

    let file = daemon.folder().join("model.gguf");
    std::fs::write(&file, b"not a model").expect("write a file");
    let bad = hearth(&daemon, &["import", file.to_str().expect("UTF-8"), "--json"]).await;
    assert_eq!(bad.code, Some(1));
    let error = bad.of_type("error").pop().expect("an error");
    assert_eq!(error["reason"], "BAD_MODEL", "{error}");
    let told = hearth(&daemon, &["import", file.to_str().expect("UTF-8")]).await;
    assert!(told.stderr.contains("GGUF"), "{told:?}");
}

#[tokio::test]
async fn an_interrupt_ends_the_answer_in_the_engine_too() {
    let daemon = TestDaemon::with("[engine]\ncontext_tokens = 16384\n").await;
    daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
    let args = ["chat", "tiny", "-p", "Hello", "--max-tokens", "16000", "--temperature", "0"];
    let mut child = command(&daemon, &args).spawn().expect("start hearth");
    let mut first = [0; 1];
    child.stdout.as_mut().expect("a pipe").read_exact(&mut first).await.expect("some text");
    let id = hearth_tests::daemon::pid(child.id().expect("it runs"));
    kill_process(id, Signal::INT).expect("signal hearth");
    let run = ended(child).await;
    assert_eq!(run.code, Some(130), "{:?}", run.stderr);
    eventually("the sequence is free", || async {
        (daemon.engine("tiny").await?.running == 0).then_some(())
    })
    .await;
}
