//! Render vectors: what a template makes of a request, byte for byte, and which of it are control tokens.

use std::path::Path;
use std::sync::Arc;

use super::vector::{self, VectorError, get, items, members, optional_text, text};
use super::{Data, Failure};
use crate::chat::json::Json;
use crate::chat::segment::split;
use crate::chat::shield::Shield;
use crate::chat::template::{Context, guarded};
use crate::chat::{Chat, ModelFacts, Rendered, Segment, Template};

/// Checks one vector with each revision of the template that it names.
pub(super) fn check(path: &Path, data: &Data) -> Result<(), Failure> {
    let json = vector::read(path)?;
    let main = text(&json, "template")?;
    let others = members(&json, "other_revisions")?;
    check_with(&json, main, get(&json, "expected"), true, data)?;
    for (stem, other) in others {
        let expected = if matches!(other, Json::Object(_)) { Some(other) } else { get(&json, "expected") };
        check_with(&json, &format!("templates/{stem}.jinja"), expected, false, data)?;
    }
    Ok(())
}

fn check_with(
    json: &Json,
    template: &str,
    expected: Option<&Json>,
    with_tokens: bool,
    data: &Data,
) -> Result<(), Failure> {
    let Some(expected) = expected else {
        return Err(VectorError::Field { field: "expected".to_owned(), wanted: "an object" }.into());
    };
    let source = std::fs::read_to_string(data.find(template, "templates")?).map_err(VectorError::from)?;
    let (architecture, control) = vector::family(text(json, "model")?);
    let rendered = match text(json, "layer")? {
        "template" => by_template(json, &source, &control)?,
        _ => by_chat(json, source, architecture, &control)?,
    };
    let what = |part: &str| format!("{part} with {template}");
    match (optional_text(expected, "text")?, rendered) {
        (Some(wanted), Ok(rendered)) => {
            Failure::compare(what("the prompt"), wanted, &rendered.text())?;
            if with_tokens { check_tokens(json, &rendered, &control) } else { Ok(()) }
        }
        (Some(wanted), Err(error)) => {
            Failure::compare(what("the prompt"), wanted, &format!("an error: {error}"))
        }
        (None, Err(_)) => Ok(()),
        (None, Ok(rendered)) => Failure::compare(what("the prompt"), "an error", &rendered.text()),
    }
}

/// A refusal of the template is an outcome like another.
type Outcome = Result<Rendered, String>;

/// As a request is served.
fn by_chat(
    json: &Json,
    source: String,
    architecture: &str,
    control: &[String],
) -> Result<Outcome, VectorError> {
    let chat = Chat::new(ModelFacts {
        architecture: architecture.to_owned(),
        template: Some(source),
        bos_token: special(json, "bos_token"),
        eos_token: special(json, "eos_token"),
        control_tokens: control.to_vec(),
        dialect: None,
    });
    let chat = chat.map_err(|error| VectorError::Unusable(format!("the template: {error}")))?;
    let variables: Vec<(String, Json)> =
        members(json, "template_kwargs")?.iter().filter(|(name, _)| name != "date_string").cloned().collect();
    let rendered = chat.render_with(&vector::conversation(json)?, &variables);
    Ok(rendered.map_err(|error| crate::prompt::chain(&error)))
}

/// The template alone, with what the vector says it gets.
fn by_template(json: &Json, source: &str, control: &[String]) -> Result<Outcome, VectorError> {
    let shield = Arc::new(Shield::new(control.to_vec()));
    let template = Template::compile(source, Arc::clone(&shield))
        .map_err(|error| VectorError::Unusable(format!("the template: {error}")))?;
    let mut context = Context::new();
    for name in ["messages", "tools", "enable_thinking", "add_generation_prompt"] {
        if let Some(value) = get(json, name) {
            context.add(name, guarded(value, &shield));
        }
    }
    for (name, value) in members(json, "template_kwargs")? {
        context.add(name, guarded(value, &shield));
    }
    let context = context.with_tokens(&special(json, "bos_token"), &special(json, "eos_token"));
    Ok(template
        .render(context)
        .map(|text| Rendered { segments: split(&text, &shield), thinking_open: false })
        .map_err(|error| error.to_string()))
}

fn special(json: &Json, name: &str) -> String {
    let tokens = get(json, "special_tokens");
    let token = tokens.and_then(|tokens| optional_text(tokens, name).ok().flatten());
    token.unwrap_or_default().to_owned()
}

fn check_tokens(json: &Json, rendered: &Rendered, control: &[String]) -> Result<(), Failure> {
    let found = control_tokens(rendered, control);
    let lines = |list: &[Json]| list.iter().map(|entry| format!("{entry}\n")).collect::<String>();
    if get(json, "control_tokens").is_some() {
        let wanted = lines(items(json, "control_tokens")?);
        Failure::compare("the control tokens", &wanted, &lines(&found))?;
    }
    let plain = items(json, "plain_lookalikes")?;
    let wrong: Vec<Json> = plain.iter().filter(|entry| found.contains(entry)).cloned().collect();
    Failure::compare("look-alikes that became control tokens", "", &lines(&wrong))
}

/// What the tokenizer will make single tokens of, as vectors write it: `[start, end, text]` in bytes.
fn control_tokens(rendered: &Rendered, control: &[String]) -> Vec<Json> {
    let shield = Shield::new(control.to_vec());
    let mut found = Vec::new();
    let mut start = 0;
    for segment in &rendered.segments {
        if let Segment::Template(text) = segment {
            found.extend(text.char_indices().filter_map(|(at, _)| {
                let length = shield.control_at(&text[at..])?;
                Some(Json::Array(vec![
                    Json::Number((start + at).to_string()),
                    Json::Number((start + at + length).to_string()),
                    Json::String(text[at..at + length].to_owned()),
                ]))
            }));
        }
        start += segment.as_str().len();
    }
    found
}
