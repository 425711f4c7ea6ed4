//! What is tried again, what is not, and what travels with a call.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hearth_client::{ChatRequest, Client, ClientBuilder, Code, Endpoint, Error, LoadEvent, Retry, Token};

use crate::daemon::{Daemon, Noted, serve_at};
use crate::{hearth, run};

fn patient(daemon: &Daemon) -> ClientBuilder {
    Client::builder().endpoint(daemon.endpoint.clone()).retry(Retry::times(5))
}

fn refuse(noted: &Noted, times: u32) {
    noted.calls.store(0, Ordering::SeqCst);
    noted.refusals.store(times, Ordering::SeqCst);
}

fn calls(noted: &Noted) -> u32 {
    noted.calls.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_with_a_time_to_come_back_is_tried_again() {
    let daemon = Daemon::start();
    let client = patient(&daemon).connect().await.expect("the daemon listens");
    for model in ["later", "later-in-stream"] {
        refuse(&daemon.noted, 3);
        let answer = client.generate(ChatRequest::new(model).user("hi")).await.expect(model).answer().await;
        assert_eq!(answer.expect(model).text, "hi of 1");
        assert_eq!(calls(&daemon.noted), 4, "{model}");
    }
    refuse(&daemon.noted, 2);
    let mut loading = client.load("later").await.expect("tried until it was taken");
    assert!(matches!(loading.next().await, Some(Ok(LoadEvent::ProgressPermille(500)))));
    assert!(matches!(loading.next().await, Some(Ok(LoadEvent::Ready(_)))));
    assert_eq!(calls(&daemon.noted), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_end() {
    let daemon = Daemon::start();
    let client = patient(&daemon).connect().await.expect("the daemon listens");
    refuse(&daemon.noted, 99);
    let refused = client.generate(ChatRequest::new("later").user("hi")).await.expect_err("it is full");
    assert_eq!(refused.refusal().map(|refusal| refusal.code), Some(Code::ResourceExhausted));
    assert_eq!(calls(&daemon.noted), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_has_begun_and_an_import_are_never_tried_again() {
    let daemon = Daemon::start();
    let client = patient(&daemon).connect().await.expect("the daemon listens");
    refuse(&daemon.noted, 1);
    let begun = client.generate(ChatRequest::new("later-in-answer").user("hi")).await.expect("it begins");
    assert!(begun.answer().await.is_err());
    assert_eq!(calls(&daemon.noted), 1);
    refuse(&daemon.noted, 1);
    let failed = client.import("later", std::io::Cursor::new(vec![0; 8]), 8, None).await;
    assert!(failed.is_err());
    assert_eq!(calls(&daemon.noted), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_tried_again_unasked() {
    let daemon = Daemon::start();
    refuse(&daemon.noted, 1);
    let refused = daemon.client().await.generate(ChatRequest::new("later").user("hi")).await;
    assert!(refused.is_err_and(|error| error.is_retryable()));
    assert_eq!(calls(&daemon.noted), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_starts_later_is_waited_for() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("hearth.sock");
    let retry = Retry::for_at_most(Duration::from_secs(20));
    let waiting =
        tokio::spawn(Client::builder().endpoint(Endpoint::Unix(path.clone())).retry(retry).connect());
    // Long enough that it has looked at least once, on any machine that is not asleep.
    tokio::time::sleep(Duration::from_millis(100)).await;
    serve_at(&path, &Noted::default());
    assert!(waiting.await.expect("no panic").is_ok());

    let gone = Endpoint::Unix(dir.path().join("nobody.sock"));
    let retry = Retry::times(3);
    let failed = Client::builder().endpoint(gone).retry(retry).connect().await;
    assert!(matches!(failed, Err(Error::Unreachable { .. })), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_travels_as_a_deadline_and_ends_the_call() {
    let daemon = Daemon::start();
    let client = patient(&daemon).call_timeout(Duration::from_secs(30)).connect().await.expect("it listens");
    client.models().await.expect("listed");
    assert!(daemon.noted.header("grpc-timeout").is_some());
    let request = ChatRequest::new("demo").user("hi").deadline(Duration::from_secs(3600));
    client.generate(request).await.expect("taken").answer().await.expect("answered");
    let timeout = daemon.noted.header("grpc-timeout").expect("a deadline");
    let digits = timeout.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    assert!(digits.parse::<u64>().is_ok_and(|number| number > 30_000), "the call's own: {timeout}");

    let brief = Client::builder().endpoint(daemon.endpoint.clone()).call_timeout(Duration::from_millis(100));
    let client = brief.connect().await.expect("it listens");
    let endless =
        client.generate(ChatRequest::new("endless").user("go")).await.expect("taken").answer().await;
    let code = endless.as_ref().err().and_then(Error::refusal).map(|refusal| refusal.code);
    assert_eq!(code, Some(Code::DeadlineExceeded), "{endless:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_goes_with_every_call() {
    let daemon = Daemon::start_tcp(None).await;
    let token = Token::new("s3cret").expect("a token");
    let client = Client::builder().endpoint(daemon.endpoint.clone()).token(token);
    let client = client.connect().await.expect("this board is trusted");
    client.models().await.expect("listed");
    assert_eq!(daemon.noted.header("authorization").as_deref(), Some("Bearer s3cret"));
    assert!(!format!("{client:?}").contains("s3cret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_waits_as_long_as_it_was_told_to() {
    let daemon = Daemon::start();
    refuse(&daemon.noted, 2);
    let output = run(&daemon, &["chat", "later", "-p", "hi"], "").await;
    assert_eq!(output.status.code(), Some(75));
    refuse(&daemon.noted, 2);
    let output = run(&daemon, &["chat", "later", "-p", "hi", "--wait", "20s"], "").await;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hi of 1\n");
    let nobody = ["models", "--endpoint", "unix:/nowhere/hearth.sock", "--wait", "300ms"];
    assert_eq!(run(&daemon, &nobody, "").await.status.code(), Some(69));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_takes_its_token_from_a_file_or_the_environment() {
    let daemon = Daemon::start_tcp(None).await;
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), "of-the-file\n").expect("written");
    let path = file.path().to_str().expect("a plain path");
    let output = run(&daemon, &["models", "--token-file", path], "").await;
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(daemon.noted.header("authorization").as_deref(), Some("Bearer of-the-file"));
    let mut command = hearth(&daemon, &["models"]);
    let output = command.env("HEARTH_TOKEN", "of-the-environment").output().await.expect("it ran");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(daemon.noted.header("authorization").as_deref(), Some("Bearer of-the-environment"));

    let output = run(&daemon, &["models", "--token-file", "/nowhere/token"], "").await;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(told.starts_with("hearth: cannot read /nowhere/token: No such file"), "{told}");

    let board = ["models", "--token-file", path, "--endpoint", "http://192.0.2.1:7450"];
    let output = run(&daemon, &board, "").await;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("a token is not sent unencrypted to http://192.0.2.1:7450"), "{told}");
    assert!(!told.contains("of-the-file"), "{told}");
}
