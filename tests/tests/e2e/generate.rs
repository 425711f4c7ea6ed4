//! Answers: what a client asks for is what it gets.

use std::time::Duration;

use hearth_client::{ChatRequest, Code, GenerationEvent, v1};
use hearth_tests::TestDaemon;
use hearth_tests::answer::{answer, ask, greedy, raw, reason, refusal, tokens, usage};
use hearth_tests::fixture::{self, Arch};

async fn with_model() -> TestDaemon {
    let daemon = TestDaemon::start().await;
    daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
    daemon
}

#[tokio::test]
async fn every_architecture_answers_the_number_of_tokens_that_was_asked_for() {
    let daemon = TestDaemon::start().await;
    for (name, arch) in [("a", Arch::Llama), ("b", Arch::Qwen3), ("c", Arch::Glm4)] {
        let model = daemon.import(name, &fixture::tiny(arch)).await;
        assert_eq!(model.facts.expect("facts").architecture, arch.name());
        let said = answer(&daemon.client(), ask(name, "hello", 12)).await.expect("an answer");
        assert_eq!(reason(&said), v1::FinishReason::Length, "{name}");
        assert_eq!(usage(&said).generated_tokens, 12);
        assert!(!said.text.is_empty() && said.text.is_ascii(), "{name}: {:?}", said.text);
    }
}

#[tokio::test]
async fn events_come_in_order_and_without_gaps() {
    let daemon = with_model().await;
    let request = ask("tiny", "hello", 8).request_id("my-request");
    let mut generation = daemon.client().generate(request).await.expect("a stream");
    let first = generation.next().await.expect("an event").expect("no error");
    let GenerationEvent::Accepted { request_id, model, .. } = first else { panic!("{first:?}") };
    assert_eq!(request_id, "my-request");
    assert_eq!(model, "tiny:latest");
    let mut kinds = Vec::new();
    // The client checks that the sequence numbers have no gap.
    while let Some(event) = generation.next().await {
        kinds.push(match event.expect("no error") {
            GenerationEvent::Progress(progress) if progress.stage() == v1::progress::Stage::Load => "load",
            GenerationEvent::Progress(_) => "prefill",
            GenerationEvent::Text(_) => "text",
            GenerationEvent::Finished(_) => "finished",
            other => panic!("{other:?}"),
        });
    }
    kinds.dedup();
    assert_eq!(kinds.last(), Some(&"finished"));
    assert!(kinds.contains(&"text"));
    assert!(kinds.iter().position(|&k| k == "text") > kinds.iter().rposition(|&k| k == "load"), "{kinds:?}");
}

#[tokio::test]
async fn the_same_seed_gives_the_same_text_and_the_daemon_reports_the_one_it_chose() {
    let daemon = with_model().await;
    let client = daemon.client();
    let sampling = |seed| v1::Sampling { temperature: Some(1.5), seed, ..v1::Sampling::default() };
    let first = answer(&client, ask("tiny", "hello", 24).sampling(sampling(None))).await.expect("an answer");
    let again = answer(&client, ask("tiny", "hello", 24).sampling(sampling(Some(first.seed))))
        .await
        .expect("an answer");
    assert_eq!(first.text, again.text);
    let other = answer(&client, ask("tiny", "hello", 24).sampling(sampling(Some(first.seed ^ 1))))
        .await
        .expect("an answer");
    assert_ne!(first.text, other.text);
}

#[tokio::test]
async fn a_stop_text_ends_the_answer_wherever_the_tokens_are_cut() {
    let daemon = with_model().await;
    let client = daemon.client();
    let whole = answer(&client, ask("tiny", "hello", 40)).await.expect("an answer").text;
    // Every cut of the known text, so the stop begins and ends inside tokens too.
    for start in 4..whole.len() - 4 {
        let stop = &whole[start..start + 4];
        let expected = &whole[..whole.find(stop).expect("it is a part")];
        let said = answer(&client, ask("tiny", "hello", 40).stop(stop)).await.expect("an answer");
        assert_eq!(said.text, expected, "stop {stop:?}");
        assert_eq!(reason(&said), v1::FinishReason::StopString);
        assert_eq!(said.finished.expect("an end").stop_string, stop);
    }
}

