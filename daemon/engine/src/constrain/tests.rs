//! Answers of a model that knows nothing, held to a grammar: every one is right, and nearly every one ends in
//! time.

use std::collections::BTreeMap;

use super::*;
use crate::batch::guide::{Chosen, Go, Guide, Thought};
use crate::chat::{
    Conversation, Delta, End, Hold, Message, Parser, Role, Style, Tool, ToolChoice, parser::Blocks,
};
use crate::sample::{Sampler, Sampling};
use crate::testing::{demo, on_a_large_stack, vocabulary};

/// The assorted schemas of the project's vectors.
fn schemas() -> Vec<(String, Value)> {
    let text = include_str!("../../vectors/schemas.json");
    let list: Vec<Value> = serde_json::from_str(text).unwrap();
    list.into_iter()
        .map(|entry| (entry["name"].as_str().unwrap().to_owned(), entry["schema"].clone()))
        .collect()
}

fn grammars() -> (Arc<Model>, Arc<Grammars>) {
    let model = vocabulary(&demo());
    let grammars = Arc::new(Grammars::new(Arc::clone(&model), &[]));
    (model, grammars)
}

fn request(schema: &Value, choice: ToolChoice) -> Conversation {
    let tool = Tool::new(0, "f", None, Some(&schema.to_string())).unwrap();
    Conversation {
        tools: vec![tool],
        tool_choice: choice,
        ..crate::chat::tests::conversation(vec![Message::text(Role::User, "hi")])
    }
}

/// Logits without any sense.
fn noise(seed: u64, step: u64, logits: &mut [f32]) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ step.wrapping_mul(0xd1b5_4a32_d192_ed03);
    for logit in logits {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        #[expect(clippy::cast_precision_loss, reason = "noise")]
        let value = (state >> 40) as f32 / (1u64 << 24) as f32;
        *logit = value * 4.0;
    }
}

struct Written {
    text: String,
    tokens: usize,
    over: bool,
}

/// Writes an answer of at most `most` tokens.
fn write(model: &Model, guidance: Guidance, seed: u64, most: u32) -> Written {
    let options =
        Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed, ..Sampling::default() };
    let mut sampler = Sampler::new(options, model, &[]);
    let mut guide = Guide::new(Some(guidance), Thought::none(), &[]);
    let parser = Parser::new(Blocks::None, Vec::new());
    let mut logits = vec![0.0; usize::try_from(model.vocabulary_size()).unwrap()];
    let mut bytes = Vec::new();
    let mut tokens = 0;
    let mut over = guide.is_over();
    while !over && tokens < most {
        noise(seed, tokens.into(), &mut logits);
        let left = most - tokens;
        let token = match guide.forced() {
            Some(token) => token,
            None => match guide.choose(&mut sampler, &logits, model, parser.phase(), left).unwrap() {
                Chosen::Drawn(token) => {
                    sampler.accept(token);
                    token
                }
                Chosen::Forced(token) => token,
            },
        };
        tokens += 1;
        if model.is_end(token) {
            over = true;
            break;
        }
        let start = bytes.len();
        model.piece(token, &mut bytes);
        over = guide.took(token, &bytes[start..], &parser, left - 1).unwrap() == Go::Over;
    }
    Written { text: String::from_utf8(bytes).expect("UTF-8"), tokens: tokens as usize, over }
}

#[test]
fn whatever_is_written_is_valid_and_ends_in_time() {
    let (model, grammars) = grammars();
    let mut unfinished: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut runs = 0;
    for (name, schema) in schemas() {
        let validator = jsonschema::validator_for(&schema).unwrap();
        for seed in 0..15 {
            runs += 1;
            let output = Output::JsonSchema(schema.to_string());
            let form = Form::output_only(Some(&output)).unwrap();
            let guidance = grammars.compile(form, Some(&output)).unwrap().unwrap();
            let written = write(&model, guidance, seed, 256);
            if !written.over {
                unfinished.entry(name.clone()).or_default().push(written.text);
                continue;
            }
            let value: Value = serde_json::from_str(&written.text)
                .unwrap_or_else(|error| panic!("{name}, seed {seed}: {error}: {}", written.text));
            assert!(validator.is_valid(&value), "{name}, seed {seed}: {}", written.text);
            assert!(written.tokens <= 256);
        }
    }
    let count: usize = unfinished.values().map(Vec::len).sum();
    assert!(count * 100 <= runs, "{count} of {runs} did not end: {unfinished:#?}");
}

