//! Tool loops on one stream: the demo model calls its tool, and answers with what it was told.

use hearth_client::{
    ChatRequest, Client, Code, Conversation, Error, GenerationEvent, Reply, RunOptions, Tools, schemars,
    serde, v1,
};
use hearth_tests::TestDaemon;
use hearth_tests::answer::{greedy, raw, reason, refusal, usage};

const QUESTION: &str = "What is the temperature of the north sensor?";
const SCHEMA: &str = r#"{"type":"object","properties":{"sensor":{"type":"string"}},"required":["sensor"]}"#;
const RESULT: &str = r#"{"value": 12, "unit": "C"}"#;

async fn with_demo() -> TestDaemon {
    let daemon = TestDaemon::start().await;
    daemon.import_demo().await;
    daemon
}

fn tool() -> v1::Tool {
    v1::Tool {
        name: "get_temperature".to_owned(),
        description: Some("Read the temperature of a sensor.".to_owned()),
        parameters: Some(SCHEMA.to_owned()),
    }
}

fn asked() -> ChatRequest {
    ChatRequest::new("demo").user(QUESTION).thinking(v1::Thinking::Off).sampling(greedy())
}

/// A conversation at the end of the model's first turn, and the ids of its calls.
async fn called(client: &Client) -> (Conversation, Vec<String>) {
    let mut talk = client.converse(asked().tool(tool())).await.expect("taken");
    let turn = talk.turn().await.expect("no error").expect("a turn");
    assert!(talk.waits(), "{turn:?}");
    (talk, turn.tool_calls.into_iter().map(|call| call.id).collect())
}

#[tokio::test]
async fn a_loop_keeps_what_was_computed_and_adds_its_turns_up() {
    let daemon = with_demo().await;
    let mut talk = daemon.client().converse(asked().tool(tool())).await.expect("taken");
    let turn = talk.turn().await.expect("no error").expect("a turn");
    assert_eq!(reason(&turn), v1::FinishReason::ToolCalls);
    assert_eq!(turn.tool_calls[0].name, "get_temperature");
    assert!(talk.waits());
    talk.reply(Reply::new().result(&turn.tool_calls[0].id, RESULT)).await.expect("it waits");
    let answer = talk.turn().await.expect("no error").expect("an answer");
    assert_eq!(reason(&answer), v1::FinishReason::Stop);
    assert!(answer.text.contains("12"), "{answer:?}");
    assert_eq!(answer.request_id, turn.request_id);
    let (first, whole) = (usage(&turn), usage(&answer));
    assert!(whole.generated_tokens > first.generated_tokens, "{whole:?}");
    // The end of the first prompt opens an answer, which the second one may write otherwise.
    assert!(whole.cached_tokens * 10 >= first.prompt_tokens * 8, "only what is new is computed: {whole:?}");
    assert!(talk.next().await.is_none());
}

#[tokio::test]
async fn results_that_do_not_fit_are_refused_by_their_field() {
    let daemon = with_demo().await;
    let client = daemon.client();
    let fault = async |reply: Reply| {
        let (mut talk, _) = called(&client).await;
        talk.reply(reply).await.expect("it waits");
        let error = talk.turn().await.expect_err("a refusal");
        assert_eq!(refusal(&error).code, Code::InvalidArgument, "{error}");
        refusal(&error).fields[0].field.clone()
    };
    assert_eq!(fault(Reply::new().result("nobody", RESULT)).await, "next.messages[0].tool_call_id");
    assert_eq!(fault(Reply::new()).await, "next.messages");
    let (mut talk, ids) = called(&client).await;
    talk.reply(Reply::new().result(&ids[0], RESULT).result(&ids[0], RESULT)).await.expect("it waits");
    let error = talk.turn().await.expect_err("a refusal");
    assert_eq!(refusal(&error).fields[0].field, "next.messages[1].tool_call_id");

    let refused = async |request: v1::GenerateRequest| match client.converse(request).await {
        Ok(mut talk) => talk.turn().await.expect_err("a refusal"),
        Err(error) => error,
    };
    let error = refused(raw("demo", "x", 1)).await;
    assert_eq!(refusal(&error).fields[0].field, "prompt.raw");
}

#[tokio::test]
async fn a_client_without_results_ends_the_loop_in_good_order() {
    let daemon = with_demo().await;
    let (mut talk, _) = called(&daemon.client()).await;
    talk.end();
    let end = talk.next().await.expect("an event").expect("no error");
    assert!(matches!(end, GenerationEvent::Finished(end) if end.reason() == v1::FinishReason::ToolCalls));
    assert!(talk.next().await.is_none());
}

#[tokio::test]
async fn a_client_that_keeps_the_model_waiting_is_given_up() {
    let daemon = TestDaemon::with("[engine]\nreply_wait = '300ms'\n").await;
    daemon.import_demo().await;
    let (mut talk, _) = called(&daemon.client()).await;
    let error: Error = talk.turn().await.expect_err("given up");
    assert_eq!(refusal(&error).code, Code::Aborted);
    assert_eq!(refusal(&error).reason.as_deref(), Some("REPLY_STALLED"));
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(crate = "hearth_client::serde")]
#[schemars(crate = "hearth_client::schemars")]
struct Sensor {
    sensor: String,
}

#[tokio::test]
async fn functions_are_called_until_there_is_an_answer() {
    let daemon = with_demo().await;
    let tools =
        Tools::new().tool("get_temperature", "Read the temperature of a sensor.", |at: Sensor| async move {
            if at.sensor.is_empty() { Err("no sensor") } else { Ok(RESULT) }
        });
    assert_eq!(tools.declared(), [tool()], "as the model was trained to see it");
    let outcome = daemon.client().run_tools(asked(), &tools, RunOptions::default()).await.expect("an answer");
    assert_eq!((outcome.rounds, outcome.calls.len()), (1, 1));
    assert!(!outcome.calls[0].is_failure);
    assert!(outcome.answer.text.contains("12"), "{outcome:?}");
}
