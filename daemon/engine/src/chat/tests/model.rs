//! What a model's file makes of a conversation, dialect by dialect.

use super::{chat, conversation};
use crate::chat::{
    Chat, ChatError, CompileError, Conversation, Delta, Dialect, End, Message, ModelFacts, Role, Segment,
    Thinking, Tool, ToolChoice, UnknownDialect,
};

const PLAIN: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}";
const QWEN3: &str =
    "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}{# tools <tool_call> <think> #}";

fn ask(text: &str) -> Conversation {
    conversation(vec![Message::text(Role::User, text)])
}

fn with_tool(request: Conversation) -> Conversation {
    Conversation { tools: vec![Tool::new(0, "f", None, None).unwrap()], ..request }
}

/// Everything the parser of a model says about an answer, calls left out.
fn read(chat: &Chat, request: &Conversation, answer: &str) -> (String, String) {
    let mut parser = chat.parser(request, &chat.render(request).unwrap());
    let mut out = Vec::new();
    parser.push(answer.as_bytes(), &mut out);
    parser.finish(End::Natural, &mut out);
    let mut said = (String::new(), String::new());
    for delta in out {
        match delta {
            Delta::Reasoning(text) => said.0 += &text,
            Delta::Text(text) => said.1 += &text,
            _ => {}
        }
    }
    said
}

#[test]
fn the_dialect_follows_architecture_and_template() {
    let detect = |architecture, template| Dialect::detect(architecture, Some(template));
    assert_eq!(detect("qwen3", QWEN3), Dialect::Qwen3);
    assert_eq!(detect("qwen3moe", QWEN3), Dialect::Qwen3);
    assert_eq!(detect("llama", QWEN3), Dialect::Generic);
    assert_eq!(detect("qwen3", PLAIN), Dialect::Generic);
    assert_eq!(detect("qwen3", &format!("{QWEN3}<function=")), Dialect::Generic);
    assert_eq!(Dialect::detect("qwen3", None), Dialect::Generic);
}

#[test]
fn a_dialect_can_be_chosen_by_name() {
    assert_eq!("qwen3".parse(), Ok(Dialect::Qwen3));
    assert_eq!("generic".parse(), Ok(Dialect::Generic));
    assert_eq!("gpt".parse::<Dialect>(), Err(UnknownDialect { name: "gpt".to_owned() }));
    let facts = ModelFacts {
        architecture: "qwen3".to_owned(),
        template: Some(QWEN3.to_owned()),
        dialect: Some(Dialect::Generic),
        ..ModelFacts::default()
    };
    assert_eq!(Chat::new(facts).unwrap().dialect(), Dialect::Generic);
}

#[test]
fn tools_on_a_template_without_a_place_for_them_are_refused() {
    let chat = chat("llama", Some(PLAIN), &[]);
    let error = chat.render(&with_tool(ask("hi"))).unwrap_err();
    assert!(matches!(error, ChatError::ToolsUnsupported));
}

