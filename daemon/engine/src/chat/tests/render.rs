//! Every render vector, byte for byte.

use super::vector::{self, Vector};
use crate::chat::json::Json;
use crate::chat::segment::split;
use crate::chat::shield::Shield;
use crate::chat::template::{Context, guarded};
use crate::chat::{Chat, Dialect, ModelFacts, Rendered, Segment, Template};
use std::sync::Arc;

const QWEN3_CONTROL: &[&str] = &["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>"];
const LLAMA_CONTROL: &[&str] = &[
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
];
const GLM_CONTROL: &[&str] =
    &["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"];

impl Vector {
    fn field(&self, key: &str) -> &str {
        self.json.at(key).str()
    }

    fn control_tokens(&self) -> Vec<String> {
        let tokens = match self.field("model") {
            "qwen3-8b" => QWEN3_CONTROL,
            "glm-4-9b-0414" => GLM_CONTROL,
            _ => LLAMA_CONTROL,
        };
        tokens.iter().map(|&token| token.to_owned()).collect()
    }

    fn special_token(&self, key: &str) -> String {
        let tokens = self.json.at("special_tokens");
        tokens.get(key).map_or_else(String::new, |token| token.str().to_owned())
    }

    /// The model of the vector with this template.
    fn chat(&self, template: &str, architecture: &str) -> Chat {
        Chat::new(ModelFacts {
            architecture: architecture.to_owned(),
            template: Some(vector::template(template)),
            bos_token: self.special_token("bos_token"),
            eos_token: self.special_token("eos_token"),
            control_tokens: self.control_tokens(),
            dialect: None,
        })
        .unwrap()
    }

    /// Checks what a template made of the request, refusals included.
    fn check(&self, template: &str, rendered: Result<Rendered, String>) {
        let name = format!("{} with {template}", self.name);
        let expected = self.expected(template);
        match (expected.get("text"), rendered) {
            (Some(text), Ok(rendered)) => {
                assert_eq!(rendered.text(), text.str(), "{name}");
                self.check_control_tokens(template, &rendered);
            }
            (None, Err(_)) => {}
            (_, rendered) => panic!("{name}: {rendered:?}"),
        }
    }

    fn expected(&self, template: &str) -> &Json {
        let others = self.json.get("other_revisions");
        let stem = template.trim_start_matches("templates/").trim_end_matches(".jinja");
        let other = others.and_then(|others| others.get(stem));
        match other {
            Some(Json::Object(_)) => other.unwrap(),
            _ => self.json.at("expected"),
        }
    }

    /// What the request gives the template beside the conversation.
    fn variables(&self) -> Vec<(String, Json)> {
        let variables = self.json.at("template_kwargs").members().iter();
        variables.filter(|(name, _)| name != "date_string").cloned().collect()
    }

    /// Checks what a model makes of the request.
    fn check_model(&self, template: &str, architecture: &str, dialect: Dialect) {
        let chat = self.chat(template, architecture);
        assert_eq!(chat.dialect(), dialect);
        let rendered = chat.render_with(&vector::conversation(&self.json), &self.variables());
        self.check(template, rendered.map_err(|e| format!("{e:?}")));
    }

    fn check_control_tokens(&self, template: &str, rendered: &Rendered) {
        if template != self.field("template") {
            return;
        }
        let expected = self.json.at("control_tokens").items().iter().map(Json::write);
        let expected: Vec<String> = expected.collect();
        let found = control_tokens(rendered, &self.control_tokens());
        assert_eq!(found, expected, "{}", self.name);
        for plain in self.json.at("plain_lookalikes").items() {
            assert!(!found.contains(&plain.write()), "{}", self.name);
        }
    }
}

/// What the tokenizer will make single tokens of, as the vectors write it.
fn control_tokens(rendered: &Rendered, control: &[String]) -> Vec<String> {
    let shield = Shield::new(control.to_vec());
    let mut found = Vec::new();
    let mut start = 0;
    for segment in &rendered.segments {
        if let Segment::Template(text) = segment {
            let places = text.char_indices().map(|(at, _)| at);
            found.extend(places.filter_map(|at| {
                let len = shield.control_at(&text[at..])?;
                Some(format!("[{},{},\"{}\"]", start + at, start + at + len, &text[at..at + len]))
            }));
        }
        start += segment.as_str().len();
    }
    found
}

fn api_vectors(model: &str) -> Vec<Vector> {
    let mut vectors = vector::load("render");
    vectors.retain(|v| v.field("model") == model && v.field("layer") == "api");
    vectors
}

/// Variables of a template, by the fields that hold them after and before the rules.
const RAW_FIELDS: [(&str, &str); 4] = [
    ("template_messages", "messages"),
    ("template_tools", "tools"),
    ("enable_thinking", "enable_thinking"),
    ("add_generation_prompt", "add_generation_prompt"),
];

/// Rule N5.
fn is_no_tools(vector: &Vector, value: &Json) -> bool {
    vector.field("layer") == "api" && *value == Json::Array(Vec::new())
}

/// Renders what the rules of the vector's dialect made of the request.
fn render_raw(vector: &Vector, template: &str) -> Result<Rendered, String> {
    let shield = Arc::new(Shield::new(vector.control_tokens()));
    let template = Template::compile(&vector::template(template), Arc::clone(&shield)).unwrap();
    let mut context = Context::new();
    for (ruled, raw) in RAW_FIELDS {
        let value = vector.json.get(ruled).or_else(|| vector.json.get(raw));
        if let Some(value) = value.filter(|value| !is_no_tools(vector, value)) {
            context.set(raw, guarded(value, &shield));
        }
    }
    for (key, value) in vector.json.at("template_kwargs").members() {
        context.set(key.clone(), guarded(value, &shield));
    }
    let (bos, eos) = (vector.special_token("bos_token"), vector.special_token("eos_token"));
    let text = template.render(context.with_tokens(&bos, &eos)).map_err(|e| e.to_string())?;
    let segments = split(&text, &shield);
    Ok(Rendered { segments, thinking_open: false })
}

#[test]
fn qwen3_renders_every_conversation_byte_for_byte_in_every_revision_of_its_template() {
    for vector in api_vectors("qwen3-8b") {
        let mut templates = vec![vector.field("template").to_owned()];
        let others = vector.json.get("other_revisions").map_or(&[][..], Json::members);
        templates.extend(others.iter().map(|(stem, _)| format!("templates/{stem}.jinja")));
        for template in templates {
            vector.check_model(&template, "qwen3", Dialect::Qwen3);
        }
    }
}

#[test]
fn llama_renders_every_conversation_byte_for_byte() {
    for vector in api_vectors("llama-3.1-8b-instruct") {
        vector.check_model(vector.field("template"), "llama", Dialect::Llama31);
    }
}

#[test]
fn glm_renders_every_conversation_byte_for_byte() {
    for vector in api_vectors("glm-4-9b-0414") {
        vector.check_model(vector.field("template"), "glm4", Dialect::Glm4);
    }
}

#[test]
fn the_template_layer_renders_every_family_as_transformers_does() {
    for vector in vector::load("render") {
        let template = vector.field("template").to_owned();
        vector.check(&template, render_raw(&vector, &template));
    }
}
