//! How fast Hearth lets go: cancels, gaps in other streams, dead engines, the first text of an answer.
//!
//! `cargo bench -p hearth-tests --bench latency [-- MODEL.gguf]` prints a table; the model stands in for the
//! random one of half a billion weights. Each figure stands beside a baseline from the same run, since
//! machines differ and are shared.

use std::time::{Duration, Instant};

use hearth_client::{Client, GenerationEvent, v1};
use hearth_tests::TestDaemon;
use hearth_tests::answer::{answer, ask};
use hearth_tests::cli::command;
use hearth_tests::fixture::{self, Arch, Size};
use rustix::process::{Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// Tokens of the prompt that is cancelled, or computed beside another stream.
const PROMPT_TOKENS: u32 = 2000;

fn say(line: &str) {
    #[expect(clippy::print_stdout, reason = "the table is the result")]
    {
        println!("{line}");
    }
}

/// A line of the table: median, 99th percentile and maximum of `samples`, and the baseline.
fn row(name: &str, mut samples: Vec<Duration>, baseline: &str) {
    samples.sort();
    let at = |share: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank among few samples"
        )]
        let rank = ((samples.len() as f64 * share).ceil() as usize).clamp(1, samples.len());
        samples[rank - 1].as_secs_f64() * 1e3
    };
    let count = samples.len();
    say(&format!("| {name} | {count} | {:.1} | {:.1} | {:.1} | {baseline} |", at(0.5), at(0.99), at(1.0)));
}

/// A prompt of [`PROMPT_TOKENS`] tokens that begins with `salt`, so that no cached prefix fits.
async fn long_prompt(client: &Client, salt: &str) -> String {
    let mut text = format!("{salt} ");
    while client.count_tokens(ask("half", &text, 1)).await.expect("a count") < PROMPT_TOKENS {
        text.push_str(&"water level sensor reading nominal ".repeat(10));
    }
    text
}

async fn until_prefill(stream: &mut hearth_client::Generation) {
    while let Some(event) = stream.next().await {
        if let GenerationEvent::Progress(progress) = event.expect("no error")
            && progress.stage() == v1::progress::Stage::Prefill
        {
            return;
        }
    }
    panic!("the stream ended");
}

async fn until_idle(daemon: &TestDaemon) {
    while daemon.engine("half").await.is_some_and(|engine| engine.running > 0) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// From dropping a stream in the middle of its prefill to its sequence being free again.
async fn cancels(daemon: &TestDaemon) {
    let client = daemon.client();
    let text = long_prompt(&client, "whole").await;
    let begun = Instant::now();
    answer(&client, ask("half", &text, 1)).await.expect("an answer");
    let whole = begun.elapsed();
    let mut samples = Vec::new();
    for turn in 0..40u32 {
        let text = long_prompt(&client, &format!("turn {turn}")).await;
        let mut stream = client.generate(ask("half", &text, 4)).await.expect("a stream");
        until_prefill(&mut stream).await;
        tokio::time::sleep(Duration::from_millis(u64::from(turn % 8) * 150)).await;
        let dropped = Instant::now();
        drop(stream);
        until_idle(daemon).await;
        samples.push(dropped.elapsed());
    }
    row("cancel in a 2,000-token prefill", samples, &format!("the prefill alone: {} ms", whole.as_millis()));
}

/// Gaps between the pieces of one answer while others' long prompts are computed.
async fn gaps(daemon: &TestDaemon) {
    let mut writing = daemon.new_client().await.generate(ask("half", "go on", 6000)).await.expect("a stream");
    let mut next = async || -> bool {
        loop {
            match writing.next().await.expect("not over").expect("no error") {
                GenerationEvent::Text(_) | GenerationEvent::Reasoning(_) => return true,
                GenerationEvent::Finished(_) => return false,
                _ => {}
            }
        }
    };
    next().await;
    let mut alone = Vec::new();
    for _ in 0..40 {
        let begun = Instant::now();
        next().await;
        alone.push(begun.elapsed());
    }
    alone.sort();
    let undisturbed = format!("alone: {:.1} ms", alone[alone.len() / 2].as_secs_f64() * 1e3);
    let client = daemon.new_client().await;
    let text = long_prompt(&client, "beside").await;
    // What was written meanwhile is in the buffers: read it without measuring.
    while tokio::time::timeout(Duration::from_millis(5), next()).await.is_ok() {}
    let prefill = tokio::spawn(async move { answer(&client, ask("half", &text, 1)).await });
    let mut samples = Vec::new();
    while !prefill.is_finished() {
        let begun = Instant::now();
        assert!(next().await, "the answer was too short");
        samples.push(begun.elapsed());
    }
    prefill.await.expect("joined").expect("an answer");
    row("gap of a stream beside a 2,000-token prefill", samples, &undisturbed);
}

/// From `kill -9` of an engine to the error in its stream.
async fn kills(daemon: &TestDaemon) {
    let mut samples = Vec::new();
    for _ in 0..10 {
        let mut stream =
            daemon.new_client().await.generate(ask("tiny", "hello", 100_000)).await.expect("a stream");
        while !matches!(stream.next().await, Some(Ok(GenerationEvent::Text(_)))) {}
        kill_process(daemon.engine_pid("tiny").await, Signal::KILL).expect("kill the engine");
        let killed = Instant::now();
        while let Some(Ok(_)) = stream.next().await {}
        samples.push(killed.elapsed());
        // An answer in between: three crashes in a row would be a quarantine.
        answer(&daemon.client(), ask("tiny", "hello", 2)).await.expect("the next request is served");
    }
    row("status after kill -9", samples, "promised: 1,000 ms");
}

/// From starting `hearth chat` to the first line with text, the model being in memory.
async fn first_text(daemon: &TestDaemon) {
    let mut samples = Vec::new();
    let mut starts = Vec::new();
    for turn in 0..30 {
        let begun = Instant::now();
        command(daemon, &["--version"]).output().await.expect("hearth runs");
        starts.push(begun.elapsed());
        let question = format!("What is {turn} + 5?");
        let begun = Instant::now();
        let args = ["chat", "demo", "--think", "off", "-p", &question, "--json"];
        let mut child = command(daemon, &args).spawn().expect("start hearth");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        while let Some(line) = lines.next_line().await.expect("a line") {
            if line.contains(r#""type":"text""#) {
                samples.push(begun.elapsed());
                break;
            }
        }
        child.wait().await.expect("hearth ends");
    }
    starts.sort();
    let start = format!("`hearth --version`: {:.1} ms", starts[starts.len() / 2].as_secs_f64() * 1e3);
    row("first text of `hearth chat demo --json`", samples, &start);
}

#[tokio::main]
async fn main() {
    say("| what | samples | median ms | p99 ms | max ms | baseline |\n|---|---|---|---|---|---|");
    let daemon = TestDaemon::with("[engine]\ncontext_tokens = 16384\n").await;
    daemon.import_demo().await;
    daemon.load("demo").await;
    first_text(&daemon).await;
    daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
    kills(&daemon).await;
    match std::env::args().skip(1).find(|argument| !argument.starts_with("--")) {
        None => drop(daemon.import("half", &fixture::scaled(Arch::Qwen3, Size::Half)).await),
        Some(path) => {
            let bytes = std::fs::read(path).expect("the model file");
            daemon.try_import("half", bytes).await.expect("the model is imported");
        }
    }
    daemon.load("half").await;
    cancels(&daemon).await;
    gaps(&daemon).await;
}
