//! The daemon as a service: what it tells the manager, sockets it is handed, signals, and its end.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use hearth_client::{Client, Endpoint};
use hearth_tests::answer::{answer, ask, refusal};
use hearth_tests::daemon::spawn;
use hearth_tests::eventually::eventually;
use hearth_tests::fixture::{self, Arch};
use hearth_tests::manager::Manager;
use hearth_tests::{Launch, TestDaemon};
use rustix::process::{Signal, kill_process, test_kill_process};
use tempfile::TempDir;

/// A watchdog period that a loaded machine keeps, and a test can wait for.
const PERIOD: Duration = Duration::from_secs(2);

fn folder() -> TempDir {
    TempDir::new().expect("a temporary folder")
}

async fn connected(socket: &Path) -> Client {
    eventually("the daemon answers", || async {
        let client = Client::connect(Endpoint::Unix(socket.to_owned())).await.ok()?;
        client.status().await.ok()?;
        Some(client)
    })
    .await
}

#[tokio::test]
async fn the_manager_hears_of_every_change() {
    let outside = folder();
    let manager = Manager::listen(outside.path());
    let environment = manager.environment(None);
    let mut daemon = TestDaemon::launch(Launch { environment, ..Launch::default() }).await;
    manager.waits_for("READY=1").await;
    manager.waits_for("STATUS=Ready, no model in memory").await;
    daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
    daemon.load("tiny").await;
    manager.waits_for("STATUS=Ready, in memory: tiny:latest").await;
    daemon.signal(Signal::HUP);
    let reloading = manager.waits_for("RELOADING=1").await;
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.waits_for("READY=1").await;
    daemon.signal(Signal::TERM);
    let stopping = manager.waits_for("STOPPING=1").await;
    assert!(stopping.contains("EXTEND_TIMEOUT_USEC="), "{stopping}");
    assert!(daemon.ended().await.success());
}

#[tokio::test]
async fn a_stopped_front_misses_its_watchdog_and_a_new_one_takes_over() {
    let outside = folder();
    let manager = Manager::listen(outside.path());
    let environment = manager.environment(Some(PERIOD));
    let mut daemon = TestDaemon::launch(Launch { environment, ..Launch::default() }).await;
    daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
    daemon.load("tiny").await;
    let engine = daemon.engine_pid("tiny").await;
    for _ in 0..3 {
        manager.waits_for("WATCHDOG=1").await;
    }
    daemon.signal(Signal::STOP);
    // What was on its way before the stop is heard first.
    manager.misses_the_watchdog(PERIOD).await;
    assert!(manager.misses_the_watchdog(PERIOD).await);
    daemon.kill().await;
    eventually("the engine goes with its front", || async move { test_kill_process(engine).err() }).await;
    let daemon = daemon.restart().await;
    manager.waits_for("READY=1").await;
    manager.waits_for("WATCHDOG=1").await;
    answer(&daemon.client(), ask("tiny", "hello", 2)).await.expect("it serves as before");
}

#[tokio::test]
async fn a_stopped_engine_does_not_restart_the_daemon() {
    let outside = folder();
    let manager = Manager::listen(outside.path());
    let environment = manager.environment(Some(PERIOD));
    let daemon = TestDaemon::launch(Launch { environment, ..Launch::default() }).await;
    daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
    daemon.load("tiny").await;
    let engine = daemon.engine_pid("tiny").await;
    kill_process(engine, Signal::STOP).expect("stop the engine");
    let client = daemon.client();
    let waiting = tokio::spawn(async move { answer(&client, ask("tiny", "hello", 2)).await });
    for _ in 0..4 {
        assert!(!manager.misses_the_watchdog(PERIOD * 4).await);
    }
    kill_process(engine, Signal::KILL).expect("end the engine");
    waiting.await.expect("joined").expect_err("its engine is gone");
}

