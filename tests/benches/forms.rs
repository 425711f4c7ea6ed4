//! Forms of answers at length: are they right, do they come, and what do they cost.
//!
//! `make bench-forms MODELS="a.gguf b.gguf" [RUNS=1000] [SPEED=half.gguf]` asks models of random weights for tool
//! calls and structured output at temperature 1, and has an independent validator judge every one; measures a call
//! of some forty forced tokens with and without computing them in one batch; and prints what a constraint costs a
//! token beside llama.cpp's grammars. Without models the project's own tiny ones are asked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use hearth_client::{ChatRequest, Client, v1};
use hearth_tests::TestDaemon;
use hearth_tests::answer::{answer, greedy, reason, usage};
use hearth_tests::daemon::program;
use hearth_tests::fixture::{self, Arch, Size};
use hearth_tests::schemas::{self, Schema};

/// Answers with forced tokens that are timed, each way.
const TIMED: usize = 7;

fn say(line: &str) {
    #[expect(clippy::print_stdout, reason = "the table is the result")]
    {
        println!("{line}");
    }
}

#[derive(Debug, Default)]
struct Options {
    models: Vec<PathBuf>,
    runs: usize,
    speed: Option<PathBuf>,
}

impl Options {
    fn read() -> Self {
        let mut options = Self { runs: 300, ..Self::default() };
        let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--runs" => {
                    let runs = arguments.next().and_then(|runs| runs.parse().ok());
                    options.runs = runs.expect("--runs NUMBER");
                }
                "--speed" => options.speed = Some(arguments.next().expect("--speed FILE").into()),
                _ => options.models.push(argument.into()),
            }
        }
        options
    }
}

#[tokio::main]
async fn main() {
    let options = Options::read();
    let daemon = TestDaemon::start().await;
    let models = import(&daemon, &options.models).await;
    say("| asked for | runs | came | valid |");
    say("|---|---|---|---|");
    for form in [Form::Calls, Form::Output] {
        judge(&daemon.client(), &models, form, options.runs).await;
    }
    drop(daemon);
    forced(options.speed.as_deref()).await;
    if let Some(model) = options.models.first() {
        cost(model).await;
    }
}

async fn import(daemon: &TestDaemon, files: &[PathBuf]) -> Vec<String> {
    let mut models = Vec::new();
    if files.is_empty() {
        for arch in Arch::ALL {
            daemon.import(arch.name(), &fixture::tiny(arch)).await;
            models.push(arch.name().to_owned());
        }
    }
    for (at, file) in files.iter().enumerate() {
        let bytes = std::fs::read(file).expect("a model file");
        daemon.try_import(&format!("m{at}"), bytes).await.expect("the model is imported");
        models.push(format!("m{at}"));
    }
    models
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Calls,
    Output,
}

/// Asks again and again; every answer that comes must be valid, and says so otherwise.
async fn judge(client: &Client, models: &[String], form: Form, runs: usize) {
    let schemas = schemas::assorted();
    let asked = (0..runs).map(|run| {
        let model = &models[run % models.len()];
        let schema = &schemas[run / models.len() % schemas.len()];
        let sampling = v1::Sampling {
            temperature: Some(1.0),
            top_k: Some(0),
            top_p: Some(1.0),
            min_p: Some(0.0),
            seed: u64::try_from(run).ok(),
            ..v1::Sampling::default()
        };
        let request = ChatRequest::new(model).user("go").sampling(sampling).max_tokens(256);
        // Several calls in some of them: a model that knows nothing makes them until it has no tokens left.
        let request = if form == Form::Calls { request.parallel_tools(run % 4 == 0) } else { request };
        async move { one(client, request, schema, form).await }
    });
    let (mut came, mut valid) = (0, 0);
    let mut outcomes = futures_util::stream::iter(asked).buffer_unordered(4);
    while let Some((is_there, is_valid)) = outcomes.next().await {
        came += usize::from(is_there);
        valid += usize::from(is_valid);
    }
    say(&format!("| {form:?} | {runs} | {came} | {valid} |"));
}

