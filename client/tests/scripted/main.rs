//! The library and the command line against a scripted daemon on a real socket. What a real daemon does
//! is tested in the crate `hearth-tests`; here are the cases that only a script can bring about.

mod converse;
mod daemon;
mod manual;
mod memory;
mod node;
mod retry;
mod screen;
mod tls;

use std::io;
use std::process::{Output, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use daemon::Daemon;
use hearth_client::{ChatRequest, Code, Error, GenerationEvent, ImportEvent, ModelChange};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

/// How long anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let patient = tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    patient.await.unwrap_or_else(|_| panic!("still waiting: {what}"));
}

fn hearth(daemon: &Daemon, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
    command.env("HEARTH_ENDPOINT", daemon.endpoint.to_string()).args(args).kill_on_drop(true);
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "HEARTH_TOKEN", "HEARTH_TOKEN_FILE"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end with this stdin.
async fn run(daemon: &Daemon, args: &[&str], stdin: &str) -> Output {
    let mut child = hearth(daemon, args).spawn().expect("the program starts");
    let mut input = child.stdin.take().expect("is piped");
    // A command that reads no stdin may be gone already.
    drop(input.write_all(stdin.as_bytes()).await);
    drop(input);
    tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("it ends").expect("it ran")
}

async fn check(daemon: &Daemon, args: &[&str], stdin: &str, stdout: &str) {
    let output = run(daemon, args, stdin).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), stdout, "{args:?}: {stderr}");
    assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
}

async fn interrupt(child: &Child) {
    let pid = child.id().expect("it runs").to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status().await.expect("kill starts");
    assert!(sent.success());
}

