//! What is in memory: plans, pins, loads with options, how long models stay, and what `status` and `top` show of it.

use std::time::Duration;

use hearth_client::v1::{self, converse_request::Kind};
use hearth_client::{ChatRequest, GenerationEvent, KeepAlive, KvType, LoadOptions};
use serde_json::{Value, json};

use crate::daemon::{Asked, Daemon};
use crate::{check, run};

async fn json_of(daemon: &Daemon, args: &[&str]) -> Value {
    let output = run(daemon, args, "").await;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    serde_json::from_str(text.lines().last().expect("a line")).expect("JSON")
}

fn kept_alive(daemon: &Daemon) -> Option<i64> {
    match daemon.noted.last() {
        Asked::Generate(request) => request.keep_alive_ms,
        Asked::Load(request) => request.keep_alive_ms,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_library_loads_plans_and_pins() {
    let daemon = Daemon::start();
    let client = daemon.client().await;
    let options = LoadOptions {
        context_tokens: Some(2048),
        kv_type: Some(KvType::Q40),
        keep_alive: Some(KeepAlive::For(Duration::from_millis(1500))),
    };
    let mut loading = client.load_with("demo", options).await.expect("served");
    while let Some(event) = loading.next().await {
        event.expect("loads");
    }
    let load = v1::LoadModelRequest {
        model: "demo".to_owned(),
        context_tokens: Some(2048),
        kv_type: KvType::Q40.into(),
        keep_alive_ms: Some(1500),
    };
    assert_eq!(daemon.noted.last(), Asked::Load(load));
    let plan = client.plan("demo", options).await.expect("served");
    assert_eq!(plan.context_ceiling, 4096);
    let asked = v1::PlanModelRequest {
        model: "demo".to_owned(),
        context_tokens: Some(2048),
        kv_type: KvType::Q40.into(),
    };
    assert_eq!(daemon.noted.last(), Asked::Plan(asked));
    assert!(client.pin("demo", true).await.expect("served"));
    assert!(!client.pin("demo", false).await.expect("served"));
    assert!(client.pin("fixed", false).await.expect("served"), "the configuration pins it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_says_how_long_its_model_stays() {
    let daemon = Daemon::start();
    let client = daemon.client().await;
    let request = ChatRequest::new("slow").user("hi").keep_alive(KeepAlive::Forever);
    let mut generation = client.generate(request.clone()).await.expect("accepted");
    let mut expected = None;
    while let Some(event) = generation.next().await {
        if let GenerationEvent::Progress(progress) = event.expect("answers") {
            expected = progress.expected_ms;
            assert_eq!(progress.stage(), v1::progress::Stage::Memory);
        }
    }
    assert_eq!((expected, kept_alive(&daemon)), (Some(1500.0), Some(-1)));
    let mut talk = client.converse(request).await.expect("accepted");
    while talk.next().await.is_some() {}
    let said = daemon.noted.said.lock().expect("no panic").clone();
    assert!(matches!(said.first(), Some(Kind::Start(start)) if start.keep_alive_ms == Some(-1)), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn options_of_the_command_line_reach_the_daemon() {
    let daemon = Daemon::start();
    let loaded =
        json_of(&daemon, &["load", "demo", "--ctx", "1024", "--kv", "q8_0", "--keep-alive", "10m", "--json"])
            .await;
    let all = json!({
        "type": "loaded", "name": "demo", "context_tokens": 1024, "sequences": 8, "load_ms": 12.0,
        "context_ceiling": 1024, "kv_type": "q8_0", "reserved_bytes": 3 << 20,
    });
    assert_eq!(loaded, all);
    assert_eq!(kept_alive(&daemon), Some(600_000));
    check(&daemon, &["chat", "demo", "-p", "hi"], "", "hi of 1\n").await;
    assert_eq!(kept_alive(&daemon), None);
    check(&daemon, &["chat", "demo", "-p", "hi", "--keep-alive", "forever"], "", "hi of 1\n").await;
    assert_eq!(kept_alive(&daemon), Some(-1));
    for bad in [["load", "demo", "--kv", "q5"], ["load", "demo", "--keep-alive", "soon"]] {
        assert_eq!(run(&daemon, &bad, "").await.status.code(), Some(2), "{bad:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_memory_is_told() {
    let daemon = Daemon::start();
    let output = run(&daemon, &["chat", "slow", "-p", "hi", "--json"], "").await;
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    let progress: Value = serde_json::from_str(text.lines().nth(1).expect("a second line")).expect("JSON");
    let waits = json!({"type": "progress", "stage": "memory", "done": 0, "total": 0, "expected_ms": 1500.0});
    assert_eq!(progress, waits);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_shown_and_refused_only_where_the_call_fails() {
    let daemon = Daemon::start();
    let shown = "\
demo would be loaded once others are out of memory
it needs 2.0 GiB and 1.0 GiB are free

WEIGHTS  KV         COMPUTE    PROCESS    LOADED   PEAK
1.0 GiB  512.0 MiB  256.0 MiB  256.0 MiB  2.0 GiB  3.0 GiB

GOES FIRST  GIVES BACK  TO LOAD IT AGAIN
old:latest  1.0 GiB     about 8.0 s

context  2048 tokens, up to 4096 where needed; the whole budget holds 8192
cache    q8_0, about half the memory of f16
weights  rearranged for the CPU, in memory of their own
budget   1.0 GiB of 4.0 GiB not reserved
load     about 12 s
";
    check(&daemon, &["plan", "demo"], "", shown).await;
    let plan = json_of(&daemon, &["plan", "demo", "--ctx", "2048", "--kv", "f16", "--json"]).await;
    assert_eq!(
        (&plan["type"], &plan["model"], &plan["action"]),
        (&json!("plan"), &json!("demo"), &json!("evict"))
    );
    assert_eq!(plan["need"]["peak_bytes"], json!(3_u64 << 30));
    assert_eq!(plan["evictions"], json!([{"model": "old:latest", "bytes": 1 << 30, "reload_ms": 8000.0}]));
    assert_eq!((&plan["kv_type"], &plan["largest_context_tokens"]), (&json!("q8_0"), &json!(8192)));
    assert!(matches!(daemon.noted.last(), Asked::Plan(plan) if plan.kv_type() == KvType::F16));
    assert_eq!(run(&daemon, &["plan", "missing"], "").await.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_pinned_and_let_go() {
    let daemon = Daemon::start();
    check(&daemon, &["pin", "demo"], "", "demo stays in memory once it is loaded\n").await;
    check(&daemon, &["unpin", "demo"], "", "demo goes when its memory is needed\n").await;
    check(&daemon, &["unpin", "fixed"], "", "fixed stays pinned: the daemon's configuration says so\n").await;
    let line = "{\"type\":\"pinned\",\"name\":\"demo\",\"pinned\":true}\n";
    check(&daemon, &["pin", "demo", "--json"], "", line).await;
    let shown = run(&daemon, &["models", "demo"], "").await;
    let shown = String::from_utf8(shown.stdout).expect("UTF-8");
    assert!(shown.contains("pinned        yes\nload time     about 3.2 s\n"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_never_fits_comes_with_a_context_that_does() {
    let daemon = Daemon::start();
    let output = run(&daemon, &["load", "huge"], "").await;
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("`hearth load NAME --ctx 4096`"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_what_holds_the_budget_and_what_engines_take() {
    let daemon = Daemon::start();
    let shown = "\
hearthd 1.2.3, serving
memory   2.0 GiB of 4.0 GiB reserved (/system.slice)
           engine qwen3:8b                 2.0 GiB
budget   the least of these, marked *
           configured       6.0 GiB  as [memory] budget says
         * /system.slice    4.0 GiB  memory.max less 10 %
pressure none (psi, some 0.5 %, full 0.0 %)
disk     1.0 GiB of models, 2.0 GiB free
sensors  cpu-thermal 51.2 °C

MODEL     STATE  RUNNING  WAITING  CONTEXT   KV    RESERVED  MEASURED
qwen3:8b  ready  1        0        100/4096  q8_0  2.0 GiB   1.5 GiB
  was asked
  pinned, context up to 8192, loaded in 12 s, pid 12, avx2, weights as in the file, never used
  512.0 MiB of its own + 1.0 GiB of files + 0 B shared; peak 2.0 GiB, estimate 2.0 GiB
";
    check(&daemon, &["status"], "", shown).await;
    let status = json_of(&daemon, &["status", "--json"]).await;
    assert_eq!(status["memory"]["limits"][1]["holds"], true);
    assert_eq!(status["memory"]["pressure"]["level"], "none");
    assert_eq!(status["engines"][0]["measured"]["file_bytes"], json!(1 << 30));
    assert_eq!(
        (&status["engines"][0]["kv_type"], &status["engines"][0]["pinned"]),
        (&json!("q8_0"), &json!(true))
    );
    assert_eq!(status["sensors"][0]["name"], "cpu-thermal");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_frame_of_top_has_the_speeds_of_an_interval() {
    let daemon = Daemon::start();
    let output = run(&daemon, &["top", "--once", "--interval", "100ms"], "").await;
    let shown = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(output.status.code(), Some(0));
    assert!(shown.starts_with("hearthd 1.2.3, serving   by memory\nbudget    ███"), "{shown}");
    assert!(shown.contains("set by /system.slice: memory.max less 10 %"), "{shown}");
    assert!(shown.contains("qwen3:8b  ready             100/4096     1     0"), "{shown}");
    assert!(!shown.contains('\x1b') && !shown.contains("q quit"), "{shown}");
    let top = json_of(&daemon, &["top", "--once", "--interval", "100ms", "--json"]).await;
    assert_eq!((&top["type"], &top["engines"][0]["model"]), (&json!("top"), &json!("qwen3:8b")));
    let rate = &top["rates"][0];
    let decode = rate["decode_tokens_per_second"].as_f64().expect("two looks make a rate");
    assert!(decode > 0.0 && decode <= 100.0, "{rate}");
    assert_eq!((&rate["model"], &rate["prefill_tokens_per_second"]), (&json!("qwen3:8b"), &json!(0.0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn top_without_a_terminal_says_what_to_use() {
    let daemon = Daemon::start();
    let output = run(&daemon, &["top"], "").await;
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("`hearth status --watch`"), "{told}");
    assert_eq!(run(&daemon, &["top", "--interval", "10ms"], "").await.status.code(), Some(2));
    let gone = ["top", "--once", "--endpoint", "unix:/nowhere/hearth.sock"];
    assert_eq!(run(&daemon, &gone, "").await.status.code(), Some(69));
}