#[tokio::test]
async fn log_probabilities_add_up_and_name_the_token_that_was_taken() {
    let daemon = with_model().await;
    let found = tokens(&daemon.client(), ask("tiny", "hello", 10).logprobs(20)).await.expect("tokens");
    assert_eq!(found.len(), 10);
    for token in &found {
        assert_eq!(token.top.len(), 20);
        assert_eq!(token.top[0].token, token.token, "greedy takes the likeliest");
        assert!((token.top[0].logprob - token.logprob).abs() < 1e-5);
        let sum: f32 = token.top.iter().map(|top| top.logprob.exp()).sum();
        assert!(sum <= 1.0 + 1e-4);
        assert!(token.top.windows(2).all(|pair| pair[0].logprob >= pair[1].logprob));
    }
    let text: Vec<u8> = found.iter().flat_map(|token| token.bytes.clone()).collect();
    let said = answer(&daemon.client(), ask("tiny", "hello", 10)).await.expect("an answer");
    assert_eq!(String::from_utf8_lossy(&text), said.text);
}

#[tokio::test]
async fn a_logit_bias_bans_and_forces_tokens() {
    let daemon = with_model().await;
    let client = daemon.client();
    let first = tokens(&client, ask("tiny", "hello", 1).logprobs(1)).await.expect("tokens")[0].token;
    let banned = v1::Sampling { logit_bias: vec![v1::LogitBias { token: first, bias: -100.0 }], ..greedy() };
    let request = ask("tiny", "hello", 1).logprobs(1).sampling(banned);
    assert_ne!(tokens(&client, request).await.expect("tokens")[0].token, first);
    let out_of_range =
        v1::Sampling { logit_bias: vec![v1::LogitBias { token: 9_999_999, bias: 1.0 }], ..greedy() };
    let error = answer(&client, ask("tiny", "hello", 1).sampling(out_of_range)).await.expect_err("a refusal");
    assert_eq!(refusal(&error).code, Code::InvalidArgument);
    assert_eq!(refusal(&error).fields[0].field, "sampling.logit_bias[0].token");
}

#[tokio::test]
async fn a_prompt_that_begins_like_an_earlier_one_is_computed_only_where_it_differs() {
    let daemon = with_model().await;
    let client = daemon.client();
    let system = "a long description of the station. ".repeat(12);
    let asked =
        |text: &str| ChatRequest::new("tiny").system(&system).user(text).sampling(greedy()).max_tokens(4);
    let first = answer(&client, asked("one")).await.expect("an answer");
    assert_eq!(usage(&first).cached_tokens, 0);
    let second = answer(&client, asked("two")).await.expect("an answer");
    assert!(usage(&second).cached_tokens * 10 > usage(&second).prompt_tokens * 8, "{:?}", usage(&second));
    let again = answer(&client, asked("one")).await.expect("an answer");
    assert!(usage(&again).cached_tokens * 10 > usage(&again).prompt_tokens * 8, "{:?}", usage(&again));
    assert_eq!(first.text, again.text);
}

#[tokio::test]
async fn a_prompt_longer_than_the_context_is_refused_with_the_counts() {
    let daemon = TestDaemon::with("[engine]\ncontext_tokens = 256\n").await;
    daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
    let error = answer(&daemon.client(), ask("tiny", &"word ".repeat(400), 4)).await.expect_err("a refusal");
    let refusal = refusal(&error);
    assert_eq!(refusal.code, Code::FailedPrecondition);
    assert_eq!(refusal.reason.as_deref(), Some("PROMPT_TOO_LONG"));
    assert_eq!(refusal.numbers["context_tokens"], "256");
    assert!(refusal.numbers["prompt_tokens"].parse::<u32>().expect("a number") > 256);
}

