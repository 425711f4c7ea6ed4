//! Which form an answer gets, and which field is at fault where none can be had.

use super::*;
use crate::chat::message::Message;
use crate::chat::tests::conversation;
use crate::chat::{Role, Thinking};

fn request(choice: ToolChoice, parameters: &[&str]) -> Conversation {
    let tools = parameters.iter().enumerate();
    let tools = tools.map(|(at, schema)| Tool::new(at, &format!("f{at}"), None, Some(schema)).unwrap());
    Conversation {
        tools: tools.collect(),
        tool_choice: choice,
        thinking: Thinking::ModelDefault,
        ..conversation(vec![Message::text(Role::User, "hi")])
    }
}

fn form(choice: ToolChoice, output: Option<&Output>) -> Result<Form, FormError> {
    Form::new(&request(choice, &["{}", "{}"]), output, Some(Style::Tags), true)
}

fn lark(form: &Form) -> String {
    form.whole.as_ref().and_then(|grammar| grammar.grammars[0].lark_grammar.clone()).unwrap_or_default()
}

fn field(error: FormError) -> String {
    match error {
        FormError::Field { field, .. } => field,
        FormError::NoCalls => "no calls".to_owned(),
    }
}

#[test]
fn schemas_inside_a_grammar_are_prepared_like_others() {
    let output = |grammar: &str| Form::output_only(Some(&Output::Lark(grammar.to_owned())));
    let form =
        output("start: a | b\na: %json {\"title\": \"x\", \"type\": \"null\"}\nb: %json {}\n").unwrap();
    let text = lark(&form);
    assert!(
        !text.contains("title") && text.contains("\"type\":\"null\"") && text.contains("x-guidance"),
        "{text}"
    );
    assert!(text.starts_with("start: a | b\na: %json {") && text.ends_with("}\n"), "{text}");
    let error = output("start: %json {\"not\": {}}").unwrap_err();
    assert!(error.to_string().contains(".not"), "{error}");
}

#[test]
fn arguments_are_objects_whatever_the_schema_says() {
    let of = |schema: &str| Form::new(&request(ToolChoice::Auto, &[schema]), None, Some(Style::Tags), true);
    for bad in ["{\"type\": \"array\"}", "{\"type\": [\"null\", \"string\"]}"] {
        assert_eq!(field(of(bad).unwrap_err()), "prompt.conversation.tools[0].parameters.type");
    }
    let other = "{\"$ref\": \"#/$defs/a\", \"$defs\": {\"a\": {\"type\": \"string\"}}}";
    assert_eq!(field(of(other).unwrap_err()), "prompt.conversation.tools[0].parameters.$ref");
    let object = "{\"$ref\": \"#/$defs/a\", \"$defs\": {\"a\": {\"type\": \"object\"}}}";
    assert!(of(object).is_ok() && of("{\"type\": [\"object\", \"null\"]}").is_ok());
}

#[test]
fn white_space_is_put_where_the_grammar_has_it() {
    for (json, spaced) in [
        (",\"", ", \""),
        (",", ","),
        (", ", ", "),
        (",\n  \"a\" :1", ", \"a\": 1"),
        ("\n{ \"a, b\\\": \":", "{\"a, b\\\": \":"),
    ] {
        assert_eq!(respaced(json), spaced, "{json:?}");
    }
}

#[test]
fn the_choice_decides_when_the_grammar_begins() {
    let auto = form(ToolChoice::Auto, None).unwrap();
    assert!(auto.whole.is_none() && auto.opened.is_some());
    let none = form(ToolChoice::None, None).unwrap();
    assert!(none.whole.is_none() && none.opened.is_none());
    let required = form(ToolChoice::Required, Some(&Output::JsonObject)).unwrap();
    assert!(lark(&required).contains("f1") && !lark(&required).contains("@output"));
    let named = form(ToolChoice::Named("f1".to_owned()), None).unwrap();
    assert!(lark(&named).contains("f1") && !lark(&named).contains("f0"));
    let either = form(ToolChoice::Auto, Some(&Output::JsonObject)).unwrap();
    assert!(lark(&either).contains("@output") && either.opened.is_none());
    let only = form(ToolChoice::None, Some(&Output::Regex("a+".to_owned()))).unwrap();
    assert!(only.whole.is_some() && !only.is_json);
}

#[test]
fn what_cannot_be_demanded_is_refused() {
    let nobody = form(ToolChoice::Named("g".to_owned()), None).unwrap_err();
    assert_eq!(field(nobody), "prompt.conversation.tool_choice");
    let mute = Form::new(&request(ToolChoice::Required, &["{}"]), None, None, true).unwrap_err();
    assert_eq!(mute, FormError::NoCalls);
    let schema = request(ToolChoice::Auto, &["{}", r#"{"properties": {"a": {"not": {}}}}"#]);
    let fault = Form::new(&schema, None, Some(Style::Json), true).unwrap_err();
    assert_eq!(field(fault), "prompt.conversation.tools[1].parameters.properties.a.not");
    let output = Output::JsonSchema(r#"{"items": {"uniqueItems": true}}"#.to_owned());
    assert_eq!(
        field(form(ToolChoice::None, Some(&output)).unwrap_err()),
        "output.json_schema.items.uniqueItems"
    );
    let broken = Output::JsonSchema("{".to_owned());
    assert_eq!(field(form(ToolChoice::None, Some(&broken)).unwrap_err()), "output.json_schema");
}

#[test]
fn a_tool_that_must_not_be_called_may_have_any_schema() {
    let request = request(ToolChoice::None, &[r#"{"not": {}}"#]);
    assert!(Form::new(&request, None, Some(Style::Tags), true).is_ok());
}
