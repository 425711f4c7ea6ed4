//! Answers cut in every way, and garbage.

use std::path::Path;

use proptest::prelude::*;

use super::{chat, conversation};
use crate::chat::json::Json;
use crate::chat::{Conversation, Dialect, End, Parser, Tool};
use crate::conformance::{self, Reading, vector};

/// A model that looks like one of a family.
#[derive(Debug)]
struct Family {
    architecture: &'static str,
    template: &'static str,
    dialect: Dialect,
}

const QWEN3: Family = Family {
    architecture: "qwen3",
    template: "<|im_start|> <tool_call> {{ tools }} </think> {{ messages }}",
    dialect: Dialect::Qwen3,
};
const LLAMA31: Family = Family {
    architecture: "llama",
    template: "<|start_header_id|> ipython {{ tools }} {{ messages }}",
    dialect: Dialect::Llama31,
};
const GLM4: Family = Family {
    architecture: "glm4",
    template: "<|observation|> {{ tools }} {{ messages }}",
    dialect: Dialect::Glm4,
};
const GENERIC: Family = Family {
    architecture: "qwen2",
    template: "<|im_start|> <tool_call> {{ tools }} {{ messages }}",
    dialect: Dialect::Generic,
};

fn read_whole(parser: &Parser, text: &str, end: End) -> Reading {
    Reading::of(parser, std::iter::once(text.as_bytes()), end)
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
}

#[test]
fn a_generic_model_whose_template_writes_tags_reads_calls_in_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/parse");
    let mut checked = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let json = vector::read(&file.unwrap().path()).unwrap();
        let text = vector::text(&json, "text").unwrap();
        // What Qwen2.5 writes is what Qwen3 writes without thinking.
        if vector::text(&json, "model").unwrap() == "qwen3-8b" && !text.contains("think") {
            let names = |tool: &Json| tool.to_string().trim_matches('"').to_owned();
            let tools: Vec<String> = vector::items(&json, "tools").unwrap().iter().map(names).collect();
            let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
            conformance::check_answer(&json, &GENERIC.parser(&tools)).unwrap();
            checked += 1;
        }
    }
    assert!(checked > 5);
    let xml = Family { template: "<tool_call> <function= {{ tools }}", ..GENERIC };
    let call = "<tool_call>{\"name\": \"f\"}</tool_call>";
    assert_eq!(read_whole(&xml.parser(&["f"]), call, End::Natural).content, call);
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
        let whole = Reading::of(&parser, std::iter::once(bytes.as_slice()), end);
        prop_assert_eq!(Reading::of(&parser, bytes.chunks(size), end), whole);
    }

    #[test]
    fn without_calls_nothing_but_a_think_block_and_white_space_is_lost(bytes in answers(), end in ends()) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let markers = ["<think>", "</think>", "<tool_call>", "</tool_call>"];
        for family in [QWEN3, GENERIC] {
            let answer = read_whole(&family.parser(&["g"]), &text, end);
            prop_assert_eq!(bare(&(answer.reasoning + &answer.content), &markers), bare(&text, &markers));
        }
    }

    #[test]
    fn without_calls_llama_loses_nothing_but_the_control_token(bytes in answers(), end in ends()) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let expected = text.replace("<|python_tag|>", "");
        for tools in [&[][..], &["g"], &["fg"]] {
            let answer = read_whole(&LLAMA31.parser(tools), &text, end);
            prop_assert_eq!(&answer.content, &expected);
        }
    }

    #[test]
    fn without_calls_glm_loses_nothing_but_control_tokens_and_white_space(bytes in answers(), end in ends()) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        for tools in [&[][..], &["g"], &["fg"]] {
            let answer = read_whole(&GLM4.parser(tools), &text, end);
            let expected = bare(until_end(&text), &["<|assistant|>"]);
            prop_assert_eq!(bare(&answer.content, &[]), expected);
        }
    }

    #[test]
    fn without_tools_and_thinking_the_answer_is_the_text(bytes in answers(), end in ends()) {
        let text = format!("x{}", String::from_utf8_lossy(&bytes));
        for family in [QWEN3, GENERIC] {
            prop_assert_eq!(read_whole(&family.parser(&[]), &text, end).content, text.clone());
        }
    }
}
