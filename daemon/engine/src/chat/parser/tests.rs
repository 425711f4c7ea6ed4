//! Splits of bytes, garbage and every shape of call: the text that comes out is always the same.

use super::*;
use crate::chat::json::scan::{ObjectScan, Step};
use proptest::prelude::*;

fn parser() -> Parser {
    Parser::new(Blocks::Leading, vec!["f".to_owned()])
}

fn say(parser: &mut Parser, text: &str) -> Vec<Delta> {
    let mut out = Vec::new();
    parser.push(text.as_bytes(), &mut out);
    out
}

/// Reads a text in small pieces and gives back what was said as one.
fn read(text: &str) -> (String, String, u32) {
    let (mut parser, mut out) = (parser(), Vec::new());
    for piece in text.as_bytes().chunks(7) {
        parser.push(piece, &mut out);
    }
    parser.finish(End::Natural, &mut out);
    let mut read = (String::new(), String::new(), 0);
    for delta in out {
        match delta {
            Delta::Reasoning(text) => read.0 += &text,
            Delta::Text(text) => read.1 += &text,
            Delta::ToolCallStarted { .. } => read.2 += 1,
            _ => {}
        }
    }
    read
}

#[test]
fn text_that_can_be_nothing_else_is_said_at_once() {
    let mut parser = parser();
    assert_eq!(say(&mut parser, "Hi"), [Delta::Text("Hi".to_owned())]);
    assert_eq!(say(&mut parser, " <tool"), []);
    assert_eq!(say(&mut parser, "s"), [Delta::Text(" <tools".to_owned())]);
}

#[test]
fn thinking_is_said_as_it_comes() {
    let mut parser = parser();
    assert_eq!(say(&mut parser, "<think>\nWhy"), [Delta::Reasoning("Why".to_owned())]);
    assert_eq!(say(&mut parser, "\n</thi"), []);
    assert_eq!(say(&mut parser, "s"), [Delta::Reasoning("\n</this".to_owned())]);
}

#[test]
fn a_call_is_said_when_it_is_whole() {
    let mut parser = parser();
    assert_eq!(say(&mut parser, "<tool_call>{\"name\": \"f\"}</tool_call"), []);
    let call = say(&mut parser, ">");
    let arguments = "{}".to_owned();
    assert_eq!(call.last(), Some(&Delta::ToolCallCompleted { index: 0, name: "f".to_owned(), arguments }));
}

#[test]
fn what_is_held_is_bounded_and_nothing_of_it_is_lost() {
    let filler = "x".repeat(MAX_HELD);
    let texts = [
        format!("<tool_call>{{\"name\": \"{filler}"),
        format!("<tool_call>{}", " ".repeat(MAX_HELD)),
        format!("a{}", " ".repeat(MAX_HELD)),
        " ".repeat(MAX_HELD + 8),
    ];
    for text in texts {
        let mut parser = parser();
        let mut out = say(&mut parser, &text);
        out.extend(say(&mut parser, "end"));
        assert!(!out.is_empty());
        assert_eq!(read(&text).1, text);
    }
    let thought = format!("<think><tool_call>{filler}");
    assert_ne!(say(&mut parser(), &thought), []);
    assert_eq!(read(&thought).0.len(), thought.len() - "<think>".len());
}

/// Work grows with the text and not with its square: each of these would take hours otherwise.
#[test]
fn hostile_answers_are_read_in_linear_time() {
    let count = 30_000;
    let texts = [
        "<tool_call>".repeat(count),
        "<tool_call>{".repeat(count),
        "<tool_call>{\"a\": \"".repeat(count),
        format!("<tool_call>{{\"a\": \"{}", "<tool_call> ".repeat(count)),
        format!("<tool_call>{{\"a\": \"{}", "<tool_call>{\":\"".repeat(count)),
        format!("<tool_call>{{\"a\": [{}", "[1, ".repeat(count)),
        "<tool_call>{\"name\": \"g\"}".repeat(count),
        format!("<think>{}", "<tool_call>{\"a\": \"".repeat(count)),
        "</tool_call>".repeat(count),
        "< <t <to ".repeat(count),
        "\n".repeat(10 * count),
    ];
    for text in texts {
        let (reasoning, content, calls) = read(&text);
        assert_eq!(calls, 0);
        assert!(reasoning.len() + content.len() + "<think>".len() >= text.len());
    }
    let calls = "<tool_call>{\"name\": \"f\"}</tool_call>\n".repeat(count);
    assert_eq!(read(&calls).2 as usize, count);
}

proptest! {
    #[test]
    fn bytes_that_are_no_text_read_as_the_standard_library_reads_them(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0x80_u8..0xf8], 0..40), size in 1_usize..6,
    ) {
        let mut utf8 = Utf8::default();
        let mut text: String = bytes.chunks(size).map(|piece| utf8.push(piece)).collect();
        text += &utf8.finish();
        prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn the_object_scan_takes_what_serde_takes(pieces in prop::collection::vec(json_piece(), 0..9)) {
        let text = format!("{{{}", pieces.concat());
        let mut scan = ObjectScan::new();
        let end = text.char_indices().find_map(|(at, c)| match scan.push(c) {
            Step::More => None,
            step => Some((at + c.len_utf8(), step)),
        });
        let object = &text[..end.map_or(text.len(), |(end, _)| end)];
        let is_json = serde_json::from_str::<serde::de::IgnoredAny>(object).is_ok();
        prop_assert_eq!(matches!(end, Some((_, Step::Done))), is_json);
    }
}

fn json_piece() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "{", "}", "}", "[", "]", "\"", ",", ":", " ", "\"a\":", "\"b\":1", "\\n", "\\u00e9", "\\u12", "1",
        "-", ".5", "e+7", "01", "true", "nul", "\u{7}", "é", "\"x\"",
    ])
}
