//! The form of answers: tool calls that are demanded, and structured output, by models that know nothing.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use hearth_client::{Answer, ChatRequest, Client, v1};
use hearth_tests::TestDaemon;
use hearth_tests::answer::{answer, reason, refusal, usage};
use hearth_tests::fixture::{self, Arch};
use hearth_tests::heldout;
use hearth_tests::schemas::{self, Schema};

const FAMILIES: [(&str, Arch); 3] = [("llama", Arch::Llama), ("qwen", Arch::Qwen3), ("glm", Arch::Glm4)];

/// Chooses among everything that is allowed.
fn wild(seed: u64) -> v1::Sampling {
    v1::Sampling {
        temperature: Some(1.0),
        top_k: Some(0),
        top_p: Some(1.0),
        seed: Some(seed),
        ..Default::default()
    }
}

fn tool(schema: &Schema) -> v1::Tool {
    v1::Tool { name: "act".to_owned(), description: None, parameters: Some(schema.text()) }
}

fn ask(model: &str, seed: u64) -> ChatRequest {
    ChatRequest::new(model).user("go").sampling(wild(seed)).max_tokens(256).thinking(v1::Thinking::Off)
}

/// The same without a word about thinking, for models that cannot.
fn plain(model: &str, seed: u64) -> ChatRequest {
    ChatRequest::new(model).user("go").sampling(wild(seed)).max_tokens(256)
}

async fn three_families() -> TestDaemon {
    let daemon = TestDaemon::start().await;
    for (name, arch) in FAMILIES {
        daemon.import(name, &fixture::tiny(arch)).await;
    }
    daemon
}

/// Asks for each of the requests, some at a time.
async fn answers(client: &Client, requests: Vec<(String, ChatRequest)>) -> Vec<(String, Answer)> {
    futures_util::stream::iter(requests)
        .map(|(name, request)| async move {
            let said = answer(client, request).await;
            (name.clone(), said.unwrap_or_else(|error| panic!("{name}: {error}")))
        })
        .buffer_unordered(4)
        .collect()
        .await
}

#[tokio::test]
async fn every_call_that_is_demanded_is_valid_and_nearly_every_one_comes() {
    let daemon = three_families().await;
    let schemas = schemas::assorted();
    let mut requests = Vec::new();
    for (model, _) in FAMILIES {
        for (at, schema) in schemas.iter().enumerate() {
            for seed in 0..2 {
                let request = plain(model, seed).tool(tool(schema)).required_tools();
                requests.push((format!("{model}/{at}/{seed}"), request));
            }
        }
    }
    let (count, mut missing) = (requests.len(), BTreeMap::new());
    for (name, said) in answers(&daemon.client(), requests).await {
        let schema =
            &schemas[name.split('/').nth(1).and_then(|at| at.parse::<usize>().ok()).expect("a number")];
        for call in &said.tool_calls {
            assert_eq!(call.name, "act");
            schema.check(&call.arguments).unwrap_or_else(|why| panic!("{name}, {}: {why}", schema.name));
        }
        if said.tool_calls.is_empty() {
            missing.insert(name, said.text);
        } else {
            assert!(said.text.is_empty(), "{name}: nothing is said beside the call: {:?}", said.text);
        }
    }
    assert!(missing.len() * 100 <= count, "{} of {count} came without a call: {missing:#?}", missing.len());
}

#[tokio::test]
async fn structured_output_has_its_schema() {
    let daemon = three_families().await;
    let schemas = schemas::assorted();
    let mut requests = Vec::new();
    for (model, _) in FAMILIES {
        for (at, schema) in schemas.iter().enumerate() {
            requests.push((format!("{model}/{at}"), plain(model, 11).json_schema(schema.text())));
        }
    }
    for (name, said) in answers(&daemon.client(), requests).await {
        let schema =
            &schemas[name.split('/').nth(1).and_then(|at| at.parse::<usize>().ok()).expect("a number")];
        if reason(&said) == v1::FinishReason::Stop {
            schema.check(&said.text).unwrap_or_else(|why| panic!("{name}, {}: {why}", schema.name));
        } else {
            panic!("{name}, {}: {:?} {}", schema.name, reason(&said), said.text);
        }
    }
}

