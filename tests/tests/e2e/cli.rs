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
    assert_eq!(answered.of_type("turn").pop().expect("a turn")["reason"], "tool_calls");
    assert_eq!(answered.of_type("finished").len(), 1, "{answered:?}");
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

#[tokio::test]
async fn errors_say_what_to_do_next() {
    let daemon = with_demo().await;
    let told = async |args: &[&str], hint: &str| {
        let run = hearth(&daemon, args).await;
        let lines: Vec<&str> = run.stderr.lines().collect();
        assert!(lines.len() == 2 && lines.iter().all(|line| line.starts_with("hearth: ")), "{run:?}");
        assert!(lines[1].contains(hint), "{run:?}");
    };
    told(&["chat", "nothing", "-p", "Hello"], "`hearth models`").await;
    well(hearth(&daemon, &["load", "demo"]).await);
    told(&["rm", "demo"], "`hearth unload NAME`").await;
    told(&["import", "Cargo.toml", "--server-path", "--name", "x"], "import_dirs").await;
    told(&["models", "--endpoint", "unix:/nonexistent/hearth.sock"], "hearthd serve --listen").await;
    let long = "word ".repeat(20_000);
    told(&["chat", "demo", "-p", &long], "longer context").await;
}

#[tokio::test]
async fn a_person_reads_the_status() {
    let daemon = with_demo().await;
    let idle = well(hearth(&daemon, &["status"]).await).stdout;
    assert!(idle.starts_with("hearthd ") && idle.contains(", serving, up "), "{idle}");
    assert!(idle.contains("memory ") && idle.contains("disk ") && idle.contains("engines  none"), "{idle}");
    well(hearth(&daemon, &["load", "demo"]).await);
    let busy = well(hearth(&daemon, &["status"]).await).stdout;
    assert!(busy.contains("MODEL") && busy.contains("demo:latest  ready"), "{busy}");
    assert!(!busy.contains('\x1b'), "{busy}");
}

#[tokio::test]
async fn what_is_logged_changes_for_a_while() {
    let daemon = TestDaemon::start().await;
    let changed = well(hearth(&daemon, &["log", "debug", "--for", "10m"]).await);
    assert!(changed.stdout.starts_with("logging debug for 10m, before that "), "{changed:?}");
    let back = only_line(&well(hearth(&daemon, &["log", "default", "--json"]).await));
    assert_eq!((&back["type"], &back["previous"]), (&json!("log_filter"), &json!("debug")));
    let bad = hearth(&daemon, &["log", "=,="]).await;
    assert_eq!(bad.code, Some(1), "{bad:?}");
}

#[tokio::test]
async fn the_examples_of_the_library_work() {
    let daemon = TestDaemon::start().await;
    let example = async |name: &str, args: &[&str], stdin: &str| {
        let program = hearth_tests::daemon::program(&format!("examples/{name}"));
        well(ended(run_with(program, &daemon, args, stdin).await).await).stdout
    };
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../client/demo/hearth-demo.gguf");
    let imported = example("import", &["demo", demo], "").await;
    assert!(imported.ends_with("imported demo:latest\n"), "{imported}");
    assert!(!example("ask", &["demo", "Hello"], "").await.trim().is_empty());
    let talk = example("converse", &[], "Hello\nWhat can you do?\n").await;
    assert!(talk.lines().filter(|line| !line.is_empty()).count() >= 2, "{talk}");
    let answer = example("tools", &[], "").await;
    assert!(answer.starts_with("get_temperature {") && answer.contains("12"), "{answer}");
}

async fn run_with(
    program: std::path::PathBuf,
    daemon: &TestDaemon,
    args: &[&str],
    stdin: &str,
) -> tokio::process::Child {
    use tokio::io::AsyncWriteExt as _;

    let mut child = tokio::process::Command::new(program)
        .args(args)
        .env("HEARTH_ENDPOINT", daemon.endpoint().to_string())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("start the example");
    let mut pipe = child.stdin.take().expect("a pipe");
    // It may end without reading: that is its right.
    drop(pipe.write_all(stdin.as_bytes()).await);
    child
}
