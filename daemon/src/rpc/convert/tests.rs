//! Requests at the door: what passes, and which field is named where something does not.

use hearth_proto::v1 as pb;

use super::*;
use crate::engines::request::{Message, Prompt, Role, Tool, ToolMode};

fn text(role: pb::Role, text: &str) -> pb::Message {
    let part = pb::content_part::Part::Text(text.to_owned());
    pb::Message {
        role: role.into(),
        parts: vec![pb::ContentPart { part: Some(part) }],
        ..pb::Message::default()
    }
}

fn call(id: &str, arguments: &str) -> pb::ToolCall {
    pb::ToolCall { id: id.to_owned(), name: "f".to_owned(), arguments: arguments.to_owned() }
}

fn request(messages: Vec<pb::Message>) -> pb::GenerateRequest {
    let conversation = pb::Conversation { messages, ..pb::Conversation::default() };
    let kind = pb::prompt::Kind::Conversation(conversation);
    pb::GenerateRequest {
        model: "demo".to_owned(),
        prompt: Some(pb::Prompt { kind: Some(kind) }),
        ..pb::GenerateRequest::default()
    }
}

fn field(request: pb::GenerateRequest) -> String {
    Generate::try_from(request).map(|_| String::new()).unwrap_or_else(|invalid| invalid.field)
}

fn sampled(change: impl FnOnce(&mut pb::Sampling)) -> String {
    let mut sampling = pb::Sampling::default();
    change(&mut sampling);
    field(pb::GenerateRequest { sampling: Some(sampling), ..request(vec![text(pb::Role::User, "hi")]) })
}

#[test]
fn a_plain_question_passes() {
    assert_eq!(field(request(vec![text(pb::Role::User, "hi")])), "");
}

#[test]
fn a_fault_names_its_path() {
    let ok = || text(pb::Role::User, "hi");
    let assistant =
        |calls| pb::Message { role: pb::Role::Assistant.into(), tool_calls: calls, ..pb::Message::default() };
    let result = |id: &str| pb::Message { tool_call_id: Some(id.to_owned()), ..text(pb::Role::Tool, "4") };
    let cases = [
        (vec![], "prompt.conversation.messages"),
        (vec![pb::Message::default()], "prompt.conversation.messages[0].role"),
        (vec![ok(), pb::Message { role: 99, ..ok() }], "prompt.conversation.messages[1].role"),
        (vec![pb::Message { parts: vec![], ..ok() }], "prompt.conversation.messages[0].parts"),
        (
            vec![pb::Message { parts: vec![pb::ContentPart { part: None }], ..ok() }],
            "prompt.conversation.messages[0].parts[0]",
        ),
        (
            vec![pb::Message { tool_calls: vec![call("1", "{}")], ..ok() }],
            "prompt.conversation.messages[0].tool_calls",
        ),
        (
            vec![assistant(vec![call("1", "{}"), call("2", "[1")])],
            "prompt.conversation.messages[0].tool_calls[1].arguments",
        ),
        (
            vec![assistant(vec![call("1", "{}"), call("1", "{}")])],
            "prompt.conversation.messages[0].tool_calls[1].id",
        ),
        (vec![assistant(vec![call("1", "{}")]), result("2")], "prompt.conversation.messages[1].tool_call_id"),
        (vec![assistant(vec![call("1", "{}")]), result("1")], ""),
        (
            vec![assistant(vec![call("1", "{}")]), result("1"), result("1")],
            "prompt.conversation.messages[2].tool_call_id",
        ),
        (vec![ok(), text(pb::Role::Tool, "4")], "prompt.conversation.messages[1].tool_call_id"),
        (
            vec![assistant(vec![call("1", "{}")]), text(pb::Role::Tool, "4"), text(pb::Role::Tool, "5")],
            "prompt.conversation.messages[2].tool_call_id",
        ),
        (
            vec![assistant(vec![call("1", "{}")]), result("1"), assistant(vec![call("1", "{}")])],
            "prompt.conversation.messages[2].tool_calls[0].id",
        ),
        (vec![assistant(vec![call("1", "{}")]), ok(), result("1")], ""),
    ];
    for (messages, wanted) in cases {
        assert_eq!(field(request(messages)), wanted);
    }
    assert_eq!(field(pb::GenerateRequest::default()), "model");
    assert_eq!(field(pb::GenerateRequest { prompt: None, ..request(vec![]) }), "prompt");
}