#[test]
fn a_demanded_call_is_a_call() {
    let (model, grammars) = grammars();
    for (name, schema) in schemas().into_iter().step_by(4) {
        for style in [Style::Tags, Style::Json] {
            let form = Form::new(&request(&schema, ToolChoice::Required), None, Some(style), false).unwrap();
            let guidance = grammars.compile(form, None).unwrap().unwrap();
            let written = write(&model, guidance, 7, 200);
            assert!(written.over, "{name}: {}", written.text);
            let text = match style {
                Style::Tags => {
                    let inner = written.text.strip_prefix("<tool_call>\n").expect("the tag");
                    inner.strip_suffix("\n</tool_call>").expect("the closing tag").to_owned()
                }
                _ => written.text,
            };
            let call: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(call["name"], "f");
        }
    }
}

#[test]
fn an_opened_call_is_held_from_there_on() {
    let (_, grammars) = grammars();
    let schema = serde_json::json!({"properties": {"a": {"type": "boolean"}}, "required": ["a"]});
    let form = Form::new(&request(&schema, ToolChoice::Auto), None, Some(Style::Tags), true).unwrap();
    let guidance = grammars.compile(form, None).unwrap().unwrap();
    let open = |rest: &str| OpenCall { tool: None, rest: rest.to_owned(), alone: true };
    let mut constraint = guidance.opened(&open("")).unwrap().expect("a call");
    let forced = constraint.forced();
    assert!(!forced.is_empty(), "the way to the first choice is forced");
    assert!(guidance.opened(&open("\n{\"name\": \"f\"")).unwrap().is_some());
    assert!(guidance.opened(&open(" not a call")).unwrap().is_none(), "what is no call stays text");
}

#[test]
fn white_space_of_the_models_own_does_not_free_a_call() {
    let (_, grammars) = grammars();
    let schema = serde_json::json!({"properties": {"a": {"type": "boolean"}}, "required": ["a"]});
    let cases = [
        (Style::Tags, None, "{\"name\":\"f\",", true),
        (Style::Tags, None, "\n\n { \"name\" : \"f\"", true),
        (Style::Tags, None, "{\"name\":\"g\"", false),
        (Style::Json, Some("f"), ",\"", true),
        (Style::Json, Some("f"), ",\n  \"parameters\":{", true),
        (Style::Json, Some("f"), ", \"arguments\": {\"a\":t", true),
        (Style::Json, Some("f"), ", \"other\"", false),
        (Style::Lines, Some("f"), "\n{", true),
        (Style::Lines, Some("f"), "{\"b\"", false),
    ];
    for (style, tool, rest, is_held) in cases {
        let form = Form::new(&request(&schema, ToolChoice::Auto), None, Some(style), true).unwrap();
        let guidance = grammars.compile(form, None).unwrap().unwrap();
        let open = OpenCall { tool: tool.map(str::to_owned), rest: rest.to_owned(), alone: true };
        assert_eq!(guidance.opened(&open).unwrap().is_some(), is_held, "{style:?} {rest:?}");
    }
}