fn tools_file() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), r#"[{"name":"read","parameters":{"type":"object"}}]"#).expect("written");
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_generation_cancels_the_work() {
    let daemon = Daemon::start();
    let mut generation =
        daemon.client().await.generate(ChatRequest::new("endless").user("go")).await.expect("accepted");
    assert!(matches!(generation.next().await, Some(Ok(GenerationEvent::Accepted { seed: 3, .. }))));
    assert!(!daemon.noted.cancelled.load(Ordering::SeqCst));
    drop(generation);
    until("the daemon sees the cancel", || daemon.noted.cancelled.load(Ordering::SeqCst)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_an_answer_that_the_daemon_does_not_end() {
    let daemon = Daemon::start();
    let request = ChatRequest::new("endless").user("go").deadline(Duration::from_millis(100));
    let error = daemon.client().await.generate(request).await.expect("accepted").answer().await;
    let code = error.as_ref().err().and_then(Error::refusal).map(|refusal| refusal.code);
    assert_eq!(code, Some(Code::DeadlineExceeded), "{error:?}");
    until("the daemon sees the cancel", || daemon.noted.cancelled.load(Ordering::SeqCst)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_its_last_event_is_an_error() {
    let daemon = Daemon::start();
    let generation =
        daemon.client().await.generate(ChatRequest::new("cut").user("go")).await.expect("accepted");
    assert!(matches!(generation.answer().await, Err(Error::Protocol(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_sends_the_file_and_reports_the_model() {
    let daemon = Daemon::start();
    let file = io::Cursor::new(vec![7; 3 << 20]);
    let mut import = daemon.client().await.import("m", file, 3 << 20, None).await.expect("taken");
    assert!(matches!(import.next().await, Some(Ok(ImportEvent::Progress(p))) if p.done_bytes == 3 << 20));
    assert!(matches!(import.next().await, Some(Ok(ImportEvent::Done(model))) if model.name == "m"));
    assert!(import.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_of_a_file_that_shrank_fails() {
    let daemon = Daemon::start();
    let failed = daemon.client().await.import("m", io::Cursor::new(vec![7; 10]), 20, None).await;
    assert!(matches!(failed, Err(Error::Read(error)) if error.kind() == io::ErrorKind::UnexpectedEof));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_when_its_list_is_complete() {
    let daemon = Daemon::start();
    let mut watch = daemon.client().await.watch_models().await.expect("served");
    assert!(matches!(watch.next().await, Some(Ok(ModelChange::Changed(_)))));
    assert!(matches!(watch.next().await, Some(Ok(ModelChange::InSync))));
    assert!(watch.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_question_gets_its_answer_without_the_thoughts() {
    let daemon = Daemon::start();
    check(&daemon, &["chat", "demo", "-p", "hi"], "", "hi of 1\n").await;
    check(&daemon, &["chat", "demo", "-p", "-"], "from stdin\n", "from stdin of 1\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_round_is_shown_whole() {
    let daemon = Daemon::start();
    let file = tools_file();
    let tools = file.path().to_str().expect("a plain path");
    let call = "→ read {\"n\":1}\n";
    check(&daemon, &["chat", "demo", "-p", "hi", "--tools", tools], "", call).await;
    let args = ["chat", "demo", "-p", "hi", "--tools", tools, "--tool-result", "read=21 °C"];
    check(&daemon, &args, "", &format!("{call}← 21 °C\nthe tool said 21 °C\n")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_round_in_json_is_one_object_per_line() {
    let daemon = Daemon::start();
    let file = tools_file();
    let tools = file.path().to_str().expect("a plain path");
    let args = ["--json", "chat", "demo", "-p", "hi", "--tools", tools, "--tool-result", "read=x"];
    let output = run(&daemon, &args, "").await;
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    let kinds: Vec<_> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["type"].clone())
        .collect();
    assert_eq!(kinds, ["accepted", "tool_call", "turn", "text", "text", "finished"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_calls_for_ever_is_stopped() {
    let daemon = Daemon::start();
    let output = run(&daemon, &["chat", "caller", "-p", "hi", "--tool-result", "read=x"], "").await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("8 rounds"));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!((shown.matches('→').count(), shown.matches('←').count()), (9, 8), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_keeps_its_history_until_it_is_reset() {
    let daemon = Daemon::start();
    let lines = "a\n\nb\n/reset\nc\n/quit\nd\n";
    check(&daemon, &["chat", "demo"], lines, "a of 1\nb of 3\nc of 1\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_conversation_the_line_after_a_call_is_its_result() {
    let daemon = Daemon::start();
    let file = tools_file();
    let tools = file.path().to_str().expect("a plain path");
    let shown = "→ read {\"n\":1}\nthe tool said 42\n";
    check(&daemon, &["chat", "demo", "--tools", tools], "a\n42\n", shown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_their_exit_codes() {
    let daemon = Daemon::start();
    let output = run(&daemon, &["chat", "full", "-p", "hi"], "").await;
    assert_eq!(output.status.code(), Some(75));
    let told = String::from_utf8_lossy(&output.stderr);
    let hint = "hearth: --wait 1m keeps trying for a minute\n";
    assert_eq!(told, format!("hearth: 64 requests are waiting already; try again in 2.0 s\n{hint}"));
    let output = run(&daemon, &["models", "missing"], "").await;
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("`hearth models` lists what is here"), "{told}");
    let output = run(&daemon, &["models", "missing", "--json"], "").await;
    assert_eq!(output.status.code(), Some(1));
    let line: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&line["code"], &line["reason"]), (&"not_found".into(), &"MODEL_NOT_FOUND".into()));
    assert_eq!(line["details"]["numbers"]["model"], "missing");
    assert!(output.stderr.is_empty());
    let output = run(&daemon, &["chat", "--json"], "").await;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with(r#"{"type":"error","code":"usage""#));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_daemon_is_named() {
    let daemon = Daemon::start();
    let output = run(&daemon, &["status", "--endpoint", "unix:/nowhere/hearth.sock"], "").await;
    assert_eq!(output.status.code(), Some(69));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.starts_with("hearth: cannot reach the daemon at unix:/nowhere/hearth.sock: No such file"),
        "{told}"
    );
    assert!(told.contains("hearthd serve --listen unix:/nowhere/hearth.sock"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_has_colours_only_where_they_are_asked_for() {
    let daemon = Daemon::start();
    let coloured = async |args: &[&str], environment: &[(&str, &str)]| {
        let mut command = hearth(&daemon, args);
        command.envs(environment.iter().copied());
        let output = command.output().await.expect("it ran");
        output.stdout.contains(&0x1b)
    };
    assert!(!coloured(&["models"], &[]).await);
    assert!(coloured(&["models", "--color", "always"], &[("NO_COLOR", "1")]).await);
    assert!(coloured(&["models"], &[("CLICOLOR_FORCE", "1")]).await);
    assert!(!coloured(&["models"], &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]).await);
    assert!(!coloured(&["models", "--color", "never"], &[("CLICOLOR_FORCE", "1")]).await);
    assert!(!coloured(&["models", "--json", "--color", "always"], &[]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_answers_the_calls_of_its_tool() {
    let daemon = Daemon::start();
    let file = tools_file();
    let tools = file.path().to_str().expect("a plain path");
    let args = ["chat", "demo", "-p", "hi", "--tools", tools, "--yes", "--tool-cmd", "read=cat"];
    let said = "→ read {\"n\":1}\n← {\"n\":1}\nthe tool said {\"n\":1}\n";
    check(&daemon, &args, "", said).await;
    let args = ["chat", "demo", "-p", "hi", "--tools", tools, "--yes", "--tool-cmd", "read=false"];
    let output = run(&daemon, &args, "").await;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(stdout.contains("the tool said error: `false` failed with exit status: 1"), "{stdout}");
    let output = run(&daemon, &["chat", "demo", "-p", "hi", "--tool-cmd", "read=cat"], "").await;
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_brought_in_and_removed() {
    let daemon = Daemon::start();
    let table = "NAME         SIZE     WEIGHTS  TYPE  CONTEXT  DIALECT  STATE\n\
                 demo:latest  5.0 MiB  4.2M     F16   512      qwen3    absent\n";
    check(&daemon, &["models"], "", table).await;
    let imported = "imported demo: 4.2M weights in F16, dialect qwen3\n";
    check(&daemon, &["import", "--demo"], "", imported).await;
    let ready = "demo is ready after 12 ms: 512 tokens of context for 8 answers at a time\n";
    check(&daemon, &["load", "demo"], "", ready).await;
    check(&daemon, &["unload", "demo"], "", "unloaded demo\n").await;
    let output = run(&daemon, &["rm", "missing", "demo"], "").await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "removed demo, 2.0 KiB freed\n");
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_is_rendered_and_counted() {
    let daemon = Daemon::start();
    check(&daemon, &["render", "demo", "-p", "hi", "--tokens"], "", "<user>hi\n1 2\n").await;
    check(&daemon, &["count", "demo", "--raw", "hi", "--json"], "", "{\"type\":\"count\",\"tokens\":7}\n")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_cancels_the_answer_and_exits_with_130() {
    let daemon = Daemon::start();
    let mut child = hearth(&daemon, &["chat", "endless", "-p", "go"]).spawn().expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
    assert_eq!(lines.next_line().await.expect("text").as_deref(), Some("on and on"));
    interrupt(&child).await;
    let ended = async {
        while lines.next_line().await.expect("text").is_some() {}
        child.wait().await.expect("it ran")
    };
    let status = tokio::time::timeout(PATIENCE, ended).await.expect("it ends");
    assert_eq!(status.code(), Some(130));
    until("the daemon sees the cancel", || daemon.noted.cancelled.load(Ordering::SeqCst)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_ends_the_answer_quietly() {
    let daemon = Daemon::start();
    let mut child = hearth(&daemon, &["chat", "endless", "-p", "go"]).spawn().expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
    assert_eq!(lines.next_line().await.expect("text").as_deref(), Some("on and on"));
    drop(lines);
    let output =
        tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("it ends").expect("it ran");
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    until("the daemon sees the cancel", || daemon.noted.cancelled.load(Ordering::SeqCst)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_in_a_conversation_ends_the_answer_only() {
    let daemon = Daemon::start();
    let mut child = hearth(&daemon, &["chat", "endless"]).spawn().expect("the program starts");
    let mut input = child.stdin.take().expect("is piped");
    let mut lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
    input.write_all(b"go\n").await.expect("written");
    assert_eq!(lines.next_line().await.expect("text").as_deref(), Some("on and on"));
    interrupt(&child).await;
    until("the daemon sees the cancel", || daemon.noted.cancelled.load(Ordering::SeqCst)).await;
    input.write_all(b"/quit\n").await.expect("the program still reads");
    let ended = async {
        while lines.next_line().await.expect("text").is_some() {}
        child.wait().await.expect("it ran")
    };
    let status = tokio::time::timeout(PATIENCE, ended).await.expect("it ends");
    assert_eq!(status.code(), Some(0));
}
