//! Estimates beside what the kernel counts.

use std::path::{Path, PathBuf};

use hearth_client::{ChatRequest, Client, KvType, LoadOptions, v1};
use hearth_tests::TestDaemon;
use hearth_tests::answer::answer;
use hearth_tests::eventually::eventually;
use rustix::process::Signal;

use super::import::import;
use super::sampler::Sampler;
use super::say;

/// A model of this size or more is loaded with few contexts, since each prompt takes minutes.
const LARGE: u64 = 2 << 30;

/// Contexts of up to so many tokens are filled; of larger ones as many. Keys and values are written in full when a
/// context is made, so that only a part of the compute buffers is missed.
const FILL: u32 = 8_192;
const FILL_LARGE: u32 = 160;

/// A prompt that is alone, of so many tokens, is computed in steps of up to the largest there may be: steps grow four
/// times at most from one to the next, from 16 tokens on.
const WHOLE_STEP: u32 = 640;

/// Tokens of an answer: enough for all to be written at the same time, while the prompts of the others are computed in
/// steps of 256 tokens.
const ANSWER: u32 = 48;

/// Those, and what a template writes around a question.
const AROUND: u32 = ANSWER + 64;

const MIB: f64 = (1 << 20) as f64;

/// One way to load a model.
#[derive(Clone, Copy, Debug)]
struct Case {
    context: u32,
    kv: KvType,
    sequences: u32,
    repack: bool,
}

const fn case(context: u32, kv: KvType, sequences: u32, repack: bool) -> Case {
    Case { context, kv, sequences, repack }
}

const SMALL_CASES: [Case; 6] = [
    case(2048, KvType::F16, 1, true),
    case(4096, KvType::F16, 8, true),
    case(4096, KvType::Q80, 2, true),
    case(32768, KvType::Q80, 4, true),
    case(4096, KvType::F16, 4, false),
    case(8192, KvType::Q40, 8, true),
];

const LARGE_CASES: [Case; 3] =
    [case(4096, KvType::F16, 8, true), case(8192, KvType::Q80, 4, true), case(2048, KvType::Q40, 1, false)];