async fn one(client: &Client, request: ChatRequest, schema: &Schema, form: Form) -> (bool, bool) {
    let request = match form {
        Form::Calls => {
            let tool =
                v1::Tool { name: "act".to_owned(), description: None, parameters: Some(schema.text()) };
            request.tool(tool).required_tools()
        }
        Form::Output => request.json_schema(schema.text()),
    };
    let said = answer(client, request).await.expect("an answer");
    let texts: Vec<&str> = match form {
        Form::Calls => said.tool_calls.iter().map(|call| call.arguments.as_str()).collect(),
        Form::Output if reason(&said) == v1::FinishReason::Stop => vec![&said.text],
        Form::Output => Vec::new(),
    };
    let faults: Vec<String> = texts.iter().filter_map(|text| schema.check(text).err()).collect();
    for fault in &faults {
        say(&format!("INVALID {}: {fault}", schema.name));
    }
    (!texts.is_empty(), !texts.is_empty() && faults.is_empty())
}

/// A call whose every byte is forced but for a few: its time with and without batching.
async fn forced(model: Option<&Path>) {
    let parameters = r#"{"type":"object","properties":{"measurement_station_identifier":{"const":"north-ridge-station-7"},
        "requested_measurement_interval_in_minutes":{"const":15},"include_calibration_records":{"type":"boolean"}},
        "required":["measurement_station_identifier","requested_measurement_interval_in_minutes","include_calibration_records"]}"#;
    let tool = v1::Tool {
        name: "read_station_measurements".to_owned(),
        description: None,
        parameters: Some(parameters.to_owned()),
    };
    let mut daemons = Vec::new();
    for one_by_one in [false, true] {
        let daemon = TestDaemon::with(&format!("[engine]\nforced_one_by_one = {one_by_one}\n")).await;
        match model {
            None => drop(daemon.import("half", &fixture::scaled(Arch::Qwen3, Size::Half)).await),
            Some(file) => {
                let bytes = std::fs::read(file).expect("a model file");
                daemon.try_import("half", bytes).await.expect("the model is imported");
            }
        }
        daemon.load("half").await;
        daemons.push(daemon);
    }
    let mut times = [Vec::new(), Vec::new()];
    let mut counts = (0, 0);
    for round in 0..=TIMED {
        for (daemon, times) in daemons.iter().zip(&mut times) {
            let request = ChatRequest::new("half").user(format!("Round {round}")).sampling(greedy());
            let request =
                request.max_tokens(200).thinking(v1::Thinking::Off).tool(tool.clone()).required_tools();
            let said = answer(&daemon.client(), request.parallel_tools(false)).await.expect("an answer");
            let used = usage(&said);
            counts = (used.forced_tokens, used.generated_tokens);
            let timings = said.finished.and_then(|finished| finished.timings).expect("timings");
            // The first round loads what is loaded once.
            if round > 0 {
                times.push(Duration::from_secs_f64(timings.decode_ms / 1e3));
            }
        }
    }
    let [batched, single] = times.map(|mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1e3
    });
    let (forced, generated) = counts;
    say("");
    say("| a call of | one by one | in one batch | times faster |");
    say("|---|---|---|---|");
    say(&format!(
        "| {generated} tokens, {forced} of them forced | {single:.0} ms | {batched:.0} ms | {:.2} |",
        single / batched
    ));
}

/// What a constraint costs for each token.
async fn cost(model: &Path) {
    let output = tokio::process::Command::new(program("examples/grammar_cost")).arg(model).output().await;
    let output = output.expect("run grammar_cost");
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let text = |key: &str| figures[key].to_string();
    say("");
    say(
        "| vocabulary | constraint, µs a token | slowest token, µs | llama.cpp's GBNF, µs a token | tables, once |",
    );
    say("|---|---|---|---|---|");
    say(&format!(
        "| {} | {} | {} | {} | {} ms |",
        text("vocabulary"),
        text("constraint_us"),
        text("worst_us"),
        text("gbnf_us"),
        text("tables_ms")
    ));
}
