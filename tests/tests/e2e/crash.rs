//! Engines die; the daemon and the other models do not.

use std::time::{Duration, Instant};

use hearth_client::{Code, GenerationEvent, v1};
use hearth_tests::TestDaemon;
use hearth_tests::answer::{answer, ask, refusal};
use hearth_tests::eventually::eventually;
use hearth_tests::fixture::{self, Arch};
use rustix::process::{Signal, kill_process};

/// A long answer that has begun.
async fn begun(daemon: &TestDaemon, model: &str) -> hearth_client::Generation {
    let mut generation =
        daemon.new_client().await.generate(ask(model, "hello", 100_000)).await.expect("a stream");
    while let Some(event) = generation.next().await {
        if let GenerationEvent::Text(_) = event.expect("no error yet") {
            return generation;
        }
    }
    panic!("the stream ended before it began");
}

/// Reads a stream to its error.
async fn error_of(mut generation: hearth_client::Generation) -> hearth_client::Error {
    while let Some(event) = generation.next().await {
        if let Err(error) = event {
            return error;
        }
    }
    panic!("the stream ended well");
}

#[tokio::test]
async fn a_killed_engine_ends_its_streams_within_a_second_and_the_next_request_loads_it_again() {
    let daemon = TestDaemon::with("[engine]\ncontext_tokens = 16384\n").await;
    daemon.import("a", &fixture::tiny(Arch::Qwen3)).await;
    let stream = begun(&daemon, "a").await;
    let first = daemon.engine_pid("a").await;
    let killed = Instant::now();
    kill_process(first, Signal::KILL).expect("kill the engine");
    let error = error_of(stream).await;
    // Users are promised 1 s, which the program `latency` measures; here it is enough that the death itself
    // was noticed, and not the silence after it.
    assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
    let refused = refusal(&error);
    assert_eq!(refused.code, Code::Aborted, "{error}");
    assert_eq!(refused.reason.as_deref(), Some("ENGINE_LOST"));
    assert!(refused.message.contains("SIGKILL"), "{error}");
    answer(&daemon.client(), ask("a", "hello", 3)).await.expect("the next one is served");
    assert_ne!(daemon.engine_pid("a").await, first);
}

#[tokio::test]
async fn aborts_and_segfaults_are_named() {
    let daemon = TestDaemon::with("[engine]\ncontext_tokens = 16384\n").await;
    daemon.import("a", &fixture::tiny(Arch::Qwen3)).await;
    for (signal, name) in [(Signal::ABORT, "SIGABRT"), (Signal::SEGV, "SIGSEGV")] {
        let stream = begun(&daemon, "a").await;
        let engine = daemon.engine_pid("a").await;
        // Rust's handler for SIGSEGV looks for stack overflows: it takes the first one for none and steps
        // aside for the next, and signals that are not delivered yet are one.
        eventually("the engine is gone", || async move { kill_process(engine, signal).err() }).await;
        let error = error_of(stream).await;
        assert!(error.to_string().contains(name), "{error}");
        answer(&daemon.client(), ask("a", "hello", 3)).await.expect("the next one is served");
    }
}

#[tokio::test]
async fn a_model_that_crashes_three_times_in_a_row_is_quarantined_until_it_is_loaded_by_hand() {
    let daemon = TestDaemon::with("[engine]\ncontext_tokens = 16384\n").await;
    daemon.import("a", &fixture::tiny(Arch::Qwen3)).await;
    for _ in 0..3 {
        let stream = begun(&daemon, "a").await;
        kill_process(daemon.engine_pid("a").await, Signal::KILL).expect("kill the engine");
        error_of(stream).await;
    }
    let error = answer(&daemon.client(), ask("a", "hello", 3)).await.expect_err("a refusal");
    assert_eq!(refusal(&error).code, Code::FailedPrecondition, "{error}");
    assert_eq!(refusal(&error).reason.as_deref(), Some("MODEL_QUARANTINED"));
    let model = daemon.client().model("a").await.expect("the model");
    assert_eq!(model.state(), v1::ModelState::Quarantined);
    assert!(model.state_reason.contains("SIGKILL"), "{}", model.state_reason);
    daemon.load("a").await;
    answer(&daemon.client(), ask("a", "hello", 3)).await.expect("it is served again");
}