#[test]
fn numbers_keep_their_ranges() {
    assert_eq!(sampled(|s| s.temperature = Some(2.0)), "");
    assert_eq!(sampled(|s| s.temperature = Some(f32::NAN)), "sampling.temperature");
    assert_eq!(sampled(|s| s.top_p = Some(0.0)), "sampling.top_p");
    assert_eq!(sampled(|s| s.min_p = Some(-0.1)), "sampling.min_p");
    assert_eq!(sampled(|s| s.repeat_penalty = Some(f32::INFINITY)), "sampling.repeat_penalty");
    assert_eq!(sampled(|s| s.presence_penalty = Some(-2.1)), "sampling.presence_penalty");
    assert_eq!(sampled(|s| s.penalty_window = Some(5000)), "sampling.penalty_window");
    let bias = pb::LogitBias { token: 1, bias: 101.0 };
    assert_eq!(sampled(|s| s.logit_bias = vec![bias]), "sampling.logit_bias[0].bias");
    let user = || request(vec![text(pb::Role::User, "hi")]);
    assert_eq!(field(pb::GenerateRequest { max_tokens: Some(0), ..user() }), "max_tokens");
    assert_eq!(field(pb::GenerateRequest { logprobs: Some(21), ..user() }), "logprobs");
    assert_eq!(field(pb::GenerateRequest { stop: vec![String::new()], ..user() }), "stop[0]");
    assert_eq!(field(pb::GenerateRequest { stop: vec!["x".to_owned(); 17], ..user() }), "stop");
}

#[test]
fn an_import_says_what_comes() {
    let head = |header: pb::ImportHeader| ImportHead::try_from(header).map_err(|invalid| invalid.field);
    let header = |name: &str| pb::ImportHeader { name: name.to_owned(), size_bytes: 1, ..Default::default() };
    assert!(head(header("a")).is_ok());
    assert_eq!(head(header("a/b")).err().as_deref(), Some("header.name"));
    let empty = pb::ImportHeader { size_bytes: 0, ..header("a") };
    assert_eq!(head(empty).err().as_deref(), Some("header.size_bytes"));
    let digest = pb::ImportHeader { sha256: Some("xyz".to_owned()), ..header("a") };
    assert_eq!(head(digest).err().as_deref(), Some("header.sha256"));
    let path = pb::ImportHeader { source_path: Some("../x".to_owned()), ..header("a") };
    assert_eq!(head(path).err().as_deref(), Some("header.source_path"));
}

fn conversation(change: impl FnOnce(&mut pb::Conversation)) -> String {
    field(conversing(change))
}

/// A question with one tool, and what `change` makes of it.
fn conversing(change: impl FnOnce(&mut pb::Conversation)) -> pb::GenerateRequest {
    let tools = vec![pb::Tool { name: "f".to_owned(), ..pb::Tool::default() }];
    let messages = vec![text(pb::Role::User, "hi")];
    let mut conversation = pb::Conversation { messages, tools, ..pb::Conversation::default() };
    change(&mut conversation);
    let kind = pb::prompt::Kind::Conversation(conversation);
    pb::GenerateRequest { prompt: Some(pb::Prompt { kind: Some(kind) }), ..request(Vec::new()) }
}

fn choice(mode: pb::tool_choice::Mode, name: &str) -> Option<pb::ToolChoice> {
    Some(pb::ToolChoice { mode: mode.into(), name: name.to_owned(), parallel: None })
}

fn of(request: pb::GenerateRequest) -> crate::engines::request::Conversation {
    match Generate::try_from(request).expect("it is valid").prompt {
        Prompt::Conversation(conversation) => conversation,
        Prompt::Raw(text) => panic!("{text}"),
    }
}

#[test]
fn a_choice_of_tools_names_one_that_is_declared() {
    use pb::tool_choice::Mode;
    let chosen = |mode, name| conversation(|talk| talk.tool_choice = choice(mode, name));
    for mode in [Mode::Unspecified, Mode::Auto, Mode::None, Mode::Required] {
        assert_eq!(chosen(mode, ""), "");
        assert_eq!(chosen(mode, "f"), "prompt.conversation.tool_choice.name");
    }
    assert_eq!(chosen(Mode::Named, "f"), "");
    for name in ["", "g", "F"] {
        assert_eq!(chosen(Mode::Named, name), "prompt.conversation.tool_choice.name", "{name}");
    }
    let alone = |mode, name| {
        conversation(|talk| {
            talk.tools.clear();
            talk.tool_choice = choice(mode, name);
        })
    };
    assert_eq!(alone(Mode::Required, ""), "prompt.conversation.tool_choice.mode");
    assert_eq!(alone(Mode::Named, "f"), "prompt.conversation.tool_choice.name");
    assert_eq!(alone(Mode::Auto, ""), "");
    let unknown = pb::ToolChoice { mode: 77, ..pb::ToolChoice::default() };
    let unknown = conversation(|talk| talk.tool_choice = Some(unknown));
    assert_eq!(unknown, "prompt.conversation.tool_choice.mode");
    let parallel = pb::ToolChoice { parallel: Some(false), ..pb::ToolChoice::default() };
    let chosen = of(conversing(|talk| talk.tool_choice = Some(parallel))).tool_choice;
    assert_eq!((chosen.mode, chosen.parallel), (ToolMode::Auto, Some(false)));
}