#[tokio::test]
async fn the_choice_of_tools_holds() {
    let daemon = three_families().await;
    let client = daemon.client();
    let tools = ["first", "second"].map(|name| v1::Tool {
        name: name.to_owned(),
        description: None,
        parameters: Some(
            r#"{"type":"object","properties":{"on":{"type":"boolean"}},"required":["on"]}"#.to_owned(),
        ),
    });
    for (model, arch) in FAMILIES {
        let named =
            answer(&client, plain(model, 1).tools(tools.clone()).named_tool("second").parallel_tools(false))
                .await
                .expect("an answer");
        assert_eq!(reason(&named), v1::FinishReason::ToolCalls, "{model}");
        assert_eq!(named.tool_calls.len(), 1, "{model}");
        assert_eq!(named.tool_calls[0].name, "second");
        assert!(usage(&named).forced_tokens > 0, "{model}: the way to the choice is forced");
        // Whether a model that knows nothing goes on behind its first call depends on its weights.
        let mut most = 0;
        for weights in 1..5 {
            let other = format!("{model}-{weights}");
            let options = fixture::Options { seed: weights, ..fixture::Options::default() };
            daemon.import(&other, &fixture::tiny_with(arch, &options)).await;
            for seed in 0..4 {
                let request = plain(&other, seed).tools(tools.clone()).required_tools().parallel_tools(true);
                let several = answer(&client, request).await.expect("an answer");
                most = most.max(several.tool_calls.len());
                let ids: std::collections::BTreeSet<_> =
                    several.tool_calls.iter().map(|call| &call.id).collect();
                assert_eq!(ids.len(), several.tool_calls.len(), "ids differ");
            }
        }
        assert!(most > 1, "{model}: several calls in one answer");
        let none = plain(model, 1).tools(tools.clone()).tool_choice(v1::tool_choice::Mode::None);
        assert!(answer(&client, none).await.expect("an answer").tool_calls.is_empty());
    }
}

