//! Who stays in memory, and with how much of it: the budget, pins, turns, contexts that grow, and models that nobody
//! uses.

use std::time::{Duration, Instant};

use hearth_client::{ChatRequest, Code, KeepAlive, KvType, LoadOptions, v1};
use hearth_tests::TestDaemon;
use hearth_tests::answer::{answer, ask, greedy, raw, reason, refusal, usage};
use hearth_tests::eventually::eventually;
use hearth_tests::fixture::{self, Arch};
use hearth_tests::group::Group;
use rustix::process::Signal;

async fn two_models(config: &str) -> TestDaemon {
    let daemon = TestDaemon::with(config).await;
    for name in ["a", "b"] {
        daemon.import(name, &fixture::tiny(Arch::Qwen3)).await;
    }
    daemon
}

/// The most that a model takes when it is loaded as the configuration says.
async fn peak(daemon: &TestDaemon, name: &str) -> u64 {
    let plan = daemon.client().plan(name, LoadOptions::default()).await.expect("a plan");
    plan.need.expect("what it needs").peak_bytes
}

/// What the daemon has reserved for itself.
async fn front(daemon: &TestDaemon) -> u64 {
    let memory = daemon.client().status().await.expect("a status").memory.expect("memory");
    memory.lines.iter().find(|line| line.label == "hearthd").expect("its own line").bytes
}

/// Room for one of the two, but not for both.
async fn one(daemon: &TestDaemon) -> String {
    let budget = front(daemon).await + peak(daemon, "a").await * 8 / 5;
    format!("[memory]\nbudget = \"{budget}\"\n")
}

async fn reload(daemon: &TestDaemon, config: &str) {
    let count = daemon.count_in_log("Read the configuration again");
    daemon.write_config(config);
    daemon.signal(Signal::HUP);
    daemon.logs("Read the configuration again", count + 1).await;
}

async fn state(daemon: &TestDaemon, name: &str) -> (v1::ModelState, String) {
    let model = daemon.client().model(name).await.expect("a model");
    (model.state(), model.state_reason)
}

async fn is_ready(daemon: &TestDaemon, name: &str) -> bool {
    state(daemon, name).await.0 == v1::ModelState::Ready
}

async fn is_gone(daemon: &TestDaemon, name: &str) -> String {
    eventually("the model is gone", || async {
        let (state, why) = state(daemon, name).await;
        (state == v1::ModelState::Absent).then_some(why)
    })
    .await
}

#[tokio::test]
async fn an_engine_goes_before_anything_else_and_the_status_says_why_one_went() {
    let daemon = TestDaemon::start().await;
    daemon.import("a", &fixture::tiny(Arch::Qwen3)).await;
    daemon.load("a").await;
    let engine = daemon.engine_pid("a").await;
    let score = |pid: rustix::process::Pid| {
        let file = format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero());
        let text = std::fs::read_to_string(file).expect("the process is there");
        text.trim().parse::<i32>().expect("a number")
    };
    assert_eq!(score(engine), 1000);
    assert!(score(daemon.pid()) < 1000);
    daemon.client().unload("a", false).await.expect("unloaded");
    is_gone(&daemon, "a").await;
    let status = daemon.client().status().await.expect("a status");
    let [gone] = status.gone.as_slice() else { panic!("one is gone: {:?}", status.gone) };
    assert_eq!(gone.model, "a:latest");
    assert!(!gone.state_reason.is_empty());
    assert!(gone.expected_load_ms.is_some_and(|ms| ms > 0.0), "{gone:?}");
}

/// These tests run engines without GPU.
#[tokio::test]
async fn layers_for_a_gpu_that_is_not_there_are_refused_by_the_name_of_their_key() {
    let daemon = TestDaemon::start().await;
    daemon.import("a", &fixture::tiny(Arch::Qwen3)).await;
    reload(&daemon, "[models.a]\ngpu_layers = 4\n").await;
    let error = answer(&daemon.client(), ask("a", "hello", 2)).await.expect_err("there is no GPU");
    assert_eq!(refusal(&error).reason.as_deref(), Some("UNSUPPORTED"), "{error}");
    assert!(error.to_string().contains("gpu_layers is 4, and this engine has no GPU"), "{error}");
    for layers in ["0", "\"auto\""] {
        reload(&daemon, &format!("[models.a]\ngpu_layers = {layers}\n")).await;
        answer(&daemon.client(), ask("a", "hello", 2)).await.expect("an answer");
        let engine = daemon.engine("a").await.expect("it is loaded");
        assert_eq!((engine.gpu.as_str(), engine.gpu_layers), ("", 0));
        daemon.client().unload("a", false).await.expect("unloaded");
        is_gone(&daemon, "a").await;
    }
}

