//! What every target checks of an answer: that its cuts make no difference, that calls name declared
//! tools and hold an object, and that without tools nothing of the text is lost.
//!
//! The first byte of the input chooses: tools or none, how the answer ends, how its bytes are cut.

/// The module under test, by its path. It names itself `crate::chat`, so each target imports it.
#[path = "../../src"]
pub(crate) mod source {
    #[allow(dead_code, unused_imports, unreachable_pub)]
    pub(crate) mod chat;
}

pub(crate) use source::chat;

use chat::{Chat, Conversation, Delta, Dialect, End, Finish, ModelFacts, Parser, Thinking, Tool, ToolChoice};

/// Names that are prefixes of each other, and one that takes code.
const TOOLS: [&str; 3] = ["f", "f_g", "python"];

/// What an answer was read as.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    reasoning: String,
    content: String,
    calls: Vec<(String, String)>,
}

/// Reads the input in one piece and in many.
pub(crate) fn check(dialect: Dialect, data: &[u8]) {
    let Some((choice, text)) = data.split_first() else { return };
    let end = if choice & 1 == 0 { End::Natural } else { End::Limit };
    let tools: &[&str] = if choice & 2 == 0 { &TOOLS } else { &[] };
    let size = usize::from(choice >> 2) % 16 + 1;
    let parser = parser(dialect, tools);
    let whole = read(parser.clone(), std::iter::once(text), end);
    assert_eq!(read(parser, text.chunks(size), end), whole);
    for (name, arguments) in &whole.calls {
        assert!(tools.contains(&name.as_str()));
        assert!(arguments.starts_with('{'));
        assert!(serde_json::from_str::<serde::de::IgnoredAny>(arguments).is_ok());
    }
    if tools.is_empty() {
        assert_eq!(
            bare(&(whole.reasoning + &whole.content)),
            bare(until_end(dialect, &String::from_utf8_lossy(text)))
        );
    }
}

fn parser(dialect: Dialect, tools: &[&str]) -> Parser {
    let template = match dialect {
        Dialect::Qwen3 | Dialect::Generic => "{# tools <tool_call> <think> #}",
        Dialect::Llama31 | Dialect::Glm4 => "{# tools #}",
    };
    let template = template.to_owned();
    let chat =
        Chat::new(ModelFacts { template: Some(template), dialect: Some(dialect), ..ModelFacts::default() });
    let tool = |name: &&str| Tool::new(0, name, None, None).expect("a name and no schema");
    let request = Conversation {
        messages: Vec::new(),
        tools: tools.iter().map(tool).collect(),
        tool_choice: ToolChoice::Auto,
        parallel: None,
        thinking: Thinking::ModelDefault,
        thinking_budget: None,
        add_generation_prompt: true,
        date: None,
    };
    let chat = chat.expect("the template is a comment");
    let prompt = chat.render(&request).expect("the template is a comment");
    chat.parser(&request, &prompt)
}

fn read<'a>(mut parser: Parser, pieces: impl Iterator<Item = &'a [u8]>, end: End) -> Answer {
    let mut deltas = Vec::new();
    for piece in pieces {
        parser.push(piece, &mut deltas);
        if let Some(open) = parser.open_call() {
            assert!(open.tool.is_none_or(|tool| TOOLS.contains(&tool.as_str())));
        }
    }
    let finish = parser.finish(end, &mut deltas);
    let mut answer = Answer::default();
    for delta in deltas {
        match delta {
            Delta::Reasoning(text) => answer.reasoning += &text,
            Delta::Text(text) => answer.content += &text,
            Delta::ToolCallCompleted { name, arguments, .. } => answer.calls.push((name, arguments)),
            Delta::ToolCallStarted { .. } | Delta::ToolCallArguments { .. } => {}
        }
    }
    assert_eq!(finish == Finish::ToolCalls, end == End::Natural && !answer.calls.is_empty());
    answer
}

/// The text without white space and without what any dialect takes for a marker, nor what becomes one
/// when others are taken out.
fn bare(text: &str) -> String {
    let mut text: String = text.split_whitespace().collect();
    loop {
        let len = text.len();
        for marker in ["<think>", "</think>", "<|python_tag|>", "<|assistant|>"] {
            text = text.replace(marker, "");
        }
        if text.len() == len {
            return text;
        }
    }
}

/// What stands before the tokens that end an answer of GLM.
fn until_end(dialect: Dialect, text: &str) -> &str {
    let ends: &[&str] = match dialect {
        Dialect::Glm4 => &["<|observation|>", "<|user|>", "<|endoftext|>"],
        _ => &[],
    };
    let end = ends.iter().filter_map(|end| text.find(end)).min();
    &text[..end.unwrap_or(text.len())]
}