#[tokio::test]
async fn a_stopped_engine_is_replaced_while_other_models_go_on() {
    let config = "[engine]\ncontext_tokens = 16384\nheartbeat_timeout = \"2s\"\n";
    let daemon = TestDaemon::with(config).await;
    daemon.import("a", &fixture::tiny(Arch::Qwen3)).await;
    daemon.import("b", &fixture::tiny(Arch::Llama)).await;
    let stuck = begun(&daemon, "a").await;
    let mut other = begun(&daemon, "b").await;
    let stopped = daemon.engine_pid("a").await;
    kill_process(stopped, Signal::STOP).expect("stop the engine");
    let mut failed = std::pin::pin!(error_of(stuck));
    let mut tokens = 0u32;
    let error = loop {
        tokio::select! {
            error = &mut failed => break error,
            event = other.next() => {
                event.expect("the other stream goes on").expect("without error");
                tokens += 1;
            }
        }
    };
    assert!(tokens > 20, "the other model wrote {tokens} pieces meanwhile");
    assert_eq!(refusal(&error).reason.as_deref(), Some("ENGINE_LOST"), "{error}");
    answer(&daemon.client(), ask("a", "hello", 3)).await.expect("the next one is served");
    assert_ne!(daemon.engine_pid("a").await, stopped);
}

#[tokio::test]
async fn engines_die_with_a_killed_daemon() {
    let mut daemon = TestDaemon::start().await;
    daemon.import("a", &fixture::tiny(Arch::Qwen3)).await;
    daemon.load("a").await;
    let engine = daemon.engine_pid("a").await;
    daemon.kill().await;
    eventually("the engine is gone", || async move {
        rustix::process::test_kill_process(engine).is_err().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_file_that_shrinks_under_an_engine_ends_that_engine_by_name() {
    let daemon = TestDaemon::with("[engine]\ncontext_tokens = 16384\n").await;
    let model = daemon.import("a", &fixture::tiny(Arch::Qwen3)).await;
    let stream = begun(&daemon, "a").await;
    let blob = daemon.state().join("models/blobs").join(format!("sha256-{}", model.files[0].sha256));
    let mut permissions = std::fs::metadata(&blob).expect("the blob").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    std::fs::set_permissions(&blob, permissions).expect("open the blob for writing");
    let file = std::fs::OpenOptions::new().write(true).open(&blob).expect("the blob");
    file.set_len(4096).expect("cut the blob");
    let error = error_of(stream).await;
    assert!(error.to_string().contains("SIGBUS"), "{error}");
    let error = answer(&daemon.client(), ask("a", "hello", 3)).await.expect_err("the file is damaged");
    assert!(refusal(&error).reason.is_some(), "{error}");
    daemon.client().status().await.expect("the daemon lives");
}

#[tokio::test]
async fn a_long_run_of_letters_cannot_overflow_the_tokenizers_stack() {
    let daemon = TestDaemon::start().await;
    let mut model = fixture::tiny(Arch::Llama);
    // A pre-tokenizer that llama.cpp has only as a recursive regular expression.
    model.set("tokenizer.ggml.pre", "deepseek-llm");
    daemon.import("a", &model).await;
    let client = daemon.client();
    let count = async |letters: usize| client.count_tokens(ask("a", &"a".repeat(letters), 1)).await;
    assert!(count(90_000).await.expect("a count") > 90);
    for letters in [150_000, 1_000_000] {
        let error = count(letters).await.expect_err("a refusal");
        assert_eq!(refusal(&error).reason.as_deref(), Some("PROMPT_TOO_LONG"), "{error}");
        assert_eq!(refusal(&error).numbers["most_characters"], "100000", "{error}");
    }
}

#[tokio::test]
async fn no_hostile_file_takes_the_daemon_down() {
    let daemon = TestDaemon::start().await;
    for hostile in fixture::hostile() {
        let outcome = daemon.try_import("hostile", hostile.bytes()).await;
        match (hostile.expected, outcome) {
            (Some(reason), Err(error)) => {
                let refused = refusal(&error);
                if hostile.bytes().is_empty() {
                    assert_eq!(refused.fields[0].field, "header.size_bytes", "{error}");
                    continue;
                }
                assert_eq!(refused.code, Code::FailedPrecondition, "{}: {error}", hostile.name);
                assert_eq!(refused.reason.as_deref(), Some("BAD_MODEL"), "{}: {error}", hostile.name);
                let text = error.to_string().to_lowercase();
                assert!(text.contains(&reason.to_lowercase()), "{}: {error}", hostile.name);
            }
            (Some(_), Ok(_)) => panic!("{} was imported", hostile.name),
            (None, Err(error)) => drop(refusal(&error)),
            (None, Ok(_)) => {
                // It may answer, be refused or crash its engine; it must not hang.
                let client = daemon.client();
                let asked = answer(&client, ask("hostile", "hello", 2));
                drop(tokio::time::timeout(Duration::from_secs(60), asked).await.expect("an end"));
                daemon.client().unload("hostile", true).await.expect("it is unloaded");
            }
        }
        daemon.client().status().await.expect("the daemon lives");
    }
    daemon.import("good", &fixture::tiny(Arch::Qwen3)).await;
    answer(&daemon.client(), ask("good", "hello", 3)).await.expect("a good model is served");
}