/// The sockets of a unit file: the path stays when the daemon goes, and one that the daemon itself would bind is
/// not bound twice.
#[tokio::test]
async fn a_socket_of_the_manager_is_taken_over() {
    let folder = folder();
    let socket = folder.path().join("hearth.sock");
    let listener = UnixListener::bind(&socket).expect("bind");
    std::fs::write(folder.path().join("config.toml"), "").expect("write the configuration");
    // The manager hands sockets over from descriptor 3 on.
    let script = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
    let through = ["sh", "-c", script, "sh"].map(str::to_owned).to_vec();
    let launch = Launch { through, ..Launch::default() };
    let handed = listener.try_clone().expect("a second descriptor");
    let mut child = spawn(folder.path(), &launch, Some(Stdio::from(OwnedFd::from(handed))));
    connected(&socket).await;
    assert_eq!(mode(&socket), 0o660, "for the group");
    let pid = hearth_tests::daemon::pid(child.id().expect("it runs"));
    kill_process(pid, Signal::TERM).expect("signal the daemon");
    assert!(child.wait().await.expect("wait").success());
    assert!(socket.exists(), "the manager's socket is the manager's");
    // Who comes while no daemon runs waits for the next one. That one lets others in as well.
    let config = folder.path().join("config.toml");
    std::fs::write(&config, "[access]\nuse = ['uid:12345']\n").expect("write the configuration");
    let handed = listener.try_clone().expect("a second descriptor");
    let knock = tokio::spawn({
        let socket = socket.clone();
        async move { connected(&socket).await.status().await }
    });
    let mut child = spawn(folder.path(), &launch, Some(Stdio::from(OwnedFd::from(handed))));
    knock.await.expect("joined").expect("the status");
    assert_eq!(mode(&socket), 0o666, "for all");
    std::fs::write(&config, "").expect("write the configuration");
    let pid = hearth_tests::daemon::pid(child.id().expect("it runs"));
    kill_process(pid, Signal::HUP).expect("signal the daemon");
    eventually("a reload takes it back", || async { (mode(&socket) == 0o660).then_some(()) }).await;
    child.kill().await.expect("end the daemon");
}

fn mode(file: &Path) -> u32 {
    std::fs::metadata(file).expect("it is there").permissions().mode() & 0o777
}

/// An answer that goes on for long after the signal, for a daemon that waits long.
async fn long_answer(daemon: &TestDaemon) -> hearth_client::Generation {
    daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
    daemon.load("tiny").await;
    let mut stream =
        daemon.new_client().await.generate(ask("tiny", "hello", 1_000_000)).await.expect("a stream");
    while !matches!(stream.next().await.expect("an event"), Ok(hearth_client::GenerationEvent::Text(_))) {}
    stream
}

const PATIENT: &str = "drain_deadline = '10m'\n[engine]\ncontext_tokens = 65536\n";

#[tokio::test]
async fn a_second_signal_ends_what_runs() {
    let mut daemon = TestDaemon::with(PATIENT).await;
    let stream = long_answer(&daemon).await;
    daemon.signal(Signal::TERM);
    daemon.logs("Told to stop", 1).await;
    daemon.signal(Signal::TERM);
    let error = stream.answer().await.expect_err("it was cut");
    assert_eq!(refusal(&error).reason.as_deref(), Some("DRAINING"), "{error:?}");
    assert!(daemon.ended().await.success());
    assert_eq!(daemon.count_in_log("Ended calls on a second signal"), 1);
}

#[tokio::test]
async fn the_deadline_ends_what_runs_too() {
    let mut daemon = TestDaemon::with("drain_deadline = '200ms'\n[engine]\ncontext_tokens = 65536\n").await;
    let stream = long_answer(&daemon).await;
    daemon.signal(Signal::TERM);
    let error = stream.answer().await.expect_err("it was cut");
    assert_eq!(refusal(&error).reason.as_deref(), Some("DRAINING"), "{error:?}");
    assert!(daemon.ended().await.success());
    assert_eq!(daemon.count_in_log("Ended calls at the drain deadline"), 1);
}

/// Calls that do not stream are finished too, and streams that have no end of their own hold up nothing.
#[tokio::test]
async fn a_drain_waits_for_every_call_and_for_no_watcher() {
    let mut daemon = TestDaemon::with(PATIENT).await;
    let running = long_answer(&daemon).await;
    let health = tonic::transport::Endpoint::from_shared(format!("unix:{}", daemon.socket().display()))
        .expect("an address")
        .connect()
        .await
        .expect("connect");
    let request = tonic_health::pb::HealthCheckRequest { service: String::new() };
    let mut watching = tonic_health::pb::health_client::HealthClient::new(health);
    let mut watched = watching.watch(request).await.expect("a stream").into_inner();
    watched.message().await.expect("no error").expect("serving");
    // It waits until the running answer is over.
    let client = daemon.new_client().await;
    let unloading = tokio::spawn(async move { client.unload("tiny", false).await });
    daemon.logs("state.new=Unloading", 1).await;
    daemon.signal(Signal::TERM);
    daemon.logs("Told to stop", 1).await;
    drop(running);
    assert!(unloading.await.expect("joined").expect("it was finished"), "it was loaded");
    assert!(daemon.ended().await.success());
    assert_eq!(daemon.count_in_log("Drained"), 1, "{}", daemon.log());
}