/// Whether all hold.
pub(crate) async fn run(files: &[PathBuf]) -> bool {
    say(
        "| model | context | KV | answers | weights | estimate MiB | measured MiB | off by | beside weights: estimate | measured | off by | holds |",
    );
    say("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let (mut count, mut held) = (0, 0);
    for file in files {
        let is_large = std::fs::metadata(file).expect("a model file").len() >= LARGE;
        let cases: &[Case] = if is_large { &LARGE_CASES } else { &SMALL_CASES };
        let daemon = TestDaemon::start().await;
        let name = import(&daemon, file).await;
        for case in cases {
            count += 1;
            let fill = if is_large { FILL_LARGE } else { FILL };
            held += u32::from(measure(&daemon, file, &name, *case, fill).await);
        }
    }
    say(&format!("\n{held} of {count} within 2% of all, and 5% or 16 MiB of all but the weights."));
    held == count
}

async fn measure(daemon: &TestDaemon, file: &Path, name: &str, case: Case, fill: u32) -> bool {
    let Case { context, kv, sequences, repack } = case;
    let before = daemon.count_in_log("Read the configuration again");
    let model = format!("[models.{name:?}]\nsequences = {sequences}\nrepack = {repack}\n");
    // Steps are as long as the context allows, so that the compute buffers are used whole.
    // The machine may do other things: that an engine is slow is not what is asked here.
    let steps = "[engine]\nstep_alone = \"10m\"\nstep_busy = \"10m\"\nheartbeat_timeout = \"10m\"\n";
    daemon.write_config(&format!("{steps}{model}may_shorten = false\nmay_quantize = false\n"));
    daemon.signal(Signal::HUP);
    daemon.logs("Read the configuration again", before + 1).await;
    let client = daemon.client();
    let options = LoadOptions { context_tokens: Some(context), kv_type: Some(kv), keep_alive: None };
    let plan = client.plan(name, options).await.expect("a plan");
    let need = plan.need.expect("what it needs");
    let sampler = Sampler::start(daemon.pid().as_raw_nonzero().get().unsigned_abs());
    let mut loading = client.load_with(name, options).await.expect("the load begins");
    while let Some(event) = loading.next().await {
        event.expect("the load goes on");
    }
    let pid = daemon.engine(name).await.expect("loaded").pid;
    work(daemon, name, context.min(fill), sequences).await;
    let seen = sampler.stop();
    let peak = seen.peaks[&pid];
    let measured = if plan.repacked { peak.total } else { peak.with_files() };
    client.unload(name, false).await.expect("unloaded");
    eventually("the engine is gone", || async { daemon.engine(name).await.is_none().then_some(()) }).await;
    report(file, case, &plan, &need, measured)
}

/// Every token of the vocabulary is a candidate, which takes each answer the most.
fn drawn() -> v1::Sampling {
    v1::Sampling {
        temperature: Some(1.0),
        top_k: Some(0),
        top_p: Some(1.0),
        min_p: Some(0.0),
        ..v1::Sampling::default()
    }
}

/// An answer whose form is held to a grammar, which leaves its tables; then answers at the same time that fill the context.
async fn work(daemon: &TestDaemon, name: &str, tokens: u32, sequences: u32) {
    let object = v1::output::Kind::Json(v1::JsonObject {});
    let request = ChatRequest::new(name).user("x").max_tokens(8).output(object);
    answer(&daemon.client(), request).await.expect("an answer in a form");
    read(&daemon.client(), name, &text(WHOLE_STEP, 1)).await;
    let each = (tokens / sequences).saturating_sub(AROUND).max(16);
    let mut answers = tokio::task::JoinSet::new();
    for number in 0..sequences {
        let (client, name) = (daemon.new_client().await, name.to_owned());
        answers.spawn(async move {
            read(&client, &name, &text(each, number)).await;
        });
    }
    while let Some(answer) = answers.join_next().await {
        answer.expect("an answer");
    }
}

/// A text of about so many tokens: one a word, and then some.
fn text(tokens: u32, number: u32) -> String {
    let word = |at: u32| ["one ", "two ", "red ", "sun "][(at + number) as usize % 4];
    (0..tokens / 4 * 3).map(word).collect()
}

async fn read(client: &Client, name: &str, question: &str) {
    let request = ChatRequest::new(name).user(question).sampling(drawn()).max_tokens(ANSWER);
    let mut generation = client.generate(request).await.expect("accepted");
    while let Some(event) = generation.next().await {
        event.expect("it goes on");
    }
}

fn report(
    file: &Path,
    case: Case,
    plan: &v1::PlanModelResponse,
    need: &v1::MemoryNeed,
    measured: u64,
) -> bool {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let estimate = need.peak_bytes;
    let weights = need.weights_bytes;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let (estimate, measured, weights) = (estimate as f64, measured as f64, weights as f64);
    let off = estimate - measured;
    let (rest, real) = (estimate - weights, measured - weights);
    let holds = off.abs() <= measured * 0.02 && off.abs() <= (16.0 * MIB).max(real * 0.05);
    let Case { context, kv, sequences, .. } = case;
    say(&format!(
        "| {stem} | {context} | {kv:?} | {sequences} | {} | {:.1} | {:.1} | {:+.2}% | {:.1} | {:.1} | {:+.1} MiB ({:+.1}%) | {} |",
        if plan.repacked { "repacked" } else { "mapped" },
        estimate / MIB,
        measured / MIB,
        off / measured * 100.0,
        rest / MIB,
        real / MIB,
        off / MIB,
        off / real * 100.0,
        if holds { "yes" } else { "**no**" },
    ));
    holds
}