#[tokio::test]
async fn the_model_that_was_used_last_stays_unless_another_is_pinned() {
    let daemon = two_models("").await;
    let one = one(&daemon).await;
    reload(&daemon, &one).await;
    daemon.load("a").await;
    let plan = daemon.client().plan("b", LoadOptions::default()).await.expect("a plan");
    let evictions: Vec<&str> = plan.evictions.iter().map(|eviction| eviction.model.as_str()).collect();
    assert_eq!((plan.action(), evictions), (v1::plan_model_response::Action::Evict, vec!["a:latest"]));
    assert!(is_ready(&daemon, "a").await, "a plan does nothing");
    daemon.load("b").await;
    let why = is_gone(&daemon, "a").await;
    assert!(why.contains("evicted to make room for b"), "{why}");
    assert!(is_ready(&daemon, "b").await);

    assert!(daemon.client().pin("b", true).await.expect("pinned"));
    let error = answer(&daemon.client(), ask("a", "hello", 4)).await.expect_err("no room");
    assert_eq!(refusal(&error).code, Code::ResourceExhausted, "{error}");
    assert!(is_ready(&daemon, "b").await, "it is pinned");
    assert!(!daemon.client().pin("b", false).await.expect("let go"));
    answer(&daemon.client(), ask("a", "hello", 4)).await.expect("b makes room");

    reload(&daemon, &format!("{one}[models.a]\npinned = true\n")).await;
    assert!(daemon.client().pin("a", false).await.expect("asked"), "the configuration pins it");
    assert!(daemon.client().unload("a", false).await.expect("unloaded"), "on request it goes");
}

#[tokio::test]
async fn a_model_in_use_is_waited_for_and_no_request_is_lost() {
    let daemon = two_models("").await;
    reload(&daemon, &one(&daemon).await).await;
    let client = daemon.client();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..16 {
        let client = client.clone();
        let name = ["a", "b"][number % 2];
        tasks.spawn(async move { answer(&client, ask(name, "tell me of the sea", 48)).await });
    }
    while let Some(answered) = tasks.join_next().await {
        let answered = answered.expect("it runs").expect("it is answered");
        assert_eq!(usage(&answered).generated_tokens, 48);
    }
}

#[tokio::test]
async fn a_model_that_nobody_uses_goes_after_its_time() {
    let daemon = two_models("[engine]\nkeep_alive = \"200ms\"\n[models.b]\nkeep_alive = \"forever\"\n").await;
    for name in ["a", "b"] {
        answer(&daemon.client(), ask(name, "hello", 4)).await.expect("an answer");
    }
    let why = is_gone(&daemon, "a").await;
    assert!(why.contains("nobody used it for 200ms"), "{why}");
    assert!(is_ready(&daemon, "b").await);
    // A request may say otherwise.
    let ask_b = |time| ask("b", "hello", 4).keep_alive(KeepAlive::For(Duration::from_millis(time)));
    answer(&daemon.client(), ask_b(3_600_000)).await.expect("an answer");
    let at = daemon.engine("b").await.expect("loaded").unload_at.expect("a time");
    let left =
        std::time::SystemTime::try_from(at).expect("a time").duration_since(std::time::SystemTime::now());
    assert!(left.expect("in the future") > Duration::from_secs(3000));
    answer(&daemon.client(), ask_b(50)).await.expect("an answer");
    let why = is_gone(&daemon, "b").await;
    assert!(why.contains("nobody used it for 50ms"), "{why}");
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
    is_gone(&daemon, "a").await;
    // With models in memory or not, nothing holds up the end.
    daemon.load("b").await;
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().await.success());
    assert_eq!(daemon.count_in_log("Left work that did not end"), 0);
}

#[tokio::test]
async fn a_budget_that_shrinks_drives_idle_models_out() {
    let daemon = two_models("").await;
    let one = one(&daemon).await;
    daemon.load("a").await;
    daemon.load("b").await;
    reload(&daemon, &one).await;
    let why = is_gone(&daemon, "a").await;
    assert!(why.contains("the memory budget shrank to"), "{why}");
    assert!(is_ready(&daemon, "b").await);
    let memory = daemon.client().status().await.expect("a status").memory.expect("memory");
    assert_eq!(memory.budget_source, "configured");
    assert!(memory.lines.iter().any(|line| line.label == "hearthd"), "{:?}", memory.lines);
    assert!(memory.limits.iter().any(|limit| limit.source == "available"), "{:?}", memory.limits);
    assert!(memory.reserved_bytes <= memory.budget_bytes);
}