#[tokio::test]
async fn a_draining_daemon_takes_nothing_new_and_says_so() {
    let mut daemon = TestDaemon::with(PATIENT).await;
    let before = daemon.new_client().await;
    before.status().await.expect("connected");
    let stream = long_answer(&daemon).await;
    daemon.signal(Signal::TERM);
    daemon.logs("Told to stop", 1).await;
    for error in [
        before.count_tokens(ask("tiny", "x", 1)).await.expect_err("unary calls too"),
        before.models().await.expect_err("all of them"),
        answer(&before, ask("tiny", "x", 1)).await.expect_err("and answers"),
    ] {
        let refusal = refusal(&error);
        assert_eq!(refusal.reason.as_deref(), Some("DRAINING"), "{error:?}");
        assert!(refusal.retry_after.is_some());
    }
    before.status().await.expect("it still says how it is");
    drop(stream);
    assert!(daemon.ended().await.success());
}

#[tokio::test]
async fn a_socket_that_a_killed_daemon_left_is_bound_again() {
    let mut daemon = TestDaemon::start().await;
    daemon.kill().await;
    assert!(daemon.socket().exists());
    let daemon = daemon.restart().await;
    let socket = daemon.socket();
    assert!(daemon.stop().await.success());
    assert!(!socket.exists());
}

#[tokio::test]
async fn two_daemons_on_one_state_are_refused() {
    let daemon = TestDaemon::start().await;
    let other = folder();
    std::fs::write(other.path().join("config.toml"), "").expect("write the configuration");
    let state = daemon.state().display().to_string();
    std::os::unix::fs::symlink(&state, other.path().join("state")).expect("link the state");
    let mut second = spawn(other.path(), &Launch::default(), None);
    let exit = second.wait().await.expect("wait");
    assert_eq!(exit.code(), Some(1));
    let log = std::fs::read_to_string(other.path().join("log")).expect("its log");
    let owner = daemon.pid().as_raw_nonzero().to_string();
    assert!(log.contains(&owner), "it names who has the state: {log}");
    daemon.client().status().await.expect("the first goes on");
}

#[tokio::test]
async fn a_reload_changes_what_may_change_and_names_the_rest() {
    let daemon = TestDaemon::launch(Launch {
        config: "[sampling]\ntemperature = 0.0\n".to_owned(),
        environment: vec![("HEARTH_LOG".to_owned(), String::new())],
        ..Launch::default()
    })
    .await;
    daemon.write_config(
        "state_dir = '/elsewhere'\ndrain_deadline = '1s'\n[log]\nlevel = 'debug'\ntarget = 'stderr'\n",
    );
    daemon.signal(Signal::HUP);
    daemon.logs("Read the configuration again", 1).await;
    daemon.logs("These changes take effect after a restart", 1).await;
    let log = daemon.log();
    let line = |words: &str| log.lines().find(|line| line.contains(words)).expect("logged").to_owned();
    let applied = line("Read the configuration again");
    for key in ["drain_deadline", "sampling.temperature", "log.level"] {
        assert!(applied.contains(key), "{applied}");
    }
    // The flag outranks the file, so that the folder of the state has not changed.
    let waiting = line("These changes take effect");
    assert!(waiting.contains("log.target") && !waiting.contains("state_dir"), "{waiting}");
    daemon.client().model("nobody").await.expect_err("no such model");
    daemon.logs("Refused call", 1).await;

    daemon.write_config("drain_deadline = 'soon'\nunknown = 1\n");
    daemon.signal(Signal::HUP);
    daemon.logs("Kept the old configuration", 1).await;
    daemon.logs("line 1: drain_deadline", 1).await;
    daemon.logs("line 2: unknown", 1).await;
    daemon.client().status().await.expect("it goes on");
}
