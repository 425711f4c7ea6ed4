//! Splits of bytes, garbage and every shape of call: the text that comes out is always the same.

use super::*;
use crate::chat::json::scan::{ObjectScan, Step};
use proptest::prelude::*;

fn parser() -> Parser {
    styled(Style::Tags)
}

fn styled(style: Style) -> Parser {
    Parser::reading(style, Blocks::Leading, vec!["f".to_owned(), "f_g".to_owned()])
}

fn say(parser: &mut Parser, text: &str) -> Vec<Delta> {
    let mut out = Vec::new();
    parser.push(text.as_bytes(), &mut out);
    out
}

/// Reads a text in small pieces and gives back what was said as one.
fn read(text: &str) -> (String, String, u32) {
    read_styled(Style::Tags, text)
}

fn read_styled(style: Style, text: &str) -> (String, String, u32) {
    let (mut parser, mut out) = (styled(style), Vec::new());
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

#[test]
fn hostile_answers_of_llama_are_read_in_linear_time() {
    let count = 30_000;
    let texts = [
        "{".repeat(count),
        "{\"a\":".repeat(count),
        "{\"a\": \"".repeat(count),
        "{\"name\": {\"name\": \"f\", ".repeat(count),
        "[{\"name\": \"f\", ".repeat(count),
        format!("x{}", "[{\"a\": 1}, ".repeat(count)),
        "[".repeat(count),
        "<function=f>{".repeat(count),
        "<function=f>{}".repeat(count) + "x",
        "<function=f>{\"a\": \"".repeat(count),
        format!("<function=f>{{}}{}", " <".repeat(count)),
        format!("```json\n{}", "{\"name\": \"f\", \"parameters\":".repeat(count)),
        format!("```{}", "` `` ``` ".repeat(count)),
        "\n```".repeat(count),
        "<|python_".repeat(count),
        " \n;".repeat(count),
    ];
    for text in texts {
        let (reasoning, content, calls) = read_styled(Style::Json, &text);
        assert_eq!((reasoning.len(), calls), (0, 0));
        assert_eq!(content, text);
    }
    for tagged in ["f.call(", "f.call(a=\"", "f.call(a=(", "{\"name\": ", "[", "f.", " ", "print(1)\n"] {
        let text = format!("<|python_tag|>{tagged}").repeat(count);
        let untagged = tagged.repeat(count);
        assert_eq!(read_styled(Style::Json, &text).1, untagged);
        assert_eq!(read_styled(Style::Json, &format!("<|python_tag|>{untagged}")).1, untagged);
    }
    let calls = "{\"name\": \"f\", \"parameters\": {}};\n".repeat(count);
    assert_eq!(read_styled(Style::Json, &calls).2 as usize, count);
    assert_eq!(read_styled(Style::Json, &format!("```\n{calls}\n```")).2 as usize, count);
}

#[test]
fn hostile_answers_of_glm_are_read_in_linear_time() {
    let count = 30_000;
    let texts = [
        "f\n".repeat(count),
        "f\n{".repeat(count),
        "f\n{\"a\":".repeat(count),
        "f\n{\"a\": \"".repeat(count),
        format!("f\n{{\"a\": [{}", "1,\nf\n".repeat(count)),
        format!("f\n{}", "\n".repeat(count)),
        format!("f{}", " ".repeat(count)),
        "f f_".repeat(count),
        "<|assist".repeat(count),
        "```\nf\n{}\n```\n".repeat(count),
    ];
    for text in texts {
        let (_, content, calls) = read_styled(Style::Lines, &text);
        assert_eq!((content, calls), (text, 0));
    }
    let calls = "f \n{\"a\": 1}\n<|assistant|>".repeat(count);
    assert_eq!(read_styled(Style::Lines, &calls).2 as usize, count);
    // A name that is JSON too: candidates stand in one another.
    let text = "1,\n{\"a\": [\n".repeat(count);
    let mut parser = Parser::reading(Style::Lines, Blocks::None, vec!["1,".to_owned()]);
    assert_eq!(say(&mut parser, &text).len() + usize::from(parser.open_call().is_some()), 2);
}

#[test]
fn what_llama_and_glm_hold_is_bounded_and_nothing_of_it_is_lost() {
    let filler = "x".repeat(MAX_HELD);
    let cases = [
        (Style::Json, format!("{{\"name\": \"{filler}")),
        (Style::Json, format!("[{{\"name\": \"{filler}")),
        (Style::Json, format!("<function=f>{{\"a\": \"{filler}")),
        (Style::Json, format!("```json\n{{\"name\": \"{filler}")),
        (Style::Json, format!("```json\n{{\"name\": \"f\",{}", " ".repeat(MAX_HELD))),
        (Style::Lines, format!("f\n{{\"a\": \"{filler}")),
        (Style::Lines, format!("f\n{}", "\n".repeat(MAX_HELD))),
        (Style::Lines, format!("f{}", " ".repeat(MAX_HELD))),
    ];
    for (style, text) in cases {
        let mut parser = styled(style);
        let mut out = say(&mut parser, &text);
        out.extend(say(&mut parser, "end"));
        assert!(!out.is_empty(), "{style:?} {}", &text[..20]);
        parser.finish(End::Natural, &mut out);
        let said = out.into_iter().map(|delta| match delta {
            Delta::Text(text) => text,
            other => panic!("{other:?}"),
        });
        assert_eq!(said.collect::<String>(), text + "end");
    }
    let code = vec!["python".to_owned()];
    let mut parser = Parser::reading(Style::Json, Blocks::None, code);
    assert_eq!(say(&mut parser, &format!("<|python_tag|>{filler}")), []);
    assert_eq!(say(&mut parser, "y"), [Delta::Text(filler + "y")]);
}

#[test]
fn json_that_is_no_call_is_said_as_it_comes() {
    let mut parser = styled(Style::Json);
    assert_eq!(say(&mut parser, "{\"cit"), []);
    assert_eq!(say(&mut parser, "y\": {\"na"), [Delta::Text("{\"city\": {\"na".to_owned())]);
    assert_eq!(say(&mut parser, "me\""), [Delta::Text("me\"".to_owned())]);
    let mut parser = styled(Style::Json);
    assert_eq!(say(&mut parser, "[1"), [Delta::Text("[1".to_owned())]);
    let mut parser = styled(Style::Json);
    assert_eq!(say(&mut parser, "```json\n{\"a\""), [Delta::Text("```json\n{\"a\"".to_owned())]);
}

#[test]
fn a_line_is_held_while_it_may_be_a_name() {
    let mut parser = styled(Style::Lines);
    assert_eq!(say(&mut parser, "\nHi\n"), [Delta::Text("Hi".to_owned())]);
    assert_eq!(say(&mut parser, " f"), []);
    assert_eq!(say(&mut parser, "_"), []);
    assert_eq!(say(&mut parser, "x"), [Delta::Text("\n f_x".to_owned())]);
}

/// What is open behind a text, once as one and once character by character.
fn open_call(style: Style, text: &str) -> Option<(Option<String>, String)> {
    let (mut whole, mut pieces) = (styled(style), styled(style));
    say(&mut whole, text);
    for c in text.chars() {
        say(&mut pieces, c.encode_utf8(&mut [0; 4]));
    }
    assert_eq!(whole.open_call(), pieces.open_call());
    whole.open_call().map(|open| (open.tool, open.rest))
}

#[test]
fn a_call_is_open_from_its_marker_to_its_last_brace() {
    let tags = |text: &str| open_call(Style::Tags, text);
    assert_eq!(tags("Hi <tool_call"), None);
    assert_eq!(tags("Hi <tool_call>"), Some((None, String::new())));
    assert_eq!(tags("<tool_call>\n{\"name"), Some((None, "\n{\"name".to_owned())));
    assert_eq!(tags("<tool_call>{\"name\": \"f\"}"), None);
    assert_eq!(tags("<tool_call>x"), None);
    assert_eq!(tags("<think><tool_call>\n{"), None);
    assert_eq!(tags("<think>a</think><tool_call>\n"), Some((None, "\n".to_owned())));
    let mut parser = Parser::new(Blocks::None, Vec::new());
    say(&mut parser, "<tool_call>{");
    assert_eq!(parser.open_call(), None);
}

#[test]
fn a_call_of_glm_is_open_below_its_name() {
    let glm = |text: &str| open_call(Style::Lines, text);
    let some = |tool: &str, rest: &str| Some((Some(tool.to_owned()), rest.to_owned()));
    assert_eq!(glm("f"), None);
    assert_eq!(glm("Hi\nf \n"), some("f", ""));
    assert_eq!(glm("f_g\n\n{\"a\": "), some("f_g", "\n{\"a\": "));
    assert_eq!(glm("f\nis"), None);
    assert_eq!(glm("f\n{}"), None);
    assert_eq!(glm("```\nf\n"), None);
}

#[test]
fn a_call_of_llama_is_open_behind_its_name() {
    let llama = |text: &str| open_call(Style::Json, text);
    let some = |rest: &str| Some((Some("f".to_owned()), rest.to_owned()));
    assert_eq!(llama("{\"name\": \"f"), None);
    assert_eq!(llama("Hi {\"name\": \"f\""), some(""));
    assert_eq!(llama("{\"name\": \"f\", \"para"), some(", \"para"));
    assert_eq!(llama("{\"type\":\"function\",\"name\":\"f\","), some(","));
    assert_eq!(llama("<|python_tag|>\n{ \"name\": \"f\", "), some(", "));
    assert_eq!(llama("{\"name\": \"g\", "), None);
    assert_eq!(llama("{\"name\": \"f\", \"x\": "), None);
    assert_eq!(llama("{\"name\": \"f\", \"parameters\": {}}"), None);
    assert_eq!(llama("`{\"name\": \"f\", "), None);
}

#[test]
fn the_phase_follows_the_think_block() {
    let phases = |blocks: Blocks, pieces: &[&str]| {
        let mut parser = Parser::new(blocks, Vec::new());
        let phases = pieces.iter().map(|piece| {
            say(&mut parser, piece);
            parser.phase()
        });
        phases.collect::<Vec<_>>()
    };
    let pieces = ["", " \n<th", "ink>", "a</thi", "nk>", "b"];
    assert_eq!(
        phases(Blocks::Leading, &pieces),
        [Phase::Start, Phase::Start, Phase::Thinking, Phase::Thinking, Phase::Answer, Phase::Answer]
    );
    assert_eq!(phases(Blocks::Leading, &["<thi", "s"]), [Phase::Start, Phase::Answer]);
    assert_eq!(phases(Blocks::Opened, &["", "</think>"]), [Phase::Thinking, Phase::Answer]);
    assert_eq!(phases(Blocks::None, &["", "<think>"]), [Phase::Answer, Phase::Answer]);
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
