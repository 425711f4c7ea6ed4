//! What a model's file makes of a conversation, dialect by dialect.

use super::{chat, conversation};
use crate::chat::{
    Chat, ChatError, CompileError, Conversation, Delta, Dialect, End, Message, ModelFacts, Role, Segment,
    Thinking, Tool, ToolCall, ToolChoice, UnknownDialect,
};

const PLAIN: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}";
const QWEN3: &str =
    "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}{# tools <tool_call> <think> #}";

/// Prints every message in one line, as templates of Llama and GLM look at them.
const LLAMA31: &str = "{# <|start_header_id|> ipython tools #}{% for m in messages %}\
    {{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}({{ c.function.name }}){% endfor %};{% endfor %}";
const GLM4: &str = "{# <|observation|> tools #}{% for m in messages %}\
    {{ m.role }}:{{ m.metadata or '' }}:{{ m.content }};{% endfor %}";

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
    let detect = |architecture: &str, template: &str| Dialect::detect(architecture, Some(template));
    assert_eq!(detect("qwen3", QWEN3), Dialect::Qwen3);
    assert_eq!(detect("qwen3moe", QWEN3), Dialect::Qwen3);
    assert_eq!(detect("llama", QWEN3), Dialect::Generic);
    assert_eq!(detect("qwen3", PLAIN), Dialect::Generic);
    assert_eq!(detect("qwen3", &format!("{QWEN3}<function=")), Dialect::Generic);
    assert_eq!(Dialect::detect("qwen3", None), Dialect::Generic);
    assert_eq!(detect("llama", LLAMA31), Dialect::Llama31);
    assert_eq!(detect("llama", "<|start_header_id|><|python_tag|>"), Dialect::Llama31);
    assert_eq!(detect("llama", "<|start_header_id|>"), Dialect::Generic);
    assert_eq!(detect("llama", "<|start_header_id|> ipython <tool_call>"), Dialect::Generic);
    assert_eq!(detect("qwen3", LLAMA31), Dialect::Generic);
    assert_eq!(detect("glm4", GLM4), Dialect::Glm4);
    assert_eq!(detect("glm4", "<|user|>"), Dialect::Generic);
    assert_eq!(detect("glm4moe", GLM4), Dialect::Generic);
}

/// An assistant that says something and calls `f` and `g` with their names as ids.
fn calls(text: &str) -> Message {
    let call =
        |name: &str| ToolCall { id: name.to_owned(), name: name.to_owned(), arguments: "{ }".to_owned() };
    Message { tool_calls: vec![call("f"), call("g")], ..Message::text(Role::Assistant, text) }
}

fn result(id: Option<&str>, text: &str) -> Message {
    Message { tool_call_id: id.map(str::to_owned), ..Message::text(Role::Tool, text) }
}

fn history(chat: &Chat, messages: Vec<Message>) -> String {
    chat.render(&conversation(messages)).unwrap().text()
}

#[test]
fn llama_gets_one_call_in_a_message_and_its_result_behind_it() {
    let chat = chat("llama", Some(LLAMA31), &[]);
    let render = |messages| history(&chat, messages);
    let mixed = vec![calls("hm"), result(Some("g"), "2"), result(None, "3"), result(Some("f"), "1")];
    assert_eq!(render(mixed), "assistant:hm(f);tool:1;assistant:(g);tool:2;tool:3;");
    let twice =
        vec![calls(""), result(Some("f"), "1"), result(Some("f"), "2"), Message::text(Role::User, "u")];
    assert_eq!(render(twice), "assistant:(f);tool:1;assistant:(g);tool:2;user:u;");
    let far = vec![calls(""), Message::text(Role::User, "u"), result(Some("g"), "2")];
    assert_eq!(render(far), "assistant:(f);assistant:(g);user:u;tool:2;");
    let single = Message { tool_calls: calls("").tool_calls[..1].to_vec(), ..calls("t") };
    assert_eq!(render(vec![single, result(Some("x"), "1")]), "assistant:t(f);tool:1;");
}

