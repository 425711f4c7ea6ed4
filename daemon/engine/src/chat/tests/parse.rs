//! Every parse vector, cut in every way.

use super::vector::{self, Vector};
use super::{chat, conversation};
use crate::chat::json::Json;
use crate::chat::{Conversation, Delta, End, Finish, Parser, Tool};
use proptest::prelude::*;

const QWEN3_LOOK: &str = "<|im_start|> <tool_call> {{ tools }} </think> {{ messages }}";

/// What an answer was read as.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    reasoning: String,
    content: String,
    /// Names and arguments.
    calls: Vec<(String, String)>,
    finish: &'static str,
}

impl Answer {
    /// Adds up the deltas, and checks that the parts of each call make the whole.
    fn collect(deltas: Vec<Delta>, finish: Finish) -> Self {
        let mut answer = Self {
            finish: match finish {
                Finish::Stop => "stop",
                Finish::Length => "length",
                Finish::ToolCalls => "tool_calls",
            },
            ..Self::default()
        };
        let mut open: Option<(u32, String, String)> = None;
        for delta in deltas {
            match delta {
                Delta::Reasoning(text) => answer.reasoning.push_str(&text),
                Delta::Text(text) => answer.content.push_str(&text),
                Delta::ToolCallStarted { index, name } => open = Some((index, name, String::new())),
                Delta::ToolCallArguments { index, json } => {
                    let open = open.as_mut().unwrap();
                    assert_eq!(open.0, index);
                    open.2.push_str(&json);
                }
                Delta::ToolCallCompleted { index, name, arguments } => {
                    assert_eq!(index as usize, answer.calls.len());
                    assert_eq!(open.take(), Some((index, name.clone(), arguments.clone())));
                    answer.calls.push((name, arguments));
                }
            }
        }
        answer
    }

    fn read<'a>(parser: &Parser, pieces: impl Iterator<Item = &'a [u8]>, end: End) -> Self {
        let mut parser = parser.clone();
        let mut deltas = Vec::new();
        for piece in pieces {
            let mut out = Vec::new();
            parser.push(piece, &mut out);
            deltas.extend(out);
        }
        let finish = parser.finish(end, &mut deltas);
        Self::collect(deltas, finish)
    }
}

/// A parser as the engine gets it, for a model that looks like Qwen3.
fn qwen3(tools: &[&str]) -> Parser {
    let request = Conversation {
        tools: tools.iter().map(|name| Tool::new(0, name, None, None).unwrap()).collect(),
        ..conversation(Vec::new())
    };
    let chat = chat("qwen3", Some(QWEN3_LOOK), &[]);
    chat.parser(&request, &chat.render(&request).unwrap())
}

fn expected(vector: &Json) -> Answer {
    let expected = vector.at("expected");
    let call = |json: &Json| (json.at("name").str().to_owned(), json.at("arguments_text").str().to_owned());
    let finishes = ["stop", "length", "tool_calls"];
    Answer {
        reasoning: expected.at("reasoning").str().to_owned(),
        content: expected.at("content").str().to_owned(),
        calls: expected.at("tool_calls").items().iter().map(call).collect(),
        finish: finishes.into_iter().find(|f| *f == expected.at("finish").str()).unwrap(),
    }
}

fn qwen3_vectors() -> Vec<Vector> {
    let mut vectors = vector::load("parse");
    vectors.retain(|v| v.json.at("model").str() == "qwen3-8b");
    vectors
}

fn check(vector: &Vector) {
    let tools: Vec<&str> = vector.json.at("tools").items().iter().map(Json::str).collect();
    let parser = qwen3(&tools);
    let end = match vector.json.at("stop").at("kind").str() {
        "length" => End::Limit,
        _ => End::Natural,
    };
    let text = vector.json.at("text").str().as_bytes();
    let expected = expected(&vector.json);
    let name = &vector.name;
    assert_eq!(Answer::read(&parser, text.chunks(1), end), expected, "{name} byte by byte");
    for at in 0..=text.len() {
        let (first, second) = text.split_at(at);
        let answer = Answer::read(&parser, [first, second].into_iter(), end);
        assert_eq!(answer, expected, "{name} cut at {at}");
    }
}

#[test]
fn qwen3_reads_every_answer_however_its_bytes_are_cut() {
    for vector in qwen3_vectors() {
        check(&vector);
    }
}

/// Pieces that make and break markers, calls and characters.
fn answers() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<tool",
        "</",
        "\n",
        " ",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "\\",
        ":",
        ",",
        "name",
        "arguments",
        "\"name\": \"f\"",
        "\"arguments\": {}",
        "null",
        "{\"name\": \"f\", \"arguments\": {\"a\": 1}}",
        "12",
        "text",
        "über",
        "🧪",
        "\u{10FA00}",
    ]);
    let piece = prop_oneof![
        9 => pieces.prop_map(|p| p.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..3),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn ends() -> impl Strategy<Value = End> {
    prop_oneof![Just(End::Natural), Just(End::Limit)]
}

/// The characters of a text that are no white space and belong to no marker.
fn bare(text: &str) -> String {
    let mut text = text.to_owned();
    for marker in ["<think>", "</think>", "<tool_call>", "</tool_call>"] {
        text = text.replace(marker, "");
    }
    text.split_whitespace().collect()
}

proptest! {
    #[test]
    fn any_split_of_the_text_reads_the_same(
        bytes in answers(), size in 1_usize..20, end in ends(), tools in any::<bool>(),
    ) {
        let parser = qwen3(if tools { &["f"] } else { &[] });
        let whole = Answer::read(&parser, std::iter::once(bytes.as_slice()), end);
        prop_assert_eq!(Answer::read(&parser, bytes.chunks(size), end), whole);
    }

    #[test]
    fn without_calls_nothing_but_a_think_block_and_white_space_is_lost(bytes in answers(), end in ends()) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let answer = Answer::read(&qwen3(&["g"]), std::iter::once(text.as_bytes()), end);
        prop_assert_eq!(bare(&(answer.reasoning + &answer.content)), bare(&text));
    }

    #[test]
    fn without_tools_and_thinking_the_answer_is_the_text(bytes in answers(), end in ends()) {
        let text = format!("x{}", String::from_utf8_lossy(&bytes));
        let answer = Answer::read(&qwen3(&[]), std::iter::once(text.as_bytes()), end);
        prop_assert_eq!(answer.content, text);
    }
}