#[tokio::test]
async fn an_answer_that_fills_the_context_says_so() {
    let daemon = TestDaemon::with("[engine]\ncontext_tokens = 256\n").await;
    daemon.import("tiny", &fixture::tiny(Arch::Qwen3)).await;
    let said = answer(&daemon.client(), ask("tiny", "hello", 5000)).await.expect("an answer");
    assert_eq!(reason(&said), v1::FinishReason::ContextFull);
    let usage = usage(&said);
    assert_eq!(usage.prompt_tokens + usage.generated_tokens, 257, "the last token needs no cell");
}

#[tokio::test]
async fn rendering_and_counting_need_no_loaded_model_and_agree_with_the_answer() {
    let daemon = with_model().await;
    let client = daemon.client();
    let rendered = client.render(ask("tiny", "hello", 4)).await.expect("a rendering");
    assert!(rendered.text.contains("hello"), "{}", rendered.text);
    let counted = client.count_tokens(ask("tiny", "hello", 4)).await.expect("a count");
    assert!(daemon.engine("tiny").await.is_none(), "nothing was loaded");
    let said = answer(&client, ask("tiny", "hello", 4)).await.expect("an answer");
    assert_eq!(usage(&said).prompt_tokens, counted);
    assert_eq!(client.render(ask("tiny", "hello", 4)).await.expect("a rendering").text, rendered.text);
}

#[tokio::test]
async fn a_raw_prompt_is_continued_as_it_is() {
    let daemon = with_model().await;
    let said = daemon.client().generate(raw("tiny", "once upon a", 6)).await.expect("a stream");
    let said = said.answer().await.expect("an answer");
    assert_eq!(usage(&said).generated_tokens, 6);
    assert!(usage(&said).prompt_tokens <= 12);
}

#[tokio::test]
async fn a_deadline_ends_an_answer_in_the_middle() {
    let daemon = with_model().await;
    let client = daemon.client();
    daemon.load("tiny").await;
    let request = ask("tiny", "hello", 100_000).deadline(Duration::from_millis(400));
    let error = answer(&client, request).await.expect_err("the deadline");
    assert_eq!(refusal(&error).code, Code::DeadlineExceeded);
    answer(&client, ask("tiny", "hello", 3)).await.expect("the next one is served");
}

#[tokio::test]
async fn an_unknown_model_is_not_found() {
    let daemon = TestDaemon::start().await;
    let error = answer(&daemon.client(), ask("nothing", "hello", 1)).await.expect_err("a refusal");
    assert_eq!(refusal(&error).code, Code::NotFound);
}

#[tokio::test]
async fn wrong_fields_are_named() {
    let daemon = with_model().await;
    let client = daemon.client();
    let sampled = |sampling| ask("tiny", "x", 1).sampling(sampling);
    let default = v1::Sampling::default();
    let cases = [
        (sampled(v1::Sampling { temperature: Some(-1.0), ..default.clone() }), "sampling.temperature"),
        (sampled(v1::Sampling { top_p: Some(0.0), ..default.clone() }), "sampling.top_p"),
        (sampled(v1::Sampling { min_p: Some(f32::NAN), ..default.clone() }), "sampling.min_p"),
        (sampled(v1::Sampling { penalty_window: Some(9999), ..default }), "sampling.penalty_window"),
        (ask("tiny", "x", 1).stop(""), "stop[0]"),
        (ask("tiny", "x", 1).logprobs(99), "logprobs"),
        (ask("tiny", "x", 0), "max_tokens"),
        (ask("../etc", "x", 1), "model"),
        (
            ask("tiny", "x", 1).tool(v1::Tool {
                name: "has space".to_owned(),
                description: None,
                parameters: None,
            }),
            "prompt.conversation.tools[0].name",
        ),
        (
            ask("tiny", "x", 1).tool(v1::Tool {
                name: "t".to_owned(),
                description: None,
                parameters: Some("[1]".to_owned()),
            }),
            "prompt.conversation.tools[0].parameters",
        ),
    ];
    for (request, field) in cases {
        let error = answer(&client, request).await.expect_err(field);
        let refusal = refusal(&error);
        assert_eq!(refusal.code, Code::InvalidArgument, "{field}: {error}");
        assert_eq!(refusal.fields.first().map(|f| f.field.as_str()), Some(field), "{error}");
    }
}