/// What an answer is read as, character by character; the last is the number of deltas of arguments.
fn read(style: Style, text: &str, hold: Option<&Hold>) -> (Vec<(String, String)>, String, usize) {
    let mut parser = Parser::reading(style, Blocks::None, vec!["f".to_owned()]);
    let mut deltas = Vec::new();
    if let Some(hold) = hold {
        parser.hold(hold, &mut deltas);
    }
    for c in text.chars() {
        let mut out = Vec::new();
        parser.push(c.to_string().as_bytes(), &mut out);
        deltas.extend(out);
    }
    parser.finish(End::Natural, &mut deltas);
    let (mut calls, mut said, mut parts, mut open) = (Vec::new(), String::new(), 0, String::new());
    for delta in deltas {
        match delta {
            Delta::ToolCallStarted { .. } => open.clear(),
            Delta::ToolCallArguments { json, .. } => {
                open.push_str(&json);
                parts += 1;
            }
            Delta::ToolCallCompleted { name, arguments, .. } => {
                assert_eq!(open, arguments, "the parts are the whole");
                calls.push((name, arguments));
            }
            Delta::Text(text) | Delta::Reasoning(text) => said.push_str(&text),
        }
    }
    (calls, said, parts)
}

#[test]
fn calls_that_are_held_are_said_as_they_come() {
    let (model, grammars) = grammars();
    for (name, schema) in schemas().into_iter().step_by(3) {
        for style in [Style::Tags, Style::Json] {
            let form = Form::new(&request(&schema, ToolChoice::Required), None, Some(style), true).unwrap();
            let guidance = grammars.compile(form, None).unwrap().unwrap();
            let written = write(&model, guidance, 5, 250);
            let hold = Hold { style, open: None, seen: Vec::new() };
            let (calls, said, parts) = read(style, &written.text, Some(&hold));
            let (whole, also_said, at_once) = read(style, &written.text, None);
            assert_eq!((&calls, &said), (&whole, &also_said), "{name}: {}", written.text);
            assert_eq!(at_once, calls.len());
            let bytes: usize = calls.iter().map(|(_, arguments)| arguments.chars().count()).sum();
            assert_eq!(parts, bytes, "{name}: a delta for each character");
        }
    }
    let text = "{\"a\": 1}<|assistant|>f\n{\"a\": \"}\"}";
    let open = OpenCall { tool: Some("f".to_owned()), rest: String::new(), alone: true };
    let hold = Hold { style: Style::Lines, open: Some(open), seen: Vec::new() };
    let mut parser = Parser::reading(Style::Lines, Blocks::None, vec!["f".to_owned()]);
    let mut deltas = Vec::new();
    parser.push(b"f\n", &mut deltas);
    parser.hold(&hold, &mut deltas);
    assert_eq!(deltas, [Delta::ToolCallStarted { index: 0, name: "f".to_owned() }]);
    parser.push(text.as_bytes(), &mut deltas);
    parser.finish(End::Natural, &mut deltas);
    let completed: Vec<&Delta> =
        deltas.iter().filter(|delta| matches!(delta, Delta::ToolCallCompleted { .. })).collect();
    let started = deltas.iter().filter(|delta| matches!(delta, Delta::ToolCallStarted { .. })).count();
    assert_eq!((completed.len(), started), (2, 2), "{deltas:?}");
}

#[test]
fn a_held_call_that_is_cut_off_is_no_text() {
    let hold = Hold { style: Style::Tags, open: None, seen: Vec::new() };
    let cut = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"bc";
    let (calls, said, parts) = read(Style::Tags, cut, Some(&hold));
    assert!(calls.is_empty() && said.is_empty() && parts > 5, "{said:?}");
    assert_eq!(read(Style::Tags, cut, None).1, cut, "without a grammar it is");
}