#[tokio::test]
async fn other_forms_hold_too() {
    let daemon = three_families().await;
    let client = daemon.client();
    for (model, _) in FAMILIES {
        let text =
            answer(&client, plain(model, 5).regex("(yes|no), [a-f]{3}")).await.expect("an answer").text;
        assert!(text.starts_with("yes, ") || text.starts_with("no, "), "{model}: {text}");
        let grammar = "start: \"<\" /[xyz]+/ \">\"";
        let text = answer(&client, plain(model, 5).grammar(grammar)).await.expect("an answer").text;
        assert!(text.starts_with('<') && text.ends_with('>'), "{model}: {text}");
        let text = answer(&client, plain(model, 5).json()).await.expect("an answer").text;
        assert!(
            serde_json::from_str::<serde_json::Value>(&text).expect("JSON").is_object(),
            "{model}: {text}"
        );
        // With tools at hand, either a call or the output.
        let schema = &schemas::assorted()[4];
        let either = plain(model, 5).tool(tool(schema)).json_schema(r#"{"type":"boolean"}"#);
        let said = answer(&client, either).await.expect("an answer");
        assert!(
            !said.tool_calls.is_empty() || ["true", "false"].contains(&said.text.as_str()),
            "{model}: {said:?}"
        );
    }
}

#[tokio::test]
async fn a_thought_comes_before_the_form_and_keeps_its_budget() {
    let daemon = three_families().await;
    let client = daemon.client();
    let schema = schemas::named("enumeration");
    let request = ChatRequest::new("qwen").user("go").sampling(wild(3)).max_tokens(256);
    let thinking = request.thinking(v1::Thinking::On).thinking_budget(20);
    let said = answer(&client, thinking.clone().json_schema(schema.text())).await.expect("an answer");
    assert!(!said.reasoning.is_empty(), "{said:?}");
    schema.check(&said.text).expect("the schema holds behind the thought");
    let call = thinking.clone().tool(tool(&schema)).required_tools().parallel_tools(false);
    let said = answer(&client, call).await.expect("an answer");
    assert!(!said.reasoning.is_empty() && said.text.is_empty() && !said.tool_calls.is_empty(), "{said:?}");
    assert!(usage(&said).generated_tokens < 200, "the thought ended long before the limit");
    // Without a budget the thought leaves room for the answer all the same.
    let endless = ChatRequest::new("qwen").user("go").sampling(wild(4)).max_tokens(120);
    let said = answer(&client, endless.thinking(v1::Thinking::On).json_schema(schema.text()))
        .await
        .expect("an answer");
    schema.check(&said.text).expect("there was room left");
}

#[tokio::test]
async fn what_cannot_be_enforced_is_refused_with_its_path() {
    let daemon = three_families().await;
    let client = daemon.client();
    let bad = |text: &str| v1::Tool {
        name: "act".to_owned(),
        description: None,
        parameters: Some(text.to_owned()),
    };
    let cases = [
        (
            ask("qwen", 1).tool(bad(r#"{"type":"object","properties":{"a":{"not":{}}}}"#)),
            "prompt.conversation.tools[0].parameters.properties.a.not",
        ),
        (
            ask("qwen", 1).json_schema(r#"{"type":"array","items":{"type":"string","pattern":"a(?=b)"}}"#),
            "output.json_schema.items.pattern",
        ),
        (ask("qwen", 1).json_schema(r##"{"$ref":"#"}"##), "output.json_schema.$ref"),
        (ask("qwen", 1).regex("(("), "output.regex"),
        (ask("qwen", 1).grammar("start: unknown"), "output.grammar"),
        (ask("qwen", 1).required_tools(), "prompt.conversation.tool_choice"),
    ];
    for (request, path) in cases {
        let error = answer(&client, request).await.expect_err(path);
        let refused = refusal(&error);
        assert_eq!(refused.code, hearth_client::Code::InvalidArgument, "{path}: {error}");
        let named = refused.fields.iter().any(|field| field.field.starts_with(path));
        assert!(named, "{path}: {:?}", refused.fields);
    }
}

#[tokio::test]
async fn forced_tokens_make_the_same_text_in_one_batch_and_one_by_one() {
    // Questions that the model answers without a doubt: a near tie may go either way in batches of other sizes.
    let cases: Vec<heldout::Case> =
        heldout::cases().into_iter().filter(|case| case.category == "call_known").take(6).collect();
    let mut said = Vec::new();
    for one_by_one in [false, true] {
        let daemon = TestDaemon::with(&format!("[engine]\nforced_one_by_one = {one_by_one}\n")).await;
        daemon.import_demo().await;
        let mut texts = Vec::new();
        for case in &cases {
            let said = answer(&daemon.client(), case.request().required_tools()).await.expect("an answer");
            let used = usage(&said);
            assert!(used.forced_tokens > 5 && used.forced_tokens < used.generated_tokens, "{used:?}");
            let calls: Vec<_> = said.tool_calls.into_iter().map(|call| (call.name, call.arguments)).collect();
            texts.push((said.reasoning, calls, used.forced_tokens, used.generated_tokens));
        }
        said.push(texts);
    }
    assert_eq!(said[0], said[1]);
}

#[tokio::test]
async fn a_long_request_stretches_the_context_and_the_next_short_one_has_it_back() {
    let daemon = TestDaemon::with(
        "[models.\"long\"]\ncontext_tokens = 1024\n[models.\"far\"]\ncontext_tokens = 4096\n",
    )
    .await;
    let options = fixture::Options { context_length: 256, ..fixture::Options::default() };
    daemon.import("long", &fixture::tiny_with(Arch::Qwen3, &options)).await;
    daemon.import("far", &fixture::tiny_with(Arch::Glm4, &options)).await;
    let client = daemon.client();
    let short = || hearth_tests::answer::ask("long", "hello", 12);
    let before = answer(&client, short()).await.expect("an answer").text;
    let words = "water ".repeat(120);
    let long = hearth_tests::answer::ask("long", &words, 12);
    let said = answer(&client, long).await.expect("an answer");
    assert!(usage(&said).prompt_tokens > 256, "{:?}", usage(&said));
    assert_eq!(usage(&said).generated_tokens, 12);
    assert_eq!(answer(&client, short()).await.expect("an answer").text, before);
    // A short prompt with a long answer needs it too.
    let much = answer(&client, hearth_tests::answer::ask("long", "hello", 400)).await.expect("an answer");
    assert_eq!(usage(&much).generated_tokens, 400);
    daemon.logs("Context changed", 3).await;
    // There is room for more, but the model reaches four times its window.
    let words = "water ".repeat(1200);
    let error = answer(&client, hearth_tests::answer::ask("far", &words, 4)).await.expect_err("too far");
    assert_eq!(refusal(&error).code, hearth_client::Code::FailedPrecondition, "{error}");
    assert!(error.to_string().contains("1024"), "{error}");
}