#[test]
fn a_budget_of_thoughts_is_for_those_who_think() {
    let thinking = |thinking: pb::Thinking, budget| {
        conversation(|talk| {
            talk.thinking = thinking.into();
            talk.thinking_budget = Some(budget);
        })
    };
    let path = "prompt.conversation.thinking_budget";
    assert_eq!(thinking(pb::Thinking::Unspecified, 1), "");
    assert_eq!(thinking(pb::Thinking::On, 5000), "");
    assert_eq!(thinking(pb::Thinking::On, 0), path);
    assert_eq!(thinking(pb::Thinking::Off, 1), path);
}

#[test]
fn a_form_of_the_answer_is_checked_as_far_as_it_can_be_here() {
    use pb::output::Kind;
    let formed =
        |kind| field(pb::GenerateRequest { output: Some(pb::Output { kind }), ..conversing(|_| {}) });
    let schema = |text: &str| formed(Some(Kind::JsonSchema(text.to_owned())));
    assert_eq!(formed(None), "output");
    assert_eq!(formed(Some(Kind::Json(pb::JsonObject {}))), "");
    for good in ["true", "{}", r#"{"type":"object","properties":{"a":{"type":"integer"}}}"#] {
        assert_eq!(schema(good), "", "{good}");
    }
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(256 << 10));
    let deep = "[".repeat(1000);
    for bad in ["", "1", "[]", "null", "{", "{} x", &long, &deep] {
        assert_eq!(schema(bad), "output.json_schema", "{}", &bad[..bad.len().min(20)]);
    }
    let regex = |bytes| formed(Some(Kind::Regex("x".repeat(bytes))));
    let grammar = |bytes| formed(Some(Kind::Grammar("x".repeat(bytes))));
    assert_eq!((regex(16 << 10), grammar(32 << 10)), (String::new(), String::new()));
    for (bytes, more) in [(0, 0), ((16 << 10) + 1, (32 << 10) + 1)] {
        assert_eq!((regex(bytes).as_str(), grammar(more).as_str()), ("output.regex", "output.grammar"));
    }
}

fn assistant(ids: &[&str]) -> pb::Message {
    let tool_calls = ids.iter().map(|id| call(id, "{}")).collect();
    pb::Message { role: pb::Role::Assistant.into(), tool_calls, ..pb::Message::default() }
}

fn result(id: &str) -> pb::Message {
    let id = Some(id.to_owned()).filter(|id| !id.is_empty());
    pb::Message { tool_call_id: id, ..text(pb::Role::Tool, "4") }
}

#[test]
fn results_without_an_id_are_those_of_the_last_calls_in_their_order() {
    let said = [assistant(&["a", "b"]), result("b"), assistant(&["c", "d"]), result(""), result("")];
    let ids: Vec<_> = of(request(said.into())).messages.into_iter().map(|m| m.tool_call_id).collect();
    assert_eq!(ids, [None, Some("b".to_owned()), None, Some("c".to_owned()), Some("d".to_owned())]);
}

/// The field at fault in what follows calls `a` and `b`; empty where there is none.
fn next(messages: Vec<pb::Message>, tool_choice: Option<pb::ToolChoice>) -> Result<Next, String> {
    let conversation = of(request(vec![text(pb::Role::User, "hi"), assistant(&["a", "b"])]));
    let mut calls = Calls::of(&conversation.messages);
    let tools = [Tool { name: "f".to_owned(), description: None, parameters: None }];
    let next = pb::NextTurn { messages, tool_choice };
    Next::of(next, &mut calls, &tools).map_err(|invalid| invalid.field)
}

#[test]
fn what_follows_calls_has_a_result_for_each() {
    let user = || text(pb::Role::User, "and?");
    let roles = |next: Next| next.messages.iter().map(|Message { role, .. }| *role).collect::<Vec<_>>();
    let good = next(vec![result("b"), result("a"), user()], None).map(roles);
    assert_eq!(good, Ok(vec![Role::Tool, Role::Tool, Role::User]));
    assert!(next(vec![result(""), result("")], None).is_ok());
    for (messages, field) in [
        (vec![], "next.messages"),
        (vec![result("a")], "next.messages"),
        (vec![user()], "next.messages"),
        (vec![result("a"), result("a")], "next.messages[1].tool_call_id"),
        (vec![result("a"), result("c")], "next.messages[1].tool_call_id"),
        (vec![result("a"), result(""), result("")], "next.messages[2].tool_call_id"),
        (vec![result("a"), user(), result("b")], "next.messages[2].role"),
        (vec![result("a"), result("b"), assistant(&["x"])], "next.messages[2].role"),
        (vec![result("a"), pb::Message::default()], "next.messages[1].role"),
    ] {
        assert_eq!(next(messages, None), Err(field.to_owned()));
    }
}

#[test]
fn what_follows_calls_may_choose_again() {
    use pb::tool_choice::Mode;
    let chosen = |mode, name| next(vec![result(""), result("")], choice(mode, name));
    let mode = chosen(Mode::Required, "").map(|next| next.tool_choice.map(|choice| choice.mode));
    assert_eq!(mode, Ok(Some(ToolMode::Required)));
    assert_eq!(chosen(Mode::Named, "g"), Err("next.tool_choice.name".to_owned()));
}