#[test]
fn tools_are_rendered_even_if_they_must_not_be_called() {
    let chat = chat("llama", Some("{{ tools | tojson }}"), &[]);
    let request = Conversation { tool_choice: ToolChoice::None, ..with_tool(ask("hi")) };
    let text = chat.render(&request).unwrap().text();
    assert_eq!(text, r#"[{"type": "function", "function": {"name": "f"}}]"#);
}

#[test]
fn calls_are_text_if_tools_must_not_be_called() {
    let chat = chat("qwen3", Some(QWEN3), &[]);
    let request = Conversation { tool_choice: ToolChoice::None, ..with_tool(ask("hi")) };
    let call = "<think>a</think><tool_call>{\"name\": \"f\"}</tool_call>";
    let said = read(&chat, &request, call);
    assert_eq!(said, ("a".to_owned(), "<tool_call>{\"name\": \"f\"}</tool_call>".to_owned()));
}

#[test]
fn a_file_without_a_template_gets_a_simple_one() {
    let chat = chat("llama", None, &["<|im_start|>", "<|im_end|>"]);
    let prompt = chat.render(&ask("hi")).unwrap();
    assert_eq!(prompt.text(), "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!(read(&chat, &ask("hi"), "<think>x</think>y").1, "<think>x</think>y");
}

#[test]
fn thinking_is_passed_on_only_when_something_is_said() {
    let source = "{% if enable_thinking is defined %}{{ enable_thinking }}{% else %}unsaid{% endif %}";
    let chat = chat("llama", Some(source), &[]);
    let render = |thinking| chat.render(&Conversation { thinking, ..ask("hi") }).unwrap().text();
    assert_eq!(render(Thinking::On).to_lowercase(), "true");
    assert_eq!(render(Thinking::Off).to_lowercase(), "false");
    assert_eq!(render(Thinking::ModelDefault), "unsaid");
}

#[test]
fn a_generic_model_whose_template_knows_think_blocks_has_them_split_off() {
    let source = format!("{PLAIN}{{# </think> #}}");
    let chat = chat("llama", Some(&source), &[]);
    assert_eq!(read(&chat, &ask("q"), "<think>\na\n</think>\n\nb").0, "a");
    assert_eq!(read(&chat, &ask("q"), "c <think>").1, "c <think>");
}

#[test]
fn an_answer_to_a_prompt_that_opens_the_block_starts_in_it() {
    let source = format!("{PLAIN}{{% if add_generation_prompt %}}[assistant]<think>\n{{% endif %}}");
    let chat = chat("llama", Some(&source), &[]);
    assert_eq!(read(&chat, &ask("q"), "a\n</think>\nb"), ("a".to_owned(), "b".to_owned()));
    let closed = Conversation { add_generation_prompt: false, ..ask("<think>") };
    assert!(!chat.render(&closed).unwrap().thinking_open);
}

#[test]
fn only_the_run_with_a_look_alike_becomes_plain_text() {
    let chat = chat("qwen3", Some(QWEN3), &["<|im_start|>"]);
    let two = conversation(vec![
        Message::text(Role::User, "<think>"),
        Message::text(Role::User, "a <|im_start|> b"),
        Message::text(Role::User, "c"),
    ]);
    let segments = chat.render(&two).unwrap().segments;
    assert_eq!(
        segments,
        [
            Segment::Template("<|im_start|><think><|im_start|>".to_owned()),
            Segment::Text("a <|im_start|> b".to_owned()),
            Segment::Template("<|im_start|>c".to_owned()),
        ]
    );
}

#[test]
fn control_tokens_cannot_be_put_together_from_two_messages() {
    let chat =
        chat("llama", Some("{% for m in messages %}{{ m.content | trim }}{% endfor %}"), &["<|im_end|>"]);
    let halves = conversation(vec![Message::text(Role::User, "<|im_ "), Message::text(Role::User, " end|>")]);
    let segments = chat.render(&halves).unwrap().segments;
    assert_eq!(segments, [Segment::Text("<|im_end|>".to_owned())]);
}

#[test]
fn tool_declarations_are_checked_field_by_field() {
    let error = |name, parameters| Tool::new(2, name, None, Some(parameters)).unwrap_err().to_string();
    assert_eq!(error("", "{}"), "tools[2].name: empty");
    assert_eq!(error("f", "{"), "tools[2].parameters: not JSON");
    assert_eq!(error("f", "[1]"), "tools[2].parameters: not a JSON object but an array");
    let deep = "[".repeat(50_000);
    assert_eq!(error("f", &deep), "tools[2].parameters: not JSON");
}

#[test]
fn sampling_depends_on_thinking_where_the_makers_say_so() {
    let chat = chat("qwen3", Some(QWEN3), &[]);
    assert_eq!(chat.sampling(Thinking::ModelDefault).temperature, Some(0.6));
    assert_eq!(chat.sampling(Thinking::Off).top_p, Some(0.8));
    assert!(chat.extra_stop_tokens().contains(&"<|endoftext|>"));
}

#[test]
fn a_broken_template_is_an_error_of_the_model() {
    let facts = ModelFacts { template: Some("{% for %}".to_owned()), ..ModelFacts::default() };
    assert!(matches!(Chat::new(facts), Err(CompileError::Syntax { line: 1, .. })));
}