#[tokio::test]
async fn a_model_that_never_fits_is_refused_with_the_context_that_would() {
    let daemon = two_models("").await;
    let plan = |context| LoadOptions { context_tokens: Some(context), ..LoadOptions::default() };
    let long = daemon.client().plan("a", plan(8192)).await.expect("a plan").need.expect("what it needs");
    let short = daemon.client().plan("a", plan(1024)).await.expect("a plan").need.expect("what it needs");
    assert!(short.peak_bytes < long.peak_bytes);
    let budget = front(&daemon).await + (short.peak_bytes + long.peak_bytes) / 2;
    reload(&daemon, &format!("[memory]\nbudget = \"{budget}\"\n")).await;
    let began = Instant::now();
    let mut loading = daemon.client().load_with("a", plan(8192)).await.expect("the stream opens");
    let error = loop {
        match loading.next().await.expect("an end") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(began.elapsed() < Duration::from_secs(5));
    let refused = refusal(&error);
    assert_eq!(
        (refused.code, refused.reason.as_deref()),
        (Code::FailedPrecondition, Some("NEVER_FITS")),
        "{error}"
    );
    let number = |name: &str| refused.numbers.get(name).and_then(|number| number.parse::<u64>().ok());
    let for_engines = budget - front(&daemon).await;
    assert_eq!((number("need_bytes"), number("budget_bytes")), (Some(long.peak_bytes), Some(for_engines)));
    let largest = number("largest_context_tokens").expect("a context");
    assert!((256..8192).contains(&largest), "{largest}");
    let plan = daemon.client().plan("a", plan(8192)).await.expect("a plan");
    assert_eq!(plan.action(), v1::plan_model_response::Action::Refuse);
    assert_eq!(u64::from(plan.largest_context_tokens), largest);
}

#[tokio::test]
async fn a_load_may_say_how_and_a_model_in_memory_is_loaded_anew_for_it() {
    let daemon = two_models("").await;
    answer(&daemon.client(), ask("a", "hello", 4)).await.expect("an answer");
    let first = daemon.engine_pid("a").await;
    let options =
        LoadOptions { context_tokens: Some(1536), kv_type: Some(KvType::Q80), ..LoadOptions::default() };
    let mut loading = daemon.client().load_with("a", options).await.expect("the load begins");
    while let Some(event) = loading.next().await {
        event.expect("the load goes on");
    }
    let engine = daemon.engine("a").await.expect("loaded");
    assert_eq!((engine.context_tokens, engine.context_ceiling), (1536, 1536));
    assert_eq!(engine.kv_type(), KvType::Q80);
    assert_ne!(daemon.engine_pid("a").await, first);
    answer(&daemon.client(), ask("a", "hello", 4)).await.expect("an answer");
    let bad = LoadOptions { context_tokens: Some(7), ..LoadOptions::default() };
    let error = match daemon.client().load_with("a", bad).await {
        Ok(mut loading) => loading.next().await.expect("an end").expect_err("too few"),
        Err(error) => error,
    };
    assert!(error.to_string().contains("context_tokens"), "{error}");
}

/// A text of about so many tokens.
fn words(count: usize) -> String {
    ["sea", "wind", "red", "sun", "far", "old"]
        .iter()
        .cycle()
        .take(count)
        .map(|word| format!("{word} "))
        .collect()
}

#[tokio::test]
async fn a_context_grows_when_a_request_needs_it_and_keeps_what_is_cached() {
    let daemon = two_models("[engine]\ncontext_tokens = 512\ncontext_ceiling = 4096\n").await;
    let client = daemon.client();
    let first = answer(&client, ask("a", &words(100), 8)).await.expect("an answer");
    let engine = daemon.engine("a").await.expect("loaded");
    assert_eq!((engine.context_tokens, engine.context_ceiling), (512, 4096));
    let (pid, before) = (engine.pid, engine.reserved_bytes);
    // An answer that runs on while its neighbour needs more than there is.
    let running = {
        let client = client.clone();
        tokio::spawn(async move { answer(&client, ask("a", "tell me of the sea", 300)).await })
    };
    let long = answer(&client, ask("a", &words(900), 16)).await.expect("an answer");
    assert_eq!(usage(&long).generated_tokens, 16);
    assert!(usage(&long).prompt_tokens > 512);
    let beside = running.await.expect("it runs").expect("an answer");
    assert_eq!(usage(&beside).generated_tokens, 300, "nothing of it is lost");
    let engine = daemon.engine("a").await.expect("loaded");
    assert_eq!(engine.pid, pid, "the weights stay where they are");
    assert!(engine.context_tokens >= 1024 && engine.context_tokens <= 4096, "{}", engine.context_tokens);
    assert!(engine.reserved_bytes > before, "the ledger knows");
    let again = answer(&client, ask("a", &words(100), 8)).await.expect("an answer");
    assert_eq!(again.text, first.text);
    assert!(usage(&again).cached_tokens > 0, "what was cached came along");
    // Beyond the ceiling there is a clear word, and nothing is cut.
    let error = answer(&client, ask("a", &words(6000), 16)).await.expect_err("too long");
    assert_eq!(refusal(&error).reason.as_deref(), Some("PROMPT_TOO_LONG"), "{error}");
}

#[tokio::test]
async fn an_answer_that_fills_its_context_goes_on_in_a_larger_one() {
    let daemon = two_models("[engine]\ncontext_tokens = 512\ncontext_ceiling = 1024\nsequences = 1\n").await;
    let client = daemon.client();
    let request = ChatRequest::new("a").user("tell me of the sea").sampling(greedy());
    let whole = answer(&client, request).await.expect("an answer");
    let used = usage(&whole);
    assert_eq!(reason(&whole), v1::FinishReason::ContextFull, "a random model never ends by itself");
    // The last token that was written is not in the context any more.
    assert_eq!(used.prompt_tokens + used.generated_tokens, 1024 + 1);
}

#[tokio::test]
async fn a_context_that_finds_no_memory_is_refused_in_words() {
    let daemon = two_models("").await;
    let plan = |context| LoadOptions { context_tokens: Some(context), ..LoadOptions::default() };
    let loaded = daemon.client().plan("a", plan(512)).await.expect("a plan").need.expect("what it needs");
    let budget = front(&daemon).await + loaded.peak_bytes + (8 << 20);
    let config = "[engine]\ncontext_tokens = 512\ncontext_ceiling = 32768\n";
    reload(&daemon, &format!("[memory]\nbudget = \"{budget}\"\n{config}")).await;
    let client = daemon.client();
    answer(&client, ask("a", "hello", 4)).await.expect("an answer");
    let mut generation = client.generate(raw("a", &words(20_000), 4)).await.expect("the stream opens");
    let error = loop {
        match generation.next().await.expect("an end") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    let refused = refusal(&error);
    assert_eq!(
        (refused.code, refused.reason.as_deref()),
        (Code::ResourceExhausted, Some("NO_MEMORY")),
        "{error}"
    );
    assert!(error.to_string().contains("a context of"), "{error}");
    answer(&client, ask("a", "hello", 4)).await.expect("others are answered");
}

#[tokio::test]
async fn what_an_engine_takes_is_measured_and_within_its_reservation() {
    let daemon = two_models("").await;
    let object = v1::output::Kind::Json(v1::JsonObject {});
    answer(&daemon.client(), ask("a", &words(400), 32)).await.expect("an answer");
    answer(&daemon.client(), ask("a", "hello", 32).output(object)).await.expect("an answer in a form");
    let engine = eventually("it was measured after the answer", || async {
        let engine = daemon.engine("a").await.expect("loaded");
        engine.measured.is_some().then_some(engine)
    })
    .await;
    let measured = engine.measured.expect("measured");
    assert!(measured.anonymous_bytes > 0 && measured.file_bytes > 0);
    assert!(measured.peak_bytes <= engine.reserved_bytes, "{measured:?} of {}", engine.reserved_bytes);
    assert_eq!(measured.estimated_bytes, engine.reserved_bytes, "the load's own need was given back");
    assert!(engine.load_ms.is_some_and(|ms| ms > 0.0));
    let model = daemon.client().model("a").await.expect("a model");
    assert!(model.expected_load_ms.is_some_and(|ms| ms > 0.0));
}

#[tokio::test]
async fn an_engine_that_the_kernel_took_for_lack_of_memory_is_named_and_comes_back_smaller() {
    let group = match Group::make(3 << 20) {
        Ok(group) => group,
        Err(error) => {
            eprintln!("not run: no memory control group can be made here ({error})");
            return;
        }
    };
    let daemon = two_models("[engine]\ncontext_tokens = 512\ncontext_ceiling = 32768\n").await;
    daemon.load("a").await;
    let engine = daemon.engine("a").await.expect("loaded");
    assert_eq!(engine.kv_type(), KvType::F16);
    group.take(engine.pid).expect("its engine is there");
    // The larger context is more than the group has.
    let error = answer(&daemon.client(), ask("a", &words(5000), 4)).await.expect_err("its engine is killed");
    assert_eq!(refusal(&error).reason.as_deref(), Some("ENGINE_LOST"), "{error}");
    assert_eq!(group.kills(), 1);
    let (_, why) = state(&daemon, "a").await;
    assert!(why.contains("lack of memory"), "{why}");
    answer(&daemon.client(), ask("a", "hello", 4)).await.expect("it is tried again");
    let engine = daemon.engine("a").await.expect("loaded");
    assert_eq!((engine.context_tokens, engine.kv_type()), (512, KvType::Q80), "in a smaller way");
}
