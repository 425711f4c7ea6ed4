//! Who stays in memory: the budget, pins, and models that nobody uses.

use hearth_client::{Code, v1};
use hearth_tests::TestDaemon;
use hearth_tests::answer::{answer, ask, refusal};
use hearth_tests::eventually::eventually;
use hearth_tests::fixture::{self, Arch};
use rustix::process::Signal;

/// Room for one tiny model, but not for two.
const ONE: &str = "[memory]\nbudget = \"180MiB\"\n";

async fn two_models(config: &str) -> TestDaemon {
    let daemon = TestDaemon::with(config).await;
    for name in ["a", "b"] {
        daemon.import(name, &fixture::tiny(Arch::Qwen3)).await;
    }
    daemon
}

async fn state(daemon: &TestDaemon, name: &str) -> (v1::ModelState, String) {
    let model = daemon.client().model(name).await.expect("a model");
    (model.state(), model.state_reason)
}

async fn is_ready(daemon: &TestDaemon, name: &str) -> bool {
    state(daemon, name).await.0 == v1::ModelState::Ready
}

#[tokio::test]
async fn the_model_that_was_used_last_stays_unless_another_is_pinned() {
    let daemon = two_models(ONE).await;
    daemon.load("a").await;
    daemon.load("b").await;
    let (evicted, why) = state(&daemon, "a").await;
    assert_eq!((evicted, is_ready(&daemon, "b").await), (v1::ModelState::Absent, true));
    assert!(why.contains("evicted to make room for b"), "{why}");

    daemon.write_config(&format!("{ONE}[models.b]\npinned = true\n"));
    daemon.signal(Signal::HUP);
    daemon.logs("Read the configuration again", 1).await;
    let error = answer(&daemon.client(), ask("a", "hello", 4)).await.expect_err("no room");
    assert_eq!(refusal(&error).code, Code::ResourceExhausted, "{error}");
    assert!(is_ready(&daemon, "b").await, "it is pinned");
    assert!(daemon.client().unload("b", false).await.expect("unloaded"), "on request it goes");
    answer(&daemon.client(), ask("a", "hello", 4)).await.expect("there is room now");
}

#[tokio::test]
async fn a_model_that_nobody_uses_goes_after_its_time() {
    let daemon = two_models("[engine]\nkeep_alive = \"200ms\"\n[models.b]\nkeep_alive = \"forever\"\n").await;
    for name in ["a", "b"] {
        answer(&daemon.client(), ask(name, "hello", 4)).await.expect("an answer");
    }
    eventually("the model is let go of", || async { (!is_ready(&daemon, "a").await).then_some(()) }).await;
    let why = eventually("its engine has ended", || async {
        let (state, why) = state(&daemon, "a").await;
        (state == v1::ModelState::Absent).then_some(why)
    })
    .await;
    assert!(why.contains("nobody used it for 200ms"), "{why}");
    assert!(is_ready(&daemon, "b").await);
}

#[tokio::test]
async fn models_are_loaded_at_the_start_and_when_a_reload_adds_them() {
    let daemon = two_models("[models.a]\npreload = true\n[models.missing]\npreload = true\n").await;
    daemon.logs("Did not load model at the start", 2).await;
    assert!(!is_ready(&daemon, "a").await, "there was none yet");
    let mut daemon = daemon;
    daemon.kill().await;
    let daemon = daemon.restart().await;
    eventually("the model is loaded", || async { is_ready(&daemon, "a").await.then_some(()) }).await;
    daemon.write_config("[models.a]\npreload = true\n[models.b]\npreload = true\n");
    daemon.signal(Signal::HUP);
    eventually("the other one, too", || async { is_ready(&daemon, "b").await.then_some(()) }).await;
}

#[tokio::test]
async fn a_reload_that_shortens_the_time_reaches_models_that_are_unused_already() {
    let mut daemon = two_models("").await;
    daemon.load("a").await;
    daemon.write_config("[engine]\nkeep_alive = \"100ms\"\n");
    daemon.signal(Signal::HUP);
    eventually("the model is let go of", || async { (!is_ready(&daemon, "a").await).then_some(()) }).await;
    // With models in memory or not, nothing holds up the end.
    daemon.load("b").await;
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().await.success());
    assert_eq!(daemon.count_in_log("Left work that did not end"), 0);
}

#[tokio::test]
async fn a_budget_that_shrinks_drives_idle_models_out() {
    let daemon = two_models("").await;
    daemon.load("a").await;
    daemon.load("b").await;
    daemon.write_config(ONE);
    daemon.signal(Signal::HUP);
    eventually("the older one is gone", || async { (!is_ready(&daemon, "a").await).then_some(()) }).await;
    let (_, why) = state(&daemon, "a").await;
    assert!(why.contains("the memory budget shrank to 180.0 MiB"), "{why}");
    assert!(is_ready(&daemon, "b").await);
    let memory = daemon.client().status().await.expect("a status").memory.expect("memory");
    assert_eq!((memory.budget_bytes, memory.budget_source.as_str()), (180 << 20, "configured"));
}