#[test]
fn what_does_not_compile_names_its_keyword() {
    let (_, grammars) = grammars();
    let compile = |output: Output| {
        let form = Form::output_only(Some(&output)).unwrap();
        match grammars.compile(form, Some(&output)) {
            Err(Ok(FormError::Field { field, .. })) => field,
            other => panic!("{other:?}"),
        }
    };
    let schema = |text: &str| Output::JsonSchema(text.to_owned());
    let cases = [
        (
            schema(r#"{"properties": {"a": {"type": "string", "pattern": "(?=x)y"}}}"#),
            "output.json_schema.properties.a.pattern",
        ),
        (schema(r#"{"type": "integer", "minimum": 5, "maximum": 1}"#), "output.json_schema.minimum"),
        (Output::Regex("(".to_owned()), "output.regex"),
        (Output::Regex("a(?=b)".to_owned()), "output.regex"),
        (Output::Lark("start: nothing".to_owned()), "output.grammar"),
        (Output::Lark(String::new()), "output.grammar"),
    ];
    for (output, field) in cases {
        assert_eq!(compile(output), field);
    }
}

#[test]
fn hostile_grammars_are_errors() {
    let (_, grammars) = grammars();
    let lark = |rules: usize, rule: &dyn Fn(usize) -> String| {
        let rules: String = (0..rules).map(rule).collect();
        Output::Lark(format!("start: A0 a0\n{rules}"))
    };
    let expressions: Vec<String> = (1..9).map(|at| format!("/.*a.{{{at}}}b.*/")).collect();
    let hostile = [
        Output::Regex("(".repeat(20_000)),
        Output::Regex("(".repeat(10_000)),
        Output::Regex(format!("{}a{}", "(".repeat(2_000), "){0,99}".repeat(2_000))),
        Output::Lark(format!("start: {}a{}", "(".repeat(15_000), ")".repeat(15_000))),
        Output::Lark("start: start \"a\"".to_owned() + &" | start".repeat(1_001)),
        Output::Lark(format!("start: T\nT: {}", expressions.join(" & "))),
        Output::Lark("start: %json {\"allOf\": []}".to_owned()),
        Output::Lark("start: \"a\" %json nothing".to_owned()),
        lark(1_000, &|at| format!("a{at}: a{}{{0,1000}}\n", at + 1)),
        lark(40, &|at| format!("A{at}: A{0} A{0}\n", at + 1)),
    ];
    on_a_large_stack(|| {
        for output in hostile {
            let form = Form::output_only(Some(&output));
            let compiled = form.map_err(Ok).and_then(|form| grammars.compile(form, Some(&output)));
            match compiled {
                Err(Ok(FormError::Field { field, .. })) => {
                    assert!(field == "output.regex" || field == "output.grammar", "{field}");
                }
                other => panic!("{other:?} of {output:.80?}"),
            }
        }
        // These may be taken; the compiler must come back, though.
        for output in [
            Output::Regex("((a{0,9999}){0,9999}){0,9999}".to_owned()),
            Output::Lark("start: start \"a\"".to_owned() + &" | start".repeat(900)),
        ] {
            let form = Form::output_only(Some(&output)).unwrap();
            drop(grammars.compile(form, Some(&output)));
        }
    });
}

#[test]
fn a_schema_at_its_limits_compiles() {
    let (_, grammars) = grammars();
    let string = serde_json::json!({"type": "string"});
    let properties: Value = (0..500).map(|at| (format!("k{at}"), string.clone())).collect();
    let values: Vec<String> = (0..5_000).map(|at| format!("value {at}")).collect();
    for schema in
        [serde_json::json!({"type": "object", "properties": properties}), serde_json::json!({"enum": values})]
    {
        let output = Output::JsonSchema(schema.to_string());
        let form = Form::output_only(Some(&output)).unwrap();
        let mut whole = grammars.compile(form, Some(&output)).unwrap().unwrap().whole.unwrap();
        assert!(!whole.mask().unwrap().is_empty());
    }
}

#[test]
fn texts_without_json_end_in_time_too() {
    let (model, grammars) = grammars();
    for (output, suffix) in [
        (Output::Regex("(ab|ba)+!".to_owned()), "!"),
        (Output::Lark("start: word (\" \" word)* \".\"\nword: /[a-z]+/".to_owned()), "."),
    ] {
        let form = Form::output_only(Some(&output)).unwrap();
        let guidance = grammars.compile(form, Some(&output)).unwrap().unwrap();
        let written = write(&model, guidance, 3, 40);
        assert!(written.over && written.text.ends_with(suffix), "{}", written.text);
    }
}
