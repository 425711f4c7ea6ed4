//! Every parse vector, cut in every way, and garbage.

use super::vector::{self, Vector};
use super::{chat, conversation};
use crate::chat::json::Json;
use crate::chat::{Conversation, Delta, Dialect, End, Finish, Parser, Tool};
use proptest::prelude::*;

/// A model that looks like one of a family.
#[derive(Debug)]
struct Family {
    model: &'static str,
    architecture: &'static str,
    template: &'static str,
    dialect: Dialect,
}

const QWEN3: Family = Family {
    model: "qwen3-8b",
    architecture: "qwen3",
    template: "<|im_start|> <tool_call> {{ tools }} </think> {{ messages }}",
    dialect: Dialect::Qwen3,
};
const LLAMA31: Family = Family {
    model: "llama-3.1-8b-instruct",
    architecture: "llama",
    template: "<|start_header_id|> ipython {{ tools }} {{ messages }}",
    dialect: Dialect::Llama31,
};
const GLM4: Family = Family {
    model: "glm-4-9b-0414",
    architecture: "glm4",
    template: "<|observation|> {{ tools }} {{ messages }}",
    dialect: Dialect::Glm4,
};
const GENERIC: Family = Family {
    model: "generic",
    architecture: "qwen2",
    template: "<|im_start|> <tool_call> {{ tools }} {{ messages }}",
    dialect: Dialect::Generic,
};

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
        let answer = Self::collect(deltas, finish);
        assert_eq!(parser.calls_made() as usize, answer.calls.len());
        answer
    }

    fn read_whole(parser: &Parser, text: &str, end: End) -> Self {
        Self::read(parser, std::iter::once(text.as_bytes()), end)
    }
}

impl Family {
    /// A parser as the engine gets it.
    fn parser(&self, tools: &[&str]) -> Parser {
        let request = Conversation {
            tools: tools.iter().map(|name| Tool::new(0, name, None, None).unwrap()).collect(),
            ..conversation(Vec::new())
        };
        let chat = chat(self.architecture, Some(self.template), &[]);
        assert_eq!(chat.dialect(), self.dialect);
        chat.parser(&request, &chat.render(&request).unwrap())
    }

    fn check_vectors(&self) {
        let vectors = vector::load("parse");
        let mut vectors = vectors.iter().filter(|v| v.json.at("model").str() == self.model).peekable();
        assert!(vectors.peek().is_some());
        vectors.for_each(|vector| self.check(vector));
    }

    fn check(&self, vector: &Vector) {
        let tools: Vec<&str> = vector.json.at("tools").items().iter().map(Json::str).collect();
        let parser = self.parser(&tools);
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

#[test]
fn qwen3_reads_every_answer_however_its_bytes_are_cut() {
    QWEN3.check_vectors();
}

#[test]
fn llama_reads_every_answer_however_its_bytes_are_cut() {
    LLAMA31.check_vectors();
}

#[test]
fn glm_reads_every_answer_however_its_bytes_are_cut() {
    GLM4.check_vectors();
}

#[test]
fn a_generic_model_whose_template_writes_tags_reads_calls_in_them() {
    for mut vector in vector::load("parse") {
        // What Qwen2.5 writes is what Qwen3 writes without thinking.
        let json = &vector.json;
        if json.at("model").str() == QWEN3.model && !json.at("text").str().contains("think") {
            vector.name.push_str(" by the generic dialect");
            GENERIC.check(&vector);
        }
    }
    let xml = Family { template: "<tool_call> <function= {{ tools }}", ..GENERIC };
    let call = "<tool_call>{\"name\": \"f\"}</tool_call>";
    assert_eq!(Answer::read_whole(&xml.parser(&["f"]), call, End::Natural).content, call);
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
        "\nf\n",
        " ",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "\\",
        ":",
        ",",
        ";",
        "`",
        "```",
        "```json\n",
        "\n```\n",
        "f",
        "(",
        ")",
        "=",
        ".call(",
        "f.call(a=1)",
        "<function=f>",
        "</function>",
        "<|python_tag|>",
        "<|python",
        "<|assistant|>",
        "<|user|>",
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

fn families() -> impl Strategy<Value = &'static Family> {
    prop::sample::select(vec![&QWEN3, &LLAMA31, &GLM4, &GENERIC])
}

/// The characters of a text that are no white space and belong to no marker.
fn bare(text: &str, markers: &[&str]) -> String {
    let mut text = text.to_owned();
    for marker in markers {
        text = text.replace(marker, "");
    }
    text.split_whitespace().collect()
}

/// The part of an answer of GLM that is not behind its end.
fn until_end(text: &str) -> &str {
    let ends = ["<|observation|>", "<|user|>", "<|endoftext|>"];
    let end = ends.into_iter().filter_map(|end| text.find(end)).min();
    &text[..end.unwrap_or(text.len())]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_split_of_the_text_reads_the_same(
        family in families(), bytes in answers(), size in 1_usize..20, end in ends(), tools in 0_usize..3,
    ) {
        let parser = family.parser([&[][..], &["f"], &["f", "fg", "python"]][tools]);
        let whole = Answer::read(&parser, std::iter::once(bytes.as_slice()), end);
        prop_assert_eq!(Answer::read(&parser, bytes.chunks(size), end), whole);
    }

    #[test]
    fn without_calls_nothing_but_a_think_block_and_white_space_is_lost(bytes in answers(), end in ends()) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let markers = ["<think>", "</think>", "<tool_call>", "</tool_call>"];
        for family in [QWEN3, GENERIC] {
            let answer = Answer::read_whole(&family.parser(&["g"]), &text, end);
            prop_assert_eq!(bare(&(answer.reasoning + &answer.content), &markers), bare(&text, &markers));
        }
    }

    #[test]
    fn without_calls_llama_loses_nothing_but_the_control_token(bytes in answers(), end in ends()) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let expected = text.replace("<|python_tag|>", "");
        for tools in [&[][..], &["g"], &["fg"]] {
            let answer = Answer::read_whole(&LLAMA31.parser(tools), &text, end);
            prop_assert_eq!(&answer.content, &expected);
        }
    }

    #[test]
    fn without_calls_glm_loses_nothing_but_control_tokens_and_white_space(bytes in answers(), end in ends()) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        for tools in [&[][..], &["g"], &["fg"]] {
            let answer = Answer::read_whole(&GLM4.parser(tools), &text, end);
            let expected = bare(until_end(&text), &["<|assistant|>"]);
            prop_assert_eq!(bare(&answer.content, &[]), expected);
        }
    }

    #[test]
    fn without_tools_and_thinking_the_answer_is_the_text(bytes in answers(), end in ends()) {
        let text = format!("x{}", String::from_utf8_lossy(&bytes));
        for family in [QWEN3, GENERIC] {
            prop_assert_eq!(Answer::read_whole(&family.parser(&[]), &text, end).content, text.clone());
        }
    }
}