#[test]
fn glm_gets_text_calls_and_observations_apart() {
    let chat = chat("glm4", Some(GLM4), &[]);
    let render = |messages| history(&chat, messages);
    let messages = vec![calls("hm"), result(Some("g"), "2"), result(Some("f"), "1")];
    assert_eq!(
        render(messages),
        "assistant::hm;assistant:f:{ };assistant:g:{ };observation::2;observation::1;"
    );
    assert_eq!(render(vec![calls("")]), "assistant:f:{ };assistant:g:{ };");
    assert_eq!(render(vec![Message::text(Role::Assistant, "")]), "assistant::;");
    assert_eq!(render(vec![Message::text(Role::Developer, "d")]), "system::d;");
}

#[test]
fn control_tokens_in_calls_and_results_stay_text() {
    let chat = chat("glm4", Some(GLM4), &["<|user|>"]);
    let mut call = calls("");
    call.tool_calls[0].name = "<|user|>".to_owned();
    call.tool_calls[1].arguments = "<|user|>".to_owned();
    let request = conversation(vec![call, result(None, "<|user|>")]);
    let segments = chat.render(&request).unwrap().segments;
    assert!(segments.iter().all(|s| matches!(s, Segment::Text(_))), "{segments:?}");
}

#[test]
fn each_dialect_says_which_control_tokens_it_must_see_and_which_end_it() {
    let llama = chat("llama", Some(LLAMA31), &[]);
    assert_eq!(llama.visible_control_tokens(), ["<|python_tag|>"]);
    assert_eq!(llama.extra_stop_tokens(), ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]);
    assert_eq!(llama.sampling(Thinking::Off).top_p, Some(0.9));
    let glm = chat("glm4", Some(GLM4), &[]);
    assert_eq!(glm.visible_control_tokens(), ["<|assistant|>"]);
    assert_eq!(glm.extra_stop_tokens(), ["<|endoftext|>", "<|user|>", "<|observation|>"]);
    assert_eq!(glm.sampling(Thinking::ModelDefault).top_p, Some(0.8));
    assert!(chat("qwen3", Some(QWEN3), &[]).visible_control_tokens().is_empty());
    assert!(chat("qwen2", Some(PLAIN), &[]).visible_control_tokens().is_empty());
}

#[test]
fn a_thinking_sister_of_glm_has_its_thoughts_split_off() {
    let source = format!("{GLM4}{{% if add_generation_prompt %}}<think>\n{{% endif %}}");
    let chat = chat("glm4", Some(&source), &[]);
    assert_eq!(read(&chat, &ask("q"), "a\n</think>\nb"), ("a".to_owned(), "b".to_owned()));
}

#[test]
fn more_variables_reach_the_template_but_override_nothing() {
    let chat = chat("llama", Some("{{ mode }}{{ messages | length }}{{ add_generation_prompt }}"), &[]);
    let text = |text: &str| crate::chat::json::Json::String(text.to_owned());
    let variables = [("mode".to_owned(), text("m")), ("messages".to_owned(), text("long text"))];
    assert_eq!(chat.render_with(&ask("q"), &variables).unwrap().text().to_lowercase(), "m1true");
}

#[test]
fn a_dialect_can_be_chosen_by_name() {
    assert_eq!("qwen3".parse(), Ok(Dialect::Qwen3));
    for dialect in [Dialect::Llama31, Dialect::Glm4, Dialect::Generic] {
        assert_eq!(dialect.name().parse(), Ok(dialect));
    }
    assert_eq!("gpt".parse::<Dialect>(), Err(UnknownDialect { name: "gpt".to_owned() }));
    let message = "gpt".parse::<Dialect>().unwrap_err().to_string();
    assert_eq!(message, "no dialect is called \"gpt\"; there are qwen3, llama31, glm4 and generic");
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
